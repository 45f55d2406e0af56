"""Read answers without brackets, if they are clear: tables, Markdown lists, a category before its surfaces.

A table needs a header with known names. In a list, the categories or the sentence must show for every line which side
is which. A line that is not a pair makes the text prose, unless it has no list marker and all pairs have one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from omniner.answers.known_names import CATEGORY_KEYS, NOTHING, SURFACE_KEYS, normal_key
from omniner.answers.loose_json import CutList, scan
from omniner.answers.pairs import Pair, PairReader, PairReading

_MARKER = re.compile(r"\s*(?:[-*•·+]|\d+[.)、．]|[(（]\d+[)）])\s+|\s*\d+[、．]\s*")
_LABEL = re.compile(r"[\s\-*•#]*+([^\s:：\[\]{}\"']{1,40})[\"'*]*\s*[:：]\s*+\**+\s*+(?=\[)")
_RULE = re.compile(r"[\s|:+\-=]+")
_FIELDS = re.compile(r"[,，、;；]")
_COLON = re.compile(r"[:：=]")
_TAGGED = re.compile(r"<([^<>/\s]{1,40})>([^<>]{1,200})</\1>")
_SENTENCE_MARKS = re.compile(r"[。！？!?]")
_HEADING = " \t\r#*_`:：【】[]"
_MARKS = " \t\r*_`\"'“”"
_MAX_LINES, _MAX_LINE = 10_000, 2_000  # characters; longer lines are prose


def read_labelled_lists(text: str, reader: PairReader) -> PairReading:
    """Read lines such as `人名：["王芳", "李雷"]`."""
    pairs: list[Pair] = []
    lines = text.splitlines()[:_MAX_LINES]
    for line in lines:
        label = _LABEL.match(line)
        if label is None or not reader.is_category(label[1]):
            continue
        try:
            value, _ = scan(line, label.end())
        except RecursionError:
            continue
        if isinstance(value, list) and all(type(item) is str for item in value) and not isinstance(value, CutList):
            pairs += [(surface, label[1]) for surface in value if surface]
    return PairReading(pairs, 0)


def read_lines(text: str, reader: PairReader, cut: bool) -> PairReading:
    """Read a table, records of `key: value` lines, tagged surfaces, or one pair per line.

    Args:
        text: without lists in brackets.
        reader: decides which side is which.
        cut: whether the last line may be cut.
    """
    lines = text.splitlines()[:_MAX_LINES]
    if cut and lines and not text.endswith("\n"):
        lines.pop()
    lines = [line for line in lines if line.strip()]
    if any(len(line) > _MAX_LINE for line in lines):
        return PairReading([], 0)
    for read in (_table, _records, _tagged, _listed):
        if pairs := list(read(lines, reader)):
            return PairReading(pairs, 0)
    return PairReading([], 0)


def _table(lines: Sequence[str], reader: PairReader) -> Iterator[Pair]:
    """Yield the rows of a Markdown table, or of comma or tab separated values with a header."""
    for mark in ("|", "\t", ",", "，"):
        rows = [_cells(line, mark) for line in lines if line.count(mark)]
        header = next((at for at, row in enumerate(rows) if _columns(row)), None)
        if header is None:
            continue
        surface, category = _columns(rows[header]) or (0, 0)
        ends = mark == "|" and lines[-1].count(mark) and lines[0].rstrip().endswith("|")
        for row in rows[header + 1 :]:
            whole = len(row) == len(rows[header]) and not (ends and row[-1])
            if whole and row[surface] and row[category] and not _RULE.fullmatch(row[surface]):
                yield row[surface], row[category]
        return


def _cells(line: str, mark: str) -> list[str]:
    """Return the cells of a row; a complete row of a Markdown table ends with an empty one."""
    return [cell.strip(_MARKS) for cell in line.strip().removeprefix(mark).split(mark)]


def _columns(row: Sequence[str]) -> tuple[int, int] | None:
    """Return the columns of surface and category in a header; None if it has not both."""
    keys = [normal_key(cell) for cell in row]
    categories = [at for at, key in enumerate(keys) if key in CATEGORY_KEYS]
    surfaces = [at for at, key in enumerate(keys) if key in SURFACE_KEYS]
    return (surfaces[0], categories[0]) if surfaces and categories else None


def _records(lines: Sequence[str], reader: PairReader) -> Iterator[Pair]:
    """Read `实体：北京，类别：地点` on one line, or one field per line."""
    fields: dict[str, str] = {}
    for line in lines:
        for part in _FIELDS.split(_unmarked(line)):
            sides = _COLON.split(part, maxsplit=1)
            key, value = normal_key(sides[0].strip(_MARKS)), sides[-1].strip(_MARKS) if len(sides) == 2 else ""
            name = "surface" if key in SURFACE_KEYS else "category" if key in CATEGORY_KEYS else ""
            if name and name in fields:
                fields = {}
            if name and value:
                fields[name] = value
            if len(fields) == 2:
                yield fields["surface"], fields["category"]
                fields = {}


def _tagged(lines: Sequence[str], reader: PairReader) -> Iterator[Pair]:
    """Read `<人名>王芳</人名>`, with known categories."""
    for line in lines:
        for found in _TAGGED.finditer(line):
            if found[1] in reader.categories:
                yield found[2], found[1]


def _listed(lines: Sequence[str], reader: PairReader) -> list[Pair]:
    """Read one pair, or one category with its surfaces, per line; or lists of surfaces below their category."""
    pairs: list[Pair] = []
    marked, group, begun = True, "", False
    for line in lines:
        marker = _MARKER.match(line)
        text = line[marker.end() :] if marker else line
        heading = text.strip(_HEADING)
        if reader.is_category(heading):
            group = heading
            continue
        found = _of_line(text, reader)
        if found is None and group and marker and (not reader.sentence or heading in reader.sentence):
            found = [(heading, group)] if heading.casefold() not in NOTHING else []
        if found is None:
            if marker or (begun and not marked):
                return []  # prose; beside a list with markers, a line without one is a remark
            continue
        begun = True
        pairs += found
        marked = marked and marker is not None
    return pairs if reader.sentence or len(pairs) > 1 or marked else []


def _unmarked(line: str) -> str:
    """Return a line without its list marker or number."""
    marker = _MARKER.match(line)
    return line[marker.end() :] if marker else line


def _of_line(line: str, reader: PairReader) -> list[Pair] | None:
    """Return the pairs of a line: one, or several separated by commas; None if it is prose."""
    text = line.strip().rstrip("。;；,，")
    if _SENTENCE_MARKS.search(text):
        return None
    pair = reader.split_pair(text)
    found = [pair] if pair else [reader.split_pair(part) for part in _FIELDS.split(text) if part.strip()]
    pairs = []
    for each in found:
        if each is None:
            return None
        surfaces = [] if each[0].casefold() in NOTHING else reader.parts(each[0])
        if reader.sentence and not all(surface in reader.sentence for surface in surfaces):
            return None
        pairs += [(surface, each[1]) for surface in surfaces]
    return pairs
