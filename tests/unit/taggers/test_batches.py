"""Plans of batches: deterministic, resumable, the same for any number of processes."""

from __future__ import annotations

import random

import pytest
import torch

from omniner.taggers.batches import Batch, EncodedSentence, EvalLoader, collate
from omniner.training.plans import TrainLoader, plan_longest_first

CHANCE = random.Random(7)
LENGTHS = [CHANCE.randint(1, 60) for _ in range(203)]


def example(position: int, length: int) -> EncodedSentence:
    inputs = {"characters": torch.full((length,), position + 2), "bigrams": torch.full((length + 1,), position + 2)}
    tags = torch.full((length,), position % 5)
    return EncodedSentence(f"s{position}", "字" * length, length, inputs, [], [(0, 1, position)], tags)


EXAMPLES = [example(position, length) for position, length in enumerate(LENGTHS)]


def loader(rank: int, ranks: int, done: int) -> TrainLoader[EncodedSentence, Batch]:
    return TrainLoader(
        lambda epoch: EXAMPLES,
        len(EXAMPLES),
        length=lambda example: example.length,
        batch_size=8,
        seed=3,
        make_step=lambda examples: collate(examples, rank, ranks),
        steps_done=lambda: done,
    )


def ids(batches: list[Batch]) -> list[list[str]]:
    return [batch.ids for batch in batches]


def test_an_epoch_can_begin_at_any_batch_of_any_epoch() -> None:
    count = len(loader(0, 1, 0))
    assert count == 26
    assert ids(list(loader(0, 1, 0)))[10:] == ids(list(loader(0, 1, 10)))
    assert ids(list(loader(0, 1, count)))[5:] == ids(list(loader(0, 1, count + 5)))
    assert ids(list(loader(0, 1, count))) != ids(list(loader(0, 1, 0)))


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_steps_of_one_process(ranks: int) -> None:
    parts = [list(loader(rank, ranks, 0)) for rank in range(ranks)]
    for whole, *pieces in zip(loader(0, 1, 0), *parts, strict=True):
        found = {}
        for piece in pieces:
            assert piece.step_sentences == len(whole.ids)
            assert piece.step_length == whole.mask.shape[1]
            if piece.weight:
                found |= dict(zip(piece.rows.tolist(), piece.ids, strict=True))
        assert found == dict(enumerate(whole.ids))


def test_a_rank_without_a_sentence_repeats_one_that_does_not_count() -> None:
    batch = collate(EXAMPLES[:2], rank=2, ranks=3)
    assert (batch.weight, batch.ids, batch.step_sentences) == (0, ["s0"], 2)


def test_tensors_are_padded_and_masked() -> None:
    chosen = [EXAMPLES[0], EXAMPLES[1], EXAMPLES[2]]
    batch = collate(chosen, 0, 1)
    longest = max(e.length for e in chosen)
    assert batch.mask.shape == batch.tags.shape == (3, longest)
    assert batch.inputs["bigrams"].shape == (3, longest + 1)
    assert batch.mask.sum(1).tolist() == [e.length for e in chosen]
    for row, e in enumerate(chosen):
        assert torch.equal(batch.inputs["characters"][row, : e.length], e.inputs["characters"])
        assert not batch.inputs["characters"][row, e.length :].any()
    moved = batch.to("cpu")
    assert moved.ids == batch.ids
    assert torch.equal(moved.mask, batch.mask)


def test_prediction_takes_the_longest_first_and_each_once() -> None:
    batches = plan_longest_first(LENGTHS, 16)
    sizes = [LENGTHS[i] for batch in batches for i in batch]
    assert sizes == sorted(LENGTHS, reverse=True)
    parts = [list(EvalLoader(EXAMPLES, 16, rank, 3)) for rank in range(3)]
    assert {len(part) for part in parts} == {13}
    served = [i for part in parts for batch in part if batch.weight for i in batch.ids]
    assert sorted(served) == sorted(e.id for e in EXAMPLES)
