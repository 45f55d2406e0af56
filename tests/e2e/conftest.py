"""Running the command line as a user does: in a process and a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from omniner.registry import TASKS
from omniner.runs.folder import ALWAYS_WRITTEN, BOOKKEEPING, WRITTEN
from tests.e2e import warm

COMMAND = [sys.executable, "-m", "omniner.run"]
# Small enough for seconds, large enough for every step: several epochs, batches, dev evaluations.
TINY = [
    "data.size={train: 96, dev: 32, test: 40}",
    "trainer.max_epochs=3",
    "trainer.batch_size=16",
    "trainer.threads=1",
    "model.hidden=24",
    "model.char_dim=24",
    "model.bigram_dim=16",
    "metrics.bootstrap=20",
]
ONE_EPOCH = [*(item for item in TINY if "max_epochs" not in item), "trainer.max_epochs=1"]
# The same for a causal model.
TINY_CAUSAL = [
    "model=qwen2_tiny",
    "model.architecture.hidden_size=64",
    "model.architecture.intermediate_size=128",
    "model.architecture.num_hidden_layers=2",
    "data.size={train: 64, dev: 16, test: 24}",
    "trainer.max_epochs=2",
    "trainer.batch_size=16",
    "trainer.threads=1",
    "trainer.eval_sample=8",
    "decoding.max_new_tokens=48",
    "metrics.bootstrap=20",
]
SENTENCE = '{"id": "1", "text": "喝小满", "entities": [{"text": "小满", "category": "品牌", "start": 1, "end": 3}]}\n'


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def omniner(
    *overrides: str, cwd: Path, status: int = 0, anew: bool = False, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end and check the exit status; `anew` starts Python instead of forking it."""
    around = {**environment(), **(variables or {})}
    if anew:
        result = subprocess.run(
            [*COMMAND, *overrides], cwd=cwd, env=around, capture_output=True, text=True, timeout=600
        )
    else:
        result = warm.run(overrides, cwd, around, 600)
    assert result.returncode == status, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def folder_of(result: subprocess.CompletedProcess[str], cwd: Path) -> Path:
    """The run's folder, which is what a run prints last; it holds nothing that the task's entry does not name."""
    folder = cwd / result.stdout.strip().splitlines()[-1]
    task = TASKS[json.loads((folder / "run_state.json").read_text())["task"]]
    assert {path.name for path in folder.iterdir()} <= {*task.outputs, *ALWAYS_WRITTEN, *BOOKKEEPING, WRITTEN}
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One tracked training run: the directory it was started in, and its folder."""
    cwd = tmp_path_factory.mktemp("trained")
    return cwd, folder_of(omniner(*TINY, "tracking.log_model=true", cwd=cwd, anew=True), cwd)


@pytest.fixture
def scorable(tmp_path: Path) -> Path:
    """A directory with `p.jsonl`, predictions of one sentence that are right, and its gold."""
    for name in ("p.jsonl", "gold.jsonl"):
        (tmp_path / name).write_text(SENTENCE, encoding="utf-8")
    return tmp_path


def runs_in(folder: Path, wanted: str = "") -> list[Any]:
    """The runs of the store under a folder; asked without MLflow's global address, which would outlive the test."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    [experiment] = [one.experiment_id for one in client.search_experiments() if one.name == "omniner"]
    return list(client.search_runs([experiment], wanted))
