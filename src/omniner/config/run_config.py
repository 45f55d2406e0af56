"""The configuration as a run keeps it: its `config.yaml`, what makes two runs the same, and in what they differ.

`to_yaml` writes the file. `read` gives the checked `Config` of one again, `read_unchecked` that of a run whose inputs
may be gone, `read_mapping` plain values: of a run of any version, or of somebody else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import AliasToken, YAMLError

from omniner.config.class_defaults import with_class_defaults, without_class_defaults
from omniner.config.groups import Config
from omniner.config.rules import checked, resolve_auto
from omniner.config.validate import field_types, flat, validate
from omniner.errors import UserError, first_line_of
from omniner.files import explaining

MOST_BYTES = 1 << 18  # of a configuration, twenty times as much as the longest one written: YAML reads 3 s a megabyte

# What may change without making a run another run: where it is written and logged, not what it computes.
NOT_IDENTITY = ("output_dir", "resume", "overwrite", "tracking", "children")


def to_yaml(config: Config, only: Sequence[str] = ()) -> str:
    """A checked configuration as YAML, for people and for the run's folder; `only` these sections and keys, if any."""
    values = dataclasses.asdict(config)
    return OmegaConf.to_yaml(OmegaConf.create({key: values[key] for key in only} if only else values))


def read(path: Path) -> Config:
    """Read the checked configuration of a file that `to_yaml` wrote: the whole of a run's `config.yaml`."""
    return checked(read_mapping(path, "Name the config.yaml of a run."))


def read_unchecked(path: Path) -> Config:
    """Read the `config.yaml` of a run as `read` does, without the rules: its inputs need not be there any more."""
    config: Config = validate(Config, read_mapping(path, "Name the config.yaml of a run."))
    return resolve_auto(config)


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


def with_sections_of(config: Config, path: Path, names: Sequence[str]) -> Config:
    """Take sections of a configuration from the `config.yaml` of another run.

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


def digest(config: Config) -> str:
    """What makes two runs the same run: a hash over everything but where it is written and logged."""
    said = without_class_defaults(Config, dataclasses.asdict(config))
    values = {key: value for key, value in said.items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def differences(config: Config | Mapping[str, Any], defaults: Config | Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose value is not the default one: key -> (default, value)."""
    whole = [with_class_defaults(Config, one) if isinstance(one, Mapping) else one for one in (config, defaults)]
    ours, theirs = map(flat, whole)
    keys = sorted(ours.keys() | theirs.keys())
    return {key: (theirs.get(key), ours.get(key)) for key in keys if theirs.get(key) != ours.get(key)}
