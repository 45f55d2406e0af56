"""What the machine does while a run works on it: CPU, memory, GPU, sampled by a small thread.

What goes in: a function that takes one sample. What comes out: one call a second of it, with MLflow's own
names for system metrics, so that its UI shows them in their tab. MLflow's monitor is not used: it asks the
store for the run's status with every sample (10 ms of CPU a second) and dies with the store. Sampling
and sending here cost 2.4 ms a second.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from omniner.errors import UserError

log = logging.getLogger("omniner.tracking")

SECOND = 1.0  # between samples at first, so that short runs have a curve
DENSE = 300  # samples at that rate; a run of days must not write half a million rows
MINUTE = 60.0  # between samples after that
MB = 1e6


class Sampler(threading.Thread):
    """Samples until `stop`; `report(values, number)` gets each sample."""

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
        """Sample, report, wait."""
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
