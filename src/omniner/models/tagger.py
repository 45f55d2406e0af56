"""Training of a tagger under Lightning: the step, the optimizer, the evaluation.

In come batches, out come losses, metrics and checkpoints. The loss of a step is the mean over the sentences of the
whole step, whatever the number of processes: each divides its sum by the step's sentences, not by its own. Random
choices are drawn afresh from `(seed, step)` before each step, so a resumed run draws what the uninterrupted one would
have drawn, and nothing about random states needs to be stored. Evaluation uses the averaged weights where there are
any (`trainer.weight_average`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from omniner.encoding.batching import Batch
from omniner.models.ema import WeightAverage
from omniner.models.f1 import SpanF1
from omniner.models.network import Tagger
from omniner.models.schedules import factor
from omniner.schema import BiLSTMConfig, TrainerConfig

_RATE_MEMORY = 0.95  # share of the past in the smoothed sentences per second


class TaggerModule(pl.LightningModule):
    """A `Tagger` that learns.

    Args:
        tagger: the network.
        config: how it is trained.
        seed: of all random choices during training.
    """

    def __init__(self, tagger: Tagger, config: TrainerConfig, seed: int) -> None:
        super().__init__()
        self.tagger, self.config, self.seed = tagger, config, seed
        self.average = WeightAverage(tagger, config.weight_average) if config.weight_average else None
        self.f1 = SpanF1()
        self._started, self._rate = 0.0, 0.0

    def configure_optimizers(self) -> Any:
        """AdamW in groups, with the schedule per step."""
        optimizer = AdamW(list(self._groups()), fused=True)
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, lambda step: factor(step, total, self.config.warmup, self.config.schedule))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

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
        self._started = time.perf_counter()
        # a BiLSTM draws for all processes together, so that they must agree; a transformer for its own only
        rank = 0 if isinstance(self.tagger.model_config, BiLSTMConfig) else self.trainer.global_rank
        torch.manual_seed(step_seed(self.seed, self.trainer.global_step, rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss over the sentences of the step (as this process's part of it)."""
        # DDP takes the mean over processes of what is the sum over them: undo that
        scale = batch.weight * self.trainer.world_size / batch.step_sentences
        loss = self.tagger.loss(batch) * scale
        several = self.trainer.world_size > 1
        self.log("train/loss", loss.detach(), batch_size=batch.step_sentences, sync_dist=several)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("train/learning_rate", rate, batch_size=batch.step_sentences)
        self.log("train/sentences_per_second", self._rate, batch_size=batch.step_sentences)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Measure the speed of training alone: evaluation is not in it."""
        now = batch.step_sentences / max(time.perf_counter() - self._started, 1e-9)
        self._rate = _RATE_MEMORY * self._rate + (1 - _RATE_MEMORY) * now if self._rate else now

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
        self.f1.reset()
        if self.average is not None:
            self.average.swap_in()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch of dev; a repeated sentence (see `Batch.weight`) counts nothing."""
        loss, spans = self.tagger.loss_and_spans(batch)
        entities = self.tagger.entities(batch, spans)
        counted = len(entities) if batch.weight else 0
        self.f1.update(batch.gold[:counted], entities[:counted], loss * batch.weight)

    def on_validation_epoch_end(self) -> None:
        """Log the counts of all processes together."""
        if self.average is not None:
            self.average.swap_out()
        several = self.trainer.world_size > 1
        for name, value in self.f1.compute().items():
            # all processes have the same number already, which a maximum keeps to the last bit
            self.log(f"val/{name}", value, prog_bar=name == "f1", reduce_fx="max", sync_dist=several)

    def weights(self) -> dict[str, Tensor]:
        """The tagger's weights as they are evaluated: averaged where there is an average."""
        state = {name: value.detach() for name, value in self.tagger.state_dict().items()}
        return state if self.average is None else state | self.average.averages()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description, the trained weights (an exception can come amid an evaluation) and the average."""
        checkpoint["tagger"] = self.tagger.describe()
        if self.average is None:
            return
        checkpoint["state_dict"] |= {f"tagger.{name}": weight for name, weight in self.average.trained().items()}
        checkpoint["average"] = {"weights": self.average.averages(), "steps": self.average.steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the average back."""
        if self.average is not None:
            self.average.load(checkpoint["average"]["weights"], checkpoint["average"]["steps"])


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for one step of one process. Hashed, for the CPU's generator takes only 32 bits of it."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
