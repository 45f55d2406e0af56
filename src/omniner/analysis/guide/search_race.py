"""Which variants of a prompt go on: successive halving that also drops what is surely worse, and what the choice costs.

In go the counts per post of every variant on the same sentences, out come its F1 with an interval, its distance from
the best one with an interval of the same draws (a paired bootstrap over posts), and who goes on. Successive halving
(Karnin et al. 2013, Jamieson and Talwalkar 2016) keeps a share of the variants at every rung, so that most sentences
are spent on the good ones. A variant whose interval lies below 0 goes even within that share, as in a race (Tsamardinos
et al. 2018 drop configurations so); a few that cannot be told apart from the best may stay beyond it.

The best of several is chosen for its luck, too. `without_optimism` repeats the choice on every draw and scores the
chosen one on the posts that the draw left out (the bootstrap bias correction of Tsamardinos et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omniner.analysis.scores.bootstrap import categories, counts_per_post, resampled
from omniner.analysis.scores.metrics import Comparison
from omniner.schema import CompareConfig

_STREAM, _CHOICE = 0x5EA2C4, 0xC401CE  # keep the draws apart from other uses of the seed
_CHUNK = 64  # draws at a time: 64 x 20,000 posts x 8 bytes x 2 = 20 MB


class Standing(NamedTuple):
    """Micro F1 of a variant and its difference from the best one's, each with its interval."""

    f1: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


class Corrected(NamedTuple):
    """The F1 of a best variant on sentences that did not choose it, with its interval."""

    f1: float
    low: float
    high: float


def micro(comparison: Comparison, posts: Sequence[int], count: int) -> NDArray[np.int64]:
    """`[posts, 3]`: tp, fp and fn over all categories; see `bootstrap.counts_per_post`."""
    table: NDArray[np.int64] = counts_per_post(comparison, posts, count, categories([comparison])).sum(axis=2)
    return table


def standings(tables: Mapping[str, NDArray[np.int64]], settings: CompareConfig) -> dict[str, Standing]:
    """All variants, the best first; equally good ones in the order in which they are given.

    Args:
        tables: `[posts, 3]` of each variant, the same posts for all.
        settings: resamples, confidence, seed.
    """
    table = np.stack(list(tables.values()), axis=1)  # [posts, variants, 3]
    observed = _f1(table.sum(axis=0))
    best = int(observed.argmax())
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _STREAM]))
    drawn = np.concatenate([_f1(sums) for sums in resampled(table, settings.resamples, generator)])
    tail = (1 - settings.confidence) / 2
    ranges = np.quantile(drawn, [tail, 1 - tail], axis=0)
    behind = np.quantile(drawn - drawn[:, [best]], [tail, 1 - tail], axis=0)
    columns = (observed, *ranges, observed - observed[best], *behind)
    rows = {name: Standing(*map(float, row)) for name, *row in zip(tables, *columns, strict=True)}
    return dict(sorted(rows.items(), key=lambda item: -item[1].f1))


def stopped(ranked: Mapping[str, Standing], always: Collection[str], keep: float, spare: int) -> dict[str, str]:
    """The variants that do not go on, and why.

    Args:
        ranked: what `standings` gave.
        always: those that go on whatever they score; they take no place from the others.
        keep: share of the others that goes on, rounded up.
        spare: how many beyond that share may go on because their interval reaches 0.
    """
    best = next(iter(ranked))
    others = [name for name in ranked if name not in always]
    places = math.ceil(keep * len(others)) or 1
    reasons: dict[str, str] = {}
    for place, name in enumerate(others):
        if ranked[name].difference_high < 0:
            reasons[name] = f"worse than {best}"
        elif place >= places + spare:
            reasons[name] = f"not among the best {places} of {len(others)}; not told apart from {best}"
    return reasons


def without_optimism(tables: Mapping[str, NDArray[np.int64]], settings: CompareConfig) -> Corrected | None:
    """What the best of these variants scores on posts that did not choose it; None where there are too few posts.

    Args:
        tables: `[posts, 3]` of each variant, in the order in which equally good ones are preferred.
        settings: resamples, confidence, seed.
    """
    table = np.stack(list(tables.values()), axis=1)  # [posts, variants, 3]
    posts = len(table)
    flat = table.reshape(posts, -1).astype(np.float64)
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _CHOICE]))
    parts = []
    for done in range(0, settings.resamples, _CHUNK):
        weights = np.empty((min(_CHUNK, settings.resamples - done), posts))
        for row in weights:
            row[:] = np.bincount(generator.integers(0, posts, posts), minlength=posts)
        left = (weights == 0).astype(np.float64)
        inside, outside = (_f1((part @ flat).reshape(-1, *table.shape[1:])) for part in (weights, left))
        chosen = np.take_along_axis(outside, inside.argmax(axis=1)[:, None], axis=1)[:, 0]
        parts.append(chosen[left.any(axis=1)])  # a draw may leave out no post
    found = np.concatenate(parts)
    if not len(found):
        return None
    tail = (1 - settings.confidence) / 2
    return Corrected(float(found.mean()), *map(float, np.quantile(found, [tail, 1 - tail])))


def _f1(sums: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """From `[..., 3]`; 0 where there is nothing."""
    tp, wrong = sums[..., 0], sums[..., 1] + sums[..., 2]
    below = 2 * tp + wrong
    return np.divide(2 * tp, below, out=np.zeros(below.shape), where=below > 0)
