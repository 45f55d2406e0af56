"""Tiny causal models, samples that share a prefix, and the slow twin of packs: one plain forward pass per sample."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

VOCABULARY = 97
SHAPES = {"gqa": (4, 2), "mha": (4, 4), "mqa": (4, 1)}


def model(kind: str = "qwen2", shape: str = "gqa", layers: int = 3, **options: Any) -> Any:
    """A tiny random model of transformers with biases and norms that matter."""
    import transformers

    heads, groups = SHAPES[shape]
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": kind == "qwen2",
    }
    config = transformers.AutoConfig.for_model(kind, **settings | options)
    torch.manual_seed(3)
    made = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.2)
            if "norm" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    return made.train()


def samples(count: int, prefix: int = 23, seed: int = 0, sizes: list[tuple[int, int]] | None = None) -> list[Any]:
    """Ragged samples, or of the given sizes: tokens of the prompt after the prefix, and of the answer.

    Of ragged ones, the first has one of each.
    """
    chance = random.Random(seed)
    common = tokens(chance, prefix)
    sizes = sizes or [(1, 1)] + [(chance.randint(1, 9), chance.randint(1, 13)) for _ in range(count - 1)]
    return [
        SimpleNamespace(id=f"s{i}", prompt=common + tokens(chance, rest), answer=tokens(chance, answer))
        for i, (rest, answer) in enumerate(sizes)
    ]


def tokens(chance: random.Random, count: int) -> list[int]:
    return [chance.randrange(VOCABULARY) for _ in range(count)]


def separate_loss(made: Any, items: list[Any]) -> Tensor:
    """Sum of the losses of the answers, one sample at a time, by the model as transformers has it."""
    total = torch.zeros(())
    for item in items:
        logits = made(input_ids=torch.tensor([item.prompt + item.answer]), use_cache=False).logits[0].float()
        total = total + cross_entropy(logits[len(item.prompt) - 1 : -1], torch.tensor(item.answer), reduction="sum")
    return total


def gradients(made: Any, loss: Tensor) -> dict[str, Tensor]:
    """Gradients by parameter name; the model's own are cleared."""
    made.zero_grad()
    loss.backward()
    found = {name: weight.grad.double() for name, weight in made.named_parameters() if weight.grad is not None}
    made.zero_grad()
    return found


def assert_same(
    got: tuple[Tensor, dict[str, Tensor]], want: tuple[Tensor, dict[str, Tensor]], tolerance: float
) -> None:
    """Loss and every gradient agree, each relative to its own size."""
    assert abs(got[0].item() - want[0].item()) <= tolerance * abs(want[0].item())
    assert set(got[1]) == set(want[1])
    for name, expected in want[1].items():
        error = (got[1][name] - expected).norm() / expected.norm().clamp_min(1e-12)
        assert error <= tolerance, f"{name}: {error:.1e}"
