"""Attention of a pack by one mask: the plain reference that every other back-end is compared with.

In come queries, keys and values of a whole pack; PyTorch's own attention computes all T x T scores and a mask [T, T]
keeps what may be seen. Runs anywhere. The price: scores of suffixes against each other are computed and thrown away,
keys are repeated for the query heads that share them, and on CUDA a mask rules out the fastest kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from omniner.encoding.packs import Pack
from omniner.models.attention import Backend


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """As `attention.Attend` says."""
    shared = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(shared, 1) for each in (key, value))
    mask = pack.once("mask", visible)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def visible(pack: Pack) -> Tensor:
    """Bool [T, T]: row i may see column j, which stands before it in the prefix or in its own suffix."""
    segments = pack.segments()
    places = torch.arange(len(segments), device=segments.device)
    causal = places[:, None] >= places
    return causal & ((segments == 0) | (segments[:, None] == segments))


BACKEND = Backend(attend, None, (torch.float16, torch.bfloat16, torch.float32, torch.float64))
