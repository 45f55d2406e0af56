"""Find the columns of CoNLL files: what separates them, and which of them hold the tokens and the tags.

Of the columns that look like tags the last is used. Tokens are the first column that holds neither tags nor row
numbers, as in CoNLL-2003 and CoNLL-U. If two columns hold tags of the same categories, as in files of gold and
predictions or of nested layers, the file is rejected until `data.tag_column` chooses one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omniner.corpus.formats import ReadOptions
from omniner.corpus.formats.tags import bare_tag, is_tag, is_tag_list, notation_of
from omniner.errors import UserError
from omniner.wording import counted

SEPARATORS = {"tab": "\t", "space": " "}
LABEL_STUDIO = " -X- _ "  # between token and tag in its exports, whose tags may contain spaces
BLANKS = ""  # separator: any number of tabs and spaces
SEPARATOR_NAMES = {
    "\t": "tab",
    " ": "space",
    ",": "comma",
    ";": "semicolon",
    "|": "bar",
    ":": "colon",
    LABEL_STUDIO: "Label Studio",
    BLANKS: "tabs and spaces",
}
_MARKS = (";", "|", ":")  # separators of two columns only, because they also occur in texts
DOCUMENT = "-DOCSTART-"
_MOST = 0.9  # share of the lines that must fit
# Categories of the third column of CoNLL-2003, which does not hold entities.
_CHUNKS = frozenset({"NP", "VP", "PP", "ADJP", "ADVP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"})
_SAMPLE = 400  # number of lines examined at the beginning, and again in the rest
_ROW_NUMBER = re.compile(r"\d+(?:[-.]\d+)?")


class Layout(NamedTuple):
    """How a line is split into columns.

    Attributes:
        separator: of the columns; empty = any tabs and spaces.
        token, tag: columns from 0, or from the end; tag None = none of them looks like tags.
        columns: number of columns; 0 = as many as a line has.
        notation: of the tags.
    """

    separator: str
    token: int = 0
    tag: int | None = None
    columns: int = 0
    notation: str = ""

    def split(self, line: str) -> list[str]:
        """Return the columns of a line."""
        return line.split(self.separator) if self.separator else line.split()


def layout_of(lines: Sequence[str], options: ReadOptions, path: Path) -> Layout:
    """Return the layout of a file; whatever the options do not set is detected."""
    if options.separator not in ("auto", *SEPARATORS):
        raise UserError("data.separator", f"{options.separator!r} is unknown", "Use auto, tab or space.")
    found = find_layout(lines, options.scheme == "io")
    separator = found.separator if options.separator == "auto" else SEPARATORS[options.separator]
    if options.tag_column is not None:
        widths = [len(strip_end(found._replace(separator=separator).split(line))) for line in sample_rows(lines)]
        if options.tag_column > max(widths, default=0) or max(widths) < 2:
            message = f"{options.tag_column}, but the lines of {path} have {counted(max(widths, default=0), 'column')}"
            raise UserError("data.tag_column", message, "Count columns from 1; data.separator parts them.")
        return Layout(separator, 1 if options.tag_column == 1 else found.token, options.tag_column - 1)
    if options.separator != "auto" and separator != found.separator:
        first = next(iter(sample_rows(lines)), "")
        if found.tag is not None and separator not in first:
            message = f"{options.separator} parts no token from its tag in {path}"
            raise UserError("data.separator", message, "Use auto.")
        found = found._replace(separator=separator, token=0, tag=-1, columns=0)
    if twin := _twin(lines, found):
        message = f"columns {twin + 1} and {found.columns} both hold tags"
        fix = (
            "They may be gold and predictions, or two layers: set data.tag_column to the one to read of a corpus; "
            "leave one of them in a file of predictions."
        )
        raise UserError(f"{path}:{_first_number(lines)}", message, fix)
    return found


def sample_rows(lines: Sequence[str]) -> list[str]:
    """Return sample lines that could be rows: as many from the beginning of a file as from the rest."""
    chosen = (*lines[:_SAMPLE], *lines[_SAMPLE :: max(1, len(lines) // _SAMPLE)])
    rows = [line for line in chosen if line.strip(" \t\r\ufeff") and not line.startswith(DOCUMENT)]
    return [line for line in rows if not line.startswith(("# ", "#\t")) or is_tag(line.split()[-1])]


def _first_number(lines: Sequence[str]) -> int:
    first = next(iter(sample_rows(lines)), None)
    return next((number for number, line in enumerate(lines, 1) if line == first), 1)


def find_layout(lines: Sequence[str], categories_alone: bool = False) -> Layout:
    """Detect the columns of tokens and tags from sample lines.

    Args:
        lines: of a file.
        categories_alone: tags have no letters (`PER`), and none of them needs to be `O`.
    """
    sample = sample_rows(lines)
    if not sample or 5 * sum(map(is_tag_list, sample)) > len(sample):  # tags of whole sentences
        return Layout("\t")
    for separator in (LABEL_STUDIO, "\t", " ", ",", BLANKS, *_MARKS):
        layout = Layout(separator)
        rows = [strip_end(layout.split(line)) for line in sample]
        if separator in _MARKS and any(len(row) != 2 or " " in row[0] for row in rows):
            continue
        last = [bare_tag(row[-1]) for row in rows if len(row) > 1]
        lists = sum(map(is_tag_list, last)) if separator not in (" ", BLANKS) else 0
        if sum(map(is_tag, last)) >= _MOST * len(sample) and 2 * lists < len(last):
            return layout._replace(token=_token_column(rows, -1), tag=-1, columns=_width(rows), notation="prefix")
    for separator in ("\t", ",", BLANKS):
        layout = Layout(separator)
        rows = [strip_end(layout.split(line)) for line in sample]
        width = _width(rows)
        if width < 2:
            continue
        fitting = [row for row in rows if len(row) == width]
        for tag in (*range(width - 1, 0, -1), 0):
            column = [bare_tag(row[tag]) for row in fitting]
            if notation := _tag_notation(column, categories_alone and tag == width - 1):
                return Layout(separator, _token_column(fitting, tag), tag, width, notation)
    return Layout("\t")


def strip_end(row: list[str]) -> list[str]:
    """Remove the empty column that a separator at the end of the line creates."""
    return row[:-1] if len(row) > 2 and not row[-1].strip() else row


def _width(rows: Sequence[Sequence[str]]) -> int:
    """Return the number of columns that most rows have; 0 if rows differ too much."""
    [(width, count)] = Counter(map(len, rows)).most_common(1)
    return width if count >= _MOST * len(rows) else 0


def _token_column(rows: Sequence[Sequence[str]], tag: int) -> int:
    """Return the first column that holds neither tags nor row numbers."""
    if tag == 0:
        return 1
    wide = [row for row in rows if len(row) > 2]
    numbered = len(wide) >= _MOST * len(rows) and all(_ROW_NUMBER.fullmatch(row[0]) for row in wide)
    return 1 if numbered and tag != 1 and not all(_ROW_NUMBER.fullmatch(row[1]) for row in wide) else 0


def _tag_notation(column: Sequence[str], categories_alone: bool) -> str:
    """Return how the tags of a column are spelled; empty if it holds something else."""
    counts = Counter(column)
    notation = "category" if categories_alone else notation_of(counts)
    outside = counts["O"] + counts["o"] or counts["_"] + counts["-"] + counts["0"]
    few = len(counts) <= max(4, 0.5 * len(column)) and len(counts) <= 400
    if notation == "category":
        named = all(len(tag) <= 40 and any(map(str.isalpha, tag)) for tag in counts if tag not in ("_", "-", "0"))
        return notation if few and named and (categories_alone or 10 * outside >= len(column)) else ""
    if notation == "prefix" and len(counts) == (counts["O"] > 0) + (counts["o"] > 0):
        return ""  # nothing but O: a column of something else, or without labels to confirm it
    if notation == "letter":
        return (
            notation if counts.keys() <= set("BIESMLUWObiesmluwo") and outside and (counts["B"] or counts["b"]) else ""
        )
    known = sum(count for tag, count in counts.items() if is_tag(tag) or notation_of({tag: 1, "O": 1}) == notation)
    return notation if notation and known + outside >= _MOST * len(column) else ""


def _twin(lines: Sequence[str], layout: Layout) -> int | None:
    """Return the column before the tags, if it holds tags of the same categories or the last one holds only O."""
    if layout.tag is None or layout.columns < 3 or layout.notation != "prefix":
        return None
    rows = [row for row in (strip_end(layout.split(line)) for line in sample_rows(lines)) if len(row) == layout.columns]
    last, before = ([row[at] for row in rows] for at in (-1, -2))
    if layout.tag not in (-1, layout.columns - 1) or layout.token == layout.columns - 2:
        return None
    names, others = ({tag[2:] for tag in column if is_tag(tag) and tag != "O"} for column in (last, before))
    if not all(map(is_tag, before)) or not others or others <= _CHUNKS:
        return None
    return layout.columns - 2 if not names or 2 * len(names & others) >= min(len(names), len(others)) else None


def is_comment(line: str, layout: Layout) -> bool:
    """Whether a line that begins with `#` is a comment: not if its tag column has a tag, or if `#` is all it has."""
    parts = strip_end(layout.split(line))
    if layout.tag is None:
        return len(line) > 2 and line[1] in " \t" and not is_tag(line.split()[-1])
    if len(parts) < 2 or (layout.columns and len(parts) != layout.columns):
        return len(line) > 1
    if not -len(parts) <= layout.tag < len(parts):
        return True
    tag = bare_tag(parts[layout.tag])
    return not (is_tag(tag) or layout.notation != "prefix")
