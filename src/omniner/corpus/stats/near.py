"""All pairs of texts that are nearly the same: an exact join on the Jaccard similarity of their character n-grams.

In go distinct texts, out come pairs with their similarity, block by block; nothing is estimated and no pair is missed.
How: every text is its set of n-grams, the rarest first. Two sets as similar as asked for share a gram among the first
few of each (prefix filter: Bayardo et al. 2007, Xiao et al. 2008), and their sizes are close, so each text looks up
its few rarest grams among those of no larger texts. A candidate is dropped when 128-bit parity bitmaps differ in more
places than such sets could (bitmap filter: Sandes et al. 2020), and the grams of the others are compared. Price: 45 ns
a candidate and 30 ns a gram of a pair; `candidates` says beforehand how many there will be. They grow with the square
of the number of sentences that share all their grams with many others, as forms and templates do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from omniner.corpus.stats.flat import Floats, Ints, lengths, points_of, spread

log = logging.getLogger("omniner")

_BLOCK = 1_000_000  # candidates compared at a time: 100 MB
_LOOKUPS = 1_000_000  # grams of candidates looked up at a time, and those of one more text: 50 MB
_SAFE = 1e-9  # bounds are taken this much looser, so that rounding drops no pair
_SPEAK_EVERY = 10.0  # seconds between two lines about progress
_MIX = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: spreads neighbouring numbers

Bits = npt.NDArray[np.uint64]


class Pairs(NamedTuple):
    """Pairs of texts, `left < right` in the list that was given, and their similarity."""

    left: Ints
    right: Ints
    jaccard: Floats


@dataclass(frozen=True, slots=True)
class _Sets:
    """Texts as sets of grams, smallest set first; grams are numbered from the rarest on, and sorted in each set."""

    text: Ints  # (T,) the place of each set's text in the list that was given
    begin: Ints  # (T + 1,) where each set's grams begin
    size: Ints  # (T,)
    gram: Ints  # all grams
    grams: int  # different ones
    bits: tuple[Bits, Bits]  # (T,) each: parity of the grams that hash to each of 128 places


class Join:
    """The join of some texts: prepared once, then run.

    Args:
        texts: distinct texts; one shorter than `ngram` has itself as its only gram.
        ngram: characters of a gram.
        near: the least Jaccard similarity of a pair, above 0.
    """

    def __init__(self, texts: Sequence[str], ngram: int, near: float) -> None:
        self._near = near
        self._sets = sets = _sets(texts, ngram)
        # A set shares enough with a no larger one only if its first `probe` grams hold one of that one's first `index`.
        probe = sets.size - np.ceil(near * sets.size - _SAFE).astype(np.int64) + 1
        index = sets.size - np.ceil(2 * near / (1 + near) * sets.size - _SAFE).astype(np.int64) + 1
        count = len(sets.size)
        owner = np.repeat(np.arange(count), index)
        keys = sets.gram[spread(sets.begin[:-1], index)] * count + owner
        order = np.argsort(keys)
        keys, self._owner = keys[order], owner[order]
        asking = np.repeat(np.arange(count), probe)
        wanted = sets.gram[spread(sets.begin[:-1], probe)] * count
        least = np.searchsorted(sets.size, np.ceil(near * sets.size - _SAFE).astype(np.int64))
        self._low = np.searchsorted(keys, wanted + least[asking])
        self._found = np.searchsorted(keys, wanted + asking) - self._low
        self._first = np.concatenate([[0], np.cumsum(probe)])  # of each set's questions

    @property
    def candidates(self) -> int:
        """How many pairs will be looked at; the cost of `pairs`."""
        return int(self._found.sum())

    def pairs(self) -> Iterator[Pairs]:
        """Every pair once, in blocks, always in the same order."""
        upto = np.concatenate([[0], np.cumsum(self._found)])[self._first]  # candidates before each set
        count, total = len(self._sets.size), int(upto[-1])
        start = said = time.monotonic()
        at = 0
        while at < count:
            to = max(at + 1, int(np.searchsorted(upto, upto[at] + _BLOCK, side="right")) - 1)
            yield self._block(at, to)
            at = to
            now = time.monotonic()
            if now - said > _SPEAK_EVERY and upto[at]:
                said, rate = now, float(upto[at]) / (now - start)
                left = (total - float(upto[at])) / rate
                log.info("near duplicates: %d of %d candidates, %.0f per s, %.0f s left", upto[at], total, rate, left)

    def _block(self, at: int, to: int) -> Pairs:
        """The pairs in which the sets `at` to `to` are the larger ones."""
        sets = self._sets
        questions = slice(int(self._first[at]), int(self._first[to]))
        found = self._found[questions]
        asking = np.repeat(np.arange(at, to), np.diff(self._first[at : to + 1]))
        large = np.repeat(asking, found)
        small = self._owner[spread(self._low[questions], found)]
        apart = np.bitwise_count(sets.bits[0][large] ^ sets.bits[0][small]).astype(np.int64)
        apart += np.bitwise_count(sets.bits[1][large] ^ sets.bits[1][small])
        # |x - y| + |y - x| of a pair similar enough is at most this share of |x| + |y|.
        most = (1 - self._near) / (1 + self._near) * (sets.size[large] + sets.size[small]) + _SAFE
        kept = np.unique(large[apart <= most] * len(sets.size) + small[apart <= most])
        large, small = np.divmod(kept, len(sets.size))
        shared = _shared(sets, large, small)
        jaccard = shared / (sets.size[large] + sets.size[small] - shared)
        good = jaccard >= self._near
        one, other = sets.text[large[good]], sets.text[small[good]]
        return Pairs(np.minimum(one, other), np.maximum(one, other), jaccard[good])


def _sets(texts: Sequence[str], ngram: int) -> _Sets:
    length = lengths(texts)
    bits = len(texts).bit_length()
    gram = _grams(texts, length, ngram, 62 - bits)
    # Sorting values is several times quicker than sorting places: two numbers are packed into each.
    keys = np.sort(gram << bits | np.repeat(np.arange(len(texts)), np.maximum(length - ngram + 1, 1)))
    keys = keys[np.diff(keys, prepend=-1) > 0]  # each gram once a text
    owner = keys & (1 << bits) - 1
    gram = np.cumsum(np.diff(keys >> bits, prepend=-1) > 0) - 1
    # Numbered anew by the number of texts that have them, and texts by the number of their grams.
    often = np.bincount(gram)
    rank = np.empty_like(often)
    rank[np.argsort(often, kind="stable")] = np.arange(len(often))
    size = np.bincount(owner, minlength=len(texts))
    text = np.argsort(size, kind="stable")
    place = np.empty_like(text)
    place[text] = np.arange(len(text))
    bits = len(rank).bit_length()
    gram = np.sort(place[owner] << bits | rank[gram]) & (1 << bits) - 1
    begin = np.concatenate([[0], np.cumsum(size[text])])
    return _Sets(text, begin, size[text], gram, len(rank), _parity(gram, begin))


def _grams(texts: Sequence[str], length: Ints, ngram: int, room: int) -> Ints:
    """A number of at most `room` bits for the gram at each place of each text: equal grams, equal numbers."""
    # Texts stand apart by blanks of their own (number 0), which a text shorter than a gram takes in.
    padded = length + ngram
    begin = np.concatenate([[0], np.cumsum(padded)])[:-1]
    letters = np.zeros(int(padded.sum()), np.int64)
    points = points_of(texts)
    letters[spread(begin, length)] = np.cumsum(np.bincount(points) > 0)[points]  # the k-th code point that occurs is k
    places = spread(begin, np.maximum(length - ngram + 1, 1))
    gram = letters[places]
    width = int(letters.max(initial=0)).bit_length()
    used = width
    for offset in range(1, ngram):
        if used + width > room:
            gram = np.unique(gram, return_inverse=True)[1].astype(np.int64)
            used = int(gram.max(initial=0)).bit_length()
        gram = gram << width | letters[places + offset]
        used += width
    return gram


def _parity(gram: Ints, begin: Ints) -> tuple[Bits, Bits]:
    """128 bits a set: each gram turns over one of them, so sets that differ in d grams differ in at most d bits."""
    hashed = (gram.astype(np.uint64) * _MIX) >> np.uint64(57)
    bit = np.uint64(1) << (hashed & np.uint64(63))
    halves = (np.where(hashed < 64, bit, np.uint64(0)), np.where(hashed < 64, np.uint64(0), bit))
    if not len(gram):
        return halves
    one, other = (np.bitwise_xor.reduceat(half, begin[:-1]) for half in halves)  # no set is empty
    return one, other


def _shared(sets: _Sets, large: Ints, small: Ints) -> Ints:
    """How many grams the sets of each pair share; pairs by their larger set."""
    if not len(large):
        return np.zeros(0, np.int64)
    # The grams of the larger sets of this block, each under the name of its set: sorted as they stand.
    low, high = int(large.min()), int(large.max()) + 1
    held = sets.gram[sets.begin[low] : sets.begin[high]]
    keys = np.repeat(np.arange(low, high), sets.size[low:high]) * sets.grams + held
    parts = np.searchsorted(np.cumsum(sets.size[small]), np.arange(_LOOKUPS, int(sets.size[small].sum()), _LOOKUPS))
    found = []
    for one, other in zip(np.split(large, parts), np.split(small, parts), strict=True):
        count = sets.size[other]
        asked = np.repeat(one, count) * sets.grams + sets.gram[spread(sets.begin[other], count)]
        hits = keys[np.minimum(np.searchsorted(keys, asked), len(keys) - 1)] == asked
        before = np.concatenate([[0], np.cumsum(hits)])
        ends = np.cumsum(count)
        found.append(before[ends] - before[ends - count])
    return np.concatenate(found)
