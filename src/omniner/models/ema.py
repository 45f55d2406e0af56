"""Exponential moving average of the weights: a second set, smoother than the one being trained.

After each optimizer step the average moves towards the weights by `1 - decay`; in the first steps it moves faster,
`(1 + n) / (10 + n)`, so that it forgets the random start. It is what is evaluated and kept as the best checkpoint:
for models trained from nothing it is worth about a point of F1, and costs one more copy of the weights. `swap` puts
it in the place of the weights and back.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of the parameters of `module`.

    Args:
        module: whose parameters are followed.
        decay: of the average, near 1.

    Attributes:
        swapped: whether the module holds the average at the moment (and this the weights).
        steps: updates so far.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self._shadow: list[Tensor] | None = None
        self.swapped, self.steps = False, 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        self.steps += 1
        weights = [weight.detach() for weight in self._module.parameters()]
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._tensors(weights), weights, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange average and weights, in place."""
        weights = [weight.detach() for weight in self._module.parameters()]
        for mean, weight in zip(self._tensors(weights), weights, strict=True):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)
        self.swapped = not self.swapped

    def state(self) -> dict[str, Tensor]:
        """The other set of weights by name: the average, or the trained weights while swapped."""
        names = [name for name, _ in self._module.named_parameters()]
        weights = [weight.detach() for weight in self._module.parameters()]
        return dict(zip(names, self._tensors(weights), strict=True))

    def load(self, state: dict[str, Tensor], steps: int) -> None:
        """Take an average that `state` gave."""
        self._shadow = [state[name].clone() for name, _ in self._module.named_parameters()]
        self.steps = steps

    def _tensors(self, weights: Iterable[Tensor]) -> list[Tensor]:
        """The average, on the device of the weights."""
        if self._shadow is None:
            self._shadow = [weight.clone() for weight in weights]
        self._shadow = [mean.to(weight) for mean, weight in zip(self._shadow, weights, strict=True)]
        return self._shadow
