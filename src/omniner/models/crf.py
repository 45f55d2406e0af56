"""A linear-chain CRF: exact log-likelihood with a hand-written gradient, and Viterbi decoding, for large tag
sets.

In come emissions [B, L, T], tags [B, L] and a right-padded mask [B, L]; out come negative log-likelihoods
[B] or best tags [B, L]. Transitions that are not allowed have no weight at all, in training as in decoding.

The idea: the large block of the allowed transitions (see `crf_layout`; without constraints it is everything)
is one matrix product per step in exp space, for BIOES a quarter of the numbers of the full table; the small
blocks stay in log space, element by element. The backward pass is the same recursion from the right, then
the posteriors of all steps at once and one matrix product for the gradient of all transitions of the large
block.

Why it is exact for all finite emissions: a source of the large block whose weight underflows (e^-87 of the
best source in fp32) reaches the same targets as the best source, so it could matter only if transitions
within the block differed by as much. They are looked at: beyond `_FAST_RANGE`, and for constraints that do
not fall apart into blocks, the block is summed in log space, which is slow and needs no such condition.
Scores are kept relative to the best one of each step, so that precision does not fade with length. Sums are
fp32 at least, under autocast too.

The price: two numbers per character and tag are kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from omniner.models.crf_layout import Blocks, Index, Layout, find_blocks, pack, take

# Largest spread of the transitions of the large block for which exp space is exact: what underflows is then
# below e^-27 of what stays.
_FAST_RANGE = {torch.float32: 60.0, torch.float64: 600.0}


class CRF(nn.Module):
    """Linear-chain CRF over `num_tags` tags with fixed constraints; parameters as in every CRF of this kind.

    Args:
        num_tags: T.
        allowed: bool [T, T], `allowed[i, j]`: tag `j` may follow tag `i`. None: all may.
        allowed_start, allowed_end: bool [T], tags that may stand first and last. None: all may.

    Parameters are `start_transitions` [T], `transitions` [T, T] (from, to), `end_transitions` [T]; entries
    that are not allowed keep their first values and have no influence.
    """

    allowed: Tensor
    allowed_start: Tensor
    allowed_end: Tensor

    def __init__(
        self,
        num_tags: int,
        allowed: Tensor | None = None,
        allowed_start: Tensor | None = None,
        allowed_end: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.num_tags = num_tags
        self.start_transitions = nn.Parameter(torch.empty(num_tags).uniform_(-0.1, 0.1))
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags).uniform_(-0.1, 0.1))
        self.end_transitions = nn.Parameter(torch.empty(num_tags).uniform_(-0.1, 0.1))
        shapes = {"allowed": (num_tags, num_tags), "allowed_start": (num_tags,), "allowed_end": (num_tags,)}
        for (name, shape), given in zip(shapes.items(), (allowed, allowed_start, allowed_end), strict=True):
            value = torch.ones(shape, dtype=torch.bool) if given is None else given.to(torch.bool)
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, not {tuple(value.shape)}")
            # follows from the categories, so a checkpoint need not hold it
            self.register_buffer(name, value.clone(), persistent=False)
        self._blocks: dict[torch.device, Blocks] = {}

    def forward(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Negative log-likelihood [B] of the tags; 0 for an empty sentence.

        Args:
            emissions: [B, L, T], finite.
            tags: [B, L]; anything where the mask is False.
            mask: bool [B, L], right padded.

        Raises:
            ValueError: tags that are not allowed (their likelihood is 0), or a mask that is not right padded.
        """
        with torch.autocast(emissions.device.type, enabled=False):
            scores = self._scores(emissions)
            self._check(tags, mask)
            return _log_partition(*scores, pack(mask), self._layout()) - _score_of(*scores, tags, mask)

    def log_partition(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Log of the sum over all allowed tag sequences of exp(score), [B]; 0 for an empty sentence."""
        with torch.autocast(emissions.device.type, enabled=False):
            return _log_partition(*self._scores(emissions), pack(mask), self._layout())

    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """The best allowed tags, long [B, L]; 0 beyond a sentence. Of equally good ones the lowest."""
        with torch.autocast(emissions.device.type, enabled=False):
            return _viterbi(*self._scores(emissions), pack(mask), self._layout())

    def _scores(self, emissions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Emissions, start, transition and end scores as fp32 (fp64 stays), what is not allowed at -inf."""
        dtype = torch.float64 if emissions.dtype == torch.float64 else torch.float32
        start = self.start_transitions.to(dtype).masked_fill(~self.allowed_start, -torch.inf)
        end = self.end_transitions.to(dtype).masked_fill(~self.allowed_end, -torch.inf)
        transitions = self.transitions.to(dtype).masked_fill(~self.allowed, -torch.inf)
        return emissions.to(dtype), start, transitions, end

    def _layout(self) -> Blocks:
        """The blocks of the constraints on the device where they are."""
        device = self.allowed.device
        if device not in self._blocks:
            self._blocks = {device: find_blocks(self.allowed)}
        return self._blocks[device]

    def _check(self, tags: Tensor, mask: Tensor) -> None:
        """Refuse tags that break the constraints: their likelihood is 0 and the loss would be infinite."""
        tags = tags.masked_fill(~mask, 0)
        legal = (self.allowed[tags[:, :-1], tags[:, 1:]] | ~mask[:, 1:]).all(1)
        legal &= (self.allowed_start[tags[:, 0]] & self.allowed_end[_last(tags, mask)]) | ~mask[:, 0]
        if not legal.all():
            rows = (~legal).nonzero()[:, 0].tolist()
            raise ValueError(f"the tags of rows {rows} of the batch break the constraints")


def _last(tags: Tensor, mask: Tensor) -> Tensor:
    """The last tag [B] of each sentence; the first place of an empty one."""
    return tags.gather(1, (mask.sum(1, keepdim=True) - 1).clamp_min(0))[:, 0]


def _score_of(emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
    """Score [B] of legal tags."""
    tags = tags.masked_fill(~mask, 0)
    steps = emissions.gather(2, tags[:, :, None])[:, :, 0]
    moves = transitions[tags[:, :-1], tags[:, 1:]]
    ends = start[tags[:, 0]] + end[_last(tags, mask)]
    score = steps.masked_fill(~mask, 0.0).sum(1) + moves.masked_fill(~mask[:, 1:], 0.0).sum(1)
    return score + ends.masked_fill(~mask[:, 0], 0.0)


def _log_partition(*inputs: Tensor | Layout | Blocks) -> Tensor:
    """`_LogPartition` with a type."""
    total: Tensor = _LogPartition.apply(*inputs)  # type: ignore[no-untyped-call]
    return total


class _Step:
    """One step of a recursion in either direction: scores [n, T] at one character -> log-sums at its neighbour.

    Scores are in the inner order of the tags. Made once per batch and direction.
    """

    def __init__(self, transitions: Tensor, blocks: Blocks, forward: bool) -> None:
        sides = [(blocks.hub_from, blocks.small_from), (blocks.hub_to, blocks.small_to)]
        (self.source, self.small_source), (self.target, self.small_target) = sides if forward else sides[::-1]
        hub = transitions[blocks.hub_from, blocks.hub_to]
        self.top = hub.max()
        table = transitions - self.top
        self.table = table if forward else table.t()
        self.hub = self.table[self.source, self.target].contiguous()  # [F, G], largest 0
        self.hub_t = self.hub.t().contiguous()
        self.spread = -float(self.hub.min())
        self.fast = self.spread <= _FAST_RANGE[hub.dtype]
        self.weight = self.hub.exp()
        # to the g-th target of every small block from its k-th source, [C] each
        self.small = [[_pairs(self.table, s, t) for s in self.small_source] for t in self.small_target]

    def __call__(self, scores: Tensor, out: Tensor) -> Tensor:
        """Write the sums over the sources into `out` [n, T]; return what they are relative to, [n, 1]."""
        best = _finite(scores[:, self.source].amax(1, keepdim=True))
        scores = scores - best
        self.reduce(scores[:, self.source], out[:, self.target])
        for target, weights in zip(self.small_target, self.small, strict=True):
            message = scores[:, self.small_source[0]] + weights[0]
            for source, weight in zip(self.small_source[1:], weights[1:], strict=True):
                message = self.add(message, scores[:, source] + weight)
            out[:, target] = message
        return best

    def reduce(self, scores: Tensor, out: Tensor) -> None:
        """Over the sources of the large block, whose best is 0: [n, F] -> `out` [n, G]."""
        if self.fast:
            torch.log(scores.exp() @ self.weight, out=out)
        else:
            torch.logsumexp(scores[:, :, None] + self.hub, 1, out=out)

    def add(self, one: Tensor, two: Tensor) -> Tensor:
        """Over two sources of a small block."""
        return torch.logaddexp(one, two)


class _MaxStep(_Step):
    """The same with maxima in place of log-sums."""

    def reduce(self, scores: Tensor, out: Tensor) -> None:
        """Over the sources of the large block, whose best is 0: [n, F] -> `out` [n, G].

        A source that lies further behind the best one than the transitions differ cannot win for any target,
        so often few are left. (Counting them would make a GPU wait, so there all are tried.)
        """
        sources = scores.shape[1]
        count = sources if scores.is_cuda else int((scores >= -self.spread).sum(1).max().clamp_min(1))
        if count * 4 <= sources:
            values, places = scores.topk(count)
            torch.amax(values[:, :, None] + self.hub[places], 1, out=out)
        else:
            torch.amax(scores[:, None, :] + self.hub_t, 2, out=out)

    def add(self, one: Tensor, two: Tensor) -> Tensor:
        """Over two sources of a small block."""
        return torch.maximum(one, two)


def _finite(best: Tensor) -> Tensor:
    """Maxima to subtract: 0 in place of -inf (no source can be reached), so that -inf stays -inf. In place."""
    return best.nan_to_num_(nan=torch.nan, neginf=0.0)


def _pairs(table: Tensor, sources: Index, targets: Index) -> Tensor:
    """Entries [C] of a table from the c-th source to the c-th target."""
    places = torch.arange(len(table), device=table.device)
    return table[places[sources], places[targets]]


class _LogPartition(torch.autograd.Function):
    """Log-partition [B] by the forward recursion; its gradient by the backward recursion and the
    posteriors."""

    @staticmethod
    def forward(
        ctx: Any,
        emissions: Tensor,
        start: Tensor,
        transitions: Tensor,
        end: Tensor,
        layout: Layout,
        blocks: Blocks,
    ) -> Tensor:
        """Args as in `CRF`; `start` and `end` hold -inf for what is not allowed."""
        packed, start, transitions, end = _inner(emissions, start, transitions, end, layout, blocks)
        step = _Step(transitions, blocks, forward=True)
        alpha = torch.empty_like(packed)  # [N, T], each relative to a number of its own
        shift = packed.new_zeros(len(packed), dtype=torch.float64)
        total = packed.new_zeros(len(emissions), dtype=torch.float64)
        if layout.counts:
            torch.add(packed[layout.step(0)], start, out=alpha[layout.step(0)])
        for number in range(1, len(layout.counts)):
            here = layout.step(number)
            shift[here] = step(alpha[layout.before(number)], alpha[here])[:, 0] + step.top
            alpha[here] += packed[here]
        total.index_add_(0, layout.rows, shift)
        total[layout.last_rows] += (alpha[layout.last] + end).logsumexp(1)
        ctx.save_for_backward(packed, alpha, transitions, end)
        ctx.layout, ctx.blocks, ctx.shape = layout, blocks, emissions.shape
        return total.to(emissions.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients are posteriors: of each tag, of each transition."""
        with torch.autocast(grad.device.type, enabled=False):
            return *_posteriors(ctx, grad), None, None


def _inner(
    emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, layout: Layout, blocks: Blocks
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Emissions packed [N, T], and all scores, with the tags in the inner order."""
    packed = emissions.reshape(-1, emissions.shape[2]).index_select(0, layout.places)
    if blocks.order is None:
        return packed, start, transitions, end
    order = blocks.order
    inner = transitions.index_select(0, order).index_select(1, order)
    return packed.index_select(1, order), start[order], inner, end[order]


def _posteriors(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the log-partition by emissions, start, transitions and end."""
    packed, alpha, transitions, end = ctx.saved_tensors
    layout: Layout = ctx.layout
    blocks: Blocks = ctx.blocks
    step = _Step(transitions, blocks, forward=False)
    beta, right, shift = torch.empty_like(alpha), torch.empty_like(alpha), alpha.new_zeros(len(alpha), 1)
    beta[layout.last] = end
    for number in range(len(layout.counts) - 1, 0, -1):
        here = layout.step(number)
        torch.add(packed[here], beta[here], out=right[here])
        shift[here] = step(right[here], beta[layout.before(number)])
    joint = beta.add_(alpha)
    best = joint.amax(1, keepdim=True)
    share = joint.sub_(best).exp_()
    size = share.sum(1, keepdim=True)
    norm = size.log() + best
    weight = grad[layout.rows, None]
    posterior = share.mul_(weight / size)
    first = layout.counts[0] if layout.counts else 0
    later = slice(first, None)
    right = right[later].sub_(shift[later] + take(norm, layout.previous))
    g_transitions = _transition_gradient(take(alpha, layout.previous), right, weight[later], step, blocks)
    g_start, g_end = posterior[:first].sum(0), posterior.index_select(0, layout.last).sum(0)
    if blocks.order is not None:
        inverse = blocks.inverse
        posterior, g_start, g_end = posterior.index_select(1, inverse), g_start[inverse], g_end[inverse]
        g_transitions = g_transitions[inverse][:, inverse]
    g_emissions = alpha.new_zeros(ctx.shape)
    g_emissions.view(-1, ctx.shape[2]).index_copy_(0, layout.places, posterior)
    return g_emissions, g_start, g_transitions, g_end


def _transition_gradient(left: Tensor, right: Tensor, weight: Tensor, step: _Step, blocks: Blocks) -> Tensor:
    """Sum [T, T] of the posteriors of all transitions, exp(left of the source + transition + right of the target).

    Args:
        left, right: [M, T] on both sides of M places, in the inner order.
        weight: [M, 1] factor of each place.
        step: the step from right to left.
    """
    table = step.table.t()
    gradient = torch.zeros_like(table)
    hub_left, hub_right = left[:, blocks.hub_from], right[:, blocks.hub_to]
    hub = gradient[blocks.hub_from, blocks.hub_to]
    if step.fast:
        # exp(best + right) is at most 1 / the least weight: the best source must not go there more than once
        best = _finite(hub_left.amax(1, keepdim=True))
        torch.mm((hub_left - best).exp_().t(), (hub_right + best).exp_().mul_(weight), out=hub)
        hub *= step.weight.t()
    else:
        for one, two, factor in zip(hub_left, hub_right, weight, strict=True):
            hub += (one[:, None] + step.hub.t() + two).exp_() * factor
    for source in blocks.small_from:
        for target in blocks.small_to:
            scores = (left[:, source] + right[:, target]).add_(_pairs(table, source, target))
            places = torch.arange(len(table), device=table.device)
            gradient[places[source], places[target]] = (weight.t() @ scores.exp_())[0]
    return gradient


def _viterbi(
    emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, layout: Layout, blocks: Blocks
) -> Tensor:
    """Best tags [B, L]: only maxima forward; then the best source again, along the best path alone."""
    packed, start, inner, end = _inner(emissions, start, transitions, end, layout, blocks)
    best = torch.empty_like(packed)  # [N, T] of the best sequence that ends in a tag, relative to the row's best
    step = _MaxStep(inner, blocks, forward=True)
    if layout.counts:
        torch.add(packed[layout.step(0)], start, out=best[layout.step(0)])
    for number in range(1, len(layout.counts)):
        here = layout.step(number)
        step(best[layout.before(number)], best[here])
        best[here] += packed[here]
    # back in the given order of the tags, so that of equally good ones the lowest is taken
    final = best[layout.last] + end
    if blocks.order is not None:
        best, final, inner = best[:, blocks.inverse], final[:, blocks.inverse], transitions
    table = inner.t().contiguous()  # [to, from]
    tag = final.argmax(1)
    path = torch.empty_like(layout.rows)
    for number in range(len(layout.counts) - 1, -1, -1):
        count = layout.counts[number]
        path[layout.step(number)] = tag[:count]
        if number:
            tag[:count] = (best[layout.before(number)] + table[tag[:count]]).argmax(1)
    tags = path.new_zeros(emissions.shape[:2])
    tags.view(-1)[layout.places] = path
    return tags
