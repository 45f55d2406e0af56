"""From the command line's choices to a checked, typed `Config`: compose -> validate -> rules -> `Config`.

Hydra composes the YAML files of `conf/` with the overrides (`compose`). Then `check` holds the result against the types
of `omniner.config.groups`, and against the rules between values, and decides what `auto` means where neither data nor
machine are needed for that; other `auto` values are left to the part that knows. Every mistake is one `UserError` with
its key. Nothing heavy is imported, so that a mistake is answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from omniner.config.groups import Config
from omniner.config.rules import check_pairs, resolve
from omniner.config.validate import validate
from omniner.config.values import hints
from omniner.errors import UserError
from omniner.files import explaining

T = TypeVar("T")

# What may change without making a run another run: where it is written and logged, not what it computes.
NOT_IDENTITY = ("output_dir", "resume", "tracking", "children")

# Environment: the user's own folders of configurations, as a list in an override holds them, for children of a sweep.
SEARCH_PATH = "OMNINER_SEARCH_PATH"


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
        UserError: for the first key at fault.
    """
    return check(compose(overrides))


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration as the command line would, unchecked."""
    with _hydra():
        from hydra import compose as hydra_compose

        own = [f"hydra.searchpath=[{os.environ[SEARCH_PATH]}]"] if os.environ.get(SEARCH_PATH) else []
        return hydra_compose("config", overrides=[*own, *overrides])


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    """Hydra, ready to compose from `conf/`; as it is, in a process that it started itself."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            yield


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
        raw = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(error.full_key or "config", _first_line(error), "Give this key a value.") from error
    return _typed(raw)


def _typed(raw: Any) -> Config:
    config: Config = validate(Config, raw)
    check_pairs(config)
    return resolve(config)


def section(composed: DictConfig, name: str, group: type[T]) -> T:
    """Check and give types to one section only."""
    typed: T = validate(group, OmegaConf.to_container(composed[name], resolve=True), name)
    return typed


def read(path: Path) -> Config:
    """Read the checked configuration of a file that `to_yaml` wrote: the whole of a run's `config.yaml`."""
    return _typed(_read_mapping(path, "Name the config.yaml of a run."))


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
    raw = _read_mapping(path, fix)
    if missing := [name for name in names if name not in raw]:
        raise UserError(path, f"not the configuration of a run ({', '.join(missing)} is missing)", fix)
    try:
        taken = {name: validate(hints(Config)[name], raw[name], name) for name in names}
    except UserError as error:
        raise UserError(path, f"{error.where}: {error.found}", fix) from error
    return dataclasses.replace(config, **taken)


def _read_mapping(path: Path, fix: str) -> dict[str, Any]:
    with explaining(path):
        text = path.read_text(encoding="utf-8")
    try:
        raw = OmegaConf.to_container(OmegaConf.create(text), resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, ValueError, YAMLError) as error:
        raise UserError(path, f"not a configuration ({_first_line(error)})", fix) from error
    if not isinstance(raw, dict):
        raise UserError(path, "not the configuration of a run", fix)
    return cast(dict[str, Any], raw)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]


def to_yaml(config: Config) -> str:
    """A checked configuration as YAML, for people and for the run's folder."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def digest(config: Config) -> str:
    """What makes two runs the same run: a hash over everything but where it is written and logged."""
    values = {key: value for key, value in dataclasses.asdict(config).items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def flat(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, checked or as read from the `config.yaml` of a run, by dotted keys."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping) and (value or not prefix):
            for key, item in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            yield prefix, value

    return dict(walk("", config if isinstance(config, Mapping) else dataclasses.asdict(config)))


def differences(config: Config | Mapping[str, Any], defaults: Config | Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose value is not the default one: key -> (default, value)."""
    ours, theirs = flat(config), flat(defaults)
    keys = sorted(ours.keys() | theirs.keys())
    return {key: (theirs.get(key), ours.get(key)) for key in keys if theirs.get(key) != ours.get(key)}
