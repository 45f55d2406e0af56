"""Replace the linear layers of a model by 4-bit ones of bitsandbytes, and undo it.

The 4-bit weights (nf4 with double quantisation) are created in memory: all linear layers but the output become
`bitsandbytes` layers. This works for any model: from a folder, a GGUF file, or random. Its cost: the whole model passes
through main memory in its ordinary precision. The same weights always give the same codes, so a checkpoint need not
store them: it names the base and how it was quantised (`Quantization`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from omniner import pretrained
from omniner.errors import UserError


@dataclass(frozen=True)
class Quantization:
    """How a base was quantised, as stored in a checkpoint.

    Attributes:
        kind: nf4, the only one.
        double: whether the blocks' constants are quantised, too.
        source: previous precision of the weights, as torch names it (`bfloat16`).
    """

    kind: str
    double: bool
    source: str

    @property
    def source_dtype(self) -> torch.dtype:
        """The previous precision as a torch dtype."""
        return cast(torch.dtype, getattr(torch, self.source))


def quantize(model: Any, double: bool, compute: torch.dtype, quantize_on: torch.device | str = "cpu") -> Quantization:
    """Replace the linear layers of a `PreTrainedModel`, except the output, by 4-bit ones.

    Args:
        model: is changed; everything but its linear layers stays the same.
        double: quantise the constants, too.
        compute: precision of the products.
        quantize_on: device that computes the codes, a GPU a hundred times as fast as a CPU; the weights stay where they
            are.

    Returns:
        How it was quantised.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if not has_bitsandbytes():
        raise UserError(
            "tuning.method",
            "qlora, but bitsandbytes is not installed",
            "pip install bitsandbytes where it has wheels, or choose lora.",
        )
    source = model.dtype
    output = model.get_output_embeddings()
    # subclasses of nn.Linear do more and are not replaced
    names = [name for name, layer in model.named_modules() if type(layer) is nn.Linear and layer is not output]
    for name in names:
        replace_layer(model, name, to_4bit(model.get_submodule(name), double, compute, quantize_on))
    model.is_loaded_in_4bit = True  # peft asks for it
    return Quantization("nf4", double, str(source).removeprefix("torch."))


def dequantize(model: Any) -> None:
    """Undo `quantize`: ordinary linear layers with the values of the 4-bit codes."""
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


def to_4bit(linear: nn.Linear, double: bool, compute: torch.dtype, quantize_on: torch.device | str) -> nn.Module:
    """Return the 4-bit version of a linear layer, see `quantize`."""
    bnb = import_bitsandbytes()
    size = linear.in_features, linear.out_features
    layer = bnb.nn.Linear4bit(
        *size, bias=linear.bias is not None, compute_dtype=compute, compress_statistics=double, quant_type="nf4"
    )
    # on CPUs with avx512_bf16 one evaluation would repack the codes permanently, and later training would have no
    # gradients
    layer.support_avx512bf16_for_cpu = False
    weight = bnb.nn.Params4bit(
        linear.weight.data, requires_grad=False, compress_statistics=double, quant_type="nf4", module=layer
    )
    device = torch.device(quantize_on)
    if device.type == "cuda":  # each process of a node has its own
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    layer.weight = weight.to(device).to(linear.weight.device)  # quantised by the first move
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    return cast(nn.Module, layer)


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace a layer, given by its name in `named_modules`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def has_bitsandbytes() -> bool:
    """Return whether bitsandbytes can be imported."""
    try:
        with pretrained.quiet_libraries():
            import bitsandbytes  # noqa: F401
    except ImportError:
        return False
    return True


def import_bitsandbytes() -> Any:
    """Import bitsandbytes as `Any`, because its own types are too loose to be checked."""
    import bitsandbytes

    return bitsandbytes
