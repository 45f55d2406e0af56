"""The characters and bigrams a model knows, collected from its training text.

In come the training texts, out comes a `Vocabulary` that turns any text into ids: one per character, and one per
pair of neighbours, counting the two edges of the text (`L` characters make `L + 1` bigrams, so character `i` has
bigram `i` on its left and `i + 1` on its right). Ids follow the code points, not the order of the corpus or of a
hash, so the same text always makes the same ids. `to_json`/`from_json` carry a vocabulary inside a checkpoint.
Bigrams are most of a small model's parameters (about 40 thousand for CLUENER) and worth it: without pretrained
weights they are the only sign of where words are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

PAD, UNKNOWN = 0, 1
_FIRST = 2
# Stands for the outside at both edges of a text. A control character, so no bigram of real text looks like it.
EDGE = "\x02"


class Vocabulary:
    """Ids of characters and bigrams; id 0 is padding, id 1 whatever is not known.

    Attributes:
        characters: known characters; the id of the first is 2.
        bigrams: known bigrams, likewise; empty where a model has no bigram embeddings.
    """

    def __init__(self, characters: Sequence[str], bigrams: Sequence[str]) -> None:
        self.characters, self.bigrams = tuple(characters), tuple(bigrams)
        self._character_ids = {item: number for number, item in enumerate(self.characters, _FIRST)}
        self._bigram_ids = {item: number for number, item in enumerate(self.bigrams, _FIRST)}

    @classmethod
    def build(cls, texts: Iterable[str], min_count: int, bigrams: bool) -> Vocabulary:
        """Collect what stands at least `min_count` times in `texts`."""
        characters: Counter[str] = Counter()
        pairs: Counter[str] = Counter()
        for text in texts:
            characters.update(text)
            if bigrams:
                pairs.update(_pairs(text))
        return cls(_frequent(characters, min_count), _frequent(pairs, min_count))

    @property
    def character_rows(self) -> int:
        """Rows that an embedding table of the characters needs."""
        return _FIRST + len(self.characters)

    @property
    def bigram_rows(self) -> int:
        """Rows that an embedding table of the bigrams needs."""
        return _FIRST + len(self.bigrams)

    def character_ids(self, text: str) -> list[int]:
        """One id per character."""
        return [self._character_ids.get(character, UNKNOWN) for character in text]

    def bigram_ids(self, text: str) -> list[int]:
        """One id per pair of neighbours, edges included: `len(text) + 1` of them."""
        return [self._bigram_ids.get(pair, UNKNOWN) for pair in _pairs(text)]

    def to_json(self) -> dict[str, Any]:
        """Plain lists, to be stored with a checkpoint."""
        return {"characters": list(self.characters), "bigrams": list(self.bigrams)}

    @classmethod
    def from_json(cls, item: dict[str, Any]) -> Vocabulary:
        """The inverse of `to_json`."""
        return cls(item["characters"], item["bigrams"])


def _pairs(text: str) -> Iterable[str]:
    return map(str.__add__, EDGE + text, text + EDGE)


def _frequent(counts: Counter[str], min_count: int) -> list[str]:
    return sorted(item for item, count in counts.items() if count >= min_count)
