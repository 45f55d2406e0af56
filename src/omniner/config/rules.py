"""Check the rules between the values of a configuration, and resolve `auto`.

`checked` does all the steps from plain values to a `Config`: types and ranges (`omniner.config.validate`), then the
rules (`check_rules`), then those `auto` values that need neither data nor machine; other modules resolve the rest. Each
rule is one call of `refuse`: the wrong key, the condition, what was found, what to do. Rules for a single task are in
that task's entry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from omniner.config.groups import Config
from omniner.config.model_groups import BiLSTMConfig, CausalConfig, Method
from omniner.config.validate import flat, validate
from omniner.errors import UserError, masked
from omniner.registry import ENGINES, HEADS, TASKS, TEACHERS

JUDGED = ("head", "tuning")  # sections of which a model reads only some keys
_UNREAD_BY_METHOD: dict[str, tuple[str, ...]] = {  # keys of `tuning`; a method that is not here may read any
    "full": ("rank", "alpha", "dropout", "targets", "double_quantization"),
    "lora": ("double_quantization",),
}

_LOGINS = {
    "tracking.uri": "Leave it out, and set the environment variables MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
    "decoding.url": "Leave it out, and put the key into the environment variable that decoding.api_key_env names.",
    "teacher.url": "Leave it out, and put the key into the environment variable that teacher.api_key_env names.",
}
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SECRET_KEY = re.compile(
    r"decoding\.(?:options|extra_body)\.(?:.*[._-])?(?:api[_-]?key|(?:hf|auth|access)[_-]?token|secret|password)",
    re.IGNORECASE,
)


def checked(values: Mapping[str, Any]) -> Config:
    """Convert plain values to a `Config`, check the rules between them, and resolve `auto`.

    Raises:
        UserError: for the first wrong key.
    """
    config: Config = validate(Config, values)
    check_rules(config)
    return resolve_auto(config)


def resolve_auto(config: Config) -> Config:
    """Resolve the `auto` values that need neither data nor machine, such as the name of the run.

    Returns:
        The same configuration, changed.
    """
    if config.head.kind == "auto":
        # A linear-chain CRF is the strongest head if mentions do not overlap, as in most corpora.
        config.head.kind = "none" if isinstance(config.model, CausalConfig) else "crf"
    config.tuning.method = _tuning_method(config)
    if config.name == "auto":
        config.name = TASKS[config.task.name].run_name(config)
    for key, name in (("data.name", config.data.name), ("name", config.name)):  # files and folders get these names
        outside = Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name
        refuse(key, outside, f"{name!r} names a place outside the folder of all runs", "Give a plain name.")
    return config


def _tuning_method(config: Config) -> Method:
    """Return the method that `tuning.method` stands for."""
    if config.tuning.method != "auto":
        return config.tuning.method
    return "lora" if isinstance(config.model, CausalConfig) and config.model.path is not None else "full"


def check_rules(config: Config) -> None:
    """Check the rules between values, and those of the task.

    Raises:
        UserError: for the first broken rule.
    """
    _check_texts(config)
    refuse(
        "model.revision",
        not isinstance(config.model, BiLSTMConfig) and config.model.path is None and config.model.revision is not None,
        "a revision, but model.path is null: random weights have none",
        "Leave it out, or name a hub model in model.path.",
    )
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
    refuse(
        "tracking.uri",
        config.tracking.kind == "local" and bool(config.tracking.uri),
        "tracking=local takes no address: its store is a file in tracking.folder",
        "Set tracking=server, or leave it out.",
    )
    for key, value in (("data.root", config.data.root), ("data.files", config.data.files)):
        refuse(
            key,
            config.data.format == "synthetic" and bool(value),
            f"the corpus {config.data.name} is generated and has no files",
            "Choose data=own for files of yours.",
        )
    for section, name in (("decoding", config.decoding.api_key_env), ("teacher", config.teacher.api_key_env)):
        refuse(
            f"{section}.api_key_env",
            bool(name) and not _VARIABLE.fullmatch(name),
            "no name of an environment variable (the key itself, perhaps)",
            f"Put the key into a variable (export MY_KEY=...), and name that: {section}.api_key_env=MY_KEY.",
        )
    for split in config.split.shares:
        refuse(
            "split.shares",
            not split.isidentifier(),  # files are named after it
            f"{split!r} is no name for a split",
            "Use letters, digits and _.",
        )
    TASKS[config.task.name].check_config(config)


def refuse(key: str, when: bool, found: str, fix: str) -> None:
    """Raise a `UserError` if `when` is true."""
    if when:
        raise UserError(key, found, fix)


def _check_texts(config: Config) -> None:
    """Raise a `UserError` for texts with NUL characters, broken UTF-8, or a login."""
    for key, value in flat(config).items():
        for text in [key, *(value if isinstance(value, list) else [value])]:
            if isinstance(text, str):
                refuse(key, "\0" in text, f"{text!r} holds a NUL character", "Leave it out.")
                broken = text.encode("utf-8", "replace").decode("utf-8") != text
                fix = "Rename the file, or write it in UTF-8."
                if broken and _is_misread(text):
                    fix = "The locale is not that of the text: set LC_ALL=C.UTF-8, or PYTHONUTF8=1."
                refuse(key, broken, f"{text!a} is no UTF-8 text", fix)
                refuse_login(key, text)


def _is_misread(text: str) -> bool:
    """Whether a text with surrogates is UTF-8 that Python decoded as ASCII."""
    try:
        return bool(text.encode("utf-8", "surrogateescape").decode("utf-8"))
    except UnicodeError:
        return False


def refuse_login(key: str, text: str) -> None:
    """Raise a `UserError` if a text of a key (its value, or an override of it) contains a login.

    The reason: configurations are written to files and tracked. A prompt may mention such an address as text; in other
    keys it is an address.
    """
    fix = "Leave it out, and put it into the environment: the server reads VLLM_API_KEY or HF_TOKEN, requests what "
    fix += "decoding.api_key_env names."
    refuse(key, text not in ("", key) and bool(_SECRET_KEY.fullmatch(key)), "a secret among the options", fix)
    secret = not key.startswith("prompt.") and masked(text) != text
    refuse(key, secret, "an address with a login or a key in it", _LOGINS.get(key, "Leave it out."))


def _check_causal(config: Config, model: CausalConfig) -> None:
    refuse(
        "head.kind",
        config.head.kind not in ("auto", "none"),
        f"{config.head.kind}, but a causal model has no head",
        "Leave head=auto.",
    )
    method = _tuning_method(config)  # only its rate is required: older runs lack those of newer methods
    refuse(
        f"model.learning_rate.{method}",
        method not in model.learning_rate,
        "this key is missing",
        "Give the rate of tuning.method.",
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
        config.tuning.method not in ("auto", "full"),
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
    trainer, engine = config.trainer, ENGINES[config.decoding.engine]
    workers = max(trainer.devices, 1) * trainer.nodes
    refuse(
        "trainer.batch_size",
        trainer.batch_size % workers > 0,
        f"{trainer.batch_size} sentences do not divide over {workers} devices",
        f"Choose a multiple of {workers}.",
    )
    refuse(
        "trainer.max_steps",
        trainer.max_steps == 0,
        "0 steps train nothing",
        "Give 1 or more; -1 = no limit.",
    )
    engine.check(config.decoding)
    for key, wanted in (("scores", config.decoding.scores), ("min_score", config.decoding.min_score is not None)):
        refuse(
            f"decoding.{key}",
            wanted and not engine.in_process,
            "a server gives no confidence per entity",
            "Leave it out, or let the model run here (decoding=free or guided).",
        )
    refuse(
        "decoding.engine",
        not engine.in_process and TASKS[config.task.name].trains,
        "a server cannot decode a model in training",
        "Use it with task=predict.",
    )


def _check_prompt(config: Config) -> None:
    prompt = config.prompt
    prompted = isinstance(config.model, CausalConfig) or not ENGINES[config.decoding.engine].local_weights
    refuse(
        "prompt.from_run",
        bool(prompt.from_run) and not prompted and TASKS[config.task.name].prompts,
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


def why_unread(config: Config, key: str) -> str:
    """Return why a dotted key of `head`, `tuning` or `teacher` has no effect; empty if it may have one.

    Also empty for keys of other sections, and if the task does not use these sections: its model may come from
    elsewhere then.
    """
    section, _, name = key.partition(".")
    if section == "teacher":
        return _why_no_teacher_reads(config, name)
    if section not in JUDGED or name in ("kind", "method"):
        return ""
    if not set(JUDGED) & set(TASKS[config.task.name].settings(config)):
        return ""
    if config.llm is not None:
        return "a causal model has no head" if section == "head" else _why_method_ignores(config.tuning.method, name)
    if section == "tuning":
        return "it is for causal models; taggers always train all weights"
    reads = {head: HEADS.peek(head, "keys") for head in HEADS}
    if (own := reads[config.head.kind]) is None or name in own:
        return ""
    able = [head for head, keys in reads.items() if name in (keys or ())]
    only = f", only {' or '.join(f'head={head}' for head in able)}" if able else ""
    return f"a {config.head.kind} head does not read it{only}"


def _why_method_ignores(method: str, name: str) -> str:
    """Return why a key of `tuning` has no effect with a method; empty if it may have one."""
    if name not in _UNREAD_BY_METHOD.get(method, ()):
        return ""
    able = [other for other in get_args(Method) if name not in _UNREAD_BY_METHOD.get(other, ())]
    return f"tuning.method={method} does not read it, only {' or '.join(f'tuning={other}' for other in able)}"


def _why_no_teacher_reads(config: Config, name: str) -> str:
    """Return why a key of `teacher` that says where a teacher is has no effect; empty if it may have one."""
    keys, kind = keys_of_teachers(), config.teacher.kind
    if "teacher" not in TASKS[config.task.name].settings(config) or keys.get(kind) == name:
        return ""
    owners = [f"teacher={owner}" for owner, key in keys.items() if key == name]
    return f"teacher={kind} does not read it, only {' or '.join(owners)}" if owners else ""


def keys_of_teachers() -> dict[str, str]:
    """Return for each kind of teacher the key of `teacher` that says where it is, if it has one."""
    return {kind: key for kind in TEACHERS if (key := TEACHERS.peek(kind, "key"))}
