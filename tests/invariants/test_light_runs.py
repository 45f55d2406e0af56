"""A run loads what its own kind of model needs: a BiLSTM from training to scores waits for no language model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What Lightning and torchmetrics load by themselves (torchmetrics looks for transformers) is not ours to avoid.
SCRIPT = """
import sys
import pytorch_lightning
before = {name for name in sys.modules if name.startswith("transformers")}
from omniner.run import main
main()
loaded = set(sys.modules)
assert "omniner.taggers.linear_chain" in loaded and "omniner.scoring.scorer" in loaded, "trained, scored"
ours = {name for name in loaded if name.startswith(("omniner.llm", "omniner.guidance", "peft", "bitsandbytes"))}
assert not ours, sorted(ours)
more = {name for name in loaded if name.startswith("transformers")} - before
assert not more, sorted(more)
"""
TINY = [
    *("model=char_bilstm", "model.hidden=8", "model.char_dim=8", "model.bigram_dim=0", "trainer.max_epochs=1"),
    *("trainer=cpu", "trainer.threads=1", "tracking=off", "data=sample", "metrics.bootstrap=0"),
    *("data.size.train=16", "data.size.dev=4", "data.size.test=4"),
]
PREDICTION = """
import sys
from omniner.run import main
main()
loaded = set(sys.modules)
assert "omniner.taggers.tagger" in loaded, "predicted"
heavy = {name for name in loaded if name in ("pytorch_lightning", "torchmetrics", "transformers")}
assert not heavy, sorted(heavy)
"""


def _start(script: str, folder: Path, *overrides: str) -> None:
    """Run a script as if it were the command line."""
    command = [sys.executable, "-c", script, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run; what it loads is checked on the way."""
    folder = tmp_path_factory.mktemp("light")
    _start(SCRIPT, folder, "output_dir=run", *TINY)
    return folder / "run"


def test_a_bilstm_run_loads_nothing_of_language_models(trained: Path) -> None:
    assert (trained / "scores.json").is_file()


def test_prediction_waits_for_nothing_that_only_training_needs(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("今天去喝了小满的茶。\n", encoding="utf-8")
    _start(PREDICTION, tmp_path, "task=predict", f"checkpoint={trained}", "input=input.txt", *TINY, "output_dir=out")
    assert (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").count("\n") == 1
