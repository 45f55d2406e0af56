"""The summed loss of next tokens straight from hidden states, for vocabularies of any size.

In come hidden states [K, D], the output layer that makes logits of them, and targets [K]; out comes the sum of the
negative log-likelihoods. Logits are made, turned into gradients and dropped one chunk of rows at a time, already in
the forward pass: memory holds at most `LOGITS` of them at once, and nothing is computed twice. The price: gradients of
the output layer's weights exist from the forward pass on, and a loss can be differentiated only once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LOGITS = 2**26  # at once; 256 MB in fp32


def summed_loss(
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
    rows = max(1, LOGITS // vocabulary)
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
