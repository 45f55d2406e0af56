"""Sweeps under other launchers, whose children run side by side; children that are distributed runs."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil
import pytest

from omniner.runs import children
from tests.e2e.conftest import ONE_EPOCH, omniner
from tests.e2e.sweeping import SCORE, check_summary, runs, start, states, sweeps, wait_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("plugin", "overrides"),
    [
        ("hydra_plugins.hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
        ("hydra_plugins.hydra_submitit_launcher", ["hydra/launcher=submitit_local"]),
        ("ray", ["hydra/launcher=ray", "hydra.launcher.init.num_cpus=2"]),
    ],
    ids=["joblib", "submitit_local", "ray"],
)
def test_other_launchers_end_in_the_same(
    scorable: Path, monkeypatch: pytest.MonkeyPatch, plugin: str, overrides: list[str]
) -> None:
    pytest.importorskip(plugin)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or it leaves a token in the home directory
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    omniner("-m", *overrides, *SCORE, "seed=1,2", cwd=scorable)
    check_summary(scorable, 1)


def test_a_job_whose_ray_worker_is_lost_is_started_again(scorable: Path) -> None:
    pytest.importorskip("ray")
    alone = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = ["hydra/launcher=ray", "hydra.launcher.init.num_cpus=1", *SCORE, "seed=1,2", "tracking=off"]
    process = start(scorable, *command, **alone)

    def worker() -> psutil.Process | None:
        """The process of Ray that watches a child under way."""
        for one in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "--child" in one.cmdline() and "--child" not in one.parent().cmdline():
                    return one.parent()
        return None

    wait_for(worker, process).kill()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (sweep,) = sweeps(scorable)
    assert [state["status"] for state in states(sweep)] == ["finished"] * 2


def _gpus(launcher: int) -> dict[int, str]:
    """What the children that run now may see, by their process."""
    found = {}
    for process in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            forked = "--child" in process.parent().cmdline()  # by a child, and is not yet what it will be
            if "--child" in process.cmdline() and not forked:
                found[process.pid] = process.environ()[children.VISIBLE_GPUS]
    return found


def test_children_side_by_side_have_gpus_of_their_own(scorable: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *SCORE, "seed=1,2,3", "tracking=off"]
    there = {children.VISIBLE_GPUS: "0,1,2,3", "TMPDIR": str(scorable)}  # locks of its own
    process = start(scorable, *command, "children.gpus=2", **there)
    seen: dict[int, str] = {}
    most = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            now = _gpus(process.pid)
            assert len(set(now.values())) == len(now), "two children on one GPU"
            seen, most = {**seen, **now}, max(most, len(now))
        time.sleep(0.02)  # the children need the cores
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert (len(seen), most, set(seen.values())) == (3, 2, {"0,1", "2,3"})
    (sweep,) = sweeps(scorable)
    assert [state["status"] for state in states(sweep)] == ["finished"] * 3


def test_ranks_of_a_child_do_not_run_the_sweep(tmp_path: Path) -> None:
    omniner("-m", *ONE_EPOCH, "trainer=ddp", "seed=5", cwd=tmp_path)
    (parent,), (child,) = runs(tmp_path)
    assert (parent.info.status, child.info.status, child.data.params["seed"]) == ("FINISHED", "FINISHED", "5")
