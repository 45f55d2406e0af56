"""OmniNER's official CSV: columns `note_id`, `sentence`, `label`; `label` is a JSON list of items.

    note_id,sentence,label
    n1,我爱北京,"[{""text"": ""北京"", ""labels"": [""地点""], ""start"": 2, ""end"": 4}]"

`note_id` becomes the post. An item with several labels gives an entity for each. `start` and `end` are optional; they
are believed only where they give the surface, half-open in code points, or in UTF-16 units (as browser tools count: an
emoji is two), or with an inclusive end, in this order. Without usable offsets a surface is aligned left to right
(`records.align_surfaces`); what cannot be aligned keeps its surface, has no offsets and is an issue.

Written are items of one label each, with half-open offsets in code points.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import (
    IssueLog,
    join_surrogates,
    labeled_only,
    parse_json,
    quote,
    read_text,
    writable_text,
)
from omniner.corpus.formats.regions import without_repeats
from omniner.corpus.formats.rows import header_of, table_rows
from omniner.errors import UserError
from omniner.files import writing
from omniner.records import Entity, Issue, Sentence, align_surfaces, is_unlabeled, unlabeled_sentence, utf16_places
from omniner.registry import first_line

COLUMNS = ("note_id", "sentence", "label")


class ListedMention(NamedTuple):
    """One mention as it is listed; `given` are the two offsets as written, of whatever convention."""

    surface: str
    categories: tuple[str, ...]
    given: tuple[int, int] | None


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty. `options` changes nothing here."""
    log = IssueLog(path)
    rows = table_rows(read_text(path, log).removeprefix("\ufeff"), log)
    _, header = next(rows, (1, []))
    if "sentence" not in header:
        fix = f"Name a CSV file with the columns {', '.join(COLUMNS)}, or set data.format."
        raise UserError(f"{path}:1", f"no column `sentence` among {quote(','.join(header))}", fix)
    for name in header:
        if name not in COLUMNS:
            log.add("unknown-key", f"the column {quote(name)} is not read", 1)
    sentences = []
    for line, row in rows:
        if len(row) != len(header):
            log.add("bad-record", f"{len(row)} fields where the header has {len(header)}; left out", line)
        elif sentence := _sentence(dict(zip(header, row, strict=True)), log, line):
            sentences.append(sentence)
    return sentences, log.items


def _sentence(row: dict[str, str], log: IssueLog, line: int) -> Sentence | None:
    text = join_surrogates(row["sentence"], log, line)
    if not text:
        log.add("empty-text", "a sentence without a character; left out", line)
        return None
    post_id = join_surrogates(row.get("note_id", ""), log, line) or None
    label = row.get("label")
    if label is None:
        sentence = unlabeled_sentence("", text)
        sentence.post_id = post_id
        return sentence
    items = _items(label.strip(), log, line)
    if items is None:
        return None
    entities = _place(text, items, log, line)
    return Sentence("", text, without_repeats(entities, log, line), post_id)


def _items(label: str, log: IssueLog, line: int) -> list[ListedMention] | None:
    """The listed mentions; None where the label cannot be read: a sentence with unknown labels has no use."""
    if not label:
        return []
    try:
        value, end = parse_json(label)
        if end < len(label) or not isinstance(value, list):
            raise ValueError("not one list")
    except ValueError as error:
        log.add("bad-json", f"label: {error}; the row is left out", line)
        return None
    return [item for entry in value if (item := _item(entry, log, line))]


def _item(entry: object, log: IssueLog, line: int) -> ListedMention | None:
    if not isinstance(entry, dict):
        log.add("bad-entity", f"{quote(entry)} where an object belongs; left out", line)
        return None
    surface, labels = entry.get("text"), entry.get("labels")
    names = [labels] if isinstance(labels, str) else labels
    if not isinstance(surface, str) or not surface:
        log.add("bad-entity", f"{quote(surface)} is not a surface; the entity is left out", line)
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        log.add("bad-entity", f"{quote(surface)} has {quote(labels)} for its labels; left out", line)
        return None
    categories = tuple(join_surrogates(name, log, line) for name in dict.fromkeys(names))
    start, end = entry.get("start"), entry.get("end")
    given = (start, end) if type(start) is int and type(end) is int else None
    if given is None and not (start is None and end is None):
        message = f"{quote(surface)} has {quote(start)}, {quote(end)} for offsets; aligned instead"
        log.add("bad-offsets", message, line)
    return ListedMention(join_surrogates(surface, log, line), categories, given)


def _place(text: str, items: list[ListedMention], log: IssueLog, line: int) -> list[Entity]:
    """Entities in the listed order, each at its given place if that holds its surface, else aligned."""
    starts = _given_starts(text, items, log, line)
    missing = [index for index, start in enumerate(starts) if start is None]
    if missing:
        taken = [(s, s + len(item.surface)) for s, item in zip(starts, items, strict=True) if s is not None]
        found = align_surfaces(text, [items[index].surface for index in missing], taken)
        for index, start in zip(missing, found, strict=True):
            starts[index] = start
    entities = []
    for start, item in zip(starts, items, strict=True):
        end = None if start is None else start + len(item.surface)
        if start is None:
            message = f"{item.categories[0]} {quote(item.surface)} has no place left in the text; no offsets"
            log.add("unaligned", message, line)
        entities += [Entity(item.surface, category, start, end) for category in item.categories]
    return entities


def _given_starts(text: str, items: list[ListedMention], log: IssueLog, line: int) -> list[int | None]:
    """The start of each item whose offsets hold its surface under a known way of counting, else None.

    One row is counted one way: the way that fits all of its items is preferred to one that fits some by accident.
    """
    if all(item.given is None for item in items):
        return [None] * len(items)
    in_utf16 = utf16_places(text)
    ways = [
        [_fit(text, item, lambda start, end: (start, end)) for item in items],
        [_fit(text, item, lambda start, end: (in_utf16.get(start, -1), in_utf16.get(end, -1))) for item in items],
        [_fit(text, item, lambda start, end: (start, end + 1)) for item in items],
    ]
    wanted = sum(item.given is not None for item in items)
    full = [way for way in ways if sum(start is not None for start in way) == wanted]
    starts: list[int | None]
    if full:
        starts = full[0]
    else:
        starts = [next((s for s in choices if s is not None), None) for choices in zip(*ways, strict=True)]
    _report_offsets(starts, ways[0], items, log, line)
    return starts


def _report_offsets(
    starts: list[int | None], plain: list[int | None], items: list[ListedMention], log: IssueLog, line: int
) -> None:
    for start, direct, item in zip(starts, plain, items, strict=True):
        if item.given is None or start == direct is not None:
            continue
        how = "aligned instead" if start is None else f"taken as code points from {start}"
        code = "offset-mismatch" if start is None else "offset-units"
        log.add(code, f"{quote(item.surface)} is not at {item.given} in code points; {how}", line)


def _fit(text: str, item: ListedMention, count: Callable[[int, int], tuple[int, int]]) -> int | None:
    """The start of an item, if its offsets hold its surface when counted this way."""
    if item.given is None:
        return None
    start, end = count(*item.given)
    return start if 0 <= start < end and text[start:end] == item.surface else None


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write one file, whole or not at all. Entities without a place are written so, and issues: reading aligns them.

    Without any labels the column is left out; a file that has it cannot hold sentences without labels, which are
    issues then.
    """
    log = IssueLog(path)
    bare = bool(sentences) and all(map(is_unlabeled, sentences))
    with writing(path) as file:
        # before Python 3.13 only characters of the line's end are quoted within a field: name both
        table = csv.writer(file, lineterminator="\r\n")
        table.writerow(COLUMNS[:2] if bare else COLUMNS)
        for sentence in sentences if bare else labeled_only(sentences, log):
            row = [writable_text(text, sentence.id, log) for text in (sentence.post_id or "", sentence.text)]
            table.writerow(row if bare else [*row, _label(sentence, log)])
    return log.items


def _label(sentence: Sentence, log: IssueLog) -> str:
    items = []
    for entity in sentence.entities:
        item: dict[str, object] = {"text": entity.text, "labels": [entity.category]}
        if entity.start is None:
            message = f"{entity.category} {quote(entity.text)} has no place; reading will look for one"
            log.add("no-offsets", message, id=sentence.id)
        else:
            item |= {"start": entity.start, "end": entity.end}
        items.append(item)
    return writable_text(json.dumps(items, ensure_ascii=False), sentence.id, log)


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise the header row."""
    header = header_of(excerpt)
    if "sentence" in header and ("label" in header or "note_id" in header):
        return Match(80, f"a header row with {', '.join(name for name in header if name)}")
    return None


FORMAT = Format(
    name="omniner_csv",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".csv",
    holds=frozenset({"post_id", "nested"}),
    sniff_lines=sniff_lines,
)
