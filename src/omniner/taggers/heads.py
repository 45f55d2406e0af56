"""What turns character states into entities: `softmax`, `crf` and `span`, behind one interface.

In come states [B, L, D] of a backbone and a batch's mask, tags and spans; out come a loss to learn from and spans
`(start, end, category id)` per sentence. `softmax` and `crf` score one BIOES tag per character, and neither can
decode an illegal tag sequence; they see gold through `TagScheme.encode`, so only spans that share no character.
`span` scores every start and every length up to `max_span` directly, which keeps nested and overlapping gold at
the price of `max_span` times as many scores.

A loss is the sum over sentences of what a sentence costs (the sum over its characters or cells), so that the caller
can divide by the sentences of a whole optimizer step, however it was cut into batches.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from omniner.config.groups import HeadConfig
from omniner.taggers.crf import CRF
from omniner.taggers.tags import Span, TagScheme, fit_spans


class LabelledBatch(Protocol):
    """What a head reads of a batch of B sentences of at most L characters."""

    @property
    def mask(self) -> Tensor:
        """Bool [B, L], right padded: True where there is a character."""

    @property
    def tags(self) -> Tensor:
        """Long [B, L], BIOES tag ids; anything where there is no character. Not read by `span`."""

    @property
    def spans(self) -> Sequence[Sequence[Span]]:
        """Gold spans of each sentence. Read by `span` only."""


class Head(nn.Module, ABC):
    """The interface of all heads."""

    @abstractmethod
    def loss(self, states: Tensor, batch: LabelledBatch) -> Tensor:
        """Loss (a scalar, fp32 at least), summed over the sentences. `states`: [B, L, D]."""

    @abstractmethod
    def decode(self, states: Tensor, mask: Tensor) -> list[list[Span]]:
        """The entities of each sentence in order of their place. `states`: [B, L, D], `mask`: [B, L]."""


def build_head(kind: str, in_dim: int, categories: Sequence[str], config: HeadConfig) -> Head:
    """The head of a kind (`auto` must have been decided before) over states of `in_dim` numbers."""
    if not categories:
        raise ValueError("a head needs at least one category")
    if kind == "softmax":
        return SoftmaxHead(in_dim, TagScheme(categories), config.label_smoothing)
    if kind == "crf":
        return CRFHead(in_dim, TagScheme(categories))
    if kind == "span":
        return SpanHead(in_dim, len(categories), config)
    raise ValueError(f"unknown head kind {kind!r}: softmax, crf or span")


def constrained_crf(scheme: TagScheme) -> CRF:
    """A CRF in which only the transitions of the scheme exist."""
    tables = (scheme.allowed, scheme.allowed_start, scheme.allowed_end)
    return CRF(len(scheme), *(torch.from_numpy(table) for table in tables))


class SoftmaxHead(Head):
    """One softmax per character; decoding takes the best legal sequence.

    Args:
        in_dim: D.
        scheme: the tags.
        label_smoothing: share of the target that is spread over all tags.
    """

    def __init__(self, in_dim: int, scheme: TagScheme, label_smoothing: float) -> None:
        super().__init__()
        self.scheme = scheme
        self.label_smoothing = label_smoothing
        self.emit = nn.Linear(in_dim, len(scheme))
        # with all transitions at 0 the best legal sequence depends on the characters alone; nothing is learnt here
        self.path = constrained_crf(scheme).requires_grad_(False)
        for parameter in self.path.parameters():
            parameter.zero_()

    def loss(self, states: Tensor, batch: LabelledBatch) -> Tensor:
        """Cross entropy, summed over the characters."""
        logits = self.emit(states)[batch.mask].float()
        return functional.cross_entropy(
            logits, batch.tags[batch.mask], reduction="sum", label_smoothing=self.label_smoothing
        )

    @torch.no_grad()
    def decode(self, states: Tensor, mask: Tensor) -> list[list[Span]]:
        """The entities of the most likely legal tag sequence."""
        return _read(self.scheme, self.path.decode(self.emit(states).float(), mask), mask)


class CRFHead(Head):
    """Tag scores per character and learnt scores of transitions; see `CRF`."""

    def __init__(self, in_dim: int, scheme: TagScheme) -> None:
        super().__init__()
        self.scheme = scheme
        self.emit = nn.Linear(in_dim, len(scheme))
        self.crf = constrained_crf(scheme)

    def loss(self, states: Tensor, batch: LabelledBatch) -> Tensor:
        """Negative log-likelihood of the tag sequences, summed over the sentences."""
        nll: Tensor = self.crf(self.emit(states), batch.tags, batch.mask)
        return nll.sum()

    @torch.no_grad()
    def decode(self, states: Tensor, mask: Tensor) -> list[list[Span]]:
        """The entities of the most likely tag sequence."""
        return _read(self.scheme, self.crf.decode(self.emit(states), mask), mask)


def _read(scheme: TagScheme, tags: Tensor, mask: Tensor) -> list[list[Span]]:
    """Spans of tag ids [B, L]."""
    return scheme.decode_batch(tags.cpu().numpy(), mask.sum(1).cpu().numpy())


class SpanHead(Head):
    """A score for "no entity" and for each category of every cell, a cell being a start and a length.

    A cell's scores are bilinear in projections of its first and its last character (a diagonal matrix per category:
    the projections before it mix, so a full one would cost `biaffine_dim` times as much for little), plus what the
    two characters say alone, plus what its length says. Only cells within a sentence are computed, [M, C + 1] for
    the M cells of a batch. Two gold categories on one cell cannot both be learnt: `fit_spans` names the second.

    Args:
        in_dim: D.
        num_categories: C.
        config: `max_span`, `biaffine_dim` and `negative_weight` are read.
    """

    def __init__(self, in_dim: int, num_categories: int, config: HeadConfig) -> None:
        super().__init__()
        self.num_categories = num_categories
        self.max_span = config.max_span
        self.negative_weight = config.negative_weight
        self.first = nn.Linear(in_dim, config.biaffine_dim)
        self.last = nn.Linear(in_dim, config.biaffine_dim)
        self.both = nn.Linear(config.biaffine_dim, num_categories + 1)
        self.first_alone = nn.Linear(config.biaffine_dim, num_categories + 1, bias=False)
        self.last_alone = nn.Linear(config.biaffine_dim, num_categories + 1, bias=False)
        self.length = nn.Embedding(config.max_span, num_categories + 1)
        nn.init.zeros_(self.length.weight)
        # entities are rare: begin with about one cell in a hundred, not with all categories alike
        nn.init.zeros_(self.both.bias)
        self.both.bias.data[0] = math.log(99 * num_categories)

    def loss(self, states: Tensor, batch: LabelledBatch) -> Tensor:
        """Cross entropy, summed over the cells; cells without an entity count `negative_weight`."""
        cells = self._cells(batch.mask)
        gold = self._gold(batch).to(states.device)[cells]
        costs = functional.cross_entropy(self._scores(states, cells), gold, reduction="none")
        return torch.where(gold == 0, costs * self.negative_weight, costs).sum()

    @torch.no_grad()
    def decode(self, states: Tensor, mask: Tensor) -> list[list[Span]]:
        """The category of each cell where one beats "no entity"; of crossing spans the one that beats it by more."""
        cells = self._cells(mask)
        scores = self._scores(states, cells)
        best, category = scores[:, 1:].max(1)
        margin = best - scores[:, 0]
        found = margin > 0
        length, row, start = (place[found].tolist() for place in cells)
        candidates: list[list[tuple[float, Span]]] = [[] for _ in range(len(mask))]
        columns = zip(margin[found].tolist(), row, start, length, category[found].tolist(), strict=True)
        for value, sentence, first, more, name in columns:
            candidates[sentence].append((value, (first, first + more + 1, name)))
        return [without_crossing(sentence) for sentence in candidates]

    def _cells(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The cells that lie within a sentence: length - 1, sentence and start of each, [M] each."""
        ends = [mask.roll(-more, 1) for more in range(min(self.max_span, mask.shape[1]))]
        for more, end in enumerate(ends):
            end[:, mask.shape[1] - more :] = False
        length, row, start = (mask & torch.stack(ends)).nonzero(as_tuple=True)
        return length, row, start

    def _scores(self, states: Tensor, cells: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Scores [M, C + 1] of cells, "no entity" first; fp32 at least."""
        length, row, start = cells
        first = functional.gelu(self.first(states)).flatten(0, 1)
        last = functional.gelu(self.last(states)).flatten(0, 1)
        begin = row * states.shape[1] + start
        end = begin + length
        scores = self.both(first.index_select(0, begin) * last.index_select(0, end))
        scores = scores + self.first_alone(first).index_select(0, begin) + self.last_alone(last).index_select(0, end)
        scores = scores + self.length(length)
        whole: Tensor = scores if scores.dtype == torch.float64 else scores.float()
        return whole

    def _gold(self, batch: LabelledBatch) -> Tensor:
        """Class of each cell, [max_span, B, L]: 0, or 1 + category id. What has no cell of its own is left out."""
        gold = torch.zeros(self.max_span, *batch.mask.shape, dtype=torch.long)
        for row, (spans, length) in enumerate(zip(batch.spans, batch.mask.sum(1).tolist(), strict=True)):
            kept, _ = fit_spans(spans, length, self.num_categories, self.max_span)
            for start, end, category in kept:
                gold[end - start - 1, row, start] = category + 1
        return gold


def without_crossing(candidates: list[tuple[float, Span]]) -> list[Span]:
    """Spans in order of their place without those that cross a span of a higher score; nested ones stay."""
    kept: list[Span] = []
    for _, span in sorted(candidates, key=lambda item: (-item[0], item[1])):
        start, end, _ = span
        if not any(s < start < e < end or start < s < end < e for s, e, _ in kept):
            kept.append(span)
    return sorted(kept)
