"""spaCy's training tuples of a text and its entities, in one JSON list or one per line, and ner-annotator's output.

    [["我爱北京", {"entities": [[2, 4, "地点"]]}]]
    {"classes": ["地点"], "annotations": [["我爱北京", {"entities": [[2, 4, "地点"]]}]]}

Offsets are half-open and count code points. A text without annotations, or with `null` for them, has no labels. Other
annotations than entities (`cats`, `links`, ...) are not read: one issue for each kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.fields import IssueLog, UnreadParts, json_values, list_of, quote, text_of
from omniner.corpus.formats.regions import RegionPlacer, regions_of
from omniner.records import Issue, Sentence, unlabeled_sentence
from omniner.registry import first_line


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty. Of `options`, the meaning of offsets is used."""
    log, unread = IssueLog(path), UnreadParts()
    placer = RegionPlacer(log, options.offsets)
    sentences = []
    for line, value in _tuples(path, log):
        if value is None:  # ner-annotator writes this for a skipped text
            unread.note("skipped texts", line)
            continue
        if not _is_tuple(value):
            log.add("bad-record", f"{quote(value)} where [text, annotations] belongs; left out", line)
            continue
        text = text_of({"text": value[0]}, "text", log, line)
        if text is None:
            continue
        annotations = value[1] if len(value) > 1 and isinstance(value[1], dict) else {}
        for key in annotations:
            if key != "entities" and annotations[key]:
                unread.note(f"annotations called {quote(key)}", line)
        items = annotations.get("entities")
        listed = [] if items is None else list_of(items, "entities", log, line)
        if listed is None:
            continue
        sentence = unlabeled_sentence("", text) if items is None else Sentence("", text)
        placer.add(sentence, [region for item in listed for region in regions_of(item, log, line)], line)
        sentences.append(sentence)
    placer.finish()
    unread.report(log)
    return sentences, log.items


def _tuples(path: Path, log: IssueLog) -> Iterator[tuple[int, Any]]:
    """Yield the tuples of the file, or of the `annotations` of its objects."""
    for line, value in json_values(path, log):
        if isinstance(value, dict) and isinstance(value.get("annotations"), list):
            yield from ((line, item) for item in value["annotations"])
        else:
            yield line, value


def _is_tuple(value: object) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) < 3
        and isinstance(value[0], str)
        and (len(value) == 1 or value[1] is None or isinstance(value[1], dict))
    )


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise tuples of a text and an object, alone or under `annotations`."""
    if isinstance(value, dict):
        items = value.get("annotations")
        found = isinstance(items, list) and "text" not in value and any(map(_is_tuple, items))
        return Match(75, "with tuples under `annotations`, as ner-annotator writes them") if found else None
    is_pair = _is_tuple(value) and len(value) == 2
    return Match(75, "of tuples: a text and its annotations") if is_pair else None


FORMAT = Format(
    name="spacy", meaning=first_line(__doc__), read=read, write=None, suffix=".json", sniff_value=sniff_value
)
