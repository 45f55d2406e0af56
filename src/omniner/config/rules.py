"""What must hold between values, and what `auto` becomes where neither data nor machine are needed.

Each rule is one statement: the key at fault, when it is, what was found, what to do. What a value must be by itself
stands with its field in `omniner.config.groups`, and what only one task needs with the entry of that task.
"""

from __future__ import annotations

from typing import get_args

from omniner.config.groups import Config
from omniner.config.model_groups import BiLSTMConfig, CausalConfig, Method
from omniner.errors import UserError
from omniner.registry import HEADS, TASKS


def check_pairs(config: Config) -> None:
    """Check what must hold between values, and what the task needs.

    Raises:
        UserError: for the first rule that is broken.
    """
    if isinstance(config.model, CausalConfig):
        _check_causal(config, config.model)
    else:
        _check_tagger(config, config.model.members if isinstance(config.model, BiLSTMConfig) else 1)
    _check_training(config)
    _check_prompt(config)
    refuse(
        "metrics.unit",
        config.metrics.profile == "official" and config.metrics.unit == "span",
        "the official profile counts pairs, not spans",
        "Use metrics.unit=pair.",
    )
    refuse(
        "tracking.uri",
        config.tracking.kind == "server" and not config.tracking.uri,
        "a tracking server has no address",
        "Set tracking.uri=http://host:port.",
    )
    for split in config.split.shares:
        refuse(
            "split.shares",
            not split.isidentifier(),  # files are called after it
            f"{split!r} is no name for a split",
            "Use letters, digits and _.",
        )
    TASKS[config.task.name].check_config(config)


def refuse(key: str, when: bool, found: str, fix: str) -> None:
    """Raise a `UserError` where a rule is broken."""
    if when:
        raise UserError(key, found, fix)


def _check_causal(config: Config, model: CausalConfig) -> None:
    refuse(
        "head.kind",
        config.head.kind not in ("auto", "none"),
        f"{config.head.kind}, but a causal model has no head",
        "Leave head=auto.",
    )
    for method in get_args(Method):
        refuse(
            f"model.learning_rate.{method}",
            method not in model.learning_rate,
            "this key is missing",
            "Give a rate for each method.",
        )
    refuse(
        "tuning.method",
        config.tuning.method == "qlora" and model.path is None,
        "qlora quantises a pretrained model, these weights are random",
        "Use lora.",
    )
    refuse(
        "trainer.weight_average",
        config.trainer.weight_average > 0,
        "causal models keep no average of their weights",
        "Set it to 0.",
    )


def _check_tagger(config: Config, members: int) -> None:
    refuse(
        "head.kind",
        config.head.kind == "none",
        "a tagger needs a head",
        f"Choose one of: {', '.join(['auto', *HEADS])}.",
    )
    able = [name for name in HEADS if HEADS.peek(name, "members")] if members > 1 else []
    refuse(
        "model.members",
        members > 1 and config.head.kind not in ("auto", *able),
        f"a {config.head.kind} head cannot average members",
        f"Use {' or '.join(f'head={name}' for name in able)}.",
    )
    refuse(
        "tuning.method",
        config.tuning.method in ("lora", "qlora"),
        f"{config.tuning.method} is for causal models",
        "Leave tuning=auto for taggers.",
    )
    refuse(
        "trainer.strategy",
        config.trainer.strategy == "fsdp",
        "fsdp is for causal models; taggers are small",
        "Use trainer=ddp.",
    )


def _check_training(config: Config) -> None:
    trainer, decoding = config.trainer, config.decoding
    workers = max(trainer.devices, 1) * trainer.nodes
    refuse(
        "trainer.batch_size",
        trainer.batch_size % workers > 0,
        f"{trainer.batch_size} sentences do not divide over {workers} devices",
        f"Choose a multiple of {workers}.",
    )
    refuse(
        "decoding.url",
        decoding.engine == "openai" and not decoding.url,
        "the server has no address",
        "Set decoding.url=http://host:port/v1.",
    )
    refuse(
        "decoding.engine",
        decoding.engine == "openai" and TASKS[config.task.name].trains,
        "a server cannot decode a model in training",
        "Use it with task=predict.",
    )


def _check_prompt(config: Config) -> None:
    prompt = config.prompt
    told = isinstance(config.model, CausalConfig) or config.decoding.engine == "openai"
    refuse(
        "prompt.from_run",
        bool(prompt.from_run) and not told and TASKS[config.task.name].prompts,
        "a tagger is told nothing",
        "Choose a causal model, or decoding=openai.",
    )
    refuse(
        "prompt.lessons",
        bool(prompt.lessons) and not prompt.from_run,
        "prompt.from_run names no run whose lessons they are",
        "Set prompt.from_run.",
    )
    refuse(
        "prompt.lessons",
        len(set(prompt.lessons)) < len(prompt.lessons),
        f"{prompt.lessons} has one twice",
        "Give each number of guidance.md once.",
    )


def resolve(config: Config) -> Config:
    """Decide the `auto` values that need neither data nor machine.

    Returns:
        The same configuration, changed.
    """
    causal = isinstance(config.model, CausalConfig)
    pretrained = isinstance(config.model, CausalConfig) and config.model.path is not None
    if config.head.kind == "auto":
        # A linear-chain CRF is the strongest of the heads where mentions are flat, as in most corpora.
        config.head.kind = "none" if causal else "crf"
    if config.tuning.method == "auto":
        config.tuning.method = "lora" if pretrained else "full"
    if config.name == "auto":
        config.name = TASKS[config.task.name].run_name(config)
    return config
