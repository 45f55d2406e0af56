"""Sentences that every model gets right, and labels that every model contradicts in the same way.

This is the filter of the OmniNER2025 paper (its section 3.3). In go the sentences, the part of the corpus each is in,
and for each part what the model that was trained on it says of all others; out comes a `Verdict` for each sentence. A
sentence is easy if all models that did not see it give exactly its entities: it teaches nothing that the rest does not
teach. The same models find labels to doubt, for the expert: sentences of which all say the same and gold something
else, and mentions that all give in the place of one that none gives, whatever they say of the rest. An answer that
could not be read, or is not there, is never right and never alike, so nothing is removed for want of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, NamedTuple

from omniner.corpus.adjudication import AnnotatedSentence, Annotation, Decision, annotation_of
from omniner.corpus.align import align
from omniner.records import Entity, Issue, Prediction, Sentence, entity_to_json, sentence_to_json

QUEUE_NAMES = ("gold", "models")  # whose proposals the expert sees
_UNITS: dict[str, Callable[[Entity], Any]] = {"pair": itemgetter(0, 1), "span": itemgetter(1, 2, 3)}


@dataclass(frozen=True, slots=True)
class ReviewedSentence:
    """What became of one sentence.

    Attributes:
        sentence: with its gold entities.
        fold: number of the part that it is in, whose model says nothing of it.
        answers: of the other models, in their order; None = none, or unreadable.
        right: how many of them give exactly the gold entities.
        doubt: sentence (all answers are the same, and another one) | mention (they agree about some) | empty.
        missing: what gold has and no model gives, where they agree on something else.
        extra: what all models give there and gold has not.
    """

    sentence: Sentence
    fold: int
    answers: tuple[Annotation | None, ...]
    right: int
    doubt: str = ""
    missing: Annotation = ()
    extra: Annotation = ()

    @property
    def is_easy(self) -> bool:
        """Whether all models are right."""
        return self.right == len(self.answers)

    @property
    def proposed(self) -> Annotation:
        """The entities as the models would have them where they agree, and gold elsewhere."""
        left = [entity for entity in self.sentence.entities if entity not in self.missing]
        return annotation_of([*left, *self.extra])

    @property
    def difference(self) -> tuple[tuple[str, str], ...]:
        """What kind of correction the models propose: (signed category, surface) of each entity that differs."""
        signed = [("-" + item.category, item.text) for item in self.missing]
        return tuple(sorted(signed + [("+" + item.category, item.text) for item in self.extra]))

    def to_json(self) -> dict[str, Any]:
        """One line of `votes.jsonl`."""
        said = sum(answer is not None for answer in self.answers)
        what = "removed" if self.is_easy else "suspect" if self.doubt else "kept"
        return {"id": self.sentence.id, "fold": self.fold + 1, "right": self.right, "answers": said, "verdict": what}


def review(
    sentences: Sequence[Sentence], folds: Sequence[int], opinions: Sequence[Mapping[str, Prediction]], unit: str
) -> list[ReviewedSentence]:
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
) -> ReviewedSentence:
    answers = tuple(
        _readable(said.get(sentence.id)) for number, said in enumerate(opinions) if number != fold
    )  # fmt: skip
    gold = {key(entity) for entity in sentence.entities}
    said = [None if answer is None else {key(entity) for entity in answer} for answer in answers]
    right = said.count(gold)
    read = [one for one in said if one is not None]
    if len(read) < len(said) or right == len(said):
        return ReviewedSentence(sentence, fold, answers, right)
    common, given = set.intersection(*read), set.union(*read)
    # In the unit `pair` a key may stand for several mentions: the places of what is extra are those of the first model.
    extra = [entity for entity in answers[0] or () if key(entity) in common - gold]
    missing = [entity for entity in sentence.entities if key(entity) not in given]
    doubt = "sentence" if all(len(one) == len(common) for one in read) else "mention"
    if doubt == "mention":
        missing = [entity for entity in missing if any(_meet(entity, other) for other in extra)]
        certain = [entity for entity in sentence.entities if entity not in missing]
        extra = [entity for entity in extra if not any(_meet(entity, other) for other in certain)]
    if not extra and doubt == "mention":
        return ReviewedSentence(sentence, fold, answers, right)
    return ReviewedSentence(sentence, fold, answers, right, doubt, annotation_of(missing), annotation_of(extra))


def _meet(one: Entity, other: Entity) -> bool:
    """Whether two entities are about the same place: as far as it is not known, whether a surface is in the other."""
    if one.start is None or one.end is None or other.start is None or other.end is None:
        return one.text in other.text or other.text in one.text
    return one.start < other.end and other.start < one.end


def _readable(prediction: Prediction | None) -> Annotation | None:
    return None if prediction is None or prediction.parse == "failed" else annotation_of(prediction.entities)


def missing_answer_issues(verdicts: Iterable[ReviewedSentence]) -> list[Issue]:
    """An issue for each sentence of which some model says nothing that can be read: it is kept, whatever others say."""
    return [
        Issue(
            "no-opinion",
            f"{verdict.answers.count(None)} of {len(verdict.answers)} models give no answer that can be read",
            id=verdict.sentence.id,
        )
        for verdict in verdicts
        if None in verdict.answers
    ]


class ContradictedLabel(NamedTuple):
    """A verdict whose label is doubted, and how many sentences have this difference."""

    verdict: ReviewedSentence
    times: int

    def to_json(self) -> dict[str, Any]:
        """One line of `suspects.jsonl`: the sentence with its gold, what the models propose, and the difference."""
        verdict = self.verdict
        item = sentence_to_json(verdict.sentence)
        item["proposed"] = [entity_to_json(entity) for entity in verdict.proposed]
        item["missing"] = [entity_to_json(entity) for entity in verdict.missing]
        item["extra"] = [entity_to_json(entity) for entity in verdict.extra]
        item["doubt"], item["times"] = verdict.doubt, self.times
        return item

    def to_decision(self) -> Decision:
        """For the expert's queue: gold and the models side by side, surfaces of a generative model with a place."""
        sentence = self.verdict.sentence
        sides = annotation_of(sentence.entities), self.verdict.proposed
        item = AnnotatedSentence(replace(sentence, entities=[]), tuple(_placed(sentence.text, side) for side in sides))
        return Decision(item, "queued", ())


def _placed(text: str, entities: Annotation) -> Annotation:
    """The entities with a guessed place where they have none; those that are not in the text stay without."""
    bare = [entity for entity in entities if entity.start is None]
    known = [(entity.start, entity.end) for entity in entities if entity.start is not None and entity.end is not None]
    found = [entity for entity in entities if entity.start is not None]
    for entity, start in zip(bare, align(text, [entity.text for entity in bare], known), strict=True):
        found.append(entity if start is None else entity._replace(start=start, end=start + len(entity.text)))
    return annotation_of(found)


def contradicted_labels(verdicts: Iterable[ReviewedSentence]) -> list[ContradictedLabel]:
    """The doubted sentences, the surest first.

    Sentences of which all models say the same come first, the most frequent difference at the top; then single
    mentions, simple differences before large ones.
    """
    found = [verdict for verdict in verdicts if verdict.doubt]
    times = Counter(verdict.difference for verdict in found)

    def rank(one: ContradictedLabel) -> tuple[Any, ...]:
        verdict, size = one.verdict, len(one.verdict.difference)
        by = (0, -one.times, size) if verdict.doubt == "sentence" else (1, size, -one.times)
        return (*by, verdict.difference, verdict.sentence.id)

    return sorted((ContradictedLabel(verdict, times[verdict.difference]) for verdict in found), key=rank)


class RareCategory(NamedTuple):
    """A category that too few of the kept mentions have, and its kept mentions by sentence: they are taken out."""

    category: str
    before: int  # mentions in the whole corpus
    mentions: list[tuple[str, Entity]]  # sentence id, entity


def drop_rare_categories(
    kept: Sequence[Sentence], whole: Iterable[Sentence], least: int
) -> tuple[list[Sentence], list[RareCategory]]:
    """The kept sentences without the categories of which they have fewer than `least` mentions, and those categories.

    A category that stood in the whole corpus and in no kept sentence is dropped, too.
    """
    before = Counter(entity.category for sentence in whole for entity in sentence.entities)
    after = Counter(entity.category for sentence in kept for entity in sentence.entities)
    rare = {
        category: RareCategory(category, before[category], []) for category in sorted(before) if after[category] < least
    }
    left = []
    for sentence in kept:
        for entity in sentence.entities:
            if entity.category in rare:
                rare[entity.category].mentions.append((sentence.id, entity))
        left.append(replace(sentence, entities=[item for item in sentence.entities if item.category not in rare]))
    return left, list(rare.values())
