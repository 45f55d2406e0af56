"""Mentions: how many of each category, how long, how varied, how ambiguous, and how many of a test set are known.

In goes a `Flat`, out come rows by category (or primary) and by surface. Ambiguity is the entropy, in bits, of the
category given the surface: 0 where each surface has one category, 1 where two are equally likely everywhere.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from omniner.corpus.stats.flat import Flat, Floats, Ints
from omniner.corpus.taxonomy import primary_of

SPACE, PUNCTUATION = "white space", "punctuation"
_WORDLIKE = "%‰@#&*"  # punctuation to Unicode, but parts of names and amounts
_BRACKETS = dict(zip("《（(【[「『〈“‘<{", "》）)】]」』〉”’>}", strict=True))
_CLOSING = {closing: opening for opening, closing in _BRACKETS.items()}


class Row(NamedTuple):
    """A category or primary. Lengths are in characters, entropies in bits, distinctiveness in nats."""

    name: str
    mentions: int
    share: float  # of all mentions
    by_split: tuple[int, ...]
    mean: float
    median: float
    p95: float
    longest: int
    surfaces: int  # distinct ones
    ambiguous: float  # share of mentions whose surface has another category, too; 1 - this is exclusive to the row
    entropy: float  # mean over its mentions of the entropy of the category given their surface
    span_distinctiveness: float
    boundary_distinctiveness: float


class Ambiguity(NamedTuple):
    """For each surface: its mentions, its number of categories, and the entropy of its category in bits."""

    mentions: Ints
    kinds: Ints
    entropy: Floats


class Seen(NamedTuple):
    """Mentions of a split, and how many of them have a surface, and a surface with their category, that train has."""

    mentions: int
    surface: int
    pair: int


def ambiguity(surface: Ints, group: Ints, surfaces: int, groups: int) -> Ambiguity:
    """How ambiguous each surface is.

    Args:
        surface: (M,) number of each mention's surface.
        group: (M,) number of its category or primary.
        surfaces, groups: how many there are of each.
    """
    pairs, counts = np.unique(surface * max(groups, 1) + group, return_counts=True)
    owner = pairs // max(groups, 1)
    mentions = np.bincount(surface, minlength=surfaces)
    share = counts / mentions[owner]
    entropy = np.bincount(owner, -share * np.log2(share), minlength=surfaces)
    return Ambiguity(mentions, np.bincount(owner, minlength=surfaces), np.maximum(entropy, 0.0))


def primaries(flat: Flat) -> tuple[list[str], Ints]:
    """The primaries, sorted by name, and (M,) the number of each mention's."""
    of = [primary_of(category) for category in flat.categories]
    names = sorted(set(of))
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place[name] for name in of], np.int64)[flat.category]


def rows(
    flat: Flat, names: Sequence[str], group: Ints, ambiguous: Ambiguity, spans: Floats, bounds: Floats
) -> list[Row]:
    """One row for each name, in the order of `names`.

    Args:
        names: of the categories or primaries.
        group: (M,) which of them each mention is.
        ambiguous: what `ambiguity` gave for them.
        spans, bounds: what `distinctiveness` gave for them.
    """
    length, split = flat.mention_length, flat.mention_split
    width = len(flat.splits)
    by_split = np.bincount(group * width + split, minlength=len(names) * width).reshape(len(names), width)
    order = np.argsort(group, kind="stable")
    cuts = np.searchsorted(group[order], np.arange(1, len(names)))
    return [
        _row(names[n], length[mentions], flat.surface[mentions], by_split[n], ambiguous, (spans[n], bounds[n]))
        for n, mentions in enumerate(np.split(order, cuts)[: len(names)])
    ]


def _row(
    name: str, size: Ints, surface: Ints, by_split: Ints, ambiguous: Ambiguity, distinctiveness: tuple[float, float]
) -> Row:
    """The row of some mentions: their sizes and surfaces; distinctiveness of the spans, and of what is around them."""
    return Row(
        name=name,
        mentions=len(size),
        share=len(size) / int(ambiguous.mentions.sum()),
        by_split=tuple(by_split.tolist()),
        mean=float(size.mean()),
        median=float(np.median(size)),
        p95=float(np.percentile(size, 95)),
        longest=int(size.max()),
        surfaces=len(np.unique(surface)),
        ambiguous=float((ambiguous.kinds[surface] > 1).mean()),
        entropy=float(ambiguous.entropy[surface].mean()),
        span_distinctiveness=float(distinctiveness[0]),
        boundary_distinctiveness=float(distinctiveness[1]),
    )


class Surface(NamedTuple):
    """An ambiguous surface and its mentions by category, the most frequent first."""

    text: str
    mentions: int
    entropy: float
    categories: tuple[tuple[str, int], ...]


def most_ambiguous(flat: Flat, ambiguous: Ambiguity, top: int) -> list[Surface]:
    """The surfaces that leave most to guess: entropy times mentions, largest first."""
    weight = ambiguous.entropy * ambiguous.mentions
    chosen = sorted(np.flatnonzero(ambiguous.kinds > 1).tolist(), key=lambda n: (-weight[n], flat.surfaces[n]))[:top]
    wanted = np.isin(flat.surface, np.array(chosen, np.int64))
    pairs, counts = np.unique(flat.surface[wanted] * len(flat.categories) + flat.category[wanted], return_counts=True)
    kinds: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        kinds[pair // len(flat.categories)].append((flat.categories[pair % len(flat.categories)], count))
    return [
        Surface(
            text=flat.surfaces[number],
            mentions=int(ambiguous.mentions[number]),
            entropy=float(ambiguous.entropy[number]),
            categories=tuple(sorted(kinds[number], key=lambda item: (-item[1], item[0]))),
        )
        for number in chosen
    ]


def seen(flat: Flat, split: int, train: int) -> Seen:
    """How much of a split's mentions stands in train."""
    known = np.zeros(len(flat.surfaces), bool)
    of = flat.mention_split
    known[flat.surface[of == train]] = True
    pair = flat.surface * max(len(flat.categories), 1) + flat.category
    here = of == split
    return Seen(
        int(here.sum()), int(known[flat.surface[here]].sum()), int(np.isin(pair[here], pair[of == train]).sum())
    )


def edge(surface: str) -> str:
    """What stands at an end of a surface that does not belong there: white space, punctuation, or nothing.

    A bracket or quotation mark whose partner is in the surface belongs to it, as do the signs of amounts and names.
    """
    if not surface or surface[0].isspace() or surface[-1].isspace():
        return SPACE
    first, last = surface[0], surface[-1]
    for letter, partner in ((first, _BRACKETS.get(first)), (last, _CLOSING.get(last))):
        if _is_punctuation(letter) and not (partner and partner in surface):
            return PUNCTUATION
    return ""


def _is_punctuation(letter: str) -> bool:
    return letter not in _WORDLIKE and unicodedata.category(letter).startswith("P")


def edges(flat: Flat) -> dict[str, Ints]:
    """The mentions with white space, and those with punctuation, at an end."""
    kinds = np.array([edge(surface) for surface in flat.surfaces] or [""])
    of = kinds[flat.surface]
    return {kind: np.flatnonzero(of == kind) for kind in (SPACE, PUNCTUATION)}
