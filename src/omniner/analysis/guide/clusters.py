"""Errors that are alike, brought together: what a run gets wrong again and again, the most frequent first.

In go sorted errors, out come clusters, each error in exactly one of them. Errors that answer one category with another
belong together by that pair of categories, whether the boundary is right or not: what is to be learnt is the
difference between the two. All others belong together by their type and category. Of each cluster some examples stand
for the rest: its commonest surfaces first, of each the shortest sentence, no sentence twice. Nothing depends on the
order in which errors come.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from omniner.analysis.scores.results import ErrtaError
from omniner.analysis.scores.tables import category_of

KINDS = ("confusion", "boundary", "spelling", "missing", "redundant", "split", "merge", "split_merge")
"""What clusters are about, in the order in which equally large ones stand."""

_ONE_TO_ONE = ("classification", "boundary_class", "boundary", "spelling")


@dataclass(frozen=True)
class Cluster:
    """Errors of one kind.

    Attributes:
        kind: one of `KINDS`.
        gold: the category that is right; empty for `redundant`.
        predicted: the category that was answered; empty for `missing`, and for `split` and `merge`, whose pieces may
            have several.
        errors: all of them, in a fixed order.
    """

    kind: str
    gold: str
    predicted: str
    errors: tuple[ErrtaError, ...]

    @property
    def types(self) -> dict[str, int]:
        """How many errors of each ERRTA type there are."""
        return dict(sorted(Counter(error.type for error in self.errors).items()))

    @property
    def surfaces(self) -> list[tuple[str, int]]:
        """What went wrong, word by word, the commonest first."""
        counts = Counter(map(surface_of, self.errors))
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    @property
    def name(self) -> str:
        """`confusion: 品牌 → 时间`, `boundary: 品牌`, ..."""
        arrow = f"{self.gold} → {self.predicted}" if self.kind == "confusion" else self.gold or self.predicted
        return f"{self.kind}: {arrow}"


def cluster(errors: Iterable[ErrtaError]) -> list[Cluster]:
    """All clusters, the largest first; equally large ones in the order of `KINDS`, then of their names."""
    found: dict[tuple[str, str, str], list[ErrtaError]] = defaultdict(list)
    for error in errors:
        found[_key(error)].append(error)
    clusters = [Cluster(*key, tuple(sorted(members, key=_order))) for key, members in found.items()]
    return sorted(clusters, key=lambda c: (-len(c.errors), KINDS.index(c.kind), c.gold, c.predicted))


def examples(found: Cluster, texts: Mapping[str, str], count: int) -> list[ErrtaError]:
    """At most `count` errors that stand for the cluster.

    Args:
        found: the cluster.
        texts: sentences by id.
        count: how many.
    """
    by_surface: dict[str, list[ErrtaError]] = defaultdict(list)
    for error in found.errors:
        by_surface[surface_of(error)].append(error)
    columns = [
        sorted(by_surface[surface], key=lambda error: (len(texts[error.sentence_id]), _order(error)))
        for surface, _ in found.surfaces
    ]
    chosen: list[ErrtaError] = []
    shown: set[str] = set()
    # one of each surface, then a second of each, ...
    for error in (error for row in zip_longest(*columns) for error in row if error is not None):
        text = texts[error.sentence_id]
        if len(chosen) < count and text not in shown:
            chosen.append(error)
            shown.add(text)
    return chosen


def surface_of(error: ErrtaError) -> str:
    """The words an error is about: those of gold, or the predicted ones where there is no gold."""
    return " + ".join(entity.text for entity in error.gold or error.predicted)


def _key(error: ErrtaError) -> tuple[str, str, str]:
    if error.type in _ONE_TO_ONE:
        gold, predicted = error.gold[0].category, error.predicted[0].category
        return ("confusion" if gold != predicted else error.type, gold, predicted)
    if error.type == "redundant":
        return (error.type, "", error.predicted[0].category)
    return (error.type, category_of(error), "")


def _order(error: ErrtaError) -> tuple[Any, ...]:
    """Where an error stands among others; places that are unknown come first."""
    sides = tuple(
        tuple((-1 if e.start is None else e.start, -1 if e.end is None else e.end, e.text, e.category) for e in side)
        for side in (error.gold, error.predicted)
    )
    return (error.sentence_id, error.type, sides)
