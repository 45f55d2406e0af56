"""Which weights of a causal model learn, and by which optimizer: all of them, or low-rank adapters (LoRA, QLoRA).

LoRA (Hu et al. 2021) freezes a linear layer W and learns an update B A of rank r beside it, scaled by alpha / r; B
starts at zero, so training starts from the model as it was. QLoRA (Dettmers et al. 2023) does so beside weights of 4
bits. Price of an adapter: two thin products a layer; gain: gradients and optimizer state only for about one weight in
a hundred. Models with random weights learn all of them, since there is nothing to adapt.

The 4-bit weights of QLoRA (nf4 with double quantisation) are made in memory, and taken back by `dequantize`: all linear
layers but the output are replaced by `bitsandbytes` layers of the same values to 4 bits (blocks of 64 weights share a
constant; with double quantisation the constants are quantised as well). So it works for any model: from a folder, a
GGUF file, or random. Price: the whole model passes through main memory in its ordinary precision. The same weights
always give the same codes, so a checkpoint need not hold them: it names the base and how it was quantised.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from omniner.config.model_groups import TuningConfig
from omniner.errors import UserError, one_line
from omniner.training import hub

log = logging.getLogger("omniner")

TUNING_METHODS = ("full", "lora", "qlora")
_LARGE = 1_000_000_000  # weights that learn from which on 8-bit optimizer states are worth their noise: 6 GB saved


def choose_method(wanted: str, is_pretrained: bool) -> str:
    """Choose what `tuning.method: auto` becomes; another choice stays."""
    if wanted == "auto":
        return "lora" if is_pretrained else "full"
    return wanted


def prepare_for_training(model: Any, tuning: TuningConfig, method: str, seed: int) -> Any:
    """Make a causal model ready to learn by a method.

    Args:
        model: `PreTrainedModel`, already quantised for qlora. It is changed.
        tuning: the shape of adapters and whether activations are computed again.
        method: full | lora | qlora.
        seed: of the adapters' random halves.

    Returns:
        the model itself (full), or peft's around it, in training mode.

    Raises:
        UserError: `tuning.targets` names no layer of the model.
    """
    if method == "qlora":
        for value in model.parameters():  # what is not quantised (embeddings, norms, the output) goes to fp32
            if value.dtype in (torch.float16, torch.bfloat16):
                value.data = value.data.float()
    if method != "full":
        model = add_adapters(model, tuning, seed)
    if tuning.gradient_checkpointing:
        base = model if method == "full" else model.get_base_model()
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # the reentrant kind needs inputs with gradients and runs hooks elsewhere
        if method != "full":
            base.enable_input_require_grads()
    return model.train()


def build_optimizer(
    model: Any, tuning: TuningConfig, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build AdamW over the weights that learn; norms and biases are not decayed.

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
    """Copy the weights that learn to the CPU, by their names in the model."""
    return {
        name: value.detach().to("cpu", copy=True) for name, value in model.named_parameters() if value.requires_grad
    }


def add_adapters(model: Any, tuning: TuningConfig, seed: int) -> Any:
    """Put peft's adapters around a `PreTrainedModel`, with random halves from the seed."""
    with hub.quiet_libraries():  # peft imports bitsandbytes
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
            with hub.quiet_libraries():
                return get_peft_model(model, settings)
        except ValueError as error:
            linear = (name for name, part in model.named_modules() if isinstance(part, nn.Linear))
            layers = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(
                "tuning.targets",
                f"{tuning.targets} cannot be adapted ({one_line(error)})",
                f"Linear layers of this model: {', '.join(layers)}; [all-linear] takes all but the output.",
            ) from error


def _wants_8bit(tuning: TuningConfig, learning: list[nn.Parameter]) -> bool:
    """Decide whether the optimizer keeps its states in 8 bits, see `build_optimizer`."""
    if tuning.optimizer == "adamw":
        return False
    if tuning.optimizer == "adamw_8bit":
        if not has_bitsandbytes():
            raise UserError(
                "tuning.optimizer",
                "adamw_8bit, but bitsandbytes is not installed",
                "pip install bitsandbytes, or choose adamw.",
            )
        return True
    on_gpu = any(value.device.type == "cuda" for value in learning)
    large = sum(value.numel() for value in learning) >= _LARGE
    wanted = on_gpu and (tuning.method == "qlora" or large)
    if wanted and not has_bitsandbytes():
        log.warning("bitsandbytes is not installed: the optimizer keeps its states in full precision")
        return False
    return wanted


@dataclass(frozen=True)
class Quantization:
    """How a base was quantised, as a checkpoint records it.

    Attributes:
        kind: nf4, the only one.
        double: whether the blocks' constants are quantised, too.
        source: precision of the weights before, as torch names it (`bfloat16`).
    """

    kind: str
    double: bool
    source: str

    @property
    def source_dtype(self) -> torch.dtype:
        """The precision as torch has it."""
        return cast(torch.dtype, getattr(torch, self.source))


def has_bitsandbytes() -> bool:
    """Tell whether bitsandbytes can be imported."""
    try:
        with hub.quiet_libraries():
            import bitsandbytes  # noqa: F401
    except ImportError:
        return False
    return True


def quantize(model: Any, double: bool, compute: torch.dtype) -> Quantization:
    """Replace the linear layers of a `PreTrainedModel`, all but the output, by 4-bit ones.

    Args:
        model: is changed; all but its linear layers stays as it is.
        double: quantise the constants, too.
        compute: precision of the products.

    Returns:
        how it was quantised.

    Raises:
        UserError: without bitsandbytes.
    """
    if not has_bitsandbytes():
        raise UserError(
            "tuning.method", "qlora, but bitsandbytes is not installed", "pip install bitsandbytes, or choose lora."
        )
    source = model.dtype
    output = model.get_output_embeddings()
    # subclasses of nn.Linear do more than it: they stay
    names = [name for name, layer in model.named_modules() if type(layer) is nn.Linear and layer is not output]
    for name in names:
        replace_layer(model, name, to_4bit(model.get_submodule(name), double, compute))
    model.is_loaded_in_4bit = True  # peft asks for it
    return Quantization("nf4", double, str(source).removeprefix("torch."))


def dequantize(model: Any) -> None:
    """Undo `quantize`: ordinary linear layers with the values that the 4-bit codes stand for."""
    bnb = import_bitsandbytes()
    for name in [name for name, layer in model.named_modules() if isinstance(layer, bnb.nn.Linear4bit)]:
        layer = model.get_submodule(name)
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.data, requires_grad=False)
        replace_layer(model, name, linear)
    model.is_loaded_in_4bit = False


def to_4bit(linear: nn.Linear, double: bool, compute: torch.dtype) -> nn.Module:
    """Make the 4-bit layer of a linear one; a GPU quantises a hundred times faster, so it does where there is one."""
    bnb = import_bitsandbytes()
    size = linear.in_features, linear.out_features
    layer = bnb.nn.Linear4bit(
        *size, bias=linear.bias is not None, compute_dtype=compute, compress_statistics=double, quant_type="nf4"
    )
    # on CPUs with avx512_bf16 one evaluation would repack the codes for good, and training afterwards has no gradients
    layer.support_avx512bf16_for_cpu = False
    weight = bnb.nn.Params4bit(
        linear.weight.data, requires_grad=False, compress_statistics=double, quant_type="nf4", module=layer
    )
    device = torch.device("cpu")
    if torch.cuda.is_available():  # each process of a node has its own
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    layer.weight = weight.to(device).to(linear.weight.device)  # quantised by the first move
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    return cast(nn.Module, layer)


def import_bitsandbytes() -> Any:
    """Import bitsandbytes, whose own types are too loose to be checked against."""
    import bitsandbytes

    return bitsandbytes


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of another one, which is named as in `named_modules`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
