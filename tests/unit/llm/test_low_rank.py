"""Adapted layers as one operation against peft's own way: results, gradients, and what is neither kept nor computed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import small_causal
import torch
from adapted_models import build, distance, learn, peft_alone
from small_causal import sample
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from omniner.llm import low_rank
from omniner.llm.low_rank import AdaptedLayer, Adapter, adapted_linear

T, INPUT, OUTPUT, RANK = 7, 24, 40, 4


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3}, {"gradient_checkpointing": True, "dropout": 0.3}])
def test_losses_and_gradients_are_those_of_peft(method: str, changes: dict[str, Any]) -> None:
    causal = build(method, **changes)
    got = learn(causal)
    with peft_alone(causal.model):
        want = learn(causal)
    assert distance(got, want) < 1e-5


@pytest.mark.parametrize("mixed", [True, False])
def test_in_bf16_they_are_as_near_to_the_exact_ones_as_those_of_peft(mixed: bool) -> None:
    causal, exact = build("lora", torch.bfloat16), build("lora")
    exact.model.load_state_dict(causal.model.state_dict())
    got = learn(causal, mixed)
    with peft_alone(causal.model):
        of_peft = learn(causal, mixed)
    want = learn(exact)
    assert distance(got, want) < max(0.01, 1.2 * distance(of_peft, want))
    assert abs(got[0] - want[0]) < 0.005 * want[0]


def layers(count: int) -> list[AdaptedLayer]:
    torch.manual_seed(1)
    made = []
    for at in range(count):
        down, up = torch.randn(RANK + at, INPUT), torch.randn(OUTPUT + at, RANK + at)
        adapter = Adapter(down.requires_grad_(), up.requires_grad_(), scale=2, dropout=0)
        made.append(AdaptedLayer(torch.randn(len(up), INPUT), torch.randn(len(up)) if at else None, adapter))
    return made


def test_layers_of_one_input_give_together_what_each_gives_alone() -> None:
    given, x = layers(3), torch.randn(2, T, INPUT, requires_grad=True)
    wanted = [x, *(weight for layer in given for weight in (layer.adapter.down, layer.adapter.up))]
    results = []
    for outputs in (
        adapted_linear(x, given),
        [adapted_linear(x, [layer])[0] for layer in given],
        [
            nn.functional.linear(x, layer.weight, layer.bias)
            + layer.adapter.scale * (x @ layer.adapter.down.T @ layer.adapter.up.T)
            for layer in given
            if layer.weight is not None
        ],
    ):
        # fixed weights: those of the outputs themselves would make their rounding a hundred times larger
        total = torch.stack([(out * torch.arange(out.numel()).view_as(out).cos()).sum() for out in outputs]).sum()
        results.append([*outputs, *torch.autograd.grad(total, wanted)])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


class Products(TorchDispatchMode):
    """Counts matrix products by the sizes of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "mm" in str(func):
            self.shapes.append(tuple(out.shape))
        return out


@pytest.mark.parametrize("needed", [True, False])
def test_nothing_is_computed_for_what_does_not_learn(needed: bool) -> None:
    x = torch.randn(T, INPUT, requires_grad=needed)
    (out,) = adapted_linear(x, layers(1))
    with Products() as seen:
        out.sum().backward()
    # s B into the thin product, the two halves of the adapter; the input by both ways if anybody needs it
    assert sorted(seen.shapes) == sorted(
        [(T, RANK), (RANK, INPUT), (RANK, OUTPUT), *([(T, INPUT)] * 2 if needed else [])]
    )


def test_the_input_is_kept_once_and_nothing_as_large_beside_it() -> None:
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    given, x = layers(3), torch.randn(T, INPUT, requires_grad=True)
    weights = {value.data_ptr() for layer in given for value in (layer.weight, *layer.adapter[:2]) if value is not None}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        adapted_linear(x, given)
    assert {place: size for place, size in kept.items() if place not in weights and size >= T * INPUT} == {
        x.data_ptr(): T * INPUT
    }
    assert sum(size for place, size in kept.items() if place not in weights) == T * INPUT + T * (3 * RANK + 3)


def test_adapters_stay_fp32_and_no_wide_number_passes_through_it() -> None:
    causal = build("lora", torch.bfloat16)
    layer = causal.model.get_base_model().model.layers[0].mlp.down_proj
    x = torch.randn(1, T, 96, dtype=torch.bfloat16, requires_grad=True)
    seen: list[tuple[torch.dtype, int]] = []

    class Types(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                seen.append((out.dtype, out.numel()))
            return out

    with Types():
        layer(x).sum().backward()
    assert layer.lora_A["default"].weight.grad.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert max(size for dtype, size in seen if dtype == torch.float32) <= 96 * 4  # an adapter's half
    assert max(size for _, size in seen) >= T * 96


@pytest.mark.parametrize("way", ["disabled", "merged", "two", "dora"])
def test_what_is_not_plain_is_left_to_peft(way: str) -> None:
    from peft import LoraConfig

    causal = build("lora")
    model, ids = causal.model, sample(causal)
    before = small_causal.logits(model, ids)
    if way in ("two", "dora"):
        settings = LoraConfig(r=2, target_modules=["q_proj"], use_dora=way == "dora", init_lora_weights=False)
        model.add_adapter("other", settings)
        model.base_model.set_adapter(["default", "other"] if way == "two" else ["other"])
    elif way == "merged":
        model.merge_adapter()
    with model.disable_adapter() if way == "disabled" else torch.no_grad():
        got = small_causal.logits(model, ids)
        with peft_alone(model):
            want = small_causal.logits(model, ids)
    torch.testing.assert_close(got, want)
    assert torch.allclose(got, before, atol=1e-4) == (way == "merged")


def test_a_copy_computes_with_its_own_weights() -> None:
    causal = build("lora")
    ids = sample(causal)
    other = copy.deepcopy(causal.model)
    expected = small_causal.logits(causal.model, ids)
    for name, value in causal.model.named_parameters():
        if "lora_B" in name:
            value.data.zero_()
    assert torch.equal(small_causal.logits(other, ids), expected)
    assert not torch.allclose(small_causal.logits(causal.model, ids), expected)


def test_layers_with_hooks_or_of_other_kinds_make_their_product_themselves() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    plain = nn.Linear(INPUT, OUTPUT).requires_grad_(False)
    assert low_rank.is_plain(plain)
    assert not low_rank.is_plain(Doubled(INPUT, OUTPUT).requires_grad_(False))
    assert not low_rank.is_plain(nn.Linear(INPUT, OUTPUT))
    plain.register_forward_hook(lambda module, args, output: None)
    assert not low_rank.is_plain(plain)
