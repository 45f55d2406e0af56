"""Devices: what a run works on, and what `auto` becomes on this machine.

A GPU is used where CUDA has one; Apple's `mps` is left alone. Several devices train data-parallel, each with all
weights (ddp) or with its share of them (fsdp, see `omniner.training.sharding`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from omniner.compute.precision import Precision, choose_precision
from omniner.compute.torch_settings import apply_settings
from omniner.config.model_groups import TrainerConfig
from omniner.cores import GPU_FILES, busy_beside, own_cores
from omniner.errors import UserError, one_line
from omniner.wording import counted

log = logging.getLogger("omniner")


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
    says how many, and computes under `settings_for`. A program of ours calls `use_own_cores` before.

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
    precision, why = choose_precision(trainer.precision, accelerator, large, layer)
    devices = Devices(accelerator, count, world, strategy, precision, trainer.deterministic)
    if trains:
        apply_settings(precision, trainer.deterministic)
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
