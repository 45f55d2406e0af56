"""Each value by itself: the choices and ranges of every key, in tables.

What `auto` becomes where neither data nor machine are needed: heads, tuning, the name of a run.

What must hold between values, and of the files that a task reads.

What a typed configuration must fulfil: values in their ranges, pairs that work together, files that are there.

In comes a typed `Config` (see `omniner.config`), out come one `UserError` with the key at fault, or nothing; `resolve`
settles the `auto` values that need neither data nor machine. Adding a knob means a field in `schema`, a value in
`conf/`, and a line here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omniner.config import groups
from omniner.errors import UserError
from omniner.registry import FORMATS, HEADS, TASKS

METHODS = ("full", "lora", "qlora")
CHOICES: dict[str, tuple[str, ...]] = {
    "tuning.method": ("auto", *METHODS),
    "tuning.optimizer": ("auto", "adamw", "adamw_8bit"),
    "tuning.attention": ("auto", "masked", "cascade", "flash", "flex"),
    "prompt.language": ("zh", "en"),
    "prompt.answer": ("official", "compact"),
    "decoding.kind": ("free", "guided"),
    "decoding.engine": ("hf", "openai"),
    "decoding.structured": ("none", "json_schema", "vllm"),
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


def _get(config: groups.Config, key: str) -> Any:
    section, _, name = key.partition(".")
    value = getattr(config, section)
    return getattr(value, name, None) if name else value


def _numbers(config: groups.Config, keys: Sequence[str]) -> Iterator[tuple[str, float]]:
    """The values of those keys that this configuration has; a table or a list of numbers gives each of its own."""
    for key in keys:
        value = _get(config, key)
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", item) for name, item in value.items())
        elif isinstance(value, list):
            yield from ((key, item) for item in value)
        elif value is not None:
            yield key, value


def check_values(config: groups.Config) -> None:
    """Each value by itself: a known choice, in its range."""
    extensible: dict[str, tuple[str, ...]] = {
        "task.name": tuple(TASKS),
        "head.kind": ("auto", "none", *HEADS),
        "data.format": ("auto", *FORMATS, "synthetic"),
        "to": ("auto", "llama", "merged", "generated", *FORMATS),
    }
    for key, choices in {**extensible, **CHOICES}.items():
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


def resolve(config: groups.Config) -> groups.Config:
    """Settle the `auto` values that need neither data nor machine."""
    causal = isinstance(config.model, groups.CausalConfig)
    if config.head.kind == "auto":
        # A linear-chain CRF is the strongest of the three where mentions are flat, as in most corpora.
        config.head.kind = "none" if causal else "crf"
    if config.tuning.method == "auto":
        pretrained = isinstance(config.model, groups.CausalConfig) and config.model.path is not None
        config.tuning.method = "lora" if pretrained else "full"
    if config.name == "auto":
        config.name = TASKS[config.task.name].run_name(config)
    return config


def check_pairs(config: groups.Config) -> None:
    """Values that must fit together, and the files that the task reads."""
    trainer, tracking = config.trainer, config.tracking
    workers = max(trainer.devices, 1) * trainer.nodes
    if trainer.batch_size % workers:
        raise UserError(
            "trainer.batch_size",
            f"{trainer.batch_size} sentences do not divide over {workers} devices",
            f"Choose a multiple of {workers}.",
        )
    head, several = config.head.kind, isinstance(config.model, groups.BiLSTMConfig) and config.model.members > 1
    if several and head in HEADS and not HEADS.peek(head, "members"):
        able = " or ".join(f"head={name}" for name in HEADS if HEADS.peek(name, "members"))
        raise UserError("model.members", f"a {head} head cannot average members", f"Use {able}.")
    if config.metrics.profile == "official" and config.metrics.unit == "span":
        raise UserError("metrics.unit", "the official profile counts pairs, not spans", "Use metrics.unit=pair.")
    if tracking.kind == "server" and not tracking.uri:
        raise UserError("tracking.uri", "a tracking server has no address", "Set tracking.uri=http://host:port.")
    _check_causal(config)
    _check_prompt(config)
    if wrong := [name for name in config.split.shares if not name.isidentifier()]:  # files are called after them
        raise UserError("split.shares", f"{wrong[0]!r} is no name for a split", "Use letters, digits and _.")
    TASKS[config.task.name].check_config(config)


def _check_causal(config: groups.Config) -> None:
    """What only a causal model can do, and what it cannot."""
    model, tuning, decoding = config.model, config.tuning, config.decoding
    if isinstance(model, groups.CausalConfig):
        if config.head.kind not in ("auto", "none"):
            raise UserError("head.kind", f"{config.head.kind}, but a causal model has no head", "Leave head=auto.")
        if missing := [method for method in METHODS if method not in model.learning_rate]:
            raise UserError(f"model.learning_rate.{missing[0]}", "this key is missing", "Give a rate for each method.")
        if model.path is None and tuning.method == "qlora":
            raise UserError(
                "tuning.method", "qlora quantises a pretrained model, these weights are random", "Use lora."
            )
        if config.trainer.weight_average:
            raise UserError("trainer.weight_average", "causal models keep no average of their weights", "Set it to 0.")
    else:
        if config.head.kind == "none":
            raise UserError("head.kind", "a tagger needs a head", f"Choose one of: {', '.join(('auto', *HEADS))}.")
        if tuning.method in ("lora", "qlora"):
            raise UserError("tuning.method", f"{tuning.method} is for causal models", "Leave tuning=auto for taggers.")
        if config.trainer.strategy == "fsdp":
            raise UserError("trainer.strategy", "fsdp is for causal models; taggers are small", "Use trainer=ddp.")
    if decoding.engine == "openai" and not decoding.url:
        raise UserError("decoding.url", "the server has no address", "Set decoding.url=http://host:port/v1.")
    if decoding.engine == "openai" and TASKS[config.task.name].trains:
        raise UserError("decoding.engine", "a server cannot decode a model in training", "Use it with task=predict.")
    if decoding.top_p > 1:
        raise UserError("decoding.top_p", f"{decoding.top_p} is above 1", "Give a share up to 1.")


def _check_prompt(config: groups.Config) -> None:
    """Lessons are named once, and are for a model that can be told them."""
    prompt, taught = config.prompt, isinstance(config.model, groups.CausalConfig) or config.decoding.engine != "hf"
    if prompt.from_run and not taught and TASKS[config.task.name].prompts:
        raise UserError("prompt.from_run", "a tagger is told nothing", "Choose a causal model, or decoding=openai.")
    if prompt.lessons and not prompt.from_run:
        raise UserError("prompt.lessons", "prompt.from_run names no run whose lessons they are", "Set prompt.from_run.")
    if len(set(prompt.lessons)) < len(prompt.lessons) or min(prompt.lessons, default=1) < 1:
        raise UserError("prompt.lessons", f"{prompt.lessons}", "Give each number of guidance.md once, the first is 1.")
