"""Define the tagger: text input, backbone, head and categories, from a checkpoint to the entities of a sentence.

`Tagger.describe` returns everything but the weights as plain values (sizes, vocabulary or whole tokenizer, categories,
limits), and `Tagger.from_description` builds the same module from that alone: no corpus, no hub, no other files.
Training is in `tagger_module`; only that module imports Lightning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from omniner.config.groups import Config
from omniner.config.model_groups import BiLSTMConfig, EncoderConfig, EncodingConfig, HeadConfig
from omniner.errors import UserError
from omniner.records import Entity, with_score
from omniner.taggers.backbones import BACKBONES, Backbone
from omniner.taggers.batches import Batch, SentenceEncoder
from omniner.taggers.heads import HeadModule, Span, TagScheme, build_head
from omniner.taggers.inputs import TextInput, text_input_from_json
from omniner.training.checkpoints import read_checkpoint

POOLER = ".encoder.pooler."  # in names of weights that older checkpoints contain and nothing reads


def load_tagger(path: Path) -> Tagger:
    """Load the tagger of a checkpoint, ready to predict: on the CPU, in evaluation mode.

    Args:
        path: `best.ckpt`, or `last.ckpt`, from which the averaged weights are taken if there are any.

    Raises:
        UserError: the file does not contain a tagger.
    """
    content = _read(path)
    tagger = Tagger.from_description(content["tagger"])
    known = tagger.state_dict().keys()
    weights = _evaluated_weights(content)
    tagger.load_state_dict({name: value for name, value in weights.items() if name in known or POOLER not in name})
    return tagger.eval()


def read_description(path: Path) -> dict[str, Any]:
    """Return the result of `Tagger.describe` in a checkpoint; its weights are not read.

    Raises:
        UserError: the file does not contain a tagger.
    """
    return cast(dict[str, Any], _read(path)["tagger"])


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint that contains a tagger."""
    content = read_checkpoint(path)
    if "tagger" not in content:
        found = f"{path} is the training state of a generative model, which holds no tagger"
        raise UserError("checkpoint", found, "Name the checkpoints/best folder of that run.")
    return content


def _evaluated_weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights as evaluated: a trainer's checkpoint has the trained ones and perhaps their average."""
    if "weights" in content:
        return cast(dict[str, Tensor], content["weights"])
    prefix = "tagger."
    state = content["state_dict"]
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    average: dict[str, Tensor] = content.get("average", {}).get("weights", {})
    return weights | average


class Tagger(nn.Module):
    """A backbone and a head with everything that belongs to them.

    There may be several backbones, the members of an ensemble: each is trained separately (the loss is the mean of
    theirs) under one shared head, and their states are averaged for decoding. If the head scores tags by a linear
    layer, the mean of the states gives exactly the mean of the members' scores.

    Args:
        model, head: their configurations.
        inputs: converts a text to the backbone's ids.
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
        """Return everything but the weights, as plain values."""
        return {
            "model": dataclasses.asdict(self.model_config),
            "head": dataclasses.asdict(self.head_config),
            "inputs": self.inputs.to_json(),
            "categories": list(self.categories),
            **self.member.describe(),
        }

    @classmethod
    def from_description(cls, item: dict[str, Any]) -> Tagger:
        """Build the tagger of a `describe` result; its weights are loaded afterwards."""
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
        """Return the encoder of this tagger's examples."""
        return SentenceEncoder(self.inputs, TagScheme(self.categories), config, self.head.max_span)

    def states(self, batch: Batch) -> list[Tensor]:
        """Return each member's states [B, L, D].

        They have the precision of the head's weights: full, unless all weights are bf16.
        """
        precision = next(self.head.parameters()).dtype
        return [backbone(batch).to(precision) for backbone in self.backbones]

    def loss(self, batch: Batch) -> Tensor:
        """Return the sum of the sentences' losses, averaged over the members."""
        return self._loss(self.states(batch), batch)

    def loss_and_spans(self, batch: Batch) -> tuple[Tensor, list[list[Span]]]:
        """Return `loss` and `spans` from one run of the backbones."""
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
            return self.head.decode(torch.stack(list(states)).mean(0), batch.lengths)

    def scored_entities(self, batch: Batch) -> list[list[Entity]]:
        """Return the predicted entities of each sentence with their probabilities, see `HeadModule.decode_scored`."""
        states = self.states(batch)
        with torch.autocast(states[0].device.type, enabled=False):
            found = self.head.decode_scored(torch.stack(states).mean(0), batch.lengths)
        entities = self.entities(batch, [[span for span, _ in row] for row in found])
        return [
            [with_score(entity, score) for entity, (_, score) in zip(row, scored, strict=True)]
            for row, scored in zip(entities, found, strict=True)
        ]

    def entities(self, batch: Batch, spans: Sequence[Sequence[Span]]) -> list[list[Entity]]:
        """Convert spans to entities of the sentences' own texts."""
        return [
            [Entity(text[start:end], self.categories[category], start, end) for start, end, category in row]
            for text, row in zip(batch.texts, spans, strict=True)
        ]
