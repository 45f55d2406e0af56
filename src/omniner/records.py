"""Define the four shared record types and their JSON lines.

A corpus consists of `Sentence`s with their `Entity` items, a model's answer to a sentence is a `Prediction`, and an
`Issue` is something that a reader, aligner, encoder or parser could not use. All four are plain values: no torch, no
I/O, cheap to create by the hundred thousand. Offsets are half-open and count code points of the original text, so
`text[start:end] == entity.text` always holds. Both offsets are None if only the surface is known (answers of a
generative model, the official prediction files); `corpus.align` finds offsets for such surfaces.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from numbers import Real
from typing import Any, NamedTuple, Self, TypeVar

from omniner.registry import ISSUE_CODES

log = logging.getLogger("omniner")

K = TypeVar("K")

SCORE_DIGITS = 4  # of a confidence: more would depend on the batch

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

    def _asdict(self) -> dict[str, Any]:
        return super()._asdict() | {"score": self.score}


def with_score(entity: Entity, score: object) -> Entity:
    """Return an entity with a confidence of four digits; the entity itself if this is no number from 0 to 1."""
    if isinstance(score, bool) or not isinstance(score, Real) or score < 0 or not score <= 1:
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
        reason: why it is not ok, or what was left out.
        prompt_sha: digest of the prompt.
        engine: what produced it.
        left_out: number of entities that `decoding.min_score` left out.
    """

    id: str
    entities: list[Entity] = field(default_factory=list)
    raw: str = ""
    parse: str = "ok"
    reason: str = ""
    prompt_sha: str = ""
    engine: str = ""
    left_out: int = 0


class _IssueFields(NamedTuple):
    code: str
    message: str
    file: str = ""
    line: int = 0
    id: str = ""
    unread: float = 0.0


class Issue(_IssueFields):
    """Something that could not be used as it was; nothing is dropped without an issue.

    Attributes:
        code: a kind to count by, one of `ISSUE_CODES`, such as `bad-json`.
        message: what was found.
        file, line: where, the line from 1; 0 = the file as a whole.
        id: of the sentence, if it is about one.
        unread: the share of the file that was not read because of it; 0 = at most one record.

    A code that is not among them, as an extension may have, is warned of once and shown without a meaning.
    """

    __slots__ = ()

    def __new__(cls, code: str, message: str, file: str = "", line: int = 0, id: str = "", unread: float = 0.0) -> Self:
        """Create an issue."""
        if code not in ISSUE_CODES:
            _warn_of(code)
        return super().__new__(cls, code, message, file, line, id, unread)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return " ".join(part for part in (place, self.id, f"[{self.code}]", self.message) if part)


@cache
def _warn_of(code: str) -> None:
    """Warn of a code without a meaning, once in a process."""
    log.warning("issue code %r has no meaning: add it to ISSUE_CODES, so that pages can say what to do", code)


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


def confident(entities: Iterable[Entity], least: float | None) -> list[Entity]:
    """Return the entities with at least this confidence, none of those without one; all entities for 0 or None."""
    return [one for one in entities if not least or (one.score is not None and one.score >= least)]


def without_unsure(prediction: Prediction, least: float | None) -> Prediction:
    """Return a prediction with the `confident` entities; `left_out` counts the others."""
    kept = confident(prediction.entities, least)
    unsure = len(prediction.entities) - len(kept)
    return replace(prediction, entities=kept, left_out=prediction.left_out + unsure) if unsure else prediction


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
    for name in ("raw", "parse", "reason", "prompt_sha", "engine", "left_out"):
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
