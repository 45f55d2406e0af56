"""A tagger as a plain module: text input, backbone, head, categories; what training, prediction and checkpoints share.

In comes a batch, out come its loss or its spans. `describe()` gives everything but the weights as plain values
(sizes, vocabulary or whole tokenizer, categories, limits), and `Tagger.from_description` builds the same module
again from that alone: no corpus, no hub, no files beside the checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from omniner.config.groups import Config
from omniner.config.model_groups import BiLSTMConfig, EncoderConfig, EncodingConfig, HeadConfig
from omniner.errors import UserError
from omniner.records import Entity
from omniner.taggers import encoder as pretrained
from omniner.taggers import inputs as alignment
from omniner.taggers.batches import Batch
from omniner.taggers.encoder import BiLSTM, TransformerBackbone
from omniner.taggers.heads import HeadModule, build_head
from omniner.taggers.inputs import CharacterInput, SentenceEncoder, TextInput, Vocabulary
from omniner.taggers.tags import Span, TagScheme
from omniner.training.checkpoints import read_checkpoint


def load_tagger(path: Path) -> Tagger:
    """The tagger of a checkpoint, ready to predict (on the CPU, in evaluation mode)."""
    content = read_checkpoint(path)
    if "tagger" not in content:
        found = f"{path} is the training state of a generative model, which holds no tagger"
        raise UserError("checkpoint", found, "Name the checkpoints/best folder of that run.")
    tagger = Tagger.from_description(content["tagger"])
    tagger.load_state_dict(_weights(content))
    return tagger.eval()


def _weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights that are evaluated: a trainer's checkpoint has the trained ones and perhaps their average."""
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
        backbones: the members; each gives states [B, L, D] of a batch and has `out_dim`.
        categories: the active ones, in order.
    """

    def __init__(
        self,
        model: BiLSTMConfig | EncoderConfig,
        head: HeadConfig,
        inputs: TextInput,
        backbones: Sequence[BiLSTM | TransformerBackbone],
        categories: Sequence[str],
    ) -> None:
        super().__init__()
        self.model_config, self.head_config, self.inputs = model, head, inputs
        self.categories = tuple(categories)
        self.backbones = nn.ModuleList(backbones)
        self.head: HeadModule = build_head(head.kind, backbones[0].out_dim, self.categories, head)

    @classmethod
    def build(cls, config: Config, texts: Iterable[str], categories: Sequence[str]) -> Tagger:
        """A new tagger; `texts` are those of the training split."""
        if isinstance(config.model, BiLSTMConfig):
            vocabulary = Vocabulary.build(texts, config.model.min_count, config.model.bigram_dim > 0)
            members = [BiLSTM(config.model, vocabulary) for _ in range(config.model.members)]
            return cls(config.model, config.head, CharacterInput(vocabulary), members, categories)
        assert isinstance(config.model, EncoderConfig), "a causal model is no tagger"
        encoder, inputs = pretrained.load_encoder(config.model, texts)
        backbone = TransformerBackbone(encoder, config.model.dropout)
        return cls(config.model, config.head, inputs, [backbone], categories)

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, in plain values."""
        item: dict[str, Any] = {
            "model": dataclasses.asdict(self.model_config),
            "head": dataclasses.asdict(self.head_config),
            "inputs": self.inputs.to_json(),
            "categories": list(self.categories),
        }
        if isinstance(self.backbones[0], TransformerBackbone):
            settings: Any = self.backbones[0].encoder.config
            item["architecture"] = json.loads(settings.to_json_string(use_diff=False))
        return item

    @classmethod
    def from_description(cls, item: dict[str, Any]) -> Tagger:
        """The same tagger with weights still to be filled in."""
        inputs = alignment.text_input_from_json(item["inputs"])
        head = HeadConfig(**item["head"])
        if isinstance(inputs, CharacterInput):
            small = BiLSTMConfig(**item["model"])
            members = [BiLSTM(small, inputs.vocabulary) for _ in range(small.members)]
            return cls(small, head, inputs, members, item["categories"])
        model = EncoderConfig(**item["model"])
        backbone = TransformerBackbone(pretrained.build_encoder(item["architecture"]), model.dropout)
        return cls(model, head, inputs, [backbone], item["categories"])

    def encoder(self, config: EncodingConfig) -> SentenceEncoder:
        """What makes this tagger's examples."""
        return SentenceEncoder(self.inputs, TagScheme(self.categories), config, self.head.max_span)

    def states(self, batch: Batch) -> list[Tensor]:
        """Each member's states [B, L, D], in the precision of the head's weights: full, unless all weights are bf16."""
        precision = next(self.head.parameters()).dtype
        return [backbone(batch).to(precision) for backbone in self.backbones]

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the sentences' losses, the mean over the members."""
        return self._loss(self.states(batch), batch)

    def loss_and_spans(self, batch: Batch) -> tuple[Tensor, list[list[Span]]]:
        """Both of them, with one run of the backbones."""
        states = self.states(batch)
        return self._loss(states, batch), self._spans(states, batch)

    def spans(self, batch: Batch) -> list[list[Span]]:
        """The predicted spans of each sentence."""
        return self._spans(self.states(batch), batch)

    def _loss(self, states: Sequence[Tensor], batch: Batch) -> Tensor:
        with torch.autocast(states[0].device.type, enabled=False):
            return torch.stack([self.head.loss(own, batch) for own in states]).mean()

    def _spans(self, states: Sequence[Tensor], batch: Batch) -> list[list[Span]]:
        with torch.autocast(states[0].device.type, enabled=False):
            return self.head.decode(torch.stack(list(states)).mean(0), batch.mask)

    def entities(self, batch: Batch, spans: Sequence[Sequence[Span]]) -> list[list[Entity]]:
        """Spans as entities of the sentences' own texts."""
        return [
            [Entity(text[start:end], self.categories[category], start, end) for start, end, category in row]
            for text, row in zip(batch.texts, spans, strict=True)
        ]
