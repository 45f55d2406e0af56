"""`predict`: a checkpoint and sentences in, predictions out, batch after batch.

Batches hold sentences of similar length, the longest first, so predictions come in another order than the sentences:
go by their ids. Every sentence gets exactly one prediction. What a sentence gets does not depend on the size of its
batch or on its neighbours: padding is masked exactly, and the best path of a sentence is its own. A text that is cut
or left out (`encoding.on_too_long`) says so in `Prediction.reason`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from omniner.encoding.batching import collate, plan_longest_first
from omniner.encoding.examples import Example
from omniner.models import checkpoints
from omniner.models.devices import settle
from omniner.models.network import Tagger
from omniner.records import Prediction, Sentence
from omniner.schema import Config

ENGINE = "tagger"


def predict(checkpoint: Path, sentences: Sequence[Sentence], config: Config) -> Iterator[list[Prediction]]:
    """Tag sentences; their own entities are not looked at.

    Args:
        checkpoint: `best.ckpt` or `last.ckpt` of a trained tagger.
        sentences: with different ids.
        config: `encoding` and `trainer` are read; the model is that of the checkpoint.
    """
    devices = settle(config)
    tagger = checkpoints.load(checkpoint).to(devices.first)
    bare = [Sentence(sentence.id, sentence.text) for sentence in sentences]
    examples, issues = tagger.encoder(config.encoding).encode(bare)
    reasons = {issue.id: f"{issue.code}: {issue.message}" for issue in issues}
    encoded = {example.id for example in examples}
    left_out = [sentence for sentence in bare if sentence.id not in encoded]
    if left_out:
        yield [_unread(sentence, reasons[sentence.id]) for sentence in left_out]
    mixed = devices.precision != "32-true"
    for positions in plan_longest_first([e.length for e in examples], config.trainer.eval_batch_size):
        chosen = [examples[position] for position in positions]
        with torch.inference_mode(), torch.autocast(devices.first.type, torch.bfloat16, enabled=mixed):
            yield _tag(tagger, chosen, reasons, devices.first)


def _tag(
    tagger: Tagger, examples: Sequence[Example], reasons: dict[str, str], device: torch.device
) -> list[Prediction]:
    batch = collate(examples, 0, 1).to(device)
    entities = tagger.entities(batch, tagger.spans(batch))
    return [
        Prediction(example.id, found, reason=reasons.get(example.id, ""), engine=ENGINE)
        for example, found in zip(examples, entities, strict=True)
    ]


def _unread(sentence: Sentence, reason: str) -> Prediction:
    """An empty text has no entity; one that is left out has an answer that failed."""
    return Prediction(sentence.id, parse="failed" if sentence.text else "ok", reason=reason, engine=ENGINE)
