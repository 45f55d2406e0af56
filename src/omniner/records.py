"""Define the four shared record types, their JSON lines, and offsets for surfaces that have none.

A corpus consists of `Sentence`s with their `Entity` items, a model's answer to a sentence is a `Prediction`, and an
`Issue` is something that a reader, aligner, encoder or parser could not use. All four are plain values: no torch, no
I/O, cheap to create by the hundred thousand. Offsets are half-open and count code points of the original text, so
`text[start:end] == entity.text` always holds. Both offsets are None if only the surface is known (answers of a
generative model, the official prediction files).

Surfaces without offsets are located in order: the k-th mention gets the k-th occurrence. Occurrences are counted from
the left and do not overlap each other. One rule takes precedence: an occurrence inside a longer listed mention (北京 in
北京大学) is used only if no free one is left. This is a guess wherever a surface occurs more often than it is listed;
real offsets are always better. If mentions are listed in reading order, as in answers, a guess that contradicts that
order gives way to offsets that do not (`locate_listed`).
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

K = TypeVar("K")

SCORE_DIGITS = 4  # of a confidence: more would depend on the batch
MOST_PLACES = 64  # of one surface that are tried in reading order, from the first that it may have

_NONE = (1_000_000_000, -1)  # more overlaps than there can be
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Entity(NamedTuple):
    """One mention: its surface, its category and, if known, its offsets `[start, end)` in the text."""

    text: str
    category: str
    start: int | None = None
    end: int | None = None

    @property
    def score(self) -> float | None:
        """The model's confidence in it, from 0 to 1; None if unknown (see `with_score`)."""
        return None


class ScoredEntity(Entity):
    """An entity with a model's confidence in it. It equals the same entity without one: only what was found counts."""

    score: float | None = None

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, score={self.score})"

    def _replace(self, **changes: Any) -> ScoredEntity:
        changed = super()._replace(**changes)
        changed.score = self.score
        return changed


def with_score(entity: Entity, score: object) -> Entity:
    """Return an entity with a confidence of four digits; the entity itself if this is no number from 0 to 1."""
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        return entity
    scored = ScoredEntity(*entity)
    scored.score = round(float(score), SCORE_DIGITS)
    return scored


@dataclass(slots=True)
class Sentence:
    """One sentence with its gold entities.

    Attributes:
        id: unique in its corpus.
        text: as it is in the file.
        entities: empty both if there are none and if nobody labelled the sentence: see `is_unlabeled`.
        post_id: of the post that it is from, if any; splits never separate sentences of one post.
        meta: additional values that the file holds for its user.
    """

    id: str
    text: str
    entities: list[Entity] = field(default_factory=list)
    post_id: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Prediction:
    """A model's answer to one sentence.

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
    """Something that could not be used as it was; nothing is dropped without an issue.

    Attributes:
        code: a short kebab-case kind to count by, such as `bad-json`.
        message: what was found.
        file, line: where, the line from 1; 0 = the file as a whole.
        id: of the sentence, if it is about one.
        unread: the share of the file that was not read because of it; 0 = at most one record.
    """

    code: str
    message: str
    file: str = ""
    line: int = 0
    id: str = ""
    unread: float = 0.0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return " ".join(part for part in (place, self.id, f"[{self.code}]", self.message) if part)


def count_codes(issues: Iterable[Issue]) -> dict[str, int]:
    """Count issues by their codes, sorted by code."""
    return dict(sorted(Counter(issue.code for issue in issues).items()))


def ranked(counts: Mapping[K, int], top: int | None = None) -> list[tuple[K, int]]:
    """Sort counts, largest first (only the `top` largest, if given); equal ones by name, independent of their order."""

    def rank(item: tuple[K, int]) -> tuple[int, K]:
        return -item[1], item[0]

    return sorted(counts.items(), key=rank) if top is None else heapq.nsmallest(top, counts.items(), key=rank)


def post_key(sentence: Sentence) -> tuple[bool, str]:
    """Return (has_post, id): the post's id, or the sentence's own."""
    return bool(sentence.post_id), sentence.post_id or sentence.id


def post_or_text(sentence: Sentence) -> str:
    """Return a key for the post of a sentence; without a post, equal texts get the same key, whatever their ids."""
    return f"post {sentence.post_id}" if sentence.post_id else f"text {sentence.text}"


UNLABELED = "unlabeled"
"""The key of `Sentence.meta` that marks, with `True`, a sentence that nobody labelled."""
PREDICTED_BY = "predicted_by"
"""The key of `Sentence.meta` that names the model that predicted the entities."""


def unlabeled_sentence(id: str, text: str) -> Sentence:
    """Create a sentence that nobody labelled, which is not the same as one without entities."""
    return Sentence(id, text, meta={UNLABELED: True})


def is_unlabeled(sentence: Sentence) -> bool:
    """Return whether a sentence came without labels; it must not be used for training or scoring."""
    return sentence.meta.get(UNLABELED) is True


def predicted_by(engine: object) -> str:
    """Return the value of `PREDICTED_BY` for the `engine` of a prediction, which may be missing."""
    return str(engine or "omniner")


def tagged_sentence(sentence: Sentence, prediction: Prediction) -> Sentence:
    """Return the sentence with the entities that a model found, and with the mark that it did."""
    meta = own_meta(sentence) | {PREDICTED_BY: predicted_by(prediction.engine)}
    return replace(sentence, entities=prediction.entities, meta=meta)


def own_meta(sentence: Sentence) -> dict[str, Any]:
    """Return `meta` without the marks of unlabelled and predicted sentences: formats write these in their own way."""
    return {key: value for key, value in sentence.meta.items() if key not in (UNLABELED, PREDICTED_BY)}


def has_scores(sentence: Sentence) -> bool:
    """Return whether any entity of a sentence has a confidence."""
    return any(entity.score is not None for entity in sentence.entities)


def entity_to_json(entity: Entity) -> dict[str, Any]:
    """Return the JSON object of an entity, without unknown offsets and an unknown confidence."""
    item: dict[str, Any] = {"text": entity.text, "category": entity.category}
    if entity.start is not None:
        item["start"], item["end"] = entity.start, entity.end
    if entity.score is not None:
        item["score"] = entity.score
    return item


def sentence_to_json(sentence: Sentence) -> dict[str, Any]:
    """Return the JSON object of a sentence, without empty optional fields."""
    item: dict[str, Any] = {"id": sentence.id, "text": sentence.text}
    item["entities"] = [entity_to_json(entity) for entity in sentence.entities]
    if sentence.post_id is not None:
        item["post_id"] = sentence.post_id
    if sentence.meta:
        item["meta"] = sentence.meta
    return item


def is_unread(prediction: Prediction) -> bool:
    """Tell whether a prediction is only the text of another program's model, and nothing has made entities of it."""
    return bool(prediction.raw) and not prediction.entities and prediction.parse == "ok" and not prediction.engine


def prediction_to_json(prediction: Prediction, text: str | None = None) -> dict[str, Any]:
    """Return the JSON object of a prediction, with the sentence's text if given and without empty fields.

    One that is only a text has no entities, so that whoever reads the object reads the text.
    """
    item: dict[str, Any] = {"id": prediction.id} if text is None else {"id": prediction.id, "text": text}
    if not is_unread(prediction):
        item["entities"] = [entity_to_json(entity) for entity in prediction.entities]
    for name in ("raw", "parse", "reason", "prompt_sha", "engine"):
        if value := getattr(prediction, name):
            item[name] = value
    return item


def mark_entities(text: str, entities: Iterable[Entity], form: str = "[{text}|{category}]") -> str:
    """Mark the entities in a sentence: `去喝[小满|品牌]的茶`.

    Entities without offsets, and those that overlap an earlier one, follow the sentence.

    Args:
        text: of the sentence.
        entities: in any order.
        form: of an entity; `{text}` and `{category}` are replaced by its own.
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
    """Return a JSON line without its newline, with Chinese unescaped; escape lone surrogates, which UTF-8 cannot
    encode.
    """
    line = json.dumps(item, ensure_ascii=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(item)
    return line


def content_digest(sentences: Sequence[Sentence]) -> str:
    """Digest the content of sentences, independent of the file or generator that they are from: equal splits, equal
    digest. Confidences do not count.
    """
    digest = hashlib.sha256()
    for sentence in sentences:
        if has_scores(sentence):
            sentence = replace(sentence, entities=[Entity(*entity) for entity in sentence.entities])
        digest.update(to_line(sentence_to_json(sentence)).encode())
    return digest.hexdigest()[:16]


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates by U+FFFD, because UTF-8 and tokenizers reject them. The length stays the same."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def storable(text: str) -> str:
    """Escape lone surrogates as `\\udxxx`, so that UTF-8 can encode the text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def match_texts(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """Return for each of `ours` the index of an equal text in `theirs`; the k-th of equal texts matches the k-th there.

    Empty texts match nothing.
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
    """Match sentences to known ids by text, if that matches more than their own ids do.

    Ids that a reader generated are numbers: they can follow another order, or the name of another file.

    Args:
        sentences: with ids of any origin.
        known: id -> text, in the order of their file.

    Returns:
        The known id of each sentence, or None if its text is not known (see `match_texts`). Instead of the list, None
        if the sentences' own ids match as many.
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
        surfaces: the mentions in their listed order; an empty one is never found.
        taken: `[start, end)` of mentions whose offsets are known. An occurrence with exactly such offsets is not used
            again; one that overlaps them is used only if no free one is left.

    Returns:
        A start for each surface, None if the text has no occurrence left for it.
    """
    known = set(taken)
    covered = bytearray(len(text))
    for start, end in sorted(known):
        covered[start:end] = b"\1" * (end - start)
    mentions: dict[str, list[int]] = {}
    for index, surface in enumerate(surfaces):
        mentions.setdefault(surface, []).append(index)
    starts: list[int | None] = [None] * len(surfaces)
    # Longest first, so that a long mention covers its span before a part of it is searched for; equal lengths in listed
    # order (the sort is stable).
    for surface, indices in sorted(mentions.items(), key=lambda item: -len(item[0])):
        places = _choose(text, surface, len(indices), covered, known)
        for index, place in zip(indices, places, strict=False):
            starts[index] = place
            covered[place : place + len(surface)] = b"\1" * len(surface)
    return starts


def _choose(text: str, surface: str, count: int, covered: bytearray, known: set[tuple[int, int]]) -> list[int]:
    """Return at most `count` starts of the surface, left to right, preferring free occurrences to overlapping ones."""
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
    """Create an entity for each (surface, category) pair, without offsets if the surface is not in the text.

    `align_surfaces` finds the offsets. A surface listed more often than it occurs shares the first of its spans that
    its category does not have yet, so one mention may have two categories.

    Args:
        text: the sentence.
        pairs: the mentions in their listed order.
        known: mentions whose offsets are known.

    Returns:
        An entity for each pair, in their order; None if the pair only repeats another one.
    """
    spans = [(start, end) for _, _, start, end in known if start is not None and end is not None]
    return _entities_at(pairs, align_surfaces(text, [surface for surface, _ in pairs], spans), known)


def locate_listed(text: str, pairs: Sequence[tuple[str, str]]) -> list[Entity | None]:
    """Create entities as `locate_pairs` does, for pairs listed in reading order, as answers are.

    If its offsets contradict that order, those of `rising_starts` are used, if there are any: 北京 and then 北京大学
    both stand at the start of 北京大学在北京.
    """
    starts = align_surfaces(text, [surface for surface, _ in pairs])
    placed = [(index, pairs[index][0], start) for index, start in enumerate(starts) if start is not None]
    spans = [(start, start + len(surface)) for _, surface, start in placed]
    if any(left >= right for left, right in pairwise(spans)):
        rising = rising_starts(text, [surface for _, surface, _ in placed])
        for (index, _, _), start in zip(placed, rising or (), strict=False):
            starts[index] = start
    return _entities_at(pairs, starts)


def rising_starts(text: str, surfaces: Sequence[str]) -> list[int] | None:
    """Find starts for surfaces in reading order: each starts after the previous one, or there and ends later.

    Among all such choices the one with the fewest overlaps of neighbours is used; among equals, the one whose last
    start is leftmost, then the last but one, and so on. At most `MOST_PLACES` occurrences of a surface are tried.

    Args:
        text: the sentence.
        surfaces: the mentions, at least one, none of them empty.

    Returns:
        A start for each surface; None if there is no such choice.
    """
    rows = _rows_of_places(text, surfaces)
    if rows is None:
        return None
    # best[n]: the fewest overlaps up to one of the first n places of the row before, and the number of that place
    best = [_NONE, *[(0, 0)] * len(rows[0])]
    steps: list[list[int]] = []  # for each place of the later rows: the number of the place before it
    for number, row in enumerate(rows[1:], 1):
        before, length, size = rows[number - 1], len(surfaces[number - 1]), len(surfaces[number])
        step: list[int] = []
        fewest = [_NONE]
        apart = behind = 0  # how many places of the row before end before this place, and how many come before it
        for place in row:
            while apart < len(before) and before[apart] + length <= place:
                apart += 1
            while behind < len(before) and before[behind] < place + (length < size):
                behind += 1
            overlaps, chosen = min(best[apart], (best[behind][0] + 1, best[behind][1]))
            fewest.append(min(fewest[-1], (overlaps, len(step))))
            step.append(chosen)
        steps.append(step)
        best = fewest
    chosen = best[-1][1]
    starts = [rows[-1][chosen]]
    for row, step in zip(reversed(rows[:-1]), reversed(steps), strict=True):
        chosen = step[chosen]
        starts.append(row[chosen])
    return starts[::-1]


def _rows_of_places(text: str, surfaces: Sequence[str]) -> list[list[int]] | None:
    """Return the occurrences of each surface, from the first that the previous one allows; None if any has none."""
    rows: list[list[int]] = []
    first, length = -1, 0
    for surface in surfaces:
        row: list[int] = []
        place = text.find(surface, first if first >= 0 and length < len(surface) else first + 1)
        while place >= 0 and len(row) < MOST_PLACES:
            row.append(place)
            place = text.find(surface, place + 1)
        if not row:
            return None
        rows.append(row)
        first, length = row[0], len(surface)
    return rows


def _entities_at(
    pairs: Sequence[tuple[str, str]], starts: Sequence[int | None], known: Sequence[Entity] = ()
) -> list[Entity | None]:
    """Create the entities of pairs at their starts; `locate_pairs` says what happens without one."""
    taken: set[tuple[str, str, int]] = set()
    places: dict[str, list[int]] = {}
    for surface, category, begin, _ in known:
        if begin is not None:
            places.setdefault(surface, []).append(begin)
            taken.add((surface, category, begin))
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
    """Map offsets in UTF-16 units, as browser tools count them, to offsets in the text, including its end.

    A character outside the basic plane, such as an emoji, has two units.
    """
    places: dict[int, int] = {}
    units = 0
    for index, character in enumerate(text):
        places[units] = index
        units += 2 if character > "\uffff" else 1
    places[units] = len(text)
    return places
