"""Which weights of a causal model learn, and by which optimizer: all of them, or low-rank adapters (LoRA, QLoRA).

LoRA (Hu et al. 2021) freezes a linear layer W and learns an update B A of rank r beside it, scaled by alpha / r; B
starts at zero, so training starts from the model as it was. QLoRA (Dettmers et al. 2023) does so beside weights of 4
bits. Price of an adapter: two thin products a layer; gain: gradients and optimizer state only for about one weight in
a hundred. Models with random weights learn all of them, since there is nothing to adapt.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from torch import Tensor, nn

from omniner.errors import UserError
from omniner.models import loading, quantization
from omniner.schema import TuningConfig

log = logging.getLogger("omniner")

METHODS = ("full", "lora", "qlora")
_LARGE = 1_000_000_000  # weights that learn from which on 8-bit optimizer states are worth their noise: 6 GB saved


def choose_method(wanted: str, is_pretrained: bool) -> str:
    """What `tuning.method: auto` becomes; another choice stays."""
    if wanted == "auto":
        return "lora" if is_pretrained else "full"
    return wanted


def prepare(model: Any, tuning: TuningConfig, method: str, seed: int) -> Any:
    """Make a causal model ready to learn by a method.

    Args:
        model: `PreTrainedModel`, already quantised for qlora; is changed.
        tuning: the shape of adapters and whether activations are computed again.
        method: full | lora | qlora.
        seed: of the adapters' random halves.

    Returns:
        The model itself (full), or peft's around it. In training mode.

    Raises:
        UserError: `tuning.targets` names no layer of the model.
    """
    if method == "qlora":
        _keep_precise(model)
    if method != "full":
        model = _adapted(model, tuning, seed)
    if tuning.gradient_checkpointing:
        _checkpoint_activations(model, method)
    return model.train()


def optimizer(model: Any, tuning: TuningConfig, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over the weights that learn; norms and biases are not decayed.

    `tuning.optimizer: auto` takes 8-bit states (Dettmers et al. 2022) on a GPU for qlora and where a billion weights
    learn, and torch's fused AdamW otherwise.

    Raises:
        UserError: adamw_8bit without bitsandbytes.
    """
    learning = [value for value in model.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in learning if value.ndim >= 2], "weight_decay": weight_decay},
        {"params": [value for value in learning if value.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if _wants_8bit(tuning, learning):
        import bitsandbytes as bnb

        eight_bit: Any = bnb.optim
        return cast(torch.optim.Optimizer, eight_bit.AdamW8bit(groups, lr=learning_rate))
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU, of the weights that learn, by their names in the model."""
    return {
        name: value.detach().to("cpu", copy=True) for name, value in model.named_parameters() if value.requires_grad
    }


def _adapted(model: Any, tuning: TuningConfig, seed: int) -> Any:
    with loading.quiet():  # peft imports bitsandbytes
        from peft import LoraConfig, TaskType, get_peft_model

    targets = "all-linear" if tuning.targets == ["all-linear"] else list(tuning.targets)
    settings = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=targets,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            with loading.quiet():
                return get_peft_model(model, settings)
        except ValueError as error:
            layers = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if _is_linear(part)})
            raise UserError(
                "tuning.targets",
                f"{tuning.targets} cannot be adapted ({loading.one_line(error)})",
                f"Linear layers of this model: {', '.join(layers)}; [all-linear] takes all but the output.",
            ) from error


def _keep_precise(model: Any) -> None:
    """What is not quantised (embeddings, norms, the output) goes to fp32, as QLoRA has it."""
    for value in model.parameters():
        if value.dtype in (torch.float16, torch.bfloat16):
            value.data = value.data.float()


def _checkpoint_activations(model: Any, method: str) -> None:
    """Keep only what goes into each layer and compute the rest again in the backward pass."""
    base = model if method == "full" else model.get_base_model()
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    # Not the reentrant kind: that needs inputs with gradients and runs hooks outside of autograd.
    enable({"use_reentrant": False})
    if method != "full":
        base.enable_input_require_grads()


def _wants_8bit(tuning: TuningConfig, learning: list[nn.Parameter]) -> bool:
    if tuning.optimizer == "adamw":
        return False
    if tuning.optimizer == "adamw_8bit":
        if not quantization.available():
            raise UserError(
                "tuning.optimizer",
                "adamw_8bit, but bitsandbytes is not installed",
                "pip install bitsandbytes, or choose adamw.",
            )
        return True
    on_gpu = any(value.device.type == "cuda" for value in learning)
    large = sum(value.numel() for value in learning) >= _LARGE
    wanted = on_gpu and (tuning.method == "qlora" or large)
    if wanted and not quantization.available():
        log.warning("bitsandbytes is not installed: the optimizer keeps its states in full precision")
        return False
    return wanted


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear)
