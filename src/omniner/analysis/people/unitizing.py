"""Krippendorff's alpha for unitizing: do annotators cut the same units out of a text?

In go the entities of each annotator, out comes alpha of every category and of all together (Krippendorff 1995, "On the
reliability of unitizing continuous data"; 2004, "Content Analysis", 2nd edition, chapter 11). Unlike alpha over spans
it knows near misses: two overlapping units of a category disagree by the squared distance of their beginnings plus that
of their ends, a unit in a gap of the other annotator by its squared length. What would be expected by chance follows
from the lengths of all units and gaps, if they lay anywhere in the text.

The text is that of all sentences that every annotator labelled, one behind the other. Units of one category and one
annotator may not overlap, so those that do count as one. There is no interval: drawing posts again makes other gaps.
Price: a sort per category and a search per pair of annotators, 2 s for 195,568 sentences of three.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omniner.corpus.curation.matching import Proposal


class Units(NamedTuple):
    """Units that do not overlap, in order: `[units]` of first characters, and of those behind the last ones."""

    begin: NDArray[np.int64]
    end: NDArray[np.int64]


_NONE = Units(np.empty(0, np.int64), np.empty(0, np.int64))


def units_of(
    lengths: Iterable[int], proposals: Iterable[Sequence[Proposal | None]], annotators: int
) -> tuple[int, list[dict[str, Units]]]:
    """The characters of the common text, and of each annotator the units by category.

    Args:
        lengths: of the texts of the sentences, in characters.
        proposals: what each annotator says of them; a sentence with a None is left out.
        annotators: how many there are.
    """
    whole = 0
    bounds: list[dict[str, array[int]]] = [{} for _ in range(annotators)]
    for length, given in zip(lengths, proposals, strict=True):
        if None in given:
            continue
        for table, one in zip(bounds, given, strict=True):
            for _, name, start, end in one or ():
                if start is not None and end is not None and start < end:
                    table.setdefault(name, array("q")).extend((whole + start, whole + end))
        whole += length
    return whole, [{name: _apart(np.array(found)) for name, found in table.items()} for table in bounds]


def _apart(bounds: NDArray[np.int64]) -> Units:
    """Units from begin, end, begin, end, ...; overlapping ones become one."""
    pairs = bounds.reshape(-1, 2)
    begin, end = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].T
    first = np.flatnonzero(np.r_[True, begin[1:] >= np.maximum.accumulate(end)[:-1]])
    return Units(begin[first], np.maximum.reduceat(end, first))


def alpha_unitizing(length: int, annotators: Sequence[Mapping[str, Units]]) -> tuple[float, dict[str, float]]:
    """Alpha of all categories together and of each; NaN where nobody marked anything.

    Args:
        length: of the text, in characters.
        annotators: two or more, each with the units by category.
    """
    observed, expected = {}, {}
    for name in sorted({name for table in annotators for name in table}):
        units = [table.get(name, _NONE) for table in annotators]
        observed[name] = observed_disagreement(length, units)
        expected[name] = expected_disagreement(length, units)
    alphas = {name: _alpha(observed[name], expected[name]) for name in observed}
    return _alpha(math.fsum(observed.values()), math.fsum(expected.values())), alphas


def _alpha(observed: float, expected: float) -> float:
    return 1 - observed / expected if expected else math.nan


def observed_disagreement(length: int, annotators: Sequence[Units]) -> float:
    """Of one category: the mean over ordered pairs of annotators, per squared character of text."""
    total = sum(_distance(one, other) for one, other in combinations(annotators, 2))
    return 2 * total / (len(annotators) * (len(annotators) - 1) * length**2)


def _distance(one: Units, other: Units) -> int:
    """Of all units of two annotators: of those that overlap both ways of their bounds, of the others their lengths."""
    first = np.searchsorted(other.end, one.begin, side="right")
    count = np.searchsorted(other.begin, one.end, side="left") - first
    ours = np.repeat(np.arange(len(count)), count)
    theirs = np.arange(len(ours)) + np.repeat(first - np.cumsum(count) + count, count)
    bounds = (one.begin[ours] - other.begin[theirs], one.end[ours] - other.end[theirs])
    alone = np.bincount(theirs, minlength=len(other.begin)) == 0
    lengths = ((one.end - one.begin)[count == 0], (other.end - other.begin)[alone])
    return sum(int((values**2).sum()) for values in (*bounds, *lengths))


def expected_disagreement(length: int, annotators: Sequence[Units]) -> float:
    """Of one category: what all units of all annotators would give anywhere in the text."""
    sizes = np.concatenate([units.end - units.begin for units in annotators])
    gaps = np.concatenate([np.r_[units.begin, length] - np.r_[0, units.end] for units in annotators])
    gaps = np.sort(gaps[gaps > 0]).astype(np.float64)
    behind = np.r_[np.cumsum(gaps[::-1])[::-1], 0.0]  # of each gap: its size and that of all larger ones
    size, count = np.unique(sizes, return_counts=True)
    fits = np.searchsorted(gaps, size, side="left")
    size = size.astype(np.float64)
    places = behind[fits] - (len(gaps) - fits) * (size - 1)  # in which a unit lies in a gap
    overlapping = (len(sizes) - 1) / 3 * (2 * size**3 - 3 * size**2 + size)
    total = float((count * (overlapping + size**2 * places)).sum())
    characters = len(annotators) * length
    pairs = characters * (characters - 1) - float((count * size * (size - 1)).sum())
    return 2 * total / (length * pairs) if pairs else 0.0
