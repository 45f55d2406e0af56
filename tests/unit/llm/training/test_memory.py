"""What a run needs of a device is counted before anything is loaded: against whole models of fake tensors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import small_corpus
import torch
from small_causal import tuning_config
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omniner.compute.devices import Devices
from omniner.errors import UserError
from omniner.llm.training import memory
from omniner.llm.training.memory import GIB, MemoryCount, PackSize, Probe
from omniner.records import Entity, Sentence

ROOT = Path(__file__).parents[4]
SIZES = {
    "0.5b": (896, 4864, 24, 14, 2, 151936),
    "1.5b": (1536, 8960, 28, 12, 2, 151936),
    "7b": (3584, 18944, 28, 28, 4, 152064),
}
PACK = PackSize(674, 4096, 2100)  # the official prompt
DECODING = small_corpus.configuration("qwen2_tiny", "decoding.slots=64", "decoding.max_new_tokens=512").decoding


def settings(name: str, layers: int | None = None) -> Any:
    """Qwen2 as it is published."""
    from transformers import AutoConfig

    hidden, inner, depth, heads, groups, vocabulary = SIZES[name]
    return AutoConfig.for_model(
        "qwen2", vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers or depth,
        num_attention_heads=heads, num_key_value_heads=groups, tie_word_embeddings=name != "7b",
    )  # fmt: skip


def devices(world: int = 1, precision: Any = "bf16-mixed") -> Devices:
    return Devices("gpu", world, world, "ddp" if world > 1 else "auto", precision)


@cache
def counted(name: str, method: str, world: int = 1) -> MemoryCount:
    """It keeps what it has counted of the model."""
    return MemoryCount(settings(name), method, devices(world), PACK, DECODING)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_layers_tell_of_all_what_autograd_keeps(method: str) -> None:
    """A whole 0.5B as fake tensors keeps what is counted from one layer and two, to the byte."""
    needs = MemoryCount(settings("0.5b"), method, devices(), PACK, DECODING).needs(tuning_config(method), "auto")
    whole = Probe(
        settings("0.5b"), tuning_config(method), method, torch.float32 if method == "full" else torch.bfloat16, 24
    )
    assert needs.activations == whole.kept(PACK, mixed=True)
    sizes = whole.count()
    assert (needs.weights, needs.gradients) == (sizes["weights"], sizes["gradients"])


def test_fake_tensors_keep_what_real_ones_do() -> None:
    from omniner.llm.training.packs import make_pack
    from omniner.llm.training.shared_prefix import attach_attention, pack_loss
    from omniner.tasks.check import kept_for_backward

    small = settings("0.5b", 2)
    small.hidden_size, small.intermediate_size, small.vocab_size = 56, 96, 300
    small.num_attention_heads, small.num_key_value_heads = 14, 2
    pack = PackSize(30, 200, 80)
    counted = Probe(small, tuning_config("lora"), "lora", torch.float32, 2).kept(pack, mixed=False)
    from transformers import AutoModelForCausalLM

    from omniner.llm.tuning import prepare_for_training

    real = prepare_for_training(AutoModelForCausalLM.from_config(small), tuning_config("lora"), "lora", 0)
    attach_attention(real, "cascade", torch.float32)
    made = make_pack(memory._samples(pack), pack.prefix_length)
    assert counted == kept_for_backward(real, lambda: pack_loss(real, made))


class Alive(TorchDispatchMode):
    """Counts what the results of all operations hold."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, torch.Tensor):
                self._made[StorageWeakRef(value.untyped_storage())] = value.untyped_storage().nbytes()
        return made

    def bytes(self) -> int:
        """Of what is not freed yet."""
        return sum(size for kept, size in self._made.items() if not kept.expired())


@pytest.mark.parametrize("learns", [True, False], ids=["a step", "an evaluation"])
def test_autocast_keeps_copies_of_the_weights_beside_what_autograd_keeps(learns: bool) -> None:
    """Where activations are computed again, and where nothing is learnt, under DDP, which keeps all gradients."""
    from transformers import AutoModelForCausalLM

    from omniner.llm.training.packs import make_pack
    from omniner.llm.training.shared_prefix import attach_attention, pack_loss
    from omniner.llm.tuning import prepare_for_training

    small, pack = settings("0.5b", 6), PackSize(8, 40, 12)
    small.hidden_size, small.intermediate_size, small.vocab_size = 128, 512, 300
    small.num_attention_heads, small.num_key_value_heads = 4, 2
    tuning = tuning_config("full", gradient_checkpointing=True)
    model = prepare_for_training(AutoModelForCausalLM.from_config(small), tuning, "full", 0)
    attach_attention(model, "masked", torch.bfloat16)
    made = make_pack(memory._samples(pack), pack.prefix_length)
    own = sum(value.numel() for value in model.parameters())
    with torch.set_grad_enabled(learns), torch.autocast("cpu", torch.bfloat16), Alive() as alive:
        loss = pack_loss(model, made)
        measured = alive.bytes()
    assert loss.requires_grad is learns
    assert measured > 1.8 * own, "2 bytes of nearly every weight"
    decoding = dataclasses.replace(DECODING, slots=1, max_new_tokens=1)
    needs = MemoryCount(small, "full", devices(2), pack, decoding).needs(tuning, "ddp")
    # the gradient of the output layer, which is one of the gradients, is there with the loss
    counted = needs.activations + 4 * small.vocab_size * small.hidden_size if learns else needs.evaluation
    assert measured <= counted < 1.6 * measured
    alone = MemoryCount(small, "full", devices(), pack, decoding).needs(tuning, "auto")
    assert alone.evaluation == needs.evaluation - 2 * own, "its gradients, which are counted, are freed by then"


@pytest.mark.parametrize(
    ("name", "method", "again", "least", "most"),
    [  # GiB, worked out by hand from the shapes
        ("7b", "lora", False, 28, 36),
        ("7b", "lora", True, 16, 22),
        ("7b", "qlora", True, 6, 13),
        ("1.5b", "lora", False, 11, 18),
        ("0.5b", "full", False, 12, 19),
        ("7b", "full", False, 105, 190),  # 8-bit states, as auto takes them
    ],
)
def test_published_models_need_what_their_shapes_say(
    name: str, method: str, again: bool, least: float, most: float
) -> None:
    needs = counted(name, method).needs(tuning_config(method, gradient_checkpointing=again), "auto")
    assert least < needs.total / GIB < most, needs


def chosen(name: str, method: str, room: float, world: int = 1, wanted: str = "auto", **tuning: Any) -> memory.Plan:
    return memory.choose_plan(
        counted(name, method, world),
        tuning_config(method, **{"gradient_checkpointing": "auto", **tuning}),
        wanted,
        room * GIB,
    )


@cache
def figures(size: str, method: str, divided: bool) -> list[str]:
    """GiB without gradient checkpointing and with it, tuned as shipped."""
    tuning = dataclasses.replace(small_corpus.configuration("qwen2_tiny").tuning, method=method)
    count = MemoryCount(settings(size), method, devices(8 if divided else 1), PACK, DECODING)
    both = (dataclasses.replace(tuning, gradient_checkpointing=again) for again in (False, True))
    return [f"{count.needs(each, 'fsdp' if divided else 'auto').total / GIB:.1f}" for each in both]


@pytest.mark.parametrize("page", ["experiments/gpu/README.md", "docs/tutorials/language_model.md"])
def test_the_tables_of_memory_give_what_is_counted(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if re.match(r"\| [\d.]+B\b", line)]
    assert table
    counts = {}
    for line in table:
        size, *how = re.findall(r"[\d.]+B\b|QLoRA|LoRA|full", line)
        counts[line] = figures(size.lower(), "".join(how).lower() or "lora", "FSDP" in line)
    assert {line: re.findall(r"[\d.]+(?= \|)", line) for line in table} == counts


def test_auto_takes_the_cheapest_that_fits() -> None:
    assert str(chosen("7b", "lora", 80)) == "activations kept"
    assert str(chosen("7b", "lora", 40)) == "activations kept"
    assert str(chosen("7b", "lora", 32)) == "activations computed again"
    paper = chosen("7b", "full", 80, world=8)  # all of a 7B does not fit 80 GB eight times over, divided it does
    assert paper.strategy == "fsdp"
    assert 25 < paper.needs.total / GIB < 70
    assert chosen("7b", "qlora", 24).tuning.gradient_checkpointing is True


AUTO = small_corpus.configuration("qwen2_tiny", "decoding.slots=auto", "decoding.max_new_tokens=512").decoding


def test_auto_answers_as_many_side_by_side_as_memory_is_left_for() -> None:
    """7B with adapters: 14.3 GiB of weights, 4 GiB of caches and logits for 64 sentences of 576 tokens."""
    count = MemoryCount(settings("7b"), "lora", devices(), PACK, AUTO)
    tuning = tuning_config("lora", gradient_checkpointing=True)
    for room, slots in ((80, 256), (24, 64), (19.5, 32), (16, 16)):
        assert count.slots(tuning, "auto", room * GIB) == slots
        needs = count.needs(tuning, "auto", slots)
        kept = needs.weights + needs.gradients + needs.optimizer
        assert kept + needs.evaluation <= 0.92 * room * GIB or slots == 16
        assert kept + count.needs(tuning, "auto", 2 * slots).evaluation > 0.92 * room * GIB or slots == 256
    assert count.slots(tuning, "auto", None) == 64
    assert counted("7b", "lora").slots(tuning, "auto", 80 * GIB) == 64, "a number stays what it is"


def test_a_loaded_model_answers_in_what_it_leaves_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings("7b"), dtype=torch.bfloat16)
    free = {"all": 10 * GIB, "reserved": 3 * GIB, "used": GIB}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free["all"], 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: free["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: free["used"])
    with caplog.at_level("INFO", "omniner"):
        assert memory.slots_beside(model, AUTO, devices()) == 128  # 8.3 GB of 12
    assert caplog.messages == ["12 GiB are free beside the model: 128 answers side by side"]
    free["reserved"] = free["used"]
    free["all"] = 8 * GIB
    assert memory.slots_beside(model, AUTO, devices()) == 64
    assert memory.slots_beside(model, AUTO, Devices("cpu", 1, 1, "auto", "32-true")) == 64
    assert memory.slots_beside(model, DECODING, devices()) == 64


def test_the_slots_of_auto_are_said_where_memory_chose_them(caplog: pytest.LogCaptureFixture) -> None:
    cpu = Devices("cpu", 1, 1, "auto", "32-true")
    config = small_corpus.configuration("qwen2_tiny", "decoding.slots=auto")
    with caplog.at_level("INFO", "omniner"):
        assert memory.plan_training(config, cpu) == (config, cpu)
        assert memory.slots_beside(torch.nn.Linear(1, 1), config.decoding, cpu) == config.decoding.usual_slots
    assert not caplog.messages


def test_the_optimizer_does_not_depend_on_what_other_programs_hold() -> None:
    """A run that goes on beside them would be refused as another training."""
    count, tuning = counted("0.5b", "full"), tuning_config("full", gradient_checkpointing="auto")
    with_all = count.needs(dataclasses.replace(tuning, gradient_checkpointing=False), "auto").total / 0.92
    busy = 0.95 * with_all
    assert memory.choose_plan(count, tuning, "auto", busy).tuning.optimizer == "adamw_8bit"
    for room, again in ((1.01 * with_all, False), (busy, True)):
        plan = memory.choose_plan(count, tuning, "auto", room, 1.01 * with_all)
        assert (plan.tuning.optimizer, plan.tuning.gradient_checkpointing) == ("auto", again)
    with pytest.raises(UserError, match=r"are needed at least .* Free the GPUs of what else uses them"):
        memory.choose_plan(count, tuning, "auto", with_all / 2, 1.01 * with_all)


@pytest.mark.parametrize("stored", ["adamw", "adamw_8bit"])
def test_a_training_goes_on_with_the_optimizer_that_it_began_with(stored: str, tmp_path: Path) -> None:
    auto, last = tuning_config("full", optimizer="auto"), tmp_path / "last.ckpt"
    assert memory.as_begun(auto, last) is auto
    torch.save({"generative": {"tuning": {"optimizer": stored}}}, last)
    assert memory.as_begun(auto, last).optimizer == stored
    last.write_bytes(b"damaged")
    assert memory.as_begun(auto, last) is auto


def test_what_cannot_fit_is_refused_with_what_would() -> None:
    with pytest.raises(UserError, match=r"GiB of each device are needed .*tuning\.gradient_checkpointing=true would"):
        chosen("7b", "lora", 32, gradient_checkpointing=False)
    with pytest.raises(UserError, match=r"trainer\.strategy=fsdp would fit"):
        chosen("7b", "full", 80, world=8, wanted="ddp")
    with pytest.raises(UserError, match=r"Take tuning=qlora"):
        chosen("7b", "lora", 12)


def test_another_optimizer_is_advised_only_to_a_training_that_begins() -> None:
    """One that goes on would be refused with it."""
    recomputed = tuning_config("full", gradient_checkpointing=True)
    least = counted("0.5b", "full").needs(recomputed, "auto").total / GIB / 0.92
    with pytest.raises(UserError, match=r" tuning\.gradient_checkpointing=true would fit\.$"):
        chosen("0.5b", "full", 1.01 * least, gradient_checkpointing=False, optimizer="adamw")
    with pytest.raises(UserError, match=r"optimizer=adamw_8bit would fit if the training begins anew \(resume=never\)"):
        chosen("0.5b", "full", 0.95 * least, optimizer="adamw")


def test_a_training_that_goes_on_is_advised_nothing_that_makes_another_one_of_it() -> None:
    count = counted("7b", "lora")
    with pytest.raises(UserError, match=r"Go on with it on GPUs .* or begin anew \(resume=never\) .*tuning=qlora"):
        memory.choose_plan(count, tuning_config("lora"), "auto", 12 * GIB, resumed=True)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Begins a training whose answers are longer than 512 tokens, on a GPU with room for 256 of 512 tokens; gives what
    evaluations then decode with, and the longest answer.
    """
    from omniner import models
    from omniner.llm import loading
    from omniner.training import fit

    room = {"bytes": 0.0}
    monkeypatch.setattr(memory, "held_memory", lambda _: GIB)  # a notebook's model
    monkeypatch.setattr(memory, "device_memory", lambda _, idle=False, held=GIB: room["bytes"] + GIB - held)
    monkeypatch.setattr(fit, "fit_module", lambda config, devices, module, *_: module)

    def begin(*overrides: str) -> tuple[Any, int]:
        config = small_corpus.configuration("qwen2_tiny", "tuning.pack_tokens=256", *overrides)
        assert config.llm is not None
        on = models.prepare_devices(config)
        count = MemoryCount(
            loading.load_settings(config.llm), config.tuning.method, on, memory.typical_pack(256), config.decoding
        )
        tuning = dataclasses.replace(config.tuning, gradient_checkpointing=False)
        room["bytes"] = count.needs(tuning, "auto", 256).total / 0.92
        text, corpus = "张三" * 200, small_corpus.corpus(8, 2)
        long = [Entity("张三", "人", at, at + 2) for at in range(0, len(text), 2)]
        corpus.splits["train"][0] = Sentence("long", text, long)
        module: Any = models.fit(config, corpus, small_corpus.prompt(config, corpus), tmp_path, None, [])
        return module.decoding, module.causal.longest_answer

    return begin


def test_longer_answers_of_train_leave_room_for_fewer_side_by_side(begun: Callable[..., Any]) -> None:
    decoding, longest = begun("decoding.slots=auto", "decoding.max_new_tokens=auto")
    assert longest > 512
    assert decoding.slots < 256
    assert decoding.max_new_tokens is None
    decoding, _ = begun("decoding.slots=auto", "decoding.max_new_tokens=512")
    assert decoding.slots == 256


def test_longer_answers_that_do_not_fit_are_refused_before_training(begun: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"^tuning: .* are needed at least"):
        begun("decoding.slots=256", "decoding.max_new_tokens=auto")


def test_a_gpu_that_is_too_small_is_noticed_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`memory.plan_training` looks at the device, and says what `auto` became."""
    from types import SimpleNamespace

    config = small_corpus.configuration("qwen2_tiny", "tuning=full", "decoding.slots=auto")
    monkeypatch.setattr(memory, "load_settings", lambda of: settings("7b"))
    card = SimpleNamespace(total_memory=80 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (card.total_memory, card.total_memory))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 0)
    planned, on = memory.plan_training(config, devices(8))
    assert (on.strategy, planned.tuning.method) == ("fsdp", "full")
    assert planned.decoding.slots in (16, 32, 64, 128, 256), "auto is a number once the memory is known"
    card.total_memory = 8 * GIB
    with pytest.raises(UserError, match="are needed at least"):
        memory.plan_training(config, devices(1))


def test_a_plan_counts_with_the_smallest_gpu_and_with_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    sizes = [24 * GIB, 16 * GIB, 8 * GIB]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(total_memory=sizes[number]))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12 * GIB, 24 * GIB))  # a desktop, and this process
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 9 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 4 * GIB)  # a model that a notebook has loaded
    assert memory.device_memory(devices()) == 17 * GIB
    assert memory.device_memory(devices(), held=GIB) == 20 * GIB, "the rest may be the model to train"
    assert memory.device_memory(devices(), idle=True) == 24 * GIB
    assert memory.device_memory(devices(2)) == 16 * GIB, "the second process would find something else free"
    assert memory.device_memory(Devices("cpu", 2, 2, "ddp", "32-true")) is None
