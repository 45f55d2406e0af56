"""The program's own JSON lines: one sentence a line, read and written without loss.

    {"id": "train-0", "text": "我爱北京", "entities": [{"text": "北京", "category": "地点", "start": 2, "end": 4}]}

`post_id` and `meta` are optional, as are the two offsets of an entity (both or neither). A line without `entities`
is a sentence without labels. Predictions that carry their text are read as sentences with what was predicted.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.fields import (
    IssueLog,
    entity_at,
    id_of,
    join_surrogates,
    json_lines,
    meta_of,
    post_of,
    quote,
    text_of,
    without_repeats,
)
from omniner.files import write_json_lines
from omniner.records import Entity, Issue, Sentence, sentence_to_json
from omniner.registry import first_line

_SENTENCE_KEYS = frozenset({"id", "text", "entities", "post_id", "meta"})
_PREDICTION_KEYS = frozenset({"raw", "parse", "reason", "prompt_sha", "engine"})  # a prediction is read as a sentence
_ENTITY_KEYS = frozenset({"text", "category", "start", "end"})


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty where the file has none. `options` changes nothing here."""
    log = IssueLog(path)
    sentences = []
    foreign: set[str] = set()  # keys already reported; one issue each, not one a line
    for line, record in json_lines(path, log):
        text = text_of(record, "text", log, line)
        if text is None:
            continue
        _report_keys(record, _SENTENCE_KEYS | _PREDICTION_KEYS, foreign, log, line)
        meta = meta_of(record.get("meta"), log, line)
        items = record.get("entities")
        if items is None:
            meta["unlabeled"] = True
        elif not isinstance(items, list):
            log.add("bad-record", f"entities is {quote(items)}, not a list; taken as empty", line)
            items = []
        entities = [_entity(item, text, foreign, log, line) for item in items or ()]
        known = without_repeats([entity for entity in entities if entity], log, line)
        name, post_id = id_of(record, log, line), post_of(record, log, line)
        sentences.append(Sentence(name, text, known, post_id, meta))
    return sentences, log.items


def write(path: str | Path, sentences: Iterable[Sentence], options: WriteOptions | None = None) -> list[Issue]:
    """Write one file, whole or not at all; nothing is lost, so there are no issues. `options` changes nothing here."""
    write_json_lines(path, map(sentence_to_json, sentences))
    return []


def _entity(item: object, text: str, foreign: set[str], log: IssueLog, line: int) -> Entity | None:
    if not isinstance(item, dict):
        log.add("bad-entity", f"{quote(item)} where an object belongs; left out", line)
        return None
    _report_keys(item, _ENTITY_KEYS, foreign, log, line)
    surface, category = item.get("text"), item.get("category")
    if not isinstance(surface, str) or not surface:
        log.add("bad-entity", f"{quote(surface)} is not a surface; the entity is left out", line)
        return None
    surface = join_surrogates(surface, log, line)
    if item.get("start") is not None or item.get("end") is not None:
        return entity_at(text, surface, category, item.get("start"), item.get("end"), log, line)
    if not isinstance(category, str) or not category:
        log.add("bad-entity", f"{quote(category)} is not a category; the entity is left out", line)
        return None
    return Entity(surface, join_surrogates(category, log, line))


def _report_keys(record: dict[str, Any], known: frozenset[str], foreign: set[str], log: IssueLog, line: int) -> None:
    if record.keys() <= known:
        return
    for key in record:
        if key not in known and key not in foreign:
            foreign.add(key)
            log.add("unknown-key", f"{quote(key)} (first seen here) is not read; put it under meta", line)


def sniff_record(record: dict[str, Any], is_list: bool) -> Match | None:
    """Recognise lines with entities; an empty list of them, or a text alone, could be of other formats too."""
    if is_list:
        return None
    if record.get("entities"):
        return Match(60, "with `entities`")
    if "entities" in record:
        return Match(30, "with `entities`")
    return Match(10, "with `text`, without labels") if "text" in record else None


FORMAT = Format(
    name="jsonl",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".jsonl",
    holds=frozenset({"id", "post_id", "meta", "unlabeled", "nested", "unplaced"}),
    sniff_record=sniff_record,
)
