"""What `auto` becomes on this machine: accelerator, number of processes, strategy, precision, threads.

In comes the configuration, out comes a `Devices` and one line in the log that says it. A GPU is used where there is
one, in bf16 for transformers (a BiLSTM gains nothing from it); several devices train data-parallel, each with all
weights (ddp) or with its share of them (fsdp).
"""

from __future__ import annotations

import logging
import os
from typing import Literal, NamedTuple, get_args

import torch

from omniner.errors import UserError
from omniner.schema import BiLSTMConfig, Config

log = logging.getLogger("omniner")

Precision = Literal["32-true", "bf16-mixed", "bf16-true"]


class Devices(NamedTuple):
    """Where and how a model runs.

    `accelerator` is `cpu` or `gpu`, `number` the processes per node, `world` those of all nodes, `strategy` `auto` (one
    process), `ddp` or `fsdp`.
    """

    accelerator: str
    number: int
    world: int
    strategy: str
    precision: Precision

    @property
    def first(self) -> torch.device:
        """The device of a single process."""
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    def dtype(self, learns: bool) -> torch.dtype:
        """In what a causal model's weights are held.

        Mixed precision computes in bf16 but adds small steps to the weights, which fp32 must hold. Weights that do not
        learn get no steps.
        """
        exact = self.precision == "32-true" or (self.precision == "bf16-mixed" and learns)
        return torch.float32 if exact else torch.bfloat16


def settle(config: Config, causal_model: bool) -> Devices:
    """Decide, set the CPU threads of this process, and say what was decided.

    Args:
        config: `trainer` and the kind of `model` are read.
        causal_model: whether a causal model will run, whatever `model` says: a checkpoint brings its own.
    """
    trainer = config.trainer
    gpus = torch.cuda.device_count()
    accelerator = trainer.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator == "gpu" and gpus < max(1, trainer.devices):
        found = "no GPU that torch can use" if not gpus else f"{gpus} GPUs, {trainer.devices} are asked for"
        raise UserError("trainer.accelerator", found, "Use trainer=cpu, or fewer trainer.devices.")
    count = trainer.devices or (gpus if accelerator == "gpu" else 1)
    if trainer.batch_size % (count * trainer.nodes):
        raise UserError(
            "trainer.batch_size",
            f"{trainer.batch_size} sentences do not divide over {count * trainer.nodes} devices",
            f"Choose a multiple of {count * trainer.nodes}.",
        )
    world = count * trainer.nodes
    strategy = "fsdp" if trainer.strategy == "fsdp" else "ddp" if world > 1 else "auto"
    threads = trainer.threads or _threads(count if accelerator == "cpu" else 1)
    torch.set_num_threads(threads)
    devices = Devices(accelerator, count, world, strategy, _precision(config, accelerator, causal_model))
    log.info(
        "%d %s%s%s, %s, %d CPU threads per process",
        count,
        accelerator.upper(),
        f" on each of {trainer.nodes} nodes" if trainer.nodes > 1 else "",
        "" if strategy == "auto" else f", {strategy}",
        devices.precision,
        threads,
    )
    return devices


def _threads(processes: int) -> int:
    """Of each of the processes: its share of the cores, or fewer where `OMP_NUM_THREADS` says so.

    joblib and Ray say so to jobs that they run side by side.
    """
    share = max(1, len(os.sched_getaffinity(0)) // processes)
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list is one number per level of nesting
    return min(share, int(said)) if said.isdecimal() and int(said) else share


def _precision(config: Config, accelerator: str, causal_model: bool) -> Precision:
    """`auto`: bf16 where it is quick and the model is large."""
    large = causal_model or not isinstance(config.model, BiLSTMConfig)
    automatic: Precision = "bf16-mixed" if accelerator == "gpu" and large else "32-true"
    named: dict[str, Precision] = {name: name for name in get_args(Precision)}
    return named.get(config.trainer.precision, automatic)
