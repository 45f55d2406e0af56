"""Share guarded reading of foreign files between the formats, and writing that loses nothing silently.

A file from the internet is untrusted: it may contain bytes that are not UTF-8, a line of a gigabyte, ten thousand open
brackets, NaN, or a string instead of a number. The readers here add an `Issue` for such things (the rest of the file is
still read) or, if nothing can be read, raise one `UserError`. The whole file is held in memory: that is fast and
simple, and takes about three times its size.

From top to bottom: the issues of a file, its text and lines, its JSON values, the fields of a record, and helpers for
writers. Entities are in `regions` and `surfaces`, tags in `tags`, the recognition of formats in `excerpt`.
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
from omniner.progress import Progress
from omniner.records import Entity, Issue, Sentence, is_unlabeled, replace_surrogates, to_line

MAX_FILE = 2 * 2**30  # bytes; a larger corpus must be split into several files
MAX_LINE = 16 * 2**20  # characters; the longest known corpus line has under 10,000
_DAMAGED = 0.1  # largest share of lines with damaged bytes; more are lines in another encoding
_ONE = 1.5  # times the mean size of an item: a longer rest of a list has several
MAX_DEPTH = 32  # levels of lists and objects kept in `meta`
_LIKE_A_POST = re.compile(r"(?:doc|document|post|note|article|帖子|文档|文章)[_-]?(?:id|name)?", re.IGNORECASE)
_BEGIN = re.compile(r'[\[{"]|\A(?:-?\d|-?Inf|NaN|null|true|false)')  # of an item: an object, a list, a string, ...
_SHOWN = 60  # characters of foreign text quoted in a message


class IssueLog:
    """The issues of one file, in the order in which they were met."""

    def __init__(self, path: Path) -> None:
        self.file = str(path)
        self.items: list[Issue] = []
        self.id = ""  # of the record being read, as in the file

    def add(self, code: str, message: str, line: int = 0, id: str = "", unread: float = 0.0) -> None:
        """Add an issue at a line (from 1; 0 = the whole file), for the record being read or another one.

        `unread` is explained in `Issue`.
        """
        self.items.append(Issue(code, message, self.file, line, id or self.id, unread))

    def number(self, start: int, item: int) -> None:
        """Prefix the messages of issues from index `start` on with the number of their item (from 1; 0 = do not)."""
        if item:
            named = [issue._replace(message=f"item {item}: {issue.message}") for issue in self.items[start:]]
            self.items[start:] = named


class UnreadParts:
    """Count parts of a file without information about entities, to report one issue per kind."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, int]] = {}  # kind -> first line, count

    def note(self, kind: str, line: int) -> None:
        """Count one part.

        Args:
            kind: a short text for the message.
            line: of the part.
        """
        first, count = self._found.get(kind, (line, 0))
        self._found[kind] = first, count + 1

    def report(self, log: IssueLog) -> None:
        """Add an issue for each kind, at the line where it was first met."""
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
    """Read a file as text; repair lines that are not UTF-8 and add issues.

    Halves of surrogate pairs (CESU-8, as old Java and Weibo exports write emoji) are returned as surrogates for the
    reader to join.

    Raises:
        UserError: the file cannot be read, is too large or mostly not UTF-8, because guessing an encoding would give
            wrong characters.
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
    if 2 * broken > foreign or broken > max(1, _DAMAGED * foreign):
        found = f"the file is not UTF-8 in {broken:,} of {foreign:,} lines with more than ASCII"
        fix = "Convert it, or these lines of it, to UTF-8, for example with iconv -f GB18030 -t UTF-8."
        raise UserError(f"{path}:{log.items[-broken].line}", found, fix)
    return "\n".join(lines)


def read_lines(path: Path, log: IssueLog) -> list[str]:
    """Read the lines of a file, without line ends (see `split_lines`); over-long ones become empty and are issues.

    Only these characters end a line; U+2028, U+0085 and the like are characters of the text. A byte order mark is kept.
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
    """Split a text at its line ends: `\\n` or `\\r\\n`, or `\\r` if the text has no `\\n` (old Macs)."""
    lines = text.split("\n" if "\n" in text else "\r")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines] if "\r" in text else lines


def join_surrogates(text: str, log: IssueLog, line: int) -> str:
    """Join surrogate pairs and replace lone halves by U+FFFD, so that UTF-8 can encode the text; add an issue if so."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        log.add("surrogate", f"halves of characters in {quote(joined)}: pairs joined, lone ones U+FFFD", line)
        return joined


def json_records(path: Path, log: IssueLog) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, object)` for each object of a JSON file; issues added meanwhile get the object's id.

    See `json_values`. Values that are not objects are issues.
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

    The file is one list, perhaps inside an object (`wrapped_list`), whose items are the values; or it has one value per
    line; or values of several lines each in sequence. Whatever cannot be parsed is an issue.
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
    """Yield `(line number, value)` of each line that holds one value; other lines but blank ones are issues."""
    lines = lines_of(text, log)
    progress = Progress(f"lines of {Path(log.file).name} read", len(lines))
    for number, line in enumerate(progress.over(lines), 1):
        stripped = line.removeprefix("\ufeff").strip(" \t\r")  # files may be joined with their byte order marks
        if not stripped:
            continue
        try:
            value = parse_whole_json(stripped)
        except ValueError as error:
            log.add("bad-json", f"{error}; the line is left out", number)
            continue
        yield number, value


def _located(text: str, values: Iterator[tuple[int, Any]], log: IssueLog) -> Iterator[tuple[int, Any]]:
    """Convert positions of values to line numbers, and the error at which reading ends to an issue."""
    line, seen, begin, count = 1, 0, skip_space(text, 0), 0
    progress = Progress(f"characters of {Path(log.file).name} read", len(text))
    for position, value in values:
        progress.add(position - progress.done)
        line, seen = line + text.count("\n", seen, position), position
        if not isinstance(value, ValueError):
            yield line, value
            count += 1
        elif count and len(text) - position <= _ONE * (position - begin) / count:
            rest = text[position:].strip()
            if rest and not _BEGIN.search(rest):
                log.add("not-read", f"{value}; the rest, in which no item begins, is not read", line)
            else:
                fate = "the last item is left out" if rest else "the file ends there"
                log.add("bad-json", f"{value}; {fate}", line)
        else:
            unread = (len(text) - position) / len(text)
            rest = f"{unread:.0%} of the file, to line {text.rstrip().count(chr(10)) + 1:,}, is not read"
            log.add("bad-json", f"{value}; {rest}", line, unread=unread)


def _values_in_a_row(text: str, position: int) -> Iterator[tuple[int, Any]]:
    """Yield `(position, value)` for each of the values in sequence, with or without commas between them."""
    while position < len(text):
        try:
            value, end = parse_json(text, position)
        except ValueError as error:
            yield position, error
            return
        yield position, value
        position = skip_space(text, end, _BETWEEN)
        if text.startswith(",", position):
            position = skip_space(text, position + 1)


WRAPPERS = (
    *("data", "annotations", "examples", "items", "records", "samples", "sentences", "documents", "results", "rows"),
    *("train", "dev", "valid", "validation", "test"),
)
"""Keys under which a file that is one object holds the list of its records."""


def wrapped_list(text: str, start: int = 0) -> tuple[str, int] | None:
    """Find the list of records in an object that is a whole file, such as `{"version": 1, "data": [...]}`.

    Args:
        text: of the file, or its beginning.
        start: position at which the object may begin.

    Returns:
        The key and the position after the list's bracket; None if the object itself is a record.
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
            position = skip_space(text, skip_space(text, end) + 1)  # after the comma
    return None


_RECORD_KEYS = frozenset({*TEXTS, "tokens", "words", "conversations", "messages", "instruction"})  # content of a record
_PLACE_KEYS = OFFSETS | {"offset"}
_CATEGORY_KEYS = frozenset({*CATEGORIES, "entity"}) - {"class"}  # `class` more often classifies texts than mentions


def _is_record(item: object) -> bool:
    """Whether an item of a list describes a sentence, not a label of one."""
    if not isinstance(item, dict) or not item.keys() & _RECORD_KEYS:
        return False
    if any(isinstance(item.get(key), list) and any(isinstance(one, dict) for one in item[key]) for key in LISTS):
        return True  # it may have its own offsets in a document
    if item.keys() & _PLACE_KEYS:
        return False
    if not item.keys() & _CATEGORY_KEYS:
        return True
    return any(isinstance(value, (list, dict)) and not _is_place(key, value) for key, value in item.items())


def _is_place(key: str, value: object) -> bool:
    """Whether a field holds both offsets of a mention."""
    return key in PAIRS and isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)


def _check_alone(path: Path, text: str, start: int, name: str, log: IssueLog) -> None:
    """Reject more lists of records beside or after the one that is read; add an issue for other keys."""
    try:
        value, end = parse_json(text, start)
    except ValueError:
        return  # reading the list reports where it breaks
    lists = [key for key, items in value.items() if isinstance(items, list) and items and _is_record(items[0])]
    if len(lists) > 1 or skip_space(text, end) < len(text):
        found = f"several lists of sentences ({', '.join(lists)})" if len(lists) > 1 else "several lists of sentences"
        raise UserError(f"{path}:1", found, "Write each list into a file of its own.")
    if others := [key for key in value if key != name]:
        log.add("not-read", f"beside the list under {quote(name)}: {', '.join(map(quote, others[:5]))}; not read", 1)


def list_items(text: str, position: int, is_inside: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield `(position, value)` for each item of a JSON list, starting after its bracket, and of lists that follow it.

    If a list breaks, the last value is a `ValueError`.

    Args:
        text: contains the list.
        position: after its opening bracket.
        is_inside: whether more text may follow the list, as in an object.
    """
    position = skip_space(text, position)
    while True:
        while text[position : position + 1] != "]":
            try:
                value, end = parse_json(text, position)
            except ValueError as error:
                yield position, error
                return
            yield position, value
            position = skip_space(text, end)
            if text[position : position + 1] not in {",", "]"}:
                yield position, ValueError("neither a comma nor the end of the list follows the item")
                return
            if text[position] == ",":
                position = skip_space(text, position + 1)
        position = skip_space(text, position + 1, _BETWEEN)
        if is_inside or position == len(text):
            return
        if text[position] != "[":
            yield position, ValueError(f"more text after the list: {quote(text[position : position + _SHOWN + 1])}")
            return
        position = skip_space(text, position + 1)


def parse_json(text: str, start: int = 0) -> tuple[Any, int]:
    """Parse the JSON value at `start` strictly: NaN and repeated keys are errors.

    Returns:
        The value and the position after it.

    Raises:
        ValueError: the value is not valid; the message says why.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from None
    return value, end


def parse_whole_json(text: str) -> Any:
    """Parse a text that is one JSON value, see `parse_json`; text after it is a `ValueError`, too."""
    value, end = parse_json(text)
    if end < len(text):
        raise ValueError(f"more text after the value: {quote(text[end:])}")
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object from its pairs; a repeated key is an error, because a value would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        for name, _ in pairs:
            if name not in found:  # removed when it was met first
                raise ValueError(f"the key {quote(name)} stands twice in one object")
            del found[name]
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    """Parse a number that stays finite: 1e999 would become `Infinity`, which is not JSON."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{quote(text)} is too large a number")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=_refuse, parse_float=_finite)
_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile("[ \t\n\r\ufeff]*")  # files may be joined with their byte order marks


def skip_space(text: str, start: int, space: re.Pattern[str] = _SPACE) -> int:
    """Return the position of the first character from `start` on that is not `space` (of JSON)."""
    match = space.match(text, start)
    return match.end() if match else start


def text_of(record: dict[str, Any], key: str, log: IssueLog, line: int) -> str | None:
    """Return the text of a record; None, with an issue, if it has no usable one."""
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
    """Return the list of a record's entities.

    Returns:
        The list; None, with an issue, if there is something else: the labels are then unknown, not absent.
    """
    if isinstance(value, list):
        return value
    fate = "the record is left out" if value else "taken as empty"
    log.add("bad-record", f"{what} is {quote(value)}, not a list; {fate}", line)
    return None if value else []


def id_of(record: dict[str, Any], log: IssueLog, line: int) -> str:
    """Return the id of a record as text; empty if it has none."""
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
    """Return a hint for the issue of an unread key or column; empty unless it seems to name posts."""
    return "; call it post_id if it names the post that the sentence is from" if _LIKE_A_POST.fullmatch(key) else ""


def post_of(record: dict[str, Any], log: IssueLog, line: int) -> str | None:
    """Return the post of a record; None if it has none."""
    return id_of({"id": record.get("post_id")}, log, line) or None


def meta_of(value: object, log: IssueLog, line: int) -> dict[str, Any]:
    """Return the user's data of a record: one object, not nested too deeply."""
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
    """Whether a value is nested deeper than `limit`; checked without recursion, as foreign data must not fill our
    stack.
    """
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
    """Write one JSON list, one item per line."""
    with writing(path) as file:
        before = "[\n"
        for item in items:
            file.write(before + to_line(item))
            before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")


def labeled_only(sentences: Iterable[Sentence], log: IssueLog) -> Iterator[Sentence]:
    """Yield labelled sentences, for files that cannot mark a single sentence as unlabelled; the others are issues."""
    for sentence in sentences:
        if is_unlabeled(sentence):
            log.add("unlabeled", "a sentence without labels would be read as one without entities", id=sentence.id)
        else:
            yield sentence


def entities_with_offsets(sentence: Sentence, log: IssueLog) -> Iterator[tuple[Entity, int, int]]:
    """Yield `(entity, start, end)` for each entity with offsets; the others are issues."""
    for entity in sentence.entities:
        if entity.start is None or entity.end is None:
            message = f"{entity.category} {quote(entity.text)} has no place; left out"
            log.add("no-offsets", message, id=sentence.id)
        else:
            yield entity, entity.start, entity.end


def add_names(item: dict[str, Any], sentence: Sentence) -> dict[str, Any]:
    """Add the sentence's id and post, if it has them, after the fields of the format."""
    if sentence.id:
        item["id"] = sentence.id
    if sentence.post_id is not None:
        item["post_id"] = sentence.post_id
    return item


def writable_text(text: str, id: str, log: IssueLog) -> str:
    """Replace lone surrogates by U+FFFD, so that UTF-8 can encode the text; add an issue. The length stays the same."""
    clean = replace_surrogates(text)
    if clean != text:
        log.add("unwritable-character", f"a lone surrogate in {quote(text)}: U+FFFD stands for it", id=id)
    return clean
