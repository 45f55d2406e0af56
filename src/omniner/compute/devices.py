"""Choose the devices of a run, and resolve `auto` on this machine.

A GPU is used if CUDA has one; Apple's `mps` is not used. Several devices train data-parallel, each with all weights
(ddp) or with its share of them (fsdp, see `omniner.training.sharding`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from omniner.compute.precision import Precision, choose_precision
from omniner.config.model_groups import TrainerConfig
from omniner.errors import UserError, one_line
from omniner.machine import GPU_FILES, are_given, busy_beside, local_rank, own_cores
from omniner.wording import counted

log = logging.getLogger("omniner")


class Devices(NamedTuple):
    """Where and how a model runs.

    Attributes:
        accelerator: cpu | gpu.
        per_node: number of processes per node.
        world: number of processes on all nodes.
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
        """The device of a process that predicts alone."""
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    def dtype(self, learns: bool) -> torch.dtype:
        """Return the dtype in which the weights of a causal model are held.

        Mixed precision computes in bf16 but adds small steps to the weights, which need fp32 for that. Frozen weights
        get no steps.
        """
        exact = self.precision == "32-true" or (self.precision == "bf16-mixed" and learns)
        return torch.float32 if exact else torch.bfloat16


def choose_devices(
    trainer: TrainerConfig, large: bool, layer: tuple[int, int] | None = None, *, trains: bool
) -> Devices:
    """Choose the devices of a model, and log them; neither this process's threads nor torch's settings change.

    Set the threads before (`use_own_cores`): how much bf16 gains on a CPU depends on them.

    Args:
        trainer: what the configuration requests.
        large: whether the model is large enough to gain from bf16 on a GPU.
        layer: hidden and intermediate size of a pretrained model that may use bf16 on a CPU; None = no bf16 there.
        trains: whether the model is trained, on all devices together; for prediction a process has one device.

    Raises:
        UserError: there are not enough GPUs, or they do not start; a step's sentences cannot be divided evenly between
            the processes.
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
    threads = torch.get_num_threads()
    if accelerator == "cpu" and trainer.accelerator == "auto" and any(map(os.path.exists, GPU_FILES)):
        lack = "has kernels for" if torch.cuda.device_count() else "can use"
        log.warning("a GPU driver is there, but no GPU that %s %s: the CPU does the work", _torch_build(), lack)
    precision, why = choose_precision(trainer.precision, accelerator, large, layer)
    devices = Devices(accelerator, count, world, strategy, precision, trainer.deterministic)
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
    """Return the accelerator that a run uses here, `cpu` or `gpu`, and the number of devices.

    Raises:
        UserError: there are not enough GPUs, or they do not start. `auto` leaves aside a GPU that this build of torch
            has no kernels for, except in a rank, whose siblings may use theirs.
    """
    gpus = torch.cuda.device_count()
    accelerator = trainer.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator == "gpu" and gpus and (error := _start_gpu(local_rank() % gpus)):
        no_kernels = "no kernel image" in str(error)
        if no_kernels and trainer.accelerator == "auto" and not are_given():
            return "cpu", trainer.devices or 1
        found = f"there is a GPU, but CUDA does not start ({one_line(error)})"
        fix = "Mend the driver, install a torch that is built for it, or use trainer=cpu."
        if no_kernels:
            found = f"{_torch_build()} has no kernels for this GPU"
            fix = "Install a build that has them (of CUDA 12.6 for GPUs before Turing), or use trainer=cpu."
            if gpus > 1:
                fix += " If another GPU has them: trainer.devices=1, with its number in CUDA_VISIBLE_DEVICES."
        raise UserError("trainer.accelerator", found, fix) from error
    if accelerator == "gpu" and gpus < max(1, trainer.devices):
        if gpus:
            found = f"{counted(gpus, 'GPU')}, {trainer.devices} are asked for"
            raise UserError("trainer.accelerator", found, "Use fewer trainer.devices.")
        raise UserError("trainer.accelerator", f"no GPU that {_torch_build()} can use", "Use trainer=cpu.")
    return accelerator, trainer.devices or (gpus if accelerator == "gpu" else 1)


def _start_gpu(number: int) -> RuntimeError | None:
    """Run a small kernel on a GPU: torch counts those that the driver names, even if it cannot use them.

    Returns:
        What keeps it from running: a driver older than torch's CUDA, one whose services do not run, a GPU that torch is
        not built for or that another program has for itself.
    """
    try:
        torch.ones(1, device=f"cuda:{number}").add_(1).item()
    except RuntimeError as error:
        return error
    return None


def _torch_build() -> str:
    built = torch.version.cuda or torch.version.hip
    return f"torch {torch.__version__}{'' if built else ', which is built without CUDA,'}"


def use_own_cores(trainer: TrainerConfig, processes: int = 1) -> None:
    """Set this process's CPU threads to `trainer.threads`, or to its share among `processes` on this machine."""
    torch.set_num_threads(trainer.threads or share_of_threads(processes))


def share_of_threads(processes: int) -> int:
    """Return the CPU threads per process: a share of the cores, or fewer if `OMP_NUM_THREADS` limits them.

    joblib and Ray set it for jobs that they run in parallel.
    """
    share = max(1, len(own_cores()) // processes)
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list has one number per level of nesting
    return min(share, int(said)) if said.isdecimal() and int(said) else share


def send(parts: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Copy tensors from the host to a device; to a GPU in one asynchronous transfer.

    A plain copy would wait until the GPU has finished all queued work.

    Args:
        parts: of one dtype, at least one.
        device: the target.

    Returns:
        The tensors on the device; tensors that are already there are returned as they are.
    """
    if torch.device(device).type != "cuda" or parts[0].is_cuda:
        return [part.to(device) for part in parts]
    there = torch.cat([part.reshape(-1) for part in parts]).pin_memory().to(device, non_blocking=True)
    pieces = torch.split(there, [part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
