"""Drawn tokens: as probable as they should be, and from the allowed ones only."""

from __future__ import annotations

import math
import random

import pytest
import torch

from omniner.llm.decoding.decoder import sample_tokens, uniform_draw


def slow_sample(logits: list[float], temperature: float, top_p: float, number: float) -> int:
    """By the definition, token after token."""
    weights = [math.exp(logit / temperature) for logit in logits]
    total = sum(weights)
    order = list(range(len(weights)))
    if top_p < 1:
        order.sort(key=lambda token: -weights[token])
        kept, reached = [], 0.0
        for token in order:
            if kept and reached >= top_p:
                break
            kept.append(token)
            reached += weights[token] / total
        order = kept
    number *= sum(weights[token] for token in order)
    for token in order:
        if number < weights[token]:
            return token
        number -= weights[token]
    return order[-1]


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 0.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_equals_the_definition(top_p: float, temperature: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(400, 30) * 3
    logits[:, 7] = -float("inf")
    logits[0, 1:] = -float("inf")
    drawn = [random.Random(row).random() for row in range(400)]
    found = sample_tokens(logits, temperature, top_p, torch.tensor(drawn, dtype=torch.float64)).tolist()
    want = [slow_sample(row, temperature, top_p, number) for row, number in zip(logits.tolist(), drawn, strict=True)]
    assert found == want
    assert 7 not in found


def test_nothing_improbable_at_the_ends() -> None:
    logits = torch.tensor([[-float("inf"), 0.0, -float("inf"), 0.0, -float("inf")]] * 2)
    ends = torch.tensor([0.0, 1 - 2**-32], dtype=torch.float64)
    for top_p in (1.0, 0.99):
        assert sample_tokens(logits, 1.0, top_p, ends).tolist() == [1, 3]


def test_chances_are_even_and_follow_from_all_three() -> None:
    numbers = [uniform_draw(1, f"s{n}", step) for n in range(100) for step in range(100)]
    assert all(0 <= number < 1 for number in numbers)
    counts = [sum(int(number * 10) == tenth for number in numbers) for tenth in range(10)]
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 27.9  # chi square, 9 degrees of freedom: 1 in 1000
    assert uniform_draw(1, "a", 2) == uniform_draw(1, "a", 2)
    assert (
        len({uniform_draw(1, "a", 2), uniform_draw(2, "a", 2), uniform_draw(1, "b", 2), uniform_draw(1, "a", 3)}) == 4
    )
