"""Texts that stand more than once: within a split, between splits, with other labels; posts that are in two splits.

In goes a `Flat`, out come counts by split and examples. Texts are compared letter for letter; for those that are only
nearly the same, `near_repeats` marks what the join of `near` finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from omniner.corpus.stats.flat import Bools, Flat, Ints, numbered
from omniner.corpus.stats.near import Pairs


class Disagreement(NamedTuple):
    """One text with different labels: a sentence of each of its labellings, the most frequent first."""

    text: int
    sentences: tuple[int, ...]
    counts: tuple[int, ...]  # of the sentences labelled like each of them


class NearPair(NamedTuple):
    """Two nearly equal texts."""

    left: int
    right: int
    jaccard: float
    across: bool  # whether they stand in different splits


class NearRepeats(NamedTuple):
    """`similar[t, s]`: whether the text t has a near duplicate, itself not counted, in the split s."""

    similar: Bools
    pairs: int
    examples: list[NearPair]


def presence(flat: Flat) -> Ints:
    """(texts, splits): how often each text stands in each split."""
    width = len(flat.splits)
    counts = np.bincount(flat.text * width + flat.split, minlength=len(flat.texts) * width)
    return counts.reshape(len(flat.texts), width)


def repeated(counts: Ints) -> Ints:
    """(splits,): sentences whose text stood in the split before."""
    found: Ints = np.maximum(counts - 1, 0).sum(axis=0)
    return found


def shared(counts: Ints, one: int, other: int) -> tuple[int, int]:
    """Sentences of `one` whose text stands in `other`, and how many distinct texts that is."""
    both = (counts[:, one] > 0) & (counts[:, other] > 0)
    return int(counts[both, one].sum()), int(both.sum())


def most_repeated(counts: Ints, top: int) -> Ints:
    """The texts that stand most often in all, at most `top`, more than once each."""
    total: Ints = counts.sum(axis=1)
    order: Ints = np.argsort(-total, kind="stable")[:top]
    return order[total[order] > 1]


def posts_in_two(flat: Flat) -> tuple[int, list[tuple[int, tuple[int, ...]]]]:
    """How many posts there are, and those with sentences in more than one split: a sentence and the splits of each."""
    keys = np.unique(flat.post * len(flat.splits) + flat.split)
    posts, splits = np.divmod(keys, len(flat.splits))
    found, first, count = np.unique(posts, return_index=True, return_counts=True)
    rows = dict(zip(flat.post[::-1].tolist(), range(len(flat.post) - 1, -1, -1), strict=True))
    twice = np.flatnonzero(count > 1)
    listed = [(rows[int(found[n])], tuple(map(int, splits[first[n] : first[n] + count[n]]))) for n in twice]
    return len(found), listed


def disagreements(flat: Flat) -> tuple[list[Disagreement], int]:
    """Texts that are labelled in more than one way, most sentences first, and the sentences they are."""
    labeled = np.flatnonzero(flat.labeled)
    often = np.bincount(flat.text[labeled], minlength=len(flat.texts)) > 1
    rows = labeled[often[flat.text[labeled]]]
    rows = rows[np.argsort(flat.text[rows], kind="stable")]
    found, sentences = [], 0
    for group in np.split(rows, np.flatnonzero(np.diff(flat.text[rows])) + 1):
        labels, number = numbered([tuple(sorted(map(_label, flat.sentences[row].entities))) for row in group])
        if len(labels) > 1:
            counts = np.bincount(number)
            order = np.argsort(-counts, kind="stable")
            first = [int(group[np.flatnonzero(number == kind)[0]]) for kind in order]
            found.append(Disagreement(int(flat.text[group[0]]), tuple(first), tuple(counts[order].tolist())))
            sentences += len(group)
    return sorted(found, key=lambda one: (-sum(one.counts), one.text)), sentences


def _label(entity: Sequence[str | int | None]) -> tuple[str, str, int, int]:
    text, category, start, end = entity
    return str(text), str(category), -1 if start is None else int(start), -1 if end is None else int(end)


def near_repeats(blocks: Iterable[Pairs], counts: Ints, top: int) -> NearRepeats:
    """What the pairs mean for the splits; examples are the most similar ones, those between splits first."""
    here = counts > 0
    similar = np.zeros_like(here)
    examples: list[NearPair] = []
    total = 0
    for left, right, jaccard in blocks:
        total += len(left)
        for split in range(here.shape[1]):
            similar[left[here[right, split]], split] = True
            similar[right[here[left, split]], split] = True
        across: Bools = ~np.any(here[left] & here[right], axis=1)
        best = np.lexsort((right, left, -jaccard, ~across))[:top]
        rows = zip(
            left[best].tolist(), right[best].tolist(), jaccard[best].tolist(), across[best].tolist(), strict=True
        )
        examples += [NearPair(*row) for row in rows]
        examples = sorted(examples, key=lambda pair: (not pair.across, -pair.jaccard, pair.left, pair.right))[:top]
    return NearRepeats(similar, total, examples)


def near_shared(counts: Ints, similar: Bools, one: int, other: int) -> int:
    """Sentences of `one` whose text, or one nearly the same, stands in `other`."""
    concerned = (counts[:, one] > 0) & ((counts[:, other] > 0) | similar[:, other])
    return int(counts[concerned, one].sum())


def near_repeated(counts: Ints, similar: Bools, split: int) -> int:
    """Sentences of a split with another sentence in it that is the same or nearly so."""
    concerned = (counts[:, split] > 1) | ((counts[:, split] > 0) & similar[:, split])
    return int(counts[concerned, split].sum())
