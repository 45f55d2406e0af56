"""Tiny checkpoints in the published layouts of InternLM2 and Baichuan2, and what those models compute.

The forward passes are written from the models' definitions, one head and one rotated pair at a time, and share nothing
with the converter.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WORDS = 320
INTERNLM2: dict[str, Any] = {
    "architectures": ["InternLM2ForCausalLM"],
    "attn_implementation": "eager",
    "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
    "bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 48,
    "initializer_range": 0.02,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "model_type": "internlm2",
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": WORDS,
    "pretraining_tp": 1,
}
BAICHUAN2: dict[str, Any] = {
    "architectures": ["BaichuanForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 48,
    "initializer_range": 0.02,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "model_max_length": 64,
    "model_type": "baichuan",
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": WORDS,
    "z_loss_weight": 0,
}


def internlm2_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of the published checkpoints."""
    size, inner = config["hidden_size"], config["intermediate_size"]
    depth = size // config["num_attention_heads"]
    packed = (config["num_attention_heads"] + 2 * config["num_key_value_heads"]) * depth
    shapes: dict[str, tuple[int, ...]] = {"model.tok_embeddings.weight": (config["vocab_size"], size)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.attention.wqkv.weight": (packed, size),
            f"{prefix}.attention.wo.weight": (size, size),
            f"{prefix}.feed_forward.w1.weight": (inner, size),
            f"{prefix}.feed_forward.w2.weight": (size, inner),
            f"{prefix}.feed_forward.w3.weight": (inner, size),
            f"{prefix}.attention_norm.weight": (size,),
            f"{prefix}.ffn_norm.weight": (size,),
        }
        if config["bias"]:
            shapes |= {f"{prefix}.attention.wqkv.bias": (packed,), f"{prefix}.attention.wo.bias": (size,)}
    shapes |= {"model.norm.weight": (size,), "output.weight": (config["vocab_size"], size)}
    return _random(shapes, seed)


def baichuan2_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the names of the published checkpoints."""
    size, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], size)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.W_pack.weight": (3 * size, size),
            f"{prefix}.self_attn.o_proj.weight": (size, size),
            f"{prefix}.mlp.gate_proj.weight": (inner, size),
            f"{prefix}.mlp.up_proj.weight": (inner, size),
            f"{prefix}.mlp.down_proj.weight": (size, inner),
            f"{prefix}.input_layernorm.weight": (size,),
            f"{prefix}.post_attention_layernorm.weight": (size,),
        }
    shapes |= {"model.norm.weight": (size,), "lm_head.weight": (config["vocab_size"], size)}
    return _random(shapes, seed)


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator) * 0.3
        weights[name] = 1 + value if name.endswith("norm.weight") else value
    return weights


def internlm2_logits(weights: dict[str, Tensor], config: dict[str, Any], ids: Sequence[int]) -> Tensor:
    """Logits [T, V] of the InternLM2 definition."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    depth, share = config["hidden_size"] // heads, heads // groups
    base, factor, limit = float(config["rope_theta"]), 1.0, config["max_position_embeddings"]
    scaling = config["rope_scaling"]
    if scaling and scaling["type"] == "linear":
        factor = scaling["factor"]
    elif scaling and len(ids) > limit:  # NTK: a larger base where the text is longer than those of training
        base *= (scaling["factor"] * len(ids) / limit - (scaling["factor"] - 1)) ** (depth / (depth - 2))
    x = weights["model.tok_embeddings.weight"][list(ids)]
    for layer in range(config["num_hidden_layers"]):
        part = {n.removeprefix(f"model.layers.{layer}."): w for n, w in weights.items() if f".layers.{layer}." in n}
        h = _rms(x, part["attention_norm.weight"], config["rms_norm_eps"])
        mixed = h @ part["attention.wqkv.weight"].T
        if config["bias"]:
            mixed = mixed + part["attention.wqkv.bias"]
        query, key, value = [], [], []
        for group in range(groups):
            start = group * (share + 2) * depth
            columns = [mixed[:, start + i * depth : start + (i + 1) * depth] for i in range(share + 2)]
            query += columns[:share]
            key += [columns[share]] * share
            value += [columns[share + 1]] * share
        out = _attend(query, key, value, base, factor) @ part["attention.wo.weight"].T
        x = x + (out + part["attention.wo.bias"] if config["bias"] else out)
        h = _rms(x, part["ffn_norm.weight"], config["rms_norm_eps"])
        gate, up = h @ part["feed_forward.w1.weight"].T, h @ part["feed_forward.w3.weight"].T
        x = x + (gate * torch.sigmoid(gate) * up) @ part["feed_forward.w2.weight"].T
    return _rms(x, weights["model.norm.weight"], config["rms_norm_eps"]) @ weights["output.weight"].T


def baichuan2_logits(weights: dict[str, Tensor], config: dict[str, Any], ids: Sequence[int]) -> Tensor:
    """Logits [T, V] of the Baichuan2-7B definition."""
    heads, size = config["num_attention_heads"], config["hidden_size"]
    depth = size // heads
    x = weights["model.embed_tokens.weight"][list(ids)]
    for layer in range(config["num_hidden_layers"]):
        part = {n.removeprefix(f"model.layers.{layer}."): w for n, w in weights.items() if f".layers.{layer}." in n}
        h = _rms(x, part["input_layernorm.weight"], config["rms_norm_eps"])
        packed = h @ part["self_attn.W_pack.weight"].T
        query, key, value = (
            [packed[:, at + i * depth : at + (i + 1) * depth] for i in range(heads)] for at in (0, size, 2 * size)
        )
        x = x + _attend(query, key, value, 10000.0, 1.0) @ part["self_attn.o_proj.weight"].T
        h = _rms(x, part["post_attention_layernorm.weight"], config["rms_norm_eps"])
        gate, up = h @ part["mlp.gate_proj.weight"].T, h @ part["mlp.up_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * up) @ part["mlp.down_proj.weight"].T
    head = weights["lm_head.weight"]
    head = torch.stack([row / row.pow(2).sum().sqrt() for row in head])
    return _rms(x, weights["model.norm.weight"], config["rms_norm_eps"]) @ head.T


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def _rotate(x: Tensor, base: float, factor: float) -> Tensor:
    """Rotary positions: the pair (i, i + D/2) of [T, D] turned by position * base^(-2i/D)."""
    length, depth = x.shape
    turned = torch.empty_like(x)
    for i in range(depth // 2):
        angle = torch.arange(length) / factor * base ** (-2 * i / depth)
        a, b = x[:, i], x[:, i + depth // 2]
        turned[:, i] = a * angle.cos() - b * angle.sin()
        turned[:, i + depth // 2] = b * angle.cos() + a * angle.sin()
    return turned


def _attend(query: list[Tensor], key: list[Tensor], value: list[Tensor], base: float, factor: float) -> Tensor:
    heads = []
    for q, k, v in zip(query, key, value, strict=True):
        scores = _rotate(q, base, factor) @ _rotate(k, base, factor).T / q.shape[1] ** 0.5
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        heads.append(scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v)
    return torch.cat(heads, dim=1)


def write_checkpoint(
    folder: Path, config: dict[str, Any], weights: dict[str, Tensor], files: int = 1, pickled: bool = False
) -> Path:
    """A checkpoint folder as published; `files` > 1 deals the tensors out to several files with an index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    name, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    names = list(weights)
    parts = [names[i::files] for i in range(files)]
    places = {}
    for number, part in enumerate(parts, 1):
        file = f"{name}.{suffix}" if files == 1 else f"{name}-{number:05d}-of-{files:05d}.{suffix}"
        content = {key: weights[key] for key in part}
        if pickled:
            torch.save(content, folder / file)
        else:
            save_file(content, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    if files > 1:
        index = {"metadata": {}, "weight_map": places}
        (folder / f"{name}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of three control tokens, 256 bytes and a few characters, under WORDS pieces."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(text, -float(i), 1) for i, text in enumerate(("▁", "a", "b", "北", "京", "ab", "北京"))]
    # Reserved ids are where Baichuan2 has them: a byte's place is taken.
    pieces[195], pieces[196] = ("<reserved_106>", 0.0, 4), ("<reserved_107>", 0.0, 4)
    pieces += [("<0xC0>", 0.0, 6), ("<0xC1>", 0.0, 6)]
    (folder / "tokenizer.model").write_bytes(piece_file(pieces))
    settings = {
        "tokenizer_class": "PublishedTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization.PublishedTokenizer", None]},
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "single_word": True},
        "unk_token": "<unk>",
        "pad_token": "</s>",
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def piece_file(pieces: Sequence[tuple[str, float, int]]) -> bytes:
    """The bytes of a SentencePiece BPE model with byte fallback that takes texts as they are."""

    def message(number: int, content: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(content)) + content

    def flag(number: int, value: int) -> bytes:
        return _varint(number << 3) + _varint(value)

    data = b""
    for text, score, kind in pieces:
        data += message(1, message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + flag(3, kind))
    data += message(2, flag(3, 2) + flag(35, 1))
    return data + message(3, message(1, b"identity") + flag(3, 0) + flag(4, 0) + flag(5, 1))


def _varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])
