"""Describe checkpoints that rely on their own code as Llama models: the parts that all families share.

A `LlamaLayout` has the configuration of the same model as a Llama, and one `Rule` for each of its tensors: its name,
its shape, and how it is computed from a tensor of the checkpoint. The families (`families`, one file each) compute what
Llama computes (RMSNorm, rotary positions on half-split heads, SwiGLU) and differ in how their weights are stored.
`Settings` reads a checkpoint's JSON files, and checks the types of requested values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from omniner import registry
from omniner.errors import UserError
from omniner.files import read_json
from omniner.registry import Registry

_MOST_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class Settings:
    """A JSON object and its file; an unexpected value is a `UserError` about that file."""

    path: Path
    values: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value unchecked."""
        return self.values.get(key, default)

    def number(self, key: str) -> int:
        """Return an integer above 0."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(self.path, f"{key} is {value!r}", "It must be a whole number above 0.")
        return value

    def real(self, key: str) -> float:
        """Return a number above 0."""
        value = self.values.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise UserError(self.path, f"{key} is {value!r}", "It must be a number above 0.")
        return float(value)

    def mapping(self, key: str) -> dict[str, Any]:
        """Return an object; an absent one is empty."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise UserError(self.path, f"{key} is {value!r}", "It must be an object.")
        return value

    def only(self, key: str, *allowed: object) -> None:
        """Reject values other than these."""
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
    """A tensor of the Llama model: its name, its shape, and how it is computed from a tensor of the checkpoint."""

    target: str
    shape: Shape
    source: str
    source_shape: Shape
    take: Take


@dataclass(frozen=True, slots=True)
class LlamaLayout:
    """A checkpoint described as a Llama model.

    Attributes:
        family: its name for messages.
        config: `config.json` of the Llama model, without its dtype.
        rules: its tensors, in output order.
        special: ids and texts of the chat's special tokens, if the tokenizer's settings may not name them.
        template: chat template, if the tokenizer's settings have none.
        add_bos: whether the family's texts begin with `bos_token` by default.
    """

    family: str
    config: dict[str, Any]
    rules: tuple[Rule, ...]
    special: Mapping[int, str] = field(default_factory=dict)
    template: str | None = None
    add_bos: bool = False


@dataclass(frozen=True)
class ModelFamily:
    """A family whose checkpoints can be converted.

    Attributes:
        name: the `model_type` of its checkpoints, and the name of its file.
        meaning: one line that names the models.
        layout: reads a checkpoint's `config.json`; raises `UserError` for settings that Llama does not support.
    """

    name: str
    meaning: str
    layout: Callable[[Settings], LlamaLayout]


MODEL_FAMILIES: Registry[ModelFamily] = registry.MODEL_FAMILIES


def find_layout(config: Settings) -> LlamaLayout:
    """Return the layout of the checkpoint with this `config.json`.

    Raises:
        UserError: another model, or settings that Llama does not support.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in MODEL_FAMILIES:
        return MODEL_FAMILIES[kind].layout(config)
    known = "; ".join(MODEL_FAMILIES.meaning(name).rstrip(".") for name in MODEL_FAMILIES)
    fix = f"Name a checkpoint of: {known}. Other models load as they are or not at all."
    raise UserError(config.path, f"model_type is {kind!r}", fix)


def llama_config(config: Settings, groups: int) -> dict[str, Any]:
    """Translate the part of the configuration that the families store under Llama's names.

    Args:
        config: of the checkpoint.
        groups: number of key-value heads.

    Raises:
        UserError: settings that Llama does not support.
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
    """Return the rules of a layer's feed-forward module.

    Args:
        written: the configuration of the Llama model.
        to: name of the layer there.
        names: the checkpoint's names of its `gate_proj`, `up_proj` and `down_proj`.
    """
    size, inner = written["hidden_size"], written["intermediate_size"]
    shapes = {"gate_proj": (inner, size), "up_proj": (inner, size), "down_proj": (size, inner)}
    return [same(f"{to}.mlp.{new}.weight", shapes[new], f"{old}.weight") for new, old in names.items()]


def same(target: str, shape: Shape, source: str) -> Rule:
    """Return the rule of a tensor that is copied unchanged."""
    return Rule(target, shape, source, shape, lambda tensor: tensor)
