"""One step of a CRF's recursion: the scores of all tags at one character from those at its neighbour.

In come scores [n, T] in the inner order of the tags (see `crf_layout`), out come log-sums (`SumStep`) or maxima
(`MaxStep`) over all allowed sources, in either direction of the sequence. The large block is one matrix product in
exp space, or a search among the few sources that can still win; the small blocks go element by element.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omniner.models.crf_layout import Blocks, Index

# Largest spread of the transitions of the large block for which exp space is exact: what underflows is then below
# e^-27 of what stays.
FAST_RANGE = {torch.float32: 60.0, torch.float64: 600.0}


class SumStep:
    """Log-sums over the sources. Made once per batch and direction.

    Args:
        transitions: [T, T] in the inner order, -inf where not allowed.
        blocks: the blocks that they fall apart into.
        forward: from left to right, or from right to left.

    Attributes:
        top: the largest transition of the large block; all others are taken relative to it.
        hub: [F, G] transitions of the large block from its sources to its targets (of this direction).
        fast: whether they are close enough together for exp space.
        weight: [F, G] exp(hub).
    """

    def __init__(self, transitions: Tensor, blocks: Blocks, forward: bool) -> None:
        sides = [(blocks.hub_from, blocks.small_from), (blocks.hub_to, blocks.small_to)]
        (self.source, self.small_source), (self.target, self.small_target) = sides if forward else sides[::-1]
        self.top = transitions[blocks.hub_from, blocks.hub_to].max()
        table = transitions - self.top if forward else (transitions - self.top).t()
        self.hub = table[self.source, self.target].contiguous()
        self.spread = -float(self.hub.min())
        self.fast = self.spread <= FAST_RANGE[self.hub.dtype]
        self.weight = self.hub.exp()
        # from the k-th source of every small block to all its targets, [G', C] each
        self.small = [torch.stack([pairs(table, s, t) for t in self.small_target]) for s in self.small_source]

    def __call__(self, scores: Tensor, out: Tensor, kept: Tensor) -> Tensor:
        """Write the result into `out` [n, T]; return what it is relative to, the best source [n, 1].

        `kept` [n, F] receives exp(score - best) of the sources of the large block where that is computed.
        """
        best = finite(scores[:, self.source].amax(1, keepdim=True))
        scores = scores - best
        self.reduce(scores[:, self.source], out[:, self.target], kept)
        message = None  # [n, G', C]
        for source, weight in zip(self.small_source, self.small, strict=True):
            part = scores[:, None, source] + weight
            message = part if message is None else self.add(message, part)
        if message is not None:
            for number, target in enumerate(self.small_target):
                out[:, target] = message[:, number]
        return best

    def reduce(self, scores: Tensor, out: Tensor, kept: Tensor) -> None:
        """Over the sources of the large block, whose best is 0: [n, F] -> `out` [n, G]."""
        if self.fast:
            torch.log(torch.exp(scores, out=kept) @ self.weight, out=out)
        else:
            torch.logsumexp(scores[:, :, None] + self.hub, 1, out=out)

    def add(self, one: Tensor, two: Tensor) -> Tensor:
        """Over two sources of a small block."""
        return torch.logaddexp(one, two)


class MaxStep(SumStep):
    """The same with maxima in place of log-sums; keeps nothing."""

    def __init__(self, transitions: Tensor, blocks: Blocks, forward: bool) -> None:
        super().__init__(transitions, blocks, forward)
        self.hub_t = self.hub.t().contiguous()
        self.room: Tensor | None = None  # for all pairs [n, G, F]: a new one per step would cost as much as the sum

    def reduce(self, scores: Tensor, out: Tensor, kept: Tensor) -> None:
        """Over the sources of the large block, whose best is 0: [n, F] -> `out` [n, G].

        A source that lies further behind the best one than the transitions differ cannot win for any target, so
        often few are left. (Counting them would make a GPU wait, so there all are tried.)
        """
        sources = scores.shape[1]
        count = sources if scores.is_cuda else int((scores >= -self.spread).sum(1).max().clamp_min(1))
        if count * 4 <= sources:
            values, places = scores.topk(count)
            torch.amax(values[:, :, None] + self.hub[places], 1, out=out)
        else:
            if self.room is None:  # later steps have fewer rows, never more
                self.room = scores.new_empty(len(scores), *self.hub_t.shape)
            ways = torch.add(scores[:, None, :], self.hub_t, out=self.room[: len(scores)])
            torch.amax(ways, 2, out=out)

    def add(self, one: Tensor, two: Tensor) -> Tensor:
        """Over two sources of a small block."""
        return torch.maximum(one, two)


def finite(best: Tensor) -> Tensor:
    """Maxima to subtract: 0 in place of -inf (no source can be reached), so that -inf stays -inf. In place."""
    return best.nan_to_num_(nan=torch.nan, neginf=0.0)


def pairs(table: Tensor, sources: Index, targets: Index) -> Tensor:
    """Entries [C] of a table [T, T] from the c-th source to the c-th target."""
    places = torch.arange(len(table), device=table.device)
    return table[places[sources], places[targets]]
