"""Do the paper's printed tables fit together?

    python experiments/paper/arithmetic.py

Table 5 counts errors of five types, Table 6 prints precision, recall and F1 of the same answers. As the official
counter counts (`omniner.scoring.official`), a classification, boundary or split/merge error uses up one gold
pair and one predicted pair, so it is one false negative and one false positive; a missing one is a false negative, a
redundant one a false positive. With FP and FN known, each printed figure leaves an interval of true positives:
P = TP / (TP + FP), R = TP / (TP + FN), F1 = TP / (TP + (FP + FN) / 2) all rise with TP. An empty intersection says that
the tables cannot both be right. All in whole numbers and fractions: no rounding of ours comes in.
"""

from __future__ import annotations

import math
import sys
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


def report(paper: dict[str, Any]) -> list[str]:
    """What can be said with the numbers that are at hand, one line each."""
    tp, gold = (range(low, high + 1) for low, high in (paper["derived"]["before"][key] for key in ("tp", "gold")))
    fn = gold.start - tp.start
    assert shifted(tp, fn) == gold, "the two intervals have one FN"
    recalls = sorted({percent(one, fn) for one in tp})
    beside = percent(tp.start - 1, fn), percent(tp.stop, fn)
    lines = [
        f"before: TP {tp.start:,} to {tp.stop - 1:,}, gold {gold.start:,} to {gold.stop - 1:,}: FN {fn:,}",
        f"before: each of these TP prints recall {', '.join(map(str, recalls))}; one fewer {beside[0]}, one more "
        f"{beside[1]}: recall sets the lower end"
        + (", another figure the upper one" if beside[1] in recalls else " and the upper one"),
    ]
    derived, printed = Decimal(paper["derived"]["after"]["f1"]), Decimal(paper["table6"]["after"]["f1"])
    verdict = "agree" if derived == printed else f"differ by {derived - printed:+}, more than rounding can"
    lines.append(f"after: the counts give F1 {derived}, Table 6 prints {printed}: they {verdict}")
    for side in ("before", "after"):
        counts, figures = paper["table5"][side], paper["table6"][side]
        if None in counts.values():
            lines.append(f"{side}: the five counts are {tables.ABSENT}, so the line above is taken as it was given")
            continue
        known = Printed(**{name: None if value is None else Decimal(value) for name, value in figures.items()})
        found = true_positives(Counts(**counts), known)
        span = f"TP {found.start:,} to {found.stop - 1:,}" if found else "no TP"
        lines.append(f"{side}: FP {Counts(**counts).fp:,}, FN {Counts(**counts).fn:,}; {span} prints {figures}")
        low, high = of_gold(gold, Counts(**counts))
        lines.append(
            f"{side}: on these gold pairs P, R, F1 are {', '.join(map(str, low))} to {', '.join(map(str, high))}"
        )
    return lines


if __name__ == "__main__":
    print("\n".join(report(tables.read())))
