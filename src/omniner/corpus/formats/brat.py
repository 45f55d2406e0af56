"""brat's standoff: a folder of documents, each a text (`.txt`) and its annotations beside it (`.ann`).

    doc.txt   我爱北京
    doc.ann   T1<tab>地点 2 4<tab>北京

Offsets are half-open and count code points of the whole text, line breaks included. Each line of a text that is not
empty is a sentence, but lines that an annotation crosses form one sentence. If a document has one sentence, its name is
the sentence's id; if it has several, its name is their post. A text without an annotations file has no labels.
Fragments with only white space between them are one mention (brat splits a mention at line breaks); other discontinuous
mentions are issues. Relations, events, attributes, notes and the like are not read: one issue for each kind and
document.

Writing creates a new folder with a text and an annotations file for each post. The sentences of a post are the lines of
its text, in their order; a sentence without a post has its own document. Documents are named after their post or
sentence if that can be a file name; else they are numbered. A mention that contains a line break or a tab is written in
parts around it, as brat does, and read as one. A sentence without labels gets no annotations file, so that it is read
back without labels; to annotate it in brat, create an empty one.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import (
    MAX_LINE,
    IssueLog,
    UnreadParts,
    entities_with_offsets,
    join_surrogates,
    labeled_only,
    quote,
    read_lines,
    read_text,
    writable_text,
)
from omniner.corpus.formats.regions import MAX_SURFACE, entity_at, sort_entities, without_repeats
from omniner.errors import UserError
from omniner.files import check_new_folder, explaining, writing_folder
from omniner.progress import Progress
from omniner.records import Entity, Issue, Sentence, is_unlabeled, unlabeled_sentence
from omniner.registry import first_line

TEXT, ANNOTATIONS = ".txt", ".ann"
_SPANS = re.compile(r"([^ ]+) (\d{1,10} \d{1,10}(?:;\d{1,10} \d{1,10})*) *", re.ASCII)
_TEXT_BOUND = re.compile(r"T\d+\t[^ \t]+ \d+ \d+(;\d+ \d+)*(\t|$)")
_PLAIN_MENTION = re.compile(r"T\d+\t[^ \t]+ (\d{1,10}) (\d{1,10})\t(.+)", re.ASCII)
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
    """Read all documents of a folder (and its subfolders, by name), or the one document of a `.txt` or `.ann`.

    `options` are ignored.
    """
    sentences: list[Sentence] = []
    issues: list[Issue] = []
    texts = documents(path)
    progress = Progress(f"documents of {path.name} read", len(texts))
    for text, name in progress.over(texts):
        if text.is_file():
            found, met = _read_document(text, name)
            sentences += found
            issues += met
        else:
            message = "annotations without a text beside them; left out"
            issues.append(Issue("no-text", message, str(text.with_suffix(ANNOTATIONS))))
    return sentences, issues


def documents(path: Path) -> list[tuple[Path, str]]:
    """List `(path of the text, name)` of each document, by name; a lone annotations file has no text."""
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
    text = join_surrogates(read_text(path, log), log, 0)
    annotations = path.with_suffix(ANNOTATIONS)
    labeled = annotations.is_file()
    notes = IssueLog(annotations)
    lines = read_lines(annotations, notes) if labeled else []
    if lines:
        lines[0] = lines[0].removeprefix("\ufeff")
    text = _counted_text(text, lines, log)
    entities = list(_annotations(lines, text, notes))
    sentences = []
    for start, end, line, inside in _stretches(text, entities):
        if end - start > MAX_LINE:
            log.add("line-too-long", f"{end - start:,} characters, more than {MAX_LINE:,}; left out", line)
            continue
        sentence = unlabeled_sentence("", text[start:end])
        if labeled:
            sentence = Sentence("", text[start:end], sort_entities([_moved(entity, start) for entity in inside]))
        sentences.append(sentence)
    if not sentences:
        log.add("empty-text", "a document without a sentence; left out")
    for number, sentence in enumerate(sentences):
        sentence.id = name if len(sentences) == 1 else f"{name}-{number}"
        sentence.post_id = None if len(sentences) == 1 else name
    return sentences, [*log.items, *notes.items]


def _counted_text(text: str, lines: Sequence[str], log: IssueLog) -> str:
    """Return the text as the annotations count it: perhaps with `\\r\\n` as one character, or without a byte order
    mark.
    """
    bare = text.removeprefix("\ufeff")
    ways = dict.fromkeys((text, bare, text.replace("\r\n", "\n"), bare.replace("\r\n", "\n")))
    if len(ways) == 1:
        return text
    found = [match for line in lines if (match := _PLAIN_MENTION.match(line))]
    hits = {
        way: sum(way[int(match[1]) : int(match[2])] == match[3] for match in found if len(match[3]) <= MAX_SURFACE)
        for way in ways
    }
    best = max(ways, key=lambda way: hits[way])  # of equals the first: the text as it is
    if best != text:
        log.add("offset-units", "offsets count line breaks of two characters as one, or leave out a byte order mark")
    return best


def _moved(entity: Entity, start: int) -> Entity:
    if entity.start is None or entity.end is None:
        return entity
    return entity._replace(start=entity.start - start, end=entity.end - start)


def _stretches(text: str, entities: Sequence[Entity]) -> Iterator[tuple[int, int, int, list[Entity]]]:
    """Yield `(start, end, line number, entities)` of each sentence.

    Entities without offsets go to the first sentence that contains their surface, else to the first of all.
    """
    bounds = list(_lines(text))
    starts = [start for start, _ in bounds]
    parts: list[list[Entity]] = [[] for _ in bounds]
    last = list(range(len(bounds)))  # line -> the last line reached by an entity that begins in it
    for entity in entities:
        place = entity.start if entity.start is not None else max(0, text.find(entity.text))
        at = bisect_right(starts, place) - 1
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
        end = max([bounds[until][1], *(entity.end or 0 for entity in inside)])  # a mention may include the break, too
        if end > start:
            yield start, end, first + 1, inside
        index += 1


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """Yield `[start, end)` of each line, without its break (`\\n` or `\\r\\n`)."""
    start = 0
    while start <= len(text):
        end = text.find("\n", start)
        if end < 0:
            yield start, len(text)
            return
        yield start, end - 1 if end > start and text[end - 1] == "\r" else end
        start = end + 1


def _annotations(lines: Sequence[str], text: str, log: IssueLog) -> Iterator[Entity]:
    unread = UnreadParts()
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not line.startswith("T"):
            unread.note(_KINDS.get(line[0], "lines of no known kind"), number)
        elif entity := _text_bound(line, text, log, number):
            found.append(entity)
    unread.report(log)
    yield from without_repeats(found, log, 0)


def _text_bound(line: str, text: str, log: IssueLog, number: int) -> Entity | None:
    """Return the entity of a line `T1<tab>type start end;start end<tab>surface`."""
    parts = line.split("\t", 2)
    match = _SPANS.fullmatch(parts[1]) if len(parts) > 1 else None
    if match is None:
        log.add("bad-entity", f"{quote(line)} is not `T1<tab>type start end<tab>text`; left out", number)
        return None
    category, listed = match.groups()
    pairs = (pair.split(" ") for pair in listed.split(";"))
    spans = [(int(start), int(end)) for start, end in pairs]
    surface = join_surrogates(parts[2], log, number) if len(parts) > 2 else ""
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
    return entity_at(text, surface or None, category, start, end, log, number)


_FILE_NAME = re.compile(r"\w[\w.+@#-]{0,60}")  # at most 4 bytes a character: below the limit of 255 of file systems
_BREAKS = re.compile("[\t\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")  # whatever ends a line for brat, and its separator


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write a new or empty folder atomically.

    Returns:
        Issues: entities without offsets or that begin or end with a line break (`line-break`), sentences that will be
            read as several (`split-lines`), categories with white space, which brat cannot have (`category-renamed`),
            ids and posts that cannot be file names (`renamed`), sentences without labels in a post that has some
            (`unlabeled`).

    Raises:
        UserError: the folder exists and is not empty.
    """
    check_new_folder(path)
    log = IssueLog(path)
    names: dict[str, str] = {}
    groups = list(_documents(sentences))
    progress = Progress("documents written", len(groups))
    with writing_folder(path) as folder:
        for number, (wanted, group) in enumerate(progress.over(groups)):
            name = _file_name(wanted, number, names, log)
            labeled = list(labeled_only(group, log)) if not all(map(is_unlabeled, group)) else []
            text, annotations = _document(labeled or group, log)
            (folder / f"{name}{TEXT}").write_text(text, encoding="utf-8", newline="\n")
            if labeled:
                (folder / f"{name}{ANNOTATIONS}").write_text(annotations, encoding="utf-8", newline="\n")
    categories = sorted({entity.category for sentence in sentences for entity in sentence.entities})
    for category in categories:
        if _category(category) != category:
            log.add("category-renamed", f"{quote(category)} is written {quote(_category(category))}")
    return log.items


def _documents(sentences: Sequence[Sentence]) -> Iterator[tuple[str, list[Sentence]]]:
    """Yield `(wanted name, sentences)` of each document, in the order of their first sentences."""
    groups: dict[tuple[str, str | int], list[Sentence]] = {}
    for number, sentence in enumerate(sentences):
        key: tuple[str, str | int] = ("one", number) if sentence.post_id is None else ("post", sentence.post_id)
        groups.setdefault(key, []).append(sentence)
    for (kind, _), group in groups.items():
        # A post of one sentence is read as a sentence of that name: the post adds nothing.
        yield (group[0].post_id or "") if kind == "post" else group[0].id, group


def _file_name(wanted: str, number: int, names: dict[str, str], log: IssueLog) -> str:
    """Return the wanted name, or a number if it cannot be a file name or is taken (some file systems ignore case)."""
    name = wanted
    if not _FILE_NAME.fullmatch(wanted) or name.casefold() in names:
        name = f"document-{number}"
        while name.casefold() in names:
            name += "-"
        log.add("renamed", f"{quote(wanted)} is no file name, or taken; written as {name}{TEXT}", id=wanted)
    names[name.casefold()] = wanted
    return name


def _document(sentences: Sequence[Sentence], log: IssueLog) -> tuple[str, str]:
    texts: list[str] = []
    lines: list[str] = []
    offset = 0
    for sentence in sentences:
        text = writable_text(sentence.text, sentence.id, log)
        if "\n" in text or text.endswith("\r"):
            log.add("split-lines", "the line breaks in it will be read as ends of sentences", id=sentence.id)
        for entity, start, end in entities_with_offsets(sentence, log):
            parts = [(start + left, start + right) for left, right in _parts(text[start:end])]
            if not parts or parts[0][0] > start or parts[-1][1] < end:
                message = f"{entity.category} {quote(entity.text)} begins or ends with a line break; left out"
                log.add("line-break", message, id=sentence.id)
                continue
            spans = ";".join(f"{left + offset} {right + offset}" for left, right in parts)
            surface = " ".join(text[left:right] for left, right in parts)
            lines.append(f"T{len(lines) + 1}\t{_category(entity.category)} {spans}\t{surface}\n")
        texts.append(text)
        offset += len(text) + 1
    return "\n".join(texts) + "\n", "".join(lines)


def _parts(surface: str) -> Iterator[tuple[int, int]]:
    """Yield `[start, end)` of the text between breaks."""
    start = 0
    for match in _BREAKS.finditer(surface):
        if match.start() > start:
            yield start, match.start()
        start = match.end()
    if start < len(surface):
        yield start, len(surface)


def _category(category: str) -> str:
    """Replace white space, at which brat's types end."""
    clear = "".join("_" if character.isspace() else character for character in category)
    return clear.encode("utf-8", "replace").decode("utf-8")


def sniff_path(path: Path) -> Match | None:
    """Recognise a folder with annotations, or a text that has some beside it."""
    if path.is_dir():
        found = next(path.rglob(f"*{ANNOTATIONS}"), None)
        return Match(100, f"a folder with {ANNOTATIONS} files") if found else None
    if path.suffix == TEXT and path.with_suffix(ANNOTATIONS).is_file():
        return Match(100, f"{path.stem}{ANNOTATIONS} stands beside it")
    return None


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise the lines of an annotations file."""
    if any(_TEXT_BOUND.match(line) for line in excerpt.lines):
        return Match(60, "lines with `T1<tab>type start end<tab>text`")
    return None


FORMAT = Format(
    name="brat",
    meaning=first_line(__doc__),
    read=read,
    write=write,
    suffix="",
    folder=f"{TEXT} and {ANNOTATIONS} files",
    holds=frozenset({"id", "post_id", "unlabeled", "nested"}),
    sniff_path=sniff_path,
    sniff_lines=sniff_lines,
)
