"""Which format a file has, found out from its first lines, with the reason in words.

Only what is in the file counts, not its name: published names are `.txt`, `.json`, `.train`, `.annotated`. A file that
could be several things is taken as the most specific one; a file that is none of them is one `UserError`.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from omniner.corpus.formats.cmeee import MARK
from omniner.corpus.formats.common import parse_json, quote, skip_space
from omniner.corpus.formats.conll import SEPARATORS, find_separator, is_tag, scheme_of
from omniner.errors import UserError
from omniner.files import explaining

_HEAD = 2**20  # bytes looked at
_LINES = 2000  # lines looked at
_CHIP_ENTITY = re.compile(r"\s*\d+\s+-?\d+\s+\S+\s*")
_MARKUP = re.compile(r'\{|\[\s*["{\[]|<[?!/a-zA-Z]')
_NAMES = {separator: name for name, separator in SEPARATORS.items()}
_ALPACA = ("instruction", "output", "conversations", "messages")  # one of these keys is in every item
_FIX = "Set data.format to the format it has, or convert it."


def detect(path: Path) -> tuple[str, str]:
    """`(format, why)`; a file of no known format is a `UserError`."""
    path = Path(path)
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
    found = _json(path, text, filled) or _csv(filled[0]) or _chip(filled) or _columns(filled)
    return found or _plain(path, filled)


def _json(path: Path, text: str, lines: list[str]) -> tuple[str, str] | None:
    start = skip_space(text, 0)
    if text.startswith("{", start):
        for line in lines[:20]:  # a broken first line does not hide the format
            try:
                record, _ = parse_json(line.strip())
            except ValueError:
                continue
            return _record(path, record) if isinstance(record, dict) else None
    inside = skip_space(text, start + 1)
    if text.startswith("[", start) and text.startswith("{", inside):
        return _list_item(text, inside)
    return None


def _list_item(text: str, start: int) -> tuple[str, str] | None:
    keys = set(re.findall(r'"(\w+)"\s*:', text[start:]))  # of the first items; one may be broken or cut
    if found := next((name for name in _ALPACA if name in keys), None):
        return "alpaca", f"a JSON list of objects with `{found}`"
    return ("cmeee", "a JSON list of objects with `text`") if "text" in keys else None


def _record(path: Path, record: dict[str, Any]) -> tuple[str, str] | None:
    if "predict" in record:
        raise UserError(path, "predictions (`predict`), not a corpus", "Score them with task=score predictions=…")
    if isinstance(record.get("label"), dict):
        return "cluener", "JSON lines whose `label` is an object"
    if "entities" in record:
        return "jsonl", "JSON lines with `entities`"
    if found := next((name for name in _ALPACA if name in record), None):
        return "alpaca", f"JSON lines with `{found}`"
    if "text" in record and isinstance(record.get("id"), int):
        return "cluener", "JSON lines with `text` and a number for `id`, without labels"
    if "text" in record:
        return "jsonl", "JSON lines with `text`, without labels"
    return None


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
