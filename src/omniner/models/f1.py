"""F1 on dev during training, counted by the code that scores at the end and exact over any number of processes.

Right, wrong and missed units are whole numbers and are summed over the processes, so the result is that of one
process to the last bit, unlike a mean of means. The loss is summed the same way and divided by what it is a mean
over: sentences for a tagger, answer tokens for a model that writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from omniner.analysis.scores.metrics import Counts, compare, score_row
from omniner.records import Entity


class DevScore(Metric):
    """Micro precision, recall and F1 over the entities of dev, the mean loss, and how many answers were unreadable.

    Args:
        unit: what counts as one, `span` or `pair` (see `analysis.scores.metrics`).
        answers: whether entities are read from a model's text, which may fail.
    """

    full_state_update = False
    counts: Tensor
    losses: Tensor

    def __init__(self, unit: str, answers: bool, **options: Any) -> None:
        super().__init__(**options)
        self._unit, self._answers = unit, answers
        # true positives, false positives, false negatives, sentences, unreadable answers
        self.add_state("counts", torch.zeros(5, dtype=torch.long), dist_reduce_fx="sum")
        # sum of the losses, and what it is divided by
        self.add_state("losses", torch.zeros(2, dtype=torch.float), dist_reduce_fx="sum")

    def update(
        self,
        gold: Sequence[Sequence[Entity]],
        predicted: Sequence[Sequence[Entity]],
        failed: int,
        loss: Tensor,
        size: int,
    ) -> None:
        """Count some sentences.

        Args:
            gold, predicted: entities of each sentence; repeated ones count once.
            failed: sentences whose answer could not be read.
            loss: a sum.
            size: sentences or answer tokens that it was summed over.
        """
        row = Counts.of(compare(gold, predicted, self._unit)).micro()
        self.counts += torch.tensor([row.tp, row.fp, row.fn, len(gold), failed], device=self.counts.device)
        self.losses += torch.stack([loss.detach().to(self.losses), self.losses.new_tensor(size)])

    def compute(self) -> dict[str, float]:
        """`precision`, `recall`, `f1`, `loss`; with answers also `parse_failed`, the share of unreadable ones."""
        tp, fp, fn, sentences, failed = self.counts.tolist()
        loss, size = self.losses.tolist()
        row = score_row(tp, fp, fn)
        values = {"precision": row.precision, "recall": row.recall, "f1": row.f1, "loss": loss / size if size else 0.0}
        if self._answers:
            values["parse_failed"] = failed / sentences if sentences else 0.0
        return values
