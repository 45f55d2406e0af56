"""What every reader shares: options, the list of issues, decoded lines, guarded JSON, checked entities.

A file from the internet is hostile until read: bytes that are not UTF-8, a line of a gigabyte, ten thousand open
brackets, NaN, a string where a number belongs. Everything here answers such things with an `Issue` (the rest of the
file is still read) or, where nothing can be read, with one `UserError`. A file is held in memory as a whole: that is
fast and simple, and costs about three times its size.

What stands in a file besides sentences and their entities: posts, `meta`, and parts that say nothing of entities.

What writers share: JSON items whole or not at all, entities that have a place, text that UTF-8 can hold.

A writer takes sentences and returns an `Issue` for whatever its format cannot hold, so that `read` gives the rest back.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniner.errors import UserError
from omniner.files import explaining, writing
from omniner.records import Entity, Issue, Sentence, to_line

MAX_FILE = 2 * 2**30  # bytes; a larger corpus is split into several files
MAX_LINE = 16 * 2**20  # characters; the longest known corpus line has under 10,000
MAX_SURFACE = 10_000  # characters that a file may claim for an entity by two numbers alone
_SHOWN = 60  # characters of foreign text quoted in a message


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read what a file does not say of itself; the CoNLL fields are those of `schema.DataConfig`."""

    scheme: str  # auto | bio | bio2 | bioes | bmes | bios
    separator: str  # auto | tab | space
    glued_positions: bool  # a word position of 1-2 digits follows each character
    joiner: str  # put between tokens
    id_prefix: str  # ids of sentences without one are "<id_prefix>-<n>"
    id_first: int  # n of the first sentence of the file


class IssueLog:
    """The issues of one file, in the order they were met."""

    def __init__(self, path: Path) -> None:
        self.file = str(path)
        self.items: list[Issue] = []

    def add(self, code: str, message: str, line: int = 0, id: str = "") -> None:
        """Note one issue at a line (from 1; 0 = the whole file)."""
        self.items.append(Issue(code, message, self.file, line, id))


def quote(value: object) -> str:
    """A short, one-line picture of foreign data for a message."""
    if isinstance(value, (list, dict)):
        return f"a {'list' if isinstance(value, list) else 'JSON object'} of {len(value)}"
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
    return repr(value)[:_SHOWN]


def read_text(path: Path, log: IssueLog) -> str:
    """The file as text. Lines that are not UTF-8 are repaired line by line, each an issue.

    Halves of surrogate pairs (CESU-8, as old Java and Weibo exports write emoji) come back as surrogates for the
    reader to join. A file that is mostly not UTF-8 is refused: guessing an encoding would give wrong characters.
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
    """The lines without their ends (`\\n` or `\\r\\n`); over-long ones become empty, each an issue.

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


def whole(text: str, log: IssueLog, line: int) -> str:
    """The text with surrogate pairs joined and lone halves as U+FFFD, so that UTF-8 can hold it."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        log.add("surrogate", f"halves of characters in {quote(joined)}: pairs joined, lone ones U+FFFD", line)
        return joined


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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


def parse_json(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at `start` and the position after it; whatever is wrong with it is a `ValueError`."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from None
    return value, end


def skip_space(text: str, start: int) -> int:
    """The position of the first character from `start` on that is not JSON white space."""
    match = _SPACE.match(text, start)
    return match.end() if match else start


def json_lines(path: Path, log: IssueLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(line number, object)` for each line that holds one JSON object; other lines are issues, blank ones not."""
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
    """`(line number, object)` for each item of the one JSON list in the file.

    Items are parsed one by one, so that an item knows its line and a torn file gives what stands before the tear.
    """
    text = read_text(path, log).removeprefix("\ufeff")
    position, line, seen = skip_space(text, 0), 1, 0
    if text[position : position + 1] != "[":
        log.add("bad-json", "the file does not begin with a JSON list; nothing was read", 1)
        return
    position = skip_space(text, position + 1)
    while text[position : position + 1] != "]":
        line, seen = line + text.count("\n", seen, position), position
        try:
            value, end = parse_json(text, position)
        except ValueError as error:
            log.add("bad-json", f"{error}; the file was read up to here only", line)
            return
        if isinstance(value, dict):
            yield line, value
        else:
            log.add("bad-record", f"{quote(value)} where an object belongs; the item is left out", line)
        position = skip_space(text, end)
        if text[position : position + 1] not in {",", "]"}:
            message = "neither a comma nor the end of the list follows the item; the file was read up to here only"
            log.add("bad-json", message, line)
            return
        if text[position] == ",":
            position = skip_space(text, position + 1)
    if rest := text[position + 1 :].strip():
        log.add("bad-json", f"more text after the list: {quote(rest)}", line)


def json_records(path: Path, log: IssueLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(line number, object)` for each item of a JSON list, or of JSON lines where the file does not begin with one."""
    with explaining(path), path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return json_list(path, log) if start[:1] == b"[" else json_lines(path, log)


def text_of(record: dict[str, Any], key: str, log: IssueLog, line: int) -> str | None:
    """The text of a record, or None (with an issue) where there is none to work on."""
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
    return whole(text, log, line)


def id_of(record: dict[str, Any], log: IssueLog, line: int) -> str:
    """The id of a record as text, empty where it has none."""
    value = record.get("id")
    if value is None:
        return ""
    if isinstance(value, str):
        return whole(value, log, line)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    log.add("bad-record", f"{quote(value)} is not an id; numbered instead", line)
    return ""


def place(
    text: str, surface: str | None, category: object, start: object, end: object, log: IssueLog, line: int
) -> Entity | None:
    """The entity at half-open `[start, end)`, its surface taken from the text where `surface` is None.

    An entity that cannot be is None with an issue. One whose offsets do not give its surface keeps the surface and
    loses the offsets, with an issue: the pair still counts where surfaces are compared.
    """
    if not isinstance(category, str) or not category:
        log.add("bad-entity", f"{quote(category)} is not a category; the entity is left out", line)
        return None
    if type(start) is not int or type(end) is not int:  # bool is an int to isinstance
        log.add("bad-entity", f"{quote(start)}, {quote(end)} are not offsets; the entity is left out", line)
        return None
    category = whole(category, log, line)
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


def in_order(entities: list[Entity]) -> list[Entity]:
    """By start, then end; equal places and entities without offsets keep the file's order, the latter last."""
    last = MAX_LINE + 1
    return sorted(entities, key=lambda e: (last, last) if e.start is None else (e.start, e.end or 0))


def without_repeats(entities: list[Entity], log: IssueLog, line: int) -> list[Entity]:
    """Each placed entity once; a repeat of place and category is an issue. Unplaced ones may be real repeats."""
    seen: set[Entity] = set()
    kept = []
    for entity in entities:
        if entity.start is not None and entity in seen:
            log.add("duplicate-entity", f"{entity.category} {quote(entity.text)} stands twice; kept once", line)
            continue
        seen.add(entity)
        kept.append(entity)
    return kept


def unlabeled(id: str, text: str) -> Sentence:
    """A sentence whose file gives no labels: not the same as one that has none."""
    return Sentence(id, text, meta={"unlabeled": True})


def is_unlabeled(sentence: Sentence) -> bool:
    """Whether the sentence came without labels (so that it must not be trained or scored on)."""
    return sentence.meta.get("unlabeled") is True


MAX_DEPTH = 32  # levels of lists and objects kept in `meta`


class Unread:
    """Parts of a file that say nothing of entities: one issue for each kind of them, not one for each of them."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, int]] = {}  # kind -> first line, count

    def note(self, kind: str, line: int) -> None:
        """Count one; `kind` is a short text that stands in the message."""
        first, count = self._found.get(kind, (line, 0))
        self._found[kind] = first, count + 1

    def report(self, log: IssueLog) -> None:
        """Add the issues, at the line where each kind was met first."""
        for kind, (line, count) in self._found.items():
            log.add("not-read", f"{kind}: {count:,}, first here; not read", line)


def post_of(record: dict[str, Any], log: IssueLog, line: int) -> str | None:
    """The post of a record, None where it names none."""
    return id_of({"id": record.get("post_id")}, log, line) or None


def meta_of(value: object, log: IssueLog, line: int) -> dict[str, Any]:
    """What a record carries along for its user: one object, not nested too deeply."""
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


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How to write what a sentence does not say; all of it is about CoNLL columns."""

    scheme: str  # bio | bio2 | bioes | bmes | bios
    separator: str  # tab | space
    joiner: str  # stands between the tokens in the texts; empty makes each character a token


def write_list(path: Path, items: Iterable[dict[str, Any]]) -> None:
    """Write one JSON list, an item a line."""
    with writing(path) as file:
        before = "[\n"
        for item in items:
            file.write(before + to_line(item))
            before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")


def write_lines(path: Path, items: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines."""
    with writing(path) as file:
        for item in items:
            file.write(to_line(item) + "\n")


def placed(sentence: Sentence, log: IssueLog) -> Iterator[tuple[Entity, int, int]]:
    """`(entity, start, end)` of those that have a place; each other one is an issue."""
    for entity in sentence.entities:
        if entity.start is None or entity.end is None:
            message = f"{entity.category} {quote(entity.text)} has no place; left out"
            log.add("no-offsets", message, id=sentence.id)
        else:
            yield entity, entity.start, entity.end


def labeled_only(sentences: Iterable[Sentence], log: IssueLog) -> Iterator[Sentence]:
    """For files that cannot say that a sentence has no labels: those are left out, each an issue."""
    for sentence in sentences:
        if is_unlabeled(sentence):
            log.add("unlabeled", "a sentence without labels would be read as one without entities", id=sentence.id)
        else:
            yield sentence


def with_extras(item: dict[str, Any], sentence: Sentence) -> dict[str, Any]:
    """The item with the id and the post of the sentence behind what the format knows."""
    if sentence.id:
        item["id"] = sentence.id
    if sentence.post_id is not None:
        item["post_id"] = sentence.post_id
    return item


def own_meta(sentence: Sentence) -> dict[str, Any]:
    """`meta` without the mark of sentences that came without labels: formats say that in their own way."""
    return {key: value for key, value in sentence.meta.items() if key != "unlabeled"}


def clean(text: str, id: str, log: IssueLog) -> str:
    """The text with lone surrogates as U+FFFD, so that UTF-8 can hold it; of the same length."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        log.add("unwritable-character", f"a lone surrogate in {quote(text)}: U+FFFD stands for it", id=id)
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)


def report_lost(sentences: Sequence[Sentence], holds: frozenset[str], format: str, log: IssueLog) -> None:
    """One issue for each of `id`, `post_id` and `meta` that the format has no place for and some sentences have."""
    lost: Counter[str] = Counter()
    first: dict[str, str] = {}
    for sentence in sentences:
        has = (("id", sentence.id), ("post_id", sentence.post_id is not None), ("meta", own_meta(sentence)))
        for name, value in has:
            if value and name not in holds:
                lost[name] += 1
                first.setdefault(name, sentence.id)
    for name, count in sorted(lost.items()):
        log.add(f"lost-{name.replace('_', '-')}", f"{count:,} sentences have {name}, {format} has not", id=first[name])
