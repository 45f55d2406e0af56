"""How a run ends in its folder; what stores that fail do to it: tests/reliability/test_delivery.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from omniner.config import compose
from omniner.runs import delivery
from omniner.runs.folder import FINISHED, UNSENT


@pytest.mark.parametrize(
    ("status", "sent", "saved"),
    [
        ("finished", True, [UNSENT, FINISHED]),
        ("finished", False, [UNSENT]),
        ("failed", True, ["failed"]),
        ("killed", False, ["killed"]),
    ],
)
def test_a_run_is_finished_in_its_folder_once_the_store_has_all_of_it(
    status: Any, sent: bool, saved: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    forget, run = Mock(), Mock(id="1")
    run.finish = Mock(side_effect=lambda _: seen.append("store") or sent)
    monkeypatch.setattr(delivery.unsent, "forget_note", forget)
    settings = compose.load(["task=check", f"tracking.folder={tmp_path}"]).tracking
    delivery.finish(run, status, settings, tmp_path, lambda status: seen.append(status))
    assert seen == [saved[0], "store", *saved[1:]]
    assert forget.called is sent


def test_without_tracking_what_an_earlier_process_left_stays_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget, run = Mock(), Mock(id="")
    monkeypatch.setattr(delivery.unsent, "forget_note", forget)
    settings = compose.load(["task=check", f"tracking.folder={tmp_path}"]).tracking
    delivery.finish(run, "finished", settings, tmp_path, lambda status: None)
    forget.assert_not_called()
