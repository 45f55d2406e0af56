"""How distinctive the spans of a category, and the places where they begin and end, are: Papay et al. 2020.

In goes a `Flat`, out come two figures for each category, in nats. Span distinctiveness is the Kullback-Leibler
divergence of the tokens inside its spans from the tokens of the whole corpus; boundary distinctiveness that of the
tokens right before and right after its spans. High values say that a tagger can tell spans, or their edges, by single
tokens; models do better there ("Dissecting Span Identification Tasks with Performance Prediction", EMNLP 2020).
Tokens are characters, or words where the writing has blanks between them; a span takes in the words that it touches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from omniner.corpus.stats.flat import Flat, Floats, Ints, numbered, spread


class Tokens(NamedTuple):
    """The tokens of all sentences, one after the other: `kind[t]` is the number of token t's word or character.

    `at[c]` is the token of the character c, or the first one after it where c is white space, `started[c]` how many
    tokens begin before c, and `begin[i]` sentence i's first token.
    """

    kind: Ints
    at: Ints  # (characters,)
    started: Ints  # (characters + 1,)
    begin: Ints  # (N + 1,)
    kinds: int


def tokens(flat: Flat, words: bool) -> Tokens:
    """Characters, or words: the pieces between white space."""
    if not words:
        counts = np.bincount(flat.points, minlength=1)
        kind = (np.cumsum(counts > 0) - 1)[flat.points]
        places = np.arange(len(flat.points) + 1)
        return Tokens(kind, places[:-1], places, flat.begin, int((counts > 0).sum()))
    pieces = [piece for sentence in flat.sentences for piece in sentence.text.split()]
    distinct, kind = numbered(pieces)
    points, place = np.unique(flat.points, return_inverse=True)
    inside = np.array([not chr(point).isspace() for point in points.tolist()], bool)[place]
    first = inside.copy()  # of a word: after white space, or first in its sentence
    first[1:] &= ~inside[:-1]
    heads = flat.begin[:-1][np.diff(flat.begin) > 0]
    first[heads] = inside[heads]
    started = np.concatenate([[0], np.cumsum(first)])
    at = np.where(inside, started[1:] - 1, started[:-1])
    return Tokens(kind, at, started, started[flat.begin], len(distinct))


def distinctiveness(flat: Flat, found: Tokens, group: Ints, groups: int) -> tuple[Floats, Floats]:
    """Span and boundary distinctiveness of each group; 0 where a group has no placed mention.

    Args:
        found: what `tokens` gave.
        group: (M,) category or primary of each mention.
        groups: how many there are.
    """
    whole = np.repeat(flat.labeled, np.diff(found.begin))
    corpus = np.bincount(found.kind[whole], minlength=found.kinds)
    placed = np.flatnonzero(flat.placed & (flat.end > flat.start))
    group, owner = group[placed], flat.owner[placed]
    first = found.at[flat.begin[owner] + flat.start[placed]]
    last = found.started[flat.begin[owner] + flat.end[placed]] - 1
    size = last - first + 1  # 0 for a mention of nothing but white space
    inside = np.repeat(group, size) * found.kinds + found.kind[spread(first, size)]
    before, after = first - 1 >= found.begin[owner], last + 1 < found.begin[owner + 1]
    edges = np.concatenate([
        group[before] * found.kinds + found.kind[first[before] - 1],
        group[after] * found.kinds + found.kind[last[after] + 1],
    ])  # fmt: skip
    return _divergence(inside, corpus, groups), _divergence(edges, corpus, groups)


def _divergence(keys: Ints, corpus: Ints, groups: int) -> Floats:
    """KL divergence of each group's tokens (`keys` = group x kinds + token) from those of the corpus, in nats."""
    kinds = len(corpus)
    pairs, counts = np.unique(keys, return_counts=True)
    group, kind = pairs // max(kinds, 1), pairs % max(kinds, 1)
    total = np.bincount(group, counts, minlength=groups)
    share = counts / total[group]
    terms = share * np.log(share / (corpus[kind] / corpus.sum()))
    return np.maximum(np.bincount(group, terms, minlength=groups), 0.0)
