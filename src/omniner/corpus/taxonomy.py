"""Define the categories that a corpus may use: their order, their primaries, their English names.

A taxonomy is the packaged table (`omniner2025.tsv`: 90 categories in 33 primaries), a list in a user's file, or the
names found in the files of a corpus. A category is written `primary_secondary` and split once, at the first `_`; `/`
belongs to the name (`人群/宠物_年龄`). A name without `_` is its own primary (`品牌`).
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Final

from omniner.corpus.formats.fields import split_lines
from omniner.errors import UserError
from omniner.files import check_input_file, explaining
from omniner.records import Sentence

OFFICIAL: Final = "omniner2025"
FLAT: Final = "flat"
_HEADS = ("category", "primary", "类别", "一级类别")  # beginnings of a header row


def primary_of(category: str) -> str:
    """Return the part of a category before the first `_`; the whole name if it has none."""
    return category.partition("_")[0]


@dataclass(frozen=True)
class Taxonomy:
    """An ordered set of categories.

    Attributes:
        name: as in `data.taxonomy`, or the corpus's name if it is flat.
        categories: in their order.
        english: names of categories and of primaries; may be empty.
    """

    name: str
    categories: tuple[str, ...]
    english: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _members(self) -> frozenset[str]:
        return frozenset(self.categories)

    @cached_property
    def primaries(self) -> tuple[str, ...]:
        """The primaries, in the order of their first category."""
        return tuple(dict.fromkeys(map(primary_of, self.categories)))

    def __contains__(self, category: object) -> bool:
        return category in self._members

    def __len__(self) -> int:
        return len(self.categories)

    def active(self, sentences: Iterable[Sentence]) -> tuple[str, ...]:
        """Return the categories of these sentences, in the order of the taxonomy."""
        held = {entity.category for sentence in sentences for entity in sentence.entities}
        return tuple(category for category in self.categories if category in held)

    def nearest(self, name: str) -> str | None:
        """Return the most similar category to `name`, for error messages; None if none is close."""
        return next(iter(difflib.get_close_matches(name, self.categories, n=1, cutoff=0.5)), None)


def check_taxonomy(name: str) -> None:
    """Raise a `UserError` if `data.taxonomy` names neither a taxonomy nor a file."""
    if name in (OFFICIAL, FLAT):
        return
    if not Path(name).is_file():
        near = difflib.get_close_matches(name, (OFFICIAL, FLAT), n=1)
        fix = f"Did you mean {near[0]}? " if near else ""
        fix += f"Use {FLAT} for the categories found in the files, {OFFICIAL}, or a file with a category a line."
        raise UserError("data.taxonomy", f"no taxonomy and no file is called {name!r}", fix)
    check_input_file(name)


def load_taxonomy(name: str) -> Taxonomy:
    """Read the packaged taxonomy, or one from a file.

    Args:
        name: as in `data.taxonomy`, other than flat.

    Raises:
        UserError: there is none of that name, or the file contains something that is not a category.
    """
    check_taxonomy(name)
    if name != OFFICIAL:
        return _read(Path(name))
    text = resources.files("omniner.corpus").joinpath(f"{name}.tsv").read_text(encoding="utf-8")
    return _parse(name, text)


def _parse(name: str, text: str) -> Taxonomy:
    """Parse the table: a `# version:` line, a header, then category, English primary, English category."""
    _version, _header, *rows = text.splitlines()
    english: dict[str, str] = {}
    categories = []
    for row in rows:
        category, english_primary, english_category = row.split("\t")
        categories.append(category)
        english[primary_of(category)] = english_primary
        english[category] = english_category
    return Taxonomy(name, tuple(categories), english)


def flat_taxonomy(name: str, categories: Iterable[str]) -> Taxonomy:
    """Create the taxonomy of a corpus with its own names: sorted, without English."""
    return Taxonomy(name, tuple(sorted(set(categories))))


def _read(path: Path) -> Taxonomy:
    """Read a user's list: `category`, or `primary` and `secondary`, one row each; `#` begins a comment."""
    with explaining(path):
        try:
            lines = split_lines(path.read_bytes().decode("utf-8-sig"))
        except UnicodeDecodeError:
            fix = "Convert it to UTF-8, for example with iconv -f GB18030 -t UTF-8."
            raise UserError(path, "the file is not UTF-8", fix) from None
    categories: dict[str, int] = {}  # category -> its line
    for number, line in enumerate(lines, 1):
        try:
            [cells] = csv.reader([line], delimiter="\t" if "\t" in line else ",") if line.strip() else [[]]
        except csv.Error as error:
            raise UserError(f"{path}:{number}", f"no row of a table ({error})", "Write a category a line.") from error
        cells = [cell.strip() for cell in cells]
        while cells and not cells[-1]:  # spreadsheets pad shorter rows
            cells.pop()
        if not cells or cells[0].startswith("#") or (not categories and cells[0].lower() in _HEADS):
            continue
        category = "_".join(cells)
        if len(cells) > 2 or not cells[0] or (len(cells) == 2 and "_" in cells[0]):
            fix = "Write a category, or its primary and its secondary; the first _ of a category parts these."
            raise UserError(f"{path}:{number}", f"{line.strip()!r} is no category", fix)
        if category in categories:
            raise UserError(f"{path}:{number}", f"{category!r} stands in line {categories[category]}, too", "Drop one.")
        categories[category] = number
    if not categories:
        raise UserError(path, "the file names no category", "Write a category a line.")
    return Taxonomy(path.stem, tuple(categories))
