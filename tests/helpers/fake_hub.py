"""A cache of the hub as huggingface_hub lays it out, used without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub.constants
import pytest


def use(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let the libraries, which read the environment once, and the program read only this cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))


def publish(cache: Path, name: str, commit: str, folder: Path, refs: Iterable[str] = ()) -> Path:
    """Copy a model to a commit, to which branches and tags then point; return its folder in the cache."""
    model = cache / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    for ref in refs:
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / ref).write_text(commit)
    return snapshot
