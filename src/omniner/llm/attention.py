"""What an attention back-end for packs is; each has a module of its own, `attention_<name>`.

Attention of a pack by one mask: the plain reference that every other back-end is compared with.

In come queries, keys and values of a whole pack; PyTorch's own attention computes all T x T scores and a mask [T, T]
keeps what may be seen. Runs anywhere. The price: scores of suffixes against each other are computed and thrown away,
keys are repeated for the query heads that share them, and on CUDA a mask rules out the fastest kernels.

Attention of a pack on a CPU: kernels without a mask, merged by their log-sum-exp, with an own backward.

In come queries, keys and values of a whole pack. Three kinds of calls of PyTorch's CPU flash kernel, which needs no
scores in memory: the prefix to itself (causal), all suffixes to the prefix (everything is visible, so one call), and
suffixes to themselves (causal), one call for each run of equal lengths. A suffix's two results, with the logarithms
l1 and l2 of their softmax sums, are those of one softmax over both: weights sigmoid(l1 - l2) and sigmoid(l2 - l1), sum
log(e^l1 + e^l2). In the backward pass the same kernels get the merged result and the merged sum, from which they
recompute the exact probabilities.

Little is copied but keys and values of the suffixes: the kernel takes strides, so query heads that share a key head
read one copy of the prefix, and a run of equal lengths is a view. Where nobody reads the prefix's rows (last layer),
only rows that predict attend to the prefix; the others hold their own part alone.

Attention of a pack on CUDA: two calls of PyTorch's flash kernel, merged by their log-sum-exp, with an own backward.

In come queries, keys and values of a whole pack, in fp16 or bf16 (the kernel has no fp32). One causal call for rows of
several sequences: the prefix is the first, each suffix one more. One call without a mask: all suffixes to the prefix.
A suffix's two results are merged as in `attention_cascade`; in the backward pass the same kernels get the merged
result and the merged sum, from which they recompute the exact probabilities. No keys or scores are copied or stored.

The kernel is called beneath autograd (`torch.ops.aten`), since nothing public returns the log-sum-exp in all versions.

Attention of a pack on CUDA by `flex_attention`: one generated kernel that skips what no row may see.

In come queries, keys and values of a whole pack, in any precision. The pattern is told as a function of two places; of
its blocks of 128 x 128, those that are empty are skipped and those that are full need no mask. Compiled once for all
lengths. The price: a compiler (Triton) and half a minute at the start; and the pattern of a pack is found by looking at
all T x T places once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import accumulate, groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from omniner.llm.packs import Pack


class AttentionFunction(Protocol):
    """Attention of a whole pack: each row sees the prefix and its own suffix, up to itself."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool
    ) -> Tensor:
        """Result [1, T, H, D] of query [1, H, T, D], key and value [1, G, T, D], all of one type, G dividing H.

        Query head h reads key head h // (H / G). With `prefix_unused` nobody reads the rows of the prefix, which may
        then hold anything finite.
        """


class AttentionBackend(NamedTuple):
    """A way to compute attention, and where it can run.

    Attributes:
        attend: computes it, with gradients.
        device: the only type of device it runs on; None = any.
        dtypes: precisions it takes.
    """

    attend: AttentionFunction
    device: str | None
    dtypes: tuple[torch.dtype, ...]


def attend_masked(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """As `attention.Attend` says."""
    shared = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(shared, 1) for each in (key, value))
    mask = pack.once("mask", visible)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def visible(pack: Pack) -> Tensor:
    """Bool [T, T]: row i may see column j, which stands before it in the prefix or in its own suffix."""
    segments = pack.segments()
    places = torch.arange(len(segments), device=segments.device)
    causal = places[:, None] >= places
    return causal & ((segments == 0) | (segments[:, None] == segments))


MASKED = AttentionBackend(attend_masked, None, (torch.float16, torch.bfloat16, torch.float32, torch.float64))


_cascade_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_cascade_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_cascade(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
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
            part, sums = _cascade_forward(_groups(q[rows], k.shape[1], shared), kp, vp, 0.0, causal, scale=scale)
            out[rows], total[rows] = _rows(part), _rows(sums)
        qs, ks, vs = q[prefix:], _repeated(k[prefix:], shared), _repeated(v[prefix:], shared)
        for run in pack.once("runs", _runs):
            part, sums = _cascade_forward(*(_batch(each, run) for each in (qs, ks, vs)), 0.0, True, scale=scale)
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
            by_query, by_key, by_value = _cascade_backward(d, queries, kp, vp, result, sums, 0.0, causal, scale=scale)
            dq[rows] = _rows(by_query)
            dk[:prefix] += by_key.sum(1).transpose(0, 1)
            dv[:prefix] += by_value.sum(1).transpose(0, 1)
        own = d_out[prefix:], q[prefix:], _repeated(k[prefix:], shared), _repeated(v[prefix:], shared), out[prefix:]
        for run in pack.once("runs", _runs):
            given = *(_batch(each, run) for each in own), _batch(total[prefix:], run)
            by_query, by_key, by_value = _cascade_backward(*given, 0.0, True, scale=scale)
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


CASCADE = AttentionBackend(attend_cascade, "cpu", (torch.bfloat16, torch.float32, torch.float64))


_flash_forward = torch.ops.aten._flash_attention_forward
_flash_backward = torch.ops.aten._flash_attention_backward


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


def attend_flash(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
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
    out, sums, *state, _ = _flash_forward(*given, 0.0, call.causal, False, scale=scale)
    if sums.shape != (q.shape[1], q.shape[0]):
        raise RuntimeError(f"this version's log-sums have the shape {tuple(sums.shape)}, not [heads, tokens]")
    return out, sums, *state


def _gradients(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, call: _Call, scale: float, state: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by q, k and v of one call, whose result and log-sums are those merged with another's."""
    lengths = call.queries, call.keys, call.longest_query, call.longest_key
    dq, dk, dv = _flash_backward(d_out, q, k, v, out, total, *lengths, 0.0, call.causal, *state, scale=scale)
    return dq, dk, dv


FLASH = AttentionBackend(attend_flash, "cuda", (torch.float16, torch.bfloat16))


def attend_flex(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """As `attention.Attend` says."""
    rows = [each.contiguous() for each in (query, key, value)]
    pattern = pack.once("flex", block_mask)
    return _kernel()(*rows, block_mask=pattern, scale=scale, enable_gqa=True).transpose(1, 2)


def block_mask(pack: Pack) -> Any:
    """The pattern as `flex_attention` takes it (a `BlockMask`)."""
    from torch.nn.attention.flex_attention import create_block_mask

    segments = pack.segments()

    def visible(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (row >= column) & ((segments[column] == 0) | (segments[row] == segments[column]))

    tokens = len(pack.ids)
    return create_block_mask(visible, None, None, tokens, tokens, device=segments.device)


@cache
def _kernel() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled


FLEX = AttentionBackend(attend_flex, "cuda", (torch.float16, torch.bfloat16, torch.float32))


ATTENTION_BACKENDS: dict[str, AttentionBackend] = {  # the fastest first
    "flash": FLASH,
    "cascade": CASCADE,
    "flex": FLEX,
    "masked": MASKED,
}
