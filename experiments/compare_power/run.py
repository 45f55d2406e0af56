"""Do the tests of `task=compare` find a planted gain, and how often do they find one where there is none?

    python experiments/compare_power/run.py [--repeats 200] [--sentences 2000] [--speed]

Everything is generated: sentences of the packaged corpus in their posts, and two runs of known quality. Each entity is
what it is in the other run, but for a share that is drawn anew in each run; the second run's draws are better by what
makes its expected F1 higher by `--gain`, or by nothing. Wrong is missed or called something else, half each. How good a
run is in a post varies (a Beta distribution), as topics do, so that errors come in clusters.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from omniner.config.groups import CompareConfig
from omniner.corpus.sample import generate_sample
from omniner.records import Entity, Sentence
from omniner.scoring.resampling import Difference, counted_categories, counts_per_post, paired_tests, post_numbers
from omniner.scoring.units import Comparison, compare_units

ALPHA = 0.05
F1 = 0.75  # of the first run
VARIETY = 4.0  # a + b of the Beta distribution of a post's quality: the smaller, the more posts differ
REDRAWN = (0.1, 0.2, 0.4)  # shares of entities that are drawn anew in each run

Outcomes = list[list[int]]  # 0 right, 1 missed, 2 called something else; for each entity of each sentence


def quality(f1: float) -> float:
    """The probability of a right entity that gives this F1: with q right and half of the rest called something else,
    F1 = 2q / (2q + 1.5 (1 - q))."""
    return 1.5 * f1 / (2 - 0.5 * f1)


def outcomes(sentences: Sequence[Sentence], posts: Sequence[int], right: float, draw: random.Random) -> Outcomes:
    in_post = [draw.betavariate(right * VARIETY, (1 - right) * VARIETY) for _ in range(1 + max(posts))]
    return [
        [0 if draw.random() < in_post[post] else draw.choice((1, 2)) for _ in sentence.entities]
        for sentence, post in zip(sentences, posts, strict=True)
    ]


def mixed(shared: Outcomes, own: Outcomes, redrawn: list[list[bool]]) -> Outcomes:
    return [
        [new if again else old for old, new, again in zip(*row, strict=True)]
        for row in zip(shared, own, redrawn, strict=True)
    ]


def said(sentences: Sequence[Sentence], found: Outcomes, names: Sequence[str]) -> list[list[Entity]]:
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    return [
        [
            e if o == 0 else e._replace(category=following[e.category])
            for e, o in zip(s.entities, row, strict=True)
            if o != 1
        ]
        for s, row in zip(sentences, found, strict=True)
    ]


def two_runs(
    sentences: Sequence[Sentence], posts: Sequence[int], redrawn: float, gain: float, seed: int
) -> tuple[Comparison, Comparison, float]:
    """Both runs against gold, and the share of entities that only one of them has right."""
    draw = random.Random(seed)
    names = sorted({e.category for s in sentences for e in s.entities})
    low = quality(F1)
    better = low + (quality(F1 + gain) - low) / redrawn
    again = [[draw.random() < redrawn for _ in s.entities] for s in sentences]
    shared = outcomes(sentences, posts, low, draw)
    runs = [mixed(shared, outcomes(sentences, posts, right, draw), again) for right in (low, better)]
    gold = [s.entities for s in sentences]
    pairs = [(a == 0, b == 0) for row in zip(*runs, strict=True) for a, b in zip(*row, strict=True)]
    differ = sum(a != b for a, b in pairs) / len(pairs)
    before, after = (compare_units(gold, said(sentences, run, names), "span") for run in runs)
    return before, after, differ


def micro(before: Comparison, after: Comparison, posts: Sequence[int], settings: CompareConfig) -> Difference:
    """The test of micro F1 alone: categories are added up first, which changes nothing for it and is quicker."""
    names = counted_categories([before, after])
    counts = [counts_per_post(c, posts, 1 + max(posts), names).sum(axis=2, keepdims=True) for c in (before, after)]
    return paired_tests(*counts, ["all"], settings).figures["micro.f1"]


def share(found: Sequence[bool]) -> str:
    """How often, with the exact binomial 95 % interval."""
    count = sum(found)
    low, high = binomtest(count, len(found)).proportion_ci(method="exact")
    return f"{count}/{len(found)} = {count / len(found):.1%} [{low:.1%}, {high:.1%}]"


def power(repeats: int, count: int, gain: float) -> None:
    sentences = generate_sample({"test": count}, 7)["test"]
    posts = post_numbers(sentences)
    alone = list(range(count))
    print(f"{count:,} sentences in {1 + max(posts):,} posts, {sum(len(s.entities) for s in sentences):,} entities")
    print("| redrawn | planted | only one right | mean gain | by | randomisation | bootstrap | interval without 0 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for redrawn in REDRAWN:
        for planted in (0.0, gain):
            rows: dict[str, list[Difference]] = {"posts": [], "sentences": []}
            differ = []
            for repeat in range(repeats):
                settings = CompareConfig(1000, 1000, 0.95, ALPHA, seed=repeat, examples=1)
                before, after, apart = two_runs(sentences, posts, redrawn, planted, seed=repeat)
                differ.append(apart)
                rows["posts"].append(micro(before, after, posts, settings))
                if not planted:
                    rows["sentences"].append(micro(before, after, alone, settings))
            for by, found in rows.items():
                if found:
                    cells = [
                        share([row.p_randomisation < ALPHA for row in found]),
                        share([row.p_bootstrap < ALPHA for row in found]),
                        share([row.low > 0 or row.high < 0 for row in found]),
                    ]
                    mean = 100 * np.mean([row.difference for row in found])
                    head = f"{redrawn:.0%} | {100 * planted:.0f} | {np.mean(differ):.1%} | {mean:+.2f} | {by}"
                    print(f"| {head} | {' | '.join(cells)} |", flush=True)


def speed(count: int) -> None:
    """CPU seconds of both tests with every figure and category, for runs that seldom and that often differ."""
    sentences = generate_sample({"test": count}, 7)["test"]
    posts = post_numbers(sentences)
    print(f"{count:,} sentences in {1 + max(posts):,} posts; also with every sentence as a post of its own")
    print("| redrawn | units | units that differ | 10,000 permutations, CPU s | 10,000 resamples, CPU s |")
    print("| --- | --- | --- | --- | --- |")
    for redrawn in (0.1, 1.0):
        before, after, _ = two_runs(sentences, posts, redrawn, 0.01, seed=1)
        names = counted_categories([before, after])
        for units in (posts, list(range(count))):
            a, b = (counts_per_post(c, units, 1 + max(units), names) for c in (before, after))
            differing = int((a != b).any(axis=(1, 2)).sum())
            seconds = [timed(a, b, names, **draws) for draws in ({"permutations": 10_000}, {"resamples": 10_000})]
            print(f"| {redrawn:.0%} | {len(a):,} | {differing:,} | {seconds[0]:.2f} | {seconds[1]:.2f} |", flush=True)


def timed(a: NDArray[np.int64], b: NDArray[np.int64], names: Sequence[str], **draws: int) -> float:
    start = time.process_time()
    paired_tests(
        a,
        b,
        names,
        CompareConfig(**{"resamples": 1, "permutations": 1, **draws}, confidence=0.95, alpha=ALPHA, seed=0, examples=1),
    )
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--gain", type=float, default=0.01, help="planted difference of F1")
    parser.add_argument("--speed", action="store_true", help="measure speed at 19,557 sentences instead")
    options = parser.parse_args()
    if options.speed:
        speed(19_557)
    else:
        power(options.repeats, options.sentences, options.gain)


if __name__ == "__main__":
    main()
