"""Training on packs: one copy of the prompt's prefix for many sentences, with the loss and gradients of separate ones.

`attach` puts an attention back-end into a causal model (`attention_probe.choose` finds one that is right on this
machine), `pack_loss` runs a pack through it. Models are those of transformers, or peft's around them.

Besides attention, two things are left out that nobody reads. Only places that predict an answer token get logits. In
the last layer only those places need a query, an output projection and a feed-forward pass, since all that others give
there are keys and values (`last_layer`).

A loss is a sum over answer tokens; the caller divides by those of the whole step (`PackedStep.answer_tokens`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from omniner.encoding.packs import Pack
from omniner.models import attention_cascade, attention_flash, attention_flex, attention_masked
from omniner.models.attention import Backend
from omniner.models.last_layer import NeededRows
from omniner.models.token_loss import summed_loss

BACKENDS: dict[str, Backend] = {  # the fastest first
    "flash": attention_flash.BACKEND,
    "cascade": attention_cascade.BACKEND,
    "flex": attention_flex.BACKEND,
    "masked": attention_masked.BACKEND,
}
_NAME = "omniner_shared_prefix"  # under which transformers knows our attention


class Attached:
    """What `attach` changed in a model; kept there under `shared_prefix`."""

    def __init__(self, base: Any, backend: str) -> None:
        self.attend, self._before = BACKENDS[backend].attend, base.config._attn_implementation
        self.needed = NeededRows.of(base.get_decoder().layers[-1])
        base.set_attn_implementation(_NAME)

    def remove(self, base: Any) -> None:
        """Undo it."""
        base.set_attn_implementation(self._before)
        if self.needed is not None:
            self.needed.remove()


def base_of(model: Any) -> Any:
    """The transformers model inside a peft one, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def attach(model: Any, backend: str) -> None:
    """Make `pack_loss` of this model use a back-end; for anything but packs, `detach` it or set its attention.

    Args:
        model: causal language model of transformers, or peft's around it.
        backend: a name in `BACKENDS`.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attention)
    detach(model)
    base = base_of(model)
    base.shared_prefix = Attached(base, backend)


def detach(model: Any) -> None:
    """Give a model the attention back that it had before `attach`."""
    base = base_of(model)
    attached: Attached | None = getattr(base, "shared_prefix", None)
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
    attached: Attached | None = getattr(base, "shared_prefix", None)
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
    head.forward = lambda hidden: summed_loss(head, forward, hidden[0], targets, vocabulary)
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
    attached: Attached | None = None,
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
