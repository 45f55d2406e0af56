"""The cores of a process, on Linux and where the system does not tell."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from omniner import machine
from omniner.errors import UserError
from omniner.machine import own_cores, pinned

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no such call")


@linux
def test_what_is_started_within_has_these_cores() -> None:
    before = own_cores()
    with pinned(before[:1]):
        assert own_cores() == before[:1]
    assert own_cores() == before
    with pytest.raises(RuntimeError), pinned(before[:1]):
        raise RuntimeError
    assert own_cores() == before
    with pinned([]):
        assert own_cores() == before


def test_without_the_linux_calls_every_core_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert own_cores() == [0, 1, 2]
    with pinned([1]):
        assert own_cores() == [0, 1, 2]
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert own_cores() == [0]


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver = tmp_path / "driver"
    monkeypatch.setattr(machine, "GPU_FILES", (str(driver),))
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(UserError, match="no GPU driver"):
        machine.check_gpu()
    driver.touch()
    machine.check_gpu()
    driver.unlink()
    monkeypatch.setattr(sys, "platform", "darwin")
    machine.check_gpu()
