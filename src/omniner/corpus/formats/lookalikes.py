"""Recognise files that no format here reads, to reject them by name instead of reading them as plain text."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.spellings import TEXTS
from omniner.corpus.formats.tags import is_tag, is_tag_list

_MOST = 0.9  # share of the lines
_MARKUP = re.compile(r"\s*<[?!/a-zA-Z]")
_INLINE_XML = re.compile(r"<([A-Za-z_\u4e00-\u9fff]{1,20})(?: [^<>]*)?>[^<>]+</\1>")
_SLASH = re.compile(r"(?:^|(?<=\s))[^\s/:|_]+(?:/[A-Za-z]{1,12}|[/|_:#](?:[BIESLUMW][-_]\S+|O|[A-Z]{2,8}))(?=\s|$)")
_PARTED = re.compile(r"\S\s*(?:\|\|+|###+|@@+|\$\$+|<sep>|\[SEP\])\s*\S")
_NAMED = re.compile(
    r"\s*(?:-\s+)?(?:[A-Z]{2,8}|text|sentence|content|label|labels|entity|entities|type|category|tags?|start|end"
    r"|文本|句子|原文|实体|标签|类别|类型)\s*[:=：](?:\s|\S)*"
)
_PROGRAM = re.compile(
    r"\s*(?:\w+\s*=\s*[\[({]|[\[({]+\s*['\"].*|[\])}]+[,;]?|import \w.*"
    r"|\\(?:documentclass|usepackage|begin|end)\b.*)\s*"
)
_TIMES = re.compile(r"\d\d:\d\d:\d\d[,.]\d+ --> \d")
_BRACKETS = re.compile(r"\[[^\[\]\s]{1,20}\](?:\([^()\s]{1,20}\)|[^\s\[\]，。！？、；：,.!?;:]{1,8}(?=\s|$))")
_PIPES = re.compile(r"\{\{?[^{}|:\s]{1,20}[|:][^{}|:\s]{1,20}\}\}?|\[@[^\[\]#]+#[^\[\]*]+\*\]")
_JSON = re.compile(r"\s*[{\[]+\s*\"|\s*[{\[]+\w*$")
_TAG = r"(?:[BIESLUMW]|BEGIN|INSIDE|END|SINGLE)[-_.][^\s|\"']+"
_ROW_OF_TAG = re.compile(rf".{{1,40}}[\s,;:|\"'](?:O|{_TAG})[\"'|\s]*")
_PLACES = re.compile(r"(?:^|[\s,;|])\d+[\s,:-]+\d+[\s,:]+[A-Za-z_\u4e00-\u9fff]+")
_CELL = re.compile(r"[^，。！？；：]{0,60}")


class Lookalike(NamedTuple):
    """What a file looks like.

    Attributes:
        line: index, in the excerpt, of the line that shows it.
        what: description.
        fix: what to do with it.
    """

    line: int
    what: str
    fix: str


def _share_of(lines: Sequence[str], test: Callable[[str], object]) -> tuple[float, int]:
    """Return the share of lines that pass a test, and the index of the first that does."""
    passed = [index for index, line in enumerate(lines) if test(line)]
    return len(passed) / len(lines), passed[0] if passed else 0


def find_lookalike(excerpt: Excerpt) -> Lookalike | None:
    """Describe a file that is not prose; None if nothing speaks against prose."""
    lines = excerpt.lines
    if excerpt.is_json:
        keys = next((value for value in excerpt.values if isinstance(value, dict)), {})
        named = f" with {', '.join(f'`{key}`' for key in list(keys)[:6])}" if keys else ""
        fix = "Give its records a text (`text`) and its entities (`entities`), or set data.format."
        return Lookalike(0, f"JSON{named} in a form that no format here has", fix)
    tests: list[tuple[str, float, Callable[[str], object], str]] = [
        ("torn or broken JSON", 0.5, _JSON.match, "Repair it."),
        ("HTML or XML", 0.5, _MARKUP.match, "Convert it to JSON lines with texts and entities."),
        (
            "tags on lines of their own, as in parallel files of sentences and tags",
            0.3,
            lambda line: is_tag_list(line) or (is_tag(line.strip()) and line.strip() != "O"),
            "Write a sentence, a tab and its tags on one line, or a token and its tag on each.",
        ),
        (
            "words with tags behind slashes or bars or other marks, such as `王芳/nr`",
            0.5,
            lambda line: len(_SLASH.findall(line)) >= max(2, 0.6 * len(line.split())),
            "Write a token and its tag a line (王芳<tab>B-PER).",
        ),
        (
            "tokens and tags in columns that are not known",
            0.5,
            _ROW_OF_TAG.fullmatch,
            "Write a token, a tab and its tag a line (王芳<tab>B-PER), or set data.format=conll and data.tag_column.",
        ),
        (
            "records of names and values on lines, as in YAML",
            0.6,
            _NAMED.fullmatch,
            "Convert it to JSON lines with texts and entities.",
        ),
        ("fields between marks such as `|||`", 0.5, _PARTED.search, "Write them as JSON lines: text and entities."),
        ("the text of a program", 0.5, _PROGRAM.fullmatch, "Write its data as JSON lines: text and entities."),
        ("subtitles with times", 0.15, _TIMES.search, "Keep the lines of text alone."),
        ("a table drawn with bars", 0.5, re.compile(r"\s*\|.*\|\s*").fullmatch, "Write it with tabs or commas."),
        (
            "entities in brackets within the text",
            0.4,
            lambda line: len(_BRACKETS.findall(line)) > 1 or _PIPES.search(line) or _INLINE_XML.search(line),
            "Write texts and entities apart, as JSON lines.",
        ),
        (
            "texts with places and labels behind them",
            0.5,
            lambda line: _PLACES.search(line),
            "Write them as JSON lines: text and entities with start, end and category.",
        ),
    ]
    for what, most, test, fix in tests:
        share, first = _share_of(lines, test)
        if share >= most:
            return Lookalike(first, what, fix)
    return _table(lines)


def _table(lines: Sequence[str]) -> Lookalike | None:
    """Recognise columns: equally many on each line, or a header row of names."""
    fix = (
        'Name its columns in a header row: text and label, a label cell being JSON ([[2, 4, "品牌"]] or '
        '[{"text": "小满", "labels": ["品牌"]}]), or words and labels, a word a row. Or convert it to JSON lines.'
    )
    columns = [line.count("\t") for line in lines]
    [(tabs, count)] = Counter(columns).most_common(1)
    if (tabs and count >= _MOST * len(lines)) or sum(map(bool, columns)) >= 0.5 * len(lines) > 1:
        return Lookalike(0, "columns between tabs", fix)
    try:
        rows = list(csv.reader(line[:2000] for line in lines[:200]))
    except csv.Error:
        rows = []
    widths = Counter(map(len, rows))
    [(width, count)] = widths.most_common(1) if rows else [(0, 0)]
    if len(rows) > 1 and width > 1 and count >= _MOST * len(rows) and all(_CELL.fullmatch(cell) for cell in rows[0]):
        return Lookalike(0, f"a table of {width} columns between commas", fix)
    header = re.split(r"[;|]", lines[0].lower())
    if len(header) > 1 and set(map(str.lower, TEXTS)) & {name.strip(' "') for name in header}:
        return Lookalike(0, f"a table of {len(header)} columns between semicolons or bars", "Write it with commas.")
    pairs = [line.split() for line in lines]
    short = [pair for pair in pairs if len(pair) == 2 and len(pair[0]) <= 12 and len(pair[1]) <= 20]
    labels = {pair[1] for pair in short}
    few = len(labels) <= max(1, len(short) // 2) or all(len(pair[0]) == 1 for pair in short)
    if len(short) >= _MOST * len(pairs) and len(short) > 1 and few:
        fix = "If these are tags, set data.format=conll, and data.scheme=io where they have no letters such as B and I."
        return Lookalike(0, "two columns, of characters or words and of what is said of them", fix)
    return None
