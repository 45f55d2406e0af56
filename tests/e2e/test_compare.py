"""`task=compare` as a user runs it: tracked runs by id, by name and by folder, and a file beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from omniner import tracking
from omniner.config import compose, run_config
from omniner.corpus.sample import generate_sample
from omniner.files import write_json, write_text
from omniner.records import Sentence, sentence_to_json, to_line
from tests.e2e.conftest import folder_of, omniner

QUICK = ["compare.resamples=100", "compare.permutations=100", "metrics.bootstrap=20"]


class Runs(NamedTuple):
    """A directory with two tracked runs on one test set, and a file of other answers."""

    cwd: Path
    first: Path
    second: Path
    human: Path


def lines(sentences: list[Sentence], found: int) -> str:
    """JSON lines in which the first so many entities of each sentence are found."""
    items = [sentence_to_json(sentence) for sentence in sentences]
    return "".join(to_line({**item, "entities": item["entities"][:found]}) + "\n" for item in items)


def finished(cwd: Path, sentences: list[Sentence], found: int, name: str, *overrides: str) -> Path:
    """What a finished run of `task=train` leaves that a comparison reads: its folder and its tracked run."""
    config = compose.load([f"name={name}", f"tracking.folder={cwd / 'mlruns'}", *overrides])
    folder = cwd / "outputs" / name
    files = {
        "gold.jsonl": lines(sentences, 100),
        "predictions.jsonl": lines(sentences, found),
        "config.yaml": run_config.to_yaml(config),
    }
    run = tracking.start_run(config.tracking, name=name, folder=folder, parent=None, resume_id=None, tags={})
    for file, text in files.items():
        run.file(write_text(folder / file, text))
    run.finish("finished")
    write_json(folder / "run_state.json", {"status": "finished", "run_id": run.id})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    cwd = tmp_path_factory.mktemp("compare")
    sentences = generate_sample({"test": 60}, 5)["test"]
    human = write_text(cwd / "human.jsonl", lines(sentences, 3))
    first = finished(cwd, sentences, 2, "first")
    return Runs(cwd, first, finished(cwd, sentences, 2, "second", "trainer.batch_size=8"), human)


def run_id(folder: Path) -> str:
    return str(json.loads((folder / "run_state.json").read_text())["run_id"])


def result(folder: Path) -> Any:
    return json.loads((folder / "comparison.json").read_text(encoding="utf-8"))


def test_runs_and_a_file_are_compared_and_tracked(runs: Runs) -> None:
    entries = f'runs=[{run_id(runs.first)},second,"people=human.jsonl"]'
    gold = f"gold={runs.first / 'gold.jsonl'}"
    done = omniner("task=compare", entries, gold, *QUICK, cwd=runs.cwd)
    folder = folder_of(done, runs.cwd)
    assert "second against first: F1 " in done.stdout
    assert "compare-runs" in done.stdout
    found = result(folder)
    assert list(found["runs"]) == ["first", "second", "people"]
    micro = {name: scores["metrics"]["micro"] for name, scores in found["runs"].items()}
    assert micro["first"]["precision"] == micro["people"]["precision"] == 1.0
    same = found["against_baseline"]["second"]
    assert (same["figures"]["micro.f1"]["difference"], same["gained"], same["lost"]) == (0.0, [], [])
    people = found["against_baseline"]["people"]["figures"]["micro.f1"]
    assert people["difference"] == pytest.approx(micro["people"]["f1"] - micro["first"]["f1"])
    assert people["difference"] > 0
    config = (folder / "tables" / "compare_config.csv").read_text(encoding="utf-8")
    assert "trainer.batch_size,32,8," in config
    assert "output_dir" not in config
    expected = ["comparison.html", "comparison.md", "latex/compare_models.tex", "figures/compare_errors.png"]
    assert [name for name in expected if not (folder / name).is_file()] == []

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{runs.cwd / 'mlruns' / 'mlflow.db'}")
    tracked = client.get_run(run_id(folder))
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics["compare/people/micro_f1_difference"] == people["difference"]
    assert tracked.data.tags["compare.first"] == run_id(runs.first)
    artifacts = {item.path for item in client.list_artifacts(tracked.info.run_id)}
    assert {"comparison.html", "comparison.md", "comparison.json", "tables", "figures", "latex"} <= artifacts


def test_a_run_whose_folder_is_gone_comes_from_the_store(runs: Runs) -> None:
    entries = f"runs=[{runs.second},first]"
    options = ["task=compare", entries, "tracking.system_metrics=false", *QUICK]
    before = result(folder_of(omniner(*options, cwd=runs.cwd), runs.cwd))
    hidden = runs.first.with_name("hidden")
    runs.first.rename(hidden)
    try:
        after = result(folder_of(omniner(*options, cwd=runs.cwd), runs.cwd))
    finally:
        hidden.rename(runs.first)
    for found in (before, after):
        for scores in found["runs"].values():
            del scores["timing"]
    assert after == before


def test_mistakes_are_one_line(runs: Runs) -> None:
    other = runs.cwd / "other"
    text = (runs.first / "gold.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name in ("gold.jsonl", "predictions.jsonl"):
        write_text(other / name, "".join(text[:20]))
    mistakes = [
        (f"[first,{other}]", "runs: other was tested on other sentences than first (digests "),
        (f"[first,{'0' * 31}a]", "is no file, no folder, and no run in experiment 'omniner'"),
    ]
    for entries, message in mistakes:
        done = omniner("task=compare", f"runs={entries}", "output_dir=refused", cwd=runs.cwd, status=2)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, done.stderr
        assert message in errors[0]
        assert "Traceback" not in done.stderr
        assert not (runs.cwd / "refused").exists()


def test_a_name_of_several_runs_is_refused(runs: Runs) -> None:
    settings = compose.load([f"tracking.folder={runs.cwd / 'mlruns'}"]).tracking
    for folder in ("a", "b"):
        given = {"name": "twice", "folder": runs.cwd / "outputs" / folder, "parent": None, "resume_id": None}
        tracking.start_run(settings, **given, tags={}).finish("finished")
    done = omniner("task=compare", "runs=[first,twice]", cwd=runs.cwd, status=2)
    assert "runs: 2 runs have the name 'twice'. Give the id of one, newest first: " in done.stderr
