"""Training of a tagger under Lightning: the step, the optimizer, the evaluation.

In come batches, out come losses, metrics and checkpoints. The loss of a step is the mean over the sentences of the
whole step, whatever the number of processes: each divides its sum by the step's sentences, not by its own. Evaluation
uses the averaged weights where there are any (`trainer.weight_average`).

Exponential moving average of the weights: a second set, smoother than the one being trained.

After each optimizer step the average moves towards the weights by `1 - decay`; in the first steps it moves faster,
`(1 + n) / (10 + n)`, so that it forgets the random start. It is what is evaluated and kept as the best checkpoint.
The price is one more copy of the weights. `swap_in` puts it in the place of the weights, `swap_out` takes it away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from omniner.config.model_groups import BiLSTMConfig, TrainerConfig
from omniner.taggers.batches import Batch
from omniner.taggers.network import Tagger
from omniner.training import checkpoints
from omniner.training.learner import DevScore, Learner


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
            checkpoints.write_checkpoint(path, self.tagger.describe(), self.weights())

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


class WeightAverage:
    """The average of the parameters of `module`, kept in fp32 at least: small steps would be lost in bf16.

    Args:
        module: whose parameters are followed.
        decay: of the average, near 1.

    Attributes:
        steps: updates so far.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self._mean: list[Tensor] | None = None
        self._trained: list[Tensor] | None = None  # while swapped
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._tensors(), [_precise(weight) for weight in self._weights()], 1 - decay)

    @torch.no_grad()
    def swap_in(self) -> None:
        """Let the module hold the average."""
        weights = self._weights()
        self._trained = [weight.clone() for weight in weights]
        for weight, mean in zip(weights, self._tensors(), strict=True):
            weight.copy_(mean)

    @torch.no_grad()
    def swap_out(self) -> None:
        """Let the module hold its own weights again, to the last bit."""
        assert self._trained is not None, "swap_out without swap_in"
        for weight, trained in zip(self._weights(), self._trained, strict=True):
            weight.copy_(trained)
        self._trained = None

    def averages(self) -> dict[str, Tensor]:
        """The average by name."""
        return dict(zip(self._names(), self._tensors(), strict=True))

    def trained(self) -> dict[str, Tensor]:
        """The trained weights by name, whether or not the module holds them at the moment."""
        weights = self._weights() if self._trained is None else self._trained
        return dict(zip(self._names(), weights, strict=True))

    def load(self, averages: dict[str, Tensor], steps: int) -> None:
        """Take what `averages` gave."""
        self._mean = [averages[name].clone() for name in self._names()]
        self.steps = steps

    def _names(self) -> list[str]:
        return [name for name, _ in self._module.named_parameters()]

    def _weights(self) -> list[Tensor]:
        return [weight.detach() for weight in self._module.parameters()]

    def _tensors(self) -> list[Tensor]:
        """The average, where the weights are."""
        weights = self._weights()
        if self._mean is None:
            self._mean = [_precise(weight).clone() for weight in weights]
        self._mean = [mean.to(weight.device) for mean, weight in zip(self._mean, weights, strict=True)]
        return self._mean


def _precise(weight: Tensor) -> Tensor:
    return weight if weight.dtype == torch.float64 else weight.float()
