"""`fit`: from a configuration and a corpus to the best checkpoint.

In come the typed configuration, a corpus with `train` and `dev`, and the run's folder; out come the best checkpoint
(for prediction: the file `checkpoints/best.ckpt` of a tagger, the folder `checkpoints/best` of a causal model) and
`checkpoints/last.ckpt` (to go on from). With a `last.ckpt` in the folder training resumes there, amid an epoch too, and
ends with the same weights as a run that was never interrupted. The split that is reported is never looked at.

A signal does not raise: after SIGTERM or Ctrl-C the step is finished, `last.ckpt` is written, and `fit` returns with
`interrupted` and the signal's number, so that the caller can close its run and exit with 128 + that number.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy, Strategy

from omniner.corpus.sources import Corpus
from omniner.encoding import prompts
from omniner.encoding.datamodule import TaggerData
from omniner.encoding.generative_data import GenerativeData, active_categories
from omniner.encoding.samples import PromptEncoder
from omniner.errors import UserError
from omniner.files import make_folder
from omniner.models import causal, checkpoints
from omniner.models.callbacks import Interruption, KeepCheckpoints, LogProgress
from omniner.models.causal import CausalModel
from omniner.models.devices import Devices, Precision, settle
from omniner.models.generative import GenerativeModule
from omniner.models.learner import Learner
from omniner.models.network import Tagger
from omniner.models.sharding import Sharded
from omniner.models.shared_prefix import base_of
from omniner.models.tagger import TaggerModule
from omniner.records import Issue, Sentence
from omniner.schema import CausalConfig, Config

log = logging.getLogger("omniner")
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its tips and device lists; we say what is used
# Lightning's own use of torch; nothing that a user could mend
warnings.filterwarnings("ignore", message=".*LeafSpec.*", module="pytorch_lightning")

Prepared = tuple[TaggerModule, TaggerData] | tuple[GenerativeModule, GenerativeData]

_LOG_EVERY = 20  # optimizer steps between logged values: a tracker's write costs about as much as a small step


@dataclass
class FitResult:
    """What training came to.

    Attributes:
        best_path: the checkpoint with the highest dev F1; absent on disk if training was stopped before any.
        best_f1: that F1; -1 if there was no evaluation.
        epochs: complete passes over the training split.
        interrupted: whether a signal stopped it.
        signal: the number of that signal; 0 = none.
        rank: of this process; only rank 0 should go on with the run.
        issues: what could not be encoded as it was.
    """

    best_path: Path
    best_f1: float
    epochs: int
    interrupted: bool
    signal: int
    rank: int
    issues: list[Issue] = field(default_factory=list)


def fit(
    config: Config, corpus: Corpus, folder: Path, logger: Logger | bool | None, callbacks: Sequence[Callback]
) -> FitResult:
    """Train a model, or go on with it.

    Args:
        config: all of it; what the model needs of it, `trainer` and `seed` are read.
        corpus: its `train` is learnt from, its `dev` chooses the checkpoint.
        folder: of the run.
        logger: of Lightning, or none.
        callbacks: further ones, before those of `trainer.callbacks`.
    """
    devices = settle(config, isinstance(config.model, CausalConfig))
    module, data = _prepare(config, devices, corpus.splits["train"], corpus.splits["dev"])
    kept = make_folder(folder / "checkpoints")
    keeper, interruption = KeepCheckpoints(kept, module.best_name, config.trainer), Interruption()
    progress = TQDMProgressBar(refresh_rate=1) if _on_terminal() else LogProgress()
    extra = [*callbacks, *_own_callbacks(config), progress, interruption, keeper]
    trainer = _trainer(config, devices, folder, logger, extra, data.steps)
    resume = keeper.last if keeper.last.is_file() else None
    if resume is not None:
        _check_same(resume, module)
        log.info("resuming from %s", resume)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        if keeper.evaluated_step != trainer.global_step:
            # time, steps or epochs ended between two evaluations
            trainer.validate(module, datamodule=data, verbose=False)
    except SystemExit:
        # Lightning's answer to a signal
        if not interruption.signal:
            raise
    # what training held on a device is free for prediction now
    gc.collect()
    torch.cuda.empty_cache()
    return FitResult(
        best_path=keeper.best,
        best_f1=keeper.best_f1,
        epochs=trainer.global_step // data.steps,
        interrupted=interruption.signal != 0,
        signal=interruption.signal,
        rank=trainer.global_rank,
        issues=data.issues,
    )


def prepare(config: Config, train: Sequence[Sentence], dev: Sequence[Sentence]) -> Prepared:
    """The module and the data of a training run; every mistake in configuration or data shows here."""
    return _prepare(config, settle(config, isinstance(config.model, CausalConfig)), train, dev)


def _prepare(config: Config, devices: Devices, train: Sequence[Sentence], dev: Sequence[Sentence]) -> Prepared:
    categories = active_categories(config.data.taxonomy, train)
    pl.seed_everything(config.seed, verbose=False)
    if isinstance(config.model, CausalConfig):
        return _prepare_generative(config, config.model, devices, categories, train, dev)
    tagger = Tagger.build(config, (sentence.text for sentence in train), sorted(categories))
    encoder = tagger.encoder(config.encoding)
    data = TaggerData(encoder, train, dev, config.trainer, config.model.entity_replacement, config.seed)
    return TaggerModule(tagger, config.trainer, config.seed), data


def _prepare_generative(
    config: Config,
    model: CausalConfig,
    devices: Devices,
    categories: Sequence[str],
    train: Sequence[Sentence],
    dev: Sequence[Sentence],
) -> tuple[GenerativeModule, GenerativeData]:
    prompt = prompts.build(config.prompt, categories, train)
    _check_sharding(config, devices)
    dtype = devices.dtype(learns=config.tuning.method == "full")
    built = causal.build(model, config.tuning, prompt, [sentence.text for sentence in train], dtype, config.seed)
    encoder = PromptEncoder(built.chat, prompt, config.encoding)
    data = GenerativeData(
        encoder, train, dev, config.trainer, config.tuning.pack_tokens, model.entity_replacement, config.seed
    )
    _check_positions(built, data)
    return GenerativeModule(built, config, devices.precision, data.prefix), data


def _check_positions(built: CausalModel, data: GenerativeData) -> None:
    """A prompt with its answer must fit into the positions that the model knows."""
    positions = getattr(base_of(built.model).config, "max_position_embeddings", None)
    samples = [*data.train_samples, *data.dev_samples]
    longest = max(samples, key=lambda sample: len(sample.prompt) + len(sample.answer))
    tokens = len(longest.prompt) + len(longest.answer)
    if positions is not None and tokens > positions:
        raise UserError(
            "encoding.max_length",
            f"sentence {longest.id} has {tokens} tokens with prompt and answer, the model takes {positions}",
            "Lower it, with encoding.on_too_long=truncate or skip, or take a shorter prompt.",
        )


def _check_sharding(config: Config, devices: Devices) -> None:
    """What bitsandbytes keeps cannot be divided between processes."""
    if devices.strategy != "fsdp":
        return
    if config.tuning.method == "qlora":
        raise UserError("trainer.strategy", "fsdp cannot divide 4-bit weights", "Use trainer=ddp, or tuning=lora.")
    if config.tuning.optimizer == "adamw_8bit":
        found = "fsdp cannot divide the state of an 8-bit optimizer"
        raise UserError("tuning.optimizer", found, "Use adamw: its state is divided between the processes.")


def _trainer(
    config: Config,
    devices: Devices,
    folder: Path,
    logger: Logger | bool | None,
    callbacks: list[Callback],
    steps: int,
) -> pl.Trainer:
    """The trainer of the configuration; `steps` are those of an epoch."""
    settings = config.trainer
    causal_model = isinstance(config.model, CausalConfig)
    return pl.Trainer(
        accelerator=devices.accelerator,
        devices=devices.number,
        num_nodes=settings.nodes,
        strategy=_strategy(devices),
        precision=_lightning_precision(devices, causal_model),
        logger=logger or False,
        callbacks=callbacks,
        plugins=[checkpoints.WholeFiles()],
        max_epochs=settings.max_epochs,
        max_steps=settings.max_steps,
        max_time=timedelta(minutes=settings.max_minutes) if settings.max_minutes else None,
        check_val_every_n_epoch=None if settings.eval_steps else settings.eval_every,
        val_check_interval=settings.eval_steps or None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(_LOG_EVERY, steps),
        enable_progress_bar=_on_terminal(),
        enable_model_summary=False,
        use_distributed_sampler=False,
        # tensors that a model makes in an evaluation and keeps must do for training, too
        inference_mode=not causal_model,
        default_root_dir=folder,
    )


def _strategy(devices: Devices) -> Strategy | str:
    """How processes work together."""
    if devices.strategy == "fsdp":
        return Sharded(devices.world)
    if devices.strategy == "ddp":
        # gradients live in the buckets that are sent: one copy of them less
        return DDPStrategy(gradient_as_bucket_view=True)
    return devices.strategy


def _lightning_precision(devices: Devices, causal_model: bool) -> Precision:
    """What Lightning is to do about precision.

    A causal model is built in the type that `bf16-true` means, since Lightning would round its rotary frequencies as
    well; and fsdp puts weights together in the type of computing by itself.
    """
    by_itself = devices.precision == "bf16-true" or devices.strategy == "fsdp"
    return "32-true" if causal_model and by_itself else devices.precision


def _own_callbacks(config: Config) -> list[Callback]:
    """Those of `trainer.callbacks`."""
    made: list[Any] = []
    if config.trainer.callbacks:
        from hydra.utils import instantiate

        made = [instantiate(item) for item in config.trainer.callbacks.values()]
    for name, callback in zip(config.trainer.callbacks, made, strict=True):
        if not isinstance(callback, Callback):
            raise UserError(
                f"trainer.callbacks.{name}",
                f"{type(callback).__name__} is no Lightning callback",
                "Check its _target_.",
            )
    return made


def _check_same(path: Path, module: Learner) -> None:
    """A checkpoint of another model would fail somewhere deep; say it here."""
    content = checkpoints.read(path)
    if content.get(module.kind) != module.describe():
        raise UserError(
            "resume",
            f"{path} belongs to another model, head, prompt or training text",
            "Set resume=never, or choose another output_dir.",
        )
    module.check_state(content)


def _on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
