"""What a filtered corpus shows: before and after, folds, votes, categories, and the labels that are doubted.

In go the verdicts on all sentences, the kept ones and what was dropped; out come sheets by name, the figures as JSON,
and the main ones in words.

What a divided corpus shows: the sizes of its parts, and every category's share in each of them.

In go the sentences and their `Division`; out come sheets by name, and the same figures as JSON. A deviation is the
share of a category's mentions that a part has, minus the share that it was to have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omniner.corpus.easy import ContradictedLabel, RareCategory, ReviewedSentence
from omniner.corpus.splits import Division
from omniner.corpus.taxonomy import primary_of
from omniner.records import Sentence, entity_to_json
from omniner.report.tables import COUNT, POINTS, SHARE, TEXT, Cell, Sheet, Table

EXAMPLES = 5  # ids named beside a difference
SCORES = ("precision", "recall", "f1")


@dataclass(frozen=True)
class Filtered:
    """All that a filter found: `folds` has the scores of each fold's model on the others, by metric name."""

    verdicts: list[ReviewedSentence]
    kept: list[Sentence]
    dropped: list[RareCategory]
    suspects: list[ContradictedLabel]
    folds: list[Mapping[str, float]]
    unit: str
    together: str

    @property
    def removed(self) -> list[Sentence]:
        """The easy sentences."""
        return [verdict.sentence for verdict in self.verdicts if verdict.is_easy]

    @property
    def doubts(self) -> dict[str, int]:
        """How many sentences are doubted as a whole, and for a mention."""
        counts = Counter(one.verdict.doubt for one in self.suspects)
        return {doubt: counts[doubt] for doubt in ("sentence", "mention")}

    @property
    def votes(self) -> list[int]:
        """How many sentences 0, 1, ... models got right."""
        counts = Counter(verdict.right for verdict in self.verdicts)
        return [counts[right] for right in range(len(self.folds))]


def filter_sheets(filtered: Filtered) -> dict[str, Sheet]:
    """All sheets by name."""
    return {
        "numbers": _numbers(filtered),
        "folds": _folds(filtered),
        "votes": _votes(filtered),
        "suspects": _suspects(filtered),
        "primaries": _by(filtered, "primary", primary_of),
        "categories": _by(filtered, "category", lambda name: name),
    }


def filter_json(filtered: Filtered) -> dict[str, Any]:
    """The figures as JSON object."""
    before, after = _counts(verdict.sentence for verdict in filtered.verdicts), _counts(filtered.kept)
    return {
        "before": before,
        "kept": after,
        "removed": len(filtered.removed),
        "suspects": filtered.doubts,
        "votes": filtered.votes,
        "folds": [dict(scores) for scores in filtered.folds],
        "unit": filtered.unit,
        "together": filtered.together,
        "dropped": {one.category: {"before": one.before, "kept": len(one.mentions)} for one in filtered.dropped},
    }


def dropped_to_json(dropped: Iterable[RareCategory]) -> list[dict[str, Any]]:
    """The lines of `dropped.jsonl`: every mention that was taken out of the kept sentences."""
    return [{"id": id, **entity_to_json(entity)} for one in dropped for id, entity in one.mentions]


def filter_summary(filtered: Filtered) -> list[str]:
    """The main figures in words."""
    total, removed, needed = len(filtered.verdicts), len(filtered.removed), len(filtered.folds) - 1
    before, after = _counts(verdict.sentence for verdict in filtered.verdicts), _counts(filtered.kept)
    mean = sum(scores["f1"] for scores in filtered.folds) / len(filtered.folds)
    names = [one.category for one in filtered.dropped]
    doubts = filtered.doubts
    return [
        f"{total:,} sentences: {removed:,} removed ({removed / total:.2%}: all {needed} models are right), "
        f"{total - removed:,} kept",
        f"mentions {before['mentions']:,} -> {after['mentions']:,}, categories {before['categories']:,} -> "
        f"{after['categories']:,}, primaries {before['primaries']:,} -> {after['primaries']:,}"
        + (f"; dropped: {', '.join(names[:EXAMPLES])}{' ...' if len(names) > EXAMPLES else ''}" if names else ""),
        f"doubted labels: {doubts['sentence']:,} sentences of which all models say the same and gold something else, "
        f"{doubts['mention']:,} with a mention of that kind",
        f"mean F1 of the models on what they did not see: {100 * mean:.2f}",
    ]


def _counts(sentences: Iterable[Sentence]) -> dict[str, int]:
    found, number, posts = Counter[str](), 0, set[str]()
    for sentence in sentences:
        number += 1
        found.update(entity.category for entity in sentence.entities)
        posts.add(f"post {sentence.post_id}" if sentence.post_id is not None else f"sentence {sentence.id}")
    return {
        "sentences": number,
        "posts": len(posts),
        "mentions": found.total(),
        "categories": len(found),
        "primaries": len(set(map(primary_of, found))),
    }


def _numbers(filtered: Filtered) -> Sheet:
    before, after = _counts(verdict.sentence for verdict in filtered.verdicts), _counts(filtered.kept)
    rows: list[list[Cell]] = [[name, count, after[name], after[name] / max(count, 1)] for name, count in before.items()]
    return Sheet("Before and after", Table(["what", "before", "kept", "share"], rows), [TEXT, COUNT, COUNT, SHARE])


def _folds(filtered: Filtered) -> Sheet:
    rows: list[list[Cell]] = []
    for number, scores in enumerate(filtered.folds):
        own = sum(verdict.fold == number for verdict in filtered.verdicts)
        rows.append([f"{number + 1}", own, len(filtered.verdicts) - own, *(scores[name] for name in SCORES)])
    columns = ["fold", "sentences", "predicted", *SCORES]
    return Sheet("Models: each on the folds it did not see", Table(columns, rows), [TEXT, COUNT, COUNT, *[SHARE] * 3])


def _votes(filtered: Filtered) -> Sheet:
    total = len(filtered.verdicts)
    rows: list[list[Cell]] = [[f"{right}", count, count / total] for right, count in enumerate(filtered.votes)]
    title = "Votes: models that give exactly the gold entities"
    return Sheet(title, Table(["right", "sentences", "share"], rows), [TEXT, COUNT, SHARE])


def _suspects(filtered: Filtered) -> Sheet:
    """A row per difference; the order is that of the suspects."""
    ids: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    for one in filtered.suspects:
        ids.setdefault((one.verdict.doubt, one.verdict.difference), []).append(one.verdict.sentence.id)
    rows: list[list[Cell]] = []
    for (doubt, difference), found in ids.items():
        sides = [[f"{text} {sign[1:]}" for sign, text in difference if sign[0] == side] for side in "-+"]
        rows.append([", ".join(sides[0]), ", ".join(sides[1]), doubt, len(found), ", ".join(found[:EXAMPLES])])
    columns = ["gold", "models", "models_agree_on", "sentences", "examples"]
    title = "Doubted labels: all models give the same other entities, in the sentence or for a mention"
    return Sheet(title, Table(columns, rows), [TEXT, TEXT, TEXT, COUNT, TEXT])


def _by(filtered: Filtered, what: str, name_of: Callable[[str], str]) -> Sheet:
    """The mentions of each category or primary before and after; the most thinned out first."""
    before = _mentions((verdict.sentence for verdict in filtered.verdicts), name_of)
    after = _mentions(filtered.kept, name_of)
    easy = _mentions(filtered.removed, name_of)
    rows: list[list[Cell]] = [
        [name, count, easy[name], after[name], easy[name] / count]
        for name, count in sorted(before.items(), key=lambda item: (-easy[item[0]] / item[1], item[0]))
    ]
    columns = [what, "before", "removed", "kept", "removed_share"]
    title = f"Mentions by {what}, the easiest first"
    return Sheet(title, Table(columns, rows), [TEXT, COUNT, COUNT, COUNT, SHARE])


def _mentions(sentences: Iterable[Sentence], name_of: Callable[[str], str]) -> Counter[str]:
    return Counter(name_of(entity.category) for sentence in sentences for entity in sentence.entities)


def filter_metrics(filtered: Filtered) -> dict[str, float]:
    """What the run logs."""
    before, after = _counts(verdict.sentence for verdict in filtered.verdicts), _counts(filtered.kept)
    values: dict[str, float] = {f"filter/before/{name}": count for name, count in before.items()}
    values |= {f"filter/kept/{name}": count for name, count in after.items()}
    values |= {"filter/removed": len(filtered.removed)}
    values |= {f"filter/suspects/{doubt}": count for doubt, count in filtered.doubts.items()}
    values |= {"filter/dropped_categories": len(filtered.dropped)}
    values |= {f"filter/right/{right}": count for right, count in enumerate(filtered.votes)}
    for number, scores in enumerate(filtered.folds, 1):
        values |= {f"filter/fold_{number}/{name}": scores[name] for name in SCORES}
    return values


def split_sheets(sentences: Sequence[Sentence], division: Division) -> dict[str, Sheet]:
    """All sheets by name."""
    return {"sizes": _sizes(sentences, division), "categories": _categories(sentences, division)}


def mentions(sentences: Sequence[Sentence], division: Division) -> dict[str, list[int]]:
    """Category -> its mentions in each part, by name."""
    counts: Counter[tuple[str, int]] = Counter()
    for sentence, part in zip(sentences, division.parts, strict=True):
        counts.update((entity.category, part) for entity in sentence.entities)
    parts = range(len(division.names))
    return {name: [counts[name, part] for part in parts] for name in sorted({name for name, _ in counts})}


def split_json(sentences: Sequence[Sentence], division: Division) -> dict[str, Any]:
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


def split_summary(sentences: Sequence[Sentence], division: Division) -> list[str]:
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
