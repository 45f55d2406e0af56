"""Transformer encoders: from a hub name or a local folder, or random from an architecture; and their tokenizers.

In comes `model.path` (or null with `model.architecture`), out come an encoder module and the text input that feeds
it. Hub code is never executed (`trust_remote_code=False`), a local folder is read without a network, weights only
from safetensors or by torch's safe loader. What cannot be loaded is one `UserError` about `model.path`: a missing
model, a folder without a tokenizer, a language model that only looks to the left, on which a tagging head is of
little use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from omniner.encoding.alignment import TokenInput, character_tokenizer
from omniner.encoding.vocabulary import Vocabulary
from omniner.errors import UserError
from omniner.models import loading
from omniner.schema import EncoderConfig

# Families whose position ids begin after the padding id: two of the positions are never used.
_SHIFTED = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm")
_FOLDER = "The folder must hold config.json, tokenizer.json or vocab.txt, and model.safetensors."
_MIN_COUNT = 1  # a random encoder knows every character of its training text


def load(config: EncoderConfig, texts: Iterable[str]) -> tuple[nn.Module, TokenInput]:
    """The encoder that the configuration asks for; `texts` give a random one its characters."""
    if config.path is None:
        return _random(config, texts)
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    local = loading.is_local(config.path, _FOLDER)
    options, fix = loading.options(local), loading.advice(local, _FOLDER)
    with loading.explaining("model.path", config.path, fix):
        settings = AutoConfig.from_pretrained(config.path, **options)
    _check_encoder(config.path, settings)
    with loading.explaining("model.path", config.path, fix):
        tokenizer = AutoTokenizer.from_pretrained(config.path, use_fast=True, **options)
        if not tokenizer.is_fast:
            raise ValueError("it has no fast tokenizer, which character offsets need")
        with loading.quiet():
            encoder = AutoModel.from_pretrained(config.path, **_without_pooler(settings), **options)
    return encoder.float(), TokenInput(tokenizer.backend_tokenizer, max_tokens(settings))


def rebuild(architecture: dict[str, Any]) -> nn.Module:
    """An encoder of this architecture without its weights, for a checkpoint to fill."""
    from transformers import AutoConfig, AutoModel

    values = dict(architecture)
    settings = AutoConfig.for_model(values.pop("model_type"), **values)
    encoder: nn.Module = AutoModel.from_config(settings, trust_remote_code=False, **_without_pooler(settings))
    return encoder


def max_tokens(settings: Any) -> int:
    """How many tokens an encoder takes, its special tokens included."""
    positions = int(getattr(settings, "max_position_embeddings", 0) or 0)
    if positions <= 0:
        return 1_000_000  # relative positions only: no limit of its own
    return positions - 2 if settings.model_type in _SHIFTED else positions


def _random(config: EncoderConfig, texts: Iterable[str]) -> tuple[nn.Module, TokenInput]:
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
        encoder = rebuild(values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            "model.architecture",
            f"no encoder can be built of it ({loading.one_line(error)})",
            "Use keys of the transformers configuration of that model_type.",
        ) from error
    _check_encoder("model.architecture", encoder.config)
    return encoder, TokenInput(tokenizer, max_tokens(encoder.config))


def _check_encoder(path: str, settings: Any) -> None:
    """A tagging head needs a model that sees both sides of a character."""
    names = list(getattr(settings, "architectures", None) or [])
    causal = [name for name in names if name.endswith(("ForCausalLM", "LMHeadModel"))]
    if causal or getattr(settings, "is_decoder", False) or getattr(settings, "is_encoder_decoder", False):
        kind = causal[0] if causal else settings.model_type
        raise UserError(
            "model.path",
            f"{path} is a generative model ({kind}); the heads softmax, crf and span need an encoder that sees both "
            "sides of a character",
            "Name a BERT-style encoder, for example model=bert_base_chinese.",
        )


def _without_pooler(settings: Any) -> dict[str, Any]:
    """BERT's pooler would be an unused parameter, which DDP refuses."""
    return {"add_pooling_layer": False} if settings.model_type in ("bert", "roberta", "xlm-roberta") else {}
