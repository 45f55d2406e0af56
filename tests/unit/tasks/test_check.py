"""`task=check`: what it prints is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from omniner.config import compose
from omniner.run import run


def test_what_it_prints_stays_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "data.size={train: 20, dev: 5, test: 5}"
    folder = run(compose.load(["task=check", "tracking=off", sizes, f"output_dir={tmp_path / 'run'}"]))
    kept = (folder / "check.txt").read_text(encoding="utf-8")
    assert "== Corpus" in kept
    assert kept in capsys.readouterr().out
