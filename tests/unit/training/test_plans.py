"""Plans of epochs, the sample of dev, and mentions that are exchanged: all follow their seeds."""

from __future__ import annotations

import random

import pytest
import small_corpus

from omniner.records import Entity, Sentence
from omniner.training.plans import EntityReplacement, plan_epoch, sample_dev

CHANCE = random.Random(7)
LENGTHS = [CHANCE.randint(1, 60) for _ in range(203)]


def sentence(*entities: tuple[int, int, str], id: str = "s", text: str = "张三在北京大学") -> Sentence:
    return Sentence(id, text, [Entity(text[start:end], category, start, end) for start, end, category in entities])


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_plan_has_every_sentence_once(epoch: int) -> None:
    batches = plan_epoch(LENGTHS, 8, seed=3, epoch=epoch)
    assert sorted(position for batch in batches for position in batch) == list(range(203))
    assert sorted(map(len, batches)) == [3] + [8] * 25
    assert batches == plan_epoch(LENGTHS, 8, seed=3, epoch=epoch)
    assert batches != plan_epoch(LENGTHS, 8, seed=3, epoch=epoch + 1)
    assert batches != plan_epoch(LENGTHS, 8, seed=4, epoch=epoch)


def test_batches_hold_similar_lengths() -> None:
    padded = sum(max(LENGTHS[i] for i in batch) * len(batch) for batch in plan_epoch(LENGTHS, 8, 3, 0))
    plain = sum(max(LENGTHS[i : i + 8]) * len(LENGTHS[i : i + 8]) for i in range(0, 203, 8))
    assert padded < 1.1 * sum(LENGTHS) < plain


def test_replacement_keeps_offsets_and_follows_its_seed() -> None:
    sentences = [
        sentence((0, 2, "人"), (3, 7, "校")),
        sentence((1, 4, "人"), (5, 7, "校"), id="t", text="请李小四来清华吧"),
    ]
    replacement = EntityReplacement(sentences, 0.5, seed=1)
    seen = set()
    for epoch in range(30):
        for position, original in enumerate(sentences):
            made = replacement.sentence(position, epoch)
            assert made == EntityReplacement(sentences, 0.5, seed=1).sentence(position, epoch)
            assert [e.category for e in made.entities] == [e.category for e in original.entities]
            for entity in made.entities:
                assert entity.start is not None
                assert made.text[entity.start : entity.end] == entity.text
            seen.add(made.text)
    assert len(seen) == 8  # two surfaces per category, two mentions per sentence, two sentences
    assert EntityReplacement(sentences, 0.5, seed=2).sentence(0, 0) is not None
    nested = sentence((3, 7, "校"), (3, 5, "地"))
    assert EntityReplacement([nested], 0.9, seed=1).sentence(0, 0) is nested
    alone = sentence((0, 2, "人"))  # which could only be exchanged for itself
    assert EntityReplacement([alone], 0.9, seed=1).sentence(0, 0) is alone


def test_the_sample_of_dev_follows_the_seed() -> None:
    sentences = small_corpus.sentences(50, 1, "dev")
    chosen = sample_dev(sentences, 20, 1)
    assert chosen == sample_dev(sentences, 20, 1) == sorted(chosen, key=sentences.index)
    assert len(chosen) == 20
    assert chosen != sample_dev(sentences, 20, 2)
    assert sample_dev(sentences, 0, 1) == sample_dev(sentences, 60, 1) == sentences
