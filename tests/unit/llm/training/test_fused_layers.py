"""Norms and gated feed-forward passes as single operations, against transformers' own."""

from __future__ import annotations

import pytest
import torch
from adapted_models import build, distance, learn, peft_alone
from packed_models import model
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from omniner.llm.training import fused_layers
from omniner.llm.training.fused_layers import FusedLayers, fused_forward, row_chunks
from omniner.llm.training.shared_prefix import attach_attention, detach_attention

KINDS = ["qwen2", "qwen3", "llama", "mistral"]


def results(module: nn.Module, x: Tensor) -> list[Tensor]:
    """What a module makes of x, and the gradients by x and by its weights."""
    out = module(x)
    wanted = [x, *module.parameters()]
    return [out.detach(), *torch.autograd.grad((out * out.detach().float().cos().to(out.dtype)).sum(), wanted)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["input_layernorm", "mlp"])
@pytest.mark.parametrize("near", [40, 2**18])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_values_and_gradients_are_those_of_transformers(
    kind: str, part: str, near: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_layers, "_CHUNK", near)
    made = model(kind, layers=1, **({"sliding_window": None} if kind == "mistral" else {})).to(dtype)
    module = made.model.layers[0].get_submodule(part)
    x = torch.randn(2, 32, 7, dtype=dtype).transpose(1, 2)  # not in one piece
    x = (x.contiguous() if near == 40 else x).requires_grad_()
    before, want = x.detach().clone(), results(module, x)
    parts = FusedLayers(made)
    assert "forward" in vars(module)
    for one, two in zip(results(module, x), want, strict=True):
        assert one.dtype == two.dtype
        assert (one.double() - two.double()).norm() <= tolerance * two.double().norm()
    assert torch.equal(x, before)
    parts.remove()
    assert not any("forward" in vars(each) for each in made.modules())


def test_what_is_only_counted_is_in_one_piece() -> None:
    """A model for a GPU is counted as fake tensors of a CPU; cut into pieces, that took ten times as long."""
    with FakeTensorMode():
        fake = torch.empty(1024, 1024)
    assert list(row_chunks(fake)) == [slice(0, 1024)]
    assert [rows.stop for rows in row_chunks(torch.empty(1024, 1024))] == [256, 512, 768, 1024]


def test_other_kinds_of_modules_stay() -> None:
    assert fused_forward(nn.LayerNorm(4)) is None
    gelu = model("llama", hidden_act="gelu").model.layers[0]
    assert fused_forward(gelu.mlp) is None
    assert fused_forward(gelu.input_layernorm) is not None


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3}])
def test_gate_and_up_are_computed_together_where_nothing_forbids_it(changes: dict[str, float]) -> None:
    causal = build("lora", **changes)
    with peft_alone(causal.model):
        want = learn(causal)
    FusedLayers(causal.model.get_base_model())
    got = learn(causal)
    assert distance(got, want) < 1e-4
    mlp = causal.model.get_base_model().model.layers[0].mlp
    x = torch.randn(1, 3, 64, requires_grad=True)
    gate = mlp.gate_proj(x).grad_fn
    together = [each.grad_fn for each in fused_layers.project(x, [mlp.gate_proj, mlp.up_proj])]
    assert (together[0] is together[1]) == (not changes)
    assert type(together[0]) is type(gate)


def test_a_model_gets_its_parts_back_with_its_attention() -> None:
    made = model()
    attach_attention(made, "cascade")
    assert "forward" in vars(made.model.norm)
    detach_attention(made)
    assert "forward" not in vars(made.model.norm)
