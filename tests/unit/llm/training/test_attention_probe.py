"""A back-end is used only if it gives the loss and gradients of separate sequences; wrong ones are named."""

from __future__ import annotations

import logging
from typing import Any, get_args, get_type_hints

import pytest
import torch
from packed_models import model
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from omniner.config.model_groups import TuningConfig
from omniner.errors import UserError
from omniner.llm.training import attention
from omniner.llm.training.attention import ATTENTION_BACKENDS, AttentionBackend
from omniner.llm.training.attention_probe import choose_attention
from omniner.llm.training.packs import Pack

CPU = torch.device("cpu")
PRECISIONS = ["32-true", "bf16-mixed", "bf16-true"]


def sees_everything_before(
    query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool
) -> Tensor:
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale).transpose(1, 2)


def mixes_up_heads(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    key, value = (each.repeat(1, query.shape[1] // key.shape[1], 1, 1) for each in (key, value))
    return attention.attend_masked(query, key, value, scale, pack, prefix_unused)


def forgets_a_gradient(
    query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool
) -> Tensor:
    """The right loss; but the prefix's values learn nothing."""
    value = torch.cat([value[:, :, : pack.prefix_length].detach(), value[:, :, pack.prefix_length :]], 2)
    return attention.attend_masked(query, key, value, scale, pack, prefix_unused)


def gives_no_number(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    return attention.attend_masked(query, key, value, scale, pack, prefix_unused) * torch.nan


def fails(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    raise RuntimeError("no kernel image\nis available")


WRONG = [sees_everything_before, mixes_up_heads, forgets_a_gradient, gives_no_number]


def put_first(monkeypatch: pytest.MonkeyPatch, attend: Any) -> None:
    """Replace the flash back-end, the first to be tried, by another that says it runs here."""
    monkeypatch.setitem(
        ATTENTION_BACKENDS, "flash", AttentionBackend("flash", attend, None, (torch.float32, torch.bfloat16))
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("wanted", ["masked", "cascade", "auto"])
def test_right_ones_are_accepted(precision: str, wanted: str) -> None:
    assert choose_attention(model("llama"), wanted, CPU, precision) == ("cascade" if wanted == "auto" else wanted)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("attend", WRONG)
def test_wrong_ones_are_refused_by_name(precision: str, attend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put_first(monkeypatch, attend)
    with pytest.raises(UserError, match=r"tuning.attention: flash is wrong here: .*Choose auto") as caught:
        choose_attention(model(), "flash", CPU, precision)
    assert "\n" not in str(caught.value)


def test_auto_passes_over_wrong_ones_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_first(monkeypatch, forgets_a_gradient)
    with caplog.at_level(logging.INFO, "omniner"):
        assert choose_attention(model(), "auto", CPU, "32-true") == "cascade"
    assert "attention of packs: cascade; flash is wrong here" in caplog.text


def test_one_that_cannot_run_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    put_first(monkeypatch, fails)
    with pytest.raises(UserError, match=r"flash cannot run here \(RuntimeError: no kernel image\)"):
        choose_attention(model(), "flash", CPU, "32-true")
    assert choose_attention(model(), "auto", CPU, "32-true") == "cascade"


def test_device_and_precision_are_looked_at_first() -> None:
    for name in ("flash", "flex"):
        with pytest.raises(UserError, match=f"{name} needs cuda"):
            choose_attention(model(), name, CPU, "bf16-mixed")
    assert torch.float32 not in ATTENTION_BACKENDS["flash"].dtypes


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        {"kind": "mistral", "sliding_window": 4096},
        {"kind": "mistral", "sliding_window": 4096, "use_sliding_window": False},  # which transformers does not ask
    ],
    ids=["some layers", "all layers", "said not to be used"],
)
def test_sliding_windows_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="sliding"):
        choose_attention(model(**config), "auto", CPU, "32-true")


def test_mistral_without_a_window_is_fine() -> None:
    assert choose_attention(model("mistral", sliding_window=None), "auto", CPU, "32-true") == "cascade"


def test_attention_dropout_is_refused() -> None:
    with pytest.raises(UserError, match=r"attention_dropout=0\.1"):
        choose_attention(model(attention_dropout=0.1), "auto", CPU, "32-true")


def test_an_architecture_that_does_more_to_its_logits_is_refused() -> None:
    made = model("granite", logits_scaling=8.0)
    with pytest.raises(UserError, match=r"cascade is wrong here.*masked is wrong here.*Choose another model"):
        choose_attention(made, "auto", CPU, "32-true")


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # peft with transformers 5
def test_a_model_inside_peft_and_a_large_one_are_probed_as_tiny_ones() -> None:
    from peft import LoraConfig, get_peft_model

    made = get_peft_model(model("llama"), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    made.config.vocab_size, made.config.num_hidden_layers = 10**6, 1000
    assert choose_attention(made, "auto", CPU, "32-true") == "cascade"


def test_random_numbers_of_the_run_are_left_alone() -> None:
    made = model()
    torch.manual_seed(9)
    want = torch.rand(3)
    torch.manual_seed(9)
    choose_attention(made, "auto", CPU, "32-true")
    assert torch.equal(torch.rand(3), want)
    assert made.config._attn_implementation == "sdpa"


def test_the_configuration_offers_every_back_end() -> None:
    offered = get_args(get_type_hints(TuningConfig, include_extras=True)["attention"])
    assert set(offered) == {"auto", *ATTENTION_BACKENDS}
    assert all(backend.name == name for name, backend in ATTENTION_BACKENDS.items())
