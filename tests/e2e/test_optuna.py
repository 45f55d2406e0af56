"""Optuna as the sweeper: it climbs, and an interrupted sweep goes on to the same trials."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import warm
from tests.e2e.conftest import ONE_EPOCH, environment, omniner
from tests.e2e.sweeping import runs, sweeps

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
pytestmark = pytest.mark.slow
SWEEP = ["hydra/sweeper=maximize_f1", "model.learning_rate=tag(log,interval(1e-4,1e-1))", "tracking=off"]


def test_it_maximises_f1_on_dev(tmp_path: Path) -> None:
    omniner("-m", *SWEEP[:-1], "hydra.sweeper.n_trials=2", *ONE_EPOCH, cwd=tmp_path)
    (sweep,) = sweeps(tmp_path)
    found = (sweep / "optimization_results.yaml").read_text()
    (parent,), children = runs(tmp_path)
    assert len({run.data.params["model.learning_rate"] for run in children}) == 2
    best = max(run.data.metrics["val/best_f1"] for run in children)
    assert f"best_value: {best}" in found
    assert parent.info.status == "FINISHED"


def _only_write(kill_at: int) -> None:
    """Children only write what a finished run leaves; the launcher's process is real, and really killed."""
    from omniner.config import run_config
    from omniner.files import make_folder, write_json
    from omniner.runs import children

    begun = Path("begun.txt")

    def run_process(command: list[str], *rest: Any, **more: Any) -> str:
        settings = run_config.read(Path(command[-1]))
        rate, folder = settings.model.learning_rate, make_folder(Path(settings.output_dir or ""))
        with begun.open("a") as file:
            print(repr(rate), file=file)
        state = {"digest": run_config.digest(settings), "started": time.time()}
        shutil.copy(command[-1], folder / "config.yaml")
        write_json(folder / "run_state.json", {**state, "status": "running"})
        if len(begun.read_text().splitlines()) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        write_json(folder / "metrics.json", {"val/best_f1": 1 / (1 + abs(math.log10(rate) + 2))})
        write_json(folder / "run_state.json", {**state, "status": "finished"})
        return ""

    children.run_process = run_process


def _trials(cwd: Path, kill_at: int, *overrides: str) -> list[str]:
    """Run the sweep of six; gives the learning rates of all children begun there so far."""
    cwd.mkdir(exist_ok=True)
    # two random trials: then what came of the trials decides
    command = [*SWEEP, "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.n_startup_trials=2", *overrides]
    done = warm.run(["-m", *command], cwd, environment(), 300, partial(_only_write, kill_at))
    assert done.returncode == (-signal.SIGKILL if kill_at else 0), done.stderr
    return (cwd / "begun.txt").read_text().splitlines()


def _children(cwd: Path) -> list[str]:
    (sweep,) = sweeps(cwd)
    return [json.loads(path.read_text())["overrides"][0] for path in sorted(sweep.glob("children/*.json"))]


def test_a_killed_sweep_goes_on_to_the_trials_it_would_have_made(tmp_path: Path) -> None:
    whole = _trials(tmp_path / "whole", 0)
    assert len(set(whole)) == 6
    assert _trials(tmp_path / "killed", 4) == whole[:4]
    assert _trials(tmp_path / "killed", 0) == [*whole[:4], *whole[3:]], "the finished three are not run again"
    assert sorted(_children(tmp_path / "killed")) == sorted(_children(tmp_path / "whole"))


def test_without_a_seed_it_goes_on_too_and_others_choose_otherwise(tmp_path: Path) -> None:
    unseeded = "hydra.sweeper.sampler.seed=null"
    before = _trials(tmp_path / "one", 4, unseeded)
    after = _trials(tmp_path / "one", 0, unseeded)
    assert after[:5] == [*before, before[3]]
    assert len(set(after)) == 6 == len(_children(tmp_path / "one"))
    assert _trials(tmp_path / "other", 1, unseeded)[0] != before[0]
