"""Finds the sentences of train that are most like a sentence, to be shown beside it as examples.

Alike are sentences that share rare pieces: the cosine of TF-IDF over all runs of one to three characters. It needs no
model, works on any language, and gives the same choice everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

_BLOCK = 256  # sentences compared at once: with 10,000 to choose from, 20 MB of similarities
_LONGEST = 3  # characters of a piece


def _pieces(text: str) -> list[str]:
    """Cut a text into its runs of characters, white space as it is."""
    sizes = range(1, _LONGEST + 1)
    return [text[start : start + size] for size in sizes for start in range(len(text) - size + 1)]


class NearestSentences:
    """An index of sentences.

    Args:
        texts: the sentences to choose from, each different from the others.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)

    def find(self, texts: Sequence[str], count: int) -> list[list[int]]:
        """Find the nearest sentences of each text.

        Args:
            texts: any sentences. One that is itself in the index is not its own neighbour: a model that learns from
                train would be shown the answer.
            count: how many to find for each.

        Returns:
            places in the index for each text, the nearest last; of equally near ones, the earlier is nearer.
        """
        found: list[list[int]] = []
        for start in range(0, len(texts), _BLOCK):
            block = texts[start : start + _BLOCK]
            likeness = (self._vectorizer.transform(block) @ self._index).toarray()
            for text, row in zip(block, likeness, strict=True):
                nearest = np.argsort(-row, kind="stable")[: count + 1].tolist()
                others = [place for place in nearest if self._texts[place] != text]
                found.append(others[:count][::-1])
        return found

    @cached_property
    def _vectorizer(self) -> TfidfVectorizer:
        from sklearn.feature_extraction.text import TfidfVectorizer  # a second, for those who ask for neighbours only

        return TfidfVectorizer(analyzer=_pieces, sublinear_tf=True).fit(self._texts)

    @cached_property
    def _index(self) -> Any:
        """TF-IDF of the sentences, [pieces, sentences], sparse."""
        return self._vectorizer.transform(self._texts).T.tocsr()
