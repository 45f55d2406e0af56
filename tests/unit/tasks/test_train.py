"""`task=train`: what is known before the training is said before it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from omniner import models, run
from omniner.config import compose
from omniner.errors import Stopped, UserError

LINE = json.dumps({"text": "去喝小满", "entities": [{"text": "小满", "category": "品牌", "start": 2, "end": 4}]})


def _stopped(*_given: Any, **_named: Any) -> None:
    raise Stopped(signal.SIGINT)


def test_issues_of_the_corpus_are_listed_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f"{LINE}\n{LINE[:-9] if split == 'train' else LINE}\n")
    monkeypatch.setattr(models, "fit", _stopped)
    folder = tmp_path / "run"
    with caplog.at_level("WARNING", "omniner"), pytest.raises(Stopped):
        run.execute(compose.load(["data=own", f"data.root={tmp_path}", f"output_dir={folder}", "tracking=off"]))
    found = [json.loads(line) for line in (folder / "issues.jsonl").read_text(encoding="utf-8").splitlines()]
    assert ("train.jsonl", 2, "bad-json") in [(Path(one["file"]).name, one["line"], one["code"]) for one in found]
    assert "1 bad-json" in caplog.text


def test_a_training_does_not_go_on_with_another_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f"{LINE}\n")
    monkeypatch.setattr(models, "fit", _stopped)
    folder = tmp_path / "run"
    config = compose.load(["data=own", f"data.root={tmp_path}", f"output_dir={folder}", "tracking=off"])
    with pytest.raises(Stopped):
        run.execute(config)
    other = json.dumps({**json.loads(LINE), "id": "other"})
    (tmp_path / "dev.jsonl").write_text(f"{other}\n")
    with pytest.raises(Stopped):  # nothing was learnt yet
        run.execute(config)
    (folder / "checkpoints/last.ckpt").touch()
    (tmp_path / "test.jsonl").write_text(f"{other}\n")
    with pytest.raises(Stopped):  # nor does it learn from test
        run.execute(config)
    (tmp_path / "dev.jsonl").write_text(f"{LINE}\n")
    with pytest.raises(UserError, match=r"run: train or dev is not what this unfinished training began with.*never"):
        run.execute(config)
    assert (folder / "checkpoints/last.ckpt").exists()
