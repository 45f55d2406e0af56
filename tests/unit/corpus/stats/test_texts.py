"""Figures of texts: characters, emoji, oddities, lengths, repeats, leaks, and what `measure` makes of all together."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter, defaultdict

import numpy as np
import pytest

from omniner.config import compose
from omniner.config.groups import StatsConfig
from omniner.corpus.sample import generate_sample
from omniner.corpus.stats import texts as stats_texts
from omniner.corpus.stats.flat import flatten
from omniner.corpus.stats.measure import measure_corpus
from omniner.corpus.stats.texts import SimilarPairs
from omniner.records import Entity, Sentence


@pytest.fixture(scope="module")
def settings() -> StatsConfig:
    return compose.load(["task=stats"]).stats


def sentences(*texts: str, split: str = "s") -> list[Sentence]:
    return [Sentence(f"{split}-{number}", text) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("没有表情 123 # * ©", 0),
        ("😀", 1),
        ("👍🏽好👍", 2),
        ("👨\u200d👩\u200d👧 一家", 1),
        ("🇨🇳🇫🇷", 2),
        ("❤️", 1),
        ("❤", 0),
        ("❤️\u200d🔥", 1),
        ("1️⃣2⃣", 2),
        ("☝🏻", 1),
        ("⌚⭐", 2),
    ],
)
def test_emoji_are_counted_as_people_see_them(text: str, count: int) -> None:
    texts = stats_texts.count_texts(flatten({"train": sentences(text, "字")}), 0)
    assert (texts.emoji, texts.with_emoji) == (count, int(count > 0))


def test_counts_of_a_split() -> None:
    flat = flatten({"train": sentences("一二三", "a bc 𠀀"), "dev": sentences("丁" * 10)})
    train, dev = (stats_texts.count_texts(flat, number) for number in (0, 1))
    assert (train.sentences, train.documents, train.characters, train.words) == (2, 2, 9, 4)
    assert (train.mean, train.median, train.longest, train.beyond_plane) == (4.5, 4.5, 6, 1)
    assert train.p95 == pytest.approx(5.85)
    assert (dev.sentences, dev.characters, dev.longest) == (1, 10, 10)
    assert stats_texts.count_emoji(flatten({"train": sentences("😀😀⭐", "⭐😀")})) == [("😀", 3), ("⭐", 2)]


def test_writing_with_blanks_is_told_from_writing_without() -> None:
    assert stats_texts.is_spaced(flatten({"t": sentences("He went to Paris 了", "Привет")}))
    assert not stats_texts.is_spaced(flatten({"t": sentences("去 北京 吃 OK 火锅", "123 456")}))
    assert not stats_texts.is_spaced(flatten({"t": []}))


def test_odd_characters_are_named_with_their_sentences() -> None:
    flat = flatten({"t": sentences("好\ufffd\ufffd", "一\u200b二\ufffd", "三\ue305\x07", "正常👨\u200d👩", "半\ud83d")})
    odd, affected = stats_texts.find_odd_characters(flat)
    assert [(one.point, one.times, one.sentences, one.example) for one in odd] == [
        (0xFFFD, 3, 2, 0),
        (0x07, 1, 1, 2),
        (0x200B, 1, 1, 1),
        (0xD83D, 1, 1, 4),
        (0xE305, 1, 1, 2),
    ]
    assert affected.tolist() == [True, True, True, False, True]
    kinds = {one.point: one.kind for one in odd}
    assert kinds[0x200B] == "invisible"
    assert kinds[0xE305] == "private use"


def test_empty_sentences_and_outliers() -> None:
    flat = flatten({"train": sentences(*["长" * n for n in (8, 9, 10, 11, 12)] * 4, "长" * 60, " \u3000"), "dev": []})
    assert np.flatnonzero(stats_texts.find_empty(flat)).tolist() == [21]
    (outlier,) = stats_texts.find_outliers(flat)
    assert (outlier.sentence, outlier.length) == (20, 60)
    lengths = [8, 9, 10, 11, 12] * 4 + [60, 2]
    first, third = np.percentile(lengths, [25, 75])
    assert outlier.fence == third + 3 * (third - first)


def test_a_sentence_at_the_fence_is_no_outlier() -> None:
    usual = ["长" * n for n in (8, 9, 10, 11, 12)] * 4  # quartiles 9 and 11
    assert stats_texts.find_outliers(flatten({"train": sentences(*usual, "长" * 17)})) == []
    assert len(stats_texts.find_outliers(flatten({"train": sentences(*usual, "长" * 18)}))) == 1


def test_repeats_and_leaks_are_those_of_plain_sets() -> None:
    rng = random.Random(3)
    splits = {
        name: sentences(*[rng.choice("甲乙丙丁戊己庚辛壬癸") * rng.randrange(1, 4) for _ in range(30)], split=name)
        for name in ("train", "dev", "test")
    }
    flat = flatten(splits)
    counts = stats_texts.count_presence(flat)
    texts = {name: [sentence.text for sentence in one] for name, one in splits.items()}
    assert stats_texts.count_repeated(counts).tolist() == [len(one) - len(set(one)) for one in texts.values()]
    for place, one in enumerate(texts.values()):
        for other_place, other in enumerate(texts.values()):
            expected = (sum(text in other for text in one), len(set(one) & set(other)))
            assert stats_texts.count_shared(counts, place, other_place) == expected
    total = Counter(text for one in texts.values() for text in one)
    most = [(flat.texts[text], int(counts[text].sum())) for text in stats_texts.most_repeated(counts, 5)]
    assert [count for _, count in most] == [count for _, count in total.most_common(5)]
    assert all(total[text] == count for text, count in most)


def test_near_repeats_say_in_which_splits_a_like_text_stands() -> None:
    splits = {"train": sentences("甲", "乙", "乙"), "dev": sentences("丙", "戊", "戊"), "test": sentences("丁", "乙")}
    flat = flatten(splits)
    assert flat.texts == ["甲", "乙", "丙", "戊", "丁"]
    counts = stats_texts.count_presence(flat)
    blocks = [
        SimilarPairs(np.array([0]), np.array([1]), np.array([0.95])),
        SimilarPairs(np.array([0, 2]), np.array([2, 4]), np.array([0.9, 0.85])),
    ]
    near = stats_texts.collect_near_repeats(blocks, counts, 2)
    assert near.pairs == 3
    assert near.similar.tolist() == [
        [True, True, True],  # 甲: 乙 is in train and test, 丙 in dev
        [True, False, False],  # 乙: 甲
        [True, False, True],  # 丙: 甲 and 丁
        [False, False, False],  # 戊: nothing but itself
        [False, True, False],  # 丁: 丙
    ]
    assert [(pair.left, pair.right, pair.across) for pair in near.examples] == [(0, 2, True), (2, 4, True)]
    # The 乙 of test stands in train letter for letter; 丁 has nothing like it there.
    assert stats_texts.count_near_shared(counts, near.similar, 2, 0) == 1
    assert stats_texts.count_near_shared(counts, near.similar, 2, 1) == 1
    assert stats_texts.count_near_shared(counts, near.similar, 1, 0) == 1
    assert [stats_texts.count_near_repeated(counts, near.similar, split) for split in range(3)] == [3, 2, 0]


def test_equal_texts_with_other_labels_are_listed_with_their_labels() -> None:
    def one(id: str, *entities: Entity) -> Sentence:
        return Sentence(id, "小满好", list(entities))

    brand, product = Entity("小满", "品牌", 0, 2), Entity("小满", "产品", 0, 2)
    other = Entity("好", "其他", 2, 3)
    same = [Sentence("c", "都一样", [brand, other]), Sentence("d", "都一样", [other, brand])]
    bare = Sentence("e", "小满好", meta={"unlabeled": True})
    flat = flatten({"train": [one("a", brand), one("b", product), *same], "test": [one("f", brand), bare]})
    found, count = stats_texts.find_disagreements(flat)
    assert count == 3
    assert [(flat.texts[one.text], one.sentences, one.counts) for one in found] == [("小满好", (0, 1), (2, 1))]


def test_posts_in_two_splits() -> None:
    train = [Sentence("a", "1", post_id="p"), Sentence("b", "2", post_id="p"), Sentence("c", "3", post_id="q")]
    dev = [Sentence("d", "4", post_id="p"), Sentence("e", "5"), Sentence("f", "6")]
    flat = flatten({"train": train, "dev": dev})
    total, listed = stats_texts.find_split_posts(flat)
    assert total == 4
    assert [(flat.sentences[sentence].post_id, splits) for sentence, splits in listed] == [("p", (0, 1))]


def test_measuring_takes_all_together(settings: StatsConfig) -> None:
    splits = generate_sample({"train": 300, "dev": 60, "test": 60}, 1)
    copy = Sentence("copy", splits["train"][0].text, splits["train"][0].entities, "new")
    nearly = Sentence("nearly", f"{splits['train'][1].text}啦", [], "newer")
    splits["test"] += [copy, nearly]
    found = measure_corpus("made", splits, settings)
    train, test = (found.flat.splits.index(split) for split in ("train", "test"))
    assert found.near is not None
    assert stats_texts.count_shared(found.counts, test, train)[0] >= 1
    near = stats_texts.count_near_shared(found.counts, found.near.similar, test, train)
    assert near >= stats_texts.count_shared(found.counts, test, train)[0] + 1
    entities = [entity for one in splits.values() for sentence in one for entity in sentence.entities]
    assert sum(labels.entities for labels in found.labels.values()) == len(entities)
    assert found.labels["test"].bare == sum(not sentence.entities for sentence in splits["test"])
    assert found.labels["dev"].categories == len({e.category for s in splits["dev"] for e in s.entities})
    by_category: dict[str, int] = defaultdict(int)
    for entity in entities:
        by_category[entity.category] += 1
    assert {row.name: row.mentions for row in found.categories} == dict(by_category)
    assert found.texts["test"].documents == len({sentence.post_id for sentence in splits["test"]})


def test_too_many_candidates_are_not_looked_at(settings: StatsConfig) -> None:
    texts = [f"今天天气很好大家一起去公园玩吧{number:03}" for number in range(50)]
    few = compose.load(["task=stats", "stats.candidates=10"]).stats
    found = measure_corpus("made", {"train": sentences(*texts)}, few)
    assert found.near is None
    assert found.candidates > 10
    assert measure_corpus("made", {"train": sentences(*texts)}, settings).near is not None


def test_a_corpus_of_nothing_can_be_measured(settings: StatsConfig) -> None:
    found = measure_corpus("empty", {"train": [], "dev": []}, settings)
    assert found.categories == found.primaries == found.overlaps == []
    assert found.texts["dev"].sentences == found.posts == 0


def test_emoji_that_python_does_not_know_yet_are_not_odd() -> None:
    newest = chr(next(point for point in range(0x1FAFF, 0x1F000, -1) if unicodedata.category(chr(point)) == "Cn"))
    unassigned = chr(next(point for point in range(0x2FE0, 0x3000) if unicodedata.category(chr(point)) == "Cn"))
    odd, _ = stats_texts.find_odd_characters(flatten({"t": sentences(f"好{newest}", f"好{unassigned}", "一\n二\t三")}))
    assert [(chr(one.point), one.kind) for one in odd] == [
        ("\t", "control"),
        ("\n", "control"),
        (unassigned, "unassigned"),
    ]
