"""Train a tagger under Lightning: its data, its steps, its averaged weights.

The loss of a step is the mean over the sentences of the whole step, whatever the number of processes: each divides its
sum by the step's sentences, not by its own. With `trainer.weight_average` a second, smoother set of weights follows the
trained ones: it is evaluated and kept as the best checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from omniner.config.class_defaults import with_class_defaults
from omniner.config.model_groups import EncoderConfig, HeadConfig, TrainerConfig
from omniner.errors import UserError
from omniner.progress import Progress
from omniner.records import Sentence
from omniner.taggers.batches import Batch, EncodedSentence, EvalLoader, SentenceEncoder, collate
from omniner.taggers.tagger import POOLER, Tagger
from omniner.training.checkpoints import write_checkpoint
from omniner.training.learner import DevScore, Learner, TrainingData
from omniner.training.plans import EXCHANGED, TrainLoader


class TaggerData(TrainingData[EncodedSentence]):
    """Loaders for training a tagger.

    Args:
        encoder: from sentences to examples.
        train, dev, config, replacement, seed: see `TrainingData`.
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        train: Sequence[Sentence],
        dev: Sequence[Sentence],
        config: TrainerConfig,
        replacement: float,
        seed: int,
    ) -> None:
        super().__init__(encoder.encode, train, dev, config, replacement, seed)
        self._encoder = encoder

    def train_dataloader(self) -> TrainLoader[EncodedSentence, Batch]:
        """Return the batches of this process, from the current step on."""
        trainer = self.attached
        return TrainLoader(
            self.epoch_examples,
            len(self.train),
            length=lambda example: example.length,
            batch_size=self.config.batch_size,
            seed=self.seed,
            make_step=lambda examples: collate(examples, trainer.global_rank, trainer.world_size),
            steps_done=lambda: trainer.global_step,
        )

    def val_dataloader(self) -> EvalLoader:
        """Return this process's share of dev."""
        trainer = self.attached
        return EvalLoader(self.dev, self.config.eval_batch_size, trainer.global_rank, trainer.world_size)

    def epoch_examples(self, epoch: int) -> Sequence[EncodedSentence]:
        """Return the training examples of an epoch: unchanged, or with some mentions replaced."""
        if self.replacement is None:
            return self.train
        examples, progress = [], Progress(EXCHANGED, len(self.train))
        for at in range(len(self.train)):
            examples.append(self._replaced(at, epoch))
            progress.add(1)
        return examples

    def _replaced(self, position: int, epoch: int) -> EncodedSentence:
        assert self.replacement is not None
        original = self.train[position]
        if original.length < len(original.text):
            return original  # cut: a replacement could move the cut
        sentence = self.replacement.sentence(position, epoch)
        if sentence is self.replacement.sentences[position]:
            return original
        example, _ = self._encoder.encode_one(sentence)
        if example is None or example.length < len(example.text):
            return original  # longer surfaces must not make it too long
        return example


class TaggerModule(Learner):
    """Train a `Tagger`.

    Args:
        tagger: the network.
        config: how it is trained.
        seed: of all random choices during training.
        unit: unit of dev scores, `span` or `pair`.
    """

    kind = "tagger"
    best_name = "best.ckpt"

    def __init__(self, tagger: Tagger, config: TrainerConfig, seed: int, unit: str) -> None:
        super().__init__(config, seed, DevScore(unit, answers=False))
        self.tagger = tagger
        self.average = WeightAverage(tagger, config.weight_average) if config.weight_average else None

    @property
    def evaluated(self) -> Tagger:
        """The tagger with the weights that are evaluated and kept: averaged ones from the first step on, if enabled."""
        return self.average.averaged if self.average is not None and self.average.steps else self.tagger

    def configure_optimizers(self) -> Any:
        """Create AdamW with parameter groups, and the schedule per step."""
        optimizer = AdamW(list(self._groups()), fused=True)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def _groups(self) -> Iterator[dict[str, Any]]:
        """Yield groups: backbone with and without weight decay, layer by layer if their rates differ, then the head.

        The head starts from scratch and has few weights: it gets a higher rate and no weight decay. Deeper layers of a
        pretrained encoder are more general, and may get a lower rate (`model.layer_decay`).
        """
        model = self.tagger.model_config
        layer_decay = model.layer_decay if isinstance(model, EncoderConfig) else 1.0
        plain = {
            id(weight)
            for module in self.tagger.backbones.modules()
            if isinstance(module, nn.LayerNorm)
            for weight in module.parameters()
        }
        groups: dict[float, tuple[list[nn.Parameter], list[nn.Parameter]]] = {}
        for member in self.tagger.members:
            for name, weight in member.named_parameters():
                decayed, free = groups.setdefault(layer_decay ** member.depth(name), ([], []))
                (decayed if weight.dim() > 1 and id(weight) not in plain else free).append(weight)
        for factor, (decayed, free) in sorted(groups.items(), reverse=True):
            rate = model.learning_rate * factor
            yield {"params": decayed, "lr": rate, "weight_decay": model.weight_decay}
            yield {"params": free, "lr": rate, "weight_decay": 0.0}
        head = list(self.tagger.head.parameters())
        yield {"params": head, "lr": model.head_learning_rate, "weight_decay": 0.0}

    def on_fit_start(self) -> None:
        """Move the averaged weights to the device of the trained ones."""
        if self.average is not None:
            self.average.averaged.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed this step, see `begin_step`; with the same seed on all processes if the backbone needs that."""
        self.begin_step(0 if self.tagger.member.draws_for_step else self.trainer.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return this process's part of the mean loss over the sentences of the step."""
        # DDP averages over processes a value that should be summed: undo that
        scale = batch.weight * self.trainer.world_size / batch.step_sentences
        loss = self.tagger.loss(batch) * scale
        self.log_step(loss, batch.step_sentences)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Update the measured speed."""
        self.end_step({"sentences": batch.step_sentences})

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of all gradients. The trainer's clipping rejects fused optimizers in mixed precision."""
        if self.config.gradient_clip:
            nn.utils.clip_grad_norm_(self.parameters(), self.config.gradient_clip)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | pl.core.optimizer.LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take one step, and update the average."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.average is not None:
            self.average.update()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch of dev; a repeated sentence (see `Batch.weight`) does not count."""
        tagger = self.evaluated
        loss, spans = tagger.loss_and_spans(batch)
        entities = tagger.entities(batch, spans)
        counted = len(entities) if batch.weight else 0
        self.score.update(batch.gold[:counted], entities[:counted], 0, loss * batch.weight, counted)

    def stored_description(self, checkpoint: Mapping[str, Any]) -> Any:
        """Return the stored result of `describe`, with keys of `model` and `head` that older files lack.

        The commit of the pretrained weights does not matter: all weights of a training state are its own.
        """
        stored = super().stored_description(checkpoint)
        if stored is None:
            return None
        groups = {"model": type(self.tagger.model_config), "head": HeadConfig}
        filled = {name: with_class_defaults(group, stored[name]) for name, group in groups.items()}
        if isinstance(self.tagger.model_config, EncoderConfig):
            filled["model"]["revision"] = self.tagger.model_config.revision
        return {**stored, **filled}

    def check_state(self, checkpoint: Mapping[str, Any]) -> None:
        """Reject a training state of versions whose encoders had a pooler, which is in the optimizer's state."""
        old = next((name for name in checkpoint["state_dict"] if POOLER in name), None)
        if old is not None and old not in self.state_dict():
            found = f"last.ckpt is of an older version, which trained {old} for nothing"
            raise UserError("resume", found, "Set resume=never; best.ckpt still predicts.")

    def describe(self) -> dict[str, Any]:
        """Return the description of the tagger."""
        return self.tagger.describe()

    def save_best(self, path: Path) -> None:
        """Write the weights that are evaluated."""
        if self.trainer.is_global_zero:
            write_checkpoint(path, self.tagger.describe(), self.weights())

    def weights(self) -> dict[str, Tensor]:
        """Return the tagger's evaluated weights by name."""
        return {name: value.detach() for name, value in self.evaluated.state_dict().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description, and the average in addition to the trained weights."""
        super().on_save_checkpoint(checkpoint)
        if self.average is not None:
            checkpoint["average"] = {"weights": self.average.weights(), "steps": self.average.steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the average."""
        if self.average is not None:
            self.average.load(checkpoint["average"]["weights"], checkpoint["average"]["steps"])


class WeightAverage:
    """An exponential moving average of a tagger's weights, in a copy of it.

    After each optimizer step the copy moves towards the weights by `1 - decay`. In the first steps it moves faster: the
    decay is at most `(1 + n) / (10 + n)`, so that it forgets the random start. It is kept in at least fp32: small steps
    would be lost in bf16. (Lightning's `WeightAveraging` and torch's `AveragedModel` keep the precision of the weights,
    and make a GPU wait at every step.) It costs one more copy of the weights.

    Args:
        tagger: its parameters are averaged; its buffers must not change.
        decay: of the average, near 1.

    Attributes:
        averaged: the tagger with averaged weights, in evaluation mode.
        steps: number of updates so far.
    """

    def __init__(self, tagger: Tagger, decay: float) -> None:
        self._tagger, self._decay = tagger, decay
        self.averaged = copy.deepcopy(tagger).requires_grad_(False).eval()
        for weight in self.averaged.parameters():
            weight.data = _precise(weight.data)
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights."""
        self.steps += 1
        weights = [_precise(weight.detach()) for weight in self._tagger.parameters()]
        averages: list[Tensor] = list(self.averaged.parameters())
        if self.steps == 1:
            torch._foreach_copy_(averages, weights)
            return
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """Return the average by name."""
        return {name: weight.detach() for name, weight in self.averaged.named_parameters()}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Restore a result of `weights` and its number of steps."""
        for name, weight in self.averaged.named_parameters():
            weight.copy_(weights[name])
        self.steps = steps


def _precise(weight: Tensor) -> Tensor:
    return weight if weight.dtype == torch.float64 else weight.float()
