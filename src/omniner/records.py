"""The four records that everything else passes on, their JSON lines, and places for surfaces without offsets.

A corpus is made of `Sentence`s with their `Entity` items, a model says a `Prediction` about a sentence, and an
`Issue` is something that a reader, aligner, encoder or parser could not take. All four are plain values: no torch, no
I/O, cheap to make by the hundred thousand. Offsets are half-open and counted in code points of the original text, so
`text[start:end] == entity.text` always holds; both offsets are None where only the surface is known (answers of a
generative model, the official prediction files).

Surfaces that come without offsets are placed by order: the k-th mention gets the k-th occurrence. Occurrences are
counted from the left and do not overlap each other. One thing is put before that count: an occurrence inside a longer
listed mention (北京 in 北京大学) is used only when no free one is left. The rule is a guess wherever a surface
occurs more often than it is listed; real offsets are always better.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

K = TypeVar("K")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Entity(NamedTuple):
    """One mention: its surface, its category and, where known, its place `[start, end)` in the text."""

    text: str
    category: str
    start: int | None = None
    end: int | None = None


@dataclass(slots=True)
class Sentence:
    """One sentence with its gold entities.

    Attributes:
        id: unique in its corpus.
        text: as it is in the file.
        entities: empty both where there are none and where nobody looked: see `is_unlabeled`.
        post_id: of the post it is from, if any; sentences of one post never part between splits.
        meta: what the file carries along for its user.
    """

    id: str
    text: str
    entities: list[Entity] = field(default_factory=list)
    post_id: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Prediction:
    """What a model says about one sentence.

    Attributes:
        id: of the sentence.
        entities: found in it.
        raw: the model's own text; empty for a tagger.
        parse: how `raw` was read: ok | repaired | failed (then there are no entities).
        reason: why it is not ok.
        prompt_sha: digest of the prompt.
        engine: what produced it.
    """

    id: str
    entities: list[Entity] = field(default_factory=list)
    raw: str = ""
    parse: str = "ok"
    reason: str = ""
    prompt_sha: str = ""
    engine: str = ""


class Issue(NamedTuple):
    """Something that could not be taken as it was; nothing is dropped without one of these.

    Attributes:
        code: a short kebab-case kind to count by, such as `bad-json`.
        message: what was found.
        file, line: where, the line from 1; 0 = the file as a whole.
        id: of the sentence, where it is about one.
    """

    code: str
    message: str
    file: str = ""
    line: int = 0
    id: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return " ".join(part for part in (place, self.id, f"[{self.code}]", self.message) if part)


def count_codes(issues: Iterable[Issue]) -> dict[str, int]:
    """Count issues by their codes, in the order of the codes."""
    return dict(sorted(Counter(issue.code for issue in issues).items()))


def ranked(counts: Mapping[K, int], top: int | None = None) -> list[tuple[K, int]]:
    """Sort counts, the largest first (the `top` largest only); equal ones by name, whatever order they were met in."""

    def rank(item: tuple[K, int]) -> tuple[int, K]:
        return -item[1], item[0]

    return sorted(counts.items(), key=rank) if top is None else heapq.nsmallest(top, counts.items(), key=rank)


def post_key(sentence: Sentence) -> tuple[bool, str]:
    """Name the post of a sentence in its corpus: whether it has one, and its id; without one, that of the sentence."""
    return bool(sentence.post_id), sentence.post_id or sentence.id


def post_or_text(sentence: Sentence) -> str:
    """Name the post of a sentence by what it says: where there is no post, equal texts are one, whatever their ids."""
    return f"post {sentence.post_id}" if sentence.post_id else f"text {sentence.text}"


UNLABELED = "unlabeled"
"""The key of `Sentence.meta` that says, with `True`, that nobody labelled a sentence."""
PREDICTED_BY = "predicted_by"
"""The key of `Sentence.meta` that says that a model found the entities, and which."""


def unlabeled_sentence(id: str, text: str) -> Sentence:
    """Make a sentence that nobody labelled, which is not the same as one without entities."""
    return Sentence(id, text, meta={UNLABELED: True})


def is_unlabeled(sentence: Sentence) -> bool:
    """Tell whether a sentence came without labels, so that it must not be trained or scored on."""
    return sentence.meta.get(UNLABELED) is True


def own_meta(sentence: Sentence) -> dict[str, Any]:
    """Give `meta` without the marks of unlabelled and of predicted sentences: formats say that in their own way."""
    return {key: value for key, value in sentence.meta.items() if key not in (UNLABELED, PREDICTED_BY)}


def entity_to_json(entity: Entity) -> dict[str, Any]:
    """Make the JSON object of an entity; unknown offsets are left out."""
    item: dict[str, Any] = {"text": entity.text, "category": entity.category}
    if entity.start is not None:
        item["start"], item["end"] = entity.start, entity.end
    return item


def sentence_to_json(sentence: Sentence) -> dict[str, Any]:
    """Make the JSON object of a sentence; empty optional fields are left out."""
    item: dict[str, Any] = {"id": sentence.id, "text": sentence.text}
    item["entities"] = [entity_to_json(entity) for entity in sentence.entities]
    if sentence.post_id is not None:
        item["post_id"] = sentence.post_id
    if sentence.meta:
        item["meta"] = sentence.meta
    return item


def prediction_to_json(prediction: Prediction, text: str | None = None) -> dict[str, Any]:
    """Make the JSON object of a prediction, with the sentence's text if it is given; empty fields are left out."""
    item: dict[str, Any] = {"id": prediction.id} if text is None else {"id": prediction.id, "text": text}
    item["entities"] = [entity_to_json(entity) for entity in prediction.entities]
    for name in ("raw", "parse", "reason", "prompt_sha", "engine"):
        if value := getattr(prediction, name):
            item[name] = value
    return item


def mark_entities(text: str, entities: Iterable[Entity], form: str = "[{text}|{category}]") -> str:
    """Write a sentence with its entities in place: `去喝[小满|品牌]的茶`.

    Entities without a place, and those that overlap an earlier one, follow the sentence.

    Args:
        text: of the sentence.
        entities: in any order.
        form: of an entity; `{text}` and `{category}` stand for its own.
    """
    marked, rest, at = "", "", 0
    for entity in sorted(entities, key=lambda one: (one.start is None, one.start or 0, -(one.end or 0))):
        shown = form.format(text=entity.text, category=entity.category)
        if entity.start is None or entity.end is None or entity.start < at:
            rest += f" +{shown}"
        else:
            marked += text[at : entity.start] + shown
            at = entity.end
    return marked + text[at:] + rest


def to_line(item: Mapping[str, Any]) -> str:
    """Write a JSON line, without its newline, Chinese readable; a lone surrogate is escaped: UTF-8 cannot hold it."""
    line = json.dumps(item, ensure_ascii=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(item)
    return line


def content_digest(sentences: Sequence[Sentence]) -> str:
    """Digest what the sentences say, whatever file or generator they came from: equal splits, equal digest."""
    digest = hashlib.sha256()
    for sentence in sentences:
        digest.update(to_line(sentence_to_json(sentence)).encode())
    return digest.hexdigest()[:16]


def replace_surrogates(text: str) -> str:
    """Put U+FFFD for lone surrogates: neither UTF-8 nor a tokenizer takes them. The length stays."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def storable(text: str) -> str:
    """Write lone surrogates as `\\udxxx`, so that UTF-8 can hold the text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def match_texts(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """Find equal texts: the place in `theirs` of each of `ours`; the k-th of equal ones is the k-th there.

    Empty texts, which say nothing, are equal to none.
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(theirs):
        if text:
            places.setdefault(text, []).append(place)
    met: dict[str, int] = {}
    found: list[int | None] = []
    for text in ours:
        count = met[text] = met.get(text, -1) + 1
        there = places.get(text, [])
        found.append(there[count] if count < len(there) else None)
    return found


def ids_by_text(sentences: Sequence[Sentence], known: Mapping[str, str]) -> list[str | None] | None:
    """Find out which sentences these are by their texts, where texts tell that of more of them than their ids do.

    Ids that readers made up are numbers: of another order, or after the name of another file.

    Args:
        sentences: with ids of whatever origin.
        known: id -> text, in the order of their file.

    Returns:
        The known id of each sentence, None for one that is not known: see `match_texts`. None alone where ids do.
    """
    by_id = sum(known.get(sentence.id) == sentence.text for sentence in sentences)
    ids = list(known)
    places = match_texts([sentence.text for sentence in sentences], list(known.values()))
    if sum(place is not None for place in places) <= by_id:
        return None
    return [None if place is None else ids[place] for place in places]


def align_surfaces(text: str, surfaces: Sequence[str], taken: Iterable[tuple[int, int]] = ()) -> list[int | None]:
    """Find the start of each surface in a text.

    Args:
        text: the sentence.
        surfaces: the mentions in their listed order; an empty one never aligns.
        taken: `[start, end)` of mentions whose place is known already. An occurrence at exactly such a place is not
            given out again, one that overlaps it only when no free one is left.

    Returns:
        A start for each surface, None where the text has no occurrence left for it.
    """
    known = set(taken)
    covered = bytearray(len(text))
    for start, end in sorted(known):
        covered[start:end] = b"\1" * (end - start)
    mentions: dict[str, list[int]] = {}
    for index, surface in enumerate(surfaces):
        mentions.setdefault(surface, []).append(index)
    starts: list[int | None] = [None] * len(surfaces)
    # Longest first, so that a long mention covers its place before a part of it looks for one; equal lengths in
    # listed order (the sort is stable).
    for surface, indices in sorted(mentions.items(), key=lambda item: -len(item[0])):
        places = _choose(text, surface, len(indices), covered, known)
        for index, place in zip(indices, places, strict=False):
            starts[index] = place
            covered[place : place + len(surface)] = b"\1" * len(surface)
    return starts


def _choose(text: str, surface: str, count: int, covered: bytearray, known: set[tuple[int, int]]) -> list[int]:
    """At most `count` places of the surface, left to right: the free occurrences, then those that overlap."""
    size = len(surface)
    free: list[int] = []
    overlapping: list[int] = []
    place = text.find(surface) if surface else -1
    while place >= 0 and len(free) < count:
        if (place, place + size) not in known:
            is_covered = covered.find(1, place, place + size) >= 0
            (overlapping if is_covered else free).append(place)
        place = text.find(surface, place + size)
    return sorted(free + overlapping[: count - len(free)])


def locate_pairs(text: str, pairs: Sequence[tuple[str, str]], known: Sequence[Entity] = ()) -> list[Entity | None]:
    """Make an entity of each (surface, category) pair, without offsets where the surface is not in the text.

    `align_surfaces` finds the places. A surface listed more often than it occurs shares the first place that its
    category does not have yet: so one mention may have two categories.

    Args:
        text: the sentence.
        pairs: the mentions in their listed order.
        known: mentions whose places are known already.

    Returns:
        An entity for each pair, in their order; None where the pair only repeats another one.
    """
    taken: set[tuple[str, str, int]] = set()
    places: dict[str, list[int]] = {}
    spans: list[tuple[int, int]] = []
    for surface, category, begin, end in known:
        if begin is not None and end is not None:
            spans.append((begin, end))
            places.setdefault(surface, []).append(begin)
            taken.add((surface, category, begin))
    starts = align_surfaces(text, [surface for surface, _ in pairs], spans)
    for (surface, category), start in zip(pairs, starts, strict=True):
        if start is not None:
            places.setdefault(surface, []).append(start)
            taken.add((surface, category, start))
    entities: list[Entity | None] = []
    for (surface, category), start in zip(pairs, starts, strict=True):
        if start is None and surface in places:
            start = next((place for place in places[surface] if (surface, category, place) not in taken), None)
            if start is None:
                entities.append(None)
                continue
            taken.add((surface, category, start))
        end = None if start is None else start + len(surface)
        entities.append(Entity(surface, category, start, end))
    return entities


def utf16_places(text: str) -> dict[int, int]:
    """Map offsets in UTF-16 units, as browser tools count, to places in the text, its end included.

    A character outside the basic plane, such as an emoji, is two units.
    """
    places: dict[int, int] = {}
    units = 0
    for index, character in enumerate(text):
        places[units] = index
        units += 2 if character > "\uffff" else 1
    places[units] = len(text)
    return places
