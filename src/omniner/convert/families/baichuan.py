"""Baichuan2-7B.

Queries, keys and values are in one matrix `W_pack`, in this order (https://arxiv.org/abs/2309.10305). The output layer
(there named NormHead) scales every row to unit length before use: the scaled rows are written. If the converted model
is trained further, this layer is an ordinary one that is not scaled again.

Baichuan2-13B and all of Baichuan 1 are rejected: the former uses ALiBi where Llama has rotary positions, the latter is
another model with the same name.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from omniner.convert.layouts import (
    LlamaLayout,
    ModelFamily,
    Rule,
    Settings,
    Take,
    feed_forward_rules,
    llama_config,
    same,
)
from omniner.errors import UserError
from omniner.registry import first_line

_BLOCK_ROWS = 4096  # rows of the output layer that are scaled at a time, in float32
_ROPE_THETA = 10_000.0  # a constant in the family's code

# System text first, then turns that begin with their speaker's token; the model ends its turn with `</s>`.
_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' and loop.first -%}{{ message.content }}"
    "{%- elif message.role == 'user' -%}{{ '<reserved_106>' + message.content }}"
    "{%- elif message.role == 'assistant' -%}{{ '<reserved_107>' + message.content + eos_token }}"
    "{%- else -%}{{ raise_exception('no turn of Baichuan2: ' + message.role) }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<reserved_107>' }}{%- endif -%}"
)


def read_layout(config: Settings) -> LlamaLayout:
    """Describe a checkpoint as a Llama model, see `ModelFamily.layout`."""
    if "z_loss_weight" not in config.values and config.get("vocab_size") != 125_696:
        raise UserError(config.path, "this is Baichuan 1 (it has no z_loss_weight)", "Use Baichuan2-7B.")
    if "max_position_embeddings" not in config.values or config.get("num_attention_heads") == 40:
        found = "this is Baichuan2-13B, whose positions (ALiBi) a Llama model does not have"
        raise UserError(config.path, found, "Use Baichuan2-7B.")
    config.only("rope_theta", None, _ROPE_THETA)
    config.only("rope_scaling", None)
    heads = config.number("num_attention_heads")
    config.only("num_key_value_heads", None, heads)
    written = llama_config(config, heads) | {"rope_theta": _ROPE_THETA, "rope_scaling": None, "attention_bias": False}
    size, words = written["hidden_size"], (written["vocab_size"], written["hidden_size"])
    rules = [same("model.embed_tokens.weight", words, "model.embed_tokens.weight")]
    for layer in range(written["num_hidden_layers"]):
        to = f"model.layers.{layer}"
        for place, name in enumerate(("q_proj", "k_proj", "v_proj")):
            take, packed = take_rows(place * size, (place + 1) * size), (3 * size, size)
            rules.append(
                Rule(f"{to}.self_attn.{name}.weight", (size, size), f"{to}.self_attn.W_pack.weight", packed, take)
            )
        rules.append(same(f"{to}.self_attn.o_proj.weight", (size, size), f"{to}.self_attn.o_proj.weight"))
        names = ("gate_proj", "up_proj", "down_proj")
        rules += feed_forward_rules(written, to, {name: f"{to}.mlp.{name}" for name in names})
        for name in ("input_layernorm", "post_attention_layernorm"):
            rules.append(same(f"{to}.{name}.weight", (size,), f"{to}.{name}.weight"))
    rules.append(same("model.norm.weight", (size,), "model.norm.weight"))
    rules.append(Rule("lm_head.weight", words, "lm_head.weight", words, unit_rows))
    roles = {195: "<reserved_106>", 196: "<reserved_107>"}
    return LlamaLayout("Baichuan2", written, tuple(rules), roles, _TEMPLATE)


def take_rows(start: int, end: int) -> Take:
    """Return a function that takes rows `start` to `end`."""
    return lambda tensor: tensor[start:end]


def unit_rows(tensor: Tensor) -> Tensor:
    """Scale every row of [V, hidden] to length 1: computed in float32, returned in the tensor's own precision."""
    scaled = torch.empty_like(tensor)
    for start in range(0, len(tensor), _BLOCK_ROWS):
        scaled[start : start + _BLOCK_ROWS] = normalize(tensor[start : start + _BLOCK_ROWS].float())
    return scaled


FAMILY = ModelFamily(name="baichuan", meaning=first_line(__doc__), layout=read_layout)
