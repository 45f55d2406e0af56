"""How a CRF lays out its work: the complete blocks of a transition table, and a batch packed step by step.

The legal transitions of a BIOES scheme fall apart into complete blocks, one large (O, E, S to O, B, S) and one of 2 x 2
per category (B, I to I, E). `find_blocks` finds each from the table alone, so other schemes of that shape work as well,
and no constraints at all are one block. `pack` puts the characters of one step side by side, the longest sentence
first: then each step of the recursion works on a plain slice, and padding costs nothing. Nothing here has a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Index = slice | Tensor
"""Places along an axis: a slice where they are consecutive, which makes a view instead of a copy."""


@dataclass(frozen=True)
class Blocks:
    """Allowed transitions as complete blocks, over the tags in an inner order that makes most groups
    consecutive.

    Attributes:
        order: [T] tag at each place of the inner order; None if it is the given order.
        inverse: [T] place of each tag.
        hub_from, hub_to: places of the F sources and the G targets of the large block, always consecutive.
        small_from: K groups of C places, the k-th source of every small block; `small_to` its targets
        likewise.
    """

    order: Tensor | None
    inverse: Tensor
    hub_from: slice
    hub_to: slice
    small_from: list[Index]
    small_to: list[Index]


@dataclass(frozen=True)
class PackedLayout:
    """Where the characters of a batch lie when packed step by step, longest sentence first (N in all).

    Attributes:
        places: [N] place of each packed character in the batch seen as [B * L].
        rows: [N] sentence of each packed character.
        previous: places of the characters before those of the second and later steps.
        last: [B'] packed place of the last character of each sentence that has any; `last_rows` that
        sentence. counts: sentences that have a character at each step; `offsets` where the steps begin, and
        N.
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
        """Characters of the first step."""
        return self.counts[0] if self.counts else 0

    def step(self, number: int) -> slice:
        """Return the packed places of one step."""
        return slice(self.offsets[number], self.offsets[number + 1])

    def before(self, number: int) -> slice:
        """Return the packed places of the step before, of the sentences that go on."""
        begin = self.offsets[number - 1]
        return slice(begin, begin + self.counts[number])


def find_blocks(allowed: Tensor) -> Blocks:
    """Find the blocks of a table [T, T]; it is a single one with holes if the table does not fall apart."""
    table, device = allowed.cpu().numpy(), allowed.device
    whole = np.arange(len(table))
    groups = _split(table)
    sources, targets = groups or ([whole], [whole])
    # targets only, both, sources only, neither: both sides of the large block are consecutive
    is_from, is_to = np.isin(whole, sources[0]), np.isin(whole, targets[0])
    order = np.argsort(np.select([is_to & ~is_from, is_to, is_from], [0, 1, 2], 3), kind="stable")
    place = np.argsort(order)
    return Blocks(
        order=None if (order == whole).all() else torch.from_numpy(order).to(device),
        inverse=torch.from_numpy(place).to(device),
        hub_from=slice(int(place[sources[0]].min()), int(place[sources[0]].max()) + 1),
        hub_to=slice(int(place[targets[0]].min()), int(place[targets[0]].max()) + 1),
        small_from=[compact_index(place[group], device) for group in sources[1:]],
        small_to=[compact_index(place[group], device) for group in targets[1:]],
    )


def _split(allowed: NDArray[np.bool_]) -> tuple[list[NDArray[np.intp]], list[NDArray[np.intp]]] | None:
    """Sources and targets of the complete blocks that a table falls apart into, the large one first.

    The others come as groups: the k-th source of each, the k-th target of each. None if the table does not
    fall apart, or if the other blocks are not all of one shape.
    """
    rows, group = np.unique(allowed, axis=0, return_inverse=True)
    if (rows.sum(0) != 1).any() or not rows.any(1).all():
        return None
    blocks = [(np.flatnonzero(group.reshape(-1) == n), np.flatnonzero(row)) for n, row in enumerate(rows)]
    hub, *small = sorted(blocks, key=lambda block: (-len(block[0]) * len(block[1]), block[0][0]))
    if not small:
        return [hub[0]], [hub[1]]
    if len({(len(sources), len(targets)) for sources, targets in small}) > 1:
        return None
    return [hub[0], *np.stack([b[0] for b in small], 1)], [hub[1], *np.stack([b[1] for b in small], 1)]


def compact_index(places: NDArray[np.intp], device: torch.device) -> Index:
    """Return a slice where the places are consecutive, else the places themselves."""
    if len(places) and (np.diff(places) == 1).all():
        return slice(int(places[0]), int(places[-1]) + 1)
    return torch.from_numpy(places).to(device)


def take_rows(values: Tensor, rows: Index) -> Tensor:
    """Take rows of a tensor: a view where they are consecutive."""
    return values[rows] if isinstance(rows, slice) else values.index_select(0, rows)


def pack_steps(mask: Tensor) -> PackedLayout:
    """Lay out a right-padded mask [B, L].

    Raises:
        ValueError: the mask is not right padded.
    """
    real = mask.cpu().numpy().astype(bool)
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise ValueError("the mask must be right padded, but a padded character stands before a real one")
    lengths = real.sum(1)
    order = np.argsort(-lengths, kind="stable")
    counts = real.sum(0)[: lengths.max(initial=0)]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.intp)
    steps, ranks = np.nonzero(real[order].T)
    rows = order[ranks]
    live = order[: counts[0]] if len(counts) else order[:0]
    later = slice(len(live), None)
    device = mask.device
    return PackedLayout(
        places=torch.from_numpy(rows * real.shape[1] + steps).to(device),
        rows=torch.from_numpy(rows).to(device),
        previous=compact_index(offsets[steps[later] - 1] + ranks[later], device),
        last=torch.from_numpy(offsets[lengths[live] - 1] + np.arange(len(live))).to(device),
        last_rows=torch.from_numpy(live).to(device),
        counts=counts.tolist(),
        offsets=offsets.tolist(),
    )
