"""Read values written in JSON or nearly so: with the JSON module, or with a lenient scanner.

The scanner makes one pass without recursion, within limits on depth, and never evaluates anything. It accepts any
quotes or none, trailing and full-width commas, tuples, Python's `Entity(text='北京')`, and text that breaks off. It
does not guess what is missing: a list or object without its end is a `CutList` or `CutObject`, a string without its end
a `CutText`, and the reader of the values decides what is complete in them.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 16  # an answer needs 2 or 3

_OPEN, _CLOSE = "[({（", "])}）"
_SKIP = " \t\r\n\u3000\ufeff,，、;；"
_COLONS = ":：="
_QUOTES = {'"': '"', "'": "'’‘", "`": "`'", "“": '”“"', "”": '”“"', "‘": "’‘'", "’": "’‘'"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_LITERALS = {"null", "true", "false", "nan", "none", "infinity", "-infinity"}
_START = re.compile(r"""[\[{]|"(?=\s*+[\[{])|\((?=\s*+(?:["'“‘]|\w++\s*+=))""")
_SPACE = re.compile(r"\s*+")
_BARE_END = re.compile(r"[\[\](){}（），,:：=\n\"“”]")
_NEXT_ITEM = re.compile(r"\]\s*+[,，]\s*+\[")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?%?")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PLAIN_STRING = re.compile(r'"([^"\\]*+)"(?=\s*+(?:[,，、\]})）:：;；]|\Z))')


class NumberText(str):
    """A number as it is spelled: `2024` and `1.10` may be surfaces."""


class CutText(str):
    """A string whose end is missing."""


class CutList(list[Any]):
    """A list whose end is missing."""


class Object(list[tuple[Any, Any]]):
    """The entries of an object in order; a key may occur twice."""


class CutObject(Object):
    """An object whose end is missing."""


_DECODER = json.JSONDecoder(object_pairs_hook=Object, parse_int=NumberText, parse_float=NumberText)


def decode(text: str) -> Any:
    """Decode JSON into lists, `Object`s, `NumberText`s, strings and constants.

    Raises:
        ValueError: the text is not JSON.
        RecursionError: it is nested more than `MAX_DEPTH` deep.
    """
    value = _DECODER.decode(text)
    if text.count("[") + text.count("{") <= MAX_DEPTH:  # nearly all answers
        return value
    level = [value] if isinstance(value, list) else []
    for _ in range(MAX_DEPTH):
        level = [item for part in level for item in _items(part) if isinstance(item, list)]
        if not level:
            return value
    raise RecursionError


def _items(value: list[Any]) -> list[Any]:
    return [item for _, item in value] if isinstance(value, Object) else value


def find_start(text: str, at: int) -> int:
    """Return where the next value begins: a list, an object, a tuple of strings, or JSON in a string; -1 = nowhere."""
    found = _START.search(text, at)
    return found.start() if found else -1


def unescaped(text: str) -> str:
    """Undo one level of escapes, because a whole answer is sometimes escaped once too often."""
    return join_halves(_ESCAPE.sub(_character, text))


def _character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else _ESCAPES.get(escape[2], escape[2])


def join_halves(text: str) -> str:
    """Join the two halves of escaped astral characters."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return text


class _Frame:
    """A list or object that is being read."""

    __slots__ = ("entries", "items", "key", "opener")

    def __init__(self, opener: str) -> None:
        self.opener = opener
        self.items: list[Any] = []
        self.entries = Object()
        self.key: Any = None

    def add(self, item: Any) -> None:
        if self.key is not None:
            self.entries.append((self.key, item))
            self.key = None
        else:
            self.items.append(item)

    def colon(self) -> None:
        """Make the last item a key, in an object or in the parentheses of a call."""
        if self.opener == "[" or self.key is not None:
            return
        if self.items and isinstance(self.items[-1], str):
            self.key = self.items.pop()
        elif self.entries and isinstance(self.entries[-1][1], str):
            self.key = self.entries.pop()[1]  # the key before it has no value

    def comma(self) -> None:
        self.key = None  # the value is missing

    def value(self, closed: bool) -> Any:
        if self.entries or (self.opener == "{" and (not closed or self.key is not None or not self.items)):
            return self.entries if closed else CutObject(self.entries)
        return self.items if closed else CutList(self.items)


def scan(text: str, at: int) -> tuple[Any, int]:
    """Read the value that begins at `at`.

    Returns:
        The value and the position after it.

    Raises:
        RecursionError: it is nested more than `MAX_DEPTH` deep.
    """
    if text[at] == '"':
        return _string(text, at)
    stack: list[_Frame] = []
    while at < len(text):
        char = text[at]
        if char in _SKIP:
            if char in ",，":
                stack[-1].comma()
            at += 1
        elif char in _COLONS:
            stack[-1].colon()
            at += 1
        elif char in _OPEN:
            if len(stack) == MAX_DEPTH:
                raise RecursionError
            stack.append(_Frame(char))
            at += 1
        elif char in _CLOSE:
            value, at = stack.pop().value(closed=True), at + 1
            if not stack:
                return value, at
            stack[-1].add(value)
        elif char in _QUOTES:
            item, at = _string(text, at)
            stack[-1].add(item)
        else:
            at = _bare_word(text, at, stack)
    value = stack.pop().value(closed=False)
    while stack:
        stack[-1].add(value)
        value = stack.pop().value(closed=False)
    return value, at


def _bare_word(text: str, at: int, stack: list[_Frame]) -> int:
    """Read an unquoted word; in the outermost list it is a remark, not a part of a pair."""
    found = _BARE_END.search(text, at + 1)
    end = found.start() if found else len(text)
    word, frame = text[at:end].strip(), stack[-1]
    next_char = text[end] if found else ""
    if next_char in _QUOTES and _ends_item(text, end + 1):
        frame.add(word)  # only the opening quote is missing
        return end + 1
    if not found or word.startswith(("//", "#")) or next_char == "(":
        return end  # unfinished, a comment, or the name of a call
    if word.lower() in _LITERALS or (len(stack) < 2 and frame.opener == "["):
        frame.add(None)
    else:
        frame.add(NumberText(word) if _NUMBER.fullmatch(word) else word)
    return end


def _string(text: str, at: int) -> tuple[str, int]:
    """Read a string from its opening quote on; a quote ends it only where an item can end, so inner quotes are kept."""
    if quick := _PLAIN_STRING.match(text, at):
        return quick[1], quick.end()
    closers, is_json = _QUOTES[text[at]], text[at + 1 : at + 2] in ("[", "{")
    parts: list[str] = []
    at += 1
    stops = _STOPS[closers]
    while stop := stops.search(text, at):
        place = stop.start()
        parts.append(text[at:place])
        char, at = text[place], place + 1
        if char == "\\":
            if escape := _ESCAPE.match(text, place):
                parts.append(_character(escape))
                at = escape.end()
        elif char == "]":
            if not is_json and _NEXT_ITEM.match(text, place):
                return join_halves("".join(parts)), place  # the closing quote is missing: the next item begins here
            parts.append(char)
        elif _ends_item(text, at):
            return join_halves("".join(parts)), at
        else:
            parts.append(char)
    parts.append(text[at:])
    return CutText(join_halves("".join(parts))), len(text)


_STOPS = {closers: re.compile(rf"[\]\\{closers}]") for closers in _QUOTES.values()}


def _ends_item(text: str, at: int) -> bool:
    space = _SPACE.match(text, at)
    at = space.end() if space else at
    return at == len(text) or text[at] in ",，、]})）:：;；"
