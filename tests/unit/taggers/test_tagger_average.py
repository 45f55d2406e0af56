"""The averaged weights and the learning rate schedules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omniner.taggers.tagger_module import WeightAverage
from omniner.training.learner import learning_rate_factor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_average_follows_its_formula_beside_the_weights(dtype: torch.dtype) -> None:
    module = nn.Linear(3, 2).to(dtype)
    average = WeightAverage(module, 0.5)
    values = [torch.randn(2, 3).to(dtype) for _ in range(20)]
    mean = None
    for step, value in enumerate(values, 1):
        with torch.no_grad():
            module.weight.copy_(value)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        # the first update finds the weights as they are
        mean = value.float() if mean is None else decay * mean + (1 - decay) * value.float()
    assert mean is not None
    torch.testing.assert_close(average.weights()["weight"], mean)
    torch.testing.assert_close(average.averaged.weight, mean)
    assert average.averaged.weight.dtype == torch.float32, "small steps would be lost in bf16"
    assert torch.equal(module.weight, values[-1]), "the module keeps its own weights, to the last bit"
    assert not average.averaged.training
    again = WeightAverage(module, 0.5)
    again.load(average.weights(), average.steps)
    for one in (average, again):
        one.update()
    assert torch.equal(average.averaged.weight, again.averaged.weight)


def test_the_learning_rate_rises_and_falls() -> None:
    for schedule in ("constant", "linear", "cosine"):
        assert learning_rate_factor(0, 100, 0.1, schedule) == pytest.approx(1 / 11)
        assert learning_rate_factor(10, 100, 0.1, schedule) == 1
    assert learning_rate_factor(90, 100, 0.1, "constant") == 1
    assert learning_rate_factor(55, 100, 0.1, "linear") == pytest.approx(0.5)
    assert learning_rate_factor(55, 100, 0.1, "cosine") == pytest.approx(0.5)
    assert learning_rate_factor(100, 100, 0.1, "linear") == learning_rate_factor(100, 100, 0.1, "cosine") == 0
    assert learning_rate_factor(0, 100, 0, "linear") == 1
