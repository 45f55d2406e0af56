"""Attention of a pack by one mask: the plain reference that every other back-end is compared with.

In come queries, keys and values of a whole pack; PyTorch's own attention computes all T x T scores and a mask [T, T]
keeps what may be seen. Runs anywhere. The price: scores of suffixes against each other are computed and thrown away,
and on CUDA a mask rules out the fastest kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from omniner.encoding.packs import Pack


def visible(pack: Pack) -> Tensor:
    """Bool [T, T]: row i may see column j, which stands before it in the prefix or in its own suffix."""
    segments = pack.segments()
    places = torch.arange(len(segments), device=segments.device)
    causal = places[:, None] >= places
    return causal & ((segments == 0) | (segments[:, None] == segments))


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """Attention [1, T, H, D] of query [1, H, T, D] to key and value [1, G, T, D], G dividing H.

    `prefix_unused` (nobody reads the prefix's rows) saves nothing here.
    """
    mask = pack.once("mask", visible)
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)
    return out.transpose(1, 2)
