"""The CPU cores of this process: which it may use, and how to keep what it starts to some of them.

Linux alone says and sets this per process. Elsewhere (macOS) every core counts as this process's own, and nothing is
kept to any core.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator


def own_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on, in ascending order; at least one."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


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
