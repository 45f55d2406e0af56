"""Checkpoints whose code lives with their weights, as Llama models: what all families have in common.

A `LlamaLayout` is the configuration of the same model as a Llama, and one `Rule` for each of its tensors: what it is
called, its shape, and how it comes from a tensor of the checkpoint. The families (`families`, one file each) compute
what Llama computes (RMSNorm, rotary positions on half-split heads, SwiGLU) and differ in how their weights are stored.
`Settings` reads a checkpoint's JSON files, whose values are asked for with the type they must have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from omniner.errors import UserError
from omniner.files import read_json
from omniner.registry import MODEL_FAMILIES

_MOST_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class Settings:
    """A JSON object and the file it comes from; what does not fit is a `UserError` about that file."""

    path: Path
    values: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """Give a value as it stands."""
        return self.values.get(key, default)

    def number(self, key: str) -> int:
        """Give a whole number above 0."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(self.path, f"{key} is {value!r}", "It must be a whole number above 0.")
        return value

    def real(self, key: str) -> float:
        """Give a number above 0."""
        value = self.values.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise UserError(self.path, f"{key} is {value!r}", "It must be a number above 0.")
        return float(value)

    def mapping(self, key: str) -> dict[str, Any]:
        """Give an object; an absent one is empty."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise UserError(self.path, f"{key} is {value!r}", "It must be an object.")
        return value

    def only(self, key: str, *allowed: object) -> None:
        """Refuse values other than these."""
        if (value := self.values.get(key)) not in allowed:
            fix = "Only " + " or ".join("none" if one is None else repr(one) for one in allowed) + " can be converted."
            raise UserError(self.path, f"{key} is {value!r}", fix)


def read_settings(path: Path) -> Settings:
    """Read a JSON file that holds an object."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(path, "it is no JSON object", "Copy the checkpoint's file again.")
    return Settings(path, values)


Shape = tuple[int, ...]
Take = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Rule:
    """A tensor of the Llama model: what it is called, its shape, and how it comes from a tensor of the checkpoint."""

    target: str
    shape: Shape
    source: str
    source_shape: Shape
    take: Take


@dataclass(frozen=True, slots=True)
class LlamaLayout:
    """A checkpoint as a Llama model.

    Attributes:
        family: for people.
        config: `config.json` of the Llama model, without its dtype.
        rules: its tensors, in the order in which they are written.
        special: ids and texts of the chat's special tokens, where the tokenizer's settings may not name them.
        template: chat template, where the tokenizer's settings have none.
        add_bos: whether the family's texts begin with `bos_token` unless its settings say otherwise.
    """

    family: str
    config: dict[str, Any]
    rules: tuple[Rule, ...]
    special: Mapping[int, str] = field(default_factory=dict)
    template: str | None = None
    add_bos: bool = False


@dataclass(frozen=True)
class ModelFamily:
    """All that is known of a family whose checkpoints are converted.

    Attributes:
        name: the `model_type` of its checkpoints, and the name of its file.
        meaning: which models these are, in one line.
        layout: reads a checkpoint's `config.json`; raises `UserError` for settings that Llama has no counterpart for.
    """

    name: str
    meaning: str
    layout: Callable[[Settings], LlamaLayout]


def find_layout(config: Settings) -> LlamaLayout:
    """Find the layout of the checkpoint that has this `config.json`.

    Raises:
        UserError: another model, or settings that Llama has no counterpart for.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in MODEL_FAMILIES:
        return MODEL_FAMILIES[kind].layout(config)
    known = "; ".join(MODEL_FAMILIES.meaning(name).rstrip(".") for name in MODEL_FAMILIES)
    fix = f"Name a checkpoint of: {known}. Other models load as they are or not at all."
    raise UserError(config.path, f"model_type is {kind!r}", fix)


def llama_config(config: Settings, groups: int) -> dict[str, Any]:
    """Translate the part of the configuration that families have under Llama's names.

    Args:
        config: of the checkpoint.
        groups: key-value heads.

    Raises:
        UserError: settings that Llama has no counterpart for.
    """
    config.only("hidden_act", None, "silu")
    config.only("tie_word_embeddings", None, False)
    config.only("quantization_config", None)
    size, heads = config.number("hidden_size"), config.number("num_attention_heads")
    if size % heads or size // heads % 2:
        found = f"hidden_size {size} is no even number of times {heads} attention heads"
        raise UserError(config.path, found, "Repair hidden_size or num_attention_heads.")
    if (layers := config.number("num_hidden_layers")) > _MOST_LAYERS:  # each has rules
        raise UserError(config.path, f"num_hidden_layers is {layers}", "Copy the checkpoint's file again.")
    counts = ("vocab_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{key: config.number(key) for key in counts},
        "hidden_size": size,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": size // heads,
        "hidden_act": "silu",
        "mlp_bias": False,
        "rms_norm_eps": config.real("rms_norm_eps"),
        "initializer_range": config.get("initializer_range", 0.02),
        **{key: config.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "tie_word_embeddings": False,
        "use_cache": True,
    }


def feed_forward_rules(written: Mapping[str, Any], to: str, names: Mapping[str, str]) -> list[Rule]:
    """Make the rules of a layer's feed-forward module.

    Args:
        written: the configuration of the Llama model.
        to: name of the layer there.
        names: what its `gate_proj`, `up_proj` and `down_proj` are called in the checkpoint.
    """
    size, inner = written["hidden_size"], written["intermediate_size"]
    shapes = {"gate_proj": (inner, size), "up_proj": (inner, size), "down_proj": (size, inner)}
    return [same(f"{to}.mlp.{new}.weight", shapes[new], f"{old}.weight") for new, old in names.items()]


def same(target: str, shape: Shape, source: str) -> Rule:
    """Make the rule of a tensor that is taken as it is."""
    return Rule(target, shape, source, shape, lambda tensor: tensor)
