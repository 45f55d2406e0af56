"""Packs give the loss and every gradient of separate sequences, whatever the back-end, model, tuning and pack size."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from packed_models import assert_same, gradients, model, samples, separate_loss
from small_causal import tuning_config
from torch import Tensor

from omniner.llm.training import shared_prefix
from omniner.llm.training.packs import make_pack
from omniner.llm.training.shared_prefix import attach_attention, detach_attention, pack_loss

# transformers 5 renames what peft and transformers 4 call
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
CPU_BACKENDS = ["masked", "cascade"]
PREFIX = 23
EXACT = 2e-5  # fp32, relative
Result = tuple[Tensor, dict[str, Tensor]]


def packed(made: Any, items: list[Any], size: int) -> Result:
    """Loss and gradients by packs of `size` samples."""
    loss = sum(pack_loss(made, make_pack(items[at : at + size], PREFIX)) for at in range(0, len(items), size))
    return loss, gradients(made, loss)


def separate(made: Any, items: list[Any]) -> Result:
    loss = separate_loss(made, items)
    return loss, gradients(made, loss)


def with_checkpoints(made: Any, reentrant: bool = False) -> None:
    made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


def with_lora(made: Any, targets: list[str] | None = None) -> Any:
    """peft's model around it, with adapters that do something."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets or "all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(made, config)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    return adapted


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(("kind", "shape"), [("qwen2", "gqa"), ("llama", "gqa"), ("llama", "mha"), ("llama", "mqa")])
@pytest.mark.parametrize("size", [1, 4, 13])
def test_packs_equal_separate_sequences(backend: str, kind: str, shape: str, size: int) -> None:
    made, items = model(kind, shape), samples(13)
    want = separate(made, items)
    attach_attention(made, backend)
    assert_same(packed(made, items, size), want, EXACT)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("lengths", ["equal", "one each", "long prefix"])
def test_suffixes_of_any_lengths(backend: str, lengths: str) -> None:
    """Runs of equal lengths are computed together; one token each; and more than one block of a kernel."""
    sizes = {"equal": [(3, 5)] * 6 + [(7, 2)] * 3, "one each": [(1, 1)] * 5, "long prefix": [(2, 600), (1, 3)]}
    prefix = 700 if lengths == "long prefix" else PREFIX
    items = samples(len(sizes[lengths]), prefix, sizes=sizes[lengths])
    made = model(layers=2, max_position_embeddings=2048)
    want = separate(made, items)
    attach_attention(made, backend)
    loss = pack_loss(made, make_pack(items, prefix))
    assert_same((loss, gradients(made, loss)), want, EXACT)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_with_gradient_checkpointing(backend: str, reentrant: bool) -> None:
    made, items = model(), samples(9)
    want = separate(made, items)
    with_checkpoints(made, reentrant)
    attach_attention(made, backend)
    runs = _count_attention(made)
    assert_same(packed(made, items, 9), want, EXACT)
    assert len(runs) == 6  # three layers, each once more in the backward pass


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("checkpoints", [False, True])
def test_with_lora(backend: str, checkpoints: bool) -> None:
    made, items = with_lora(model("llama")), samples(9)
    want = separate(made, items)
    assert all("lora_" in name for name in want[1])
    if checkpoints:
        with_checkpoints(made)
        made.enable_input_require_grads()
    attach_attention(made, backend)
    assert_same(packed(made, items, 4), want, EXACT)


@pytest.mark.parametrize("head", ["learns", "frozen", "tied", "lora", "copy"])
def test_with_every_kind_of_output_layer(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of 3 rows."""
    monkeypatch.setattr(shared_prefix, "MOST_LOGITS", 3 * 97 + 5)
    made = model("qwen2" if head == "tied" else "llama")
    if head == "frozen":
        made.lm_head.requires_grad_(False)
    elif head == "lora":
        made = with_lora(made, ["q_proj", "lm_head"])
    elif head == "copy":
        made = _with_saved_head(made)
    items = samples(5)
    want = separate(made, items)
    attach_attention(made, "cascade")
    assert_same(packed(made, items, 5), want, EXACT)
    assert "forward" not in vars(made.get_output_embeddings())


def _with_saved_head(made: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["v_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    return get_peft_model(made, config)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("how", ["autocast", "weights"])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_bf16_is_no_worse_than_separate_sequences_in_bf16(backend: str, how: str, checkpoints: bool) -> None:
    exact, items = model(layers=2), samples(9)
    if how == "weights":
        exact.bfloat16().float()  # the same weights in both precisions
    want = separate(exact, items)
    made = copy.deepcopy(exact) if how == "autocast" else copy.deepcopy(exact).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        loss = separate_loss(made, items)
    noise = _error(gradients(made, loss), want[1])
    if checkpoints:
        with_checkpoints(made)
    attach_attention(made, backend)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        loss = pack_loss(made, make_pack(items, PREFIX))
    assert loss.dtype == torch.float32
    assert abs(loss - want[0]) < 0.01 * want[0]
    assert 0.001 < _error(gradients(made, loss), want[1]) < 1.5 * noise < 0.1


def _error(found: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """Of all gradients together, relative."""
    wrong = sum((found[name] - want[name]).square().sum() for name in want)
    return float((wrong / sum(each.square().sum() for each in want.values())).sqrt())


def _count_attention(made: Any) -> list[int]:
    runs: list[int] = []
    for layer in made.get_decoder().layers:
        layer.self_attn.register_forward_hook(lambda *_: runs.append(1))
    return runs


def test_without_gradients_the_loss_is_the_same() -> None:
    made, items = model(), samples(7)
    attach_attention(made, "cascade")
    want = pack_loss(made, make_pack(items, PREFIX))
    made.eval()
    with torch.inference_mode():
        got = pack_loss(made, make_pack(items, PREFIX))
    torch.testing.assert_close(got, want.detach(), rtol=1e-6, atol=0)


def test_a_pack_of_weight_0_changes_nothing_but_takes_part() -> None:
    made, items = model(), samples(3)
    attach_attention(made, "cascade")
    loss = pack_loss(made, make_pack(items, PREFIX, weight=0))
    found = gradients(made, loss)
    assert loss == 0
    assert set(found) == {name for name, _ in made.named_parameters()}
    assert not any(gradient.any() for gradient in found.values())


def test_losses_of_packs_add_up_to_that_of_one() -> None:
    """A sum, not a mean: only the caller knows all answer tokens of a step."""
    made, items = model(), samples(12)
    attach_attention(made, "cascade")
    one = pack_loss(made, make_pack(items, PREFIX))
    three = sum(pack_loss(made, make_pack(items[at::3], PREFIX)) for at in range(3))
    torch.testing.assert_close(one, three)


def test_a_suffix_does_not_see_others() -> None:
    made, items = model(), samples(6)
    attach_attention(made, "cascade")
    alone = pack_loss(made, make_pack(items[:1], PREFIX))
    both = pack_loss(made, make_pack(items[:2], PREFIX))
    items[1].prompt[-1] += 1  # other tokens, with another loss of their own
    changed = pack_loss(made, make_pack(items[:2], PREFIX)) - pack_loss(made, make_pack(items[1:2], PREFIX))
    torch.testing.assert_close(changed, alone)
    assert (both - alone).item() != pytest.approx((pack_loss(made, make_pack(items[1:2], PREFIX))).item(), rel=1e-4)


@pytest.mark.parametrize("wrap", [lambda made: made, with_lora], ids=["plain", "peft"])
def test_detaching_gives_the_model_back(wrap: Callable[[Any], Any]) -> None:
    made = wrap(model())
    ids = torch.tensor([samples(1)[0].prompt])
    before = made(input_ids=ids).logits
    attach_attention(made, "masked")
    attach_attention(made, "cascade")
    with pytest.raises(ValueError, match="detach it"):
        made(input_ids=ids)
    detach_attention(made)
    detach_attention(made)
    assert made.config._attn_implementation == "sdpa"
    assert torch.equal(made(input_ids=ids).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())
    with pytest.raises(ValueError, match="attach an attention back-end"):
        pack_loss(made, make_pack(samples(2), PREFIX))


def test_another_attention_may_be_set_for_a_while() -> None:
    """As for answering dev sentences between two steps."""
    made, items = model(), samples(4)
    attach_attention(made, "cascade")
    want = pack_loss(made, make_pack(items, PREFIX))
    ours = made.config._attn_implementation
    made.set_attn_implementation("sdpa")
    plain = model()(input_ids=torch.tensor([items[0].prompt])).logits
    torch.testing.assert_close(made(input_ids=torch.tensor([items[0].prompt])).logits, plain)
    made.set_attn_implementation(ours)
    assert torch.equal(pack_loss(made, make_pack(items, PREFIX)), want)


def test_a_failed_forward_pass_leaves_the_output_layer_as_it_was() -> None:
    made, items = model(), samples(4)
    attach_attention(made, "cascade")
    want = pack_loss(made, make_pack(items, PREFIX))
    bad = make_pack(items, PREFIX)
    bad.ids[3] = 10_000
    with pytest.raises(IndexError):
        pack_loss(made, bad)
    assert torch.equal(pack_loss(made, make_pack(items, PREFIX)), want)


def test_a_copy_works_on_its_own() -> None:
    made, items = model(), samples(4)
    attach_attention(made, "cascade")
    twin = copy.deepcopy(made)
    want = packed(made, items, 4)
    with torch.no_grad():
        for weight in made.parameters():
            weight.zero_()
    assert_same(packed(twin, items, 4), want, 0)


def test_the_last_layer_computes_only_rows_that_predict() -> None:
    made, items = model(), samples(6)
    attach_attention(made, "cascade")
    pack = make_pack(items, PREFIX)
    rows: dict[tuple[int, str], int] = {}
    for number, layer in enumerate(made.model.layers):
        for name in ("self_attn.k_proj", "mlp.down_proj"):
            layer.get_submodule(name).register_forward_hook(
                lambda module, args, output, key=(number, name): rows.update({key: output.shape[1]})
            )
    pack_loss(made, pack)
    needed, every = len(pack.keep), len(pack.ids)
    assert needed < every
    # hooks that come later see what is given back
    assert rows[2, "mlp.down_proj"] == needed
    assert rows[2, "self_attn.k_proj"] == rows[1, "mlp.down_proj"] == every


def test_attention_dropout_is_refused() -> None:
    made, items = model(attention_dropout=0.1), samples(4)
    attach_attention(made, "masked")
    with pytest.raises(ValueError, match="dropout"):
        pack_loss(made, make_pack(items, PREFIX))


def test_positions_go_on_from_the_prefix_in_each_suffix() -> None:
    """What would go unnoticed: positions that count through the pack give another loss."""
    made, items = model(), samples(6)
    attach_attention(made, "masked")
    pack = make_pack(items, PREFIX)
    right = pack_loss(made, pack)
    pack.positions = torch.arange(len(pack.ids))
    assert abs(pack_loss(made, pack) - right) > 1e-3 * right


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("backend", ["flash", "cascade", "masked"])
def test_a_step_neither_reads_from_its_device_nor_sends_it_anything(
    method: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU would wait for either. Fake tensors refuse to be read, also by what has to know a size."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from omniner.llm.training import memory
    from omniner.llm.training.optimizers import build_optimizer

    tuning = tuning_config(method, optimizer="adamw", gradient_checkpointing=False)
    made = memory.Probe(model("qwen2", "gqa").config, tuning, method, torch.bfloat16, 2).model
    pack = make_pack(samples(6), PREFIX)
    sent: list[Any] = []
    real = torch.tensor
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        memory._make_fake(made)
        attach_attention(made, backend, torch.bfloat16)
        optimizer = build_optimizer(made, "adamw", 1e-3, 0.01)
        names = ("ids", "positions", "keep", "targets", "bounds")
        there = dataclasses.replace(pack, **{name: mode.from_tensor(getattr(pack, name)) for name in names})
        monkeypatch.setattr(torch, "tensor", lambda values, **more: sent.append(values) or real(values, **more))
        pack_loss(made, there).backward()
        torch.nn.utils.clip_grad_norm_([each for each in made.parameters() if each.requires_grad], 1.0)
        monkeypatch.undo()
        optimizer.step()
    assert sent == []
