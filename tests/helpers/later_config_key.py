"""A key of a configuration as if it had come after what is kept was written: with a default in its class."""

from __future__ import annotations

from typing import Any

import pytest


def make_new(monkeypatch: pytest.MonkeyPatch, group: Any, name: str, usual: Any) -> None:
    """Give a field of a group a default for the time of a test."""
    monkeypatch.setattr(group.__dataclass_fields__[name], "default", usual)
