"""Small models whose adapters do something: their losses and gradients, and peft's own way to compute them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import small_causal
import torch
from small_causal import loss, sample
from torch import Tensor, nn

Learnt = tuple[float, dict[str, Tensor]]


def build(method: str, dtype: torch.dtype = torch.float32, **changes: Any) -> small_causal.CausalModel:
    """A small model whose adapters do something."""
    causal = small_causal.build(method, dtype=dtype, **changes)
    torch.manual_seed(5)
    for name, value in causal.model.named_parameters():
        if "lora_B" in name:
            value.data.normal_(std=0.05)
    return causal


@contextmanager
def peft_alone(model: nn.Module) -> Iterator[None]:
    """Let the layers compute as peft has them."""
    quick = {module: vars(module).pop("forward") for module in model.modules() if "forward" in vars(module)}
    assert quick
    try:
        yield
    finally:
        for module, forward in quick.items():
            vars(module)["forward"] = forward


def learn(causal: small_causal.CausalModel, mixed: bool = False) -> Learnt:
    """Loss and gradients of one example."""
    causal.model.zero_grad()
    torch.manual_seed(11)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        value = loss(causal.model, sample(causal))
    value.backward()
    found = {name: weight.grad for name, weight in causal.model.named_parameters() if weight.requires_grad}
    assert all(grad is not None and grad.any() for grad in found.values())
    return value.item(), {name: grad.double() for name, grad in found.items() if grad is not None}


def distance(got: Learnt, want: Learnt) -> float:
    """The largest relative difference of the loss and of the gradients."""
    errors = [abs(got[0] - want[0]) / abs(want[0])]
    return max(errors + [float((got[1][name] - want[1][name]).norm() / want[1][name].norm()) for name in want[1]])
