"""From the command line's choices to a checked, typed `Config`: compose -> validate -> rules -> `Config`.

Hydra composes the YAML files of `conf/` with the overrides (`compose`). Then `check` holds the result against the
types of `omniner.config.groups` and against the rules between values (`check_pairs`, at the end), and decides what
`auto` means where neither data nor machine are needed for that; other `auto` values are left to the part that knows.
Each rule is one statement: the key at fault, when it is, what was found, what to do. What only one task needs stands
with the entry of that task.
Every mistake is one `UserError` with its key. Nothing heavy is imported, so that a mistake is answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import AliasToken, YAMLError

from omniner.config.class_defaults import with_class_defaults, without_class_defaults
from omniner.config.groups import Config
from omniner.config.model_groups import BiLSTMConfig, CausalConfig, HeadConfig, Method, TuningConfig
from omniner.config.overrides import check_own_choices, explain_override, override_line, read_arguments
from omniner.config.validate import field_types, validate
from omniner.errors import UserError, first_line_of, masked, one_line
from omniner.files import explaining
from omniner.registry import HEADS, TASKS, load_extensions

MOST_BYTES = 1 << 18  # of a configuration, twenty times as much as the longest one written: YAML reads 3 s a megabyte

T = TypeVar("T")

# What may change without making a run another run: where it is written and logged, not what it computes.
NOT_IDENTITY = ("output_dir", "resume", "overwrite", "tracking", "children")

SCORING = ("metrics", "errta")  # the sections that say what a score and an error are
_JUDGED = ("head", "tuning")  # the sections of which a model reads some keys only

# Environment: the user's own folders of configurations, as a list in an override holds them, for children of a sweep.
SEARCH_PATH = "OMNINER_SEARCH_PATH"

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


def conf_folder() -> Path:
    """Where `conf/` is: in the installed package, or in a checkout that is not installed."""
    spec = find_spec("omniner.conf")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else Path(__file__).resolve().parents[3] / "conf"


def load(overrides: Sequence[str]) -> Config:
    """Compose and check in one step: the entry for notebooks and tests.

    Args:
        overrides: as on the command line: `["data=cluener", "seed=7"]`.

    Raises:
        UserError: for the first key at fault, or for a module that `OMNINER_EXTENSIONS` names in vain.
    """
    from hydra.errors import HydraException

    load_extensions()
    try:
        composed = compose(overrides)
    except HydraException as error:
        if explained := explain_override(error, overrides, conf_folder()):
            raise explained from error
        raise UserError("overrides", one_line(error), "Give them as on the command line.") from error
    return check(composed)


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration as the command line would, unchecked."""
    own = [f"hydra.searchpath=[{os.environ[SEARCH_PATH]}]"] if os.environ.get(SEARCH_PATH) else []
    arguments = [*own, *read_arguments(overrides, conf_folder())]
    check_own_choices(arguments, conf_folder())
    with _hydra():
        from hydra import compose as hydra_compose

        return hydra_compose("config", overrides=arguments)


_composing = threading.RLock()  # Hydra keeps what it composes with in objects of the whole process
_of_job: Any = None  # the Hydra of the job that this process is doing


def keep_hydra() -> None:
    """Compose with the Hydra that runs now, as long as it does: it was started with our `conf/` and its search path."""
    global _of_job
    from hydra.core.global_hydra import GlobalHydra

    _of_job = GlobalHydra.instance().hydra


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    """Hydra, ready to compose from `conf/`; one that another program runs is set aside for the block."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobRuntime
    from hydra.version import VersionBase

    with _composing:
        if _of_job is not None and GlobalHydra.instance().hydra is _of_job:
            yield
            return
        kinds: tuple[type, ...] = (GlobalHydra, JobRuntime, VersionBase)  # what it keeps of a running job
        objects = Singleton._instances
        theirs = {kind: objects.pop(kind) for kind in kinds if kind in objects}
        try:
            with initialize_config_dir(str(conf_folder()), version_base="1.3"):
                yield
        finally:
            for kind in kinds:
                objects.pop(kind, None)
            objects.update(theirs)


def job_logging() -> DictConfig:
    """Where and how `conf/` wants messages written."""
    with _hydra():
        from hydra import compose as hydra_compose

        composed = hydra_compose("config", return_hydra_config=True)
    return cast(DictConfig, composed.hydra.job_logging)


def check(composed: DictConfig) -> Config:
    """Check a composed configuration, give it types and decide what `auto` means.

    Raises:
        UserError: for the first key at fault.
    """
    try:
        raw: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(error.full_key or "config", first_line_of(error), "Give this key a value.") from error
    by_recipe = {key: OmegaConf.is_interpolation(composed.trainer, key) for key in ("max_epochs", "min_steps")}
    if by_recipe["min_steps"] and not by_recipe["max_epochs"]:
        raw["trainer"]["min_steps"] = 0  # who says how many epochs means just these
    config = _typed(raw)
    refuse("name", "/" in config.name, f"{config.name!r} names a folder in a folder", "Give a name without a slash.")
    return config


def _typed(raw: Any) -> Config:
    config: Config = validate(Config, raw)
    check_pairs(config)
    return resolve(config)


def resolve(config: Config) -> Config:
    """Decide the `auto` values that need neither data nor machine.

    Returns:
        The same configuration, changed.
    """
    if config.head.kind == "auto":
        # A linear-chain CRF is the strongest of the heads where mentions are flat, as in most corpora.
        config.head.kind = "none" if isinstance(config.model, CausalConfig) else "crf"
    config.tuning.method = _tuning_method(config)
    if config.name == "auto":
        config.name = TASKS[config.task.name].run_name(config)
    for key, name in (("data.name", config.data.name), ("name", config.name)):  # files and folders are called so
        outside = Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name
        refuse(key, outside, f"{name!r} names a place outside the folder of all runs", "Give a plain name.")
    return config


def _tuning_method(config: Config) -> Method:
    """What `tuning.method` means for the model."""
    if config.tuning.method != "auto":
        return config.tuning.method
    return "lora" if isinstance(config.model, CausalConfig) and config.model.path is not None else "full"


def section(composed: DictConfig, name: str, group: type[T]) -> T:
    """Check and give types to one section only."""
    typed: T = validate(group, OmegaConf.to_container(composed[name], resolve=True), name)
    return typed


def read(path: Path) -> Config:
    """Read the checked configuration of a file that `to_yaml` wrote: the whole of a run's `config.yaml`."""
    return _typed(read_mapping(path, "Name the config.yaml of a run."))


def read_old(path: Path) -> Config:
    """Read the `config.yaml` of a run as `read` does, of which neither inputs nor anything else need be there now."""
    config: Config = validate(Config, read_mapping(path, "Name the config.yaml of a run."))
    return resolve(config)


def adopt(config: Config, path: Path, names: Sequence[str]) -> Config:
    """Take parts of a configuration from the `config.yaml` of another run.

    Args:
        config: of this run.
        path: of the other run's file.
        names: sections, such as `model` and `data`, and keys that stand in none, such as `seed`.

    Returns:
        A copy of `config` with these parts.

    Raises:
        UserError: the file is no configuration, or one of another version of this program.
    """
    fix = "Name a run of this version of OmniNER, or train it again."
    raw = read_mapping(path, fix)
    if missing := [name for name in names if name not in raw]:
        raise UserError(path, f"not the configuration of a run ({', '.join(missing)} is missing)", fix)
    try:
        taken = {name: validate(field_types(Config)[name], raw[name], name) for name in names}
    except UserError as error:
        raise UserError(path, f"{error.where}: {error.found}", fix) from error
    return dataclasses.replace(config, **taken)


def with_keys_of(source: Config, keys: Sequence[str], config: Config) -> Config:
    """Take single keys of sections from another configuration.

    Args:
        source: where the values stand.
        keys: dotted.
        config: of whose sections they are.

    Returns:
        A copy of `config` with these values.

    Raises:
        UserError: the section of `config` is of another kind, which has no such key.
    """
    values = dataclasses.asdict(config)
    for key in keys:
        given, place = dataclasses.asdict(source), values
        *above, name = key.split(".")
        for part in above:
            given, place = given.get(part, {}), place.setdefault(part, {})
        place[name] = given.get(name)
    sections = {key.partition(".")[0] for key in keys}
    return dataclasses.replace(
        config, **{name: validate(field_types(Config)[name], values[name], name) for name in sections}
    )


def read_mapping(path: Path, fix: str) -> dict[str, Any]:
    """Read the `config.yaml` of a run as plain values, unchecked: of any version.

    It may be somebody else's: what reads like a reference (`${oc.env:...}`) is a text of it, as `to_yaml` wrote it.

    Args:
        path: of the file.
        fix: what to do where it is none.

    Raises:
        UserError: it is no YAML mapping, or too long for a configuration.
    """
    with explaining(path):
        data = path.read_bytes()
    if len(data) > MOST_BYTES:
        raise UserError(path, f"{len(data):,} bytes, where a configuration has at most {MOST_BYTES:,}", fix)
    try:
        text = data.decode("utf-8")
        if any(isinstance(token, AliasToken) for token in (yaml.scan(text) if "&" in text and "*" in text else ())):
            raise UserError(path, "aliases (`*name`), of which a few lines can become any amount", fix)
        raw = OmegaConf.to_container(OmegaConf.create(text), throw_on_missing=True)
    except UserError:
        raise
    except (OmegaConfBaseException, ValueError, YAMLError, RecursionError) as error:
        raise UserError(path, f"not a configuration ({first_line_of(error)})", fix) from error
    if not isinstance(raw, dict):
        raise UserError(path, "not the configuration of a run", fix)
    return cast(dict[str, Any], raw)


def to_yaml(config: Config, only: Sequence[str] = ()) -> str:
    """A checked configuration as YAML, for people and for the run's folder; `only` these sections and keys, if any."""
    values = dataclasses.asdict(config)
    return OmegaConf.to_yaml(OmegaConf.create({key: values[key] for key in only} if only else values))


def digest(config: Config) -> str:
    """What makes two runs the same run: a hash over everything but where it is written and logged."""
    said = without_class_defaults(Config, dataclasses.asdict(config))
    values = {key: value for key, value in said.items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def flat(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, checked or as read from the `config.yaml` of a run, or a section of one, by dotted keys."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping) and (value or not prefix):
            for key, item in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            yield prefix, value

    return dict(walk("", config if isinstance(config, Mapping) else dataclasses.asdict(config)))


def differences(config: Config | Mapping[str, Any], defaults: Config | Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose value is not the default one: key -> (default, value)."""
    whole = [with_class_defaults(Config, one) if isinstance(one, Mapping) else one for one in (config, defaults)]
    ours, theirs = map(flat, whole)
    keys = sorted(ours.keys() | theirs.keys())
    return {key: (theirs.get(key), ours.get(key)) for key in keys if theirs.get(key) != ours.get(key)}


def scoring_line(config: Config | Mapping[str, Any]) -> str:
    """Return the overrides with which another command scores and sorts errors as this configuration does.

    Args:
        config: checked, or as read from the `config.yaml` of a run.

    Returns:
        Them as one types them into a shell; empty where nothing but the defaults of `conf/config.yaml` is set.
    """
    file = read_mapping(conf_folder() / "config.yaml", "Install OmniNER again.")
    usual, ours = flat({name: file[name] for name in SCORING}), flat(config)
    return override_line({key: ours[key] for key in usual if key in ours and ours[key] != usual[key]})


def check_pairs(config: Config) -> None:
    """Check what must hold between values, and what the task needs.

    Raises:
        UserError: for the first rule that is broken.
    """
    _check_texts(config)
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
            not split.isidentifier(),  # files are called after it
            f"{split!r} is no name for a split",
            "Use letters, digits and _.",
        )
    TASKS[config.task.name].check_config(config)


def refuse(key: str, when: bool, found: str, fix: str) -> None:
    """Raise a `UserError` where a rule is broken."""
    if when:
        raise UserError(key, found, fix)


def _check_texts(config: Config) -> None:
    """Refuse texts that would do harm wherever they are used or written."""
    for key, value in flat(config).items():
        for text in [key, *(value if isinstance(value, list) else [value])]:
            if isinstance(text, str):
                refuse(key, "\0" in text, f"{text!r} holds a NUL character", "Leave it out.")
                broken = text.encode("utf-8", "replace").decode("utf-8") != text
                refuse(key, broken, f"{text!a} is no UTF-8 text", "Rename the file, or write it in UTF-8.")
                refuse_login(key, text)


def refuse_login(key: str, text: str) -> None:
    """Raise a `UserError` where a text that belongs to a key, its value or an override of it, holds a login.

    A prompt may speak of an address; elsewhere it is one. Configurations are written into files and tracked.
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
    method = _tuning_method(config)  # of the others no rate is asked: an older run lacks those that came later
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


def without_effect(config: Config) -> dict[str, str]:
    """Find the settings that nothing reads: runs that they set apart would be equal.

    A new run that somebody starts with one is refused. Runs that were begun so go on, as their command says, and a job
    of a sweep has keys that are for other jobs.

    Returns:
        Why each of them has no effect, by its dotted key.
    """
    given = [f"{name}.{key}" for name in _JUDGED for key in _set_keys(name, getattr(config, name))]
    return {key: why for key in given if (why := why_unread(config, key))}


def why_unread(config: Config, key: str) -> str:
    """Say why a dotted key of `head` or `tuning` has no effect; empty for one that has, or may have, and for others.

    Where the task trains nothing, the model may come from elsewhere, and that of the configuration says nothing.
    """
    section, _, name = key.partition(".")
    if section not in _JUDGED or name in ("kind", "method"):
        return ""
    if not set(_JUDGED) & set(TASKS[config.task.name].settings(config)):
        return ""
    if config.llm is not None:
        return "a causal model has no head" if section == "head" else ""
    if section == "tuning":
        return "it is for causal models; taggers always train all weights"
    reads = {head: HEADS.peek(head, "keys") for head in HEADS}
    if (own := reads[config.head.kind]) is None or name in own:
        return ""
    able = [head for head, keys in reads.items() if name in (keys or ())]
    only = f", only {' or '.join(f'head={head}' for head in able)}" if able else ""
    return f"a {config.head.kind} head does not read it{only}"


def _set_keys(name: str, section: HeadConfig | TuningConfig) -> list[str]:
    """The keys of a section whose values are not those of its first file in `conf/`."""
    path = conf_folder() / name / "auto.yaml"
    usual = dataclasses.asdict(validate(type(section), read_mapping(path, "Install OmniNER again."), name))
    return [key for key, value in dataclasses.asdict(section).items() if value != usual[key]]


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
        decoding.engine != "hf" and TASKS[config.task.name].trains,
        "a server cannot decode a model in training",
        "Use it with task=predict.",
    )


def _check_prompt(config: Config) -> None:
    prompt = config.prompt
    told = isinstance(config.model, CausalConfig) or config.decoding.engine != "hf"
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
