"""Inspect this machine: CPU cores, processor features, GPU drivers and free ports.

Only Linux reports and sets cores per process. Elsewhere (macOS) all cores count as this process's own, and processes
are not restricted to cores.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from omniner.errors import UserError

# Created there by the drivers of Nvidia (including small boards), of Windows' Linux and of AMD.
GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu", "/dev/dxg", "/dev/kfd")


def own_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on, in ascending order; at least one."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def busy_beside() -> float:
    """Return roughly how many cores other programs used in the last minute; 0 if the system does not report it."""
    if not hasattr(os, "getloadavg"):
        return 0.0
    return max(0.0, min(os.getloadavg()[0] - 1, len(own_cores())))  # 1 is this process


def processor() -> tuple[str, set[str]]:
    """Return the processor's name and feature flags; both empty if Linux does not report them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return "", set()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return facts.get("model name", ""), set((facts.get("flags") or facts.get("Features") or "").split())


@contextlib.contextmanager
def pinned(cores: Collection[int]) -> Iterator[None]:
    """Restrict this thread to `cores` for the block; processes started in it inherit the restriction.

    Args:
        cores: numbers of cores; empty = do not restrict.
    """
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def local_rank() -> int:
    """Return the number of this process among those of its run on this machine; 0 if it is the only one."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def are_given() -> bool:
    """Return whether this process was started as one of several ranks: by torchrun, SLURM, a person or `runs.ranks`."""
    return bool(os.environ.get("LOCAL_RANK")) or tasks_of_step() > 1


def tasks_of_step() -> int:
    """Return how many processes srun has started together with this one; 1 outside a step of SLURM.

    SLURM_NTASKS also counts what a batch script or salloc has reserved, and nobody has started.
    """
    return int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)


def check_gpu() -> None:
    """Raise a `UserError` if Linux has no GPU driver, which can be checked without loading torch."""
    if sys.platform == "linux" and not any(map(os.path.exists, GPU_FILES)):
        raise UserError("trainer.accelerator", "this machine has no GPU driver", "Use trainer=cpu.")


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port
