"""doccano's JSONL, and the JSON list of the same items: labels as triples, or as objects with ids.

    {"id": 1, "text": "我爱北京", "label": [[2, 4, "地点"]]}
    {"id": 1, "text": "我爱北京", "entities": [{"id": 7, "label": "地点", "start_offset": 2, "end_offset": 4}]}

Triples stand under `label` or `labels`, objects under `entities` (projects with relations); some versions call the text
`data`. Offsets are half-open and count code points. A file has no surfaces that could show another way of counting, so
one of before March 2019, which counts an emoji as two, is read wrongly behind the first emoji. An item without any of
the three keys has no labels. Relations, comments and the like are not read: one issue for each kind.

Triples are written, under the key that doccano's import expects unless told otherwise; it keeps other keys and gives
them back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.fields import (
    IssueLog,
    UnreadParts,
    add_names,
    entity_at,
    id_of,
    json_records,
    meta_of,
    placed_entities,
    post_of,
    quote,
    sort_entities,
    text_of,
    without_repeats,
)
from omniner.files import write_json_lines
from omniner.records import Entity, Issue, Sentence, is_unlabeled, own_meta
from omniner.registry import first_line

LABELS = ("label", "labels", "entities")
_KNOWN = frozenset({"id", "text", "data", "post_id", "meta", *LABELS})


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty where the file has none. `options` changes nothing here."""
    log, unread = IssueLog(path), UnreadParts()
    sentences = []
    for line, record in json_records(path, log):
        text = text_of(record, "text" if "text" in record else "data", log, line)
        if text is None:
            continue
        for key, value in record.items():
            if value and key not in _KNOWN:
                unread.note(f"the key {quote(key)}", line)
        meta = meta_of(record.get("meta"), log, line)
        given = [record[key] for key in LABELS if record.get(key) is not None]
        if not given:
            meta["unlabeled"] = True
        entities = [entity for items in given for entity in _entities(items, text, log, line)]
        known = sort_entities(without_repeats(entities, log, line))
        sentences.append(Sentence(id_of(record, log, line), text, known, post_of(record, log, line), meta))
    unread.report(log)
    return sentences, log.items


def _entities(items: object, text: str, log: IssueLog, line: int) -> Iterator[Entity]:
    if not isinstance(items, list):
        log.add("bad-record", f"the labels are {quote(items)}, not a list; taken as empty", line)
        return
    for item in items:
        if isinstance(item, list) and len(item) == 3:
            start, end, category = item
        elif isinstance(item, dict):
            start, end, category = item.get("start_offset"), item.get("end_offset"), item.get("label")
        else:
            log.add("bad-entity", f"{quote(item)} is no [start, end, label]; left out", line)
            continue
        if entity := entity_at(text, None, category, start, end, log, line):
            yield entity


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write JSONL, whole or not at all; entities without a place are issues."""
    log = IssueLog(path)
    write_json_lines(path, (_item(sentence, log) for sentence in sentences))
    return log.items


def _item(sentence: Sentence, log: IssueLog) -> dict[str, Any]:
    item: dict[str, Any] = {"text": sentence.text}
    if not is_unlabeled(sentence):
        item["label"] = [[start, end, entity.category] for entity, start, end in placed_entities(sentence, log)]
    if meta := own_meta(sentence):
        item["meta"] = meta
    return add_names(item, sentence)


def sniff_record(record: dict[str, Any], is_list: bool) -> Match | None:
    """Recognise labels as doccano lists them; an empty list of `entities` could be anyone's."""
    for key in LABELS:
        items = record.get(key)
        if isinstance(items, list):
            objects = [item for item in items if isinstance(item, dict) and "start_offset" in item]
            if objects or (key != "entities" and "text" in record):
                return Match(70, f"with `{key}`, places without surfaces")
    return None


FORMAT = Format(
    name="doccano",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".jsonl",
    holds=frozenset({"id", "post_id", "meta", "unlabeled", "nested"}),
    sniff_record=sniff_record,
)
