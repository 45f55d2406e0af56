"""What the tests of sweeps share: a quick sweep, and what it leaves in its folder and in the store."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e import warm
from tests.e2e.conftest import environment

# Scoring is the quickest task that has scores; training is swept where it matters.
SCORE = ["task=score", "predictions=p.jsonl", "metrics.bootstrap=0"]
TOPS = ("5", "6")
GRID = [*SCORE, f"errta.top={','.join(TOPS)}", "seed=1,2"]


def runs(cwd: Path) -> tuple[list[Any], list[Any]]:
    """Parents and children."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{cwd / 'mlruns' / 'mlflow.db'}")
    found = client.search_runs([item.experiment_id for item in client.search_experiments()])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in found if "mlflow.parentRunId" in run.data.tags]


def sweeps(cwd: Path) -> list[Path]:
    """Folders of sweeps."""
    return sorted((cwd / "outputs" / "sweeps").iterdir())


def states(sweep: Path) -> list[dict[str, Any]]:
    """Of the children."""
    return [json.loads(path.read_text()) for path in sorted(sweep.glob("*-*/run_state.json"))]


def start(cwd: Path, *overrides: str, **variables: str) -> warm.Command:
    """Begin a sweep."""
    return warm.start(["-m", *overrides], cwd, {**environment(), **variables})


def wait_for(condition: Callable[[], Any], process: warm.Command) -> Any:
    """What the condition gives once it holds, while the process runs."""
    deadline = time.monotonic() + 300
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def check_summary(cwd: Path, configurations: int) -> None:
    """Configurations with two seeds each, all finished, under one parent that has the summary."""
    from mlflow.tracking import MlflowClient

    (sweep,) = sweeps(cwd)
    with (sweep / "summary.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["n"], row["failed"], float(row["test/f1 mean"]), float(row["test/f1 sd"])) for row in rows] == [
        ("2", "0", 1.0, 0.0)
    ] * configurations
    (parent,), children = runs(cwd)
    assert len(children) == 2 * configurations
    assert parent.info.run_name.startswith("sweep ")
    assert "seed=1,2" in parent.info.run_name
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert parent.info.start_time <= min(run.info.start_time for run in children)
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    client = MlflowClient(f"sqlite:///{cwd / 'mlruns' / 'mlflow.db'}")
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {"summary.csv", "summary.png", "tables"}
    tables = {item.path for item in client.list_artifacts(parent.info.run_id, "tables")}
    assert tables == {"tables/summary.json", "tables/children.json"}
