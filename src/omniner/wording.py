"""English texts that can be said in Chinese, too: those that pages and figures show.

A text is written in English where it is used, `Wording("{count:,} errors in {sentences:,} sentences", count=3, ...)`,
and is a plain English `str` to everything: terminal, logs, CSV, Markdown, the tracker. A page asks it for its own
language with `of`. The Chinese stands in `chinese.toml` under the English template, with the same `{names}`; a test
finds texts without Chinese, and Chinese without a text. gettext's catalogues would need a compiled file beside each
source and a tool to make it; one language and some hundred texts do not.
"""

from __future__ import annotations

import re
import string
import tomllib
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from itertools import islice
from typing import Any, Self

TAGS = {"zh": "zh-CN", "en": "en"}  # as HTML names them
_ENOUGH = 2000  # texts that tell the language of a corpus
_SEPARATORS = {", ": "、", "; ": "；", " ": "", ". ": "。"}  # between parts, in Chinese


class Wording(str):
    """An English text that knows what it was made of.

    Args:
        template: the text, with `{names}` as for `str.format`; without values it is taken as it stands.
            `{errors:error}` says how many there are, in English as `counted` does, in Chinese with `{errors:,}`.
        values: what the names stand for; wordings among them are said in the language of the whole.
    """

    template: str
    values: dict[str, Any]
    chinese: str  # the template in Chinese where it is no entry of the catalogue; else empty

    def __new__(cls, template: str, /, **values: Any) -> Self:
        """Fill in the values."""
        made = super().__new__(cls, _ENGLISH.vformat(template, (), values) if values else template)
        made.template, made.values, made.chinese = template, values, ""
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        """What a copy is made of."""
        return (self.template,), self.values

    @classmethod
    def both(cls, english: str, chinese: str, **values: Any) -> Self:
        """A text whose Chinese template is given with it, as entries of registries do."""
        made = cls(english, **values)
        made.chinese = chinese
        return made

    @classmethod
    def joined(cls, separator: str, parts: Iterable[str]) -> Self:
        """Texts one after the other: `, `, `; ` or a blank between them, in Chinese `、`, `；` or nothing."""
        values = {f"part_{number}": part for number, part in enumerate(parts)}
        names = [f"{{{name}}}" for name in values]
        return cls.both(separator.join(names), _SEPARATORS[separator].join(names), **values)

    def of(self, language: str) -> str:
        """The text in `zh` or `en`; in English where nobody has translated it."""
        if language == "en":
            return str(self)
        template = self.chinese or catalogue().get(self.template)
        if template is None or not self.values:
            return template or str(self)
        return template.format(**{key: translated(value, language) for key, value in self.values.items()})


def counted(number: int, one: str) -> str:
    """Say in English how many there are of what `one` names: `1 sentence`, `2,000 sentences`, `0 categories`."""
    if number == 1:
        return f"1 {one}"
    many = one + "es" if one.endswith("s") else re.sub("(?<![aeiou])y$", "ie", one) + "s"
    return f"{number:,} {many}"


def shortened(text: str, longest: int) -> str:
    """Return at most `longest` characters of a text, with an ellipsis where something is missing."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def text_width(text: str) -> int:
    """The places that a text takes in a line: a Chinese letter takes two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def first_of(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """Name at most so many of several things; dots stand for the others."""
    return separator.join([*names[:most], *(["..."] if len(names) > most else [])])


class _English(string.Formatter):
    """Fills in templates in which a number can be followed by what is counted."""

    def format_field(self, value: Any, form: str) -> str:
        """As `format`, but for forms that are words."""
        return counted(value, form) if form[1:] and form.replace(" ", "").isalpha() else format(value, form)


_ENGLISH = _English()


def translated(value: Any, language: str) -> Any:
    """A wording in that language; anything else as it is."""
    return value.of(language) if isinstance(value, Wording) else value


@cache
def catalogue() -> dict[str, str]:
    """Chinese by English template."""
    return tomllib.loads(resources.files("omniner").joinpath("chinese.toml").read_text(encoding="utf-8"))


def language_of(texts: Iterable[str]) -> str:
    """The language of a corpus: `zh` where at least half of the letters are Chinese, else `en`."""
    han = letters = 0
    for text in islice(texts, _ENOUGH):
        letters += sum(map(str.isalpha, text))
        han += sum("\u4e00" <= letter <= "\u9fff" or "\u3400" <= letter <= "\u4dbf" for letter in text)
    return "zh" if han and 2 * han >= letters else "en"
