"""Estimate how certain scores are: confidence intervals, and paired tests of the difference between two runs.

Posts are the unit of all draws: sentences of one post share its topic and its author, so they are not independent.
(Without posts, sentences are drawn.) Runs are given as counts per post and category (`counts_per_post`), so that all
draws of a chunk are one matrix product.

- Bootstrap intervals (`bootstrap_intervals`): posts are drawn with replacement; percentiles of the scores over the
  draws give the interval. About 0.1 ms per draw for 19,557 sentences in posts of 1 to 5.
- Approximate randomisation (`paired_tests`): if the runs were interchangeable, the two answers to each post could have
  been exchanged. The p-value is the share of random exchanges with a difference at least as large as the observed one.
  Exchanging a post adds its difference of counts to one sum and subtracts it from the other; posts on which the runs
  agree are left out. 10,000 exchanges of 19,557 sentences with 90 categories take a few seconds.
- Paired bootstrap (`paired_tests`): posts are drawn again, the same for both runs. The differences of the draws give
  the interval. For the p-value the draws are centred at 0 (null hypothesis): it is the share at least as far from 0 as
  the observed difference.

Both tests count the observed difference as one more draw, so that no p-value is 0. `holm` corrects the p-values of a
family.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omniner.config.groups import CompareConfig
from omniner.progress import Progress
from omniner.records import Sentence, post_key
from omniner.scoring.metrics import Interval
from omniner.scoring.units import Comparison

SCORE_NAMES = ("micro.precision", "micro.recall", "micro.f1", "macro.f1")

_DRAWS_AT_A_TIME = 64  # draws at a time: 64 x 20,000 posts x 4 bytes = 5 MB
_STREAM = 0xB007  # separates these draws from other uses of the same seed

_EXCHANGES_AT_A_TIME = 256  # exchanges at a time: 256 x 20,000 posts x 4 bytes = 20 MB
_BOOTSTRAP, _EXCHANGE = 0xB0075, 0x5AAB  # separate the draws of the two tests
_TIE = 1e-12  # differences this close are equal: the order of a sum of fractions changes it this much


def bootstrap_intervals(
    comparisons: Sequence[Comparison], posts: Sequence[int], draws: int, confidence: float, seed: int
) -> list[dict[str, Interval]]:
    """Compute percentile intervals of the scores in `SCORE_NAMES`; none without sentences or draws.

    Args:
        comparisons: of the scored sentences, one per unit; all use the same draws.
        posts: the number of each sentence's post, 0 .. posts - 1.
        draws: number of resamples.
        confidence: share of them inside the interval, e.g. 0.95.
        seed: any non-negative integer.

    Returns:
        The intervals of each comparison.
    """
    if not draws or not len(posts):
        return [{} for _ in comparisons]
    names, count = counted_categories(comparisons), 1 + max(posts)
    first, *others = [counts_per_post(comparison, posts, count, names) for comparison in comparisons]
    # Units differ in few posts: adding their changes to the sums of the first is faster than computing all sums again.
    changes = [(np.flatnonzero((other != first).any(axis=(1, 2))), other - first) for other in others]
    tables = [(np.arange(count), first), *changes]
    generator = np.random.default_rng(np.random.SeedSequence([seed, _STREAM]))
    samples: list[list[NDArray[np.float64]]] = [[] for _ in comparisons]
    counts = [(rows, _flat_floats(table[rows], count)) for rows, table in tables]
    for weights in drawn_weights(count, draws, generator):
        base = (weights @ counts[0][1]).astype(np.float64)
        for place, (rows, change) in enumerate(counts):
            sums = base + weights[:, rows] @ change if place else base
            scores = scores_of_counts(sums.reshape(len(weights), *first.shape[1:]))
            samples[place].append(scores[:, : len(SCORE_NAMES)])
    found = []
    for parts in samples:
        low, high = bounds(np.concatenate(parts), confidence)
        found.append({name: Interval(float(low[k]), float(high[k])) for k, name in enumerate(SCORE_NAMES)})
    return found


def bounds(draws: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    """Compute the percentile interval of each figure, `[2, ...]`: its lower and its upper bound.

    Args:
        draws: `[draws, ...]` of the figures.
        confidence: share of the draws inside the interval, e.g. 0.95.
    """
    tail = (1 - confidence) / 2
    return np.quantile(draws, [tail, 1 - tail], axis=0)


def post_numbers(sentences: Sequence[Sentence]) -> list[int]:
    """Number the posts of the sentences from 0; a sentence without a post counts as its own post."""
    number: dict[tuple[bool, str], int] = {}
    return [number.setdefault(post_key(sentence), len(number)) for sentence in sentences]


def counted_categories(comparisons: Iterable[Comparison]) -> list[str]:
    """Return every category that was counted, in name order."""
    return sorted({name for c in comparisons for names in (c.right, c.missing, c.extra) for name in names})


def counts_per_post(
    comparison: Comparison, posts: Sequence[int], count: int, names: Sequence[str]
) -> NDArray[np.int32]:
    """Count tp, fp and fn by post and category: `[posts, 3, categories]`, nearly all 0 where posts are sentences.

    Args:
        comparison: the scored sentences.
        posts: the number of each sentence's post, 0 .. `count` - 1.
        count: number of posts, including those without a scored sentence.
        names: the categories, including all that were counted.
    """
    number = {name: place for place, name in enumerate(names)}
    size, of = len(names), np.asarray(posts, dtype=np.int64)
    where = np.arange(len(of))
    wrong = np.array([one.sentence for one in comparison.sentence_errors], dtype=np.int64)
    sides = (
        (comparison.right, np.repeat(where, comparison.right_counts)),
        (comparison.extra, np.repeat(wrong, [len(one.extra) for one in comparison.sentence_errors])),
        (comparison.missing, np.repeat(wrong, [len(one.missing) for one in comparison.sentence_errors])),
    )
    cells = [
        (of[sentence] * 3 + kind) * size + np.fromiter(map(number.__getitem__, found), np.int64, len(found))
        for kind, (found, sentence) in enumerate(sides)
    ]
    table = np.zeros(count * 3 * size, np.int32)
    places, times = np.unique(np.concatenate(cells), return_counts=True)
    table[places] = times
    return table.reshape(count, 3, size)


def exact_floats(table: NDArray[np.integer], most: int) -> NDArray[np.float32 | np.float64]:
    """Convert to floats in which no sum up to `most` is rounded: float32 holds integers up to 2**24."""
    return table.astype(np.float32 if most < 2**24 else np.float64)


def resampled_counts(
    table: NDArray[np.integer], draws: int, generator: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Draw as many posts as there are, with replacement, and sum their counts: `[some draws, ...]` at a time.

    Args:
        table: `[posts, ...]` of counts.
        draws: number of draws.
        generator: source of the random numbers.
    """
    count = len(table)
    counts = _flat_floats(table, count)
    for weights in drawn_weights(count, draws, generator):
        yield (weights.astype(counts.dtype) @ counts).reshape(len(weights), *table.shape[1:]).astype(np.float64)


def _flat_floats(table: NDArray[np.integer], times: int) -> NDArray[np.float32 | np.float64]:
    """Flatten to `[posts, rest]`, in floats that hold every sum of `times` posts exactly."""
    flat = table.reshape(len(table), int(np.prod(table.shape[1:])))
    # In the worst case a draw consists of the largest post only.
    return exact_floats(flat, int(np.abs(flat).sum(axis=1).max(initial=0)) * times)


def drawn_weights(count: int, draws: int, generator: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """Yield `[some draws, posts]`: how often each post was drawn, with replacement, in draws of `count` posts.

    Args:
        count: number of posts.
        draws: number of draws.
        generator: source of the random numbers.
    """
    for done in range(0, draws, _DRAWS_AT_A_TIME):
        weights = np.empty((min(_DRAWS_AT_A_TIME, draws - done), count), dtype=np.float32)
        for row in weights:
            row[:] = np.bincount(generator.integers(0, count, count), minlength=count)
        yield weights


def scores_of_counts(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute `[draws, 4 + categories]` from sums `[draws, 3, categories]`: `SCORE_NAMES`, then F1 by category."""
    tp, fp, fn = sums[:, 0], sums[:, 1], sums[:, 2]
    f1 = _ratio(2 * tp, 2 * tp + fp + fn)
    in_gold = tp + fn > 0
    macro = _ratio((f1 * in_gold).sum(axis=1), in_gold.sum(axis=1))
    tp, fp, fn = tp.sum(axis=1), fp.sum(axis=1), fn.sum(axis=1)
    micro = _ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(2 * tp, 2 * tp + fp + fn)
    return np.column_stack([*micro, macro, f1])


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)


class Difference(NamedTuple):
    """A score of two runs; `difference` is `value` - `baseline`, and `low` to `high` is its confidence interval."""

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

    figures: Mapping[str, Difference]  # by `SCORE_NAMES`
    categories: Mapping[str, Difference]  # F1, in name order
    corrected: Mapping[str, float]  # category -> p_randomisation, Holm-corrected over the categories in gold
    family: int  # number of categories in gold


def paired_tests(
    baseline: NDArray[np.integer],
    other: NDArray[np.integer],
    categories: Sequence[str],
    settings: CompareConfig,
    what: str = "draws",
) -> Significance:
    """Test every difference between two runs, with progress: it takes long for many sentences.

    The draws depend only on the seed and these two runs, not on other runs that are compared.

    Args:
        baseline: `[posts, 3, categories]`: tp, fp and fn of one run.
        other: the same of the other run, on the same posts.
        categories: their names.
        settings: draws, confidence, seed.
        what: the draws are called in messages.
    """
    progress = Progress(what, settings.resamples + settings.permutations)
    values = [scores_of_counts(run.sum(axis=0, dtype=np.float64)[None])[0] for run in (baseline, other)]
    observed = values[1] - values[0]  # [4 + categories]
    drawn = _counting(_bootstrap(baseline, other, settings), progress)
    exchanged = _counting(_exchange(baseline, other, settings), progress)
    low, high = bounds(drawn, settings.confidence)
    columns = (*values, observed, low, high, _p(exchanged, observed), _p(drawn - observed, observed))
    rows = [Difference(*map(float, row)) for row in zip(*columns, strict=True)]
    by_category = dict(zip(categories, rows[len(SCORE_NAMES) :], strict=True))
    # A category that is not in gold has no true positive in any draw: its F1 cannot differ, so nothing is tested.
    in_gold = (baseline + other)[:, [0, 2]].sum(axis=(0, 1)).tolist()
    family = [name for name, count in zip(categories, in_gold, strict=True) if count]
    corrected = dict(zip(family, holm([by_category[name].p_randomisation for name in family]), strict=True))
    return Significance(
        figures=dict(zip(SCORE_NAMES, rows, strict=False)),
        categories=by_category,
        corrected={name: corrected.get(name, 1.0) for name in categories},
        family=len(family),
    )


def _counting(parts: Iterator[NDArray[np.float64]], progress: Progress) -> NDArray[np.float64]:
    """All draws `[draws, figures]`, counted as they come."""
    found = []
    for part in parts:
        found.append(part)
        progress.add(len(part))
    return np.concatenate(found)


def holm(values: Sequence[float]) -> list[float]:
    """Correct the p-values of one family by Holm's step-down method, which bounds the chance of any false positive."""
    corrected, so_far = [0.0] * len(values), 0.0
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = so_far
    return corrected


def smallest_p(permutations: int, family: int) -> float:
    """Return the smallest corrected p-value that this many permutations can give in a family of this many tests."""
    return min(1.0, family / (permutations + 1))


def _bootstrap(
    baseline: NDArray[np.integer], other: NDArray[np.integer], settings: CompareConfig
) -> Iterator[NDArray[np.float64]]:
    """Yield differences `[some draws, 4 + categories]`, with the same draws for both runs."""
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _BOOTSTRAP]))
    count, shape = len(baseline), baseline.shape[1:]
    # one after the other: a table of both would be the largest thing in memory
    runs = [_flat_floats(run, count) for run in (baseline, other)]
    for weights in drawn_weights(count, settings.resamples, generator):
        sums = ((weights.astype(run.dtype) @ run).astype(np.float64) for run in runs)
        before, after = (summed.reshape(len(weights), *shape) for summed in sums)
        yield scores_of_counts(after) - scores_of_counts(before)


def _exchange(
    baseline: NDArray[np.integer], other: NDArray[np.integer], settings: CompareConfig
) -> Iterator[NDArray[np.float64]]:
    """Yield differences `[some exchanges, 4 + categories]`; each post is exchanged with probability 1/2."""
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _EXCHANGE]))
    shape = baseline.shape[1:]
    moves = (other - baseline).reshape(len(baseline), -1)
    moves = moves[moves.any(axis=1)]  # [posts that differ, 3 * categories]
    sums = [run.sum(axis=0, dtype=np.float64) for run in (baseline, other)]  # 2 x [3, categories]
    weights = exact_floats(moves, int(np.abs(moves).sum(axis=0).max(initial=0)))
    for done in range(0, settings.permutations, _EXCHANGES_AT_A_TIME):
        draws = min(_EXCHANGES_AT_A_TIME, settings.permutations - done)
        bits = np.frombuffer(generator.bytes(draws * ((len(moves) + 7) // 8)), dtype=np.uint8).reshape(draws, -1)
        chosen = np.unpackbits(bits, axis=1, count=len(moves)).astype(weights.dtype)  # [draws, posts]
        moved = (chosen @ weights).astype(np.float64).reshape(draws, *shape)
        yield scores_of_counts(sums[1] - moved) - scores_of_counts(sums[0] + moved)


def _p(differences: NDArray[np.float64], observed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of draws `[draws, figures]` at least as far from 0 as the observed value, which counts as a
    draw.
    """
    extreme = np.abs(differences) >= np.abs(observed) - _TIE
    return np.asarray((1 + extreme.sum(axis=0)) / (1 + len(differences)), dtype=np.float64)
