"""CMeEE's JSON list of CBLUE and text lines of CHIP: nested entities, both ends inclusive.

The two layouts are told apart by the first character. CBLUE JSON is one list of `{"text", "entities": [{"start_idx",
"end_idx", "type", "entity"}]}`; CHIP has one line a text with its entities behind it:

    房室结消融作为替代疗法。|||0    4    pro|||

A CHIP line without `|||` (the test file; any plain text, one sentence a line) has no labels. U+FEFF at the start of
a text is one of its characters and counts in the offsets, at the start of the file too. An entity that ends before it
starts (two in the published train file) is an `empty-entity` issue: items and these issues together give the number
of entities the file writes. The JSON layout is the one that is written, with `id` and `post_id` where sentences have
them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.fields import (
    FileHead,
    IssueLog,
    add_names,
    entity_at,
    id_of,
    join_surrogates,
    json_list,
    placed_entities,
    post_of,
    quote,
    read_lines,
    sort_entities,
    text_of,
    without_repeats,
    write_json_list,
)
from omniner.files import explaining
from omniner.records import Entity, Issue, Sentence, is_unlabeled, unlabeled_sentence
from omniner.registry import first_line

MARK = "|||"
_CHIP_ENTITY = re.compile(r"\s*\d+\s+-?\d+\s+\S+\s*")
_MARKUP = re.compile(r'\{|\[\s*["{\[]|<[?!/a-zA-Z]')


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file of either layout. `options` changes nothing here."""
    with explaining(path), path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    log = IssueLog(path)
    # A text may begin with a bracket, so that alone does not make JSON of a line.
    is_json = start[:1] == b"[" and start[1:].lstrip()[:1] in (b"{", b"]", b"")
    sentences = _read_json(path, log) if is_json else _read_chip(path, log)
    return sentences, log.items


def _read_json(path: Path, log: IssueLog) -> list[Sentence]:
    sentences = []
    for line, record in json_list(path, log):
        text = text_of(record, "text", log, line)
        if text is None:
            continue
        name = id_of(record, log, line)
        post_id = post_of(record, log, line)
        items = record.get("entities")
        if items is None:
            bare = unlabeled_sentence(name, text)
            bare.post_id = post_id
            sentences.append(bare)
            continue
        if not isinstance(items, list):
            log.add("bad-record", f"entities is {quote(items)}, not a list; taken as empty", line)
            items = []
        entities = [entity for item in items if (entity := _json_entity(item, text, log, line))]
        sentences.append(Sentence(name, text, sort_entities(without_repeats(entities, log, line)), post_id))
    return sentences


def _json_entity(item: object, text: str, log: IssueLog, line: int) -> Entity | None:
    if not isinstance(item, dict):
        log.add("bad-entity", f"{quote(item)} where an object belongs; left out", line)
        return None
    surface, end = item.get("entity"), item.get("end_idx")
    if surface is not None and not isinstance(surface, str):
        log.add("bad-entity", f"{quote(surface)} is not a surface; the entity is left out", line)
        return None
    surface = None if surface is None else join_surrogates(surface, log, line)
    after = end + 1 if type(end) is int else end
    return entity_at(text, surface, item.get("type"), item.get("start_idx"), after, log, line)


def _read_chip(path: Path, log: IssueLog) -> list[Sentence]:
    sentences = []
    for number, line in enumerate(read_lines(path, log), 1):
        text, *fields = line.split(MARK)
        if not text:
            # A blank line may end the file of some editors; one that has entities lost its text.
            log.add("empty-text", f"no text before {quote(line)}; left out", number)
            continue
        text = join_surrogates(text, log, number)
        if not fields:
            sentences.append(unlabeled_sentence("", text))
            continue
        entities = [entity for field in fields if (entity := _chip_entity(field, text, log, number))]
        sentences.append(Sentence("", text, sort_entities(without_repeats(entities, log, number))))
    return sentences


def _chip_entity(field: str, text: str, log: IssueLog, line: int) -> Entity | None:
    parts = field.split()
    if not parts:  # after the last mark
        return None
    if len(parts) != 3 or not _is_offset(parts[0]) or not _is_offset(parts[1]):
        log.add("bad-entity", f"{quote(field)} is not `start end type`; left out", line)
        return None
    return entity_at(text, None, parts[2], int(parts[0]), int(parts[1]) + 1, log, line)


def _is_offset(text: str) -> bool:
    """ASCII digits, few enough to be a place in a line (`isdigit` alone also takes ² and ३)."""
    return text.isascii() and text.isdigit() and len(text) <= 10


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write the JSON layout, whole or not at all; entities without a place are issues."""
    log = IssueLog(path)
    write_json_list(path, (_item(sentence, log) for sentence in sentences))
    return log.items


def _item(sentence: Sentence, log: IssueLog) -> dict[str, Any]:
    item: dict[str, Any] = {"text": sentence.text}
    if not is_unlabeled(sentence):
        item["entities"] = [
            {"start_idx": start, "end_idx": end - 1, "type": entity.category, "entity": entity.text}
            for entity, start, end in placed_entities(sentence, log)
        ]
    return add_names(item, sentence)


def sniff_record(record: dict[str, Any], is_list: bool) -> Match | None:
    """Recognise the CBLUE layout: items of a list with `entities`, perhaps with a text alone."""
    if is_list and record.get("entities"):
        return Match(60, "with `entities`")
    return Match(10, "with `text`") if is_list and "text" in record else None


def sniff_lines(head: FileHead) -> Match | None:
    """Recognise a torn list, the marks of CHIP, and plain text as in its test file; anything with markup is not."""
    if "text" in head.keys:
        return Match(95, "a JSON list of objects with `text`")
    for line in head.lines:
        _, *fields = line.split(MARK)
        if fields and _CHIP_ENTITY.fullmatch(fields[0]):
            return Match(70, f"lines with `{MARK}start    end    type`")
    if _MARKUP.match(head.lines[0].lstrip()):
        return None
    return Match(10, "plain text, one sentence a line, without labels")


FORMAT = Format(
    name="cmeee",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".json",
    holds=frozenset({"id", "post_id", "unlabeled", "nested"}),
    sniff_record=sniff_record,
    sniff_lines=sniff_lines,
)
