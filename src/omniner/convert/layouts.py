"""The JSON files of a checkpoint folder: objects whose values are asked for with the type they must have.

What the checkpoints of two families hold, and where each tensor belongs in a Llama model.

In goes a checkpoint's `config.json`, out comes a `Layout`: the configuration of the same model as a Llama, and one
`Rule` for each of its tensors. Both families compute what Llama computes (RMSNorm, rotary positions on half-split
heads, SwiGLU) and differ in how their weights are stored:

- InternLM2 (and 2.5; https://arxiv.org/abs/2403.17297, model structure) keeps queries, keys and values in one matrix
  `wqkv`. Its rows are grouped by key-value head: [KV, Q/KV + 2, D, hidden], the group's queries, then its key, then
  its value.
- Baichuan2 (https://arxiv.org/abs/2309.10305) keeps them in `W_pack`: all queries, all keys, all values. Its output
  layer (NormHead there) scales every row to unit length before use: the scaled rows are what is written. Trained on,
  the converted layer is an ordinary one that is not scaled again.

Baichuan2-13B and all of Baichuan 1 are refused: the former has ALiBi where Llama has rotary positions, the latter is
another model under the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from omniner.errors import UserError
from omniner.files import read_json


@dataclass(frozen=True, slots=True)
class Settings:
    """A JSON object and the file it comes from; what does not fit is a `UserError` about that file."""

    path: Path
    values: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """A value as it stands."""
        return self.values.get(key, default)

    def number(self, key: str) -> int:
        """A whole number above 0."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(self.path, f"{key} is {value!r}", "It must be a whole number above 0.")
        return value

    def real(self, key: str) -> float:
        """A number above 0."""
        value = self.values.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise UserError(self.path, f"{key} is {value!r}", "It must be a number above 0.")
        return float(value)

    def mapping(self, key: str) -> dict[str, Any]:
        """An object; an absent one is empty."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise UserError(self.path, f"{key} is {value!r}", "It must be an object.")
        return value

    def only(self, key: str, *allowed: object) -> None:
        """Refuse values other than these."""
        if (value := self.values.get(key)) not in allowed:
            fix = "Only " + " or ".join("none" if one is None else repr(one) for one in allowed) + " can be converted."
            raise UserError(self.path, f"{key} is {value!r}", fix)


def read(path: Path) -> Settings:
    """Read a JSON file that holds an object."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(path, "it is no JSON object", "Copy the checkpoint's file again.")
    return Settings(path, values)


Shape = tuple[int, ...]
Take = Callable[[Tensor], Tensor]

_FAMILIES = "Name a Baichuan2-7B or InternLM2 checkpoint; other models load as they are or not at all."
_BLOCK_ROWS = 4096  # rows of the output layer that are scaled at once, in float32
_ROPE_THETA = 10_000.0  # Baichuan2's code has it as a constant


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


def layout(config: Settings) -> LlamaLayout:
    """The layout of the checkpoint that has this `config.json`.

    Raises:
        UserError: another model, or settings that Llama has no counterpart for.
    """
    kind = config.get("model_type")
    if kind == "internlm2":
        return _internlm2(config)
    if kind == "baichuan":
        return _baichuan2(config)
    raise UserError(config.path, f"model_type is {kind!r}", _FAMILIES)


def _internlm2(config: Settings) -> LlamaLayout:
    heads, groups = config.number("num_attention_heads"), config.number("num_key_value_heads")
    if heads % groups:
        found = f"{heads} attention heads cannot share {groups} key-value heads"
        raise UserError(config.path, found, "Repair num_key_value_heads.")
    bias = bool(config.get("bias", False))
    written = _llama(config, groups) | {
        "rope_theta": config.real("rope_theta"),
        "rope_scaling": _scaling(config),
        "attention_bias": bias,
    }
    size, depth = written["hidden_size"], written["head_dim"]
    per_group, parts = heads // groups, ["weight", "bias"] if bias else ["weight"]
    rules = [_same("model.embed_tokens.weight", (written["vocab_size"], size), "model.tok_embeddings.weight")]
    for layer in range(written["num_hidden_layers"]):
        to, old = f"model.layers.{layer}", f"model.layers.{layer}"
        for part in parts:
            rest = (size,) if part == "weight" else ()
            fused, packed = f"{old}.attention.wqkv.{part}", (groups * (per_group + 2) * depth, *rest)
            for name, start, count in (("q", 0, per_group), ("k", per_group, 1), ("v", per_group + 1, 1)):
                take = _grouped(groups, per_group + 2, start, start + count)
                shape = (groups * count * depth, *rest)
                rules.append(Rule(f"{to}.self_attn.{name}_proj.{part}", shape, fused, packed, take))
            rules.append(_same(f"{to}.self_attn.o_proj.{part}", (size, *rest), f"{old}.attention.wo.{part}"))
        names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
        rules += _feed_forward(written, to, {new: f"{old}.feed_forward.{name}" for new, name in names.items()})
        rules.append(_same(f"{to}.input_layernorm.weight", (size,), f"{old}.attention_norm.weight"))
        rules.append(_same(f"{to}.post_attention_layernorm.weight", (size,), f"{old}.ffn_norm.weight"))
    rules.append(_same("model.norm.weight", (size,), "model.norm.weight"))
    rules.append(_same("lm_head.weight", (written["vocab_size"], size), "output.weight"))
    return LlamaLayout("InternLM2", written, tuple(rules), add_bos=True)


def _baichuan2(config: Settings) -> LlamaLayout:
    if "z_loss_weight" not in config.values and config.get("vocab_size") != 125_696:
        raise UserError(config.path, "this is Baichuan 1 (it has no z_loss_weight)", "Use Baichuan2-7B.")
    if "max_position_embeddings" not in config.values or config.get("num_attention_heads") == 40:
        found = "this is Baichuan2-13B, whose positions (ALiBi) a Llama model does not have"
        raise UserError(config.path, found, "Use Baichuan2-7B.")
    config.only("rope_theta", None, _ROPE_THETA)
    config.only("rope_scaling", None)
    heads = config.number("num_attention_heads")
    config.only("num_key_value_heads", None, heads)
    written = _llama(config, heads) | {"rope_theta": _ROPE_THETA, "rope_scaling": None, "attention_bias": False}
    size, words = written["hidden_size"], (written["vocab_size"], written["hidden_size"])
    rules = [_same("model.embed_tokens.weight", words, "model.embed_tokens.weight")]
    for layer in range(written["num_hidden_layers"]):
        to = f"model.layers.{layer}"
        for place, name in enumerate(("q_proj", "k_proj", "v_proj")):
            take, packed = _rows(place * size, (place + 1) * size), (3 * size, size)
            rules.append(
                Rule(f"{to}.self_attn.{name}.weight", (size, size), f"{to}.self_attn.W_pack.weight", packed, take)
            )
        rules.append(_same(f"{to}.self_attn.o_proj.weight", (size, size), f"{to}.self_attn.o_proj.weight"))
        names = ("gate_proj", "up_proj", "down_proj")
        rules += _feed_forward(written, to, {name: f"{to}.mlp.{name}" for name in names})
        for name in ("input_layernorm", "post_attention_layernorm"):
            rules.append(_same(f"{to}.{name}.weight", (size,), f"{to}.{name}.weight"))
    rules.append(_same("model.norm.weight", (size,), "model.norm.weight"))
    rules.append(Rule("lm_head.weight", words, "lm_head.weight", words, unit_rows))
    roles = {195: "<reserved_106>", 196: "<reserved_107>"}
    return LlamaLayout("Baichuan2", written, tuple(rules), roles, _BAICHUAN_TEMPLATE)


# System text in front, then turns that begin with their speaker's token; the model ends its own with `</s>`.
_BAICHUAN_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' and loop.first -%}{{ message.content }}"
    "{%- elif message.role == 'user' -%}{{ '<reserved_106>' + message.content }}"
    "{%- elif message.role == 'assistant' -%}{{ '<reserved_107>' + message.content + eos_token }}"
    "{%- else -%}{{ raise_exception('no turn of Baichuan2: ' + message.role) }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<reserved_107>' }}{%- endif -%}"
)


def _llama(config: Settings, groups: int) -> dict[str, Any]:
    """The part of the Llama configuration that both families have under the same names."""
    config.only("hidden_act", None, "silu")
    config.only("tie_word_embeddings", None, False)
    config.only("quantization_config", None)
    size, heads = config.number("hidden_size"), config.number("num_attention_heads")
    if size % heads or size // heads % 2:
        found = f"hidden_size {size} is no even number of times {heads} attention heads"
        raise UserError(config.path, found, "Repair hidden_size or num_attention_heads.")
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


def _scaling(config: Settings) -> dict[str, Any] | None:
    """InternLM2's `rope_scaling` under Llama's names; linear and dynamic (NTK) scaling are the same formulas there."""
    given = config.get("rope_scaling")
    if given is None:
        return None
    kind = given.get("rope_type", given.get("type")) if isinstance(given, dict) else None
    factor = given.get("factor") if isinstance(given, dict) else None
    if kind not in ("linear", "dynamic") or not isinstance(factor, int | float) or factor < 1:
        raise UserError(config.path, f"rope_scaling is {given!r}", "It must be linear or dynamic, with a factor.")
    return {"rope_type": kind, "factor": float(factor)}


def _feed_forward(written: Mapping[str, Any], to: str, names: Mapping[str, str]) -> list[Rule]:
    size, inner = written["hidden_size"], written["intermediate_size"]
    shapes = {"gate_proj": (inner, size), "up_proj": (inner, size), "down_proj": (size, inner)}
    return [_same(f"{to}.mlp.{new}.weight", shapes[new], f"{old}.weight") for new, old in names.items()]


def _same(target: str, shape: Shape, source: str) -> Rule:
    return Rule(target, shape, source, shape, lambda tensor: tensor)


def _rows(start: int, end: int) -> Take:
    return lambda tensor: tensor[start:end]


def _grouped(groups: int, members: int, start: int, end: int) -> Take:
    """Members `start` to `end` of each group of rows; the tensor is [groups * members * D, ...]."""
    return lambda tensor: tensor.reshape(groups, members, -1, *tensor.shape[1:])[:, start:end].flatten(0, 2)


def unit_rows(tensor: Tensor) -> Tensor:
    """Every row [V, hidden] scaled to length 1, computed in float32, in the tensor's own precision."""
    scaled = torch.empty_like(tensor)
    for start in range(0, len(tensor), _BLOCK_ROWS):
        scaled[start : start + _BLOCK_ROWS] = normalize(tensor[start : start + _BLOCK_ROWS].float())
    return scaled
