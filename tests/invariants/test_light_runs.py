"""A run loads what its own kind of model needs: a BiLSTM from training to scores waits for no language model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# What Lightning and torchmetrics load by themselves (torchmetrics looks for transformers) is not ours to avoid.
SCRIPT = """
import sys
import pytorch_lightning
before = {name for name in sys.modules if name.startswith("transformers")}
from omniner.run import main
main()
loaded = set(sys.modules)
assert "omniner.taggers.linear_chain" in loaded and "omniner.scoring.profiles" in loaded, "trained, scored"
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


def test_a_bilstm_run_loads_nothing_of_language_models(tmp_path: Path) -> None:
    run = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, f"output_dir={run}", *TINY]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert (run / "scores.json").is_file()
