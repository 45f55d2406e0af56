"""Training of a tagger under Lightning: the step, the optimizer, the evaluation.

In come batches, out come losses, metrics and checkpoints. The loss of a step is the mean over the sentences of the
whole step, whatever the number of processes: each divides its sum by the step's sentences, not by its own. Evaluation
uses the averaged weights where there are any (`trainer.weight_average`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from omniner.encoding.batching import Batch
from omniner.models import checkpoints
from omniner.models.ema import WeightAverage
from omniner.models.f1 import DevScore
from omniner.models.learner import Learner
from omniner.models.network import Tagger
from omniner.schema import BiLSTMConfig, TrainerConfig


class TaggerModule(Learner):
    """A `Tagger` that learns.

    Args:
        tagger: the network.
        config: how it is trained.
        seed: of all random choices during training.
    """

    kind = "tagger"
    best_name = "best.ckpt"

    def __init__(self, tagger: Tagger, config: TrainerConfig, seed: int) -> None:
        super().__init__(config, seed, DevScore("span", answers=False))
        self.tagger = tagger
        self.average = WeightAverage(tagger, config.weight_average) if config.weight_average else None

    def configure_optimizers(self) -> Any:
        """AdamW in groups, with the schedule per step."""
        optimizer = AdamW(list(self._groups()), fused=True)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def _groups(self) -> Iterator[dict[str, Any]]:
        """Backbone with and without weight decay, then the head.

        The head starts from nothing and has few weights: it learns faster and is not pulled to zero.
        """
        model = self.tagger.model_config
        plain = {
            id(weight)
            for module in self.tagger.backbones.modules()
            if isinstance(module, nn.LayerNorm)
            for weight in module.parameters()
        }
        decayed: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for weight in self.tagger.backbones.parameters():
            (decayed if weight.dim() > 1 and id(weight) not in plain else free).append(weight)
        yield {"params": decayed, "lr": model.learning_rate, "weight_decay": model.weight_decay}
        yield {"params": free, "lr": model.learning_rate, "weight_decay": 0.0}
        head = list(self.tagger.head.parameters())
        yield {"params": head, "lr": model.head_learning_rate, "weight_decay": 0.0}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draw this step's random choices from the seed and the step."""
        # a BiLSTM draws for all processes together, so that they must agree; a transformer for its own only
        self.begin_step(0 if isinstance(self.tagger.model_config, BiLSTMConfig) else self.trainer.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss over the sentences of the step (as this process's part of it)."""
        # DDP takes the mean over processes of what is the sum over them: undo that
        scale = batch.weight * self.trainer.world_size / batch.step_sentences
        loss = self.tagger.loss(batch) * scale
        self.log_step(loss, batch.step_sentences)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Measure the speed."""
        self.end_step({"sentences": batch.step_sentences})

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the norm of all gradients. The trainer's own clipping refuses fused optimizers under mixed precision."""
        if self.config.gradient_clip:
            nn.utils.clip_grad_norm_(self.parameters(), self.config.gradient_clip)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | pl.core.optimizer.LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One step, and the average follows."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.average is not None:
            self.average.update()

    def on_validation_start(self) -> None:
        """Evaluate the averaged weights."""
        super().on_validation_start()
        if self.average is not None:
            self.average.swap_in()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch of dev; a repeated sentence (see `Batch.weight`) counts nothing."""
        loss, spans = self.tagger.loss_and_spans(batch)
        entities = self.tagger.entities(batch, spans)
        counted = len(entities) if batch.weight else 0
        self.score.update(batch.gold[:counted], entities[:counted], 0, loss * batch.weight, counted)

    def on_validation_epoch_end(self) -> None:
        """Train the trained weights on."""
        if self.average is not None:
            self.average.swap_out()
        super().on_validation_epoch_end()

    def describe(self) -> dict[str, Any]:
        """That of the tagger."""
        return self.tagger.describe()

    def save_best(self, path: Path) -> None:
        """Write the weights as they are evaluated."""
        if self.trainer.is_global_zero:
            checkpoints.save(path, self.tagger.describe(), self.weights())

    def weights(self) -> dict[str, Tensor]:
        """The tagger's weights as they are evaluated: averaged where there is an average."""
        state = {name: value.detach() for name, value in self.tagger.state_dict().items()}
        return state if self.average is None else state | self.average.averages()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description, the trained weights (an exception can come amid an evaluation) and the average."""
        super().on_save_checkpoint(checkpoint)
        if self.average is None:
            return
        checkpoint["state_dict"] |= {f"tagger.{name}": weight for name, weight in self.average.trained().items()}
        checkpoint["average"] = {"weights": self.average.averages(), "steps": self.average.steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the average back."""
        if self.average is not None:
            self.average.load(checkpoint["average"]["weights"], checkpoint["average"]["steps"])
