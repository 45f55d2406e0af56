"""Compute precision, recall and F1 from exact integer counts, and define the values of `scores.json`.

`evaluate` computes the `Metrics` of a comparison of gold and predictions (`units`); `scorer` assembles the
`ScoreResult`. The names in `to_json` are a stable interface that other programs read: add to them, never rename them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from operator import itemgetter
from typing import Any, NamedTuple

from omniner.corpus.taxonomy import primary_of
from omniner.records import Entity, Issue, Prediction, Sentence, count_codes
from omniner.scoring.error_types import ERROR_TYPES
from omniner.scoring.units import IMPOSSIBLE, Comparison, ImpossibleAnswer
from omniner.wording import counted

_TENTHS = 10


class ScoreRow(NamedTuple):
    """Precision, recall and F1 of a category, a primary or all together, with the counts behind them.

    The counts of a mean (macro, weighted) are those of all categories; `support` is the number of gold units.
    """

    precision: float
    recall: float
    f1: float
    support: int
    tp: int
    fp: int
    fn: int

    def to_json(self) -> dict[str, float | int]:
        """Return the row as a JSON object."""
        return self._asdict()

    def brief(self) -> str:
        """The three scores in per cent, in one line."""
        return f"P {100 * self.precision:.1f} R {100 * self.recall:.1f} F1 {100 * self.f1:.1f}"


class PrimaryRow(NamedTuple):
    """Scores of one primary: `strict` requires the full category, `relaxed` only the primary."""

    strict: ScoreRow
    relaxed: ScoreRow

    def to_json(self) -> dict[str, Any]:
        """Return the strict row, with the relaxed one under `relaxed`."""
        return {**self.strict.to_json(), "relaxed": self.relaxed.to_json()}


class Interval(NamedTuple):
    """A confidence interval of one figure."""

    low: float
    high: float


@dataclass(slots=True)
class UnitScores:
    """The main scores by one unit. Every run has them by both units, whichever unit `Metrics` uses."""

    micro: ScoreRow
    macro: ScoreRow  # mean over the categories in gold
    intervals: dict[str, Interval] = field(default_factory=dict)  # as in `Metrics`

    def to_json(self) -> dict[str, Any]:
        """Return one entry of the `units` object of `scores.json`."""
        intervals = {name: list(interval) for name, interval in self.intervals.items()}
        return {"micro": self.micro.to_json(), "macro": self.macro.to_json(), "intervals": intervals}


class OverlapRow(NamedTuple):
    """Scores by one scheme of SemEval-2013 (task 9), with the numbers of entities behind them.

    Every predicted entity is correct, partial, incorrect or spurious; every gold entity is correct, partial, incorrect
    or missed. A partial one counts half.
    """

    precision: float
    recall: float
    f1: float
    correct: int
    partial: int
    incorrect: int
    missed: int
    spurious: int


@dataclass(slots=True)
class Metrics:
    """All scores of one comparison. Rows are in sorted name order."""

    unit: str  # pair | span: the resolved unit, never `auto`
    micro: ScoreRow
    macro: ScoreRow  # mean over the categories in gold
    macro_seen: ScoreRow  # mean over all categories in gold or prediction
    weighted: ScoreRow  # mean weighted by support
    categories: dict[str, ScoreRow]
    primaries: dict[str, PrimaryRow]
    relaxed: ScoreRow  # micro, primary only
    # "micro.precision", "micro.recall", "micro.f1", "macro.f1" -> interval; empty without bootstrap
    intervals: dict[str, Interval] = field(default_factory=dict)
    confidence: float = 0.0  # of the intervals
    resamples: int = 0
    resampled: str = ""  # posts | sentences

    def to_json(self) -> dict[str, Any]:
        """Return the `metrics` object of `scores.json`."""
        return {
            "unit": self.unit,
            "micro": self.micro.to_json(),
            "macro": self.macro.to_json(),
            "macro_seen": self.macro_seen.to_json(),
            "weighted": self.weighted.to_json(),
            "relaxed": self.relaxed.to_json(),
            "categories": {name: row.to_json() for name, row in self.categories.items()},
            "primaries": {name: row.to_json() for name, row in self.primaries.items()},
            "intervals": {
                "confidence": self.confidence,
                "resamples": self.resamples,
                "resampled": self.resampled,
                **{name: list(interval) for name, interval in self.intervals.items()},
            },
        }


class ErrtaError(NamedTuple):
    """One error with its units: each gold entity is one false negative, each predicted entity one false positive.

    `classification`, `boundary`, `boundary_class`, `spelling`, `split_merge`: one gold, one predicted; `split`: one
    gold, two or more predicted; `merge`: two or more gold, one predicted; `missing`: one gold; `redundant`: one
    predicted.
    """

    type: str
    sentence_id: str
    gold: tuple[Entity, ...]
    predicted: tuple[Entity, ...]


class TypeCount(NamedTuple):
    """Number of errors of one type, and of the false negatives and false positives in them."""

    errors: int
    fn: int
    fp: int


@dataclass(slots=True, repr=False)
class ErrtaResult:
    """The sorted errors of all sentences that were read."""

    mode: str  # official | span: the resolved mode, never `auto`
    unit: str  # pair | span: the unit of a false positive or negative
    errors: list[ErrtaError]
    by_type: dict[str, TypeCount]  # the types that this mode can find, in the order of `error_types`, including zeros
    tp: int
    fp: int
    fn: int
    read: int  # sentences
    with_errors: int  # sentences
    # official mode only: sentences that crash the official scripts; excluded from the counts
    crashes: list[Issue] = field(default_factory=list)
    # span mode only: groups of overlapping entities that are too large for the exact matching
    greedy_groups: int = 0
    # false positives that no gold could contain: surfaces that are not in the sentence, unknown categories
    impossible: list[ImpossibleAnswer] = field(default_factory=list)
    texts: Mapping[str, str] = field(default_factory=dict)  # of the scored sentences, by id

    def __repr__(self) -> str:
        found = ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count) or "none"
        return f"<ErrtaResult {counted(len(self.errors), 'error')} in {counted(self.read, 'sentence')}: {found}>"

    @property
    def counts(self) -> dict[str, int]:
        """Errors by type; for paper types that this mode lacks (`split_merge`), the sums of `paper_counts`."""
        counts = {name: count.errors for name, count in self.by_type.items()}
        return counts | {name: errors for name, errors in self.paper_counts.items() if name not in counts}

    @property
    def paper_counts(self) -> dict[str, int]:
        """Errors by type of the paper; each counts all error types assigned to it, so that none is left out."""
        counts: dict[str, int] = {}
        for name, count in self.by_type.items():
            paper = ERROR_TYPES[name].paper.name
            counts[paper] = counts.get(paper, 0) + count.errors
        return counts

    @property
    def impossible_counts(self) -> dict[str, int]:
        """Impossible answers by kind, including zeros."""
        found = Counter(answer.kind for answer in self.impossible)
        return {kind: found[kind] for kind in IMPOSSIBLE}

    def to_json(self) -> dict[str, Any]:
        """Return the `errta` object of `scores.json`."""
        return {
            "mode": self.mode,
            "unit": self.unit,
            "counts": self.counts,
            "paper_counts": self.paper_counts,
            "units": {name: {"fn": count.fn, "fp": count.fp} for name, count in self.by_type.items()},
            "tp": self.tp,
            "fp": self.fp,
            "fn": self.fn,
            "read": self.read,
            "with_errors": self.with_errors,
            "identity_ok": True,  # fp and fn equal the sums over `errors`: a mismatch stops the run
            "crashes": len(self.crashes),
            "greedy_groups": self.greedy_groups,
            "impossible": self.impossible_counts,
        }


class ParseFailure(NamedTuple):
    """A model answer that could not be read as it is."""

    sentence_id: str
    status: str  # repaired | failed
    reason: str
    raw: str


@dataclass(slots=True)
class ParseSummary:
    """How the model answers were read. `scored` and `errta_read` differ in the official profile only."""

    sentences: int
    scored: int
    errta_read: int
    failed: int
    repaired: int
    failures: list[ParseFailure] = field(default_factory=list)
    cut: int = 0  # stopped by decoding.max_new_tokens, readable or not
    left_out: int = 0  # entities, by decoding.min_score

    def to_json(self) -> dict[str, int]:
        """Return the `parse` object of `scores.json`."""
        names = ("sentences", "scored", "errta_read", "failed", "repaired", "cut")
        left_out = {"left_out": self.left_out} if self.left_out else {}
        return {name: getattr(self, name) for name in names} | left_out


class CalibrationRow(NamedTuple):
    """The predicted entities with a confidence from `low` to `high`.

    Attributes:
        entities: number of them.
        score: their mean confidence.
        precision: share of them that is right.
    """

    low: float
    high: float
    entities: int
    score: float
    precision: float


def calibrate(comparison: Comparison) -> list[CalibrationRow]:
    """Compare the confidence of predicted units with the share that is right.

    Returns:
        A row for each tenth of the confidence with an entity, the lowest first; empty if no entity has a confidence.
    """
    wrong = {one.sentence: set(map(comparison.key, one.extra)) for one in comparison.sentence_errors}
    found: dict[int, list[tuple[float, bool]]] = {}
    for number, entities in enumerate(comparison.predicted):
        units: dict[Any, float] = {}
        for entity in entities:
            if entity.score is not None:
                units.setdefault(comparison.key(entity), entity.score)
        for unit, score in units.items():
            row = min(int(score * _TENTHS), _TENTHS - 1)
            found.setdefault(row, []).append((score, unit not in wrong.get(number, ())))
    return [
        CalibrationRow(
            row / _TENTHS,
            (row + 1) / _TENTHS,
            len(units),
            math.fsum(score for score, _ in units) / len(units),
            sum(right for _, right in units) / len(units),
        )
        for row, units in sorted(found.items())
    ]


def calibration_error(rows: Sequence[CalibrationRow]) -> float:
    """Return the expected calibration error: the mean distance of confidence and precision, weighted by entities."""
    total = sum(row.entities for row in rows)
    return math.fsum(row.entities * abs(row.score - row.precision) for row in rows) / total if total else 0.0


@dataclass(slots=True, repr=False)
class ScoreResult:
    """One system's predictions on one gold set: scores, errors, and how they were computed."""

    profile: str  # own | official
    metrics: Metrics
    units: dict[str, UnitScores]  # by pair and, if gold has offsets, by span
    overlap: dict[str, OverlapRow]  # by `OVERLAP_SCHEMES`; empty if gold has no offsets
    errta: ErrtaResult
    parse: ParseSummary
    signature: str
    timing: dict[str, float]  # seconds: read, metrics, errta
    issues: list[Issue]
    sentences: Mapping[str, Sentence]  # gold, by id
    predictions: Mapping[str, Prediction]  # by id
    primary: Mapping[str, str]  # of every category in gold or prediction
    comparison: Comparison  # unit by unit, in the order of sentences
    scored: list[str]  # ids of the sentences of `comparison`
    calibration: list[CalibrationRow] = field(default_factory=list)  # empty if no entity has a confidence

    def __repr__(self) -> str:
        size = f"{counted(len(self.sentences), 'sentence')}, {counted(len(self.errta.errors), 'error')}"
        return f"<ScoreResult {self.unit} micro {self.metrics.micro.brief()}; {size}>"

    @property
    def unit(self) -> str:
        """The unit of the metrics: pair | span."""
        return self.metrics.unit

    @property
    def mode(self) -> str:
        """The ERRTA mode: official | span."""
        return self.errta.mode

    @property
    def has_levels(self) -> bool:
        """Whether categories have primaries above them; if not, every score by primary repeats one by category."""
        return any(name != self.primary[name] for name in self.metrics.categories)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `scores.json`."""
        calibration = [row._asdict() for row in self.calibration]
        known = {"calibration": {"error": calibration_error(self.calibration), "rows": calibration}}
        return {
            "profile": self.profile,
            "metrics": self.metrics.to_json(),
            "units": {unit: scores.to_json() for unit, scores in self.units.items()},
            "overlap": {scheme: row._asdict() for scheme, row in self.overlap.items()},
            "errta": self.errta.to_json(),
            "parse": self.parse.to_json(),
            "signature": self.signature,
            "timing": dict(self.timing),
            "issues": count_codes(self.issues),
            **(known if calibration else {}),
        }


def category_of(error: ErrtaError) -> str:
    """Return the category that an error counts for."""
    return (error.gold or error.predicted)[0].category


class Counts:
    """True positives, false positives and false negatives by category."""

    def __init__(self) -> None:
        self.tp: Counter[str] = Counter()
        self.fp: Counter[str] = Counter()
        self.fn: Counter[str] = Counter()

    @classmethod
    def of(cls, comparison: Comparison) -> Counts:
        """Count all categories of a comparison."""
        counts = cls()
        counts.tp.update(comparison.right)
        counts.fp.update(comparison.extra)
        counts.fn.update(comparison.missing)
        return counts

    def names(self) -> set[str]:
        """Return every category in gold or prediction."""
        return {*self.tp, *self.fp, *self.fn}

    def micro(self) -> ScoreRow:
        """Return the row of all categories together."""
        return score_row(self.tp.total(), self.fp.total(), self.fn.total())

    def rows(self) -> dict[str, ScoreRow]:
        """Return one row per category, in name order."""
        return {name: score_row(self.tp[name], self.fp[name], self.fn[name]) for name in sorted(self.names())}

    def by_primary(self) -> Counts:
        """Return the same counts, summed by the primaries of the categories."""
        result = Counts()
        for ours, theirs in ((self.tp, result.tp), (self.fp, result.fp), (self.fn, result.fn)):
            for name, number in ours.items():
                theirs[primary_of(name)] += number
        return result


def score_row(tp: int, fp: int, fn: int) -> ScoreRow:
    """Compute precision, recall and F1 from counts; 0 where a denominator is 0."""
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return ScoreRow(precision, recall, f1, tp + fn, tp, fp, fn)


OVERLAP_SCHEMES = {
    "strict": "the same place and category",
    "exact": "the same place",
    "partial": "the same place, or an overlap",
    "type": "an overlap, and the same category",
}
"""The schemes of SemEval-2013, and what makes a predicted entity correct in each."""


def overlap_scores(errors: Iterable[ErrtaError], right: int) -> dict[str, OverlapRow]:
    """Compute the scores of SemEval-2013, which give credit to overlapping entities.

    The gold and predicted entities of one error form one match, so no entity is matched twice and order does not
    matter. Of several pieces (split, merge), one with the right category is matched if there is one.

    Args:
        errors: all errors, as `errta.sort_by_position` sorts them by span.
        right: number of true positives by span.

    Returns:
        A row for each of `OVERLAP_SCHEMES`.
    """
    kinds: Counter[tuple[bool, bool]] = Counter()
    gold = predicted = right
    for _, _, ours, theirs in errors:
        gold += len(ours)
        predicted += len(theirs)
        if not ours or not theirs:
            continue
        overlaps = [
            (one[2:] == other[2:], one[1] == other[1])
            for one, other in product(ours, theirs)
            if None not in (one[2], other[2])  # an entity without offsets overlaps nothing
        ]
        if overlaps:
            kinds[max(overlaps)] += 1
    matches = kinds.total()
    same_place = sum(count for (place, _), count in kinds.items() if place)
    same_category = sum(count for (_, category), count in kinds.items() if category)
    correct = {"strict": 0, "exact": same_place, "partial": same_place, "type": same_category}
    rows = {}
    for scheme in OVERLAP_SCHEMES:
        count = correct[scheme]
        partial = matches - count if scheme == "partial" else 0
        worth = right + count + partial / 2
        rows[scheme] = OverlapRow(
            precision=worth / predicted if predicted else 0.0,
            recall=worth / gold if gold else 0.0,
            f1=2 * worth / (predicted + gold) if predicted + gold else 0.0,
            correct=right + count,
            partial=partial,
            incorrect=matches - count - partial,
            missed=gold - right - matches,
            spurious=predicted - right - matches,
        )
    return rows


def evaluate(comparison: Comparison) -> Metrics:
    """Compute all scores of a comparison except the intervals."""
    counts = Counts.of(comparison)
    main, rows = main_scores(counts), counts.rows()
    micro = main.micro
    strict = counts.by_primary().rows()
    relaxed = relaxed_counts(comparison, counts)
    relaxed_rows = relaxed.rows()
    return Metrics(
        unit=comparison.unit,
        micro=micro,
        macro=main.macro,
        macro_seen=_mean(list(rows.values()), None, micro),
        weighted=_mean(list(rows.values()), [row.support for row in rows.values()], micro),
        categories=rows,
        primaries={name: PrimaryRow(row, relaxed_rows[name]) for name, row in strict.items()},
        relaxed=relaxed.micro(),
    )


def main_scores(counts: Counts) -> UnitScores:
    """Compute only the main scores, without intervals."""
    micro = counts.micro()
    return UnitScores(micro, _mean([row for row in counts.rows().values() if row.support], None, micro))


def _mean(rows: Sequence[ScoreRow], weights: Sequence[int] | None, whole: ScoreRow) -> ScoreRow:
    """Return the mean of each column, with the counts of `whole`. Sums are exactly rounded, so row order does not
    matter.
    """
    weights = weights if weights is not None else [1] * len(rows)
    total = sum(weights)

    def column(values: Iterable[float]) -> float:
        return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0

    means = (column(r.precision for r in rows), column(r.recall for r in rows), column(r.f1 for r in rows))
    return ScoreRow(*means, whole.support, whole.tp, whole.fp, whole.fn)


def relaxed_counts(comparison: Comparison, counts: Counts) -> Counts:
    """Count by primary, where only the primary must match.

    The counts differ from the grouped strict ones where a missing and an extra unit of one primary share a span (by
    pair: a surface), and in the few sentences where one span has two categories: those are compared again as a whole.
    """
    place, result = comparison.place, counts.by_primary()
    again = _ambiguous(comparison)
    for sentence, missing, extra in comparison.sentence_errors:
        if not (missing and extra) or sentence in again:
            continue
        places = set(map(place, missing))
        found = [unit for unit in extra if place(unit) in places]
        if found:
            gold = {(place(unit), primary_of(unit[1])) for unit in missing}
            for unit in found:
                name = primary_of(unit[1])
                if (place(unit), name) in gold:
                    result.tp[name] += 1
                    result.fp[name] -= 1
                    result.fn[name] -= 1
    if again:
        _compare_again(comparison, again, result)
    return result


def _ambiguous(comparison: Comparison) -> set[int]:
    """Return the sentences in which one side gives two categories to the same span (by pair: the same surface)."""
    # If all mentions have different starts (by pair: different surfaces), nothing else must be checked.
    quick, place, key = itemgetter(2 if comparison.unit == "span" else 0), comparison.place, comparison.key

    def is_ambiguous(units: Sequence[Entity]) -> bool:
        return len(set(map(quick, units))) < len(units) and len(set(map(place, units))) < len(set(map(key, units)))

    found = {index for index, units in enumerate(comparison.gold) if is_ambiguous(units)}
    predicted = comparison.predicted
    found.update(one.sentence for one in comparison.sentence_errors if is_ambiguous(predicted[one.sentence]))
    return found


def _compare_again(comparison: Comparison, again: set[int], result: Counts) -> None:
    """Replace the strict counts of some sentences in `result` by their relaxed counts."""
    key, place = comparison.key, comparison.place
    for index in sorted(again):
        sides = comparison.gold[index], comparison.predicted[index]
        strict = [{(key(unit), primary_of(unit[1])) for unit in units} for units in sides]
        relaxed = [{(place(unit), primary_of(unit[1])) for unit in units} for units in sides]
        for (gold, predicted), sign in ((strict, -1), (relaxed, 1)):
            for counter, units in (
                (result.tp, gold & predicted),
                (result.fp, predicted - gold),
                (result.fn, gold - predicted),
            ):
                for _, name in units:
                    counter[name] += sign
