"""Chooses what a prompt shows of train: sentences for everyone, entities of a category, sentences like one sentence.

Alike are sentences that share rare pieces: the cosine of TF-IDF over all runs of one to three characters. It needs no
model, works on any language, and gives the same choice everywhere.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from omniner.errors import UserError
from omniner.records import Sentence
from omniner.wording import counted

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

_POOL = 50  # candidates per example that is to be chosen
_SURE = 0.8  # share of a surface's mentions that have the category it is shown for
_BLOCK = 256  # sentences compared at once: with 10,000 to choose from, 20 MB of similarities
_LONGEST = 3  # characters of a piece


def choose_examples(train: Sequence[Sentence], count: int, seed: int) -> list[Sentence]:
    """Choose short sentences that together show many categories.

    From a random pool of sentences with entities, none longer than the median, one after the other is taken that shows
    the most categories not shown yet.

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
    """Choose the most frequent entities of each category, of those that are rarely anything else.

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
    """An index of sentences.

    Args:
        texts: the sentences to choose from, each different from the others.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)

    def find(self, texts: Sequence[str], count: int, sources: Sequence[str] | None = None) -> list[list[int]]:
        """Find the nearest sentences of each text.

        Args:
            texts: any sentences. One that is itself in the index is not its own neighbour: a model that learns from
                train would be shown the answer.
            count: how many to find for each.
            sources: the sentences that these were made of, which are no neighbours either; None = they are unchanged.

        Returns:
            places in the index for each text, the nearest last; of equally near ones, the earlier is nearer.
        """
        found: list[list[int]] = []
        selves = [{text, source} for text, source in zip(texts, texts if sources is None else sources, strict=True)]
        for start in range(0, len(texts), _BLOCK):
            block = slice(start, start + _BLOCK)
            likeness = (self._vectorizer.transform(texts[block]) @ self._index).toarray()
            for itself, row in zip(selves[block], likeness, strict=True):
                nearest = np.argsort(-row, kind="stable")[: count + len(itself)].tolist()
                others = [place for place in nearest if self._texts[place] not in itself]
                found.append(others[:count][::-1])
        return found

    @cached_property
    def _vectorizer(self) -> TfidfVectorizer:
        from sklearn.feature_extraction.text import TfidfVectorizer  # a second

        return TfidfVectorizer(analyzer=_pieces, sublinear_tf=True).fit(self._texts)

    @cached_property
    def _index(self) -> Any:
        """TF-IDF of the sentences, [pieces, sentences], sparse."""
        return self._vectorizer.transform(self._texts).T.tocsr()


def _pieces(text: str) -> list[str]:
    """Cut a text into its runs of characters, white space as it is."""
    sizes = range(1, _LONGEST + 1)
    return [text[start : start + size] for size in sizes for start in range(len(text) - size + 1)]
