"""One softmax per character; decoding takes the best legal tag sequence. The cheapest.

The best legal sequence is found by the CRF's Viterbi algorithm with all transitions at 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from omniner.compute.devices import send
from omniner.config.model_groups import HeadConfig
from omniner.taggers.heads import Head, HeadModule, LabelledBatch, ScoredSpan, Span, TagScheme, mask_of
from omniner.taggers.linear_chain import constrained_crf, score_spans


class SoftmaxHead(HeadModule):
    """A linear layer from a state to the scores of the tags.

    Args:
        in_dim: D, size of a state.
        scheme: the tags.
        config: `label_smoothing` is used: the share of the target that is spread over all tags.
    """

    def __init__(self, in_dim: int, scheme: TagScheme, config: HeadConfig) -> None:
        super().__init__()
        self.scheme, self.label_smoothing = scheme, config.label_smoothing
        self.emit = nn.Linear(in_dim, len(scheme))
        # with all transitions at 0 the best legal sequence depends only on the characters; these weights are not
        # trained
        self.path = constrained_crf(scheme).requires_grad_(False)
        for parameter in self.path.parameters():
            parameter.zero_()

    def loss(self, states: Tensor, batch: LabelledBatch) -> Tensor:
        """Return the cross entropy, summed over the characters."""
        real = mask_of(batch.lengths, states.shape[1])
        places, tags = send([real.flatten().nonzero()[:, 0], batch.tags[real]], states.device)
        logits = self.emit(states).flatten(0, 1)[places].float()
        return functional.cross_entropy(logits, tags, reduction="sum", label_smoothing=self.label_smoothing)

    @torch.no_grad()
    def decode(self, states: Tensor, lengths: Sequence[int]) -> list[list[Span]]:
        """Return the entities of the most likely legal tag sequences."""
        tags = self.path.decode(self.emit(states).float(), lengths)
        return self.scheme.decode_batch(tags.cpu().numpy(), lengths)

    @torch.no_grad()
    def decode_scored(self, states: Tensor, lengths: Sequence[int]) -> list[list[ScoredSpan]]:
        """Return the same entities with their probabilities: the characters' softmaxes multiplied, among all legal
        sequences, see `score_spans`.
        """
        emissions = self.emit(states).float()
        tags = self.path.decode(emissions, lengths)
        return score_spans(self.path, emissions, tags, lengths, self.scheme.decode_batch(tags.cpu().numpy(), lengths))


HEAD = Head(
    name="softmax",
    description=__doc__,
    build=SoftmaxHead,
    nested=False,
    members=True,
    keys=("label_smoothing",),
)
