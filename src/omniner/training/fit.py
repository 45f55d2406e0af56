"""Fit a module, from its data to the best checkpoint, with evaluation, saving and interruption.

`fit_module` leaves the best checkpoint (for prediction: the file `checkpoints/best.ckpt` of a tagger, the folder
`checkpoints/best` of a causal model) and `checkpoints/last.ckpt` (to resume from). If there is a `last.ckpt` in the
folder, training resumes from it, even in the middle of an epoch, and ends with the same weights as an uninterrupted
run. The reported split is never used.

A signal does not raise: after SIGTERM or Ctrl-C the current step is finished, `last.ckpt` is written, and `fit_module`
returns with the signal's number, so that the caller can close its run and exit with 128 + that number. A second signal
stops at once (`Interruption`). After each evaluation `KeepCheckpoints` writes `last.ckpt`. If dev F1 is a new maximum,
it has the best checkpoint written (on equal F1, if the loss is lower, as a sample of dev often gives ties). It ends
training when patience is over or dev was perfect often enough. `LogProgress` logs a line per evaluation, and one a
minute in between.
"""

from __future__ import annotations

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
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
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
from omniner.machine import tasks_of_step
from omniner.progress import Progress
from omniner.records import Issue
from omniner.training import checkpoints
from omniner.training.learner import Learner, TrainingData
from omniner.training.sharding import ShardedStrategy
from omniner.wording import counted, first_of, shortened

log = logging.getLogger("omniner")
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # hides its tips and device lists; we log what is used
# Lightning's own use of torch; users cannot fix it
warnings.filterwarnings("ignore", message=".*LeafSpec.*", module="pytorch_lightning")

_LOG_EVERY = 20  # optimizer steps between logged values: a tracker's write costs about as much as a small step
_PROGRESS_SECONDS = 60.0  # between two lines of progress
_AGREE_EVERY = 20  # steps; each time the processes wait for each other and for the device
_SAME_LOSS = 1e-5  # relative; another eval_batch_size changes a loss in its seventh digit, which must not decide
_NAMED, _LONGEST_SHOWN = 4, 60  # differences from another training in a message, and characters of a value there
_NOTICE = 10.0  # seconds until a signal is noticed at the latest: schedulers give half a minute or more


@dataclass
class FitResult:
    """The result of training.

    Attributes:
        best_path: the checkpoint with the highest dev F1; absent on disk if training was stopped before any.
        best_f1: that F1; -1 if there was no evaluation.
        steps: optimizer steps, including those before an interruption.
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
    """Train a module, or resume its training.

    Args:
        config: `trainer` is read.
        devices: where it runs.
        module: the model to train.
        data: its loaders; `train` is trained on, `dev` selects the checkpoint.
        folder: of the run.
        logger: of Lightning, or none.
        callbacks: additional ones, before those of `trainer.callbacks`.
    """
    keeper = KeepCheckpoints(folder / "checkpoints", module.best_name, config.trainer)
    interruption = Interruption(keeper)
    progress = ProgressBar() if _on_terminal() else LogProgress()
    extra = [WholeSteps(keeper), *callbacks, *_own_callbacks(config), progress, interruption, keeper]
    trainer = _trainer(config, devices, module, folder, logger, extra, data.steps)
    if trainer.is_global_zero:  # another rank may be here before the run has claimed its folder, which must be empty
        make_folder(folder / "checkpoints")
    resume = keeper.last if keeper.last.is_file() else None
    if resume is not None:
        _check_same(resume, module)
        log.info("resuming from %s", resume)
    # pretrained parts are in evaluation mode, without dropout, and Lightning does not change the mode
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
    """Restore Ctrl-C's handler after the block, because an interrupted Lightning leaves the signal ignored for good."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        # None: it was not set from Python. Only the main thread may set one
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _limit(trainer: pl.Trainer) -> str:
    """Name the limit (epochs, steps, minutes) that ended training without early stopping."""
    epochs = trainer.max_epochs or 0
    if trainer.current_epoch >= epochs:
        return f"all of {counted(epochs, 'epoch')}"
    return "trainer.max_steps" if trainer.global_step == trainer.max_steps else "trainer.max_minutes"


def _leave_group(together: bool) -> None:
    """Destroy the process group, in all processes together: later, one would wait for others that are gone.

    If the processes did not stop together, none can wait for the others: whoever started them ends them.
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
    """Create the trainer of the configuration; `steps` is the number of steps per epoch."""
    settings = config.trainer
    trainer = pl.Trainer(
        accelerator=devices.accelerator,
        devices=devices.per_node,
        num_nodes=settings.nodes,
        strategy=_strategy(devices),
        precision=_lightning_precision(devices, module),
        logger=logger or False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *_cluster_environment()],
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
        # tensors that a model creates in an evaluation and keeps must be usable in training, too
        inference_mode=not module.keeps_own_dtype,
        default_root_dir=folder,
    )
    # Before every step Lightning broadcasts whether rank 0 got a stop signal, and waits for the device's answer
    loop: Any = trainer.fit_loop.epoch_loop
    if hasattr(loop, "_broadcast_sigterm_tensor"):
        loop._broadcast_sigterm_tensor = lambda: None
    return trainer


def _cluster_environment() -> list[ClusterEnvironment]:
    """Tell Lightning who has started the ranks; empty = it finds out by itself.

    In a SLURM job it would take the tasks that are reserved for ranks that run, and those of srun in a shell of salloc
    for none. Ranks with a LOCAL_RANK use it, even in a step of several tasks.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return []
    if "LOCAL_RANK" not in os.environ and tasks_of_step() > 1:
        return [SLURMEnvironment()]
    return [LightningEnvironment()] if {"LOCAL_RANK", "SLURM_NTASKS"} & os.environ.keys() else []


def _strategy(devices: Devices) -> Strategy | str:
    """Return the strategy of Lightning for the devices."""
    if devices.strategy == "fsdp":
        return ShardedStrategy(devices.world)
    if devices.strategy == "ddp":
        # gradients are stored in the communication buckets: saves one copy of them
        return ReplicatedStrategy(gradient_as_bucket_view=True)
    return devices.strategy


class ReplicatedStrategy(DDPStrategy):
    """Data parallel over all processes, each with all weights."""

    def _configure_launcher(self) -> None:
        """Launch nothing if the processes are there: a launcher would refuse notebooks and reset the CPU threads."""
        assert self.cluster_environment is not None
        if not self.cluster_environment.creates_processes_externally:
            super()._configure_launcher()


def _lightning_precision(devices: Devices, module: Learner) -> Precision:
    """Return the precision that Lightning applies.

    A causal model is already built in the dtype of `bf16-true`, because Lightning would round its rotary frequencies as
    well; and fsdp casts weights to the compute dtype itself.
    """
    by_itself = devices.precision == "bf16-true" or devices.strategy == "fsdp"
    return "32-true" if module.keeps_own_dtype and by_itself else devices.precision


def _own_callbacks(config: Config) -> list[Callback]:
    """Create the callbacks of `trainer.callbacks`."""
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
    """Reject a damaged checkpoint or one of another model here, because loading it would fail obscurely."""
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
    """Yield the dotted keys under which two descriptions differ, with both values."""
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
    """Keep the best and the last checkpoint in a folder.

    Args:
        folder: of both.
        best_name: of the best one, see `Learner.best_name`; the other is `last.ckpt`.
        config: `patience`, `perfect_evaluations` and `checkpoint_minutes` are read.

    Attributes:
        best_f1: the highest dev F1 so far; -1 before the first evaluation.
        best_loss: the dev loss of that evaluation; on equal F1 the lower loss is better.
        evaluated_step: number of optimizer steps at the last evaluation.
        amid_step: set by `WholeSteps` while weights, learning rates and averages do not belong to the same step.
    """

    def __init__(self, folder: Path, best_name: str, config: TrainerConfig) -> None:
        self.best, self.last = folder / best_name, folder / "last.ckpt"
        self._config, self._seconds = config, 60 * config.checkpoint_minutes
        self.best_f1, self.best_loss, self.evaluated_step = -1.0, math.inf, -1
        self._without_gain, self._perfect, self._saved = 0, 0, time.monotonic()
        self.amid_step = False

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        names = ("best_f1", "best_loss", "evaluated_step", "_without_gain", "_perfect")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if earlier evaluations have ended training."""
        self._saved = time.monotonic()
        self._end_where_due(trainer)

    def is_due(self) -> bool:
        """Return whether the last save was so long ago that a kill would lose too much."""
        return self._seconds > 0 and time.monotonic() - self._saved >= self._seconds

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what was just evaluated."""
        assert isinstance(pl_module, Learner)
        f1, loss = (float(trainer.callback_metrics[name]) for name in ("val/f1", "val/loss"))
        self.evaluated_step = trainer.global_step
        # both counters can end training, see reason_to_end: a lower loss updates the checkpoint, but is not an
        # improvement
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
        """Save the current state, unless it is in the middle of a step.

        With several processes it is saved only if all stopped together: an exception in one alone leaves the others
        unable to take part in saving.
        """
        together = trainer.world_size == 1 or isinstance(exception, StoppedTogether)
        if together and not self.amid_step and trainer.global_step > 0 and trainer.state.fn == "fit":
            self.save_last(trainer)

    def save_last(self, trainer: pl.Trainer) -> None:
        """Write the checkpoint to resume from, in all processes at the same step."""
        trainer.save_checkpoint(self.last)
        self._saved = time.monotonic()

    def reason_to_end(self) -> str:
        """Return why the evaluations so far end training; empty if they do not."""
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
    """Return whether a model state beats the best one: by dev F1, on equal F1 by a clearly lower loss."""
    if f1 != best_f1:
        return f1 > best_f1
    return loss < best_loss and not math.isclose(loss, best_loss, rel_tol=_SAME_LOSS)


class WholeSteps(Callback):
    """Note when training is in the middle of an optimizer step, while weights, average and learning rate do not match.

    It comes before all other callbacks, so that an exception from one of them at the end of a step loses nothing.

    Args:
        keeper: its `amid_step` is set.
    """

    def __init__(self, keeper: KeepCheckpoints) -> None:
        self._keeper = keeper

    def on_before_optimizer_step(self, *rest: Any) -> None:
        """Note that the weights are about to change."""
        self._keeper.amid_step = True

    def on_train_batch_end(self, *rest: Any) -> None:
        """Note that the step is complete: the average and the learning rate are updated."""
        self._keeper.amid_step = False


class Interruption(Callback):
    """Stop at the end of a step after Ctrl-C or SIGTERM, and remember the signal; save in the middle of long epochs.

    With several processes, only one may receive the signal. They agree periodically, by one small reduction, on whether
    to stop and whether to save: every 20 steps, or more often if steps are so slow that a scheduler would kill the job
    first.

    Args:
        keeper: saves when it is due.

    Attributes:
        signal: the number of the signal that stopped training; 0 = none.
        together: whether all processes stopped at the same step, or finished.
    """

    def __init__(self, keeper: KeepCheckpoints) -> None:
        self.signal, self.together = 0, True
        self._keeper = keeper
        self._asked = 0
        self._next, self._since = 0, (0, 0.0)  # step of the next agreement; step and time of the last
        self._learner: Learner
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install handlers for both signals (only a main thread may)."""
        assert isinstance(pl_module, Learner)
        self._learner = pl_module
        self._next, self._since = trainer.global_step + 1, (trainer.global_step, time.monotonic())
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop, or save in the middle of a long epoch, in a complete state: all processes at the same step."""
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
        """Exchange the state of all processes.

        Returns:
            The signal that one of them received, 0 = none; whether a save is due in one of them.
        """
        step, now = trainer.global_step, time.monotonic()
        seconds = (now - self._since[1]) / max(1, step - self._since[0])  # of a step
        said = torch.tensor([self._asked, self._keeper.is_due(), seconds], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        asked, due, slowest = said.tolist()
        self._next, self._since = step + max(1, min(_AGREE_EVERY, int(_NOTICE / max(slowest, 1e-6)))), (step, now)
        return int(asked), bool(due)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the signal handlers; a signal that came too late for a step stops what would follow."""
        asked = self._agree(trainer)[0] if trainer.world_size > 1 else self._asked
        if asked:
            raise StoppedTogether(asked)
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remember the signal, if any, and whether all processes stopped together."""
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
    """All processes stop at the same agreed step, so that they can still do the next operations together."""


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, reading values only when new ones were logged, because reading waits for the device."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)
        self._shown: dict[str, Any] = {}

    def get_metrics(self, trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, Any]:
        """Return the values beside the bar."""
        assert isinstance(model, Learner)
        if model.logs or not trainer.training:
            self._shown = super().get_metrics(trainer, model)
        return self._shown


class LogProgress(Callback):
    """Log a line after the first step, per evaluation, and once a minute: progress, quality, speed, remaining time.

    The remaining time is an upper bound: patience may end training before.
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
        """Count the step, and log the progress if the last line was long ago."""
        self._progress.add(trainer.global_step - self._progress.done)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the progress with the scores of the evaluation."""
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
    """Write `last.ckpt` directly to a temporary file beside it, which then replaces it.

    Lightning's own writer holds the file in memory twice before it is written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint atomically."""
        with writing(path, "wb") as file:
            torch.save(checkpoint, file)
