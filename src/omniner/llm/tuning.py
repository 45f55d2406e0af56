"""Prepare a model for training by a tuning method: all weights, or adapters beside frozen ones (LoRA, QLoRA).

LoRA (Hu et al. 2021) freezes a linear layer W and trains an update B A of rank r in addition, scaled by alpha / r; B
starts at zero, so training starts from the unchanged model. QLoRA (Dettmers et al. 2023) does this with 4-bit weights
(`quantization`). An adapter costs two thin products per layer (`low_rank`); in return, only about one weight in a
hundred needs gradients and optimizer state. In models with random weights all weights are trained, since there is
nothing to adapt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from omniner import pretrained
from omniner.config.model_groups import TuningConfig
from omniner.errors import UserError, one_line
from omniner.llm.low_rank import fuse_adapters


def prepare_for_training(model: Any, tuning: TuningConfig, method: str, seed: int) -> Any:
    """Prepare a causal model for training by a method.

    Args:
        model: `PreTrainedModel`, already quantised for qlora. It is changed.
        tuning: the shape of adapters, and whether activations are recomputed.
        method: full | lora | qlora.
        seed: of the random initial values of adapters.

    Returns:
        The model itself (full), or a peft model around it, in training mode.

    Raises:
        UserError: `tuning.targets` names no layer of the model.
    """
    if method != "full":
        model = add_adapters(model, tuning, seed)
    if tuning.gradient_checkpointing is True:
        base = model if method == "full" else model.get_base_model()
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # the reentrant kind needs inputs with gradients and runs hooks elsewhere
        if method != "full":
            base.enable_input_require_grads()
    return model.train()


def add_adapters(model: Any, tuning: TuningConfig, seed: int) -> Any:
    """Wrap a `PreTrainedModel` in peft's adapters, with initial values from the seed."""
    with pretrained.quiet_libraries():  # peft imports bitsandbytes
        from peft import LoraConfig, TaskType, get_peft_model

    targets = "all-linear" if tuning.targets == ["all-linear"] else list(tuning.targets)
    settings = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]):  # adapters are created on the CPU: no GPU's generator is used
        torch.default_generator.manual_seed(seed)
        try:
            with pretrained.quiet_libraries():
                adapted = get_peft_model(model, settings)
        except ValueError as error:
            linear = (name for name, part in model.named_modules() if isinstance(part, nn.Linear))
            layers = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(
                "tuning.targets",
                f"{tuning.targets} cannot be adapted ({one_line(error)})",
                f"Linear layers of this model: {', '.join(layers)}; [all-linear] takes all but the output.",
            ) from error
    fuse_adapters(adapted)
    return adapted
