"""`task=filter` from the command line: a model per fold, votes, files; killed, failed, and gone on with."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from omniner.corpus.formats import jsonl
from omniner.records import Entity, Sentence
from tests.e2e import warm
from tests.e2e.conftest import environment, folder_of, omniner

pytestmark = pytest.mark.slow

MODEL = [
    "model.hidden=16",
    "model.char_dim=16",
    "model.bigram_dim=0",
    "model.layers=1",
    "model.embedding_dropout=0.1",
    "model.dropout=0.1",
    "model.entity_replacement=0",
    "model.learning_rate=2e-2",
    "head=softmax",
    "trainer.max_epochs=12",
    "trainer.batch_size=8",
    "trainer.threads=1",
    "trainer.weight_average=0",
    "metrics.bootstrap=0",
]
FILTER = ["task=filter", "input=corpus.jsonl", "filter.folds=3", "filter.min_mentions=3", "name=easy", *MODEL]
CITIES, FOODS = ("北京", "上海", "杭州", "成都"), ("面条", "火锅", "包子", "豆花")


def sentences() -> list[Sentence]:
    """Easy ones, some with the labels of foods changed, and a few with categories that are hardly there."""
    draw = random.Random(3)
    found = []
    for number in range(120):
        city, food = draw.choice(CITIES), draw.choice(FOODS)
        text = draw.choice(["我在{}吃{}", "去{}吃了{}", "今天到{}，想吃{}了"]).format(city, food) + "。" * (number % 4)
        start, end = text.index(city), text.index(food)
        category = "城市" if number % 20 == 7 else "食品"
        entities = [Entity(city, "城市", start, start + 2), Entity(food, category, end, end + 2)]
        if number % 60 == 3:
            entities.append(Entity("吃", "动作", text.index("吃"), text.index("吃") + 1))
        found.append(Sentence(f"s{number:03}", text, entities, f"p{number // 2}"))
    # No two posts share a sentence, so that posts are dealt out one by one.
    return [Sentence(one.id, f"{one.text}{n}", one.entities, one.post_id) for n, one in enumerate(found)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Where it was started, and its folder: one fold after the other, tracked."""
    cwd = tmp_path_factory.mktemp("filtered")
    jsonl.write(cwd / "corpus.jsonl", sentences())
    return cwd, folder_of(omniner(*FILTER, cwd=cwd), cwd)


def test_every_sentence_is_kept_or_removed_by_the_votes_of_models_that_did_not_see_it(
    filtered: tuple[Path, Path],
) -> None:
    _, folder = filtered
    corpus = {one["id"]: one for one in lines(folder.parent.parent / "corpus.jsonl")}
    said: dict[str, list[set[tuple[Any, ...]]]] = {name: [] for name in corpus}
    for fold in (1, 2, 3):
        seen = {one["id"] for one in lines(folder / "folds" / f"fold_{fold}.jsonl")}
        answers = lines(folder / "children" / f"fold_{fold}" / "predictions.jsonl")
        assert {one["id"] for one in answers} == corpus.keys() - seen
        for one in answers:
            said[one["id"]].append({tuple(entity.values()) for entity in one["entities"]})
    gold = {name: {tuple(entity.values()) for entity in one["entities"]} for name, one in corpus.items()}
    easy = {name for name, answers in said.items() if answers == [gold[name]] * 2}
    doubted = {name for name, answers in said.items() if answers[0] == answers[1] != gold[name]}
    removed, kept = lines(folder / "corpus/removed.jsonl"), lines(folder / "corpus/kept.jsonl")
    assert {one["id"] for one in removed} == easy
    assert {one["id"] for one in kept} == corpus.keys() - easy
    suspects = lines(folder / "corpus/suspects.jsonl")
    assert {one["id"] for one in suspects if one["doubt"] == "sentence"} == doubted
    assert not easy & {one["id"] for one in suspects}
    queue = json.loads((folder / "corpus/queue.json").read_text(encoding="utf-8"))
    assert [one["data"]["sentence_id"] for one in queue] == [one["id"] for one in suspects]
    # The easy ones are many, and the changed labels are doubted: or this would test nothing.
    assert len(easy) > 40
    assert doubted >= {f"s{number:03}" for number in (7, 27, 47)}

    votes = {one["id"]: one for one in lines(folder / "corpus/votes.jsonl")}
    assert {name: one["right"] for name, one in votes.items()} == {
        name: answers.count(gold[name]) for name, answers in said.items()
    }
    found = json.loads((folder / "filter.json").read_text(encoding="utf-8"))
    assert found["removed"] == len(easy)
    assert found["votes"] == [Counter(one["right"] for one in votes.values())[right] for right in range(3)]

    before = Counter(entity["category"] for one in corpus.values() for entity in one["entities"])
    left = Counter(entity["category"] for name in corpus.keys() - easy for entity in corpus[name]["entities"])
    rare = {name: {"before": count, "kept": left[name]} for name, count in before.items() if left[name] < 3}
    assert "动作" in rare
    assert found["dropped"] == rare
    dropped = lines(folder / "corpus/dropped.jsonl")
    assert Counter(one["category"] for one in dropped) == {name: one["kept"] for name, one in rare.items()}
    for one in kept:
        whole = corpus[one["id"]]["entities"]
        assert one["entities"] == [entity for entity in whole if entity["category"] not in rare]
        gone = {(entity["text"], entity["start"]) for entity in dropped if entity["id"] == one["id"]}
        assert gone == {(entity["text"], entity["start"]) for entity in whole if entity["category"] in rare}
    assert "动作" in (folder / "filter.md").read_text(encoding="utf-8")


def test_each_fold_is_a_child_of_the_filter_s_run(filtered: tuple[Path, Path]) -> None:
    from mlflow.tracking import MlflowClient

    cwd, folder = filtered
    client = MlflowClient(f"sqlite:///{cwd / 'mlruns' / 'mlflow.db'}")
    runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert set(children) == {f"easy-fold_{number}" for number in (1, 2, 3)}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.metrics["filter/fold_2/f1"] == children["easy-fold_2"].data.metrics["test/f1"]
    assert parent.data.metrics["filter/removed"] == len(lines(folder / "corpus/removed.jsonl"))
    tables = {item.path for item in client.list_artifacts(parent.info.run_id, "tables")}
    assert "tables/filter_suspects.json" in tables


def _results(folder: Path) -> dict[str, bytes]:
    names = [f"corpus/{path.name}" for path in sorted((folder / "corpus").iterdir())]
    return {name: (folder / name).read_bytes() for name in [*names, "filter.json", "filter.md"]}


def test_killed_and_side_by_side_it_ends_in_the_same(filtered: tuple[Path, Path], tmp_path: Path) -> None:
    _, whole = filtered
    jsonl.write(tmp_path / "corpus.jsonl", sentences())
    command = [*FILTER, "tracking=off", "children.parallel=2"]
    process = warm.start(command, tmp_path, environment())
    finished, running = _wait(tmp_path, process)
    descendants = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert finished
    psutil.wait_procs(descendants, timeout=60)
    before = {path: path.stat().st_mtime_ns for path in finished}
    result = omniner(*command, cwd=tmp_path, anew=True)
    folder = folder_of(result, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    assert _results(folder) == _results(whole)
    assert running is not None


def _wait(cwd: Path, process: warm.Command) -> tuple[list[Path], Path | None]:
    """Until a fold is finished while another one is not."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None
        states = {path: path.read_text() for path in cwd.glob("outputs/*/children/*/run_state.json")}
        done = [path for path, text in states.items() if '"finished"' in text]
        if done and len(done) < len(states):
            return done, next(path for path in states if path not in done)
        time.sleep(0.02)
    raise AssertionError("no fold was finished")


def test_a_fold_that_fails_is_one_error_and_the_rest_is_kept(tmp_path: Path) -> None:
    """A fold of one post gives no dev, which its child finds out."""
    jsonl.write(tmp_path / "corpus.jsonl", sentences()[:4])
    command = [*FILTER, "filter.folds=2", "tracking=off"]
    result = omniner(*command, cwd=tmp_path, status=2)
    assert "Traceback" not in result.stderr
    error = [line for line in result.stderr.splitlines() if line.startswith("error: ")][-1]
    assert "children/fold_1.log: fold_1 failed (and 1 more): data.dev_from_train: 1 post cannot" in error
    assert "The same command goes on" in error
    (folder,) = (tmp_path / "outputs").iterdir()
    assert (folder / "children/fold_1.log").is_file()
    # Another corpus under the same name would be mixed with what was done.
    jsonl.write(tmp_path / "corpus.jsonl", sentences()[:6])
    result = omniner(*command, cwd=tmp_path, status=2)
    assert "the corpus is not the one that this unfinished run began with" in result.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["filter.folds=1"], "filter.folds: 1 leaves no other model to ask"),
        (["input=nothing.jsonl"], "input: nothing.jsonl does not exist"),
        (["filter.min_mentions=0"], "filter.min_mentions: 0 is not above 0"),
        (["filter.dev_from_train=0"], "filter.dev_from_train: 0 is not a share"),
        (["decoding=openai", "decoding.url=http://localhost:1/v1"], "decoding.engine"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    jsonl.write(tmp_path / "corpus.jsonl", sentences()[:9])
    result = omniner(*FILTER, *overrides, cwd=tmp_path, status=2)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "outputs").exists()
