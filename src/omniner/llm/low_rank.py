"""Compute and differentiate linear layers with low-rank adapters (LoRA) as one operation.

peft adds an adapter to a frozen layer in six operations: the layer's own product, dropout, two thin products, a factor
and a sum. Each of them keeps its input for the backward pass, fp32 adapters of bf16 weights pass through fp32, and
every sum is one more pass over the largest arrays of the model. Here it is one operation:

    y = x W' + b + s (x A') B'        A [r, I] and B [O, r] are trained, W [O, I] and b are frozen

All products, including those of the adapters, use the compute precision of the layer; the adapters' weights and
gradients keep their own, usually fp32. The update is added to the layer's product in place. Only x and the thin x A'
are kept. Nothing is computed for frozen weights. Layers with the same input (query, key and value; gate and up) can be
computed together: x A' is then one product for all of them, and x is kept once.

`fuse_adapters` applies this to peft's layers; names, weights and files stay peft's. A layer of 4-bit weights computes
its own product, and its adapter is added to that. Anything but plain LoRA (several adapters, DoRA, trainable biases) is
left to peft.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout, linear


class Adapter(NamedTuple):
    """The update of a linear layer.

    Attributes:
        down: A, [r, I].
        up: B, [O, r].
        scale: s.
        dropout: current share of the adapter's inputs that are dropped.
    """

    down: Tensor
    up: Tensor
    scale: float
    dropout: float


class AdaptedLayer(NamedTuple):
    """A frozen linear layer and its adapter.

    Attributes:
        weight: W, [O, I]; None if the layer computes its product itself.
        bias: b, [O], or none.
        adapter: of the layer.
    """

    weight: Tensor | None
    bias: Tensor | None
    adapter: Adapter


def fuse_adapters(model: nn.Module) -> None:
    """Let the adapted layers of a peft model compute as one operation each, if `adapter_of` supports them."""
    from peft.tuners.lora import Linear, LoraLayer

    for module in model.modules():
        # compared by name, because bitsandbytes may not be installed
        if isinstance(module, Linear) or (isinstance(module, LoraLayer) and type(module).__name__ == "Linear4bit"):
            vars(module)["forward"] = AdaptedForward(module)


class AdaptedForward:
    """Replaces the `forward` of one of peft's layers, and is copied with it."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """Compute the layer with its adapter: x [..., I] to [..., O]."""
        module = self.module
        layer = None if args or options else self.layer()
        if layer is None:
            result: Tensor = type(module).forward(module, x, *args, **options)
            return result
        return adapted_linear(x, [layer], module.base_layer(x) if layer.weight is None else None)[0]

    def layer(self) -> AdaptedLayer | None:
        """Return the layer with its currently active adapter; None if it must be left to peft."""
        adapter, base = adapter_of(self.module), self.module.base_layer
        if adapter is None:
            return None
        return AdaptedLayer(base.weight, base.bias, adapter) if is_plain(base) else AdaptedLayer(None, None, adapter)


def project(x: Tensor, modules: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Apply layers to the same input, together if all of them are adapted ones: [..., I] to [..., O] of each."""
    layers = [_joinable(module) for module in modules]
    found = [layer for layer in layers if layer is not None]
    return adapted_linear(x, found) if len(found) == len(modules) else tuple(module(x) for module in modules)


def _joinable(module: Any) -> AdaptedLayer | None:
    forward = vars(module).get("forward")
    if not isinstance(forward, AdaptedForward) or module._forward_hooks or module._forward_pre_hooks:
        return None
    layer = forward.layer()
    return None if layer is None or layer.weight is None or layer.adapter.dropout else layer


def adapter_of(module: Any) -> Adapter | None:
    """Return the active adapter of one of peft's layers; None if there is none, or it is not plain LoRA."""
    if module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return None
    (name,) = module.active_adapters
    if name not in module.lora_A or name in module.lora_variant or module.lora_bias.get(name):
        return None
    down, up, left_out = module.lora_A[name].weight, module.lora_B[name].weight, module.lora_dropout[name]
    share = left_out.p if isinstance(left_out, nn.Dropout) and left_out.training else 0.0
    return Adapter(down, up, module.scaling[name], share)


def is_plain(base: Any) -> bool:
    """Return whether a layer is only a frozen matrix and bias, so that its product can be computed here."""
    # subclasses of nn.Linear do more, and hooks need the call
    if type(base) is not nn.Linear or base._forward_hooks or base._forward_pre_hooks:
        return False
    return not (base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad))


def adapted_linear(x: Tensor, layers: Sequence[AdaptedLayer], product: Tensor | None = None) -> tuple[Tensor, ...]:
    """Compute adapted layers of one input.

    Args:
        x: [..., I].
        layers: all without dropout, or a single one.
        product: [..., O], if a single layer has computed its own product of x.

    Returns:
        [..., O] of each layer, in the compute precision: autocast's if it is enabled, else the weights'.
    """
    own = product if product is not None else layers[0].weight
    assert own is not None, "a layer has weights, or has made its product"
    dtype, share = computing_dtype(x.device, own.dtype), layers[0].adapter.dropout
    # which of the adapter's inputs are kept: 1 / (1 - share) or 0
    mask = dropout(torch.ones_like(x, requires_grad=False), share) if share else None
    tensors = [
        *(tensor for layer in layers for tensor in (layer.weight, layer.bias)),
        *(tensor for layer in layers for tensor in (layer.adapter.down, layer.adapter.up)),
    ]
    scales = tuple(layer.adapter.scale for layer in layers)
    out: tuple[Tensor, ...] = _AdaptedLinear.apply(x, product, mask, dtype, scales, *tensors)  # type: ignore[no-untyped-call]
    return out


def computing_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of products with weights of a dtype: autocast's if it is enabled."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


class _AdaptedLinear(torch.autograd.Function):
    """Arguments: x, product, mask, precision, scales; W and b of each layer; A and B of each layer."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        product: Tensor | None,
        mask: Tensor | None,
        dtype: torch.dtype,
        scales: tuple[float, ...],
        *tensors: Any,
    ) -> tuple[Tensor, ...]:
        frozen, learning = tensors[: 2 * len(scales)], tensors[2 * len(scales) :]
        weights, biases, downs, ups = frozen[::2], frozen[1::2], learning[::2], learning[1::2]
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1]).to(dtype)
            kept = None if mask is None else mask.reshape(rows.shape).to(dtype)
            thin = linear(masked(rows, kept), stacked(downs, dtype))
            outputs = []
            for weight, bias, up, scale, part in zip(weights, biases, ups, scales, _parts(thin, downs), strict=True):
                if product is None:
                    out = linear(rows, weight.to(dtype), None if bias is None else bias.to(dtype))
                    out.addmm_(part, scaled(up, scale, dtype).T)
                else:
                    own = product.reshape(len(rows), -1).to(dtype)
                    out = torch.addmm(own, part, scaled(up, scale, dtype).T)
                outputs.append(out.view(*x.shape[:-1], -1))
        ctx.save_for_backward(rows, kept, thin, *weights, *downs, *ups)
        ctx.scales, ctx.of_input, ctx.of_product = scales, x.dtype, None if product is None else product.dtype
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, kept, thin, *tensors = ctx.saved_tensors
        count, dtype, shape = len(ctx.scales), rows.dtype, grads[0].shape[:-1]
        weights, downs, ups = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        by_product = None if ctx.of_product is None else grads[0].to(ctx.of_product)
        by_input = None
        with torch.autocast(rows.device.type, enabled=False):
            by_outputs = [grad.reshape(len(rows), -1).to(dtype) for grad in grads]
            through = [scaled(up, scale, dtype) for up, scale in zip(ups, ctx.scales, strict=True)]
            by_thin = torch.cat([grad @ up for grad, up in zip(by_outputs, through, strict=True)], 1)
            if ctx.needs_input_grad[0]:
                by_input = masked(by_thin @ stacked(downs, dtype), kept)
                for grad, weight in zip(by_outputs, weights, strict=True):
                    if weight is not None:
                        by_input.addmm_(grad, weight.to(dtype))
                by_input = by_input.view(*shape, -1).to(ctx.of_input)
            by_downs = torch.split(by_thin.T.contiguous() @ masked(rows, kept), [len(down) for down in downs])
            # transposing a thin matrix is faster than a wide one
            by_ups = [part.T.contiguous() @ grad for part, grad in zip(_parts(thin, downs), by_outputs, strict=True)]
        by_learning: list[Tensor] = []
        for at, (down, up) in enumerate(zip(downs, ups, strict=True)):
            by_learning += [by_downs[at].to(down.dtype), by_ups[at].T.to(up.dtype) * ctx.scales[at]]
        return by_input, by_product, None, None, None, *[None] * (2 * count), *by_learning


def masked(rows: Tensor, kept: Tensor | None) -> Tensor:
    """Multiply rows by the dropout mask (0, or a factor above 1); None = no dropout."""
    return rows if kept is None else rows * kept


def stacked(downs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Concatenate the A matrices of adapters with the same input: x A' is then one product for all."""
    return downs[0].to(dtype) if len(downs) == 1 else torch.cat([down.to(dtype) for down in downs])


def scaled(up: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Multiply the B matrix of an adapter by its factor, rounded once: the large product then needs no pass for it."""
    return (up * scale).to(dtype)


def _parts(thin: Tensor, downs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Split x A' into the parts of each layer."""
    return torch.split(thin, [len(down) for down in downs], 1)
