"""Who goes on in a prompt search, against slow twins; and that the choice's luck is taken off."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers import made_up

from omniner.config.groups import CompareConfig
from omniner.guidance import prompt_search
from omniner.guidance.prompt_search import VariantScore
from omniner.scoring.resampling import post_numbers

Tables = dict[str, NDArray[np.int64]]


def settings(**changes: Any) -> CompareConfig:
    values: dict[str, Any] = {
        "resamples": 300, "permutations": 10, "confidence": 0.9, "alpha": 0.05, "seed": 3, "examples": 0,
    }  # fmt: skip
    return CompareConfig(**{**values, **changes})


def tables(*rights: float, posts: int = 40, seed: int = 0) -> Tables:
    """Variants `v0`, `v1`, ... that get such shares of three entities a post right."""
    rng = np.random.default_rng(seed)
    found = {}
    for number, share in enumerate(rights):
        tp = rng.binomial(3, share, posts)
        found[f"v{number}"] = np.stack([tp, rng.binomial(2, 1 - share, posts), 3 - tp], axis=1)
    return found


def slow_f1(rows: list[Any]) -> float:
    tp, fp, fn = (sum(int(row[k]) for row in rows) for k in range(3))
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


def draws(given: Tables, stream: int, config: CompareConfig) -> list[list[int]]:
    """The posts of each draw."""
    generator = np.random.default_rng(np.random.SeedSequence([config.seed, stream]))
    count = len(next(iter(given.values())))
    return [generator.integers(0, count, count).tolist() for _ in range(config.resamples)]


def test_standings_are_those_of_a_slow_twin() -> None:
    config, given = settings(), tables(0.5, 0.9, 0.6, 0.9)
    given["v4"] = given["v1"]  # equally good, later
    given["nothing"] = np.zeros((40, 3), dtype=np.int64)
    ranked = prompt_search.rank_variants(given, config)
    observed = {name: slow_f1(list(table)) for name, table in given.items()}
    assert list(ranked) == sorted(given, key=lambda name: -observed[name])
    best = next(iter(ranked))
    drawn = draws(given, prompt_search._STREAM, config)
    for name, row in ranked.items():
        values = [slow_f1([given[name][post] for post in posts]) for posts in drawn]
        bests = [slow_f1([given[best][post] for post in posts]) for posts in drawn]
        apart = [value - other for value, other in zip(values, bests, strict=True)]
        expected = [observed[name], *np.quantile(values, [0.05, 0.95])]
        expected += [observed[name] - observed[best], *np.quantile(apart, [0.05, 0.95])]
        assert row == pytest.approx(expected, abs=1e-12)
    assert list(ranked).index("v1") < list(ranked).index("v4")
    assert ranked[best][3:] == (0, 0, 0)
    assert ranked["nothing"][:3] == (0, 0, 0)


def test_counts_are_those_of_the_scorer() -> None:
    result = made_up.result(60)
    sentences = list(result.sentences.values())
    numbers = post_numbers(sentences)
    post_of = {sentence.id: number for sentence, number in zip(sentences, numbers, strict=True)}
    table = prompt_search.micro_counts(result.comparison, [post_of[name] for name in result.scored], 1 + max(numbers))
    assert slow_f1(list(table)) == pytest.approx(result.metrics.micro.f1)
    assert table.shape == (1 + max(numbers), 3)


def row(f1: float, high: float) -> VariantScore:
    """A variant whose difference from the best one is at most `high`."""
    return VariantScore(f1, f1 - 0.1, f1 + 0.1, f1 - 1.0, high - 0.2, high)


RANKED = {
    "a": row(1.0, 0.0), "base": row(0.9, 0.1), "b": row(0.8, -0.01), "c": row(0.7, 0.1), "d": row(0.6, 0.1),
    "e": row(0.5, 0.1), "plain": row(0.1, -0.5), "f": row(0.05, -0.5),
}  # fmt: skip


@pytest.mark.parametrize(
    ("keep", "spare", "gone"),
    [
        (0.5, 0, "b d e f"),  # three of six may stay, one of which is surely worse
        (0.5, 1, "b e f"),
        (0.5, 9, "b f"),
        (0.1, 0, "b c d e f"),
        (0.0, 0, "b c d e f"),  # the best one always stays
        (0.99, 0, "b f"),
    ],
)
def test_who_goes(keep: float, spare: int, gone: str) -> None:
    found = prompt_search.dropped_variants(RANKED, ("base", "plain"), keep, spare)
    assert sorted(found) == gone.split()
    for name, why in found.items():
        worse = RANKED[name].difference_high < 0
        assert why.startswith("worse than a") == worse
        assert ("not told apart from a" in why) != worse


def test_the_choice_is_repeated_on_every_draw() -> None:
    config, given = settings(), tables(0.5, 0.55, 0.6, posts=12)
    found = prompt_search.corrected_score(given, config)
    assert found is not None
    values = []
    for posts in draws(given, prompt_search._CHOICE, config):
        inside = {name: slow_f1([table[post] for post in posts]) for name, table in given.items()}
        left = [post for post in range(12) if post not in posts]
        if left:
            best = max(inside, key=lambda name: inside[name])
            values.append(slow_f1([given[best][post] for post in left]))
    assert found == pytest.approx([statistics.fmean(values), *np.quantile(values, [0.05, 0.95])])


def test_a_single_post_leaves_nothing_to_test_on() -> None:
    assert prompt_search.corrected_score(tables(0.5, 0.6, posts=1), settings()) is None


def test_the_best_of_many_equals_is_not_believed() -> None:
    """Twenty prompts that are all the same to the model: their best looks better than it is, by pure luck."""
    config = settings(resamples=100)
    true, apparent, corrected = slow_f1(list(tables(0.5, posts=20000)["v0"])), [], []
    for seed in range(30):
        given = tables(*[0.5] * 20, posts=30, seed=seed)
        apparent.append(next(iter(prompt_search.rank_variants(given, config).values())).f1)
        found = prompt_search.corrected_score(given, config)
        assert found is not None
        corrected.append(found.f1)
    optimism, left = statistics.fmean(apparent) - true, statistics.fmean(corrected) - true
    assert optimism > 0.05
    assert abs(left) < optimism / 4
