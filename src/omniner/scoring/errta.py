"""Sort errors by position (ERRTA) with one optimal matching that is independent of order, and check that none is lost.

The errors of a sentence follow from its missing units, its extra units and its text. First the plain ones are taken
out: the same span (or, for pairs, the same surface) in another category is a classification error. The rest forms
groups of overlapping spans. Each group is explained by as few errors as possible: one to one (boundary, boundary_class;
spelling if only white space at the ends differs), one gold span that contains two or more predicted pieces (split,
whatever their categories), one predicted span that contains two or more gold ones (merge). Of the explanations with the
fewest errors, the one that keeps most categories wins, then the one that covers most characters; ties are broken by
position and name. In practice groups have two or three members, so all combinations are tried. Above `MAX_GROUP` units
the best remaining error is taken repeatedly instead, and such groups are counted.

By pair, units without offsets are placed on an occurrence of their surface in the text: on the span of a unit of the
other side if there is one, else on one that overlaps such a unit, else on the first. The errors name the placed
entities. A pair that is listed with several spans is one unit, on the best of these by the same rule. By span, units
without offsets have been located before the comparison (`scoring.units`), and the rest stays without offsets. A surface
that is not in the text has no span: it is a spelling error if a unit of the other side equals it up to width, case and
white space, and a missing or redundant one otherwise.

`assemble` builds the result of either way of sorting (`official` is the other one). Every false negative must be a gold
unit of exactly one error and every false positive a predicted unit of exactly one, category by category. Every run
checks this; a mismatch is a bug in this program and stops the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations, repeat
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from omniner.records import Entity, Issue
from omniner.scoring.error_types import error_types
from omniner.scoring.metrics import ErrtaError, ErrtaResult, TypeCount
from omniner.scoring.units import Comparison, SentenceErrors, normalized

MAX_GROUP = 10  # units of a group for which all combinations are tried: at most 2**10 states
MAX_PLACES = 64  # occurrences of a surface that are considered
_NOWHERE = (1 << 60, 0)  # sorts behind every real span
_PAIR = itemgetter(0, 1)
_LOCATED_ORDER = itemgetter(2, 3, 1, 0)  # equals the order of `_order` for units with offsets, at a third of its cost

Units = tuple[Entity, ...]
Found = tuple[str, Units, Units]  # type, gold, predicted
Choices = Mapping[tuple[str, str], Sequence[int]]  # (surface, category) -> starts, for pairs listed with several spans
_NO_CHOICES: Mapping[int, Choices] = MappingProxyType({})


class IdentityError(AssertionError):
    """The sorted errors do not add up to the false positives and negatives."""


def sort_comparison(comparison: Comparison, ids: Sequence[str], texts: Sequence[str]) -> ErrtaResult:
    """Sort the errors of a comparison by position, and count them.

    Args:
        comparison: of sentences.
        ids: of the sentences.
        texts: of the sentences.
    """
    sentence_errors = comparison.sentence_errors
    choices: dict[int, Choices] = {}
    if comparison.unit == "pair":
        sentence_errors, choices = _with_choices(comparison)
    errors, large = sort_by_position(sentence_errors, ids, texts, comparison.unit, choices)
    return assemble_compared(comparison, errors, "span", read=len(ids), greedy_groups=large)


def _with_choices(comparison: Comparison) -> tuple[list[SentenceErrors], dict[int, Choices]]:
    """Return the wrong pairs, each at its first span in the text, and for pairs with several spans their starts."""
    found: list[SentenceErrors] = []
    choices: dict[int, Choices] = {}
    for one in comparison.sentence_errors:
        index = one.sentence
        listed = (*comparison.gold[index], *comparison.predicted[index])
        if len(set(map(_PAIR, listed))) < len(listed):
            places: dict[tuple[str, str], set[int]] = {}
            for surface, category, start, _ in listed:
                if start is not None:
                    places.setdefault((surface, category), set()).add(start)
            wrong = {unit[:2]: sorted(places.get(unit[:2], ())) for unit in (*one.missing, *one.extra)}
            choices[index] = {pair: starts for pair, starts in wrong.items() if len(starts) > 1}
            one = SentenceErrors(index, *([_at(unit, wrong[unit[:2]]) for unit in side] for side in one[1:]))
        found.append(one)
    return found, choices


def _at(unit: Entity, starts: Sequence[int]) -> Entity:
    """Return the unit at the first of these starts, or unchanged if there is none."""
    return unit._replace(start=starts[0], end=starts[0] + len(unit.text)) if starts else unit


def assemble_compared(
    comparison: Comparison, errors: list[ErrtaError], mode: str, read: int, greedy_groups: int = 0
) -> ErrtaResult:
    """Count errors as `assemble` does, given a comparison and all of its errors."""
    return assemble(
        errors,
        mode=mode,
        unit=comparison.unit,
        tp=len(comparison.right),
        missing=comparison.missing,
        extra=comparison.extra,
        read=read,
        greedy_groups=greedy_groups,
    )


def assemble(
    errors: list[ErrtaError],
    *,
    mode: str,
    unit: str,
    tp: int,
    missing: Sequence[str],
    extra: Sequence[str],
    read: int,
    crashes: Sequence[Issue] = (),
    greedy_groups: int = 0,
) -> ErrtaResult:
    """Count the errors by type and check that they add up to the false negatives and positives.

    Args:
        errors: all errors, in the order of sentences.
        mode: official | span.
        unit: pair | span.
        tp: number of true positives of the same comparison.
        missing: the category of each false negative of the comparison.
        extra: the category of each false positive.
        read: number of sentences that were read.
        crashes: sentences that crash the official scripts.
        greedy_groups: number of groups too large for the exact matching.

    Raises:
        IdentityError: the units of the errors differ from those that were counted.
    """
    kinds = [entry.name for entry in error_types(mode)]
    types = [error[0] for error in errors]
    gold_sides, predicted_sides = [error[2] for error in errors], [error[3] for error in errors]
    number = Counter(types)
    fn = Counter(chain.from_iterable(map(repeat, types, map(len, gold_sides))))
    fp = Counter(chain.from_iterable(map(repeat, types, map(len, predicted_sides))))
    gold = map(itemgetter(1), chain.from_iterable(gold_sides))
    predicted = map(itemgetter(1), chain.from_iterable(predicted_sides))
    _check(Counter(gold), Counter(missing), "false negatives")
    _check(Counter(predicted), Counter(extra), "false positives")
    return ErrtaResult(
        mode=mode,
        unit=unit,
        errors=errors,
        by_type={kind: TypeCount(number[kind], fn[kind], fp[kind]) for kind in kinds},
        tp=tp,
        fp=len(extra),
        fn=len(missing),
        read=read,
        with_errors=len({error.sentence_id for error in errors}),
        crashes=list(crashes),
        greedy_groups=greedy_groups,
    )


def _check(sorted_units: Counter[str], counted: Counter[str], what: str) -> None:
    if sorted_units != counted:
        over, under = sorted_units - counted, counted - sorted_units
        raise IdentityError(f"errors and {what} differ: sorted but not counted {over}, the other way {under}")


class _Event(NamedTuple):
    """A possible error of a group. `worth` is compared lexicographically: units saved, categories kept, overlap."""

    worth: tuple[int, int, int]
    mask: int
    error: Found


def sort_by_position(
    sentence_errors: Iterable[SentenceErrors],
    ids: Sequence[str],
    texts: Sequence[str],
    unit: str,
    choices: Mapping[int, Choices] = _NO_CHOICES,
) -> tuple[list[ErrtaError], int]:
    """Sort the errors of all sentences.

    Args:
        sentence_errors: the wrong units of each sentence, by its position.
        ids: of the sentences.
        texts: of the sentences; surfaces without offsets are searched for in them.
        unit: pair | span.
        choices: by sentence position, for pairs that are listed with several spans.

    Returns:
        The errors in the order of sentences, and the number of groups too large for the exact matching.
    """
    errors: list[ErrtaError] = []
    greedy = 0
    for index, missing, extra in sentence_errors:
        name, several = ids[index], choices.get(index, {})
        if len(missing) == len(extra) == 1 and not several and None not in (missing[0][2], extra[0][2]):
            found = _one_to_one(missing[0], extra[0], unit)
            errors += [ErrtaError(kind, name, gold, predicted) for kind, gold, predicted in found]
        elif missing and extra:
            found, large = sort_sentence(missing, extra, texts[index], unit, several)
            errors += [ErrtaError(kind, name, gold, predicted) for kind, gold, predicted in found]
            greedy += large
        else:
            errors += [ErrtaError("missing", name, (unit,), ()) for unit in sorted(missing, key=_order)]
            errors += [ErrtaError("redundant", name, (), (unit,)) for unit in sorted(extra, key=_order)]
    return errors, greedy


def sort_sentence(
    missing: Sequence[Entity], extra: Sequence[Entity], text: str, unit: str, choices: Choices = MappingProxyType({})
) -> tuple[list[Found], int]:
    """Sort the errors of one sentence; return them and the number of groups too large for the exact matching."""
    found: list[Found] = []
    located = None not in [entity[2] for entity in (*missing, *extra)]
    order = _LOCATED_ORDER if located else _order
    gold, predicted = _same_key(sorted(missing, key=order), sorted(extra, key=order), unit, found)
    if not located or choices:
        if unit == "pair":  # by span, units without offsets have already been searched for
            gold, predicted = _placed(gold, predicted, text, choices)
        gold, predicted = _same_spelling(sorted(gold, key=_order), sorted(predicted, key=_order), found)
    large = 0
    for of_gold, of_predicted in _groups(gold, predicted):
        if not of_gold or not of_predicted:
            found += _alone(of_gold, of_predicted)
        elif len(of_gold) == len(of_predicted) == 1:
            found += _one_to_one(of_gold[0], of_predicted[0], unit)
        else:
            exact = len(of_gold) + len(of_predicted) <= MAX_GROUP
            large += not exact
            found += _explain(of_gold, of_predicted, exact)
    return found, large


def _order(unit: Entity) -> tuple[int, int, str, str]:
    """Sort by position, then category and surface; units without offsets come last."""
    if unit.start is None or unit.end is None:
        return *_NOWHERE, unit.category, unit.text
    return unit.start, unit.end, unit.category, unit.text


def _alone(gold: Iterable[Entity], predicted: Iterable[Entity]) -> list[Found]:
    found: list[Found] = [("missing", (unit,), ()) for unit in gold]
    return found + [("redundant", (), (unit,)) for unit in predicted]


def _same_key(
    gold: list[Entity], predicted: list[Entity], unit: str, found: list[Found]
) -> tuple[list[Entity], list[Entity]]:
    """Take out units that differ only in category: same surface (pair) or span, the first matched with the first."""
    key = itemgetter(0) if unit == "pair" else itemgetter(2, 3)
    free: dict[Any, list[Entity]] = {}
    for theirs in predicted:
        free.setdefault(key(theirs), []).append(theirs)
    if free.keys().isdisjoint(map(key, gold)):
        return gold, predicted
    left, used = [], set()
    for ours in gold:
        candidates = free.get(key(ours))
        if candidates:
            theirs = candidates.pop(0)
            used.add(theirs)
            found.append(("classification", (ours,), (theirs,)))
        else:
            left.append(ours)
    return left, [theirs for theirs in predicted if theirs not in used]


def _same_spelling(
    gold: list[Entity], predicted: list[Entity], found: list[Found]
) -> tuple[list[Entity], list[Entity]]:
    """Match units whose surfaces differ in width, case or white space, one without offsets, and take them out."""
    for same_category in (True, False):
        left = []
        for unit in gold:
            for partner in predicted:
                if (
                    (unit.start is None or partner.start is None)
                    and (unit.category == partner.category or not same_category)
                    and normalized(unit.text) == normalized(partner.text)
                ):
                    kind = "spelling" if same_category else "classification"
                    found.append((kind, (unit,), (partner,)))
                    predicted.remove(partner)
                    break
            else:
                left.append(unit)
        gold = left
    return gold, predicted


def _groups(gold: list[Entity], predicted: list[Entity]) -> list[tuple[list[Entity], list[Entity]]]:
    """Group overlapping spans, left to right; a unit without offsets is a group of its own."""
    groups: list[tuple[list[Entity], list[Entity]]] = []
    end = -1
    tagged: list[tuple[Any, int, Entity]]
    tagged = [(_NOWHERE if unit[2] is None else unit[2:], 0, unit) for unit in gold]
    tagged += [(_NOWHERE if unit[2] is None else unit[2:], 1, unit) for unit in predicted]
    tagged.sort()
    for (start, stop), side, unit in tagged:
        if start >= end or unit[2] is None:
            groups.append(([], []))
        groups[-1][side].append(unit)
        if stop > end:
            end = stop
    return groups


def _overlap(one: Entity, other: Entity) -> int:
    _, _, start, end = one
    _, _, other_start, other_end = other
    return min(end, other_end) - max(start, other_start)  # type: ignore[type-var, operator]  # both have places


def _span(unit: Entity) -> tuple[int, int]:
    _, _, start, end = unit
    assert start is not None
    assert end is not None
    return start, end


def _trimmed(unit: Entity) -> tuple[int, int]:
    """Return the span without white space at its ends."""
    text, (start, end) = unit.text, _span(unit)
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def _one_to_one(gold: Entity, predicted: Entity, unit: str) -> list[Found]:
    """Return the errors of one gold and one predicted unit with offsets."""
    same_key = gold[0] == predicted[0] if unit == "pair" else gold[2:] == predicted[2:]
    if same_key:
        return [("classification", (gold,), (predicted,))]
    if _overlap(gold, predicted) <= 0:
        return [("missing", (gold,), ()), ("redundant", (), (predicted,))]
    return [(_kind(gold, predicted), (gold,), (predicted,))]


def _kind(gold: Entity, predicted: Entity) -> str:
    same = gold[1] == predicted[1]
    if gold[0].strip() == predicted[0].strip() and _trimmed(gold) == _trimmed(predicted):
        return "spelling" if same else "classification"
    return "boundary" if same else "boundary_class"


def _explain(gold: list[Entity], predicted: list[Entity], exact: bool) -> list[Found]:
    """Return the errors of a group of three or more units."""
    events = _events(gold, predicted, exact)
    chosen = _best(events, len(gold) + len(predicted)) if exact else _greedy(events)
    used = 0
    for event in chosen:
        used |= event.mask
    found = [event.error for event in chosen]
    found += _alone(
        (unit for place, unit in enumerate(gold) if not used >> place & 1),
        (unit for place, unit in enumerate(predicted, len(gold)) if not used >> place & 1),
    )
    return found


def _events(gold: list[Entity], predicted: list[Entity], exact: bool) -> list[_Event]:
    """Return every error that could be part of the explanation, in an order that depends only on the units."""
    events = []
    for i, ours in enumerate(gold):
        for j, theirs in enumerate(predicted, len(gold)):
            overlap = _overlap(ours, theirs)
            if overlap > 0:
                worth = (1, int(ours.category == theirs.category), overlap)
                events.append(_Event(worth, 1 << i | 1 << j, (_kind(ours, theirs), (ours,), (theirs,))))
    for whole, parts, shift, offset in ((gold, predicted, 0, len(gold)), (predicted, gold, len(gold), 0)):
        for i, unit in enumerate(whole, shift):
            inside = [(j, part) for j, part in enumerate(parts, offset) if 0 < len(part.text) == _overlap(unit, part)]
            sets = _disjoint_sets(inside) if exact else [_longest(inside)]
            events += [_several(unit, i, pieces, split=whole is gold) for pieces in sets if len(pieces) > 1]
    return events


def _disjoint_sets(inside: list[tuple[int, Entity]]) -> list[tuple[tuple[int, Entity], ...]]:
    """Return all sets of two or more pieces that do not overlap each other."""
    return [
        pieces
        for size in range(2, len(inside) + 1)
        for pieces in combinations(inside, size)
        if all(_overlap(one[1], other[1]) <= 0 for one, other in combinations(pieces, 2))
    ]


def _longest(inside: list[tuple[int, Entity]]) -> tuple[tuple[int, Entity], ...]:
    """Return as many pieces as fit without overlap: repeatedly take the one that ends first."""
    chosen: list[tuple[int, Entity]] = []
    for piece in sorted(inside, key=lambda item: (_order(item[1])[1], item[0])):
        if not chosen or _overlap(chosen[-1][1], piece[1]) <= 0:
            chosen.append(piece)
    return tuple(chosen)


def _several(unit: Entity, place: int, pieces: Sequence[tuple[int, Entity]], split: bool) -> _Event:
    mask = 1 << place
    for other, _ in pieces:
        mask |= 1 << other
    parts = tuple(piece for _, piece in pieces)
    kept = sum(piece.category == unit.category for piece in parts)
    worth = (len(parts), kept, sum(len(piece.text) for piece in parts))
    error: Found = ("split", (unit,), parts) if split else ("merge", parts, (unit,))
    return _Event(worth, mask, error)


def _best(events: list[_Event], size: int) -> list[_Event]:
    """Return the disjoint set of events with the greatest total worth; of equal ones, the first in their order.

    `best[mask]` is the answer for the units of `mask` alone, built from its highest unit down.
    """
    Best = tuple[tuple[int, int, int], tuple[_Event, ...]]  # noqa: N806
    best: list[Best] = [((0, 0, 0), ())]
    for mask in range(1, 1 << size):
        top = 1 << (mask.bit_length() - 1)
        answer = best[mask ^ top]
        for event in events:
            if event.mask & top and not event.mask & ~mask:
                rest = best[mask & ~event.mask]
                total = (rest[0][0] + event.worth[0], rest[0][1] + event.worth[1], rest[0][2] + event.worth[2])
                if total > answer[0]:
                    answer = (total, (*rest[1], event))
        best.append(answer)
    return list(best[-1][1])


def _greedy(events: list[_Event]) -> list[_Event]:
    chosen, used = [], 0
    for event in sorted(events, key=lambda event: event.worth, reverse=True):
        if not event.mask & used:
            chosen.append(event)
            used |= event.mask
    return chosen


def _placed(
    gold: list[Entity], predicted: list[Entity], text: str, choices: Choices
) -> tuple[list[Entity], list[Entity]]:
    """Give a span to units with none or several: first those with one choice, then the gold ones, then the rest."""
    gold, predicted = (
        [unit._replace(start=None, end=None) if unit[:2] in choices else unit for unit in units]
        for units in (gold, predicted)
    )
    gold, predicted = (
        [_place(unit, [], text, choices, only_choice=True) for unit in units] for units in (gold, predicted)
    )
    gold = [_place(unit, predicted, text, choices) for unit in gold]
    return gold, [_place(unit, gold, text, choices) for unit in predicted]


def _place(unit: Entity, others: Sequence[Entity], text: str, choices: Choices, only_choice: bool = False) -> Entity:
    """Return the unit at its best occurrence.

    It stays unchanged if it has offsets, if it does not occur, or with `only_choice` if it occurs more than once.
    """
    if unit.start is not None or not unit.text:
        return unit
    places = choices.get(unit[:2]) or _occurrences(unit.text, text)
    if not places or (only_choice and len(places) > 1):
        return unit
    size, taken = len(unit.text), [_span(other) for other in others if other.start is not None]

    def rank(start: int) -> int:
        spans = [(s, e) for s, e in taken if s < start + size and start < e]
        return 2 if (start, start + size) in spans else int(bool(spans))

    start = max(places, key=rank)  # the first of the best ones
    return unit._replace(start=start, end=start + size)


def _occurrences(surface: str, text: str) -> list[int]:
    places: list[int] = []
    start = text.find(surface)
    while start >= 0 and len(places) < MAX_PLACES:
        places.append(start)
        start = text.find(surface, start + 1)
    return places
