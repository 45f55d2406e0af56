"""Runs that a run starts, as real processes."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from omniner.config import compose
from omniner.config.groups import ChildrenConfig
from omniner.errors import Stopped, UserError
from omniner.files import try_lock
from omniner.records import Entity, Prediction, Sentence, prediction_to_json, sentence_to_json, to_line
from omniner.registry import TASKS
from omniner.runs import children
from omniner.runs.children import ChildSettings, Job, Outcome
from omniner.runs.folder import LOCK


def job(folder: Path, name: str, category: str = "a") -> Job:
    """A score of one sentence: no torch, a second."""
    gold, path = folder / f"{name}_gold.jsonl", folder / f"{name}.jsonl"
    gold.write_text(to_line(sentence_to_json(Sentence("1", "去小满", [Entity("小满", "a", 1, 3)]))) + "\n")
    path.write_text(to_line(prediction_to_json(Prediction("1", [Entity("小满", category, 1, 3)]))) + "\n")
    overrides = ["task=score", f"predictions={path}", f"gold={gold}", "tracking=off", "metrics.bootstrap=0"]
    return Job(name, compose.load(overrides))


def do(jobs: list[Job], folder: Path, parallel: int = 1) -> dict[str, Outcome]:
    done = children.run_jobs(jobs, folder, "", ChildrenConfig(parallel=parallel, gpus=0))
    return {outcome.name: outcome for outcome in done}


def test_children_have_folders_and_results_and_a_failure_stays_alone(tmp_path: Path) -> None:
    broken = job(tmp_path, "broken")
    (tmp_path / "broken.jsonl").unlink()
    found = do([job(tmp_path, "right"), broken, job(tmp_path, "wrong", "b")], tmp_path / "run", parallel=2)
    assert set(found) == {"right", "wrong", "broken"}
    assert (found["right"].metrics["test/f1"], found["wrong"].metrics["test/f1"]) == (1.0, 0.0)
    assert "broken.jsonl does not exist" in found["broken"].error
    assert found["broken"].metrics == {}
    assert (tmp_path / "run/children/right/report.html").exists()
    assert "does not exist" in (tmp_path / "run/children/broken.log").read_text()


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "one")]
    first = do(jobs, tmp_path / "run")
    state = tmp_path / "run/children/one/run_state.json"
    before = state.stat().st_mtime_ns
    assert do(jobs, tmp_path / "run") == first
    assert state.stat().st_mtime_ns == before
    state.write_text(json.dumps({**json.loads(state.read_text()), "status": "killed"}))
    again = do(jobs, tmp_path / "run")["one"]
    assert (again.error, again.metrics["test/f1"]) == ("", 1.0)
    assert json.loads(state.read_text())["status"] == "finished"


def test_what_is_finished_is_done_again_if_a_file_that_it_read_has_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    do([job(tmp_path, "one")], tmp_path / "run")
    other = [job(tmp_path, "one", "b")]  # the same configuration; its predictions are others
    state = tmp_path / "run/children/one/run_state.json"
    recorded = json.loads(state.read_text())
    state.write_text(json.dumps({key: value for key, value in recorded.items() if key != "inputs"}))
    assert do(other, tmp_path / "run")["one"].metrics["test/f1"] == 1.0  # an older version recorded nothing
    state.write_text(json.dumps(recorded))
    assert do(other, tmp_path / "run")["one"].metrics["test/f1"] == 0.0
    assert f"{tmp_path / 'one.jsonl'} has changed since the run in" in caplog.text


@pytest.mark.parametrize("changed", ["train.jsonl", "categories.txt", "guidance.json"])
def test_the_files_of_the_corpus_and_the_guidance_are_read_by_a_training(tmp_path: Path, changed: str) -> None:
    for name in ("train.jsonl", "dev.jsonl", "test.jsonl", "categories.txt", "guidance.json"):
        (tmp_path / name).write_text("a\n")
    files = [f"data.files.{split}=[{split}.jsonl]" for split in ("train", "dev", "test")]
    given = ["model=qwen2_tiny", "data=own", f"data.root={tmp_path}", f"data.taxonomy={tmp_path / 'categories.txt'}"]
    config = compose.load([*given, *files, "prompt=errta", f"prompt.from_run={tmp_path}"])
    before = TASKS["train"].inputs_read(config)
    (tmp_path / changed).write_text("b\n")
    after = TASKS["train"].inputs_read(config)
    assert [path for path in before if before[path] != after[path]] == [str(tmp_path / changed)]


def test_whoever_stops_listening_stops_the_children(tmp_path: Path) -> None:
    jobs = [job(tmp_path, name) for name in ("a", "b", "c")]
    running = children.run_jobs(jobs, tmp_path / "run", "", ChildrenConfig(parallel=1, gpus=0))
    assert next(running).name == "a"
    running.close()
    assert not (tmp_path / "run/children/c").exists()


def test_places_follow_gpus_or_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setenv(children.VISIBLE_GPUS, "0,1,2,3,4")
    assert len(children._divide_machine(ChildrenConfig(parallel=0, gpus=2))[1]) == 2
    assert len(children._divide_machine(ChildrenConfig(parallel=0, gpus=0))[1]) == 1
    monkeypatch.setenv(children.VISIBLE_GPUS, "")
    assert children._divide_machine(ChildrenConfig(parallel=0, gpus=2))[1] == [[]]
    assert children._divide_machine(ChildrenConfig(parallel=2, gpus=0))[1] == [[0, 2], [1, 3]]
    assert children._divide_machine(ChildrenConfig(parallel=8, gpus=0))[1] == [[0], [1], [2], [3]] * 2


def test_more_gpus_than_there_are_is_a_mistake_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(children.VISIBLE_GPUS, "0")
    with pytest.raises(UserError, match="children"):
        list(children.run_jobs([job(tmp_path, "a")], tmp_path / "run", "", ChildrenConfig(parallel=0, gpus=2)))
    assert not (tmp_path / "run" / "children").exists()


def test_what_an_orphan_finishes_meanwhile_is_not_done_again(tmp_path: Path) -> None:
    """A process of the job whose parent was killed holds the folder, and finishes while the next parent waits."""
    one = job(tmp_path, "one")
    do([one], tmp_path / "run")
    state = tmp_path / "run/children/one/run_state.json"
    finished = state.read_text()
    state.write_text(json.dumps({**json.loads(finished), "status": "running"}))

    def finish() -> None:
        state.write_text(finished)
        before.append(state.stat().st_mtime_ns)
        orphan.release()

    before: list[int] = []
    orphan = try_lock(state.parent / LOCK)
    assert orphan is not None
    timer = threading.Timer(1.5, finish)
    timer.start()
    assert do([one], tmp_path / "run")["one"].error == ""
    timer.join()
    assert [state.stat().st_mtime_ns] == before


def test_whoever_waits_for_an_orphan_can_be_stopped(tmp_path: Path) -> None:
    one = job(tmp_path, "one")
    place = tmp_path / "run/children/one"
    place.mkdir(parents=True)
    orphan = try_lock(place / LOCK)
    assert orphan is not None
    tries = iter([False, False, True])

    def check_stop() -> None:
        if next(tries):
            raise Stopped(signal.SIGTERM)

    one.config.output_dir = str(place)
    with orphan, pytest.raises(Stopped):
        children.run_job(one, ChildSettings(tmp_path / "run", "", "one"), check_stop)
