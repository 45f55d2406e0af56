"""The arithmetic of the paper's tables: against trial of every number, and with what is known of them."""

from __future__ import annotations

import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import ROOT

from omniner.scoring import official

sys.path.insert(0, str(ROOT / "experiments"))

from paper import arithmetic
from paper import printed as tables
from paper.arithmetic import Counts, Printed

FEW = st.integers(min_value=0, max_value=30)
COUNTS = st.builds(Counts, FEW, FEW, FEW, FEW, FEW)
PAIRS = st.lists(st.tuples(st.sampled_from(["a", "b", "a b", "ab", "c", ""]), st.sampled_from("xyz")), unique=True)


@given(PAIRS, PAIRS)
def test_the_official_counter_makes_fn_and_fp_of_its_types(gold: list[Any], predicted: list[Any]) -> None:
    """Each of its errors uses up the pairs that `Counts` says."""
    missing = [pair for pair in gold if pair not in predicted]
    extra = [pair for pair in predicted if pair not in gold]
    kinds = [kind for kind, _, _ in official.sort_sentence_as_published(missing, extra)]
    counts = Counts(**{name: kinds.count(name) for name in Counts._fields})
    assert (counts.fn, counts.fp) == (len(missing), len(extra))


@given(st.integers(min_value=1, max_value=400), COUNTS, st.sets(st.sampled_from(Printed._fields), min_size=1))
def test_the_interval_is_what_trying_every_number_finds(tp: int, counts: Counts, shown: set[str]) -> None:
    printed = arithmetic.scores(tp, counts)._replace(**dict.fromkeys(set(Printed._fields) - shown))
    if not any(
        value is not None and beside
        for value, beside in zip(printed, (counts.fp, counts.fn, counts.fp + counts.fn), strict=True)
    ):
        with pytest.raises(ValueError, match="limits"):
            arithmetic.true_positives(counts, printed)
        return
    if Decimal(100) in printed:  # an interval without an end, unless another figure ends it
        return
    found = arithmetic.true_positives(counts, printed)
    assert tp in found
    beside = Fraction(counts.fp), Fraction(counts.fn), Fraction(counts.fp + counts.fn, 2)
    for other in range(max(1, found.start - 50), found.stop + 50):
        distances = [
            abs(100 * other / (other + wrong) - Fraction(figure))
            for figure, wrong in zip(printed, beside, strict=True)
            if figure is not None
        ]
        assert (other in found) == (max(distances) <= Fraction(1, 200)), other


def test_tables_that_contradict_each_other_leave_nothing() -> None:
    counts = Counts(10, 10, 0, 30, 20)  # FN 50, FP 40
    right = arithmetic.scores(100, counts)
    assert 100 in arithmetic.true_positives(counts, right)
    assert right.f1 is not None
    wrong = right._replace(f1=right.f1 - Decimal("0.30"))
    assert not arithmetic.true_positives(counts, wrong)


def test_what_is_printed_is_rounded_to_two_digits() -> None:
    assert arithmetic.percent(2, 1) == Decimal("66.67")
    assert arithmetic.percent(1, 1) == Decimal("50.00")
    assert arithmetic.percent(0, 5) == 0
    # 72.985 % lies half-way: with one of a hundred thousand more or less it would not.
    assert [arithmetic.percent(tp, 100_000 - tp) for tp in (72_984, 72_985)] == [Decimal("72.98"), Decimal("72.99")]


def test_what_is_known_of_before_fits_together() -> None:
    """Both intervals have one FN, and all their numbers one recall; the next smaller one has another."""
    before = tables.read()["derived"]["before"]
    (tp_low, tp_high), (gold_low, gold_high) = before["tp"], before["gold"]
    assert gold_low - tp_low == gold_high - tp_high == 24_280
    recalls = {arithmetic.percent(tp, 24_280) for tp in range(tp_low, tp_high + 1)}
    assert recalls == {Decimal("72.99")}
    assert arithmetic.percent(tp_low - 1, 24_280) == Decimal("72.98")


def test_what_is_known_of_after_does_not() -> None:
    lines = arithmetic.report(tables.read())
    assert "FN 24,280" in lines[0]
    assert any("F1 76.14" in line and "prints 75.84" in line and "differ by +0.30" in line for line in lines)
    assert sum(tables.ABSENT in line for line in lines) == 2


def test_numbers_that_are_filled_in_are_used() -> None:
    """With invented counts: the report derives the interval that was planted."""
    paper = tables.read()
    counts = Counts(5_000, 4_000, 80, 15_200, 9_000)
    assert counts.fn == 24_280
    printed = arithmetic.scores(65_610, counts)
    paper["table5"]["before"] = counts._asdict()
    paper["table6"]["before"] = {name: str(value) for name, value in printed._asdict().items()}
    [line] = [line for line in arithmetic.report(paper) if line.startswith("before: FP")]
    found = arithmetic.true_positives(counts, printed)
    assert f"TP {found.start:,} to {found.stop - 1:,}" in line
    assert 65_610 in found
    assert len(found) < 100


def test_tables_show_what_is_not_at_hand() -> None:
    paper = tables.read()
    ours = dict.fromkeys(paper["table5"]["before"], (10.0, 8.0))
    rows = tables.error_rows(paper, ours)
    assert rows[0] == ["classification", "10", "8", "-20.0 %", *[tables.ABSENT] * 3]
    assert rows[-1][:4] == ["all", "50", "40", "-20.0 %"]
    paper["table5"] = {side: dict.fromkeys(ours, value) for side, value in (("before", 2000), ("after", 1000))}
    assert tables.error_rows(paper, ours)[-1][4:] == ["10,000", "5,000", "-50.0 %"]
    scores = tables.score_rows(paper, dict.fromkeys(("precision", "recall", "f1"), (70.0, 71.5)))
    assert scores[-1] == ["f1", "70.00", "71.50", "+1.50", tables.ABSENT, "75.84", tables.ABSENT]
    paper["table6"]["before"]["f1"] = "74.84"
    assert tables.score_rows(paper, dict.fromkeys(("precision", "recall", "f1"), (1.0, 1.0)))[-1][-1] == "+1.00"


def test_the_paper_s_models_stand_behind_ours_once_they_are_known(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("primary,gold,a: precision,a: recall,a: f1\n产品,7,0.5,1,0.66666\nIP,0,,,\n")
    paper = tables.read()
    alone = tables.primary_table(paper, tmp_path / "p.csv", ["a"]).splitlines()
    assert alone[0] == "| primary | gold | a |"
    assert alone[2:] == ["| 产品 | 7 | 50.00 / 100.00 / 66.67 |", "| IP | 0 | - / - / - |"]
    paper["table4"] = {"产品": {"big": {"precision": "71.20", "recall": "70.00", "f1": None}}}
    beside = tables.primary_table(paper, tmp_path / "p.csv", ["a"]).splitlines()
    assert beside[0].endswith("| a | paper: big |")
    assert beside[2].endswith("| 71.20 / 70.00 / not at hand |")
