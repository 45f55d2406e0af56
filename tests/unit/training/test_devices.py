from __future__ import annotations

import os

import pytest
import small_corpus
import torch

from omniner.errors import UserError
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


def test_without_the_linux_call_every_core_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert [devices._threads(processes) for processes in (1, 2, 8)] == [6, 3, 1]


def test_mps_is_not_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    trainer = small_corpus.configuration("char_bilstm", "trainer.accelerator=auto").trainer
    chosen = devices.choose_devices(trainer, large=True)
    assert (chosen.accelerator, chosen.precision, chosen.first) == ("cpu", "32-true", torch.device("cpu"))
    trainer.accelerator = "gpu"
    with pytest.raises(UserError, match="no GPU that torch can use"):
        devices.choose_devices(trainer, large=True)
