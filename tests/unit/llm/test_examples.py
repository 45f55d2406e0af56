"""What a prompt shows of train: varied sentences, and the nearest ones against a choice that compares every pair."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped_prompts import corpus
from sklearn.feature_extraction.text import TfidfVectorizer

from omniner.corpus.sample import generate_sample
from omniner.llm import examples
from omniner.llm.examples import NearestSentences, choose_examples

_LETTERS = st.text("北京上海咖啡展a A", min_size=1, max_size=8)


def pieces(text: str) -> Counter[str]:
    return Counter(text[start : start + size] for size in (1, 2, 3) for start in range(len(text) - size + 1))


def likeness(left: str, right: str, index: list[str]) -> float:
    """The cosine of (1 + ln tf) * (1 + ln((1 + n) / (1 + df))), over pieces that the index has."""
    held = [pieces(text) for text in index]
    weights = {
        piece: 1 + math.log((1 + len(index)) / (1 + sum(piece in one for one in held))) for one in held for piece in one
    }
    vectors = [
        {piece: (1 + math.log(count)) * weights[piece] for piece, count in pieces(text).items() if piece in weights}
        for text in (left, right)
    ]
    lengths = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
    dot = sum(value * vectors[1].get(piece, 0) for piece, value in vectors[0].items())
    return dot / (lengths[0] * lengths[1]) if all(lengths) else 0.0


@settings(deadline=None)
@given(st.lists(_LETTERS, min_size=3, max_size=8, unique=True), st.lists(_LETTERS, min_size=1, max_size=4))
def test_the_nearest_are_those_of_every_pair_compared(index: list[str], asked: list[str]) -> None:
    for text, places in zip(asked, NearestSentences(index).find(asked, 2), strict=True):
        scores = {place: likeness(text, other, index) for place, other in enumerate(index) if other != text}
        assert len(places) == min(2, len(scores))
        assert text not in [index[place] for place in places]
        found = [scores[place] for place in reversed(places)]
        best = sorted(scores.values(), reverse=True)[: len(places)]
        assert all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(found, best, strict=True))


def test_examples_are_varied_short_and_follow_the_seed() -> None:
    train = corpus()
    chosen = choose_examples(train, 5, seed=3)
    assert chosen == choose_examples(train, 5, seed=3)
    assert chosen != choose_examples(train, 5, seed=4)
    assert len({sentence.id for sentence in chosen}) == 5
    assert len({entity.category for sentence in chosen for entity in sentence.entities}) == 10
    lengths = sorted(len(sentence.text) for sentence in train if sentence.entities)
    assert all(len(sentence.text) <= lengths[len(lengths) // 2] for sentence in chosen)
    few = train[1:4]
    assert sorted(choose_examples(few, 3, seed=0), key=lambda sentence: sentence.id) == few


def test_of_a_large_index_few_sentences_are_compared_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = generate_sample({"train": 3000}, 5)["train"]
    index = list(dict.fromkeys(sentence.text for sentence in sentences))
    asked = [*index[:20], "今天想喝奶茶", "ΩΩ"]
    compared: list[int] = []
    choose = examples._PieceIndex._candidates

    def counting(self: examples._PieceIndex, *given: Any) -> Any:
        places = choose(self, *given)
        compared.append(len(index) if places is None else len(places))
        return places

    monkeypatch.setattr(examples._PieceIndex, "_candidates", counting)
    found = NearestSentences(index).find(asked, 3)
    vectorizer = TfidfVectorizer(analyzer=lambda text: list(pieces(text).elements()), sublinear_tf=True).fit(index)
    likenesses = (vectorizer.transform(asked) @ vectorizer.transform(index).T).toarray()
    for text, places, row in zip(asked, found, likenesses, strict=True):
        others = [place for place in np.argsort(-row, kind="stable").tolist() if index[place] != text]
        assert np.allclose(row[places[::-1]], row[others[:3]], atol=1e-12)
    assert compared[-1] == len(index)  # nothing is in common with it
    assert sum(compared[:-1]) < 0.1 * len(index) * len(compared)
