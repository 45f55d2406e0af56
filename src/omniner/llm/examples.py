"""Choose what a prompt shows of train: examples for all sentences, entities of a category, or nearest sentences.

Sentences are similar if they share rare n-grams: the cosine of TF-IDF over all runs of one to three characters. It
needs no model, works for any language, and gives the same choice everywhere.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omniner.errors import UserError
from omniner.progress import Progress, timed
from omniner.records import Sentence
from omniner.wording import counted

_POOL = 50  # candidates per example to be chosen
_SURE = 0.8  # minimum share of a surface's mentions with the category that it is shown for
_BLOCK = 256  # texts compared at once at most
_CELLS = 8_000_000  # similarities computed at once: 100 MB
_COMMON = 0.05  # share of the sentences above which an n-gram is common
_SAFE = 1e-9  # bounds are loosened by this much, so that rounding drops no sentence
_LONGEST = 3  # characters of an n-gram


def choose_examples(train: Sequence[Sentence], count: int, seed: int) -> list[Sentence]:
    """Choose short sentences that together show many categories.

    From a random pool of sentences with entities, none longer than the median, the sentence with the most categories
    not shown yet is taken repeatedly.

    Raises:
        UserError: `train` has too few sentences with entities.
    """
    filled = [sentence for sentence in train if sentence.entities]
    if len(filled) < count:
        found = f"{counted(count, 'example')}, but train has {counted(len(filled), 'sentence')} with entities"
        raise UserError("prompt.examples", found, f"Set it to {len(filled)} or less.")
    if count == 0:
        return []
    by_length = sorted(filled, key=lambda sentence: len(sentence.text))
    longest = len(by_length[max(count, len(by_length) // 2) - 1].text)
    short = [sentence for sentence in filled if len(sentence.text) <= longest]
    pool = random.Random(seed).sample(short, min(len(short), _POOL * count))
    chosen: list[Sentence] = []
    shown: set[str] = set()
    for _ in range(count):
        best = max(range(len(pool)), key=lambda place: len({e.category for e in pool[place].entities} - shown))
        chosen.append(pool.pop(best))
        shown |= {entity.category for entity in chosen[-1].entities}
    return chosen


def typical_entities(train: Sequence[Sentence], categories: Sequence[str], count: int) -> dict[str, list[str]]:
    """Choose the most frequent entities of each category, among those that rarely have another one.

    Returns:
        category -> at most `count` surfaces; of equally frequent ones, those that occur first.
    """
    mentions = [entity for sentence in train for entity in sentence.entities]
    pairs = Counter((entity.category, entity.text) for entity in mentions)
    surfaces = Counter(entity.text for entity in mentions)
    found: dict[str, list[str]] = {category: [] for category in categories}
    for (category, surface), times in pairs.most_common():
        if category in found and len(found[category]) < count and times >= _SURE * surfaces[surface]:
            found[category].append(surface)
    return found


class NearestSentences:
    """An index of sentences that finds the ones most similar to a text.

    Nearly all sentences share common n-grams with a text; comparing these is most of the work, and says little. So rare
    n-grams are compared first. They alone give a lower bound of the similarity, and the lengths of the two common parts
    bound what common n-grams may add (Cauchy-Schwarz). Only sentences that can still be among the nearest are compared
    completely: the choice is the same as from comparing all. Cost: 20 s and 1 GB for 160,000 sentences, then 2 ms for
    each text.

    Args:
        texts: the sentences to choose from, all different.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)

    def find(self, texts: Sequence[str], count: int, sources: Sequence[str] | None = None) -> list[list[int]]:
        """Find the nearest sentences of each text.

        Args:
            texts: any sentences. One that is itself in the index is not its own neighbour: a model trained on train
                would see the answer.
            count: number of sentences to find for each.
            sources: the sentences that these were made from, which are not neighbours either; None = they are
                unchanged.

        Returns:
            Indices for each text, the nearest last; of equally near ones, the earlier is nearer.
        """
        found: list[list[int]] = []
        selves = [{text, source} for text, source in zip(texts, texts if sources is None else sources, strict=True)]
        index, size = self._index, max(1, min(_BLOCK, _CELLS // len(self._texts)))
        progress = Progress("sentences given their nearest ones", len(texts))
        for start in range(0, len(texts), size):
            block = slice(start, start + size)
            for itself, nearest in zip(selves[block], index.nearest(texts[block], count, selves[block]), strict=True):
                others = [place for place in nearest if self._texts[place] not in itself]
                found.append(others[:count][::-1])
            progress.add(len(texts[block]))
        return found

    @cached_property
    def _index(self) -> _PieceIndex:
        with timed(f"index of {counted(len(self._texts), 'sentence')} to choose examples from"):
            return _PieceIndex(self._texts)


class _PieceIndex:
    """TF-IDF of sentences, with rare and common n-grams separate."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer  # takes a second

        self._vectorizer = TfidfVectorizer(analyzer=_pieces, sublinear_tf=True)
        progress = Progress("sentences indexed", len(texts))
        self._sentences = self._vectorizer.fit_transform(progress.over(texts))  # [sentences, pieces], rows of length 1
        held = np.bincount(self._sentences.indices, minlength=self._sentences.shape[1])
        self._common = held > _COMMON * len(texts)
        self._rare = self._sentences[:, ~self._common].T.tocsr()  # [rare pieces, sentences]
        self._lengths = self._common_lengths(self._sentences)

    def nearest(self, texts: Sequence[str], count: int, selves: Sequence[set[str]]) -> Iterator[list[int]]:
        """Yield for each text the indices of its nearest sentences: `count` plus the number of its `selves`."""
        asked = self._vectorizer.transform(texts)
        shared, lengths = (asked[:, ~self._common] @ self._rare).tocsr(), self._common_lengths(asked)
        weights = np.zeros(asked.shape[1])
        for number, itself in enumerate(selves):
            wanted, row = count + len(itself), slice(*shared.indptr[number : number + 2])
            places = self._candidates(shared.indices[row], shared.data[row], lengths[number], wanted)
            own = slice(*asked.indptr[number : number + 2])
            weights[asked.indices[own]] = asked.data[own]
            likeness = (self._sentences if places is None else self._sentences[places]) @ weights
            weights[asked.indices[own]] = 0
            order = np.argsort(-likeness, kind="stable")[:wanted]
            yield (order if places is None else places[order]).tolist()

    def _candidates(
        self, places: NDArray[np.int32], shared: NDArray[np.float64], length: float, wanted: int
    ) -> NDArray[np.int32] | None:
        """Return, in order, the sentences that may be among the nearest of a text; None if all may be.

        Args:
            places: indices of the sentences that share rare n-grams with the text.
            shared: the part of their similarity from rare n-grams.
            length: of the common part of the text.
            wanted: number of nearest sentences to find.
        """
        if len(places) < wanted:
            return None
        least = np.partition(shared, -wanted)[-wanted] - _SAFE
        if length * self._lengths.max() >= least:
            return None
        return np.sort(places[shared + length * self._lengths[places] >= least])

    def _common_lengths(self, rows: Any) -> NDArray[np.float64]:
        """Return the lengths of the common parts of rows [rows, pieces]."""
        return np.asarray(np.sqrt(rows.power(2) @ self._common.astype(np.float64)))


def _pieces(text: str) -> list[str]:
    """Return all character n-grams of a text, with white space unchanged."""
    sizes = range(1, _LONGEST + 1)
    return [text[start : start + size] for size in sizes for start in range(len(text) - size + 1)]
