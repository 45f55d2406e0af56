"""The topics of the invented corpus: from the text files in `topics/` to patterns ready to be filled.

A topic is one text file: to extend the corpus, add words or clauses to it; to add a topic, add a file. Its lines:

    // a comment
    [护肤品 品类_产品]          a word list whose words are mentions of that category ...
    [程度]                     ... and one whose words are never mentions
    面霜 精华 Old_Town          words, parted by spaces; `_` stands for a space inside, `()` for the empty word
    <护肤效><护肤型>            every combination of two lists (at most `MOST_COMBINATIONS`, drawn once and for all)
    == weight 14               how often posts are about this topic, against the others
    == clauses                 patterns, one a line; `== tags` (ends of sentences) and `== chat` (no mentions) too
    *3 {肤质}的(真的|){护肤品@}冲   drawn three times as often; `(a|b|)` is a free choice of wording

A slot `{list}` is a mention with the list's category; `{list@}` is the same word all through one post; `{list!}` is
the word without being a mention (a hard negative), `{list:category}` a mention of another category than the list's
(the context decides). Word lists are visible in all files. Words that stand early in a
list are frequent, later ones rare, as in a real corpus; combinations come after the written words.

Everything is compiled once, into flat tuples, because a corpus of full size fills about half a million patterns.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from math import prod
from typing import NamedTuple

MOST_COMBINATIONS = 800  # per `<a><b>` item: enough for words unseen in training, few enough to recur

_HEADER = re.compile(r"\[(\S+?)(?: (\S+))?\]")
_SECTION = re.compile(r"== (weight|clauses|tags|chat)(?: (\d+))?")
_REFERENCE = re.compile(r"<([^<>]+)>")
_HOLE = re.compile(r"\{([^{}:@!]+)(?::([^{}@!]+))?([@!]?)\}|\(([^()]*\|[^()]*)\)")
_MARKUP = re.compile(r"[{}()<>|]")
_WEIGHTED = re.compile(r"(?:\*(\d+) )?(.+)")


class Slot(NamedTuple):
    """A literal, then one of `words`: a mention where `category` is set, drawn once per post where `key` is."""

    literal: str
    words: tuple[str, ...]
    category: str | None
    key: str | None


Pattern = tuple[Slot, ...]


@dataclass(frozen=True)
class Topic:
    """What posts on one subject are made of; a pattern of weight n stands n times in its tuple."""

    name: str
    weight: int
    clauses: tuple[Pattern, ...]
    tags: tuple[Pattern, ...]


@dataclass(frozen=True)
class WordList:
    """A word list as written: its items may refer to other lists."""

    category: str | None
    items: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Grammar:
    """All topics, the patterns without mentions, and the words of each list (for its author and the tests)."""

    topics: tuple[Topic, ...]
    chat: tuple[Pattern, ...]
    words: dict[str, tuple[str, ...]]
    categories: dict[str, str | None]


@dataclass
class _File:
    name: str
    weight: int = 0
    lines: dict[str, list[str]] = field(default_factory=lambda: {"clauses": [], "tags": [], "chat": []})


@cache
def load() -> Grammar:
    """Read and compile the packaged topics (once per process)."""
    folder = resources.files("omniner.corpus.synthetic").joinpath("topics")
    texts = {entry.name.removesuffix(".txt"): entry.read_text("utf-8") for entry in folder.iterdir()}
    return compile_grammar(dict(sorted(texts.items())))


def compile_grammar(texts: dict[str, str]) -> Grammar:
    """Compile topics given as name -> text. A mistake in a text is a `ValueError` that names the file."""
    lists: dict[str, WordList] = {}
    files = [_read(name, text, lists) for name, text in texts.items()]
    words: dict[str, tuple[str, ...]] = {}
    for name in lists:
        _expand(name, lists, words, ())

    def patterns(file: _File, section: str) -> tuple[Pattern, ...]:
        return tuple(p for line in file.lines[section] for p in _patterns(line, file.name, lists, words))

    topics = tuple(
        Topic(file.name, file.weight, patterns(file, "clauses"), patterns(file, "tags"))
        for file in files
        if file.lines["clauses"]
    )
    chat = tuple(pattern for file in files for pattern in patterns(file, "chat"))
    return Grammar(topics, chat, words, {name: word_list.category for name, word_list in lists.items()})


def _read(name: str, text: str, lists: dict[str, WordList]) -> _File:
    """Sort the lines of one file: words into `lists`, patterns into the file's sections."""
    file = _File(name)
    target: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("//"):
            continue
        if match := _HEADER.fullmatch(line):
            if match[1] in lists:
                raise ValueError(f"{name}:{number}: the list {match[1]} is already there")
            lists[match[1]] = WordList(match[2])
            target, split = lists[match[1]].items, True
        elif match := _SECTION.fullmatch(line):
            if match[1] == "weight":
                file.weight, target = int(match[2]), None
            else:
                target, split = file.lines[match[1]], False
        elif target is None:
            raise ValueError(f"{name}:{number}: {line!r} belongs to no list and no section")
        else:
            target.extend(line.split() if split else [line])
    return file


def _expand(
    name: str, lists: dict[str, WordList], words: dict[str, tuple[str, ...]], path: tuple[str, ...]
) -> tuple[str, ...]:
    """The words of a list, its references replaced; each word once, in the order written."""
    if name in words:
        return words[name]
    if name not in lists or name in path:
        raise ValueError(f"the list {name!r} is {'its own part' if name in path else 'not there'} ({path})")
    found: list[str] = []
    for item in lists[name].items:
        pieces = _REFERENCE.split(item)  # literal, list, literal, list, ..., literal
        choices = [
            _expand(piece, lists, words, (*path, name)) if position % 2 else (piece,)
            for position, piece in enumerate(pieces)
        ]
        found.extend(_combinations(item, choices))
    words[name] = tuple(dict.fromkeys("" if word == "()" else word.replace("_", " ") for word in found))
    return words[name]


def _combinations(item: str, choices: list[tuple[str, ...]]) -> list[str]:
    """Combinations of the choices in an order that is random but always the same; not all where they are many."""
    total = prod(map(len, choices))
    order = random.Random(item).sample(range(total), min(total, MOST_COMBINATIONS))
    found = []
    for number in order:
        word = ""
        for choice in choices:
            number, position = divmod(number, len(choice))
            word += choice[position]
        found.append(word)
    return found


def _patterns(line: str, file: str, lists: dict[str, WordList], words: dict[str, tuple[str, ...]]) -> list[Pattern]:
    """Compile a pattern line; as many times the same pattern as its weight says."""
    match = _WEIGHTED.fullmatch(line)
    assert match is not None
    weight, text = int(match[1] or 1), match[2]
    slots = []
    done = 0
    for hole in _HOLE.finditer(text):
        literal = text[done : hole.start()]
        done = hole.end()
        name, other, mark, wording = hole.groups()
        if wording is not None:
            slots.append(Slot(literal, tuple(wording.split("|")), None, None))
        elif name in lists:
            category = None if mark == "!" else other or lists[name].category
            slots.append(Slot(literal, words[name], category, name if mark == "@" else None))
        else:
            raise ValueError(f"{file}: the list {name!r} in {line!r} is not there")
    if done < len(text):
        slots.append(Slot(text[done:], ("",), None, None))
    if any(_MARKUP.search(piece) for slot in slots for piece in (slot.literal, *slot.words)):
        raise ValueError(f"{file}: a bracket in {line!r} is not closed, or stands inside another")
    return [tuple(slots)] * weight
