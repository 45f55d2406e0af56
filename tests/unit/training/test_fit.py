"""Training: it learns, it resumes with the same bits, it stops when told to."""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
import signal
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import small_causal
import small_corpus
import torch
from pytorch_lightning.callbacks import Callback
from small_corpus import fit, predict, prepare
from torchmetrics import Metric

from omniner.config.groups import Config
from omniner.corpus.sources import Corpus
from omniner.errors import UserError
from omniner.models import prepare_devices
from omniner.scoring.metrics import Counts
from omniner.scoring.units import compare_units
from omniner.taggers.inputs import Vocabulary, character_tokenizer
from omniner.training import checkpoints, learner
from omniner.training import fit as training_fit


class At(Callback):
    """Does something after an optimizer step."""

    def __init__(self, step: int, what: Any) -> None:
        self.step, self.what = step, what

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        if trainer.global_step == self.step:
            self.what()


class Losses(Callback):
    """Notes the loss of each step."""

    def __init__(self) -> None:
        self.values: dict[int, float] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *rest: Any) -> None:
        self.values[trainer.global_step] = float(outputs["loss"])


def weights(path: Path) -> dict[str, torch.Tensor]:
    content = checkpoints.read_checkpoint(path)
    average = content.get("average", {}).get("weights", {})
    return {**content["state_dict"], **{f"average.{name}": value for name, value in average.items()}}


@pytest.mark.parametrize("head", ["softmax", "crf", "span"])
@pytest.mark.parametrize("model", ["char_bilstm", "bert_tiny"])
def test_twenty_sentences_are_learnt_by_heart(tmp_path: Path, model: str, head: str) -> None:
    config = small_corpus.configuration(
        model,
        f"head={head}",
        "trainer.max_epochs=40",
        "trainer.eval_every=40",
        "trainer.batch_size=4",
        "trainer.weight_average=0",
        "model.learning_rate=0.01",
        *small_corpus.CERTAIN[model],
    )
    corpus = small_corpus.corpus(20, 20)
    corpus.splits["dev"] = corpus.splits["train"]
    result = fit(config, corpus, tmp_path, None, [])
    assert result.best_f1 == 1.0
    assert (result.epochs, result.signal, result.issues) == (40, 0, [])
    found = {p.id: p.entities for batch in predict(result.best_path, corpus.splits["train"], config) for p in batch}
    assert found == {sentence.id: sentence.entities for sentence in corpus.splits["train"]}


class Modes(Callback):
    """Notes which modules are in training mode: at each step, in each evaluation, and after it."""

    def __init__(self) -> None:
        self.steps: list[set[bool]] = []
        self.evaluations: list[set[bool]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, *rest: Any) -> None:
        self.steps.append({part.training for part in module.modules() if not isinstance(part, Metric)})

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, *rest: Any) -> None:
        self.evaluations.append({part.training for part in module.modules() if not isinstance(part, Metric)})


def pretrained_folder(kind: str, folder: Path) -> list[str]:
    """The overrides of a model from a folder, small and with dropout, as `from_pretrained` gives it."""
    if kind == "causal_path":
        small_causal.save(folder)
        return ["model.path=" + str(folder), "model.name=small", "tuning=lora", "tuning.dropout=0.2", "tuning.rank=4"]
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    characters = Vocabulary.build([sentence.text for sentence in small_corpus.sentences(50, 1, "s")], 1, bigrams=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=character_tokenizer(characters), pad_token="[PAD]")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ["model.path=" + str(folder), "model.name=small"]


@pytest.mark.parametrize("model", ["char_bilstm", "bert_tiny", "path", "qwen2_tiny", "causal_path"])
def test_dropout_acts_in_every_step_and_in_no_evaluation(tmp_path: Path, model: str) -> None:
    more = [] if model in small_corpus.SMALL else pretrained_folder(model, tmp_path / "model")
    if model == "causal_path":
        more += ["decoding.max_new_tokens=4", "prompt.instruction.zh='{categories}'"]
    config = small_corpus.configuration(model, "trainer.max_epochs=2", "trainer.eval_steps=2", *more)
    modes = Modes()
    fit(config, small_corpus.corpus(24, 4), tmp_path / "run", None, [modes])
    assert modes.steps == [{True}] * 6
    assert modes.evaluations == [{False}] * 3


def test_a_bar_reads_from_the_device_only_what_was_logged_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read a loss waits for the device, and so would every step."""
    reads: list[bool] = []
    real: Any = pl.Trainer.progress_bar_metrics

    def noted(trainer: pl.Trainer) -> dict[str, float]:
        if trainer.training:
            reads.append(trainer.lightning_module.logs)
        return real.fget(trainer)

    monkeypatch.setattr(pl.Trainer, "progress_bar_metrics", property(noted))
    monkeypatch.setattr(training_fit, "_on_terminal", lambda: True)
    config = small_corpus.configuration("char_bilstm", "trainer.max_epochs=4", "trainer.batch_size=2")
    fit(config, small_corpus.corpus(40, 8), tmp_path, None, [])
    assert reads == [True] * len(reads)
    assert 0 < len(reads) < 80 // 4


def test_unseen_sentences_are_tagged_too(tmp_path: Path) -> None:
    config = small_corpus.configuration("char_bilstm", "trainer.max_epochs=8", *small_corpus.CERTAIN["char_bilstm"])
    assert fit(config, small_corpus.corpus(150, 40), tmp_path, None, []).best_f1 > 0.8


@pytest.mark.parametrize("model", ["char_bilstm", "bert_tiny"])
@pytest.mark.parametrize("stop_at", [3, 5, 12])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, model: str, stop_at: int) -> None:
    # 5 steps per epoch: stopped amid the first epoch, at its end, and amid the third
    config = small_corpus.configuration(model, "trainer.max_epochs=4", "trainer.eval_every=1")
    corpus = small_corpus.corpus(40, 16)
    whole, parts = Losses(), Losses()
    plain = fit(config, corpus, tmp_path / "plain", None, [whole])

    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    stopped = fit(config, corpus, tmp_path / "stopped", None, [parts, At(stop_at, terminate)])
    assert stopped.signal == signal.SIGTERM
    assert max(parts.values) == stop_at
    resumed = fit(config, corpus, tmp_path / "stopped", None, [parts])
    assert not resumed.signal
    assert parts.values == whole.values
    assert resumed.best_f1 == plain.best_f1
    left, right = (weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("plain", "stopped"))
    assert left.keys() == right.keys()
    assert any(name.startswith("average.") for name in left)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("wrong", [KeyboardInterrupt, RuntimeError])
def test_whatever_stops_a_run_leaves_a_checkpoint_to_go_on_from(tmp_path: Path, wrong: type[BaseException]) -> None:
    config = small_corpus.configuration("char_bilstm", "trainer.max_epochs=2")
    corpus = small_corpus.corpus(40, 16)
    plain = fit(config, corpus, tmp_path / "plain", None, [])

    def fail() -> None:
        if wrong is KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGINT)
        else:
            raise wrong("out of luck")

    folder = tmp_path / "failed"
    if wrong is KeyboardInterrupt:
        assert fit(config, corpus, folder, None, [At(4, fail)]).signal == signal.SIGINT
    else:
        with pytest.raises(RuntimeError, match="out of luck"):
            fit(config, corpus, folder, None, [At(4, fail)])
    assert fit(config, corpus, folder, None, []).best_f1 == plain.best_f1
    left, right = (weights(f / "checkpoints/last.ckpt") for f in (tmp_path / "plain", folder))
    assert all(torch.equal(left[name], right[name]) for name in left)


class Early(Callback):
    """Ctrl-C before the first step."""

    def on_fit_start(self, *rest: Any) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_before_the_first_step_leaves_the_signal_to_what_comes_later(tmp_path: Path) -> None:
    config = small_corpus.configuration("char_bilstm", "trainer.max_epochs=2")
    before = signal.getsignal(signal.SIGINT)
    try:
        assert fit(config, small_corpus.corpus(8, 8), tmp_path, None, [Early()]).signal == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("model", ["char_bilstm", "qwen2_tiny"])
def test_half_a_step_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """What fails between the optimizer and the end of a step, a second signal for example, leaves the save before."""
    config = small_corpus.configuration(model, "trainer.max_epochs=2", "trainer.batch_size=8")
    corpus = small_corpus.corpus(40, 8)
    fit(config, corpus, tmp_path / "plain", None, [])

    calls, whole = itertools.count(1), torch.optim.AdamW.step

    def step(optimizer: Any, *rest: Any, **more: Any) -> Any:
        result = whole(optimizer, *rest, **more)
        if next(calls) == 7:
            raise RuntimeError("out of luck")
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(config, corpus, tmp_path / "failed", None, [])
    assert checkpoints.read_checkpoint(tmp_path / "failed/checkpoints/last.ckpt")["global_step"] == 5
    fit(config, corpus, tmp_path / "failed", None, [])
    left, right = (weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("plain", "failed"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_killed_run_goes_on_from_its_last_save_amid_an_epoch(tmp_path: Path) -> None:
    config = small_corpus.configuration("char_bilstm", "trainer.max_epochs=2")
    config.trainer.checkpoint_minutes = 1e-9
    corpus = small_corpus.corpus(40, 16)

    def copy() -> None:
        # what a kill would leave: the save after the step before
        shutil.copytree(tmp_path / "plain/checkpoints", tmp_path / "killed/checkpoints")

    whole, rest = Losses(), Losses()
    fit(config, corpus, tmp_path / "plain", None, [whole, At(4, copy)])
    fit(config, corpus, tmp_path / "killed", None, [rest])
    assert sorted(rest.values) == list(range(4, 11))
    assert all(rest.values[step] == whole.values[step] for step in rest.values)


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    config = small_corpus.configuration("char_bilstm", "trainer.max_epochs=2")
    corpus = small_corpus.corpus(24, 16)
    first = fit(config, corpus, tmp_path, None, [])
    again = Losses()
    second = fit(config, corpus, tmp_path, None, [again])
    assert again.values == {}
    assert (second.best_f1, second.epochs) == (first.best_f1, first.epochs)


@pytest.mark.parametrize("model", ["char_bilstm", "qwen2_tiny"])
def test_what_was_trained_is_gone_before_the_best_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    fit_module, trained, gone = training_fit.fit_module, list[weakref.ref[Any]](), list[bool]()

    def watched(config: Config, devices: Any, module: Any, *rest: Any) -> Any:
        trained.append(weakref.ref(module))
        return fit_module(config, devices, module, *rest)

    monkeypatch.setattr(training_fit, "fit_module", watched)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: gone.append(trained[0]() is None))
    config = small_corpus.configuration(model, "trainer.max_epochs=1", "trainer.max_steps=1")
    fit(config, small_corpus.corpus(8, 2), tmp_path, None, [])
    assert gone[-1], "the memory is given back before it is free"


def test_patience_ends_a_run_and_keeps_the_best(tmp_path: Path) -> None:
    config = small_corpus.configuration(
        "char_bilstm", "trainer.max_epochs=50", "trainer.patience=2", "model.learning_rate=1e-9",
        "model.head_learning_rate=1e-9",
    )  # fmt: skip
    result = fit(config, small_corpus.corpus(16, 8), tmp_path, None, [])
    assert result.epochs == 3
    assert fit(config, small_corpus.corpus(16, 8), tmp_path, None, []).epochs == 3


def easy(*overrides: str) -> tuple[Config, Corpus]:
    """A corpus that is learnt by heart in some evaluations, and how."""
    config = small_corpus.configuration(
        "char_bilstm", "trainer.max_epochs=40", "trainer.eval_every=2", "model.learning_rate=0.01",
        *small_corpus.CERTAIN["char_bilstm"], *overrides,
    )  # fmt: skip
    corpus = small_corpus.corpus(40, 20)
    corpus.splits["dev"] = corpus.splits["train"]
    return config, corpus


def test_training_ends_when_dev_was_perfect_for_long_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (config, corpus), f1s = easy(), []
    at = At(0, None)
    at.on_validation_end = lambda trainer, module: f1s.append(float(trainer.callback_metrics["val/f1"]))
    with caplog.at_level(logging.INFO, "omniner"):
        ended = fit(config, corpus, tmp_path / "whole", None, [at])
    first = f1s.index(1.0)
    assert f1s[first:] == [1.0] * 3
    assert ended.epochs == 2 * len(f1s) < 40
    assert (
        f"training ended at step {5 * ended.epochs}: dev F1 was 100 % in 3 evaluations in a row "
        "(trainer.perfect_evaluations=3)"
    ) in caplog.messages
    stop = At(5 * (ended.epochs - 2) - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert fit(config, corpus, tmp_path / "parts", None, [stop]).signal
    assert fit(config, corpus, tmp_path / "parts", None, []).epochs == ended.epochs
    left, right = (weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "parts"))
    assert all(torch.equal(left[name], right[name]) for name in left)
    again = Losses()
    assert fit(config, corpus, tmp_path / "parts", None, [again]).epochs == ended.epochs
    assert again.values == {}


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["trainer.max_epochs=12", "trainer.perfect_evaluations=0"], "step 60: all of 12 epochs"),
        (["trainer.max_steps=7", "trainer.eval_steps=100"], "step 7: trainer.max_steps"),
        (["trainer.max_minutes=1e-6"], "step 1: trainer.max_minutes"),
        (
            ["trainer.patience=2", "model.learning_rate=1e-9", "model.head_learning_rate=1e-9"],
            "step 30: dev F1 rose in none of the last 2 evaluations (trainer.patience=2)",
        ),
    ],
)
def test_a_line_says_why_training_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, overrides: list[str], why: str
) -> None:
    config, corpus = easy(*overrides)
    with caplog.at_level(logging.INFO, "omniner"):
        ended = fit(config, corpus, tmp_path, None, [])
    assert [line for line in caplog.messages if line.startswith("training ended")] == [f"training ended at {why}"]
    assert why.startswith(f"step {ended.steps}:")


def test_a_run_that_ends_between_evaluations_is_evaluated(tmp_path: Path) -> None:
    config = small_corpus.configuration("char_bilstm", "trainer.max_steps=7", "trainer.eval_every=5")
    result = fit(config, small_corpus.corpus(40, 16), tmp_path, None, [])
    assert result.best_path.is_file()
    assert result.best_f1 >= 0


def test_evaluation_by_steps_on_a_sample_of_dev(tmp_path: Path) -> None:
    config = small_corpus.configuration(
        "char_bilstm", "trainer.max_epochs=3", "trainer.eval_steps=4", "trainer.eval_sample=6"
    )
    corpus, evaluated = small_corpus.corpus(40, 16), []
    at = At(0, None)
    at.on_validation_end = lambda trainer, module: evaluated.append(
        (trainer.global_step, module.score.counts[3].item())
    )
    whole = fit(config, corpus, tmp_path / "whole", None, [at])
    # 5 steps an epoch; the last evaluation is that of the end
    assert evaluated == [(4, 6), (8, 6), (12, 6), (15, 6)]
    stop = At(10, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert fit(config, corpus, tmp_path / "parts", None, [stop]).signal
    evaluated.clear()
    assert fit(config, corpus, tmp_path / "parts", None, [at]).best_f1 == whole.best_f1
    assert evaluated == [(12, 6), (15, 6)]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0, ["1 of 3", "2 of 3", "3 of 3", "3 of 3"]), (600.0, ["1 of 3", "3 of 3"])]
)
def test_progress_is_said_from_the_first_step_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, seconds: float, said: list[str]
) -> None:
    monkeypatch.setattr(training_fit, "_PROGRESS_SECONDS", seconds)
    config = small_corpus.configuration("char_bilstm", "trainer.max_epochs=1")
    with caplog.at_level(logging.INFO, "omniner"):
        fit(config, small_corpus.corpus(24, 8), tmp_path, None, [])
    lines = [message for message in caplog.messages if " of 3 steps" in message]
    assert [line.split(" steps")[0] for line in lines] == said
    assert "val/f1" in lines[-1]
    assert all("epoch 1 of 1, train/loss" in line and " left" in line for line in lines)
    assert "sentences/s" in lines[-1]
    assert all(", 0.0 sentences/s" not in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_NTASKS": "2"}, "LightningEnvironment"),  # a batch script reserves tasks and starts none
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive", "LOCAL_RANK": "0"}, "LightningEnvironment"),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "LOCAL_RANK": "0"}, "LightningEnvironment"),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2"}, "SLURMEnvironment"),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2",
          "SLURM_JOB_NAME": "interactive"}, "SLURMEnvironment"),  # srun in a shell of salloc
    ],
)  # fmt: skip
def test_tasks_of_slurm_are_ranks_if_srun_has_started_them(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = small_corpus.configuration("char_bilstm")
    module, _ = prepare(config, small_corpus.corpus(5, 2))
    trainer: Any = training_fit._trainer(config, prepare_devices(config), module, tmp_path, None, [], 1)
    assert type(trainer._accelerator_connector.cluster_environment).__name__ == expected


def test_each_of_slow_steps_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[float, list[int]] = {}
    for slow in (0.0, 1000.0):
        monkeypatch.setattr(learner, "_SLOW", slow)
        config = small_corpus.configuration("char_bilstm", "trainer.max_epochs=1")
        module, data = prepare(config, small_corpus.corpus(40, 8))
        steps = logged.setdefault(slow, [])
        monkeypatch.setattr(module, "log_step", lambda *_, module=module, steps=steps: steps.append(module.logs))
        training_fit.fit_module(config, prepare_devices(config), module, data, tmp_path / str(slow), None, [])
    assert logged == {0.0: [True] * 5, 1000.0: [True, False, False, False, True]}


@pytest.mark.parametrize("model", ["char_bilstm", "qwen2_tiny"])
def test_a_sentence_of_dev_that_is_skipped_counts_as_it_does_in_a_prediction(tmp_path: Path, model: str) -> None:
    config = small_corpus.configuration(
        model, "trainer.max_epochs=2", "encoding.max_length=20", "encoding.on_too_long=skip",
        "decoding.max_new_tokens=24",
    )  # fmt: skip
    corpus, counts = small_corpus.corpus(24, 8), []
    corpus.splits["dev"][2] = replace(corpus.splits["dev"][2], text=corpus.splits["dev"][2].text + "，" * 20)
    at = At(0, None)
    at.on_validation_end = lambda trainer, module: counts.append(module.score.counts.tolist())
    result = fit(config, corpus, tmp_path, None, [at])
    dev = corpus.splits["dev"]
    found = {one.id: one for batch in predict(result.best_path, dev, config) for one in batch}
    row = Counts.of(
        compare_units([one.entities for one in dev], [found[one.id].entities for one in dev], "span")
    ).micro()
    assert found[dev[2].id].parse == "failed"
    assert {(tp + fn, sentences) for tp, _, fn, sentences, _ in counts} == {(row.tp + row.fn, 8)}
    assert result.best_f1 == pytest.approx(row.f1)


def test_another_model_does_not_resume(tmp_path: Path) -> None:
    corpus = small_corpus.corpus(16, 8)
    fit(small_corpus.configuration("char_bilstm", "trainer.max_epochs=1"), corpus, tmp_path, None, [])
    with pytest.raises(UserError, match=r"resume: .*head\.kind: crf in last\.ckpt, softmax now"):
        fit(small_corpus.configuration("char_bilstm", "head=softmax"), corpus, tmp_path, None, [])
    corpus.splits["train"] = [replace(one, text=one.text + "㐀") for one in corpus.splits["train"]]
    with pytest.raises(UserError, match=r"another training: inputs\.[\w.]+: \d+ entries in last\.ckpt, \d+ "):
        fit(small_corpus.configuration("char_bilstm"), corpus, tmp_path, None, [])


def test_the_head_learns_faster_and_norms_do_not_decay(tmp_path: Path) -> None:
    corpus = small_corpus.corpus(8, 4)
    config = small_corpus.configuration("bert_tiny")
    module, _ = prepare(config, corpus)
    decayed, free, head = module._groups()
    assert (decayed["lr"], head["lr"]) == (config.model.learning_rate, config.model.head_learning_rate)
    assert decayed["weight_decay"] > 0 == free["weight_decay"] == head["weight_decay"]
    names = {id(weight): name for name, weight in module.named_parameters()}
    assert all("Norm" not in names[id(w)] and "bias" not in names[id(w)] for w in decayed["params"])
    everything = [id(w) for group in (decayed, free, head) for w in group["params"]]
    assert sorted(everything) == sorted(names)


def test_deeper_layers_learn_more_slowly(tmp_path: Path) -> None:
    config = small_corpus.configuration("bert_tiny", "model.layer_decay=0.5", "model.learning_rate=0.01")
    module, _ = prepare(config, small_corpus.corpus(8, 4))
    rates = {id(weight): group["lr"] for group in module._groups() for weight in group["params"]}
    found = {name: rates[id(weight)] for name, weight in module.tagger.member.named_parameters()}
    assert {rate for name, rate in found.items() if ".layer.1." in name} == {0.01}
    assert {rate for name, rate in found.items() if ".layer.0." in name} == {0.005}
    assert {rate for name, rate in found.items() if "embeddings" in name} == {0.0025}
    assert found["place.weight"] == 0.01


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_learns_and_predicts(tmp_path: Path, precision: str) -> None:
    config = small_corpus.configuration(
        "bert_tiny", f"trainer.precision={precision}", "trainer.max_epochs=8", "trainer.weight_average=0.9"
    )
    corpus = small_corpus.corpus(24, 16)
    losses = Losses()
    result = fit(config, corpus, tmp_path, None, [losses])
    assert losses.values[24] < 0.6 * losses.values[1]
    found = [p for batch in predict(result.best_path, corpus.splits["test"], config) for p in batch]
    assert len(found) == len(corpus.splits["test"])


@pytest.mark.parametrize(
    ("f1", "loss", "better"),
    [
        (0.6, 9.0, True),
        (0.4, 0.1, False),
        (0.5, 1.0, False),
        (0.5, 0.999, True),
        (0.5, 0.9999999, False),  # no more than another eval_batch_size would make of it
        (0.5, math.nan, False),
    ],
)
def test_the_best_state_is_chosen_by_f1_and_then_by_the_loss(f1: float, loss: float, better: bool) -> None:
    assert training_fit.is_better(f1, loss, 0.5, 1.0) is better
    assert training_fit.is_better(0.0, loss, -1.0, math.inf)  # the first one always is
