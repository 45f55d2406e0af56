"""Krippendorff's alpha and Fleiss' kappa for nominal labels, from sums that can be drawn again.

Units (characters, spans) with the same labels by the same annotators are one pattern with a weight. What a pattern adds
to the coefficients is a row of integers, so a corpus is a table `[posts, columns]`, the coefficients are functions of
its column sums, and a bootstrap over posts weights its rows. Annotators whose entities overlap make a label of every
combination of categories they meet, thousands in all, so the table is sparse (`Cells`).

- alpha = 1 - Do / De (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"): a unit with m labels, n_c of
  them c, adds (m^2 - sum n_c^2) / (m - 1) to the disagreement and its m labels to the totals. Missing labels are
  allowed; a unit with a single label tells nothing and is left out.
- kappa = (P - Pe) / (1 - Pe) (Fleiss 1971): over the units that every annotator labelled.

Both are undefined (NaN) where all labels are one and the same, or where there are none.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pattern = tuple[Hashable | None, ...]  # the label of each annotator; None: did not label the unit


class Cells(NamedTuple):
    """A table `[posts, width]` of integers without its zeros."""

    posts: int
    width: int
    rows: NDArray[np.int64]  # of each cell, as the next two
    columns: NDArray[np.int64]
    values: NDArray[np.float64]

    def total(self) -> NDArray[np.float64]:
        """`[width]`: the sum over all posts."""
        return np.bincount(self.columns, self.values, self.width).astype(np.float64)

    def drawn(self, weights: Iterable[NDArray[np.float64]]) -> Iterator[NDArray[np.float64]]:
        """`[draws, width]` for each `[draws, posts]` of how often each post was drawn.

        Columns with a value in many posts are one matrix product, in which a zero is cheaper than a value looked up.
        """
        held = np.bincount(self.columns, minlength=self.width)
        common = np.flatnonzero(held * _WORTH > self.posts)
        place = np.full(self.width, -1)
        place[common] = np.arange(len(common))
        dense = np.zeros((self.posts, len(common)))
        often = place[self.columns] >= 0
        dense[self.rows[often], place[self.columns[often]]] = self.values[often]
        rows, columns, values = self.rows[~often], self.columns[~often], self.values[~often]
        for drawn in weights:
            sums = np.empty((len(drawn), self.width))
            for one, row in zip(sums, drawn, strict=True):
                one[:] = np.bincount(columns, values * row[rows], self.width)
            sums[:, common] = drawn @ dense
            yield sums


_WORTH = 16  # times that looking up a value costs what a product in a matrix does


class Tally:
    """Units of a corpus, collected post by post."""

    def __init__(self, annotators: int) -> None:
        self._scale = math.lcm(*range(1, max(annotators, 2)))  # makes every disagreement an integer
        self._annotators = annotators
        self._number: dict[Pattern, int] = {}
        self._weights: Counter[tuple[int, int]] = Counter()  # (post, number of the pattern) -> units

    def add(self, post: int, pattern: Pattern, weight: int) -> None:
        """So many units of this pattern in a post."""
        self._weights[post, self._number.setdefault(pattern, len(self._number))] += weight

    def patterns(self) -> dict[Pattern, int]:
        """All patterns with the number of their units."""
        totals: Counter[int] = Counter()
        for (_, number), weight in self._weights.items():
            totals[number] += weight
        return {pattern: totals[number] for pattern, number in self._number.items()}

    def tables(self, posts: int) -> tuple[Cells, Cells]:
        """`[posts, 1 + labels]` for alpha and `[posts, 2 + labels]` for kappa."""
        labels = list(dict.fromkeys(label for pattern in self._number for label in pattern if label is not None))
        column = {label: place for place, label in enumerate(labels)}
        alpha_rows = [self._alpha_row(pattern, column) for pattern in self._number]
        kappa_rows = [self._kappa_row(pattern, column) for pattern in self._number]
        return self._table(alpha_rows, posts, 1 + len(labels)), self._table(kappa_rows, posts, 2 + len(labels))

    def _alpha_row(self, pattern: Pattern, column: Mapping[Hashable, int]) -> list[tuple[int, int]]:
        counts = Counter(label for label in pattern if label is not None)
        m = counts.total()
        if m < 2:
            return []
        disagreement = (m * m - sum(n * n for n in counts.values())) * self._scale // (m - 1)
        return [(0, disagreement), *((1 + column[label], n) for label, n in counts.items())]

    def _kappa_row(self, pattern: Pattern, column: Mapping[Hashable, int]) -> list[tuple[int, int]]:
        if None in pattern:
            return []
        counts = Counter(pattern)
        squares = sum(n * n for n in counts.values())
        return [(0, squares), (1, 1), *((2 + column[label], n) for label, n in counts.items() if label is not None)]

    def _table(self, rows: Sequence[Sequence[tuple[int, int]]], posts: int, width: int) -> Cells:
        sizes = np.array([len(row) for row in rows], dtype=np.int64)
        keys = np.fromiter(chain.from_iterable(self._weights), np.int64, 2 * len(self._weights)).reshape(-1, 2)
        weights = np.fromiter(self._weights.values(), np.int64, len(self._weights))
        flat = np.array([cell for row in rows for cell in row], dtype=np.int64).reshape(-1, 2)
        first = np.concatenate([[0], np.cumsum(sizes)])[:-1] if len(sizes) else sizes
        each = sizes[keys[:, 1]]  # cells of each entry
        steps = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        cells = flat[np.repeat(first[keys[:, 1]], each) + steps]
        places, of = np.unique(np.repeat(keys[:, 0], each) * width + cells[:, 0], return_inverse=True)
        values = np.bincount(of, np.repeat(weights, each) * cells[:, 1], len(places)).astype(np.float64)
        return Cells(posts, width, places // width, places % width, values)

    def alpha(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """`[...]` of Krippendorff's alpha from sums `[..., 1 + labels]`."""
        disagreement, counts = sums[..., 0] / self._scale, sums[..., 1:]
        n = counts.sum(axis=-1)
        share = _ratio((n - 1) * disagreement, n * n - (counts * counts).sum(axis=-1))
        return np.asarray(1 - share)

    def kappa(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """`[...]` of Fleiss' kappa from sums `[..., 2 + labels]`."""
        k, squares, units, counts = self._annotators, sums[..., 0], sums[..., 1], sums[..., 2:]
        observed = _ratio(squares - units * k, units * (k * (k - 1)))
        shares = _ratio(counts, (units * k)[..., None])
        chance = (shares * shares).sum(axis=-1)
        return _ratio(observed - chance, 1 - chance)


def binary_alphas(patterns: Mapping[Pattern, int]) -> dict[str, float]:
    """Alpha of each category against all else, from the units of a corpus; a label is a tuple of categories."""
    n = 0
    disagreement: defaultdict[str, float] = defaultdict(float)
    yes: Counter[str] = Counter()
    for pattern, weight in patterns.items():
        labels = [label for label in pattern if isinstance(label, tuple)]
        m = len(labels)
        if m < 2:
            continue
        n += weight * m
        for category, given in Counter(name for label in labels for name in label).items():
            disagreement[category] += weight * 2 * given * (m - given) / (m - 1)
            yes[category] += weight * given
    found = {}
    for category, count in yes.items():
        chance = 2 * count * (n - count)
        found[category] = 1 - (n - 1) * disagreement[category] / chance if chance else math.nan
    return found


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0))
