"""A score for every start and every length: finds nested entities, at the cost of `max_span` times as many scores.

Nested and crossing gold spans are all learnt; of crossing predicted spans the one with the higher score is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from omniner.compute.devices import send
from omniner.config.model_groups import HeadConfig
from omniner.taggers.heads import Head, HeadModule, LabelledBatch, ScoredSpan, Span, TagScheme, fit_spans, mask_of


class SpanHead(HeadModule):
    """A score for "no entity" and for each category of every cell; a cell is a start and a length.

    A cell's scores are bilinear in projections of its first and its last character (a diagonal matrix per category: the
    projections before it mix features, so a full matrix would cost `biaffine_dim` times as much for little gain), plus
    a score of each of the two characters, plus a score of its length. Only cells within a sentence are computed, [M, C
    + 1] for the M cells of a batch. Two gold categories on one cell cannot both be learnt: `fit_spans` reports the
    second.

    Args:
        in_dim: D, size of a state.
        scheme: its C categories are used.
        config: `max_span`, `biaffine_dim` and `negative_weight` are used.
    """

    max_span: int

    def __init__(self, in_dim: int, scheme: TagScheme, config: HeadConfig) -> None:
        super().__init__()
        self.num_categories = num_categories = len(scheme.categories)
        self.max_span = config.max_span
        self.negative_weight = config.negative_weight
        self.first = nn.Linear(in_dim, config.biaffine_dim)
        self.last = nn.Linear(in_dim, config.biaffine_dim)
        self.both = nn.Linear(config.biaffine_dim, num_categories + 1)
        self.first_alone = nn.Linear(config.biaffine_dim, num_categories + 1, bias=False)
        self.last_alone = nn.Linear(config.biaffine_dim, num_categories + 1, bias=False)
        self.length = nn.Embedding(config.max_span, num_categories + 1)
        nn.init.zeros_(self.length.weight)
        # entities are rare: start with about one cell in a hundred, not with all categories equally likely
        nn.init.zeros_(self.both.bias)
        self.both.bias.data[0] = math.log(99 * num_categories)

    def loss(self, states: Tensor, batch: LabelledBatch) -> Tensor:
        """Return the cross entropy, summed over the cells; those without an entity have weight `negative_weight`."""
        cells = self._cells(batch.lengths, states.shape[1])
        *there, gold = send([*cells, self._gold(batch)[cells]], states.device)
        costs = functional.cross_entropy(self._scores(states, there), gold, reduction="none")
        return torch.where(gold == 0, costs * self.negative_weight, costs).sum()

    @torch.no_grad()
    def decode(self, states: Tensor, lengths: Sequence[int]) -> list[list[Span]]:
        """Return the category of each cell in which one beats "no entity"; of crossing cells, the best."""
        return [[span for span, _ in found] for found in self.decode_scored(states, lengths)]

    @torch.no_grad()
    def decode_scored(self, states: Tensor, lengths: Sequence[int]) -> list[list[ScoredSpan]]:
        """Return the same entities with the probability of the category in the softmax of their cell."""
        cells = self._cells(lengths, states.shape[1])
        scores = self._scores(states, send(cells, states.device))
        best, category = scores[:, 1:].max(1)
        share = (best - scores.logsumexp(1)).exp()
        # read in one transfer; fp32 holds a category's number exactly
        margin, category, share = torch.stack([best - scores[:, 0], category.to(scores.dtype), share]).cpu()
        found = (margin > 0).nonzero()[:, 0]
        length, row, start = (place[found].tolist() for place in cells)
        candidates: list[list[tuple[float, Span]]] = [[] for _ in lengths]
        shares: list[dict[Span, float]] = [{} for _ in lengths]
        columns = torch.stack([margin, share])[:, found].tolist()
        names = category[found].long().tolist()
        for value, probability, sentence, first, more, name in zip(*columns, row, start, length, names, strict=True):
            span = (first, first + more + 1, name)
            candidates[sentence].append((value, span))
            shares[sentence][span] = probability
        return [
            [(span, own[span]) for span in without_crossing(all)] for all, own in zip(candidates, shares, strict=True)
        ]

    def _cells(self, lengths: Sequence[int], width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the cells within a sentence: length - 1, sentence and start of each, [M] each, on the host."""
        mask = mask_of(lengths, width)
        ends = [mask.roll(-more, 1) for more in range(min(self.max_span, mask.shape[1]))]
        for more, end in enumerate(ends):
            end[:, mask.shape[1] - more :] = False
        length, row, start = (mask & torch.stack(ends)).nonzero(as_tuple=True)
        return length, row, start

    def _scores(self, states: Tensor, cells: Sequence[Tensor]) -> Tensor:
        """Compute the scores [M, C + 1] of cells, "no entity" first; at least fp32."""
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
        """Return the class of each cell, [max_span, B, L]: 0, or 1 + category id; spans without a cell are ignored."""
        gold = torch.zeros(self.max_span, *batch.tags.shape, dtype=torch.long)
        for row, (spans, length) in enumerate(zip(batch.spans, batch.lengths, strict=True)):
            kept, _ = fit_spans(spans, length, self.num_categories, self.max_span)
            for start, end, category in kept:
                gold[end - start - 1, row, start] = category + 1
        return gold


def without_crossing(candidates: list[tuple[float, Span]]) -> list[Span]:
    """Return spans sorted by position, without those that cross a span with a higher score; nested ones are kept."""
    kept: list[Span] = []
    for _, span in sorted(candidates, key=lambda item: (-item[0], item[1])):
        start, end, _ = span
        if not any(s < start < e < end or start < s < end < e for s, e, _ in kept):
            kept.append(span)
    return sorted(kept)


HEAD = Head(
    name="span",
    description=__doc__,
    build=SpanHead,
    nested=True,
    members=False,  # its scores are not a linear function of the states
    keys=("max_span", "biaffine_dim", "negative_weight"),
)
