from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import TEXT, bare, sides

from omniner.records import Entity
from omniner.scoring import errta, official
from omniner.scoring.metrics import ErrtaError
from omniner.scoring.units import SentenceErrors, compare_units

Both = tuple[list[Entity], list[Entity]]


def at(surface: str, category: str, text: str = TEXT) -> Entity:
    start = text.index(surface)
    return Entity(surface, category, start, start + len(surface))


def kinds(missing: list[Entity], extra: list[Entity], text: str = TEXT, unit: str = "span") -> dict[str, int]:
    found, greedy = errta.sort_sentence(missing, extra, text, unit)
    quick = errta.sort_by_position([SentenceErrors(0, missing, extra)], ["s"], [text], unit)
    assert quick == ([ErrtaError(kind, "s", *sides) for kind, *sides in found], greedy)
    return dict(Counter(kind for kind, _, _ in found))


def span_errors(gold: list[Entity], predicted: list[Entity], unit: str) -> list[ErrtaError]:
    comparison = compare_units([gold], [predicted], unit)
    result = errta.sort_comparison(comparison, ["s"], [TEXT])
    assert sum(count.fn for count in result.by_type.values()) == result.fn == len(comparison.missing)
    assert sum(count.fp for count in result.by_type.values()) == result.fp == len(comparison.extra)
    return result.errors


OLYMPICS = at("2024奥运会", "赛事")
YEAR, GAMES = at("2024", "时间"), at("奥运会", "赛事")


def test_one_gold_in_two_pieces_is_one_split() -> None:
    found, _ = errta.sort_sentence([OLYMPICS], [GAMES, YEAR], TEXT, "span")
    assert found == [("split", (OLYMPICS,), (YEAR, GAMES))]


def test_two_gold_in_one_piece_is_one_merge() -> None:
    found, _ = errta.sort_sentence([GAMES, YEAR], [OLYMPICS], TEXT, "span")
    assert found == [("merge", (YEAR, GAMES), (OLYMPICS,))]


@pytest.mark.parametrize(
    ("gold", "predicted", "kind"),
    [
        (at("奥运会", "a"), at("奥运会", "b"), "classification"),
        (at("奥运会", "a"), at("奥运会 直播", "a"), "boundary"),
        (at("奥运会", "a"), at("运会 直播", "a"), "boundary"),
        (at("奥运会", "a"), at("奥运会 直播", "b"), "boundary_class"),
        (at("Nanci", "a"), at("Nanci ", "a"), "spelling"),
        (at("Nanci", "a"), at("Nanci ", "b"), "classification"),
        (at("Nanci", "a"), Entity("nanci", "a"), "spelling"),
        (at("Nanci", "a"), Entity("Ｎａｎ ｃｉ", "a"), "spelling"),
        (at("Nanci", "a"), Entity("nanci", "b"), "classification"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_one_to_one(gold: Entity, predicted: Entity, kind: str, turned: bool) -> None:
    if turned:
        gold, predicted = predicted, gold
    assert kinds([gold], [predicted]) == {kind: 1}


@pytest.mark.parametrize("beside", [0, 1])
def test_same_surface_elsewhere_is_not_spelling(beside: int) -> None:
    gold, predicted = Entity("啊啊", "a", 20, 22), Entity("啊啊", "a", 21, 23)
    nowhere = [Entity("从未出现", "时间")] * beside
    assert Counter(kinds([gold], [predicted, *nowhere])) == Counter(boundary=1, redundant=beside)


def test_by_pair_the_same_surface_elsewhere_is_the_same_mention() -> None:
    gold, predicted = Entity("啊啊", "a", 19, 21), Entity("啊啊", "b", 21, 23)
    assert kinds([gold], [predicted], unit="pair") == {"classification": 1}
    assert kinds([gold], [predicted], unit="span") == {"missing": 1, "redundant": 1}


def test_of_two_spellings_the_first_in_the_text_is_meant() -> None:
    found, _ = errta.sort_sentence([Entity("B", "a"), Entity("Ｂ", "a")], [Entity("b", "a")], "Ｂ还是B", "pair")
    assert [(kind, *(unit.text for unit in gold)) for kind, gold, _ in found] == [("spelling", "Ｂ"), ("missing", "B")]


def test_of_two_categories_the_first_in_the_text_is_meant() -> None:
    extra = [Entity("啊", "b", 21, 22), Entity("啊", "c", 19, 20)]
    found, _ = errta.sort_sentence([Entity("啊", "a", 22, 23)], extra, TEXT, "pair")
    assert [(kind, predicted[0].category) for kind, _, predicted in found] == [
        ("classification", "c"),
        ("redundant", "b"),
    ]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("longer", "shorter", "kept"),
    [("赛事", "赛事", "奥运会"), ("b", "b", "奥运会"), ("赛事", "b", "奥运会"), ("b", "赛事", "奥运")],
)
def test_a_split_keeps_categories_then_characters(longer: str, shorter: str, kept: str, turned: bool) -> None:
    pieces = [YEAR, at("奥运", shorter), at("奥运会", longer)]
    found, _ = errta.sort_sentence(*((pieces, [OLYMPICS]) if turned else ([OLYMPICS], pieces)), TEXT, "span")
    [parts] = [sides[not turned] for kind, *sides in found if kind == ("merge" if turned else "split")]
    assert [piece.text for piece in parts] == ["2024", kept]
    assert len(found) == 2


@pytest.mark.parametrize("missing", [[], [at("Nanci", "a")]])
def test_errors_stand_in_the_order_of_the_text(missing: list[Entity]) -> None:
    """By name, 看 would come last."""
    extra = [YEAR, at("直播", "a"), at("看", "a"), Entity("从未出现", "a")]
    errors, _ = errta.sort_by_position([SentenceErrors(0, missing, extra)], ["s"], [TEXT], "span")
    assert [unit.text for error in errors for unit in error.predicted] == ["看", "2024", "直播", "从未出现"]


def test_a_sentence_with_two_errors_is_one_sentence_with_errors() -> None:
    result = errta.sort_comparison(compare_units([[YEAR, GAMES]], [[]], "span"), ["s"], [TEXT])
    assert (len(result.errors), result.with_errors) == (2, 1)


def test_a_touching_or_distant_span_has_nothing_to_do_with_it() -> None:
    assert kinds([YEAR], [GAMES]) == {"missing": 1, "redundant": 1}


def test_a_surface_that_is_not_in_the_text_stands_alone() -> None:
    assert kinds([YEAR], [Entity("从未出现", "时间")]) == {"missing": 1, "redundant": 1}


def test_pieces_beside_an_exact_span_do_not_undo_its_classification() -> None:
    whole = OLYMPICS._replace(category="其他")
    assert kinds([OLYMPICS], [whole, YEAR, GAMES]) == {"classification": 1, "redundant": 2}


def test_fewest_errors_win_over_the_nearest_partner() -> None:
    """Taking 直播 with 运会 直 first would leave two units alone; two boundary errors explain everything."""
    gold = [at("奥运会", "a"), at("直播", "a")]
    predicted = [at("会 直", "a"), at("2024奥", "a")]
    assert kinds(gold, predicted) == {"boundary": 2}


def test_answers_without_offsets_are_placed_where_they_explain_most() -> None:
    text = "面膜好，补水面膜也好，面膜2024奥运会"
    assert kinds([Entity("面膜纸", "a"), Entity("补水面膜", "a")], [Entity("水面膜也", "a")], text, "pair") == {
        "boundary": 1,
        "missing": 1,
    }
    pieces = [Entity("2024", "时间"), Entity("奥运会", "赛事")]
    assert kinds([Entity("2024奥运会", "赛事")], pieces, text, "pair") == {"split": 1}
    # The prediction's surface stands first elsewhere; the gold one decides which occurrence is meant.
    assert kinds([Entity("补水面膜", "a")], [Entity("面膜", "a")], text, "pair") == {"boundary": 1}
    assert kinds([Entity("面膜", "a")], [Entity("补水面膜", "a")], text, "pair") == {"boundary": 1}
    # What has a place keeps it, and the very span of a unit is better than one that overlaps another.
    assert kinds([Entity("面膜", "a", 0, 2)], [Entity("膜纸", "a")], "面膜，面膜纸", "pair") == {
        "missing": 1,
        "redundant": 1,
    }
    spans = [Entity("Nan", "b", 0, 3), Entity("nanci", "a", 6, 11)]
    assert kinds([Entity("Nanci", "a")], spans, "Nanci和Nanci", "pair") == {"boundary": 1, "redundant": 1}
    # By span, what has none is there too often, wherever its words stand.
    assert kinds([OLYMPICS], [Entity("2024", "时间")], unit="span") == {"missing": 1, "redundant": 1}
    assert kinds([OLYMPICS], [Entity("2024", "时间")], unit="pair") == {"boundary_class": 1}
    # What overlaps nothing stands on its first occurrence, and the text begins at 0.
    assert kinds([at("看20", "a")], [Entity("啊啊", "a")], unit="pair") == {"missing": 1, "redundant": 1}
    # A span that ends where the occurrence begins, or stands before it, does not explain it.
    spans = [Entity("看", "b", 0, 1), Entity("膜纸", "a", 5, 7)]
    assert kinds([Entity("面膜", "a")], spans, "看面膜，面膜纸", "pair") == {"boundary": 1, "redundant": 1}
    # Every occurrence counts: the third one, and one that overlaps the first.
    assert kinds([Entity("面膜", "a")], [Entity("膜纸", "a", 7, 9)], "面膜，面膜，面膜纸", "pair") == {"boundary": 1}
    assert kinds([Entity("哈哈", "a")], [Entity("哈纸", "a", 2, 4)], "哈哈哈纸", "pair") == {"boundary": 1}


@settings(max_examples=300, deadline=None)
@given(sides(), st.sampled_from(["pair", "span"]))
def test_identity_and_shape_of_errors(both: Both, unit: str) -> None:
    errors = span_errors(*both, unit)
    shapes = {"split": (1, None), "merge": (None, 1), "missing": (1, 0), "redundant": (0, 1)}
    for error in errors:
        gold, predicted = len(error.gold), len(error.predicted)
        expected = shapes.get(error.type, (1, 1))
        assert expected[0] in (gold, None)
        assert expected[1] in (predicted, None)
        assert None not in expected or max(gold, predicted) > 1


@settings(max_examples=100, deadline=None)
@given(sides())
def test_identity_without_offsets(both: Both) -> None:
    pairs = [{(entity.text, entity.category) for entity in side} for side in both]
    for gold in (bare(both[0]), both[0]):
        errors = span_errors(gold, bare(both[1]), "pair")  # checks the identity itself
        assert (errors == []) == (pairs[0] == pairs[1])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("order", [[0, 3], [3, 0]])
def test_a_pair_that_is_listed_at_several_places_is_where_it_explains_most(order: list[int], turned: bool) -> None:
    repeated = [Entity("小满", "品牌", start, start + 2) for start in order]
    sides = [repeated, [Entity("小满茶", "品牌", 3, 6)]]
    comparison = compare_units([sides[turned]], [sides[not turned]], "pair")
    (error,) = errta.sort_comparison(comparison, ["s"], ["小满的小满茶好喝小满"]).errors
    assert error.type == "boundary"
    assert {entity[2:] for entity in error.gold + error.predicted} == {(3, 5), (3, 6)}
    # Not where the text has it, but the list does not.
    comparison = compare_units([repeated], [[Entity("喝小满", "品牌", 7, 10)]], "pair")
    errors = errta.sort_comparison(comparison, ["s"], ["小满的小满茶好喝小满"]).errors
    assert [(error.type, error.gold[:1]) for error in errors] == [
        ("missing", (Entity("小满", "品牌", 0, 2),)),
        ("redundant", ()),
    ]


@settings(max_examples=300, deadline=None)
@given(sides(), st.randoms(use_true_random=False), st.sampled_from(["span", "pair", "pair without places", "mixed"]))
def test_span_errors_do_not_depend_on_any_order(both: Both, rng: random.Random, kind: str) -> None:
    gold, predicted = (list(side) for side in both)
    if kind == "pair without places":
        gold, predicted = bare(gold), bare(predicted)
    if kind == "mixed":
        predicted = [one if n % 2 else Entity(*one[:2]) for n, one in enumerate(predicted)]
    unit = "span" if kind == "span" else "pair"
    expected = span_errors(gold, predicted, unit)
    rng.shuffle(gold)
    rng.shuffle(predicted)
    assert span_errors(gold, predicted, unit) == expected


Worth = tuple[int, int, int]  # minus the errors, categories kept, characters covered


def add(one: Worth, other: Worth) -> Worth:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def overlap(a: Entity, b: Entity) -> int:
    return min(a[3], b[3]) - max(a[2], b[2])  # type: ignore[type-var, operator]


def worth_of(gold: Sequence[Entity], predicted: Sequence[Entity]) -> Worth:
    """What one error explains."""
    if not gold or not predicted:
        return -1, 0, 0
    whole, parts = (gold[0], predicted) if len(gold) == 1 else (predicted[0], gold)
    return -1, sum(part.category == whole.category for part in parts), sum(overlap(whole, part) for part in parts)


def best_worth(missing: Sequence[Entity], extra: Sequence[Entity]) -> Worth:
    """The slow twin: try every way to cut all units into errors, by the definition of the types."""

    def holds(whole: Entity, parts: Sequence[Entity]) -> bool:
        inside = all(whole[2] <= part[2] and part[3] <= whole[3] for part in parts)  # type: ignore[operator]
        return inside and all(overlap(a, b) <= 0 for a, b in itertools.combinations(parts, 2))

    def solve(gold: tuple[Entity, ...], predicted: tuple[Entity, ...]) -> Worth:
        if not gold:
            return -len(predicted), 0, 0
        first, rest = gold[0], gold[1:]
        best = add((-1, 0, 0), solve(rest, predicted))
        for size in range(1, len(predicted) + 1):
            for chosen in itertools.combinations(predicted, size):
                left = tuple(unit for unit in predicted if unit not in chosen)
                if (size == 1 and overlap(first, chosen[0]) > 0) or (size > 1 and holds(first, chosen)):
                    best = max(best, add(worth_of([first], chosen), solve(rest, left)))
        for unit in predicted:
            left = tuple(other for other in predicted if other != unit)
            for size in range(1, len(rest) + 1):
                for others in itertools.combinations(rest, size):
                    if holds(unit, (first, *others)):
                        remaining = tuple(other for other in rest if other not in others)
                        best = max(best, add(worth_of([first, *others], [unit]), solve(remaining, left)))
        return best

    return solve(tuple(missing), tuple(extra))


@settings(max_examples=300, deadline=None)
@given(sides(4, "2024奥运会"))
def test_no_explanation_is_better(both: Both) -> None:
    """None has fewer errors; of those with as few none keeps more categories, and of those none covers more."""
    comparison = compare_units([both[0]], [both[1]], "span")
    for one in comparison.sentence_errors:
        found, greedy = errta.sort_sentence(one.missing, one.extra, TEXT, "span")
        assert greedy == 0, "at most eight units"
        same_span = [pair for pair in found if pair[1] and pair[2] and pair[1][0][2:] == pair[2][0][2:]]
        gone = {unit for _, gold, predicted in same_span for unit in gold + predicted}
        missing = [unit for unit in one.missing if unit not in gone]
        extra = [unit for unit in one.extra if unit not in gone]
        worth: Worth = (0, 0, 0)
        for pair in found:
            if pair not in same_span:
                worth = add(worth, worth_of(*pair[1:]))
        assert worth == best_worth(missing, extra)


@pytest.mark.parametrize(("size", "usual", "least"), [(7, "boundary", 100), (4, "split", 50)])
def test_large_groups_are_sorted_too_and_counted(size: int, usual: str, least: int) -> None:
    text = "字" * 400
    gold = [Entity(text[k : k + 9], "a", k, k + 9) for k in range(0, 380, 3)]
    predicted = [Entity(text[k : k + size], "a", k, k + size) for k in range(0, 380, 2)]
    start = time.process_time()
    found, greedy = errta.sort_sentence(gold, predicted, text, "span")
    assert greedy == 1
    assert sum(len(units) for _, units, _ in found) == len(gold)
    assert sum(len(units) for _, _, units in found) == len(predicted)
    assert Counter(kind for kind, _, _ in found)[usual] > least
    for kind, *both in found:
        parts = max(both, key=len)
        assert (kind in ("split", "merge")) == (len(parts) > 1)
        assert all(overlap(one, other) <= 0 for one, other in itertools.pairwise(parts))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("more", [0, 1])
def test_the_largest_group_for_which_all_ways_are_tried(more: int) -> None:
    pieces = [Entity(TEXT[k : k + 2], "a", k, k + 2) for k in range(errta.MAX_GROUP - 1 + more)]
    assert errta.sort_sentence([Entity(TEXT, "a", 0, len(TEXT))], pieces, TEXT, "span")[1] == more


def test_a_large_group_of_one_side_needs_no_sorting() -> None:
    nested = [Entity(TEXT[9 : 9 + size], "a", 9, 9 + size) for size in range(1, errta.MAX_GROUP + 2)]
    assert errta.sort_sentence(nested, [YEAR], TEXT, "span")[1] == 0


@settings(max_examples=200, deadline=None)
@given(sides())
def test_official_identity_and_exact_classification_count(both: Both) -> None:
    comparison = compare_units([both[0]], [both[1]], "pair")
    for one in comparison.sentence_errors:
        found = official.sort_sentence_as_published(one.missing, one.extra)
        assert sorted(u for _, units, _ in found for u in units) == sorted(one.missing)
        assert sorted(u for _, _, units in found for u in units) == sorted(one.extra)
        surfaces = [Counter(unit.text for unit in units) for units in (one.missing, one.extra)]
        count = sum((surfaces[0] & surfaces[1]).values())
        assert sum(kind == "classification" for kind, _, _ in found) == count


@pytest.mark.parametrize(
    ("gold", "predicted", "kind"),
    [
        (("面膜", "品类"), ("面膜", "品牌"), "classification"),
        (("面膜", "品类", 1), ("面膜", "品类", 2), "boundary"),  # of longer tuples only the first two members count
        (("面膜", "品类"), ("补水面膜", "品类"), "boundary"),
        (("A C", "品类"), ("A B C", "品类"), "split_merge"),  # not a part of it, but its tokens are
        (("A B C", "品类"), ("A C", "品类"), "split_merge"),
        (("AirPods Pro", "系列"), ("AirPods", "品类"), "split_merge"),  # in any category
    ],
)
def test_published_rules(gold: tuple[str, ...], predicted: tuple[str, ...], kind: str) -> None:
    assert official.sort_sentence_as_published([gold], [predicted]) == [(kind, (gold,), (predicted,))]


WITHOUT_SPACES = st.tuples(st.text("甲乙丙", min_size=1, max_size=3), st.sampled_from("xyz"))


@given(st.sets(WITHOUT_SPACES), st.sets(WITHOUT_SPACES))
def test_the_published_sorting_finds_no_split_in_text_without_spaces(gold: set[Any], predicted: set[Any]) -> None:
    found = official.sort_sentence_as_published(sorted(gold - predicted), sorted(predicted - gold))
    assert "split_merge" not in {kind for kind, _, _ in found}


def official_twin(missing: list[Entity], extra: list[Entity]) -> Counter[str]:
    """The rules in other words: mark first, count afterwards."""
    used: set[int] = set()
    label: dict[int, str] = {}
    for i, gold in enumerate(missing):
        for j, unit in enumerate(extra):
            if i not in label and j not in used and gold.text == unit.text and gold.category != unit.category:
                label[i] = "classification"
                used.add(j)
    for i, gold in enumerate(missing):
        for j, unit in enumerate(extra):
            if i in label or j in used:
                continue
            inside = gold.text in unit.text or unit.text in gold.text
            one, other = set(gold.text.split()), set(unit.text.split())
            if inside and gold.category == unit.category:
                label[i] = "boundary"
            elif one.issubset(other) or other.issubset(one):
                label[i] = "split_merge"
            else:
                continue
            used.add(j)
    counts = Counter(label.values())
    counts["missing"], counts["redundant"] = len(missing) - len(label), len(extra) - len(used)
    return +counts


@settings(max_examples=200, deadline=None)
@given(sides())
def test_official_rules_equal_their_twin(both: Both) -> None:
    for _, missing, extra in compare_units([both[0]], [both[1]], "pair").sentence_errors:
        found = official.sort_sentence_as_published(missing, extra)
        assert Counter(kind for kind, _, _ in found) == official_twin(missing, extra)


def test_a_lost_unit_stops_the_run() -> None:
    errors = official.sort_as_published([SentenceErrors(0, [YEAR], [GAMES])], ["s"])
    with pytest.raises(errta.IdentityError, match="false negatives"):
        errta.assemble(errors, mode="official", unit="pair", tp=0, missing=["时间", "丙"], extra=["赛事"], read=1)
    with pytest.raises(errta.IdentityError, match="false positives"):
        errta.assemble(errors, mode="official", unit="pair", tp=0, missing=["时间"], extra=["丙"], read=1)
