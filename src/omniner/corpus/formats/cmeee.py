"""CMeEE's JSON list of CBLUE and text lines of CHIP: nested entities, both ends inclusive.

The first character distinguishes the two layouts. CBLUE JSON is one list of `{"text", "entities": [{"start_idx",
"end_idx", "type", "entity"}]}`; CHIP has one line per text, followed by its entities:

    房室结消融作为替代疗法。|||0    4    pro|||

A CHIP line without `|||` (the test file; any plain text, one sentence per line) has no labels. U+FEFF at the start of a
text is one of its characters and counts in the offsets, even at the start of the file. An entity that ends before it
starts (two in the published train file) is an `empty-entity` issue, so items and these issues add up to the number of
entities in the file. The JSON layout is written, with `id` and `post_id` if sentences have them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import (
    IssueLog,
    add_names,
    entities_with_offsets,
    id_of,
    join_surrogates,
    json_records,
    list_of,
    post_of,
    quote,
    read_lines,
    text_of,
    write_json_list,
)
from omniner.corpus.formats.regions import Region, RegionPlacer, entity_at, regions_of, sort_entities, without_repeats
from omniner.corpus.formats.rows import first_bytes
from omniner.records import UNLABELED, Entity, Issue, Sentence, is_unlabeled, unlabeled_sentence
from omniner.registry import first_line

MARK = "|||"
_KEYS = frozenset({"start_idx", "end_idx", "type", "entity"})
_CHIP_ENTITY = re.compile(r"\s*\d+\s+-?\d+\s+\S+\s*")


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file of either layout. Of `options`, the meaning of offsets applies to JSON."""
    start, log = first_bytes(path), IssueLog(path)
    # A text may begin with a bracket, so a bracket alone does not make a line JSON.
    is_json = start[:1] in (b"[", b"{") and start[1:].lstrip()[:1] in (b"{", b"]", b"", b'"')
    sentences = _read_json(path, options, log) if is_json else _read_chip(path, log)
    return sentences, log.items


def _read_json(path: Path, options: ReadOptions, log: IssueLog) -> list[Sentence]:
    sentences = []
    placer = RegionPlacer(log, options.offsets, "inclusive", fixed=False)
    for line, record in json_records(path, log):
        text = text_of(record, "text", log, line)
        if text is None:
            continue
        sentence = Sentence(id_of(record, log, line), text, [], post_of(record, log, line))
        items = record.get("entities")
        if items is None:
            sentence.meta[UNLABELED] = True
        elif (items := list_of(items, "entities", log, line)) is None:
            continue
        sentences.append(sentence)
        regions: list[Region] = []
        for item in items or ():
            if isinstance(item, dict) and item.keys() == _KEYS and isinstance(item["entity"], str):
                regions.append(Region(item["entity"] or None, [item["type"]], item["start_idx"], item["end_idx"]))
            else:
                regions += regions_of(item, log, line)
        placer.add(sentence, regions, line)
    placer.finish()
    return sentences


def _read_chip(path: Path, log: IssueLog) -> list[Sentence]:
    sentences = []
    for number, line in enumerate(read_lines(path, log), 1):
        text, *fields = line.split(MARK)
        if not text:
            # Some editors end a file with a blank line; one with entities has lost its text.
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
    """Whether a text is an offset: few ASCII digits (`isdigit` alone also accepts ² and ३)."""
    return text.isascii() and text.isdigit() and len(text) <= 10


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write the JSON layout atomically; entities without offsets are issues."""
    log = IssueLog(path)
    write_json_list(path, (_item(sentence, log) for sentence in sentences))
    return log.items


def _item(sentence: Sentence, log: IssueLog) -> dict[str, Any]:
    item: dict[str, Any] = {"text": sentence.text}
    if not is_unlabeled(sentence):
        item["entities"] = [
            {"start_idx": start, "end_idx": end - 1, "type": entity.category, "entity": entity.text}
            for entity, start, end in entities_with_offsets(sentence, log)
        ]
    return add_names(item, sentence)


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise items of the CBLUE layout, perhaps with only a text."""
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return None
    items = value.get("entities")
    if isinstance(items, list) and any(isinstance(item, dict) and "start_idx" in item for item in items):
        return Match(65, "with `start_idx` in `entities`")
    if items == [] or (items is None and value.keys() == {"text"}):
        return Match(31 if is_list and items == [] else 10 if is_list else 5, "with `text`")
    return None


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise a truncated list, and the marks of CHIP."""
    if "text" in excerpt.keys and not excerpt.values:
        return Match(95, "a JSON list of objects with `text`")
    for line in excerpt.lines:
        _, *fields = line.split(MARK)
        if fields and _CHIP_ENTITY.fullmatch(fields[0]):
            return Match(70, f"lines with `{MARK}start    end    type`")
    return None


FORMAT = Format(
    name="cmeee",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".json",
    holds=frozenset({"id", "post_id", "unlabeled", "nested"}),
    sniff_value=sniff_value,
    sniff_lines=sniff_lines,
)
