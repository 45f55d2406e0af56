"""What the formats share: guarded reading of foreign files, and writing that loses nothing silently.

A file from the internet is hostile until read: bytes that are not UTF-8, a line of a gigabyte, ten thousand open
brackets, NaN, a string where a number belongs. The readers here answer such things with an `Issue` (the rest of the
file is still read) or, where nothing can be read, with one `UserError`. A file is held in memory as a whole: that is
fast and simple, and costs about three times its size.

From top to bottom: the issues of a file, its text and lines, its JSON records, its beginning (to recognise the format
by), the fields of a record, entities, and what writers need.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from omniner.errors import UserError
from omniner.files import explaining, writing
from omniner.records import Entity, Issue, Sentence, is_unlabeled, replace_surrogates, to_line

MAX_FILE = 2 * 2**30  # bytes; a larger corpus is split into several files
MAX_LINE = 16 * 2**20  # characters; the longest known corpus line has under 10,000
MAX_SURFACE = 10_000  # characters that a file may claim for an entity by two numbers alone
MAX_DEPTH = 32  # levels of lists and objects kept in `meta`
_SHOWN = 60  # characters of foreign text quoted in a message
_HEAD_BYTES, _HEAD_LINES, _HEAD_RECORDS = 2**20, 2000, 200  # looked at to recognise a format


class IssueLog:
    """The issues of one file, in the order they were met."""

    def __init__(self, path: Path) -> None:
        self.file = str(path)
        self.items: list[Issue] = []

    def add(self, code: str, message: str, line: int = 0, id: str = "") -> None:
        """Note one issue at a line (from 1; 0 = the whole file)."""
        self.items.append(Issue(code, message, self.file, line, id))


class UnreadParts:
    """Counts parts of a file that say nothing of entities, to give one issue for each kind of them."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, int]] = {}  # kind -> first line, count

    def note(self, kind: str, line: int) -> None:
        """Count one part.

        Args:
            kind: a short text that stands in the message.
            line: where the part was met.
        """
        first, count = self._found.get(kind, (line, 0))
        self._found[kind] = first, count + 1

    def report(self, log: IssueLog) -> None:
        """Add an issue for each kind, at the line where it was met first."""
        for kind, (line, count) in self._found.items():
            log.add("not-read", f"{kind}: {count:,}, first here; not read", line)


def quote(value: object) -> str:
    """Describe foreign data in one short line, for a message."""
    if isinstance(value, (list, dict)):
        return f"a {'list' if isinstance(value, list) else 'JSON object'} of {len(value)}"
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
    return repr(value)[:_SHOWN]


def read_text(path: Path, log: IssueLog) -> str:
    """Read a file as text; a line that is not UTF-8 is repaired, which is an issue.

    Halves of surrogate pairs (CESU-8, as old Java and Weibo exports write emoji) come back as surrogates for the
    reader to join.

    Raises:
        UserError: the file cannot be read, is too large or mostly not UTF-8: guessing an encoding would give wrong
            characters.
    """
    with explaining(path):
        size = path.stat().st_size
        if size > MAX_FILE:
            raise UserError(path, f"{size:,} bytes, more than {MAX_FILE:,}", "Split the file into several.")
        data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(path, "UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _decode_lines(path, data, log)


def _decode_lines(path: Path, data: bytes, log: IssueLog) -> str:
    lines, foreign, broken = [], 0, 0
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8"))
            foreign += not line.isascii()
            continue
        except UnicodeDecodeError:
            foreign += 1
        try:
            lines.append(line.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            broken += 1
            lines.append(line.decode("utf-8", "replace"))
            log.add("not-utf8", f"{error.reason} at byte {error.start}; read as U+FFFD", number)
    if 2 * broken > foreign:
        fix = "Convert it to UTF-8, for example with iconv -f GB18030 -t UTF-8."
        raise UserError(f"{path}:{log.items[-broken].line}", "the file is not UTF-8", fix)
    return "\n".join(lines)


def read_lines(path: Path, log: IssueLog) -> list[str]:
    """Read the lines of a file, without their ends (`\\n` or `\\r\\n`); over-long ones become empty, each an issue.

    Only a newline ends a line: U+2028, U+0085 and the like are characters of the text. A byte order mark stays.
    """
    text = read_text(path, log)
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
    for index, line in enumerate(lines):
        if len(line) > MAX_LINE:
            log.add("line-too-long", f"{len(line):,} characters, more than {MAX_LINE:,}; left out", index + 1)
            lines[index] = ""
    return lines


def join_surrogates(text: str, log: IssueLog, line: int) -> str:
    """Join surrogate pairs and put U+FFFD for lone halves, so that UTF-8 can hold the text; doing so is an issue."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        log.add("surrogate", f"halves of characters in {quote(joined)}: pairs joined, lone ones U+FFFD", line)
        return joined


def json_records(path: Path, log: IssueLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, object)` for each item of a JSON list, or for each line where the file is no such list."""
    with explaining(path), path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return json_list(path, log) if start[:1] == b"[" else json_lines(path, log)


def json_lines(path: Path, log: IssueLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, object)` for each line that holds one JSON object; other lines but blank ones are issues."""
    for number, line in enumerate(read_lines(path, log), 1):
        text = (line.removeprefix("\ufeff") if number == 1 else line).strip(" \t\r")
        if not text:
            continue
        try:
            value, end = parse_json(text)
            if end < len(text):
                raise ValueError(f"more text after the object: {quote(text[end:])}")
        except ValueError as error:
            log.add("bad-json", f"{error}; the line is left out", number)
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            log.add("bad-record", f"{quote(value)} where an object belongs; the line is left out", number)


def json_list(path: Path, log: IssueLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the items of the one JSON list in a file.

    Items are parsed one by one, so that an item knows its line and a torn file gives what stands before the tear.

    Yields:
        `(line number, object)`; what is no object, or breaks the list, is an issue.
    """
    text = read_text(path, log).removeprefix("\ufeff")
    start = skip_space(text, 0)
    if text[start : start + 1] != "[":
        log.add("bad-json", "the file does not begin with a JSON list; nothing was read", 1)
        return
    line, seen = 1, 0
    for position, value in _list_items(text, start + 1):
        line, seen = line + text.count("\n", seen, position), position
        if isinstance(value, dict):
            yield line, value
        elif isinstance(value, ValueError):
            log.add("bad-json", str(value), line)
        else:
            log.add("bad-record", f"{quote(value)} where an object belongs; the item is left out", line)


def _list_items(text: str, position: int) -> Iterator[tuple[int, Any]]:
    """Yield `(position, value)` for each item of a JSON list from behind its bracket on.

    What breaks the list is a `ValueError` in the place of the last value.
    """
    last, position = 0, skip_space(text, position)
    while text[position : position + 1] != "]":
        last = position
        try:
            value, end = parse_json(text, position)
        except ValueError as error:
            yield last, ValueError(f"{error}; the file was read up to here only")
            return
        yield last, value
        position = skip_space(text, end)
        if text[position : position + 1] not in {",", "]"}:
            message = "neither a comma nor the end of the list follows the item; the file was read up to here only"
            yield last, ValueError(message)
            return
        if text[position] == ",":
            position = skip_space(text, position + 1)
    if rest := text[position + 1 :].strip():
        yield last, ValueError(f"more text after the list: {quote(rest)}")


def parse_json(text: str, start: int = 0) -> tuple[Any, int]:
    """Parse the JSON value at `start`, strictly: no NaN, no key twice.

    Returns:
        The value and the position after it.

    Raises:
        ValueError: whatever is wrong with it.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from None
    return value, end


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; a key that stands twice is an error, not the loss of a value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        for name, _ in pairs:
            if name not in found:  # popped when it was met first
                raise ValueError(f"the key {quote(name)} stands twice in one object")
            del found[name]
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
_SPACE = re.compile(r"[ \t\n\r]*")


def skip_space(text: str, start: int) -> int:
    """Find the first character from `start` on that is not JSON white space."""
    match = _SPACE.match(text, start)
    return match.end() if match else start


@dataclass(frozen=True)
class FileHead:
    """The beginning of a file, from which its format is recognised.

    Attributes:
        text: the first MiB, without a byte order mark.
        lines: the first lines that are not blank, at least one.
    """

    text: str
    lines: list[str]

    @cached_property
    def is_list(self) -> bool:
        """Whether the file begins with a JSON list of objects."""
        start = skip_space(self.text, 0)
        return self.text.startswith("[", start) and self.text.startswith("{", skip_space(self.text, start + 1))

    @cached_property
    def keys(self) -> frozenset[str]:
        """Whatever looks like the key of an object: all there is to see of a list that is torn in its first object."""
        return frozenset(re.findall(r'"(\w+)"\s*:', self.text)) if self.is_list else frozenset()

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the first JSON objects, of a list or one a line; broken ones do not hide the format."""
        if self.is_list:
            items = _list_items(self.text, skip_space(self.text, 0) + 1)
            yield from (value for _, value in islice(items, _HEAD_RECORDS) if isinstance(value, dict))
        elif self.text.startswith("{", skip_space(self.text, 0)):
            for line in self.lines[:_HEAD_RECORDS]:
                with suppress(ValueError):
                    value, _ = parse_json(line.strip())
                    if isinstance(value, dict):
                        yield value


def read_head(path: Path) -> FileHead:
    """Read the beginning of a file.

    Raises:
        UserError: it cannot be read, is empty or no text.
    """
    with explaining(path), path.open("rb") as file:
        data = file.read(_HEAD_BYTES)
        complete = not file.read(1)
    if b"\0" in data:
        fix = "Set data.format to the format it has, or convert it."
        raise UserError(path, "not a text file (it holds zero bytes)", fix)
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = text.split("\n")
    if not complete and len(lines) > 1:
        lines.pop()  # cut somewhere in the middle
    lines = [line.removesuffix("\r") for line in lines[:_HEAD_LINES]]
    if filled := [line for line in lines if line.strip(" \t\r")]:
        return FileHead(text, filled)
    raise UserError(path, "the file is empty", "Name a file that has sentences.")


def text_of(record: dict[str, Any], key: str, log: IssueLog, line: int) -> str | None:
    """Take the text of a record; None, with an issue, where there is none to work on."""
    text = record.get(key)
    if not isinstance(text, str):
        log.add("bad-record", f"no string under {key!r}; the record is left out", line)
        return None
    if not text:
        log.add("empty-text", "a sentence without a character; left out", line)
        return None
    if len(text) > MAX_LINE:
        log.add("line-too-long", f"{len(text):,} characters, more than {MAX_LINE:,}; left out", line)
        return None
    return join_surrogates(text, log, line)


def id_of(record: dict[str, Any], log: IssueLog, line: int) -> str:
    """Take the id of a record as text, empty where it has none."""
    value = record.get("id")
    if value is None:
        return ""
    if isinstance(value, str):
        return join_surrogates(value, log, line)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    log.add("bad-record", f"{quote(value)} is not an id; numbered instead", line)
    return ""


def post_of(record: dict[str, Any], log: IssueLog, line: int) -> str | None:
    """Take the post of a record, None where it names none."""
    return id_of({"id": record.get("post_id")}, log, line) or None


def meta_of(value: object, log: IssueLog, line: int) -> dict[str, Any]:
    """Take what a record carries along for its user: one object, not nested too deeply."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        log.add("bad-record", f"meta is {quote(value)}, not an object; left out", line)
        return {}
    if _deeper_than(value, MAX_DEPTH):
        log.add("bad-record", f"meta is nested more than {MAX_DEPTH} deep; left out", line)
        return {}
    return value


def _deeper_than(value: object, limit: int) -> bool:
    """Level by level instead of by recursion: foreign data must not choose our stack depth."""
    level = [value]
    for _ in range(limit):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return False
        level = inner
    return any(isinstance(item, (dict, list)) for item in level)


def entity_at(
    text: str, surface: str | None, category: object, start: object, end: object, log: IssueLog, line: int
) -> Entity | None:
    """Make an entity of what a file says of it; it says anything.

    An entity whose offsets do not give its surface keeps the surface and loses the offsets, with an issue: the pair
    still counts where surfaces are compared.

    Args:
        text: of the sentence.
        surface: None = take it from the text.
        category: of the entity.
        start, end: half-open offsets in code points.
        log: takes the issues.
        line: where the entity stands.

    Returns:
        The entity; None, with an issue, where there can be none.
    """
    if not isinstance(category, str) or not category:
        log.add("bad-entity", f"{quote(category)} is not a category; the entity is left out", line)
        return None
    if type(start) is not int or type(end) is not int:  # bool is an int to isinstance
        log.add("bad-entity", f"{quote(start)}, {quote(end)} are not offsets; the entity is left out", line)
        return None
    category = join_surrogates(category, log, line)
    if end <= start:
        message = f"{category} at [{start}, {end}) holds no character; the entity is left out"
        log.add("empty-entity", message, line)
        return None
    if surface is None and end - start > MAX_SURFACE:  # else a short file could ask for any amount of memory
        log.add("entity-too-long", f"{category} at [{start}, {end}); the entity is left out", line)
        return None
    inside = start >= 0 and end <= len(text)
    if inside and (surface is None or text[start:end] == surface):
        return Entity(text[start:end], category, start, end)
    if not inside:
        code, found = "offset-range", f"[{start}, {end}) is outside the text of {len(text)} characters"
    else:
        code, found = "offset-mismatch", f"[{start}, {end}) holds {quote(text[start:end])}"
    if not surface:
        log.add(code, f"{category}: {found}; the entity is left out", line)
        return None
    log.add(code, f"{category} {quote(surface)}: {found}; kept without offsets", line)
    return Entity(surface, category)


def sort_entities(entities: list[Entity]) -> list[Entity]:
    """Sort by start, then end; equal places and entities without offsets keep their order, the latter last."""
    last = MAX_LINE + 1
    return sorted(entities, key=lambda e: (last, last) if e.start is None else (e.start, e.end or 0))


def without_repeats(entities: list[Entity], log: IssueLog, line: int) -> list[Entity]:
    """Keep each placed entity once; a repeat of place and category is an issue. Unplaced ones may be real repeats."""
    seen: set[Entity] = set()
    kept = []
    for entity in entities:
        if entity.start is not None and entity in seen:
            log.add("duplicate-entity", f"{entity.category} {quote(entity.text)} stands twice; kept once", line)
            continue
        seen.add(entity)
        kept.append(entity)
    return kept


def write_json_list(path: str | Path, items: Iterable[dict[str, Any]]) -> None:
    """Write one JSON list, an item a line."""
    with writing(path) as file:
        before = "[\n"
        for item in items:
            file.write(before + to_line(item))
            before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")


def labeled_only(sentences: Iterable[Sentence], log: IssueLog) -> Iterator[Sentence]:
    """Leave out sentences without labels, each an issue: for files that cannot say so of a single sentence."""
    for sentence in sentences:
        if is_unlabeled(sentence):
            log.add("unlabeled", "a sentence without labels would be read as one without entities", id=sentence.id)
        else:
            yield sentence


def placed_entities(sentence: Sentence, log: IssueLog) -> Iterator[tuple[Entity, int, int]]:
    """Yield `(entity, start, end)` for each entity that has a place; each other one is an issue."""
    for entity in sentence.entities:
        if entity.start is None or entity.end is None:
            message = f"{entity.category} {quote(entity.text)} has no place; left out"
            log.add("no-offsets", message, id=sentence.id)
        else:
            yield entity, entity.start, entity.end


def add_names(item: dict[str, Any], sentence: Sentence) -> dict[str, Any]:
    """Add the id and the post of the sentence, where it has them, behind what the format knows."""
    if sentence.id:
        item["id"] = sentence.id
    if sentence.post_id is not None:
        item["post_id"] = sentence.post_id
    return item


def writable_text(text: str, id: str, log: IssueLog) -> str:
    """Put U+FFFD for lone surrogates, which is an issue, so that UTF-8 can hold the text; its length stays."""
    clean = replace_surrogates(text)
    if clean != text:
        log.add("unwritable-character", f"a lone surrogate in {quote(text)}: U+FFFD stands for it", id=id)
    return clean
