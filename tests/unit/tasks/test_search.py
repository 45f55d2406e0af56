"""`task=search` with runs that are answered at once: what it finds, what it asks, what it never sees."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import html
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tests.helpers import made_up_guidance

from omniner import run
from omniner.config import compose, run_config
from omniner.config.groups import ChildrenConfig, Config
from omniner.corpus import formats, sources
from omniner.corpus.formats import jsonl
from omniner.errors import UserError
from omniner.files import make_folder, read_json, write_text
from omniner.guidance import lessons
from omniner.guidance.lessons import Guidance
from omniner.guidance.prompt_errors import render_errors_text
from omniner.guidance.prompt_search import BASELINES, VariantInputs, build_variants
from omniner.llm import prompts
from omniner.records import Entity, Prediction, Sentence, prediction_to_json, to_line
from omniner.runs import children
from omniner.runs.children import Job, Outcome
from omniner.scoring.metrics import ScoreResult
from omniner.scoring.scorer import score_records
from omniner.tasks import prompting
from omniner.tasks import search as tasks_search

SERVER = ["decoding=openai", "decoding.url=http://nowhere/v1"]
SEARCH = [
    "task=search", "prompt=errta", "prompt.max_tokens=900", "prompt.from_run=guidance.json", "tracking=off",
    "search.rungs=[20,60,0]", "search.corrections=[1]", "search.random=2", "search.largest=[2]", "search.spare=0",
    "compare.resamples=100", "compare.permutations=2000",
]  # fmt: skip


class Answering:
    """In the place of `children.run_jobs`: answers jobs from the gold, the better the more of the lessons help."""

    def __init__(self, made: Guidance, key: int, shown: str, dev: Sequence[Sentence]) -> None:
        self.key, self.shown = key, shown  # the lesson that helps; a sentence that prompts show a part of
        self.rule = made.lessons[key - 1].note.rule["zh"]
        self.gold = {sentence.id: sentence for sentence in dev}
        self.made, self.backwards = made, True
        self.jobs: list[Job] = []
        self.asked: list[tuple[str, str]] = []  # hash of the prompt, id of the sentence
        self.failing: dict[str, int] = {}  # names of jobs, and how often they still fail

    def __call__(self, jobs: Sequence[Job], folder: Path, parent: str, settings: ChildrenConfig) -> Iterator[Outcome]:
        for job in reversed(jobs) if self.backwards else jobs:  # children end in any order
            place = make_folder(folder / "children" / job.name)
            self.jobs.append(job)
            if self.failing.get(job.name, 0):
                self.failing[job.name] -= 1
                yield Outcome(job.name, place, "exit 1: no", {})
                continue
            if not (place / "predictions.jsonl").exists():
                self.answer(job, place)
            yield Outcome(job.name, place, "", {})

    def answer(self, job: Job, place: Path) -> None:
        config = copy.deepcopy(job.config)
        if len(self.jobs) == 1:  # as a child reads it
            assert run_config.read(write_text(place / "config.yaml", run_config.to_yaml(config))) == config
        sentences, prompt = self.given(config, place)
        share = 80 if self.rule in prompt.instruction else 40 if config.prompt.lessons == [] else 50
        lines = []
        for sentence in sentences:
            self.asked.append((prompt.sha, sentence.id))
            kept = [one for one in self.gold[sentence.id].entities if luck(one, sentence.id) < share]
            lines.append(to_line(prediction_to_json(Prediction(sentence.id, kept, prompt_sha=prompt.sha))))
        write_text(place / "predictions.jsonl", "".join(f"{line}\n" for line in lines))

    def given(self, config: Config, place: Path) -> tuple[list[Sentence], prompts.Prompt]:
        """The sentences a child predicts, and what it is told."""
        if config.task.name == "predict":
            sentences, issues = sources.read_sentences(Path(str(config.input)))
            assert {issue.code for issue in issues} <= {"unaligned"}
            corpus = sources.load_corpus(config.data, ["train"])
            reported: Sequence[Sentence] = ()
        else:
            corpus = sources.load_corpus(config.data, None)
            assert not corpus.issues
            sentences = reported = corpus.splits["test"]
        active = corpus.active
        told, _ = prompting.with_guidance(config, place, active, reported)
        return sentences, prompts.build_prompt(told.prompt, active, corpus.splits["train"])


def luck(entity: Any, name: str) -> int:
    """0 to 99, always the same for a mention."""
    return int(hashlib.sha256(f"{entity} {name}".encode()).hexdigest(), 16) % 100


@pytest.fixture(scope="module")
def made() -> Guidance:
    return made_up_guidance.guidance(150)


def write_corpus(folder: Path, made: Guidance) -> list[str]:
    """A corpus in files, whose test file is not there; its choice."""
    lessons.write_guidance(folder / "guidance.json", made)
    sample = sources.load_corpus(compose.load(["data.size={train: 120, dev: 140, test: 10}"]).data, ["train", "dev"])
    for name in ("train", "dev"):
        jsonl.write(folder / f"{name}.jsonl", sample.splits[name])
    files = "data.files={train: [train.jsonl], dev: [dev.jsonl], test: [absent.jsonl]}"
    return ["data=own", "data.root=.", files, "data.taxonomy=omniner2025"]


def made_answering(made: Guidance, data: list[str]) -> Answering:
    """Children that know which lesson helps: one that is too small for the prompt as it is."""
    config = compose.load([*SERVER, *SEARCH, *data])
    corpus = sources.load_corpus(config.data, ["train", "dev"])
    train = corpus.splits["train"]
    active = corpus.active
    found, _ = build_variants(config.prompt, config.search, VariantInputs(made, active, train, len))
    shown = {one.name: set(one.config.lessons) for one in found}
    plain = render_errors_text(made, config.prompt, active, len)
    key = min(shown["only_missing-c1"] - set(plain.numbers))
    return Answering(made, key, plain.sentences[0], corpus.splits["dev"])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Guidance) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return write_corpus(tmp_path, made)


@pytest.fixture
def answering(data: list[str], made: Guidance, monkeypatch: pytest.MonkeyPatch) -> Answering:
    found = made_answering(made, data)
    monkeypatch.setattr(children, "run_jobs", found)
    return found


@pytest.fixture(scope="module")
def searched(made: Guidance, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answering, dict[str, Any]]:
    """A whole search: the folder of its run, what its children were asked, `search.json`."""
    cwd = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        data = write_corpus(cwd, made)
        answering = made_answering(made, data)
        patch.setattr(children, "run_jobs", answering)
        folder, found = search(data)
    return cwd / folder, answering, found


def search(data: list[str], *overrides: str) -> tuple[Path, dict[str, Any]]:
    folder = run.run(compose.load([*SERVER, *SEARCH, *data, *overrides]))
    return folder, dict(read_json(folder / "search.json"))


def test_the_lesson_that_helps_is_found(searched: tuple[Path, Answering, dict[str, Any]]) -> None:
    folder, answering, found = searched
    best = found["tried"][0]
    assert found["best"] == best["name"]
    assert answering.key in best["overrides"]["prompt.lessons"]
    assert answering.rule in (folder / "prompt.txt").read_text(encoding="utf-8")
    generic = next(one for one in found["against"] if one["name"] == "generic")
    assert generic["low"] > 0.1
    judged = sum(bool(one["standings"]) for one in found["tried"])
    assert generic["family"] == judged - 1 > 5
    assert generic["p"] * generic["family"] <= generic["p_corrected"] < 0.05
    helped = [one for one in found["tried"] if answering.key in one["overrides"]["prompt.lessons"]]
    for one in found["tried"]:
        reached = len(one["standings"])
        if one["name"] not in BASELINES and one not in helped:
            assert reached < 3, "prompts without the lesson should go early"
            assert one["stopped"] == reached
            assert one["why"].startswith("worse than")
    assert 0.7 < found["corrected"]["f1"] < 1


def test_no_sentence_is_asked_twice_and_few_are_asked_at_all(searched: tuple[Path, Answering, dict[str, Any]]) -> None:
    folder, answering, found = searched
    assert len(set(answering.asked)) == len(answering.asked)
    ids = [sentence.id for sentence in sources.read_sentences(folder / "search" / "dev.jsonl")[0]]
    assert len(ids) == found["sentences"] == 140
    by_prompt: dict[str, set[str]] = {}
    for sha, name in answering.asked:
        by_prompt.setdefault(sha, set()).add(name)
    for one in found["tried"]:
        asked = by_prompt[one["sha"]]
        assert asked == set(ids[: len(asked)])  # of each rung the whole sample, and no other
        assert (len(asked) == 140) == (len(one["standings"]) == 3)
    assert len(answering.asked) < len(found["tried"]) * 140 * 0.6
    assert f"{len(answering.asked):,} answers instead of {len(found['tried']) * 140:,}" in found["cost"]


def test_the_best_prompt_can_be_used_by_its_keys_and_by_its_file(
    searched: tuple[Path, Answering, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, answering, found = searched
    monkeypatch.chdir(tmp_path)
    made_anew = made_up_guidance.guidance(30, seed=1)
    base = [*SERVER, "task=predict", "prompt=errta", "prompt.max_tokens=900", *write_corpus(Path(), made_anew)]
    told = compose.load([*base, "input=dev.jsonl", *shlex.split(found["command"])])
    file = folder / "best" / "prompt" / "searched.yaml"
    assert OmegaConf.to_container(OmegaConf.load(file)) == dataclasses.asdict(told.prompt)
    _, prompt = answering.given(told, tmp_path)
    assert prompt.sha == found["tried"][0]["sha"]
    page = (folder / "search.md").read_text(encoding="utf-8")
    assert found["command"] in page
    assert html.escape(found["command"], quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in (
        folder / "search.html"
    ).read_text(encoding="utf-8")
    assert f"--config-dir {folder.relative_to(folder.parents[1])}/best prompt=searched" in page
    for one in found["tried"]:
        assert one["name"] in (folder / "tables" / "search.csv").read_text(encoding="utf-8")


def test_a_search_that_was_stopped_goes_on_to_the_same_result(
    searched: tuple[Path, Answering, dict[str, Any]],
    data: list[str],
    answering: Answering,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering.backwards = False
    judge, rung = tasks_search.run_rung, 0

    def stop(*arguments: Any) -> Any:
        nonlocal rung
        rung += 1
        if rung == 2:
            raise KeyboardInterrupt
        return judge(*arguments)

    monkeypatch.setattr(tasks_search, "run_rung", stop)
    with pytest.raises(KeyboardInterrupt):
        search(data, "output_dir=stopped")
    monkeypatch.setattr(tasks_search, "run_rung", judge)
    _, found = search(data, "output_dir=stopped")
    whole = json.dumps(searched[2]).replace(str(searched[0].resolve()), str(Path("stopped").resolve()))
    assert found == json.loads(whole)
    assert len(set(answering.asked)) == len(answering.asked) == len(searched[1].asked)


def test_a_child_that_fails_once_is_run_again_and_what_fails_twice_is_out(
    data: list[str], answering: Answering, caplog: pytest.LogCaptureFixture
) -> None:
    answering.failing = {"largest_2-c1-rung1": 2, "generic-rung2": 1}
    _, found = search(data)
    lost = next(one for one in found["tried"] if one["name"] == "largest_2-c1")
    assert (lost["standings"], lost["stopped"], lost["why"]) == ([], 1, "its run failed: exit 1: no")
    assert found["tried"][-1] == lost
    assert "Never judged, because their runs failed: largest_2-c1" in caplog.text
    assert next(one for one in found["tried"] if one["name"] == "generic")["stopped"] == 0


def test_a_baseline_that_fails_stops_the_search_and_nothing_is_lost(data: list[str], answering: Answering) -> None:
    answering.failing = {"generic-rung2": 2}
    with pytest.raises(UserError, match=r"^search: exit 1: no \(the variant generic, twice, in rung 2\)"):
        search(data, "output_dir=out")
    before = len(answering.asked)
    _, found = search(data, "output_dir=out")
    assert len(set(answering.asked)) == len(answering.asked) > before
    assert found["sentences"] == 140


def test_a_search_does_not_go_on_with_another_corpus(data: list[str], answering: Answering) -> None:
    answering.failing = {"generic-rung2": 2}
    with pytest.raises(UserError, match=r"^search: exit 1"):
        search(data, "output_dir=out")
    dev = Path("dev.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    write_text("dev.jsonl", "".join(dev[:-1]))
    with pytest.raises(UserError, match=r"^out: the corpus is not the one that this unfinished search began with"):
        search(data, "output_dir=out")


def test_sentences_that_a_prompt_shows_compare_none(
    data: list[str], answering: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = answering.shown
    dev = sources.read_sentences(Path("dev.jsonl"))[0]
    dev[7] = Sentence(dev[7].id, shown, [], dev[7].post_id)
    jsonl.write("dev.jsonl", dev)
    folder, found = search(data, "search.rungs=[0]", "output_dir='two words'")
    assert (found["left_out"], found["sentences"]) == (1, 139)
    use = "--config-dir 'two words/best' prompt=searched"
    assert f"to use it: {use}\n" in capsys.readouterr().out
    assert f"    {use}\n" in (folder / "search.md").read_text(encoding="utf-8")
    assert dev[7].id not in {name for _, name in answering.asked}
    (issue,) = [json.loads(line) for line in (folder / "issues.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (issue["code"], issue["id"]) == ("shown", dev[7].id)
    assert "optimistic" in (folder / "search.md").read_text(encoding="utf-8")  # notes of dev errors


def test_a_dev_that_is_all_shown_is_a_mistake(data: list[str], answering: Answering) -> None:
    jsonl.write("dev.jsonl", [Sentence("a", answering.shown)])
    with pytest.raises(
        UserError, match=r"^prompt\.from_run: 0 of 1 sentences of dev are not shown by the prompts, none"
    ):
        search(data)
    assert not answering.jobs


def test_models_are_trained_with_a_budget_and_never_given_test(data: list[str], answering: Answering) -> None:
    causal = [
        "model=qwen2_tiny",
        "search.train=true",
        "search.rungs=[3,9]",
        "search.sentences=50",
        "search.types=false",
    ]
    folder = run.run(compose.load([*SEARCH, *data, *causal, "search.random=2", "trainer.max_epochs=7"]))
    found = read_json(folder / "search.json")
    assert found["sentences"] >= 50
    assert found["rungs"] == ["3 steps", "9 steps"]
    dev = {sentence.id for sentence in sources.read_sentences(folder / "search" / "dev.jsonl")[0]}
    assert {name for _, name in answering.asked} == dev
    for job in answering.jobs:
        config = job.config
        assert config.task.name == "train"
        assert config.trainer.max_steps == (3 if job.name.endswith("rung1") else 9)
        assert config.data.files == {"train": ["train.jsonl"], "dev": ["dev.jsonl"]}
        corpus = sources.load_corpus(config.data, None)
        assert {sentence.id for sentence in corpus.splits["test"]} == dev
        assert not dev & {sentence.id for name in ("train", "dev") for sentence in corpus.splits[name]}
        assert len(corpus.splits["dev"]) == 12
    assert "training runs: " in found["cost"]


TRAINED = ["model=qwen2_tiny", "search.train=true", "search.rungs=[3]", "search.types=false", "search.largest=[]"]


def test_models_are_trained_to_guidance_of_dev(data: list[str], answering: Answering) -> None:
    """The usual case: its examples stand in dev; those that no variant shows compare prompts."""
    dev = sources.read_sentences(Path("dev.jsonl"))[0]
    texts = sorted({example.text for lesson in answering.made.lessons for example in lesson.examples})
    noted = [Sentence(f"noted-{place}", text) for place, text in enumerate(texts)]
    answering.gold |= {sentence.id: sentence for sentence in noted}
    jsonl.write("dev.jsonl", [*dev, *noted])
    folder = run.run(compose.load([*SEARCH, *data, *TRAINED, "search.random=0"]))
    kept = {sentence.id for sentence in sources.read_sentences(folder / "search" / "dev.jsonl")[0]}
    assert 0 < len(kept & {sentence.id for sentence in noted}) < len(noted)
    assert {name for _, name in answering.asked} == kept


def test_no_model_is_judged_on_what_it_was_trained_on(data: list[str], answering: Answering) -> None:
    dev, train = (sources.read_sentences(Path(f"{name}.jsonl"))[0] for name in ("dev", "train"))
    learnt = dataclasses.replace(train[5], id="learnt", post_id="learnt")
    answering.gold["learnt"] = learnt
    jsonl.write("dev.jsonl", [*dev, learnt])
    folder = run.run(compose.load([*SEARCH, *data, *TRAINED, "search.random=0"]))
    assert "learnt" not in {name for _, name in answering.asked}
    issues = [json.loads(line) for line in (folder / "issues.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [one["code"] for one in issues if one["id"] == "learnt"] == ["in-train"]
    _, found = search(data, "search.rungs=[0]", "search.random=0")  # nothing is trained
    assert "learnt" in {name for _, name in answering.asked}
    assert found["sentences"] == 141


def test_all_rungs_count_by_the_unit_of_the_whole_sample(
    data: list[str], answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, which the first rung does not have, names an entity without a place."""
    few = ["search.rungs=[20,0]", "search.random=0", "search.largest=[]"]
    dev = sources.read_sentences(Path("dev.jsonl"))[0]
    late = tasks_search.build_rungs(compose.load([*SERVER, *SEARCH, *data, *few]), dev)[-1].fresh[0]
    for sentence in dev:
        if sentence.id == late.id:
            sentence.entities.append(Entity("没有这个词", next(e.category for s in dev for e in s.entities)))
    jsonl.write("dev.jsonl", dev)
    units = []

    def scored(*given: Any) -> ScoreResult:
        result = score_records(*given)
        units.append((len(result.sentences), result.unit))
        return result

    monkeypatch.setattr(tasks_search, "score_records", scored)
    search(data, *few)
    assert len({size for size, _ in units}) == 2
    assert {unit for _, unit in units} == {"pair"}


@pytest.mark.parametrize("how", [[*SERVER], TRAINED])
def test_children_read_the_files_of_the_search_as_such_whatever_the_users_own_were(
    data: list[str], answering: Answering, how: list[str]
) -> None:
    given = [*SEARCH, *data, *how, "search.random=0", "search.largest=[]"]
    for name in ("train", "dev"):
        sentences = sources.read_sentences(Path(f"{name}.jsonl"))[0]
        formats.write(Path(f"{name}.conll"), "conll", sentences, formats.WriteOptions())
    conll = ["data.format=conll", "data.files={train: [train.conll], dev: [dev.conll]}"]
    config = compose.load([*given, *conll, "data.tag_column=2", "data.limit={train: 60, dev: 100}"])
    answering.gold = {sentence.id: sentence for sentence in sources.load_corpus(config.data, ["dev"]).splits["dev"]}
    folder = run.run(config)
    written = {name: sources.read_sentences(folder / f"search/{name}.jsonl")[0] for name in ("train", "dev")}
    assert 40 < len(written["train"]) <= 60
    config = answering.jobs[-1].config
    if config.task.name == "predict":
        assert sources.load_corpus(config.data, ["train"]).splits["train"] == written["train"]
        asked, _ = sources.read_sentences(Path(str(config.input)), config.data)
        assert asked
        assert all(one == answering.gold[one.id] for one in asked)
    else:
        corpus = sources.load_corpus(config.data, None)
        assert corpus.splits["test"] == written["dev"]
        assert len(corpus.splits["train"]) + len(corpus.splits["dev"]) == len(written["train"])


def posts(*sizes: int) -> list[Sentence]:
    return [Sentence(f"{p}-{n}", "x", [], f"p{p}") for p, size in enumerate(sizes) for n in range(size)]


def test_rungs_are_whole_posts_and_each_begins_with_the_one_before() -> None:
    dev = posts(*[1, 2, 3, 4] * 12)
    config = compose.load([*SERVER, *SEARCH, "search.rungs=[10,40,500]"])
    steps = tasks_search.build_rungs(config, dev)
    assert [step.number for step in steps] == [1, 2, 3]
    sizes = [len(step.sentences) for step in steps]
    assert 10 <= sizes[0] < 14
    assert 40 <= sizes[1] < 44
    assert sizes[2] == len(dev)
    for before, step in zip([[], *(one.sentences for one in steps)], steps, strict=False):
        assert [*before, *step.fresh] == list(step.sentences)
        inside = {sentence.post_id for sentence in step.sentences}
        assert len(step.sentences) == sum(sentence.post_id in inside for sentence in dev)
    backwards = tasks_search.build_rungs(config, dev[::-1])
    assert backwards[0].sentences != steps[0].sentences  # order within posts is kept
    names = [{sentence.id for sentence in step.sentences} for step in steps]
    assert [{s.id for s in step.sentences} for step in backwards] == names
    config.search.seed = 1
    assert [{s.id for s in step.sentences} for step in tasks_search.build_rungs(config, dev)] != names


@pytest.mark.parametrize(
    ("rungs", "sentences", "expected"),
    [([10, 0], 0, [10, 30]), ([10, 20, 30, 40], 0, [10, 20, 30]), ([10, 20, 0], 15, [10, 15]), ([100], 0, [30])],
)
def test_rungs_end_with_the_sample(rungs: list[int], sentences: int, expected: list[int]) -> None:
    config = compose.load([*SERVER, *SEARCH, f"search.rungs={rungs}", f"search.sentences={sentences}"])
    assert [len(step.sentences) for step in tasks_search.build_rungs(config, posts(*[1] * 30))] == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompt.from_run=null"], r"^prompt\.from_run: task=search needs it"),
        (["checkpoint=x"], r"^checkpoint: a trained model keeps the prompt it was trained with\. Leave it out"),
        (["decoding=free"], "a tagger is told nothing"),
        (["decoding=free", "model=qwen2_tiny"], r"^search\.train: random weights cannot answer"),
        (["search.train=true"], r"^search\.train: a server's model is not trained here"),
        (["search.rungs=[0,5]"], r"^search\.rungs: \[0, 5\]"),
        (["search.rungs=[x]"], r"^search\.rungs: 'x' is not a whole number"),
        (["search.corrections=[]"], r"^search\.corrections: there is none"),
        (["search.corrections=[-1]"], r"^search\.corrections: -1 is below 0"),
        (["prompt.lessons=[2,2]"], r"^prompt\.lessons: \[2, 2\]"),
        (
            ["task=predict", "prompt.from_run=null", "prompt.lessons=[1]"],
            r"^prompt\.lessons: prompt\.from_run names no",
        ),
    ],
)
def test_a_mistake_is_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose.load([*SERVER, *SEARCH, *overrides])
