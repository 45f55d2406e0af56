"""Exponential moving average of the weights: a second set, smoother than the one being trained.

After each optimizer step the average moves towards the weights by `1 - decay`; in the first steps it moves faster,
`(1 + n) / (10 + n)`, so that it forgets the random start. It is what is evaluated and kept as the best checkpoint.
The price is one more copy of the weights. `swap_in` puts it in the place of the weights, `swap_out` takes it away.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of the parameters of `module`, kept in fp32 at least: small steps would be lost in bf16.

    Args:
        module: whose parameters are followed.
        decay: of the average, near 1.

    Attributes:
        steps: updates so far.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self._mean: list[Tensor] | None = None
        self._trained: list[Tensor] | None = None  # while swapped
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._tensors(), [_precise(weight) for weight in self._weights()], 1 - decay)

    @torch.no_grad()
    def swap_in(self) -> None:
        """Let the module hold the average."""
        weights = self._weights()
        self._trained = [weight.clone() for weight in weights]
        for weight, mean in zip(weights, self._tensors(), strict=True):
            weight.copy_(mean)

    @torch.no_grad()
    def swap_out(self) -> None:
        """Let the module hold its own weights again, to the last bit."""
        assert self._trained is not None, "swap_out without swap_in"
        for weight, trained in zip(self._weights(), self._trained, strict=True):
            weight.copy_(trained)
        self._trained = None

    def averages(self) -> dict[str, Tensor]:
        """The average by name."""
        return dict(zip(self._names(), self._tensors(), strict=True))

    def trained(self) -> dict[str, Tensor]:
        """The trained weights by name, whether or not the module holds them at the moment."""
        weights = self._weights() if self._trained is None else self._trained
        return dict(zip(self._names(), weights, strict=True))

    def load(self, averages: dict[str, Tensor], steps: int) -> None:
        """Take what `averages` gave."""
        self._mean = [averages[name].clone() for name in self._names()]
        self.steps = steps

    def _names(self) -> list[str]:
        return [name for name, _ in self._module.named_parameters()]

    def _weights(self) -> list[Tensor]:
        return [weight.detach() for weight in self._module.parameters()]

    def _tensors(self) -> list[Tensor]:
        """The average, where the weights are."""
        weights = self._weights()
        if self._mean is None:
            self._mean = [_precise(weight).clone() for weight in weights]
        self._mean = [mean.to(weight.device) for mean, weight in zip(self._mean, weights, strict=True)]
        return self._mean


def _precise(weight: Tensor) -> Tensor:
    return weight if weight.dtype == torch.float64 else weight.float()
