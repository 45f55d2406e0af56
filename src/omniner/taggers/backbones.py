"""Define backbones: from a batch's inputs to one state per character, [B, L, D].

`BiLSTM` trains character and bigram embeddings from scratch and reads each sentence in both directions.
`TransformerBackbone` runs a BERT-style encoder over subword tokens. It gives each character the state of its token plus
a trained vector for its position in the token, so that the characters of one token (`Hello`, a run of emoji) can get
different tags, and a character without a token still has a state.

Both are exact under padding: a sentence's states do not depend on the other sentences of its batch. For the BiLSTM this
means two one-way LSTMs, the second over each sentence reversed in place. On CPU this is also faster than packed
sequences (about 1.5x per training step), because the fused kernel accepts only rectangles.

A pretrained encoder comes from the hub or a local folder. Hub code is never executed (`trust_remote_code=False`), a
local folder is read without a network, weights only from safetensors or by torch's safe loader. If it cannot be loaded,
one `UserError` names `model.path`.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from omniner import pretrained
from omniner.compute.devices import send
from omniner.config.model_groups import BiLSTMConfig, EncoderConfig
from omniner.errors import UserError, one_line
from omniner.model_files import is_local_folder
from omniner.taggers.batches import Batch
from omniner.taggers.inputs import (
    PAD,
    UNCOVERED,
    UNKNOWN,
    CharacterInput,
    TextInput,
    TokenInput,
    Vocabulary,
    character_tokenizer,
)


class Backbone(nn.Module, ABC):
    """The interface of all backbones.

    Attributes:
        out_dim: D, size of a state.
        draws_for_step: whether random choices are drawn for all rows of an optimizer step, over all processes; every
            process must then have the same random state. Otherwise each process draws its own.
    """

    out_dim: int
    draws_for_step: ClassVar[bool]

    @classmethod
    @abstractmethod
    def build(cls, config: Any, texts: Iterable[str]) -> tuple[TextInput, list[Self]]:
        """Build the members of a new tagger.

        Args:
            config: `model` of the configuration, of this backbone's kind.
            texts: of the training split; models built from scratch get their characters from them.

        Returns:
            The text input, and the members: one, or several in parallel.

        Raises:
            UserError: the model cannot be loaded or built.
        """

    @classmethod
    @abstractmethod
    def rebuild(cls, description: Mapping[str, Any], inputs: TextInput) -> tuple[Any, list[Self]]:
        """Build the members that a checkpoint describes; their weights are loaded afterwards.

        Args:
            description: from `Tagger.describe`.
            inputs: the text input.

        Returns:
            `model` of the configuration, and the members.
        """

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Return the states [B, L, D] of the characters."""

    def describe(self) -> dict[str, Any]:
        """Return what `rebuild` needs in addition to the configuration and the inputs, as plain values."""
        return {}

    def depth(self, name: str) -> int:
        """Return the number of layers between a weight (by its name here) and the head; 0 if layers do not matter."""
        return 0


class BiLSTM(Backbone):
    """Character and bigram embeddings, followed by layers of bidirectional LSTMs.

    Args:
        config: sizes and dropouts.
        vocabulary: determines the number of embeddings.
    """

    draws_for_step = True

    def __init__(self, config: BiLSTMConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config, self.out_dim = config, 2 * config.hidden
        self.characters = _embedding(vocabulary.character_rows, config.char_dim)
        width = config.char_dim
        self.bigrams = None
        if config.bigram_dim:
            self.bigrams = _embedding(vocabulary.bigram_rows, config.bigram_dim)
            width += 2 * config.bigram_dim
        widths = [width] + [self.out_dim] * (config.layers - 1)
        self.ahead = nn.ModuleList(_lstm(width, config.hidden) for width in widths)
        self.back = nn.ModuleList(_lstm(width, config.hidden) for width in widths)

    @classmethod
    def build(cls, config: BiLSTMConfig, texts: Iterable[str]) -> tuple[TextInput, list[Self]]:
        """Build `model.members` BiLSTMs over the vocabulary of the texts."""
        vocabulary = Vocabulary.build(texts, config.min_count, config.bigram_dim > 0)
        return CharacterInput(vocabulary), [cls(config, vocabulary) for _ in range(config.members)]

    @classmethod
    def rebuild(cls, description: Mapping[str, Any], inputs: TextInput) -> tuple[BiLSTMConfig, list[Self]]:
        """Build the BiLSTMs over the vocabulary of the checkpoint."""
        assert isinstance(inputs, CharacterInput), "a BiLSTM reads characters"
        config = BiLSTMConfig(**description["model"])
        return config, [cls(config, inputs.vocabulary) for _ in range(config.members)]

    def forward(self, batch: Batch) -> Tensor:
        """Return the states [B, L, D] of the characters."""
        noise = StepNoise(batch) if self.training else None
        characters = batch.inputs["characters"]
        if noise is not None:
            characters = noise.unknown_ids(characters, self.config.unk_dropout)
        parts = [self.characters(characters)]
        if self.bigrams is not None:
            ids = batch.inputs["bigrams"]
            if noise is not None:
                ids = noise.unknown_ids(ids, self.config.bigram_dropout)
            pairs = self.bigrams(ids)  # [B, L + 1, E]
            parts += [pairs[:, :-1], pairs[:, 1:]]
        states = torch.cat(parts, dim=2)
        if noise is not None:
            states = noise.locked(states, self.config.embedding_dropout)
        reversal = _reversal(batch.mask)
        for ahead, back in zip(self.ahead, self.back, strict=True):
            onward, returning = ahead(states)[0], back(_take(states, reversal))[0]
            states = torch.cat([onward, _take(returning, reversal)], dim=2)
            if noise is not None:
                states = noise.locked(states, self.config.dropout)
        return states


class StepNoise:
    """Random choices for this process's rows of a step, drawn from the current random state.

    Every process must have the same random state; it draws for all rows of the step, then takes its own.
    """

    def __init__(self, batch: Batch) -> None:
        self._rows, self._count, self._length = batch.rows, batch.step_sentences, batch.step_length

    def locked(self, states: Tensor, share: float) -> Tensor:
        """Return states [B, L, D] after dropout with one choice per sentence and feature, for all its characters."""
        if not share:
            return states
        keep = torch.rand(self._count, 1, states.shape[2])[self._rows] >= share
        (factors,) = send([keep / (1 - share)], states.device)
        return states * factors.to(states.dtype)

    def unknown_ids(self, ids: Tensor, share: float) -> Tensor:
        """Return ids [B, n] with a share of them replaced by unknown; padding stays padding."""
        if not share:
            return ids
        drawn = torch.rand(self._count, self._length + 1)[self._rows, : ids.shape[1]]
        (dropped,) = send([drawn < share], ids.device)
        return ids.masked_fill(dropped & (ids != PAD), UNKNOWN)


def _reversal(mask: Tensor) -> Tensor:
    """Return [B, L, 1], the source position of each position when sentences are reversed; padding stays in place."""
    lengths = mask.sum(1, keepdim=True)
    place = torch.arange(mask.shape[1], device=mask.device)[None]
    return torch.where(mask, lengths - 1 - place, place)[..., None]


def _take(states: Tensor, index: Tensor) -> Tensor:
    return states.gather(1, index.expand(-1, -1, states.shape[2]))


def _embedding(rows: int, width: int) -> nn.Embedding:
    """Create an embedding of variance 1/width, so that characters and bigrams have equal weight at any size."""
    table = nn.Embedding(rows, width, padding_idx=PAD)
    bound = math.sqrt(3 / width)
    nn.init.uniform_(table.weight, -bound, bound)
    with torch.no_grad():
        table.weight[PAD] = 0
    return table


def _lstm(width: int, hidden: int) -> nn.LSTM:
    """Create an LSTM with orthogonal recurrence per gate, and a forget gate that starts open."""
    lstm = nn.LSTM(width, hidden, batch_first=True)
    recurrent, into, biases = lstm.weight_hh_l0, lstm.weight_ih_l0, (lstm.bias_ih_l0, lstm.bias_hh_l0)
    assert isinstance(recurrent, Tensor)
    assert isinstance(into, Tensor)
    with torch.no_grad():
        for gate in recurrent.chunk(4):
            nn.init.orthogonal_(gate)
        nn.init.xavier_uniform_(into)
        for bias in biases:
            assert isinstance(bias, Tensor)
            bias.zero_()
        assert isinstance(biases[1], Tensor)
        biases[1][hidden : 2 * hidden] = 1
    return lstm


_LAYER = re.compile(r"\.layers?\.(\d+)\.")


class TransformerBackbone(Backbone):
    """A BERT-style encoder with one state per character.

    Args:
        encoder: any transformers encoder.
        dropout: on the character states.
        places: number of distinguished positions in a token.
    """

    draws_for_step = False

    def __init__(self, encoder: nn.Module, dropout: float, places: int) -> None:
        super().__init__()
        self.encoder = encoder
        config: Any = encoder.config
        self.out_dim = int(config.hidden_size)
        self.place = nn.Embedding(places, self.out_dim)
        # zero: a pretrained encoder's states are unchanged at first
        nn.init.zeros_(self.place.weight)
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def build(cls, config: EncoderConfig, texts: Iterable[str]) -> tuple[TextInput, list[Self]]:
        """Load the encoder of `model.path`, or build a random one."""
        encoder, inputs = load_encoder(config, texts)
        return inputs, [cls(encoder, config.dropout, inputs.places)]

    @classmethod
    def rebuild(cls, description: Mapping[str, Any], inputs: TextInput) -> tuple[EncoderConfig, list[Self]]:
        """Build an encoder of the checkpoint's architecture."""
        config = EncoderConfig(**description["model"])
        assert isinstance(inputs, TokenInput), "an encoder reads tokens"
        return config, [cls(build_encoder(description["architecture"]), config.dropout, inputs.places)]

    def describe(self) -> dict[str, Any]:
        """Return the architecture of the encoder."""
        settings: Any = self.encoder.config
        return {"architecture": json.loads(settings.to_json_string(use_diff=False))}

    def depth(self, name: str) -> int:
        """Return 0 for the last layer and what follows it, 1 for the layer before, and so on down to the embeddings."""
        settings: Any = self.encoder.config
        if found := _LAYER.search(name):
            return int(settings.num_hidden_layers) - 1 - int(found[1])
        return int(settings.num_hidden_layers) if "embed" in name else 0

    def forward(self, batch: Batch) -> Tensor:
        """Return the states [B, L, D] of the characters."""
        inputs = batch.inputs
        output = self.encoder(input_ids=inputs["tokens"], attention_mask=inputs["attention"])
        tokens = output.last_hidden_state  # [B, S, D]
        index = inputs["token_of"][..., None].expand(-1, -1, self.out_dim)
        covered = (inputs["place"] != UNCOVERED)[..., None]
        states = tokens.gather(1, index) * covered + self.place(inputs["place"])
        dropped: Tensor = self.dropout(states)
        return dropped


# Families whose position ids begin after the padding id: two of their positions are never used.
_SHIFTED = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm")
_FOLDER = "The folder must hold config.json, tokenizer.json or vocab.txt, and model.safetensors."
_MIN_COUNT = 1  # a random encoder knows every character of its training text


def load_encoder(config: EncoderConfig, texts: Iterable[str]) -> tuple[nn.Module, TokenInput]:
    """Load the encoder of a configuration.

    Args:
        config: a hub name or a folder, or the architecture of a random one.
        texts: the source of a random encoder's characters.

    Returns:
        The encoder in fp32, and its text input.

    Raises:
        UserError: it cannot be loaded or built, lacks weights, or is a causal model.
    """
    if config.path is None:
        return _random_encoder(config, texts)
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    local = is_local_folder(config.path, _FOLDER)
    options = pretrained.load_options(local, config.revision)
    with pretrained.explaining_load_errors("model.path", config.path, pretrained.load_advice(local, _FOLDER)):
        settings = AutoConfig.from_pretrained(config.path, **options)
        _check_encoder(config.path, settings)
        tokenizer = AutoTokenizer.from_pretrained(config.path, use_fast=True, **options)
        if not tokenizer.is_fast:
            raise ValueError("it has no fast tokenizer, which character offsets need")
        wanted = {**_without_pooler(settings), **options, "output_loading_info": True}
        with pretrained.quiet_libraries():
            encoder, report = AutoModel.from_pretrained(config.path, **wanted)
    # a pooler that cannot be left out has no part in the states of the tokens
    missing = [name for name in report["missing_keys"] if "pooler" not in name.split(".")]
    pretrained.check_complete(config.path, missing, report["unexpected_keys"])
    return encoder.float(), TokenInput(tokenizer.backend_tokenizer, max_tokens(settings), folds=config.fold_characters)


def build_encoder(architecture: dict[str, Any]) -> nn.Module:
    """Build an encoder of this architecture with random weights, for a checkpoint to fill."""
    from transformers import AutoConfig, AutoModel

    values = dict(architecture)
    settings = AutoConfig.for_model(values.pop("model_type"), **values)
    encoder: nn.Module = AutoModel.from_config(settings, trust_remote_code=False, **_without_pooler(settings))
    return encoder


def max_tokens(settings: Any) -> int:
    """Return the maximum number of tokens of an encoder, including special tokens."""
    positions = int(getattr(settings, "max_position_embeddings", 0) or 0)
    if positions <= 0:
        return 1_000_000  # relative positions only: no limit of its own
    return positions - 2 if settings.model_type in _SHIFTED else positions


def _random_encoder(config: EncoderConfig, texts: Iterable[str]) -> tuple[nn.Module, TokenInput]:
    vocabulary = Vocabulary.build(texts, _MIN_COUNT, bigrams=False)
    tokenizer = character_tokenizer(vocabulary)
    if "model_type" not in config.architecture:
        raise UserError(
            "model.architecture",
            "model.path is null and there is no model_type to build a random encoder of",
            "Set model.path to a pretrained encoder, or model.architecture.model_type (bert).",
        )
    values = {**config.architecture, "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 0}
    try:
        encoder = build_encoder(values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            "model.architecture",
            f"no encoder can be built of it ({one_line(error)})",
            "Use keys of the transformers configuration of that model_type.",
        ) from error
    _check_encoder("model.architecture", encoder.config)
    return encoder, TokenInput(tokenizer, max_tokens(encoder.config), folds=config.fold_characters)


def _check_encoder(path: str, settings: Any) -> None:
    """Reject generative models: a tagging head needs a model that sees both sides of a character."""
    names = list(getattr(settings, "architectures", None) or [])
    causal = [name for name in names if name.endswith(("ForCausalLM", "LMHeadModel"))]
    if causal or getattr(settings, "is_decoder", False) or getattr(settings, "is_encoder_decoder", False):
        kind = causal[0] if causal else settings.model_type
        raise UserError(
            "model.path",
            f"{path} is a generative model ({kind}); heads need an encoder that sees both sides",
            "Name a BERT-style encoder, for example model=bert_base_chinese.",
        )


def _without_pooler(settings: Any) -> dict[str, Any]:
    """Return options that omit the pooler, whose parameters would be unused, which DDP rejects."""
    from transformers import MODEL_MAPPING

    kind = MODEL_MAPPING.get(type(settings), None)  # or a tuple of classes
    takes_it = isinstance(kind, type) and "add_pooling_layer" in inspect.signature(kind).parameters
    return {"add_pooling_layer": False} if takes_it else {}


BACKBONES: dict[str, type[Backbone]] = {"bilstm": BiLSTM, "encoder": TransformerBackbone}
"""Backbones by `model.kind`."""
