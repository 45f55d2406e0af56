"""Describe the mentions of a corpus: by category, by surface, their edges, overlaps, distinctiveness.

Ambiguity is the entropy, in bits, of the category given the surface: 0 if each surface has one category, 1 if two are
always equally likely. Overlapping mentions are nested, crossing, or one span with two categories. A sweep over all
mentions by start finds, with arrays, the sentences in which any two overlap; only those are examined pair by pair.

Distinctiveness, in nats, says whether single tokens distinguish spans, or their edges, from other text; models do
better where it is high ("Dissecting Span Identification Tasks with Performance Prediction", Papay et al., EMNLP 2020).
Span distinctiveness is the Kullback-Leibler divergence of the tokens inside a category's spans from the tokens of the
whole corpus; boundary distinctiveness that of the tokens directly before and after its spans. Tokens are characters, or
words if the script puts spaces between them; a span includes all words that it touches.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from omniner.corpus.stats.flat import Bools, CorpusArrays, Floats, Ints, number_values, ranges
from omniner.corpus.taxonomy import primary_of
from omniner.records import ranked

SPACE, PUNCTUATION = "white space", "punctuation"
NESTED, CROSSING, SAME = "nested", "crossing", "same place"
_WORDLIKE = "%‰@#&*"  # punctuation in Unicode, but parts of names and amounts
_BRACKETS = dict(zip("《（(【[「『〈“‘<{", "》）)】]」』〉”’>}", strict=True))
_CLOSING = {closing: opening for opening, closing in _BRACKETS.items()}


class CategoryStats(NamedTuple):
    """The mentions of a category or primary.

    Attributes:
        name: of it.
        mentions: number of mentions.
        share: of all mentions.
        by_split: mentions in each split.
        mean, median, p95, longest: characters of a mention.
        surfaces: number of distinct surfaces.
        ambiguous: share of its mentions whose surface also has another category.
        entropy: in bits, of the category given the surface, mean over its mentions.
        span_distinctiveness, boundary_distinctiveness: in nats.
    """

    name: str
    mentions: int
    share: float
    by_split: tuple[int, ...]
    mean: float
    median: float
    p95: float
    longest: int
    surfaces: int
    ambiguous: float
    entropy: float
    span_distinctiveness: float
    boundary_distinctiveness: float


class Ambiguity(NamedTuple):
    """For each surface, `(surfaces,)`: number of mentions, number of categories, entropy of its category in bits."""

    mentions: Ints
    kinds: Ints
    entropy: Floats


class SeenMentions(NamedTuple):
    """Number of mentions of a split; `surface`: whose surface train has; `pair`: also with the same category."""

    mentions: int
    surface: int
    pair: int


def measure_ambiguity(surface: Ints, group: Ints, surfaces: int, groups: int) -> Ambiguity:
    """Measure how ambiguous each surface is.

    Args:
        surface: (M,) number of each mention's surface.
        group: (M,) number of its category or primary.
        surfaces, groups: number of each.
    """
    pairs, counts = np.unique(surface * max(groups, 1) + group, return_counts=True)
    owner = pairs // max(groups, 1)
    mentions = np.bincount(surface, minlength=surfaces)
    share = counts / mentions[owner]
    entropy = np.bincount(owner, -share * np.log2(share), minlength=surfaces)
    return Ambiguity(mentions, np.bincount(owner, minlength=surfaces), np.maximum(entropy, 0.0))


def number_primaries(flat: CorpusArrays) -> tuple[list[str], Ints]:
    """Return the primaries, sorted by name, and `(M,)` the number of each mention's primary."""
    of = [primary_of(category) for category in flat.categories]
    names = sorted(set(of))
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place[name] for name in of], np.int64)[flat.category]


def category_rows(
    flat: CorpusArrays, names: Sequence[str], group: Ints, ambiguous: Ambiguity, spans: Floats, bounds: Floats
) -> list[CategoryStats]:
    """Describe the mentions of each category or primary, in the order of `names`.

    Args:
        flat: the corpus.
        names: of the categories or primaries.
        group: (M,) number of each mention's category or primary.
        ambiguous: result of `measure_ambiguity` for them.
        spans, bounds: results of `measure_distinctiveness` for them.
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
) -> CategoryStats:
    """Return the row of some mentions; `distinctiveness` is that of their spans and of their boundaries."""
    return CategoryStats(
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


class AmbiguousSurface(NamedTuple):
    """An ambiguous surface and its mentions by category, the most frequent first."""

    text: str
    mentions: int
    entropy: float
    categories: tuple[tuple[str, int], ...]


def most_ambiguous(flat: CorpusArrays, ambiguous: Ambiguity, top: int) -> list[AmbiguousSurface]:
    """Return the surfaces with the most uncertainty: entropy times mentions, largest first."""
    weight = ambiguous.entropy * ambiguous.mentions
    chosen = sorted(np.flatnonzero(ambiguous.kinds > 1).tolist(), key=lambda n: (-weight[n], flat.surfaces[n]))[:top]
    wanted = np.isin(flat.surface, np.array(chosen, np.int64))
    pairs, counts = np.unique(flat.surface[wanted] * len(flat.categories) + flat.category[wanted], return_counts=True)
    kinds: dict[int, dict[str, int]] = defaultdict(dict)
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        kinds[pair // len(flat.categories)][flat.categories[pair % len(flat.categories)]] = count
    return [
        AmbiguousSurface(
            text=flat.surfaces[number],
            mentions=int(ambiguous.mentions[number]),
            entropy=float(ambiguous.entropy[number]),
            categories=tuple(ranked(kinds[number])),
        )
        for number in chosen
    ]


def count_seen(flat: CorpusArrays, split: int, train: int) -> SeenMentions:
    """Count how many of a split's mentions occur in train, too."""
    known = np.zeros(len(flat.surfaces), bool)
    of = flat.mention_split
    known[flat.surface[of == train]] = True
    pair = flat.surface * max(len(flat.categories), 1) + flat.category
    here = of == split
    return SeenMentions(
        int(here.sum()), int(known[flat.surface[here]].sum()), int(np.isin(pair[here], pair[of == train]).sum())
    )


def edge_fault(surface: str) -> str:
    """Return what is wrong at an end of a surface: white space, punctuation, or nothing.

    A bracket or quotation mark whose partner is in the surface belongs to it, as do the signs of amounts and names.
    """
    if not surface or surface[0].isspace() or surface[-1].isspace():
        return SPACE
    first, last = surface[0], surface[-1]
    for letter, partner in ((first, _BRACKETS.get(first)), (last, _CLOSING.get(last))):
        is_punctuation = letter not in _WORDLIKE and unicodedata.category(letter).startswith("P")
        if is_punctuation and not (partner and partner in surface):
            return PUNCTUATION
    return ""


def find_edge_faults(flat: CorpusArrays) -> dict[str, Ints]:
    """Find the mentions with white space, and those with punctuation, at an end."""
    kinds = np.array([edge_fault(surface) for surface in flat.surfaces] or [""])
    of = kinds[flat.surface]
    return {kind: np.flatnonzero(of == kind) for kind in (SPACE, PUNCTUATION)}


class Overlap(NamedTuple):
    """Two mentions of one sentence: the outer (longer, or earlier) one and the other, by their numbers."""

    kind: str
    outer: int
    inner: int


def find_overlaps(flat: CorpusArrays) -> list[Overlap]:
    """Find all pairs of mentions with offsets that share a character, sentence after sentence."""
    found: list[Overlap] = []
    placed = np.flatnonzero(flat.placed)
    if not len(placed):
        return found
    # Sorted by sentence and start, the longer first.
    order = placed[np.lexsort((-flat.end[placed], flat.start[placed], flat.owner[placed]))]
    place = flat.begin[flat.owner[order]]
    start, end = place + flat.start[order], place + flat.end[order]
    # Texts are concatenated, so no end in an earlier sentence is beyond a start in a later one.
    covered = start[1:] < np.maximum.accumulate(end)[:-1]
    concerned = np.isin(flat.owner[order], np.unique(flat.owner[order[1:][covered]]))
    kept = order[concerned]
    cuts = np.flatnonzero(np.diff(flat.owner[kept])) + 1
    for mentions in np.split(kept, cuts):
        found += _pairs(flat, mentions)
    return found


def _pairs(flat: CorpusArrays, mentions: Ints) -> Iterator[Overlap]:
    items = [(int(flat.start[m]), int(flat.end[m]), int(m)) for m in mentions]
    for number, (start, end, outer) in enumerate(items):
        for other_start, other_end, inner in items[number + 1 :]:
            if other_start >= end:
                break
            if (start, end) == (other_start, other_end):
                yield Overlap(SAME, outer, inner)
            elif other_end <= end:
                yield Overlap(NESTED, outer, inner)
            else:
                yield Overlap(CROSSING, outer, inner)


def overlapping_mentions(flat: CorpusArrays, found: list[Overlap]) -> Bools:
    """Return `(M,)` whether a mention overlaps another one."""
    concerned = np.zeros(len(flat.owner), bool)
    concerned[[mention for overlap in found for mention in overlap[1:]]] = True
    return concerned


class Tokens(NamedTuple):
    """The tokens of all sentences, concatenated.

    Attributes:
        kind: `(tokens,)` number of each token's word or character.
        at: `(characters,)` the token of a character, or the first one after it if the character is white space.
        started: `(characters + 1,)` number of tokens that begin before a character.
        begin: `(N + 1,)` each sentence's first token.
        kinds: number of different words or characters.
    """

    kind: Ints
    at: Ints
    started: Ints
    begin: Ints
    kinds: int


def tokenize(flat: CorpusArrays, words: bool) -> Tokens:
    """Split sentences into characters, or into words: the pieces between white space."""
    if not words:
        counts = np.bincount(flat.points, minlength=1)
        kind = (np.cumsum(counts > 0) - 1)[flat.points]
        places = np.arange(len(flat.points) + 1)
        return Tokens(kind, places[:-1], places, flat.begin, int((counts > 0).sum()))
    pieces = [piece for sentence in flat.sentences for piece in sentence.text.split()]
    distinct, kind = number_values(pieces)
    points, place = np.unique(flat.points, return_inverse=True)
    inside = np.array([not chr(point).isspace() for point in points.tolist()], bool)[place]
    first = inside.copy()  # whether a character begins a word: after white space, or first in its sentence
    first[1:] &= ~inside[:-1]
    heads = flat.begin[:-1][np.diff(flat.begin) > 0]
    first[heads] = inside[heads]
    started = np.concatenate([[0], np.cumsum(first)])
    at = np.where(inside, started[1:] - 1, started[:-1])
    return Tokens(kind, at, started, started[flat.begin], len(distinct))


def measure_distinctiveness(flat: CorpusArrays, found: Tokens, group: Ints, groups: int) -> tuple[Floats, Floats]:
    """Measure span and boundary distinctiveness of each group; 0 if a group has no mention with offsets.

    Args:
        flat: the corpus.
        found: result of `tokenize`.
        group: (M,) category or primary of each mention.
        groups: number of groups.
    """
    whole = np.repeat(flat.labeled, np.diff(found.begin))
    corpus = np.bincount(found.kind[whole], minlength=found.kinds)
    placed = np.flatnonzero(flat.placed & (flat.end > flat.start))
    group, owner = group[placed], flat.owner[placed]
    first = found.at[flat.begin[owner] + flat.start[placed]]
    last = found.started[flat.begin[owner] + flat.end[placed]] - 1
    size = last - first + 1  # 0 for a mention of only white space
    inside = np.repeat(group, size) * found.kinds + found.kind[ranges(first, size)]
    before, after = first - 1 >= found.begin[owner], last + 1 < found.begin[owner + 1]
    edges = np.concatenate([
        group[before] * found.kinds + found.kind[first[before] - 1],
        group[after] * found.kinds + found.kind[last[after] + 1],
    ])  # fmt: skip
    return _divergence(inside, corpus, groups), _divergence(edges, corpus, groups)


def _divergence(keys: Ints, corpus: Ints, groups: int) -> Floats:
    """Return the KL divergence of each group's tokens (`keys` = group x kinds + token) from the corpus, in nats."""
    kinds = len(corpus)
    pairs, counts = np.unique(keys, return_counts=True)
    group, kind = pairs // max(kinds, 1), pairs % max(kinds, 1)
    total = np.bincount(group, counts, minlength=groups)
    share = counts / total[group]
    terms = share * np.log(share / (corpus[kind] / corpus.sum()))
    return np.maximum(np.bincount(group, terms, minlength=groups), 0.0)
