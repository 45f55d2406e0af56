from __future__ import annotations

import os

import pytest

from omniner.training import devices


@pytest.mark.parametrize(
    ("processes", "said", "threads"),
    [
        (1, None, 8),
        (2, None, 4),
        (16, None, 1),
        (1, "", 8),
        (1, "3", 3),
        (2, "3", 3),
        (4, "3", 2),
        (1, "64", 8),
        (1, "2,1", 2),
        (1, "0", 8),
        (1, "many", 8),
    ],
)
def test_threads_are_a_share_of_the_cores_or_fewer(
    monkeypatch: pytest.MonkeyPatch, processes: int, said: str | None, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert devices._threads(processes) == threads
