"""What goes on around the training steps: keeping checkpoints, stopping, saying how far it is.

`KeepCheckpoints` evaluates nothing itself: after each evaluation it writes `last.ckpt`, has the best checkpoint
written where dev F1 was never higher (of equals, where the loss was lowest: a sample of dev often gives equals), and
ends training when patience is over. A run that is stopped by a signal or an error leaves its `last.ckpt` too.
`Interruption` turns the first Ctrl-C or SIGTERM into a stop at the end of the step, so that no half step is saved, or
amid an evaluation that a single process makes by itself; the second stops at once. `LogProgress` says a line per
evaluation, and one a minute between them, for logs that are files. All of them know a module only as a `Learner`.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint

from omniner.config.model_groups import TrainerConfig
from omniner.errors import Stopped
from omniner.progress import Progress
from omniner.training.learner import Learner

log = logging.getLogger("omniner")

_SECONDS = 60.0  # between two lines of progress


class KeepCheckpoints(Checkpoint):
    """Keeps the best and the last checkpoint in a folder.

    Args:
        folder: of both.
        best_name: of the best one, see `Learner.best_name`; the other is `last.ckpt`.
        config: `patience` and `checkpoint_minutes` are read.

    Attributes:
        best_f1: the highest dev F1 so far; -1 before the first evaluation.
        best_loss: the dev loss that came with it; of equal F1 the lower loss is better.
        evaluated_step: optimizer steps at the last evaluation.
    """

    def __init__(self, folder: Path, best_name: str, config: TrainerConfig) -> None:
        self.best, self.last = folder / best_name, folder / "last.ckpt"
        self._patience, self._seconds = config.patience, 60 * config.checkpoint_minutes
        self.best_f1, self.best_loss, self.evaluated_step = -1.0, math.inf, -1
        self._without_gain, self._saved = 0, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        names = ("best_f1", "best_loss", "evaluated_step", "_without_gain")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that had run out of patience stays stopped."""
        self._saved = time.monotonic()
        self._check_patience(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save amid a long epoch; all processes must agree on the moment."""
        if not self._seconds or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        due = time.monotonic() - self._saved >= self._seconds
        if trainer.strategy.broadcast(due):
            self._save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was just evaluated."""
        assert isinstance(pl_module, Learner)
        f1, loss = (float(trainer.callback_metrics[name]) for name in ("val/f1", "val/loss"))
        self.evaluated_step = trainer.global_step
        self._without_gain = 0 if f1 > self.best_f1 else self._without_gain + 1
        if f1 > self.best_f1 or (f1 == self.best_f1 and loss < self.best_loss):
            self.best_f1, self.best_loss = f1, loss
            pl_module.save_best(self.best)
            trainer.strategy.barrier("best checkpoint")
        if trainer.state.fn == "fit":
            self._save_last(trainer)
            self._check_patience(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what was reached. Of several processes an error takes one alone, and the rest could not follow."""
        together = trainer.world_size == 1 or isinstance(exception, KeyboardInterrupt | SystemExit)
        if together and trainer.global_step > 0 and trainer.state.fn == "fit":
            self._save_last(trainer)

    def _save_last(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.last)
        self._saved = time.monotonic()

    def _check_patience(self, trainer: pl.Trainer) -> None:
        if self._patience and self._without_gain >= self._patience:
            trainer.should_stop = True


class Interruption(Callback):
    """Stops at the end of a step after Ctrl-C or SIGTERM, and remembers which signal ended the run.

    Attributes:
        signal: the number of the signal that stopped training; 0 = none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._asked = 0
        self._learner: Learner
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over both signals (only a main thread may)."""
        assert isinstance(pl_module, Learner)
        self._learner = pl_module
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where the state is whole, all processes at the same step."""
        asked = self._asked != 0
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            raise Stopped(self._asked or signal.SIGTERM)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remember what it was."""
        self._restore()
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


class LogProgress(Callback):
    """Logs a line per evaluation, and one a minute between them: how far, how good, how fast, how long still.

    The time that is left is the most it can be: patience may end training before.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; steps done before a resume do not count for the speed."""
        self._progress = Progress(
            "steps",
            int(trainer.estimated_stepping_batches),
            done=trainer.global_step,
            seconds=_SECONDS,
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
        shown = [f"{name} {float(values[name]):.4f}" for name in names if name in values]
        speed = float(values.get("train/sentences_per_second", 0.0))
        epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        return ", ".join([epoch, *shown, f"{speed:.1f} sentences/s"])
