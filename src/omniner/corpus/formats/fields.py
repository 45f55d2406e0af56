"""What the formats share: guarded reading of foreign files, and writing that loses nothing silently.

A file from the internet is hostile until read: bytes that are not UTF-8, a line of a gigabyte, ten thousand open
brackets, NaN, a string where a number belongs. The readers here answer such things with an `Issue` (the rest of the
file is still read) or, where nothing can be read, with one `UserError`. A file is held in memory as a whole: that is
fast and simple, and costs about three times its size.

From top to bottom: the issues of a file, its text and lines, its JSON values, the fields of a record, and what writers
need. Entities stand in `regions` and `surfaces`, tags in `tags`, the recognition of formats in `excerpt`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omniner.corpus.formats.spellings import CATEGORIES, LISTS, OFFSETS, PAIRS, TEXTS
from omniner.errors import UserError
from omniner.files import check_input_file, explaining, writing
from omniner.records import Entity, Issue, Sentence, is_unlabeled, replace_surrogates, to_line

MAX_FILE = 2 * 2**30  # bytes; a larger corpus is split into several files
MAX_LINE = 16 * 2**20  # characters; the longest known corpus line has under 10,000
MAX_DEPTH = 32  # levels of lists and objects kept in `meta`
_LIKE_A_POST = re.compile(r"(?:doc|document|post|note|article|帖子|文档|文章)[_-]?(?:id|name)?", re.IGNORECASE)
_SHOWN = 60  # characters of foreign text quoted in a message


class IssueLog:
    """The issues of one file, in the order they were met."""

    def __init__(self, path: Path) -> None:
        self.file = str(path)
        self.items: list[Issue] = []
        self.id = ""  # of the record that is read just now, as the file has it

    def add(self, code: str, message: str, line: int = 0, id: str = "") -> None:
        """Note one issue at a line (from 1; 0 = the whole file), of the record that is read just now or another one."""
        self.items.append(Issue(code, message, self.file, line, id or self.id))

    def number(self, start: int, item: int) -> None:
        """Name the item (from 1; 0 = leave it) of which the issues from place `start` on are."""
        if item:
            named = [issue._replace(message=f"item {item}: {issue.message}") for issue in self.items[start:]]
            self.items[start:] = named


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
    check_input_file(path)
    with explaining(path):
        size = path.stat().st_size
        if size > MAX_FILE:
            raise UserError(path, f"{size:,} bytes, more than {MAX_FILE:,}", "Split the file into several.")
        data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}:1", "UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8.")
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
    """Read the lines of a file, without their ends (see `split_lines`); over-long ones become empty, each an issue.

    Only these end a line: U+2028, U+0085 and the like are characters of the text. A byte order mark stays.
    """
    return lines_of(read_text(path, log), log)


def lines_of(text: str, log: IssueLog) -> list[str]:
    """Split a text as `read_lines` does."""
    lines = split_lines(text)
    for index, line in enumerate(lines):
        if len(line) > MAX_LINE:
            log.add("line-too-long", f"{len(line):,} characters, more than {MAX_LINE:,}; left out", index + 1)
            lines[index] = ""
    return lines


def split_lines(text: str) -> list[str]:
    """Split a text at its line ends: `\\n` or `\\r\\n`, or `\\r` where the text has no other (old Macs)."""
    lines = text.split("\n" if "\n" in text else "\r")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines] if "\r" in text else lines


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
    """Yield `(line number, object)` for each object of a JSON file; issues met meanwhile get the object's id.

    See `json_values`. Whatever is no object is an issue.
    """
    for line, value in json_values(path, log):
        if isinstance(value, dict):
            name = value.get("id")
            log.id = str(name) if type(name) in (int, str) else ""
            yield line, value
        else:
            log.add("bad-record", f"{quote(value)} where an object belongs; left out", line)
        log.id = ""


def json_values(path: Path, log: IssueLog) -> Iterator[tuple[int, Any]]:
    """Yield `(line number, value)` for the values of a JSON file.

    The file is one list, whose items these are, also where it stands in an object (`wrapped_list`), or has a value on
    each line, or values of several lines each, one behind another. What cannot be parsed is an issue.
    """
    text = read_text(path, log).removeprefix("\ufeff")
    start = skip_space(text, 0)
    if found := wrapped_list(text, start):
        _check_alone(path, text, start, found[0], log)
        return _located(text, list_items(text, found[1], is_inside=True), log)
    if text.startswith("[", start):
        if text.startswith('"', skip_space(text, start + 1)):  # a tuple on each line, not the items of one list
            return _line_values(text, log)
        return _located(text, list_items(text, start + 1), log)
    if text.startswith("{", start):
        with suppress(ValueError):
            _, end = parse_json(text, start)
            if "\n" in text[start:end]:
                return _located(text, _values_in_a_row(text, start), log)
    return _line_values(text, log)


def _line_values(text: str, log: IssueLog) -> Iterator[tuple[int, Any]]:
    """`(line number, value)` of each line that holds one value; other lines but blank ones are issues."""
    for number, line in enumerate(lines_of(text, log), 1):
        stripped = line.strip(" \t\r")
        if not stripped:
            continue
        try:
            value = parse_whole_json(stripped)
        except ValueError as error:
            log.add("bad-json", f"{error}; the line is left out", number)
            continue
        yield number, value


def _located(text: str, values: Iterator[tuple[int, Any]], log: IssueLog) -> Iterator[tuple[int, Any]]:
    """`(line number, value)` of values that know their position; errors in their place are issues."""
    line, seen = 1, 0
    for position, value in values:
        line, seen = line + text.count("\n", seen, position), position
        if isinstance(value, ValueError):
            log.add("bad-json", str(value), line)
        else:
            yield line, value


def _values_in_a_row(text: str, position: int) -> Iterator[tuple[int, Any]]:
    """Yield `(position, value)` for each of the values that stand one behind another, with commas or without."""
    while position < len(text):
        try:
            value, end = parse_json(text, position)
        except ValueError as error:
            yield position, ValueError(f"{error}; the file was read up to here only")
            return
        yield position, value
        position = skip_space(text, end)
        if text.startswith(",", position):
            position = skip_space(text, position + 1)


WRAPPERS = (
    *("data", "annotations", "examples", "items", "records", "samples", "sentences", "documents", "results", "rows"),
    *("train", "dev", "valid", "validation", "test"),
)
"""Keys under which an object that is a whole file has the list of the file's records."""


def wrapped_list(text: str, start: int = 0) -> tuple[str, int] | None:
    """Find the list of records in an object that is a whole file, such as `{"version": 1, "data": [...]}`.

    Args:
        text: of the file, or its beginning.
        start: where the object may be.

    Returns:
        The key and the position behind the bracket of the list; None where the object is a record itself.
    """
    if not text.startswith("{", start):
        return None
    position = skip_space(text, start + 1)
    with suppress(ValueError):
        while text.startswith('"', position):
            key, end = parse_json(text, position)
            position = skip_space(text, end)
            if not text.startswith(":", position):
                return None
            position = skip_space(text, position + 1)
            if key in WRAPPERS and text.startswith("[", position):
                first, _ = parse_json(text, skip_space(text, position + 1))
                return (key, position + 1) if _is_record(first) else None
            value, end = parse_json(text, position)
            if isinstance(value, str) and key in _RECORD_KEYS:
                return None
            position = skip_space(text, skip_space(text, end) + 1)  # behind the comma
    return None


_RECORD_KEYS = frozenset({*TEXTS, "tokens", "words", "conversations", "messages", "instruction"})  # what it is about
_PLACE_KEYS = OFFSETS | {"offset"}
_CATEGORY_KEYS = frozenset({*CATEGORIES, "entity"}) - {"class"}  # which more often sorts texts than names a mention's


def _is_record(item: object) -> bool:
    """Whether an item of a list is about a sentence of its own, and not a label of one."""
    if not isinstance(item, dict) or not item.keys() & _RECORD_KEYS:
        return False
    if any(isinstance(item.get(key), list) and any(isinstance(one, dict) for one in item[key]) for key in LISTS):
        return True  # with a place of its own in a document, perhaps
    if item.keys() & _PLACE_KEYS:
        return False
    if not item.keys() & _CATEGORY_KEYS:
        return True
    return any(isinstance(value, (list, dict)) and not _is_place(key, value) for key, value in item.items())


def _is_place(key: str, value: object) -> bool:
    """Whether a field holds both offsets of a mention."""
    return key in PAIRS and isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)


def _check_alone(path: Path, text: str, start: int, name: str, log: IssueLog) -> None:
    """Refuse further lists of records beside the one that is read, or behind it; other keys are an issue."""
    try:
        value, end = parse_json(text, start)
    except ValueError:
        return  # reading the list says where it breaks
    lists = [key for key, items in value.items() if isinstance(items, list) and items and _is_record(items[0])]
    if len(lists) > 1 or skip_space(text, end) < len(text):
        found = f"several lists of sentences ({', '.join(lists)})" if len(lists) > 1 else "several lists of sentences"
        raise UserError(f"{path}:1", found, "Write each list into a file of its own.")
    if others := [key for key in value if key != name]:
        log.add("not-read", f"beside the list under {quote(name)}: {', '.join(map(quote, others[:5]))}; not read", 1)


def list_items(text: str, position: int, is_inside: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield `(position, value)` for each item of a JSON list from behind its bracket on.

    What breaks the list is a `ValueError` in the place of the last value.

    Args:
        text: that holds the list.
        position: behind its opening bracket.
        is_inside: whether more may stand behind the list, as in an object.
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
    if not is_inside and (rest := text[position + 1 :].strip()):
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


def parse_whole_json(text: str) -> Any:
    """Parse the one JSON value that a text is, see `parse_json`; more text behind it is a `ValueError`, too."""
    value, end = parse_json(text)
    if end < len(text):
        raise ValueError(f"more text after the value: {quote(text[end:])}")
    return value


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


def _finite(text: str) -> float:
    """A number that is written as a finite one again: 1e999 would become `Infinity`, which is not JSON."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{quote(text)} is too large a number")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
_SPACE = re.compile(r"[ \t\n\r]*")


def skip_space(text: str, start: int) -> int:
    """Find the first character from `start` on that is not JSON white space."""
    match = _SPACE.match(text, start)
    return match.end() if match else start


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


def list_of(value: object, what: str, log: IssueLog, line: int) -> list[Any] | None:
    """Take what should be the list of a record's entities.

    Returns:
        The list; None, with an issue, where something else stands there: the labels are unknown then, not absent.
    """
    if isinstance(value, list):
        return value
    fate = "the record is left out" if value else "taken as empty"
    log.add("bad-record", f"{what} is {quote(value)}, not a list; {fate}", line)
    return None if value else []


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


def post_hint(key: str) -> str:
    """What to add to the issue of a key or a column that is not read; empty unless it seems to name posts."""
    return "; call it post_id if it names the post that the sentence is from" if _LIKE_A_POST.fullmatch(key) else ""


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


def entities_with_offsets(sentence: Sentence, log: IssueLog) -> Iterator[tuple[Entity, int, int]]:
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
