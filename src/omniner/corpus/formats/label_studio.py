"""Label Studio's exports JSON, JSON_MIN, CSV and TSV; written as a list of tasks to import there.

    [{"id": 1, "data": {"text": "我爱北京"}, "annotations": [{"result": [{"from_name": "label", "to_name": "text",
      "type": "labels", "value": {"start": 2, "end": 4, "text": "北京", "labels": ["地点"]}}]}]}]
    [{"id": 1, "text": "我爱北京", "label": [{"start": 2, "end": 4, "text": "北京", "labels": ["地点"]}]}]

Offsets are half-open. They count code points since October 2021, UTF-16 units (an emoji has two) before that: see
`regions`. White space in a surface need not match, because Label Studio trims what it shows. Of several annotations of
a task, the first one marked as ground truth is read, else the first that was not cancelled; with `data.annotator`, that
of one person (`completed_by`). Predictions are read if a task has no annotation, which is an issue; a task with neither
has no labels. Results of other types than `labels` and `hypertextlabels` are not read, with an issue for each type; a
file with no others has no labels. In hypertext the labelled text is the page without its tags, and with the characters
for `&amp;` and the like.

Writing also creates the labelling configuration of the project, beside the file and with its name: `.xml`. The
sentence's id and post are written to `data`, which an export contains again. A prediction has the confidence of each
region, and of its least sure one: the data manager sorts tasks by it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import unescape
from itertools import chain, islice
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import (
    IssueLog,
    UnreadParts,
    entities_with_offsets,
    id_of,
    meta_of,
    post_of,
    quote,
    text_of,
    write_json_list,
)
from omniner.corpus.formats.regions import Region, RegionPlacer
from omniner.corpus.formats.rows import header_of, json_or_table_records
from omniner.corpus.formats.spellings import LISTS, TEXTS
from omniner.errors import UserError
from omniner.files import write_text
from omniner.records import PREDICTED_BY, UNLABELED, Entity, Issue, Sentence, has_scores, is_unlabeled, own_meta
from omniner.registry import first_line
from omniner.wording import counted

_SAMPLE = 200  # tasks examined to find the key of the text
CONFIGURATION = ".xml"  # suffix of the file that describes a project
RESULTS = ("annotations", "completions", "predictions")  # before version 1.0 the second instead of the first
MIN_KEYS = ("annotation_id", "annotator", "lead_time")  # of JSON_MIN only
_DATES = ("created_at", "updated_at", "post_id")
_LABEL_KEYS = ("labels", "hypertextlabels")
_HYPERTEXT = ("hypertextlabels",)
_TYPES = ("labels", *_HYPERTEXT)
_TAGS = re.compile(r"<[^<>]*>")
ID = "sentence_id"  # in `data`, because Label Studio assigns the id of a task itself
_LABELS_TAG, _TEXT_TAG = "label", "text"  # names of the tags in the written labelling configuration
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty if the file has none. Of `options`, offsets and annotator are used."""
    log, unread = IssueLog(path), UnreadParts()
    placer = RegionPlacer(log, options.offsets)
    if options.annotator and options.annotator not in (known := annotators(path)):
        found = f"nobody is called {options.annotator!r} in {path}"
        raise UserError("data.annotator", found, f"Use one of: {', '.join(known) or 'none (null)'}.")
    tasks = json_or_table_records(path, log)
    first = list(islice(tasks, _SAMPLE))
    keys = Counter(key for _, record in first if (key := _text_key(record)))
    usual = keys.most_common(1)[0][0] if keys else "text"
    sentences = []
    otherwise: list[Sentence] = []  # annotated, but not with entities
    asked = False  # whether any task has entity labels
    for line, record in chain(first, tasks):
        data = record.get("data")
        fields: dict[str, Any] = data if isinstance(data, dict) else record
        log.id = str(fields.get(ID, record.get("id", "")))
        text = text_of(fields, usual if usual in fields else _text_key(record) or usual, log, line)
        if text is None:
            continue
        if data is fields:
            results = _full_results(record, options.annotator, log, line)
        else:
            results = _min_results(record, options.annotator)
        meta = meta_of(record.get("meta") if data is fields else None, log, line)
        if results is None:
            meta[UNLABELED] = True
            for key, items in record.items() if data is not fields else ():
                if isinstance(items, list) and any(isinstance(item, (dict, list)) for item in items):
                    unread.note(f"the list {quote(key)}, which has no regions of Label Studio", line)
        if any(isinstance(item, dict) and item.get("type") in _HYPERTEXT for item in results or ()):
            text = _page_text(text, log, line)
            if text is None:
                continue
        regions = [region for item in results or () if (region := _region(item, unread, log, line))]
        name = id_of({"id": fields.get(ID, record.get("id"))}, log, line)
        sentence = Sentence(name, text, [], post_of(fields, log, line), meta)
        if any(isinstance(item, dict) and item.get("type") in _TYPES for item in results or ()):
            asked = True
        elif results:
            otherwise.append(sentence)
        placer.add(sentence, regions, line)
        sentences.append(sentence)
    for sentence in () if asked else otherwise:
        sentence.meta[UNLABELED] = True
    placer.finish()
    unread.report(log)
    return sentences, log.items


def _page_text(page: str, log: IssueLog, line: int) -> str | None:
    """Return the text of a page; None, with an issue, if there is none."""
    try:
        return text_of({"text": unescape(_TAGS.sub("", page))}, "text", log, line)
    except ValueError as error:  # a character reference with thousands of digits
        log.add("bad-record", f"{error}; left out", line)
        return None


def annotators(path: Path) -> list[str]:
    """Return the names of a file's annotators, in order of first appearance."""
    names: dict[str, None] = {}
    for _, record in json_or_table_records(path, IssueLog(path)):
        lists = [record[key] for key in RESULTS[:2] if isinstance(record.get(key), list)]
        items = [item for items in lists for item in items if isinstance(item, dict)]
        for name in [_annotator(item.get("completed_by")) for item in items] + [_annotator(record.get("annotator"))]:
            if name:
                names[name] = None
    return list(names)


def _annotator(value: object) -> str:
    """Return the name of whoever completed an annotation: a number, an e-mail address, or an object with both."""
    if isinstance(value, dict):
        value = next((value[key] for key in ("email", "username", "id") if value.get(key)), None)
    return "" if value is None or isinstance(value, (list, dict)) else str(value)


def unfinished_tasks(path: Path) -> set[str]:
    """Return the ids of the tasks in a file that nobody has annotated, even if a model made predictions for them."""
    found = set()
    for _, record in json_or_table_records(path, IssueLog(path)):
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


def _text_key(record: dict[str, Any]) -> str:
    """Return the key of the text: `text`, the only string, or the one that contains the surfaces; empty if unclear."""
    data = record.get("data")
    fields: dict[str, Any] = data if isinstance(data, dict) else record
    if isinstance(fields.get("text"), str):
        return "text"
    texts = [key for key, value in fields.items() if isinstance(value, str) and key not in (*MIN_KEYS, *_DATES, ID)]
    if len(texts) == 1:
        return texts[0]
    quiet = IssueLog(Path())
    results = (_full_results(record, None, quiet, 0) if data is fields else _min_results(record, None)) or []
    regions = [region for item in results if (region := _region(item, UnreadParts(), quiet, 0))]
    surfaces = [region.surface for region in regions if region.surface]
    holding = [key for key in texts if surfaces and all(surface in fields[key] for surface in surfaces)]
    return next((key for key in (*holding, *TEXTS) if key in texts), "")


def _full_results(record: dict[str, Any], annotator: str | None, log: IssueLog, line: int) -> list[Any] | None:
    """Return the results of the annotation to read; None if nobody annotated the task."""
    for key in RESULTS if annotator is None else RESULTS[:2]:
        listed = record.get(key) or []
        if not isinstance(listed, list):
            log.add("bad-record", f"{key} is {quote(listed)}, not a list; taken as empty", line)
            continue
        done = [item for item in listed if isinstance(item, dict) and not item.get("was_cancelled")]
        if annotator is not None:
            done = [item for item in done if _annotator(item.get("completed_by")) == annotator]
        if not done:
            continue
        if key == "predictions":
            log.add("only-predictions", "no annotation, only what a model predicted; read as labels", line)
        elif len(done) > 1:
            message = f"{len(done)} annotations of one task; one is read: data.annotator chooses whose"
            log.add("several-annotations", message, line)
        chosen = next((item for item in done if item.get("ground_truth") is True), done[0])
        results = chosen.get("result")
        if isinstance(results, list):
            return results if key == "predictions" else [_accepted(item) for item in results]
        log.add("bad-record", f"the result is {quote(results)}, not a list; taken as no labels", line)
    return None


def _accepted(item: object) -> object:
    """Return a result without the confidence of a model: a person has accepted the region, or made it."""
    return {key: value for key, value in item.items() if key != "score"} if isinstance(item, dict) else item


def _min_results(record: dict[str, Any], annotator: str | None) -> list[Any] | None:
    """Return the regions of JSON_MIN, which are under the name of their tag, whatever that is."""
    if annotator is not None and _annotator(record.get("annotator")) != annotator:
        return None
    lists = [value for value in record.values() if isinstance(value, list)]
    found = [item for items in lists for item in items if _is_min_region(item)]
    if not found and not any(key in record for key in MIN_KEYS):
        return None
    return [{"type": next(key for key in _LABEL_KEYS if key in item), "value": item} for item in found]


def _is_min_region(item: object) -> bool:
    """Whether an item of a list in JSON_MIN is a labelled span of text."""
    return isinstance(item, dict) and {"start", "end"} <= item.keys() and any(key in item for key in _LABEL_KEYS)


def _region(item: object, unread: UnreadParts, log: IssueLog, line: int) -> Region | None:
    if not isinstance(item, dict):
        log.add("bad-entity", f"{quote(item)} where an object belongs; left out", line)
        return None
    if item.get("type") not in _TYPES:
        unread.note(f"results of the type {quote(item.get('type'))}", line)
        return None
    value = item.get("value")
    fields = value if isinstance(value, dict) else {}
    surface = fields.get("text")
    labels = fields.get("labels", fields.get("hypertextlabels"))
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) and label for label in labels):
        log.add("bad-entity", f"a region has {quote(labels)} for its labels; left out", line)
        return None
    if surface is not None and not isinstance(surface, str):
        log.add("bad-entity", f"{quote(surface)} is not a surface; the region is left out", line)
        return None
    # In hypertext, start and end refer to a node of the page; the offsets in its text are separate.
    offsets = fields.get("globalOffsets")
    place = offsets if isinstance(offsets, dict) else fields
    return Region(surface or None, labels, place.get("start"), place.get("end"), item.get("score"))


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write a list of tasks and its labelling configuration; entities without offsets are issues."""
    log = IssueLog(path)
    found = {entity.category for sentence in sentences for entity in sentence.entities}
    categories = [*options.categories, *sorted(found.difference(options.categories))]
    sure = [sentence for sentence in sentences if has_scores(sentence) and not sentence.meta.get(PREDICTED_BY)]
    if sure:
        log.add(
            "lost-score", f"{counted(len(sure), 'sentence')} with score, which only predictions have", id=sure[0].id
        )
    write_text(path.with_suffix(CONFIGURATION), labelling_configuration(categories, log))
    write_json_list(path, (make_task(sentence, log) for sentence in sentences))
    return log.items


def labelling_configuration(categories: Iterable[str], log: IssueLog) -> str:
    """Return the labelling configuration (XML) of a project in which the tasks of `make_task` can be annotated."""
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
    """Return the task of a sentence, with its entities as annotation, or as prediction if a model found them."""
    data = {"text": sentence.text}
    if sentence.id:
        data[ID] = sentence.id
    if sentence.post_id is not None:
        data["post_id"] = sentence.post_id
    item: dict[str, Any] = {"data": data}
    if meta := own_meta(sentence):
        item["meta"] = meta
    if model := sentence.meta.get(PREDICTED_BY):
        item["predictions"] = [{"model_version": model, "result": result_regions(sentence, log)}]
        if scores := [entity.score for entity in sentence.entities if entity.score is not None]:
            item["predictions"][0]["score"] = min(scores)
    elif not is_unlabeled(sentence):
        plain = replace(sentence, entities=[Entity(*entity) for entity in sentence.entities])  # a person has no score
        item["annotations"] = [{"result": result_regions(plain, log)}]
    return item


def result_regions(sentence: Sentence, log: IssueLog) -> list[dict[str, Any]]:
    """Return the regions of an annotation or a prediction; entities without offsets are issues."""
    regions = []
    for number, (entity, start, end) in enumerate(entities_with_offsets(sentence, log)):
        value = {"start": start, "end": end, "text": entity.text, "labels": [entity.category]}
        names = {"from_name": _LABELS_TAG, "to_name": _TEXT_TAG, "type": "labels"}
        known = {} if entity.score is None else {"score": entity.score}
        regions.append({"id": f"r{number}", **names, "value": value, **known})
    return regions


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise a task by its `data`, an item of JSON_MIN by its own keys or a list of regions under any key."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("data"), dict):
        return Match(90, "with `data` as an object")
    lists = ((key, items) for key, items in value.items() if isinstance(items, list) and key not in LISTS)
    found = next((name for name in MIN_KEYS if name in value), None) or next(
        (key for key, items in lists if any(map(_is_min_region, items))), None
    )
    return Match(90, f"with `{found}`, as in JSON_MIN") if found else None


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise a truncated list of tasks, and the header row of a table."""
    if found := next((name for name in (*RESULTS, *MIN_KEYS) if name in excerpt.keys and not excerpt.values), None):
        return Match(96, f"a JSON list of objects with `{found}`")
    names = header_of(excerpt)
    if sum(name in names for name in MIN_KEYS) > 1:
        return Match(85, f"a table with {', '.join(names)}")
    return None


FORMAT = Format(
    name="label_studio",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".json",
    companions=(f"*{CONFIGURATION}",),
    holds=frozenset({"id", "post_id", "meta", "unlabeled", "nested", "score"}),
    annotators=annotators,
    sniff_value=sniff_value,
    sniff_lines=sniff_lines,
)
