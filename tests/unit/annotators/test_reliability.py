"""Agreement: published worked examples, an independent library, slow and obvious twins."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from random import Random

import krippendorff
import numpy as np
import pytest

from omniner.annotators import reliability
from omniner.annotators.alpha import SparseTable, UnitTally, binary_alphas
from omniner.annotators.reliability import (
    Agreement,
    character_patterns,
    measure_agreement,
    pair_counts,
    pair_f1,
    span_patterns,
)
from omniner.config.groups import AgreementConfig, ErrtaConfig, MetricsConfig
from omniner.corpus.adjudication import AnnotatedSentence, annotation_of, match_annotators
from omniner.corpus.sample import generate_sample
from omniner.progress import Progress
from omniner.records import Entity, Issue, Sentence
from omniner.report import curation_tables
from omniner.scoring import comparison as scoring_comparison
from omniner.scoring.metrics import ErrtaError
from omniner.scoring.scorer import score_records
from omniner.scoring.units import compare_units

SETTINGS = AgreementConfig(bootstrap=200, confidence=0.95, seed=3, top=20)

# Rows are annotators, columns units, * is a missing label.
KRIPPENDORFF = {
    # Krippendorff (2011), section B: two observers, nominal data
    "two observers": (["aabbdcccedda", "babbbccceddd"], 0.692),
    # Krippendorff (2011), section C: four observers, missing data
    "four observers": (["123321412***", "1233224125*3", "*3332342251*", "12332441251*"], 0.743),
    # the example of Wikipedia's article
    "three coders": (["*****34121133*3", "1*213343*******", "**21344*21133*4"], 0.691),
}

FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def alpha_of(units: list[tuple[object, ...]], annotators: int) -> float:
    tally = UnitTally(annotators)
    for unit in units:
        tally.add(0, unit, 1)
    return float(tally.alpha(tally.tables(1)[0].total()))


@pytest.mark.parametrize("name", KRIPPENDORFF)
def test_alpha_of_published_examples(name: str) -> None:
    rows, published = KRIPPENDORFF[name]
    assert len({len(row) for row in rows}) == 1
    units = [tuple(None if label == "*" else label for label in unit) for unit in zip(*rows, strict=True)]
    assert alpha_of(units, len(rows)) == pytest.approx(published, abs=5e-4)


def test_kappa_of_the_published_example() -> None:
    tally = UnitTally(14)
    for counts in FLEISS:
        tally.add(0, tuple(label for label, count in enumerate(counts) for _ in range(count)), 1)
    kappa = tally.kappa(tally.tables(1)[1].total())
    assert float(kappa) == pytest.approx(0.210, abs=5e-4)


def slow_kappa(units: list[tuple[object, ...]]) -> float:
    """Fleiss (1971), formula by formula."""
    whole = [unit for unit in units if None not in unit]
    n = len(whole[0])
    agreeing = [sum(a == b for a, b in combinations(unit, 2)) / (n * (n - 1) / 2) for unit in whole]
    shares = [count / (n * len(whole)) for count in Counter(label for unit in whole for label in unit).values()]
    observed, chance = sum(agreeing) / len(whole), sum(share**2 for share in shares)
    return (observed - chance) / (1 - chance)


def test_random_labels_against_the_library_and_a_slow_twin() -> None:
    draw = Random(5)
    for annotators in (2, 3, 5):
        for _ in range(20):
            units = [tuple(draw.choice([0, 1, 2, 3, None]) for _ in range(annotators)) for _ in range(60)]
            data = np.array([[np.nan if label is None else label for label in unit] for unit in units]).T
            expected = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
            assert alpha_of(units, annotators) == pytest.approx(expected, abs=1e-12)
            tally = UnitTally(annotators)
            for post, unit in enumerate(units):
                tally.add(post % 7, unit, 1)
            sums = tally.tables(7)[1].total()
            assert float(tally.kappa(sums)) == pytest.approx(slow_kappa(units), abs=1e-12)


@pytest.mark.parametrize("annotators", [40, 60])
def test_many_annotators(annotators: int) -> None:
    """Units of every number of labels, each of them many characters: no sum leaves the range of its type."""
    draw, characters = Random(7), 20_000
    tally = UnitTally(annotators)
    units = []
    for labelled in range(2, annotators + 1):
        labels = [draw.choice("aab") for _ in range(labelled)]
        units.append((*labels, *[None] * (annotators - labelled)))
        tally.add(0, units[-1], characters)
    counts = np.array([[unit.count(label) * 1.0 for label in "ab"] for unit in units])
    size = counts.sum(axis=1)
    observed = characters * ((size**2 - (counts**2).sum(axis=1)) / (size - 1)).sum()
    n, totals = characters * size.sum(), characters * counts.sum(axis=0)
    expected = 1 - (n - 1) * observed / (n**2 - (totals**2).sum())
    assert float(tally.alpha(tally.tables(1)[0].total())) == pytest.approx(expected, abs=1e-12)


def test_one_label_alone_is_undefined() -> None:
    assert math.isnan(alpha_of([("a", "a")] * 5, 2))
    assert math.isnan(alpha_of([("a", None)] * 5, 2))


def disturbed(sentence: Sentence, draw: Random, rate: float) -> Sentence:
    found = []
    for entity in sentence.entities:
        assert entity.start is not None
        assert entity.end is not None
        kind = draw.random() / rate
        start, end, category = entity.start, entity.end, entity.category
        if kind < 0.25:
            continue
        if kind < 0.5:
            category = draw.choice(["品牌_服装", "地址_城市"])
        elif kind < 1 and end - start > 1:
            end -= 1
        found.append(Entity(sentence.text[start:end], category, start, end))
    return Sentence(sentence.id, sentence.text, found, sentence.post_id)


def people(rates: tuple[float, ...], count: int = 60) -> tuple[list[Sentence], list[list[Sentence]]]:
    gold = generate_sample({"train": count}, 4)["train"]
    for number, sentence in enumerate(gold):
        sentence.id = f"s{number}"
    return gold, [[disturbed(one, Random(f"{n} {one.id}"), rate) for one in gold] for n, rate in enumerate(rates)]


def measured(rates: tuple[float, ...]) -> tuple[Agreement, list[AnnotatedSentence]]:
    _, annotations = people(rates)
    names = [f"a{number}" for number in range(len(rates))]
    items, _ = match_annotators(names, annotations)
    return measure_agreement(names, items, SETTINGS), items


def slow_characters(item: AnnotatedSentence) -> list[tuple[tuple[str, ...] | None, ...]]:
    """The label of each character by each annotator, one after the other."""
    return [
        tuple(
            None if one is None else tuple(sorted({e.category for e in one if e.start <= at < e.end}))  # type: ignore[operator]
            for one in item.annotations
        )
        for at in range(len(item.sentence.text))
    ]


def test_figures_against_units_laid_out_one_by_one() -> None:
    agreement, items = measured((0.2, 0.3, 0.4))
    items[3] = AnnotatedSentence(items[3].sentence, (items[3].annotations[0], None, items[3].annotations[2]))
    agreement = measure_agreement(agreement.names, items, SETTINGS)
    characters = [unit for item in items for unit in slow_characters(item)]
    for item in items:
        patterns = character_patterns(len(item.sentence.text), item.annotations)
        assert [pattern for pattern, length in patterns for _ in range(length)] == slow_characters(item)
    codes = {label: code for code, label in enumerate(sorted({x for u in characters for x in u if x is not None}))}
    data = np.array([[np.nan if x is None else codes[x] for x in unit] for unit in characters]).T
    expected = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
    assert agreement.estimates["alpha.characters"].value == pytest.approx(expected, abs=1e-12)
    assert agreement.estimates["kappa.characters"].value == pytest.approx(slow_kappa(characters), abs=1e-12)
    spans = [pattern for item in items for pattern in span_patterns(item.annotations).values()]
    row = max(agreement.categories, key=lambda row: sum(row.mentions))
    for units, found in ((characters, row.alpha_characters), (spans, row.alpha_spans)):
        data = np.array([[np.nan if x is None else float(row.name in x) for x in unit] for unit in units]).T
        expected = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
        assert found == pytest.approx(expected, abs=1e-12)
        assert binary_alphas(dict(Counter(units)))[row.name] == pytest.approx(found, abs=1e-12)
    assert agreement.complete == len(items) - 1
    for name, figure in agreement.estimates.items():
        if name == "alpha.unitizing":
            assert math.isnan(figure.low)
            continue
        assert figure.low <= figure.value <= figure.high
        assert figure.high - figure.low > 0.001


def test_pairs_against_the_scorer() -> None:
    agreement, items = measured((0.2, 0.4))
    sides = [[item.annotations[side] or () for item in items] for side in (0, 1)]
    comparison = compare_units(*sides, "span")
    right, missing, extra = len(comparison.right), len(comparison.missing), len(comparison.extra)
    assert agreement.estimates["f1.strict"].value == pytest.approx(2 * right / (2 * right + missing + extra))
    assert sum(count.errors for count in agreement.errors["a0", "a1"].by_type.values()) > 0


def test_the_f1_of_a_category_is_that_of_all_pairs_together() -> None:
    agreement, items = measured((0.2, 0.3, 0.4))
    given = [{(n, *one) for n, item in enumerate(items) for one in item.annotations[side] or ()} for side in range(3)]
    assert len(agreement.categories) > 10
    for row in agreement.categories:
        sets = [{one for one in side if one[2] == row.name} for side in given]
        pairs = list(combinations(sets, 2))
        expected = (
            2 * sum(len(one & other) for one, other in pairs) / sum(len(one) + len(other) for one, other in pairs)
        )
        assert row.f1 == pytest.approx(expected)
        assert row.mentions == tuple(map(len, sets))


def test_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Progress] = []
    monkeypatch.setattr(reliability, "Progress", lambda *what: found.append(Progress(*what, quiet=True)) or found[-1])
    _, items = measured((0.2, 0.4))
    assert [one.what for one in found] == ["sentences compared", "draws of posts"]
    assert [(one.done, one.total) for one in found] == [(len(items),) * 2, (SETTINGS.bootstrap,) * 2]


def test_an_entity_without_a_place_is_left_out_and_told() -> None:
    placed = Entity("北京", "地点", 1, 3)
    item = AnnotatedSentence(Sentence("s", "去北京"), ((placed, Entity("她", "人名")), (placed,), None))
    agreement = measure_agreement(["a", "b", "c"], [item], SETTINGS)
    assert [(row.name, row.mentions, row.f1) for row in agreement.categories] == [("地点", (1, 1, 0), 1.0)]
    assert agreement.issues == [Issue("no-offsets", "a: 1 entity without a place", id="s")]


def test_people_who_take_turns_have_a_mean() -> None:
    """a and c share no sentence: the mean is that of the pairs that do."""
    _, (one, other, third) = people((0.2, 0.3, 0.4), 40)
    items, _ = match_annotators(["a", "b", "c"], [one[:20], other, third[20:]])
    found = measure_agreement(["a", "b", "c"], items, SETTINGS).estimates
    assert math.isnan(found["f1.strict.a.c"].value)
    for kind in ("strict", "boundary", "relaxed"):
        both = (found[f"f1.{kind}.a.b"].value + found[f"f1.{kind}.b.c"].value) / 2
        assert found[f"f1.{kind}"].value == pytest.approx(both)
        assert 0 < found[f"f1.{kind}"].low < both < found[f"f1.{kind}"].high < 1
    apart, _ = match_annotators(["a", "b"], [one[:20], other[20:]])
    assert math.isnan(measure_agreement(["a", "b"], apart, SETTINGS).estimates["f1.strict"].value)


def test_counts_of_a_pair() -> None:
    text = "0123456789"
    one = annotation_of([Entity(text[a:b], c, a, b) for a, b, c in ((0, 2, "X"), (3, 5, "Y"), (6, 9, "Z"))])
    other = annotation_of(
        [Entity(text[a:b], c, a, b) for a, b, c in ((0, 2, "X"), (3, 5, "X"), (7, 8, "Z"), (8, 10, "Z"))]
    )
    assert pair_counts(one, other) == [1, 3, 4, 2, 3, 4, 2, 3]
    sums = np.array(pair_counts(one, other), float)
    assert pair_f1(sums, "strict") == pytest.approx(2 / 7)
    assert pair_f1(sums, "boundary") == pytest.approx(4 / 7)
    assert pair_f1(sums, "relaxed") == pytest.approx(2 * (2 / 3) * (3 / 4) / (2 / 3 + 3 / 4))
    same = np.array(pair_counts(one, one), float)
    assert [float(pair_f1(same, kind)) for kind in ("strict", "boundary", "relaxed")] == [1, 1, 1]
    assert math.isnan(pair_f1(np.zeros(8), "strict"))
    nested = annotation_of([Entity(text[a:b], c, a, b) for a, b, c in ((0, 4, "X"), (0, 4, "Y"), (2, 4, "X"))])
    assert pair_counts(nested, nested) == [3, 3, 3, 2, 2, 2, 3, 3]


def test_drawn_sums_are_those_of_the_whole_table() -> None:
    draw = np.random.default_rng(2)
    table = draw.integers(0, 9, (200, 6)) * (draw.random((200, 6)) < [1, 0.5, 0.1, 0.02, 0.01, 0])
    rows, columns = np.nonzero(table)
    cells = SparseTable(200, 6, rows, columns, table[rows, columns].astype(float))
    weights = [draw.integers(0, 4, (size, 200)).astype(float) for size in (3, 2)]
    found = list(cells.drawn(weights))
    assert [sums.tolist() for sums in found] == [(some @ table).tolist() for some in weights]
    assert cells.total().tolist() == table.sum(axis=0).tolist()


def test_more_mistakes_agree_less() -> None:
    close, far = measured((0.1, 0.1, 0.1))[0], measured((0.4, 0.4, 0.4))[0]
    for name in ("alpha.characters", "alpha.spans", "kappa.characters", "f1.strict", "f1.boundary", "f1.relaxed"):
        assert close.estimates[name].low > far.estimates[name].high
    assert close.estimates["alpha.unitizing"].value > far.estimates["alpha.unitizing"].value


def test_suggestions_count_both_directions_as_one_question() -> None:
    long, short = Entity("老北京烤鸭", "X", 0, 5), Entity("烤鸭", "X", 3, 5)
    other, piece = Entity("烤鸭", "Y", 3, 5), Entity("老北京", "X", 0, 3)
    errors = [
        ErrtaError("missing", "1", (short,), ()),
        ErrtaError("redundant", "2", (), (short,)),
        ErrtaError("classification", "3", (short,), (other,)),
        ErrtaError("classification", "4", (other,), (short,)),
        ErrtaError("boundary", "5", (short,), (long,)),
        ErrtaError("split", "6", (long,), (piece, short)),
        ErrtaError("merge", "7", (piece, short), (long,)),
    ]
    found = [(one.type, one.about, one.times, one.examples) for one in curation_tables.suggest_rules(errors)]
    assert found == [
        ("category", "X / Y", 2, "烤鸭 (2)"),
        ("one or several", "X", 2, "老北京烤鸭 or 老北京 + 烤鸭 (2)"),
        ("presence", "X", 2, "烤鸭 (2)"),
        ("boundary", "X", 1, "老北京烤鸭 or 烤鸭 (1)"),
    ]
    assert curation_tables.suggest_rules(reversed(errors)) == curation_tables.suggest_rules(errors)


def test_disputed_surfaces_and_tables() -> None:
    text = "吃烤鸭"
    marked, other = Entity("烤鸭", "X", 1, 3), Entity("烤鸭", "Y", 1, 3)
    items = [
        AnnotatedSentence(Sentence("1", text), ((marked,), (other,), ())),
        AnnotatedSentence(Sentence("2", text), ((marked,),) * 3),
    ]
    agreement = measure_agreement(["a", "b", "c"], items, SETTINGS)
    (row,) = agreement.surfaces
    assert (row.seen, row.disputed, dict(row.labels)) == (2, 1, {"X": 1, "Y": 1, "": 1})
    sheets = curation_tables.build_agreement_tables(agreement)
    assert sheets["surfaces"].rows == [["烤鸭", 1, 2, 0.5, "not marked 1, X 1, Y 1"]]
    for sheet in sheets.values():
        assert all(len(row) == len(sheet.names) == len(sheet.columns) for row in sheet.rows)
        sheet.formatted()


def test_human_performance_is_the_mean_of_the_scorers_figures() -> None:
    gold, annotations = people((0.2, 0.4))
    metrics = MetricsConfig("auto", "own", "empty", 0, 0.95, 0)
    results = {}
    for name, sentences in zip("ab", annotations, strict=True):
        predictions, issues = scoring_comparison.human_predictions(name, [*sentences, Sentence("other", "文")], gold)
        assert (len(predictions), issues) == (len(gold), [])
        results[name] = score_records(gold, predictions, metrics, ErrtaConfig("auto", 1, 1))
    f1 = [result.metrics.micro.f1 for result in results.values()]
    spread = scoring_comparison.summarise_scores(f1)
    assert spread.mean == pytest.approx(sum(f1) / 2)
    assert spread.deviation == pytest.approx(abs(f1[0] - f1[1]) / math.sqrt(2))
    sheet = curation_tables.build_human_table(results, len(gold))
    assert sheet.rows[0][0] == scoring_comparison.MICRO
    assert sheet.rows[0][-2:] == f1
    invented = {"品牌", "地址"}  # primaries of wrong labels
    assert {row[0] for row in sheet.rows[2:]} - invented == {
        entity.category.split("_")[0] for s in gold for entity in s.entities
    } - invented
    wrong = [Sentence(gold[0].id, gold[0].text + "！"), Sentence(gold[1].id, gold[1].text, meta={"unlabeled": True})]
    predictions, issues = scoring_comparison.human_predictions("c", wrong, gold)
    assert predictions == []
    assert [issue.code for issue in issues] == ["text-mismatch", "not-annotated"]


def test_a_person_is_scored_on_texts_that_repeat_and_beside_an_id_that_coincides() -> None:
    texts = ["好", "吃", "好", "贵"]
    gold = [Sentence(f"g{number}", text) for number, text in enumerate(texts)]
    theirs = [Sentence("g3" if n == 0 else f"t{n}", text, [Entity(text, str(n), 0, 1)]) for n, text in enumerate(texts)]
    predictions, issues = scoring_comparison.human_predictions("a", theirs, gold)
    found = [(prediction.id, prediction.entities[0].category) for prediction in predictions]
    assert (found, issues) == ([("g0", "0"), ("g1", "1"), ("g2", "2"), ("g3", "3")], [])
