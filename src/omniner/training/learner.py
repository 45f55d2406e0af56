"""Share between all trainable models: the Lightning module, its data, its score on dev.

A `Learner` describes itself (`kind`, `describe`), writes its best checkpoint (`save_best`), evaluates dev and logs the
same values under the same names for every model: `train/loss`, `train/learning_rate`, its rates per second, `val/f1`.
The random generators are seeded from `(seed, step)` before each step, so a resumed run makes the same random choices as
an uninterrupted one, and no random states must be stored. `DevScore` counts right, wrong and missed units with the code
of the final scoring; integers are summed over the processes, so the result is bit-identical to that of one process.
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
    """Training data as the trainer sees it; each kind of model adds its loaders.

    Args:
        encode: converts sentences to examples, without those that cannot be encoded, and returns issues about these.
        train, dev: sentences to train on, and to select the checkpoint by.
        config: sentences of a step, and how much of dev is evaluated.
        replacement: share of mentions replaced in each epoch; 0 = none.
        seed: of the steps, of replacement and of the sample of dev.

    Attributes:
        issues: what could not be encoded as it was.
        train, dev: the encoded splits; of dev only what is evaluated.
        unread: gold entities of each sentence that would be evaluated, but could not be encoded.
        replacement: replaces mentions of the sentences of `train`, in its order; None = no replacement.

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
        evaluated = sample_dev(dev, config.eval_sample, seed)
        self.dev, dev_issues = encode(evaluated)
        self.issues = issues + dev_issues
        refuse_empty(self.train, self.dev)
        encoded = {example.id for example in self.dev}
        self.unread = [sentence.entities for sentence in evaluated if sentence.text and sentence.id not in encoded]
        kept = {example.id for example in self.train}
        usable = [sentence for sentence in train if sentence.id in kept]
        self.replacement = EntityReplacement(usable, replacement, seed) if replacement > 0 else None

    @property
    def steps(self) -> int:
        """Number of optimizer steps per epoch."""
        return -(-len(self.train) // self.config.batch_size)

    @property
    def attached(self) -> pl.Trainer:
        """The trainer that requests loaders."""
        if self.trainer is None:
            raise RuntimeError("loaders are made for a trainer: attach one first")
        return self.trainer


_SLOW = 1.0  # seconds per step from which each step is logged: logging costs a thousandth of that
_RATE_MEMORY = 0.95  # share of the past in the smoothed rates


class Learner(pl.LightningModule, ABC):
    """A model that is trained.

    Args:
        config: how it is trained.
        seed: of all random choices during training.
        score: counts dev.

    Attributes:
        kind: `tagger` or `generative`; the key of the description in checkpoints.
        best_name: of the best checkpoint, in the folder of checkpoints.
        keeps_own_dtype: whether the weights are built in their compute dtype, which the trainer must not change.
        rates: speeds that `end_step` measured, per second.
        logs: whether loggers need the values of the current step; logging costs as much as a small layer.
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
        self._took = math.inf  # duration of the previous step in seconds; inf = none yet
        self._began = 0.0  # start of the current step; 0 = none

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the model's description as plain values; a checkpoint with another one is of another model."""

    @abstractmethod
    def save_best(self, path: Path) -> None:
        """Write the checkpoint for prediction, atomically. All processes call it, the first one writes."""

    def stored_description(self, checkpoint: Mapping[str, Any]) -> Any:
        """Return the `describe` result stored in a training checkpoint; None = it belongs to another kind of model."""
        return checkpoint.get(self.kind)

    def check_state(self, checkpoint: Mapping[str, Any]) -> None:
        """Raise `UserError` if a training checkpoint lacks something that resuming needs; loading it is strict."""

    def scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """Return the learning-rate schedule that `trainer.warmup` and `trainer.schedule` define."""
        total = int(self.trainer.estimated_stepping_batches)
        return LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, self.config.warmup, self.config.schedule)
        )

    def begin_step(self, rank: int) -> None:
        """Seed torch's generators for this step, from the seed, the step and the rank; start the clock."""
        self._began = self._began or time.perf_counter()
        trainer: Any = self.trainer
        step = trainer.global_step
        # Users should not wait twenty slow steps for the first value. All processes must decide alike, and their times
        # differ.
        slow = math.isinf(self._took) or (self._took > _SLOW and trainer.world_size == 1)
        self.logs = slow or (step + 1) % trainer.log_every_n_steps == 0
        number = step_seed(self.seed, step, rank)
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)

    def end_step(self, amounts: Mapping[str, float]) -> None:
        """Measure the speed of training only, without evaluation.

        A step lasts from the end of the previous one, so that work that is only queued on a GPU is counted eventually:
        it makes a later step wait.

        Args:
            amounts: of the step, name -> number; `sentences` counts those of all processes.
        """
        now = time.perf_counter()
        for name, amount in amounts.items():
            rate = amount / max(now - self._began, 1e-9)
            self.rates[name] = _RATE_MEMORY * self.rates.get(name, rate) + (1 - _RATE_MEMORY) * rate
        self._took, self._began = now - self._began, now

    def log_step(self, loss: Tensor, sentences: int) -> None:
        """Log the values of every kind of training, if they are needed.

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
        """Start counting, with what no process will see, and stop the training clock."""
        self.score.reset()
        self._began = 0.0
        trainer: Any = self.trainer
        if trainer.is_global_zero:
            self.score.miss(trainer.datamodule.unread)

    def on_validation_epoch_end(self) -> None:
        """Log the counts of all processes together."""
        for name, value in self.score.compute().items():
            # all processes already have the same number; a maximum keeps it bit-identical
            self.log(f"val/{name}", value, prog_bar=name == "f1", reduce_fx="max", sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description."""
        checkpoint[self.kind] = self.describe()


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed for one step of one process. It is hashed, because the CPU's generator uses only 32 bits of it."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


class DevScore(Metric):
    """Micro precision, recall and F1 over the entities of dev, the mean loss, and the number of unreadable answers.

    Args:
        unit: unit of counting, `span` or `pair` (see `omniner.scoring.units`).
        answers: whether entities are parsed from a model's text, which may fail.
    """

    full_state_update = False
    counts: Tensor
    losses: Tensor

    def __init__(self, unit: str, answers: bool, **options: Any) -> None:
        super().__init__(**options)
        self._unit, self._answers = unit, answers
        # true positives, false positives, false negatives, sentences, unreadable answers
        self.add_state("counts", torch.zeros(5, dtype=torch.long), dist_reduce_fx="sum")
        # sum of the losses, and its divisor
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
            failed: number of sentences whose answer could not be parsed.
            loss: a sum.
            size: number of sentences or answer tokens in that sum.
        """
        row = Counts.of(compare_units(gold, predicted, self._unit)).micro()
        self.counts += torch.tensor([row.tp, row.fp, row.fn, len(gold), failed], device=self.counts.device)
        self.losses += torch.stack([loss.detach().to(self.losses), self.losses.new_tensor(size)])

    def miss(self, gold: Sequence[Sequence[Entity]]) -> None:
        """Count sentences that the model cannot read: a prediction fails for them, and all their entities are missed.

        Args:
            gold: entities of each sentence.
        """
        self.update(gold, [()] * len(gold), len(gold), self.losses.new_zeros(()), 0)

    def compute(self) -> dict[str, float]:
        """Return `precision`, `recall`, `f1`, `loss`; with answers also `parse_failed`, the unreadable share."""
        tp, fp, fn, sentences, failed = self.counts.tolist()
        loss, size = self.losses.tolist()
        row = score_row(tp, fp, fn)
        values = {"precision": row.precision, "recall": row.recall, "f1": row.f1, "loss": loss / size if size else 0.0}
        if self._answers:
            values["parse_failed"] = failed / sentences if sentences else 0.0
        return values


def learning_rate_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """Return the factor of the learning rate at `step` (from 0) of `total`.

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
