"""Sweeps: a parent run, a process per child, a summary over seeds; interrupted, failed, killed, and gone on with."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import COMMAND, TINY, environment, omniner

# Scoring is the quickest task that has scores; training is swept where it matters.
SCORE = ["task=score", "predictions=p.jsonl", "metrics.bootstrap=0"]
LINE = '{"id": "1", "text": "喝小满", "entities": [{"text": "小满", "category": "品牌", "start": 1, "end": 3}]}\n'


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "p.jsonl").write_text(LINE, encoding="utf-8")
    (tmp_path / "gold.jsonl").write_text(LINE, encoding="utf-8")
    return tmp_path


def _runs(cwd: Path) -> tuple[list[Any], list[Any]]:
    """Parents and children."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{cwd / 'mlruns' / 'mlflow.db'}")
    runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def _sweeps(cwd: Path) -> list[Path]:
    return sorted((cwd / "outputs" / "sweeps").iterdir())


def _states(sweep: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(sweep.glob("*-*/run_state.json"))]


def _start(cwd: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "-m", *overrides],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 300
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def _check_summary(cwd: Path) -> None:
    """Two configurations, two seeds each, all finished, under one parent that has the summary."""
    from mlflow.tracking import MlflowClient

    (sweep,) = _sweeps(cwd)
    with (sweep / "summary.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["n"], row["failed"], float(row["test/f1 mean"]), float(row["test/f1 sd"])) for row in rows] == [
        ("2", "0", 1.0, 0.0)
    ] * 2
    (parent,), children = _runs(cwd)
    assert len(children) == 4
    assert parent.info.run_name.startswith("sweep ")
    assert "seed=1,2" in parent.info.run_name
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert parent.info.start_time <= min(run.info.start_time for run in children)
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    client = MlflowClient(f"sqlite:///{cwd / 'mlruns' / 'mlflow.db'}")
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {"summary.csv", "summary.png", "tables"}
    tables = {item.path for item in client.list_artifacts(parent.info.run_id, "tables")}
    assert tables == {"tables/summary.json", "tables/children.json"}


GRID = [*SCORE, "metrics.unit=span,pair", "seed=1,2"]


def test_the_parent_has_the_summary_over_seeds(cwd: Path) -> None:
    result = omniner("-m", *GRID, cwd=cwd)
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("metrics.unit=")]
    assert [line[:6] for line in lines] == [
        [f"metrics.unit={unit}", "2", "0", "100.00", "±", "0.00"] for unit in ("span", "pair")
    ]
    assert "compare-runs" in result.stdout
    _check_summary(cwd)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "overrides"),
    [
        ("hydra_plugins.hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
        ("hydra_plugins.hydra_submitit_launcher", ["hydra/launcher=submitit_local"]),
    ],
    ids=["joblib", "submitit_local"],
)
def test_other_launchers_end_in_the_same(cwd: Path, plugin: str, overrides: list[str]) -> None:
    pytest.importorskip(plugin)
    omniner("-m", *overrides, *GRID, cwd=cwd)
    _check_summary(cwd)


def test_a_failed_child_is_tried_again_and_the_others_are_not(cwd: Path) -> None:
    command = ["-m", "task=score", "predictions=later.jsonl,p.jsonl", "metrics.bootstrap=0", "seed=1"]
    result = omniner(*command, cwd=cwd, status=1)
    assert "failed: predictions=later.jsonl: predictions: later.jsonl does not exist" in result.stderr
    (sweep,) = _sweeps(cwd)
    (before,) = _states(sweep)
    (parent,), _ = _runs(cwd)
    assert (before["status"], parent.info.status) == ("finished", "FAILED")

    shutil.copy(cwd / "p.jsonl", cwd / "later.jsonl")
    omniner(*command, cwd=cwd)
    (again,), children = _runs(cwd)
    assert (again.info.run_id, again.info.status) == (parent.info.run_id, "FINISHED")
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    assert _sweeps(cwd) == [sweep]
    assert before in _states(sweep), "the finished child is left alone"


def test_resume_never_starts_anew(cwd: Path) -> None:
    command = ["-m", "task=score", "predictions=none.jsonl", "seed=1,2", "tracking=off"]
    omniner(*command, cwd=cwd, status=1)
    omniner(*command, cwd=cwd, status=1)
    assert len(_sweeps(cwd)) == 1
    omniner(*command, "resume=never", cwd=cwd, status=1)
    assert len(_sweeps(cwd)) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=char_bilsm,char_bilstm"], "char_bilsm"),
        (["seed=1,2", "tracking=server", "tracking.uri=http://127.0.0.1:9"], "tracking.uri"),
        (["seed=1,2", "resume=some_run"], "resume: 'some_run' names one run"),
    ],
)
def test_a_sweep_that_cannot_begin_leaves_nothing(cwd: Path, overrides: list[str], message: str) -> None:
    result = omniner("-m", *overrides, cwd=cwd, status=2)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (cwd / "outputs" / "sweeps").exists() or _sweeps(cwd) == []
    assert not (cwd / "mlruns").exists() or _runs(cwd) == ([], [])


def test_a_killed_child_does_not_take_the_sweep_down(cwd: Path) -> None:
    process = _start(cwd, *SCORE, "seed=1,2", "tracking=off")

    def child() -> list[psutil.Process]:
        return [item for item in psutil.Process(process.pid).children() if "hydra.mode=RUN" in item.cmdline()]

    os.kill(_wait_for(child, process)[0].pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "failed: seed=1: killed by SIGKILL" in errors
    (sweep,) = _sweeps(cwd)
    assert [state["status"] for state in _states(sweep)] == ["finished"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "status", "marked"),
    [(signal.SIGTERM, 143, "KILLED"), (signal.SIGINT, 130, "KILLED"), (signal.SIGKILL, -9, "RUNNING")],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_a_stopped_sweep_goes_on_with_what_is_missing(
    cwd: Path, stop: signal.Signals, status: int, marked: str
) -> None:
    command = [*SCORE, "seed=1,2,3"]
    process = _start(cwd, *command)
    _wait_for(lambda: list(cwd.glob("outputs/sweeps/*/1-*/run_state.json")), process)
    os.kill(process.pid, stop)
    process.communicate(timeout=300)
    assert process.returncode == status
    (sweep,) = _sweeps(cwd)
    before = [state for state in _states(sweep) if state["status"] == "finished"]
    (parent,), _ = _runs(cwd)
    assert parent.info.status == marked

    omniner("-m", *command, cwd=cwd)
    assert _sweeps(cwd) == [sweep]
    states = _states(sweep)
    assert [state["status"] for state in states] == ["finished"] * 3
    assert before[0] in states, "the finished child is left alone"
    (again,), children = _runs(cwd)
    assert (again.info.run_id, again.info.status) == (parent.info.run_id, "FINISHED")
    assert [run.info.status for run in children] == ["FINISHED"] * 3, "the unfinished child goes on in its own run"


FAST = [item for item in TINY if "max_epochs" not in item and "data.size" not in item]
FAST += ["trainer.max_epochs=1", "data.size.train=96", "data.size.dev=32", "data.size.test=40"]


@pytest.mark.slow
def test_ranks_of_a_child_do_not_run_the_sweep(cwd: Path) -> None:
    omniner("-m", *FAST, "trainer=ddp", "seed=1,2", cwd=cwd)
    _, children = _runs(cwd)
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    assert {run.data.params["seed"] for run in children} == {"1", "2"}


@pytest.mark.slow
def test_optuna_maximises_f1_on_dev(cwd: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    space = ["hydra/sweeper=maximize_f1", "hydra.sweeper.n_trials=2"]
    space += ["model.learning_rate=tag(log,interval(1e-3,1e-1))"]
    omniner("-m", *space, *FAST, cwd=cwd)
    (sweep,) = _sweeps(cwd)
    found = (sweep / "optimization_results.yaml").read_text()
    (parent,), children = _runs(cwd)
    assert len({run.data.params["model.learning_rate"] for run in children}) == 2
    best = max(run.data.metrics["val/best_f1"] for run in children)
    assert f"best_value: {best}" in found
    assert parent.info.status == "FINISHED"
