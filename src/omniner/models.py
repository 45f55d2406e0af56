"""Taggers: backbones, heads, the CRF, training, checkpoints, prediction.

`predict`: a checkpoint and sentences in, predictions out, batch after batch.

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

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from omniner.config.groups import CausalConfig, Config
from omniner.corpus import sources
from omniner.corpus.sources import Corpus
from omniner.corpus.taxonomy import active_categories
from omniner.errors import UserError
from omniner.llm.generative import GenerativeData, GenerativeModule, build_constraint, engine_name, predict_answers
from omniner.llm.language_model import CausalModel, build_causal_model, load_causal_model
from omniner.llm.prompts import build_prompt
from omniner.llm.samples import PromptEncoder
from omniner.progress import Progress
from omniner.records import Issue, Prediction, Sentence
from omniner.taggers import network
from omniner.taggers.batches import TaggerData, collate
from omniner.taggers.inputs import EncodedSentence
from omniner.taggers.network import Tagger
from omniner.taggers.tagger import TaggerModule
from omniner.training import fit as fitting
from omniner.training.data import plan_longest_first
from omniner.training.devices import Devices, base_of, settle
from omniner.training.fit import FitResult

log = logging.getLogger("omniner")

Prepared = tuple[TaggerModule, TaggerData] | tuple[GenerativeModule, GenerativeData]

ENGINE = "tagger"


def fit(
    config: Config, corpus: Corpus, folder: Path, logger: Logger | bool | None, callbacks: Sequence[Callback]
) -> FitResult:
    """Train the model of a configuration, or go on with it.

    Args:
        config: all of it; what the model needs of it, `trainer` and `seed` are read.
        corpus: its `train` is learnt from, its `dev` chooses the checkpoint.
        folder: of the run.
        logger: of Lightning, or none.
        callbacks: further ones, before those of `trainer.callbacks`.
    """
    devices = settle(config, isinstance(config.model, CausalConfig))
    module, data = _prepare(config, devices, corpus.splits["train"], corpus.splits["dev"])
    return fitting.fit(config, devices, module, data, folder, logger, callbacks)


def prepare(config: Config, train: Sequence[Sentence], dev: Sequence[Sentence]) -> Prepared:
    """The module and the data of a training run; every mistake in configuration or data shows here."""
    return _prepare(config, settle(config, isinstance(config.model, CausalConfig)), train, dev)


def _prepare(config: Config, devices: Devices, train: Sequence[Sentence], dev: Sequence[Sentence]) -> Prepared:
    categories = active_categories(config.data.taxonomy, train)
    pl.seed_everything(config.seed, verbose=False)
    if isinstance(config.model, CausalConfig):
        return _prepare_generative(config, config.model, devices, categories, train, dev)
    tagger = Tagger.build(config, (sentence.text for sentence in train), sorted(categories))
    encoder = tagger.encoder(config.encoding)
    data = TaggerData(encoder, train, dev, config.trainer, config.model.entity_replacement, config.seed)
    return TaggerModule(tagger, config.trainer, config.seed), data


def _prepare_generative(
    config: Config,
    model: CausalConfig,
    devices: Devices,
    categories: Sequence[str],
    train: Sequence[Sentence],
    dev: Sequence[Sentence],
) -> tuple[GenerativeModule, GenerativeData]:
    prompt = build_prompt(config.prompt, categories, train)
    _check_sharding(config, devices)
    dtype = devices.dtype(learns=config.tuning.method == "full")
    built = build_causal_model(model, config.tuning, prompt, [sentence.text for sentence in train], dtype, config.seed)
    encoder = PromptEncoder(built.chat, prompt, config.encoding)
    data = GenerativeData(
        encoder, train, dev, config.trainer, config.tuning.pack_tokens, model.entity_replacement, config.seed
    )
    _check_positions(built, data)
    return GenerativeModule(built, config, devices.precision, data.prefix), data


def _check_positions(built: CausalModel, data: GenerativeData) -> None:
    """A prompt with its answer must fit into the positions that the model knows."""
    positions = getattr(base_of(built.model).config, "max_position_embeddings", None)
    samples = [*data.train_samples, *data.dev_samples]
    longest = max(samples, key=lambda sample: len(sample.prompt) + len(sample.answer))
    tokens = len(longest.prompt) + len(longest.answer)
    if positions is not None and tokens > positions:
        raise UserError(
            "encoding.max_length",
            f"sentence {longest.id} has {tokens} tokens with prompt and answer, the model takes {positions}",
            "Lower it, with encoding.on_too_long=truncate or skip, or take a shorter prompt.",
        )


def _check_sharding(config: Config, devices: Devices) -> None:
    """What bitsandbytes keeps cannot be divided between processes."""
    if devices.strategy != "fsdp":
        return
    if config.tuning.method == "qlora":
        raise UserError("trainer.strategy", "fsdp cannot divide 4-bit weights", "Use trainer=ddp, or tuning=lora.")
    if config.tuning.optimizer == "adamw_8bit":
        found = "fsdp cannot divide the state of an 8-bit optimizer"
        raise UserError("tuning.optimizer", found, "Use adamw: its state is divided between the processes.")


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
    model = _untrained(config, dtype) if checkpoint is None else load_causal_model(checkpoint, dtype, devices.first)
    model.model.to(devices.first).eval()
    yield from _answer_all(model, bare, config, done)


def _tag_all(
    checkpoint: Path, sentences: Sequence[Sentence], config: Config, devices: Devices
) -> Iterator[list[Prediction]]:
    """Those of a tagger."""
    tagger = network.load(checkpoint).to(devices.first)
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
    encoded, name = {sample.id for sample in samples}, engine_name(config.decoding)
    left_out = [sentence for sentence in sentences if sentence.id not in encoded and sentence.id not in done]
    if left_out:
        yield [_unread(sentence, reasons[sentence.id], name) for sentence in left_out]
    if not samples:
        return
    prefix = samples[0].prompt[: encoder.prefix_length(samples)]
    constraint = build_constraint(model, config.decoding)
    progress = Progress("sentences answered", sum(sample.id not in done for sample in samples))
    for found in predict_answers(model, samples, prefix, config.decoding, constraint, config.seed, done):
        for prediction in found:
            prediction.reason = "; ".join(filter(None, (reasons.get(prediction.id, ""), prediction.reason)))
        yield found
        progress.add(len(found))


def _untrained(config: Config, dtype: torch.dtype) -> CausalModel:
    """The model of the configuration as it is, asked about the categories of the corpus."""
    if not isinstance(config.model, CausalConfig):
        raise UserError("checkpoint", "a tagger must be trained before it can predict", "Set checkpoint=<path>.")
    corpus = sources.load_corpus(config.data, ["train"])
    train = corpus.splits["train"]
    prompt = build_prompt(config.prompt, corpus.active, train)
    # adapters that have learnt nothing would only cost time; 4-bit weights may be what makes a model fit
    method = config.tuning.method if config.tuning.method == "qlora" else "full"
    tuning = dataclasses.replace(config.tuning, method=method, gradient_checkpointing=False)
    return build_causal_model(config.model, tuning, prompt, [s.text for s in train], dtype, config.seed)


def _reasons(issues: Sequence[Issue]) -> dict[str, str]:
    return {issue.id: f"{issue.code}: {issue.message}" for issue in issues}


def _tag(
    tagger: Tagger, examples: Sequence[EncodedSentence], reasons: dict[str, str], device: torch.device
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
