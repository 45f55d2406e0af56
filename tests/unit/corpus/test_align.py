"""Surfaces find their places: the k-th mention the k-th occurrence, and a place is given out once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniner.records import Entity, align_surfaces, locate_pairs


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


def test_a_pair_beyond_the_occurrences_shares_a_place_with_another_category_or_is_a_repeat() -> None:
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
