"""From a composed Hydra configuration to a checked, typed `Config`; every mistake is one line with its key.

Hydra composes the groups of `conf/`; this module checks the result against `omniner.config.groups`: unknown keys, wrong
types, values outside their choices, pairs that cannot work together. It resolves what does not depend on data or
machine (`head=auto`, the run's name) and leaves the rest of the `auto` values to the part that knows. Only
omegaconf is imported, so that a mistake is answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from omniner.config import groups, rules
from omniner.errors import UserError
from omniner.files import explaining

T = TypeVar("T")

SECTIONS: dict[str, type] = {
    "task": groups.TaskConfig,
    "head": groups.HeadConfig,
    "tuning": groups.TuningConfig,
    "prompt": groups.PromptConfig,
    "decoding": groups.DecodingConfig,
    "data": groups.DataConfig,
    "encoding": groups.EncodingConfig,
    "trainer": groups.TrainerConfig,
    "metrics": groups.MetricsConfig,
    "errta": groups.ErrtaConfig,
    "compare": groups.CompareConfig,
    "adjudicate": groups.AdjudicateConfig,
    "agreement": groups.AgreementConfig,
    "guide": groups.GuideConfig,
    "stats": groups.StatsConfig,
    "split": groups.SplitConfig,
    "filter": groups.FilterConfig,
    "search": groups.SearchConfig,
    "children": groups.ChildrenConfig,
    "teacher": groups.TeacherConfig,
    "tracking": groups.TrackingConfig,
}
MODELS: dict[str, type] = {
    "bilstm": groups.BiLSTMConfig,
    "encoder": groups.EncoderConfig,
    "causal": groups.CausalConfig,
}
# What may change without making a run another run: where it is written and logged, not what it computes.
NOT_IDENTITY = ("output_dir", "resume", "tracking", "children")

# Environment: the user's own folders of configurations, as a list in an override holds them, for children of a sweep.
SEARCH_PATH = "OMNINER_SEARCH_PATH"


def conf_path() -> str:
    """Where Hydra finds `conf/`: the installed package, or the folder of a checkout that is not installed."""
    from importlib.util import find_spec

    if find_spec("omniner.conf") is not None:
        return "pkg://omniner.conf"
    return str(Path(__file__).resolve().parents[3] / "conf")


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration as the command line would: the entry for notebooks and tests."""
    with _hydra():
        from hydra import compose as hydra_compose

        own = [f"hydra.searchpath=[{os.environ[SEARCH_PATH]}]"] if os.environ.get(SEARCH_PATH) else []
        return hydra_compose("config", overrides=[*own, *overrides])


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    """Hydra, ready to compose from `conf/`, as it is in a process that it started itself."""
    from hydra import initialize_config_dir, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    with contextlib.ExitStack() as stack:
        path = conf_path()
        if GlobalHydra.instance().is_initialized():
            pass
        elif path.startswith("pkg://"):
            stack.enter_context(initialize_config_module(path.removeprefix("pkg://"), version_base="1.3"))
        else:
            stack.enter_context(initialize_config_dir(path, version_base="1.3"))
        yield


def load(overrides: Sequence[str]) -> groups.Config:
    """Compose and check in one step."""
    return check(compose(overrides))


def check(composed: DictConfig) -> groups.Config:
    """Check a composed configuration and give it types; raises `UserError` with the key at fault."""
    try:
        raw = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise UserError(key, _first_line(error), "Give this key a value.") from error
    fields = {field.name for field in dataclasses.fields(groups.Config)}
    for key in raw.keys() - fields:
        raise _unknown(key, fields)
    for key in sorted(fields - raw.keys()):
        raise UserError(key, "this key is missing", f"Compose with conf/config.yaml, or add {key}.")
    sections = {name: _part(name, raw[name]) for name in (*SECTIONS, "model")}
    config: groups.Config = _typed("", groups.Config, {key: raw[key] for key in fields - sections.keys()} | sections)
    rules.check_values(config)
    rules.check_pairs(config)
    return rules.resolve(config)


def read(path: Path) -> groups.Config:
    """The checked configuration of a file that `to_yaml` wrote: the whole of a run's `config.yaml`."""
    with explaining(path):
        text = path.read_text(encoding="utf-8")
    try:
        composed = OmegaConf.create(text)
    except (OmegaConfBaseException, ValueError, YAMLError) as error:
        raise UserError(
            path, f"not a configuration ({_first_line(error)})", "Name the config.yaml of a run."
        ) from error
    if not isinstance(composed, DictConfig):
        raise UserError(path, "not a configuration", "Name the config.yaml of a run.")
    return check(composed)


def job_logging() -> DictConfig:
    """Where and how `conf/` wants messages written."""
    with _hydra():
        from hydra import compose as hydra_compose

        composed = hydra_compose("config", return_hydra_config=True)
    return cast(DictConfig, composed.hydra.job_logging)


def adopt(config: groups.Config, path: Path, names: Sequence[str]) -> groups.Config:
    """The configuration with these parts taken from the `config.yaml` of another run.

    Args:
        config: of this run.
        path: of the other run's file.
        names: sections, such as `model` and `data`, and keys that stand in none, such as `seed`.

    Raises:
        UserError: the file is no configuration, or one of another version of this program.
    """
    with explaining(path):
        text = path.read_text(encoding="utf-8")
    fix = "Name a run of this version of OmniNER, or train it again."
    try:
        raw = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except (OmegaConfBaseException, ValueError, YAMLError) as error:
        raise UserError(path, f"not a configuration ({_first_line(error)})", fix) from error
    missing = [name for name in names if not isinstance(raw, dict) or name not in raw]
    if not isinstance(raw, dict) or missing:
        raise UserError(path, f"not the configuration of a run ({', '.join(missing)} is missing)", fix)
    try:
        taken = {name: _part(name, raw[name]) for name in names}
    except UserError as error:
        raise UserError(path, f"{error.where}: {error.found}", fix) from error
    return dataclasses.replace(config, **taken)


def section(composed: DictConfig, name: str, kind: type[T]) -> T:
    """Check and give types to one section only."""
    typed: T = _typed(name, kind, OmegaConf.to_container(composed[name], resolve=True))
    return typed


def _part(name: str, raw: Any) -> Any:
    """One section, or one key that stands in none."""
    if name == "model":
        return _model(raw)
    if name in SECTIONS:
        return _typed(name, SECTIONS[name], raw)
    annotations = {field.name: str(field.type) for field in dataclasses.fields(groups.Config)}
    return _convert(name, annotations[name], raw)


def _model(raw: Any) -> Any:
    """The section `model`, whose type depends on its kind."""
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if kind not in MODELS:
        raise UserError("model.kind", f"{kind!r} is no kind of model", f"Choose one of: {', '.join(MODELS)}.")
    return _typed("model", MODELS[kind], raw)


def _unknown(key: str, known: set[str]) -> UserError:
    name, prefix = key.rpartition(".")[2], key.rpartition(".")[0]
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"Did you mean {prefix + '.' if prefix else ''}{near[0]}?" if near else f"Known: {', '.join(sorted(known))}."
    return UserError(key, "unknown key", hint)


def _typed(prefix: str, kind: type, raw: Any) -> Any:
    """Make the dataclass `kind` of plain values; `prefix` is the section's name for messages."""
    if not isinstance(raw, Mapping):
        raise UserError(prefix, f"a group of keys is expected, {raw!r} was found", f"Choose a {prefix} from conf/.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    dotted = f"{prefix}." if prefix else ""
    for key in raw:
        if key not in fields:
            raise _unknown(f"{dotted}{key}", set(fields))
    for key in fields:
        if key not in raw:
            raise UserError(f"{dotted}{key}", "this key is missing", f"Add it, or choose a {prefix} from conf/.")
    plain = {key: value for key, value in raw.items() if not dataclasses.is_dataclass(value)}
    typed = {key: _convert(f"{dotted}{key}", str(fields[key].type), value) for key, value in plain.items()}
    return kind(**{**raw, **typed})


def _convert(key: str, annotation: str, value: Any) -> Any:
    """Check one value against its annotation; whole numbers pass as floats, nothing else is bent."""
    if value is None and annotation.endswith("| None"):
        return None
    wanted = annotation.removesuffix(" | None")
    if wanted == "dict[str, float]" and isinstance(value, Mapping):
        return {name: _convert(f"{key}.{name}", "float", item) for name, item in value.items()}
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted == "float" and isinstance(value, str):
        # YAML 1.1 reads 1e-3 (no dot) as text.
        try:
            return float(value)
        except ValueError:
            pass
    fits = {
        "str": lambda: isinstance(value, str),
        "int": lambda: isinstance(value, int) and not isinstance(value, bool),
        "float": lambda: isinstance(value, float),
        "bool": lambda: isinstance(value, bool),
        "dict[str, Any]": lambda: isinstance(value, Mapping),
        "dict[str, int]": lambda: (
            isinstance(value, Mapping) and all(isinstance(v, int) and not isinstance(v, bool) for v in value.values())
        ),
        "dict[str, str]": lambda: isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values()),
        "list[str]": lambda: isinstance(value, list) and all(isinstance(v, str) for v in value),
        "list[int]": lambda: (
            isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
        ),
        "dict[str, list[str]]": lambda: (
            isinstance(value, Mapping)
            and all(isinstance(v, list) and all(isinstance(w, str) for w in v) for v in value.values())
        ),
    }
    if wanted not in fits:
        raise TypeError(f"{key}: the schema's type {annotation} has no check")
    if not fits[wanted]():
        names = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
        named = names.get(wanted, wanted)
        raise UserError(key, f"{value!r} is not {named}", f"Give {named}{' or null' if 'None' in annotation else ''}.")
    return value


def to_yaml(config: groups.Config) -> str:
    """The checked configuration as YAML, for people and for the run's folder."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def digest(config: groups.Config) -> str:
    """What makes two runs the same run: a hash over everything but where it is written and logged."""
    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def flat(config: groups.Config | Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, checked or as read from the `config.yaml` of a run, as dotted keys."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping) and value:
            return {k: v for key, item in value.items() for k, v in walk(f"{prefix}.{key}", item).items()}
        return {prefix: value}

    values = config if isinstance(config, Mapping) else dataclasses.asdict(config)
    return {k: v for key, item in values.items() for k, v in walk(str(key), item).items()}


def differences(
    config: groups.Config | Mapping[str, Any], defaults: groups.Config | Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose value is not the default one: key -> (default, value)."""
    ours, theirs = flat(config), flat(defaults)
    keys = sorted(ours.keys() | theirs.keys())
    return {key: (theirs.get(key), ours.get(key)) for key in keys if theirs.get(key) != ours.get(key)}


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]
