"""Surfaces find their places: the k-th mention the k-th occurrence, and a place is given out once."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniner.corpus.align import MOST_PLACES, align_surfaces, locate_listed, locate_pairs, rising_starts
from omniner.records import Entity


@pytest.mark.parametrize(
    ("text", "surfaces", "expected"),
    [
        ("我爱北京北京", ["北京", "北京"], [2, 4]),
        ("我爱北京", ["北京", "北京"], [2, None]),
        ("北京和上海和北京", ["上海", "北京", "北京"], [3, 0, 6]),
        ("哈哈哈哈", ["哈哈", "哈哈", "哈哈"], [0, 2, None]),
        ("北京大学在北京", ["北京大学", "北京"], [0, 5]),
        ("北京大学在北京", ["北京", "北京大学"], [5, 0]),
        ("北京大学在北京", ["北京", "北京", "北京大学"], [0, 5, 0]),
        ("北京大学", ["北京大学", "北京"], [0, 0]),
        ("北京", ["", "上海"], [None, None]),
        ("", ["北京"], [None]),
    ],
)
def test_places(text: str, surfaces: list[str], expected: list[int | None]) -> None:
    assert align_surfaces(text, surfaces) == expected


def test_known_places_are_not_given_out_again() -> None:
    assert align_surfaces("北京北京", ["北京"], [(0, 2)]) == [2]
    assert align_surfaces("北京", ["北京"], [(0, 2)]) == [None]
    assert align_surfaces("北京大学北京", ["北京"], [(0, 4)]) == [4]


@given(text=st.text("ab", max_size=12), surfaces=st.lists(st.text("ab", max_size=3), max_size=6))
def test_every_place_holds_its_surface_and_none_is_used_twice(text: str, surfaces: list[str]) -> None:
    starts = align_surfaces(text, surfaces)
    placed = [(start, surface) for start, surface in zip(starts, surfaces, strict=True) if start is not None]
    assert all(text[start : start + len(surface)] == surface for start, surface in placed)
    assert len(set(placed)) == len(placed)
    for surface in set(surfaces) - {""}:
        found = [start for start, item in placed if item == surface]
        assert found == sorted(found)  # the k-th mention stands before the next one
        assert len(found) == min(surfaces.count(surface), text.count(surface))


def test_surplus_pairs_reuse_a_span_or_give_none() -> None:
    assert locate_pairs("苹果苹果", [("苹果", "A"), ("苹果", "A"), ("苹果", "A"), ("苹果", "B"), ("梨", "A")]) == [
        Entity("苹果", "A", 0, 2),
        Entity("苹果", "A", 2, 4),
        None,
        Entity("苹果", "B", 0, 2),
        Entity("梨", "A"),
    ]


@given(
    text=st.text("ab", max_size=8),
    pairs=st.lists(st.tuples(st.text("ab", min_size=1, max_size=2), st.sampled_from("XY")), max_size=8),
)
def test_no_pair_is_lost_and_none_is_there_twice(text: str, pairs: list[tuple[str, str]]) -> None:
    entities = locate_pairs(text, pairs)
    placed = [entity for entity in entities if entity and entity.start is not None]
    assert len(set(placed)) == len(placed)
    assert {entity[:2] for entity in entities if entity} == set(pairs)
    for entity in placed:
        assert text[entity.start : entity.end] == entity.text
    for entity, pair in zip(entities, pairs, strict=True):
        assert entity is None or (entity[:2] == pair and (entity.start is None) == (pair[0] not in text))


@pytest.mark.parametrize(
    ("text", "surfaces", "expected"),
    [
        ("北京大学在北京", ["北京", "北京大学"], [0, 0]),
        ("北京大学在北京", ["北京大学", "北京"], [0, 5]),  # the guess is in order
        ("北京和上海和北京", ["上海", "北京", "北京"], [3, 0, 6]),  # no places are
        ("肺癌是肺的癌，肺癌多见", ["肺", "肺癌", "肺", "癌"], [0, 0, 3, 5]),
        ("白血病患者的血", ["不在", "血", "白血病"], [None, 6, 0]),
        ("白血病人白血病的血", ["血", "白血病", "血"], [1, 4, 8]),  # the first placement that overlaps once
    ],
)
def test_what_is_listed_in_reading_order_stands_in_it(
    text: str, surfaces: list[str], expected: list[int | None]
) -> None:
    located = locate_listed(text, [(surface, "X") for surface in surfaces])
    assert [entity and entity.start for entity in located] == expected


def slow_rising_starts(text: str, surfaces: list[str]) -> list[int] | None:
    """Try all placements."""
    places = [[at for at in range(len(text)) if text.startswith(surface, at)] for surface in surfaces]
    found = []
    for starts in product(*places):
        spans = [(start, start + len(surface)) for start, surface in zip(starts, surfaces, strict=True)]
        if all(left < right for left, right in pairwise(spans)):
            found.append((sum(right[0] < left[1] for left, right in pairwise(spans)), starts[::-1]))
    return list(min(found)[1][::-1]) if found else None


@given(
    text=st.text("abc", max_size=9), surfaces=st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=5)
)
def test_the_best_places_in_reading_order_are_found(text: str, surfaces: list[str]) -> None:
    assert rising_starts(text, surfaces) == slow_rising_starts(text, surfaces)


def test_mentions_are_placed_in_long_answers_even_where_their_first_places_are_many() -> None:
    text = "ab" * (4 * MOST_PLACES)
    assert rising_starts(text, ["b", "a"] * MOST_PLACES) == list(range(1, 2 * MOST_PLACES + 1))
    assert rising_starts("a" * (MOST_PLACES + 1) + "ba", ["a", "ab", "a"]) == [0, MOST_PLACES, MOST_PLACES + 2]


@given(
    text=st.text("ab", max_size=8),
    pairs=st.lists(st.tuples(st.text("ab", max_size=2), st.sampled_from("XY")), max_size=8),
)
def test_the_order_changes_no_places_that_are_in_it(text: str, pairs: list[tuple[str, str]]) -> None:
    starts = align_surfaces(text, [surface for surface, _ in pairs])
    guess = [(start, len(pair[0])) for start, pair in zip(starts, pairs, strict=True) if start is not None]
    guessed, listed = locate_pairs(text, pairs), locate_listed(text, pairs)
    if all(left < right for left, right in pairwise(guess)):
        assert listed == guessed
    assert {entity and entity[:2] for entity in listed} == {entity and entity[:2] for entity in guessed}
