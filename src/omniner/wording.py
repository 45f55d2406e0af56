"""Translate the English texts of pages and figures to Chinese.

A text is written in English where it is used, `Wording("{count:,} errors in {sentences:,} sentences", count=3, ...)`.
Everywhere else (terminal, logs, CSV, Markdown, the tracker) it is a plain English `str`; a page requests its own
language with `of`. The Chinese is in `chinese.toml` under the English template, with the same `{names}`. A test finds
texts without Chinese, and Chinese without a text. gettext's catalogues would need a compiled file beside each source
and a tool to create it, which is too much for one language and some hundred texts.
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

TAGS = {"zh": "zh-CN", "en": "en"}  # language tags in HTML
_ENOUGH = 2000  # number of texts from which the language of a corpus is detected
_SEPARATORS = {", ": "、", "; ": "；", " ": "", ". ": "。"}  # between parts, in Chinese


class Wording(str):
    """An English text that keeps its template and values, for translation.

    Args:
        template: the text, with `{names}` as for `str.format`; without values it is used unchanged. `{errors:error}`
            gives a number with its noun, in English as `counted` does, in Chinese with `{errors:,}`.
        values: replace the names; wordings among them are translated to the language of the whole text.
    """

    template: str
    values: dict[str, Any]
    chinese: str  # the Chinese template, if it is not in the catalogue; else empty

    def __new__(cls, template: str, /, **values: Any) -> Self:
        """Fill in the values."""
        made = super().__new__(cls, _ENGLISH.vformat(template, (), values) if values else template)
        made.template, made.values, made.chinese = template, values, ""
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        """Return the arguments from which a copy is created."""
        return (self.template,), self.values

    @classmethod
    def both(cls, english: str, chinese: str, **values: Any) -> Self:
        """Create a text with its Chinese template, as entries of registries do."""
        made = cls(english, **values)
        made.chinese = chinese
        return made

    @classmethod
    def joined(cls, separator: str, parts: Iterable[str]) -> Self:
        """Join texts by `, `, `; `, `. ` or a space; in Chinese by `、`, `；`, `。` or nothing."""
        values = {f"part_{number}": part for number, part in enumerate(parts)}
        names = [f"{{{name}}}" for name in values]
        return cls.both(separator.join(names), _SEPARATORS[separator].join(names), **values)

    def of(self, language: str) -> str:
        """Return the text in `zh` or `en`; in English if there is no translation."""
        if language == "en":
            return str(self)
        template = self.chinese or catalogue().get(self.template)
        if template is None or not self.values:
            return template or str(self)
        return template.format(**{key: translated(value, language) for key, value in self.values.items()})


def counted(number: int, one: str) -> str:
    """Return a number with its noun in English: `1 sentence`, `2,000 sentences`, `0 categories`."""
    if number == 1:
        return f"1 {one}"
    many = one + "es" if one.endswith("s") else re.sub("(?<![aeiou])y$", "ie", one) + "s"
    return f"{number:,} {many}"


def shortened(text: str, longest: int) -> str:
    """Return at most `longest` characters of a text, with an ellipsis if it was cut."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def text_width(text: str) -> int:
    """Return the number of columns of a text in a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def first_of(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """Join the first `most` names; an ellipsis stands for the others."""
    return separator.join([*names[:most], *(["..."] if len(names) > most else [])])


class _English(string.Formatter):
    """A formatter for templates in which a number can be followed by its noun."""

    def format_field(self, value: Any, form: str) -> str:
        """Format as `format` does, except that a word as format specification is a noun to count."""
        return counted(value, form) if form[1:] and form.replace(" ", "").isalpha() else format(value, form)


_ENGLISH = _English()


def translated(value: Any, language: str) -> Any:
    """Translate a wording; return anything else unchanged."""
    return value.of(language) if isinstance(value, Wording) else value


@cache
def catalogue() -> dict[str, str]:
    """Return the Chinese templates by English template."""
    return tomllib.loads(resources.files("omniner").joinpath("chinese.toml").read_text(encoding="utf-8"))


def language_of(texts: Iterable[str]) -> str:
    """Return the language of a corpus: `zh` if at least half of the letters are Chinese, else `en`."""
    han = letters = 0
    for text in islice(texts, _ENOUGH):
        letters += sum(map(str.isalpha, text))
        han += sum("\u4e00" <= letter <= "\u9fff" or "\u3400" <= letter <= "\u4dbf" for letter in text)
    return "zh" if han and 2 * han >= letters else "en"
