"""Sweeps: a parent run, a process per child, a summary over seeds; interrupted, failed, killed, and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest

from omniner.runs.folder import STATE
from tests.e2e.conftest import omniner
from tests.e2e.sweeping import GRID, SCORE, TOPS, check_summary, runs, start, states, sweeps, wait_for


def test_the_parent_has_the_summary_over_seeds(scorable: Path) -> None:
    result = omniner("-m", *GRID, cwd=scorable, anew=True)
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("errta.top=")]
    assert [line[:6] for line in lines] == [[f"errta.top={top}", "2", "0", "100.00", "±", "0.00"] for top in TOPS]
    assert "compare-runs" in result.stdout
    check_summary(scorable, len(TOPS))
    (parent,), _ = runs(scorable)
    assert {name: parent.data.metrics[name] for name in ("test/f1", "test/f1_sd")} == {"test/f1": 1.0, "test/f1_sd": 0}
    assert [name for name in parent.data.metrics if "top" in name] == [], "no column for each configuration"
    assert parent.data.tags["sweep.best"] == f"errta.top={TOPS[0]}"
    note = parent.data.tags["mlflow.note.content"]
    assert f"| **errta.top={TOPS[0]}** | 2 | 0 | 100.00 ± 0.00 |" in note
    assert f"path=summary.png&run_uuid={parent.info.run_id}" in note


def test_a_failed_child_is_tried_again_and_the_others_are_not(scorable: Path) -> None:
    command = ["-m", "task=score", "predictions=later.jsonl,p.jsonl", "metrics.bootstrap=0", "seed=1"]
    result = omniner(*command, cwd=scorable, status=1)
    assert "failed: predictions=later.jsonl: predictions: later.jsonl does not exist" in result.stderr
    (sweep,) = sweeps(scorable)
    (before,) = states(sweep)
    (parent,), _ = runs(scorable)
    assert (before["status"], parent.info.status) == ("finished", "FAILED")

    shutil.copy(scorable / "p.jsonl", scorable / "later.jsonl")
    omniner(*command, cwd=scorable)
    (again,), children = runs(scorable)
    assert (again.info.run_id, again.info.status) == (parent.info.run_id, "FINISHED")
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    assert sweeps(scorable) == [sweep]
    assert before in states(sweep), "the finished child is left alone"


def test_a_child_that_could_not_begin_leaves_no_record_and_is_not_counted(scorable: Path) -> None:
    right = (scorable / "p.jsonl").read_text(encoding="utf-8")
    (scorable / "q.jsonl").write_text(
        right.replace('"id": "1"', '"id": "2"').replace("喝小满", "卖小满"), encoding="utf-8"
    )
    command = ["-m", "task=score", "predictions=p.jsonl,q.jsonl", "metrics.bootstrap=0", "gold=gold.jsonl"]
    omniner(*command, cwd=scorable, status=1)
    _, children = runs(scorable)
    assert [run.info.status for run in children] == ["FINISHED"]

    (scorable / "q.jsonl").write_text(right, encoding="utf-8")
    again = omniner(*reversed(command[1:]), "-m", cwd=scorable)
    (sweep,) = sweeps(scorable)
    assert f"going on with {sweep.relative_to(scorable)}: 1 finished run will be kept" in again.stderr
    (parent,), children = runs(scorable)
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    assert parent.data.tags["task"] == "sweep"
    assert "2 runs" in parent.data.tags["mlflow.note.content"]
    assert {run.data.tags["score.unit"] for run in children} == {"span"}
    assert all("unit:span|" in run.data.tags["score.signature"] for run in children)


def test_a_sweep_about_corpora_is_in_the_experiment_of_its_children(scorable: Path) -> None:
    omniner("-m", "task=stats", "data=sample", "data.size={train: 9, dev: 4, test: 4}", "seed=1,2", cwd=scorable)
    (parent,), children = runs(scorable)
    assert [run.info.experiment_id for run in children] == [parent.info.experiment_id] * 2


def test_a_folder_that_is_named_gets_the_sweep_although_another_one_has_not_finished(scorable: Path) -> None:
    command = ["-m", "task=score", "predictions=none.jsonl", "seed=1", "tracking=off"]
    for name in ("a", "b"):
        omniner(*command, f"hydra.sweep.dir=exp/{name}", cwd=scorable, status=1)
    assert sorted(path.name for path in (scorable / "exp").iterdir()) == ["a", "b"]


def test_resume_never_starts_anew(scorable: Path) -> None:
    command = ["-m", "task=score", "predictions=none.jsonl", "seed=1,2", "tracking=off"]
    omniner(*command, cwd=scorable, status=1)
    omniner(*command, cwd=scorable, status=1)
    assert len(sweeps(scorable)) == 1
    omniner(*command, "resume=never", cwd=scorable, status=1)
    assert len(sweeps(scorable)) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=char_bilsm,char_bilstm"], "char_bilsm"),
        (["seed=1,2", "tracking=server", "tracking.uri=http://127.0.0.1:9"], "tracking.uri"),
        (["seed=1,2", "resume=some_run"], "resume: 'some_run' names one run"),
        (["metrics.unit=span,pair"], "metrics.unit: span,pair in one sweep"),
        (
            ["head.label_smoothing=0.0,0.1"],
            "head.label_smoothing: a crf head does not read it, only head=softmax: runs",
        ),
    ],
)
def test_a_sweep_that_cannot_begin_leaves_nothing(scorable: Path, overrides: list[str], message: str) -> None:
    result = omniner("-m", *overrides, cwd=scorable, status=2)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (scorable / "outputs" / "sweeps").exists() or sweeps(scorable) == []
    assert not (scorable / "mlruns").exists() or runs(scorable) == ([], [])


def test_a_killed_child_does_not_take_the_sweep_down(scorable: Path) -> None:
    process = start(scorable, *SCORE, "seed=1,2", "tracking=off")

    def child() -> list[psutil.Process]:
        return [item for item in psutil.Process(process.pid).children() if "--child" in item.cmdline()]

    os.kill(wait_for(child, process)[0].pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "failed: seed=1: killed by SIGKILL" in errors
    (sweep,) = sweeps(scorable)
    (other,) = sweep.glob("1-*")  # the killed one may have come to its end just before
    assert json.loads((other / STATE).read_text())["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "status", "marked", "children"),
    [(signal.SIGTERM, 143, "KILLED", 2), (signal.SIGINT, 130, "KILLED", 2), (signal.SIGKILL, -9, "RUNNING", 3)],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_a_stopped_sweep_goes_on_with_what_is_missing(
    scorable: Path, stop: signal.Signals, status: int, marked: str, children: int
) -> None:
    command = [*SCORE, "seed=" + ",".join("123"[:children])]
    process = start(scorable, *command)
    wait_for(lambda: list(scorable.glob("outputs/sweeps/*/1-*/run_state.json")), process)
    os.kill(process.pid, stop)
    process.communicate(timeout=300)
    assert process.returncode == status
    (sweep,) = sweeps(scorable)
    before = [state for state in states(sweep) if state["status"] == "finished"]
    (parent,), _ = runs(scorable)
    assert parent.info.status == marked

    omniner("-m", *command, cwd=scorable)
    assert sweeps(scorable) == [sweep]
    after = states(sweep)
    assert [state["status"] for state in after] == ["finished"] * children
    assert before[0] in after, "the finished child is left alone"
    (again,), ended = runs(scorable)
    assert (again.info.run_id, again.info.status) == (parent.info.run_id, "FINISHED")
    assert [run.info.status for run in ended] == ["FINISHED"] * children, "the unfinished child goes on in its own run"
