"""What scoring gives: the values that tables, figures, pages and `scores.json` are all made from.

They compute nothing beyond their own JSON: `metrics` fills the score rows, `errta` or `official` the sorted errors,
`scoring` puts the `ScoreResult` together. The names in `to_json` are a stable interface that other programs read: add
to them, never rename them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from omniner.records import Entity, Issue, Prediction, Sentence
from omniner.registry import ERROR_TYPES

if TYPE_CHECKING:
    from omniner.scoring.metrics import Comparison


class ScoreRow(NamedTuple):
    """Precision, recall and F1 of one category, one primary or the whole, with the counts behind them.

    The counts of a mean (macro, weighted) are those of the whole; `support` is the number of gold units.
    """

    precision: float
    recall: float
    f1: float
    support: int
    tp: int
    fp: int
    fn: int

    def to_json(self) -> dict[str, float | int]:
        """The row as JSON object."""
        return self._asdict()


class PrimaryRow(NamedTuple):
    """One primary: `strict` wants the full category right, `relaxed` only the primary."""

    strict: ScoreRow
    relaxed: ScoreRow

    def to_json(self) -> dict[str, Any]:
        """The strict row with the relaxed one beside it."""
        return {**self.strict.to_json(), "relaxed": self.relaxed.to_json()}


class Interval(NamedTuple):
    """A confidence interval of one figure."""

    low: float
    high: float


@dataclass(slots=True)
class Metrics:
    """All scores of one comparison. Rows are in sorted name order."""

    unit: str  # pair | span: what `auto` became
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
        """The `metrics` object of `scores.json`."""
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
    """One error with its units: each gold entity is one false negative, each predicted one a false positive.

    `classification`, `boundary`, `boundary_class`, `spelling`, `split_merge`: one gold, one predicted;
    `split`: one gold, two or more predicted; `merge`: two or more gold, one predicted; `missing`: one gold;
    `redundant`: one predicted.
    """

    type: str
    sentence_id: str
    gold: tuple[Entity, ...]
    predicted: tuple[Entity, ...]


class TypeCount(NamedTuple):
    """How many errors of a type there are, and for how many false negatives and positives they account."""

    errors: int
    fn: int
    fp: int


@dataclass(slots=True)
class ErrtaResult:
    """The sorted errors of all sentences that were read."""

    mode: str  # official | span: what `auto` became
    unit: str  # pair | span: what a false positive or negative is here
    errors: list[ErrtaError]
    by_type: dict[str, TypeCount]  # the types of the mode, in the order of `error_types`, zeros included
    tp: int
    fp: int
    fn: int
    read: int  # sentences
    with_errors: int  # sentences
    identity_ok: bool  # fp and fn are the sums of the units of `errors`
    # official mode only: sentences on which the official scripts stop; left out of the counts
    crashes: list[Issue] = field(default_factory=list)
    # span mode only: groups of overlapping entities too large for the exact matching
    greedy_groups: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Errors by type; a type of the paper that the mode cannot find (`split_merge`) is the sum of its parts."""
        counts = {name: count.errors for name, count in self.by_type.items()}
        whole: dict[str, int] = {}
        for name, errors in counts.items():
            paper = ERROR_TYPES[name].lesson.paper.name
            whole[paper] = whole.get(paper, 0) + errors
        return {**counts, **{name: errors for name, errors in whole.items() if name not in counts}}

    def to_json(self) -> dict[str, Any]:
        """The `errta` object of `scores.json`."""
        return {
            "mode": self.mode,
            "unit": self.unit,
            "counts": self.counts,
            "units": {name: {"fn": count.fn, "fp": count.fp} for name, count in self.by_type.items()},
            "tp": self.tp,
            "fp": self.fp,
            "fn": self.fn,
            "read": self.read,
            "with_errors": self.with_errors,
            "identity_ok": self.identity_ok,
            "crashes": len(self.crashes),
            "greedy_groups": self.greedy_groups,
        }


class ParseFailure(NamedTuple):
    """A model text that was not read as it stands."""

    sentence_id: str
    status: str  # repaired | failed
    reason: str
    raw: str


@dataclass(slots=True)
class ParseSummary:
    """How the model texts were read. `scored` and `errta_read` differ in the official profile only."""

    sentences: int
    scored: int
    errta_read: int
    failed: int
    repaired: int
    failures: list[ParseFailure] = field(default_factory=list)

    def to_json(self) -> dict[str, int]:
        """The `parse` object of `scores.json`."""
        names = ("sentences", "scored", "errta_read", "failed", "repaired")
        return {name: getattr(self, name) for name in names}


@dataclass(slots=True)
class ScoreResult:
    """One system's predictions on one gold set: scores, errors, and how they were computed."""

    profile: str  # own | official
    metrics: Metrics
    errta: ErrtaResult
    parse: ParseSummary
    signature: str
    timing: dict[str, float]  # seconds: read, metrics, errta
    issues: list[Issue]
    sentences: Mapping[str, Sentence]  # gold, by id
    predictions: Mapping[str, Prediction]  # by id
    primary: Mapping[str, str]  # of every category in gold or prediction
    comparison: Comparison  # unit by unit, sentence after sentence
    scored: list[str]  # ids of the sentences of `comparison`

    @property
    def unit(self) -> str:
        """The unit of the metrics: pair | span."""
        return self.metrics.unit

    @property
    def mode(self) -> str:
        """The ERRTA mode: official | span."""
        return self.errta.mode

    @property
    def identity_ok(self) -> bool:
        """Whether false positives and negatives are exactly the units of the sorted errors."""
        return self.errta.identity_ok

    def to_json(self) -> dict[str, Any]:
        """The content of `scores.json`."""
        return {
            "profile": self.profile,
            "metrics": self.metrics.to_json(),
            "errta": self.errta.to_json(),
            "parse": self.parse.to_json(),
            "signature": self.signature,
            "timing": dict(self.timing),
            "issues": _by_code(self.issues),
        }


def _by_code(issues: list[Issue]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for issue in issues:
        counts[issue.code] = counts.get(issue.code, 0) + 1
    return dict(sorted(counts.items()))


def category_of(error: ErrtaError) -> str:
    """The category an error counts for."""
    return (error.gold or error.predicted)[0].category
