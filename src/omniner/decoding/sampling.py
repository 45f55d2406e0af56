"""The next token of each row by chance, and the same chance whatever the batch.

A row's random number is a hash of the seed, the sentence's id and the place in the answer. So a sentence gets the
same answer with any neighbours, on any device, before and after an interruption. The number picks a token by inverting
the cumulated probabilities, which costs one pass over the vocabulary (and a sort of it where `top_p` cuts).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_BITS = 32


def chance(seed: int, name: str, step: int) -> float:
    """A number in [0, 1) that follows from the three."""
    digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
    return int.from_bytes(digest[: _BITS // 8], "big") / float(2**_BITS)


def sample(logits: Tensor, temperature: float, top_p: float, chances: Tensor) -> Tensor:
    """One token per row.

    Args:
        logits: [B, V] of float32; -inf is never drawn.
        temperature: above 0; what the logits are divided by.
        top_p: only the most probable tokens whose probabilities, cumulated, reach this share are drawn from.
        chances: [B] of float64, in [0, 1).

    Returns:
        [B] token ids.
    """
    shares = torch.softmax(logits / temperature, dim=1)
    if top_p >= 1:
        return _invert(shares, chances)
    shares, order = shares.sort(dim=1, descending=True, stable=True)
    before = shares.double().cumsum(1) - shares
    shares = shares.masked_fill(before >= top_p, 0)
    shares[:, 0] = shares[:, 0].clamp_min(torch.finfo(shares.dtype).tiny)  # one token stays, however small top_p
    return order.gather(1, _invert(shares, chances)[:, None])[:, 0]


def _invert(shares: Tensor, chances: Tensor) -> Tensor:
    """The first place where the cumulated `shares` [B, V] exceed each row's chance of their sum: never one of 0."""
    reached = shares.double().cumsum(1)
    return torch.searchsorted(reached, (chances * reached[:, -1])[:, None], right=True)[:, 0]
