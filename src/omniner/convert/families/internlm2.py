"""InternLM2 and InternLM2.5.

Queries, keys and values are in one matrix `wqkv` (https://arxiv.org/abs/2403.17297, model structure). Its rows are
grouped by key-value head: [KV, Q/KV + 2, D, hidden], the group's queries, then its key, then its value.
"""

from __future__ import annotations

from typing import Any

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


def read_layout(config: Settings) -> LlamaLayout:
    """Describe a checkpoint as a Llama model, see `ModelFamily.layout`."""
    heads, groups = config.number("num_attention_heads"), config.number("num_key_value_heads")
    if heads % groups:
        found = f"{heads} attention heads cannot share {groups} key-value heads"
        raise UserError(config.path, found, "Repair num_key_value_heads.")
    bias = bool(config.get("bias", False))
    written = llama_config(config, groups) | {
        "rope_theta": config.real("rope_theta"),
        "rope_scaling": read_rope_scaling(config),
        "attention_bias": bias,
    }
    size, depth = written["hidden_size"], written["head_dim"]
    per_group, parts = heads // groups, ["weight", "bias"] if bias else ["weight"]
    rules = [same("model.embed_tokens.weight", (written["vocab_size"], size), "model.tok_embeddings.weight")]
    for layer in range(written["num_hidden_layers"]):
        to, old = f"model.layers.{layer}", f"model.layers.{layer}"
        for part in parts:
            rest = (size,) if part == "weight" else ()
            fused, packed = f"{old}.attention.wqkv.{part}", (groups * (per_group + 2) * depth, *rest)
            for name, start, count in (("q", 0, per_group), ("k", per_group, 1), ("v", per_group + 1, 1)):
                take = take_grouped(groups, per_group + 2, start, start + count)
                shape = (groups * count * depth, *rest)
                rules.append(Rule(f"{to}.self_attn.{name}_proj.{part}", shape, fused, packed, take))
            rules.append(same(f"{to}.self_attn.o_proj.{part}", (size, *rest), f"{old}.attention.wo.{part}"))
        names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
        rules += feed_forward_rules(written, to, {new: f"{old}.feed_forward.{name}" for new, name in names.items()})
        rules.append(same(f"{to}.input_layernorm.weight", (size,), f"{old}.attention_norm.weight"))
        rules.append(same(f"{to}.post_attention_layernorm.weight", (size,), f"{old}.ffn_norm.weight"))
    rules.append(same("model.norm.weight", (size,), "model.norm.weight"))
    rules.append(same("lm_head.weight", (written["vocab_size"], size), "output.weight"))
    return LlamaLayout("InternLM2", written, tuple(rules), add_bos=True)


def read_rope_scaling(config: Settings) -> dict[str, Any] | None:
    """Read `rope_scaling` under Llama's names; linear and dynamic (NTK) scaling use the same formulas there."""
    given = config.get("rope_scaling")
    if given is None:
        return None
    kind = given.get("rope_type", given.get("type")) if isinstance(given, dict) else None
    factor = given.get("factor") if isinstance(given, dict) else None
    if kind not in ("linear", "dynamic") or not isinstance(factor, int | float) or factor < 1:
        raise UserError(config.path, f"rope_scaling is {given!r}", "It must be linear or dynamic, with a factor.")
    return {"rope_type": kind, "factor": float(factor)}


def take_grouped(groups: int, members: int, start: int, end: int) -> Take:
    """Return a function that takes members `start` to `end` of each group of rows of [groups * members * D, ...]."""
    return lambda tensor: tensor.reshape(groups, members, -1, *tensor.shape[1:])[:, start:end].flatten(0, 2)


FAMILY = ModelFamily(name="internlm2", meaning=first_line(__doc__), layout=read_layout)
