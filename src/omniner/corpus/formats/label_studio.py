"""Label Studio's JSON export and its short form JSON_MIN; written as a list of tasks to import there.

    [{"id": 1, "data": {"text": "我爱北京"}, "annotations": [{"result": [{"from_name": "label", "to_name": "text",
      "type": "labels", "value": {"start": 2, "end": 4, "text": "北京", "labels": ["地点"]}}]}]}]
    [{"id": 1, "text": "我爱北京", "label": [{"start": 2, "end": 4, "text": "北京", "labels": ["地点"]}]}]

Offsets are half-open. They count code points since October 2021, before that UTF-16 units (an emoji is two): of the two
ways the one is believed that gives the surfaces of the whole task, as far as they are there, else of each region. White
space in a surface need not match: Label Studio trims what it shows. A task that several people annotated has the first
annotation read that is marked as ground truth, else the first that was not cancelled. Predictions are read where a task
has no annotation, which is an issue; a task with neither has no labels. Results of other types than `labels` are not
read, with an issue for each type.

Writing also makes the labelling configuration of the project, beside the file and with its name: `.xml`. The sentence's
id and post go into `data`, which an export gives back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.fields import (
    MAX_SURFACE,
    FileHead,
    IssueLog,
    UnreadParts,
    entity_at,
    id_of,
    join_surrogates,
    json_records,
    meta_of,
    placed_entities,
    post_of,
    quote,
    sort_entities,
    text_of,
    without_repeats,
    write_json_list,
)
from omniner.files import write_text
from omniner.records import Entity, Issue, Sentence, is_unlabeled, own_meta, utf16_places
from omniner.registry import first_line

CONFIGURATION = ".xml"  # suffix of the file that describes a project
RESULTS = ("annotations", "completions", "predictions")  # the second is the first before version 1.0
MIN_KEYS = ("annotation_id", "annotator", "lead_time")  # of JSON_MIN only
ID = "sentence_id"  # in `data`, since the id of a task is given by Label Studio
_LABELS_TAG, _TEXT_TAG = "label", "text"  # names of the tags in the written labelling configuration
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Region(NamedTuple):
    """A marked stretch of text as it is listed; the surface may be absent."""

    surface: str | None
    labels: list[str]
    start: object
    end: object


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty where the file has none. `options` changes nothing here."""
    log, unread = IssueLog(path), UnreadParts()
    sentences = []
    for line, record in json_records(path, log):
        if sentence := _sentence(record, unread, log, line):
            sentences.append(sentence)
    unread.report(log)
    return sentences, log.items


def _sentence(record: dict[str, Any], unread: UnreadParts, log: IssueLog, line: int) -> Sentence | None:
    data = record.get("data")
    is_full = isinstance(data, dict)
    fields: dict[str, Any] = data if isinstance(data, dict) else record
    text = text_of(fields, _text_key(fields), log, line)
    if text is None:
        return None
    results = _full_results(record, log, line) if is_full else _min_results(record)
    meta = meta_of(record.get("meta"), log, line)
    if results is None:
        meta["unlabeled"] = True
    regions = [region for item in results or () if (region := _region(item, unread, log, line))]
    entities = without_repeats(_place(text, regions, log, line), log, line)
    name = id_of({"id": fields.get(ID, record.get("id"))}, log, line)
    return Sentence(name, text, sort_entities(entities), post_of(fields, log, line), meta)


def unfinished_tasks(path: Path) -> set[str]:
    """Give the ids of the tasks in a file that nobody has annotated, whatever a model predicted for them."""
    found = set()
    for _, record in json_records(path, IssueLog(path)):
        data = record.get("data")
        if not isinstance(data, dict):
            continue
        tried = record.get("annotations") or record.get("completions") or []
        done = isinstance(tried, list) and any(
            isinstance(item, dict) and not item.get("was_cancelled") for item in tried
        )
        if not done:
            found.add(str(data.get(ID, record.get("id"))))
    return found


def _text_key(fields: Mapping[str, Any]) -> str:
    """`text`, or whatever else the project calls its only text."""
    if "text" in fields:
        return "text"
    texts = [key for key, value in fields.items() if isinstance(value, str) and key not in (ID, "post_id")]
    return texts[0] if len(texts) == 1 else "text"


def _full_results(record: dict[str, Any], log: IssueLog, line: int) -> list[Any] | None:
    """The results of the annotation that counts; None where nobody annotated the task."""
    for key in RESULTS:
        listed = record.get(key) or []
        if not isinstance(listed, list):
            log.add("bad-record", f"{key} is {quote(listed)}, not a list; taken as empty", line)
            continue
        done = [item for item in listed if isinstance(item, dict) and not item.get("was_cancelled")]
        if not done:
            continue
        if key == "predictions":
            log.add("only-predictions", "no annotation, only what a model predicted; read as labels", line)
        elif len(done) > 1:
            log.add("several-annotations", f"{len(done)} annotations of one task; one is read", line)
        chosen = next((item for item in done if item.get("ground_truth") is True), done[0])
        results = chosen.get("result")
        if isinstance(results, list):
            return results
        log.add("bad-record", f"the result is {quote(results)}, not a list; taken as no labels", line)
    return None


def _min_results(record: dict[str, Any]) -> list[Any] | None:
    """Regions of JSON_MIN stand under the name of their tag, whatever that is."""
    lists = [value for key, value in record.items() if isinstance(value, list)]
    found = [item for items in lists for item in items if _is_min_region(item)]
    if not found and not any(key in record for key in MIN_KEYS):
        return None
    return [{"type": "labels", "value": item} for item in found]


def _is_min_region(item: object) -> bool:
    """Whether an item of a list in JSON_MIN is a labelled stretch of text."""
    return isinstance(item, dict) and {"start", "end", "labels"} <= item.keys()


def _region(item: object, unread: UnreadParts, log: IssueLog, line: int) -> Region | None:
    if not isinstance(item, dict):
        log.add("bad-entity", f"{quote(item)} where an object belongs; left out", line)
        return None
    if item.get("type") != "labels":
        unread.note(f"results of the type {quote(item.get('type'))}", line)
        return None
    value = item.get("value")
    fields = value if isinstance(value, dict) else {}
    surface, labels = fields.get("text"), fields.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) and label for label in labels):
        log.add("bad-entity", f"a region has {quote(labels)} for its labels; left out", line)
        return None
    if surface is not None and not isinstance(surface, str):
        log.add("bad-entity", f"{quote(surface)} is not a surface; the region is left out", line)
        return None
    surface = join_surrogates(surface, log, line) if surface else None
    return Region(surface, labels, fields.get("start"), fields.get("end"))


def _place(text: str, regions: Sequence[Region], log: IssueLog, line: int) -> list[Entity]:
    """The entities of one task, its offsets counted in the one way or the other."""
    ways = [[(region.start, region.end) for region in regions]]
    if not text.isascii() and max(text) > "\uffff":
        places = utf16_places(text)
        ways.append([(_moved(region.start, places), _moved(region.end, places)) for region in regions])
    fits = [[_fits(text, region, *at) for region, at in zip(regions, way, strict=True)] for way in ways]
    whole_way = next((way for way, fit in enumerate(fits) if all(fit)), None)
    entities = []
    moved = 0
    for index, region in enumerate(regions):
        way = whole_way
        if way is None:
            way = next((number for number, fit in enumerate(fits) if fit[index]), 0)
        moved += way
        surface = None if fits[way][index] else region.surface
        found = (entity_at(text, surface, label, *ways[way][index], log, line) for label in region.labels)
        entities += [entity for entity in found if entity]
    if moved:
        log.add("offset-units", f"{moved} regions counted in UTF-16 units; taken as code points", line)
    return entities


def _moved(offset: object, places: Mapping[int, int]) -> object:
    return places.get(offset, -1) if type(offset) is int else offset


def _fits(text: str, region: Region, start: object, end: object) -> bool:
    """Whether the place can be, and holds the surface if there is one."""
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        return False
    if region.surface is None:
        return True
    if end - start > MAX_SURFACE:
        return False
    return text[start:end] == region.surface or _squeezed(text[start:end]) == _squeezed(region.surface)


def _squeezed(surface: str) -> str:
    """Without its white space; `\\n` in letters is how some versions write a line break."""
    return "".join(surface.replace("\\n", "").split())


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write a list of tasks and its labelling configuration; entities without a place are issues."""
    log = IssueLog(path)
    categories = {entity.category for sentence in sentences for entity in sentence.entities}
    write_text(path.with_suffix(CONFIGURATION), labelling_configuration(sorted(categories), log))
    write_json_list(path, (make_task(sentence, log) for sentence in sentences))
    return log.items


def labelling_configuration(categories: Iterable[str], log: IssueLog) -> str:
    """Make the labelling configuration (XML) of a project in which the tasks of `make_task` can be done."""
    lines = []
    for category in categories:
        if _NOT_XML.search(category):
            log.add("unwritable-character", f"XML cannot hold the category {quote(category)}; add it by hand")
        else:
            lines.append(f"    <Label value={quoteattr(category)}/>\n")
    return (
        "<View>\n  <Style>.htx-text { white-space: pre-wrap; }</Style>\n"
        f'  <Labels name="{_LABELS_TAG}" toName="{_TEXT_TAG}">\n{"".join(lines)}  </Labels>\n'
        f'  <Text name="{_TEXT_TAG}" value="$text"/>\n</View>\n'
    )


def make_task(sentence: Sentence, log: IssueLog) -> dict[str, Any]:
    """Make the task of a sentence, with its entities as annotation unless it is one without labels."""
    data = {"text": sentence.text}
    if sentence.id:
        data[ID] = sentence.id
    if sentence.post_id is not None:
        data["post_id"] = sentence.post_id
    item: dict[str, Any] = {"data": data}
    if meta := own_meta(sentence):
        item["meta"] = meta
    if not is_unlabeled(sentence):
        item["annotations"] = [{"result": result_regions(sentence, log)}]
    return item


def result_regions(sentence: Sentence, log: IssueLog) -> list[dict[str, Any]]:
    """Make the regions of an annotation or a prediction; an entity without a place is an issue."""
    regions = []
    for number, (entity, start, end) in enumerate(placed_entities(sentence, log)):
        value = {"start": start, "end": end, "text": entity.text, "labels": [entity.category]}
        names = {"from_name": _LABELS_TAG, "to_name": _TEXT_TAG, "type": "labels"}
        regions.append({"id": f"r{number}", **names, "value": value})
    return regions


def sniff_record(record: dict[str, Any], is_list: bool) -> Match | None:
    """Recognise a task by its `data`, an item of JSON_MIN by its own keys or a list of regions under any key."""
    if isinstance(record.get("data"), dict):
        return Match(90, "with `data` as an object")
    lists = ((key, value) for key, value in record.items() if isinstance(value, list))
    found = next((name for name in MIN_KEYS if name in record), None) or next(
        (key for key, value in lists if any(map(_is_min_region, value))), None
    )
    return Match(90, f"with `{found}`, as in JSON_MIN") if found else None


def sniff_lines(head: FileHead) -> Match | None:
    """Recognise a torn list of tasks."""
    found = next((name for name in (*RESULTS, *MIN_KEYS) if name in head.keys), None)
    return Match(96, f"a JSON list of objects with `{found}`") if found else None


FORMAT = Format(
    name="label_studio",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".json",
    companions=(f"*{CONFIGURATION}",),
    holds=frozenset({"id", "post_id", "meta", "unlabeled", "nested"}),
    sniff_record=sniff_record,
    sniff_lines=sniff_lines,
)
