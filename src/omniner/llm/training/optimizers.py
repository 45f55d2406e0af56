"""Choose and build the optimizer of a causal model: AdamW with states in full precision or in 8 bits."""

from __future__ import annotations

import logging
from typing import Any, assert_never, cast

import torch

from omniner.config.model_groups import OptimizerName, WantedOptimizer
from omniner.errors import UserError
from omniner.llm.quantization import has_bitsandbytes, import_bitsandbytes

log = logging.getLogger("omniner")

_LARGE = 1_000_000_000  # trainable weights from which on 8-bit optimizer states are worth their noise: 6 GB saved


def build_optimizer(
    model: Any, name: OptimizerName, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build an optimizer over the trainable weights; norms and biases get no weight decay.

    Args:
        model: the model to train.
        name: from `choose_optimizer`.
        learning_rate: of all weights.
        weight_decay: of the weights that have it.
    """
    learning = [value for value in model.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in learning if value.ndim >= 2], "weight_decay": weight_decay},
        {"params": [value for value in learning if value.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=learning_rate, fused=True)
        case "adamw_8bit":
            return cast(torch.optim.Optimizer, import_bitsandbytes().optim.AdamW8bit(groups, lr=learning_rate))
        case _:
            assert_never(name)


def choose_optimizer(model: Any, wanted: WantedOptimizer, accelerator: str, strategy: str) -> OptimizerName:
    """Resolve `tuning.optimizer` for a model, see `optimizer_name`.

    Raises:
        UserError: adamw_8bit without bitsandbytes.
    """
    learning = sum(value.numel() for value in model.parameters() if value.requires_grad)
    name = optimizer_name(wanted, learning, accelerator, strategy)
    if name != "adamw_8bit" or has_bitsandbytes():
        return name
    if wanted == "auto":
        log.warning("bitsandbytes is not installed: the optimizer keeps its states in full precision")
        return "adamw"
    raise UserError(
        "tuning.optimizer",
        "adamw_8bit, but bitsandbytes is not installed",
        "pip install bitsandbytes where it has wheels, or choose adamw.",
    )


def optimizer_name(wanted: WantedOptimizer, learning: float, accelerator: str, strategy: str) -> OptimizerName:
    """Return the optimizer that `tuning.optimizer` means, assuming that bitsandbytes is installed.

    8-bit states (Dettmers et al. 2022) on a GPU if a billion weights are trained, otherwise torch's fused AdamW: for
    the few weights of adapters 8 bits save little, and bitsandbytes waits for the GPU after each of hundreds of
    matrices. Sharded states cannot have 8 bits.

    Args:
        wanted: auto | adamw | adamw_8bit.
        learning: number of trainable weights.
        accelerator: cpu | gpu.
        strategy: of the training, `fsdp` or another one.
    """
    match wanted:
        case "auto":
            small_states = accelerator == "gpu" and learning >= _LARGE
        case "adamw":
            small_states = False
        case "adamw_8bit":
            small_states = True
        case _:
            assert_never(wanted)
    return "adamw_8bit" if small_states and strategy != "fsdp" else "adamw"
