"""Which weights learn, by which optimizer, and 4-bit bases against the libraries' own way."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_causal
import torch
from small_causal import logits, loss, sample
from torch import Tensor, nn

from omniner.errors import UserError
from omniner.llm import language_model, quantization
from omniner.llm.training import optimizers
from omniner.llm.training.attention import ATTENTION_BACKENDS, attend_masked
from omniner.llm.training.packs import make_pack
from omniner.llm.training.shared_prefix import attach_attention, pack_loss

INNER = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


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


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantising_in_memory_is_what_transformers_does_on_loading(
    double: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain = small_causal.build("full", dtype=dtype)
    plain.model.save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
    )
    twin = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=settings, dtype=dtype)
    for layer in twin.modules():
        layer.support_avx512bf16_for_cpu = False
    before = logits(plain.model, sample(plain))
    quantization.quantize(plain.model, double, dtype)
    found = logits(plain.model, sample(plain))
    assert torch.equal(found, logits(twin, sample(plain)))
    assert not torch.equal(found, before)
    kinds = {name: type(layer).__name__ for name, layer in plain.model.named_modules()}
    assert {kind for name, kind in kinds.items() if name.rpartition(".")[2] in INNER} == {"Linear4bit"}
    assert kinds["lm_head"] == "Linear"


@pytest.mark.parametrize("double", [True, False])
def test_taking_the_quantisation_back_keeps_the_values(double: bool) -> None:
    model = small_causal.build("full")
    made = quantization.quantize(model.model, double, torch.float32)
    expected = logits(model.model, sample(model))
    quantization.dequantize(model.model)
    assert {type(layer).__name__ for layer in model.model.modules() if isinstance(layer, nn.Linear)} == {"Linear"}
    torch.testing.assert_close(logits(model.model, sample(model)), expected, rtol=0, atol=1e-6)
    assert made == quantization.Quantization("nf4", double, "float32")
    assert made.source_dtype == torch.float32


def test_qlora_quantises_as_transformers_does_and_leaves_the_rest_in_bf16(tmp_path: Path) -> None:
    """The slow twin is loaded in 4 bits by transformers. peft would make fp32 of embeddings, norms and output.

    That is 2.2 GB more at 7B, and all values behind it are fp32, which CUDA's flash kernel does not take.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    small_causal.build("full", dtype=torch.bfloat16).model.save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    twin = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=settings, dtype=torch.bfloat16)
    model = small_causal.build("qlora", dtype=torch.bfloat16).model
    got = {name.replace("base_layer.", ""): value for name, value in model.get_base_model().named_parameters()}
    for name, value in twin.named_parameters():
        assert (got[name].dtype, got[name].requires_grad) == (value.dtype, False)
        assert value.dtype == (torch.uint8 if name.split(".")[-2] in INNER and "bias" not in name else torch.bfloat16)


@pytest.mark.parametrize("embeddings", [torch.bfloat16, torch.float32])
def test_attention_beside_4_bits_gets_what_the_kernel_takes(
    embeddings: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4-bit layers answer in the type of their input, so one fp32 norm would hand fp32 to a kernel of bf16."""
    seen: set[torch.dtype] = set()

    def spy(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        seen.update(each.dtype for each in (query, key, value))
        return attend_masked(query, key, value, *rest, **options)

    monkeypatch.setitem(ATTENTION_BACKENDS, "masked", ATTENTION_BACKENDS["masked"]._replace(attend=spy))
    causal = small_causal.build("qlora", dtype=torch.bfloat16)
    causal.model.get_input_embeddings().to(embeddings)
    attach_attention(causal.model, "masked", torch.bfloat16)
    ids = sample(causal)[0].tolist()
    pack = make_pack([SimpleNamespace(prompt=ids[:-8], answer=ids[-8:])], len(ids) - 12)
    with torch.autocast("cpu", torch.bfloat16):
        found = pack_loss(causal.model, pack)
    found.backward()
    assert seen == {torch.bfloat16}
    assert all(value.grad is not None for name, value in learning(causal.model).items() if "lora_B" in name)


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


def test_an_evaluation_in_between_leaves_qlora_its_gradients() -> None:
    """On some CPUs bitsandbytes repacks the codes in an evaluation unless it is told not to."""
    model = small_causal.build("qlora")
    bnb: Any = pytest.importorskip("bitsandbytes")
    layers = [layer for layer in model.model.modules() if isinstance(layer, bnb.nn.Linear4bit)]
    assert layers
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    loss(model.model, sample(model)).backward()
    expected = {name: value.grad.clone() for name, value in learning(model.model).items()}
    model.model.zero_grad()
    logits(model.model, sample(model))
    loss(model.model.train(), sample(model)).backward()
    for name, value in learning(model.model).items():
        torch.testing.assert_close(value.grad, expected[name], rtol=0, atol=1e-7)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    script = (
        "import sys\nfrom omniner.llm import language_model, loading\nfrom omniner.llm.training import optimizers\n"
        "print([name for name in ('peft', 'bitsandbytes', 'gguf') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


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
