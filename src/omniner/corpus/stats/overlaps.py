"""Mentions that lie over one another: nested, crossing, or one place with two categories.

In goes a `Flat`, out come the pairs. A sweep over all mentions by start finds the sentences in which any two overlap,
as arrays; only those are looked at pair by pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from omniner.corpus.stats.flat import Bools, Flat, Ints

NESTED, CROSSING, SAME = "nested", "crossing", "same place"


class Overlap(NamedTuple):
    """Two mentions of one sentence: the outer (longer, or earlier) one and the other, by their numbers."""

    kind: str
    outer: int
    inner: int


def overlaps(flat: Flat) -> list[Overlap]:
    """All pairs of placed mentions with a common character, sentence after sentence."""
    found: list[Overlap] = []
    order = _in_reading_order(flat)
    if not len(order):
        return found
    place = flat.begin[flat.owner[order]]
    start, end = place + flat.start[order], place + flat.end[order]
    # Texts stand one after the other, so that no end of an earlier sentence lies beyond a start of a later one.
    covered = start[1:] < np.maximum.accumulate(end)[:-1]
    concerned = np.isin(flat.owner[order], np.unique(flat.owner[order[1:][covered]]))
    kept = order[concerned]
    cuts = np.flatnonzero(np.diff(flat.owner[kept])) + 1
    for mentions in np.split(kept, cuts):
        found += _pairs(flat, mentions)
    return found


def _in_reading_order(flat: Flat) -> Ints:
    """Placed mentions by sentence, start, the longer first."""
    placed = np.flatnonzero(flat.placed)
    return placed[np.lexsort((-flat.end[placed], flat.start[placed], flat.owner[placed]))]


def _pairs(flat: Flat, mentions: Ints) -> Iterator[Overlap]:
    items = [(int(flat.start[m]), int(flat.end[m]), int(m)) for m in mentions]
    for number, (start, end, outer) in enumerate(items):
        for other_start, other_end, inner in items[number + 1 :]:
            if other_start >= end:
                break
            if (start, end) == (other_start, other_end):
                yield Overlap(SAME, outer, inner)
            elif other_end <= end:
                yield Overlap(NESTED, outer, inner)
            else:
                yield Overlap(CROSSING, outer, inner)


def involved(flat: Flat, found: list[Overlap]) -> Bools:
    """(M,) whether a mention lies over another one."""
    concerned = np.zeros(len(flat.owner), bool)
    concerned[[mention for overlap in found for mention in overlap[1:]]] = True
    return concerned
