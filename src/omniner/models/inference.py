"""`predict`: a checkpoint and sentences in, predictions out, batch after batch.

A tagger is one file, a causal model a folder; without a checkpoint the causal model of the configuration answers as it
is. The longest sentences come first, so predictions come in another order than the sentences: go by their ids. Every
sentence gets exactly one prediction. What a tagger says does not depend on the size of its batch or on a sentence's
neighbours: padding is masked exactly, and the best path of a sentence is its own. A causal model decodes the same
sentences together after an interruption as before it, so that it goes on with the same bits. A text that is cut or
left out (`encoding.on_too_long`) says so in `Prediction.reason`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from omniner.corpus import sources
from omniner.encoding import prompts
from omniner.encoding.batching import collate, plan_longest_first
from omniner.encoding.examples import Example
from omniner.encoding.samples import PromptEncoder
from omniner.errors import UserError
from omniner.models import answering, causal, checkpoints
from omniner.models.causal import CausalModel
from omniner.models.devices import Devices, settle
from omniner.models.network import Tagger
from omniner.models.progress import Progress
from omniner.records import Issue, Prediction, Sentence
from omniner.schema import CausalConfig, Config

log = logging.getLogger("omniner")

ENGINE = "tagger"


def predict(
    checkpoint: Path | None, sentences: Sequence[Sentence], config: Config, done: frozenset[str] = frozenset()
) -> Iterator[list[Prediction]]:
    """Tag sentences; their own entities are not looked at.

    Args:
        checkpoint: `best.ckpt` or `last.ckpt` of a trained tagger, or the `best` folder of a causal model. None = the
            model of the configuration, untrained by us, with `prompt` and the categories of the corpus.
        sentences: with different ids; to go on after an interruption, all of them again.
        config: `encoding`, `trainer` and `decoding` are read; model and prompt are those of the checkpoint.
        done: ids of sentences that need no prediction any more.
    """
    bare = [Sentence(sentence.id, sentence.text) for sentence in sentences]
    if done.issuperset(sentence.id for sentence in bare) and done:
        return
    tagger = checkpoint is not None and not checkpoint.is_dir()
    devices = settle(config, causal_model=not tagger)
    if checkpoint is not None and tagger:
        yield from _tag_all(checkpoint, [sentence for sentence in bare if sentence.id not in done], config, devices)
        return
    dtype = devices.dtype(learns=False)
    model = _untrained(config, dtype) if checkpoint is None else causal.load(checkpoint, dtype, devices.first)
    model.model.to(devices.first).eval()
    yield from _answer_all(model, bare, config, done)


def _tag_all(
    checkpoint: Path, sentences: Sequence[Sentence], config: Config, devices: Devices
) -> Iterator[list[Prediction]]:
    """Those of a tagger."""
    tagger = checkpoints.load(checkpoint).to(devices.first)
    examples, issues = tagger.encoder(config.encoding).encode(sentences)
    reasons = _reasons(issues)
    encoded = {example.id for example in examples}
    if left_out := [sentence for sentence in sentences if sentence.id not in encoded]:
        yield [_unread(sentence, reasons[sentence.id], ENGINE) for sentence in left_out]
    progress = Progress("sentences tagged", len(examples))
    mixed = devices.precision != "32-true"
    for positions in plan_longest_first([e.length for e in examples], config.trainer.eval_batch_size):
        chosen = [examples[position] for position in positions]
        with torch.inference_mode(), torch.autocast(devices.first.type, torch.bfloat16, enabled=mixed):
            found = _tag(tagger, chosen, reasons, devices.first)
        yield found
        progress.add(len(found))


def _answer_all(
    model: CausalModel, sentences: Sequence[Sentence], config: Config, done: frozenset[str]
) -> Iterator[list[Prediction]]:
    """Those of a causal model."""
    encoder = PromptEncoder(model.chat, model.prompt, config.encoding)
    samples, issues = encoder.encode(sentences)
    reasons = _reasons(issues)
    encoded, name = {sample.id for sample in samples}, answering.engine(config.decoding)
    left_out = [sentence for sentence in sentences if sentence.id not in encoded and sentence.id not in done]
    if left_out:
        yield [_unread(sentence, reasons[sentence.id], name) for sentence in left_out]
    if not samples:
        return
    prefix = samples[0].prompt[: encoder.prefix_length(samples)]
    guide = answering.build_guide(model, config.decoding)
    progress = Progress("sentences answered", sum(sample.id not in done for sample in samples))
    for found in answering.answers(model, samples, prefix, config.decoding, guide, config.seed, done):
        for prediction in found:
            prediction.reason = "; ".join(filter(None, (reasons.get(prediction.id, ""), prediction.reason)))
        yield found
        progress.add(len(found))


def _untrained(config: Config, dtype: torch.dtype) -> CausalModel:
    """The model of the configuration as it is, asked about the categories of the corpus."""
    if not isinstance(config.model, CausalConfig):
        raise UserError("checkpoint", "a tagger must be trained before it can predict", "Set checkpoint=<path>.")
    corpus = sources.load(config.data, ["train"])
    train = corpus.splits["train"]
    prompt = prompts.build(config.prompt, corpus.taxonomy.active(train), train)
    # adapters that have learnt nothing would only cost time; 4-bit weights may be what makes a model fit
    method = config.tuning.method if config.tuning.method == "qlora" else "full"
    tuning = dataclasses.replace(config.tuning, method=method, gradient_checkpointing=False)
    return causal.build(config.model, tuning, prompt, [s.text for s in train], dtype, config.seed)


def _reasons(issues: Sequence[Issue]) -> dict[str, str]:
    return {issue.id: f"{issue.code}: {issue.message}" for issue in issues}


def _tag(
    tagger: Tagger, examples: Sequence[Example], reasons: dict[str, str], device: torch.device
) -> list[Prediction]:
    batch = collate(examples, 0, 1).to(device)
    entities = tagger.entities(batch, tagger.spans(batch))
    return [
        Prediction(example.id, found, reason=reasons.get(example.id, ""), engine=ENGINE)
        for example, found in zip(examples, entities, strict=True)
    ]


def _unread(sentence: Sentence, reason: str, engine: str) -> Prediction:
    """An empty text has no entity; one that is left out has an answer that failed."""
    return Prediction(sentence.id, parse="failed" if sentence.text else "ok", reason=reason, engine=engine)
