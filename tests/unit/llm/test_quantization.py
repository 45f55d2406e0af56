"""4-bit bases against the libraries' own way, and what is computed beside them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_causal
import torch
from small_causal import INNER, learning, logits, loss, sample
from torch import Tensor, nn

from omniner.llm import quantization
from omniner.llm.training.attention import ATTENTION_BACKENDS, attend_masked
from omniner.llm.training.packs import make_pack
from omniner.llm.training.shared_prefix import attach_attention, pack_loss


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
