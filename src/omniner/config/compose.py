"""Compose configurations with Hydra: from the YAML files of `conf/` and a command's overrides to a typed `Config`.

`load` does all of it: `compose_unchecked` composes, `to_config` checks the result and converts it to typed groups.
Rules between values are in `omniner.config.rules`, the configuration saved by a run in `omniner.config.run_config`.
This module also finds settings that differ from the defaults of `conf/`: those that nothing reads (`without_effect`),
and those that define scoring (`scoring_line`).

Every mistake is a `UserError` with its key. Nothing heavy is imported, so that mistakes are reported at once.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omniner.config import run_config
from omniner.config.groups import Config
from omniner.config.model_groups import HeadConfig, TuningConfig
from omniner.config.overrides import (
    check_own_choices,
    explain_override,
    explain_own_file,
    override_line,
    read_arguments,
)
from omniner.config.rules import JUDGED, checked, keys_of_teachers, refuse, why_unread
from omniner.config.validate import flat, validate
from omniner.errors import UserError, first_line_of, one_line
from omniner.files import explaining
from omniner.registry import load_extensions

T = TypeVar("T")

SCORING = ("metrics", "errta")  # the sections that say what a score and an error are

# Environment variable for children of a sweep: the user's own configuration folders, as list items of an override.
SEARCH_PATH = "OMNINER_SEARCH_PATH"


def conf_folder() -> Path:
    """Return the path of `conf/`: in the installed package, or in a checkout that is not installed."""
    spec = find_spec("omniner.conf")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else Path(__file__).resolve().parents[3] / "conf"


def load(overrides: Sequence[str]) -> Config:
    """Compose and check a configuration; the entry point for notebooks and tests.

    Args:
        overrides: as on the command line: `["data=cluener", "seed=7"]`.

    Raises:
        UserError: for the first wrong key, for a file of the user's own groups that is no YAML, or for a module of
            `OMNINER_EXTENSIONS` that cannot be imported.
    """
    from hydra.errors import HydraException

    load_extensions()
    try:
        composed = _composed(overrides)
    except HydraException as error:
        if explained := explain_override(error, overrides, conf_folder()):
            raise explained from error
        raise UserError("overrides", one_line(error), "Give them as on the command line.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        if (explained := explain_own_file(error, _arguments(overrides))) is None:
            raise
        raise explained from error
    return to_config(composed)


def read(path: Path) -> Config:
    """Read a run's `config.yaml`, see `run_config.read`."""
    # not called here: MLflow models that earlier versions saved hold a copy of code that does
    return run_config.read(path)


def compose_unchecked(overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration as the command line does, without checking its values."""
    return copy.deepcopy(_composed(overrides))


def _composed(overrides: Sequence[str]) -> DictConfig:
    """Do what `compose_unchecked` does; the result belongs to a cache, for those who only read it."""
    arguments = _arguments(overrides)
    check_own_choices(arguments, conf_folder())
    if _of_job is not None or any("hydra." in one or "${" in one for one in arguments):
        return _composed_by_hydra(arguments)
    choices = frozenset((file, file.stat().st_mtime_ns) for file in conf_folder().rglob("*.yaml"))
    return _composed_before(tuple(arguments), choices)


def _arguments(overrides: Sequence[str]) -> list[str]:
    """Return the overrides in the form that Hydra reads, after the folders of the user that the environment names."""
    own = [f"hydra.searchpath=[{os.environ[SEARCH_PATH]}]"] if os.environ.get(SEARCH_PATH) else []
    return [*own, *read_arguments(overrides, conf_folder())]


@lru_cache(maxsize=64)
def _composed_before(arguments: tuple[str, ...], choices: frozenset[tuple[Path, int]]) -> DictConfig:
    """Compose arguments that name no folder of the user's; cached for the current `conf/`, because it takes 0.4 s."""
    return _composed_by_hydra(arguments)


def _composed_by_hydra(arguments: Sequence[str]) -> DictConfig:
    with _hydra():
        from hydra import compose as hydra_compose

        return hydra_compose("config", overrides=list(arguments))


_composing = threading.RLock()  # Hydra keeps its state in objects that the whole process shares
_of_job: Any = None  # the Hydra instance of the job that this process runs


def keep_hydra() -> None:
    """Remember the running Hydra instance, so that later compositions reuse its `conf/` and search path."""
    global _of_job
    from hydra.core.global_hydra import GlobalHydra

    _of_job = GlobalHydra.instance().hydra


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    """Make Hydra ready to compose from `conf/`; another program's Hydra is put aside for the block."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobRuntime
    from hydra.version import VersionBase

    with _composing:
        if _of_job is not None and GlobalHydra.instance().hydra is _of_job:
            yield
            return
        kinds: tuple[type, ...] = (GlobalHydra, JobRuntime, VersionBase)  # its state of a running job
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
    """Return the logging configuration of `conf/`."""
    with _hydra():
        from hydra import compose as hydra_compose

        composed = hydra_compose("config", return_hydra_config=True)
    return cast(DictConfig, composed.hydra.job_logging)


def to_config(composed: DictConfig) -> Config:
    """Convert a composed configuration to typed groups, check it, and resolve `auto`.

    If the user sets `trainer.max_epochs`, exactly these epochs are trained: a recipe's `trainer.min_steps` becomes 0.

    Raises:
        UserError: for the first wrong key.
    """
    try:
        raw: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(error.full_key or "config", first_line_of(error), "Give this key a value.") from error
    by_recipe = {key: OmegaConf.is_interpolation(composed.trainer, key) for key in ("max_epochs", "min_steps")}
    if by_recipe["min_steps"] and not by_recipe["max_epochs"]:
        raw["trainer"]["min_steps"] = 0
    config = checked(raw)
    refuse("name", "/" in config.name, f"{config.name!r} names a folder in a folder", "Give a name without a slash.")
    return config


def to_section(composed: DictConfig, name: str, group: type[T]) -> T:
    """Convert one section of a composed configuration to its group and check it, but not the rules between values."""
    typed: T = validate(group, OmegaConf.to_container(composed[name], resolve=True), name)
    return typed


def without_effect(config: Config) -> dict[str, str]:
    """Find the settings that nothing reads; runs that differ only in them would be equal.

    A new run with such a setting is refused. A run that was started with one can still be resumed, and a job of a sweep
    may have keys that only other jobs use.

    Returns:
        Why each of them has no effect, by its dotted key.
    """
    given = [f"{name}.{key}" for name in JUDGED for key in _set_keys(name, getattr(config, name))]
    given += [f"teacher.{key}" for key in keys_of_teachers().values() if getattr(config.teacher, key)]
    return {key: why for key in given if (why := why_unread(config, key))}


def _set_keys(name: str, section: HeadConfig | TuningConfig) -> list[str]:
    """Return the keys of a section whose values differ from those in its file `auto.yaml` in `conf/`."""
    usual = dataclasses.asdict(validate(type(section), _defaults(conf_folder() / name / "auto.yaml"), name))
    return [key for key, value in dataclasses.asdict(section).items() if value != usual[key]]


def _defaults(path: Path) -> Any:
    """Read a file of `conf/`, with the parser written in C where there is one: OmegaConf's takes ten times as long."""
    with explaining(path):
        return yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def scoring_line(config: Config | Mapping[str, Any]) -> str:
    """Return the overrides with which another command scores and sorts errors as this configuration does.

    Args:
        config: a checked configuration, or the values read from a run's `config.yaml`.

    Returns:
        The overrides as shell arguments; empty if all are the defaults of `conf/config.yaml`.
    """
    file = _defaults(conf_folder() / "config.yaml")
    usual, ours = flat({name: file[name] for name in SCORING}), flat(config)
    return override_line({key: ours[key] for key in usual if key in ours and ours[key] != usual[key]})
