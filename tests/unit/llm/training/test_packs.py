"""Packs: what stands where, and steps that do not depend on how they are cut."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pretended_gpu import pretended_gpu

from omniner.llm.training.packs import Pack, PackedStep, make_pack, pack_step, plan_packs, suffix_length
from omniner.training.plans import TrainLoader, plan_epoch

PREFIX = 5
CHANCE = random.Random(3)


def sample(name: str, rest: int, answer: int, prefix: int = PREFIX) -> Any:
    """Tokens that tell who they belong to; the prefix is 0, 1, 2, ..."""
    own = [100 * int(name) + place for place in range(rest + answer)]
    return SimpleNamespace(id=name, prompt=[*range(prefix), *own[:rest]], answer=own[rest:])


SAMPLES = [sample(str(number), CHANCE.randint(1, 9), CHANCE.randint(1, 30)) for number in range(1, 48)]


def loader(
    pack_tokens: int = 70, rank: int = 0, ranks: int = 1, done: int = 0
) -> TrainLoader[SimpleNamespace, PackedStep]:
    return TrainLoader(
        lambda epoch: SAMPLES,
        len(SAMPLES),
        length=suffix_length(PREFIX),
        batch_size=8,
        seed=11,
        make_step=lambda samples: pack_step(samples, PREFIX, pack_tokens, rank, ranks),
        steps_done=lambda: done,
    )


def members(pack: Pack) -> list[int]:
    """Numbers of the samples of a pack, by the tokens that their suffixes begin with."""
    begins = [PREFIX + sum(pack.lengths[:place]) for place in range(len(pack.lengths))]
    return [int(pack.ids[begin]) // 100 for begin in begins]


def content(steps: list[PackedStep]) -> list[list[int]]:
    """The samples that count, step by step."""
    return [sorted(number for pack in step.packs if pack.weight for number in members(pack)) for step in steps]


def test_a_pack_holds_the_prefix_once_and_predicts_every_answer_token() -> None:
    pack = make_pack([sample("1", 2, 1), sample("2", 1, 3)], PREFIX)
    # the longest first; the last answer token of each is only a target
    assert pack.lengths == [3, 2]
    assert pack.ids.tolist() == [0, 1, 2, 3, 4, 200, 201, 202, 100, 101]
    assert pack.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 6]
    assert pack.keep.tolist() == [5, 6, 7, 9]
    assert pack.targets.tolist() == [201, 202, 203, 102]
    assert pack.segments().tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert (pack.prefix_length, pack.weight) == (PREFIX, 1)


def test_one_token_of_prompt_and_one_of_answer() -> None:
    pack = make_pack([sample("1", 1, 1)], PREFIX)
    assert (pack.ids.tolist()[PREFIX:], pack.keep.tolist(), pack.targets.tolist()) == ([100], [5], [101])


@pytest.mark.parametrize("wrong", ["other prefix", "no prompt left", "no answer"])
def test_samples_that_make_no_pack(wrong: str) -> None:
    bad = sample("2", 2, 2)
    if wrong == "other prefix":
        bad.prompt[3] = 99
    elif wrong == "no prompt left":
        bad.prompt = bad.prompt[:PREFIX]
    else:
        bad.answer = []
    with pytest.raises(ValueError, match="5 common tokens"):
        make_pack([sample("1", 9, 9), bad], PREFIX)


def test_moving_a_pack_keeps_all_but_what_was_derived() -> None:
    pack = make_pack(SAMPLES[:3], PREFIX, weight=0)
    assert pack.cached("sum", lambda given: int(given.ids.sum())) == pack.cached("sum", lambda given: 0)
    moved = PackedStep([pack], 7, 3).to("meta").packs[0]
    assert {each.device.type for each in (moved.ids, moved.positions, moved.keep, moved.targets)} == {"meta"}
    assert (moved.prefix_length, moved.lengths, moved.weight, moved.derived) == (PREFIX, pack.lengths, 0, {})


def test_a_pack_goes_to_a_gpu_in_one_copy_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    pack, copies = make_pack(SAMPLES[:3], PREFIX), list[torch.Tensor]()
    real = torch.Tensor.to

    def noted(self: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        copies.append(self)
        return real(self, *given, **more)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    with pretended_gpu() as waits:
        moved = pack.to("cuda")
    assert len({id(each) for each in copies}) == 1  # torch calls it twice where a mode is on
    assert not waits
    for name in ("ids", "positions", "keep", "targets", "bounds"):
        assert torch.equal(getattr(moved, name).held, getattr(pack, name))


@example([7, 4, 4, 4], 2, 10, 1)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.integers(1, 50),
    st.integers(1, 200),
    st.integers(1, 5),
)
def test_a_step_is_cut_into_equally_many_packs(lengths: list[int], prefix: int, room: int, ranks: int) -> None:
    shares = plan_packs(lengths, prefix, prefix + room, ranks)
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    packs = [pack for share in shares for pack in share]
    assert sorted(place for pack in packs for place in pack) == list(range(len(lengths)))
    assert all(len(pack) <= 1 or sum(lengths[place] for place in pack) <= room for pack in packs)
    assert len(shares[0]) <= -(-len(lengths) // ranks)
    assert plan_packs(lengths, prefix, prefix + room, ranks) == shares


def test_packs_are_few_and_equally_full() -> None:
    chance = random.Random(1)
    lengths = [chance.randint(40, 110) for _ in range(64)]
    shares = plan_packs(lengths, 700, 700 + 1000, 4)
    sizes = [sum(lengths[place] for place in pack) for share in shares for pack in share]
    assert len(sizes) == 8  # 4,800 tokens in packs of 1,000 need 5, for 4 processes 8
    assert max(sizes) < 1.1 * min(sizes)
    assert len(plan_packs(lengths, 700, 100_000, 1)[0]) == 1


def test_a_sample_longer_than_a_pack_gets_its_own() -> None:
    shares = plan_packs([500, 20, 30], 50, 100, 1)
    assert sorted(map(sorted, shares[0])) == [[0], [1, 2]]
    for pack_tokens in (30, 50):  # not even the prefix fits, or nothing behind it
        assert len(plan_packs([500, 20], 50, pack_tokens, 1)[0]) == 2


@pytest.mark.parametrize("number", range(5))
def test_a_sample_is_as_long_as_it_is_planned(number: int) -> None:
    assert make_pack([SAMPLES[number]], PREFIX).lengths == [suffix_length(PREFIX)(SAMPLES[number])]


@pytest.mark.parametrize(("pack_tokens", "ranks"), [(30, 1), (70, 1), (70, 2), (100_000, 1), (45, 3)])
def test_steps_are_the_same_however_they_are_cut(pack_tokens: int, ranks: int) -> None:
    whole = list(loader(100_000))
    parts = [list(loader(pack_tokens, rank, ranks)) for rank in range(ranks)]
    for step, *pieces in zip(whole, *parts, strict=True):
        assert len({len(piece.packs) for piece in pieces}) == 1
        together = PackedStep([pack for piece in pieces for pack in piece.packs], 0, 0)
        assert content([together]) == content([step])
        counted = sum(len(pack.targets) for pack in together.packs if pack.weight)
        for piece in pieces:
            assert (piece.answer_tokens, piece.sentences) == (step.answer_tokens, step.sentences)
            assert piece.answer_tokens == counted


def test_steps_are_those_of_the_plan() -> None:
    steps = content(list(loader()))
    lengths = [suffix_length(PREFIX)(each) for each in SAMPLES]
    assert steps == [sorted(place + 1 for place in places) for places in plan_epoch(lengths, 8, 11, 0)]
    assert len(steps) == len(loader()) == 6


def test_training_goes_on_where_it_stands() -> None:
    first, second = content(list(loader())), content(list(loader(done=6)))
    assert content(list(loader(done=4))) == first[4:]
    assert content(list(loader(done=9))) == second[3:]
    assert first != second
    for epoch in (first, second):
        assert sorted(number for step in epoch for number in step) == list(range(1, 48))


def test_a_process_without_a_sample_keeps_step_with_a_pack_that_does_not_count() -> None:
    own, step = (pack_step(SAMPLES[:1], PREFIX, 1000, rank, ranks=2) for rank in range(2))
    assert [pack.weight for pack in step.packs] == [0]
    assert (step.answer_tokens, step.sentences) == (len(SAMPLES[0].answer), 1)
    assert [pack.weight for pack in own.packs] == [1]
    assert torch.equal(own.packs[0].ids, step.packs[0].ids)


def test_a_pack_that_does_not_count_holds_the_shortest_sample() -> None:
    long, short = sample("1", 9, 30), sample("2", 2, 3)
    idle = [
        pack for rank in range(3) for pack in pack_step([long, short], PREFIX, 10**6, rank, 3).packs if not pack.weight
    ]
    assert [pack.lengths for pack in idle] == [[suffix_length(PREFIX)(short)]]
