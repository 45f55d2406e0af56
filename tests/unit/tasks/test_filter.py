"""`task=filter` around its children: what they are asked, and what becomes of their answers. No training here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fake_hub
import pytest

from omniner import run
from omniner.config import compose, run_config
from omniner.corpus import sources
from omniner.corpus.formats import jsonl
from omniner.errors import UserError
from omniner.files import read_json, write_text
from omniner.records import Entity, Prediction, Sentence, prediction_to_json, to_line
from omniner.runs import children
from omniner.runs.children import Job, Outcome
from omniner.scoring.scorer import choose_scale

Answer = Callable[[str, Sentence], Prediction | None]  # of the model of a fold


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sentence]:
    monkeypatch.chdir(tmp_path)
    made = [
        Sentence(f"s{n}", f"{n}号在上海", [Entity("上海", "城市", len(f"{n}号在"), len(f"{n}号在上海"))], f"p{n // 2}")
        for n in range(40)
    ]
    jsonl.write(tmp_path / "corpus.jsonl", made)
    return made


def models(monkeypatch: pytest.MonkeyPatch, answer: Answer, failing: str = "") -> list[Job]:
    """Children that answer at once; gives the jobs that were asked for."""
    seen: list[Job] = []

    def run_jobs(jobs: Sequence[Job], folder: Path, parent: str, settings: Any) -> Iterator[Outcome]:
        seen[:] = jobs
        for job in reversed(jobs):
            place = folder / children.FOLDER / job.name
            if job.name == failing:
                yield Outcome(job.name, place, "out of memory", {})
                continue
            path = write_text(folder / children.FOLDER / f"{job.name}.yaml", run_config.to_yaml(job.config))
            reported = sources.load_corpus(run_config.read(path).data, None).splits["test"]  # what a child reads
            said = [prediction for one in reported if (prediction := answer(job.name, one)) is not None]
            write_text(place / "predictions.jsonl", "".join(f"{to_line(prediction_to_json(one))}\n" for one in said))
            yield Outcome(job.name, place, "", {f"test/micro_{name}": 0.5 for name in ("precision", "recall", "f1")})

    monkeypatch.setattr(children, "run_jobs", run_jobs)
    return seen


def right(fold: str, sentence: Sentence) -> Prediction:
    return Prediction(sentence.id, sentence.entities)


def do(*overrides: str) -> Path:
    return run.run(compose.load(["tracking=off", "task=filter", "input=corpus.jsonl", "output_dir=run", *overrides]))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ids(path: Path) -> set[str]:
    return {one["id"] for one in lines(path)}


def test_children_learn_one_fold_and_are_asked_about_the_others(
    corpus: list[Sentence], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = models(monkeypatch, right)
    own = ["+data.definitions={city: a place}", "data.limit={train: 2}", "data.offsets=half_open"]
    folder = do("filter.dev_from_train=0.2", "name=easy", "head=softmax", *own)
    assert [job.name for job in jobs] == ["fold_1", "fold_2", "fold_3", "fold_4"]
    everything: set[str] = set()
    for job in jobs:
        config = job.config
        assert (config.task.name, config.name, config.head.kind) == ("train", f"easy-{job.name}", "softmax")
        assert (config.input, config.output) == (None, None)
        assert config.data.definitions == {"city": "a place"}
        splits = {
            name: {one.id for one in part} for name, part in sources.load_corpus(config.data, None).splits.items()
        }
        assert {name: len(part) for name, part in splits.items()} == {"train": 8, "dev": 2, "test": 30}
        learnt = splits["train"] | splits["dev"]
        assert learnt | splits["test"] == {one.id for one in corpus}
        assert not learnt & everything
        everything |= learnt
    assert len(everything) == 40
    assert ids(folder / "corpus/removed.jsonl") == everything
    assert lines(folder / "corpus/kept.jsonl") == []
    assert read_json(folder / "filter.json")["dropped"] == {"城市": {"before": 40, "kept": 0}}


def test_children_stay_the_same_where_the_commit_of_the_model_becomes_known(
    corpus: list[Sentence], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those that have finished would be done anew, and refuse the folders that they have finished."""
    fake_hub.use(monkeypatch, tmp_path / "cache")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    snapshot = fake_hub.publish(tmp_path / "cache", "org/small", "1" * 40, tmp_path / "model")
    overrides = ["model=path", "model.path=org/small"]
    jobs = models(monkeypatch, right, failing="fold_4")
    with pytest.raises(UserError, match="fold_4 failed"):
        do(*overrides)
    digests = [run_config.digest(job.config) for job in jobs]
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1" * 40)
    jobs = models(monkeypatch, right)
    do(*overrides)
    assert [run_config.digest(job.config) for job in jobs] == digests


def test_a_command_replaces_what_it_wrote_when_the_branch_of_the_model_has_moved_on(
    corpus: list[Sentence], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_hub.use(monkeypatch, tmp_path / "cache")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    jobs = models(monkeypatch, right)
    for commit in ("1" * 40, "2" * 40):
        fake_hub.publish(tmp_path / "cache", "org/small", commit, tmp_path / "model", ["main"])
        do("model=path", "model.path=org/small", "output=cleaned")
        assert {getattr(job.config.model, "revision", None) for job in jobs} == {commit}


def test_all_folds_count_by_what_follows_from_the_whole_corpus(
    corpus: list[Sentence], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus[7].entities.append(Entity("没有的", "城市"))  # without a place: the whole is counted by pair
    jsonl.write("corpus.jsonl", corpus)
    jobs = models(monkeypatch, right)
    folder = do()
    scales = set()
    for job in jobs:
        reported = sources.load_corpus(job.config.data, ["test"]).splits["test"]
        scales.add(choose_scale(reported, job.config.metrics, job.config.errta))
    assert scales == {("pair", "official")}
    assert read_json(folder / "filter.json")["unit"] == "pair"


def test_answers_of_every_kind(corpus: list[Sentence], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One model is wrong about s0, all are alike about s1, one is silent about s2 and unreadable about s3."""
    person = [Entity("上海", "人")]

    def answer(fold: str, sentence: Sentence) -> Prediction | None:
        pairs = [entity._replace(start=None, end=None) for entity in sentence.entities]
        first = fold == min(name for name in folds if sentence.id not in folds[name])
        match sentence.id:
            case "s0" if first:
                return Prediction("s0", [])
            case "s1":
                return Prediction("s1", person)
            case "s2" if first:
                return None
            case "s3" if first:
                return Prediction("s3", [], "[[", "failed", "no JSON")
        return Prediction(sentence.id, pairs)

    folds = {f"fold_{n}": set[str]() for n in range(1, 5)}
    for job in models_of(monkeypatch):
        folds[job.name] |= ids(Path(job.config.data.root or "") / f"{job.name}.jsonl")
    models(monkeypatch, answer)
    folder = do("output=done", "overwrite=true")
    done = tmp_path / "done"
    assert ids(done / "kept.jsonl") == {"s0", "s1", "s2", "s3"}
    votes = {one["id"]: (one["right"], one["answers"], one["verdict"]) for one in lines(done / "votes.jsonl")}
    assert votes["s0"] == (2, 3, "kept")
    assert votes["s1"] == (0, 3, "suspect")
    assert votes["s2"] == votes["s3"] == (2, 2, "kept")
    assert votes["s4"] == (3, 3, "removed")
    (suspect,) = lines(done / "suspects.jsonl")
    assert (suspect["id"], suspect["missing"][0]["category"], suspect["extra"][0]["category"]) == ("s1", "城市", "人")
    (task,) = read_json(done / "queue.json")
    assert [one["result"][0]["value"]["labels"] for one in task["predictions"]] == [["城市"], ["人"]]
    assert read_json(folder / "filter.json")["unit"] == "span", "as gold has places, whatever is answered"
    assert sorted(one["id"] for one in lines(folder / "issues.jsonl") if one["code"] == "no-opinion") == ["s2", "s3"]
    assert not (folder / "corpus").exists()


def models_of(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs of a run with models that are right, whose folds are those of any other run of the same corpus."""
    jobs = models(monkeypatch, right)
    do()
    return jobs


def test_one_fold_that_fails_is_the_error_and_nothing_is_written(
    corpus: list[Sentence], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    models(monkeypatch, right, failing="fold_3")
    with pytest.raises(UserError, match=r"run/children/fold_3\.log: fold_3 failed: out of memory"):
        do("output=done")
    assert not (tmp_path / "done").exists()
    assert (tmp_path / "run/children/fold_1/predictions.jsonl").exists()
    models(monkeypatch, right)
    do("output=done")
    assert len(ids(tmp_path / "done/removed.jsonl")) == 40


def test_the_taxonomy_of_a_file_is_the_official_one_where_it_fits(
    corpus: list[Sentence], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert {job.config.data.taxonomy for job in models_of(monkeypatch)} == {"flat"}
    official = [Sentence(one.id, one.text, [one.entities[0]._replace(category="品牌")], one.post_id) for one in corpus]
    jsonl.write(tmp_path / "corpus.jsonl", official)
    jobs = models(monkeypatch, right)
    do("resume=never")
    assert {job.config.data.taxonomy for job in jobs} == {"omniner2025"}
