"""Gold labels that look wrong: other than the usual one of their surface."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from omniner.records import Entity, Prediction, Sentence, ranked
from omniner.scoring.metrics import ScoreResult

# A label is suspected where its surface has been labelled otherwise at least this often and this regularly.
SEEN = 5
MAJORITY = 0.8


class UnusualLabel(NamedTuple):
    """Gold labels of one surface that are unlike its usual one.

    Attributes:
        surface: what is labelled.
        gold: its category here.
        usual: the category that it has nearly always.
        share: of its labels, those that are `usual`.
        seen: its labels, in all sentences looked at.
        labelled: of the scored sentences, its labels that are `gold`.
        agreeing: of these, those where the model gives `usual`.
        example: the id of a sentence with such a label, one where the model gives `usual` if there is one.
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
    """A sentence with an unusual label, and whether the model gives the usual one there, or gold's."""

    id: str
    says_usual: bool
    says_gold: bool


class _Found(NamedTuple):
    """The places of unusual labels by surface and category, with all labels and the usual one of each surface."""

    places: dict[tuple[str, str], list[_Place]]
    labels: dict[str, Counter[str]]
    usual: dict[str, str]

    def label(self, surface: str, category: str, example: str) -> UnusualLabel:
        majority, seen, places = self.usual[surface], self.labels[surface], self.places[surface, category]
        share, agreeing = seen[majority] / seen.total(), sum(place.says_usual for place in places)
        return UnusualLabel(surface, category, majority, share, seen.total(), len(places), agreeing, example)


def find_suspected_labels(result: ScoreResult, train: Sequence[Sentence]) -> list[UnusualLabel]:
    """Find gold labels other than the usual one of their surface; those first of which the model says so, too.

    Args:
        result: the scored sentences, whose labels are judged.
        train: further gold sentences in which to look for the usual labels; a sentence of both counts once.
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
    """Find gold labels as unusual as suspected ones that are right after all: the model gives them, too.

    Args:
        result, train: as for `find_suspected_labels`.
        suspects: labels that are suspected; controls stand in other sentences, and are first those of other surfaces.
        shown: texts of sentences whose labels the model was told: what it says of them is no second opinion.
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
    """Whether the model gave `gold`'s surface that category, at its place where both places are known."""
    return prediction is not None and any(
        e.category == category and e.text == gold.text and (None in (e.start, gold.start) or e.start == gold.start)
        for e in prediction.entities
    )
