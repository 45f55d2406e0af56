"""Is the difference between two runs more than chance? Two paired tests over posts, and Holm's correction.

In go the counts per post of two runs on the same sentences (`bootstrap.counts_per_post`), out comes a `Significance`:
the difference of micro P/R/F1, macro F1 and the F1 of each category, with an interval and p-values.

- Approximate randomisation: were the runs interchangeable, each post's two answers could have been exchanged. The
  p-value is the share of random exchanges with a difference at least as large as the observed one.
- Paired bootstrap: posts are drawn again, the same for both runs. The differences of the draws give the interval;
  their distances from the observed difference, as if that were the centre of nothing but chance, the p-value.

Both count one more draw, the observed one, so that no p-value is 0. Exchanging a post is adding its difference of
counts to one sum and taking it from the other, so all exchanges of a chunk are one matrix product, and a post in which
the runs agree is left out of it. 10,000 exchanges of 19,557 sentences with 90 categories take a few seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omniner.analysis.scores.bootstrap import FIGURES, exact, resampled, scores
from omniner.schema import CompareConfig

_CHUNK = 256  # exchanges at a time: 256 x 20,000 posts x 4 bytes = 20 MB
_BOOTSTRAP, _EXCHANGE = 0xB0075, 0x5AAB  # keep the draws of the tests apart
_TIE = 1e-12  # differences this close are equal: sums of fractions in another order are


class Difference(NamedTuple):
    """A figure of two runs: `difference` is `value` - `baseline`, `low` to `high` its confidence interval."""

    baseline: float
    value: float
    difference: float
    low: float
    high: float
    p_randomisation: float
    p_bootstrap: float


@dataclass(frozen=True, slots=True)
class Significance:
    """All differences of one run from the baseline."""

    figures: Mapping[str, Difference]  # by the names of `bootstrap.FIGURES`
    categories: Mapping[str, Difference]  # F1, in name order
    corrected: Mapping[str, float]  # category -> p_randomisation by Holm over all categories


def paired(
    baseline: NDArray[np.int64], other: NDArray[np.int64], categories: Sequence[str], settings: CompareConfig
) -> Significance:
    """Test every difference between two runs.

    The draws depend on the seed and the two runs alone, not on further runs that are compared.

    Args:
        baseline: `[posts, 3, categories]`: tp, fp and fn of one run.
        other: the same of the other run, on the same posts.
        categories: their names.
        settings: draws, confidence, seed.
    """
    values = [scores(run.sum(axis=0, dtype=np.float64)[None])[0] for run in (baseline, other)]
    observed = values[1] - values[0]  # [4 + categories]
    drawn = np.concatenate(list(_bootstrap(baseline, other, settings)))
    exchanged = np.concatenate(list(_exchange(baseline, other, settings)))
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    columns = (*values, observed, low, high, _p(exchanged, observed), _p(drawn - observed, observed))
    rows = [Difference(*map(float, row)) for row in zip(*columns, strict=True)]
    by_category = dict(zip(categories, rows[len(FIGURES) :], strict=True))
    corrected = holm([row.p_randomisation for row in by_category.values()])
    return Significance(
        figures=dict(zip(FIGURES, rows, strict=False)),
        categories=by_category,
        corrected=dict(zip(by_category, corrected, strict=True)),
    )


def holm(values: Sequence[float]) -> list[float]:
    """p-values of one family, corrected by Holm's step-down method: the chance of any false alarm stays below alpha."""
    corrected, so_far = [0.0] * len(values), 0.0
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = so_far
    return corrected


def least_p(permutations: int, family: int) -> float:
    """The smallest corrected p-value that so many permutations can give in a family of so many tests."""
    return min(1.0, family / (permutations + 1))


def _bootstrap(
    baseline: NDArray[np.int64], other: NDArray[np.int64], settings: CompareConfig
) -> Iterator[NDArray[np.float64]]:
    """Differences `[some draws, 4 + categories]`, both runs on the same draws."""
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _BOOTSTRAP]))
    both = np.stack([baseline, other], axis=1)  # [posts, 2, 3, categories]
    for sums in resampled(both, settings.resamples, generator):
        yield scores(sums[:, 1]) - scores(sums[:, 0])


def _exchange(
    baseline: NDArray[np.int64], other: NDArray[np.int64], settings: CompareConfig
) -> Iterator[NDArray[np.float64]]:
    """Differences `[some exchanges, 4 + categories]`; each post is exchanged with probability 1/2."""
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _EXCHANGE]))
    shape = baseline.shape[1:]
    moves = (other - baseline).reshape(len(baseline), -1)
    moves = moves[moves.any(axis=1)]  # [posts that differ, 3 * categories]
    sums = [run.sum(axis=0, dtype=np.float64) for run in (baseline, other)]  # 2 x [3, categories]
    weights = exact(moves, int(np.abs(moves).sum(axis=0).max(initial=0)))
    for done in range(0, settings.permutations, _CHUNK):
        draws = min(_CHUNK, settings.permutations - done)
        bits = np.frombuffer(generator.bytes(draws * ((len(moves) + 7) // 8)), dtype=np.uint8).reshape(draws, -1)
        chosen = np.unpackbits(bits, axis=1, count=len(moves)).astype(weights.dtype)  # [draws, posts]
        moved = (chosen @ weights).astype(np.float64).reshape(draws, *shape)
        yield scores(sums[1] - moved) - scores(sums[0] + moved)


def _p(differences: NDArray[np.float64], observed: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of draws `[draws, figures]` at least as far from 0 as what was observed, itself among them."""
    extreme = np.abs(differences) >= np.abs(observed) - _TIE
    return np.asarray((1 + extreme.sum(axis=0)) / (1 + len(differences)), dtype=np.float64)
