"""Which optimizer takes the steps, and what it does with the weights that learn."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import small_causal
import torch
from small_causal import learning, sample
from torch import nn

from omniner.errors import UserError
from omniner.llm import language_model, quantization
from omniner.llm.training import optimizers


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("wanted", ["adamw", "adamw_8bit"])
def test_training_lowers_the_loss(method: str, wanted: str) -> None:
    model = small_causal.build(method, optimizer=wanted)
    optimizer = optimizers.build_optimizer(model.model, wanted, 1e-2, 0.0)
    assert type(optimizer).__name__ == {"adamw": "AdamW", "adamw_8bit": "AdamW8bit"}[wanted]
    losses = small_causal.train(model.model, sample(model), optimizer, 5)
    assert losses[-1] < losses[0] - 0.1


def test_norms_and_biases_are_not_decayed() -> None:
    model = small_causal.build("full").model
    optimizer = optimizers.build_optimizer(model, "adamw", 1e-3, 0.3)
    decay = {id(value): group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
    for name, value in model.named_parameters():
        assert decay.pop(id(value)) == (0.0 if "norm" in name or name.endswith("bias") else 0.3)
    assert not decay


def test_on_a_cpu_the_optimizer_keeps_full_precision() -> None:
    model = small_causal.build("qlora").model
    assert optimizers.choose_optimizer(model, "auto", "cpu", "auto") == "adamw"
    assert isinstance(optimizers.build_optimizer(model, "adamw", 1e-3, 0.0), torch.optim.AdamW)


def test_8_bits_without_bitsandbytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_causal.build("full").model
    for module in (quantization, optimizers):
        monkeypatch.setattr(module, "has_bitsandbytes", lambda: False)
    with pytest.raises(UserError, match=r"tuning\.optimizer: adamw_8bit, but bitsandbytes is not installed"):
        optimizers.choose_optimizer(model, "adamw_8bit", "gpu", "auto")
    assert optimizers.choose_optimizer(model, "adamw_8bit", "gpu", "fsdp") == "adamw", "nothing is missed there"
    with pytest.raises(UserError, match=r"tuning\.method: qlora, but bitsandbytes is not installed"):
        small_causal.build("qlora")


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_the_state_that_learns_goes_on_where_it_was(method: str) -> None:
    """Five steps in one go equal three, and two more of a new model with the state (and optimizer) of the first."""
    whole, first, second = (small_causal.build(method) for _ in range(3))
    ids = sample(whole)
    expected = small_causal.train(whole.model, ids, optimizers.build_optimizer(whole.model, "adamw", 1e-2, 0.1), 5)
    optimizer = optimizers.build_optimizer(first.model, "adamw", 1e-2, 0.1)
    small_causal.train(first.model, ids, optimizer, 3)
    state = language_model.trainable_state(first.model)
    assert state.keys() == learning(first.model).keys()
    going_on = optimizers.build_optimizer(second.model, "adamw", 1e-2, 0.1)
    going_on.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    second.model.load_state_dict(state, strict=False)
    small_causal.train(first.model, ids, optimizer, 1)  # the state is a copy
    assert small_causal.train(second.model, ids, going_on, 2) == expected[3:]


def test_a_gpu_without_bitsandbytes_goes_on_in_full_precision(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def chosen(accelerator: str, strategy: str = "auto") -> str:
        return optimizers.choose_optimizer(nn.Linear(2, 2, bias=False), "auto", accelerator, strategy)

    assert chosen("gpu") == "adamw"
    monkeypatch.setattr(optimizers, "_LARGE", 4)
    assert (chosen("gpu"), chosen("cpu"), chosen("gpu", "fsdp")) == ("adamw_8bit", "adamw", "adamw")
    monkeypatch.setattr(optimizers, "has_bitsandbytes", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert chosen("gpu") == "adamw"
    assert "bitsandbytes is not installed" in caplog.text


def test_an_optimizer_that_nobody_builds_is_no_other_one() -> None:
    unknown: Any = "adafactor"
    layer = nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="adafactor"):
        optimizers.build_optimizer(layer, unknown, 1e-3, 0.0)
    with pytest.raises(AssertionError, match="adafactor"):
        optimizers.choose_optimizer(layer, unknown, "cpu", "auto")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_qlora_trains_on_a_gpu_with_8_bit_states() -> None:
    model = small_causal.build("qlora", dtype=torch.bfloat16)
    model.model.cuda()
    optimizer = optimizers.build_optimizer(model.model, "adamw_8bit", 1e-2, 0.0)
    assert type(optimizer).__name__ == "AdamW8bit"
    losses = small_causal.train(model.model, sample(model).cuda(), optimizer, 5)
    assert losses[-1] < losses[0] - 0.1
