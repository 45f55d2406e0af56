"""Attention of a pack on CUDA: two calls of PyTorch's flash kernel, merged by their log-sum-exp, with an own backward.

In come queries, keys and values of a whole pack, in fp16 or bf16 (the kernel has no fp32). One causal call for rows of
several sequences: the prefix is the first, each suffix one more. One call without a mask: all suffixes to the prefix.
A suffix's two results are merged as in `attention_cascade`; in the backward pass the same kernels get the merged
result and the merged sum, from which they recompute the exact probabilities. No keys or scores are copied or stored.

The kernel is called beneath autograd (`torch.ops.aten`), since nothing public returns the log-sum-exp in all versions.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from omniner.encoding.packs import Pack
from omniner.models.attention import Backend

_forward = torch.ops.aten._flash_attention_forward
_backward = torch.ops.aten._flash_attention_backward


class _Call(NamedTuple):
    """Which rows attend to which.

    Attributes:
        queries, keys: int32 [n + 1], where each of n sequences begins, and where the last ends.
        longest_query, longest_key: lengths.
        causal: whether row i of a sequence sees keys up to i, or all.
    """

    queries: Tensor
    keys: Tensor
    longest_query: int
    longest_key: int
    causal: bool


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """As `attention.Attend` says."""
    out: Tensor = _Flash.apply(query, key, value, scale, pack)  # type: ignore[no-untyped-call]
    return out


def _calls(pack: Pack) -> tuple[_Call, _Call]:
    """Each sequence to itself, and all suffixes to the prefix."""

    def ends(*lengths: int) -> Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=pack.ids.device)

    sequences = [pack.prefix, *pack.lengths]
    itself = ends(*sequences)
    suffixes = sum(pack.lengths)
    # one query alone would be taken for a step of decoding, with another layout of the sums: never say 1
    return (
        _Call(itself, itself, max(2, *sequences), max(sequences), causal=True),
        _Call(ends(suffixes), ends(pack.prefix), max(2, suffixes), pack.prefix, causal=False),
    )


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack) -> Tensor:
        q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # [T, heads, D]
        prefix = pack.prefix
        itself, to_prefix = pack.once("flash", _calls)
        out, total, *state = _attention(q, k, v, itself, scale)
        part, sums, *_ = _attention(q[prefix:], k[:prefix], v[:prefix], to_prefix, scale)
        share = torch.sigmoid(sums - total[:, prefix:]).t()[..., None]  # [M, H, 1]
        own = out[prefix:].float()
        out[prefix:] = own.lerp_(part.float(), share)
        total[:, prefix:] = torch.logaddexp(total[:, prefix:], sums)
        ctx.save_for_backward(query, key, value, out, total, *state)
        ctx.scale, ctx.pack = scale, pack
        return out[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total, *state = ctx.saved_tensors
        q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
        prefix, d_out = ctx.pack.prefix, grad[0].contiguous()
        itself, to_prefix = ctx.pack.once("flash", _calls)
        dq, dk, dv = _gradients(d_out, q, k, v, out, total, itself, ctx.scale, state)
        given = d_out[prefix:], q[prefix:], k[:prefix], v[:prefix], out[prefix:], total[:, prefix:].contiguous()
        by_query, by_key, by_value = _gradients(*given, to_prefix, ctx.scale, state)
        dq[prefix:] += by_query
        dk[:prefix] += by_key
        dv[:prefix] += by_value
        return *(each.transpose(0, 1)[None] for each in (dq, dk, dv)), None, None


def _attention(q: Tensor, k: Tensor, v: Tensor, call: _Call, scale: float) -> tuple[Tensor, ...]:
    """Result [T, H, D], log-sums [H, T], and the kernel's random state (two tensors, unused without dropout)."""
    given = q, k, v, call.queries, call.keys, call.longest_query, call.longest_key
    out, sums, *state, _ = _forward(*given, 0.0, call.causal, False, scale=scale)
    if sums.shape != (q.shape[1], q.shape[0]):
        raise RuntimeError(f"this version's log-sums have the shape {tuple(sums.shape)}, not [heads, tokens]")
    return out, sums, *state


def _gradients(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, call: _Call, scale: float, state: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by q, k and v of one call, whose result and log-sums are those merged with another's."""
    lengths = call.queries, call.keys, call.longest_query, call.longest_key
    dq, dk, dv = _backward(d_out, q, k, v, out, total, *lengths, 0.0, call.causal, *state, scale=scale)
    return dq, dk, dv


BACKEND = Backend(attend, "cuda", (torch.float16, torch.bfloat16))
