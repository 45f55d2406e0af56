"""The arithmetic of the paper's tables: against trial of every number, and with what is known of them."""

from __future__ import annotations

import json
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


def test_what_the_tables_say_of_each_other() -> None:
    lines = arithmetic.report(tables.read())
    assert "section 3.3: of 195,718 sentences 150 were removed, 0.077%" in lines
    assert any("195,568 sentences of 80,029 posts are 2.44 per post" in line for line in lines)
    assert "table 4: 71 of 80 cells have an F1 that fits precision and recall" in lines
    twice = [line for line in lines if line.endswith("have the same three figures")]
    assert [line.split(": ")[1] for line in twice] == [
        "IP, Qwen2-7B-Instruct and IP, InternLM2_5-7B-Chat have the same three figures",
        "款式/形态, Qwen2-7B-Instruct and 风格, InternLM2_5-7B-Chat have the same three figures",
    ]
    assert sum("they fit" in line for line in lines if line.startswith("table 6")) == 5
    changes = [line for line in lines if line.startswith("table 5: ") and "printed" in line]
    assert [line for line in changes if not line.endswith("they fit")] == [
        "table 5: boundary: 5,384 to 4,730 is -12.147 %, printed -12.2 %: they do not fit"
    ]
    assert len(changes) == 5
    assert any("3,676 fewer; its caption says approximately 3,650" in line for line in lines)
    [before, after] = lines[-2:]
    assert "FN 24,280" in before
    assert "TP 65,596 to 65,624 and gold 89,876 to 89,904: they fit" in before
    assert "P 76.09, R 76.18 to 76.19, F1 76.13 to 76.14; table 6 prints 75.84: they differ by +0.29" in after


def test_an_f1_fits_what_prints_like_its_precision_and_recall() -> None:
    """All roundings of a true pair fit, and an F1 further away than both roundings does not."""
    for tp, fp, fn in ((50, 7, 12), (1, 2, 0), (999, 1, 400), (3, 3, 3)):
        counts = Counts(0, 0, 0, fn, fp)
        printed = {name: str(value) for name, value in arithmetic.scores(tp, counts)._asdict().items()}
        assert arithmetic.f1_fits(printed)
        assert not arithmetic.f1_fits({**printed, "f1": str(Decimal(printed["f1"]) - Decimal("0.03"))})


def test_other_numbers_are_used() -> None:
    """With invented counts: the report derives the interval that was planted."""
    paper = tables.read()
    counts = Counts(5_000, 4_000, 80, 15_200, 9_000)
    printed = arithmetic.scores(65_610, counts)
    paper["table5"]["before"] = counts._asdict()
    paper["table4"]["micro"][tables.LARGEST] = {name: str(value) for name, value in printed._asdict().items()}
    [line] = [line for line in arithmetic.report(paper) if line.startswith("table 5, before")]
    found = arithmetic.true_positives(counts, printed)
    assert f"TP {found.start:,} to {found.stop - 1:,}" in line
    assert 65_610 in found
    assert len(found) < 100
    paper["table4"]["micro"][tables.LARGEST]["f1"] = "10.00"
    assert "no number of true positives" in arithmetic.report(paper)[-1]


def test_the_numbers_are_those_of_the_paper(shared: Path) -> None:
    """Against a copy of the tables that somebody else made, cell by cell."""
    theirs = json.loads((shared / "paper" / "tables.json").read_text(encoding="utf-8"))
    ours = tables.read()
    assert ours["corpus"] == {name: theirs["corpus"][name] for name in ours["corpus"]}
    cells = [
        [Decimal(str(cell[name])) for name in tables.FIGURES]
        for row in theirs["table4"].values()
        for cell in row.values()
    ]
    mine = [
        [Decimal(cell[name]) for name in tables.FIGURES] for row in ours["table4"].values() for cell in row.values()
    ]
    assert mine == cells
    for number, side in enumerate(("before", "after")):
        assert ours["table5"][side] == {name: theirs["table5"][name][number] for name in ours["table5"][side]}
    assert {name: float(value) for name, value in ours["table5"]["change"].items()} == {
        name: theirs["table5"][name][2] for name in ours["table5"]["change"]
    }
    assert f"approximately {ours['table5']['fewer']:,}" == theirs["table5"]["total_reduction_printed"]
    for model, row in ours["table6"].items():
        assert [Decimal(row[name]) for name in ("before", "after", "gain")] == [
            Decimal(str(value)) for value in theirs["table6"][model]
        ]


def test_ours_stand_beside_the_paper_s() -> None:
    paper = tables.read()
    ours = dict.fromkeys(paper["table5"]["before"], (10.0, 8.0))
    rows = tables.error_rows(paper, ours)
    assert rows[0] == ["classification", "10", "8", "-20.0 %", "6,714", "5,745", "-14.4 %"]
    assert rows[1][-1] == "-12.2 %", "as it is printed, although its counts give -12.1"
    assert rows[-1] == ["all", "50", "40", "-20.0 %", "36,067 (our sum)", "32,391 (our sum)", "about 3,650 fewer"]
    figures = dict.fromkeys(tables.FIGURES, (70.0, 71.5))
    scores = tables.score_rows(paper, figures, "qwen2_0_5b")
    assert scores[-1] == ["f1", "70.00", "71.50", "+1.50", "67.31", "69.42", "+2.11"]
    assert scores[0] == ["precision", "70.00", "71.50", "+1.50", "67.35", tables.ABSENT, tables.ABSENT]
    assert tables.score_rows(paper, figures, "qwen2_tiny")[-1][4:] == ["73.12", "75.84", "+2.72"]


def test_the_paper_s_models_stand_behind_ours(tmp_path: Path) -> None:
    lines = ("primary,gold,a: precision,a: recall,a: f1", "产品,7,0.5,1,0.66666", "IP,0,,,", "all,7,0.5,1,0.66666")
    (tmp_path / "p.csv").write_text("\n".join(lines), encoding="utf-8")
    paper = {"table4": {"产品": {"big": {"precision": "71.20", "recall": "70.00", "f1": None}}}}
    beside = tables.primary_table(paper, tmp_path / "p.csv", ["a"]).splitlines()
    assert beside[0] == "| primary | gold | a | paper: big |"
    assert beside[2] == "| 产品 | 7 | 50.00 / 100.00 / 66.67 | 71.20 / 70.00 / not printed |"
    assert beside[3].startswith("| IP | 0 | - / - / - |")
    full = tables.primary_table(tables.read(), tmp_path / "p.csv", ["a"]).splitlines()
    assert "77.81 / 80.42 / 79.11" in full[3]
    assert full[-1].startswith("| all | 7 | 50.00 / 100.00 / 66.67 | 73.25 / 72.99 / 73.12 |")
    assert len(full) == 5, "a row for each of ours and no other"
