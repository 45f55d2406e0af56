"""The program's own JSON lines, one sentence per line, written without loss; and entities as other tools list them.

    {"id": "train-0", "text": "我爱北京", "entities": [{"text": "北京", "category": "地点", "start": 2, "end": 4}]}

`post_id` and `meta` are optional, as are the two offsets of an entity (both or neither) and a model's confidence in it
(`score`). A line without `entities` is a
sentence without labels. Predictions that contain their text are read as sentences with the predicted entities. One JSON
list of such objects is read as well, and so are the forms of other tools: triples `[start, end, label]`, or objects
with `label`, `type`, `start_idx`, `end_offset` and the like (`regions.regions_of`), under `entities`, `spans`,
`entity_list` and other keys; the text may be `text`, `content` and the like. Pairs `[surface, category]` and objects
that map categories to lists of surfaces are located from left to right (`surfaces.PairPlacer`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.fields import (
    IssueLog,
    id_of,
    json_records,
    list_of,
    meta_of,
    post_hint,
    post_of,
    quote,
    text_of,
)
from omniner.corpus.formats.regions import Region, RegionPlacer, regions_of, without_repeats
from omniner.corpus.formats.spellings import LISTS, OFFSETS, TEXTS
from omniner.corpus.formats.surfaces import PairPlacer, pairs_of
from omniner.files import write_json_lines
from omniner.records import (
    PREDICTED_BY,
    UNLABELED,
    Entity,
    Issue,
    Sentence,
    predicted_by,
    replace_surrogates,
    sentence_to_json,
    with_score,
)
from omniner.registry import first_line

_SENTENCE_KEYS = frozenset({"id", "text", "entities", "post_id", "meta"})
_PREDICTION_KEYS = frozenset(
    {"raw", "parse", "reason", "prompt_sha", "engine", "left_out"}
)  # a prediction is read as a sentence
_ENTITY_KEYS = frozenset({"text", "category", "start", "end", "score"})


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty if the file has none. Of `options`, the meaning of offsets is used."""
    log = IssueLog(path)
    placer, by_words = RegionPlacer(log, options.offsets, fixed=False), PairPlacer(log)
    sentences = []
    foreign: set[str] = set()  # keys already reported, one issue per key
    for line, record in json_records(path, log):
        text_key, list_key = _keys(record)
        text = text_of(record, text_key, log, line)
        if text is None:
            continue
        if not record.keys() <= _SENTENCE_KEYS:
            _report_keys(record, _SENTENCE_KEYS | _PREDICTION_KEYS | {text_key, list_key}, foreign, log, line)
        meta = meta_of(record.get("meta"), log, line)
        if "parse" in record:
            meta[PREDICTED_BY] = predicted_by(record.get("engine"))
        items = record.get(list_key)
        pairs = pairs_of(items) if items else None
        if items is None:
            meta[UNLABELED] = True
        elif pairs is not None or items == {}:
            items = []
        elif (items := list_of(items, list_key, log, line)) is None:
            continue
        entities = [entity for item in items or () if (entity := _own_entity(item, text))]
        regions: list[Region] = []
        if len(entities) < len(items or ()):
            others = (item for item in items or () if not _own_entity(item, text))
            regions = [region for item in others for region in _scored_regions(item, log, line)]
        sentence = Sentence(
            id_of(record, log, line), text, without_repeats(entities, log, line), post_of(record, log, line), meta
        )
        if pairs is not None:
            by_words.add(sentence, pairs, line)
        if regions:
            placer.add(sentence, regions, line)
        sentences.append(sentence)
    placer.finish()
    by_words.finish()
    return sentences, log.items


def _keys(record: dict[str, Any]) -> tuple[str, str]:
    """Return the keys of the text and of the entities."""
    if record.get("entities") and "text" in record:
        return "text", "entities"
    text = "text" if "text" in record else next((key for key in TEXTS if isinstance(record.get(key), str)), "text")
    if record.get("entities"):
        return text, "entities"
    listed = [key for key in LISTS if isinstance(record.get(key), list)]
    # an empty list of entities means nothing beside another list that is filled
    return text, next((key for key in listed if record[key]), listed[0] if listed else "entities")


def _own_entity(item: object, text: str) -> Entity | None:
    """Return an entity in this program's own form with valid offsets; None for everything else."""
    if not isinstance(item, dict) or not item.keys() <= _ENTITY_KEYS:
        return None
    surface, category, start, end = item.get("text"), item.get("category"), item.get("start"), item.get("end")
    if not isinstance(surface, str) or not isinstance(category, str) or not surface or not category:
        return None
    surface, category = sys.intern(surface), sys.intern(category)  # equal words share their memory
    score = item.get("score")
    if start is None and end is None:
        return with_score(Entity(surface, category), score) if _is_writable(surface + category) else None
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        return None
    if text[start:end] != surface:
        return None
    return with_score(Entity(surface, category, start, end), score) if _is_writable(category) else None


def _scored_regions(item: object, log: IssueLog, line: int) -> list[Region]:
    """Return the regions of a mention in another tool's form, with its confidence: this can be a model's output."""
    score = item.get("score") if isinstance(item, dict) else None
    return [region._replace(score=score) for region in regions_of(item, log, line)]


@lru_cache(maxsize=10_000)
def _is_writable(text: str) -> bool:
    """Whether UTF-8 can encode a text: not if it has a lone half of a surrogate pair."""
    return replace_surrogates(text) == text


def write(path: str | Path, sentences: Iterable[Sentence], options: WriteOptions | None = None) -> list[Issue]:
    """Write one file atomically; nothing is lost, so there are no issues. `options` are ignored."""
    write_json_lines(path, map(sentence_to_json, sentences))
    return []


def _report_keys(record: dict[str, Any], known: frozenset[str], foreign: set[str], log: IssueLog, line: int) -> None:
    if record.keys() <= known:
        return
    for key, value in record.items():
        if key not in known and key not in foreign and value not in (None, "", [], {}):  # nothing is lost with those
            foreign.add(key)
            log.add(
                "unknown-key",
                f"{quote(key)} (first seen here) is not read{post_hint(key) or '; put it under meta'}",
                line,
            )


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise lists of entities; an empty one, or only a text, could be of other formats, too."""
    if not isinstance(value, dict):
        return None
    text, key = _keys(value)
    if not isinstance(value.get(text), str):
        return None
    items = value.get(key)
    if pairs_of(items):
        return Match(55, f"with `{text}` and `{key}`, words and categories without places")
    if isinstance(items, list) and items:
        known = [item for item in items if regions_of(item, IssueLog(Path()), 0)]
        return Match(60 if key == "entities" else 55, f"with `{text}` and `{key}`") if known else None
    if key in value:
        return Match(30, f"with `{text}` and `{key}`")
    if value.keys() & OFFSETS:
        return None  # one entity per line
    if text != "text" or any(_is_list_of_parts(value[key]) for key in value.keys() - _SENTENCE_KEYS):
        return None  # perhaps labels in an unknown form
    return Match(9, "with `text`, without labels")


def _is_list_of_parts(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value)


FORMAT = Format(
    name="jsonl",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".jsonl",
    holds=frozenset({"id", "post_id", "meta", "unlabeled", "nested", "unplaced", "score"}),
    sniff_value=sniff_value,
)
