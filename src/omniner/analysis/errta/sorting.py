"""What both ways of sorting errors share: the result, its counts, and the identity that guards it.

In go the errors that `official` or `span` found and the false positives and negatives that the
comparison counted on its own; out comes an `ErrtaResult`. Every false negative must be a gold unit of exactly
one error and every false positive a predicted one, category by category. That is checked in every run; a
breach is a fault of ours and stops the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, repeat
from operator import itemgetter

from omniner.analysis.scores.results import ERROR_TYPES, ErrtaError, ErrtaResult, TypeCount
from omniner.records import Issue

OFFICIAL_TYPES = ("classification", "boundary", "split_merge", "missing", "redundant")
SPAN_TYPES = tuple(name for name in ERROR_TYPES if name != "split_merge")


class IdentityError(AssertionError):
    """The sorted errors do not add up to the false positives and negatives."""


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
    """Count the errors and check the identity; raises `IdentityError` where it does not hold.

    Args:
        errors: all errors, in the order of sentences.
        mode: official | span.
        unit: pair | span.
        tp: true positives of the same comparison.
        missing: the category of each false negative of the comparison.
        extra: the category of each false positive.
        read: sentences that were read.
        crashes: sentences on which the official scripts stop.
        greedy_groups: groups too large for the exact matching.
    """
    kinds = OFFICIAL_TYPES if mode == "official" else SPAN_TYPES
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
        identity_ok=True,
        crashes=list(crashes),
        greedy_groups=greedy_groups,
    )


def _check(sorted_units: Counter[str], counted: Counter[str], what: str) -> None:
    if sorted_units != counted:
        over, under = sorted_units - counted, counted - sorted_units
        raise IdentityError(f"errors and {what} differ: sorted but not counted {over}, the other way {under}")
