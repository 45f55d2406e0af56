"""`task=check`: what it prints is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omniner.config import compose
from omniner.llm.training.generative_data import GenerativeData
from omniner.run import run
from omniner.taggers.tagger_module import TaggerData


def test_what_it_prints_stays_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "data.size={train: 20, dev: 5, test: 5}"
    folder = run(compose.load(["task=check", "tracking=off", sizes, f"output_dir={tmp_path / 'run'}"]))
    kept = (folder / "check.txt").read_text(encoding="utf-8")
    assert "== Corpus" in kept
    assert kept in capsys.readouterr().out


@pytest.mark.parametrize("model", ["char_bilstm", "qwen2_tiny"])
def test_the_first_epoch_is_made_once(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To make the one of 200,000 sentences takes a minute."""
    made: list[int] = []
    for kind, name in ((TaggerData, "epoch_examples"), (GenerativeData, "epoch_samples")):
        original = getattr(kind, name)

        def note(data: Any, epoch: int, original: Any = original) -> Any:
            made.append(epoch)
            return original(data, epoch)

        monkeypatch.setattr(kind, name, note)
    sizes = "data.size={train: 20, dev: 5, test: 5}"
    given = [f"model={model}", "tracking=off", "trainer=cpu", sizes, f"output_dir={tmp_path / 'run'}"]
    run(compose.load(["task=check", *given]))
    assert made == [0]
