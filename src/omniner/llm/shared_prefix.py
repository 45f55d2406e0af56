"""Training on packs: one copy of the prompt's prefix for many sentences, with the loss and gradients of separate ones.

`attach` puts an attention back-end into a causal model (`attention_probe.choose` finds one that is right on this
machine), `pack_loss` runs a pack through it. Models are those of transformers, or peft's around them.

Besides attention, two things are left out that nobody reads. Only places that predict an answer token get logits. In
the last layer only those places need a query, an output projection and a feed-forward pass, since all that others give
there are keys and values (`last_layer`).

A loss is a sum over answer tokens; the caller divides by those of the whole step (`PackedStep.answer_tokens`).

The last decoder layer gives only the rows that somebody reads.

After the last layer only places that predict an answer token are read. Others are needed there as keys and values, not
as queries, and need no output projection and no feed-forward pass. Hooks on the three modules that work place by place
compute the rows of `pack.keep` and leave the others zero: about half of that layer's work where the answers are half of
a pack.

The summed loss of next tokens straight from hidden states, for vocabularies of any size.

In come hidden states [K, D], the output layer that makes logits of them, and targets [K]; out comes the sum of the
negative log-likelihoods. Logits are made, turned into gradients and dropped one chunk of rows at a time, already in
the forward pass: memory holds at most `LOGITS` of them at once, and nothing is computed twice. The price: gradients of
the output layer's weights exist from the forward pass on, and a loss can be differentiated only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from omniner.llm.attention import ATTENTION_BACKENDS
from omniner.llm.packs import Pack
from omniner.training.devices import base_of

_NAME = "omniner_shared_prefix"  # under which transformers knows our attention


class AttachedAttention:
    """What `attach` changed in a model; kept there under `shared_prefix`."""

    def __init__(self, base: Any, backend: str) -> None:
        self.attend, self._before = ATTENTION_BACKENDS[backend].attend, base.config._attn_implementation
        self.needed = LastLayerRows.of(base.get_decoder().layers[-1])
        base.set_attn_implementation(_NAME)

    def remove(self, base: Any) -> None:
        """Undo it."""
        base.set_attn_implementation(self._before)
        if self.needed is not None:
            self.needed.remove()


def attach_attention(model: Any, backend: str) -> None:
    """Make `pack_loss` of this model use a back-end; for anything but packs, `detach` it or set its attention.

    Args:
        model: causal language model of transformers, or peft's around it.
        backend: a name in `BACKENDS`.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attention)
    detach_attention(model)
    base = base_of(model)
    base.shared_prefix = AttachedAttention(base, backend)


def detach_attention(model: Any) -> None:
    """Give a model the attention back that it had before `attach`."""
    base = base_of(model)
    attached: AttachedAttention | None = getattr(base, "shared_prefix", None)
    if attached is not None:
        attached.remove(base)
        base.shared_prefix = None


def pack_loss(model: Any, pack: Pack) -> Tensor:
    """Sum (fp32, no dimensions) of the negative log-likelihoods of the pack's answer tokens, times its weight.

    Args:
        model: one that `attach` was called on.
        pack: on the model's device.
    """
    base = base_of(model)
    attached: AttachedAttention | None = getattr(base, "shared_prefix", None)
    if attached is None:
        raise ValueError("attach an attention back-end before pack_loss")
    vocabulary = base.config.get_text_config().vocab_size
    with _loss_for_logits(base.get_output_embeddings(), pack.targets, vocabulary):
        result = model(
            input_ids=pack.ids[None],
            position_ids=pack.positions[None],
            logits_to_keep=pack.keep,
            use_cache=False,
            pack=pack,
            attached=attached,
        )
    loss: Tensor = result.logits
    return loss * pack.weight


@contextmanager
def _loss_for_logits(head: nn.Module, targets: Tensor, vocabulary: int) -> Iterator[None]:
    """Within, the output layer answers with its loss: so it stays inside the model's forward pass, where sharded
    weights are whole, and its logits need not exist all at once."""
    before = head.__dict__.get("forward")
    forward: Callable[[Tensor], Tensor] = head.forward
    head.forward = lambda hidden: token_loss(head, forward, hidden[0], targets, vocabulary)
    try:
        yield
    finally:
        del head.forward
        if before is not None:
            head.forward = before


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    pack: Pack | None = None,
    attached: AttachedAttention | None = None,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer: query [1, H, T, D], key and value [1, G, T, D] to [1, T, H, D]."""
    if pack is None or attached is None:
        raise ValueError("this model is attached to packs: detach it before other uses")
    if dropout:
        raise ValueError("attention dropout cannot be computed on packs")
    # rotary embeddings leave fp32 behind under autocast
    query, key = query.to(value.dtype), key.to(value.dtype)
    last = attached.needed is not None and module is attached.needed.attention
    return attached.attend(query, key, value, scaling, pack, prefix_unused=last), None


class LastLayerRows:
    """Hooks on a decoder layer.

    The pack is met in the keyword arguments of the layer's attention, which gradient checkpointing repeats, and
    forgotten after the feed-forward module, the last of the three.

    Attributes:
        attention: the layer's attention, of which nobody reads the prefix's rows.
    """

    def __init__(self, attention: nn.Module, modules: tuple[nn.Module, ...]) -> None:
        self.attention = attention
        self._pack: Pack | None = None
        self._handles = [attention.register_forward_pre_hook(self._meet, with_kwargs=True)]
        for module in modules:
            self._handles.append(module.register_forward_pre_hook(self._select))
            self._handles.append(module.register_forward_hook(self._spread))
        self._handles.append(modules[-1].register_forward_hook(self._forget))

    @classmethod
    def of(cls, layer: Any) -> LastLayerRows | None:
        """The hooks of a layer as Llama has it; None for one that is built otherwise."""
        needed = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
        if not set(needed) <= {name for name, _ in layer.named_modules()}:
            return None
        return cls(layer.self_attn, (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp))

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _meet(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._pack = kwargs.get("pack")

    def _select(self, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        """[1, T, D] to [1, K, D]."""
        return None if self._pack is None else (args[0].index_select(1, self._pack.keep),)

    def _spread(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """[1, K, D] to [1, T, D], zero elsewhere."""
        if self._pack is None:
            return output
        size = (1, len(self._pack.ids), output.shape[2])
        return output.new_zeros(size).index_copy(1, self._pack.keep, output)

    def _forget(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._pack = None


MOST_LOGITS = 2**26  # at once; 256 MB in fp32


def token_loss(
    head: nn.Module, logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, vocabulary: int
) -> Tensor:
    """Sum (fp32, no dimensions) of -log softmax(logits)[target].

    Args:
        head: the output layer, of any kind; those of its parameters that require gradients get them.
        logits_of: hidden states [k, D] to logits [k, V], by that layer.
        hidden: [K, D].
        targets: long [K].
        vocabulary: V, from which the rows of a chunk follow.
    """
    rows = max(1, MOST_LOGITS // vocabulary)
    if not torch.is_grad_enabled():
        total = _zero(hidden)
        for here, chosen in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
            total += _loss_and_gradient(logits_of(here), chosen)[0]
        return total
    weights = [weight for weight in head.parameters() if weight.requires_grad]
    loss: Tensor = _SummedLoss.apply(logits_of, rows, hidden, targets, *weights)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def _loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss of some rows and its gradient by their logits [k, V]; overwrites logits that are fp32 already."""
    logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    sums, places = logits.logsumexp(-1, keepdim=True), targets[:, None]
    loss = (sums - logits.gather(1, places)).sum()
    gradient = logits.sub_(sums).exp_()
    return loss, gradient.scatter_add_(1, places, gradient.new_full((), -1).expand(places.shape))


def _zero(hidden: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)


class _SummedLoss(torch.autograd.Function):
    """The loss with its gradients; weight gradients are summed in fp32 where there are several chunks."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_of: Callable[[Tensor], Tensor],
        rows: int,
        hidden: Tensor,
        targets: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        total, by_hidden = _zero(hidden), torch.empty_like(hidden)
        by_weights: list[Tensor] = []
        chunks = zip(*(torch.split(each, rows) for each in (hidden, targets, by_hidden)), strict=True)
        for here, chosen, gradient in chunks:
            here = here.detach().requires_grad_()
            with torch.enable_grad():
                logits = logits_of(here)
            loss, by_logits = _loss_and_gradient(logits, chosen)
            total += loss
            with torch.autocast(hidden.device.type, enabled=False):
                by_here, *others = torch.autograd.grad(logits, [here, *weights], by_logits.to(logits.dtype))
            gradient.copy_(by_here)
            by_weights = _added(by_weights, others)
        ctx.gradients = [by_hidden, *(sums.to(weight) for sums, weight in zip(by_weights, weights, strict=True))]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # scaled in place, because they may be gigabytes; a second backward pass fails here
        gradients, ctx.gradients = ctx.gradients, None
        by_hidden, *by_weights = (each.mul_(grad) for each in gradients)
        return None, None, by_hidden, None, *by_weights


def _added(totals: list[Tensor], more: Sequence[Tensor]) -> list[Tensor]:
    """Gradients so far (none before the first chunk) and those of a further chunk."""
    if not totals:
        return list(more)
    wide = [total.to(torch.promote_types(total.dtype, torch.float32)) for total in totals]
    return [total.add_(each) for total, each in zip(wide, more, strict=True)]
