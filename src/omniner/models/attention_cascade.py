"""Attention of a pack on a CPU: kernels without a mask, merged by their log-sum-exp, with an own backward.

In come queries, keys and values of a whole pack. Three kinds of calls of PyTorch's CPU flash kernel, which needs no
scores in memory: the prefix to itself (causal), all suffixes to the prefix (everything is visible, so one call), and
suffixes to themselves (causal), one call for each run of equal lengths. A suffix's two results, with the logarithms
l1 and l2 of their softmax sums, are those of one softmax over both: weights sigmoid(l1 - l2) and sigmoid(l2 - l1), sum
log(e^l1 + e^l2). In the backward pass the same kernels get the merged result and the merged sum, from which they
recompute the exact probabilities.

Nothing but K/V of the suffixes is copied: the kernel takes strides, so query heads that share a key head read one
copy, and a run of equal lengths is a view.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from omniner.encoding.packs import Pack
from omniner.models.attention import Backend

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """As `attention.Attend` says."""
    out: Tensor = _Cascade.apply(query, key, value, scale, pack, prefix_unused)  # type: ignore[no-untyped-call]
    return out


def _runs(pack: Pack) -> list[tuple[slice, int, int]]:
    """Suffixes of equal length side by side: places among the suffix tokens, how many suffixes, their length."""
    runs, at = [], 0
    for length, same in groupby(pack.lengths):
        count = len(list(same))
        runs.append((slice(at, at + count * length), count, length))
        at += count * length
    return runs


def _groups(rows: Tensor, groups: int, shared: int) -> Tensor:
    """[T, H, D] as [G, H / G, T, D], or [T, G, D] as the same with each head repeated; a view."""
    if rows.shape[1] == groups:
        return rows.permute(1, 0, 2)[:, None].expand(-1, shared, -1, -1)
    return rows.view(rows.shape[0], groups, shared, -1).permute(1, 2, 0, 3)


def _batch(rows: Tensor, run: tuple[slice, int, int]) -> Tensor:
    """The run's suffixes [N, H, S, D] of rows [M, H, D] (or [N, H, S] of [M, H]); a view."""
    place, count, length = run
    return rows[place].view(count, length, *rows.shape[1:]).transpose(1, 2)


def _repeated(rows: Tensor, shared: int) -> Tensor:
    """[M, G, D] as [M, H, D]."""
    return rows if shared == 1 else rows.repeat_interleave(shared, 1)


def _summed(gradient: Tensor, groups: int) -> Tensor:
    """[N, H, S, D] as [N, G, S, D], each the sum of the heads that share a key head."""
    count, heads, *rest = gradient.shape
    return gradient if heads == groups else gradient.reshape(count, groups, heads // groups, *rest).sum(2)


class _Cascade(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool
    ) -> Tensor:
        rows = [each[0].transpose(0, 1) for each in (query, key, value)]  # [T, heads, D]
        q, k, v = rows
        prefix, (heads, groups) = pack.prefix, (q.shape[1], k.shape[1])
        shared = heads // groups
        qg, kg, vg = (_groups(each, groups, shared) for each in rows)
        out, total = q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
        out_g, total_g = _groups(out, groups, shared), _groups(total[..., None], groups, shared)[..., 0]
        kp, vp = kg[:, :, :prefix], vg[:, :, :prefix]
        if prefix_unused:
            out[:prefix] = 0
        else:
            part, sums = _forward(qg[:, :, :prefix], kp, vp, 0.0, True, scale=scale)
            out_g[:, :, :prefix], total_g[:, :, :prefix] = part, sums
        part, sums = _forward(qg[:, :, prefix:], kp, vp, 0.0, False, scale=scale)
        out_g[:, :, prefix:], total_g[:, :, prefix:] = part, sums
        qs, ks, vs = q[prefix:], _repeated(k[prefix:], shared), _repeated(v[prefix:], shared)
        for run in pack.once("runs", _runs):
            part, sums = _forward(*(_batch(each, run) for each in (qs, ks, vs)), 0.0, True, scale=scale)
            _merge(_batch(out[prefix:], run), _batch(total[prefix:], run), part, sums)
        ctx.save_for_backward(query, key, value, out, total)
        ctx.scale, ctx.pack, ctx.prefix_unused = scale, pack, prefix_unused
        return out[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total = ctx.saved_tensors
        rows = [each[0].transpose(0, 1) for each in (query, key, value)]
        q, k, v = rows
        prefix, scale, (heads, groups) = ctx.pack.prefix, ctx.scale, (q.shape[1], k.shape[1])
        shared = heads // groups
        d_out = grad[0]
        dq, dk, dv = (torch.empty(each.shape, dtype=each.dtype) for each in rows)
        qg, kg, vg, og, dog, dqg = (_groups(each, groups, shared) for each in (q, k, v, out, d_out, dq))
        total_g = _groups(total[..., None], groups, shared)[..., 0]
        kp, vp = kg[:, :, :prefix], vg[:, :, :prefix]

        def part(place: slice, causal: bool) -> tuple[Tensor, Tensor]:
            """Gradients [P, G, D] of the prefix's keys and values by the queries at `place`, whose own are stored."""
            given = dog[:, :, place], qg[:, :, place], kp, vp, og[:, :, place], total_g[:, :, place]
            dqg[:, :, place], by_key, by_value = _backward(*given, 0.0, causal, scale=scale)
            return by_key.sum(1).transpose(0, 1), by_value.sum(1).transpose(0, 1)

        dk[:prefix], dv[:prefix] = part(slice(prefix, None), False)
        if ctx.prefix_unused:
            dq[:prefix] = 0
        else:
            by_key, by_value = part(slice(0, prefix), True)
            dk[:prefix] += by_key
            dv[:prefix] += by_value
        own = d_out[prefix:], q[prefix:], _repeated(k[prefix:], shared), _repeated(v[prefix:], shared), out[prefix:]
        for run in ctx.pack.once("runs", _runs):
            given = *(_batch(each, run) for each in own), _batch(total[prefix:], run)
            by_query, by_key, by_value = _backward(*given, 0.0, True, scale=scale)
            _batch(dq[prefix:], run).add_(by_query)
            _batch(dk[prefix:], run).copy_(_summed(by_key, groups))
            _batch(dv[prefix:], run).copy_(_summed(by_value, groups))
        return *(each.transpose(0, 1)[None] for each in (dq, dk, dv)), None, None, None


def _merge(out: Tensor, total: Tensor, part: Tensor, sums: Tensor) -> None:
    """Merge the results [N, H, S, D] and log-sums [N, H, S] of further keys into those so far, in place."""
    share = torch.sigmoid(sums - total)[..., None]
    out.copy_(torch.lerp(out.to(share.dtype), part.to(share.dtype), share))
    torch.logaddexp(total, sums, out=total)


BACKEND = Backend(attend, "cpu", (torch.bfloat16, torch.float32, torch.float64))
