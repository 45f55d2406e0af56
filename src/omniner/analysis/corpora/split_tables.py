"""What a divided corpus shows: the sizes of its parts, and every category's share in each of them.

In go the sentences and their `Division`; out come sheets by name, and the same figures as JSON. A deviation is the
share of a category's mentions that a part has, minus the share that it was to have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from omniner.analysis.pages.sheets import COUNT, POINTS, SHARE, TEXT, Sheet
from omniner.analysis.scores.tables import Cell, Table
from omniner.corpus.curation.splits import Division
from omniner.records import Sentence


def build(sentences: Sequence[Sentence], division: Division) -> dict[str, Sheet]:
    """All sheets by name."""
    return {"sizes": _sizes(sentences, division), "categories": _categories(sentences, division)}


def mentions(sentences: Sequence[Sentence], division: Division) -> dict[str, list[int]]:
    """Category -> its mentions in each part, by name."""
    counts: Counter[tuple[str, int]] = Counter()
    for sentence, part in zip(sentences, division.parts, strict=True):
        counts.update((entity.category, part) for entity in sentence.entities)
    parts = range(len(division.names))
    return {name: [counts[name, part] for part in parts] for name in sorted({name for name, _ in counts})}


def to_json(sentences: Sequence[Sentence], division: Division) -> dict[str, Any]:
    """The figures as JSON object."""
    table, (largest, posts) = mentions(sentences, division), _groups(division)
    return {
        "sentences": dict(zip(division.names, division.sizes, strict=True)),
        "targets": dict(zip(division.names, division.targets, strict=True)),
        "shares": dict(zip(division.names, division.shares, strict=True)),
        "together": division.together,
        "posts": posts,
        "groups": len(division.groups),
        "largest_group": largest,
        "mentions": {name: dict(zip(division.names, counts, strict=True)) for name, counts in table.items()},
    }


def verdicts(sentences: Sequence[Sentence], division: Division) -> list[str]:
    """The main figures in words."""
    table, (largest, posts) = mentions(sentences, division), _groups(division)
    total = len(sentences)
    sizes = zip(division.names, division.sizes, division.targets, strict=True)
    shown = (
        f"{name} {size:,} ({size / total:.2%})" + ("" if size == target else f", {size - target:+,} of what was asked")
        for name, size, target in sizes
    )
    worst, part, name = worst_deviation(division, table)
    tied = {"texts": "with a sentence in common", "mentions": "with a sentence with mentions in common"}
    why = f"posts {tied[division.together]} stay together" if division.together in tied else "posts stay whole"
    return [
        f"{total:,} sentences: {'; '.join(shown)}",
        f"{posts:,} posts in {len(division.groups):,} groups ({why}); the largest has {largest:,} sentences",
        f"{len(table):,} categories; farthest from its share: {name or 'none'} in {part} by {100 * worst:+.2f} points",
    ]


def worst_deviation(division: Division, table: dict[str, list[int]]) -> tuple[float, str, str]:
    """The largest deviation: points / 100, part, category."""
    found = [
        (count / sum(counts) - share, part, name)
        for name, counts in table.items()
        for part, share, count in zip(division.names, division.shares, counts, strict=True)
    ]
    return max(found, key=lambda item: abs(item[0]), default=(0.0, division.names[0], ""))


def _groups(division: Division) -> tuple[int, int]:
    return max(map(len, division.groups)), division.posts


def _sizes(sentences: Sequence[Sentence], division: Division) -> Sheet:
    rows: list[list[Cell]] = []
    for part, name in enumerate(division.names):
        held = division.of(sentences, part)
        size, entities = len(held), [entity for sentence in held for entity in sentence.entities]
        groups = sum(division.parts[members[0]] == part for members in division.groups)
        counts: list[Cell] = [size, size - division.targets[part], size / len(sentences), division.shares[part]]
        rows.append([name, *counts, groups, len(entities), len({entity.category for entity in entities})])
    columns = ["split", "sentences", "off_target", "share", "wanted", "groups", "mentions", "categories"]
    kinds = [TEXT, COUNT, "change", SHARE, SHARE, COUNT, COUNT, COUNT]
    return Sheet("Sizes", Table(columns, rows), kinds)


def _categories(sentences: Sequence[Sentence], division: Division) -> Sheet:
    """Farthest from their shares first."""
    groups: Counter[str] = Counter()
    for members in division.groups:
        groups.update({entity.category for position in members for entity in sentences[position].entities})
    found: list[tuple[float, str, list[Cell]]] = []
    for name, counts in mentions(sentences, division).items():
        away = [count / sum(counts) - share for count, share in zip(counts, division.shares, strict=True)]
        found.append((max(map(abs, away)), name, [name, groups[name], sum(counts), *counts, *away]))
    rows = [row for _, _, row in sorted(found, key=lambda item: (-item[0], item[1]))]
    columns = ["category", "groups", "mentions", *division.names, *(f"{name}_deviation" for name in division.names)]
    parts = len(division.names)
    kinds = [TEXT, COUNT, COUNT, *[COUNT] * parts, *[POINTS] * parts]
    return Sheet("Categories, farthest from their shares first (deviations in points)", Table(columns, rows), kinds)
