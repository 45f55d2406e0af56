"""Fit a module: from its data to the best checkpoint, with what goes on around the steps.

`fit_module` leaves the best checkpoint (for prediction: the file `checkpoints/best.ckpt` of a tagger, the folder
`checkpoints/best` of a causal model) and `checkpoints/last.ckpt` (to go on from). With a `last.ckpt` in the folder
training resumes there, amid an epoch too, and ends with the same weights as a run that was never interrupted. The
split that is reported is never looked at.

A signal does not raise: after SIGTERM or Ctrl-C a step is finished, `last.ckpt` is written, and `fit_module` returns
with the signal's number, so that the caller can close its run and exit with 128 + that number. A second signal stops at
once (`Interruption`). After each evaluation `KeepCheckpoints` writes `last.ckpt`, has the best checkpoint written where
dev F1 was never higher (of equals, where the loss was lowest: a sample of dev often gives equals), and ends training
when patience is over or dev was perfect for long enough. `LogProgress` says a line per evaluation, and one a minute
between them.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback, Checkpoint, TQDMProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, Strategy

from omniner.compute.devices import Devices
from omniner.compute.precision import Precision
from omniner.config.groups import Config
from omniner.config.model_groups import TrainerConfig
from omniner.errors import Stopped, UserError
from omniner.files import make_folder, writing
from omniner.progress import Progress
from omniner.records import Issue
from omniner.training import checkpoints
from omniner.training.learner import Learner, TrainingData
from omniner.training.sharding import ShardedStrategy
from omniner.wording import counted, first_of, shortened

log = logging.getLogger("omniner")
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its tips and device lists; we say what is used
# Lightning's own use of torch; nothing that a user could mend
warnings.filterwarnings("ignore", message=".*LeafSpec.*", module="pytorch_lightning")

_LOG_EVERY = 20  # optimizer steps between logged values: a tracker's write costs about as much as a small step
_PROGRESS_SECONDS = 60.0  # between two lines of progress
_AGREE_EVERY = 20  # steps; each time the processes wait for each other and for the device
_SAME_LOSS = 1e-5  # relative; another eval_batch_size moves a loss in its seventh digit, and must not choose
_NAMED, _LONGEST_SHOWN = 4, 60  # differences from another training in a message, and characters of a value there
_NOTICE = 10.0  # seconds until a signal is noticed at the latest: schedulers give half a minute and more


@dataclass
class FitResult:
    """What training came to.

    Attributes:
        best_path: the checkpoint with the highest dev F1; absent on disk if training was stopped before any.
        best_f1: that F1; -1 if there was no evaluation.
        steps: optimizer steps, those before an interruption included.
        epochs: complete passes over the training split.
        signal: the number of the signal that stopped it; 0 = none.
        issues: what could not be encoded as it was.
    """

    best_path: Path
    best_f1: float
    steps: int
    epochs: int
    signal: int
    issues: list[Issue] = field(default_factory=list)


def fit_module(
    config: Config,
    devices: Devices,
    module: Learner,
    data: TrainingData[Any],
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
    keeper = KeepCheckpoints(kept, module.best_name, config.trainer)
    interruption = Interruption(keeper)
    progress = ProgressBar() if _on_terminal() else LogProgress()
    extra = [WholeSteps(keeper), *callbacks, *_own_callbacks(config), progress, interruption, keeper]
    trainer = _trainer(config, devices, module, folder, logger, extra, data.steps)
    resume = keeper.last if keeper.last.is_file() else None
    if resume is not None:
        _check_same(resume, module)
        log.info("resuming from %s", resume)
    # what was pretrained comes in evaluation mode, without dropout; Lightning leaves every module in the mode it finds
    module.train()
    try:
        with _sigint_kept():
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
            if trainer.is_global_zero:
                why = keeper.reason_to_end() or _limit(trainer)
                log.info("training ended at step %s: %s", f"{trainer.global_step:,}", why)
            if keeper.evaluated_step != trainer.global_step:
                # time, steps or epochs ended between two evaluations
                trainer.validate(module, datamodule=data, verbose=False)
    except SystemExit:
        # Lightning's answer to a signal
        if not interruption.signal:
            raise
    _leave_group(interruption.together)
    # what training held on a device is free for prediction now
    gc.collect()
    torch.cuda.empty_cache()
    return FitResult(
        best_path=keeper.best,
        best_f1=keeper.best_f1,
        steps=trainer.global_step,
        epochs=trainer.global_step // data.steps,
        signal=interruption.signal,
        issues=data.issues,
    )


@contextmanager
def _sigint_kept() -> Iterator[None]:
    """Give Ctrl-C its handler back after the block: Lightning, interrupted, leaves the signal ignored for good."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        # None: it was not set from Python. Only the main thread may set one
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _limit(trainer: pl.Trainer) -> str:
    """The limit of the configuration that ended a training which went on as long as it might."""
    epochs = trainer.max_epochs or 0
    if trainer.current_epoch >= epochs:
        return f"all of {counted(epochs, 'epoch')}"
    return "trainer.max_steps" if trainer.global_step == trainer.max_steps else "trainer.max_minutes"


def _leave_group(together: bool) -> None:
    """Take the processes apart, all at the same time: a later end would wait for ones that have gone on or are gone.

    Where they did not stop together, nobody can wait for the others: whoever started them ends them.
    """
    group = torch.distributed
    if group.is_available() and group.is_initialized() and together:
        group.barrier()
        group.destroy_process_group()


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
    trainer = pl.Trainer(
        accelerator=devices.accelerator,
        devices=devices.per_node,
        num_nodes=settings.nodes,
        strategy=_strategy(devices),
        precision=_lightning_precision(devices, module),
        logger=logger or False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *_started_by_hand()],
        max_epochs=settings.epochs(steps),
        max_steps=settings.max_steps,
        max_time=timedelta(minutes=settings.max_minutes) if settings.max_minutes else None,
        check_val_every_n_epoch=None if settings.eval_steps else settings.epochs_between_evaluations(steps),
        val_check_interval=settings.eval_steps or None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(_LOG_EVERY, steps),
        enable_progress_bar=_on_terminal(),
        enable_model_summary=False,
        use_distributed_sampler=False,
        # tensors that a model makes in an evaluation and keeps must do for training, too
        inference_mode=not module.keeps_own_dtype,
        default_root_dir=folder,
    )
    # Lightning sends round before every step whether rank 0 was told to stop, and waits for the device's answer
    loop: Any = trainer.fit_loop.epoch_loop
    if hasattr(loop, "_broadcast_sigterm_tensor"):
        loop._broadcast_sigterm_tensor = lambda: None
    return trainer


def _started_by_hand() -> list[LightningEnvironment]:
    """Make sure that ranks which were told their number by LOCAL_RANK go by it, within a SLURM allocation as well."""
    alone = "LOCAL_RANK" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    return [] if alone else [LightningEnvironment()]


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
    return "32-true" if module.keeps_own_dtype and by_itself else devices.precision


def _own_callbacks(config: Config) -> list[Callback]:
    """Make those of `trainer.callbacks`."""
    made: list[Callback] = []
    for name, item in config.trainer.callbacks.items():
        from hydra.utils import instantiate

        callback: Any = instantiate(item)
        if not isinstance(callback, Callback):
            raise UserError(
                f"trainer.callbacks.{name}",
                f"{type(callback).__name__} is no Lightning callback",
                "Check its _target_.",
            )
        made.append(callback)
    return made


def _check_same(path: Path, module: Learner) -> None:
    """A checkpoint of another model would fail somewhere deep; say it here."""
    try:
        content = checkpoints.read_checkpoint(path)
        damaged = zipfile.ZipFile(path).testzip() if zipfile.is_zipfile(path) else None
    except (UserError, zipfile.BadZipFile) as error:
        damaged = str(error)
    if damaged is not None:
        fix = f"Set resume=never to train anew; the best weights so far are in {path.parent}."
        raise UserError("resume", f"{path} is damaged ({damaged}): the training cannot go on from it", fix)
    if differences := list(_differences(module.stored_description(content), module.describe())):
        shown = first_of(differences, _NAMED, "; ")
        fix = "Set resume=never, or choose another output_dir."
        raise UserError("resume", f"{path} belongs to another training: {shown}", fix)
    module.check_state(content)


def _differences(stored: Any, now: Any, key: str = "") -> Iterator[str]:
    """Name the dotted keys under which two descriptions differ, with what each has there."""
    if isinstance(stored, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*now, *stored]):
            yield from _differences(stored.get(name), now.get(name), f"{key}.{name}" if key else str(name))
    elif stored != now:
        yield f"{key or 'the model'}: {_short(stored)} in last.ckpt, {_short(now)} now"


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{len(value)} entries"
    return "nothing" if value is None else shortened(str(value), _LONGEST_SHOWN)


def _on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class KeepCheckpoints(Checkpoint):
    """Keeps the best and the last checkpoint in a folder.

    Args:
        folder: of both.
        best_name: of the best one, see `Learner.best_name`; the other is `last.ckpt`.
        config: `patience`, `perfect_evaluations` and `checkpoint_minutes` are read.

    Attributes:
        best_f1: the highest dev F1 so far; -1 before the first evaluation.
        best_loss: the dev loss that came with it; of equal F1 the lower loss is better.
        evaluated_step: optimizer steps at the last evaluation.
        amid_step: set by `WholeSteps` while weights, rates and averages do not belong to the same step.
    """

    def __init__(self, folder: Path, best_name: str, config: TrainerConfig) -> None:
        self.best, self.last = folder / best_name, folder / "last.ckpt"
        self._config, self._seconds = config, 60 * config.checkpoint_minutes
        self.best_f1, self.best_loss, self.evaluated_step = -1.0, math.inf, -1
        self._without_gain, self._perfect, self._saved = 0, 0, time.monotonic()
        self.amid_step = False

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        names = ("best_f1", "best_loss", "evaluated_step", "_without_gain", "_perfect")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once where the evaluations before have ended training."""
        self._saved = time.monotonic()
        self._end_where_due(trainer)

    def is_due(self) -> bool:
        """Return whether the last save is so long ago that a kill would cost too much."""
        return self._seconds > 0 and time.monotonic() - self._saved >= self._seconds

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was just evaluated."""
        assert isinstance(pl_module, Learner)
        f1, loss = (float(trainer.callback_metrics[name]) for name in ("val/f1", "val/loss"))
        self.evaluated_step = trainer.global_step
        # both are what may end training, see reason_to_end: a lower loss keeps a checkpoint, but is no gain
        self._without_gain = 0 if f1 > self.best_f1 else self._without_gain + 1
        self._perfect = self._perfect + 1 if f1 == 1 else 0
        if is_better(f1, loss, self.best_f1, self.best_loss):
            self.best_f1, self.best_loss = f1, loss
            pl_module.save_best(self.best)
            trainer.strategy.barrier("best checkpoint")
        if trainer.state.fn == "fit":
            self.save_last(trainer)
            self._end_where_due(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what was reached, unless that is half a step.

        Of several processes an error takes one alone, and the rest could not follow.
        """
        together = trainer.world_size == 1 or isinstance(exception, StoppedTogether)
        if together and not self.amid_step and trainer.global_step > 0 and trainer.state.fn == "fit":
            self.save_last(trainer)

    def save_last(self, trainer: pl.Trainer) -> None:
        """Write what training goes on from, all processes at the same step."""
        trainer.save_checkpoint(self.last)
        self._saved = time.monotonic()

    def reason_to_end(self) -> str:
        """Why the evaluations so far end training; empty where they do not."""
        patience, perfect = self._config.patience, self._config.perfect_evaluations
        if perfect and self._perfect >= perfect:
            times = counted(perfect, "evaluation")
            return f"dev F1 was 100 % in {times} in a row (trainer.perfect_evaluations={perfect})"
        if patience and self._without_gain >= patience:
            return f"dev F1 rose in none of the last {counted(patience, 'evaluation')} (trainer.patience={patience})"
        return ""

    def _end_where_due(self, trainer: pl.Trainer) -> None:
        if self.reason_to_end():
            trainer.should_stop = True


def is_better(f1: float, loss: float, best_f1: float, best_loss: float) -> bool:
    """Tell whether a state of the model is better than the best one: by dev F1, of equal F1 by a clearly lower loss."""
    if f1 != best_f1:
        return f1 > best_f1
    return loss < best_loss and not math.isclose(loss, best_loss, rel_tol=_SAME_LOSS)


class WholeSteps(Callback):
    """Notes when training is amid an optimizer step: weights, their average and the learning rate do not fit together.

    It comes before all other callbacks, so that what one of them raises at the end of a step loses nothing.

    Args:
        keeper: is told.
    """

    def __init__(self, keeper: KeepCheckpoints) -> None:
        self._keeper = keeper

    def on_before_optimizer_step(self, *rest: Any) -> None:
        """Note that the weights are about to change."""
        self._keeper.amid_step = True

    def on_train_batch_end(self, *rest: Any) -> None:
        """Note that the step is whole: the average and the learning rate have followed."""
        self._keeper.amid_step = False


class Interruption(Callback):
    """Stops at the end of a step after Ctrl-C or SIGTERM, and remembers which signal ended the run; saves amid epochs.

    Of several processes one alone may be told. They agree now and then, by one small sum, on whether to stop and
    whether to save: every 20 steps, or more often where steps are so slow that a scheduler would lose its patience.

    Args:
        keeper: saves where it is due.

    Attributes:
        signal: the number of the signal that stopped training; 0 = none.
        together: whether all processes stopped at the same step, or came to the end.
    """

    def __init__(self, keeper: KeepCheckpoints) -> None:
        self.signal, self.together = 0, True
        self._keeper = keeper
        self._asked = 0
        self._next, self._since = 0, (0, 0.0)  # step of the next agreement; step and time of the last
        self._learner: Learner
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over both signals (only a main thread may)."""
        assert isinstance(pl_module, Learner)
        self._learner = pl_module
        self._next, self._since = trainer.global_step + 1, (trainer.global_step, time.monotonic())
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop, or save amid a long epoch, where the state is whole: all processes at the same step."""
        asked, is_due = 0, False
        if trainer.world_size == 1:
            asked, is_due = self._asked, self._keeper.is_due()
        elif trainer.global_step >= self._next:
            asked, is_due = self._agree(trainer)
        if asked:
            raise StoppedTogether(asked)
        if is_due and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._keeper.save_last(trainer)

    def _agree(self, trainer: pl.Trainer) -> tuple[int, bool]:
        """Ask all processes.

        Returns:
            the signal that one of them was sent, 0 = none; whether a save is due in one of them.
        """
        step, now = trainer.global_step, time.monotonic()
        seconds = (now - self._since[1]) / max(1, step - self._since[0])  # of a step
        said = torch.tensor([self._asked, self._keeper.is_due(), seconds], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        asked, due, slowest = said.tolist()
        self._next, self._since = step + max(1, min(_AGREE_EVERY, int(_NOTICE / max(slowest, 1e-6)))), (step, now)
        return int(asked), bool(due)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back; one that came too late for a step stops what would follow."""
        asked = self._agree(trainer)[0] if trainer.world_size > 1 else self._asked
        if asked:
            raise StoppedTogether(asked)
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remember which signal it was, if any, and whether all processes stopped together."""
        self._restore()
        self.together = isinstance(exception, StoppedTogether)
        if isinstance(exception, KeyboardInterrupt):
            self.signal = exception.signum if isinstance(exception, Stopped) else signal.SIGINT.value
        elif isinstance(exception, SystemExit) and trainer.received_sigterm:
            self.signal = signal.SIGTERM.value

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise Stopped(number)
        self._asked = self._learner.stop_signal = number
        log.warning("stopping at the end of this step; once more stops at once")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class StoppedTogether(Stopped):
    """All processes stop at the same step, which they have agreed on, so they can still do together what comes next."""


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, which reads the values it shows only when new ones were logged: that waits for the device."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)
        self._shown: dict[str, Any] = {}

    def get_metrics(self, trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, Any]:
        """Return what stands beside the bar."""
        assert isinstance(model, Learner)
        if model.logs or not trainer.training:
            self._shown = super().get_metrics(trainer, model)
        return self._shown


class LogProgress(Callback):
    """Logs a line after the first step, per evaluation, and one a minute: how far, how good, how fast, how long still.

    The time that is left is the most it can be: patience may end training before.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; steps done before a resume do not count for the speed."""
        self._progress = Progress(
            "steps",
            int(trainer.estimated_stepping_batches),
            done=trainer.global_step,
            seconds=_PROGRESS_SECONDS,
            at_once=True,
            quiet=not trainer.is_global_zero,
            note=lambda: self._note(trainer, "train/loss"),
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and say where training stands if it has not been said for long."""
        self._progress.add(trainer.global_step - self._progress.done)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where training stands, and how good that is."""
        if trainer.state.fn == "fit":
            self._progress.say(self._note(trainer, "train/loss", "val/loss", "val/f1"))

    def _note(self, trainer: pl.Trainer, *names: str) -> str:
        values = trainer.callback_metrics
        shown = [
            f"{name} {float(values[name]):.2%}" if name.endswith("f1") else f"{name} {float(values[name]):.4f}"
            for name in names
            if name in values
        ]
        if "train/sentences_per_second" in values:
            shown.append(f"{float(values['train/sentences_per_second']):.1f} sentences/s")
        return ", ".join([f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}", *shown])


class AtomicCheckpointIO(TorchCheckpointIO):
    """How the trainer writes `last.ckpt`: straight into a neighbour that then takes its place.

    Lightning's own way holds the file in memory twice before it is written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint, whole or not at all."""
        with writing(path, "wb") as file:
            torch.save(checkpoint, file)
