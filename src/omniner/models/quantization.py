"""4-bit weights (QLoRA, Dettmers et al. 2023): nf4 with double quantisation, made in memory, and taken back.

In goes a language model in its ordinary precision; its linear layers, all but the output, are replaced one after the
other by `bitsandbytes` layers of the same values to 4 bits (blocks of 64 weights share a constant; with double
quantisation the constants are quantised as well). So it works for any model: from a folder, a GGUF file, or random.
Price: the whole model passes through main memory in its ordinary precision. The same weights always give the same
codes, so a checkpoint need not hold them: it names the base and how it was quantised.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from omniner.errors import UserError
from omniner.models import loading


@dataclass(frozen=True)
class Quantization:
    """How a base was quantised: what a checkpoint records.

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
        """`source` as torch has it."""
        return cast(torch.dtype, getattr(torch, self.source))


def available() -> bool:
    """Whether bitsandbytes can be imported."""
    try:
        with loading.quiet():
            import bitsandbytes  # noqa: F401
    except ImportError:
        return False
    return True


def quantize(model: Any, double: bool, compute: torch.dtype) -> Quantization:
    """Replace the linear layers of a `PreTrainedModel`, all but the output, by 4-bit ones.

    Args:
        model: is changed; everything else stays as it is.
        double: quantise the constants, too.
        compute: precision of the products.

    Raises:
        UserError: without bitsandbytes.
    """
    if not available():
        raise UserError(
            "tuning.method", "qlora, but bitsandbytes is not installed", "pip install bitsandbytes, or choose lora."
        )
    source = model.dtype
    output = model.get_output_embeddings()
    names = [name for name, layer in model.named_modules() if _is_plain(layer) and layer is not output]
    for name in names:
        _replace(model, name, _to_4bit(model.get_submodule(name), double, compute))
    model.is_loaded_in_4bit = True  # peft asks for it
    return Quantization("nf4", double, str(source).removeprefix("torch."))


def dequantize(model: Any) -> None:
    """Undo `quantize`: ordinary linear layers with the values that the 4-bit codes stand for."""
    bnb = _library()
    for name in [name for name, layer in model.named_modules() if isinstance(layer, bnb.nn.Linear4bit)]:
        layer = model.get_submodule(name)
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        _replace(model, name, _linear(weight, layer.bias))
    model.is_loaded_in_4bit = False


def _to_4bit(linear: nn.Linear, double: bool, compute: torch.dtype) -> nn.Module:
    bnb = _library()
    size = linear.in_features, linear.out_features
    layer = bnb.nn.Linear4bit(
        *size, bias=linear.bias is not None, compute_dtype=compute, compress_statistics=double, quant_type="nf4"
    )
    # On CPUs with avx512_bf16 one evaluation would repack the codes for good, and training afterwards has no gradients.
    layer.support_avx512bf16_for_cpu = False
    weight = bnb.nn.Params4bit(
        linear.weight.data, requires_grad=False, compress_statistics=double, quant_type="nf4", module=layer
    )
    layer.weight = weight.to(_device()).to(linear.weight.device)  # quantised by the first move
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    return cast(nn.Module, layer)


def _library() -> Any:
    """bitsandbytes, whose own types are too loose to be checked against."""
    import bitsandbytes

    return bitsandbytes


def _device() -> torch.device:
    """Where to quantise: a GPU does it a hundred times faster; each process of a node has its own."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


def _is_plain(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of these values, `weight` [out, in]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.data, requires_grad=False)
    return layer


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
