"""A real language model of half a billion weights: tuned for some steps, asked in form, asked as a teacher.

`make pretrained` fetches it; `OMNINER_PRETRAINED` names another folder that holds `qwen05`. Some four CPU minutes.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import folder_of, omniner

MODEL = Path(os.environ.get("OMNINER_PRETRAINED", ROOT / "pretrained")) / "qwen05"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODEL.is_dir(), reason=f"{MODEL} is absent: `make pretrained` fetches it"),
]
ASKED = [
    "model=causal_path", f"model.path={MODEL.resolve()}", "model.name=qwen05", "trainer.threads=1", "tracking=off",
    "decoding=guided", "metrics.bootstrap=20",
]  # fmt: skip


def test_a_few_steps_of_lora_teach_the_form_and_lower_the_loss(tmp_path: Path) -> None:
    small = ["data.size={train: 48, dev: 8, test: 8}", "trainer.batch_size=8", "trainer.max_epochs=2"]
    tuned = [*ASKED, *small, "prompt=base", "tuning=lora", "model.learning_rate.lora=5e-4"]
    run = folder_of(omniner(*tuned, cwd=tmp_path, anew=True), tmp_path)
    curves = [json.loads(line) for line in (run / "curves.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [row["train/loss"] for row in curves if "train/loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    assert scores["parse"]["failed"] == 0
    assert scores["metrics"]["micro"]["f1"] > 0


def test_it_finds_what_nobody_could_miss(tmp_path: Path) -> None:
    """Untuned, from three examples: a name and a place in a sentence of its own."""
    words = ["task=predict", "prompt=fewshot", "prompt.examples=3", "text=昨天张三去了北京大学"]
    said = omniner(*ASKED, *words, cwd=tmp_path, anew=True).stdout
    assert re.search(r"\[[^\]|]*(张三|北京)[^\]|]*\|", said), said


def test_it_answers_a_teachers_questions_in_form(tmp_path: Path) -> None:
    """Notes about its own errors: a rule each, by its name, within what was asked for."""
    few = ["task=predict", "prompt=fewshot", "prompt.examples=3", "data.size={train: 48, dev: 12, test: 4}"]
    run = folder_of(omniner(*ASKED, *few, cwd=tmp_path, anew=True), tmp_path)
    asked = [
        "task=guide", f"run={run}", "teacher=hf", f"teacher.path={MODEL.resolve()}", "guide.clusters=2",
        "guide.suspects=0", "guide.min_errors=1", "teacher.max_new_tokens=300", "trainer.threads=1", "tracking=off",
    ]  # fmt: skip
    guide = folder_of(omniner(*asked, cwd=tmp_path, anew=True), tmp_path)
    found = json.loads((guide / "guidance.json").read_text(encoding="utf-8"))
    assert found["teacher"]["kind"] == "hf"
    taught = [lesson["note"] for lesson in found["lessons"] if lesson["note"]["by"] != "counts"]
    assert taught
    assert all(re.search(r"[\u4e00-\u9fff]", note["rule"]["zh"]) for note in taught)
