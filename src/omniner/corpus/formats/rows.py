"""Read tables with a header row, separated by commas or tabs: their rows, and the records of exports."""

from __future__ import annotations

import csv
import io
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import MAX_LINE, IssueLog, json_records, parse_whole_json, quote, read_text
from omniner.errors import UserError
from omniner.files import check_input_file, explaining
from omniner.wording import counted

_START = 4096  # the first character that is not white space must be within these bytes
_HEADER = 2000  # the header row must end within these characters
_ROW_LIKE = 3  # commas of a quoted text that stand as those of rows would: fewer may do so by chance

_SWALLOWED = "the quote that opens in line {first} closes in line {last}, over lines that look like rows"


def delimiter_of(header: str) -> str:
    """Return the delimiter of a header row."""
    return "\t" if header.count("\t") > header.count(",") else ","


def header_of(excerpt: Excerpt) -> list[str]:
    """Return the names in the first line, if it is a header row; else none."""
    line = excerpt.lines[0][:_HEADER]
    with suppress(csv.Error):
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter_of(line)), [])]
    return []


@dataclass
class _Reading:
    """The result of reading a table in one way.

    Attributes:
        rows: line number and fields.
        broken: what is wrong, and the first and last line that it affects.
    """

    rows: list[tuple[int, list[str]]] = field(default_factory=list)
    broken: list[tuple[str, int, int]] = field(default_factory=list)

    def lost(self) -> int:
        """Count the lines that are broken or have another number of fields than the header."""
        width = len(self.rows[0][1]) if self.rows else 0
        ragged = sum(len(row) != width for _, row in self.rows)
        return ragged + sum(last - first + 1 for _, first, last in self.broken)


def table_rows(text: str, log: IssueLog, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield `(line number, fields)` for each row that is not blank; a broken row is an issue.

    In a table separated by tabs and written without quoting, a `"` that is a token opens a quoted cell, which extends
    over all rows up to the next `"`. If reading line by line loses fewer lines, the table is read so.
    """
    lines = io.StringIO(text, newline="").readlines()
    reading = _read_quoted(lines, delimiter)
    if delimiter == "\t" and reading.lost() and max(map(len, lines)) <= MAX_LINE:
        reading = min(_read_unquoted(lines), reading, key=_Reading.lost)
    broken = deque(reading.broken)
    for line, row in [*reading.rows, (len(lines) + 1, [])]:
        while broken and broken[0][1] < line:
            message, first, last = broken.popleft()
            unread = (last - first + 1) / len(lines) if last > first else 0.0
            which = f"lines {first} to {last} are" if last > first else "the line is"
            log.add("bad-csv", f"{message}; {which} left out", first, unread=unread)
        if row:
            yield line, row


def _read_quoted(lines: Sequence[str], delimiter: str) -> _Reading:
    """Read rows whose cells may be quoted; quoted cells may contain delimiters and newlines."""
    found, spans = _Reading(), dict[int, int]()  # first and last line of each row of several lines
    previous = csv.field_size_limit(MAX_LINE)  # the module's limit applies to the whole process: restore it
    try:
        reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
        while True:
            first = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return _without_swallowed(found, spans, lines, delimiter)
            except csv.Error as error:
                found.broken.append((str(error), first, reader.line_num))
                continue
            last, width = reader.line_num, len(found.rows[0][1]) if found.rows else 0
            if last > first and _swallows_rows(row, lines[first - 1 : last], width, delimiter):
                found.broken.append((_SWALLOWED.format(first=first, last=last), first, last))
            elif row:
                found.rows.append((first, row))
                if last > first:
                    spans[first] = last
    finally:
        csv.field_size_limit(previous)


def _without_swallowed(found: _Reading, spans: Mapping[int, int], lines: Sequence[str], delimiter: str) -> _Reading:
    """Take out rows of several lines, each of which has, in one column, a value of that column in other rows.

    Only columns count whose values repeat, those of labels: a text may well have lines that are texts of other rows.
    """
    if not spans:
        return found
    width = len(found.rows[0][1])
    alone = [row for first, row in found.rows[1:] if first not in spans and len(row) == width]
    values = [{cell for cell in column if cell} for column in zip(*alone, strict=True)]
    labels = [cells if 2 * len(cells) <= len(alone) else set() for cells in values]
    kept = []
    for first, row in found.rows:
        last = spans.get(first, first)
        split = [line.rstrip("\r\n").split(delimiter) for line in lines[first - 1 : last]]
        is_whole = last == first or any(len(cells) != width for cells in split)
        columns = () if is_whole else zip(labels, zip(*split, strict=True), strict=False)
        if any(all(cell.strip('"') in known for cell in cells) for known, cells in columns):
            found.broken.append((_SWALLOWED.format(first=first, last=last), first, last))
        else:
            kept.append((first, row))
    return _Reading(kept, sorted(found.broken, key=itemgetter(1)))


def _swallows_rows(row: Sequence[str], lines: Sequence[str], width: int, delimiter: str) -> bool:
    """Whether a stray quote made one row of lines that are rows: each has the delimiters of a row, and more tells so.

    The lines of a quoted text may have as many commas by chance, but hardly as many tabs.
    """
    split = [line.rstrip("\r\n").split(delimiter) for line in lines]
    if any(len(cells) != width for cells in split):
        return False
    in_text = (len(lines) - 1) * (width - 1)
    if delimiter == "\t" or (width > 2 and in_text >= _ROW_LIKE) or len(row) != width:
        return True
    if any(cell.startswith(delimiter) for cell in row):  # the quote is a token, and its cell ends behind it
        return True
    columns = zip(*split, strict=True)  # a value that stands in several lines is that of a label, not of a text
    return any(
        value and sum(cell.strip('"') == value for cell in cells) > 1 for value, cells in zip(row, columns, strict=True)
    )


def _read_unquoted(lines: Sequence[str]) -> _Reading:
    """Read each line as a row of cells separated by tabs; a cell that is quoted as a whole loses its quotes."""
    split = ((number, line.rstrip("\r\n")) for number, line in enumerate(lines, 1))
    return _Reading([(number, [_unquoted(cell) for cell in line.split("\t")]) for number, line in split if line])


def _unquoted(cell: str) -> str:
    inner = cell[1:-1].replace('""', "")
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner
    return cell[1:-1].replace('""', '"') if is_quoted else cell


def table_cells(path: Path, log: IssueLog) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield `(line number, cells by column)` for each row after the header; one of another width is an issue."""
    text = read_text(path, log).removeprefix("\ufeff")
    rows = table_rows(text, log, delimiter_of(text[:_HEADER].partition("\n")[0]))
    _, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    check_header(path, names)
    for line, row in rows:
        if len(row) != len(names):
            log.add("bad-record", f"{counted(len(row), 'field')} where the header has {len(names)}; left out", line)
            continue
        cells = dict(zip(names, row, strict=True))
        log.id = cells.get("id", "")
        yield line, cells
        log.id = ""


def check_header(path: Path, names: Sequence[str]) -> None:
    """Raise a `UserError` if two columns have the same name, because the intended one is unknown."""
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        found = f"{counted(names.count(twice[0]), 'column')} called {quote(twice[0])}"
        raise UserError(f"{path}:1", found, "Rename or remove those that are not to be read.")


def first_bytes(path: Path) -> bytes:
    """Read the first bytes of a file, which distinguish JSON from other files, without leading white space.

    Raises:
        UserError: the file cannot be read.
    """
    check_input_file(path)
    with explaining(path), path.open("rb") as file:
        return file.read(_START).removeprefix(b"\xef\xbb\xbf").lstrip()


def json_or_table_records(path: Path, log: IssueLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, object)` for each object of a JSON file, or each row of a table."""
    return (json_records if first_bytes(path)[:1] in (b"{", b"[") else table_records)(path, log)


def table_records(path: Path, log: IssueLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, object)` for each row; JSON in a cell is parsed, an empty cell is left out."""
    for line, cells in table_cells(path, log):
        record: dict[str, Any] = {}
        for name, cell in cells.items():
            value: Any = cell
            if cell[:1] in ("[", "{"):
                with suppress(ValueError):
                    value = parse_whole_json(cell)
            if value != "":
                record[name] = value
        yield line, record
