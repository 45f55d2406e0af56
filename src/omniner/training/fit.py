"""Train a module under Lightning, or go on with it, and keep its best and its last checkpoint.

With a `last.ckpt` in the folder training resumes there, amid an epoch too, and ends with the same weights as a run that
was never interrupted. The split that is reported is never looked at.

A signal does not raise: after SIGTERM or Ctrl-C the step is finished, `last.ckpt` is written, and `fit_module` returns
with `interrupted` and the signal's number, so that the caller can close its run and exit with 128 + that number.
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

from omniner.config.groups import Config
from omniner.errors import UserError
from omniner.files import make_folder
from omniner.records import Issue
from omniner.training import checkpoints
from omniner.training.callbacks import Interruption, KeepCheckpoints, LogProgress
from omniner.training.data import TrainingData
from omniner.training.devices import Devices, Precision, ShardedStrategy
from omniner.training.learner import Learner

log = logging.getLogger("omniner")
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its tips and device lists; we say what is used
# Lightning's own use of torch; nothing that a user could mend
warnings.filterwarnings("ignore", message=".*LeafSpec.*", module="pytorch_lightning")

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


def fit_module(
    config: Config,
    devices: Devices,
    module: Learner,
    data: TrainingData,
    folder: Path,
    logger: Logger | bool | None,
    callbacks: Sequence[Callback],
) -> FitResult:
    """Train a module, or go on with it.

    Args:
        config: `trainer` is read.
        devices: where it runs.
        module: what learns.
        data: its loaders; `train` is learnt from, `dev` chooses the checkpoint.
        folder: of the run.
        logger: of Lightning, or none.
        callbacks: further ones, before those of `trainer.callbacks`.
    """
    kept = make_folder(folder / "checkpoints")
    keeper, interruption = KeepCheckpoints(kept, module.best_name, config.trainer), Interruption()
    progress = TQDMProgressBar(refresh_rate=1) if _on_terminal() else LogProgress()
    extra = [*callbacks, *_own_callbacks(config), progress, interruption, keeper]
    trainer = _trainer(config, devices, module, folder, logger, extra, data.steps)
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


def _trainer(
    config: Config,
    devices: Devices,
    module: Learner,
    folder: Path,
    logger: Logger | bool | None,
    callbacks: list[Callback],
    steps: int,
) -> pl.Trainer:
    """The trainer of the configuration; `steps` are those of an epoch."""
    settings = config.trainer
    return pl.Trainer(
        accelerator=devices.accelerator,
        devices=devices.number,
        num_nodes=settings.nodes,
        strategy=_strategy(devices),
        precision=_lightning_precision(devices, module),
        logger=logger or False,
        callbacks=callbacks,
        plugins=[checkpoints.AtomicCheckpointIO()],
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
        inference_mode=not module.holds_its_type,
        default_root_dir=folder,
    )


def _strategy(devices: Devices) -> Strategy | str:
    """How processes work together."""
    if devices.strategy == "fsdp":
        return ShardedStrategy(devices.world)
    if devices.strategy == "ddp":
        # gradients live in the buckets that are sent: one copy of them less
        return DDPStrategy(gradient_as_bucket_view=True)
    return devices.strategy


def _lightning_precision(devices: Devices, module: Learner) -> Precision:
    """What Lightning is to do about precision.

    A causal model is built in the type that `bf16-true` means, since Lightning would round its rotary frequencies as
    well; and fsdp puts weights together in the type of computing by itself.
    """
    by_itself = devices.precision == "bf16-true" or devices.strategy == "fsdp"
    return "32-true" if module.holds_its_type and by_itself else devices.precision


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
    content = checkpoints.read_checkpoint(path)
    if content.get(module.kind) != module.describe():
        raise UserError(
            "resume",
            f"{path} belongs to another model, head, prompt or training text",
            "Set resume=never, or choose another output_dir.",
        )
    module.check_state(content)


def _on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
