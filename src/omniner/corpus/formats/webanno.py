"""WebAnno's TSV 3, as INCEpTION exports it: one token per line with its offsets, and the values of each layer.

    #FORMAT=WebAnno TSV 3.3
    #T_SP=webanno.custom.NamedEntity|identifier|value

    #Text=我爱北京
    1-1<tab>0-1<tab>我<tab>_<tab>_
    1-3<tab>2-4<tab>北京<tab>*<tab>地点[1]

The first column named `value` of the span layers is read, else their last column; other columns are not read, which is
an issue. A number in brackets joins tokens to one mention; values with `|` between them are several. A mention that
starts or ends within a token has its value on a separate row (`1-3.1`), after that of the token. Texts are those of
`#Text`; offsets count UTF-16 units of the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from omniner.corpus.align import utf16_places
from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import IssueLog, join_surrogates, quote, read_lines
from omniner.corpus.formats.regions import entity_at, sort_entities, without_repeats
from omniner.errors import UserError
from omniner.records import Entity, Issue, Sentence
from omniner.registry import first_line

_SIGN = "#FORMAT=WebAnno TSV"
_TEXT = "#Text="
_LAYER = re.compile(r"#T_SP=([^|]+)((?:\|[^|]*)*)")
_PLACE = re.compile(r"(\d{1,10})-(\d{1,10})")
_VALUES = re.compile(r"(?:\\.|[^|])+")  # a bar within a value has a backslash before it
_VALUE = re.compile(r"(.+?)(?:\[(\d+)\])?")
_ESCAPES = {"\\t": "\t", "\\n": "\n", "\\r": "\r", "\\\\": "\\"}


class Token(NamedTuple):
    """A row of a token or of a part of one: its line, its offsets in UTF-16 units of the document, and its values."""

    line: int
    start: int
    end: int
    values: list[str]


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty. `options` are ignored."""
    log = IssueLog(path)
    lines = read_lines(path, log)
    column = _column(lines, path, log)
    return [_sentence(text, tokens, log) for text, tokens in _blocks(lines, column, log)], log.items


def _column(lines: Sequence[str], path: Path, log: IssueLog) -> int:
    """Return the index of the column of categories, and add issues for the others."""
    names: list[str] = []
    for line in lines:
        if match := _LAYER.fullmatch(line):
            layer = match[1].rpartition(".")[2]
            names += [f"{layer}.{name}" for name in match[2].split("|")[1:]]
        elif line and not line.startswith("#"):
            break
    if not names:
        raise UserError(f"{path}:1", "no layer of spans (#T_SP=…) is declared", "Export a layer of named entities.")
    chosen = next((at for at, name in enumerate(names) if name.endswith(".value")), len(names) - 1)
    for at, name in enumerate(names):
        if at != chosen:
            log.add("unknown-key", f"the column {quote(name)} is not read", 1)
    return 3 + chosen


def _blocks(lines: Sequence[str], column: int, log: IssueLog) -> Iterator[tuple[str, list[Token]]]:
    """Yield the text and the tokens of each sentence."""
    text, tokens = "", list[Token]()
    for number, line in enumerate([*lines, ""], 1):
        if line.startswith(_TEXT):
            text += ("\n" if text else "") + re.sub(r"\\[tnr\\]", lambda one: _ESCAPES[one[0]], line[len(_TEXT) :])
        elif not line.strip():
            if text:
                yield join_surrogates(text, log, number), tokens
            text, tokens = "", []
        elif not line.startswith("#"):
            parts = line.split("\t")
            place = _PLACE.fullmatch(parts[1]) if len(parts) > column else None
            if place is None:
                log.add("bad-record", f"{quote(line)} is no row of a token; left out", number)
            else:
                values = [] if parts[column] == "_" else _VALUES.findall(parts[column])
                tokens.append(Token(number, int(place[1]), int(place[2]), values))


def _sentence(text: str, tokens: Sequence[Token], log: IssueLog) -> Sentence:
    """Build a sentence: tokens with the same value and number are one mention; without a number each token is one."""
    places = utf16_places(text)
    blanks = len(text) - len(text.lstrip())  # before the first token
    offset = tokens[0].start - blanks if tokens else 0
    mentions: dict[tuple[str, str], tuple[int, int, int]] = {}
    for index, token in enumerate(tokens):
        for value in token.values:
            match = _VALUE.fullmatch(value)
            category, number = (match[1], match[2]) if match else (value, None)
            key = category, number or f"token {index}"
            line, start, end = mentions.get(key, (token.line, token.start, token.end))
            mentions[key] = line, min(start, token.start), max(end, token.end)
    entities: list[Entity] = []
    for (category, _), (line, start, end) in mentions.items():
        if category == "*":
            log.add("bad-entity", "a mention without a value; left out", line)
            continue
        first, last = places.get(start - offset, -1), places.get(end - offset, -1)
        if entity := entity_at(text, None, re.sub(r"\\(.)", r"\1", category), first, last, log, line):
            entities.append(entity)
    return Sentence("", text, sort_entities(without_repeats(entities, log, 0)))


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise the first line."""
    return Match(90, f"`{_SIGN}` on the first line") if excerpt.lines[0].startswith(_SIGN) else None


FORMAT = Format(
    name="webanno", meaning=first_line(__doc__), read=read, write=None, suffix=".tsv", sniff_lines=sniff_lines
)
