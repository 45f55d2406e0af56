"""Two processes do what one does: the same steps, weights, dev scores and predictions; with divided weights, too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import small_corpus
import torch
from pytorch_lightning.callbacks import Callback
from safetensors.torch import load_file
from small_corpus import fit, predict
from test_fit import At

from omniner.config.groups import Config
from omniner.machine import free_port
from omniner.records import prediction_to_json, to_line
from omniner.training import checkpoints

TAGGER = """
import json, os, sys
from pathlib import Path
import torch
from pytorch_lightning.trainer.connectors import accelerator_connector
sys.path[:0] = sys.argv[2].split(":")
import small_corpus
from test_fit_processes import OVERRIDES
from small_corpus import fit
talks = 0
def counted(ask):
    def wrapper(*given, **options):
        global talks
        talks += 1
        return ask(*given, **options)
    return wrapper
for name in ("broadcast", "all_reduce", "broadcast_object_list", "all_gather_object"):
    setattr(torch.distributed, name, counted(getattr(torch.distributed, name)))
del os.environ["OMP_NUM_THREADS"]
accelerator_connector._IS_INTERACTIVE = True  # as in a notebook
config = small_corpus.configuration(*OVERRIDES, "trainer.devices=2", "trainer.threads=1")
result = fit(config, small_corpus.corpus(41, 19), Path(sys.argv[1]), None, [])
if os.environ.get("LOCAL_RANK", "0") == "0":
    print(json.dumps([result.best_f1, result.epochs, talks, os.environ.get("OMP_NUM_THREADS")]))
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


GENERATIVE = """
import json, os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2].split(":")
import small_corpus
from omniner.training import fit as training_fit
from test_fit import At
from tests.e2e import warm
from test_fit_processes import CAUSAL, RUNS, Means
training_fit._AGREE_EVERY = 1  # steps are few
def fit(*given):  # each time the processes meet anew, as those of a run do once
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
    return small_corpus.fit(*given)
seen, corpus = {}, small_corpus.corpus(21, 5)
for name, overrides in RUNS.items():
    config = small_corpus.configuration(*CAUSAL, "trainer.devices=2", *overrides)
    means, folder = Means(), Path(sys.argv[1]) / name
    stop = At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    if name == "lora-fsdp":
        assert fit(config, corpus, folder, None, [means, stop]).signal == signal.SIGTERM
    result = fit(config, corpus, folder, None, [means])
    seen[name] = [means.values, result.best_f1, result.epochs]
if os.environ.get("LOCAL_RANK", "0") == "0":
    print(json.dumps(seen))
"""
# 21 sentences: the last step of an epoch has five; packs so small that each process has several of them
CAUSAL = ("qwen2_tiny", "trainer.max_epochs=2", "tuning.pack_tokens=70", "trainer.eval_steps=4")
RUNS = {
    "full-ddp": ["tuning=full"],
    "full-fsdp": ["tuning=full", "trainer.strategy=fsdp"],
    "lora-fsdp": ["tuning=lora", "trainer.strategy=fsdp"],
}


RESUMED = """
import json, os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2].split(":")
import small_corpus
from omniner.training import fit as training_fit
from test_fit import At
from tests.e2e import warm
from test_fit_processes import BERT
training_fit._AGREE_EVERY = 1
config = small_corpus.configuration(*BERT, "trainer.devices=2")
stop = At({step}, lambda: os.kill(os.getpid(), signal.SIGTERM))
result = small_corpus.fit(config, small_corpus.corpus(41, 19), Path(sys.argv[1]), None, [stop])
if os.environ.get("LOCAL_RANK", "0") == "0":
    print(json.dumps([result.signal, result.best_f1]))
"""
BERT = ("bert_tiny", *small_corpus.CERTAIN["bert_tiny"], "trainer.max_epochs=3", "trainer.weight_average=0.8")


class Means(Callback):
    """Notes the loss of each logged step, over all processes, and the norm of its gradient."""

    def __init__(self) -> None:
        self.values: dict[int, list[float]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: object) -> None:
        if trainer.global_step % trainer.log_every_n_steps:
            return
        names = ("train/loss", "train/gradient_norm")
        self.values[trainer.global_step] = [float(trainer.callback_metrics[name]) for name in names]


def run_in_two(text: str, folder: Path, anew: bool = False) -> Any:
    """Run a script that trains in two processes into the folder; gives the JSON of its last line.

    Where Python starts `anew`, each process has a hash seed of its own.
    """
    script = folder.parent / "train.py"
    script.write_text(text, encoding="utf-8")
    arguments = [str(folder), f"{Path(__file__).parent}:{Path(small_corpus.__file__).parent}"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PL_", "PYTEST"))}
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    around = [{**clean, "OMP_NUM_THREADS": "1", **there, "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    processes: list[Any]
    if anew:
        command, pipe = [sys.executable, str(script), *arguments], subprocess.PIPE
        processes = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=each) for each in around]
    else:
        from tests.e2e import warm  # which the scripts, that import this module, do not find

        processes = [warm.start(arguments, folder.parent, each, module=script.stem) for each in around]
    said = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return json.loads(said[0][0].strip().splitlines()[-1])


def predictions(path: Path, config: Config) -> list[str]:
    found = [p for batch in predict(path, small_corpus.sentences(60, 5, "test"), config) for p in batch]
    return sorted(to_line(prediction_to_json(p)) for p in found)


@pytest.mark.slow
def test_two_processes_make_the_same_predictions_as_one(tmp_path: Path) -> None:
    config = small_corpus.configuration(*OVERRIDES)
    one = fit(config, small_corpus.corpus(41, 19), tmp_path / "one", None, [])
    best_f1, epochs, talks, threads = run_in_two(TAGGER, tmp_path / "two", anew=True)
    steps = 12 * 6
    assert talks < steps, "the processes wait for each other in every step"
    assert threads is None, "Lightning has set the threads of this process and of all that it starts"
    assert (best_f1, epochs) == (one.best_f1, one.epochs)
    assert one.best_f1 > 0.3
    other = tmp_path / "two/checkpoints/best.ckpt"
    left, right = (checkpoints.read_checkpoint(path)["weights"] for path in (one.best_path, other))
    for name, weight in left.items():
        torch.testing.assert_close(weight, right[name], atol=1e-3, rtol=1e-3)
    assert predictions(one.best_path, config) == predictions(other, config)


@pytest.mark.slow
def test_two_processes_train_a_causal_model_as_one_does(tmp_path: Path) -> None:
    two = run_in_two(GENERATIVE, tmp_path / "two")
    corpus, ones = small_corpus.corpus(21, 5), {}
    for name, (values, best_f1, epochs) in two.items():
        tuning = RUNS[name][0]
        if tuning not in ones:
            means = Means()
            config = small_corpus.configuration(*CAUSAL, tuning)
            ones[tuning] = fit(config, corpus, tmp_path / "one" / tuning, None, [means]), means
        one, means = ones[tuning]
        assert values == {str(step): pytest.approx(value, rel=1e-4) for step, value in means.values.items()}
        assert (best_f1, epochs) == (pytest.approx(one.best_f1), 2)
        file = "model.safetensors" if name.startswith("full") else "adapter_model.safetensors"
        left, right = (load_file(path / file) for path in (one.best_path, tmp_path / "two" / name / "checkpoints/best"))
        assert left.keys() == right.keys()
        for key, weight in left.items():
            torch.testing.assert_close(weight, right[key], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_run_may_go_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """A BERT tagger on two processes, then on one, then on two: the weights of one process all the way."""
    config, corpus = small_corpus.configuration(*BERT), small_corpus.corpus(41, 19)
    whole = fit(config, corpus, tmp_path / "whole", None, [])
    folder = tmp_path / "parts"
    assert run_in_two(RESUMED.format(step=5), folder)[0]
    assert fit(config, corpus, folder, None, [At(11, lambda: os.kill(os.getpid(), signal.SIGTERM))]).signal
    stopped_by, best_f1 = run_in_two(RESUMED.format(step=0), folder)
    assert (stopped_by, best_f1) == (0, pytest.approx(whole.best_f1))
    left, right = (checkpoints.read_checkpoint(each / "checkpoints/last.ckpt") for each in (tmp_path / "whole", folder))
    for name, weight in left["state_dict"].items():
        torch.testing.assert_close(weight, right["state_dict"][name], atol=1e-3, rtol=1e-3)
