"""The near-duplicate join against the comparison of all pairs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from omniner.corpus.stats import texts as stats_texts
from omniner.corpus.stats.texts import NearDuplicateJoin


def grams(text: str, ngram: int) -> set[str]:
    return {text[i : i + ngram] for i in range(max(len(text) - ngram + 1, 1))}


def all_pairs(texts: Sequence[str], ngram: int, least: float) -> dict[tuple[int, int], float]:
    """The slow, obvious twin."""
    sets = [grams(text, ngram) for text in texts]
    found = {}
    for one, other in combinations(range(len(texts)), 2):
        jaccard = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        if jaccard >= least:
            found[one, other] = jaccard
    return found


def joined(texts: Sequence[str], ngram: int, least: float) -> dict[tuple[int, int], float]:
    found = {}
    for left, right, jaccard in NearDuplicateJoin(texts, ngram, least).pairs():
        for key, value in zip(zip(left.tolist(), right.tolist(), strict=True), jaccard.tolist(), strict=True):
            assert key not in found
            found[key] = value
    return found


def similar_texts(count: int, seed: int) -> list[str]:
    """Texts of 1 to 60 characters, many of them another one with some characters changed, left out or repeated."""
    rng = random.Random(seed)
    letters = "今天去北京吃火锅真的很好吃啊abc 😀。！"
    texts: list[str] = []
    while len(texts) < count:
        if texts and rng.random() < 0.7:
            text = rng.choice(texts) * rng.choice([1, 1, 1, 2])
            for _ in range(rng.randrange(1, 4)):
                place = rng.randrange(len(text))
                text = text[:place] + rng.choice([*letters, ""]) + text[place + rng.randrange(2) :]
        else:
            text = "".join(rng.choices(letters, k=rng.randrange(1, 60)))
        texts.append(text or "。")
    return list(dict.fromkeys(texts))


@pytest.mark.parametrize("ngram", [1, 2, 3, 7])
@pytest.mark.parametrize("least", [0.3, 0.5, 0.8, 0.95])
def test_the_join_finds_exactly_what_all_pairs_show(ngram: int, least: float) -> None:
    texts = similar_texts(160, seed=ngram)
    expected = all_pairs(texts, ngram, least)
    assert joined(texts, ngram, least) == expected
    assert expected


def test_blocks_of_one_text_give_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = similar_texts(120, seed=5)
    whole = joined(texts, 3, 0.6)
    monkeypatch.setattr(stats_texts, "_LOOKUPS", 7)
    assert joined(texts, 3, 0.6) == whole
    monkeypatch.setattr(stats_texts, "_BLOCK", 1)
    assert joined(texts, 3, 0.6) == whole


def test_grams_that_need_more_room_than_a_number_has_are_numbered_on_the_way() -> None:
    texts = [*similar_texts(100, seed=6), "很" + "好" * 30, "很" + "好" * 31]
    assert joined(texts, 25, 0.5) == all_pairs(texts, 25, 0.5)


def test_the_threshold_itself_counts() -> None:
    # 4 of 5 grams are shared: exactly 0.8.
    assert joined(["abcde", "abcdef"], 2, 0.8) == {(0, 1): 0.8}
    assert joined(["abcde", "abcdef"], 2, 0.81) == {}


def test_texts_shorter_than_a_gram_are_grams_of_their_own() -> None:
    assert joined(["好", "好的", "好的。", "嗯"], 3, 0.8) == {}
    assert joined(["哈哈哈哈", "哈哈哈哈哈哈"], 3, 0.8) == {(0, 1): 1.0}


def test_no_texts_no_pairs() -> None:
    assert joined([], 3, 0.8) == {}
    assert joined(["一个"], 3, 0.8) == {}


def test_candidates_are_known_before_and_bound_the_pairs() -> None:
    texts = [f"今天天气很好大家一起去公园玩吧{number:04}" for number in range(300)]
    join = NearDuplicateJoin(texts, 3, 0.5)
    pairs = sum(len(block.left) for block in join.pairs())
    assert pairs == len(all_pairs(texts, 3, 0.5)) <= join.candidates
    assert np.all(np.concatenate([block.jaccard for block in join.pairs()]) >= 0.5)
