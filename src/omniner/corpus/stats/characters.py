"""What the texts are made of: characters, words, emoji, odd characters, and sentences of unusual length.

In goes a `Flat`, out come counts by split and lists of what to look at. Every distinct character is judged once; the
texts themselves are only looked at where one of the judged kind occurs. Characters are code points.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import NamedTuple

import numpy as np

from omniner.corpus.stats.flat import Bools, Flat, Ints

# Writing without blanks between words: tokens of these are characters.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
# Characters of the basic plane that are shown as emoji by themselves (Unicode: Emoji_Presentation); others need U+FE0F.
_BASIC_EMOJI = (
    "\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1\u26aa\u26ab\u26bd"
    "\u26be\u26c4\u26c5\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705\u270a\u270b\u2728\u274c\u274e\u2753-\u2755"
    "\u2757\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55"
)
_FLAG = "[\U0001f1e6-\U0001f1ff]"
_ONE = (
    f"(?:[\U0001f000-\U0001f1e5\U0001f200-\U0001faff{_BASIC_EMOJI}][\ufe0f\U0001f3fb-\U0001f3ff]?"
    "|[\u203c-\u3299][\ufe0f][\U0001f3fb-\U0001f3ff]?|[\u261d\u26f9\u270c\u270d][\U0001f3fb-\U0001f3ff])"
)
# What people see as one emoji: a flag of two letters, a keycap, or pictures joined by U+200D.
EMOJI = re.compile(f"{_FLAG}{{2}}|[0-9#*]\ufe0f?\u20e3|{_ONE}(?:\u200d{_ONE})*")
_HINT = re.compile(f"[\U0001f000-\U0001faff{_BASIC_EMOJI}\ufe0f\u20e3]")  # in every emoji there is one of these
_PICTURES = (0x1F000, 0x1FAFF)  # blocks of pictures, in which new emoji are assigned every year
_JOINER = 0x200D  # U+200D makes one emoji of several
_FENCE = 3.0  # interquartile ranges above the third quartile: Tukey's outer fence


class TextCounts(NamedTuple):
    """Texts of one split."""

    sentences: int
    documents: int
    characters: int
    words: int  # pieces between white space
    mean: float  # characters of a sentence, as are the next three
    median: float
    p95: float
    longest: int
    emoji: int
    with_emoji: int  # sentences
    beyond_plane: int  # characters outside the basic plane: most emoji, rare ideographs


class Odd(NamedTuple):
    """A character that no one types: what it is, how often it stands in the texts, in how many sentences, and where."""

    point: int
    kind: str
    times: int
    sentences: int
    example: int  # sentence


class Outlier(NamedTuple):
    """A sentence far longer than most of its split."""

    sentence: int
    length: int
    fence: float  # characters from which one is


def odd_kind(point: int) -> str:
    """What is odd about a character, empty if nothing is.

    A tab or a line break is a control character here, though people type them: a sentence is one line, and formats of
    lines and columns cannot hold it otherwise. An emoji that this Python's Unicode does not know yet is not odd.
    """
    if point == 0xFFFD:
        return "replacement: a character was lost"
    if point == _JOINER or (_PICTURES[0] <= point <= _PICTURES[1] and unicodedata.category(chr(point)) == "Cn"):
        return ""
    kinds = {
        "Cc": "control",
        "Cf": "invisible",
        "Cs": "half of a surrogate pair",
        "Co": "private use",
        "Cn": "unassigned",
        "Zl": "line separator",
        "Zp": "paragraph separator",
    }
    return kinds.get(unicodedata.category(chr(point)), "")


def spaced(flat: Flat) -> bool:
    """Whether most letters are of scripts that put blanks between words, so that tokens are words."""
    letters = Counter[bool]()
    for point, count in _histogram(flat).items():
        if unicodedata.category(chr(point)).startswith("L"):
            letters[unicodedata.name(chr(point), "").startswith(_UNSPACED)] += count
    return letters[False] > letters[True]


def _histogram(flat: Flat) -> dict[int, int]:
    counts = np.bincount(flat.points)
    return {int(point): int(counts[point]) for point in np.flatnonzero(counts)}


def count_texts(flat: Flat, split: int) -> TextCounts:
    """The counts of one split."""
    rows = np.flatnonzero(flat.split == split)
    length = flat.length[rows]
    texts = [flat.sentences[row].text for row in rows]
    emoji = [len(EMOJI.findall(text)) for text in texts if _HINT.search(text)]
    points = flat.points[flat.begin[rows[0]] : flat.begin[rows[-1] + 1]] if len(rows) else flat.points[:0]
    return TextCounts(
        sentences=len(rows),
        documents=len(np.unique(flat.post[rows])),
        characters=int(length.sum()),
        words=sum(len(text.split()) for text in texts),
        mean=float(length.mean()) if len(rows) else 0.0,
        median=float(np.median(length)) if len(rows) else 0.0,
        p95=float(np.percentile(length, 95)) if len(rows) else 0.0,
        longest=int(length.max(initial=0)),
        emoji=sum(emoji),
        with_emoji=sum(count > 0 for count in emoji),
        beyond_plane=int((points > 0xFFFF).sum()),
    )


def common_emoji(flat: Flat) -> list[tuple[str, int]]:
    """Emoji and how often they stand in the texts, the most frequent first."""
    found = Counter(emoji for s in flat.sentences if _HINT.search(s.text) for emoji in EMOJI.findall(s.text))
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def odd_characters(flat: Flat) -> tuple[list[Odd], Bools]:
    """The odd characters, the most frequent first, and for each sentence whether it has one."""
    affected = np.zeros(len(flat.sentences), bool)
    found = []
    for point, count in _histogram(flat).items():
        if kind := odd_kind(point):
            rows = _rows_with(flat, point)
            affected[rows] = True
            found.append(Odd(point, kind, count, len(rows), int(rows[0])))
    return sorted(found, key=lambda odd: (-odd.times, odd.point)), affected


def _rows_with(flat: Flat, point: int) -> Ints:
    places = np.flatnonzero(flat.points == point)
    return np.unique(np.searchsorted(flat.begin, places, side="right") - 1)


def empty(flat: Flat) -> Bools:
    """(N,) whether a sentence shows nothing: no character, or none but white space."""
    bare = np.array([not text.strip() for text in flat.texts], bool)
    return bare[flat.text]


def outliers(flat: Flat) -> list[Outlier]:
    """Sentences beyond Tukey's outer fence of their split, the longest first."""
    found = []
    for split in range(len(flat.splits)):
        rows = np.flatnonzero(flat.split == split)
        if len(rows):
            length = flat.length[rows]
            first, third = np.percentile(length, [25, 75])
            fence = float(third + _FENCE * (third - first))
            far = rows[length > fence]
            found += [Outlier(int(row), int(flat.length[row]), fence) for row in far]
    return sorted(found, key=lambda outlier: (-outlier.length, outlier.sentence))
