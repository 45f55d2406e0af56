"""The categories a corpus may use: their order, their primaries, their English names.

Either the packaged table (`omniner2025.tsv`: 90 categories in 33 primaries) or, for any other corpus, the names found
in its files. A category is written `primary_secondary` and split once, at the first `_`; `/` belongs to the name
(`人群/宠物_年龄`). A name without `_` is its own primary (`品牌`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from typing import Final

from omniner.errors import UserError
from omniner.records import Sentence

OFFICIAL: Final = "omniner2025"


def primary_of(category: str) -> str:
    """Give the part of a category before the first `_`; all of it where there is none."""
    return category.partition("_")[0]


@dataclass(frozen=True)
class Taxonomy:
    """An ordered set of categories.

    Attributes:
        name: as in `data.taxonomy`, or the corpus's where it is flat.
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
        """Give the categories that these sentences hold, in the order of the taxonomy."""
        held = {entity.category for sentence in sentences for entity in sentence.entities}
        return tuple(category for category in self.categories if category in held)

    def nearest(self, name: str) -> str | None:
        """Find the category written most like `name`, for error messages; None if none is close."""
        return next(iter(difflib.get_close_matches(name, self.categories, n=1, cutoff=0.5)), None)


def load_taxonomy(name: str) -> Taxonomy:
    """Read a packaged taxonomy.

    Raises:
        UserError: there is none of that name.
    """
    if name != OFFICIAL:
        fix = f"Use {OFFICIAL}, or flat for the categories found in the files."
        raise UserError("data.taxonomy", f"no taxonomy is called {name!r}", fix)
    text = resources.files("omniner.corpus").joinpath(f"{name}.tsv").read_text(encoding="utf-8")
    return _parse(name, text)


def _parse(name: str, text: str) -> Taxonomy:
    """Read the table: a `# version:` line, a header, then category, English primary, English category."""
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
    """Make the taxonomy of a corpus that brings its own names: sorted, without English."""
    return Taxonomy(name, tuple(sorted(set(categories))))
