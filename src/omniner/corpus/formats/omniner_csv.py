"""OmniNER's official CSV: columns `note_id`, `sentence`, `label`; `label` is a JSON list of items.

    note_id,sentence,label
    n1,我爱北京,"[{""text"": ""北京"", ""labels"": [""地点""], ""start"": 2, ""end"": 4}]"

`note_id` becomes the post. An item with several labels gives an entity for each, and an issue counts such items: the
published conversion for language models keeps the first label only, so there are fewer pairs there.

`start` and `end` are optional; they are accepted only if they give the surface, in any way of counting (`regions`).
Without usable offsets a surface is searched for from left to right (`align.locate_pairs`). An absent surface has no
offsets and is an issue; a surface listed more often than it occurs is left out and is an issue.

Written items have one label each, with half-open offsets in code points.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import (
    IssueLog,
    join_surrogates,
    labeled_only,
    parse_whole_json,
    quote,
    read_text,
    writable_text,
)
from omniner.corpus.formats.regions import Region, RegionPlacer
from omniner.corpus.formats.rows import check_header, header_of, table_rows
from omniner.corpus.formats.surfaces import add_by_words
from omniner.errors import UserError
from omniner.files import writing
from omniner.records import Issue, Sentence, is_unlabeled, unlabeled_sentence
from omniner.registry import first_line
from omniner.wording import counted

COLUMNS = ("note_id", "sentence", "label")


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty. Of `options`, the meaning of offsets is used."""
    log = IssueLog(path)
    placer = RegionPlacer(log, options.offsets, fixed=False, loose="looked for by its words")
    rows = table_rows(read_text(path, log).removeprefix("\ufeff"), log)
    _, header = next(rows, (1, []))
    if "sentence" not in header:
        fix = f"Name a CSV file with the columns {', '.join(COLUMNS)}, or set data.format."
        raise UserError(f"{path}:1", f"no column `sentence` among {quote(','.join(header))}", fix)
    check_header(path, header)
    for name in header:
        if name not in COLUMNS:
            log.add("unknown-key", f"the column {quote(name)} is not read", 1)
    sentences = []
    several: list[int] = []  # the line of each item with several labels
    for line, row in rows:
        if len(row) != len(header):
            log.add("bad-record", f"{counted(len(row), 'field')} where the header has {len(header)}; left out", line)
        elif sentence := _sentence(dict(zip(header, row, strict=True)), placer, log, line, several):
            sentences.append(sentence)
    placer.finish()
    if several:
        items = f"{counted(len(several), 'item')} (first here) with several labels"
        log.add("several-labels", f"{items}: an entity for each; the published conversion keeps the first", several[0])
    return sentences, log.items


def _sentence(
    row: dict[str, str], placer: RegionPlacer, log: IssueLog, line: int, several: list[int]
) -> Sentence | None:
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
    several += [line for item in items if len(item.categories) > 1]
    sentence = Sentence("", text, [], post_id)
    placer.add(sentence, [item for item in items if item.start is not None], line)
    add_by_words(sentence, [item for item in items if item.start is None], log, line)
    return sentence


def _items(label: str, log: IssueLog, line: int) -> list[Region] | None:
    """Return the listed mentions; None if the label cannot be read, as a sentence with unknown labels is useless."""
    if not label:
        return []
    try:
        value = parse_whole_json(label)
        if not isinstance(value, list):
            raise ValueError("not a list")
    except ValueError as error:
        log.add("bad-json", f"label: {error}; the row is left out", line)
        return None
    return [item for entry in value if (item := _item(entry, log, line))]


def _item(entry: object, log: IssueLog, line: int) -> Region | None:
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
    if type(start) is not int or type(end) is not int:
        if not (start is None and end is None):
            message = f"{quote(surface)} has {quote(start)}, {quote(end)} for offsets; looked for by its words"
            log.add("bad-offsets", message, line)
        start = end = None
    return Region(join_surrogates(surface, log, line), categories, start, end)


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write one file atomically. Entities without offsets are written without them, and are issues: reading aligns
    them.

    If no sentence is labelled the column is left out. A file that has it cannot hold sentences without labels, which
    are then issues.
    """
    log = IssueLog(path)
    bare = bool(sentences) and all(map(is_unlabeled, sentences))
    with writing(path) as file:
        # before Python 3.13 only characters of the line terminator are quoted within a field: name both
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
