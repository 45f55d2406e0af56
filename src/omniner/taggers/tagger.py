"""The tagger: text input, backbone, head and categories; and how it is trained under Lightning.

`Tagger.describe` gives everything but the weights as plain values (sizes, vocabulary or whole tokenizer, categories,
limits), and `Tagger.from_description` builds the same module from that alone: no corpus, no hub, no files beside the
checkpoint.

`TaggerModule` trains it. The loss of a step is the mean over the sentences of the whole step, whatever the number of
processes: each divides its sum by the step's sentences, not by its own. With `trainer.weight_average` a second set of
weights follows the trained ones, smoother than they are: it is evaluated and kept as the best checkpoint.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from omniner.config.groups import Config
from omniner.config.model_groups import BiLSTMConfig, EncoderConfig, EncodingConfig, HeadConfig, TrainerConfig
from omniner.errors import UserError
from omniner.records import Entity
from omniner.taggers.backbones import BACKBONES, Backbone
from omniner.taggers.batches import Batch, SentenceEncoder
from omniner.taggers.heads import HeadModule, Span, TagScheme, build_head
from omniner.taggers.inputs import TextInput, text_input_from_json
from omniner.training.checkpoints import read_checkpoint, write_checkpoint
from omniner.training.learner import DevScore, Learner


def load_tagger(path: Path) -> Tagger:
    """Load the tagger of a checkpoint, ready to predict: on the CPU, in evaluation mode.

    Args:
        path: `best.ckpt`, or `last.ckpt`, of which the averaged weights are taken where there are any.

    Raises:
        UserError: the file holds no tagger.
    """
    content = read_checkpoint(path)
    if "tagger" not in content:
        found = f"{path} is the training state of a generative model, which holds no tagger"
        raise UserError("checkpoint", found, "Name the checkpoints/best folder of that run.")
    tagger = Tagger.from_description(content["tagger"])
    tagger.load_state_dict(_evaluated_weights(content))
    return tagger.eval()


def _evaluated_weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights as evaluated: a trainer's checkpoint has the trained ones and perhaps their average."""
    if "weights" in content:
        return cast(dict[str, Tensor], content["weights"])
    prefix = "tagger."
    state = content["state_dict"]
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    average: dict[str, Tensor] = content.get("average", {}).get("weights", {})
    return weights | average


class Tagger(nn.Module):
    """Backbone and head with all that belongs to them.

    There may be several backbones, the members of an ensemble: each is trained by itself (the loss is the mean of
    theirs) under one common head, and what they say is averaged for decoding. Where the head scores tags by a linear
    layer, the mean of the states gives exactly the mean of the members' scores.

    Args:
        model, head: their configurations.
        inputs: makes the backbone's ids from a text.
        backbones: the members.
        categories: the active ones, in order.
    """

    def __init__(
        self,
        model: BiLSTMConfig | EncoderConfig,
        head: HeadConfig,
        inputs: TextInput,
        backbones: Sequence[Backbone],
        categories: Sequence[str],
    ) -> None:
        super().__init__()
        self.model_config, self.head_config, self.inputs = model, head, inputs
        self.categories = tuple(categories)
        self.backbones = nn.ModuleList(backbones)
        self.head: HeadModule = build_head(head.kind, backbones[0].out_dim, self.categories, head)

    @classmethod
    def build(cls, config: Config, texts: Iterable[str], categories: Sequence[str]) -> Tagger:
        """Build a new tagger.

        Args:
            config: `model` and `head` are read.
            texts: of the training split.
            categories: the active ones, in order.

        Raises:
            UserError: the model cannot be loaded or built.
        """
        model: Any = config.model
        inputs, members = BACKBONES[model.kind].build(model, texts)
        return cls(model, config.head, inputs, members, categories)

    def describe(self) -> dict[str, Any]:
        """Return everything but the weights, in plain values."""
        return {
            "model": dataclasses.asdict(self.model_config),
            "head": dataclasses.asdict(self.head_config),
            "inputs": self.inputs.to_json(),
            "categories": list(self.categories),
            **self.member.describe(),
        }

    @classmethod
    def from_description(cls, item: dict[str, Any]) -> Tagger:
        """Build the tagger that `describe` described, with weights still to be filled in."""
        inputs = text_input_from_json(item["inputs"])
        model, members = BACKBONES[item["model"]["kind"]].rebuild(item, inputs)
        return cls(model, HeadConfig(**item["head"]), inputs, members, item["categories"])

    @property
    def members(self) -> list[Backbone]:
        """The backbones; all are of one kind."""
        return cast(list[Backbone], list(self.backbones))

    @property
    def member(self) -> Backbone:
        """The first member."""
        return self.members[0]

    def sentence_encoder(self, config: EncodingConfig) -> SentenceEncoder:
        """Return what makes this tagger's examples."""
        return SentenceEncoder(self.inputs, TagScheme(self.categories), config, self.head.max_span)

    def states(self, batch: Batch) -> list[Tensor]:
        """Return each member's states [B, L, D].

        They have the precision of the head's weights: full, unless all weights are bf16.
        """
        precision = next(self.head.parameters()).dtype
        return [backbone(batch).to(precision) for backbone in self.backbones]

    def loss(self, batch: Batch) -> Tensor:
        """Return the sum of the sentences' losses, the mean over the members."""
        return self._loss(self.states(batch), batch)

    def loss_and_spans(self, batch: Batch) -> tuple[Tensor, list[list[Span]]]:
        """Return `loss` and `spans` of one run of the backbones."""
        states = self.states(batch)
        return self._loss(states, batch), self._spans(states, batch)

    def spans(self, batch: Batch) -> list[list[Span]]:
        """Return the predicted spans of each sentence."""
        return self._spans(self.states(batch), batch)

    def _loss(self, states: Sequence[Tensor], batch: Batch) -> Tensor:
        with torch.autocast(states[0].device.type, enabled=False):
            return torch.stack([self.head.loss(own, batch) for own in states]).mean()

    def _spans(self, states: Sequence[Tensor], batch: Batch) -> list[list[Span]]:
        with torch.autocast(states[0].device.type, enabled=False):
            return self.head.decode(torch.stack(list(states)).mean(0), batch.mask)

    def entities(self, batch: Batch, spans: Sequence[Sequence[Span]]) -> list[list[Entity]]:
        """Return spans as entities of the sentences' own texts."""
        return [
            [Entity(text[start:end], self.categories[category], start, end) for start, end, category in row]
            for text, row in zip(batch.texts, spans, strict=True)
        ]


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

    @property
    def evaluated(self) -> Tagger:
        """The tagger with the weights that are evaluated and kept: averaged ones from the first step on."""
        return self.average.averaged if self.average is not None and self.average.steps else self.tagger

    def configure_optimizers(self) -> Any:
        """Make AdamW in groups, with the schedule per step."""
        optimizer = AdamW(list(self._groups()), fused=True)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def _groups(self) -> Iterator[dict[str, Any]]:
        """Backbone with and without weight decay, layer by layer where their rates differ, then the head.

        The head starts from nothing and has few weights: it learns faster and is not pulled to zero. What lies deeper
        in a pretrained encoder is more general, and may learn more slowly (`model.layer_decay`).
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
        """Move the average to where the weights are."""
        if self.average is not None:
            self.average.averaged.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draw this step's random choices from the seed and the step."""
        self.begin_step(0 if self.tagger.member.draws_for_step else self.trainer.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss over the sentences of the step (as this process's part of it)."""
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
        """Clip by the norm of all gradients. The trainer's own way refuses fused optimizers under mixed precision."""
        if self.config.gradient_clip:
            nn.utils.clip_grad_norm_(self.parameters(), self.config.gradient_clip)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | pl.core.optimizer.LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take one step, and let the average follow."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.average is not None:
            self.average.update()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch of dev; a repeated sentence (see `Batch.weight`) counts nothing."""
        tagger = self.evaluated
        loss, spans = tagger.loss_and_spans(batch)
        entities = tagger.entities(batch, spans)
        counted = len(entities) if batch.weight else 0
        self.score.update(batch.gold[:counted], entities[:counted], 0, loss * batch.weight, counted)

    def describe(self) -> dict[str, Any]:
        """Return the description of the tagger."""
        return self.tagger.describe()

    def save_best(self, path: Path) -> None:
        """Write the weights as they are evaluated."""
        if self.trainer.is_global_zero:
            write_checkpoint(path, self.tagger.describe(), self.weights())

    def weights(self) -> dict[str, Tensor]:
        """Return the tagger's weights by name, as they are evaluated."""
        return {name: value.detach() for name, value in self.evaluated.state_dict().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description, and the average beside the trained weights."""
        super().on_save_checkpoint(checkpoint)
        if self.average is not None:
            checkpoint["average"] = {"weights": self.average.weights(), "steps": self.average.steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the average back."""
        if self.average is not None:
            self.average.load(checkpoint["average"]["weights"], checkpoint["average"]["steps"])


Module = TypeVar("Module", bound=nn.Module)


class WeightAverage(Generic[Module]):
    """An exponential moving average of the weights of a module, in a copy of it.

    After each optimizer step the copy moves towards the weights by `1 - decay`; in the first steps it moves faster,
    `(1 + n) / (10 + n)`, so that it forgets the random start. It is kept in fp32 at least: small steps would be lost in
    bf16. (Lightning's `WeightAveraging` and torch's `AveragedModel` keep the precision of the weights, and make a GPU
    wait at every step.) The price is one more copy of the weights.

    Args:
        module: whose parameters are followed; its buffers must not change.
        decay: of the average, near 1.

    Attributes:
        averaged: the module with the average for weights, in evaluation mode.
        steps: updates so far.
    """

    def __init__(self, module: Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self.averaged: Module = copy.deepcopy(module).requires_grad_(False).eval()
        for weight in self.averaged.parameters():
            weight.data = _precise(weight.data)
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        self.steps += 1
        weights = [_precise(weight.detach()) for weight in self._module.parameters()]
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
        """Take what `weights` gave after so many steps."""
        for name, weight in self.averaged.named_parameters():
            weight.copy_(weights[name])
        self.steps = steps


def _precise(weight: Tensor) -> Tensor:
    return weight if weight.dtype == torch.float64 else weight.float()
