"""Where a result comes from: what the machine did meanwhile, the state of the code, the versions of the libraries.

A small thread samples CPU, memory and GPU once a second, under MLflow's own names for system metrics, so that its UI
shows them in their tab. MLflow's monitor is not used: it asks the store for the run's status with every sample (10 ms
of CPU a second) and dies with the store; this one costs 2.4 ms a second. The environment is never looked at: it may
hold secrets.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import subprocess
import threading
from collections.abc import Callable
from importlib import metadata
from typing import Any

from omniner.errors import UserError

log = logging.getLogger("omniner.tracking")

SECOND = 1.0  # between samples at first, so that short runs have a curve
DENSE = 300  # samples at that rate; a run of days must not write half a million rows
MINUTE = 60.0  # between samples after that
MB = 1e6
# Installed packages whose version can change a result; nothing is imported to ask for it.
PACKAGES = (
    "omniner", "torch", "pytorch-lightning", "torchmetrics", "transformers", "peft", "bitsandbytes",
    "hydra-core", "omegaconf", "mlflow", "mlflow-skinny", "numpy",
)  # fmt: skip
GIT_SECONDS = 10  # a checkout on a slow disk is given up after this


class MachineMonitor(threading.Thread):
    """A thread that samples the machine until `stop`.

    Args:
        report: gets each sample: values by metric, and the sample's number.
        first: number of the first sample.
    """

    def __init__(self, report: Callable[[dict[str, float], int], None], first: int) -> None:
        super().__init__(name="omniner-machine", daemon=True)
        import psutil

        self._report = report
        self._number = first
        self._done = threading.Event()
        self._psutil = psutil
        self._process = psutil.Process()
        self._gpus = _gpus()
        self._process.cpu_percent()  # the first call only starts the measurement
        psutil.cpu_percent()

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        self.join(timeout=2 * SECOND)

    def run(self) -> None:
        """Sample, report and wait, again and again."""
        taken = 0
        while not self._done.wait(SECOND if taken < DENSE else MINUTE):
            try:
                self._report(self._sample(), self._number)
            except (UserError, ValueError, self._psutil.Error) as error:
                log.warning("system metrics end here: %s", error)
                return
            taken += 1
            self._number += 1

    def _sample(self) -> dict[str, float]:
        memory = self._psutil.virtual_memory()
        values = {
            "system/cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MB,
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_cpu_utilization_percentage": self._process.cpu_percent(),
            "system/process_memory_usage_megabytes": self._process.memory_info().rss / MB,
        }
        for number, (nvml, handle) in enumerate(self._gpus):
            used = nvml.nvmlDeviceGetMemoryInfo(handle).used
            values[f"system/gpu_{number}_memory_usage_megabytes"] = used / MB
            values[f"system/gpu_{number}_utilization_percentage"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        return values


def _gpus() -> list[tuple[Any, Any]]:
    """The NVIDIA devices as (library, handle); none without the optional `pynvml` or without a driver."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [(pynvml, pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def library_versions() -> dict[str, str]:
    """Return the version of Python and of each installed library that can change a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # optional
    return found


def git_state() -> dict[str, str]:
    """Return commit, branch, whether the checkout has changes, and a digest of them; empty outside git.

    `diff` covers the changes of tracked files and the names (not the content) of new ones.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    branch = _git("rev-parse", "--abbrev-ref", "HEAD") or b""
    status = _git("status", "--porcelain") or b""
    state = {"commit": commit.decode().strip(), "branch": branch.decode().strip()}
    state["dirty"] = "yes" if status else "no"
    if status:
        changes = status + (_git("diff", "HEAD", "--binary") or b"")
        state["diff"] = hashlib.sha256(changes).hexdigest()
    return state


def _git(*arguments: str) -> bytes | None:
    """Output of a git command that only reads; None where there is no git, no checkout or no commit."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
