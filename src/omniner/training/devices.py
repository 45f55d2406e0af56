"""Devices: what `auto` becomes on this machine, and how weights are divided between processes.

A GPU is used where CUDA has one, in bf16 for large models; Apple's `mps` is left alone. Some CPUs multiply bf16 several
times as fast as fp32 (AMX, avx512_bf16): a pretrained model takes it there, if its own shapes gain from it. That is
measured once for a processor, a version of torch and a shape, and kept in the user's cache, so that the next run
decides alike. Several devices train data-parallel, each with all weights (ddp) or with its share of them (fsdp).

FSDP2 divides weights, gradients and optimizer state between processes, for models too large for one device. A
pretrained model is loaded as it is stored: pages of its files, which the processes of a host share, until each has its
part. (One with random weights is made by each process whole.) Then each layer is put together when its turn comes and
taken apart again: every process must run the same layers in the same order, so all of them have equally many packs. To
write answers, where processes need different numbers of steps, `unsharded` puts all layers together for a while; each
device must hold all weights then, in the precision of computing.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from omniner.config.model_groups import TrainerConfig
from omniner.cores import GPU_FILES, busy_beside, own_cores
from omniner.errors import UserError, one_line
from omniner.files import make_folder, read_json, write_json
from omniner.wording import counted

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

log = logging.getLogger("omniner")

Precision = Literal["32-true", "bf16-mixed", "bf16-true"]


def compute_dtype(precision: str) -> torch.dtype:
    """Return the type that matrix products are computed in at a `Precision`."""
    return torch.float32 if precision == "32-true" else torch.bfloat16


class Devices(NamedTuple):
    """Where and how a model runs.

    Attributes:
        accelerator: cpu | gpu.
        per_node: processes of a node.
        world: processes of all nodes.
        strategy: auto (one process) | ddp | fsdp.
        precision: of computing.
        deterministic: whether kernels must add in a fixed order.
    """

    accelerator: str
    per_node: int
    world: int
    strategy: str
    precision: Precision
    deterministic: bool = False

    @property
    def device(self) -> torch.device:
        """What a process that answers alone works on."""
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    def dtype(self, learns: bool) -> torch.dtype:
        """Return the type in which the weights of a causal model are held.

        Mixed precision computes in bf16 but adds small steps to the weights, which fp32 must hold. Weights that do not
        learn get no steps.
        """
        exact = self.precision == "32-true" or (self.precision == "bf16-mixed" and learns)
        return torch.float32 if exact else torch.bfloat16


def choose_devices(
    trainer: TrainerConfig, large: bool, layer: tuple[int, int] | None = None, trains: bool = True
) -> Devices:
    """Choose what a model runs on, and log it; training sets this process's threads and how torch computes as well.

    A model that answers may be the guest of another program: it leaves the CPU threads alone, unless `trainer.threads`
    says how many, and computes under `settled`. A program of ours calls `use_own_cores` before.

    Args:
        trainer: what the configuration asks for.
        large: whether the model is large enough to gain from bf16 on a GPU.
        layer: numbers per token, and inside a layer, of a pretrained model that may take bf16 on a CPU; None = no bf16
            there.
        trains: whether it learns, on all devices together; to answer, a process has one.

    Raises:
        UserError: there are not so many GPUs, or they do not start; a step's sentences cannot be divided between the
            processes.
    """
    accelerator, count = count_devices(trainer)
    count, nodes = (count, trainer.nodes) if trains else (1, 1)
    world = count * nodes
    if trains and trainer.batch_size % world:
        raise UserError(
            "trainer.batch_size",
            f"{trainer.batch_size} sentences do not divide over {world} devices",
            f"Choose a multiple of {world}.",
        )
    strategy = "fsdp" if trains and trainer.strategy == "fsdp" else "ddp" if world > 1 else "auto"
    if trains or trainer.threads:
        threads = use_own_cores(trainer, count if accelerator == "cpu" else 1)
    else:
        threads = torch.get_num_threads()
    _check_gpu_starts(accelerator, trainer.accelerator)
    precision, why = _precision(trainer.precision, accelerator, large, layer)
    devices = Devices(accelerator, count, world, strategy, precision, trainer.deterministic)
    if trains:
        _settle_products(precision, trainer.deterministic)
    log.info(
        "%d %s%s%s, %s%s, %s per process",
        count,
        accelerator.upper(),
        f" on each of {nodes} nodes" if nodes > 1 else "",
        "" if strategy == "auto" else f", {strategy}",
        devices.precision,
        why,
        counted(threads, "CPU thread"),
    )
    if trains and accelerator == "cpu" and not trainer.threads and threads > 1 and busy_beside() >= threads / 2:
        log.info("other programs keep the cores busy: trainer.threads=1 may train several times as fast")
    return devices


def count_devices(trainer: TrainerConfig) -> tuple[str, int]:
    """Return what a run works on here, `cpu` or `gpu`, and on how many of them.

    Raises:
        UserError: there are not so many GPUs.
    """
    gpus = torch.cuda.device_count()
    accelerator = trainer.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator == "gpu" and gpus < max(1, trainer.devices):
        if gpus:
            found = f"{counted(gpus, 'GPU')}, {trainer.devices} are asked for"
            raise UserError("trainer.accelerator", found, "Use fewer trainer.devices.")
        raise UserError("trainer.accelerator", f"no GPU that {_torch_build()} can use", "Use trainer=cpu.")
    return accelerator, trainer.devices or (gpus if accelerator == "gpu" else 1)


def _check_gpu_starts(accelerator: str, wanted: str) -> None:
    """Start CUDA: torch counts the GPUs that the driver names, also where it cannot use them.

    Raises:
        UserError: a driver older than torch's CUDA, or one whose own services do not run.
    """
    if accelerator == "gpu":
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            found = f"there is a GPU, but CUDA does not start ({one_line(error)})"
            fix = "Mend the driver, install a torch that is built for it, or use trainer=cpu."
            raise UserError("trainer.accelerator", found, fix) from error
    elif wanted == "auto" and any(map(os.path.exists, GPU_FILES)):
        log.warning("a GPU driver is there, but no GPU that %s can use: the CPU does the work", _torch_build())


def _torch_build() -> str:
    built = torch.version.cuda or torch.version.hip
    return f"torch {torch.__version__}{'' if built else ', which is built without CUDA,'}"


def _settle_products(precision: Precision, deterministic: bool) -> None:
    """Say how torch multiplies fp32, and whether its kernels may add in any order.

    A GPU may round the factors of an fp32 product to TF32 (10 bits), which `32-true` excludes. Beside bf16 (7 bits)
    most of the few products that stay in fp32 lose nothing by it; those that would stand under `exact_products`.
    """
    torch.set_float32_matmul_precision("highest" if precision == "32-true" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "32-true"  # its LSTMs do not go by the line above
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # setting it imports torch's compiler: 3 s of CPU
        torch.use_deterministic_algorithms(deterministic)


class _Settings(NamedTuple):
    """What `_settle_products` changes, for the whole process."""

    products: str
    tf32: bool
    deterministic: bool
    warn_only: bool


def _settings() -> _Settings | None:
    """Ask torch; None where the program has set single backends, which torch answers no such question about."""
    try:
        products, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None
    deterministic = torch.are_deterministic_algorithms_enabled()
    return _Settings(products, tf32, deterministic, torch.is_deterministic_algorithms_warn_only_enabled())


def _give_back(settings: _Settings | None) -> None:
    if settings is None:
        return
    torch.set_float32_matmul_precision(settings.products)
    torch.backends.cudnn.allow_tf32 = settings.tf32
    if torch.are_deterministic_algorithms_enabled() != settings.deterministic:
        torch.use_deterministic_algorithms(settings.deterministic, warn_only=settings.warn_only)


_lending = threading.Lock()
_borrowers = 0  # blocks of `settled` and `settings_kept` that are under way, in all threads
_owners: _Settings | None = None  # what the last of them gives back


@contextmanager
def settled(devices: Devices) -> Iterator[None]:
    """Compute as `devices` says for the block, and leave torch to the program as it was.

    What the program has set itself stays: determinism, and the precision of single backends. Beside other blocks, in
    other threads, the strictest of them counts for all.
    """
    with _lent(devices):
        yield


@contextmanager
def settings_kept() -> Iterator[None]:
    """Leave torch to the program as it was, its CPU threads included, whatever a training sets in the block."""
    threads = torch.get_num_threads()
    try:
        with _lent():
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _lent(wanted: Devices | None = None) -> Iterator[None]:
    """Count a block that changes torch's settings, as `wanted` says; the last one gives back what was before all."""
    global _borrowers, _owners
    with _lending:
        found = _settings()
        others = _borrowers
        _owners = _owners if others else found
        _borrowers += 1
        if wanted is not None and found is not None:
            is_exact = wanted.precision == "32-true" or (others and found.products == "highest")
            _settle_products("32-true" if is_exact else "bf16-mixed", wanted.deterministic or found.deterministic)
    try:
        yield
    finally:
        with _lending:
            _borrowers -= 1
            if not _borrowers:
                _give_back(_owners)


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute fp32 products in full fp32 for the block, not in TF32: sums over many steps would carry the error on."""
    before = _settings()
    if before is not None:
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before is not None:
            torch.set_float32_matmul_precision(before.products)


def send(parts: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Copy tensors from the host to a device; to a GPU in one piece, which it takes while its work goes on.

    A plain copy would wait until the GPU has done all that it was told before.

    Args:
        parts: of one type, at least one.
        device: where they go.

    Returns:
        The same tensors there; where they are there already, themselves.
    """
    if torch.device(device).type != "cuda" or parts[0].is_cuda:
        return [part.to(device) for part in parts]
    there = torch.cat([part.reshape(-1) for part in parts]).pin_memory().to(device, non_blocking=True)
    pieces = torch.split(there, [part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


def use_own_cores(trainer: TrainerConfig, processes: int = 1) -> int:
    """Set the CPU threads of this process, one of so many on this machine: `trainer.threads`, or its share of them.

    Returns:
        how many these are.
    """
    threads = trainer.threads or share_of_threads(processes)
    torch.set_num_threads(threads)
    return threads


def share_of_threads(processes: int) -> int:
    """Return the CPU threads of each of the processes: a share of the cores, or fewer where `OMP_NUM_THREADS` says so.

    joblib and Ray say so to jobs that they run side by side.
    """
    share = max(1, len(own_cores()) // processes)
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list is one number per level of nesting
    return min(share, int(said)) if said.isdecimal() and int(said) else share


_MULTIPLIES_BF16 = {"amx_bf16", "avx512_bf16", "bf16"}  # flags of x86 and Arm processors
_NARROW = 256  # numbers per token; below, little time goes into products
_WORTH = 1.5  # times as fast as fp32; the casts between the products take some of it back
_TOKENS = 512  # of the products that are measured, as in a small batch
_ROUNDS = 5


def _precision(wanted: str, accelerator: str, large: bool, layer: tuple[int, int] | None) -> tuple[Precision, str]:
    """Decide what `auto` is: bf16 where it is quick and the model is large; and why, where that was measured."""
    named: dict[str, Precision] = {name: name for name in get_args(Precision)}
    if wanted in named:
        return named[wanted], ""
    if accelerator == "gpu":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16-mixed", "") if large and has_bf16 else ("32-true", " (no bf16 on this GPU)" if large else "")
    if layer is None or min(layer) < _NARROW or not _MULTIPLIES_BF16 & processor()[1]:
        return "32-true", ""
    gain = bf16_gain(*layer)
    return "bf16-mixed" if gain >= _WORTH else "32-true", f" (bf16 is {gain:.1f} times as fast as fp32 here)"


def processor() -> tuple[str, set[str]]:
    """Return the name of the processor and the flags of what it can do; nothing where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return "", set()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return facts.get("model name", ""), set((facts.get("flags") or facts.get("Features") or "").split())


def bf16_gain(width: int, inner: int) -> float:
    """Return how many times as fast as in fp32 this CPU multiplies in bf16, as measured now or by an earlier run.

    Args:
        width, inner: numbers per token, and inside a layer, of the model.
    """
    name = f"{processor()[0]}, torch {torch.__version__}, {torch.get_num_threads()} threads, {width} x {inner}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omniner"
    kept = folder / "bf16_gain.json"
    known: dict[str, float] = {}
    with contextlib.suppress(UserError):  # a torn file is measured anew
        known = read_json(kept) if kept.is_file() else {}
    if name not in known:
        known[name] = round(_measure_gain(width, inner), 2)
        with contextlib.suppress(UserError):  # without a place to keep it, the next run measures again
            make_folder(folder)
            write_json(kept, known)
    return known[name]


@torch.no_grad()
def _measure_gain(width: int, inner: int) -> float:
    """Take the CPU time of a layer's two products in both precisions, in turns: other work beside it does not count."""
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(_ROUNDS):
        for dtype in best:
            tokens, weights = torch.ones(_TOKENS, width, dtype=dtype), torch.ones(inner, width, dtype=dtype)
            start = time.process_time()
            nn.functional.linear(nn.functional.linear(tokens, weights), weights.T)
            best[dtype] = min(best[dtype], time.process_time() - start)
    return best[torch.float32] / best[torch.bfloat16]


def shard_model(model: nn.Module, mesh: DeviceMesh, compute: torch.dtype) -> None:
    """Divide a model, layer by layer; its weights move to the devices of the mesh.

    Args:
        model: causal language model of transformers, or peft's around it; equal on all processes.
        mesh: of one dimension.
        compute: type in which weights are put together and used; gradients are summed in fp32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    # what is left (embeddings, last norm, output) is needed first and last: it stays together until after the backward
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def is_sharded(model: nn.Module) -> bool:
    """Return whether `shard_model` was called on this model."""
    return bool(_parts(model))


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Put all layers together for the block, so that each process can run the model by itself.

    All processes must enter it, without gradients; the model must have run once before.
    """
    parts = _parts(model)
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that learn by name, put together on the CPU of the first process; empty on the others."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}  # tied ones once
    return {name: value for name, value in state.items() if name in learning}


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers names as not to be split."""
    base = base_model(model)
    names = set(base._no_split_modules or ())
    return [module for module in base.modules() if type(module).__name__ in names]


def _parts(model: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def base_model(model: Any) -> Any:
    """Return the transformers model inside a peft one, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
