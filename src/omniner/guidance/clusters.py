"""Errors that are alike, brought together: what a run gets wrong again and again, the most frequent first.

In go sorted errors, out come clusters, each error in exactly one of them. Errors that answer one category with another
belong together by that pair of categories, whether the boundary is right or not: what is to be learnt is the
difference between the two. All others belong together by their type and category. Of each cluster some examples stand
for the rest: its commonest surfaces first, of each the shortest sentence, no sentence twice. Nothing depends on the
order in which errors come.

What the training split says about the errors of a cluster: counts, no opinions.

In go a cluster and the training sentences, out come `Facts`: how often its surfaces stand in the text and which
categories they have there, what the answers have too much or too little at their ends and how often mentions of the
category begin or end so, how large the categories are. Price: one pass over the corpus, then a search of the whole
text for each surface (4 ms for 156,000 sentences).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from omniner.records import Entity, Sentence
from omniner.registry import ERROR_TYPES
from omniner.scoring.error_types import lesson_kinds
from omniner.scoring.results import ErrtaError


@dataclass(frozen=True)
class Cluster:
    """Errors of one kind.

    Attributes:
        kind: the name of a `LessonKind`.
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
        differ = self.gold and self.predicted and self.gold != self.predicted
        arrow = f"{self.gold} → {self.predicted}" if differ else self.gold or self.predicted
        return f"{self.kind}: {arrow}"


def cluster_errors(errors: Iterable[ErrtaError]) -> list[Cluster]:
    """All clusters, the largest first; equally large ones in the order of `lesson_kinds`, then of their names."""
    found: dict[tuple[str, str, str], list[ErrtaError]] = defaultdict(list)
    for error in errors:
        found[_key(error)].append(error)
    clusters = [Cluster(*key, tuple(sorted(members, key=_order))) for key, members in found.items()]
    place = {name: number for number, name in enumerate(lesson_kinds())}
    return sorted(clusters, key=lambda c: (-len(c.errors), place[c.kind], c.gold, c.predicted))


def cluster_examples(found: Cluster, texts: Mapping[str, str], count: int) -> list[ErrtaError]:
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
    kind = ERROR_TYPES[error.type].lesson
    gold = error.gold[0].category if kind.has_gold else ""
    predicted = error.predicted[0].category if kind.names_both or not kind.has_gold else ""
    return (kind.name, gold, predicted)


def _order(error: ErrtaError) -> tuple[Any, ...]:
    """Where an error stands among others; places that are unknown come first."""
    sides = tuple(
        tuple((-1 if e.start is None else e.start, -1 if e.end is None else e.end, e.text, e.category) for e in side)
        for side in (error.gold, error.predicted)
    )
    return (error.sentence_id, error.type, sides)


_BETWEEN = "\x00"  # between sentences; stands in no surface
_TYPICAL = 5  # most frequent surfaces of a category that are named


class SurfaceCount(NamedTuple):
    """A surface in train: in how many places it stands, and as what it is labelled there, the commonest first."""

    text: str
    places: int
    labels: dict[str, int]


class BoundaryPiece(NamedTuple):
    """What answers have too much (`extra`) or too little (`missing`) at one end.

    `errors` of the cluster are so; `held` mentions of the category begin (left) or end (right) with it in train.
    """

    side: str  # left | right
    change: str  # extra | missing
    text: str
    errors: int
    held: int


class CategoryCount(NamedTuple):
    """A category in the training split."""

    name: str
    mentions: int
    typical: list[str]  # its most frequent surfaces


@dataclass(frozen=True)
class Facts:
    """Counts about one cluster."""

    surfaces: list[SurfaceCount]
    pieces: list[BoundaryPiece]
    categories: list[CategoryCount]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: [item._asdict() for item in getattr(self, name)] for name in ("surfaces", "pieces", "categories")}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Facts:
        """What `to_json` gave."""
        return cls(
            [SurfaceCount(**item) for item in value["surfaces"]],
            [BoundaryPiece(**item) for item in value["pieces"]],
            [CategoryCount(**item) for item in value["categories"]],
        )


class TrainingCounts:
    """The training split, ready to be asked.

    Args:
        train: sentences with gold entities.
    """

    def __init__(self, train: Sequence[Sentence]) -> None:
        self._text = _BETWEEN.join(sentence.text for sentence in train)
        self._labels: dict[str, Counter[str]] = defaultdict(Counter)
        self._mentions: dict[str, Counter[str]] = defaultdict(Counter)
        for sentence in train:
            for entity in sentence.entities:
                self._labels[entity.text][entity.category] += 1
                self._mentions[entity.category][entity.text] += 1

    def facts(self, cluster: Cluster, surfaces: int) -> Facts:
        """The counts about a cluster; of its surfaces the `surfaces` most frequent."""
        category = cluster.gold or cluster.predicted
        names = dict.fromkeys(name for name in (cluster.gold, cluster.predicted) if name)
        return Facts(
            [self.surface(text) for text in _words(cluster.errors)[:surfaces]],
            self._pieces(cluster, category)[:surfaces] if lesson_kinds()[cluster.kind].counts_ends else [],
            [self._category(name) for name in names],
        )

    def surface(self, text: str) -> SurfaceCount:
        """How often a surface stands in train, and as what."""
        return SurfaceCount(
            text, self._text.count(text) if text else 0, dict(_ranked(self._labels.get(text, Counter())))
        )

    def _category(self, name: str) -> CategoryCount:
        mentions = self._mentions.get(name, Counter())
        return CategoryCount(name, mentions.total(), [text for text, _ in _ranked(mentions)[:_TYPICAL]])

    def _pieces(self, cluster: Cluster, category: str) -> list[BoundaryPiece]:
        counts = Counter(piece for error in cluster.errors for piece in _differences(error.gold[0], error.predicted[0]))
        mentions = self._mentions.get(category, Counter())
        return [
            BoundaryPiece(side, change, text, errors, sum(n for word, n in mentions.items() if _has(word, side, text)))
            for (side, change, text), errors in _ranked(counts)
        ]


def _words(errors: Iterable[ErrtaError]) -> list[str]:
    """The single surfaces that went wrong, the commonest first; of a split or merge the pieces, too."""
    counts: Counter[str] = Counter()
    for error in errors:
        sides = error.gold if len(error.gold) == len(error.predicted) == 1 else error.gold + error.predicted
        counts.update(entity.text for entity in sides)
    return [text for text, _ in _ranked(counts)]


def _differences(gold: Entity, predicted: Entity) -> list[tuple[str, str, str]]:
    """(side, change, text) for each end at which the two differ; none where they do not overlap."""
    if gold.start is None or predicted.start is None:
        return _by_words(gold.text, predicted.text)
    assert gold.end is not None
    assert predicted.end is not None
    if predicted.start >= gold.end or gold.start >= predicted.end:
        return []
    left, right = predicted.start - gold.start, predicted.end - gold.end
    ends = [
        ("left", "missing", gold.text[:left]) if left > 0 else ("left", "extra", predicted.text[: max(-left, 0)]),
        ("right", "extra", predicted.text[-right:]) if right > 0 else ("right", "missing", gold.text[right:]),
    ]
    return [end for end, differs in zip(ends, (left, right), strict=True) if differs]


def _by_words(gold: str, predicted: str) -> list[tuple[str, str, str]]:
    """The same where places are unknown: one surface holds the other."""
    if not gold or not predicted:
        return []
    long, short, change = (gold, predicted, "missing") if predicted in gold else (predicted, gold, "extra")
    if short not in long:
        return []
    left, _, right = long.partition(short)
    return [(side, change, text) for side, text in (("left", left), ("right", right)) if text]


def _has(word: str, side: str, piece: str) -> bool:
    return word.startswith(piece) if side == "left" else word.endswith(piece)


def _ranked(counts: Counter[Any]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
