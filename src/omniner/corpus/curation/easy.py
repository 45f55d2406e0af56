"""Sentences that every model gets right, and sentences whose label every model contradicts in the same way.

This is the filter of the OmniNER2025 paper (its section 3.3). In go the sentences, the part of the corpus each is in,
and for each part what the model that was trained on it says of all others; out comes a `Verdict` for each sentence. A
sentence is easy if all models that did not see it give exactly its entities: it teaches nothing that the rest does not
teach. Where they all give the same other entities, it is rather the label that is wrong: a suspect for the expert. An
answer that could not be read, or is not there, is never right and never alike, so nothing is removed for want of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, NamedTuple

from omniner.corpus.align import place_pairs
from omniner.corpus.curation.adjudication import Decision
from omniner.corpus.curation.matching import Item, Proposal, in_order
from omniner.records import Entity, Issue, Prediction, Sentence, entity_to_json, sentence_to_json

NAMES = ("gold", "models")  # whose proposals the expert sees
_UNITS: dict[str, Callable[[Entity], Any]] = {"pair": itemgetter(0, 1), "span": itemgetter(1, 2, 3)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one sentence.

    Attributes:
        sentence: with its gold entities.
        fold: number of the part that it is in, whose model says nothing of it.
        answers: of the other models, in their order; None = none, or unreadable.
        right: how many of them give exactly the gold entities.
        missing: if all answers are the same wrong one, what gold has and they have not.
        extra: likewise, what they have and gold has not.
    """

    sentence: Sentence
    fold: int
    answers: tuple[Proposal | None, ...]
    right: int
    missing: Proposal = ()
    extra: Proposal = ()

    @property
    def is_easy(self) -> bool:
        """Whether all models are right."""
        return self.right == len(self.answers)

    @property
    def is_suspect(self) -> bool:
        """Whether all models give the same other entities."""
        return bool(self.missing or self.extra)

    @property
    def difference(self) -> tuple[tuple[str, str], ...]:
        """What kind of correction the models propose: (signed category, surface) of each entity that differs."""
        signed = [("-" + item.category, item.text) for item in self.missing]
        return tuple(sorted(signed + [("+" + item.category, item.text) for item in self.extra]))

    def to_json(self) -> dict[str, Any]:
        """One line of `votes.jsonl`."""
        said = sum(answer is not None for answer in self.answers)
        what = "removed" if self.is_easy else "suspect" if self.is_suspect else "kept"
        return {"id": self.sentence.id, "fold": self.fold + 1, "right": self.right, "answers": said, "verdict": what}


def judge(
    sentences: Sequence[Sentence], folds: Sequence[int], opinions: Sequence[Mapping[str, Prediction]], unit: str
) -> list[Verdict]:
    """Compare what the models say with gold.

    Args:
        sentences: with unique ids.
        folds: the part of each sentence, from 0.
        opinions: for each part, what the model trained on it says: by sentence id.
        unit: what counts as the same entity: pair (surface and category) | span (place and category).
    """
    key = _UNITS[unit]
    return [_judge(sentence, fold, opinions, key) for sentence, fold in zip(sentences, folds, strict=True)]


def _judge(
    sentence: Sentence, fold: int, opinions: Sequence[Mapping[str, Prediction]], key: Callable[[Entity], Any]
) -> Verdict:
    answers = tuple(
        _readable(said.get(sentence.id)) for number, said in enumerate(opinions) if number != fold
    )  # fmt: skip
    gold = set(map(key, sentence.entities))
    keys = [None if answer is None else set(map(key, answer)) for answer in answers]
    right = keys.count(gold)
    first, theirs = answers[0], keys[0]
    if first is None or theirs is None or theirs == gold or any(one != theirs for one in keys):
        return Verdict(sentence, fold, answers, right)
    missing = in_order([entity for entity in sentence.entities if key(entity) not in theirs])
    return Verdict(
        sentence, fold, answers, right, missing, in_order([entity for entity in first if key(entity) not in gold])
    )  # fmt: skip


def _readable(prediction: Prediction | None) -> Proposal | None:
    return None if prediction is None or prediction.parse == "failed" else in_order(prediction.entities)


def unanswered(verdicts: Iterable[Verdict]) -> list[Issue]:
    """An issue for each sentence of which some model says nothing that can be read: it is kept, whatever others say."""
    return [
        Issue("no-opinion", f"{verdict.answers.count(None)} of {len(verdict.answers)} answers", id=verdict.sentence.id)
        for verdict in verdicts
        if None in verdict.answers
    ]


class Suspect(NamedTuple):
    """A verdict whose label is doubted, and how many sentences have this difference."""

    verdict: Verdict
    times: int

    def to_json(self) -> dict[str, Any]:
        """One line of `suspects.jsonl`: the sentence with its gold, what the models say, and the difference."""
        verdict = self.verdict
        item = sentence_to_json(verdict.sentence)
        item["predicted"] = [entity_to_json(entity) for entity in verdict.answers[0] or ()]
        item["missing"] = [entity_to_json(entity) for entity in verdict.missing]
        item["extra"] = [entity_to_json(entity) for entity in verdict.extra]
        item["times"] = self.times
        return item

    def to_decision(self) -> Decision:
        """For the expert's queue: gold and the models side by side, surfaces of a generative model with a place."""
        sentence = self.verdict.sentence
        sides = in_order(sentence.entities), self.verdict.answers[0] or ()
        item = Item(replace(sentence, entities=[]), tuple(_placed(sentence.text, side) for side in sides))
        return Decision(item, "queued", ())


def _placed(text: str, entities: Proposal) -> Proposal:
    if all(entity.start is not None for entity in entities):
        return entities
    found = place_pairs(text, [(entity.text, entity.category) for entity in entities])
    return in_order([entity for entity in found if entity is not None])


def suspects(verdicts: Iterable[Verdict]) -> list[Suspect]:
    """The doubted sentences; those with the same difference stand together, the most frequent first."""
    found = [verdict for verdict in verdicts if verdict.is_suspect]
    times = Counter(verdict.difference for verdict in found)
    listed = [Suspect(verdict, times[verdict.difference]) for verdict in found]
    return sorted(listed, key=lambda one: (-one.times, one.verdict.difference, one.verdict.sentence.id))


class Dropped(NamedTuple):
    """A category that too few of the kept mentions have, and its kept mentions by sentence: they are taken out."""

    category: str
    before: int  # mentions in the whole corpus
    mentions: list[tuple[str, Entity]]  # sentence id, entity


def without_rare(
    kept: Sequence[Sentence], whole: Iterable[Sentence], least: int
) -> tuple[list[Sentence], list[Dropped]]:
    """The kept sentences without the categories of which they have fewer than `least` mentions, and those categories.

    A category that stood in the whole corpus and in no kept sentence is dropped, too.
    """
    before = Counter(entity.category for sentence in whole for entity in sentence.entities)
    after = Counter(entity.category for sentence in kept for entity in sentence.entities)
    rare = {category: Dropped(category, before[category], []) for category in sorted(before) if after[category] < least}
    left = []
    for sentence in kept:
        for entity in sentence.entities:
            if entity.category in rare:
                rare[entity.category].mentions.append((sentence.id, entity))
        left.append(replace(sentence, entities=[item for item in sentence.entities if item.category not in rare]))
    return left, list(rare.values())
