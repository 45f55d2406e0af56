"""What counts as one entity, and the comparison of gold and predictions unit by unit.

A unit is the distinct (surface, category) of a sentence (`pair`) or the distinct (category, start, end) (`span`). By
span, a prediction without a place is a unit of its own, told by its surface, that no gold unit equals.

`compare_units` keeps, for each sentence with an error, what is missing and what is extra (`SentenceErrors`). The scores
(`metrics`) and the sorting of errors (`errta`, `official`) start from them, so that nothing is compared twice. Most of
the work is done by sets and counters of the interpreter, and a sentence that is right as a whole costs one comparison
of lists. `pairs_of` makes the comparison by pair out of that by span for a fraction of its price.

Answers of generative models name surfaces, not places. `locate_predictions` gives them places by order, the k-th
mention of a surface at its k-th occurrence, so that they can be compared by span. A pair that only repeats an entity
adds no unit, as when we read a model's answer ourselves (`answers`). What finds no place stays without one: it is a
false positive whatever gold holds, and `find_impossible` says of which kind.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any, NamedTuple

from omniner.answers import spelt_as_in
from omniner.errors import UserError
from omniner.records import Entity, Issue, Sentence, locate_pairs

UNITS = ("pair", "span")
_SURFACE, _CATEGORY, _PAIR = itemgetter(0), itemgetter(1), itemgetter(0, 1)

# By unit: what makes an entity the same as another one, and the same without the category. By span that is all of it:
# the surface follows from the place, and tells those apart that have none.
_KEY: dict[str, Callable[[Entity], Any]] = {"pair": _PAIR, "span": lambda entity: entity}
_PLACE: dict[str, Callable[[Entity], Any]] = {"pair": _SURFACE, "span": itemgetter(0, 2, 3)}

_SHOWN = 3  # entities quoted in an error

IMPOSSIBLE = {
    "invented": "the sentence has no such words",
    "respelt": "the sentence has these words, but for width, case or white space",
    "repeated": "listed more often than the sentence has it",
    "unknown_category": "neither gold nor the corpus has this category",
}
"""The kinds of answers that no gold could have had, and what each of them is."""


def all_placed(sides: Iterable[Sequence[Entity]]) -> bool:
    """Whether every entity has offsets."""
    return None not in map(itemgetter(2), chain.from_iterable(sides))


class SentenceErrors(NamedTuple):
    """The wrong units of one sentence, each once, in the order of their first mention."""

    sentence: int  # its position
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
        """What makes an entity the same unit as another one."""
        return _KEY[self.unit]

    @property
    def place(self) -> Callable[[Entity], Any]:
        """The same without the category."""
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
        unit: pair | span. By span, what has no place equals nothing that has one.
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
    """Compare by pair what has been compared by span.

    A sentence in which no surface stands twice has the same wrong units either way, unless one is missing at one place
    and extra at another: all others are compared anew.
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
    """The first entity of each key."""
    first: dict[Any, Entity] = {}
    for key, entity in zip(keys, units, strict=True):
        first.setdefault(key, entity)
    return list(first.values()), list(first)


def normalized(surface: str) -> str:
    """A surface without differences of width, case and white space."""
    return "".join(unicodedata.normalize("NFKC", surface).casefold().split())


class ImpossibleAnswer(NamedTuple):
    """A predicted entity that gold could not have had, whatever it holds; `kind` is of `IMPOSSIBLE`."""

    kind: str
    sentence_id: str
    entity: Entity


def locate_predictions(
    sentences: Sequence[Sentence], predicted: Sequence[Sequence[Entity]]
) -> tuple[list[Sequence[Entity]], list[Issue]]:
    """Find the places of predicted entities that have none, or none that fits: those where their text is not.

    Args:
        sentences: with their texts; what is said of one without a text stays as it is.
        predicted: the entities of each.

    Returns:
        The entities of each sentence, in their order. A pair listed more often than the sentence has it gets the place
        of the entity that it repeats; those without a place are no words of the sentence, or are listed too often with
        offsets that do not fit. And an issue for each entity whose offsets do not fit.
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
    """Where a surface is its place's but for its spelling (tokenizers change case and width), the place counts."""
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
    found = locate_pairs(text, loose, fitting)
    first = {one[:2]: one for one in (*reversed(found), *reversed(fitting)) if one is not None}
    found_places = iter(found)
    placed: list[Entity] = []
    for entity, known in zip(entities, result, strict=True):
        there = known if known is not None else next(found_places)
        if there is None:  # it repeats an entity, unless it claimed a place of its own
            there = first[entity[:2]] if entity.start is None else Entity(*entity[:2])
        placed.append(there)
    return placed, issues


def spelt_as_in_text(sentence: Sentence, entities: Sequence[Entity]) -> Sequence[Entity]:
    """Give predicted entities without a place as the text spells them (`answers.spelt_as_in`), or as gold does."""
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
    """Refuse predictions of which no offset fits, as `locate_predictions` has found: they count otherwise than we do.

    Raises:
        UserError: no entity stands where its offsets say, though some have offsets.
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
    """Name the false positives that no gold could have had.

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
    """What is wrong with its words; empty where nothing is, as far as is known."""
    if entity.start is not None or not text:
        return ""
    surface = str(entity.text)  # the official scripts take a number for one, too
    if surface.strip() and surface in text:
        return "repeated" if unit == "span" else ""  # by pair no place is looked for
    return "respelt" if normalized(surface) and normalized(surface) in normalized(text) else "invented"
