"""The CUDA flash back-end without a GPU: its calls and merging, over a plain model of the kernel.

The stand-ins below do what the kernel's two functions promise, for sequences side by side; the real ones run where
there is a GPU (`tests/gpu`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from packed_models import samples
from torch import Tensor

from omniner.llm import attention
from omniner.llm.packs import make_pack

HEADS, GROUPS, SIZE, PREFIX = 6, 2, 8, 23


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


@pytest.fixture
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_flash_forward", kernel_forward)
    monkeypatch.setattr(attention, "_flash_backward", kernel_backward)


def problem(tokens: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, heads, tokens, SIZE, dtype=dtype).requires_grad_() for heads in (HEADS, GROUPS, GROUPS)]


@pytest.mark.usefixtures("_kernel")
@pytest.mark.parametrize("count", [1, 2, 9])
def test_two_calls_equal_the_mask(count: int) -> None:
    pack = make_pack(samples(count, PREFIX), PREFIX)
    inputs = problem(len(pack.ids), torch.float32)
    results = []
    for attend in (attention.attend_flash, attention.attend_masked):
        out = attend(*inputs, 0.3, pack, False)
        weight = torch.linspace(-1, 1, out.numel()).view(out.shape)
        results.append((out, *torch.autograd.grad((out * weight).sum(), inputs)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_kernel")
def test_bf16_is_merged_in_fp32() -> None:
    pack = make_pack(samples(9, PREFIX), PREFIX)
    inputs = problem(len(pack.ids), torch.bfloat16)
    out = attention.attend_flash(*inputs, 0.3, pack, False)
    exact = attention.attend_masked(*(each.float() for each in inputs), 0.3, pack, False)
    assert out.dtype == torch.bfloat16
    assert (out.float() - exact).norm() < 0.005 * exact.norm()


def test_the_stand_ins_have_the_signatures_of_torch() -> None:
    for stand_in, real in (
        (kernel_forward, "_flash_attention_forward"),
        (kernel_backward, "_flash_attention_backward"),
    ):
        schema = getattr(torch.ops.aten, real).default._schema
        code: Any = stand_in.__code__
        positional = [argument.name for argument in schema.arguments if not argument.kwarg_only]
        assert list(code.co_varnames[: code.co_argcount]) == positional
        assert "scale" in {argument.name for argument in schema.arguments if argument.kwarg_only}


def test_torch_accepts_the_calls() -> None:
    """Shapes only: the meta device computes nothing, but checks arguments and says what the kernel returns."""
    pack = make_pack(samples(9, PREFIX), PREFIX).to("meta")
    inputs = [each.detach().to("meta").requires_grad_() for each in problem(len(pack.ids), torch.bfloat16)]
    out = attention.attend_flash(*inputs, 0.3, pack, False)
    assert out.shape == (1, len(pack.ids), HEADS, SIZE)
    found = torch.autograd.grad(out, inputs, torch.empty_like(out))
    assert [each.shape for each in found] == [each.shape for each in inputs]


def test_another_layout_of_the_sums_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def padded(*given: Any, **options: Any) -> tuple[Tensor, ...]:
        out, sums, *rest = kernel_forward(*given, **options)
        return out, sums[None], *rest

    monkeypatch.setattr(attention, "_flash_forward", padded)
    pack = make_pack(samples(3, PREFIX), PREFIX)
    with pytest.raises(RuntimeError, match="log-sums have the shape"):
        attention.attend_flash(*problem(len(pack.ids), torch.float32), 0.3, pack, False)
