"""Store keys and values of a decoding batch: the common prefix once, each sentence's own part in a slot.

Every prompt begins with the same instruction of hundreds of tokens. Its keys and values are computed and stored once,
whatever the number of rows; the rest (sentence and answer) has a slot per row. A forward call takes the new tokens of
all rows as a single sequence, so nothing is padded: a decoding row adds one token, a new row its whole sentence, a row
whose next tokens are forced all of them. A query attends to the prefix (one product for all rows) and to its own slot.
The two results are merged by their log-sum-exp, which is exact: `softmax` over both together is their mean, weighted by
each part's share of the sum.

This needs our own attention function, registered with transformers' `AttentionInterface`. It works only for models that
use that interface and attend to the whole past (no sliding windows, no recurrent layers).

Shapes: T new tokens of B rows; P tokens of prefix, C of the longest row's own part; H query heads, KV key heads,
G = H / KV queries that share a key head, D features of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from omniner.compute.devices import send
from omniner.errors import UserError

CACHE_ATTENTION = "omniner_prefix_cache"
FULL_ATTENTION_ADVICE = (
    "Choose a model with plain full attention, such as Qwen2, Qwen3 or Llama, or let a server decode: "
    "decoding.engine=openai."
)
_GROWTH = 64  # slots grow by multiples of this many tokens


@dataclass
class MultiTokenRows:
    """The R rows of a step with several new tokens each, at most N; their queries are padded to each other.

    Attributes:
        rows: [R] which rows.
        grid: [R, N] indices of their tokens among the T of the step; 0 for padding.
        bias: [R, 1, N * G, C'] 0 where a query may look, else -inf; C' is the length of the longest of these rows.
        source: indices among the R * N of those that are not padding.
        target: their indices among the T of the step.
    """

    rows: Tensor
    grid: Tensor
    bias: Tensor
    source: Tensor
    target: Tensor


@dataclass
class DecodingStep:
    """The inputs of one forward call.

    Attributes:
        ids: [1, T] new tokens, row after row.
        positions: [1, T] of these in their sequences, including the prefix.
        rows: [T] the slot of each.
        slot_positions: [T] its position in the slot.
        last: [B] index of each row's last new token among the T.
        longest_row: C, the length of the longest row after this step.
        bias: [B, 1, G, C] what each row's last token may look at: 0, else -inf.
        multi_token: the rows with several new tokens; None if there are none.
    """

    ids: Tensor
    positions: Tensor
    rows: Tensor
    slot_positions: Tensor
    last: Tensor
    longest_row: int
    bias: Tensor
    multi_token: MultiTokenRows | None


class PrefixCache:
    """Store the keys and values of all layers, and attend to them.

    Args:
        prefix_length: P, tokens of the common prefix.
        slots: most rows at a time.
        group_size: G, query heads that share a key head.
        device: of the model.
    """

    def __init__(self, prefix_length: int, slots: int, group_size: int, device: torch.device) -> None:
        self.prefix_length, self.slots = prefix_length, slots
        self._group_size, self._device = group_size, device
        self.calls = 0  # of the attention function in the current forward call
        self._step: DecodingStep | None = None  # None: the prefix itself is computed
        self._length = 0  # of a slot
        self._prefix_kv: list[tuple[Tensor, Tensor]] = []  # per layer: keys and values, each [KV, P, D]
        self._own_kv: list[tuple[Tensor, Tensor]] = []  # per layer: keys and values, each [slots, KV, length, D]

    def begin(self, starts: Sequence[int], tokens: Sequence[Sequence[int]]) -> DecodingStep:
        """Prepare a forward call.

        Args:
            starts: for each of B rows, the number of its tokens in its slot.
            tokens: the new ones of each, at least one.
        """
        step = self._plan(starts, tokens)
        if step.longest_row > self._length:
            self._grow(-(-step.longest_row // _GROWTH) * _GROWTH)
        self._step = step
        return step

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Move rows to other slots."""
        source, target = send([torch.tensor(sources), torch.tensor(targets)], self._device)
        for store in chain.from_iterable(self._own_kv):
            store.index_copy_(0, target, store.index_select(0, source))

    def release(self) -> None:
        """Free the slots' memory; the prefix stays."""
        self._step, self._length, self._own_kv = None, 0, []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Store the new keys and values of a layer, and attend to everything that its rows may see.

        Args:
            layer: 0, 1, ...
            query: [1, H, T, D].
            key, value: [1, KV, T, D].
            scale: of the scores.

        Returns:
            [1, T, H, D].
        """
        self.calls += 1
        # under autocast rotary embeddings return query and key in float32
        query, key = query.to(value.dtype), key.to(value.dtype)
        if self._step is None:
            return self._attend_prefix(query, key, value, scale)
        if layer == len(self._own_kv):
            shape = (self.slots, key.shape[1], self._length, key.shape[3])
            self._own_kv.append((key.new_zeros(shape), value.new_zeros(shape)))
        for store, new in zip(self._own_kv[layer], (key, value), strict=True):
            store[self._step.rows, :, self._step.slot_positions] = new[0].transpose(0, 1)
        tokens, kv_heads = query.shape[2], key.shape[1]
        grouped = query[0].transpose(0, 1).reshape(tokens, kv_heads, self._group_size, -1)
        merged = self._merge(self._step, layer, grouped, scale)
        return merged.reshape(1, tokens, kv_heads * self._group_size, -1)

    def _attend_prefix(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend within the prefix, causally, and store its keys and values."""
        self._prefix_kv.append((key[0].contiguous(), value[0].contiguous()))
        key, value = (part.repeat_interleave(self._group_size, 1) for part in (key, value))
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        return out.transpose(1, 2)

    def _merge(self, step: DecodingStep, layer: int, query: Tensor, scale: float) -> Tensor:
        """Attend from `query` [T, KV, G, D] to the prefix and the rows' own parts together: [T, KV, G, D]."""
        tokens, kv_heads, group_size, width = query.shape
        own, own_lse = self._attend_own(step, layer, query, scale)
        if not self.prefix_length:
            return own
        keys, values = self._prefix_kv[layer]
        rows = query.transpose(0, 1).reshape(1, kv_heads, tokens * group_size, width)
        common, common_lse = softmax_attention(rows, keys[None], values[None], None, scale)
        common = common.view(kv_heads, tokens, group_size, width).transpose(0, 1)
        share = torch.sigmoid(common_lse.view(kv_heads, tokens, group_size).transpose(0, 1) - own_lse)
        return own.float().lerp(common.float(), share[..., None]).to(own.dtype)

    def _attend_own(self, step: DecodingStep, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attend from `query` [T, KV, G, D] to the rows' own parts: [T, KV, G, D] and its log-sum-exp [T, KV, G]."""
        keys, values = self._own_kv[layer]
        rows, end = len(step.last), step.longest_row
        # the last new token of every row, which is the only one while decoding: slots are read without a copy
        single = query if len(query) == rows else query[step.last]
        out, lse = softmax_attention(single, keys[:rows, :, :end], values[:rows, :, :end], step.bias, scale)
        if step.multi_token is None:
            return out, lse
        rest = step.multi_token
        kv_heads, group_size, width = query.shape[1:]
        count, longest = rest.grid.shape
        padded = query[rest.grid].transpose(1, 2).reshape(count, kv_heads, longest * group_size, width)
        end = rest.bias.shape[3]
        part, part_lse = softmax_attention(
            padded, keys[rest.rows, :, :end], values[rest.rows, :, :end], rest.bias, scale
        )
        part = part.view(count, kv_heads, longest, group_size, width).transpose(1, 2).flatten(0, 1)
        part_lse = part_lse.view(count, kv_heads, longest, group_size).transpose(1, 2).flatten(0, 1)
        every, every_lse = out.new_empty(query.shape), lse.new_empty(query.shape[:3])
        every[step.last], every_lse[step.last] = out, lse
        every[rest.target], every_lse[rest.target] = part[rest.source], part_lse[rest.source]
        return every, every_lse

    def _grow(self, length: int) -> None:
        """Extend the slots. Unused positions hold zeros: they are masked, but NaN would survive a weight of 0."""
        more = (0, 0, 0, length - self._length)
        self._own_kv = [(functional.pad(keys, more), functional.pad(values, more)) for keys, values in self._own_kv]
        self._length = length

    def _plan(self, starts: Sequence[int], tokens: Sequence[Sequence[int]]) -> DecodingStep:
        """Arrange the new tokens of all rows as one sequence, see `begin`."""
        counts = [len(new) for new in tokens]
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        ids = [token for new in tokens for token in new]
        rows = [row for row, count in enumerate(counts) for _ in range(count)]
        slot_positions = [place for start, end in zip(starts, ends, strict=True) for place in range(start, end)]
        last = [place - 1 for place in accumulate(counts)]
        table = torch.tensor([ids, rows, slot_positions]).to(self._device, non_blocking=True)  # one transfer
        last_places = torch.tensor(last).to(self._device, non_blocking=True)
        return DecodingStep(
            ids=table[:1],
            positions=table[2:] + self.prefix_length,
            rows=table[1],
            slot_positions=table[2],
            last=last_places,
            longest_row=max(ends),
            bias=self._bias(table[2][last_places][:, None], max(ends)),
            multi_token=self._plan_multi_token(counts, ends, last) if len(ids) > len(counts) else None,
        )

    def _plan_multi_token(self, counts: list[int], ends: list[int], last: list[int]) -> MultiTokenRows:
        """Arrange the rows with several new tokens.

        Args:
            counts: number of new tokens of each row.
            ends: number of tokens in its slot afterwards.
            last: index of its last new token among those of the step.
        """
        rows = [row for row, count in enumerate(counts) if count > 1]
        longest = max(counts)
        grid, slot_positions = [], []
        source, target = list[int](), list[int]()
        for number, row in enumerate(rows):
            count, first = counts[row], last[row] - counts[row] + 1
            grid.append([first + at if at < count else 0 for at in range(longest)])
            slot_positions.append([min(ends[row] - count + at, ends[row] - 1) for at in range(longest)])
            source += range(number * longest, number * longest + count)
            target += range(first, first + count)
        table = torch.tensor([grid, slot_positions]).to(self._device, non_blocking=True)
        flat = torch.tensor([source, target]).to(self._device, non_blocking=True)
        return MultiTokenRows(
            rows=torch.tensor(rows).to(self._device, non_blocking=True),
            grid=table[0],
            bias=self._bias(table[1], max(ends[row] for row in rows)),
            source=flat[0],
            target=flat[1],
        )

    def _bias(self, queries: Tensor, keys: int) -> Tensor:
        """Return a mask [B, 1, N * G, C] of `keys` keys: queries at [B, N] in their slots see the keys up to there."""
        later = (
            torch.arange(keys, device=queries.device) > queries.repeat_interleave(self._group_size, 1)[:, None, :, None]
        )
        return torch.zeros(later.shape, device=queries.device).masked_fill_(later, float("-inf"))


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute softmax attention and the log-sum-exp of its scores.

    Args:
        query: [B, KV, N, D].
        key, value: [B, KV, C, D].
        bias: float32, added to the scores; broadcasts to [B, KV, N, C].
        scale: of the scores.

    Returns:
        [B, KV, N, D] and, in float32, [B, KV, N].
    """
    if query.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = flash(query, key, value, attn_mask=bias, scale=scale)
        return out, lse
    return softmax_attention_by_products(query, key, value, bias, scale)


def softmax_attention_by_products(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute the same as `softmax_attention`, step by step, on any device.

    16-bit scores would be too coarse for an exponential: keys of real models have biases of 100 and more, which give
    scores of some thousands, in steps of 32. So the first product is in fp32, also under autocast. (If a GPU rounds
    factors to TF32, those that come from bf16 keep all their bits.)
    """
    with torch.autocast(query.device.type, enabled=False):
        scores = query.float() @ key.float().transpose(2, 3) * scale
    if bias is not None:
        scores = scores + bias
    lse = scores.logsumexp(3)
    return (scores - lse[..., None]).exp().to(value.dtype) @ value, lse


def cached_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
    prefix_cache: PrefixCache,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Serve the call of transformers' attention layers by `PrefixCache.attend`, without attention weights."""
    for name in ("sliding_window", "softcap", "s_aux"):
        if settings.get(name) is not None:
            raise UserError(
                "model.path", f"its attention uses {name}, which is not supported here", FULL_ATTENTION_ADVICE
            )
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    return prefix_cache.attend(int(cast(int, module.layer_idx)), query, key, value, scale), None


class HeadSizes(NamedTuple):
    """The head sizes of a model's attention.

    Attributes:
        kv_heads: KV, key heads of a layer.
        group_size: G, query heads that share a key head.
        width: D, features of a head.
    """

    kv_heads: int
    group_size: int
    width: int


def head_sizes(config: Any) -> HeadSizes:
    """Read the head sizes from a transformers configuration; absent values follow from the others."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return HeadSizes(kv_heads, heads // kv_heads, getattr(config, "head_dim", None) or config.hidden_size // heads)


def check_supported(model: Any) -> None:
    """Reject models that do not attend to the whole past, or whose attention cannot be replaced.

    Raises:
        UserError: layers with a sliding window or without attention; attention that does not use transformers'
            interface.
    """
    check_full_attention(model.config)
    if not getattr(model, "_supports_attention_backend", False):
        what = "does not take its attention from transformers' AttentionInterface"
        raise UserError("model.path", f"the model ({model.config.model_type}) {what}", FULL_ATTENTION_ADVICE)


def check_full_attention(config: Any) -> None:
    """Reject models with a layer that does not attend to everything before it.

    If no `layer_types` define a layer's kind, transformers uses a window whenever one is configured.

    Args:
        config: the model's transformers configuration.

    Raises:
        UserError: layers with a sliding window or without attention.
    """
    types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    what = ""
    if kinds := sorted(set(types or ()) - {"full_attention"}):
        what = f"layers of kind {', '.join(kinds)}"
    elif types is None and window is not None:
        what = f"a sliding window of {window} tokens"
    if what:
        raise UserError("model.path", f"the model ({config.model_type}) has {what}", FULL_ATTENTION_ADVICE)


def register_cached_attention() -> None:
    """Register `CACHE_ATTENTION` with transformers as an attention implementation."""
    from transformers import AttentionInterface

    AttentionInterface.register(CACHE_ATTENTION, cached_attention)
