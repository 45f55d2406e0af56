"""Lines about long work: not too many, and true."""

from __future__ import annotations

import logging

import pytest

from omniner import progress


def test_a_line_every_ten_seconds_with_rate_and_estimate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    spoken, silent = progress.Progress("sentences answered", 40), progress.Progress("x", 40, quiet=True)
    with caplog.at_level(logging.INFO, "omniner"):
        for _ in range(10):  # 2 in each 3 seconds
            now[0] += 3
            spoken.add(2)
            silent.add(2)
    assert caplog.messages == [
        "8 of 40 sentences answered, 0.7 per s, 48 s left",
        "16 of 40 sentences answered, 0.7 per s, 36 s left",
    ]
