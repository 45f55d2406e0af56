"""Compute the attention of a pack: every suffix sees the shared prefix and itself. One back-end per kind of machine.

A pack is one row of T tokens: a prefix that all sentences share, then one suffix per sentence (`packs.Pack`). Every
back-end computes the same function; they differ in where they run and in what they skip:

- `masked` is the plain reference: PyTorch's attention with a mask [T, T]. It runs anywhere, but computes scores between
  different suffixes only to discard them.
- `cascade` uses PyTorch's CPU flash kernel, which stores no scores: one causal call for the prefix, one unmasked call
  from all suffixes to the prefix, and one causal call for each run of suffixes of equal length.
- `flash` does the same on CUDA with two calls, since that kernel accepts sequences of different lengths.
- `flex` compiles one kernel (`flex_attention`) that skips empty blocks of 128 x 128 tokens. It needs Triton and half a
  minute at the start, and accepts any precision.

`cascade` and `flash` get two results for each suffix, over the prefix and over itself, with the logarithms l1 and l2 of
their softmax sums. Together these give one softmax over both: the results are weighted by sigmoid(l1 - l2) and
sigmoid(l2 - l1), and the merged sum is log(e^l1 + e^l2). The backward pass passes the merged result and the merged sum
to the same kernels, which recompute the exact probabilities from them. This is why both have their own backward pass.

A new back-end is a function like `attend_masked` and an entry in `ATTENTION_BACKENDS`.

Shapes: T tokens, of which P are prefix and M are suffix tokens; H query heads, KV key heads, D features of a head;
G = H / KV query heads share a key head: query head h uses key head h // G.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from omniner.llm.training.packs import Pack


class AttentionFunction(Protocol):
    """A function that computes the attention of a whole pack, with gradients."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool
    ) -> Tensor:
        """Attend from each row to the prefix and to its own suffix, up to itself.

        Args:
            query: [1, H, T, D].
            key: [1, KV, T, D], of the query's dtype.
            value: [1, KV, T, D], of the query's dtype.
            scale: factor of the scores.
            pack: gives the positions of the prefix and the suffixes.
            prefix_unused: whether the rows of the prefix are not read; they may then hold any finite values.

        Returns:
            [1, T, H, D].
        """


class AttentionBackend(NamedTuple):
    """A way to compute attention.

    Attributes:
        name: in `tuning.attention`.
        attend: the function.
        device: the only type of device it runs on; None = any.
        dtypes: supported precisions.
    """

    name: str
    attend: AttentionFunction
    device: str | None
    dtypes: tuple[torch.dtype, ...]


# masked: the reference


def attend_masked(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """Attend with a mask, see `AttentionFunction`."""
    group_size = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(group_size, 1) for each in (key, value))
    mask = pack.cached("mask", visible)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def visible(pack: Pack) -> Tensor:
    """Return which columns each row may see.

    Returns:
        bool [T, T]: True if column j is at or before row i, in the prefix or in the row's own suffix.
    """
    segments = pack.segments()
    places = torch.arange(len(segments), device=segments.device)
    causal = places[:, None] >= places
    return causal & ((segments == 0) | (segments[:, None] == segments))


# cascade: CPU


_cascade_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_cascade_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_cascade(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """Attend with the CPU's flash kernel, see `AttentionFunction`.

    Only keys and values of the suffixes are copied: the kernel accepts strides, so query heads that share a key head
    read one copy of the prefix, and a run of equal lengths is a view. If the prefix's rows are not read, only rows that
    predict attend to the prefix; the other rows hold only the attention to their own suffix.
    """
    out: Tensor = _Cascade.apply(query, key, value, scale, pack, prefix_unused)  # type: ignore[no-untyped-call]
    return out


class _Cascade(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool
    ) -> Tensor:
        q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # [T, heads, D]
        shared, suffixes, group_size = pack.prefix_rows, pack.suffix_rows, q.shape[1] // k.shape[1]
        out = q.new_zeros(q.shape)
        lse = q.new_full(q.shape[:2], -torch.inf, dtype=torch.promote_types(q.dtype, torch.float32))
        kp, vp = (group_heads(each[shared], k.shape[1], group_size) for each in (k, v))
        for rows, causal in rows_to_prefix(pack, prefix_unused):
            queries = group_heads(q[rows], k.shape[1], group_size)
            part, part_lse = _cascade_forward(queries, kp, vp, 0.0, causal, scale=scale)
            out[rows], lse[rows] = ungroup_heads(part), ungroup_heads(part_lse)
        qs, ks, vs = (each[suffixes] for each in (q, k, v))
        for run in pack.cached("runs", equal_lengths):
            keys, values = (run.by_key_head(each, k.shape[1]).expand(-1, group_size, -1, -1) for each in (ks, vs))
            part, part_lse = _cascade_forward(run.by_key_head(qs, k.shape[1]), keys, values, 0.0, True, scale=scale)
            of_run, lse_of_run = run.batch(out[suffixes]), run.batch(lse[suffixes])
            merge_into(of_run, lse_of_run, part.reshape(of_run.shape), part_lse.reshape(lse_of_run.shape))
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.scale, ctx.pack, ctx.prefix_unused = scale, pack, prefix_unused
        return out[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        q, k, v, d_out = (each[0].transpose(0, 1) for each in (query, key, value, grad.contiguous().transpose(1, 2)))
        kv_heads, scale, pack = k.shape[1], ctx.scale, ctx.pack
        shared, suffixes = pack.prefix_rows, pack.suffix_rows
        group_size = q.shape[1] // kv_heads
        dq, dk, dv = (each.new_zeros(each.shape) for each in (q, k, v))
        kp, vp = (each[shared].transpose(0, 1) for each in (k, v))
        for rows, causal in rows_to_prefix(pack, ctx.prefix_unused):
            d, queries, result = (group_heads(each[rows], kv_heads, group_size) for each in (d_out, q, out))
            row_lse = group_heads(lse[rows][..., None], kv_heads, group_size)[..., 0]
            by_query, by_key, by_value = cascade_gradients(d, queries, kp, vp, result, row_lse, causal, scale)
            dq[rows] = ungroup_heads(by_query)
            dk[shared] += by_key.transpose(0, 1)
            dv[shared] += by_value.transpose(0, 1)
        d_own, q_own, k_own, v_own, own, lse_own = (each[suffixes] for each in (d_out, q, k, v, out, lse))
        for run in pack.cached("runs", equal_lengths):
            d, queries, result = (run.by_key_head(each, kv_heads) for each in (d_own, q_own, own))
            keys, values = (run.by_key_head(each, kv_heads)[:, 0] for each in (k_own, v_own))
            row_lse = run.by_key_head(lse_own[..., None], kv_heads)[..., 0]
            by_query, by_key, by_value = cascade_gradients(d, queries, keys, values, result, row_lse, True, scale)
            for gradient, own_part in ((dq, by_query), (dk, by_key), (dv, by_value)):
                place = run.batch(gradient[suffixes])
                place.add_(own_part.reshape(place.shape))
        return *(each.transpose(0, 1)[None] for each in (dq, dk, dv)), None, None, None


def cascade_gradients(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of one call, with a result and `lse` that were merged with another call's.

    The kernel does this in fp32 or more. In 16 bits it takes up to five times as long as plain matrix products, which
    are fast on a CPU used with bf16.

    Args:
        d_out, q, out: [B, G, S, D], the query heads of a key head.
        k, v: [B, C, D].
        lse: [B, G, S].
        causal: whether row i sees keys up to i, or all.
        scale: factor of the scores.

    Returns:
        Gradients of q, k and v.
    """
    if q.dtype in (torch.float16, torch.bfloat16):
        return product_gradients(d_out, q, k, v, out, lse, causal, scale)
    keys, values = (each[:, None].expand(-1, q.shape[1], -1, -1) for each in (k, v))
    by_query, by_key, by_value = _cascade_backward(d_out, q, keys, values, out, lse, 0.0, causal, scale=scale)
    return by_query, by_key.sum(1), by_value.sum(1)


_MOST_SCORES = 2**20  # at a time, so that they stay in the processor's caches


def product_gradients(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the same as `cascade_gradients` by plain products, some rows of S at a time.

    16-bit scores would be too coarse for an exponential, so one product computes score - lse: lse is in additional
    columns of the queries, where the keys have ones. The relevant results are then near 0, and exact enough; for the
    same reason the factor is applied afterwards.
    """
    batches, group_size, length, width = q.shape
    wanted = torch.promote_types(q.dtype, torch.float32)
    # rows [B, S * G, ...], position by position: in a causal call, the first ones see only the first keys
    queries, by_out = (each.transpose(1, 2).reshape(batches, -1, width) for each in (q, d_out))
    scaled_lse = lse.transpose(1, 2).reshape(batches, -1, 1) / scale
    means = (by_out.to(wanted) * out.transpose(1, 2).reshape(by_out.shape)).sum(-1, keepdim=True)
    less_lse, less_means = (
        torch.cat([rows, *in_parts(-each, q.dtype)], 2) for rows, each in ((queries, scaled_lse), (by_out, means))
    )
    ones = k.new_ones(*k.shape[:2], less_lse.shape[2] - width)
    keys, values = (torch.cat([each, ones], 2).transpose(1, 2) for each in (k, v))
    by_query, by_key, by_value = (
        torch.empty_like(queries),
        k.new_zeros(k.shape, dtype=wanted),
        v.new_zeros(v.shape, dtype=wanted),
    )
    step = max(1, _MOST_SCORES // (batches * group_size * k.shape[1]))
    for first in range(0, length, step):
        end = min(first + step, length)
        rows, seen = slice(first * group_size, end * group_size), slice(0, end if causal else None)
        shares = less_lse[:, rows] @ keys[..., seen]
        if causal:
            hidden = torch.ones(end - first, end - first, dtype=torch.bool, device=q.device).triu(1)[:, None]
            shares.view(batches, end - first, group_size, end)[..., first:].masked_fill_(hidden, -torch.inf)
        shares.mul_(scale).exp_()
        by_scores = (less_means[:, rows] @ values[..., seen]).mul_(shares)
        by_query[:, rows] = by_scores @ k[:, seen]
        by_key[:, seen] += by_scores.transpose(1, 2) @ queries[:, rows]
        by_value[:, seen] += shares.transpose(1, 2) @ by_out[:, rows]
    return by_query.mul_(scale).view(batches, length, group_size, width).transpose(1, 2), by_key.mul_(scale), by_value


def in_parts(numbers: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Split fp32 numbers into three 16-bit numbers each, of which they are the sum."""
    parts = []
    for _ in range(3):
        parts.append(numbers.to(dtype))
        numbers = numbers - parts[-1]
    return parts


class EqualSuffixes(NamedTuple):
    """N adjacent suffixes of the same length S, at `place` among the M suffix tokens."""

    place: slice
    number: int
    length: int

    def batch(self, rows: Tensor) -> Tensor:
        """View these suffixes' part of [M, H, D] as [N, H, S, D], or of [M, H] as [N, H, S]."""
        return rows[self.place].view(self.number, self.length, *rows.shape[1:]).transpose(1, 2)

    def by_key_head(self, rows: Tensor, kv_heads: int) -> Tensor:
        """Return their part of [M, H, D] as [N * KV, G, S, D]: the query heads that share a key head are adjacent."""
        batched = self.batch(rows)
        return batched.view(self.number, kv_heads, -1, *batched.shape[2:]).flatten(0, 1)


def equal_lengths(pack: Pack) -> list[EqualSuffixes]:
    """Return the runs of suffixes of equal length."""
    runs, at = [], 0
    for length, same in groupby(pack.lengths):
        number = len(list(same))
        runs.append(EqualSuffixes(slice(at, at + number * length), number, length))
        at += number * length
    return runs


def rows_to_prefix(pack: Pack, prefix_unused: bool) -> list[tuple[slice | Tensor, bool]]:
    """Return the rows that attend to the prefix, and whether causally: all rows, or only those that are read."""
    if prefix_unused:
        return [(pack.keep, False)]
    return [(pack.prefix_rows, True), (pack.suffix_rows, False)]


def group_heads(rows: Tensor, kv_heads: int, group_size: int) -> Tensor:
    """View [T, H, D] as [KV, G, T, D], or [T, KV, D] as the same with each head repeated."""
    if rows.shape[1] == kv_heads:
        return rows.permute(1, 0, 2)[:, None].expand(-1, group_size, -1, -1)
    return rows.view(rows.shape[0], kv_heads, group_size, -1).permute(1, 2, 0, 3)


def ungroup_heads(grouped: Tensor) -> Tensor:
    """Undo `group_heads`: [KV, G, T, D] to [T, H, D], or [KV, G, T] to [T, H]."""
    return grouped.movedim(2, 0).flatten(1, 2)


def merge_into(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Merge the result [N, H, S, D] and `lse` [N, H, S] of more keys into the current ones, in place."""
    share = torch.sigmoid(part_lse - lse)[..., None]
    out.copy_(torch.lerp(out.to(share.dtype), part.to(share.dtype), share))
    torch.logaddexp(lse, part_lse, out=lse)


# flash: CUDA


# private operations, since no public one returns the log-sum-exp in all versions
_flash_forward = torch.ops.aten._flash_attention_forward
_flash_backward = torch.ops.aten._flash_attention_backward


def attend_flash(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """Attend with two calls of CUDA's flash kernel, see `AttentionFunction`; no keys or scores are copied or stored."""
    out: Tensor = _Flash.apply(query, key, value, scale, pack)  # type: ignore[no-untyped-call]
    return out


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack) -> Tensor:
        q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # [T, heads, D]
        shared, suffixes = pack.prefix_rows, pack.suffix_rows
        itself, to_prefix = pack.cached("flash", flash_calls)
        out, lse, *state = flash_attention(q, k, v, itself, scale)
        part, part_lse, *_ = flash_attention(q[suffixes], k[shared], v[shared], to_prefix, scale)
        share = torch.sigmoid(part_lse - lse[:, suffixes]).t()[..., None]  # [M, H, 1]
        own = out[suffixes].float()
        out[suffixes] = own.lerp_(part.float(), share)
        lse[:, suffixes] = torch.logaddexp(lse[:, suffixes], part_lse)
        ctx.save_for_backward(query, key, value, out, lse, *state)
        ctx.scale, ctx.pack = scale, pack
        return out[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse, *state = ctx.saved_tensors
        q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
        shared, suffixes = ctx.pack.prefix_rows, ctx.pack.suffix_rows
        d_out = grad[0].contiguous()
        itself, to_prefix = ctx.pack.cached("flash", flash_calls)
        dq, dk, dv = flash_gradients(d_out, q, k, v, out, lse, itself, ctx.scale, state)
        given = d_out[suffixes], q[suffixes], k[shared], v[shared], out[suffixes], lse[:, suffixes].contiguous()
        by_query, by_key, by_value = flash_gradients(*given, to_prefix, ctx.scale, state)
        dq[suffixes] += by_query
        dk[shared] += by_key
        dv[shared] += by_value
        return *(each.transpose(0, 1)[None] for each in (dq, dk, dv)), None, None


class FlashCall(NamedTuple):
    """The rows that attend to each other in one call.

    Attributes:
        queries: int32 [n + 1], the beginnings of n query sequences, and the end of the last.
        keys: the same for the key sequences.
        longest_query: number of tokens of the longest query sequence.
        longest_key: number of tokens of the longest key sequence.
        causal: whether row i of a sequence sees keys up to i, or all.
    """

    queries: Tensor
    keys: Tensor
    longest_query: int
    longest_key: int
    causal: bool


def flash_calls(pack: Pack) -> tuple[FlashCall, FlashCall]:
    """Plan the calls of a pack: each sequence (the prefix is the first) to itself, and all suffixes to the prefix.

    Only the tensors of the pack are used: data from the host would make the host wait for the device.
    """
    sequences = [pack.prefix_length, *pack.lengths]
    itself = pack.bounds.to(torch.int32)
    suffixes = sum(pack.lengths)
    all_suffixes = torch.stack([itself[0], itself[-1] - itself[1]])
    # a single query would be treated as a decoding step, with another layout of `lse`: never pass 1
    return (
        FlashCall(itself, itself, max(2, *sequences), max(sequences), causal=True),
        FlashCall(all_suffixes, itself[:2], max(2, suffixes), pack.prefix_length, causal=False),
    )


def flash_attention(q: Tensor, k: Tensor, v: Tensor, call: FlashCall, scale: float) -> tuple[Tensor, ...]:
    """Run the kernel forward.

    Returns:
        The result [T, H, D], `lse` [H, T], and the kernel's random state (two tensors, unused without dropout).
    """
    given = q, k, v, call.queries, call.keys, call.longest_query, call.longest_key
    out, lse, *state, _ = _flash_forward(*given, 0.0, call.causal, False, scale=scale)
    if lse.shape != (q.shape[1], q.shape[0]):
        raise RuntimeError(f"this version's log-sums have the shape {tuple(lse.shape)}, not [heads, tokens]")
    return out, lse, *state


def flash_gradients(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    call: FlashCall,
    scale: float,
    state: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the kernel backward, with a result and `lse` that were merged with another call's.

    Returns:
        Gradients of q, k and v.
    """
    lengths = call.queries, call.keys, call.longest_query, call.longest_key
    dq, dk, dv = _flash_backward(d_out, q, k, v, out, lse, *lengths, 0.0, call.causal, *state, scale=scale)
    return dq, dk, dv


# flex: CUDA, any precision


def attend_flex(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """Attend with a compiled kernel, see `AttentionFunction`; the T x T mask is evaluated once per pack."""
    rows = [each.contiguous() for each in (query, key, value)]
    pattern = pack.cached("flex", block_mask)
    return _kernel()(*rows, block_mask=pattern, scale=scale, enable_gqa=True).transpose(1, 2)


def block_mask(pack: Pack) -> Any:
    """Create the `BlockMask` of a pack: `visible` as a function of two positions."""
    from torch.nn.attention.flex_attention import create_block_mask

    segments = pack.segments()

    def sees(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (row >= column) & ((segments[column] == 0) | (segments[row] == segments[column]))

    tokens = len(pack.ids)
    return create_block_mask(sees, None, None, tokens, tokens, device=segments.device)


@cache
def _kernel() -> Callable[..., Tensor]:
    """Compile the kernel, once for all lengths."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled


_FP16, _BF16, _FP32, _FP64 = torch.float16, torch.bfloat16, torch.float32, torch.float64

ATTENTION_BACKENDS: dict[str, AttentionBackend] = {
    backend.name: backend
    for backend in (  # the fastest first: `auto` chooses the first that is right on this machine
        AttentionBackend("flash", attend_flash, "cuda", (_FP16, _BF16)),
        AttentionBackend("cascade", attend_cascade, "cpu", (_BF16, _FP32, _FP64)),
        AttentionBackend("flex", attend_flex, "cuda", (_FP16, _BF16, _FP32)),
        AttentionBackend("masked", attend_masked, None, (_FP16, _BF16, _FP32, _FP64)),
    )
}
"""Ways to compute the attention of a pack, by their names in `tuning.attention`."""
