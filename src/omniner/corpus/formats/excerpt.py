"""An excerpt of a file, from which its format is recognised: its beginning, and parts of the rest of a large one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from omniner.corpus.formats.fields import list_items, parse_json, skip_space, split_lines, wrapped_list
from omniner.errors import UserError
from omniner.files import check_input_file, explaining

_HEAD_BYTES, _PART_BYTES = 2**20, 2**16
_PARTS = (0.3, 0.6, 1.0)  # of a file that is larger than its head: where further parts begin, and the last ends
_LINES, _RECORDS = 2000, 200
_OBJECT = re.compile(r"(?:^|[,\n])[ \t\r]*(?=\{)")  # blank lines are not walked through from each of them


@dataclass(frozen=True)
class Excerpt:
    """What is looked at of a file.

    Attributes:
        text: the first MiB, without a byte order mark.
        lines: of lines that are not blank the first thousand, at least one, and as many of the others.
        numbers: of these lines in the file, from 1; 0 = unknown.
        parts: texts from further behind in a file that is larger.
    """

    text: str
    lines: list[str]
    numbers: list[int]
    parts: list[str]

    @cached_property
    def is_list(self) -> bool:
        """Whether the file begins with a JSON list of objects, or is an object with such a list in it."""
        start = skip_space(self.text, 0)
        if self.wrapper:
            return True
        return self.text.startswith("[", start) and self.text.startswith("{", skip_space(self.text, start + 1))

    @cached_property
    def wrapper(self) -> tuple[str, int] | None:
        """The key and the place of the list in an object that is the whole file (`fields.wrapped_list`)."""
        return wrapped_list(self.text, skip_space(self.text, 0))

    @cached_property
    def is_json(self) -> bool:
        """Whether the file begins with a JSON object, or a list of objects, lists or texts."""
        start = skip_space(self.text, 0)
        opening = self.text[start : start + 1]
        inner = skip_space(self.text, start + 1)
        return (opening == "{" and self.text[inner : inner + 1] in ('"', "}")) or (
            opening == "[" and self.text[inner : inner + 1] in ("{", "[", '"')
        )

    @cached_property
    def keys(self) -> frozenset[str]:
        """Whatever looks like the key of an object: all there is to see of a list that is torn in its first object."""
        return frozenset(re.findall(r'"(\w+)"\s*:', self.text)) if self.is_list else frozenset()

    @cached_property
    def values(self) -> list[Any]:
        """JSON values of the beginning and the other parts: of a list, or one a line; broken ones hide nothing."""
        found = list(islice(self._head_values(), _RECORDS))
        known = set().union(*(value for value in found[:20] if isinstance(value, dict)))
        for part in self.parts:
            for match in islice(_OBJECT.finditer(part), 10):
                with suppress(ValueError):
                    value, _ = parse_json(part, match.end())
                    if isinstance(value, dict) and known & value.keys():
                        found.append(value)
        return found

    def _head_values(self) -> Iterator[Any]:
        start = skip_space(self.text, 0)
        if self.wrapper:
            items = list_items(self.text, self.wrapper[1], is_inside=True)
            yield from (value for _, value in items if not isinstance(value, ValueError))
        elif self.text.startswith("[", start) and not self.text.startswith('"', skip_space(self.text, start + 1)):
            items = list_items(self.text, start + 1)
            yield from (value for _, value in items if not isinstance(value, ValueError))
        elif self.text.startswith(("{", "["), start):
            with suppress(ValueError):
                value, end = parse_json(self.text, start)
                if "\n" in self.text[start:end]:  # an object of several lines
                    yield value
                    return
            for line in self.lines:
                if line.lstrip().startswith(("{", "[")):
                    with suppress(ValueError):
                        yield parse_json(line.strip())[0]


def read_excerpt(path: Path) -> Excerpt:
    """Read parts of a file.

    Raises:
        UserError: it cannot be read, is empty or no text.
    """
    check_input_file(path)
    with explaining(path), path.open("rb") as file:
        data = file.read(_HEAD_BYTES)
        size = path.stat().st_size
        parts = []
        if size > len(data):
            for share in _PARTS:
                file.seek(max(len(data), int(share * size) - _PART_BYTES))
                parts.append(file.read(_PART_BYTES))
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}:1", "UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8.")
    if b"\0" in data:
        fix = "Set data.format to the format it has, or convert it."
        raise UserError(f"{path}:1", "not a text file (it holds zero bytes)", fix)
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = split_lines(text)
    if parts and len(lines) > 1:
        lines.pop()  # cut somewhere in the middle
    filled = [(line, number) for number, line in enumerate(lines, 1) if line.strip(" \t\r")]
    if not filled:
        raise UserError(f"{path}:1", "the file is empty", "Name a file that has sentences.")
    first, rest = filled[: _LINES // 2], filled[_LINES // 2 :]
    chosen = first + rest[:: max(1, len(rest) // (_LINES // 2))]
    texts = [part.decode("utf-8", "replace") for part in parts]
    for part in texts:
        chosen += [(line, 0) for line in split_lines(part)[1:-1][:100] if line.strip(" \t\r")]
    return Excerpt(text, [line for line, _ in chosen], [number for _, number in chosen], texts)
