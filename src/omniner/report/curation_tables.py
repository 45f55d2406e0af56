"""Build the tables of curation tasks: filtered and divided corpora, agreement of annotators, human performance.

For a filter they show the sentences removed as too easy and the doubted labels; for a division, the sizes of its parts
and, for every category, how much its share in each part deviates (share of the category's mentions in the part, minus
the target share). For agreement they show measures with intervals, pairs, categories, error types of every pair,
disputed surfaces, and questions that the guidelines should answer: frequent disagreements of one type.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from omniner.annotators.reliability import F1_KINDS, Agreement, Estimate
from omniner.corpus.easy import FilterResult, RareCategory
from omniner.corpus.splits import Division
from omniner.corpus.taxonomy import primary_of
from omniner.records import Entity, Sentence, entity_to_json, post_key, ranked
from omniner.report.tables import CHANGE, COUNT, NONE, POINTS, SHARE, TEXT, Cell, Table, columns
from omniner.scoring.comparison import SCORES, coverage_notes, human_rows, summarise_scores
from omniner.scoring.error_types import ERROR_TYPES, Phrases, error_types
from omniner.scoring.metrics import ErrtaError, ScoreResult
from omniner.wording import Wording, counted

EXAMPLES = 5  # number of ids named for a difference

_CASES = 3  # number of surfaces named in a suggestion
_MEANING = {
    "alpha.characters": "Krippendorff's alpha over characters",
    "alpha.spans": "Krippendorff's alpha over the spans that anyone marked",
    "alpha.unitizing": "Krippendorff's alpha for unitizing (sentences that all have labelled)",
    "kappa.characters": "Fleiss' kappa over characters (sentences that all have labelled)",
    "f1.strict": "mean F1 of the pairs: same place and category",
    "f1.boundary": "mean F1 of the pairs: same place",
    "f1.relaxed": "mean F1 of the pairs: overlap, same category",
}


def build_filter_tables(filtered: FilterResult) -> dict[str, Table]:
    """Return all tables of a filter by name."""
    return {
        "numbers": _numbers(filtered),
        "folds": _folds(filtered),
        "votes": _votes(filtered),
        "suspects": _suspects(filtered),
        "primaries": _by(filtered, "primary", primary_of),
        "categories": _by(filtered, "category", lambda name: name),
    }


def filter_json(filtered: FilterResult) -> dict[str, Any]:
    """Return the numbers of a filter as a JSON object."""
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
    """Return the lines of `dropped.jsonl`: every mention that was removed from the kept sentences."""
    return [{"id": id, **entity_to_json(entity)} for one in dropped for id, entity in one.mentions]


def filter_summary(filtered: FilterResult) -> list[str]:
    """Return the main numbers of a filter in words."""
    total, removed, needed = len(filtered.verdicts), len(filtered.removed), len(filtered.folds) - 1
    before, after = _counts(verdict.sentence for verdict in filtered.verdicts), _counts(filtered.kept)
    mean = sum(scores["f1"] for scores in filtered.folds) / len(filtered.folds)
    names = [one.category for one in filtered.dropped]
    doubts = filtered.doubts
    return [
        f"{counted(total, 'sentence')}: {removed:,} removed ({removed / total:.2%}: all {needed} models are right), "
        f"{total - removed:,} kept",
        f"mentions {before['mentions']:,} -> {after['mentions']:,}, categories {before['categories']:,} -> "
        f"{after['categories']:,}, primaries {before['primaries']:,} -> {after['primaries']:,}"
        + (f"; dropped: {', '.join(names[:EXAMPLES])}{' ...' if len(names) > EXAMPLES else ''}" if names else ""),
        f"doubted labels: {counted(doubts['sentence'], 'sentence')} where all models say the same and gold does not, "
        f"{doubts['mention']:,} with a mention of that kind",
        f"mean F1 of the models on what they did not see: {100 * mean:.2f}",
    ]


def _counts(sentences: Iterable[Sentence]) -> dict[str, int]:
    found, number, posts = Counter[str](), 0, set[tuple[bool, str]]()
    for sentence in sentences:
        number += 1
        found.update(entity.category for entity in sentence.entities)
        posts.add(post_key(sentence))
    return {
        "sentences": number,
        "posts": len(posts),
        "mentions": found.total(),
        "categories": len(found),
        "primaries": len(set(map(primary_of, found))),
    }


def _numbers(filtered: FilterResult) -> Table:
    before, after = _counts(verdict.sentence for verdict in filtered.verdicts), _counts(filtered.kept)
    rows: list[list[Cell]] = [[name, count, after[name], after[name] / max(count, 1)] for name, count in before.items()]
    heads = [*columns(TEXT, "what"), *columns(COUNT, "before", "kept"), *columns(SHARE, "share")]
    return Table("Before and after", heads, rows)


def _folds(filtered: FilterResult) -> Table:
    rows: list[list[Cell]] = []
    for number, scores in enumerate(filtered.folds):
        own = sum(verdict.fold == number for verdict in filtered.verdicts)
        rows.append([f"{number + 1}", own, len(filtered.verdicts) - own, *(scores[name] for name in SCORES)])
    heads = [*columns(TEXT, "fold"), *columns(COUNT, "sentences", "predicted"), *columns(SHARE, *SCORES)]
    return Table("Models: each on the folds it did not see", heads, rows)


def _votes(filtered: FilterResult) -> Table:
    total = len(filtered.verdicts)
    rows: list[list[Cell]] = [[f"{right}", count, count / total] for right, count in enumerate(filtered.votes)]
    heads = [*columns(TEXT, "right"), *columns(COUNT, "sentences"), *columns(SHARE, "share")]
    return Table("Votes: models that give exactly the gold entities", heads, rows)


def _suspects(filtered: FilterResult) -> Table:
    """Build the table of doubted labels, one row per difference, in the order of the suspects."""
    ids: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
    for one in filtered.suspects:
        ids.setdefault((one.review.doubt, one.review.difference), []).append(one.review.sentence.id)
    rows: list[list[Cell]] = []
    for (doubt, difference), found in ids.items():
        sides = [[f"{text} {sign[1:]}" for sign, text in difference if sign[0] == side] for side in "-+"]
        rows.append([", ".join(sides[0]), ", ".join(sides[1]), doubt, len(found), ", ".join(found[:EXAMPLES])])
    heads = [
        *columns(TEXT, "gold", "models", "models_agree_on"),
        *columns(COUNT, "sentences"),
        *columns(TEXT, "examples"),
    ]
    return Table(
        "Doubted labels: all models give the same other entities, in the sentence or for a mention", heads, rows
    )


def _by(filtered: FilterResult, what: str, name_of: Callable[[str], str]) -> Table:
    """Build the table of mentions of each category or primary before and after, the most reduced first."""
    before = _mentions((verdict.sentence for verdict in filtered.verdicts), name_of)
    after = _mentions(filtered.kept, name_of)
    easy = _mentions(filtered.removed, name_of)
    rows: list[list[Cell]] = [
        [name, count, easy[name], after[name], easy[name] / count]
        for name, count in sorted(before.items(), key=lambda item: (-easy[item[0]] / item[1], item[0]))
    ]
    heads = [*columns(TEXT, what), *columns(COUNT, "before", "removed", "kept"), *columns(SHARE, "removed_share")]
    return Table(f"Mentions by {what}, the easiest first", heads, rows)


def _mentions(sentences: Iterable[Sentence], name_of: Callable[[str], str]) -> Counter[str]:
    return Counter(name_of(entity.category) for sentence in sentences for entity in sentence.entities)


def filter_metrics(filtered: FilterResult) -> dict[str, float]:
    """Return the metrics of a filter for the tracked run."""
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


def build_split_tables(sentences: Sequence[Sentence], division: Division) -> dict[str, Table]:
    """Return all tables of a division by name."""
    return {"sizes": _sizes(sentences, division), "categories": _split_categories(sentences, division)}


def mentions_by_part(sentences: Sequence[Sentence], division: Division) -> dict[str, list[int]]:
    """Return for each category the number of its mentions in each part, sorted by category."""
    counts: Counter[tuple[str, int]] = Counter()
    for sentence, part in zip(sentences, division.parts, strict=True):
        counts.update((entity.category, part) for entity in sentence.entities)
    parts = range(len(division.names))
    return {name: [counts[name, part] for part in parts] for name in sorted({name for name, _ in counts})}


def split_json(sentences: Sequence[Sentence], division: Division) -> dict[str, Any]:
    """Return the numbers of a division as a JSON object."""
    table, (largest, posts) = mentions_by_part(sentences, division), _groups(division)
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
    """Return the main numbers of a division in words."""
    table, (largest, posts) = mentions_by_part(sentences, division), _groups(division)
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
        f"{counted(total, 'sentence')}: {'; '.join(shown)}",
        f"{counted(posts, 'post')} in {counted(len(division.groups), 'group')} ({why}); "
        f"the largest has {counted(largest, 'sentence')}",
        f"{counted(len(table), 'category')}; "
        f"farthest from its share: {name or 'none'} in {part} by {100 * worst:+.2f} points",
    ]


def worst_deviation(division: Division, table: dict[str, list[int]]) -> tuple[float, str, str]:
    """Return the largest deviation of a category from its share: (deviation, part, category)."""
    found = [
        (count / sum(counts) - share, part, name)
        for name, counts in table.items()
        for part, share, count in zip(division.names, division.shares, counts, strict=True)
    ]
    return max(found, key=lambda item: abs(item[0]), default=(0.0, division.names[0], ""))


def _groups(division: Division) -> tuple[int, int]:
    return max(map(len, division.groups)), division.posts


def _sizes(sentences: Sequence[Sentence], division: Division) -> Table:
    rows: list[list[Cell]] = []
    for part, name in enumerate(division.names):
        held = division.of(sentences, part)
        size, entities = len(held), [entity for sentence in held for entity in sentence.entities]
        groups = sum(division.parts[members[0]] == part for members in division.groups)
        counts: list[Cell] = [size, size - division.targets[part], size / len(sentences), division.shares[part]]
        rows.append([name, *counts, groups, len(entities), len({entity.category for entity in entities})])
    heads = [*columns(TEXT, "split"), *columns(COUNT, "sentences"), *columns(CHANGE, "off_target")]
    heads += [*columns(SHARE, "share", "wanted"), *columns(COUNT, "groups", "mentions", "categories")]
    return Table("Sizes", heads, rows)


def _split_categories(sentences: Sequence[Sentence], division: Division) -> Table:
    """Build the table of categories, those farthest from their shares first."""
    groups: Counter[str] = Counter()
    for members in division.groups:
        groups.update({entity.category for position in members for entity in sentences[position].entities})
    found: list[tuple[float, str, list[Cell]]] = []
    for name, counts in mentions_by_part(sentences, division).items():
        away = [count / sum(counts) - share for count, share in zip(counts, division.shares, strict=True)]
        found.append((max(map(abs, away)), name, [name, groups[name], sum(counts), *counts, *away]))
    rows = [row for _, _, row in sorted(found, key=lambda item: (-item[0], item[1]))]
    heads = [*columns(TEXT, "category"), *columns(COUNT, "groups", "mentions", *division.names)]
    heads += columns(POINTS, *(f"{name}_deviation" for name in division.names))
    return Table("Categories, farthest from their shares first (deviations in points)", heads, rows)


class Suggestion(NamedTuple):
    """An open question of the guidelines: its type, categories, frequency and commonest cases, and advice."""

    type: str
    about: str
    times: int
    examples: str
    advice: str


def build_agreement_tables(agreement: Agreement) -> dict[str, Table]:
    """Return all tables of annotator agreement by name."""
    return {
        "figures": _figures(agreement),
        "pairs": _pairs(agreement),
        "suggestions": _suggestions(agreement),
        "categories": _agreement_categories(agreement),
        "errors": _errors(agreement),
        "surfaces": _surfaces(agreement),
    }


def none_if_nan(value: float) -> float | None:
    """Return a value for JSON, in which an undefined one is null."""
    return None if math.isnan(value) else value


def agreement_json(agreement: Agreement) -> dict[str, Any]:
    """Return the measures, categories and error counts as a JSON object."""
    return {
        "annotators": agreement.names,
        "sentences": agreement.sentences,
        "complete": agreement.complete,
        "posts": agreement.posts,
        "resampled": agreement.resampled,
        "confidence": agreement.settings.confidence,
        "figures": {
            name: {key: none_if_nan(value) for key, value in figure._asdict().items()}
            for name, figure in agreement.estimates.items()
        },
        "categories": {
            row.name: {
                "mentions": dict(zip(agreement.names, row.mentions, strict=True)),
                "f1": none_if_nan(row.f1),
                "alpha_characters": none_if_nan(row.alpha_characters),
                "alpha_spans": none_if_nan(row.alpha_spans),
                "alpha_unitizing": none_if_nan(row.alpha_unitizing),
            }
            for row in agreement.categories
        },
        "errors": {
            f"{one}, {other}": {kind: count.errors for kind, count in result.by_type.items()}
            for (one, other), result in agreement.errors.items()
        },
    }


def _cell(value: float) -> Cell:
    return NONE if math.isnan(value) else value


def _with_bounds(figure: Estimate) -> list[Cell]:
    return [_cell(value) for value in figure]


def _figures(agreement: Agreement) -> Table:
    rows = [[Wording(text), *_with_bounds(agreement.estimates[name])] for name, text in _MEANING.items()]
    return Table(
        Wording("Agreement (x 100)"), [*columns(TEXT, "figure"), *columns(SHARE, "value", "low", "high")], rows
    )


def _pairs(agreement: Agreement) -> Table:
    rows: list[list[Cell]] = []
    for one, other in combinations(agreement.names, 2):
        figures = [agreement.estimates[f"f1.{kind}.{one}.{other}"] for kind in F1_KINDS]
        rows.append([one, other, *(cell for figure in figures for cell in _with_bounds(figure))])
    names = [f"{kind}{end}" for kind in F1_KINDS for end in ("", "_low", "_high")]
    return Table(Wording("F1 of every pair"), [*columns(TEXT, "one", "other"), *columns(SHARE, *names)], rows)


def _agreement_categories(agreement: Agreement) -> Table:
    rows: list[list[Cell]] = [
        [row.name, *row.mentions, *map(_cell, (row.f1, row.alpha_characters, row.alpha_spans, row.alpha_unitizing))]
        for row in sorted(agreement.categories, key=lambda row: (math.isnan(row.f1), row.f1, row.name))
    ]
    heads = [
        *columns(TEXT, "category"),
        *columns(COUNT, *(Wording("mentions {name}", name=name) for name in agreement.names)),
    ]
    heads += columns(SHARE, "f1", "alpha_characters", "alpha_spans", "alpha_unitizing")
    return Table(Wording("Categories, least agreed first"), heads, rows)


def _errors(agreement: Agreement) -> Table:
    names = [entry.name for entry in error_types("span")]
    rows: list[list[Cell]] = []
    for (one, other), result in agreement.errors.items():
        counts = [result.by_type[name].errors for name in names]
        rows.append([one, other, *counts, sum(counts)])
    labels = [Wording.both(name, ERROR_TYPES[name].chinese) for name in names]
    heads = [*columns(TEXT, "one", "other"), *columns(COUNT, *labels, "total")]
    return Table(Wording("Disagreements by ERRTA type (the second against the first)"), heads, rows)


def _surfaces(agreement: Agreement) -> Table:
    rows: list[list[Cell]] = []
    for row in agreement.surfaces[: agreement.settings.top]:
        if row.disputed:
            labels = ranked(row.labels)
            unmarked = Wording("not marked")
            said = Wording.joined(
                ", ", (Wording("{label} {count}", label=label or unmarked, count=count) for label, count in labels)
            )
            rows.append([row.surface, row.disputed, row.seen, row.disputed / row.seen, said])
    heads = [*columns(TEXT, "surface"), *columns(COUNT, "disputed", "marked"), *columns(SHARE, "share")]
    return Table(Wording("Most disputed surfaces"), [*heads, *columns(TEXT, "labels in the disputes")], rows)


def _suggestions(agreement: Agreement) -> Table:
    errors = [error for result in agreement.errors.values() for error in result.errors]
    rows: list[list[Cell]] = [list(found) for found in suggest_rules(errors)[: agreement.settings.top]]
    heads = [
        *columns(TEXT, Wording.both("type", "问题类型"), "about"),
        *columns(COUNT, "count"),
        *columns(TEXT, "examples", "suggestion"),
    ]
    return Table(Wording("What the guidelines should settle"), heads, rows)


def suggest_rules(errors: Iterable[ErrtaError]) -> list[Suggestion]:
    """Return the open questions of the guidelines, the most frequent first.

    The order of the errors, and which annotator of a pair counts as gold, have no effect.
    """
    cases: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    advice: dict[str, Phrases] = {}
    for error in errors:
        question = ERROR_TYPES[error.type].question
        shorter, longer = sorted((error.gold, error.predicted), key=_size)
        about = " / ".join(sorted({entity.category for entity in (*shorter, *longer)}))
        texts = (" + ".join(entity.text for entity in side) for side in (longer, shorter))
        example = question.example.wording(**dict(zip(("longer", "shorter"), texts, strict=True)))
        asked = question.name.wording()
        cases[asked, about][example] += 1
        advice[asked] = question.advice
    found = []
    for (name, about), examples in cases.items():
        common = ranked(examples, _CASES)
        shown = (Wording("{example} ({count})", example=example, count=count) for example, count in common)
        said = advice[name].wording(about=about)
        found.append(Suggestion(name, about, examples.total(), Wording.joined(", ", shown), said))
    return sorted(found, key=lambda item: (-item.times, item.type, item.about))


def _size(side: tuple[Entity, ...]) -> tuple[int, str]:
    return sum(len(entity.text) for entity in side), " ".join(entity.text for entity in side)


def build_human_table(results: Mapping[str, ScoreResult], sentences: int) -> Table:
    """Build the table of human performance: mean and spread per primary and in total, and the F1 of each annotator.

    Args:
        results: scores by annotator.
        sentences: number of gold sentences.
    """
    rows: list[list[Cell]] = []
    for name, scores in human_rows(results).items():
        cells: list[Cell] = [name, max(row.support for row in scores.values())]
        for place in range(3):  # precision, recall, F1
            mean, deviation, lowest, highest = summarise_scores([row[place] for row in scores.values()])
            cells += [mean, deviation, lowest, highest]
        rows.append([*cells, *(scores[one].f1 if one in scores else NONE for one in results)])
    spreads = [f"{score}{what}" for score in SCORES for what in ("", "_deviation", "_lowest", "_highest")]
    heads = [*columns(TEXT, "primary"), *columns(COUNT, "support")]
    heads += columns(SHARE, *spreads, *(Wording("f1 {name}", name=name) for name in results))
    first = Wording("Human performance: mean and spread over the annotators")
    return Table(Wording.joined("; ", [first, *coverage_notes(results, sentences)]), heads, rows)
