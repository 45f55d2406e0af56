"""Attention of a pack on CUDA by `flex_attention`: one generated kernel that skips what no row may see.

In come queries, keys and values of a whole pack, in any precision. The pattern is told as a function of two places; of
its blocks of 128 x 128, those that are empty are skipped and those that are full need no mask. Compiled once for all
lengths. The price: a compiler (Triton) and half a minute at the start; and the pattern of a pack is found by looking at
all T x T places once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from omniner.encoding.packs import Pack
from omniner.models.attention import Backend


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool) -> Tensor:
    """As `attention.Attend` says."""
    rows = [each.contiguous() for each in (query, key, value)]
    pattern = pack.once("flex", block_mask)
    return _kernel()(*rows, block_mask=pattern, scale=scale, enable_gqa=True).transpose(1, 2)


def block_mask(pack: Pack) -> Any:
    """The pattern as `flex_attention` takes it (a `BlockMask`)."""
    from torch.nn.attention.flex_attention import create_block_mask

    segments = pack.segments()

    def visible(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (row >= column) & ((segments[column] == 0) | (segments[row] == segments[column]))

    tokens = len(pack.ids)
    return create_block_mask(visible, None, None, tokens, tokens, device=segments.device)


@cache
def _kernel() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled


BACKEND = Backend(attend, "cuda", (torch.float16, torch.bfloat16, torch.float32))
