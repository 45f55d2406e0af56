"""Figures of mentions against slow, obvious twins: rows, ambiguity, distinctiveness, overlaps, known surfaces."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from omniner.corpus.stats import mentions
from omniner.corpus.stats.flat import CorpusArrays, flatten
from omniner.records import Entity, Sentence

CATEGORIES = ["品牌", "品类_产品", "品类_服务", "人群_人"]


def random_corpus(seed: int, blanks: bool = False) -> dict[str, list[Sentence]]:
    """Sentences with nested, crossing and doubled mentions, some without a place."""
    rng = random.Random(seed)
    letters = "ab cd" if blanks else "小满面膜店员"
    splits = {}
    for split, count in (("train", 40), ("dev", 15), ("test", 15)):
        sentences = []
        for number in range(count):
            text = "".join(rng.choices(letters, k=rng.randrange(1, 14)))
            entities = []
            for _ in range(rng.randrange(4)):
                start = rng.randrange(len(text))
                end = rng.randrange(start + 1, len(text) + 1)
                entity = Entity(text[start:end], rng.choice(CATEGORIES), start, end)
                entities.append(entity if rng.random() < 0.9 else entity._replace(start=None, end=None))
            sentences.append(Sentence(f"{split}-{number}", text, entities))
        splits[split] = sentences
    splits["test"].append(Sentence("bare", "没有标签", meta={"unlabeled": True}))
    return splits


def entropy(counts: Counter[str]) -> float:
    return -sum(n / counts.total() * math.log2(n / counts.total()) for n in counts.values())


@pytest.mark.parametrize("seed", range(5))
def test_rows_and_ambiguity_are_those_of_a_plain_count(seed: int) -> None:
    splits = random_corpus(seed)
    flat = flatten(splits)
    zeros = np.zeros(len(flat.categories))
    found = mentions.measure_ambiguity(flat.surface, flat.category, len(flat.surfaces), len(flat.categories))
    rows = {row.name: row for row in mentions.category_rows(flat, flat.categories, flat.category, found, zeros, zeros)}
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    everything = [entity for sentences in splits.values() for s in sentences for entity in s.entities]
    for entity in everything:
        labels[entity.text][entity.category] += 1
    for number, surface in enumerate(flat.surfaces):
        assert found.entropy[number] == pytest.approx(entropy(labels[surface]))
        assert (found.mentions[number], found.kinds[number]) == (labels[surface].total(), len(labels[surface]))
    assert list(rows) == sorted({entity.category for entity in everything})
    for name, row in rows.items():
        own = [entity for entity in everything if entity.category == name]
        sizes = [len(entity.text) for entity in own]
        assert row.mentions == len(own) == sum(row.by_split)
        assert row.share == len(own) / len(everything)
        assert row.by_split == tuple(
            sum(e.category == name for s in one for e in s.entities) for one in splits.values()
        )
        assert (row.mean, row.longest) == (pytest.approx(np.mean(sizes)), max(sizes))
        assert (row.median, row.p95) == (np.median(sizes), pytest.approx(np.percentile(sizes, 95)))
        assert row.surfaces == len({entity.text for entity in own})
        assert row.ambiguous == pytest.approx(sum(len(labels[e.text]) > 1 for e in own) / len(own))
        assert row.entropy == pytest.approx(sum(entropy(labels[e.text]) for e in own) / len(own))


def test_the_entropy_of_known_cases() -> None:
    entities = [Entity("苹果", "A"), Entity("苹果", "B"), Entity("梨", "A"), Entity("梨", "A")]
    flat = flatten({"train": [Sentence("1", "苹果和梨", entities)]})
    found = mentions.measure_ambiguity(flat.surface, flat.category, len(flat.surfaces), len(flat.categories))
    assert dict(zip(flat.surfaces, found.entropy.tolist(), strict=True)) == {"苹果": 1.0, "梨": 0.0}
    (surface,) = mentions.most_ambiguous(flat, found, 10)
    assert surface == ("苹果", 2, 1.0, (("A", 1), ("B", 1)))


def test_primaries_are_what_stands_before_the_first_underscore() -> None:
    flat = flatten(random_corpus(1))
    names, group = mentions.number_primaries(flat)
    assert names == ["人群", "品牌", "品类"]
    assert [names[number] for number in group] == [flat.categories[c].partition("_")[0] for c in flat.category]


@pytest.mark.parametrize("seed", range(5))
def test_seen_counts_surfaces_and_pairs_of_train(seed: int) -> None:
    splits = random_corpus(seed)
    flat = flatten(splits)
    pairs = {(e.text, e.category) for s in splits["train"] for e in s.entities}
    surfaces = {text for text, _ in pairs}
    test = [e for s in splits["test"] for e in s.entities]
    expected = (len(test), sum(e.text in surfaces for e in test), sum((e.text, e.category) in pairs for e in test))
    assert mentions.count_seen(flat, flat.splits.index("test"), flat.splits.index("train")) == expected


def plain_overlaps(flat: CorpusArrays) -> Counter[str]:
    """All pairs of mentions of a sentence, in any order."""
    counts: Counter[str] = Counter()
    for sentence in flat.sentences:
        spans = [(e.start, e.end) for e in sentence.entities if e.start is not None and e.end is not None]
        for place, (start, end) in enumerate(spans):
            for other_start, other_end in spans[:place]:
                if start < other_end and other_start < end:
                    inside = start >= other_start and end <= other_end
                    around = start <= other_start and end >= other_end
                    counts["same place" if inside and around else "nested" if inside or around else "crossing"] += 1
    return counts


@pytest.mark.parametrize("seed", range(8))
def test_overlaps_are_those_of_all_pairs(seed: int) -> None:
    flat = flatten(random_corpus(seed))
    found = mentions.find_overlaps(flat)
    expected = plain_overlaps(flat)
    assert Counter(overlap.kind for overlap in found) == expected
    assert min(expected.values()) > 0
    for _, outer, inner in found:
        assert flat.owner[outer] == flat.owner[inner]
        assert flat.start[outer] <= flat.start[inner] < flat.end[outer]
    involved = {mention for overlap in found for mention in overlap[1:]}
    assert set(np.flatnonzero(mentions.overlapping_mentions(flat, found)).tolist()) == involved


def test_mentions_that_touch_do_not_overlap() -> None:
    entities = [Entity("上海", "A", 0, 2), Entity("火锅", "B", 2, 4)]
    following = Sentence("2", "上海", [Entity("上海", "A", 0, 2)])
    flat = flatten({"train": [Sentence("1", "上海火锅", entities), following]})
    assert mentions.find_overlaps(flat) == []


def plain_distinctiveness(flat: CorpusArrays, category: str, words: bool) -> tuple[float, float]:
    """KL divergences with loops and counters."""
    corpus: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    edges: Counter[str] = Counter()
    for sentence in flat.sentences:
        if sentence.meta:
            continue  # without labels
        pieces = sentence.text.split() if words else list(sentence.text)
        places, at = [], 0
        for piece in pieces:
            at = sentence.text.index(piece, at)
            places.append((at, at + len(piece)))
            at += len(piece)
        corpus.update(pieces)
        for entity in sentence.entities:
            if entity.category != category or entity.start is None or entity.end is None:
                continue
            touched = [n for n, (start, end) in enumerate(places) if start < entity.end and end > entity.start]
            inside.update(pieces[n] for n in touched)
            before = touched[0] - 1 if touched else sum(end <= entity.start for _, end in places) - 1
            after = touched[-1] + 1 if touched else before + 1
            edges.update(pieces[n] for n in (before, after) if 0 <= n < len(pieces))

    def divergence(tokens: Counter[str]) -> float:
        return sum(
            n / tokens.total() * math.log((n / tokens.total()) / (corpus[token] / corpus.total()))
            for token, n in tokens.items()
        )

    return divergence(inside), divergence(edges)


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_distinctiveness_is_that_of_plain_counters(seed: int, words: bool) -> None:
    flat = flatten(random_corpus(seed, blanks=words))
    tokens = mentions.tokenize(flat, words)
    spans, bounds = mentions.measure_distinctiveness(flat, tokens, flat.category, len(flat.categories))
    for number, category in enumerate(flat.categories):
        expected = plain_distinctiveness(flat, category, words)
        assert (spans[number], bounds[number]) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_a_category_with_its_own_letters_and_edges_is_distinctive() -> None:
    rng = random.Random(0)
    sentences = []
    for number in range(200):
        word = "".join(rng.choices("甲乙丙丁戊己庚辛", k=4))
        own, mixed = rng.choice(["零一", "一零"]), word[:2]
        text = f"{mixed}{word}《{own}》{word}"
        entities = [Entity(own, "own", 7, 9), Entity(mixed, "mixed", 0, 2)]
        sentences.append(Sentence(str(number), text, entities))
    flat = flatten({"train": sentences})
    spans, bounds = mentions.measure_distinctiveness(flat, mentions.tokenize(flat, False), flat.category, 2)
    mixed, own = 0, 1
    assert flat.categories == ["mixed", "own"]
    assert spans[own] > 1 > spans[mixed]
    assert bounds[own] > 1 > bounds[mixed]


@pytest.mark.parametrize(
    ("surface", "expected"),
    [
        ("小满", ""),
        (" 小满", "white space"),
        ("小满\u3000", "white space"),
        ("小满，", "punctuation"),
        ("。小满", "punctuation"),
        ("《红楼梦》", ""),
        ("红楼梦》", "punctuation"),
        ("《红楼梦", "punctuation"),
        ("中国石油（香港）", ""),
        ("100%", ""),
        ("@小满", ""),
        ("", "white space"),
    ],
)
def test_edges(surface: str, expected: str) -> None:
    assert mentions.edge_fault(surface) == expected


def test_a_corpus_without_mentions() -> None:
    flat = flatten({"train": [Sentence("1", "没有")], "unlabeled": []})
    found = mentions.measure_ambiguity(flat.surface, flat.category, 0, 0)
    tokens = mentions.tokenize(flat, False)
    spans, bounds = mentions.measure_distinctiveness(flat, tokens, flat.category, 0)
    assert mentions.category_rows(flat, flat.categories, flat.category, found, spans, bounds) == []
    assert mentions.find_overlaps(flat) == []
    assert mentions.number_primaries(flat)[0] == []
    assert all(len(kind) == 0 for kind in mentions.find_edge_faults(flat).values())
