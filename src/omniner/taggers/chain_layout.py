"""Compute how a linear-chain CRF lays out its work: which transitions form blocks, and how a batch is packed.

Both are computed on the host, once for the constraints of a CRF and once for the lengths of a batch; `linear_chain`
explains why they make it fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omniner.compute.devices import send

Index = slice | Tensor
"""Indices along an axis: a slice if they are consecutive, which gives a view instead of a copy."""


@dataclass(frozen=True)
class Blocks:
    """Allowed transitions as complete blocks, over the tags in an inner order that makes most groups consecutive.

    Attributes:
        order: [T] tag at each index of the inner order; None if it is the given order.
        inverse: [T] inner index of each tag.
        large_from, large_to: inner indices of the F sources and the G targets of the large block, always consecutive.
        small_from: K groups of C inner indices, the k-th source of every small block.
        small_to: the same of their targets.
    """

    order: Tensor | None
    inverse: Tensor
    large_from: slice
    large_to: slice
    small_from: list[Index]
    small_to: list[Index]


@dataclass(frozen=True)
class PackedLayout:
    """Positions of a batch's characters when packed step by step, longest sentence first (N in all).

    Attributes:
        places: [N] index of each packed character in the batch flattened to [B * L].
        rows: [N] sentence of each packed character.
        previous: packed indices of the characters before those of the second and later steps.
        last: [B'] packed index of the last character of each sentence that has any.
        last_rows: [B'] these sentences.
        counts: number of sentences that have a character at each step.
        offsets: packed indices at which the steps begin, and N.
    """

    places: Tensor
    rows: Tensor
    previous: Index
    last: Tensor
    last_rows: Tensor
    counts: list[int]
    offsets: list[int]

    @property
    def first(self) -> int:
        """Number of characters of the first step."""
        return self.counts[0] if self.counts else 0

    def step(self, number: int) -> slice:
        """Return the packed indices of one step."""
        return slice(self.offsets[number], self.offsets[number + 1])

    def before(self, number: int) -> slice:
        """Return the packed indices of the previous step, for the sentences that continue."""
        begin = self.offsets[number - 1]
        return slice(begin, begin + self.counts[number])

    def to(self, device: torch.device) -> PackedLayout:
        """Return the same layout on another device."""
        parts = {name: part for name, part in vars(self).items() if isinstance(part, Tensor)}
        sent: dict[str, Any] = dict(zip(parts, send(list(parts.values()), device), strict=True))
        return replace(self, **sent)


def find_blocks(allowed: Tensor, device: torch.device) -> Blocks:
    """Find the blocks of a table [T, T] on the host; if it does not split, it is one block with holes."""
    table = allowed.numpy()
    whole = np.arange(len(table))
    groups = _split(table)
    sources, targets = groups or ([whole], [whole])
    # targets only, both, sources only, neither: both sides of the large block become consecutive
    is_from, is_to = np.isin(whole, sources[0]), np.isin(whole, targets[0])
    order = np.argsort(np.select([is_to & ~is_from, is_to, is_from], [0, 1, 2], 3), kind="stable")
    place = np.argsort(order)
    return Blocks(
        order=None if (order == whole).all() else send([torch.from_numpy(order)], device)[0],
        inverse=send([torch.from_numpy(place)], device)[0],
        large_from=slice(int(place[sources[0]].min()), int(place[sources[0]].max()) + 1),
        large_to=slice(int(place[targets[0]].min()), int(place[targets[0]].max()) + 1),
        small_from=[compact_index(place[group], device) for group in sources[1:]],
        small_to=[compact_index(place[group], device) for group in targets[1:]],
    )


def _split(allowed: NDArray[np.bool_]) -> tuple[list[NDArray[np.intp]], list[NDArray[np.intp]]] | None:
    """Return sources and targets of the complete blocks that a table splits into, the large one first.

    The others are grouped: the k-th source of each, the k-th target of each. None if the table does not split, or if
    the other blocks are not all of one shape.
    """
    rows, group = np.unique(allowed, axis=0, return_inverse=True)
    if (rows.sum(0) != 1).any() or not rows.any(1).all():
        return None
    blocks = [(np.flatnonzero(group.reshape(-1) == n), np.flatnonzero(row)) for n, row in enumerate(rows)]
    large, *small = sorted(blocks, key=lambda block: (-len(block[0]) * len(block[1]), block[0][0]))
    if not small:
        return [large[0]], [large[1]]
    if len({(len(sources), len(targets)) for sources, targets in small}) > 1:
        return None
    return [large[0], *np.stack([b[0] for b in small], 1)], [large[1], *np.stack([b[1] for b in small], 1)]


def compact_index(places: NDArray[np.intp], device: torch.device) -> Index:
    """Return a slice if the indices are consecutive, else the indices themselves."""
    if len(places) and (np.diff(places) == 1).all():
        return slice(int(places[0]), int(places[-1]) + 1)
    return send([torch.from_numpy(places)], device)[0]


def take_rows(values: Tensor, rows: Index) -> Tensor:
    """Take rows of a tensor: a view if they are consecutive."""
    return values[rows] if isinstance(rows, slice) else values.index_select(0, rows)


def pack_by_position(lengths: Sequence[int], width: int) -> PackedLayout:
    """Compute the layout of sentences that are padded to `width` characters, on the host."""
    sizes = np.array(lengths, dtype=np.intp)
    real = np.arange(width) < sizes[:, None]
    order = np.argsort(-sizes, kind="stable")
    counts = real.sum(0)[: sizes.max(initial=0)]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.intp)
    steps, ranks = np.nonzero(real[order].T)
    rows = order[ranks]
    live = order[: counts[0]] if len(counts) else order[:0]
    later = slice(len(live), None)
    return PackedLayout(
        places=torch.from_numpy(rows * width + steps),
        rows=torch.from_numpy(rows),
        previous=compact_index(offsets[steps[later] - 1] + ranks[later], torch.device("cpu")),
        last=torch.from_numpy(offsets[sizes[live] - 1] + np.arange(len(live))),
        last_rows=torch.from_numpy(live),
        counts=counts.tolist(),
        offsets=offsets.tolist(),
    )
