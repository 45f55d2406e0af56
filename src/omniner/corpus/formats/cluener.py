"""CLUENER's JSON lines, or one list: `label` maps a type to a map from each surface to the list of its offsets.

    {"text": "浙商银行叶老桂", "label": {"company": {"浙商银行": [[0, 3]]}, "name": {"叶老桂": [[4, 6]]}}}

Both ends are inclusive. Every occurrence of a repeated surface is an entity. (Published class counts are lower, because
they count a surface once per sentence and type.) A line without `label` is a sentence without labels, as in the
published test file. `id` and `post_id` are written, too, if sentences have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.fields import (
    IssueLog,
    add_names,
    entities_with_offsets,
    id_of,
    join_surrogates,
    json_records,
    post_of,
    quote,
    text_of,
)
from omniner.corpus.formats.regions import entity_at, sort_entities, without_repeats
from omniner.files import write_json_lines
from omniner.records import Entity, Issue, Sentence, is_unlabeled, unlabeled_sentence
from omniner.registry import first_line


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty if the file has none. `options` are ignored."""
    log = IssueLog(path)
    sentences = []
    for line, record in json_records(path, log):
        text = text_of(record, "text", log, line)
        if text is None:
            continue
        name = id_of(record, log, line)
        label = record.get("label")
        if label and not isinstance(label, dict):
            log.add("bad-record", f"label is {quote(label)}, not an object; the record is left out", line)
            continue
        bare = label is None
        sentence = unlabeled_sentence(name, text) if bare else Sentence(name, text, _entities(label, text, log, line))
        sentence.post_id = post_of(record, log, line)
        sentences.append(sentence)
    return sentences, log.items


def _entities(label: object, text: str, log: IssueLog, line: int) -> list[Entity]:
    if not isinstance(label, dict):  # an empty list or text, which some tools write for no entities
        return []
    entities: list[Entity] = []
    for category, surfaces in label.items():
        if not isinstance(surfaces, dict):
            log.add("bad-entity", f"{quote(category)} holds {quote(surfaces)}, not an object; left out", line)
            continue
        for surface, places in surfaces.items():
            if not isinstance(places, list):
                message = f"{quote(surface)} has {quote(places)} for its places; left out"
                log.add("bad-entity", message, line)
                continue
            surface = join_surrogates(surface, log, line)
            found = (_entity(text, surface, category, item, log, line) for item in places)
            entities.extend(entity for entity in found if entity)
    return sort_entities(without_repeats(entities, log, line))


def _entity(text: str, surface: str, category: str, item: object, log: IssueLog, line: int) -> Entity | None:
    if not isinstance(item, list) or len(item) != 2 or type(item[1]) is not int:
        log.add("bad-entity", f"{quote(surface)} has {quote(item)} for a place; left out", line)
        return None
    return entity_at(text, surface, category, item[0], item[1] + 1, log, line)


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write one file atomically; entities without offsets are issues."""
    log = IssueLog(path)
    write_json_lines(path, (_item(sentence, log) for sentence in sentences))
    return log.items


def _item(sentence: Sentence, log: IssueLog) -> dict[str, Any]:
    item: dict[str, Any] = {"text": sentence.text}
    if not is_unlabeled(sentence):
        label: dict[str, dict[str, list[list[int]]]] = {}
        for entity, start, end in entities_with_offsets(sentence, log):
            label.setdefault(entity.category, {}).setdefault(entity.text, []).append([start, end - 1])
        item["label"] = label
    return add_names(item, sentence)


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise an object under `label`; without labels, the numeric ids that CLUENER gives its texts."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("label"), dict):
        return Match(80, "whose `label` is an object")
    if not is_list and value.keys() == {"id", "text"} and isinstance(value["id"], int):
        return Match(20, "with `text` and a number for `id`, without labels")
    return None


FORMAT = Format(
    name="cluener",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".json",
    holds=frozenset({"id", "post_id", "unlabeled", "nested"}),
    sniff_value=sniff_value,
)
