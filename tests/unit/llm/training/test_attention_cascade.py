"""Gradients of the CPU's attention by plain products, against those of a softmax in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from omniner.llm.training import attention
from omniner.llm.training.attention import in_parts, product_gradients

BATCHES, SHARED, WIDTH = 3, 2, 16


def exact(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Result and log-sums of q [B, h, S, D] over k and v [B, C, D]."""
    scores = q @ k[:, None].transpose(2, 3) * scale
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(3) @ v[:, None], scores.logsumexp(3)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("most", [1, 3 * 2 * 11 * 4, 2**20])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.012)])
def test_gradients_are_those_of_a_softmax(
    causal: bool, most: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_MOST_SCORES", most)
    torch.manual_seed(2)
    columns, rows = 11, 11 if causal else 19
    # large scores, as heads that look at one place have: in 16 bits alone they would be off by a tenth
    q, d_out = (torch.randn(BATCHES, SHARED, rows, WIDTH).to(dtype) for _ in range(2))
    k, v = ((torch.randn(BATCHES, columns, WIDTH) * 4).to(dtype) for _ in range(2))
    scale = 0.3
    wide = [each.double().requires_grad_() for each in (q, k, v)]
    out, total = exact(*wide, causal, scale)
    want = torch.autograd.grad(out, wide, d_out.double())
    got = product_gradients(d_out, q, k, v, out.detach().to(dtype), total.detach().float(), causal, scale)
    for one, two in zip(got, want, strict=True):
        assert (one.double() - two).norm() < tolerance * two.norm()


def test_three_numbers_of_16_bits_make_one_of_32() -> None:
    numbers = torch.randn(1000) * 1000
    assert torch.equal(torch.stack(in_parts(numbers, torch.bfloat16)).double().sum(0), numbers.double())
