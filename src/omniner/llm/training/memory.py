"""Count the device memory that training of a causal model needs, before anything is loaded.

    weights + gradients + optimizer + the larger of (activations + working, evaluation)

Weights, gradients and the optimizer's two moments follow from the numbers of weights and their dtypes. Activations are
what autograd keeps of the largest pack. They are measured on models of one and of two layers, whose tensors are fake
(they have shapes and dtypes but no content), and extrapolated to all layers: each further layer adds exactly the same
number of bytes. So every architecture, precision and tuning method is counted as it is computed, in a second and on any
machine. Working memory is the largest of the short-lived parts: a chunk of logits with its gradient, and the inside of
one layer.

`choose_plan` takes the first combination that fits of the settings that the configuration leaves to `auto`: activations
that are recomputed, 8-bit optimizer states, weights sharded between the devices. They are tried in the order of their
cost in time. In the remaining memory `most_slots` allows as many sentences as possible to be answered in parallel.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from omniner.compute.devices import Devices
from omniner.compute.precision import compute_dtype
from omniner.config.groups import Config
from omniner.config.model_groups import DecodingConfig, TuningConfig, WantedOptimizer
from omniner.errors import UserError
from omniner.llm.decoding.prefix_cache import head_sizes
from omniner.llm.loading import load_settings
from omniner.llm.samples import Sample, answer_cap
from omniner.llm.training.optimizers import optimizer_name
from omniner.llm.training.packs import make_pack
from omniner.llm.training.shared_prefix import MOST_LOGITS, attach_attention, pack_loss
from omniner.llm.tuning import prepare_for_training
from omniner.pretrained import base_model
from omniner.training.checkpoints import read_checkpoint

log = logging.getLogger("omniner")

GIB = 2**30
_USABLE = 0.92  # of a device: the rest is for torch itself, kernels, and gaps between blocks
_CODE = {True: 0.516, False: 0.5625}  # bytes of a 4-bit weight with its constants, quantised or not
_STATE_8BIT = 2.04  # bytes of both moments with their constants
_PREFIX = 700  # tokens that the sentences share, assumed before anything is encoded
_PROMPT = 64  # tokens of a sentence in its slot, in addition to its answer
_FEWEST_SLOTS, _MOST_SLOTS = 16, 256  # of `decoding.slots=auto`: fewer are slow, more make each step longer


class PackSize(NamedTuple):
    """The largest pack of a run.

    Attributes:
        prefix_length: number of tokens that its sentences share.
        tokens: number of all tokens.
        answers: number of answer tokens, which are learnt.
    """

    prefix_length: int
    tokens: int
    answers: int


def typical_pack(pack_tokens: int) -> PackSize:
    """Estimate the largest pack before anything is encoded: a full one in which most of each sentence is its answer."""
    prefix_length = min(_PREFIX, pack_tokens // 4)
    return PackSize(prefix_length, pack_tokens, int(0.65 * (pack_tokens - prefix_length)))


class Needs(NamedTuple):
    """Bytes needed on each device.

    Attributes:
        weights: of the model, in the dtypes in which they are held.
        gradients: of the trainable weights.
        optimizer: its states.
        activations: what the largest pack keeps for its backward pass.
        working: short-lived memory during a step.
        evaluation: caches and logits of the answers, and under fsdp the whole model.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    working: float
    evaluation: float

    @property
    def total(self) -> float:
        """The peak of memory in use."""
        return self.weights + self.gradients + self.optimizer + max(self.activations + self.working, self.evaluation)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / GIB:.2f}" for name, value in self._asdict().items())
        return f"{self.total / GIB:.1f} GiB ({parts})"


class Probe:
    """The model of a run with few layers, as fake tensors: counts weights and what a pack keeps.

    Args:
        settings: the model's transformers configuration.
        tuning: which weights are trained, and how.
        method: full | lora | qlora.
        dtype: in which the weights are held, except those of adapters.
        layers: of the decoder.
    """

    def __init__(self, settings: Any, tuning: TuningConfig, method: str, dtype: torch.dtype, layers: int) -> None:
        from transformers import AutoModelForCausalLM

        self.tuning, self.method, self.dtype = tuning, method, dtype
        settings = copy.deepcopy(settings)
        settings.num_hidden_layers = layers
        if getattr(settings, "layer_types", None) is not None:
            settings.layer_types = settings.layer_types[:layers]
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings, dtype=dtype)
            # with 4-bit weights the same is kept as with ordinary frozen ones
            learns_as = "lora" if method == "qlora" else method
            plain = dataclasses.replace(tuning, gradient_checkpointing=False)
            self.model = prepare_for_training(model, plain, learns_as, seed=0)

    def count(self) -> dict[str, float]:
        """Return bytes of the weights, bytes of trainable ones (`gradients`), and their number (`learning`)."""
        quantised = set(self._quantised())
        found = {"weights": 0.0, "gradients": 0.0, "learning": 0.0}
        for value in self.model.parameters():
            size = value.numel() * value.element_size()
            code = value.numel() * _CODE[self.tuning.double_quantization]
            found["weights"] += code if id(value) in quantised else size
            if value.requires_grad:
                found["gradients"] += size
                found["learning"] += value.numel()
        return found

    def _quantised(self) -> Iterator[int]:
        if self.method != "qlora":
            return
        base = base_model(self.model)
        output = base.get_output_embeddings()
        for name, part in base.named_modules():
            if type(part) is nn.Linear and part is not output and "lora_" not in name:
                yield id(part.weight)

    def kept(self, pack: PackSize, mixed: bool) -> float:
        """Return the bytes that autograd keeps of a pack between its passes, without the model's own weights.

        Args:
            pack: its size.
            mixed: whether products are computed in bf16 whatever dtype the weights are held in.
        """
        from torch._subclasses.fake_tensor import FakeTensorMode

        items = _samples(pack)
        made = make_pack(items, pack.prefix_length)
        compute = torch.bfloat16 if mixed else self.dtype
        with FakeTensorMode(allow_non_fake_inputs=True):
            _make_fake(self.model)
            attach_attention(self.model, "cascade", compute)
            own = {value.untyped_storage()._cdata for value in self.model.parameters()}
            seen: dict[int, int] = {}
            alive: list[torch.Tensor] = []  # keeps tensors alive: an address must not be reused

            def note(tensor: torch.Tensor) -> torch.Tensor:
                storage = tensor.untyped_storage()
                if storage._cdata not in own:
                    seen[storage._cdata] = storage.nbytes()
                    alive.append(tensor)
                return tensor

            with (
                torch.enable_grad(),
                torch.autocast("cpu", torch.bfloat16, enabled=mixed),
                torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            ):
                pack_loss(self.model, made)
        return float(sum(seen.values()))


def _samples(pack: PackSize) -> list[Sample]:
    """Return samples for a pack of this size, of about equal lengths."""
    suffixes = max(2, pack.tokens - pack.prefix_length)
    count = max(1, min(suffixes // 70, pack.answers))
    own, answers = suffixes // count, max(1, pack.answers // count)
    rest = max(1, own - answers + 1)
    return [Sample("", "", [], [0] * (pack.prefix_length + rest), [0] * answers, []) for _ in range(count)]


def _make_fake(model: nn.Module) -> None:
    """Replace the tensors of a model on the meta device by fake ones on the CPU; shared tensors stay shared."""
    made: dict[int, nn.Parameter] = {}
    for part in model.modules():
        for name, value in part._parameters.items():
            if value is not None and value.device.type == "meta":
                new = nn.Parameter(torch.empty(value.shape, dtype=value.dtype), requires_grad=value.requires_grad)
                part._parameters[name] = made.setdefault(id(value), new)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.device.type == "meta":
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class MemoryCount:
    """Count what a run needs of each device, for any tuning and sharding.

    Args:
        settings: the model's transformers configuration.
        method: full | lora | qlora.
        devices: precision, and number of processes.
        pack: the largest.
        decoding: `slots` and `max_new_tokens` of an evaluation.
        longest: tokens of train's longest answer; None = unknown.

    Attributes:
        method, devices: as given.
    """

    def __init__(
        self,
        settings: Any,
        method: str,
        devices: Devices,
        pack: PackSize,
        decoding: DecodingConfig,
        longest: int | None = None,
    ) -> None:
        self._settings, self.method, self.devices = settings, method, devices
        self._pack, self._decoding = pack, decoding
        self._most_tokens = decoding.max_new_tokens or answer_cap(longest)
        self._compute = compute_dtype(devices.precision)
        self._measured: dict[bool, list[tuple[dict[str, float], float]]] = {}

    def needs(self, tuning: TuningConfig, strategy: str, slots: int | None = None) -> Needs:
        """Count for a way to train.

        Args:
            tuning: `auto` settings count as off.
            strategy: auto | ddp | fsdp.
            slots: of an evaluation; None = those of the configuration, and the usual ones for `auto`.
        """
        divided = strategy == "fsdp"
        held = self._compute if divided else self.devices.dtype(learns=self.method == "full")
        (one, kept_one), (two, kept_two) = self._measure(tuning, divided, held)
        layers, text = self._settings.num_hidden_layers, self._settings.get_text_config()
        size = {name: value + (layers - 1) * (two[name] - value) for name, value in one.items()}
        row = self._pack.tokens * text.hidden_size * held.itemsize
        again = tuning.gradient_checkpointing is True
        kept = kept_one + (layers * row if again else (layers - 1) * (kept_two - kept_one))
        # autocast keeps a copy of each fp32 weight that learns to the end of a step or an evaluation
        copied = self._compute.itemsize if self.method == "full" and held != self._compute else 0
        if again:  # layers that keep their activations keep the same copies with them
            kept += copied * (size["learning"] - one["learning"])
        weights, gradients = size["weights"], size["gradients"]
        answers = self._answers(slots or self._decoding.usual_slots)
        if strategy == "ddp":  # other gradients, which are larger, are freed before an evaluation; its buckets stay
            answers += copied * size["learning"]
        states = 2 * gradients
        if optimizer_name(tuning.optimizer, size["learning"], self.devices.accelerator, strategy) == "adamw_8bit":
            states = _STATE_8BIT * size["learning"]
        if divided:
            answers += weights  # gathered while answers are written
            stored = 4 / held.itemsize if self.method == "full" and self.devices.precision == "bf16-mixed" else 1.0
            # each has its share, and gathers the ends of the model and two layers at a time
            weights = weights * stored / self.devices.world + two["weights"]
            gradients, states = (each * stored / self.devices.world for each in (gradients, states))
        return Needs(weights, gradients, states, kept, self._working(text), answers)

    def _measure(self, tuning: TuningConfig, divided: bool, held: torch.dtype) -> list[tuple[dict[str, float], float]]:
        """Count, with one layer and with two, the weights of the model and what is kept of the pack."""
        if divided not in self._measured:
            mixed = self.devices.precision == "bf16-mixed" and not divided
            probes = [Probe(self._settings, tuning, self.method, held, layers) for layers in (1, 2)]
            self._measured[divided] = [(probe.count(), probe.kept(self._pack, mixed)) for probe in probes]
        return self._measured[divided]

    def _working(self, text: Any) -> float:
        """Count the larger of a chunk of logits with its gradient and the inside of a layer."""
        rows = min(self._pack.answers, max(1, MOST_LOGITS // text.vocab_size))
        logits = rows * text.vocab_size * (4 + 2 * self._compute.itemsize)
        return float(max(logits, 3 * self._pack.tokens * text.intermediate_size * self._compute.itemsize))

    def _answers(self, slots: int) -> float:
        return decoding_bytes(self._settings, self._compute, self._pack.prefix_length, self._most_tokens, slots)

    def slots(self, tuning: TuningConfig, strategy: str, room: float | None) -> int:
        """Return the slots of the configuration; for `auto` as many as fit in addition to what training keeps.

        Args:
            tuning, strategy: see `needs`.
            room: bytes of each device; None = unknown, and the usual number is used.
        """
        if self._decoding.slots or room is None:
            return self._decoding.usual_slots
        needs = self.needs(tuning, strategy, _FEWEST_SLOTS)
        left = _USABLE * room - needs.weights - needs.gradients - needs.optimizer
        return most_slots(lambda slots: needs.evaluation - self._answers(_FEWEST_SLOTS) + self._answers(slots), left)


def decoding_bytes(settings: Any, compute: torch.dtype, prefix_length: int, longest: int, slots: int) -> float:
    """Count the bytes of caches and logits while sentences are answered; slots exist twice while they grow.

    Args:
        settings: the model's transformers configuration.
        compute: dtype of the products.
        prefix_length: number of tokens that all prompts share.
        longest: most tokens of an answer.
        slots: sentences answered in parallel.
    """
    text = settings.get_text_config()
    heads = head_sizes(text)
    places = prefix_length + 2 * slots * (_PROMPT + longest)
    caches = settings.num_hidden_layers * 2 * heads.kv_heads * heads.width * places * compute.itemsize
    return float(caches + slots * text.vocab_size * (4 + compute.itemsize))


def most_slots(count: Callable[[int], float], room: float) -> int:
    """Return the number of slots for which `count` gives at most `room` bytes: 256, halved until it fits, at least 16.

    Halving makes the result robust against small changes of free memory: the same sentences are decoded together.
    """
    slots = _MOST_SLOTS
    while slots > _FEWEST_SLOTS and count(slots) > room:
        slots //= 2
    return slots


def held_memory(devices: Devices) -> int:
    """Return the bytes that this process holds on its GPU, such as a model that a notebook has loaded."""
    return torch.cuda.memory_allocated() if devices.accelerator == "gpu" else 0


def device_memory(devices: Devices, idle: bool = False, held: int | None = None) -> float | None:
    """Return the bytes that each GPU of a training has; None if it uses CPUs, whose memory other programs use as well.

    Processes must agree on their plan, and each can ask only its own GPU what is free. So what is used already, by this
    process or by other programs such as a desktop, is subtracted only for a single process.

    Args:
        devices: those of the training.
        idle: count as if nothing else used the GPUs.
        held: result of `held_memory` before the model to train, which may be on its GPU now, was loaded; None = it is
            not loaded yet.
    """
    if devices.accelerator != "gpu":
        return None
    room = min(torch.cuda.get_device_properties(number).total_memory for number in range(devices.per_node))
    if devices.world == 1 and not idle:
        in_use = held_memory(devices) if held is None else held
        room = min(room, torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - in_use)
    return float(room)


def slots_beside(model: Any, decoding: DecodingConfig, devices: Devices, longest: int | None = None) -> int:
    """Return the slots of the configuration; for `auto` as many as fit beside a model that is already on its device.

    Args:
        model: on its device.
        decoding: `slots` and `max_new_tokens` are read.
        devices: where it runs.
        longest: tokens of its longest training answer; None = unknown.
    """
    if decoding.slots or devices.accelerator != "gpu":
        return decoding.usual_slots
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    base = base_model(model)
    tokens = decoding.max_new_tokens or answer_cap(longest)
    chosen = most_slots(lambda slots: decoding_bytes(base.config, base.dtype, _PREFIX, tokens, slots), _USABLE * free)
    log.info("%.0f GiB are free beside the model: %d answers side by side", free / GIB, chosen)
    return chosen


def plan_training(config: Config, devices: Devices, last: Path | None = None) -> tuple[Config, Devices]:
    """Resolve `auto` settings so that training of a causal model fits into its GPUs; on CPUs change nothing else.

    Args:
        config: the whole configuration.
        devices: those of the training.
        last: the file from which training goes on, if it is there.

    Raises:
        UserError: it cannot fit; the message names settings that would.
    """
    resumed = last is not None and last.is_file()
    if last is not None:
        config = dataclasses.replace(config, tuning=as_begun(config.tuning, last))
    if (room := device_memory(devices)) is None:
        return config, devices
    return _planned(config, devices, room, resumed=resumed)


def plan_answers(
    wanted: DecodingConfig, planned: Config, devices: Devices, longest: int | None, held: int
) -> DecodingConfig:
    """Plan the answers of evaluations again if those of train are longer than the first plan assumes.

    Args:
        wanted: as in the configuration, before the first plan.
        planned: the configuration with the first plan, and how the module learns, which is no longer changed.
        devices: with the strategy of the first plan.
        longest: tokens of train's longest answer; None = unknown.
        held: result of `held_memory` before the module was built.

    Returns:
        `wanted` with a number of slots.

    Raises:
        UserError: such answers do not fit beside what training keeps.
    """
    room = device_memory(devices, held=held)
    if room is None or wanted.max_new_tokens or answer_cap(longest) == answer_cap(None):
        return planned.decoding
    trainer = dataclasses.replace(planned.trainer, strategy=cast(Any, devices.strategy))
    chosen = dataclasses.replace(planned, decoding=wanted, trainer=trainer)
    return _planned(chosen, devices, room, longest)[0].decoding


def _planned(
    config: Config, devices: Devices, room: float, longest: int | None = None, resumed: bool = False
) -> tuple[Config, Devices]:
    """Choose a plan for `room` bytes of each GPU, and put it into the configuration and the devices."""
    assert config.llm is not None, "taggers are not planned"
    pack = typical_pack(config.tuning.pack_tokens)
    count = MemoryCount(load_settings(config.llm), config.tuning.method, devices, pack, config.decoding, longest)
    idle = device_memory(devices, idle=True)
    plan = choose_plan(count, config.tuning, config.trainer.strategy, room, idle, resumed)
    message = "memory of each GPU: %s of %.0f GiB; %s, %d answers side by side"
    log.info(message, plan.needs, room / GIB, plan, plan.slots)
    planned = with_slots(dataclasses.replace(config, tuning=plan.tuning), plan.slots)
    return planned, devices._replace(strategy=plan.strategy)


def with_slots(config: Config, slots: int) -> Config:
    """Replace `decoding.slots=auto` by a number."""
    return dataclasses.replace(config, decoding=dataclasses.replace(config.decoding, slots=slots))


def as_begun(tuning: TuningConfig, last: Path) -> TuningConfig:
    """Replace `tuning.optimizer=auto` by that of a training that goes on: what is free today may suggest another.

    Args:
        tuning: of the configuration.
        last: the file from which training goes on, if it is there.
    """
    if tuning.optimizer != "auto" or not last.is_file():
        return tuning
    with contextlib.suppress(UserError):  # a damaged file is refused when training is about to go on from it
        if (stored := read_checkpoint(last).get("generative")) is not None:
            return dataclasses.replace(tuning, optimizer=stored["tuning"]["optimizer"])
    return tuning


class Plan(NamedTuple):
    """The resolved `auto` settings.

    Attributes:
        tuning: with `gradient_checkpointing` and `optimizer` as chosen.
        strategy: auto | ddp | fsdp.
        needs: the memory it needs of each device.
        slots: number of sentences that an evaluation answers in parallel.
    """

    tuning: TuningConfig
    strategy: str
    needs: Needs
    slots: int

    def __str__(self) -> str:
        said = ["activations computed again" if self.tuning.gradient_checkpointing is True else "activations kept"]
        if self.tuning.optimizer == "adamw_8bit":
            said.append("8-bit optimizer")
        if self.strategy == "fsdp":
            said.append("weights divided (fsdp)")
        return ", ".join(said)


def choose_plan(
    count: MemoryCount,
    tuning: TuningConfig,
    wanted: str,
    room: float,
    idle: float | None = None,
    resumed: bool = False,
) -> Plan:
    """Choose the cheapest combination that fits, and for `decoding.slots=auto` as many slots as fit with it.

    The optimizer is the one that fits into idle devices: it changes the results, so it must not depend on what other
    programs, or runs that this one is compared with, hold at the moment.

    Args:
        count: of the run.
        tuning: `gradient_checkpointing` and `optimizer` are chosen if they are `auto`.
        wanted: `trainer.strategy`; for auto, and several devices, a strategy is chosen, too.
        room: free bytes of each device.
        idle: bytes that would be free if no other program used it; None = `room`.
        resumed: the training goes on, with the settings that it began with.

    Raises:
        UserError: none fits; the message names one that would.
    """
    allowed = list(plans(count, tuning, wanted, room))
    alone = None if idle is None else _first_fit(plans(count, tuning, wanted, idle), idle)
    if alone is not None:
        allowed = [plan for plan in allowed if plan.tuning.optimizer == alone.tuning.optimizer]
    if (plan := _first_fit(allowed, room)) is not None:
        return plan
    least = min(allowed, key=lambda plan: plan.needs.total)
    needed = f"{least.needs.total / GIB:.0f} GiB of each device are needed at least ({least})"
    found = f"{needed}, {_USABLE * room / GIB:.0f} of {room / GIB:.0f} can be used"
    end = "" if alone is None else "Free the GPUs of what else uses them, then it fits. Or change the settings: "
    if resumed:  # with other settings it would be another training
        end = "Go on with it on GPUs with more free memory, or begin anew (resume=never) with other settings: "
    raise UserError("tuning", found, end + _advice(count, tuning, room))


def _first_fit(allowed: Iterable[Plan], room: float) -> Plan | None:
    return next((plan for plan in allowed if plan.needs.total <= _USABLE * room), None)


def plans(count: MemoryCount, tuning: TuningConfig, wanted: str, room: float | None) -> Iterator[Plan]:
    """Yield what the configuration allows, the cheapest in time first; the arguments are those of `choose_plan`."""
    again = [False, True] if tuning.gradient_checkpointing == "auto" else [tuning.gradient_checkpointing]
    optimizers: list[WantedOptimizer] = [tuning.optimizer]
    if tuning.optimizer == "auto":
        optimizers.append("adamw_8bit")
    strategies = [count.devices.strategy]
    if wanted == "auto" and count.devices.world > 1 and count.method != "qlora":
        strategies.append("fsdp")
    for strategy, recompute, optimizer in itertools.product(strategies, again, optimizers):
        if strategy == "fsdp" and optimizer == "adamw_8bit":
            continue
        chosen = dataclasses.replace(tuning, gradient_checkpointing=recompute, optimizer=optimizer)
        slots = count.slots(chosen, strategy, room)
        yield Plan(chosen, strategy, count.needs(chosen, strategy, slots), slots)


def _advice(count: MemoryCount, tuning: TuningConfig, room: float) -> str:
    """Return a combination that would fit, close to the requested one."""
    same = dataclasses.replace(tuning, gradient_checkpointing="auto")
    other = dataclasses.replace(same, optimizer="auto")
    # a training that goes on cannot change its optimizer
    for free, end in (same, "."), (other, " if the training begins anew (resume=never)."):
        if (plan := _first_fit(plans(count, free, "auto", room), room)) is not None:
            fsdp = ["trainer.strategy=fsdp"] if plan.strategy == "fsdp" else []
            new = plan.tuning.optimizer
            optimizer = [f"tuning.optimizer={new}"] if new != tuning.optimizer else []
            again = f"tuning.gradient_checkpointing={str(plan.tuning.gradient_checkpointing).lower()}"
            return f"{' '.join([again, *optimizer, *fsdp])} would fit{end}"
    weaker = {"full": "tuning=lora", "lora": "tuning=qlora"}.get(count.method, "a smaller model")
    return f"Take {weaker}, more devices with trainer.strategy=fsdp, or fewer tuning.pack_tokens and decoding.slots."
