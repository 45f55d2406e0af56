"""How the learning rate moves over a run: up in the warm-up, then constant, linear or cosine down to zero."""

from __future__ import annotations

import math


def factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """What the learning rate is multiplied with at `step` (from 0) of `total`.

    Args:
        step, total: optimizer steps.
        warmup: share of the steps during which the rate rises.
        schedule: `constant`, `linear` or `cosine`, after the warm-up.
    """
    rising = warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - rising) / max(1.0, total - rising))
    return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
