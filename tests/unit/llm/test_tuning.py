"""Which weights learn: adapters, their shape and place, and activations that are computed again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import small_causal
import torch
from small_causal import INNER, learning, logits, loss, sample

from omniner.errors import UserError
from omniner.llm import language_model


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_start_as_nothing_beside_every_linear_layer_but_the_output(method: str) -> None:
    model = small_causal.build(method).model
    found = learning(model)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in found} == INNER
    assert len(found) == 2 * len(INNER) * small_causal.ARCHITECTURE["num_hidden_layers"]
    assert all(value.dtype == torch.float32 for value in found.values())
    with model.disable_adapter():
        expected = logits(model, torch.tensor([[1, 2, 3]]))
    assert torch.equal(logits(model, torch.tensor([[1, 2, 3]])), expected)


def test_adapters_have_the_configured_shape_and_scale() -> None:
    model = small_causal.build("lora", targets=["q_proj", "down_proj"], rank=2, alpha=6).model
    found = learning(model)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in found} == {"q_proj", "down_proj"}
    layer = model.get_base_model().model.layers[0].mlp.down_proj
    first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (first.shape, second.shape) == ((2, 96), (64, 2))
    second.data.normal_()
    x = torch.randn(3, 96)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ first.T @ second.T * 6 / 2)


def test_targets_that_are_not_there_are_told_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"tuning\.targets: \['c_attn'\] cannot be adapted.*down_proj, gate_proj"):
        small_causal.build("lora", targets=["c_attn"])


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_checkpointing_of_activations_changes_no_gradient(method: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = small_causal.build(method, gradient_checkpointing=checkpointing)
        loss(model.model, sample(model)).backward()
        gradients.append({name: value.grad for name, value in learning(model.model).items()})
    assert all(value is not None for value in gradients[1].values())
    assert any(value.any() for value in gradients[1].values())
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=0, atol=1e-6)


def test_checkpointing_computes_a_layer_again() -> None:
    calls = []
    model = small_causal.build("lora", gradient_checkpointing=True)
    layer = model.model.get_base_model().model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    loss(model.model, sample(model)).backward()
    assert len(calls) == 2


def test_no_gpu_is_touched_for_random_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched() -> int:
        raise AssertionError("random numbers of a model made on the CPU looked at the GPUs")

    monkeypatch.setattr(torch.cuda, "device_count", touched)
    state = torch.get_rng_state()
    small_causal.build("lora")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_cpu_that_answers_beside_a_gpu_leaves_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched() -> str:
        raise AssertionError("the CPU shall answer, and something looked for a GPU")

    language_model.save_causal_model(tmp_path / "best", small_causal.build("qlora"))
    monkeypatch.setattr("peft.peft_model.infer_device", touched)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", touched)
    loaded = language_model.load_causal_model(tmp_path / "best", torch.float32, "cpu")
    assert {value.device.type for value in loaded.model.parameters()} == {"cpu"}


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    script = (
        "import sys\nfrom omniner.llm import language_model, loading\nfrom omniner.llm.training import optimizers\n"
        "print([name for name in ('peft', 'bitsandbytes', 'gguf') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
