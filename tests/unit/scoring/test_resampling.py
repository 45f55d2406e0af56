"""The tests of differences: beside SciPy's, beside exchanging and scoring by hand, and on planted differences."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from paired_runs import gold, outcomes, predictions, tables

from omniner.config.groups import CompareConfig
from omniner.records import Entity, Prediction, Sentence
from omniner.scoring import resampling
from omniner.scoring.metrics import evaluate
from omniner.scoring.resampling import SCORE_NAMES, holm, paired_tests, post_numbers, scores_of_counts, smallest_p
from omniner.scoring.units import compare_units

SETTINGS = CompareConfig(resamples=500, permutations=500, confidence=0.95, alpha=0.05, seed=1, examples=5)


def by_hand(sentences: Sequence[Sentence], run: Sequence[Prediction], names: Sequence[str]) -> list[float]:
    """`FIGURES`, then F1 of each category, from the scorer itself."""
    compared = compare_units([s.entities for s in sentences], [p.entities for p in run], "span")
    metrics = evaluate(compared)
    rows = [metrics.categories[name].f1 if name in metrics.categories else 0.0 for name in names]
    return [*metrics.micro[:3], metrics.macro.f1, *rows]


def two_runs(count: int, seed: int, per_post: int = 3) -> tuple[list[Sentence], list[Prediction], list[Prediction]]:
    sentences = gold(count, seed, per_post)
    first = outcomes(sentences, seed + 1, 0.6)
    second = outcomes(sentences, seed + 2, 0.8, first, 0.5)
    return sentences, predictions(sentences, first), predictions(sentences, second)


def test_values_and_differences_are_those_of_the_scorer() -> None:
    sentences, first, second = two_runs(60, 5)
    (a, b), names, _ = tables(sentences, first, second)
    found = paired_tests(a, b, names, SETTINGS)
    ours = [*found.figures.values(), *found.categories.values()]
    before, after = by_hand(sentences, first, names), by_hand(sentences, second, names)
    assert list(found.figures) == list(SCORE_NAMES)
    assert list(found.categories) == names
    assert [row.baseline for row in ours] == pytest.approx(before, abs=1e-12)
    assert [row.value for row in ours] == pytest.approx(after, abs=1e-12)
    assert [row.difference for row in ours] == pytest.approx(np.subtract(after, before), abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exchanges_are_those_of_the_predictions_themselves(seed: int) -> None:
    """All 2^5 ways to exchange five posts, each scored by hand, and no other; about equally often."""
    sentences, first, second = two_runs(15, seed)
    (a, b), names, posts = tables(sentences, first, second)
    expected = []
    for exchanged in itertools.product([False, True], repeat=5):
        sides = [(y, x) if exchanged[post] else (x, y) for x, y, post in zip(first, second, posts, strict=True)]
        scored = [by_hand(sentences, run, names) for run in zip(*sides, strict=True)]
        expected.append(np.subtract(scored[1], scored[0]))
    draws = 6400
    found = np.concatenate(list(resampling._exchange(a, b, dataclasses.replace(SETTINGS, permutations=draws))))
    assert found.shape == (draws, len(SCORE_NAMES) + len(names))
    nearest = np.abs(found[:, None] - np.array(expected)[None]).max(axis=2)  # [draws, ways]
    assert nearest.min(axis=1).max() < 1e-12
    ways = Counter(tuple(np.round(way, 9) + 0.0) for way in expected)
    drawn = Counter(tuple(np.round(way, 9) + 0.0) for way in found)
    assert drawn.keys() == ways.keys()
    for way, count in ways.items():
        share = count / 32
        assert drawn[way] / draws == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / draws))


def test_randomisation_agrees_with_scipy_on_all_exchanges() -> None:
    stats = pytest.importorskip("scipy.stats")
    sentences, first, second = two_runs(27, 8)
    (a, b), names, _ = tables(sentences, first, second)
    rows = np.concatenate([a, b])  # a permutation of a sample is one of two places in here
    posts = np.arange(len(a))

    def difference(x: NDArray[np.int64], y: NDArray[np.int64], figure: int) -> float:
        sums = np.stack([rows[x].sum(axis=0), rows[y].sum(axis=0)]).astype(float)
        values = scores_of_counts(sums)[:, figure]
        return float(values[1] - values[0])

    draws = 20_000
    found = paired_tests(a, b, names, dataclasses.replace(SETTINGS, permutations=draws))
    for place, row in enumerate([*found.figures.values(), *found.categories.values()]):
        exact = stats.permutation_test(
            (posts, posts + len(a)),
            lambda x, y, place=place: difference(x, y, place),
            permutation_type="samples",
            n_resamples=2**9 + 1,
            vectorized=False,
        )
        assert len(exact.null_distribution) == 2**9
        # SciPy doubles the smaller tail, which is the same here: exchanging every post turns the sign.
        error = 5 * np.sqrt(exact.pvalue * (1 - exact.pvalue) / draws) + 2 / draws
        assert row.p_randomisation == pytest.approx(exact.pvalue, abs=error)


def test_bootstrap_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    sentences, first, second = two_runs(120, 8)
    (a, b), names, _ = tables(sentences, first, second)

    def difference(posts: NDArray[np.int64], figure: int) -> float:
        sums = np.stack([a[posts].sum(axis=0), b[posts].sum(axis=0)]).astype(float)
        values = scores_of_counts(sums)[:, figure]
        return float(values[1] - values[0])

    found = paired_tests(a, b, names, dataclasses.replace(SETTINGS, resamples=6000))
    for place, row in enumerate(found.figures.values()):
        theirs = stats.bootstrap(
            (np.arange(len(a)),),
            lambda posts, place=place: difference(posts, place),
            n_resamples=6000,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(3),
        )
        width = theirs.confidence_interval.high - theirs.confidence_interval.low
        assert row.low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
        assert row.high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)
        spread = theirs.bootstrap_distribution - row.difference
        share = (1 + (np.abs(spread) >= abs(row.difference)).sum()) / 6001
        assert row.p_bootstrap == pytest.approx(share, abs=5 * np.sqrt(share / 6000) + 1e-3)


def test_a_run_does_not_differ_from_itself() -> None:
    sentences, first, _ = two_runs(30, 1)
    (a,), names, _ = tables(sentences, first)
    found = paired_tests(a, a, names, SETTINGS)
    for row in (*found.figures.values(), *found.categories.values()):
        assert row[2:] == (0.0, 0.0, 0.0, 1.0, 1.0)
    assert set(found.corrected.values()) == {1.0}


def test_the_seed_decides_and_the_direction_does_not() -> None:
    sentences, first, second = two_runs(90, 4)
    (a, b), names, _ = tables(sentences, first, second)
    found = paired_tests(a, b, names, SETTINGS)
    assert paired_tests(a, b, names, SETTINGS) == found
    assert paired_tests(a, b, names, dataclasses.replace(SETTINGS, seed=2)) != found
    back = paired_tests(b, a, names, SETTINGS)
    for name, row in found.figures.items():
        turned = back.figures[name]
        assert turned.difference == -row.difference
        assert (turned.low, turned.high) == pytest.approx((-row.high, -row.low), abs=1e-12)
        assert (turned.p_randomisation, turned.p_bootstrap) == (row.p_randomisation, row.p_bootstrap)


def test_sentences_of_a_post_stand_and_fall_together() -> None:
    """The same answers, all in one post: exchanging it can only turn the sign, so nothing can be significant."""
    sentences, first, second = two_runs(200, 6)
    apart = paired_tests(*tables(sentences, first, second)[0], tables(sentences, first, second)[1], SETTINGS)
    assert apart.figures["micro.f1"].p_randomisation < 0.01
    for sentence in sentences:
        sentence.post_id = "one"
    together = paired_tests(*tables(sentences, first, second)[0], tables(sentences, first, second)[1], SETTINGS)
    assert together.figures["micro.f1"].difference == apart.figures["micro.f1"].difference
    assert together.figures["micro.f1"].p_randomisation == 1.0


def test_a_sentence_without_a_post_is_one_of_its_own() -> None:
    ids = [("a", None), ("p", None), ("b", "p"), ("c", "p"), ("d", "")]
    assert post_numbers([Sentence(name, "", [], post) for name, post in ids]) == [0, 1, 2, 2, 3]


@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(values: list[float]) -> None:
    """A hypothesis falls only if every group of hypotheses that holds it falls by Bonferroni's test of the group."""
    expected = [
        max(
            min(1.0, len(group) * min(values[k] for k in group))
            for size in range(1, len(values) + 1)
            for group in itertools.combinations(range(len(values)), size)
            if i in group
        )
        for i in range(len(values))
    ]
    assert holm(values) == pytest.approx(expected)


def test_the_smallest_p_value_is_reached_and_not_passed() -> None:
    sentences = gold(400, 3)
    wrong, right = ([[None] * len(s.entities) for s in sentences], [list(s.entities) for s in sentences])
    (a, b), names, _ = tables(sentences, predictions(sentences, wrong), predictions(sentences, right))
    found = paired_tests(a, b, names, SETTINGS)
    assert found.figures["micro.f1"].p_randomisation == 1 / 501
    assert min(found.corrected.values()) == pytest.approx(smallest_p(500, len(names)))


def test_categories_that_only_models_invent_are_no_part_of_the_family() -> None:
    """They have an F1 of 0 in every draw; counted, they would make everyone's p larger."""
    sentences, first, second = two_runs(60, 5)
    invented = Entity("没有", "新", None, None)
    made_up = [dataclasses.replace(one, entities=[*one.entities, invented]) for one in second]
    (a, b), names, _ = tables(sentences, first, second)
    (c, d), more, _ = tables(sentences, first, made_up)
    before, after = paired_tests(a, b, names, SETTINGS), paired_tests(c, d, more, SETTINGS)
    assert set(more) - set(names) == {"新"}
    assert (before.family, after.family) == (len(names), len(names))
    corrected = holm([after.categories[name].p_randomisation for name in names])
    assert after.corrected == {**dict(zip(names, corrected, strict=True)), "新": 1.0}


def test_planted_differences() -> None:
    """One point of F1 on 2,000 sentences is found where runs mostly agree; none is not."""
    sentences = gold(2000, 11)
    first = outcomes(sentences, 12, 0.75)
    settings = dataclasses.replace(SETTINGS, permutations=2000)
    p = {}
    for name, right in (("better", 0.85), ("as good", 0.75)):  # of the tenth of entities that is not as before
        second = outcomes(sentences, 13, right, first, 0.9)
        (a, b), names, _ = tables(sentences, predictions(sentences, first), predictions(sentences, second))
        found = paired_tests(a, b, names, settings).figures["micro.f1"]
        p[name] = (found.difference, found.p_randomisation, found.p_bootstrap)
    assert p["better"][0] == pytest.approx(0.01, abs=0.006)
    assert max(p["better"][1:]) < 0.05
    assert min(p["as good"][1:]) > 0.05


def test_counts_beyond_float32_are_exact() -> None:
    a = np.array([[[2**24 + 1], [0], [1]], [[1], [1], [1]]])
    b = np.array([[[2**24], [1], [2]], [[0], [2], [2]]])
    found = paired_tests(a, b, ["甲"], dataclasses.replace(SETTINGS, permutations=64)).figures["micro.recall"]
    assert found.difference == pytest.approx((2**24) / (2**24 + 4) - (2**24 + 2) / (2**24 + 4), rel=1e-9)


def test_tests_of_many_posts_and_categories_hold_no_table_of_both_runs() -> None:
    sentences = [
        Sentence(str(number), "", [Entity("a", f"c{number % 60}", 0, 1), Entity("b", f"c{number % 7}", 1, 2)])
        for number in range(4000)
    ]
    first, second = ([Prediction(one.id, one.entities[:most]) for one in sentences] for most in (1, 2))
    (before, after), names, _ = tables(sentences, first, second)
    assert before.shape == (4000, 3, 60)
    settings = dataclasses.replace(SETTINGS, resamples=64, permutations=64)
    tracemalloc.start()
    paired_tests(before, after, names, settings)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * before.size  # bytes for each number of one run's table
