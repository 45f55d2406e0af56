"""Each value by itself: the choices and ranges of every key, in tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omniner import schema
from omniner.errors import UserError

METHODS = ("full", "lora", "qlora")
CORPUS_FORMATS = (  # read and written
    "jsonl",
    "conll",
    "cluener",
    "cmeee",
    "omniner_csv",
    "label_studio",
    "doccano",
    "brat",
)
CHOICES: dict[str, tuple[str, ...]] = {
    "task.name": (
        "train",
        "predict",
        "score",
        "compare",
        "check",
        "adjudicate",
        "agreement",
        "convert",
        "guide",
        "stats",
        "split",
        "filter",
        "search",
    ),
    "head.kind": ("auto", "none", "softmax", "crf", "span"),
    "tuning.method": ("auto", *METHODS),
    "tuning.optimizer": ("auto", "adamw", "adamw_8bit"),
    "tuning.attention": ("auto", "masked", "cascade", "flash", "flex"),
    "prompt.language": ("zh", "en"),
    "prompt.answer": ("official", "compact"),
    "decoding.kind": ("free", "guided"),
    "decoding.engine": ("hf", "openai"),
    "decoding.structured": ("none", "json_schema", "vllm"),
    "data.format": ("auto", *CORPUS_FORMATS, "alpaca", "synthetic"),
    "data.scheme": ("auto", "bio", "bioes", "bmes", "bios"),
    "data.separator": ("auto", "tab", "space"),
    "data.taxonomy": ("omniner2025", "flat"),
    "data.report": ("test", "dev"),
    "data.on_issue": ("keep", "fail"),
    "encoding.on_too_long": ("fail", "skip", "truncate"),
    "trainer.accelerator": ("auto", "cpu", "gpu"),
    "trainer.strategy": ("auto", "ddp", "fsdp"),
    "trainer.precision": ("auto", "32-true", "bf16-mixed", "bf16-true"),
    "trainer.schedule": ("constant", "linear", "cosine"),
    "metrics.unit": ("auto", "pair", "span"),
    "metrics.profile": ("own", "official"),
    "metrics.on_parse_failure": ("empty", "drop"),
    "errta.mode": ("auto", "official", "span"),
    "adjudicate.measure": ("f1", "accuracy"),
    "adjudicate.unqualified": ("drop", "fail"),
    "guide.split": ("dev", "train", "test"),
    "guide.language": ("zh", "en"),
    "teacher.kind": ("none", "openai", "hf"),
    "teacher.structured": ("none", "json_schema"),
    "split.together": ("auto", "texts", "mentions", "posts"),
    "filter.together": ("auto", "texts", "mentions", "posts"),
    "tracking.kind": ("off", "local", "server"),
    "to": ("auto", "llama", "merged", "generated", "alpaca", *CORPUS_FORMATS),
}
POSITIVE = (
    "trainer.nodes",
    "trainer.max_epochs",
    "trainer.batch_size",
    "trainer.eval_batch_size",
    "trainer.eval_every",
    "encoding.max_length",
    "model.members",
    "model.learning_rate",
    "model.head_learning_rate",
    "head.max_span",
    "head.biaffine_dim",
    "tuning.rank",
    "tuning.alpha",
    "tuning.pack_tokens",
    "decoding.max_new_tokens",
    "decoding.slots",
    "decoding.concurrency",
    "decoding.timeout",
    "decoding.top_p",
    "compare.resamples",
    "compare.permutations",
    "agreement.top",
    "guide.clusters",
    "guide.min_errors",
    "guide.examples",
    "guide.surfaces",
    "prompt.max_tokens",
    "search.largest",
    "search.held_out",
    "stats.near",
    "stats.ngram",
    "stats.top",
    "filter.min_mentions",
    "filter.dev_from_train",
    "teacher.concurrency",
    "teacher.timeout",
    "teacher.slots",
    "teacher.max_new_tokens",
    "teacher.max_requests",
)
NOT_NEGATIVE = (
    "trainer.eval_steps",
    "trainer.eval_sample",
    "trainer.checkpoint_minutes",
    "trainer.gradient_clip",
    "model.weight_decay",
    "model.vocabulary",
    "prompt.examples",
    "prompt.corrections",
    "search.rungs",
    "search.sentences",
    "search.spare",
    "search.random",
    "search.corrections",
    "search.examples",
    "decoding.temperature",
    "decoding.retries",
    "compare.examples",
    "agreement.bootstrap",
    "guide.suspects",
    "stats.candidates",
    "stats.rare",
    "split.shares",
    "children.parallel",
    "children.gpus",
    "teacher.retries",
)
SHARES = (
    "search.keep",
    "search.held_out",
    "data.dev_from_train",
    "stats.near",
    "stats.warn",
    "stats.fail",
    "split.shares",
    "filter.dev_from_train",
    "trainer.warmup",
    "trainer.weight_average",
    "metrics.confidence",
    "compare.confidence",
    "compare.alpha",
    "adjudicate.qualify",
    "agreement.confidence",
    "model.dropout",
    "model.embedding_dropout",
    "model.unk_dropout",
    "model.bigram_dropout",
    "model.entity_replacement",
    "head.label_smoothing",
    "tuning.dropout",
)


def _get(config: schema.Config, key: str) -> Any:
    section, _, name = key.partition(".")
    value = getattr(config, section)
    return getattr(value, name, None) if name else value


def _numbers(config: schema.Config, keys: Sequence[str]) -> Iterator[tuple[str, float]]:
    """The values of those keys that this configuration has; a table or a list of numbers gives each of its own."""
    for key in keys:
        value = _get(config, key)
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", item) for name, item in value.items())
        elif isinstance(value, list):
            yield from ((key, item) for item in value)
        elif value is not None:
            yield key, value


def check_values(config: schema.Config) -> None:
    """Each value by itself: a known choice, in its range."""
    for key, choices in CHOICES.items():
        if (value := _get(config, key)) not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise UserError(key, f"{value!r} is not a choice", f"{hint}Choose one of: {', '.join(choices)}.")
    for key, value in _numbers(config, POSITIVE):
        if value <= 0:
            raise UserError(key, f"{value} is not above 0", "Give a positive number.")
    for key, value in _numbers(config, NOT_NEGATIVE):
        if value < 0:
            raise UserError(key, f"{value} is below 0", "Give 0 or more.")
    for key, value in _numbers(config, SHARES):
        if not 0 <= value < 1:
            raise UserError(key, f"{value} is not a share", "Give a number from 0 to below 1.")
