"""Gold labels that look wrong: other than the usual one of their surface."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
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


def find_suspected_labels(result: ScoreResult, train: Sequence[Sentence]) -> list[UnusualLabel]:
    """Find gold labels other than the usual one of their surface; those first of which the model says so, too.

    Args:
        result: the scored sentences, whose labels are judged.
        train: further gold sentences in which to look for the usual labels; a sentence of both counts once.
    """
    scored = result.sentences.values()
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for sentence in {(sentence.id, sentence.text): sentence for sentence in (*train, *scored)}.values():
        for entity in sentence.entities:
            labels[entity.text][entity.category] += 1
    usual = {}
    for surface, counts in labels.items():
        category, count = ranked(counts)[0]
        if len(counts) > 1 and counts.total() >= SEEN and count >= MAJORITY * counts.total():
            usual[surface] = category
    places: dict[tuple[str, str], list[tuple[str, bool]]] = defaultdict(list)
    for sentence in scored:
        for entity in sentence.entities:
            majority = usual.get(entity.text)
            if majority is not None and entity.category != majority:
                agrees = _says(result.predictions.get(sentence.id), entity, majority)
                places[entity.text, entity.category].append((sentence.id, agrees))
    suspects = []
    for (surface, category), found in places.items():
        majority, seen = usual[surface], labels[surface]
        agreeing = [place for place, agrees in found if agrees]
        share = seen[majority] / seen.total()
        example = (agreeing or [found[0][0]])[0]
        numbers = seen.total(), len(found), len(agreeing)
        suspects.append(UnusualLabel(surface, category, majority, share, *numbers, example))
    return sorted(suspects, key=lambda one: (-one.agreeing, -one.share, one.surface, one.gold))


def _says(prediction: Prediction | None, gold: Entity, category: str) -> bool:
    """Whether the model gave `gold`'s surface that category, at its place where both places are known."""
    return prediction is not None and any(
        e.category == category and e.text == gold.text and (None in (e.start, gold.start) or e.start == gold.start)
        for e in prediction.entities
    )
