"""Which format a file has, found out from its first lines, with the reason in words.

Only what is in the file counts, not its name: published names are `.txt`, `.json`, `.train`, `.annotated`. (But a text
that has an `.ann` of its name beside it is brat's, and so is a folder with such files.) A file that could be several
things is taken as the most specific one that its first records show; one that is none of them is one `UserError`.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omniner.corpus.formats.brat import ANNOTATIONS, TEXT
from omniner.corpus.formats.cmeee import MARK
from omniner.corpus.formats.conll import SEPARATORS, find_separator, is_tag, scheme_of
from omniner.corpus.formats.doccano import LABELS
from omniner.corpus.formats.fields import parse_json, quote, skip_space
from omniner.corpus.formats.label_studio import MIN_KEYS, RESULTS, is_min_region
from omniner.errors import UserError
from omniner.files import explaining

_HEAD = 2**20  # bytes looked at
_LINES = 2000  # lines looked at
_RECORDS = 200  # JSON objects looked at
_CHIP_ENTITY = re.compile(r"\s*\d+\s+-?\d+\s+\S+\s*")
_TEXT_BOUND = re.compile(r"T\d+\t[^ \t]+ \d+ \d+(;\d+ \d+)*(\t|$)")
_MARKUP = re.compile(r'\{|\[\s*["{\[]|<[?!/a-zA-Z]')
_NAMES = {separator: name for name, separator in SEPARATORS.items()}
_ALPACA = ("instruction", "output", "conversations", "messages")  # one of these keys is in every item
_FIX = "Set data.format to the format it has, or convert it."


def detect(path: Path) -> tuple[str, str]:
    """`(format, why)`; a file of no known format is a `UserError`."""
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if path.suffix == TEXT and path.with_suffix(ANNOTATIONS).is_file():
        return "brat", f"{path.stem}{ANNOTATIONS} stands beside it"
    with explaining(path), path.open("rb") as file:
        head = file.read(_HEAD)
        complete = not file.read(1)
    if b"\0" in head:
        raise UserError(path, "not a text file (it holds zero bytes)", _FIX)
    text = head.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = text.split("\n")
    if not complete and len(lines) > 1:
        lines.pop()  # cut somewhere in the middle
    lines = [line.removesuffix("\r") for line in lines]
    filled = [line for line in lines[:_LINES] if line.strip(" \t\r")]
    if not filled:
        raise UserError(path, "the file is empty", "Name a file that has sentences.")
    found = _json(path, text, filled) or _csv(filled[0]) or _chip(filled) or _standoff(filled) or _columns(filled)
    return found or _plain(path, filled)


def _folder(path: Path) -> tuple[str, str]:
    first = next(path.rglob(f"*{ANNOTATIONS}"), None)
    if first is None:
        fix = f"Name a file, or a folder of {TEXT} and {ANNOTATIONS} files, or set data.format."
        raise UserError(path, f"a folder without a single {ANNOTATIONS} file", fix)
    return "brat", f"a folder with {ANNOTATIONS} files"


def _json(path: Path, text: str, lines: list[str]) -> tuple[str, str] | None:
    start = skip_space(text, 0)
    if text.startswith("{", start):
        return _decide(path, _line_records(lines), "JSON lines")
    inside = skip_space(text, start + 1)
    if text.startswith("[", start) and text.startswith("{", inside):
        return _decide(path, _list_records(text, inside), "a JSON list of objects") or _torn_item(text, inside)
    return None


def _line_records(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines[:_RECORDS]:  # a broken first line does not hide the format
        with contextlib.suppress(ValueError):
            record, _ = parse_json(line.strip())
            if isinstance(record, dict):
                yield record


def _list_records(text: str, position: int) -> Iterator[dict[str, Any]]:
    """The first items, up to one that is broken or cut."""
    for _ in range(_RECORDS):
        try:
            record, end = parse_json(text, position)
        except ValueError:
            return
        if isinstance(record, dict):
            yield record
        position = skip_space(text, end)
        if not text.startswith(",", position):
            return
        position = skip_space(text, position + 1)


def _torn_item(text: str, start: int) -> tuple[str, str] | None:
    """By the keys that can be seen, where not even the first item is whole."""
    keys = set(re.findall(r'"(\w+)"\s*:', text[start:]))
    if found := next((name for name in _ALPACA if name in keys), None):
        return "alpaca", f"a JSON list of objects with `{found}`"
    if found := next((name for name in (*RESULTS, *MIN_KEYS) if name in keys), None):
        return "label_studio", f"a JSON list of objects with `{found}`"
    return ("cmeee", "a JSON list of objects with `text`") if "text" in keys else None


def _decide(path: Path, records: Iterator[dict[str, Any]], what: str) -> tuple[str, str] | None:
    """The format of the first record that only one has; else that of the first which fits several."""
    unsure: tuple[str, str] | None = None
    for record in records:
        if "predict" in record:
            raise UserError(path, "predictions (`predict`), not a corpus", "Score them with task=score predictions=…")
        if found := _record(record, what):
            return found
        unsure = unsure or _bare_record(record, what)
    return unsure


def _record(record: dict[str, Any], what: str) -> tuple[str, str] | None:
    """The format of a record that shows it."""
    is_list = what != "JSON lines"
    if isinstance(record.get("data"), dict):
        return "label_studio", f"{what} with `data` as an object"
    if found := next((name for name in MIN_KEYS if name in record), None) or _min_key(record):
        return "label_studio", f"{what} with `{found}`, as in JSON_MIN"
    if isinstance(record.get("label"), dict):
        return "cluener", f"{what} whose `label` is an object"
    if found := _doccano_key(record):
        return "doccano", f"{what} with `{found}`, places without surfaces"
    if record.get("entities"):
        return ("cmeee" if is_list else "jsonl"), f"{what} with `entities`"
    if found := next((name for name in _ALPACA if name in record), None):
        return "alpaca", f"{what} with `{found}`"
    return None


def _min_key(record: dict[str, Any]) -> str | None:
    lists = ((key, value) for key, value in record.items() if isinstance(value, list))
    return next((key for key, value in lists if any(map(is_min_region, value))), None)


def _doccano_key(record: dict[str, Any]) -> str | None:
    """The key of labels as doccano lists them; an empty list of `entities` could be anyone's."""
    for key in LABELS:
        items = record.get(key)
        if isinstance(items, list):
            objects = [item for item in items if isinstance(item, dict) and "start_offset" in item]
            if objects or (key != "entities" and "text" in record):
                return key
    return None


def _bare_record(record: dict[str, Any], what: str) -> tuple[str, str] | None:
    """A guess from a record that several formats may have."""
    if what != "JSON lines":
        return ("cmeee", f"{what} with `text`") if "text" in record else None
    if "entities" in record:
        return "jsonl", "JSON lines with `entities`"
    if "text" in record and isinstance(record.get("id"), int):
        return "cluener", "JSON lines with `text` and a number for `id`, without labels"
    return ("jsonl", "JSON lines with `text`, without labels") if "text" in record else None


def _csv(first: str) -> tuple[str, str] | None:
    try:
        header = next(csv.reader([first[:_LINES]]), [])
    except csv.Error:
        return None
    if "sentence" in header and ("label" in header or "note_id" in header):
        return "omniner_csv", f"a header row with {', '.join(name for name in header if name)}"
    return None


def _chip(lines: list[str]) -> tuple[str, str] | None:
    for line in lines:
        _, *fields = line.split(MARK)
        if fields and _CHIP_ENTITY.fullmatch(fields[0]):
            return "cmeee", f"lines with `{MARK}start    end    type`"
    return None


def _standoff(lines: list[str]) -> tuple[str, str] | None:
    if any(_TEXT_BOUND.match(line) for line in lines):
        return "brat", "lines with `T1<tab>type start end<tab>text`"
    return None


def _columns(lines: list[str]) -> tuple[str, str] | None:
    separator = find_separator(lines)
    tags = {line.rpartition(separator)[2] for line in lines}
    if sum(is_tag(line.rpartition(separator)[2]) for line in lines) >= 0.9 * len(lines):
        if all(separator not in line for line in lines):
            return None  # a text of lines that happen to be "O"
        name = _NAMES.get(separator, repr(separator))
        why = f"a token and a tag a line ({name}; {scheme_of(tags)})"
        tokens = [line.split(separator)[0] for line in lines]
        if all(re.fullmatch(r".{1,2}\d", token) for token in tokens):
            why += "; word positions behind the characters: needs data.glued_positions=true"
        return "conll", why
    if len(lines) > 1 and sum(len(line) == 1 for line in lines) >= 0.9 * len(lines):
        return "conll", "one character a line, without tags"
    return None


def _plain(path: Path, lines: list[str]) -> tuple[str, str]:
    """Plain text, one sentence a line, is what the test file of CHIP is; anything with markup is refused."""
    first = lines[0].lstrip()
    if _MARKUP.match(first):
        raise UserError(path, f"no known format: the first line is {quote(first)}", _FIX)
    return "cmeee", "plain text, one sentence a line, without labels"
