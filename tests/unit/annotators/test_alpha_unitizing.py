"""Alpha for unitizing: the published example, and formulas written out unit by unit."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest

from omniner.annotators.alpha import Units, alpha_unitizing, collect_units, expected_disagreement, observed_disagreement
from omniner.records import Entity

Bounds = list[tuple[int, int]]


def units(bounds: Bounds) -> Units:
    begin, end = np.array(sorted(bounds), dtype=np.int64).reshape(-1, 2).T
    return Units(begin, end)


# Krippendorff (2004), p. 254: a continuum of 300 that begins at 150, two observers, (begin, length) of each unit
PUBLISHED = {
    "c": ([(225, 70), (370, 30)], [(220, 80), (355, 20), (400, 20)]),
    "k": ([(180, 60), (300, 50)], [(180, 60), (300, 50)]),
}


def test_the_published_example() -> None:
    observers = [
        {
            name: units([(begin - 150, begin - 150 + size) for begin, size in sides[n]])
            for name, sides in PUBLISHED.items()
        }
        for n in (0, 1)
    ]
    whole, by_category = alpha_unitizing(300, observers)
    assert whole == pytest.approx(0.8591, abs=5e-4)
    assert by_category == {"c": pytest.approx(0.7286, abs=1e-4), "k": 1.0}
    c, k = ([observer[name] for observer in observers] for name in "ck")
    assert observed_disagreement(300, c) == pytest.approx(0.0144, abs=1e-4)
    assert expected_disagreement(300, c) == pytest.approx(0.0532, abs=1e-4)
    assert expected_disagreement(300, k) == pytest.approx(0.0490, abs=1e-4)


def sections(length: int, bounds: Bounds) -> list[tuple[int, int, bool]]:
    """Units (True) and the gaps between them as (begin, length, whether a unit)."""
    found, at = [], 0
    for begin, end in [*sorted(bounds), (length, length)]:
        if begin > at:
            found.append((at, begin - at, False))
        if end > begin:
            found.append((begin, end - begin, True))
        at = end
    return found


def distance(one: tuple[int, int, bool], other: tuple[int, int, bool]) -> int:
    """The four cases of Krippendorff (1995)."""
    (b, size, unit), (c, width, theirs) = one, other
    if unit and theirs and -size < b - c < width:
        return (b - c) ** 2 + (b + size - c - width) ** 2
    if unit and not theirs and width - size >= b - c >= 0:
        return size**2
    if not unit and theirs and size - width >= c - b >= 0:
        return width**2
    return 0


def slow_alpha(length: int, annotators: list[Bounds]) -> float:
    m = len(annotators)
    parts = [sections(length, bounds) for bounds in annotators]
    observed = sum(distance(a, b) for i in range(m) for j in range(m) if i != j for a in parts[i] for b in parts[j]) / (
        m * (m - 1) * length**2
    )
    sizes = [size for one in parts for _, size, unit in one if unit]
    gaps = [size for one in parts for _, size, unit in one if not unit]
    total = sum(
        (len(sizes) - 1) / 3 * (2 * s**3 - 3 * s**2 + s) + s**2 * sum(gap - s + 1 for gap in gaps if gap >= s)
        for s in sizes
    )
    expected = 2 / length * total / (m * length * (m * length - 1) - sum(s * (s - 1) for s in sizes))
    return 1 - observed / expected


def drawn(draw: Random, length: int) -> Bounds:
    """Units that do not overlap; some touch each other or the ends."""
    found, at = [], draw.randrange(4)
    while at < length:
        end = min(length, at + draw.randint(1, 6))
        found.append((at, end))
        at = end + draw.choice([0, 0, 1, 2, 9, 20])
    return found


def test_random_units_against_the_slow_twin() -> None:
    draw = Random(3)
    for annotators in (2, 3, 4):
        for _ in range(40):
            length = draw.randint(12, 90)
            sides = [drawn(draw, length) if draw.random() < 0.9 else [] for _ in range(annotators)]
            if not any(sides):
                continue
            whole, _ = alpha_unitizing(length, [{"x": units(bounds)} if bounds else {} for bounds in sides])
            assert whole == pytest.approx(slow_alpha(length, sides), abs=1e-9)


def marked(*bounds: tuple[int, int, str]) -> tuple[Entity, ...]:
    return tuple(Entity("x" * (end - start), name, start, end) for start, end, name in bounds)


def test_sentences_stand_one_behind_the_other() -> None:
    annotations = [
        (marked((1, 3, "X")), marked((1, 3, "X"))),
        (marked((0, 2, "X")), None),  # not labelled by both: no part of the text
        (marked((0, 4, "X"), (2, 6, "X"), (6, 7, "X"), (6, 7, "Y"), (8, 8, "Y")), ()),
    ]
    length, (one, other) = collect_units([10, 20, 9], annotations, 2)
    assert length == 19
    assert [side.tolist() for side in one["X"]] == [[1, 10, 16], [3, 16, 17]]  # the two that overlap are one
    assert [side.tolist() for side in one["Y"]] == [[16], [17]]
    assert [side.tolist() for side in other["X"]] == [[1], [3]]


def test_a_near_miss_is_better_than_a_miss() -> None:
    gold = marked((2, 6, "X"), (20, 24, "X"))
    near, miss = marked((2, 5, "X"), (20, 24, "X")), marked((20, 24, "X"))
    found = [alpha_unitizing(*collect_units([40], [(gold, side)], 2))[0] for side in (gold, near, miss)]
    assert found[0] == 1.0
    assert found[0] > found[1] > found[2]
    assert math.isnan(alpha_unitizing(*collect_units([40], [((), ())], 2))[0])
