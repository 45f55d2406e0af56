"""Read the excerpt from which a file's format is recognised: its beginning, and parts of the rest of a large one."""

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
_PARTS = (0.3, 0.6, 1.0)  # for files larger than the head: where further parts end, as a share of the size
_LINES, _RECORDS = 2000, 200
_OBJECT = re.compile(r"(?:^|[,\n])[ \t\r]*(?=\{)")  # blank lines are not scanned again from each of them


@dataclass(frozen=True)
class Excerpt:
    """The examined parts of a file.

    Attributes:
        text: the first MiB, without a byte order mark.
        lines: the first thousand lines that are not blank (at least one), and as many of the others.
        numbers: line numbers of these in the file, from 1; 0 = unknown.
        parts: texts from later positions of a larger file.
    """

    text: str
    lines: list[str]
    numbers: list[int]
    parts: list[str]

    @cached_property
    def is_list(self) -> bool:
        """Whether the file begins with a JSON list of objects, or is an object that contains such a list."""
        start = skip_space(self.text, 0)
        if self.wrapper:
            return True
        return self.text.startswith("[", start) and self.text.startswith("{", skip_space(self.text, start + 1))

    @cached_property
    def wrapper(self) -> tuple[str, int] | None:
        """The key and the position of the list in an object that is the whole file (`fields.wrapped_list`)."""
        return wrapped_list(self.text, skip_space(self.text, 0))

    @cached_property
    def is_json(self) -> bool:
        """Whether the file begins with a JSON object, or a list of objects, lists or strings."""
        start = skip_space(self.text, 0)
        opening = self.text[start : start + 1]
        inner = skip_space(self.text, start + 1)
        return (opening == "{" and self.text[inner : inner + 1] in ('"', "}")) or (
            opening == "[" and self.text[inner : inner + 1] in ("{", "[", '"')
        )

    @cached_property
    def keys(self) -> frozenset[str]:
        """Everything that looks like a key of an object; all that is known of a list cut in its first object."""
        return frozenset(re.findall(r'"(\w+)"\s*:', self.text)) if self.is_list else frozenset()

    @cached_property
    def values(self) -> list[Any]:
        """JSON values of the beginning and the other parts, from a list or one per line; broken ones are skipped."""
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
        UserError: it cannot be read, is empty or is not a text.
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
    if path.suffix == ".spacy" and data[:1] == b"\x78":  # of zlib
        fix = (
            "Write doc.to_json() of each of its documents as a line: DocBin().from_disk(path).get_docs(vocab) has them."
        )
        raise UserError(path, "a DocBin of spaCy, not a text file", fix)
    if b"\0" in data:
        fix = "Set data.format to the format it has, or convert it."
        raise UserError(f"{path}:1", "not a text file (it holds zero bytes)", fix)
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = split_lines(text)
    if parts and len(lines) > 1:
        lines.pop()  # the last line may be cut
    filled = [(line, number) for number, line in enumerate(lines, 1) if line.strip(" \t\r")]
    if not filled:
        raise UserError(f"{path}:1", "the file is empty", "Name a file that has sentences.")
    first, rest = filled[: _LINES // 2], filled[_LINES // 2 :]
    chosen = first + rest[:: max(1, len(rest) // (_LINES // 2))]
    texts = [part.decode("utf-8", "replace") for part in parts]
    for part in texts:
        chosen += [(line, 0) for line in split_lines(part)[1:-1][:100] if line.strip(" \t\r")]
    return Excerpt(text, [line for line, _ in chosen], [number for _, number in chosen], texts)
