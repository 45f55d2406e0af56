"""Generate the corpus that comes with the package: invented Chinese social-media posts (`data=sample`).

`generate_sample` returns sentences with exact gold mentions of all 90 official categories, so that every part of the
program can be tried without a file. All text was written for this package; brands, works and people are invented.

Words and sentence patterns are in `topics/*.txt`, one file per topic. To extend the corpus, add words or clauses to a
file; to add a topic, add a file. Its lines:

    // a comment
    [护肤品 品类_产品]          a word list whose words are mentions of that category ...
    [程度]                     ... and one whose words are never mentions
    面霜 精华 Old_Town          words, separated by spaces; `_` is a space inside a word, `()` the empty word
    <护肤效><护肤型>            every combination of two lists (at most `MOST_COMBINATIONS`, drawn once and for all)
    == weight 14               how often posts are about this topic, relative to the others
    == clauses                 patterns, one per line; also `== tags` (ends of sentences) and `== chat` (no mentions)
    *3 {肤质}的(真的|){护肤品@}冲   drawn three times as often; `(a|b|)` is a free choice of wording

A slot `{list}` is a mention with the list's category; `{list@}` is the same word throughout one post; `{list!}` is the
word without being a mention (a hard negative); `{list:category}` is a mention of another category than the list's (the
context decides). Word lists are visible in all files. Early words of a list are frequent, later ones rare, as in a real
corpus; combinations come after the written words. Everything is compiled once, into flat tuples, because a full-size
corpus fills about half a million patterns.

Each split has its own stream of random numbers, seeded by the corpus seed and the split's name: requesting more
sentences of a split keeps the first ones, and no other split changes. A post has a topic and one to five sentences. A
sentence joins one to three clauses of that topic, or is small talk without a mention. Each sentence costs a handful of
random draws; nothing depends on hash order.

A share `NOISE` of the mentions is annotated wrongly on purpose (left out, shortened or lengthened by a character, or
given a sister category), as in real corpora: tools that look for suspect annotation then have something to find.
`Sentence.meta["noise"]` of such a sentence holds the kind of error and the correct mention.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from math import prod
from typing import Any, NamedTuple, TypeVar

from omniner.corpus.taxonomy import OFFICIAL, load_taxonomy, primary_of
from omniner.errors import UserError
from omniner.records import Entity, Sentence, entity_to_json

NOISE = 0.015  # share of mentions annotated wrongly
CHAT = 0.085  # share of sentences that are small talk
OPENING = 0.18  # share of sentences with an interjection before the first clause
TAG = 0.1  # share of sentences that end in hashtags
CLAUSES = (1, 1, 1, 1, 2, 2)  # number of clauses of a sentence, one of these is drawn
LONGEST_POST = 5  # sentences
MOST_COMBINATIONS = 800  # per `<a><b>` item: enough for words unseen in training, few enough to recur

Random = Callable[[], float]
T = TypeVar("T")
_HEADER = re.compile(r"\[(\S+?)(?: (\S+))?\]")
_SECTION = re.compile(r"== (weight|clauses|tags|chat)(?: (\d+))?")
_REFERENCE = re.compile(r"<([^<>]+)>")
_HOLE = re.compile(r"\{([^{}:@!]+)(?::([^{}@!]+))?([@!]?)\}|\(([^()]*\|[^()]*)\)")
_MARKUP = re.compile(r"[{}()<>|]")
_WEIGHTED = re.compile(r"(?:\*(\d+) )?(.+)")


class Slot(NamedTuple):
    """A part of a pattern: a literal, followed by one of several words.

    Attributes:
        literal: text before the word.
        words: to draw from.
        category: of the mention that the word is; None if it is not a mention.
        key: of words that are drawn once per post; None if they are drawn each time.
    """

    literal: str
    words: tuple[str, ...]
    category: str | None
    key: str | None


Pattern = tuple[Slot, ...]


@dataclass(frozen=True)
class Topic:
    """The patterns of posts on one subject, each repeated as often as its weight says."""

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
    """All topics, the patterns without mentions, and the words and category of each list."""

    topics: tuple[Topic, ...]
    chat: tuple[Pattern, ...]
    words: dict[str, tuple[str, ...]]
    categories: dict[str, str | None]


@dataclass
class _File:
    name: str
    weight: int = 0
    lines: dict[str, list[str]] = field(default_factory=lambda: {"clauses": [], "tags": [], "chat": []})


def generate_sample(size: Mapping[str, int], seed: int) -> dict[str, list[Sentence]]:
    """Generate sentences, the same ones for the same seed.

    Args:
        size: of each split, in sentences.
        seed: of the random draws.

    Returns:
        The sentences by split. Ids are `<split>-<number>`, `post_id` is `<split>-p<number>`; no post is in two splits.
    """
    for split, count in size.items():
        if count < 0:
            raise UserError(f"data.size.{split}", f"{count} sentences cannot be made", "Give 0 or more.")
    return {split: _split(split, count, random.Random(f"{seed}/{split}").random) for split, count in size.items()}


def _split(split: str, count: int, draw: Random) -> list[Sentence]:
    """Return the first `count` sentences of a split's endless stream."""
    found: list[Sentence] = []
    post = 0
    while len(found) < count:
        post += 1
        post_id = f"{split}-p{post:06d}"
        for text, entities, meta in _post(draw):
            found.append(Sentence(f"{split}-{len(found) + 1:06d}", text, entities, post_id, meta))
    return found[:count]


@cache
def _subjects() -> tuple[Topic, ...]:
    """Return every topic as often as its weight says."""
    return tuple(topic for topic in load_grammar().topics for _ in range(topic.weight))


def _post(draw: Random) -> Iterator[tuple[str, list[Entity], dict[str, Any]]]:
    """Yield the sentences of one post. Words of `{list@}` slots are drawn once and kept in `fixed`."""
    subjects = _subjects()
    topic = subjects[int(draw() * len(subjects))]
    fixed: dict[str, str] = {}
    for _ in range(1 + int(draw() * LONGEST_POST)):
        text, entities = _sentence(topic, fixed, draw)
        if draw() < NOISE * len(entities):
            yield text, *_disturbed(text, entities, draw)
        else:
            yield text, entities, {}


def _sentence(topic: Topic, fixed: dict[str, str], draw: Random) -> tuple[str, list[Entity]]:
    """Return one sentence: its text and its mentions from left to right."""
    loaded = load_grammar()
    words = loaded.words
    parts: list[str] = []
    entities: list[Entity] = []
    position = 0
    if draw() < OPENING:
        parts.append(_pick(words["开场"], draw))
        position = len(parts[0])
    if draw() < CHAT:
        position = _fill(_pick(loaded.chat, draw), fixed, draw, parts, entities, position)
    else:
        before = None
        for number in range(CLAUSES[int(draw() * len(CLAUSES))]):
            clause = _pick(topic.clauses, draw)
            if clause is before:
                break
            if number:
                parts.append(_pick(words["连接"], draw))
                position += len(parts[-1])
            position = _fill(clause, fixed, draw, parts, entities, position)
            before = clause
    parts.append(_pick(words["结尾"], draw))
    if draw() < TAG and entities:
        parts.append(" ")
        position += len(parts[-2]) + 1
        _fill(_pick(topic.tags, draw), fixed, draw, parts, entities, position)
    return "".join(parts), entities


def _pick(items: tuple[T, ...], draw: Random) -> T:
    """Draw one item, each with the same probability."""
    return items[int(draw() * len(items))]


def _fill(
    pattern: Pattern,
    fixed: dict[str, str],
    draw: Random,
    parts: list[str],
    entities: list[Entity],
    position: int,
) -> int:
    """Append the text of a filled pattern to `parts` and its mentions to `entities`; return where the text ends.

    The square of a uniform number prefers the first words of a list: the density falls with the root of the rank.
    """
    for literal, words, category, key in pattern:
        if literal:
            parts.append(literal)
            position += len(literal)
        if key is None or (word := fixed.get(key, "")) == "":
            uniform = draw()
            index = int(uniform * uniform * len(words))
            word = words[index]
            if entities and entities[-1].text == word:  # nobody writes the same mention twice in a row
                word = words[index - 1]
            if key is not None:
                fixed[key] = word
        parts.append(word)
        end = position + len(word)
        if category is not None:
            entities.append(Entity(word, category, position, end))
        position = end
    return position


@cache
def _sisters() -> dict[str, tuple[str, ...]]:
    """Return the other categories of each category's primary."""
    official = load_taxonomy(OFFICIAL)
    by_primary: dict[str, list[str]] = {}
    for category in official.categories:
        by_primary.setdefault(primary_of(category), []).append(category)
    return {one: tuple(c for c in group if c != one) for group in by_primary.values() for one in group}


def _disturbed(text: str, entities: list[Entity], draw: Random) -> tuple[list[Entity], dict[str, Any]]:
    """Annotate one mention wrongly; return the entities, and what was done to which mention."""
    place = int(draw() * len(entities))
    true = entities[place]
    assert true.start is not None
    assert true.end is not None
    limit = len(text) if place + 1 == len(entities) else entities[place + 1].start
    sisters = _sisters()[true.category]
    way = draw()
    if way < 0.3 and sisters:
        kind, wrong = "category", [true._replace(category=_pick(sisters, draw))]
    elif way < 0.5 and len(true.text) > 2:
        kind, wrong = "boundary", [Entity(true.text[1:], true.category, true.start + 1, true.end)]
    elif way < 0.7 and limit is not None and true.end < limit and text[true.end].isalpha():
        longer = text[true.start : true.end + 1]
        kind, wrong = "boundary", [Entity(longer, true.category, true.start, true.end + 1)]
    else:
        kind, wrong = "missed", []
    meta = {"noise": {"kind": kind, "truth": entity_to_json(true)}}
    return entities[:place] + wrong + entities[place + 1 :], meta


@cache
def load_grammar() -> Grammar:
    """Read and compile the packaged topics, once per process."""
    folder = resources.files("omniner.corpus").joinpath("topics")
    texts = {entry.name.removesuffix(".txt"): entry.read_text("utf-8") for entry in folder.iterdir()}
    return compile_grammar(dict(sorted(texts.items())))


def compile_grammar(texts: dict[str, str]) -> Grammar:
    """Compile topics.

    Args:
        texts: topic name -> its text.

    Raises:
        ValueError: a mistake in a text; it names the file.
    """
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
    """Parse the lines of one file: words into `lists`, patterns into the file's sections."""
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
    """Return the words of a list with its references replaced; each word once, in the order written."""
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
    """Return combinations of the choices, in a random but fixed order; at most `MOST_COMBINATIONS`."""
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
    """Compile a pattern line; repeat the pattern as often as its weight says."""
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
