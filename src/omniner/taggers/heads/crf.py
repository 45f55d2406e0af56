"""One tag per character, with trained scores of transitions between tags. The default of taggers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from omniner.config.model_groups import HeadConfig
from omniner.taggers.heads import Head, HeadModule, LabelledBatch, ScoredSpan, Span, TagScheme
from omniner.taggers.linear_chain import constrained_crf, score_spans


class CRFHead(HeadModule):
    """A linear layer from a state to the scores of the tags, and the transition scores of a `CRF`.

    Args:
        in_dim: D, size of a state.
        scheme: the tags.
        config: not used.
    """

    def __init__(self, in_dim: int, scheme: TagScheme, config: HeadConfig) -> None:
        super().__init__()
        self.scheme = scheme
        self.emit = nn.Linear(in_dim, len(scheme))
        self.crf = constrained_crf(scheme)

    def loss(self, states: Tensor, batch: LabelledBatch) -> Tensor:
        """Return the negative log-likelihood of the tag sequences, summed over the sentences."""
        nll: Tensor = self.crf(self.emit(states), batch.tags, batch.lengths)
        return nll.sum()

    @torch.no_grad()
    def decode(self, states: Tensor, lengths: Sequence[int]) -> list[list[Span]]:
        """Return the entities of the most likely tag sequences."""
        tags = self.crf.decode(self.emit(states), lengths)
        return self.scheme.decode_batch(tags.cpu().numpy(), lengths)

    @torch.no_grad()
    def decode_scored(self, states: Tensor, lengths: Sequence[int]) -> list[list[ScoredSpan]]:
        """Return the same entities with their exact marginal probabilities, see `score_spans`."""
        emissions = self.emit(states)
        tags = self.crf.decode(emissions, lengths)
        return score_spans(self.crf, emissions, tags, lengths, self.scheme.decode_batch(tags.cpu().numpy(), lengths))


HEAD = Head(name="crf", description=__doc__, build=CRFHead, nested=False, members=True, keys=())
