"""A tagger as a plain module: text input, backbone, head, categories; what training, prediction and checkpoints share.

In comes a batch, out come its loss or its spans. `describe()` gives everything but the weights as plain values
(sizes, vocabulary or whole tokenizer, categories, limits), and `Tagger.from_description` builds the same module
again from that alone: no corpus, no hub, no files beside the checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from omniner import schema
from omniner.encoding import alignment
from omniner.encoding.alignment import CharacterInput, TextInput
from omniner.encoding.batching import Batch
from omniner.encoding.examples import Encoder
from omniner.encoding.tags import Span, TagScheme
from omniner.encoding.vocabulary import Vocabulary
from omniner.models import pretrained
from omniner.models.backbone import BiLSTM, TransformerBackbone
from omniner.models.heads import Head, build_head
from omniner.records import Entity


class Tagger(nn.Module):
    """Backbone and head with all that belongs to them.

    Args:
        model, head: their configurations.
        inputs: makes the backbone's ids from a text.
        backbone: gives states [B, L, D] of a batch, has `out_dim`.
        categories: the active ones, in order.
    """

    def __init__(
        self,
        model: schema.BiLSTMConfig | schema.EncoderConfig,
        head: schema.HeadConfig,
        inputs: TextInput,
        backbone: BiLSTM | TransformerBackbone,
        categories: Sequence[str],
    ) -> None:
        super().__init__()
        self.model_config, self.head_config, self.inputs = model, head, inputs
        self.categories = tuple(categories)
        self.backbone = backbone
        self.head: Head = build_head(head.kind, backbone.out_dim, self.categories, head)

    @classmethod
    def build(cls, config: schema.Config, texts: Iterable[str], categories: Sequence[str]) -> Tagger:
        """A new tagger; `texts` are those of the training split."""
        inputs: TextInput
        backbone: BiLSTM | TransformerBackbone
        if isinstance(config.model, schema.BiLSTMConfig):
            vocabulary = Vocabulary.build(texts, config.model.min_count, config.model.bigram_dim > 0)
            inputs, backbone = CharacterInput(vocabulary), BiLSTM(config.model, vocabulary)
        else:
            encoder, inputs = pretrained.load(config.model, texts)
            backbone = TransformerBackbone(encoder, config.model.dropout)
        return cls(config.model, config.head, inputs, backbone, categories)

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, in plain values."""
        item: dict[str, Any] = {
            "model": dataclasses.asdict(self.model_config),
            "head": dataclasses.asdict(self.head_config),
            "inputs": self.inputs.to_json(),
            "categories": list(self.categories),
        }
        if isinstance(self.backbone, TransformerBackbone):
            settings: Any = self.backbone.encoder.config
            item["architecture"] = json.loads(settings.to_json_string(use_diff=False))
        return item

    @classmethod
    def from_description(cls, item: dict[str, Any]) -> Tagger:
        """The same tagger with weights still to be filled in."""
        inputs = alignment.from_json(item["inputs"])
        head = schema.HeadConfig(**item["head"])
        backbone: BiLSTM | TransformerBackbone
        model: schema.BiLSTMConfig | schema.EncoderConfig
        if isinstance(inputs, CharacterInput):
            model = schema.BiLSTMConfig(**item["model"])
            backbone = BiLSTM(model, inputs.vocabulary)
        else:
            model = schema.EncoderConfig(**item["model"])
            backbone = TransformerBackbone(pretrained.rebuild(item["architecture"]), model.dropout)
        return cls(model, head, inputs, backbone, item["categories"])

    def encoder(self, config: schema.EncodingConfig) -> Encoder:
        """What makes this tagger's examples."""
        max_span = self.head_config.max_span if self.head_config.kind == "span" else None
        return Encoder(self.inputs, TagScheme(self.categories), config, max_span)

    def states(self, batch: Batch) -> Tensor:
        """Character states [B, L, D] in the precision of the head's weights: full, unless all weights are bf16."""
        states: Tensor = self.backbone(batch)
        return states.to(next(self.head.parameters()).dtype)

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the sentences' losses."""
        states = self.states(batch)
        with torch.autocast(states.device.type, enabled=False):
            return self.head.loss(states, batch)

    def loss_and_spans(self, batch: Batch) -> tuple[Tensor, list[list[Span]]]:
        """Both of them, with one run of the backbone."""
        states = self.states(batch)
        with torch.autocast(states.device.type, enabled=False):
            return self.head.loss(states, batch), self.head.decode(states, batch.mask)

    def spans(self, batch: Batch) -> list[list[Span]]:
        """The predicted spans of each sentence."""
        states = self.states(batch)
        with torch.autocast(states.device.type, enabled=False):
            return self.head.decode(states, batch.mask)

    def entities(self, batch: Batch, spans: Sequence[Sequence[Span]]) -> list[list[Entity]]:
        """Spans as entities of the sentences' own texts."""
        return [
            [Entity(text[start:end], self.categories[category], start, end) for start, end, category in row]
            for text, row in zip(batch.texts, spans, strict=True)
        ]
