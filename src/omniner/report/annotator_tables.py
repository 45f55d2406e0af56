"""What an agreement measurement shows: its tables, and where the guidelines should say more.

`build` makes the sheets: figures with intervals, pairs, categories, error types of every pair, disputed surfaces and
suggestions. A suggestion is a frequent disagreement of one ERRTA type, put as the question that the guidelines leave
open, with its commonest surfaces; the direction does not matter (who was missing what), so pairs are counted together.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

from omniner.annotators.reliability import F1_KINDS, Agreement, Estimate
from omniner.records import Entity
from omniner.registry import ERROR_TYPES
from omniner.report.tables import COUNT, NONE, SHARE, TEXT, Cell, Sheet, Table
from omniner.score.error_types import error_types
from omniner.score.human import SCORES, coverage_notes, human_rows, summarise_scores
from omniner.score.results import ErrtaError, ScoreResult

_EXAMPLES = 3  # surfaces named in one suggestion


class Suggestion(NamedTuple):
    """An open question of the guidelines: its type, what it is about, how often it came up, its commonest cases."""

    type: str
    about: str
    times: int
    examples: str
    advice: str


def build(agreement: Agreement) -> dict[str, Sheet]:
    """All sheets by name."""
    return {
        "figures": _figures(agreement),
        "pairs": _pairs(agreement),
        "suggestions": _suggestions(agreement),
        "categories": _categories(agreement),
        "errors": _errors(agreement),
        "surfaces": _surfaces(agreement),
    }


def number(value: float) -> float | None:
    """A figure for JSON: undefined ones are null."""
    return None if math.isnan(value) else value


def to_json(agreement: Agreement) -> dict[str, Any]:
    """The figures, categories and error counts as JSON object."""
    return {
        "annotators": agreement.names,
        "sentences": agreement.sentences,
        "complete": agreement.complete,
        "posts": agreement.posts,
        "resampled": agreement.resampled,
        "confidence": agreement.settings.confidence,
        "figures": {
            name: {key: number(value) for key, value in figure._asdict().items()}
            for name, figure in agreement.figures.items()
        },
        "categories": {
            row.name: {
                "mentions": dict(zip(agreement.names, row.mentions, strict=True)),
                "f1": number(row.f1),
                "alpha_characters": number(row.alpha_characters),
                "alpha_spans": number(row.alpha_spans),
                "alpha_unitizing": number(row.alpha_unitizing),
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


_MEANING = {
    "alpha.characters": "Krippendorff's alpha over characters",
    "alpha.spans": "Krippendorff's alpha over the spans that anyone marked",
    "alpha.unitizing": "Krippendorff's alpha for unitizing (sentences that all have labelled)",
    "kappa.characters": "Fleiss' kappa over characters (sentences that all have labelled)",
    "f1.strict": "mean F1 of the pairs: same place and category",
    "f1.boundary": "mean F1 of the pairs: same place",
    "f1.relaxed": "mean F1 of the pairs: overlap, same category",
}


def _figures(agreement: Agreement) -> Sheet:
    rows = [[text, *_with_bounds(agreement.figures[name])] for name, text in _MEANING.items()]
    return Sheet("Agreement (x 100)", Table(["figure", "value", "low", "high"], rows), [TEXT, SHARE, SHARE, SHARE])


def _pairs(agreement: Agreement) -> Sheet:
    rows: list[list[Cell]] = []
    for one, other in combinations(agreement.names, 2):
        figures = [agreement.figures[f"f1.{kind}.{one}.{other}"] for kind in F1_KINDS]
        rows.append([one, other, *(cell for figure in figures for cell in _with_bounds(figure))])
    columns = ["one", "other", *(f"{kind}{end}" for kind in F1_KINDS for end in ("", "_low", "_high"))]
    return Sheet("F1 of every pair", Table(columns, rows), [TEXT, TEXT, *[SHARE] * 9])


def _categories(agreement: Agreement) -> Sheet:
    rows: list[list[Cell]] = [
        [row.name, *row.mentions, *map(_cell, (row.f1, row.alpha_characters, row.alpha_spans, row.alpha_unitizing))]
        for row in sorted(agreement.categories, key=lambda row: (math.isnan(row.f1), row.f1, row.name))
    ]
    names = [f"mentions {name}" for name in agreement.names]
    columns = ["category", *names, "f1", "alpha_characters", "alpha_spans", "alpha_unitizing"]
    kinds = [TEXT, *[COUNT] * len(names), *[SHARE] * 4]
    return Sheet("Categories, least agreed first", Table(columns, rows), kinds)


def _errors(agreement: Agreement) -> Sheet:
    names = [entry.name for entry in error_types("span")]
    rows: list[list[Cell]] = []
    for (one, other), result in agreement.errors.items():
        counts = [result.by_type[name].errors for name in names]
        rows.append([one, other, *counts, sum(counts)])
    title = "Disagreements by ERRTA type (the second against the first)"
    kinds = [TEXT, TEXT, *[COUNT] * (len(names) + 1)]
    return Sheet(title, Table(["one", "other", *names, "total"], rows), kinds)


def _surfaces(agreement: Agreement) -> Sheet:
    rows: list[list[Cell]] = []
    for row in agreement.surfaces[: agreement.settings.top]:
        if row.disputed:
            labels = sorted(row.labels.items(), key=lambda item: (-item[1], item[0]))
            said = ", ".join(f"{label or 'not marked'} {count}" for label, count in labels)
            rows.append([row.surface, row.disputed, row.seen, row.disputed / row.seen, said])
    columns = ["surface", "disputed", "marked", "share", "labels in the disputes"]
    return Sheet("Most disputed surfaces", Table(columns, rows), [TEXT, COUNT, COUNT, SHARE, TEXT])


def _suggestions(agreement: Agreement) -> Sheet:
    errors = [error for result in agreement.errors.values() for error in result.errors]
    rows: list[list[Cell]] = [list(found) for found in suggest(errors)[: agreement.settings.top]]
    columns = ["type", "about", "count", "examples", "suggestion"]
    return Sheet("What the guidelines should settle", Table(columns, rows), [TEXT, TEXT, COUNT, TEXT, TEXT])


def suggest(errors: Iterable[ErrtaError]) -> list[Suggestion]:
    """What the guidelines leave open, the most frequent first; depends on no order, and on no direction."""
    cases: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    advice: dict[str, str] = {}
    for error in errors:
        question = ERROR_TYPES[error.type].question
        shorter, longer = sorted((error.gold, error.predicted), key=_size)
        about = " / ".join(sorted({entity.category for entity in (*shorter, *longer)}))
        texts = (" + ".join(entity.text for entity in side) for side in (longer, shorter))
        example = question.example.format(**dict(zip(("longer", "shorter"), texts, strict=True)))
        cases[question.name, about][example] += 1
        advice[question.name] = question.advice
    found = []
    for (name, about), examples in cases.items():
        common = sorted(examples.items(), key=lambda item: (-item[1], item[0]))[:_EXAMPLES]
        shown = ", ".join(f"{example} ({count})" for example, count in common)
        found.append(Suggestion(name, about, examples.total(), shown, advice[name].format(about=about)))
    return sorted(found, key=lambda item: (-item.times, item.type, item.about))


def _size(side: tuple[Entity, ...]) -> tuple[int, str]:
    return sum(len(entity.text) for entity in side), " ".join(entity.text for entity in side)


def human_sheet(results: Mapping[str, ScoreResult], sentences: int) -> Sheet:
    """Mean and spread per primary and for the whole, and the F1 of each person.

    Args:
        results: by person.
        sentences: of the whole gold.
    """
    rows: list[list[Cell]] = []
    for name, scores in human_rows(results).items():
        cells: list[Cell] = [name, max(row.support for row in scores.values())]
        for place in range(3):  # precision, recall, F1
            mean, deviation, lowest, highest = summarise_scores([row[place] for row in scores.values()])
            cells += [mean, deviation, lowest, highest]
        rows.append([*cells, *(scores[one].f1 if one in scores else NONE for one in results)])
    columns = [f"{score}{what}" for score in SCORES for what in ("", "_deviation", "_lowest", "_highest")]
    names = [f"f1 {name}" for name in results]
    kinds = [TEXT, COUNT, *[SHARE] * (len(columns) + len(names))]
    title = "; ".join(["Human performance: mean and spread over the annotators", *coverage_notes(results, sentences)])
    return Sheet(title, Table(["primary", "support", *columns, *names], rows), kinds)
