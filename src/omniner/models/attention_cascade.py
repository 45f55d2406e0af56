"""Attention of a pack on a CPU: kernels without a mask, merged by their log-sum-exp, with an own backward.

In come queries, keys and values of a whole pack. Three kinds of calls of PyTorch's CPU flash kernel, which needs no
scores in memory: the prefix to itself (causal), all suffixes to the prefix (everything is visible, so one call), and
suffixes to themselves (causal), one call for each run of equal lengths. A suffix's two results, with the logarithms
l1 and l2 of their softmax sums, are those of one softmax over both: weights sigmoid(l1 - l2) and sigmoid(l2 - l1), sum
log(e^l1 + e^l2). In the backward pass the same kernels get the merged result and the merged sum, from which they
recompute the exact probabilities.

Little is copied but keys and values of the suffixes: the kernel takes strides, so query heads that share a key head
read one copy of the prefix, and a run of equal lengths is a view. Where nobody reads the prefix's rows (last layer),
only rows that predict attend to the prefix; the others hold their own part alone.
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


def _rows(grouped: Tensor) -> Tensor:
    """[G, H / G, T, D] as [T, H, D], or [G, H / G, T] as [T, H]."""
    return grouped.movedim(2, 0).flatten(1, 2)


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
        q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # [T, heads, D]
        prefix, shared = pack.prefix, q.shape[1] // k.shape[1]
        out = q.new_zeros(q.shape)
        total = q.new_full(q.shape[:2], -torch.inf, dtype=torch.promote_types(q.dtype, torch.float32))
        kp, vp = (_groups(each[:prefix], k.shape[1], shared) for each in (k, v))
        for rows, causal in _queries(pack, prefix_unused):
            part, sums = _forward(_groups(q[rows], k.shape[1], shared), kp, vp, 0.0, causal, scale=scale)
            out[rows], total[rows] = _rows(part), _rows(sums)
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
        q, k, v, d_out = (each[0].transpose(0, 1) for each in (query, key, value, grad.contiguous().transpose(1, 2)))
        prefix, groups, scale, pack = ctx.pack.prefix, k.shape[1], ctx.scale, ctx.pack
        shared = q.shape[1] // groups
        dq, dk, dv = (each.new_zeros(each.shape) for each in (q, k, v))
        kp, vp = (_groups(each[:prefix], groups, shared) for each in (k, v))
        for rows, causal in _queries(pack, ctx.prefix_unused):
            d, queries, result = (_groups(each[rows], groups, shared) for each in (d_out, q, out))
            sums = _groups(total[rows][..., None], groups, shared)[..., 0]
            by_query, by_key, by_value = _backward(d, queries, kp, vp, result, sums, 0.0, causal, scale=scale)
            dq[rows] = _rows(by_query)
            dk[:prefix] += by_key.sum(1).transpose(0, 1)
            dv[:prefix] += by_value.sum(1).transpose(0, 1)
        own = d_out[prefix:], q[prefix:], _repeated(k[prefix:], shared), _repeated(v[prefix:], shared), out[prefix:]
        for run in pack.once("runs", _runs):
            given = *(_batch(each, run) for each in own), _batch(total[prefix:], run)
            by_query, by_key, by_value = _backward(*given, 0.0, True, scale=scale)
            _batch(dq[prefix:], run).add_(by_query)
            _batch(dk[prefix:], run).copy_(_summed(by_key, groups))
            _batch(dv[prefix:], run).copy_(_summed(by_value, groups))
        return *(each.transpose(0, 1)[None] for each in (dq, dk, dv)), None, None, None


def _queries(pack: Pack, prefix_unused: bool) -> list[tuple[slice | Tensor, bool]]:
    """Rows that attend to the prefix, and whether causally: itself and all suffixes, or only what is read."""
    if prefix_unused:
        return [(pack.keep, False)]
    return [(slice(0, pack.prefix), True), (slice(pack.prefix, None), False)]


def _merge(out: Tensor, total: Tensor, part: Tensor, sums: Tensor) -> None:
    """Merge the results [N, H, S, D] and log-sums [N, H, S] of further keys into those so far, in place."""
    share = torch.sigmoid(sums - total)[..., None]
    out.copy_(torch.lerp(out.to(share.dtype), part.to(share.dtype), share))
    torch.logaddexp(total, sums, out=total)


BACKEND = Backend(attend, "cpu", (torch.bfloat16, torch.float32, torch.float64))
