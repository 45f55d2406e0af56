"""Find gold labels that look wrong because they differ from the usual label of their surface."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from omniner.records import Entity, Prediction, Sentence, ranked
from omniner.scoring.metrics import ScoreResult

# A surface has a usual label if it is labelled at least `SEEN` times and this share of its labels agree.
SEEN = 5
MAJORITY = 0.8


class UnusualLabel(NamedTuple):
    """Gold labels of one surface that differ from its usual one.

    Attributes:
        surface: the labelled text.
        gold: its category here.
        usual: the category that it has nearly always.
        share: share of its labels that are `usual`.
        seen: number of its labels in all sentences examined.
        labelled: number of its labels in the scored sentences that are `gold`.
        agreeing: number of these where the model predicts `usual`.
        example: id of a sentence with such a label, preferably one where the model predicts `usual`.
    """

    surface: str
    gold: str
    usual: str
    share: float
    seen: int
    labelled: int
    agreeing: int
    example: str


class _Place(NamedTuple):
    """A sentence with an unusual label, and whether the model predicts the usual label or gold's there."""

    id: str
    says_usual: bool
    says_gold: bool


class _Found(NamedTuple):
    """Unusual labels by surface and category, with all labels and the usual label of each surface."""

    places: dict[tuple[str, str], list[_Place]]
    labels: dict[str, Counter[str]]
    usual: dict[str, str]

    def label(self, surface: str, category: str, example: str) -> UnusualLabel:
        majority, seen, places = self.usual[surface], self.labels[surface], self.places[surface, category]
        share, agreeing = seen[majority] / seen.total(), sum(place.says_usual for place in places)
        return UnusualLabel(surface, category, majority, share, seen.total(), len(places), agreeing, example)


def find_suspected_labels(result: ScoreResult, train: Sequence[Sentence]) -> list[UnusualLabel]:
    """Find gold labels that differ from their surface's usual label; those that the model contradicts come first.

    Args:
        result: the scored sentences, whose labels are judged.
        train: more gold sentences from which the usual labels are counted; a sentence in both counts once.
    """
    found = _find_unusual(result, train)
    suspects = []
    for (surface, category), places in found.places.items():
        agreeing = [place.id for place in places if place.says_usual]
        suspects.append(found.label(surface, category, (agreeing or [places[0].id])[0]))
    return sorted(suspects, key=lambda one: (-one.agreeing, -one.share, one.surface, one.gold))


def find_control_labels(
    result: ScoreResult, train: Sequence[Sentence], suspects: Sequence[UnusualLabel], shown: Collection[str] = ()
) -> list[UnusualLabel]:
    """Find gold labels as unusual as the suspected ones that are probably right, because the model predicts them, too.

    Args:
        result, train: as for `find_suspected_labels`.
        suspects: suspected labels; controls are in other sentences, and those of other surfaces come first.
        shown: texts of sentences whose labels were in the model's prompt: its answers there are no second opinion.
    """
    found, suspected = _find_unusual(result, train), {(one.surface, one.gold): one.example for one in suspects}
    controls = []
    for key, places in found.places.items():
        confirmed = [place.id for place in places if place.says_gold and place.id != suspected.get(key)]
        right = [name for name in confirmed if result.sentences[name].text not in shown]
        controls += [found.label(*key, right[0])] if right else []
    return sorted(controls, key=lambda one: ((one.surface, one.gold) in suspected, -one.share, one.surface, one.gold))


def _find_unusual(result: ScoreResult, train: Sequence[Sentence]) -> _Found:
    scored = result.sentences.values()
    known = {(sentence.id, sentence.text): sentence for sentence in (*train, *scored)}.values()
    pairs = map(itemgetter(0, 1), chain.from_iterable(sentence.entities for sentence in known))
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for (surface, category), count in Counter(pairs).items():
        labels[surface][category] = count
    usual = {}
    for surface, counts in labels.items():
        if len(counts) > 1 and counts.total() >= SEEN:
            category, count = ranked(counts, 1)[0]
            if count >= MAJORITY * counts.total():
                usual[surface] = category
    places: dict[tuple[str, str], list[_Place]] = defaultdict(list)
    for sentence in scored:
        prediction = result.predictions.get(sentence.id)
        for entity in sentence.entities:
            majority = usual.get(entity.text)
            if majority is not None and entity.category != majority:
                place = _Place(sentence.id, *(_says(prediction, entity, one) for one in (majority, entity.category)))
                places[entity.text, entity.category].append(place)
    return _Found(places, labels, usual)


def _says(prediction: Prediction | None, gold: Entity, category: str) -> bool:
    """Whether the model gave `gold`'s surface that category, at the same start if both starts are known."""
    return prediction is not None and any(
        e.category == category and e.text == gold.text and (None in (e.start, gold.start) or e.start == gold.start)
        for e in prediction.entities
    )
