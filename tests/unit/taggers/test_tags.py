"""The BIOES scheme: which tags may follow each other, spans to tags and back, what cannot be expressed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest

from omniner.taggers.heads import LeftOut, Span, TagScheme


def slow_allowed(first: str, second: str) -> bool:
    """The rules of BIOES by the names of the tags."""
    if first[0] in "BI":
        return second[0] in "IE" and first[1:] == second[1:]
    return second[0] in "OBS"


def decode(scheme: TagScheme, tags: Sequence[int]) -> list[Span]:
    """The spans of one sentence."""
    return scheme.decode_batch(np.array([tags], dtype=int), np.array([len(tags)]))[0]


def slow_decode(names: list[str]) -> list[tuple[int, int, str]]:
    """Entities as whole runs B I* E or S, found by trying every start and end."""
    found = []
    for start, end in itertools.combinations(range(len(names) + 1), 2):
        run = names[start:end]
        kind, category = run[0][0], run[0][2:]
        shape = ["S"] if end - start == 1 else ["B", *"I" * (end - start - 2), "E"]
        if kind != "O" and [name[0] for name in run] == shape and all(name[2:] == category for name in run):
            found.append((start, end, category))
    return found


def test_tag_order_and_size() -> None:
    assert TagScheme(["人", "地"]).tags == (
        "O",
        "B-人",
        "I-人",
        "E-人",
        "S-人",
        "B-地",
        "I-地",
        "E-地",
        "S-地",
    )
    assert len(TagScheme([str(n) for n in range(90)])) == 361


def test_same_category_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        TagScheme(["人", "人"])


def test_allowed_follows_the_rules_by_name() -> None:
    scheme = TagScheme(["a", "b", "c"])
    for (i, first), (j, second) in itertools.product(enumerate(scheme.tags), repeat=2):
        assert scheme.allowed[i, j] == slow_allowed(first, second), (first, second)
    assert [name[0] in "OBS" for name in scheme.tags] == scheme.allowed_start.tolist()
    assert [name[0] in "OES" for name in scheme.tags] == scheme.allowed_end.tolist()


def test_no_category_leaves_outside_only() -> None:
    scheme = TagScheme([])
    assert scheme.tags == ("O",)
    assert scheme.allowed.all()
    assert scheme.encode([], 3) == ([0, 0, 0], [])
    assert decode(scheme, [0, 0]) == []


def test_encode_by_hand() -> None:
    tags, left_out = TagScheme(["a", "b"]).encode([(1, 2, 1), (3, 7, 0)], 8)
    assert tags == [0, 8, 0, 1, 2, 2, 3, 0]
    assert left_out == []


@pytest.mark.parametrize(
    ("spans", "kept", "left_out"),
    [
        ([(0, 2, 0), (0, 4, 1)], [(0, 4, 1)], [((0, 2, 0), "nested-entity", (0, 4, 1))]),
        ([(1, 3, 0), (2, 5, 1)], [(2, 5, 1)], [((1, 3, 0), "overlapping-entity", (2, 5, 1))]),
        ([(2, 4, 0), (1, 3, 1)], [(1, 3, 1)], [((2, 4, 0), "overlapping-entity", (1, 3, 1))]),
        ([(1, 3, 1), (1, 3, 0)], [(1, 3, 0)], [((1, 3, 1), "same-place-entity", (1, 3, 0))]),
        ([(1, 3, 1), (1, 3, 1)], [(1, 3, 1)], []),
        ([(2, 2, 0)], [], [((2, 2, 0), "bad-span", None)]),
        ([(4, 6, 0)], [], [((4, 6, 0), "bad-span", None)]),
        ([(0, 1, 2)], [], [((0, 1, 2), "bad-span", None)]),
        ([(-1, 1, 0)], [], [((-1, 1, 0), "bad-span", None)]),
    ],
)
def test_what_cannot_be_expressed_is_named(spans: list[Span], kept: list[Span], left_out: list[LeftOut]) -> None:
    scheme = TagScheme(["a", "b"])
    for order in itertools.permutations(spans):
        tags, refused = scheme.encode(order, 5)
        assert decode(scheme, tags) == kept
        assert refused == left_out


def test_of_many_categories_on_one_place_the_first_is_kept() -> None:
    scheme = TagScheme([str(number) for number in range(9)])
    for first in range(9):  # a set of spans has an order of its own, which must not decide
        tags, left_out = scheme.encode([(1, 3, category) for category in range(first, 9)], 4)
        assert decode(scheme, tags) == [(1, 3, first)]
        assert [item.span for item in left_out] == [(1, 3, category) for category in range(first + 1, 9)]


def test_what_is_left_out_is_named_in_the_order_of_the_text() -> None:
    _, left_out = TagScheme(["a"]).encode([(0, 9, 0), (1, 2, 0), (2, 6, 0), (4, 5, 0)], 9)
    assert [item.span for item in left_out] == [(1, 2, 0), (2, 6, 0), (4, 5, 0)]


def test_encode_keeps_or_names_each_span() -> None:
    scheme, rng = TagScheme(["a", "b", "c"]), random.Random(0)
    for _ in range(500):
        length = rng.randint(1, 12)
        ends = [sorted(rng.sample(range(length + 1), 2)) for _ in range(rng.randint(0, 6))]
        spans = [(start, end, rng.randrange(3)) for start, end in ends]
        tags, left_out = scheme.encode(spans, length)
        kept = decode(scheme, tags)
        assert sorted({*spans}) == sorted([*kept, *(item.span for item in left_out)])
        for item in left_out:
            assert item.kept in kept
            assert max(item.span[0], item.kept[0]) < min(item.span[1], item.kept[1])
        legal = scheme.allowed[tags[:-1], tags[1:]]
        assert legal.all()
        assert scheme.allowed_start[tags[0]]
        assert scheme.allowed_end[tags[-1]]


def test_decode_takes_only_whole_entities_of_any_sequence() -> None:
    scheme, rng = TagScheme(["a", "b"]), np.random.default_rng(0)
    for _ in range(2000):
        tags = rng.integers(0, len(scheme), rng.integers(1, 8))
        want = slow_decode([scheme.tags[tag] for tag in tags])
        got = [(start, end, scheme.categories[category]) for start, end, category in decode(scheme, tags)]
        assert got == want


def test_decode_batch_equals_sentence_by_sentence_and_ignores_padding() -> None:
    scheme, rng = TagScheme(["a", "b"]), np.random.default_rng(1)
    lengths = rng.integers(0, 9, 300)
    tags = rng.integers(0, len(scheme), (300, 9))
    want = [decode(scheme, row[:length]) for row, length in zip(tags, lengths, strict=True)]
    assert scheme.decode_batch(tags, lengths) == want
    assert sum(map(len, want)) > 100


def test_decode_of_nothing() -> None:
    scheme = TagScheme(["a"])
    assert decode(scheme, []) == []
    assert scheme.decode_batch(np.zeros((2, 0), dtype=int), np.array([0, 0])) == [[], []]
