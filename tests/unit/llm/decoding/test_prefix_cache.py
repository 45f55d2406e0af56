"""The key-value store against attention written out: whatever tokens come when, in whatever slot."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from omniner.errors import UserError
from omniner.llm.decoding.prefix_cache import (
    PrefixCache,
    cached_attention,
    head_sizes,
    softmax_attention,
    softmax_attention_by_products,
)

WIDTH, HEADS, GROUPS, SLOTS = 16, 2, 3, 5
SCALE = 0.3


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_its_products(dtype: torch.dtype, near: float, masked: bool) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, HEADS, n, WIDTH).to(dtype) for n in (7, 90, 90))
    bias = torch.zeros(3, 1, 7, 90).masked_fill_(torch.rand(3, 1, 7, 90) < 0.7, float("-inf")) if masked else None
    fast, fast_sum = softmax_attention(query, key, value, bias, SCALE)
    slow, slow_sum = softmax_attention_by_products(query, key, value, bias, SCALE)
    torch.testing.assert_close(fast, slow, rtol=near, atol=near)
    torch.testing.assert_close(fast_sum, slow_sum, rtol=near, atol=near)
    assert fast_sum.dtype == slow_sum.dtype == torch.float32


@pytest.mark.parametrize("autocast", [False, True])
def test_large_biases_of_keys_leave_bf16_its_exactness(autocast: bool) -> None:
    """As in Qwen2.5's first layer, where scores of thousands differ by as much as 16 bits of them can tell."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, HEADS, n, WIDTH) for n in (3, 90, 90))
    query, key, value = (each.bfloat16() for each in (8 + query, 140 + key, value))
    wide = torch.softmax(query.double() @ key.double().transpose(2, 3) * SCALE, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, _ = softmax_attention_by_products(query, key, value, None, SCALE)
    torch.testing.assert_close(found.double(), wide @ value.double(), rtol=0.01, atol=0.01)


class Sequences:
    """Rows with their whole history, as attention without any store would read them."""

    def __init__(self, prefix: int) -> None:
        self.prefix = torch.randn(3, HEADS, prefix, WIDTH)  # row 0: unused, 1: keys, 2: values
        self.rows: list[Tensor] = []  # each [3, HEADS * GROUPS or HEADS, tokens, WIDTH]: queries, keys, values

    def attend(self, row: int, query: Tensor, new: int) -> Tensor:
        """Of the last `new` tokens of a row: [new, heads, WIDTH]."""
        keys, values = (torch.cat([self.prefix[n], self.rows[row][n]], 1) for n in (1, 2))
        total = keys.shape[1]
        scores = query @ keys.repeat_interleave(GROUPS, 0).transpose(1, 2) * SCALE
        hidden = torch.arange(total) > torch.arange(total - new, total)[:, None]
        weights = scores.masked_fill(hidden, float("-inf")).softmax(2)
        return (weights @ values.repeat_interleave(GROUPS, 0)).transpose(0, 1)


@pytest.mark.parametrize("prefix", [0, 1, 40])
@pytest.mark.parametrize("seed", range(4))
def test_rows_that_come_go_and_jump_equal_plain_attention(prefix: int, seed: int) -> None:
    torch.manual_seed(seed)
    chance = random.Random(seed)
    store, plain = PrefixCache(prefix, SLOTS, GROUPS, torch.device("cpu")), Sequences(prefix)
    for _ in range(2 if prefix else 0):  # two layers, the same content
        store.attend(0, torch.randn(1, HEADS * GROUPS, prefix, WIDTH), *plain.prefix[1:, None], SCALE)
    for _ in range(25):
        while len(plain.rows) < SLOTS and chance.random() < 0.6:
            plain.rows.append(torch.zeros(3, HEADS, 0, WIDTH))
        if not plain.rows:
            continue
        counts = [chance.choice([1, 1, 1, 2, 9]) if row.shape[2] else chance.randint(1, 30) for row in plain.rows]
        step = store.begin([row.shape[2] for row in plain.rows], [[7] * count for count in counts])
        assert step.positions[0].tolist() == [
            prefix + row.shape[2] + at for row, count in zip(plain.rows, counts, strict=True) for at in range(count)
        ]
        query = torch.randn(1, HEADS * GROUPS, sum(counts), WIDTH)
        new = torch.randn(3, HEADS, sum(counts), WIDTH)
        found = [store.attend(layer, query, new[1:2], new[2:], SCALE) for layer in range(2)]
        parts = new.split(counts, 2)
        plain.rows = [torch.cat([row, part], 2) for row, part in zip(plain.rows, parts, strict=True)]
        queries = query[0].split(counts, 1)
        want = [plain.attend(row, queries[row], count) for row, count in enumerate(counts)]
        for layer in range(2):
            torch.testing.assert_close(found[layer][0], torch.cat(want), rtol=1e-5, atol=1e-5)
        if chance.random() < 0.4:  # a row ends; the last takes its slot
            gone, mover = chance.randrange(len(plain.rows)), len(plain.rows) - 1
            if gone != mover:
                store.move([mover], [gone])
            plain.rows[gone] = plain.rows[mover]
            plain.rows.pop()


def test_slots_are_no_longer_than_needed_and_given_back() -> None:
    store = PrefixCache(0, SLOTS, GROUPS, torch.device("cpu"))
    for start, length, room in ((0, 3, 64), (3, 61, 64), (64, 1, 128), (65, 130, 256), (0, 3, 64)):
        if not start:
            store.release()
            assert store._own_kv == []
        store.begin([start], [[1] * length])
        new = torch.randn(1, HEADS, length, WIDTH)
        store.attend(0, torch.randn(1, HEADS * GROUPS, length, WIDTH), new, new, SCALE)
        assert [pair[0].numel() for pair in store._own_kv] == [SLOTS * HEADS * room * WIDTH]


def attend_once(scale: float | None, **settings: Any) -> Tensor:
    """The same three tokens, in a store of their own, as transformers calls it."""
    torch.manual_seed(0)
    store = PrefixCache(0, SLOTS, GROUPS, torch.device("cpu"))
    store.begin([0], [[1, 2, 3]])
    query, key, value = (torch.randn(1, heads, 3, WIDTH) for heads in (HEADS * GROUPS, HEADS, HEADS))
    layer: Any = SimpleNamespace(layer_idx=0)
    return cached_attention(layer, query, key, value, None, scale, store, **settings)[0]


def test_scores_are_scaled_by_the_width_unless_the_model_has_a_scale_of_its_own() -> None:
    torch.testing.assert_close(attend_once(None), attend_once(WIDTH**-0.5))
    assert not torch.allclose(attend_once(None), attend_once(SCALE))


@pytest.mark.parametrize("name", ["sliding_window", "softcap", "s_aux"])
def test_what_attention_is_given_that_it_does_not_compute_is_refused(name: str) -> None:
    attend_once(SCALE, **{name: None})
    with pytest.raises(UserError, match=f"its attention uses {name}"):
        attend_once(SCALE, **{name: 30})


def test_head_sizes_that_a_configuration_lacks_follow_from_the_others() -> None:
    known = {"num_attention_heads": 8, "hidden_size": 64}
    assert head_sizes(SimpleNamespace(**known)) == (8, 1, 8)
    assert head_sizes(SimpleNamespace(**known, num_key_value_heads=None, head_dim=None)) == (8, 1, 8)
    assert head_sizes(SimpleNamespace(**known, num_key_value_heads=2, head_dim=16)) == (2, 4, 16)
