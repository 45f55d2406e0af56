"""The published error rules, made deterministic.

In go the missing and extra units of a sentence, out come its errors: classification (same surface, another
category), then in one sweep boundary (one surface inside the other, same category) or split/merge (the
white-space tokens of one are among the other's), first candidate first; the rest is missing or redundant. The
official script goes through hash-ordered sets, so its counts can change from run to run; here the order is
that of the first mention in the answer, which is one of the orders it can meet. A unit is a tuple of any
length (the official reader checks nothing): where the official script stops on one, the same exception leaves
`sort_units`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from omniner.analysis.scores.metrics import Residue
from omniner.analysis.scores.results import ErrtaError
from omniner.records import Entity

Unit = tuple[Any, ...]  # (surface, category) as a rule
STOPS = (IndexError, TypeError, ValueError)  # what `sort_units` raises where the official script does


def errors_of(residues: Iterable[Residue], ids: Sequence[str]) -> list[ErrtaError]:
    """The errors of all sentences with proper pairs; `ids[residue.sentence]` names the sentence."""
    errors: list[ErrtaError] = []
    for index, missing, extra in residues:
        name = ids[index]
        if missing and extra:
            found = sort_units(missing, extra)
            errors += [ErrtaError(kind, name, gold, predicted) for kind, gold, predicted in found]
        else:
            errors += [ErrtaError("missing", name, (unit,), ()) for unit in missing]
            errors += [ErrtaError("redundant", name, (), (unit,)) for unit in extra]
    return errors


def sort_units(missing: Sequence[Unit], extra: Sequence[Unit]) -> list[tuple[str, tuple[Any, ...], tuple[Any, ...]]]:
    """(type, gold units, predicted units) of each error of one sentence."""
    found: list[tuple[str, tuple[Any, ...], tuple[Any, ...]]] = []
    left: list[Unit] = []
    spare = list(extra)
    for gold in missing:
        for place, unit in enumerate(spare):
            if gold[0] == unit[0] and gold[1] != unit[1]:
                found.append(("classification", (gold,), (unit,)))
                del spare[place]
                break
        else:
            left.append(gold)
    for gold in left:
        for place, unit in enumerate(spare):
            kind = _partly(gold, unit)
            if kind:
                found.append((kind, (gold,), (unit,)))
                del spare[place]
                break
        else:
            found.append(("missing", (gold,), ()))
    found += [("redundant", (), (unit,)) for unit in spare]
    return found


def _partly(gold: Unit, unit: Unit) -> str:
    ours, theirs = gold[0], unit[0]
    if (ours in theirs or theirs in ours) and gold[1] == unit[1]:
        return "boundary"
    ours, theirs = set(ours.split()), set(theirs.split())
    return "split_merge" if ours <= theirs or theirs <= ours else ""


def split_tuples(gold: Sequence[Unit], predicted: Sequence[Unit]) -> tuple[int, list[Unit], list[Unit]]:
    """Number of right units, missing and extra ones, from tuples of any shape; raises as the first script does."""
    right, wrong = dict.fromkeys(gold), dict.fromkeys(predicted)
    missing = [unit for unit in right if unit not in wrong]
    extra = [unit for unit in wrong if unit not in right]
    for unit in (*missing, *extra):
        # The first script writes the units as Python literals, and such numbers have none.
        if any(isinstance(member, float) and not math.isfinite(member) for member in unit):
            raise ValueError("not a finite number")
    return len(right) - len(missing), missing, extra


def as_entity(unit: Unit) -> Entity:
    """A unit of any shape as an entity for tables: its first member and its second."""
    members = [member if isinstance(member, str) else str(member) for member in unit]
    surface, category = (*members, "", "")[:2]
    return Entity(surface, category)
