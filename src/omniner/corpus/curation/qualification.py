"""Who may annotate: a trial on practice sentences whose gold is known.

In go the annotators' labels and the practice gold, out come one `Trial` per annotator. A sentence that an annotator
did not label counts as one without entities, so that nobody passes by leaving out what is hard; a practice sentence
that nobody was given is left out of the trial, with an issue. The paper asks for more than 90 % (its section 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omniner.corpus.curation.matching import Item, in_order
from omniner.records import Entity, Issue, Sentence


class Trial(NamedTuple):
    """How an annotator did. `f1` is micro F1 of entities, `accuracy` the share of sentences without any mistake."""

    name: str
    sentences: int  # of the trial
    labelled: int  # of these, how many the annotator has
    precision: float
    recall: float
    f1: float
    accuracy: float

    def passes(self, measure: str, above: float) -> bool:
        """Whether `measure` (f1 | accuracy) is above that share."""
        return bool(getattr(self, measure) > above)

    def to_json(self) -> dict[str, Any]:
        """The trial as JSON object."""
        return self._asdict()


def hold(names: Sequence[str], items: Sequence[Item], practice: Sequence[Sentence]) -> tuple[list[Trial], list[Issue]]:
    """The trials of all annotators, in their order.

    Args:
        names: of the annotators.
        items: their sentences, those of the practice among them.
        practice: gold of the practice sentences. Entities are the same if place, surface and category are.
    """
    of: Mapping[str, Item] = {item.sentence.id: item for item in items}
    issues: list[Issue] = []
    common: list[tuple[Sentence, Item]] = []
    for sentence in practice:
        item = of.get(sentence.id)
        if item is None:
            issues.append(Issue("practice-unused", "no annotator has this practice sentence", id=sentence.id))
        elif item.sentence.text != sentence.text:
            issues.append(Issue("text-mismatch", "the practice gold has another text; not used", id=sentence.id))
        else:
            common.append((sentence, item))
    return [_trial(name, number, common) for number, name in enumerate(names)], issues


def _trial(name: str, number: int, common: Sequence[tuple[Sentence, Item]]) -> Trial:
    right = given = wanted = exact = labelled = 0
    for sentence, item in common:
        proposal = item.proposals[number]
        labelled += proposal is not None
        ours: set[Entity] = set(in_order(sentence.entities))
        theirs = set(proposal or ())
        right, given, wanted = right + len(ours & theirs), given + len(theirs), wanted + len(ours)
        exact += proposal is not None and ours == theirs
    precision = right / given if given else 0.0
    recall = right / wanted if wanted else 0.0
    f1 = 2 * right / (given + wanted) if given + wanted else 0.0
    return Trial(name, len(common), labelled, precision, recall, f1, exact / len(common) if common else 0.0)
