"""Tables for people: printed as papers do, in Markdown and in LaTeX, with everything in them escaped.

A `Sheet` is a table of values with a title and, per column, what these values are. `shown` prints one (0.8531 as 85.31,
a difference of shares as +1.20 points), `markdown` and `latex` make whole texts, in which no name from a corpus or a
configuration acts as markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from omniner.analysis.scores.tables import Cell, Table, storable

NONE = ""  # no value: a change from 0 has no percentage
TEXT, COUNT, SHARE, POINTS, CHANGE, PERCENT, P = "text", "count", "share", "points", "change", "percent", "p"

MARKDOWN_ROWS = 100  # of a table in the Markdown text; the CSV has them all
LATEX_ROWS = 40  # of a table that fits on a page

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


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table with its title and what the values of each column are (`TEXT`, `SHARE`, ...)."""

    title: str
    table: Table
    kinds: list[str]
    best: frozenset[tuple[int, int]] = frozenset()  # cells (row, column) that are printed bold

    def printed(self) -> list[list[str]]:
        """The rows as people read them."""
        return [[shown(cell, kind) for cell, kind in zip(row, self.kinds, strict=True)] for row in self.table.rows]


def shown(cell: Cell, kind: str) -> str:
    """A value as papers print it; a p-value keeps three digits, however small."""
    if isinstance(cell, str):
        return cell
    match kind:
        case "count":
            return f"{cell:,}"
        case "change":
            return f"{cell:+,}"
        case "share":
            return f"{100 * cell:.2f}"
        case "points":
            return f"{100 * cell:+.2f}"
        case "percent":
            return f"{cell:+.1f}%"
        case "p":
            return f"{cell:.3g}" if cell < 0.001 else f"{cell:.3f}"
    raise ValueError(f"{cell!r} in a column of {kind}")


def markdown(sheets: Mapping[str, Sheet]) -> str:
    """The tables as Markdown, one section each; long ones are cut and say so."""
    parts = []
    for sheet in sheets.values():
        rows: list[list[Cell]] = [
            [f"**{plain(cell)}**" if (i, j) in sheet.best else plain(cell) for j, cell in enumerate(row)]
            for i, row in enumerate(sheet.printed())
        ]
        table = Table(list(map(plain, sheet.table.columns)), rows)
        parts.append(f"## {plain(sheet.title)}\n\n{table.to_markdown(MARKDOWN_ROWS) if rows else 'None.'}\n")
    return storable("\n".join(parts))


def plain(text: str) -> str:
    """Text in one line that Markdown shows as it is, without markup of its own."""
    escaped = "".join(_MARKDOWN.get(letter, letter) for letter in " ".join(text.split()))
    return escaped.replace("](", "]&#40;")  # no links


def latex(sheet: Sheet, label: str) -> str:
    """One table as LaTeX, for a document with `booktabs` and, where it has Chinese in it, `ctex`.

    A table of more rows than a page holds is a `longtable`.
    """
    alignment = "".join("l" if kind == TEXT else "r" for kind in sheet.kinds)
    head = " & ".join(_escaped(name.replace("_", " ")) for name in sheet.table.columns) + r" \\"
    body = [
        " & ".join(
            rf"\textbf{{{_latex_cell(cell, kind)}}}" if (i, j) in sheet.best else _latex_cell(cell, kind)
            for j, (cell, kind) in enumerate(zip(row, sheet.kinds, strict=True))
        )
        + r" \\"
        for i, row in enumerate(sheet.printed())
    ]
    caption = rf"\caption{{{_escaped(sheet.title)}}}\label{{tab:{label}}}"
    if len(body) <= LATEX_ROWS:
        lines = [r"\begin{table}", r"\centering", caption, rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", head]
        lines += [r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        needs = "booktabs"
    else:
        lines = [rf"\begin{{longtable}}{{{alignment}}}", rf"{caption} \\", r"\toprule", head, r"\midrule", r"\endhead"]
        lines += [r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
        needs = "booktabs, longtable"
    return storable("\n".join([f"% needs the packages {needs} (and ctex for Chinese)", *lines]) + "\n")


def _latex_cell(text: str, kind: str) -> str:
    return _escaped(text) if kind == TEXT else re.sub("^-", "$-$", text).replace("%", r"\%")


def _escaped(text: str) -> str:
    """Text that LaTeX prints as it is: control characters and line breaks become blanks."""
    plain = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+", " ", text)
    return "".join(_LATEX.get(letter, letter) for letter in plain)
