"""CMeEE in its two layouts, told apart by the first character; nested entities, both ends inclusive.

CBLUE JSON, one list of `{"text", "entities": [{"start_idx", "end_idx", "type", "entity"}]}`; CHIP text, one line a
text with its entities behind it:

    房室结消融作为替代疗法。|||0    4    pro|||

A CHIP line without `|||` (the test file; any plain text, one sentence a line) has no labels. U+FEFF at the start of
a text is one of its characters and counts in the offsets, at the start of the file too. An entity that ends before it
starts (two in the published train file) is an `empty-entity` issue: items and these issues together give the number
of entities the file writes. The JSON layout is the one that is written, with `id` and `post_id` where sentences have
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omniner.corpus.formats.fields import (
    IssueLog,
    ReadOptions,
    WriteOptions,
    id_of,
    in_order,
    is_unlabeled,
    json_list,
    place,
    placed,
    post_of,
    quote,
    read_lines,
    text_of,
    unlabeled,
    whole,
    with_extras,
    without_repeats,
    write_list,
)
from omniner.files import explaining
from omniner.records import Entity, Issue, Sentence

MARK = "|||"


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
            bare = unlabeled(name, text)
            bare.post_id = post_id
            sentences.append(bare)
            continue
        if not isinstance(items, list):
            log.add("bad-record", f"entities is {quote(items)}, not a list; taken as empty", line)
            items = []
        entities = [entity for item in items if (entity := _json_entity(item, text, log, line))]
        sentences.append(Sentence(name, text, in_order(without_repeats(entities, log, line)), post_id))
    return sentences


def _json_entity(item: object, text: str, log: IssueLog, line: int) -> Entity | None:
    if not isinstance(item, dict):
        log.add("bad-entity", f"{quote(item)} where an object belongs; left out", line)
        return None
    surface, end = item.get("entity"), item.get("end_idx")
    if surface is not None and not isinstance(surface, str):
        log.add("bad-entity", f"{quote(surface)} is not a surface; the entity is left out", line)
        return None
    surface = None if surface is None else whole(surface, log, line)
    after = end + 1 if type(end) is int else end
    return place(text, surface, item.get("type"), item.get("start_idx"), after, log, line)


def _read_chip(path: Path, log: IssueLog) -> list[Sentence]:
    sentences = []
    for number, line in enumerate(read_lines(path, log), 1):
        text, *fields = line.split(MARK)
        if not text:
            # A blank line may end the file of some editors; one that has entities lost its text.
            log.add("empty-text", f"no text before {quote(line)}; left out", number)
            continue
        text = whole(text, log, number)
        if not fields:
            sentences.append(unlabeled("", text))
            continue
        entities = [entity for field in fields if (entity := _chip_entity(field, text, log, number))]
        sentences.append(Sentence("", text, in_order(without_repeats(entities, log, number))))
    return sentences


def _chip_entity(field: str, text: str, log: IssueLog, line: int) -> Entity | None:
    parts = field.split()
    if not parts:  # after the last mark
        return None
    if len(parts) != 3 or not _is_offset(parts[0]) or not _is_offset(parts[1]):
        log.add("bad-entity", f"{quote(field)} is not `start end type`; left out", line)
        return None
    return place(text, None, parts[2], int(parts[0]), int(parts[1]) + 1, log, line)


def _is_offset(text: str) -> bool:
    """ASCII digits, few enough to be a place in a line (`isdigit` alone also takes ² and ३)."""
    return text.isascii() and text.isdigit() and len(text) <= 10


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write the JSON layout, whole or not at all; entities without a place are issues."""
    log = IssueLog(path)
    write_list(path, (_item(sentence, log) for sentence in sentences))
    return log.items


def _item(sentence: Sentence, log: IssueLog) -> dict[str, Any]:
    item: dict[str, Any] = {"text": sentence.text}
    if not is_unlabeled(sentence):
        item["entities"] = [
            {"start_idx": start, "end_idx": end - 1, "type": entity.category, "entity": entity.text}
            for entity, start, end in placed(sentence, log)
        ]
    return with_extras(item, sentence)
