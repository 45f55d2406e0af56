"""Runs in this process, tracked in a store that can be made to fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omniner.config import compose
from omniner.run import run
from omniner.tracking import store
from omniner.tracking.store import Store, open_store
from tests.e2e.conftest import SENTENCE

Failing = Callable[[bool], None]


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of its own for all tests here: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("reliability") / "mlruns"
    open_store(compose.load(["task=check", f"tracking.folder={folder}"]).tracking)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory with predictions of one sentence, `p.jsonl`, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("p.jsonl", "gold.jsonl"):
        (tmp_path / name).write_text(SENTENCE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Make the tracking store fail, or work again."""
    working, state = Store.deliver, {"away": False}

    def deliver(self: Store, *arguments: Any) -> None:
        if state["away"]:
            raise ConnectionError("away")
        working(self, *arguments)

    monkeypatch.setattr(store.Store, "deliver", deliver)
    return lambda away: state.update(away=away)


def score(tables: Path, *overrides: str, task: str = "score") -> Path:
    """Score the predictions in the current directory, tracked; the run's folder."""
    inputs = ["predictions=p.jsonl", "metrics.bootstrap=0"] if task == "score" else []
    settings = [f"tracking.folder={tables}", "tracking.wait=0", "tracking.system_metrics=false"]
    return run(compose.load([f"task={task}", *inputs, *settings, *overrides]))


def state_of(folder: Path) -> Any:
    """What the folder says of its run."""
    return json.loads((folder / "run_state.json").read_text("utf-8"))


def status_in_store(tables: Path, run_id: str) -> str:
    """How the store says that the run stands."""
    settings = compose.load(["task=check", f"tracking.folder={tables}"]).tracking
    return str(open_store(settings).client.get_run(run_id).info.status)
