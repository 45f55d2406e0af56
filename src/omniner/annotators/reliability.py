"""Measure how well annotators agree: pairwise F1, Krippendorff's alpha, Fleiss' kappa, by category and by surface.

Labels are compared over characters (the categories that cover a character, or none) and over spans (for every span that
anyone marked, the category that each annotator gave it, or none). Alpha over spans ignores what nobody marked, so it is
much stricter than alpha over characters. Alpha for unitizing gives credit to near misses, and has no interval. Of the
pairwise F1, `strict` requires span and category, `boundary` the span, `relaxed` an overlap with the same category (in
`scoring.metrics`, relaxed means that only the primary must match). Entities without offsets cannot be compared and are
issues.

Every estimate except alpha for unitizing has a percentile interval over draws of posts. A draw is a vector of weights,
the same for all estimates, so a chunk of draws is a matrix product with the counts. Cost: 10 s of CPU for 1,000 draws
of 65,000 posts of three annotators.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, tee
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omniner.annotators.alpha import Pattern, SparseTable, UnitTally, alpha_unitizing, binary_alphas, collect_units
from omniner.config.groups import AgreementConfig
from omniner.corpus.adjudication import AnnotatedSentence, Annotation
from omniner.progress import Progress
from omniner.records import Entity, Issue
from omniner.scoring import errta
from omniner.scoring.metrics import ErrtaResult
from omniner.scoring.resampling import bounds, drawn_weights, post_numbers
from omniner.scoring.units import compare_units
from omniner.wording import counted

Formula = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # sums [..., columns] -> values [...]
F1_KINDS = ("strict", "boundary", "relaxed")
_STREAM = 0xA62E  # separates these draws from other uses of the same seed
_COLUMNS = {"strict": (0, 1, 2), "boundary": (3, 4, 5), "relaxed": (6, 7, 1, 2)}


class Estimate(NamedTuple):
    """A coefficient or score with the bounds of its interval; NaN if it is undefined."""

    value: float
    low: float
    high: float


class CategoryAgreement(NamedTuple):
    """The agreement about one category.

    Attributes:
        name: of the category.
        mentions: number of each annotator's mentions.
        f1: strict, of all pairs together.
        alpha_characters, alpha_spans, alpha_unitizing: Krippendorff's alpha of the category against all else.
    """

    name: str
    mentions: tuple[int, ...]
    f1: float
    alpha_characters: float
    alpha_spans: float
    alpha_unitizing: float


@dataclass
class SurfaceAgreement:
    """The agreement about one surface.

    Attributes:
        surface: its text.
        seen: how often anyone marked its span.
        disputed: how often the labels of its span differed.
        labels: the labels given in those cases; "" = not marked.
    """

    surface: str
    seen: int = 0
    disputed: int = 0
    labels: Counter[str] = field(default_factory=Counter)


@dataclass
class Agreement:
    """The agreement of several annotators.

    Attributes:
        names: of the annotators.
        sentences: number of all sentences.
        complete: number of sentences that every annotator labelled.
        posts: number of posts from which draws were made.
        resampled: posts | sentences (if there are no posts).
        settings: of the intervals.
        estimates: `alpha.characters`, `alpha.spans`, `alpha.unitizing`, `kappa.characters`, `f1.<kind>` (the mean of
            the pairs) and `f1.<kind>.<one>.<other>`.
        categories: one row each.
        surfaces: the most disputed first.
        errors: ERRTA of each pair of names, the first one as gold.
        texts: of the sentences, by id.
        issues: what could not be compared.
    """

    names: list[str]
    sentences: int
    complete: int
    posts: int
    resampled: str
    settings: AgreementConfig
    estimates: dict[str, Estimate]
    categories: list[CategoryAgreement]
    surfaces: list[SurfaceAgreement]
    errors: dict[tuple[str, str], ErrtaResult]
    texts: dict[str, str]
    issues: list[Issue]


def measure_agreement(names: Sequence[str], items: Sequence[AnnotatedSentence], settings: AgreementConfig) -> Agreement:
    """Measure the agreement of two or more annotators."""
    issues: list[Issue] = []
    annotations = [_with_places(item, names, issues) for item in items]
    numbers = post_numbers([item.sentence for item in items])
    posts = 1 + max(numbers, default=-1)
    characters, spans = UnitTally(len(names)), UnitTally(len(names))
    surfaces: dict[str, SurfaceAgreement] = {}
    progress = Progress("sentences compared", len(items))
    for item, given, post in zip(items, annotations, numbers, strict=True):
        for pattern, length in character_patterns(len(item.sentence.text), given):
            characters.add(post, pattern, length)
        for (start, end), pattern in span_patterns(given).items():
            spans.add(post, pattern, 1)
            _note(surfaces, item.sentence.text[start:end], pattern)
        progress.add(1)
    pairs = _pair_table(annotations, numbers, posts, len(names))
    unitizing, by_category = alpha_unitizing(
        *collect_units((len(i.sentence.text) for i in items), annotations, len(names))
    )
    found = estimate_all(names, posts, characters, spans, pairs, settings)
    return Agreement(
        names=list(names),
        sentences=len(items),
        complete=sum(None not in given for given in annotations),
        posts=posts,
        resampled="posts" if any(item.sentence.post_id for item in items) else "sentences",
        settings=settings,
        estimates=found | {"alpha.unitizing": Estimate(unitizing, math.nan, math.nan)},
        categories=_categories(annotations, characters.patterns(), spans.patterns(), by_category),
        surfaces=sorted(surfaces.values(), key=lambda row: (-row.disputed, -row.seen, row.surface)),
        errors=_errors(names, items, annotations),
        texts={item.sentence.id: item.sentence.text for item in items},
        issues=issues,
    )


def _with_places(item: AnnotatedSentence, names: Sequence[str], issues: list[Issue]) -> tuple[Annotation | None, ...]:
    """Return the annotations without entities that have no offsets, and add an issue for those."""
    if not any(entity[2] is None for given in item.annotations if given for entity in given):
        return item.annotations
    found: list[Annotation | None] = []
    for name, given in zip(names, item.annotations, strict=True):
        if given is None:
            found.append(None)
            continue
        found.append(tuple(entity for entity in given if entity.start is not None))
        if lost := len(given) - len(found[-1] or ()):
            issues.append(
                Issue("no-offsets", f"{name}: {counted(lost, 'entity')} without a place", id=item.sentence.id)
            )
    return tuple(found)


def _places(given: Annotation) -> list[tuple[int, int, str]]:
    return [(start, end, name) for _, name, start, end in given if start is not None and end is not None]


def character_patterns(length: int, given: Sequence[Annotation | None]) -> list[tuple[Pattern, int]]:
    """Return the labels of a sentence's characters as runs of equal ones: (pattern, number of characters).

    A label is the tuple of the categories that cover the character, in name order; `()` if there is none.
    """
    places = [None if one is None else _places(one) for one in given]
    cuts = sorted({0, length, *(at for one in places if one for place in one for at in place[:2])})
    number = {at: index for index, at in enumerate(cuts)}
    rows: list[list[tuple[str, ...]] | None] = []
    for one in places:
        row: list[tuple[str, ...]] = [()] * (len(cuts) - 1)
        for start, end, name in one or ():
            for index in range(number[start], number[end]):
                row[index] = tuple(sorted({*row[index], name})) if row[index] else (name,)
        rows.append(None if one is None else row)
    return [
        (tuple(None if row is None else row[index] for row in rows), cuts[index + 1] - cuts[index])
        for index in range(len(cuts) - 1)
    ]


def span_patterns(given: Sequence[Annotation | None]) -> dict[tuple[int, int], Pattern]:
    """Return every span that anyone marked, with the categories that each annotator gave it (`()`: not marked)."""
    tables: list[dict[tuple[int, int], tuple[str, ...]] | None] = []
    for one in given:
        table: dict[tuple[int, int], tuple[str, ...]] = {}
        for start, end, name in _places(one or ()):
            there = table.get((start, end))
            table[start, end] = tuple(sorted({*there, name})) if there else (name,)
        tables.append(None if one is None else table)
    spans = sorted({span for table in tables if table for span in table})
    return {span: tuple(None if table is None else table.get(span, ()) for table in tables) for span in spans}


def _note(surfaces: dict[str, SurfaceAgreement], surface: str, pattern: Pattern) -> None:
    labels = [label for label in pattern if isinstance(label, tuple)]
    if len(labels) < 2:
        return
    row = surfaces.setdefault(surface, SurfaceAgreement(surface))
    row.seen += 1
    if len(set(labels)) > 1:
        row.disputed += 1
        row.labels.update("+".join(label) for label in labels)


def pair_counts(one: Annotation, other: Annotation) -> list[int]:
    """Count what F1 of two annotations of a sentence is computed from.

    Returns:
        `[8]`: strict matches, entities, the other's entities; equal spans, spans, the other's spans; entities that
        overlap one of the other's with the same category, and the same count for the other's entities.
    """
    if one == other:
        places = len({entity[2:] for entity in one})
        return [len(one), len(one), len(one), places, places, places, len(one), len(one)]
    ours, theirs = {entity[2:] for entity in one}, {entity[2:] for entity in other}
    strict = len({entity[1:] for entity in one} & {entity[1:] for entity in other})
    touched = (_touched(one, other), _touched(other, one))
    return [strict, len(one), len(other), len(ours & theirs), len(ours), len(theirs), *touched]


def _touched(one: Annotation, other: Annotation) -> int:
    there = _places(other)
    return sum(
        any(name == theirs and start < stop and begin < end for begin, stop, theirs in there)
        for start, end, name in _places(one)
    )


def _pair_table(
    annotations: Sequence[Sequence[Annotation | None]], numbers: Sequence[int], posts: int, annotators: int
) -> NDArray[np.int64]:
    """Return `[posts, pairs, 8]` of `pair_counts`, without sentences that one of the two has not labelled."""
    pairs = list(combinations(range(annotators), 2))
    table = np.zeros((posts, len(pairs), 8), dtype=np.int64)
    for given, post in zip(annotations, numbers, strict=True):
        for index, (first, second) in enumerate(pairs):
            one, other = given[first], given[second]
            if one is not None and other is not None and (one or other):
                table[post, index] += pair_counts(one, other)
    return table


def _categories(
    annotations: Sequence[Sequence[Annotation | None]],
    characters: dict[Pattern, int],
    spans: dict[Pattern, int],
    unitizing: Mapping[str, float],
) -> list[CategoryAgreement]:
    annotators = len(annotations[0]) if annotations else 0
    mentions = [Counter[str]() for _ in range(annotators)]
    same, given_by_two = Counter[str](), Counter[str]()
    for given in annotations:
        for counter, one in zip(mentions, given, strict=True):
            counter.update(entity[1] for entity in one or ())
        for one, other in combinations([one for one in given if one is not None], 2):
            ours, theirs = {entity[1:] for entity in one}, {entity[1:] for entity in other}
            same.update(key[0] for key in ours & theirs)
            given_by_two.update(key[0] for keys in (ours, theirs) for key in keys)
    of_characters, of_spans = binary_alphas(characters), binary_alphas(spans)
    return [
        CategoryAgreement(
            name,
            tuple(counter[name] for counter in mentions),
            2 * same[name] / given_by_two[name] if given_by_two[name] else math.nan,
            *(alphas.get(name, math.nan) for alphas in (of_characters, of_spans, unitizing)),
        )
        for name in sorted({name for counter in mentions for name in counter})
    ]


def _errors(
    names: Sequence[str], items: Sequence[AnnotatedSentence], annotations: Sequence[Sequence[Annotation | None]]
) -> dict[tuple[str, str], ErrtaResult]:
    """Return ERRTA of every pair, with the first of the two as gold."""
    found = {}
    for first, second in combinations(range(len(names)), 2):
        both = [
            (item, one, other)
            for item, given in zip(items, annotations, strict=True)
            if (one := given[first]) is not None and (other := given[second]) is not None
        ]
        ids, texts = [item.sentence.id for item, _, _ in both], [item.sentence.text for item, _, _ in both]
        gold: list[Sequence[Entity]] = [one for _, one, _ in both]
        comparison = compare_units(gold, [other for _, _, other in both], "span")
        found[names[first], names[second]] = errta.sort_comparison(comparison, ids, texts)
    return found


def estimate_all(
    names: Sequence[str],
    posts: int,
    characters: UnitTally,
    spans: UnitTally,
    pairs: NDArray[np.int64],
    settings: AgreementConfig,
) -> dict[str, Estimate]:
    """Compute every estimate with its interval, all from the same draws of posts."""
    alpha, kappa = characters.tables(posts)
    parts: list[tuple[SparseTable, str, Formula]] = [
        (alpha, "alpha.characters", characters.alpha),
        (spans.tables(posts)[0], "alpha.spans", spans.alpha),
        (kappa, "kappa.characters", characters.kappa),
    ]
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _STREAM]))
    draws = (weights.astype(np.float64) for weights in drawn_weights(posts, settings.bootstrap, generator))
    counts = pairs.reshape(posts, -1).astype(np.float64)
    sums: list[NDArray[np.float64]] = []  # of the pairs, for each chunk of draws
    drawn: list[list[NDArray[np.float64]]] = [[] for _ in parts]
    *copies, own = tee(draws, len(parts) + 1)  # consumed in parallel, so that only one chunk of weights is held
    tables = [cells.drawn(copy) for copy, (cells, _, _) in zip(copies, parts, strict=True)]
    progress = Progress("draws of posts", settings.bootstrap)
    for weights, *chunks in zip(own, *tables, strict=True):
        sums.append((weights @ counts).reshape(-1, *pairs.shape[1:]))
        for values, chunk, (_, _, formula) in zip(drawn, chunks, parts, strict=True):
            values.append(formula(chunk))
        progress.add(len(weights))
    found = {}
    for values, (cells, name, formula) in zip(drawn, parts, strict=True):
        found[name] = _estimate(float(formula(cells.total())), values, settings)
    formulas: dict[str, Formula] = {f"f1.{kind}": partial(_mean_f1, kind=kind) for kind in F1_KINDS}
    for index, (one, other) in enumerate(combinations(names, 2)):
        formulas |= {f"f1.{kind}.{one}.{other}": partial(_pair_f1, pair=index, kind=kind) for kind in F1_KINDS}
    total = counts.sum(axis=0).reshape(pairs.shape[1:])
    for name, formula in formulas.items():
        found[name] = _estimate(float(formula(total)), [formula(some) for some in sums], settings)
    return found


def _estimate(value: float, drawn: Sequence[NDArray[np.float64]], settings: AgreementConfig) -> Estimate:
    """Return the value with the interval of its draws, ignoring draws in which it is undefined."""
    samples = np.concatenate([*map(np.atleast_1d, drawn), np.empty(0)])
    samples = samples[~np.isnan(samples)]
    if math.isnan(value) or not len(samples):
        return Estimate(value, math.nan, math.nan)
    low, high = bounds(samples, settings.confidence)
    return Estimate(value, float(low), float(high))


def pair_f1(sums: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Compute F1, `[...]`, from sums `[..., 8]` of `pair_counts`; NaN if neither annotator marked anything.

    Args:
        sums: of the counts.
        kind: strict | boundary | relaxed.
    """
    if kind == "relaxed":
        ours, theirs, one, other = (sums[..., place] for place in _COLUMNS[kind])
        recall, precision = _share(ours, one), _share(theirs, other)
        both = precision + recall
        f1 = np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)
        return np.where(one + other > 0, f1, math.nan)
    same, one, other = (sums[..., place] for place in _COLUMNS[kind])
    return np.where(one + other > 0, 2 * same / np.maximum(one + other, 1), math.nan)


def _mean_f1(sums: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Compute the mean over pairs, `[...]`, from sums `[..., pairs, 8]`.

    Pairs without F1 are left out: they share no sentence (annotators taking turns), or neither marked anything in the
    shared ones. NaN if no pair has an F1.
    """
    found = pair_f1(sums, kind)
    known = ~np.isnan(found)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, found, 0.0).sum(axis=-1) / np.maximum(count, 1), math.nan)


def _pair_f1(sums: NDArray[np.float64], pair: int, kind: str) -> NDArray[np.float64]:
    return pair_f1(sums[..., pair, :], kind)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return part / np.maximum(whole, 1)
