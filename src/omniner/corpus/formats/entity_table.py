"""Tables with one entity per row, for spreadsheets: the text, the surface, its category and its two offsets.

    id,text,entity,category,start,end
    1,我爱北京,北京,地点,2,4
    2,没有实体,,,,

Rows with the same id, post and text are one sentence, wherever they are; an empty cell of these columns has the value
of the previous row, as in merged cells. A row without surface, category and offsets is a sentence without an entity.
Either offsets or surfaces may be missing. Offsets are accepted as in the official CSV (`omniner_csv`); without usable
ones a surface is searched for from left to right. If texts repeat and ids are 0, 1, 2, ..., they number the rows, not
the sentences, unless the columns are those above: one issue. Columns with other names are not read: one issue for each.

Written offsets are half-open and in code points. The file begins with a byte order mark, without which Excel garbles
Chinese.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import (
    IssueLog,
    join_surrogates,
    labeled_only,
    post_hint,
    quote,
    text_of,
    writable_text,
)
from omniner.corpus.formats.regions import Region, RegionPlacer
from omniner.corpus.formats.rows import header_of, table_cells
from omniner.corpus.formats.spellings import CATEGORIES, ENDS, STARTS, SURFACES, TEXTS
from omniner.corpus.formats.surfaces import add_by_words
from omniner.errors import UserError
from omniner.files import writing
from omniner.records import Entity, Issue, Sentence
from omniner.registry import first_line

_IDS = ("id", "sentence_id", "text_id", "sent_id", "编号")
_POSTS = ("post_id", "note_id", "doc_id")
# `text` is the sentence here and `word` belongs to `word_table`; a value or name can be anything
_SURFACES = tuple(name for name in SURFACES if name not in {"text", "word", "value", "name"})
_WHOLE = re.compile(r"\d{1,9}(?:\.0)?")  # pandas writes 2.0 if other rows of a column are empty
COLUMNS = ("id", "text", "entity", "category", "start", "end")


class _Columns(NamedTuple):
    """The names of the columns; empty = there is none."""

    id: str
    post: str
    text: str
    surface: str
    category: str
    start: str
    end: str


class _Row(NamedTuple):
    """A row; without a region it is only a sentence."""

    line: int
    id: str
    post: str
    text: str
    region: Region | None


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are those of the table. Of `options`, the meaning of offsets is used."""
    log = IssueLog(path)
    placer = RegionPlacer(log, options.offsets, fixed=False, loose="looked for by its words")
    table = list(table_cells(path, log))
    if not table:
        return [], log.items
    header = list(table[0][1])
    columns = _columns(header)
    if columns is None:
        message = f"no columns of texts, surfaces or offsets, and categories among {quote(', '.join(header))}"
        raise UserError(f"{path}:1", message, f"Call them {', '.join(COLUMNS)}.")
    columns = _with_mentions_apart(columns, table)
    for name in header:
        if name and name not in columns:
            log.add("unknown-key", f"the column {quote(name)} is not read{post_hint(name)}", 1)
    rows = list(_rows(table, columns, log))
    is_numbered = not set(COLUMNS) <= set(header) and _number_rows(rows)
    if is_numbered:
        log.add("row-ids", "ids number the rows, whose texts repeat: rows of one text are one sentence", 1)
    groups: dict[tuple[str, str, str], list[_Row]] = {}
    for row in rows:
        groups.setdefault(("" if is_numbered else row.id, row.post, row.text), []).append(row)
    sentences, by_words = [], []
    for (name, post, _), members in groups.items():
        line, log.id = members[0].line, name
        text = text_of({"text": members[0].text}, "text", log, line)
        if text is not None:
            sentence = Sentence(join_surrogates(name, log, line), text, [], post or None)
            sentences.append(sentence)
            regions = [row.region for row in members if row.region]
            placer.add(sentence, [region for region in regions if region.start is not None], line)
            by_words.append((sentence, [region for region in regions if region.start is None], line))
    placer.finish()
    for sentence, loose, line in by_words:
        log.id = sentence.id
        add_by_words(sentence, loose, log, line)
    log.id = ""
    return sentences, log.items


def _number_rows(rows: Sequence[_Row]) -> bool:
    """Whether ids number rows, not sentences: 0, 1, 2, ... although texts repeat."""
    numbers = [str(number) for number in range(len(rows) + 1)]
    return [row.id for row in rows] in (numbers[:-1], numbers[1:]) and len({row.text for row in rows}) < len(rows)


def _rows(table: Iterable[tuple[int, dict[str, str]]], columns: _Columns, log: IssueLog) -> Iterator[_Row]:
    """Yield the rows of the table, with the values that merged cells leave out."""
    name = post = text = ""
    for line, cells in table:
        if not any(cells.values()):
            continue  # a blank row, of commas only

        def cell(column: str, cells: dict[str, str] = cells) -> str:
            return cells[column] if column else ""  # pandas names its index column ""

        given = cell(columns.id), cell(columns.post), cells[columns.text]
        if any(new and new != old for new, old in zip(given, (name, post, text), strict=True)):
            name, post, text = given
        log.id = name
        surface, category = cell(columns.surface), cells[columns.category]
        start, end = _offset(cell(columns.start)), _offset(cell(columns.end))
        region: Region | None = None
        if start is None and end is not None:
            log.add(
                "bad-entity", f"{category} {quote(surface)} ends at {quote(end)}, but starts nowhere; left out", line
            )
        elif category and (surface or start is not None):
            region = Region(surface or None, [category], start, end)
        elif category or surface or start is not None:
            log.add("bad-entity", f"{quote(surface)} of category {quote(category)}: half an entity; left out", line)
        yield _Row(line, name, join_surrogates(post, log, line), text, region)


def _offset(cell: str) -> object:
    """Return an offset as a number, None for an empty cell, else the cell itself."""
    cell = cell.strip()
    return int(cell.removesuffix(".0")) if _WHOLE.fullmatch(cell) else cell or None


def _columns(header: Sequence[str]) -> _Columns | None:
    """Return the columns of a header; None if it is not a table of entities."""
    lower = {name.lower(): name for name in header}
    found = _Columns(
        *(
            next((lower[name.lower()] for name in names if name.lower() in lower), "")
            for names in (_IDS, _POSTS, TEXTS, _SURFACES, CATEGORIES, STARTS, ENDS)
        )
    )
    has_places = found.surface or (found.start and found.end)
    return found if found.text and found.category and has_places else None


def _with_mentions_apart(columns: _Columns, table: Sequence[tuple[int, dict[str, str]]]) -> _Columns:
    """Return the columns, corrected if `text` is the entity's and `sentence` holds the sentence, as in spaCy tables."""
    lower = {name.lower(): name for name in table[0][1]}
    others = [lower[name.lower()] for name in TEXTS if name.lower() in lower and lower[name.lower()] != columns.text]
    for other in others[: not columns.surface]:
        filled = [cells for _, cells in table if cells[columns.text] and cells[other]]
        if filled and all(cells[columns.text] in cells[other] for cells in filled):
            return columns._replace(text=other, surface=columns.text)
    return columns


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write one file atomically. Entities without offsets are written without them, and are issues: reading aligns
    them.
    """
    log = IssueLog(path)
    has_posts = any(sentence.post_id is not None for sentence in sentences)
    seen: set[tuple[str, str, str]] = set()
    with writing(path) as file:
        file.write("\ufeff")
        # before Python 3.13 only characters of the line terminator are quoted within a field: name both
        table = csv.writer(file, lineterminator="\r\n")
        table.writerow([*COLUMNS[:1], *["post_id"] * has_posts, *COLUMNS[1:]])
        for sentence in labeled_only(sentences, log):
            name, post, text = (
                writable_text(part, sentence.id, log) for part in (sentence.id, sentence.post_id or "", sentence.text)
            )
            if (name, post, text) in seen:
                log.add("repeated-sentence", "another one has its id, post and text: they will be read as one", id=name)
            seen.add((name, post, text))
            for entity in sentence.entities or (None,):
                table.writerow([name, *[post] * has_posts, text, *_cells(entity, sentence.id, log)])
    return log.items


def _cells(entity: Entity | None, id: str, log: IssueLog) -> list[str]:
    if entity is None:
        return [""] * 4
    surface, category = (writable_text(part, id, log) for part in (entity.text, entity.category))
    if entity.start is None:
        log.add("no-offsets", f"{category} {quote(surface)} has no place; reading will look for one", id=id)
        return [surface, category, "", ""]
    return [surface, category, str(entity.start), str(entity.end)]


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise the header row."""
    header = header_of(excerpt)
    return Match(82, f"a table with {', '.join(filter(None, header))}") if _columns(header) else None


FORMAT = Format(
    name="entity_table",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".csv",
    holds=frozenset({"id", "post_id", "nested"}),
    sniff_lines=sniff_lines,
)
