"""The paper's printed numbers, and tables that show them beside ours.

In: `numbers.json` in this folder, of the corpus and by table, primaries under their Chinese names. Figures of the
tables are kept as text, as printed: their digits decide what is consistent with them. What the paper does not print is
shown as such.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("numbers.json")
ABSENT = "not printed"
FIGURES = ("precision", "recall", "f1")
MICRO = "micro"  # row of Table 4 over all categories
ALL = "all"  # the same row in tables of ours
MODELS = {  # choice of `model` -> the paper's name
    "qwen2_7b": "Qwen2-7B-Instruct",
    "baichuan2_7b": "Baichuan2-7B-Chat",
    "internlm2_5_7b": "InternLM2_5-7B-Chat",
    "qwen2_1_5b": "Qwen2-1.5B-Instruct",
    "qwen2_0_5b": "Qwen2-0.5B-Instruct",
}
LARGEST = "Qwen2-7B-Instruct"  # that of Table 5, and what stands beside a model the paper does not have


def read(path: Path = FILE) -> dict[str, Any]:
    """All of it."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def cell(value: Any) -> str:
    """A printed number as a table shows it."""
    if value is None:
        return ABSENT
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def primary_table(paper: dict[str, Any], ours: Path, models: Sequence[str]) -> str:
    """Table 4: precision / recall / F1 by primary and model, the paper's models behind ours.

    Args:
        paper: what `read` gave; `table4` is {primary: {model: {"precision": ..., "recall": ..., "f1": ...}}}.
        ours: `tables/compare_primaries.csv` of a comparison.
        models: the names of its runs.
    """
    theirs = list(dict.fromkeys(model for row in paper["table4"].values() for model in row))
    rows = []
    with ours.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            scores = [[line[f"{model}: {name}"] for name in FIGURES] for model in models]
            mine = [" / ".join(f"{100 * float(value):.2f}" if value else "-" for value in row) for row in scores]
            name = MICRO if line["primary"] == ALL else line["primary"]
            printed = [paper["table4"].get(name, {}).get(model, {}) for model in theirs]
            known = [" / ".join(cell(row.get(name)) for name in FIGURES) for row in printed]
            rows.append([line["primary"], line["gold"], *mine, *known])
    return table(("primary", "gold", *models, *(f"paper: {model}" for model in theirs)), rows)


def error_rows(paper: dict[str, Any], ours: dict[str, tuple[float, float]]) -> list[list[str]]:
    """Table 5 with ours beside it: a row for each of the five types and one for all.

    Args:
        paper: what `read` gave.
        ours: errors before and after by type; means over seeds may be broken numbers.
    """
    before, after, change, fewer = (paper["table5"][name] for name in ("before", "after", "change", "fewer"))
    rows = [
        [kind, *_change(*ours[kind]), cell(before[kind]), cell(after[kind]), f"{change[kind]} %"] for kind in before
    ]
    total = [sum(values) for values in zip(*(ours[kind] for kind in before), strict=True)]
    sums = [f"{sum(side.values()):,} (our sum)" for side in (before, after)]
    return [*rows, [ALL, *_change(total[0], total[1]), *sums, f"about {fewer:,} fewer"]]


ERROR_COLUMNS = ("type", "before", "after", "change", "paper: before", "paper: after", "paper: change")


def _change(before: float, after: float) -> list[str]:
    percent = f"{100 * (after - before) / before:+.1f} %" if before else ""
    return [f"{before:,.1f}".removesuffix(".0"), f"{after:,.1f}".removesuffix(".0"), percent]


def score_rows(paper: dict[str, Any], ours: dict[str, tuple[float, float]], choice: str) -> list[list[str]]:
    """Table 6 with ours beside it: precision, recall and F1 in percent, before and after.

    The paper prints F1 alone; precision and recall before are those of Table 4.

    Args:
        paper: what `read` gave.
        ours: figures before and after by name.
        choice: of `model`; one that the paper does not have stands beside its largest.
    """
    model = MODELS.get(choice, LARGEST)
    before, after = paper["table4"][MICRO][model], {"f1": paper["table6"][model]["after"]}
    rows = []
    for name in FIGURES:
        first, second = ours[name]
        printed = ABSENT if name not in after else f"{Decimal(after[name]) - Decimal(before[name]):+}"
        shown = [f"{first:.2f}", f"{second:.2f}", f"{second - first:+.2f}"]
        rows.append([name, *shown, cell(before[name]), cell(after.get(name)), printed])
    return rows


SCORE_COLUMNS = ("figure", "before", "after", "difference", "paper: before", "paper: after", "paper: difference")
