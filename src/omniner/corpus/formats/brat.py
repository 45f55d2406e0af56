"""brat standoff, read: a folder of documents, each a text (`.txt`) and its annotations beside it (`.ann`).

    doc.txt   我爱北京
    doc.ann   T1<tab>地点 2 4<tab>北京

Offsets are half-open and count code points of the whole text, line breaks included. Each line of a text that is not
empty is a sentence, but lines that an annotation crosses are one sentence together. A document of one sentence gives it
its name for an id; of several, its name is their post. A text without annotations file has no labels. Fragments with
nothing but white space between them are one mention (brat parts a mention at line breaks); other discontinuous mentions
are issues. Relations, events, attributes, notes and the like are not read: one issue for each kind and document.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from omniner.corpus.formats.common import (
    MAX_LINE,
    MAX_SURFACE,
    IssueLog,
    ReadOptions,
    in_order,
    place,
    quote,
    read_lines,
    read_text,
    unlabeled,
    whole,
    without_repeats,
)
from omniner.corpus.formats.extras import Unread
from omniner.errors import UserError
from omniner.files import explaining
from omniner.records import Entity, Issue, Sentence

TEXT, ANNOTATIONS = ".txt", ".ann"
_SPANS = re.compile(r"([^ ]+) (\d{1,10} \d{1,10}(?:;\d{1,10} \d{1,10})*) *", re.ASCII)
_KINDS = {
    "*": "equivalences",
    "#": "notes",
    "A": "attributes",
    "E": "events",
    "M": "attributes",
    "N": "normalisations",
    "R": "relations",
}


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read all documents of a folder (and of those in it, by name), or the one document of a `.txt` or `.ann`.

    `options` changes nothing here.
    """
    sentences: list[Sentence] = []
    issues: list[Issue] = []
    for text, name in documents(path):
        if text.is_file():
            found, met = _read_document(text, name)
            sentences += found
            issues += met
        else:
            message = "annotations without a text beside them; left out"
            issues.append(Issue("no-text", message, str(text.with_suffix(ANNOTATIONS))))
    return sentences, issues


def documents(path: Path) -> list[tuple[Path, str]]:
    """`(path of the text, name)` of each document, by name; the text of a lone annotations file is not there."""
    if not path.is_dir():
        return [(path.with_suffix(TEXT), path.stem)]
    with explaining(path):
        files = [file for kind in (TEXT, ANNOTATIONS) for file in path.rglob(f"*{kind}") if file.is_file()]
    texts = {file.with_suffix(TEXT): file.relative_to(path).with_suffix("").as_posix() for file in files}
    if not texts:
        raise UserError(path, "no .txt and .ann files in this folder", "Name a folder of brat, or a file.")
    return sorted(texts.items(), key=lambda item: item[1])


def _read_document(path: Path, name: str) -> tuple[list[Sentence], list[Issue]]:
    log = IssueLog(path)
    text = whole(read_text(path, log), log, 0)
    annotations = path.with_suffix(ANNOTATIONS)
    labeled = annotations.is_file()
    notes = IssueLog(annotations)
    entities = list(_annotations(annotations, text, notes)) if labeled else []
    sentences = []
    for start, end, line, inside in _stretches(text, entities):
        if end - start > MAX_LINE:
            log.add("line-too-long", f"{end - start:,} characters, more than {MAX_LINE:,}; left out", line)
            continue
        moved = [_moved(entity, start) for entity in inside]
        found = Sentence("", text[start:end], in_order(moved)) if labeled else unlabeled("", text[start:end])
        sentences.append(found)
    if not sentences:
        log.add("empty-text", "a document without a sentence; left out")
    for number, sentence in enumerate(sentences):
        sentence.id = name if len(sentences) == 1 else f"{name}-{number}"
        sentence.post_id = None if len(sentences) == 1 else name
    return sentences, [*log.items, *notes.items]


def _moved(entity: Entity, start: int) -> Entity:
    if entity.start is None or entity.end is None:
        return entity
    return entity._replace(start=entity.start - start, end=entity.end - start)


def _stretches(text: str, entities: Sequence[Entity]) -> Iterator[tuple[int, int, int, list[Entity]]]:
    """`(start, end, line number, entities)` of each sentence. Entities without a place go to the first one."""
    bounds = list(_lines(text))
    starts = [start for start, _ in bounds]
    parts: list[list[Entity]] = [[] for _ in bounds]
    last = list(range(len(bounds)))  # line -> the last line that an entity beginning in it reaches
    for entity in entities:
        at = bisect_right(starts, entity.start) - 1 if entity.start is not None else 0
        parts[at].append(entity)
        if entity.end is not None:
            last[at] = max(last[at], bisect_right(starts, entity.end - 1) - 1)
    index = 0
    while index < len(bounds):
        first, until = index, last[index]
        inside = parts[index]
        while index < until:
            index += 1
            until = max(until, last[index])
            inside.extend(parts[index])
        start = bounds[first][0]
        end = max([bounds[until][1], *(entity.end or 0 for entity in inside)])  # a mention may hold the break, too
        if end > start:
            yield start, end, first + 1, inside
        index += 1


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """`[start, end)` of each line, without its break (`\\n` or `\\r\\n`)."""
    start = 0
    while start <= len(text):
        end = text.find("\n", start)
        if end < 0:
            yield start, len(text)
            return
        yield start, end - 1 if end > start and text[end - 1] == "\r" else end
        start = end + 1


def _annotations(path: Path, text: str, log: IssueLog) -> Iterator[Entity]:
    unread = Unread()
    found = []
    for number, line in enumerate(read_lines(path, log), 1):
        if number == 1:
            line = line.removeprefix("\ufeff")
        if not line.strip():
            continue
        if not line.startswith("T"):
            unread.note(_KINDS.get(line[0], "lines of no known kind"), number)
        elif entity := _text_bound(line, text, log, number):
            found.append(entity)
    unread.report(log)
    yield from without_repeats(found, log, 0)


def _text_bound(line: str, text: str, log: IssueLog, number: int) -> Entity | None:
    """The entity of a line `T1<tab>type start end;start end<tab>surface`."""
    parts = line.split("\t", 2)
    match = _SPANS.fullmatch(parts[1]) if len(parts) > 1 else None
    if match is None:
        log.add("bad-entity", f"{quote(line)} is not `T1<tab>type start end<tab>text`; left out", number)
        return None
    category, listed = match.groups()
    pairs = (pair.split(" ") for pair in listed.split(";"))
    spans = [(int(start), int(end)) for start, end in pairs]
    surface = whole(parts[2], log, number) if len(parts) > 2 else ""
    start, end = spans[0][0], spans[-1][1]
    if any(left >= right for left, right in spans):
        log.add("empty-entity", f"{quote(line)} holds no character; left out", number)
        return None
    if len(spans) > 1 and not all(
        left <= right and right - left <= MAX_SURFACE and not text[left:right].strip()
        for (_, left), (right, _) in pairwise(spans)
    ):
        message = f"{category} {quote(surface)}: its {len(spans)} parts are not one stretch of text; left out"
        log.add("discontinuous", message, number)
        return None
    # The surface joins the parts by spaces, and a comment may follow it.
    length = sum(right - left for left, right in spans) + len(spans) - 1
    if length <= len(surface) and end <= len(text):
        there = " ".join(text[left:right] for left, right in spans)
        surface = "" if surface.startswith(there) else surface
    return place(text, surface or None, category, start, end, log, number)
