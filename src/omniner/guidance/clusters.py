"""Turn errors into lessons: group them by type and category, count them in the training split, and write notes.

A cluster holds the errors of one group, and each error is in exactly one cluster (`cluster_errors`). Errors that
confuse two categories are grouped by this pair, whether the boundary is right or not, because the difference between
the two is what must be learnt. All others are grouped by their type and category. Some errors of each cluster are its
examples: the most frequent surfaces first, with the shortest sentence for each, and no sentence twice. The order of the
errors does not matter.

`TrainingCounts` returns counts from the training split about a cluster: how often its surfaces occur and which
categories they have there; the text that answers have too much or too little at their ends, and how many mentions of
the category begin or end with it; the size of the categories. The cost is one pass over the corpus, then one search of
the whole text per surface (4 ms for 156,000 sentences).

`counted_note` writes the counts as a note in Chinese and in English, for runs without a teacher: it states the counts
and the kind of error, and guesses no reason. A teacher is given the same counts (`questions.lesson_question`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any

from omniner.guidance.lessons import (
    COUNTED,
    BoundaryPiece,
    CategoryCount,
    Facts,
    Lesson,
    LessonExample,
    Note,
    SurfaceCount,
    SurfaceErrors,
)
from omniner.records import Entity, Sentence, ranked
from omniner.scoring.error_types import ERROR_TYPES, LANGUAGES, lesson_kinds
from omniner.scoring.metrics import ErrtaError

_BETWEEN = "\x00"  # separator of sentences, which no surface contains
_TYPICAL = 5  # number of most frequent surfaces named for a category
_SURFACES = 3  # number of surfaces named in a note
_LABELS = 3  # number of labels named for a surface


@dataclass(frozen=True)
class Cluster:
    """Errors of one kind.

    Attributes:
        kind: the name of a `LessonKind`.
        gold: the gold category; empty for `redundant`.
        predicted: the predicted category; empty for `missing`, and for `split` and `merge`, whose pieces may have
            several.
        errors: all its errors, in a fixed order.
    """

    kind: str
    gold: str
    predicted: str
    errors: tuple[ErrtaError, ...]

    @property
    def types(self) -> dict[str, int]:
        """The number of errors of each ERRTA type."""
        return dict(sorted(Counter(error.type for error in self.errors).items()))

    @property
    def surfaces(self) -> list[SurfaceErrors]:
        """The surfaces of the errors with their counts, the most frequent first."""
        return [SurfaceErrors(*item) for item in ranked(Counter(map(surface_of, self.errors)))]


def cluster_errors(errors: Iterable[ErrtaError]) -> list[Cluster]:
    """Group errors by type and category, the largest group first, then by `lesson_kinds` and category."""
    found: dict[tuple[str, str, str], list[ErrtaError]] = defaultdict(list)
    for error in errors:
        kind = ERROR_TYPES[error.type].lesson
        gold = error.gold[0].category if kind.has_gold else ""
        predicted = error.predicted[0].category if kind.names_both or not kind.has_gold else ""
        found[kind.name, gold, predicted].append(error)
    clusters = [Cluster(*key, tuple(sorted(members, key=_order))) for key, members in found.items()]
    place = {name: number for number, name in enumerate(lesson_kinds())}
    return sorted(clusters, key=lambda c: (-len(c.errors), place[c.kind], c.gold, c.predicted))


def cluster_examples(cluster: Cluster, texts: Mapping[str, str], count: int) -> list[ErrtaError]:
    """Choose at most `count` errors of a cluster as its examples.

    Args:
        cluster: the cluster.
        texts: texts of sentences by id.
        count: maximum number of examples.
    """
    by_surface: dict[str, list[ErrtaError]] = defaultdict(list)
    for error in cluster.errors:
        by_surface[surface_of(error)].append(error)
    columns = [
        sorted(by_surface[surface.text], key=lambda error: (len(texts[error.sentence_id]), _order(error)))
        for surface in cluster.surfaces
    ]
    chosen: list[ErrtaError] = []
    shown: set[str] = set()
    # one error of each surface, then a second one of each, ...
    for error in (error for row in zip_longest(*columns) for error in row if error is not None):
        text = texts[error.sentence_id]
        if len(chosen) < count and text not in shown:
            chosen.append(error)
            shown.add(text)
    return chosen


def surface_of(error: ErrtaError) -> str:
    """Return the surface of an error: that of gold, or the predicted one if there is no gold; pieces are joined."""
    return " + ".join(entity.text for entity in error.gold or error.predicted)


def build_lesson(
    cluster: Cluster,
    train: TrainingCounts,
    texts: Mapping[str, str],
    examples: int,
    surfaces: int,
    unseen: Collection[str] = (),
) -> Lesson:
    """Build the lesson of a cluster, with a counted note.

    Args:
        cluster: the errors.
        train: counts of the training split.
        texts: texts of sentences by id.
        examples: maximum number of examples.
        surfaces: maximum number of surfaces that are counted.
        unseen: texts of held-out sentences, whose errors affect neither the examples nor the counts.
    """
    seen = replace(cluster, errors=tuple(e for e in cluster.errors if texts[e.sentence_id] not in unseen))
    facts = train.facts(seen, surfaces)
    chosen = cluster_examples(seen, texts, examples)
    return Lesson(
        kind=cluster.kind,
        gold=cluster.gold,
        predicted=cluster.predicted,
        count=len(cluster.errors),
        types=cluster.types,
        note=counted_note(cluster.kind, cluster.gold, cluster.predicted, facts),
        surfaces=cluster.surfaces[:surfaces],
        examples=[
            LessonExample(e.sentence_id, e.type, texts[e.sentence_id], e.gold, e.predicted, doubtful=False)
            for e in chosen
        ],
        facts=facts,
    )


def _order(error: ErrtaError) -> tuple[Any, ...]:
    """Return the sort key of errors: sentence, type and offsets; unknown offsets come first."""
    sides = tuple(
        tuple((-1 if e.start is None else e.start, -1 if e.end is None else e.end, e.text, e.category) for e in side)
        for side in (error.gold, error.predicted)
    )
    return (error.sentence_id, error.type, sides)


class TrainingCounts:
    """Counts surfaces and categories in the training split.

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
        """Count the surfaces, boundary pieces and categories of a cluster; at most `surfaces` of the first two each."""
        category = cluster.gold or cluster.predicted
        names = dict.fromkeys(name for name in (cluster.gold, cluster.predicted) if name)
        return Facts(
            [self.surface(text) for text in error_words(cluster.errors)[:surfaces]],
            self._pieces(cluster, category, surfaces) if lesson_kinds()[cluster.kind].counts_ends else [],
            [self._category(name) for name in names],
        )

    def surface(self, text: str) -> SurfaceCount:
        """Count how often a surface occurs in train, and with which labels."""
        return SurfaceCount(
            text, self._text.count(text) if text else 0, dict(ranked(self._labels.get(text, Counter())))
        )

    def _category(self, name: str) -> CategoryCount:
        mentions = self._mentions.get(name, Counter())
        return CategoryCount(name, mentions.total(), [text for text, _ in ranked(mentions, _TYPICAL)])

    def _pieces(self, cluster: Cluster, category: str, most: int) -> list[BoundaryPiece]:
        """Count the text that answers have too much or too little, and the mentions of the category that have it.

        Only the `most` frequent pieces are kept: each is searched in all mentions, and large corpora have thousands of
        both.
        """
        ends = (boundary_differences(error.gold[0], error.predicted[0]) for error in cluster.errors)
        mentions = self._mentions.get(category, Counter())
        counts: Counter[Any] = Counter(chain.from_iterable(ends))
        pieces = []
        for (side, change, text), errors in ranked(counts, most):
            has = str.startswith if side == "left" else str.endswith
            held = sum(count for word, count in mentions.items() if has(word, text))
            pieces.append(BoundaryPiece(side, change, text, errors, held))
        return pieces


def error_words(errors: Iterable[ErrtaError]) -> list[str]:
    """Return the surfaces of errors, the most frequent first; of errors with several entities, those of both sides."""
    counts: Counter[str] = Counter()
    for error in errors:
        sides = error.gold if len(error.gold) == len(error.predicted) == 1 else error.gold + error.predicted
        counts.update(entity.text for entity in sides)
    return [text for text, _ in ranked(counts)]


def boundary_differences(gold: Entity, predicted: Entity) -> list[tuple[str, str, str]]:
    """Find the ends at which two entities differ; empty if they do not overlap.

    Returns:
        (side, change, text), as in `BoundaryPiece`.
    """
    if gold.start is None or predicted.start is None:
        return surface_differences(gold.text, predicted.text)
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


def surface_differences(gold: str, predicted: str) -> list[tuple[str, str, str]]:
    """Find the ends at which two entities without offsets differ; empty unless one surface contains the other."""
    if not gold or not predicted:
        return []
    long, short, change = (gold, predicted, "missing") if predicted in gold else (predicted, gold, "extra")
    if short not in long:
        return []
    left, _, right = long.partition(short)
    return [(side, change, text) for side, text in (("left", left), ("right", right)) if text]


def counted_note(kind: str, gold: str, predicted: str, facts: Facts) -> Note:
    """Return a note with the counts of the training split, in every language."""
    return Note(COUNTED, {language: counted_rule(kind, gold, predicted, facts, language) for language in LANGUAGES}, {})


def describe_error(kind: str, gold: str, predicted: str, language: str) -> str:
    """Return one sentence about the kind of error."""
    return lesson_kinds()[kind].opening.of(language).format(gold=gold, predicted=predicted)


def describe_facts(facts: Facts, gold: str, predicted: str, language: str) -> list[str]:
    """Return all counts, one clause each."""
    lines = [describe_piece(piece, gold or predicted, facts, language) for piece in facts.pieces]
    lines += [describe_surface(surface, language) for surface in facts.surfaces]
    for name, mentions, typical in facts.categories:
        words = (", " if language == "en" else "、").join(typical)
        if language == "en":
            lines.append(
                f"{name} has {mentions} mentions, most often {words}" if typical else f"{name} has no mentions"
            )
        else:
            lines.append(f"{name}共{mentions}个实体，常见的有{words}" if typical else f"{name}没有实体")
    return lines


def describe_surface(surface: SurfaceCount, language: str) -> str:
    """Return the counts of a surface: `“小满”出现12处：品牌10次、时间1次、没有单独标注1处`."""
    text, places, labels = surface
    alone = places - sum(labels.values())
    named = list(labels.items())[:_LABELS]
    if language == "en":
        if not places:
            return f"“{text}” does not occur"
        said = [f"{count} as {name}" for name, count in named]
        said += [f"{alone} without a label of its own"] if alone > 0 else []
        return f"“{text}” occurs {times(places)}: {', '.join(said)}"
    if not places:
        return f"“{text}”没有出现"
    said = [f"{name}{count}次" for name, count in named]
    said += [f"没有单独标注{alone}处"] if alone > 0 else []
    return f"“{text}”出现{places}处：{'、'.join(said)}"


def describe_piece(piece: BoundaryPiece, category: str, facts: Facts, language: str) -> str:
    """Return the counts of a piece: `末尾多了“的”3次（120个品牌中0个以它结尾）`."""
    side, change, text, errors, held = piece
    mentions = next((item.mentions for item in facts.categories if item.name == category), 0)
    if language == "en":
        what = f"“{text}” too {'much' if change == 'extra' else 'little'}"
        ends = "begin" if side == "left" else "end"
        where = "beginning" if side == "left" else "end"
        return f"{what} at the {where} {times(errors)} ({held} of {mentions} {category} {ends} with it)"
    where, ends = ("开头", "开头") if side == "left" else ("末尾", "结尾")
    what = f"{where}{'多' if change == 'extra' else '少'}了“{text}”{errors}次"
    return f"{what}（{mentions}个{category}中{held}个以它{ends}）"


def times(count: int) -> str:
    """Return `once`, `2 times`, ..."""
    return "once" if count == 1 else f"{count} times"


def counted_rule(kind: str, gold: str, predicted: str, facts: Facts, language: str) -> str:
    """Return the text of a counted note: the kind of error, and the most informative counts for this kind."""
    known = [surface for surface in facts.surfaces if surface.places]
    if lesson_kinds()[kind].has_gold:
        known.sort(key=lambda surface: not surface.labels)  # labelled surfaces are more informative
    said = [describe_piece(piece, gold or predicted, facts, language) for piece in facts.pieces[:_SURFACES]]
    said = said or [describe_surface(surface, language) for surface in known[:_SURFACES]]
    first = describe_error(kind, gold, predicted, language)
    if not said:  # the surfaces do not occur in train: name typical ones of the categories
        typical = [(name, words) for name, _, words in facts.categories if words]
        if language == "en":
            said = [f"frequent as {name} are {', '.join(words)}" for name, words in typical]
        else:
            said = [f"常见的{name}有{'、'.join(words)}" for name, words in typical]
    if language == "en":
        return f"{first} In the training split, {'; '.join(said)}." if said else first
    return f"{first}训练集中，{'；'.join(said)}。" if said else first
