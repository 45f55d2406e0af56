"""What this machine has for a process: its CPU cores, and how to keep what it starts to some of them; what the
processor can do; whether there can be a GPU at all; a port that is free.

Linux alone says and sets this per process. Elsewhere (macOS) every core counts as this process's own, and nothing is
kept to any core.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from omniner.errors import UserError

# What the drivers of Nvidia (its small boards too), of Windows' Linux and of AMD put there.
GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu", "/dev/dxg", "/dev/kfd")


def own_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on, in ascending order; at least one."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def busy_beside() -> float:
    """Return about how many cores other programs have kept busy in the last minute; 0 if the system does not tell."""
    if not hasattr(os, "getloadavg"):
        return 0.0
    return max(0.0, min(os.getloadavg()[0] - 1, len(own_cores())))  # 1 is this process


def processor() -> tuple[str, set[str]]:
    """Return the name of the processor and the flags of what it can do; nothing where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return "", set()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return facts.get("model name", ""), set((facts.get("flags") or facts.get("Features") or "").split())


@contextlib.contextmanager
def pinned(cores: Collection[int]) -> Iterator[None]:
    """Keep this thread to `cores` for the block: a process that it starts there has them from the first.

    Args:
        cores: numbers of cores; none = leave them as they are.
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


def check_gpu() -> None:
    """Raise a `UserError` where Linux has no driver of any GPU, which is seen without waiting for torch."""
    if sys.platform == "linux" and not any(map(os.path.exists, GPU_FILES)):
        raise UserError("trainer.accelerator", "this machine has no GPU driver", "Use trainer=cpu.")


def free_port() -> int:
    """Find a port of this machine that nobody listens at."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port
