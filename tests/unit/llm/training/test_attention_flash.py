"""The CUDA flash back-end without a GPU: its calls and merging, over a plain model of the kernel.

The stand-ins (`flash_kernel`) do what the kernel's two functions promise; the real ones run where there is a GPU
(`tests/gpu`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flash_kernel import kernel_backward, kernel_forward
from packed_models import samples
from torch import Tensor

from omniner.llm.training import attention
from omniner.llm.training.packs import make_pack

HEADS, GROUPS, SIZE, PREFIX = 6, 2, 8, 23


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
