"""Describe the texts of a corpus: their characters, and which texts occur more than once.

There are three parts, from top to bottom: characters (words, emoji, odd characters, sentences of unusual length), exact
repeats (within a split, between splits, with other labels; posts in two splits), and nearly equal texts. Every distinct
character is classified once, and texts are only examined if they contain a character of the kind.

Near duplicates are an exact join on the Jaccard similarity of character n-grams: nothing is estimated and no pair is
missed. Every text is its set of n-grams, the rarest first. Two sufficiently similar sets share a gram among the first
few of each (prefix filter: Bayardo et al. 2007, Xiao et al. 2008), and their sizes are close, so each text looks up its
few rarest grams among those of texts that are not larger. A candidate is dropped if 128-bit parity bitmaps differ in
more positions than such sets could (bitmap filter: Sandes et al. 2020); the grams of the others are compared. Cost: 45
ns per candidate and 30 ns per gram of a pair; `candidates` returns in advance how many there will be. They grow with
the square of the number of sentences that share all their grams with many others, as forms and templates do.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from omniner.corpus.stats.flat import Bools, CorpusArrays, Floats, Ints, code_points, lengths, number_values, ranges
from omniner.progress import Progress
from omniner.records import Sentence, ranked

Bits = npt.NDArray[np.uint64]

_BLOCK = 1_000_000  # candidates compared at a time: 100 MB
_LOOKUPS = 1_000_000  # grams of candidates looked up at a time, plus those of one more text: 50 MB
_SAFE = 1e-9  # bounds are loosened by this much, so that rounding drops no pair
_MIX = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: spreads neighbouring numbers
# Scripts without spaces between words, whose tokens are characters.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
# Characters of the basic plane shown as emoji on their own (Unicode: Emoji_Presentation); others need U+FE0F.
_BASIC_EMOJI = (
    "\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1\u26aa\u26ab\u26bd"
    "\u26be\u26c4\u26c5\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705\u270a\u270b\u2728\u274c\u274e\u2753-\u2755"
    "\u2757\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55"
)
_FLAG = "[\U0001f1e6-\U0001f1ff]"
_ONE = (
    f"(?:[\U0001f000-\U0001f1e5\U0001f200-\U0001faff{_BASIC_EMOJI}][\ufe0f\U0001f3fb-\U0001f3ff]?"
    "|[\u203c-\u3299][\ufe0f][\U0001f3fb-\U0001f3ff]?|[\u261d\u26f9\u270c\u270d][\U0001f3fb-\U0001f3ff])"
)
# What readers see as one emoji: a flag of two letters, a keycap, or pictures joined by U+200D.
EMOJI = re.compile(f"{_FLAG}{{2}}|[0-9#*]\ufe0f?\u20e3|{_ONE}(?:\u200d{_ONE})*")
_HINT = re.compile(f"[\U0001f000-\U0001faff{_BASIC_EMOJI}\ufe0f\u20e3]")  # every emoji contains one of these
_PICTURES = (0x1F000, 0x1FAFF)  # blocks of pictures, in which new emoji are assigned every year
_JOINER = 0x200D  # U+200D makes one emoji of several
_FENCE = 3.0  # interquartile ranges above the third quartile: Tukey's outer fence


class TextCounts(NamedTuple):
    """Counts of the texts of one split.

    Attributes:
        sentences, documents, characters: number of each.
        words: number of pieces between white space.
        mean, median, p95, longest: characters of a sentence.
        emoji: number of emoji as readers see them.
        with_emoji: number of sentences that have any.
        beyond_plane: number of characters outside the basic plane: most emoji, rare ideographs.
    """

    sentences: int
    documents: int
    characters: int
    words: int
    mean: float
    median: float
    p95: float
    longest: int
    emoji: int
    with_emoji: int
    beyond_plane: int


class OddCharacter(NamedTuple):
    """A character that nobody types.

    Attributes:
        point: its code point.
        kind: what it is, in words.
        times: how often it occurs in the texts.
        sentences: number of sentences that have it.
        example: number of the first of these.
    """

    point: int
    kind: str
    times: int
    sentences: int
    example: int


class Outlier(NamedTuple):
    """A sentence far longer than most of its split: its number, its length in characters, and the limit it exceeds."""

    sentence: int
    length: int
    fence: float


def odd_kind(point: int) -> str:
    """Return what is odd about a character; empty if nothing is.

    A tab or a line break counts as a control character, though people type it: a sentence is one line, and formats of
    lines and columns cannot hold it otherwise. An emoji that this Python's Unicode does not know yet is not odd.
    """
    if point == 0xFFFD:
        return "replacement: a character was lost"
    if point == _JOINER or (_PICTURES[0] <= point <= _PICTURES[1] and unicodedata.category(chr(point)) == "Cn"):
        return ""
    kinds = {
        "Cc": "control",
        "Cf": "invisible",
        "Cs": "half of a surrogate pair",
        "Co": "private use",
        "Cn": "unassigned",
        "Zl": "line separator",
        "Zp": "paragraph separator",
    }
    return kinds.get(unicodedata.category(chr(point)), "")


def is_spaced(flat: CorpusArrays) -> bool:
    """Return whether most letters are of scripts with spaces between words, so that tokens are words."""
    letters = Counter[bool]()
    for point, count in _histogram(flat).items():
        if unicodedata.category(chr(point)).startswith("L"):
            letters[unicodedata.name(chr(point), "").startswith(_UNSPACED)] += count
    return letters[False] > letters[True]


def _histogram(flat: CorpusArrays) -> dict[int, int]:
    counts = np.bincount(flat.points)
    return {int(point): int(counts[point]) for point in np.flatnonzero(counts)}


def count_texts(flat: CorpusArrays, split: int) -> TextCounts:
    """Count the texts of one split."""
    rows = np.flatnonzero(flat.split == split)
    length = flat.length[rows]
    texts = [flat.sentences[row].text for row in rows]
    emoji = [len(EMOJI.findall(text)) for text in texts if _HINT.search(text)]
    points = flat.points[flat.begin[rows[0]] : flat.begin[rows[-1] + 1]] if len(rows) else flat.points[:0]
    return TextCounts(
        sentences=len(rows),
        documents=len(np.unique(flat.post[rows])),
        characters=int(length.sum()),
        words=sum(len(text.split()) for text in texts),
        mean=float(length.mean()) if len(rows) else 0.0,
        median=float(np.median(length)) if len(rows) else 0.0,
        p95=float(np.percentile(length, 95)) if len(rows) else 0.0,
        longest=int(length.max(initial=0)),
        emoji=sum(emoji),
        with_emoji=sum(count > 0 for count in emoji),
        beyond_plane=int((points > 0xFFFF).sum()),
    )


def count_emoji(flat: CorpusArrays) -> list[tuple[str, int]]:
    """Count each emoji of the texts, the most frequent first."""
    found = Counter(emoji for s in flat.sentences if _HINT.search(s.text) for emoji in EMOJI.findall(s.text))
    return ranked(found)


def find_odd_characters(flat: CorpusArrays) -> tuple[list[OddCharacter], Bools]:
    """Find the odd characters, the most frequent first; also return `(N,)` whether a sentence has one."""
    affected = np.zeros(len(flat.sentences), bool)
    found = []
    for point, count in _histogram(flat).items():
        if kind := odd_kind(point):
            places = np.flatnonzero(flat.points == point)
            rows = np.unique(np.searchsorted(flat.begin, places, side="right") - 1)
            affected[rows] = True
            found.append(OddCharacter(point, kind, count, len(rows), int(rows[0])))
    return sorted(found, key=lambda odd: (-odd.times, odd.point)), affected


def find_empty(flat: CorpusArrays) -> Bools:
    """Return `(N,)` whether a sentence is empty or has only white space."""
    bare = np.array([not text.strip() for text in flat.texts], bool)
    return bare[flat.text]


def find_outliers(flat: CorpusArrays) -> list[Outlier]:
    """Find the sentences beyond Tukey's outer fence of their split, the longest first."""
    found = []
    for split in range(len(flat.splits)):
        rows = np.flatnonzero(flat.split == split)
        if len(rows):
            length = flat.length[rows]
            first, third = np.percentile(length, [25, 75])
            fence = float(third + _FENCE * (third - first))
            far = rows[length > fence]
            found += [Outlier(int(row), int(flat.length[row]), fence) for row in far]
    return sorted(found, key=lambda outlier: (-outlier.length, outlier.sentence))


class Disagreement(NamedTuple):
    """One text with different labels.

    Attributes:
        text: its number.
        sentences: number of one sentence for each distinct labelling, the most frequent first.
        counts: number of sentences with each of these labellings.
    """

    text: int
    sentences: tuple[int, ...]
    counts: tuple[int, ...]


class NearPair(NamedTuple):
    """Two nearly equal texts by number, their similarity, and whether they are in different splits."""

    left: int
    right: int
    jaccard: float
    across: bool


class NearRepeats(NamedTuple):
    """The near duplicates of a corpus.

    Attributes:
        similar: `(texts, splits)` whether a text has a near duplicate, not counting itself, in a split.
        pairs: number of pairs.
        examples: some of them.
    """

    similar: Bools
    pairs: int
    examples: list[NearPair]


def count_presence(flat: CorpusArrays) -> Ints:
    """Count, `(texts, splits)`, how often each text occurs in each split."""
    width = len(flat.splits)
    counts = np.bincount(flat.text * width + flat.split, minlength=len(flat.texts) * width)
    return counts.reshape(len(flat.texts), width)


def count_repeated(counts: Ints) -> Ints:
    """Count, `(splits,)`, the sentences that repeat an earlier one of their split."""
    found: Ints = np.maximum(counts - 1, 0).sum(axis=0)
    return found


def count_shared(counts: Ints, one: int, other: int) -> tuple[int, int]:
    """Count the sentences of `one` whose text is in `other`, and the distinct texts among them."""
    both = (counts[:, one] > 0) & (counts[:, other] > 0)
    return int(counts[both, one].sum()), int(both.sum())


def most_repeated(counts: Ints, top: int) -> Ints:
    """Return the numbers of the most frequent texts, at most `top`, each occurring more than once."""
    total: Ints = counts.sum(axis=1)
    order: Ints = np.argsort(-total, kind="stable")[:top]
    return order[total[order] > 1]


def find_split_posts(flat: CorpusArrays) -> tuple[int, list[tuple[int, tuple[int, ...]]]]:
    """Find the posts with sentences in more than one split.

    Returns:
        The number of all posts, and for each post found the number of a sentence and its splits.
    """
    keys = np.unique(flat.post * len(flat.splits) + flat.split)
    posts, splits = np.divmod(keys, len(flat.splits))
    found, first, count = np.unique(posts, return_index=True, return_counts=True)
    rows = dict(zip(flat.post[::-1].tolist(), range(len(flat.post) - 1, -1, -1), strict=True))
    twice = np.flatnonzero(count > 1)
    listed = [(rows[int(found[n])], tuple(map(int, splits[first[n] : first[n] + count[n]]))) for n in twice]
    return len(found), listed


def find_disagreements(flat: CorpusArrays) -> tuple[list[Disagreement], int]:
    """Find the texts that are labelled in more than one way.

    Returns:
        These texts, those with most sentences first, and the number of their sentences.
    """
    labeled = np.flatnonzero(flat.labeled)
    often = np.bincount(flat.text[labeled], minlength=len(flat.texts)) > 1
    rows = labeled[often[flat.text[labeled]]]
    rows = rows[np.argsort(flat.text[rows], kind="stable")]
    found, sentences = [], 0
    for group in np.split(rows, np.flatnonzero(np.diff(flat.text[rows])) + 1):
        labels, number = number_values([_labelling(flat.sentences[row]) for row in group])
        if len(labels) > 1:
            counts = np.bincount(number)
            order = np.argsort(-counts, kind="stable")
            first = [int(group[np.flatnonzero(number == kind)[0]]) for kind in order]
            found.append(Disagreement(int(flat.text[group[0]]), tuple(first), tuple(counts[order].tolist())))
            sentences += len(group)
    return sorted(found, key=lambda one: (-sum(one.counts), one.text)), sentences


def _labelling(sentence: Sentence) -> tuple[tuple[str, str, int, int], ...]:
    """Return the entities of a sentence in a canonical order, so that equal labellings are equal."""
    unplaced = -1
    return tuple(
        sorted(
            (text, category, unplaced if start is None else start, unplaced if end is None else end)
            for text, category, start, end in sentence.entities
        )
    )


def collect_near_repeats(blocks: Iterable[SimilarPairs], counts: Ints, top: int) -> NearRepeats:
    """Summarise similar pairs by split.

    Args:
        blocks: from `NearDuplicateJoin.pairs`.
        counts: from `count_presence`.
        top: number of examples to keep: the most similar ones, those between splits first.
    """
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


def count_near_shared(counts: Ints, similar: Bools, one: int, other: int) -> int:
    """Count the sentences of `one` whose text, or one nearly the same, is in `other`."""
    concerned = (counts[:, one] > 0) & ((counts[:, other] > 0) | similar[:, other])
    return int(counts[concerned, one].sum())


def count_near_repeated(counts: Ints, similar: Bools, split: int) -> int:
    """Count the sentences of a split that have an equal or nearly equal one in it."""
    concerned = (counts[:, split] > 1) | ((counts[:, split] > 0) & similar[:, split])
    return int(counts[concerned, split].sum())


class SimilarPairs(NamedTuple):
    """Pairs of texts, with indices `left < right` in the given list, and their Jaccard similarity."""

    left: Ints
    right: Ints
    jaccard: Floats


@dataclass(frozen=True, slots=True)
class _Sets:
    """Texts as sets of grams, smallest set first; grams are numbered from the rarest on, and sorted in each set."""

    text: Ints  # (T,) index of each set's text in the given list
    begin: Ints  # (T + 1,) where each set's grams begin
    size: Ints  # (T,)
    gram: Ints  # all grams
    grams: int  # number of different grams
    bits: tuple[Bits, Bits]  # (T,) each: parity of the grams that hash to each of 128 bits


class NearDuplicateJoin:
    """Find all pairs of similar texts: prepared once, then run.

    Args:
        texts: distinct texts; one shorter than `ngram` has itself as its only gram.
        ngram: characters of a gram.
        near: minimum Jaccard similarity of a pair, above 0.
    """

    def __init__(self, texts: Sequence[str], ngram: int, near: float) -> None:
        self._near = near
        self._sets = sets = _sets(texts, ngram)
        # A set is similar enough to one that is not larger only if its first `probe` grams contain one of the other's
        # first `index`.
        probe = sets.size - np.ceil(near * sets.size - _SAFE).astype(np.int64) + 1
        index = sets.size - np.ceil(2 * near / (1 + near) * sets.size - _SAFE).astype(np.int64) + 1
        count = len(sets.size)
        owner = np.repeat(np.arange(count), index)
        keys = sets.gram[ranges(sets.begin[:-1], index)] * count + owner
        order = np.argsort(keys)
        keys, self._owner = keys[order], owner[order]
        asking = np.repeat(np.arange(count), probe)
        wanted = sets.gram[ranges(sets.begin[:-1], probe)] * count
        least = np.searchsorted(sets.size, np.ceil(near * sets.size - _SAFE).astype(np.int64))
        self._low = np.searchsorted(keys, wanted + least[asking])
        self._found = np.searchsorted(keys, wanted + asking) - self._low
        self._first = np.concatenate([[0], np.cumsum(probe)])  # index of each set's first lookup

    @property
    def candidates(self) -> int:
        """The number of pairs that `pairs` will examine, which determines its cost."""
        return int(self._found.sum())

    def pairs(self) -> Iterator[SimilarPairs]:
        """Yield every pair once, in blocks, always in the same order."""
        upto = np.concatenate([[0], np.cumsum(self._found)])[self._first]  # candidates before each set
        progress = Progress("candidates for near duplicates compared", int(upto[-1]))
        at = 0
        while at < len(self._sets.size):
            to = max(at + 1, int(np.searchsorted(upto, upto[at] + _BLOCK, side="right")) - 1)
            yield self._block(at, to)
            progress.add(int(upto[to] - upto[at]))
            at = to

    def _block(self, at: int, to: int) -> SimilarPairs:
        """Return the pairs in which the sets `at` to `to` are the larger ones."""
        sets = self._sets
        questions = slice(int(self._first[at]), int(self._first[to]))
        found = self._found[questions]
        asking = np.repeat(np.arange(at, to), np.diff(self._first[at : to + 1]))
        large = np.repeat(asking, found)
        small = self._owner[ranges(self._low[questions], found)]
        apart = np.bitwise_count(sets.bits[0][large] ^ sets.bits[0][small]).astype(np.int64)
        apart += np.bitwise_count(sets.bits[1][large] ^ sets.bits[1][small])
        # For a sufficiently similar pair, |x - y| + |y - x| is at most this share of |x| + |y|.
        most = (1 - self._near) / (1 + self._near) * (sets.size[large] + sets.size[small]) + _SAFE
        kept = np.unique(large[apart <= most] * len(sets.size) + small[apart <= most])
        large, small = np.divmod(kept, len(sets.size))
        shared = _shared(sets, large, small)
        jaccard = shared / (sets.size[large] + sets.size[small] - shared)
        good = jaccard >= self._near
        one, other = sets.text[large[good]], sets.text[small[good]]
        return SimilarPairs(np.minimum(one, other), np.maximum(one, other), jaccard[good])


def _sets(texts: Sequence[str], ngram: int) -> _Sets:
    length = lengths(texts)
    bits = len(texts).bit_length()
    gram = _grams(texts, length, ngram, 62 - bits)
    # Sorting values is several times faster than sorting indices, so two numbers are packed into each value.
    keys = np.sort(gram << bits | np.repeat(np.arange(len(texts)), np.maximum(length - ngram + 1, 1)))
    keys = keys[np.diff(keys, prepend=-1) > 0]  # each gram once per text
    owner = keys & (1 << bits) - 1
    gram = np.cumsum(np.diff(keys >> bits, prepend=-1) > 0) - 1
    # Renumber grams by the number of texts that have them, and texts by the number of their grams.
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
    """Return a number of at most `room` bits for the gram at each position of each text: equal grams, equal numbers."""
    # Texts are separated by padding (number 0), which becomes part of the gram of a text shorter than a gram.
    padded = length + ngram
    begin = np.concatenate([[0], np.cumsum(padded)])[:-1]
    letters = np.zeros(int(padded.sum()), np.int64)
    points = code_points(texts)
    letters[ranges(begin, length)] = np.cumsum(np.bincount(points) > 0)[points]  # the k-th code point that occurs is k
    places = ranges(begin, np.maximum(length - ngram + 1, 1))
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
    """Return 128 bits per set: each gram flips one of them, so sets that differ in d grams differ in at most d bits."""
    hashed = (gram.astype(np.uint64) * _MIX) >> np.uint64(57)
    bit = np.uint64(1) << (hashed & np.uint64(63))
    halves = (np.where(hashed < 64, bit, np.uint64(0)), np.where(hashed < 64, np.uint64(0), bit))
    if not len(gram):
        return halves
    one, other = (np.bitwise_xor.reduceat(half, begin[:-1]) for half in halves)  # no set is empty
    return one, other


def _shared(sets: _Sets, large: Ints, small: Ints) -> Ints:
    """Return how many grams the sets of each pair share; pairs are sorted by their larger set."""
    if not len(large):
        return np.zeros(0, np.int64)
    # The grams of this block's larger sets, each combined with the number of its set: already sorted.
    low, high = int(large.min()), int(large.max()) + 1
    held = sets.gram[sets.begin[low] : sets.begin[high]]
    keys = np.repeat(np.arange(low, high), sets.size[low:high]) * sets.grams + held
    parts = np.searchsorted(np.cumsum(sets.size[small]), np.arange(_LOOKUPS, int(sets.size[small].sum()), _LOOKUPS))
    found = []
    for one, other in zip(np.split(large, parts), np.split(small, parts), strict=True):
        count = sets.size[other]
        asked = np.repeat(one, count) * sets.grams + sets.gram[ranges(sets.begin[other], count)]
        hits = keys[np.minimum(np.searchsorted(keys, asked), len(keys) - 1)] == asked
        before = np.concatenate([[0], np.cumsum(hits)])
        ends = np.cumsum(count)
        found.append(before[ends] - before[ends - count])
    return np.concatenate(found)
