"""How well several annotators agree: F1 of every pair, Krippendorff's alpha, Fleiss' kappa, by category, by surface.

In go matched items (`corpus.curation.matching`), out comes an `Agreement`, from which `agreement_tables` makes tables
and guideline suggestions. Labels are compared over characters (the categories that cover a character, or none) and over
spans (of every span that anyone marked, the category that each gave it, or none). Alpha over spans leaves out what
nobody marked, so that it is far stricter than alpha over characters; alpha for unitizing (`agreement_unitizing`) knows
near misses, and has no interval. Of the pairwise F1, `strict` wants place and
category, `boundary` the place, `relaxed` an overlap with the same category. Intervals come from drawing posts again.
Entities without a place cannot be compared and are issues.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from omniner.analysis import errta, errta_span
from omniner.analysis.agreement_unitizing import alpha_unitizing, units_of
from omniner.analysis.bootstrap import post_numbers, resampled
from omniner.analysis.coefficients import Cells, Pattern, Tally, binary_alpha
from omniner.analysis.metrics import compare
from omniner.analysis.results import ErrtaResult
from omniner.corpus.curation.matching import Item, Proposal
from omniner.records import Entity, Issue
from omniner.schema import AgreementConfig

F1_KINDS = ("strict", "boundary", "relaxed")

_STREAM = 0xA62E  # keeps these draws apart from other uses of the same seed
_COLUMNS = {"strict": (0, 1, 2), "boundary": (3, 4, 5), "relaxed": (6, 7, 1, 2)}


class Figure(NamedTuple):
    """A figure with the bounds of its interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


class CategoryRow(NamedTuple):
    """One category: what all pairs together make of it."""

    name: str
    mentions: tuple[int, ...]  # of each annotator
    f1: float  # strict, of all pairs together
    alpha_characters: float
    alpha_spans: float
    alpha_unitizing: float


@dataclass
class SurfaceRow:
    """One surface: how often its span was marked by anyone, and how often not all said the same of it."""

    surface: str
    seen: int = 0
    disputed: int = 0
    labels: Counter[str] = field(default_factory=Counter)  # what it was called in the disputes; "" = not marked


@dataclass
class Agreement:
    """All figures. `figures` has `alpha.characters`, `alpha.spans`, `alpha.unitizing`, `kappa.characters`, `f1.<kind>`
    (the mean of the pairs) and `f1.<kind>.<one>.<other>`."""

    names: list[str]
    sentences: int
    complete: int  # sentences that every annotator labelled
    posts: int
    resampled: str  # posts | sentences
    settings: AgreementConfig
    figures: dict[str, Figure]
    categories: list[CategoryRow]
    surfaces: list[SurfaceRow]  # most disputed first
    errors: dict[tuple[str, str], ErrtaResult]  # the first of the pair stands for gold
    texts: dict[str, str]  # of the sentences, by id
    issues: list[Issue]


def measure(names: Sequence[str], items: Sequence[Item], settings: AgreementConfig) -> Agreement:
    """Measure the agreement of two or more annotators."""
    issues: list[Issue] = []
    proposals = [_placed(item, names, issues) for item in items]
    numbers = post_numbers([item.sentence for item in items])
    posts = 1 + max(numbers, default=-1)
    characters, spans = Tally(len(names)), Tally(len(names))
    surfaces: dict[str, SurfaceRow] = {}
    for item, given, post in zip(items, proposals, numbers, strict=True):
        for pattern, length in character_patterns(len(item.sentence.text), given):
            characters.add(post, pattern, length)
        for (start, end), pattern in span_patterns(given).items():
            spans.add(post, pattern, 1)
            _note(surfaces, item.sentence.text[start:end], pattern)
    pairs = _pair_table(proposals, numbers, posts, len(names))
    unitizing, by_category = alpha_unitizing(*units_of((len(i.sentence.text) for i in items), proposals, len(names)))
    figures = _figures(names, posts, characters, spans, pairs, settings)
    return Agreement(
        names=list(names),
        sentences=len(items),
        complete=sum(None not in given for given in proposals),
        posts=posts,
        resampled="posts" if any(item.sentence.post_id for item in items) else "sentences",
        settings=settings,
        figures=figures | {"alpha.unitizing": Figure(unitizing, math.nan, math.nan)},
        categories=_categories(proposals, characters.patterns(), spans.patterns(), by_category),
        surfaces=sorted(surfaces.values(), key=lambda row: (-row.disputed, -row.seen, row.surface)),
        errors=_errors(names, items, proposals),
        texts={item.sentence.id: item.sentence.text for item in items},
        issues=issues,
    )


def _placed(item: Item, names: Sequence[str], issues: list[Issue]) -> tuple[Proposal | None, ...]:
    """The proposals without entities that have no place."""
    if not any(entity[2] is None for given in item.proposals if given for entity in given):
        return item.proposals
    found: list[Proposal | None] = []
    for name, given in zip(names, item.proposals, strict=True):
        if given is None:
            found.append(None)
            continue
        found.append(tuple(entity for entity in given if entity.start is not None))
        if lost := len(given) - len(found[-1] or ()):
            issues.append(Issue("no-offsets", f"{name}: {lost} entities without a place", id=item.sentence.id))
    return tuple(found)


def _places(given: Proposal) -> list[tuple[int, int, str]]:
    return [(start, end, name) for _, name, start, end in given if start is not None and end is not None]


def character_patterns(length: int, given: Sequence[Proposal | None]) -> list[tuple[Pattern, int]]:
    """The labels of a sentence's characters, as stretches of equal ones.

    A label is the tuple of the categories that cover the character, in name order; `()` where none does.
    """
    places = [None if one is None else _places(one) for one in given]
    cuts = sorted({0, length, *(at for one in places if one for place in one for at in place[:2])})
    number = {at: index for index, at in enumerate(cuts)}
    rows: list[list[tuple[str, ...]] | None] = []
    for one in places:
        row: list[tuple[str, ...]] = [()] * (len(cuts) - 1)
        for start, end, name in one or ():
            for index in range(number[start], number[end]):
                row[index] = tuple(sorted({*row[index], name}))
        rows.append(None if one is None else row)
    return [
        (tuple(None if row is None else row[index] for row in rows), cuts[index + 1] - cuts[index])
        for index in range(len(cuts) - 1)
    ]


def span_patterns(given: Sequence[Proposal | None]) -> dict[tuple[int, int], Pattern]:
    """Every span that anyone marked, with the categories that each annotator gave it (`()`: not marked)."""
    tables: list[dict[tuple[int, int], tuple[str, ...]] | None] = []
    for one in given:
        table: dict[tuple[int, int], tuple[str, ...]] = {}
        for start, end, name in _places(one or ()):
            table[start, end] = tuple(sorted({*table.get((start, end), ()), name}))
        tables.append(None if one is None else table)
    spans = sorted({span for table in tables if table for span in table})
    return {span: tuple(None if table is None else table.get(span, ()) for table in tables) for span in spans}


def _note(surfaces: dict[str, SurfaceRow], surface: str, pattern: Pattern) -> None:
    labels = [label for label in pattern if isinstance(label, tuple)]
    if len(labels) < 2:
        return
    row = surfaces.setdefault(surface, SurfaceRow(surface))
    row.seen += 1
    if len(set(labels)) > 1:
        row.disputed += 1
        row.labels.update("+".join(label) for label in labels)


def pair_counts(one: Proposal, other: Proposal) -> list[int]:
    """`[strict matches, entities, entities of the other, equal places, places, places of the other, entities that
    overlap one of the other with their category, the same of the other]`."""
    if one == other:
        places = len({entity[2:] for entity in one})
        return [len(one), len(one), len(one), places, places, places, len(one), len(one)]
    ours, theirs = {entity[2:] for entity in one}, {entity[2:] for entity in other}
    strict = len({entity[1:] for entity in one} & {entity[1:] for entity in other})
    touched = (_touched(one, other), _touched(other, one))
    return [strict, len(one), len(other), len(ours & theirs), len(ours), len(theirs), *touched]


def _touched(one: Proposal, other: Proposal) -> int:
    there = _places(other)
    return sum(
        any(name == theirs and start < stop and begin < end for begin, stop, theirs in there)
        for start, end, name in _places(one)
    )


def _pair_table(
    proposals: Sequence[Sequence[Proposal | None]], numbers: Sequence[int], posts: int, annotators: int
) -> NDArray[np.int64]:
    """`[posts, pairs, 8]` of `pair_counts`; sentences that one of the two has not labelled are left out."""
    pairs = list(combinations(range(annotators), 2))
    table = np.zeros((posts, len(pairs), 8), dtype=np.int64)
    for given, post in zip(proposals, numbers, strict=True):
        for index, (first, second) in enumerate(pairs):
            one, other = given[first], given[second]
            if one is not None and other is not None and (one or other):
                table[post, index] += pair_counts(one, other)
    return table


def pair_f1(sums: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """`[...]` of F1 from sums `[..., 8]`; NaN where neither marked anything."""
    if kind == "relaxed":
        ours, theirs, one, other = (sums[..., place] for place in _COLUMNS[kind])
        recall, precision = _share(ours, one), _share(theirs, other)
        both = precision + recall
        f1 = np.where(both > 0, 2 * precision * recall / np.where(both > 0, both, 1), 0.0)
        return np.where(one + other > 0, f1, math.nan)
    same, one, other = (sums[..., place] for place in _COLUMNS[kind])
    return np.where(one + other > 0, 2 * same / np.maximum(one + other, 1), math.nan)


def _mean_f1(sums: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """`[...]`: the mean of the pairs, from sums `[..., pairs, 8]`."""
    return np.asarray(pair_f1(sums, kind).mean(axis=-1))


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return part / np.maximum(whole, 1)


def _figures(
    names: Sequence[str],
    posts: int,
    characters: Tally,
    spans: Tally,
    pairs: NDArray[np.int64],
    settings: AgreementConfig,
) -> dict[str, Figure]:
    alpha, kappa = characters.tables(posts)
    found = {"alpha.characters": _figure(alpha, characters.alpha, settings)}
    found["alpha.spans"] = _figure(spans.tables(posts)[0], spans.alpha, settings)
    found["kappa.characters"] = _figure(kappa, characters.kappa, settings)
    for kind in F1_KINDS:
        found[f"f1.{kind}"] = _figure(pairs, partial(_mean_f1, kind=kind), settings)
    for index, (one, other) in enumerate(combinations(names, 2)):
        for kind in F1_KINDS:
            found[f"f1.{kind}.{one}.{other}"] = _figure(pairs[:, index], partial(pair_f1, kind=kind), settings)
    return found


def _figure(
    table: NDArray[np.int64] | Cells,
    formula: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    settings: AgreementConfig,
) -> Figure:
    """The figure of a table `[posts, ...]`, with its interval; every figure sees the same draws."""
    total = table.total() if isinstance(table, Cells) else table.sum(axis=0, dtype=np.int64).astype(np.float64)
    value = float(formula(total))
    if not settings.bootstrap or math.isnan(value):
        return Figure(value, math.nan, math.nan)
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, _STREAM]))
    draws = table.drawn if isinstance(table, Cells) else partial(resampled, table)
    drawn = np.concatenate([np.atleast_1d(formula(sums)) for sums in draws(settings.bootstrap, generator)])
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Figure(value, math.nan, math.nan)
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Figure(value, float(low), float(high))


def _categories(
    proposals: Sequence[Sequence[Proposal | None]],
    characters: dict[Pattern, int],
    spans: dict[Pattern, int],
    unitizing: Mapping[str, float],
) -> list[CategoryRow]:
    annotators = len(proposals[0]) if proposals else 0
    mentions = [Counter[str]() for _ in range(annotators)]
    same, given_by_two = Counter[str](), Counter[str]()
    for given in proposals:
        for counter, one in zip(mentions, given, strict=True):
            counter.update(entity[1] for entity in one or ())
        for one, other in combinations([one for one in given if one is not None], 2):
            ours, theirs = {entity[1:] for entity in one}, {entity[1:] for entity in other}
            same.update(key[0] for key in ours & theirs)
            given_by_two.update(key[0] for keys in (ours, theirs) for key in keys)
    parts = {name: _with(name, characters) for name in sorted({name for counter in mentions for name in counter})}
    return [
        CategoryRow(
            name,
            tuple(counter[name] for counter in mentions),
            2 * same[name] / given_by_two[name] if given_by_two[name] else math.nan,
            binary_alpha(characters_of, name),
            binary_alpha(_with(name, spans), name),
            unitizing.get(name, math.nan),
        )
        for name, characters_of in parts.items()
    ]


def _with(category: str, patterns: dict[Pattern, int]) -> dict[Pattern, int]:
    """The patterns as far as alpha of one category sees them: few, however many there are of all categories."""
    found: dict[Pattern, int] = defaultdict(int)
    own = (category,)
    for pattern, weight in patterns.items():
        found[tuple(None if label is None else own if category in label else () for label in pattern)] += weight  # type: ignore[operator]
    return found


def _errors(
    names: Sequence[str], items: Sequence[Item], proposals: Sequence[Sequence[Proposal | None]]
) -> dict[tuple[str, str], ErrtaResult]:
    """ERRTA of every pair, the first of the two in the place of gold."""
    found = {}
    for first, second in combinations(range(len(names)), 2):
        both = [
            (item, one, other)
            for item, given in zip(items, proposals, strict=True)
            if (one := given[first]) is not None and (other := given[second]) is not None
        ]
        ids, texts = [item.sentence.id for item, _, _ in both], [item.sentence.text for item, _, _ in both]
        gold: list[Sequence[Entity]] = [one for _, one, _ in both]
        comparison = compare(gold, [other for _, _, other in both], "span")
        errors, large = errta_span.errors_of(comparison.residues, ids, texts, "span")
        found[names[first], names[second]] = errta.assemble(
            errors,
            mode="span",
            unit="span",
            tp=len(comparison.right),
            missing=comparison.missing,
            extra=comparison.extra,
            read=len(ids),
            greedy_groups=large,
        )
    return found
