"""What stopping variants early costs a prompt search, and what the correction for the choice's luck is worth.

    python experiments/search_race/run.py [--repeats 200] [--posts 1000] [--rungs 50 200]

Variants with known true scores answer made-up posts; they race as in `task=search` with its default settings. Every
repeat has other variants, posts and answers. No model, no GPU.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from omniner.config import compose
from omniner.config.groups import CompareConfig, SearchConfig
from omniner.guidance.prompt_search import corrected_score, dropped_variants, rank_variants

MENTIONS = 3  # of a post
MEAN = 0.70  # true share of mentions that variants get right, on average
DIFFICULTY = 0.8  # standard deviation of the posts' difficulty, in logits: variants fail on the same posts


class Outcome(NamedTuple):
    """Of one search; shares."""

    lost: float  # true F1 of the best variant minus that of the one that was found
    lost_full: float  # the same where every variant answers everything
    asked: float  # of all answers
    optimism: float  # of the F1 that the search shows
    corrected: float  # the same of the corrected F1
    gain: float  # true F1 that was found minus that of the generic prompt


def answers(shares: NDArray[np.float64], posts: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`[posts, variants, 3]`: tp, fp, fn; an answer that is wrong is both extra and missing."""
    difficulty = generator.normal(0, DIFFICULTY, posts)[:, None]
    right = generator.binomial(MENTIONS, 1 / (1 + np.exp(difficulty - np.log(shares / (1 - shares)))))
    return np.stack([right, MENTIONS - right, MENTIONS - right], axis=-1)


def search(
    table: NDArray[np.int64], true: NDArray[np.float64], sizes: list[int], search: SearchConfig, compare: CompareConfig
) -> Outcome:
    """The race on these answers; the first two variants are the baselines."""
    alive, asked, before = list(range(len(true))), 0, 0
    for size in sizes:
        asked += len(alive) * (size - before)
        before = size
        tables = {f"v{number}": table[:size, number] for number in alive}
        ranked = rank_variants(tables, compare)
        if size != sizes[-1]:
            gone = dropped_variants(ranked, ("v0", "v1"), search.keep, search.spare)
            alive = [number for number in alive if f"v{number}" not in gone]
    name = next(iter(ranked))
    found, full = int(name[1:]), int(table[:, :, 0].sum(axis=0).argmax())
    corrected = corrected_score(tables, compare)
    assert corrected is not None
    return Outcome(
        lost=true.max() - true[found],
        lost_full=true.max() - true[full],
        asked=asked / table[:, :, 0].size,
        optimism=ranked[name].f1 - true[found],
        corrected=corrected.f1 - true[found],
        gain=true[found] - true[0],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--posts", type=int, default=1000)
    parser.add_argument("--rungs", type=int, nargs="*", default=[50, 200])
    given = parser.parse_args()
    config = compose.load(["compare.resamples=300"])
    print("variants  spread  lost  lost by full grid  answers  optimism  corrected  gain over generic")
    start = time.perf_counter()
    for variants, spread in ((12, 0.01), (12, 0.03), (32, 0.01), (32, 0.03)):
        found = []
        for seed in range(given.repeats):
            generator = np.random.default_rng(seed)
            shares = np.clip(generator.normal(MEAN, spread, variants), 0.05, 0.95)
            large = np.random.default_rng(seed).normal(0, DIFFICULTY, 20_000)[:, None]
            true = (1 / (1 + np.exp(large - np.log(shares / (1 - shares))))).mean(axis=0)
            table = answers(shares, given.posts, generator)
            found.append(search(table, true, [*given.rungs, given.posts], config.search, config.compare))
        row = 100 * np.mean(found, axis=0)
        print(
            f"{variants:>8} {100 * spread:>7.0f} {row[0]:>5.2f} {row[1]:>18.2f} {row[2]:>7.0f}% {row[3]:>+9.2f} "
            f"{row[4]:>+10.2f} {row[5]:>+18.2f}"
        )
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
