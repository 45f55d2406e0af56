"""Define the units that scores count, and compare gold and predictions unit by unit.

A unit is the distinct (surface, category) of a sentence (`pair`) or the distinct (category, start, end) (`span`). By
span, a prediction without offsets is a unit of its own, identified by its surface. It never equals a gold unit.

`compare_units` keeps the missing and extra units of each sentence with an error (`SentenceErrors`). The scores
(`metrics`) and the sorting of errors (`errta`, `official`) start from them, so that nothing is compared twice. Sets and
counters of the interpreter do most of the work; a fully correct sentence costs one comparison of lists. `pairs_of`
derives the comparison by pair from the one by span at a fraction of the cost.

Generative models answer with surfaces, not offsets. `locate_predictions` assigns offsets in order, the k-th mention of
a surface to its k-th occurrence (`align.locate_listed`), so that the answers can be compared by span. A pair that
only repeats an entity adds no unit, as when our own models' answers are parsed (`answers`). An entity that is not found
stays without offsets: it is a false positive whatever gold contains, and `find_impossible` names its kind.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any, NamedTuple

from omniner.answers import spelt_as_in
from omniner.corpus.align import locate_listed, locate_pairs
from omniner.errors import UserError
from omniner.records import Entity, Issue, Sentence, with_score

UNITS = ("pair", "span")
_SURFACE, _CATEGORY, _PAIR = itemgetter(0), itemgetter(1), itemgetter(0, 1)

# By unit: the key that identifies an entity, and the same key without its category. By span the key is the whole
# entity: the surface follows from the offsets, and identifies entities that have none.
_KEY: dict[str, Callable[[Entity], Any]] = {"pair": _PAIR, "span": lambda entity: entity}
_PLACE: dict[str, Callable[[Entity], Any]] = {"pair": _SURFACE, "span": itemgetter(0, 2, 3)}

_SHOWN = 3  # entities quoted in an error

IMPOSSIBLE = {
    "invented": "the sentence has no such words",
    "respelt": "the sentence has these words, but for width, case or white space",
    "repeated": "listed more often than the sentence has it",
    "unknown_category": "neither gold nor the corpus has this category",
}
"""Kinds of answers that no gold could contain, with their meaning."""


def all_placed(sides: Iterable[Sequence[Entity]]) -> bool:
    """Whether every entity has offsets."""
    return None not in map(itemgetter(2), chain.from_iterable(sides))


class SentenceErrors(NamedTuple):
    """The wrong units of one sentence, each once, in the order of first mention."""

    sentence: int  # its position in the comparison
    missing: list[Entity]
    extra: list[Entity]


@dataclass(slots=True)
class Comparison:
    """Gold and predictions of all scored sentences, compared unit by unit."""

    unit: str
    gold: Sequence[Sequence[Entity]]
    predicted: Sequence[Sequence[Entity]]
    right: list[str] = field(default_factory=list)  # categories of the true positives, sentence after sentence
    right_counts: list[int] = field(default_factory=list)  # true positives of each sentence
    sentence_errors: list[SentenceErrors] = field(default_factory=list)

    @property
    def key(self) -> Callable[[Entity], Any]:
        """The function that maps an entity to its unit."""
        return _KEY[self.unit]

    @property
    def place(self) -> Callable[[Entity], Any]:
        """The function that maps an entity to its unit without the category."""
        return _PLACE[self.unit]

    @property
    def missing(self) -> list[str]:
        """The category of each false negative."""
        return [entity[1] for one in self.sentence_errors for entity in one.missing]

    @property
    def extra(self) -> list[str]:
        """The category of each false positive."""
        return [entity[1] for one in self.sentence_errors for entity in one.extra]


def compare_units(gold: Sequence[Sequence[Entity]], predicted: Sequence[Sequence[Entity]], unit: str) -> Comparison:
    """Compare the entities of each sentence.

    Args:
        gold: entities of each sentence.
        predicted: the same, in the same order of sentences.
        unit: pair | span. By span, an entity without offsets never equals one with offsets.
    """
    result = Comparison(unit, gold, predicted)
    right, counts, sentence_errors = result.right, result.right_counts, result.sentence_errors
    key = None if unit == "span" else result.key  # by span an entity is its own key
    for index, (gold_units, predicted_units) in enumerate(zip(gold, predicted, strict=True)):
        gold_keys: Sequence[Any] = gold_units if key is None else list(map(key, gold_units))
        gold_set = set(gold_keys)
        if len(gold_set) < len(gold_keys):
            gold_units, gold_keys = _distinct(gold_units, gold_keys)
        if gold_units == predicted_units:
            right += map(_CATEGORY, gold_units)
            counts.append(len(gold_keys))
            continue
        predicted_keys: Sequence[Any] = predicted_units if key is None else list(map(key, predicted_units))
        predicted_set = set(predicted_keys)
        if len(predicted_set) < len(predicted_keys):
            predicted_units, predicted_keys = _distinct(predicted_units, predicted_keys)
        if gold_set == predicted_set:
            right += map(_CATEGORY, gold_units)
            counts.append(len(gold_keys))
            continue
        if key is None:
            missing = [unit for unit in gold_units if unit not in predicted_set]
            extra = [unit for unit in predicted_units if unit not in gold_set]
        else:
            missing = [unit for unit, k in zip(gold_units, gold_keys, strict=True) if k not in predicted_set]
            extra = [unit for unit, k in zip(predicted_units, predicted_keys, strict=True) if k not in gold_set]
        if len(missing) < len(gold_keys):
            right += [unit[1] for unit, k in zip(gold_units, gold_keys, strict=True) if k in predicted_set]
        counts.append(len(gold_keys) - len(missing))
        sentence_errors.append(SentenceErrors(index, missing, extra))
    return result


def pairs_of(spans: Comparison) -> Comparison:
    """Derive the comparison by pair from the one by span.

    A sentence in which no surface occurs twice has the same wrong units either way, unless a pair is missing at one
    span and extra at another. Only the other sentences are compared again.
    """
    gold, predicted = spans.gold, spans.predicted
    again = {index for index, units in enumerate(gold) if len(set(map(_SURFACE, units))) < len(units)}
    for index, missing, extra in spans.sentence_errors:
        units = predicted[index]
        if len(set(map(_SURFACE, units))) < len(units) or (
            missing and extra and not set(map(_PAIR, missing)).isdisjoint(map(_PAIR, extra))
        ):
            again.add(index)
    order = sorted(again)
    anew = compare_units([gold[index] for index in order], [predicted[index] for index in order], "pair")
    counts = list(spans.right_counts)
    right: list[str] = []
    ends, ends_anew = ([0, *accumulate(one.right_counts)] for one in (spans, anew))
    done = 0
    for place, index in enumerate(order):
        right += spans.right[done : ends[index]] + anew.right[ends_anew[place] : ends_anew[place + 1]]
        counts[index], done = anew.right_counts[place], ends[index + 1]
    right += spans.right[done:]
    sentence_errors = [one for one in spans.sentence_errors if one.sentence not in again]
    sentence_errors += [one._replace(sentence=order[one.sentence]) for one in anew.sentence_errors]
    sentence_errors.sort(key=lambda one: one.sentence)
    return Comparison("pair", gold, predicted, right, counts, sentence_errors)


def _distinct(units: Sequence[Entity], keys: Sequence[Any]) -> tuple[list[Entity], list[Any]]:
    """Return the first entity of each key, and the keys."""
    first: dict[Any, Entity] = {}
    for key, entity in zip(keys, units, strict=True):
        first.setdefault(key, entity)
    return list(first.values()), list(first)


def normalized(surface: str) -> str:
    """Return the surface without differences of width, case and white space."""
    return "".join(unicodedata.normalize("NFKC", surface).casefold().split())


class ImpossibleAnswer(NamedTuple):
    """A predicted entity that no gold could contain; `kind` is a key of `IMPOSSIBLE`."""

    kind: str
    sentence_id: str
    entity: Entity


def locate_predictions(
    sentences: Sequence[Sentence], predicted: Sequence[Sequence[Entity]]
) -> tuple[list[Sequence[Entity]], list[Issue]]:
    """Find offsets for predicted entities that have none, or whose offsets do not match their text.

    Args:
        sentences: with their texts; the entities of a sentence without a text stay unchanged.
        predicted: the entities of each sentence.

    Returns:
        The entities of each sentence, in their order, and an issue for each entity whose offsets do not fit. A pair
        that is listed more often than its surface occurs gets the offsets of the entity that it repeats. Entities left
        without offsets do not occur in the sentence, or are listed too often with offsets that do not fit.
    """
    placed, issues = list(predicted), []
    for number, (sentence, entities) in enumerate(zip(sentences, predicted, strict=True)):
        text = sentence.text
        for surface, _, start, end in entities:
            if start is None or end is None or not 0 <= start < end <= len(text) or text[start:end] != surface:
                if text:
                    placed[number], met = _place(sentence, entities)
                    issues += met
                break
    return placed, issues


def _place(sentence: Sentence, entities: Sequence[Entity]) -> tuple[list[Entity], list[Issue]]:
    """Locate the entities of one sentence.

    Keep an entity's offsets if the text there equals its surface up to case, width and white space (tokenizers change
    these); else search for the surface.
    """
    text, issues = sentence.text, []
    result: list[Entity | None] = []
    for entity in entities:
        _, _, start, end = entity
        is_inside = start is not None and end is not None and 0 <= start < end <= len(text)
        words = text[start:end] if is_inside else ""
        if words and (words == entity.text or normalized(words) == normalized(entity.text)):
            result.append(entity._replace(text=words))
            continue
        result.append(None)
        if start is not None:
            what = f"{entity.text!r} at {start}-{end}, where the text has {words!r}"
            issues.append(Issue("offsets-do-not-fit", f"{what}; looked for by its words", id=sentence.id))
    loose = [entity[:2] for entity, known in zip(entities, result, strict=True) if known is None]
    fitting = [known for known in result if known is not None]
    # without any place it is what a language model lists: placed as its answers are
    found = locate_pairs(text, loose, fitting) if fitting else locate_listed(text, loose)
    first = {one[:2]: one for one in (*reversed(found), *reversed(fitting)) if one is not None}
    found_places = iter(found)
    placed: list[Entity] = []
    for entity, known in zip(entities, result, strict=True):
        there = known if known is not None else next(found_places)
        if there is None:  # it repeats an entity, unless it came with offsets of its own
            there = first[entity[:2]] if entity.start is None else Entity(*entity[:2])
        placed.append(with_score(there, entity.score))
    return placed, issues


def spelt_as_in_text(sentence: Sentence, entities: Sequence[Entity]) -> Sequence[Entity]:
    """Spell predicted entities without offsets as the text does (`answers.spelt_as_in`), unless gold has their
    spelling.
    """
    if unicodedata.is_normalized("NFC", sentence.text):
        return entities
    known = {entity.text for entity in sentence.entities}
    return [
        entity
        if entity.start is not None or entity.text in known
        else entity._replace(text=spelt_as_in(sentence.text, entity.text))
        for entity in entities
    ]


def check_some_fit(predicted: Iterable[Sequence[Entity]], issues: Sequence[Issue]) -> None:
    """Reject predictions none of whose offsets fit: they must be counted in another way than ours.

    Args:
        predicted: the entities of each sentence, as given.
        issues: those that `locate_predictions` returned.

    Raises:
        UserError: no entity is where its offsets say, though some have offsets.
    """
    if not issues:
        return
    given = sum(entity[2] is not None for entities in predicted for entity in entities)
    if len(issues) == given:
        first = "; ".join(f"{issue.id}: {issue.message.partition(';')[0]}" for issue in issues[:_SHOWN])
        found = f"none of the {given:,} predicted entities stands where its offsets say ({first})"
        fix = "Offsets are [start, end) in characters of the sentence: mend them, or leave start and end out."
        raise UserError("predictions", found, fix)


def find_impossible(
    comparison: Comparison, ids: Sequence[str], texts: Sequence[str], categories: Collection[str]
) -> list[ImpossibleAnswer]:
    """Find the false positives that no gold could contain.

    Args:
        comparison: of gold and predictions.
        ids: of its sentences.
        texts: of its sentences; empty where unknown.
        categories: those of gold, and all others that are known.
    """
    odd = [
        (index, entity)
        for index, _, extra in comparison.sentence_errors
        for entity in extra
        if (entity[2] is None and texts[index]) or entity[1] not in categories
    ]
    kinds = [_kind(entity, texts[index], comparison.unit) for index, entity in odd]
    return [
        ImpossibleAnswer(kind or "unknown_category", ids[index], entity)
        for kind, (index, entity) in zip(kinds, odd, strict=True)
        if kind or entity[1] not in categories
    ]


def _kind(entity: Entity, text: str, unit: str) -> str:
    """Return what is wrong with an entity's surface, as a key of `IMPOSSIBLE`; empty if nothing is known to be."""
    if entity.start is not None or not text:
        return ""
    surface = str(entity.text)  # the official scripts accept a number as a surface, too
    if surface.strip() and surface in text:
        return "repeated" if unit == "span" else ""  # by pair no offsets are needed
    return "respelt" if normalized(surface) and normalized(surface) in normalized(text) else "invented"
