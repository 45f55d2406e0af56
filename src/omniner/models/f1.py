"""Span F1 during training, counted by the code that scores at the end and exact over any number of processes.

Right, wrong and missed spans are whole numbers and are summed over the processes, so the result is that of one
process to the last bit, unlike a mean of means. The loss is summed the same way and divided by the number of
sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from omniner.analysis.metrics import Counts, compare, score_row
from omniner.records import Entity


class SpanF1(Metric):
    """Micro precision, recall and F1 over spans with their categories, and the mean loss of a sentence."""

    full_state_update = False
    counts: Tensor
    loss: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # true positives, false positives, false negatives, sentences
        self.add_state("counts", torch.zeros(4, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros((), dtype=torch.float), dist_reduce_fx="sum")

    def update(self, gold: Sequence[Sequence[Entity]], predicted: Sequence[Sequence[Entity]], loss: Tensor) -> None:
        """Count a batch.

        Args:
            gold, predicted: entities of each sentence; repeated ones count once.
            loss: summed over the sentences.
        """
        row = Counts.of(compare(gold, predicted, "span")).micro()
        self.counts += torch.tensor([row.tp, row.fp, row.fn, len(gold)], device=self.counts.device)
        self.loss += loss.detach().to(self.loss)

    def compute(self) -> dict[str, float]:
        """`precision`, `recall`, `f1`, `loss`."""
        tp, fp, fn, sentences = self.counts.tolist()
        row = score_row(tp, fp, fn)
        loss = float(self.loss) / sentences if sentences else 0.0
        return {"precision": row.precision, "recall": row.recall, "f1": row.f1, "loss": loss}
