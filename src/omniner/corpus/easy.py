"""Filter a corpus as in the paper's section 3.3: find sentences that every model gets right, and labels to doubt.

Each model is trained on one part of the corpus and predicts all other parts. A sentence is easy if all models that did
not see it predict exactly its entities: it teaches nothing that the rest does not teach. The same models find doubtful
labels for the expert: sentences on which all models agree against gold, and mentions that all give where none gives
gold's. An unreadable or absent answer is never right and never agrees with others, so that nothing is removed because
an answer is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, NamedTuple

from omniner.corpus.adjudication import AnnotatedSentence, Annotation, Decision, annotation_of
from omniner.corpus.align import align_surfaces
from omniner.records import Entity, Issue, Prediction, Sentence, entity_to_json, sentence_to_json

QUEUE_NAMES = ("gold", "models")  # the two sets of labels that the expert sees
_UNITS: dict[str, Callable[[Entity], Any]] = {"pair": itemgetter(0, 1), "span": itemgetter(0, 1, 2, 3)}


@dataclass(frozen=True, slots=True)
class ReviewedSentence:
    """One sentence with its models' predictions.

    Attributes:
        sentence: with its gold entities.
        fold: number of its part, whose model does not predict it.
        answers: of the other models, in their order; None = none, or unreadable.
        right: number of them that are exactly the gold entities.
        doubt: sentence (all answers are the same, and differ from gold) | mention (they agree about some) | empty.
        missing: gold entities that no model gives, where they agree on something else.
        extra: entities that all models give there and gold lacks.
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
        """Whether all models that did not see the sentence are right."""
        return self.right == len(self.answers)

    @property
    def proposed(self) -> Annotation:
        """The models' entities where they agree, and gold elsewhere."""
        left = [entity for entity in self.sentence.entities if entity not in self.missing]
        return annotation_of([*left, *self.extra])

    @property
    def difference(self) -> tuple[tuple[str, str], ...]:
        """The correction that the models propose: (signed category, surface) of each entity that differs."""
        signed = [("-" + item.category, item.text) for item in self.missing]
        return tuple(sorted(signed + [("+" + item.category, item.text) for item in self.extra]))

    def to_json(self) -> dict[str, Any]:
        """Return one line of `votes.jsonl`."""
        said = sum(answer is not None for answer in self.answers)
        what = "removed" if self.is_easy else "suspect" if self.doubt else "kept"
        return {"id": self.sentence.id, "fold": self.fold + 1, "right": self.right, "answers": said, "verdict": what}


def review(
    sentences: Sequence[Sentence], folds: Sequence[int], predictions: Sequence[Mapping[str, Prediction]], unit: str
) -> list[ReviewedSentence]:
    """Compare the models' predictions with gold.

    Args:
        sentences: with unique ids.
        folds: the part of each sentence, from 0.
        predictions: for each part, those of the model trained on it, by sentence id.
        unit: when entities are equal: pair (surface and category) | span (also offsets).
    """
    key = _UNITS[unit]
    return [_review(sentence, fold, predictions, key) for sentence, fold in zip(sentences, folds, strict=True)]


def _review(
    sentence: Sentence, fold: int, predictions: Sequence[Mapping[str, Prediction]], key: Callable[[Entity], Any]
) -> ReviewedSentence:
    others = [said.get(sentence.id) for number, said in enumerate(predictions) if number != fold]
    answers = tuple(
        None if other is None or other.parse == "failed" else annotation_of(other.entities) for other in others
    )
    gold = {key(entity) for entity in sentence.entities}
    said = [None if answer is None else {key(entity) for entity in answer} for answer in answers]
    right = said.count(gold)
    read = [one for one in said if one is not None]
    if len(read) < len(said) or right == len(said):
        return ReviewedSentence(sentence, fold, answers, right)
    common, given = set.intersection(*read), set.union(*read)
    # In the unit `pair` a key may stand for several mentions; the offsets of extra entities are those of the first
    # model.
    extra = [entity for entity in answers[0] or () if key(entity) in common - gold]
    missing = [entity for entity in sentence.entities if key(entity) not in given]
    doubt = "sentence" if all(len(one) == len(common) for one in read) else "mention"
    if doubt == "mention":
        missing = [entity for entity in missing if any(_same_place(entity, other) for other in extra)]
        certain = [entity for entity in sentence.entities if entity not in missing]
        extra = [entity for entity in extra if not any(_same_place(entity, other) for other in certain)]
    if not extra and doubt == "mention":
        return ReviewedSentence(sentence, fold, answers, right)
    return ReviewedSentence(sentence, fold, answers, right, doubt, annotation_of(missing), annotation_of(extra))


def _same_place(one: Entity, other: Entity) -> bool:
    """Whether two entities overlap; without offsets, whether one surface contains the other."""
    if one.start is None or one.end is None or other.start is None or other.end is None:
        return one.text in other.text or other.text in one.text
    return one.start < other.end and other.start < one.end


def missing_answer_issues(reviewed: Iterable[ReviewedSentence]) -> list[Issue]:
    """Return an issue for each sentence to which some model gives no readable answer; it is kept in any case."""
    return [
        Issue(
            "no-opinion",
            f"{one.answers.count(None)} of {len(one.answers)} models give no answer that can be read",
            id=one.sentence.id,
        )
        for one in reviewed
        if None in one.answers
    ]


class ContradictedLabel(NamedTuple):
    """A sentence whose labels the models contradict, and the number of sentences with exactly this difference."""

    review: ReviewedSentence
    times: int

    def to_json(self) -> dict[str, Any]:
        """Return one line of `suspects.jsonl`: the sentence with its gold, the models' proposal and the difference."""
        reviewed = self.review
        item = sentence_to_json(reviewed.sentence)
        item["proposed"] = [entity_to_json(entity) for entity in reviewed.proposed]
        item["missing"] = [entity_to_json(entity) for entity in reviewed.missing]
        item["extra"] = [entity_to_json(entity) for entity in reviewed.extra]
        item["doubt"], item["times"] = reviewed.doubt, self.times
        return item

    def to_decision(self) -> Decision:
        """Create the task for the expert's queue: gold and models side by side, with offsets for all surfaces in the
        text.
        """
        sentence = self.review.sentence
        sides = annotation_of(sentence.entities), self.review.proposed
        item = AnnotatedSentence(replace(sentence, entities=[]), tuple(_placed(sentence.text, side) for side in sides))
        return Decision(item, "queued", ())


def _placed(text: str, entities: Annotation) -> Annotation:
    """Return the entities, with guessed offsets for those that have none and are in the text."""
    bare = [entity for entity in entities if entity.start is None]
    known = [(entity.start, entity.end) for entity in entities if entity.start is not None and entity.end is not None]
    found = [entity for entity in entities if entity.start is not None]
    for entity, start in zip(bare, align_surfaces(text, [entity.text for entity in bare], known), strict=True):
        found.append(entity if start is None else entity._replace(start=start, end=start + len(entity.text)))
    return annotation_of(found)


def contradicted_labels(reviewed: Iterable[ReviewedSentence]) -> list[ContradictedLabel]:
    """Find the sentences with doubtful labels, the most certain first.

    Sentences on which all models agree come first, the most frequent difference at the top; then single mentions,
    simple differences before large ones.
    """
    found = [one for one in reviewed if one.doubt]
    times = Counter(one.difference for one in found)

    def rank(one: ContradictedLabel) -> tuple[Any, ...]:
        reviewed, size = one.review, len(one.review.difference)
        by = (0, -one.times, size) if reviewed.doubt == "sentence" else (1, size, -one.times)
        return (*by, reviewed.difference, reviewed.sentence.id)

    return sorted((ContradictedLabel(sentence, times[sentence.difference]) for sentence in found), key=rank)


class RareCategory(NamedTuple):
    """A category that too few of the kept mentions have.

    Attributes:
        category: its name.
        before: number of mentions in the whole corpus.
        mentions: (sentence id, entity) of its kept mentions, which are removed.
    """

    category: str
    before: int
    mentions: list[tuple[str, Entity]]


def drop_rare_categories(
    kept: Sequence[Sentence], whole: Iterable[Sentence], least: int
) -> tuple[list[Sentence], list[RareCategory]]:
    """Remove categories that have few mentions in the kept sentences.

    Args:
        kept: sentences that are not easy.
        whole: all sentences of the corpus. A category that is in none of the kept ones is dropped, too.
        least: number of mentions that a category must have.

    Returns:
        The kept sentences without those mentions, and those categories.
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


@dataclass(frozen=True)
class FilterResult:
    """The results of a filter.

    Attributes:
        verdicts: of all sentences.
        kept: the sentences that are not easy, without rare categories.
        dropped: the rare categories.
        suspects: the doubtful labels, the most certain first.
        folds: scores of each part's model on the other parts, by metric name.
        unit: when entities are equal, see `review`.
        together: which posts stay in one part, see `filter.together`.
    """

    verdicts: list[ReviewedSentence]
    kept: list[Sentence]
    dropped: list[RareCategory]
    suspects: list[ContradictedLabel]
    folds: Sequence[Mapping[str, float]]
    unit: str
    together: str

    @property
    def removed(self) -> list[Sentence]:
        """The easy sentences."""
        return [verdict.sentence for verdict in self.verdicts if verdict.is_easy]

    @property
    def doubts(self) -> dict[str, int]:
        """Number of sentences doubted as a whole, and for a mention."""
        counts = Counter(one.review.doubt for one in self.suspects)
        return {doubt: counts[doubt] for doubt in ("sentence", "mention")}

    @property
    def votes(self) -> list[int]:
        """Number of sentences that 0, 1, ... models got right."""
        counts = Counter(verdict.right for verdict in self.verdicts)
        return [counts[right] for right in range(len(self.folds))]
