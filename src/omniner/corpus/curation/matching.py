"""Several annotators' labels of the same sentences, side by side.

In go the sentences of each annotator, out come `Item`s in the order in which the sentences were first met, with one
proposal per annotator: their entities, or None where they did not label the sentence. Sentences are the same if their
ids are; their texts must be equal, too. Where they are not, the text that most annotators have counts (of equally many
the first one's), and the labels made on another text are set aside with an issue: their offsets mean nothing here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from omniner.corpus.formats import is_unlabeled
from omniner.records import Entity, Issue, Sentence

Proposal = tuple[Entity, ...]  # without repeats, by place


@dataclass(frozen=True, slots=True)
class Item:
    """One sentence and what each annotator says of it, in the order of the annotators; None: nothing.

    `sentence` carries id, text, post and meta; its own entities are empty.
    """

    sentence: Sentence
    proposals: tuple[Proposal | None, ...]


def match(names: Sequence[str], annotations: Sequence[Sequence[Sentence]]) -> tuple[list[Item], list[Issue]]:
    """The sentences of all annotators, matched by id, each once.

    Args:
        names: what to call the annotators in issues.
        annotations: the sentences of each of them.

    Returns:
        The items, and an issue for each sentence that stands twice in a file, that has another text or no labels, and
        that an annotator does not have.
    """
    issues: list[Issue] = []
    tables = [_by_id(name, sentences, issues) for name, sentences in zip(names, annotations, strict=True)]
    items = []
    for id in dict.fromkeys(id for table in tables for id in table):
        found = [table.get(id) for table in tables]
        texts = Counter(sentence.text for sentence in found if sentence is not None)
        text = texts.most_common(1)[0][0]  # of equally many the first that was met
        proposals = tuple(_proposal(name, id, one, text, issues) for name, one in zip(names, found, strict=True))
        same = [sentence for sentence in found if sentence is not None and sentence.text == text]
        post = next((sentence.post_id for sentence in same if sentence.post_id is not None), None)
        meta = {key: value for key, value in same[0].meta.items() if key != "unlabeled"}
        items.append(Item(Sentence(id, text, [], post, meta), proposals))
    return items, issues


def _by_id(name: str, sentences: Sequence[Sentence], issues: list[Issue]) -> dict[str, Sentence]:
    table: dict[str, Sentence] = {}
    for sentence in sentences:
        if sentence.id in table:
            issues.append(Issue("duplicate-id", f"{name}: stands twice; the first one counts", id=sentence.id))
        else:
            table[sentence.id] = sentence
    return table


def _proposal(name: str, id: str, sentence: Sentence | None, text: str, issues: list[Issue]) -> Proposal | None:
    if sentence is None:
        issues.append(Issue("not-annotated", f"{name} has no such sentence", id=id))
    elif sentence.text != text:
        issues.append(Issue("text-mismatch", f"{name} labelled another text; these labels are set aside", id=id))
    elif is_unlabeled(sentence):
        issues.append(Issue("not-annotated", f"{name} has the sentence without labels", id=id))
    else:
        return in_order(sentence.entities)
    return None


def in_order(entities: Sequence[Entity]) -> Proposal:
    """Each entity once, by place and name; those without a place come last."""
    if len(entities) < 2:
        return tuple(entities)
    return tuple(sorted(set(entities), key=place_of))


def place_of(entity: Entity) -> tuple[bool, int, int, str, str]:
    """What entities are sorted by: place, the longer one first, then category and surface."""
    return (entity.start is None, entity.start or 0, -(entity.end or 0), entity.category, entity.text)


def without_labels(item: Item) -> Sentence:
    """The sentence of an item, marked as one that has no labels yet."""
    return replace(item.sentence, meta={**item.sentence.meta, "unlabeled": True})
