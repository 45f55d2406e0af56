from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from strategies import CATEGORIES, TEXT, bare, flat, sides

from omniner.corpus.taxonomy import primary_of
from omniner.records import Entity, with_score
from omniner.scoring.errta import sort_by_position
from omniner.scoring.metrics import (
    CalibrationRow,
    Counts,
    Metrics,
    OverlapRow,
    calibrate,
    calibration_error,
    evaluate,
    overlap_scores,
    score_row,
)
from omniner.scoring.resampling import bootstrap_intervals
from omniner.scoring.units import compare_units, pairs_of

Corpus = list[tuple[list[Entity], list[Entity]]]


def metrics_of(corpus: Corpus, unit: str) -> Metrics:
    return evaluate(compare_units([g for g, _ in corpus], [p for _, p in corpus], unit))


def slow_counts(corpus: Corpus, unit: str, name: object) -> tuple[int, int, int]:
    """The obvious way: for each sentence, the sets of what is meant and what was said, by name."""
    tp = fp = fn = 0
    for gold, predicted in corpus:
        place = (lambda e: e.text) if unit == "pair" else (lambda e: (e.start, e.end))
        meant = {(place(entity), name(entity.category)) for entity in gold}
        said = {(place(entity), name(entity.category)) for entity in predicted}
        meant, said = ({u for u in units if u[1] is not None} for units in (meant, said))
        tp += len(meant & said)
        fp += len(said - meant)
        fn += len(meant - said)
    return tp, fp, fn


# one place in two categories, and the right primary category for it: rare among random answers
TWICE: Corpus = [([Entity("看", "甲_一", 0, 1), Entity("看", "乙_一", 0, 1)], [Entity("看", "甲_二", 0, 1)])]


@settings(max_examples=150, deadline=None)
@given(st.lists(sides(), max_size=5), st.sampled_from(["pair", "span"]))
@example(TWICE, "span")
def test_counts_equal_the_obvious_way(corpus: Corpus, unit: str) -> None:
    metrics = metrics_of(corpus, unit)
    assert metrics.micro[4:] == slow_counts(corpus, unit, lambda category: category)
    assert metrics.relaxed[4:] == slow_counts(corpus, unit, primary_of)
    for name in CATEGORIES:
        expected = slow_counts(corpus, unit, lambda category, name=name: category if category == name else None)
        row = metrics.categories.get(name)
        assert (row[4:] if row else (0, 0, 0)) == expected
    for primary, (strict, relaxed) in metrics.primaries.items():
        inside = [row for name, row in metrics.categories.items() if primary_of(name) == primary]
        assert strict[4:] == tuple(sum(row[k] for row in inside) for k in (4, 5, 6))
        expected = slow_counts(corpus, unit, lambda c, p=primary: p if primary_of(c) == p else None)
        assert relaxed[4:] == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(sides(), max_size=5), st.sampled_from(["pair", "span"]))
def test_means_are_means_of_the_rows(corpus: Corpus, unit: str) -> None:
    metrics = metrics_of(corpus, unit)
    rows = list(metrics.categories.values())
    gold = [row for row in rows if row.support]
    for k in range(3):
        assert metrics.macro_seen[k] == pytest.approx(np.mean([row[k] for row in rows]) if rows else 0, abs=1e-12)
        assert metrics.macro[k] == pytest.approx(np.mean([row[k] for row in gold]) if gold else 0, abs=1e-12)
        weighted = sum(row[k] * row.support for row in rows) / sum(row.support for row in rows) if gold else 0
        assert metrics.weighted[k] == pytest.approx(weighted, abs=1e-12)


def test_repeats_count_once_and_order_is_the_first_mention() -> None:
    gold = [Entity("b", "甲_一"), Entity("a", "甲_一"), Entity("b", "甲_一")]
    predicted = [Entity("x", "丙"), Entity("x", "丙"), Entity("a", "甲_一"), Entity("a", "甲_一")]
    comparison = compare_units([gold], [predicted], "pair")
    assert comparison.right == ["甲_一"]
    assert comparison.sentence_errors[0].missing == [Entity("b", "甲_一")]
    assert comparison.sentence_errors[0].extra == [Entity("x", "丙")]


def test_pairs_follow_from_spans() -> None:
    """Every way in which two sentences can have up to two of these mentions, in gold and in the answer."""
    mentions = [
        Entity("啊看啊"[k], category, k, k + 1) for k, category in [(0, "丙"), (1, "丙"), (2, "丙"), (2, "乙_一")]
    ]
    some = [list(chosen) for size in range(3) for chosen in itertools.combinations(mentions, size)]
    for corpus in itertools.product(itertools.product(some, repeat=2), repeat=2):
        gold, predicted = ([sentence[side] for sentence in corpus] for side in (0, 1))
        expected = compare_units(gold, predicted, "pair")
        assert pairs_of(compare_units(gold, predicted, "span")) == expected


def counts_of(gold: list[Entity], predicted: list[Entity], unit: str) -> Counts:
    return Counts.of(compare_units([gold], [predicted], unit))


def test_pairs_do_not_ask_where_and_spans_do() -> None:
    gold, predicted = [Entity("啊", "丙", 17, 18)], [Entity("啊", "丙", 18, 19)]
    assert counts_of(gold, predicted, "pair").micro().f1 == 1
    assert counts_of(gold, predicted, "span").micro().f1 == 0


def test_zero_denominators() -> None:
    assert score_row(0, 0, 0)[:3] == (0, 0, 0)
    assert score_row(0, 3, 0)[:3] == (0, 0, 0)
    assert metrics_of([], "pair").macro.f1 == 0


def tags(entities: list[Entity]) -> list[str]:
    row = ["O"] * len(TEXT)
    for entity in entities:
        assert entity.start is not None
        assert entity.end is not None
        inside = [f"I-{entity.category}"] * (entity.end - entity.start - 1)
        row[entity.start : entity.end] = [f"B-{entity.category}", *inside]
    return row


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(flat(), flat()), min_size=1, max_size=5))
def test_agrees_with_seqeval(corpus: Corpus) -> None:
    from seqeval.metrics.v1 import precision_recall_fscore_support
    from seqeval.scheme import IOB2

    gold, predicted = [tags(g) for g, _ in corpus], [tags(p) for _, p in corpus]
    metrics = metrics_of(corpus, "span")
    options = {"scheme": IOB2, "zero_division": 0}
    assume(any(itertools.chain(*corpus)))  # without a mention seqeval has no rows
    theirs = precision_recall_fscore_support(gold, predicted, average="micro", **options)
    assert metrics.micro[:3] == pytest.approx(theirs[:3], abs=1e-12)
    for average, ours in (("macro", metrics.macro_seen), ("weighted", metrics.weighted)):
        theirs = precision_recall_fscore_support(gold, predicted, average=average, **options)
        assert ours[:3] == pytest.approx(theirs[:3], abs=1e-12), average
    by_category = precision_recall_fscore_support(gold, predicted, average=None, **options)
    ours = [row[:4] for row in metrics.categories.values()]
    assert np.array(ours).T.reshape(4, -1) == pytest.approx(np.array(by_category), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(flat(), flat()), min_size=1, max_size=5))
def test_agrees_with_nervaluate(corpus: Corpus) -> None:
    from nervaluate import Evaluator

    gold, predicted = [tags(g) for g, _ in corpus], [tags(p) for _, p in corpus]
    evaluated = Evaluator(gold, predicted, tags=list(CATEGORIES), loader="list").evaluate()["overall"]
    ours = overlaps_of(corpus)
    micro = metrics_of(corpus, "span").micro
    assert ours["strict"][:3] == pytest.approx(micro[:3], abs=1e-12)
    for scheme, row in ours.items():
        theirs = evaluated["ent_type" if scheme == "type" else scheme]
        # nervaluate matches in the order of the entities; where one overlaps two, that can leave another one alone.
        if scheme in ("strict", "exact") or no_entity_overlaps_two(corpus):
            assert row.correct == theirs.correct, scheme
        if no_entity_overlaps_two(corpus):
            assert row[4:] == (theirs.partial, theirs.incorrect, theirs.missed, theirs.spurious), scheme
            assert row[:3] == pytest.approx((theirs.precision, theirs.recall, theirs.f1), abs=1e-12), scheme


def test_pieces_make_one_match_and_what_has_no_place_none() -> None:
    gold = [Entity("甲乙丙", "甲", 0, 3), Entity("丁", "乙", 5, 6)]
    pieces = [Entity("甲", "乙", 0, 1), Entity("乙丙", "甲", 1, 3), Entity("丁", "乙")]
    rows = overlaps_of([(gold, pieces)])
    assert rows["partial"][3:] == (0, 1, 0, 1, 2)
    assert rows["type"][3:] == (1, 0, 0, 1, 2)  # of the two pieces the one with the right category
    assert rows["partial"][:3] == pytest.approx((0.5 / 3, 0.5 / 2, 1 / 5))
    assert rows["exact"][3:] == rows["strict"][3:] == (0, 0, 1, 1, 2)
    assert {row[:3] for row in overlaps_of([([], [])]).values()} == {(0, 0, 0)}


def overlaps_of(corpus: Corpus) -> dict[str, OverlapRow]:
    comparison = compare_units([g for g, _ in corpus], [p for _, p in corpus], "span")
    names = [str(place) for place in range(len(corpus))]
    errors, _ = sort_by_position(comparison.sentence_errors, names, [TEXT] * len(corpus), "span")
    return overlap_scores(errors, len(comparison.right))


def no_entity_overlaps_two(corpus: Corpus) -> bool:
    pairs = [
        (number, ours, theirs)
        for number, (gold, predicted) in enumerate(corpus)
        for ours, theirs in itertools.product(gold, predicted)
        if ours.start < theirs.end and theirs.start < ours.end
    ]
    return len({pair[:2] for pair in pairs}) == len({(pair[0], pair[2]) for pair in pairs}) == len(pairs)


def random_corpus(sentences: int, seed: int) -> Corpus:
    rng = random.Random(seed)
    corpus = []
    for _ in range(sentences):
        gold = [Entity("词", rng.choice(CATEGORIES), 3 * k, 3 * k + 1) for k in range(rng.randrange(6))]
        answer = [entity._replace(category=rng.choice(CATEGORIES)) if rng.random() < 0.3 else entity for entity in gold]
        corpus.append((gold, answer))
    return corpus


def test_intervals_hold_the_score_are_seeded_and_shrink_with_data() -> None:
    width = {}
    for sentences in (50, 800):
        corpus = random_corpus(sentences, 1)
        comparison = compare_units([g for g, _ in corpus], [p for _, p in corpus], "span")
        metrics = evaluate(comparison)
        found = bootstrap_intervals([comparison], range(sentences), 500, 0.95, 3)[0]
        assert found == bootstrap_intervals([comparison], range(sentences), 500, 0.95, 3)[0]
        assert found != bootstrap_intervals([comparison], range(sentences), 500, 0.95, 4)[0]
        for name in ("precision", "recall", "f1"):
            low, high = found[f"micro.{name}"]
            assert low < getattr(metrics.micro, name) < high
        low, high = found["macro.f1"]
        assert low < metrics.macro.f1 < high
        width[sentences] = found["micro.f1"].high - found["micro.f1"].low
    # The standard error falls with the square root of the sample: 16 times the data, a quarter of the width.
    assert width[800] / width[50] == pytest.approx(1 / 4, rel=0.35)


def test_interval_of_a_proportion_is_the_textbook_one() -> None:
    """400 independent one-unit sentences, a quarter wrong: recall is a binomial proportion."""
    gold = [[Entity("词", "丙", 0, 1)]] * 400
    predicted = [[Entity("词", "丙", 0, 1)] if place % 4 else [] for place in range(400)]
    low, high = bootstrap_intervals([compare_units(gold, predicted, "span")], range(400), 4000, 0.95, 0)[0][
        "micro.recall"
    ]
    error = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == pytest.approx((0.75 - error, 0.75 + error), abs=0.006)


def test_sentences_of_a_post_are_drawn_together() -> None:
    """Copies of a sentence in one post carry no new information: the interval stays as wide as without them."""
    corpus = random_corpus(60, 2)
    copied = list(itertools.chain.from_iterable([pair] * 5 for pair in corpus))
    posts = [place // 5 for place in range(300)]
    alone = bootstrap_intervals([compare_units(*zip(*corpus, strict=True), "span")], range(60), 800, 0.95, 0)[0][
        "micro.f1"
    ]
    together = bootstrap_intervals([compare_units(*zip(*copied, strict=True), "span")], posts, 800, 0.95, 0)[0][
        "micro.f1"
    ]
    assert together == pytest.approx(alone, abs=1e-9)


def test_no_intervals_without_draws_or_sentences() -> None:
    comparison = compare_units([[Entity("词", "丙")]], [[]], "pair")
    assert bootstrap_intervals([comparison], [0], 0, 0.95, 0) == [{}]
    assert bootstrap_intervals([compare_units([], [], "pair")], [], 100, 0.95, 0) == [{}]
    assert bootstrap_intervals([comparison], [0], 10, 0.95, 0)[0]["micro.f1"] == (0, 0)


@settings(max_examples=30, deadline=None)
@given(sides())
def test_offsets_do_not_matter_for_pairs(both: tuple[list[Entity], list[Entity]]) -> None:
    gold, predicted = both
    with_offsets = counts_of(gold, predicted, "pair").rows()
    assert with_offsets == counts_of(bare(gold), bare(predicted), "pair").rows()


def test_confidence_is_compared_with_the_share_that_is_right() -> None:
    places = [Entity("词", "甲", number, number + 1) for number in range(6)]
    scores = [0.95, 0.91, 1.0, 0.3, 0.32, None]
    predicted = [with_score(entity, score) for entity, score in zip(places, scores, strict=True)]
    gold = [places[0], places[2], places[4], places[5]]
    sure = calibrate(compare_units([gold, []], [[*predicted, predicted[3]], []], "span"))
    assert sure == [
        CalibrationRow(0.3, 0.4, 2, pytest.approx(0.31), 0.5),
        CalibrationRow(0.9, 1.0, 3, pytest.approx(2.86 / 3), pytest.approx(2 / 3)),
    ]
    assert calibration_error(sure) == pytest.approx((2 * 0.19 + 3 * (0.86 / 3)) / 5)
    assert calibrate(compare_units([gold], [places], "span")) == []
    assert calibration_error([]) == 0
