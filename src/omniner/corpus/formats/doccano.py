"""doccano's exports: JSONL, a JSON list of the same items, CSV; labels as triples, or as objects with ids.

    {"id": 1, "text": "我爱北京", "label": [[2, 4, "地点"]]}
    {"id": 1, "text": "我爱北京", "entities": [{"id": 7, "label": "地点", "start_offset": 2, "end_offset": 4}]}

Triples are under `label` or `labels`, objects under `entities` (projects with relations) or, in old versions,
`annotations`; some versions name the text `data`. Offsets are half-open and count code points, but UTF-16 units before
March 2019: `regions` describes how this is detected. With `data.annotator` only the annotations of one user are read.
Old versions (2019) give labels by number; their names are read from `labels.json` or `label_config.json` beside the
file (the project's labels as its server returns them). An item without any of the keys has no labels. Relations,
comments and the like are not read: one issue for each kind.

Triples are written, under the key that doccano's import expects by default; doccano keeps other keys and exports them
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import (
    IssueLog,
    UnreadParts,
    add_names,
    entities_with_offsets,
    id_of,
    list_of,
    meta_of,
    post_of,
    quote,
    text_of,
)
from omniner.corpus.formats.regions import Region, RegionPlacer, regions_of
from omniner.corpus.formats.rows import header_of, json_or_table_records
from omniner.errors import UserError
from omniner.files import read_json, write_json_lines
from omniner.records import UNLABELED, Issue, Sentence, is_unlabeled, own_meta
from omniner.registry import first_line

LABEL_FILES = ("labels.json", "label_config.json")
LABELS = ("label", "labels", "entities", "annotations")
_KNOWN = frozenset({"id", "text", "data", "post_id", "meta", *LABELS})
_NO_NEWS = frozenset({"annotation_approver", "annotator", "user"})  # keys without information about entities


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty if the file has none. Of `options`, offsets and annotator are used."""
    log, unread = IssueLog(path), UnreadParts()
    placer = RegionPlacer(log, options.offsets)
    sentences = []
    users: set[str] = set()
    names = LabelNames(path)
    for line, record in json_or_table_records(path, log):
        text = text_of(record, "text" if "text" in record else "data", log, line)
        if text is None:
            continue
        for key, value in record.items():
            if value and key not in _KNOWN and key not in _NO_NEWS:
                unread.note(f"the key {quote(key)}", line)
        meta = meta_of(record.get("meta") or None, log, line)
        given = [record[key] for key in LABELS if record.get(key) is not None]
        if not given:
            meta[UNLABELED] = True
        lists = [list_of(items, "the label", log, line) for items in given]
        if None in lists:
            continue
        sentence = Sentence(id_of(record, log, line), text, [], post_of(record, log, line), meta)
        placer.add(
            sentence, [one for items in lists for one in _regions(items or (), options, users, names, log, line)], line
        )
        sentences.append(sentence)
    placer.finish()
    unread.report(log)
    if options.annotator and users and options.annotator not in users:
        found = f"nobody is called {options.annotator!r} in {path}"
        raise UserError("data.annotator", found, f"Use one of: {', '.join(sorted(users))}.")
    return sentences, log.items


class LabelNames:
    """The names of labels that an old export gives by number.

    Args:
        path: of the export; the labels of the project are beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _names(self) -> dict[int, str]:
        file = next((found for name in LABEL_FILES if (found := self._path.with_name(name)).is_file()), None)
        if file is None:
            return {}
        listed = read_json(file)
        listed = listed.get("results") if isinstance(listed, dict) else listed
        items = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        return {item["id"]: str(item["text"]) for item in items if type(item.get("id")) is int and item.get("text")}

    def of(self, number: int, line: int) -> str:
        """Return the name of a label; raise a `UserError` if it is unknown."""
        if number not in self._names:
            found = f"label {number} is a number, and no {' or '.join(LABEL_FILES)} beside the file says its name"
            fix = (
                "Save what the server gives at /v1/projects/<number>/labels, a list of objects with id and text, as "
                f"{LABEL_FILES[0]} there; or export with names (JSONL with text labels)."
            )
            raise UserError(f"{self._path}:{line}", found, fix)
        return self._names[number]


def _regions(
    items: Sequence[Any], options: ReadOptions, users: set[str], names: LabelNames, log: IssueLog, line: int
) -> list[Region]:
    """Return the labelled regions of an item, of one annotator if one is chosen."""
    found: list[Region] = []
    for item in items:
        if isinstance(item, list) and len(item) == 3 and type(item[2]) is int:
            item = [*item[:2], names.of(item[2], line)]
        if isinstance(item, list) and len(item) == 3 and isinstance(item[2], str):
            found.append(Region(None, item[2:], item[0], item[1]))
            continue
        if isinstance(item, dict) and item.get("user") is not None:
            users.add(str(item["user"]))
            if options.annotator not in (None, str(item["user"])):
                continue
        if isinstance(item, dict) and type(item.get("label")) is int:
            item = {**item, "label": names.of(item["label"], line)}
        found += regions_of(item, log, line)
    return found


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write JSONL atomically; entities without offsets are issues."""
    log = IssueLog(path)
    write_json_lines(path, (_item(sentence, log) for sentence in sentences))
    return log.items


def _item(sentence: Sentence, log: IssueLog) -> dict[str, Any]:
    item: dict[str, Any] = {"text": sentence.text}
    if not is_unlabeled(sentence):
        item["label"] = [[start, end, entity.category] for entity, start, end in entities_with_offsets(sentence, log)]
    if meta := own_meta(sentence):
        item["meta"] = meta
    return add_names(item, sentence)


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise labels as doccano lists them; an empty list could be from any tool."""
    if not isinstance(value, dict) or not isinstance(value.get("text", value.get("data")), str):
        return None
    for key in LABELS:
        items = value.get(key)
        if not isinstance(items, list):
            continue
        if any(isinstance(item, dict) and "start_offset" in item for item in items):
            return Match(70, f"with `{key}`, objects with `start_offset`")
        if key != "annotations" and "text" not in value and "data" in value:
            return Match(70 if items else 40, f"with `data` and `{key}`")
        if key in ("label", "labels") and (not items or any(map(_is_triple, items))):
            return Match(70 if items else 40, f"with `{key}`, places without surfaces")
    return None


def _is_triple(item: object) -> bool:
    return isinstance(item, list) and len(item) == 3 and type(item[0]) is int and type(item[1]) is int


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise a table with a column of texts and one of JSON lists of labels."""
    names = header_of(excerpt)
    text = {"text", "data"} & set(names)
    labels = {"label", "labels", "entities", "annotations"} & set(names)
    if text and labels and any("[{" in line or "[[" in line for line in excerpt.lines[1:]):
        return Match(75, f"a table with {', '.join(names)}")
    return None


FORMAT = Format(
    name="doccano",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix=".jsonl",
    companions=LABEL_FILES,
    holds=frozenset({"id", "post_id", "meta", "unlabeled", "nested"}),
    sniff_value=sniff_value,
    sniff_lines=sniff_lines,
)
