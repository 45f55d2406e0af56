"""The figures of an agreement with their intervals: coefficients and F1 of pairs, from counts by post.

In go tallies of units and a table of pair counts, out comes every figure with a percentile interval over draws of
posts. A draw is a vector of weights, the same for all figures, so a chunk of draws is a matrix product with the counts.
Price: 10 s of CPU for 1,000 draws of 65,000 posts of three annotators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omniner.analysis.people.coefficients import Cells, Tally
from omniner.schema import AgreementConfig

Formula = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # sums [..., columns] -> values [...]

F1_KINDS = ("strict", "boundary", "relaxed")

_STREAM = 0xA62E  # keeps these draws apart from other uses of the same seed
_CHUNK = 64  # draws at a time: 64 x 65,000 posts x 8 bytes = 33 MB
_COLUMNS = {"strict": (0, 1, 2), "boundary": (3, 4, 5), "relaxed": (6, 7, 1, 2)}


class Figure(NamedTuple):
    """A figure with the bounds of its interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


def figures(
    names: Sequence[str],
    posts: int,
    characters: Tally,
    spans: Tally,
    pairs: NDArray[np.int64],
    settings: AgreementConfig,
) -> dict[str, Figure]:
    """Every figure with its interval; all see the same draws of posts."""
    draws = partial(_weights, posts, settings)
    alpha, kappa = characters.tables(posts)
    parts: list[tuple[Cells, str, Formula]] = [
        (alpha, "alpha.characters", characters.alpha),
        (spans.tables(posts)[0], "alpha.spans", spans.alpha),
        (kappa, "kappa.characters", characters.kappa),
    ]
    found = {}
    for cells, name, formula in parts:
        drawn = [formula(sums) for sums in cells.drawn(draws())]
        found[name] = _figure(float(formula(cells.total())), drawn, settings)
    formulas: dict[str, Formula] = {f"f1.{kind}": partial(_mean_f1, kind=kind) for kind in F1_KINDS}
    for index, (one, other) in enumerate(combinations(names, 2)):
        formulas |= {f"f1.{kind}.{one}.{other}": partial(_pair_f1, pair=index, kind=kind) for kind in F1_KINDS}
    counts = pairs.reshape(posts, -1).astype(np.float64)
    sums = [(weights @ counts).reshape(-1, *pairs.shape[1:]) for weights in draws()]
    total = counts.sum(axis=0).reshape(pairs.shape[1:])
    for name, formula in formulas.items():
        found[name] = _figure(float(formula(total)), [formula(some) for some in sums], settings)
    return found


def _weights(posts: int, settings: AgreementConfig) -> Iterator[NDArray[np.float64]]:
    """`[some draws, posts]`: how often each post was drawn, with replacement, as many as there are."""
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _STREAM]))
    for done in range(0, settings.bootstrap, _CHUNK):
        weights = np.empty((min(_CHUNK, settings.bootstrap - done), posts))
        for row in weights:
            row[:] = np.bincount(generator.integers(0, posts, posts), minlength=posts)
        yield weights


def _figure(value: float, drawn: Sequence[NDArray[np.float64]], settings: AgreementConfig) -> Figure:
    """The value with the interval that its draws give; draws in which it is undefined are left out."""
    samples = np.concatenate([*map(np.atleast_1d, drawn), np.empty(0)])
    samples = samples[~np.isnan(samples)]
    if math.isnan(value) or not len(samples):
        return Figure(value, math.nan, math.nan)
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Figure(value, float(low), float(high))


def pair_f1(sums: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """`[...]` of F1 from sums `[..., 8]`; NaN where neither marked anything."""
    if kind == "relaxed":
        ours, theirs, one, other = (sums[..., place] for place in _COLUMNS[kind])
        recall, precision = _share(ours, one), _share(theirs, other)
        both = precision + recall
        f1 = np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)
        return np.where(one + other > 0, f1, math.nan)
    same, one, other = (sums[..., place] for place in _COLUMNS[kind])
    return np.where(one + other > 0, 2 * same / np.maximum(one + other, 1), math.nan)


def _mean_f1(sums: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """`[...]`: the mean of the pairs, from sums `[..., pairs, 8]`.

    Pairs without F1 are left out: they share no sentence, as where annotators take turns, or neither marked anything in
    what they share. NaN where that is all of them.
    """
    found = pair_f1(sums, kind)
    known = ~np.isnan(found)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, found, 0.0).sum(axis=-1) / np.maximum(count, 1), math.nan)


def _pair_f1(sums: NDArray[np.float64], pair: int, kind: str) -> NDArray[np.float64]:
    return pair_f1(sums[..., pair, :], kind)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return part / np.maximum(whole, 1)
