"""What every model that learns shares: the Lightning module, its data, its score on dev.

A `Learner` says what it is (`kind`, `describe`), writes its best checkpoint (`save_best`), evaluates dev and logs the
same values under the same names whatever it is: `train/loss`, `train/learning_rate`, its rates per second, `val/f1`.
Random choices are drawn afresh from `(seed, step)` before each step, so a resumed run draws what the uninterrupted
one would have drawn, and nothing about random states needs to be stored. `DevScore` counts right, wrong and missed
units with the code that scores at the end; whole numbers are summed over the processes, so the result is that of one
process to the last bit.
"""

from __future__ import annotations

import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from omniner.config.model_groups import TrainerConfig
from omniner.records import Entity, Issue, Sentence
from omniner.scoring.metrics import Counts, score_row
from omniner.scoring.units import compare_units
from omniner.training.plans import EntityReplacement, refuse_empty, sample_dev


class Encoded(Protocol):
    """A sentence, ready for a model."""

    id: str


Example = TypeVar("Example", bound=Encoded)


class TrainingData(pl.LightningDataModule, Generic[Example]):
    """What every model learns from, as the trainer sees it; each kind of model adds its loaders.

    Args:
        encode: makes the examples of sentences, without those that cannot be encoded, and issues about these.
        train, dev: sentences to learn from, and to choose the checkpoint by.
        config: sentences of a step, and how much of dev is evaluated.
        replacement: share of mentions exchanged in each epoch; 0 = none.
        seed: of the steps, of replacement and of the choice from dev.

    Attributes:
        issues: what could not be encoded as it was.
        train, dev: the encoded splits; of dev only what is evaluated.
        replacement: exchanges mentions of the sentences of `train`, in its order; None = none are.

    Raises:
        UserError: nothing of a split can be encoded.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[Sentence]], tuple[list[Example], list[Issue]]],
        train: Sequence[Sentence],
        dev: Sequence[Sentence],
        config: TrainerConfig,
        replacement: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.train, issues = encode(train)
        self.dev, dev_issues = encode(sample_dev(dev, config.eval_sample, seed))
        self.issues = issues + dev_issues
        refuse_empty(self.train, self.dev)
        kept = {example.id for example in self.train}
        usable = [sentence for sentence in train if sentence.id in kept]
        self.replacement = EntityReplacement(usable, replacement, seed) if replacement > 0 else None

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.train) // self.config.batch_size)

    @property
    def attached(self) -> pl.Trainer:
        """The trainer that asks for loaders."""
        if self.trainer is None:
            raise RuntimeError("loaders are made for a trainer: attach one first")
        return self.trainer


_SLOW = 1.0  # seconds of a step from which on each one is logged: that costs a thousandth of it
_RATE_MEMORY = 0.95  # share of the past in the smoothed rates


class Learner(pl.LightningModule, ABC):
    """A model that learns.

    Args:
        config: how it is trained.
        seed: of all random choices during training.
        score: how dev is counted.

    Attributes:
        kind: `tagger` or `generative`; under this name checkpoints hold the description.
        best_name: of the best checkpoint, in the folder of checkpoints.
        keeps_own_dtype: whether the weights are built in the type they compute in, which the trainer must leave alone.
        rates: what `end_step` measured, per second.
        logs: whether the values of the step under way are wanted by loggers; to log costs as much as a small layer.
        stop_signal: the number of the signal that asked training to stop; 0 = none.
    """

    kind: ClassVar[str]
    best_name: ClassVar[str]
    keeps_own_dtype: ClassVar[bool] = False

    def __init__(self, config: TrainerConfig, seed: int, score: DevScore) -> None:
        super().__init__()
        self.config, self.seed, self.score = config, seed, score
        self.rates: dict[str, float] = {}
        self.logs = False
        self.stop_signal = 0
        self._took = math.inf  # seconds of the step before; none yet
        self._began = 0.0  # when the step under way began; 0 = none

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the model is, in plain values: a checkpoint with another description belongs to another model."""

    @abstractmethod
    def save_best(self, path: Path) -> None:
        """Write the checkpoint for prediction, whole or not at all. All processes call it, the first one writes."""

    def stored_description(self, checkpoint: Mapping[str, Any]) -> Any:
        """What `describe` said when a training checkpoint was written; None = it belongs to another kind of model."""
        return checkpoint.get(self.kind)

    def check_state(self, checkpoint: Mapping[str, Any]) -> None:
        """Raise `UserError` if a training checkpoint lacks something to go on from. Lightning's loading is strict."""

    def scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """The learning rate of each step, as `trainer.warmup` and `trainer.schedule` say."""
        total = int(self.trainer.estimated_stepping_batches)
        return LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, self.config.warmup, self.config.schedule)
        )

    def begin_step(self, rank: int) -> None:
        """Seed torch's generators for this step, from the seed, the step and the rank; start the clock."""
        self._began = self._began or time.perf_counter()
        trainer: Any = self.trainer
        step = trainer.global_step
        # Nobody waits for the first value of slow steps until twenty are done. All processes must decide alike, and
        # their times differ.
        slow = math.isinf(self._took) or (self._took > _SLOW and trainer.world_size == 1)
        self.logs = slow or (step + 1) % trainer.log_every_n_steps == 0
        number = step_seed(self.seed, step, rank)
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)

    def end_step(self, amounts: Mapping[str, float]) -> None:
        """Measure the speed of training alone: evaluation is not in it.

        A step lasts from the end of the one before, so that work which a GPU has only been told to do is counted in
        the end: it makes a later step wait.

        Args:
            amounts: what the step worked on: name -> number; `sentences` are those of all processes.
        """
        now = time.perf_counter()
        for name, amount in amounts.items():
            rate = amount / max(now - self._began, 1e-9)
            self.rates[name] = _RATE_MEMORY * self.rates.get(name, rate) + (1 - _RATE_MEMORY) * rate
        self._took, self._began = now - self._began, now

    def log_step(self, loss: Tensor, sentences: int) -> None:
        """Log what every kind of training has, if it is wanted.

        Args:
            loss: this process's part of the step's loss, such that the mean over the processes is the whole.
            sentences: of the step.
        """
        if not self.logs:
            return
        self.log("train/loss", loss.detach(), batch_size=sentences, sync_dist=True, prog_bar=True)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("train/learning_rate", rate, batch_size=sentences)
        if self.rates:
            self.log("train/sentences_per_second", self.rates["sentences"], batch_size=sentences)

    def on_validation_start(self) -> None:
        """Start counting; the clock of training stands still."""
        self.score.reset()
        self._began = 0.0

    def on_validation_epoch_end(self) -> None:
        """Log the counts of all processes together."""
        for name, value in self.score.compute().items():
            # all processes have the same number already, which a maximum keeps to the last bit
            self.log(f"val/{name}", value, prog_bar=name == "f1", reduce_fx="max", sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description."""
        checkpoint[self.kind] = self.describe()


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed for one step of one process. Hashed, for the CPU's generator takes only 32 bits of it."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


class DevScore(Metric):
    """Micro precision, recall and F1 over the entities of dev, the mean loss, and how many answers were unreadable.

    Args:
        unit: what counts as one, `span` or `pair` (see `omniner.scoring.units`).
        answers: whether entities are read from a model's text, which may fail.
    """

    full_state_update = False
    counts: Tensor
    losses: Tensor

    def __init__(self, unit: str, answers: bool, **options: Any) -> None:
        super().__init__(**options)
        self._unit, self._answers = unit, answers
        # true positives, false positives, false negatives, sentences, unreadable answers
        self.add_state("counts", torch.zeros(5, dtype=torch.long), dist_reduce_fx="sum")
        # sum of the losses, and what it is divided by
        self.add_state("losses", torch.zeros(2, dtype=torch.float), dist_reduce_fx="sum")

    def update(
        self,
        gold: Sequence[Sequence[Entity]],
        predicted: Sequence[Sequence[Entity]],
        failed: int,
        loss: Tensor,
        size: int,
    ) -> None:
        """Count some sentences.

        Args:
            gold, predicted: entities of each sentence; repeated ones count once.
            failed: sentences whose answer could not be read.
            loss: a sum.
            size: sentences or answer tokens that it was summed over.
        """
        row = Counts.of(compare_units(gold, predicted, self._unit)).micro()
        self.counts += torch.tensor([row.tp, row.fp, row.fn, len(gold), failed], device=self.counts.device)
        self.losses += torch.stack([loss.detach().to(self.losses), self.losses.new_tensor(size)])

    def compute(self) -> dict[str, float]:
        """`precision`, `recall`, `f1`, `loss`; with answers also `parse_failed`, the share of unreadable ones."""
        tp, fp, fn, sentences, failed = self.counts.tolist()
        loss, size = self.losses.tolist()
        row = score_row(tp, fp, fn)
        values = {"precision": row.precision, "recall": row.recall, "f1": row.f1, "loss": loss / size if size else 0.0}
        if self._answers:
            values["parse_failed"] = failed / sentences if sentences else 0.0
        return values


def learning_rate_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """Return what the learning rate is multiplied with at `step` (from 0) of `total`.

    Args:
        step, total: optimizer steps.
        warmup: share of the steps during which the rate rises.
        schedule: `constant`, `linear` or `cosine`, after the warm-up.
    """
    rising = warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - rising) / max(1.0, total - rising))
    return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
