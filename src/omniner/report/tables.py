"""One kind of table for everything that is shown: on a page, as CSV, in the tracker, as Markdown and as LaTeX.

A `Table` is rows of values with a title and, per column, what these values are. `format_cell` prints one as papers do
(0.8531 as 85.31, a difference of shares as +1.20 points). In Markdown and LaTeX no name from a corpus or a
configuration acts as markup.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from omniner.records import Entity, storable

Cell = str | int | float

# What the values of a column are.
TEXT, COUNT, CHANGE = "text", "count", "change"  # a change is a difference of counts
RATE, SHARE, POINTS = "rate", "share", "points"  # printed as 0.8531, as 85.31, and as a difference of shares
PERCENT, P_VALUE = "percent", "p"

NONE = ""  # no value: a change from 0 has no percentage

MARKDOWN_ROWS = 100  # of a table in a Markdown text; the CSV has them all
LATEX_ROWS = 40  # of a table that fits on a page


class Column(NamedTuple):
    """The name of a column, and what its values are."""

    name: str
    kind: str


def columns(kind: str, *names: str) -> list[Column]:
    """Columns of one kind."""
    return [Column(name, kind) for name in names]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text and numbers under named columns.

    Args:
        title: what is shown, in one line.
        columns: one for each cell of a row.
        rows: the values; a text in a column of numbers is shown as it is.
        best: cells (row, column) that are printed bold.
        empty: what to say where there is no row.
    """

    title: str
    columns: Sequence[Column]
    rows: list[list[Cell]]
    best: frozenset[tuple[int, int]] = frozenset()
    empty: str = "None."

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]

    def formatted(self) -> list[list[str]]:
        """The rows as people read them."""
        kinds = [column.kind for column in self.columns]
        return [[format_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)] for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the scripts of the pages take them."""
        return {
            "title": self.title,
            "columns": self.names,
            "kinds": [column.kind for column in self.columns],
            "rows": self.rows,
            "best": sorted(self.best),
            "empty": self.empty,
        }

    def to_csv(self) -> str:
        """CSV with a header line; a lone surrogate is written as an escape so that UTF-8 can hold it."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.names)
        writer.writerows(self.rows)
        return storable(buffer.getvalue())

    def to_markdown(self, most: int = MARKDOWN_ROWS) -> str:
        """The first `most` rows as a Markdown table; says how many follow, or that there is none."""
        if not self.rows:
            return "None.\n"
        lines = [[_markdown_cell(name) for name in self.names], ["---"] * len(self.columns)]
        for i, row in enumerate(self.formatted()[:most]):
            cells = [_markdown_cell(cell) for cell in row]
            lines.append([f"**{cell}**" if (i, j) in self.best else cell for j, cell in enumerate(cells)])
        text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        left = len(self.rows) - most
        return f"{text}\nand {left:,} more rows\n" if left > 0 else text

    def aligned(self) -> list[str]:
        """Lines for a terminal: text to the left, numbers to the right; a Chinese letter takes two places."""
        rows = [self.names, *self.formatted()]
        widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = []
            for cell, width, column in zip(row, widths, self.columns, strict=True):
                blanks = " " * (width - _width(cell))
                cells.append(cell + blanks if column.kind == TEXT else blanks + cell)
            lines.append("  ".join(cells).rstrip())
        return lines

    def to_latex(self, label: str) -> str:
        """A table for a document with `booktabs` and, where it has Chinese in it, `ctex`.

        A table of more rows than a page holds is a `longtable`.
        """
        kinds = [column.kind for column in self.columns]
        alignment = "".join("l" if kind == TEXT else "r" for kind in kinds)
        head = " & ".join(escape_latex(name.replace("_", " ")) for name in self.names) + r" \\"
        body = []
        for i, row in enumerate(self.formatted()):
            cells = [
                escape_latex(cell) if kind == TEXT else re.sub("^-", "$-$", cell).replace("%", r"\%")
                for cell, kind in zip(row, kinds, strict=True)
            ]
            bold = (rf"\textbf{{{cell}}}" if (i, j) in self.best else cell for j, cell in enumerate(cells))
            body.append(" & ".join(bold) + r" \\")
        caption = rf"\caption{{{escape_latex(self.title)}}}\label{{tab:{label}}}"
        if len(body) <= LATEX_ROWS:
            lines = [r"\begin{table}", r"\centering", caption, rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", head]
            lines += [r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
            needs = "booktabs"
        else:
            lines = [rf"\begin{{longtable}}{{{alignment}}}", rf"{caption} \\", r"\toprule", head, r"\midrule"]
            lines += [r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
            needs = "booktabs, longtable"
        return storable("\n".join([f"% needs the packages {needs} (and ctex for Chinese)", *lines]) + "\n")


def format_cell(cell: Cell, kind: str) -> str:
    """A value as papers print it; a p-value keeps three digits, however small."""
    if isinstance(cell, str):
        return cell
    match kind:
        case "count":
            return f"{cell:,}"
        case "change":
            return f"{cell:+,}"
        case "rate":
            return f"{cell:.4f}"
        case "share":
            return f"{100 * cell:.2f}"
        case "points":
            return f"{100 * cell:+.2f}"
        case "percent":
            return f"{cell:+.1f}%"
        case "p":
            return f"{cell:.3g}" if cell < 0.001 else f"{cell:.3f}"
    raise ValueError(f"{cell!r} in a column of {kind}")


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def entities_text(entities: Iterable[Entity]) -> str:
    """Entities for people: `上海/地址_城市 [3, 5)`, one after the other."""
    return "; ".join(
        f"{e.text}/{e.category}" + (f" [{e.start}, {e.end})" if e.start is not None else "") for e in entities
    )


def summary_markdown(title: str, summary: Sequence[str], tables: Mapping[str, Table]) -> str:
    """A Markdown text: a title, a list of sentences, and the tables."""
    lines = [f"# {escape_markdown(title)}", *(f"- {escape_markdown(line)}" for line in summary)]
    return "\n".join(lines) + "\n\n" + tables_markdown(tables)


def tables_markdown(tables: Mapping[str, Table]) -> str:
    """The tables as Markdown, one section each; long ones are cut and say so."""
    sections = (f"## {escape_markdown(table.title)}\n\n{table.to_markdown()}\n" for table in tables.values())
    return storable("\n".join(sections))


_MARKDOWN = {"&": "&amp;", "<": "&lt;", "*": "&#42;", "`": "&#96;"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "-": "{-}",  # no ligatures: -- in a name is no range
    "[": "{[}",  # a row that begins with a bracket or a star is no argument of the line break before it
    "]": "{]}",
    "*": "{*}",
}


def escape_markdown(text: str) -> str:
    """Text in one line that Markdown shows as it is, without markup of its own."""
    escaped = "".join(_MARKDOWN.get(letter, letter) for letter in " ".join(text.split()))
    return escaped.replace("](", "]&#40;")  # no links


def _markdown_cell(text: str) -> str:
    return escape_markdown(text).replace("\\", "\\\\").replace("|", "\\|")


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is: control characters and line breaks become blanks."""
    one_line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+", " ", text)
    return "".join(_LATEX.get(letter, letter) for letter in one_line)
