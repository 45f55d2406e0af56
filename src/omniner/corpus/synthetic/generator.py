"""Posts of invented sentences, with exact offsets, from a seed.

Each split has its own stream of random numbers, seeded by the corpus seed and the split's name: asking for more
sentences of a split keeps the first ones, and no other split changes. A post has a topic and one to five sentences;
a sentence joins one to three clauses of that topic, or is small talk without a mention. The price is a handful of
random draws per sentence; nothing depends on hashing order.

A share `NOISE` of the mentions is annotated wrongly on purpose (left out, cut or stretched by a character, or put
into a sister category), because real corpora are: it gives the tools that look for suspect annotation something to
find. `Sentence.meta["noise"]` of such a sentence holds the kind and the mention as it should be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

from omniner.corpus import taxonomy
from omniner.corpus.synthetic import grammar
from omniner.corpus.synthetic.grammar import Pattern, Topic
from omniner.errors import UserError
from omniner.records import Entity, Sentence, entity_to_json

NOISE = 0.015  # share of mentions annotated wrongly
CHAT = 0.085  # share of sentences of small talk
OPENING = 0.18  # share of sentences with an interjection before the first clause
TAG = 0.1  # share of sentences that end in hashtags
CLAUSES = (1, 1, 1, 1, 2, 2)  # clauses per sentence, one drawn
LONGEST_POST = 5  # sentences

Random = Callable[[], float]
T = TypeVar("T")


def generate(size: Mapping[str, int], seed: int) -> dict[str, list[Sentence]]:
    """Invented sentences for each split of `size` (split name -> number of sentences), the same for a seed.

    Ids are `<split>-<number>`, `post_id` is `<split>-p<number>`; no post is in two splits.
    """
    for split, count in size.items():
        if count < 0:
            raise UserError(f"data.size.{split}", f"{count} sentences cannot be made", "Give 0 or more.")
    return {split: _split(split, count, random.Random(f"{seed}/{split}").random) for split, count in size.items()}


def _split(split: str, count: int, draw: Random) -> list[Sentence]:
    """The first `count` sentences of a split's endless stream."""
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
    """Every topic as many times as its weight says."""
    return tuple(topic for topic in grammar.load().topics for _ in range(topic.weight))


def _post(draw: Random) -> Iterator[tuple[str, list[Entity], dict[str, Any]]]:
    """The sentences of one post. Words of `{list@}` slots are drawn once and kept in `fixed`."""
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
    """One sentence: its text and its mentions from left to right."""
    loaded = grammar.load()
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
    """One item, each as likely as the others."""
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
    """The other categories of each category's primary."""
    official = taxonomy.load(taxonomy.OFFICIAL)
    by_primary: dict[str, list[str]] = {}
    for category in official.categories:
        by_primary.setdefault(official.primary(category), []).append(category)
    return {one: tuple(c for c in group if c != one) for group in by_primary.values() for one in group}


def _disturbed(text: str, entities: list[Entity], draw: Random) -> tuple[list[Entity], dict[str, Any]]:
    """Annotate one mention wrongly; the second value tells what was done to which mention."""
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
