"""Compute the row-wise parts of a decoder layer, in fewer passes over memory than transformers.

Besides its products a layer of Llama's kind scales rows (RMSNorm) and gates a feed-forward pass (SwiGLU). As single
operations, each of them passes over wide arrays several times, through fp32, and autograd keeps the intermediate
results. Here each is one operation with its own backward pass: it keeps its inputs and recomputes intermediate results,
and on a CPU it processes some rows at a time, so that they stay in the caches. Gate and up are computed together if
both have adapters (`low_rank.project`).

`FusedLayers` replaces the `forward` of the modules that it knows; others are unchanged. Values equal the original up to
rounding in the compute precision. `attention_probe` compares whole models with transformers' results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from omniner.llm.low_rank import project

_FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")  # families whose parts have this form, in transformers
_CHUNK = 2**18  # numbers that a CPU processes at a time


class FusedLayers:
    """Replace the known parts of a causal model.

    Args:
        base: `PreTrainedModel`.
    """

    def __init__(self, base: nn.Module) -> None:
        self._exchanged: list[nn.Module] = []
        for module in base.modules():
            forward = fused_forward(module)
            if forward is not None and "forward" not in vars(module):
                vars(module)["forward"] = forward(module)
                self._exchanged.append(module)

    def remove(self) -> None:
        """Restore the modules' own `forward`."""
        for module in self._exchanged:
            vars(module).pop("forward", None)


def fused_forward(module: Any) -> type[GatedForward | NormForward] | None:
    """Return the replacement of a module's `forward`; None for a module of an unknown kind."""
    from transformers.activations import ACT2FN

    name = type(module).__name__
    if name in [f"{family}RMSNorm" for family in _FAMILIES]:
        return NormForward
    if name in [f"{family}MLP" for family in _FAMILIES] and isinstance(module.act_fn, type(ACT2FN["silu"])):
        return GatedForward
    return None


class GatedForward:
    """Replaces the `forward` of a feed-forward module with a gate."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        """Compute down(silu(gate(x)) * up(x)): [..., D] to [..., D]."""
        gate, up = project(x, [self.module.gate_proj, self.module.up_proj])
        out: Tensor = self.module.down_proj(_Gated.apply(gate, up))  # type: ignore[no-untyped-call]
        return out


class NormForward:
    """Replaces the `forward` of an RMSNorm."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        """Divide rows by their root mean square, and multiply them by the weights: [..., D] to [..., D]."""
        out: Tensor = _RMSNorm.apply(x, self.module.weight, self.module.variance_epsilon)  # type: ignore[no-untyped-call]
        return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out = up.new_empty(up.shape)
        for rows in row_chunks(gate):
            torch.mul(silu(_rows(gate)[rows]), _rows(up)[rows], out=_rows(out)[rows])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        by_gate, by_up = gate.new_empty(gate.shape), up.new_empty(up.shape)
        for rows in row_chunks(gate):
            given, here = _rows(grad)[rows], _rows(gate)[rows]
            torch.mul(given, silu(here), out=_rows(by_up)[rows])
            _rows(by_gate)[rows] = torch.ops.aten.silu_backward(given * _rows(up)[rows], here)
        return by_gate, by_up


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            out = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype))
            factors = x.new_empty(x.numel() // x.shape[-1], 1, dtype=wide)
            for rows in row_chunks(x):
                here = _rows(x)[rows].to(wide)
                factor = here.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
                factors[rows] = factor
                torch.mul(weight, (here * factor).to(x.dtype), out=_rows(out)[rows])
        ctx.save_for_backward(x, weight, factors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factors = ctx.saved_tensors
        by_input = x.new_empty(x.shape)
        by_weight = torch.zeros(weight.shape, dtype=factors.dtype, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            for rows in row_chunks(x):
                factor, given = factors[rows], _rows(grad)[rows]
                normed = _rows(x)[rows].to(factors.dtype) * factor
                if ctx.needs_input_grad[1]:
                    by_weight += (given * normed).sum(0)
                scaled = (given * weight).to(factors.dtype)
                mean = (scaled * normed).mean(-1, keepdim=True)
                _rows(by_input)[rows] = scaled.sub_(normed.mul_(mean)).mul_(factor).to(x.dtype)
        return by_input, by_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None, None


def row_chunks(x: Tensor) -> Iterator[slice]:
    """Split the rows of [..., D] into runs that fit a CPU's caches; on other devices, one run."""
    count = x.numel() // x.shape[-1]
    step = max(1, _CHUNK // x.shape[-1]) if has_caches(x) else count
    return (slice(first, first + step) for first in range(0, count, max(1, step)))


def has_caches(x: Tensor) -> bool:
    """Return whether a CPU computes with a tensor."""
    # A fake tensor stands for a GPU's when memory is counted, and counting in pieces would take ten times as long.
    return x.device.type == "cpu" and not isinstance(x, FakeTensor)


def _rows(x: Tensor) -> Tensor:
    """View [..., D] as rows; a tensor to be written to must be contiguous."""
    return x.reshape(-1, x.shape[-1])
