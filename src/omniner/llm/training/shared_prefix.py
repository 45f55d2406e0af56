"""Train on packs: one copy of the prompt's prefix for many sentences, with the loss and gradients of separate ones.

`attach_attention` puts an attention back-end into a causal model of transformers (or a peft model around one);
`attention_probe.choose_attention` finds one that is correct on this machine. `pack_loss` then runs a pack through it.
Two more unused parts are not computed:

- Logits. Only positions that predict an answer token get them, and never all at once: `token_loss` computes logits,
  converts them to gradients and drops them, one chunk of rows after the other, already in the forward pass. So any size
  of vocabulary fits and nothing is computed twice. The cost: gradients of the output layer exist from the forward pass
  on, and a loss can be differentiated only once. With a frozen output layer the chunks are columns: all rows use some
  thousand words at a time, and their parts of the gradient are summed before the softmax's denominator is known.
- Most of the last layer. After it only positions that predict are read. The others are needed there only as keys and
  values, not as queries, and need no output projection and no feed-forward pass. Hooks (`LastLayerRows`) compute only
  the rows that are read, which saves about half of that layer's work if the answers are half of a pack.

A loss is a sum over answer tokens; the caller divides by those of the whole step (`PackedStep.answer_tokens`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from omniner.llm.low_rank import computing_dtype, is_plain
from omniner.llm.training.attention import ATTENTION_BACKENDS
from omniner.llm.training.fused_layers import FusedLayers, has_caches
from omniner.llm.training.packs import Pack
from omniner.pretrained import base_model

_NAME = "omniner_shared_prefix"  # the name of our attention in transformers
MOST_LOGITS = 2**26  # at once; 256 MB in fp32
_CPU_LOGITS = 2**21  # at once on a CPU; more would exceed its caches


class AttachedAttention:
    """What `attach_attention` changed in a model; stored in the model as `shared_prefix`."""

    def __init__(self, base: Any, backend: str, dtype: torch.dtype | None) -> None:
        self.attend, self._before = ATTENTION_BACKENDS[backend].attend, base.config._attn_implementation
        self.dtype = dtype
        self.last_layer = LastLayerRows.hook(base.get_decoder().layers[-1])
        self.parts = FusedLayers(base)
        base.set_attn_implementation(_NAME)

    def remove(self, base: Any) -> None:
        """Restore the model's own attention."""
        base.set_attn_implementation(self._before)
        if self.last_layer is not None:
            self.last_layer.remove()
        self.parts.remove()


def attach_attention(model: Any, backend: str, dtype: torch.dtype | None = None) -> None:
    """Make `pack_loss` of a model use a back-end; for anything but packs, call `detach_attention` or set its attention.

    Args:
        model: causal language model of transformers, or a peft model around it.
        backend: a name in `ATTENTION_BACKENDS`.
        dtype: compute dtype of the back-end, whatever the layers pass (4-bit layers return the dtype of their input,
            which may be fp32 where the kernel accepts only bf16); None = that of the values.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _pack_attention)
    detach_attention(model)
    base = base_model(model)
    base.shared_prefix = AttachedAttention(base, backend, dtype)


def detach_attention(model: Any) -> None:
    """Restore the attention that a model had before `attach_attention`."""
    base = base_model(model)
    attached: AttachedAttention | None = getattr(base, "shared_prefix", None)
    if attached is not None:
        attached.remove(base)
        base.shared_prefix = None


def pack_loss(model: Any, pack: Pack) -> Tensor:
    """Compute the loss of a pack's answer tokens.

    Args:
        model: one that `attach_attention` was called on.
        pack: on the model's device.

    Returns:
        fp32, no dimensions: the sum of the negative log-likelihoods, times the pack's weight.
    """
    base = base_model(model)
    attached: AttachedAttention | None = getattr(base, "shared_prefix", None)
    if attached is None:
        raise ValueError("attach an attention back-end before pack_loss")
    vocabulary = base.config.get_text_config().vocab_size
    with _loss_instead_of_logits(base.get_output_embeddings(), pack.targets, vocabulary):
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
def _loss_instead_of_logits(head: nn.Module, targets: Tensor, vocabulary: int) -> Iterator[None]:
    """Make the output layer return its loss.

    The loss is then computed inside the model's forward pass, where sharded weights are gathered, and its logits need
    not exist all at once.
    """
    before = head.__dict__.get("forward")
    forward: Callable[[Tensor], Tensor] = head.forward
    head.forward = lambda hidden: token_loss(head, forward, hidden[0], targets, vocabulary)
    try:
        yield
    finally:
        del head.forward
        if before is not None:
            head.forward = before


def _pack_attention(
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
    """Serve transformers' call in each layer: query [1, H, T, D], key and value [1, KV, T, D] to [1, T, H, D]."""
    if pack is None or attached is None:
        raise ValueError("this model is attached to packs: detach it before other uses")
    if dropout:
        raise ValueError("attention dropout cannot be computed on packs")
    given = value.dtype
    compute = attached.dtype or given
    # rotary embeddings leave fp32 under autocast, 4-bit layers the dtype of their input
    query, key, value = query.to(compute), key.to(compute), value.to(compute)
    last = attached.last_layer is not None and module is attached.last_layer.attention
    return attached.attend(query, key, value, scaling, pack, prefix_unused=last).to(given), None


class LastLayerRows:
    """Hooks on the last decoder layer: its row-wise modules get only the rows that are read.

    The pack is found in the keyword arguments of the layer's attention, which gradient checkpointing repeats. It is
    dropped after the feed-forward module, the last of the three.

    Args:
        attention: the layer's attention, whose prefix rows are not read.
        modules: query projection, output projection and feed-forward module, in running order.
    """

    def __init__(self, attention: nn.Module, modules: tuple[nn.Module, ...]) -> None:
        self.attention = attention
        self._pack: Pack | None = None
        self._handles = [attention.register_forward_pre_hook(self._note_pack, with_kwargs=True)]
        for module in modules:
            self._handles.append(module.register_forward_pre_hook(self._select))
            self._handles.append(module.register_forward_hook(self._spread))
        self._handles.append(modules[-1].register_forward_hook(self._forget))

    @classmethod
    def hook(cls, layer: Any) -> LastLayerRows | None:
        """Hook a layer of Llama's form; None for one of another form, which then computes all rows."""
        needed = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
        if not set(needed) <= {name for name, _ in layer.named_modules()}:
            return None
        return cls(layer.self_attn, (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp))

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _note_pack(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._pack = kwargs.get("pack")

    def _select(self, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        """Keep the rows that are read: [1, T, D] to [1, K, D]."""
        return None if self._pack is None else (args[0].index_select(1, self._pack.keep),)

    def _spread(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Put the rows back at their indices: [1, K, D] to [1, T, D], zero elsewhere."""
        if self._pack is None:
            return output
        size = (1, len(self._pack.ids), output.shape[2])
        return output.new_zeros(size).index_copy(1, self._pack.keep, output)

    def _forget(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._pack = None


def token_loss(
    head: nn.Module, logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, vocabulary: int
) -> Tensor:
    """Compute the summed loss of next tokens directly from hidden states.

    Args:
        head: the output layer, of any kind; those of its parameters that require gradients get them.
        logits_of: computes logits [k, V] from hidden states [k, D], by that layer.
        hidden: [K, D].
        targets: long [K].
        vocabulary: V, which determines the rows of a chunk.

    Returns:
        fp32, no dimensions: the sum of -log softmax(logits)[target].
    """
    rows = max(1, MOST_LOGITS // vocabulary)
    if not torch.is_grad_enabled():
        total = zero_loss(hidden)
        for here, chosen in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
            total += loss_and_gradient(logits_of(here), chosen)[0]
        return total
    if is_plain(head):
        most = min(MOST_LOGITS, _CPU_LOGITS) if has_caches(hidden) else MOST_LOGITS
        frozen: Tensor = _FrozenLoss.apply(hidden, targets, head.weight, head.bias, max(1, most // len(hidden)))  # type: ignore[no-untyped-call]
        return frozen
    weights = [weight for weight in head.parameters() if weight.requires_grad]
    loss: Tensor = _SummedLoss.apply(logits_of, rows, hidden, targets, *weights)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the summed loss of some rows and its gradient with respect to their logits [k, V].

    Logits that are already fp32 are overwritten: the gradient reuses their memory.
    """
    logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    sums, places = logits.logsumexp(-1, keepdim=True), targets[:, None]
    loss = (sums - logits.gather(1, places)).sum()
    gradient = logits.sub_(sums).exp_()
    return loss, gradient.scatter_add_(1, places, gradient.new_full((), -1).expand(places.shape))


def zero_loss(hidden: Tensor) -> Tensor:
    """Return a zero loss, in at least fp32, on the device of the hidden states."""
    return torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)


class _SummedLoss(torch.autograd.Function):
    """Keeps the gradients of the loss; those of weights are summed in fp32 if there are several chunks."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_of: Callable[[Tensor], Tensor],
        rows: int,
        hidden: Tensor,
        targets: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        total, by_hidden = zero_loss(hidden), torch.empty_like(hidden)
        by_weights: Sequence[Tensor] = ()
        chunks = zip(*(torch.split(each, rows) for each in (hidden, targets, by_hidden)), strict=True)
        for here, chosen, gradient in chunks:
            here = here.detach().requires_grad_()
            with torch.enable_grad():
                logits = logits_of(here)
            loss, by_logits = loss_and_gradient(logits, chosen)
            total += loss
            with torch.autocast(hidden.device.type, enabled=False):
                by_here, *others = torch.autograd.grad(logits, [here, *weights], by_logits.to(logits.dtype))
            gradient.copy_(by_here)
            by_weights = add_gradients(by_weights, others) if by_weights else others
        ctx.gradients = [by_hidden, *(sums.to(weight) for sums, weight in zip(by_weights, weights, strict=True))]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # scaled in place, because they may take gigabytes; a second backward pass fails here
        gradients, ctx.gradients = ctx.gradients, None
        by_hidden, *by_weights = (each.mul_(grad) for each in gradients)
        return None, None, by_hidden, None, *by_weights


def add_gradients(totals: Sequence[Tensor], more: Sequence[Tensor]) -> list[Tensor]:
    """Add the gradients of another chunk to the current ones, in at least fp32."""
    wide = [total.to(torch.promote_types(total.dtype, torch.float32)) for total in totals]
    return [total.add_(each) for total, each in zip(wide, more, strict=True)]


class _FrozenLoss(torch.autograd.Function):
    """The loss and its gradient with respect to the hidden states, if the output layer is frozen.

    The gradient of a row is the mean of all words' weights by their probabilities, minus the weights of the correct
    word. The mean is summed over chunks of words, relative to the largest logit so far, as in flash attention.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, columns: int) -> Tensor:
        dtype = computing_dtype(hidden.device, weight.dtype)
        wide = torch.promote_types(dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            given = hidden.to(dtype)
            mean = torch.zeros(hidden.shape, dtype=wide, device=hidden.device)
            largest = mean.new_full((len(hidden), 1), -torch.inf)
            total, right = torch.zeros_like(largest), torch.zeros_like(largest)
            for first in range(0, len(weight), columns):
                words = slice(first, first + columns)
                rows, shift = weight[words].to(dtype), None if bias is None else bias[words].to(dtype)
                logits = linear(given, rows, shift)
                before, largest = largest, torch.maximum(largest, logits.amax(1, keepdim=True))
                shares, fading = torch.sub(logits, largest).exp_(), (before - largest).exp_()
                total = total.mul_(fading).add_(shares.sum(1, keepdim=True))
                mean.mul_(fading).add_(shares.to(dtype) @ rows)
                place = targets[:, None] - first
                here = (place >= 0) & (place < len(rows))
                right += logits.gather(1, place.clamp(0, len(rows) - 1)).to(wide) * here
            ctx.by_hidden = mean.div_(total).sub_(weight[targets].to(dtype)).to(hidden.dtype)
        return (largest + total.log() - right).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, ctx.by_hidden = ctx.by_hidden, None
        return by_hidden.mul_(grad), None, None, None, None
