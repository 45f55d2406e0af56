"""Read tables with a header row, separated by commas or tabs: their rows, and the records of exports."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import MAX_LINE, IssueLog, json_records, parse_whole_json, quote, read_text
from omniner.errors import UserError
from omniner.files import check_input_file, explaining
from omniner.wording import counted

_START = 4096  # the first character that is not white space must be within these bytes
_HEADER = 2000  # the header row must end within these characters


def delimiter_of(header: str) -> str:
    """Return the delimiter of a header row."""
    return "\t" if header.count("\t") > header.count(",") else ","


def header_of(excerpt: Excerpt) -> list[str]:
    """Return the names in the first line, if it is a header row; else none."""
    line = excerpt.lines[0][:_HEADER]
    with suppress(csv.Error):
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter_of(line)), [])]
    return []


def table_rows(text: str, log: IssueLog, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield `(line number, fields)` for each row that is not blank; a broken row is an issue."""
    previous = csv.field_size_limit(MAX_LINE)  # the module's limit applies to the whole process: restore it
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                log.add("bad-csv", f"{error}; lines {line} to {reader.line_num} are left out", line)
                continue
            if row:
                yield line, row
    finally:
        csv.field_size_limit(previous)


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
