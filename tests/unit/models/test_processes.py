"""Two processes do what one does: the same steps, weights, dev scores and predictions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_corpus
import torch

from omniner.models import checkpoints
from omniner.models.inference import predict
from omniner.models.training import fit
from omniner.records import prediction_to_json, to_line
from omniner.schema import Config

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import small_corpus
from test_processes import OVERRIDES
from omniner.models.training import fit
config = small_corpus.configuration(*OVERRIDES, "trainer.devices=2")
result = fit(config, small_corpus.corpus(41, 19), Path(sys.argv[1]), None, [])
if result.rank == 0:
    print(json.dumps([result.best_f1, result.epochs]))
"""
# Dropout stays on. 41 sentences: the last step of an epoch has one, so one process has none of its own.
OVERRIDES = (
    "char_bilstm",
    "trainer.max_epochs=12",
    "trainer.weight_average=0.8",
    "model.learning_rate=0.01",
    "model.dropout=0.2",
    "model.embedding_dropout=0.2",
    "model.bigram_dropout=0.1",
)


def predictions(path: Path, config: Config) -> list[str]:
    found = [p for batch in predict(path, small_corpus.sentences(60, 5, "test"), config) for p in batch]
    return sorted(to_line(prediction_to_json(p)) for p in found)


@pytest.mark.slow
def test_two_processes_make_the_same_predictions_as_one(tmp_path: Path) -> None:
    config = small_corpus.configuration(*OVERRIDES)
    one = fit(config, small_corpus.corpus(41, 19), tmp_path / "one", None, [])
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PL_", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "two"), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**clean, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    best_f1, epochs = json.loads(done.stdout.strip().splitlines()[-1])
    assert (best_f1, epochs) == (one.best_f1, one.epochs)
    assert one.best_f1 > 0.3
    other = tmp_path / "two/checkpoints/best.ckpt"
    left, right = (checkpoints.read(path)["weights"] for path in (one.best_path, other))
    for name, weight in left.items():
        torch.testing.assert_close(weight, right[name], atol=1e-3, rtol=1e-3)
    assert predictions(one.best_path, config) == predictions(other, config)
