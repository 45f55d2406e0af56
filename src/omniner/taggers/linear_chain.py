"""A linear-chain CRF: exact log-likelihood with a hand-written gradient, and Viterbi, for large tag sets.

`CRF` takes emissions [B, L, T], tags [B, L] and the lengths of the sentences and returns negative log-likelihoods [B]
or best tags [B, L]. Forbidden transitions have no weight at all, in training as in decoding.

The idea: the legal transitions of a BIOES scheme split into complete blocks, one large (O, E, S to O, B, S) and one of
2 x 2 per category (B, I to I, E). `find_blocks` finds them from the table alone, so other schemes of that shape work as
well, and without constraints there is one block. The large block is one matrix product per step in exp space (for BIOES
a quarter of the numbers of the full table), or in Viterbi a search among the few sources that can still win. The small
blocks stay in log space, element by element. A batch is packed with the characters of one step adjacent and the longest
sentence first, so that each step works on a plain slice and padding costs nothing. The backward pass is the same
recursion from the right, then the posteriors of all steps at once and one matrix product for the gradient of all
transitions of the large block.

Why it is exact for all finite emissions: a source of the large block whose weight underflows (e^-87 of the best source
in fp32) reaches the same targets as the best source, so it could matter only if transitions within the block differed
by as much. This is checked: beyond `FAST_RANGE`, and for constraints that do not split into blocks, the block is summed
in log space, which is slow and needs no such condition. Scores are kept relative to the best one of each step, so that
precision does not decrease with length. Sums are at least fp32, also under autocast and TF32.

Nothing waits for a GPU except a rare check of the transitions: lengths and gold tags are on the host, which computes
the layout. Cost: up to three numbers per character and tag are kept for the backward pass.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from omniner.compute.devices import send
from omniner.compute.torch_settings import exact_products
from omniner.taggers.chain_layout import Blocks, Index, PackedLayout, find_blocks, pack_by_position, take_rows
from omniner.taggers.heads import ScoredSpan, Span, TagScheme


class CRF(nn.Module):
    """Linear-chain CRF over `num_tags` tags with fixed constraints; parameters are the usual ones of a CRF.

    Args:
        num_tags: T.
        allowed: bool [T, T], `allowed[i, j]`: tag `j` may follow tag `i`. None: all may.
        allowed_start, allowed_end: bool [T], tags that may be first and last. None: all may.

    Parameters are `start_transitions` [T], `transitions` [T, T] (from, to), `end_transitions` [T]; forbidden entries
    keep their initial values and have no influence.
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
            # follows from the categories, so a checkpoint need not store it
            self.register_buffer(name, value.clone(), persistent=False)
        self._tables = self.allowed, self.allowed_start, self.allowed_end  # they stay on the host
        self._blocks: dict[torch.device, Blocks] = {}
        self._calls, self._asked, self._answer = 0, (-_ASK_EVERY, 0), False  # of `_fits`

    def forward(self, emissions: Tensor, tags: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the negative log-likelihood [B] of the tags; 0 for an empty sentence.

        Args:
            emissions: [B, L, T], finite.
            tags: [B, L], on the host; anything beyond a sentence.
            lengths: number of characters of each sentence.

        Raises:
            ValueError: forbidden tags: their likelihood is 0.
        """
        device = emissions.device
        with torch.autocast(device.type, enabled=False), exact_products():
            layout = pack_by_position(lengths, emissions.shape[1])
            gold = tags.reshape(-1).index_select(0, layout.places)
            self._check(gold, layout)
            scores, blocks = self._scores(emissions), self._blocks_here()
            fast = self._fits(scores[2].detach(), blocks)
            given = *scores, *send([gold], device), layout.to(device), blocks, fast
            loss: Tensor = _NegativeLogLikelihood.apply(*given)  # type: ignore[no-untyped-call]
            return loss

    @torch.no_grad()
    def decode(self, emissions: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the best allowed tags, long [B, L]; 0 beyond a sentence. Of equally good ones the lowest."""
        layout = pack_by_position(lengths, emissions.shape[1]).to(emissions.device)
        with torch.autocast(emissions.device.type, enabled=False):
            return _viterbi(*self._scores(emissions), layout, self._blocks_here())

    @torch.no_grad()
    def log_probabilities(
        self, emissions: Tensor, tags: Tensor, lengths: Sequence[int], segments: Sequence[tuple[int, int, int]]
    ) -> Tensor:
        """Return the log-probability [S] that a segment has its tags, whatever tags the rest of the sentence has.

        It is exact: the log-sum over all paths with these tags, minus the log-sum over all allowed paths.

        Args:
            emissions: [B, L, T], finite.
            tags: [B, L], allowed within the segments, such as the result of `decode`.
            lengths: number of characters of each sentence.
            segments: (sentence, start, end) of each, half-open, not empty.
        """
        device = emissions.device
        with torch.autocast(device.type, enabled=False), exact_products():
            layout = pack_by_position(lengths, emissions.shape[1]).to(device)
            scores, blocks = self._scores(emissions), self._blocks_here()
            before, after, moves = _along_path(*scores, tags, layout, blocks, self._fits(scores[2], blocks))
            rows, first, end = send([torch.tensor(segments, dtype=torch.long).reshape(-1, 3)], device)[0].unbind(1)
            last = end - 1
            found = before[rows, first] + (moves[rows, last] - moves[rows, first]) + after[rows, last]
            return found.clamp(max=0)

    def _fits(self, transitions: Tensor, blocks: Blocks) -> bool:
        """Return whether exp space can hold the transitions of the large block, relative to the largest of them.

        The host must wait for a GPU's answer, so it checks only in every 20th training step, and once per evaluation
        with the same weights. In between, the spread can grow by about 6 learning rates per step (AdamW moves a weight
        by 3 at most); fp32 loses nothing until it is 10 above `FAST_RANGE`.
        """
        self._calls += self.training
        now = self._calls, self.transitions._version  # a fused optimizer does not change the version
        old = now[0] >= self._asked[0] + _ASK_EVERY if self.training else now != self._asked
        if old or not transitions.is_cuda:
            large = _inner_order(transitions, blocks)[blocks.large_from, blocks.large_to]
            self._asked, self._answer = now, float(large.max() - large.min()) <= FAST_RANGE[large.dtype]
        return self._answer

    def _scores(self, emissions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return emissions, start, transition and end scores as fp32 (fp64 stays), with forbidden ones at -inf."""
        dtype = torch.float64 if emissions.dtype == torch.float64 else torch.float32
        start = self.start_transitions.to(dtype).masked_fill(~self.allowed_start, -torch.inf)
        end = self.end_transitions.to(dtype).masked_fill(~self.allowed_end, -torch.inf)
        transitions = self.transitions.to(dtype).masked_fill(~self.allowed, -torch.inf)
        return emissions.to(dtype), start, transitions, end

    def _blocks_here(self) -> Blocks:
        """Return the blocks of the constraints on the module's device."""
        device = self.allowed.device
        if device not in self._blocks:
            self._blocks = {device: find_blocks(self._tables[0], device)}
        return self._blocks[device]

    def _check(self, gold: Tensor, layout: PackedLayout) -> None:
        """Reject packed tags that break the constraints: their likelihood is 0, the loss would be infinite."""
        first, (allowed, allowed_start, allowed_end) = layout.first, self._tables
        illegal = torch.zeros_like(gold, dtype=torch.bool)
        illegal[:first] = ~allowed_start[gold[:first]]
        illegal[first:] = ~allowed[take_rows(gold, layout.previous), gold[first:]]
        illegal[layout.last] |= ~allowed_end[gold[layout.last]]
        if illegal.any():
            rows = sorted(set(layout.rows[illegal].tolist()))
            raise ValueError(f"the tags of rows {rows} of the batch break the constraints")


def constrained_crf(scheme: TagScheme) -> CRF:
    """Build a CRF that allows only the transitions of the scheme."""
    tables = (scheme.allowed, scheme.allowed_start, scheme.allowed_end)
    return CRF(len(scheme), *(torch.from_numpy(table) for table in tables))


def score_spans(
    crf: CRF, emissions: Tensor, tags: Tensor, lengths: Sequence[int], spans: Sequence[Sequence[Span]]
) -> list[list[ScoredSpan]]:
    """Return the spans of decoded tags with their probabilities: of exactly their tags, summed over all that the rest
    of the sentence may have. In BIOES these tags say where the span begins and ends.
    """
    segments = [(row, start, end) for row, found in enumerate(spans) for start, end, _ in found]
    values = iter(crf.log_probabilities(emissions, tags, lengths, segments).exp().tolist())
    return [[(span, next(values)) for span in found] for found in spans]


class _NegativeLogLikelihood(torch.autograd.Function):
    """The log of the sum over all allowed paths of exp(score), minus the score of the gold tags, [B].

    The sum is the forward recursion; the gradient uses the backward recursion and the posteriors from both.
    """

    @staticmethod
    def forward(
        ctx: Any,
        emissions: Tensor,
        start: Tensor,
        transitions: Tensor,
        end: Tensor,
        gold: Tensor,
        layout: PackedLayout,
        blocks: Blocks,
        fast: bool,
    ) -> Tensor:
        """Compute the loss; args as in `CRF`, -inf if forbidden; `gold` [N] is packed, `fast` as in `_SumStep`."""
        packed, inner_start, inner, inner_end = _inner(emissions, start, transitions, end, layout, blocks)
        step = _SumStep(inner, blocks, forward=True, fast=fast)
        alpha, kept, best = _forward_recursion(packed, inner_start, layout, step)
        total = packed.new_zeros(len(emissions), dtype=torch.float64)
        total.index_add_(0, layout.rows[layout.first :], (best[layout.first :, 0] + step.top).double())
        total[layout.last_rows] += (alpha[layout.last] + inner_end).logsumexp(1)
        total -= _score(emissions, start, transitions, end, gold, layout)
        ctx.save_for_backward(packed, alpha, kept, best, inner, inner_end, gold)
        ctx.layout, ctx.blocks, ctx.shape, ctx.fast = layout, blocks, emissions.shape, fast
        return total.to(emissions.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients: posteriors of each tag and of each transition, minus the gold."""
        with torch.autocast(grad.device.type, enabled=False), exact_products():
            return *_gradients(ctx, grad), None, None, None, None


def _inner(
    emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, layout: PackedLayout, blocks: Blocks
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the emissions packed [N, T], and all scores, with the tags in the inner order."""
    packed = emissions.reshape(-1, emissions.shape[2]).index_select(0, layout.places)
    if (order := blocks.order) is None:
        return packed, start, transitions, end
    return packed.index_select(1, order), start[order], _inner_order(transitions, blocks), end[order]


def _inner_order(transitions: Tensor, blocks: Blocks) -> Tensor:
    """Return the transitions [T, T] with the tags in the inner order."""
    order = blocks.order
    return transitions if order is None else transitions.index_select(0, order).index_select(1, order)


def _score(
    emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, gold: Tensor, layout: PackedLayout
) -> Tensor:
    """Compute the score [B] of packed tags, fp64."""
    first = layout.first
    score = emissions.new_zeros(len(emissions), dtype=torch.float64)
    score.index_add_(0, layout.rows, emissions.reshape(-1, emissions.shape[2])[layout.places, gold].double())
    moves = transitions[take_rows(gold, layout.previous), gold[first:]]
    score.index_add_(0, layout.rows[first:], moves.double())
    score[layout.last_rows] += (start[gold[:first]] + end[gold[layout.last]]).double()
    return score


def _forward_recursion(
    packed: Tensor, start: Tensor, layout: PackedLayout, step: _SumStep
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute log-sums over all beginnings up to each character, including it, [N, T]; each row relative to the one
    before.

    The second [N, F] is the exp of the sources of the large block if the step computes it; the third [N, 1] is what a
    row is relative to, besides `step.top`; 0 for first characters.
    """
    alpha = torch.empty_like(packed)
    kept = packed.new_empty(len(packed), len(step.large) if step.fast else 0)
    best = packed.new_zeros(len(packed), 1)
    if layout.counts:
        torch.add(packed[layout.step(0)], start, out=alpha[layout.step(0)])
    for number in range(1, len(layout.counts)):
        here = layout.step(number)
        after = alpha[here]
        best[here] = step(alpha[layout.before(number)], after, kept[here])
        after += packed[here]
    return alpha, kept, best


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of emissions, start, transitions and end, in the given order of the tags."""
    packed, alpha, kept, best, inner, end, gold = ctx.saved_tensors
    layout: PackedLayout = ctx.layout
    blocks: Blocks = ctx.blocks
    step = _SumStep(inner, blocks, forward=False, fast=ctx.fast)
    beta, right, right_kept = _backward_recursion(packed, end, layout, step)
    joint = beta.add_(alpha)
    highest = joint.amax(1, keepdim=True)
    share = joint.sub_(highest).exp_()
    size = share.sum(1, keepdim=True)
    row_factor = grad[layout.rows, None]  # [N, 1] gradient of the loss of the character's sentence
    posterior = share.mul_(row_factor / size)  # [N, T]

    first = layout.first
    norm = take_rows(size.log_().add_(highest), layout.previous)
    left = (take_rows(alpha, layout.previous), kept[first:], best[first:])
    g_transitions = _transition_gradient(left, right, right_kept, norm, row_factor[first:], inner, step, blocks)
    g_start, g_end = posterior[:first].sum(0), posterior.index_select(0, layout.last).sum(0)
    if blocks.order is not None:
        inverse = blocks.inverse
        posterior, g_start, g_end = posterior.index_select(1, inverse), g_start[inverse], g_end[inverse]
        g_transitions = g_transitions.index_select(0, inverse).index_select(1, inverse)
    g_emissions = alpha.new_zeros(ctx.shape)
    by_place = g_emissions.view(-1, ctx.shape[2]).index_copy_(0, layout.places, posterior)
    less = -row_factor[:, 0]
    by_place.index_put_((layout.places, gold), less, accumulate=True)
    g_transitions.index_put_((take_rows(gold, layout.previous), gold[first:]), less[first:], accumulate=True)
    g_start.index_add_(0, gold[:first], less[:first])
    g_end.index_add_(0, gold[layout.last], less[layout.last])
    return g_emissions, g_start, g_transitions, g_end


def _backward_recursion(
    packed: Tensor, end: Tensor, layout: PackedLayout, step: _SumStep
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute log-sums over all continuations: after each character [N, T], and from each later character on.

    The second [M, T] includes the character's own emission and is relative to the first at the previous character, so
    that both sides of a transition add up; the third [M, G] is its exp if the step computes it.
    """
    beta, right, best = torch.empty_like(packed), torch.empty_like(packed), packed.new_zeros(len(packed), 1)
    kept = packed.new_empty(len(packed), len(step.large) if step.fast else 0)
    beta[layout.last] = end
    for number in range(len(layout.counts) - 1, 0, -1):
        here = layout.step(number)
        after = torch.add(packed[here], beta[here], out=right[here])
        best[here] = step(after, beta[layout.before(number)], kept[here])
    first = layout.first
    return beta, right[first:].sub_(best[first:]), kept[first:]


def _transition_gradient(
    left: tuple[Tensor, Tensor, Tensor],
    right: Tensor,
    right_kept: Tensor,
    norm: Tensor,
    row_factor: Tensor,
    inner: Tensor,
    step: _SumStep,
    blocks: Blocks,
) -> Tensor:
    """Sum the posteriors of all transitions, [T, T] in the inner order.

    Args:
        left: alpha [M, T] before each of M transitions, exp of its large block [M, F] relative to the best [M, 1].
        right, right_kept: from `_backward_recursion`.
        norm: [M, 1] log of the total weight at the position before the transition.
        row_factor: [M, 1] of each transition.
        inner: [T, T] transitions.
        step: the step from right to left.
    """
    alpha, left_kept, best = left
    gradient = torch.zeros_like(inner)
    large = gradient[blocks.large_from, blocks.large_to]
    right.sub_(norm)
    if step.fast:
        # the factor is at most 1 / the least of `exp_large`, because the best source cannot be left more often than
        # once
        torch.mm(left_kept.t(), right_kept.mul_((best - norm).exp_().mul_(row_factor)), out=large)
        large *= step.exp_large.t()
    else:
        rows = zip(alpha[:, blocks.large_from], right[:, blocks.large_to], row_factor, strict=True)
        for source, target, factor in rows:
            large += (source[:, None] + step.large.t() + target).exp_() * factor
    places = torch.arange(len(inner), device=inner.device)
    for source in blocks.small_from:
        for target in blocks.small_to:
            scores = (alpha[:, source] + right[:, target]).add_(paired_entries(inner, source, target) - step.top)
            gradient[places[source], places[target]] = (row_factor.t() @ scores.exp_())[0]
    return gradient


def _along_path(
    emissions: Tensor,
    start: Tensor,
    transitions: Tensor,
    end: Tensor,
    tags: Tensor,
    layout: PackedLayout,
    blocks: Blocks,
    fast: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the parts of log-probabilities along the given tags, each fp64 [B, L].

    Returns:
        The log-sum over all beginnings that end in the character's tag; the log-sum over all continuations from it,
        minus the total; the summed scores of the moves up to the character, relative to what the first is relative to.
    """
    packed, inner_start, inner, inner_end = _inner(emissions, start, transitions, end, layout, blocks)
    step = _SumStep(inner, blocks, forward=True, fast=fast)
    alpha, _, best = _forward_recursion(packed, inner_start, layout, step)
    beta, _, _ = _backward_recursion(packed, inner_end, layout, _SumStep(inner, blocks, forward=False, fast=fast))
    path = blocks.inverse[tags.reshape(-1)[layout.places]]
    of_tag = path[:, None]
    parts = packed.new_zeros(3, tags.numel(), dtype=torch.float64)
    parts[0, layout.places] = alpha.gather(1, of_tag)[:, 0].double()
    parts[1, layout.places] = (beta.gather(1, of_tag)[:, 0] - (alpha + beta).logsumexp(1)).double()
    first = layout.first
    moves = inner[take_rows(path, layout.previous), path[first:]] + packed.gather(1, of_tag)[first:, 0]
    parts[2, layout.places[first:]] = (moves - best[first:, 0] - step.top).double()
    before, after, moves = parts.view(3, *tags.shape)
    return before, after, moves.cumsum(1)


def _viterbi(
    emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, layout: PackedLayout, blocks: Blocks
) -> Tensor:
    """Return the best tags [B, L]: only maxima forward, then the best sources along the best path."""
    packed, start, inner, end = _inner(emissions, start, transitions, end, layout, blocks)
    best = torch.empty_like(packed)  # [N, T] of the best sequence that ends in a tag, relative to the row's best
    step = _MaxStep(inner, blocks)
    if layout.counts:
        torch.add(packed[layout.step(0)], start, out=best[layout.step(0)])
    for number in range(1, len(layout.counts)):
        after = best[layout.step(number)]
        step(best[layout.before(number)], after)
        after += packed[layout.step(number)]
    # back in the given order of the tags, so that of equally good ones the lowest is chosen
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


# Largest spread of the transitions of the large block for which exp space is exact: what underflows is then below e^-27
# of what remains.
FAST_RANGE = {torch.float32: 60.0, torch.float64: 600.0}
_ASK_EVERY = 20  # training steps


class _Step(ABC):
    """One step of the recursion: from the scores [n, T] of all sources to those of all targets, relative to the best.

    Created once per batch and direction. Subclasses define how several sources are combined for a target.

    Attributes:
        top: the largest transition of the large block; all others are relative to it.
        large: [F, G] transitions of the large block from its sources to its targets (of this direction).
    """

    join: Callable[[Tensor, Tensor], Tensor]  # of two sources of a small block

    def __init__(self, transitions: Tensor, blocks: Blocks, forward: bool) -> None:
        sides = [(blocks.large_from, blocks.small_from), (blocks.large_to, blocks.small_to)]
        (self.source, self.small_source), (self.target, self.small_target) = sides if forward else sides[::-1]
        self.top = transitions[blocks.large_from, blocks.large_to].max()
        table = transitions - self.top if forward else (transitions - self.top).t()
        self.large = table[self.source, self.target].contiguous()
        # from the k-th source of every small block to all its targets, [G', C] each
        self.small = [torch.stack([paired_entries(table, s, t) for t in self.small_target]) for s in self.small_source]

    def __call__(self, scores: Tensor, out: Tensor, kept: Tensor | None = None) -> Tensor:
        """Write the result to `out` [n, T]; return what it is relative to, the best source [n, 1].

        `kept` [n, F] receives exp(score - best) of the sources of the large block if that is computed.
        """
        best = finite_maxima(scores[:, self.source].amax(1, keepdim=True))
        scores = scores - best
        self.reduce(scores[:, self.source], out[:, self.target], kept)
        message = None  # [n, G', C]
        for source, small in zip(self.small_source, self.small, strict=True):
            part = scores[:, None, source] + small
            message = part if message is None else self.join(message, part)
        if message is not None:
            for number, target in enumerate(self.small_target):
                out[:, target] = message[:, number]
        return best

    @abstractmethod
    def reduce(self, scores: Tensor, out: Tensor, kept: Tensor | None) -> None:
        """Combine the sources of the large block, [n, F] with the best at 0, for each target, `out` [n, G]."""


class _SumStep(_Step):
    """The step with log-sums. If `fast`, the large block is one matrix product in exp space, with `exp_large`."""

    join = staticmethod(torch.logaddexp)

    def __init__(self, transitions: Tensor, blocks: Blocks, forward: bool, fast: bool) -> None:
        super().__init__(transitions, blocks, forward)
        self.fast, self.exp_large = fast, self.large.exp()

    def reduce(self, scores: Tensor, out: Tensor, kept: Tensor | None) -> None:
        """Write the log-sums over the sources."""
        if self.fast:
            torch.log(torch.exp(scores, out=kept) @ self.exp_large, out=out)
        else:
            torch.logsumexp(scores[:, :, None] + self.large, 1, out=out)


class _MaxStep(_Step):
    """The step from left to right with maxima: a search among the few sources that can win."""

    join = staticmethod(torch.maximum)

    def __init__(self, transitions: Tensor, blocks: Blocks) -> None:
        super().__init__(transitions, blocks, forward=True)
        self.spread = math.inf if self.large.is_cuda else -float(self.large.min())
        self.large_t = self.large.t().contiguous()
        self.room: Tensor | None = None  # for all pairs [n, G, F]: allocating it per step would cost as much as the sum

    def reduce(self, scores: Tensor, out: Tensor, kept: Tensor | None) -> None:
        """Write the maxima over the sources; `kept` is not used.

        A source that is further behind the best one than the transitions differ cannot win for any target, so often few
        are left. (Counting them would make a GPU wait, so a GPU tries all.)
        """
        sources = scores.shape[1]
        count = sources if math.isinf(self.spread) else int((scores >= -self.spread).sum(1).max().clamp_min(1))
        if count * 4 <= sources:
            values, places = scores.topk(count)
            torch.amax(values[:, :, None] + self.large[places], 1, out=out)
        else:
            if self.room is None:  # later steps never have more rows
                self.room = scores.new_empty(len(scores), *self.large_t.shape)
            ways = torch.add(scores[:, None, :], self.large_t, out=self.room[: len(scores)])
            torch.amax(ways, 2, out=out)


def finite_maxima(best: Tensor) -> Tensor:
    """Replace -inf (no source is reachable) by 0 in maxima to be subtracted, so that -inf stays -inf. In place."""
    return best.nan_to_num_(nan=torch.nan, neginf=0.0)


def paired_entries(table: Tensor, sources: Index, targets: Index) -> Tensor:
    """Return the entries [C] of a table [T, T] from the c-th source to the c-th target."""
    places = torch.arange(len(table), device=table.device)
    return table[places[sources], places[targets]]
