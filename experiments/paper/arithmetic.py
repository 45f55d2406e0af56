"""Do the paper's printed tables fit together?

    python experiments/paper/arithmetic.py

Precision, recall and F1 of each cell of Table 4 must be those of one set of answers. Table 5 counts errors of five
types, Table 6 prints the F1 of the same answers. As the official counter counts (`omniner.scoring.official`), a
classification, boundary or split/merge error uses up one gold pair and one predicted pair, so it is one false negative
and one false positive; a missing one is a false negative, a redundant one a false positive. With FP and FN known, each
printed figure leaves an interval of true positives: P = TP / (TP + FP), R = TP / (TP + FN),
F1 = TP / (TP + (FP + FN) / 2) all rise with TP. An empty intersection says that the tables cannot both be right. All in
whole numbers and fractions: no rounding of ours comes in.

Within Table 5, two printed figures are not those of its counts: the change of boundary errors (-12.147 %, printed
-12.2 %: as if -12.15 had been rounded again) and the total (3,676 fewer, "approximately 3,650" in the caption).
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paper import printed as tables


class Counts(NamedTuple):
    """Errors of each type, as Table 5 has them."""

    classification: int
    boundary: int
    split_merge: int
    missing: int
    redundant: int

    @property
    def fn(self) -> int:
        """False negatives: gold pairs that are in an error."""
        return self.classification + self.boundary + self.split_merge + self.missing

    @property
    def fp(self) -> int:
        """False positives: predicted pairs that are in an error."""
        return self.classification + self.boundary + self.split_merge + self.redundant


class Printed(NamedTuple):
    """Percentages as they are printed; None where one is not known."""

    precision: Decimal | None = None
    recall: Decimal | None = None
    f1: Decimal | None = None


def true_positives(counts: Counts, printed: Printed) -> range:
    """Every number of true positives that would print these figures; empty where they contradict each other.

    Which way a value half-way between two printed ones was rounded is not known: both count as consistent.

    Raises:
        ValueError: nothing printed limits the number.
    """
    beside = Fraction(counts.fp), Fraction(counts.fn), Fraction(counts.fp + counts.fn, 2)
    low, high = 0, math.inf
    for figure, others in zip(printed, beside, strict=True):
        if figure is not None:
            first, last = _bounds(figure, others)
            low, high = max(low, first), min(high, last)
    if high == math.inf:
        raise ValueError("no printed figure limits the true positives")
    return range(low, max(low, int(high) + 1))


def _bounds(figure: Decimal, beside: Fraction) -> tuple[int, float]:
    """The smallest and largest t for which t / (t + beside), in percent, prints as `figure`."""
    half = Fraction(1, 2) * Fraction(10) ** int(figure.as_tuple().exponent)
    low, high = (Fraction(figure) - half) / 100, (Fraction(figure) + half) / 100
    if not beside:  # every t but 0 makes 100 %
        return (1, math.inf) if high >= 1 else (1, 0)
    first = math.ceil(max(low, Fraction(0)) * beside / (1 - low)) if low < 1 else 0
    return first, math.floor(high * beside / (1 - high)) if high < 1 else math.inf


def shifted(tps: range, by: int) -> range:
    """The same numbers, each `by` larger: gold pairs where `by` is FN."""
    return range(tps.start + by, tps.stop + by)


def percent(tp: int, beside: Fraction | int, digits: int = 2) -> Decimal:
    """t / (t + beside) as it is printed."""
    value = Fraction(100 * tp) / (tp + beside) if tp else Fraction(0)
    scaled = value * 10**digits
    return Decimal(math.floor(scaled + Fraction(1, 2))).scaleb(-digits)


def scores(tp: int, counts: Counts) -> Printed:
    """Precision, recall and F1 as they are printed."""
    half = Fraction(counts.fp + counts.fn, 2)
    return Printed(percent(tp, counts.fp), percent(tp, counts.fn), percent(tp, half))


def of_gold(gold: range, counts: Counts) -> tuple[Printed, Printed]:
    """The lowest and the highest figures of these errors on a test set of so many gold pairs."""
    return scores(gold.start - counts.fn, counts), scores(gold.stop - 1 - counts.fn, counts)


def f1_fits(printed: Mapping[str, str]) -> bool:
    """Whether some precision and recall that print like these have an F1 that prints like this one."""
    half = Decimal("0.005")
    lows, highs = ([Decimal(printed[name]) + sign * half for name in ("precision", "recall")] for sign in (-1, 1))
    low, high = (2 * p * r / (p + r) for p, r in (lows, highs))
    return low - half <= Decimal(printed["f1"]) <= high + half


def report(paper: dict[str, Any]) -> list[str]:
    """What the tables say of each other, one line each."""
    return [*_corpus(paper), *_cells(paper), *_gains(paper), *_changes(paper), *_errors(paper)]


def _corpus(paper: dict[str, Any]) -> list[str]:
    """Section 3: how many sentences the filter removed, and how many a post has."""
    corpus = paper["corpus"]
    before, after = (corpus[side]["sentences"] for side in ("before_filter", "after_filter"))
    return [
        f"section 3.3: of {before:,} sentences {before - after:,} were removed, {(before - after) / before:.3%}",
        f"section 3: {after:,} sentences of {corpus['posts']:,} posts are {after / corpus['posts']:.2f} per post; "
        "its example is a post of 4 to 5",
    ]


def _cells(paper: dict[str, Any]) -> list[str]:
    """Table 4: cells whose three figures are not of one set of answers, and cells that stand twice."""
    cells = {(row, model): cell for row, models in paper["table4"].items() for model, cell in models.items()}
    wrong = [key for key, cell in cells.items() if not f1_fits(cell)]
    lines = [f"table 4: {len(cells) - len(wrong)} of {len(cells)} cells have an F1 that fits precision and recall"]
    for row, model in wrong:
        cell = cells[row, model]
        of_both = f"{2 / (1 / Decimal(cell['precision']) + 1 / Decimal(cell['recall'])):.2f}"
        lines.append(
            f"table 4: {row}, {model}: P {cell['precision']}, R {cell['recall']} make F1 {of_both}, not {cell['f1']}"
        )
    for one, other in itertools.combinations(cells, 2):
        if cells[one] == cells[other]:
            lines.append(f"table 4: {', '.join(one)} and {', '.join(other)} have the same three figures")
    return lines


def _gains(paper: dict[str, Any]) -> list[str]:
    """Table 6: whether each gain is the difference, and `before` the F1 of Table 4."""
    lines = []
    for model, row in paper["table6"].items():
        before, after, gain = (Decimal(row[name]) for name in ("before", "after", "gain"))
        printed = Decimal(paper["table4"][tables.MICRO][model]["f1"])
        fits = after - before == gain and before == printed
        lines.append(
            f"table 6: {model}: {before} + {gain} = {before + gain}, printed {after}; table 4 has {printed}: "
            + ("they fit" if fits else "they do not fit")
        )
    return lines


def _changes(paper: dict[str, Any]) -> list[str]:
    """Table 5: whether each printed change is that of its counts."""
    before, after, change = (paper["table5"][name] for name in ("before", "after", "change"))
    lines = []
    for kind, printed in change.items():
        exact = Fraction(100 * (after[kind] - before[kind]), before[kind])
        fits = abs(exact - Fraction(printed)) <= Fraction(1, 20)
        verdict = f"{float(exact):.3f} %, printed {printed} %: " + ("they fit" if fits else "they do not fit")
        lines.append(f"table 5: {kind}: {before[kind]:,} to {after[kind]:,} is {verdict}")
    return lines


def _errors(paper: dict[str, Any]) -> list[str]:
    """Table 5 against the figures of the same model in Tables 4 and 6, on one test set."""
    model = paper["table5"]["model"]
    before, after = (Counts(**paper["table5"][side]) for side in ("before", "after"))
    figures = Printed(**{name: Decimal(value) for name, value in paper["table4"][tables.MICRO][model].items()})
    found = true_positives(before, figures)
    if not found:
        return [f"table 5, before: no number of true positives prints {', '.join(map(str, figures))}"]
    gold = shifted(found, before.fn)
    low, high = of_gold(gold, after)
    ranges = (" to ".join(dict.fromkeys(map(str, ends))) for ends in zip(low, high, strict=True))
    shown = ", ".join(f"{name} {ends}" for name, ends in zip(("P", "R", "F1"), ranges, strict=True))
    printed = Decimal(paper["table6"][model]["after"])
    assert low.f1 is not None  # `scores` gives all three
    assert high.f1 is not None
    nearest = min(max(printed, low.f1), high.f1)
    verdict = "they fit" if nearest == printed else f"they differ by {nearest - printed:+}, more than rounding can"
    total = f"{sum(before):,} errors before, {sum(after):,} after: {sum(before) - sum(after):,} fewer"
    total += f"; its caption says approximately {paper['table5']['fewer']:,}"
    return [
        f"table 5: {total}",
        f"table 5, before: FP {before.fp:,}, FN {before.fn:,}; with the figures of table 4, TP {found.start:,} to "
        f"{found.stop - 1:,} and gold {gold.start:,} to {gold.stop - 1:,}: they fit",
        f"table 5, after: FP {after.fp:,}, FN {after.fn:,}; on these gold pairs {shown}; "
        f"table 6 prints {printed}: {verdict}",
    ]


if __name__ == "__main__":
    print("\n".join(report(tables.read())))
