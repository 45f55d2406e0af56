"""Build packs: many sentences behind one copy of their common prompt prefix, and the packs of each optimizer step.

A `Pack` is the input of one forward pass: one row of tokens, first the prefix that all prompts share, then each
sample's own part, its suffix. Positions in each suffix continue from the prefix, as if no other suffix existed;
attention must let a suffix see only the prefix and itself (`shared_prefix`). The last answer token of a sample predicts
nothing that is learnt, so it is only a target.

A `PackedStep` is the work of one process in one optimizer step. The samples of a step follow from the seed, the epoch
and the lengths, as for taggers. Their division into packs follows from `pack_tokens` and the number of processes: as
few packs as fit, equally many for each process, because sharded training communicates in each forward pass, and equally
full. A smaller `pack_tokens` costs one more pass over the prefix for each additional pack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from omniner.compute.devices import send

if TYPE_CHECKING:
    from omniner.llm.samples import Sample

T = TypeVar("T")


@dataclass
class Pack:
    """One row of T tokens: a prefix of P, then N suffixes, the longest first.

    Attributes:
        ids, positions: long [T].
        prefix_length: P, at least 1.
        lengths: tokens of the N suffixes (rest of the prompt, answer without its last token); they sum to T - P.
        keep: long [K], ascending: indices in the row whose logits predict.
        targets: long [K], what they must predict.
        bounds: long [N + 2], the beginnings of the prefix and each suffix, and the end of the last.
        weight: 1, or 0 for a pack that only keeps this process in step with others and must not count.
        derived: values that attention back-ends computed from the lengths, once for all layers.
    """

    ids: Tensor
    positions: Tensor
    prefix_length: int
    lengths: list[int]
    keep: Tensor
    targets: Tensor
    bounds: Tensor
    weight: int = 1
    derived: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def prefix_rows(self) -> slice:
        """Indices of the prefix."""
        return slice(0, self.prefix_length)

    @property
    def suffix_rows(self) -> slice:
        """Indices of all suffixes."""
        return slice(self.prefix_length, None)

    def cached(self, name: str, make: Callable[[Pack], T]) -> T:
        """Return `make(self)`, computed on the first use of this name and kept."""
        if name not in self.derived:
            self.derived[name] = make(self)
        value: T = self.derived[name]
        return value

    def segments(self) -> Tensor:
        """Return the number of each token's part: long [T], 0 in the prefix, n in the n-th suffix (from 1)."""
        numbers = torch.arange(len(self.lengths) + 1, device=self.ids.device)
        return torch.repeat_interleave(numbers, self.bounds.diff(), output_size=len(self.ids))

    def to(self, device: torch.device | str) -> Pack:
        """Copy the pack to a device."""
        parts = [self.ids, self.positions, self.keep, self.targets, self.bounds]
        ids, positions, keep, targets, bounds = send(parts, device)
        return replace(self, ids=ids, positions=positions, keep=keep, targets=targets, bounds=bounds, derived={})


@dataclass
class PackedStep:
    """The work of one process in one optimizer step.

    Attributes:
        packs: equally many on every process.
        answer_tokens: number of targets of the whole step, over all processes: the divisor of the summed losses.
        sentences: number of sentences of the whole step, over all processes.
    """

    packs: list[Pack]
    answer_tokens: int
    sentences: int

    def to(self, device: torch.device | str) -> PackedStep:
        """Copy the step to a device."""
        return replace(self, packs=[pack.to(device) for pack in self.packs])


def make_pack(samples: Sequence[Sample], prefix_length: int, weight: int = 1) -> Pack:
    """Build the pack of some samples; the loss covers every token of their answers.

    Args:
        samples: at least one.
        prefix_length: number of tokens that all their prompts begin with; each prompt has at least one token more.
        weight: of the pack, see `Pack`.

    Raises:
        ValueError: a prompt that begins differently or ends with the prefix, or an empty answer.
    """
    ordered = sorted(samples, key=suffix_length(prefix_length), reverse=True)  # equal lengths are adjacent
    common = ordered[0].prompt[:prefix_length]
    ids, positions = list(common), list(range(prefix_length))
    lengths: list[int] = []
    keep: list[int] = []
    targets: list[int] = []
    for sample in ordered:
        if sample.prompt[:prefix_length] != common or len(sample.prompt) <= prefix_length or not sample.answer:
            raise ValueError(
                f"a sample's prompt does not begin with the {prefix_length} common tokens and go on, or no answer"
            )
        suffix = [*sample.prompt[prefix_length:], *sample.answer[:-1]]
        first = len(ids) + len(sample.prompt) - prefix_length - 1  # the prompt's last token predicts the answer's first
        keep += range(first, first + len(sample.answer))
        targets += sample.answer
        positions += range(prefix_length, prefix_length + len(suffix))
        ids += suffix
        lengths.append(len(suffix))
    return Pack(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        prefix_length=prefix_length,
        lengths=lengths,
        keep=torch.tensor(keep),
        targets=torch.tensor(targets),
        bounds=torch.tensor([0, *accumulate([prefix_length, *lengths])]),
        weight=weight,
    )


def suffix_length(prefix_length: int) -> Callable[[Sample], int]:
    """Return a function that counts the tokens that a sample adds to a pack after a prefix of this length."""
    return lambda sample: len(sample.prompt) - prefix_length + len(sample.answer) - 1


def plan_packs(lengths: Sequence[int], prefix_length: int, pack_tokens: int, ranks: int) -> list[list[list[int]]]:
    """Divide the samples of one optimizer step into packs, equally many for each process.

    There are as few packs as possible with at most `pack_tokens` each; a sample that is too long alone gets its own
    pack. The longest samples go first, each into the pack with the fewest tokens, which leaves the packs equally full.

    Args:
        lengths: suffix lengths of the step's samples.
        prefix_length: P; counts once for each pack.
        pack_tokens: most tokens of a pack.
        ranks: number of processes.

    Returns:
        For each process its packs, as indices of `lengths`; some packs are empty if there are too few samples.
    """
    room = pack_tokens - prefix_length
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    tokens, most = sum(min(length, room) for length in lengths), room * ranks
    each = -(-tokens // most) if room > 0 else -(-len(lengths) // ranks)
    while (bins := fill_bins(order, lengths, each * ranks, room)) is None:
        each += 1
    return [bins[rank::ranks] for rank in range(ranks)]


def fill_bins(order: list[int], lengths: Sequence[int], count: int, room: int) -> list[list[int]] | None:
    """Put indices into `count` bins; None if one would hold several samples and more than `room` tokens."""
    bins: list[list[int]] = [[] for _ in range(count)]
    used = [0] * count
    for position in order:
        least = used.index(min(used))
        if bins[least] and used[least] + lengths[position] > room:
            return None
        bins[least].append(position)
        used[least] += lengths[position]
    return bins


def pack_step(samples: Sequence[Sample], prefix_length: int, pack_tokens: int, rank: int, ranks: int) -> PackedStep:
    """Build one process's share of an optimizer step.

    Args:
        samples: all of the step, over all processes.
        prefix_length: number of tokens that all prompts share.
        pack_tokens: most tokens of a pack.
        rank: number of this process.
        ranks: number of processes.
    """
    lengths = list(map(suffix_length(prefix_length), samples))
    shares = plan_packs(lengths, prefix_length, pack_tokens, ranks)
    shortest = samples[lengths.index(min(lengths))]
    packs = []
    for share in shares[rank]:
        if share:
            packs.append(make_pack([samples[place] for place in share], prefix_length))
        else:  # too few samples for all processes: a cheap pack that does not count
            packs.append(make_pack([shortest], prefix_length, weight=0))
    return PackedStep(packs, sum(len(sample.answer) for sample in samples), len(samples))
