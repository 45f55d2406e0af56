"""What torch's two flash operations promise, computed plainly, for sequences side by side."""

from __future__ import annotations

import torch
from torch import Tensor


def sequences(rows: Tensor, ends: Tensor) -> list[Tensor]:
    assert ends.dtype == torch.int32
    return [rows[begin:end] for begin, end in zip(ends.tolist(), ends.tolist()[1:], strict=False)]


def scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """[H, L, S] of q [L, H, D] and k [S, G, D]."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    found = torch.einsum("lhd,shd->hls", q.float(), k.float()) * scale
    if causal:
        assert len(q) == len(k)
        found = found.masked_fill(~torch.ones(len(q), len(q), dtype=torch.bool).tril(), -torch.inf)
    return found


def kernel_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float,
) -> tuple[Tensor, ...]:
    assert (dropout_p, return_debug_mask) == (0.0, False)
    assert max_q > 1
    assert max_k >= cum_seq_k.diff().max()
    assert max_q >= cum_seq_q.diff().max()
    outs, sums = [], []
    for q, k, v in zip(
        sequences(query, cum_seq_q), sequences(key, cum_seq_k), sequences(value, cum_seq_k), strict=True
    ):
        found = scores(q, k, is_causal, scale)
        v = v.repeat_interleave(q.shape[1] // v.shape[1], 1).float()
        outs.append(torch.einsum("hls,shd->lhd", found.softmax(-1), v).to(q.dtype))
        sums.append(found.logsumexp(-1))
    state = torch.empty(2, dtype=torch.uint64), torch.empty((), dtype=torch.uint64)
    return torch.cat(outs), torch.cat(sums, 1), *state, torch.empty(0)


def kernel_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    rng_state: Tensor,
    unused: Tensor,
    *,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients from the given result and sums, whether or not they are those of this call."""
    assert logsumexp.is_contiguous()
    found = []
    rows = (sequences(each, cum_seq_q) for each in (grad_out, query, out, logsumexp.t()))
    for d_out, q, o, sums, k, v in zip(*rows, sequences(key, cum_seq_k), sequences(value, cum_seq_k), strict=True):
        shared = q.shape[1] // k.shape[1]
        share = (scores(q, k, is_causal, scale) - sums.t()[..., None]).exp()
        by_value = torch.einsum("hls,lhd->shd", share, d_out.float())
        by_share = torch.einsum("lhd,shd->hls", d_out.float(), v.repeat_interleave(shared, 1).float())
        by_score = share * (by_share - (d_out.float() * o.float()).sum(-1).t()[..., None]) * scale
        by_query = torch.einsum("hls,shd->lhd", by_score, k.repeat_interleave(shared, 1).float())
        by_key = torch.einsum("hls,lhd->shd", by_score, q.float())
        by_key, by_value = (each.unflatten(1, (-1, shared)).sum(2) for each in (by_key, by_value))
        found.append((by_query.to(q.dtype), by_key.to(k.dtype), by_value.to(v.dtype)))
    return tuple(torch.cat(each) for each in zip(*found, strict=True))
