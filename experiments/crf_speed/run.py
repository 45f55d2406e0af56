"""CRF of 361 tags, 32 sentences of up to 128 characters: OmniNER against pytorch-crf, in CPU seconds of one thread.

Each round runs every contestant once, in turn, so that both meet the same machine; a ratio is taken per round. What
is timed is first compared: loss, every gradient and every decoded tag.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchcrf
from torch import Tensor

from omniner.taggers.heads import TagScheme, mask_of
from omniner.taggers.linear_chain import CRF, constrained_crf

CATEGORIES, BATCH, LENGTH = 90, 32, 128


class Case:
    """One setting: the same emissions, tags and parameters for both.

    Args:
        constrained: only BIOES transitions exist. pytorch-crf has no constraints: it is timed without them, and
            compared with the transitions at -10,000 (which makes it nearly four times as slow).
        ragged: lengths of 20 to 128 characters instead of 128 each.
        wide: transitions as wide as a trained CRF's (standard deviation 1.5) instead of the first values.
    """

    def __init__(self, constrained: bool, ragged: bool, wide: bool) -> None:
        torch.manual_seed(0)
        scheme = TagScheme([str(n) for n in range(CATEGORIES)])
        self.ours = constrained_crf(scheme) if constrained else CRF(len(scheme))
        if wide:
            self.ours.transitions.data.normal_(0, 1.5)
        self.peer = torchcrf.CRF(len(scheme), batch_first=True)
        for name, allowed in (
            ("start_transitions", self.ours.allowed_start),
            ("transitions", self.ours.allowed),
            ("end_transitions", self.ours.allowed_end),
        ):
            getattr(self.peer, name).data = getattr(self.ours, name).data.masked_fill(~allowed, -1e4)
        self.emissions = torch.randn(BATCH, LENGTH, len(scheme), requires_grad=True)
        lengths = torch.randint(20, LENGTH + 1, (BATCH,)) if ragged else torch.full((BATCH,), LENGTH)
        lengths[0] = LENGTH
        self.lengths = lengths.tolist()
        self.mask = mask_of(self.lengths, LENGTH)
        spans = [[(at, at + 3, at % CATEGORIES) for at in range(0, int(n) - 3, 7)] for n in lengths]
        self.tags = torch.tensor([scheme.encode(row, LENGTH)[0] for row in spans])
        if not constrained:
            self.tags = torch.randint(0, len(scheme), (BATCH, LENGTH))

    def step(self, ours: bool) -> list[Tensor]:
        """Loss and all gradients."""
        crf = self.ours if ours else self.peer
        self.emissions.grad = None
        crf.zero_grad()
        if ours:
            loss = self.ours(self.emissions, self.tags, self.lengths).sum()
        else:
            loss = -self.peer(self.emissions, self.tags, self.mask, reduction="sum")
        loss.backward()
        gradients = [crf.start_transitions.grad, crf.transitions.grad, crf.end_transitions.grad]
        return [loss.detach(), self.emissions.grad, *gradients]

    def decode(self, ours: bool) -> list[list[int]]:
        """Best tags of each sentence."""
        with torch.no_grad():
            if not ours:
                return self.peer.decode(self.emissions, self.mask)
            tags = self.ours.decode(self.emissions, self.lengths)
            return [row[:n].tolist() for row, n in zip(tags, self.lengths, strict=True)]


def ratios(run: Callable[[bool], object], rounds: int) -> tuple[list[float], list[float], list[float]]:
    """CPU seconds of the peer, of ours, and the ratio, per round."""
    peer, own = [], []
    run(False), run(True)
    for _ in range(rounds):
        for ours, seconds in ((False, peer), (True, own)):
            begin = time.process_time()
            run(ours)
            seconds.append(time.process_time() - begin)
    return peer, own, [one / two for one, two in zip(peer, own, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {rounds} rounds; ms of CPU are medians, ratios min / median / max", flush=True)
    for constrained, ragged, wide in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1)):
        case = Case(bool(constrained), bool(ragged), bool(wide))
        own, peer = case.step(True), case.step(False)
        apart = max(float((x - y).norm() / y.norm()) for x, y in zip(own, peer, strict=True))
        same = sum(x == y for x, y in zip(case.decode(True), case.decode(False), strict=True))
        kind = f"{'BIOES' if constrained else 'all'} transitions, {'wide' if wide else 'first values'}"
        print(f"\n{kind}, {'20-128' if ragged else '128'} characters:", end=" ")
        print(f"loss and gradients within {apart:.1e}, {same} of {BATCH} decoded alike")
        case.peer.load_state_dict(case.ours.state_dict())
        for name, run in (("training step", case.step), ("Viterbi", case.decode)):
            a, b, c = ratios(run, rounds)
            times = f"pytorch-crf {statistics.median(a) * 1e3:6.0f} ms, OmniNER {statistics.median(b) * 1e3:5.1f} ms"
            print(f"  {name:13} {times}, ratio {min(c):.1f} / {statistics.median(c):.1f} / {max(c):.1f}", flush=True)


if __name__ == "__main__":
    main()
