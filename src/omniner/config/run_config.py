"""Write and read a run's `config.yaml`, and compare the configurations of runs.

`to_yaml` writes the file. `read` returns the checked `Config` of such a file, `read_unchecked` that of a past run whose
inputs may be gone, `read_mapping` plain values of any version, also from another person's file.
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

MOST_BYTES = 1 << 18  # limit for a file, twenty times the longest configuration: YAML takes 3 s to read a megabyte

# Keys that do not distinguish runs: where results are written and logged, not what is computed.
NOT_IDENTITY = ("output_dir", "resume", "overwrite", "tracking", "children")

# In a run's folder: the corpus that a program gave to it, one file for each key of `data.from_memory`.
FROM_MEMORY = "from_memory"


def to_yaml(config: Config, only: Sequence[str] = ()) -> str:
    """Return a checked configuration as YAML, for people and the run's folder; if `only` is set, these keys only."""
    values = dataclasses.asdict(config)
    return OmegaConf.to_yaml(OmegaConf.create({key: values[key] for key in only} if only else values))


def read(path: Path) -> Config:
    """Read and check a configuration from a file that `to_yaml` wrote, such as a run's `config.yaml`."""
    return checked(read_mapping(path, "Name the config.yaml of a run."))


def read_unchecked(path: Path) -> Config:
    """Read a past run's `config.yaml` without checking rules or inputs."""
    config: Config = validate(Config, read_mapping(path, "Name the config.yaml of a run."))
    return resolve_auto(config)


def read_mapping(path: Path, fix: str) -> dict[str, Any]:
    """Read the `config.yaml` of a run of any version as plain values, unchecked.

    The file may be another person's, so references such as `${oc.env:...}` are not resolved: they stay texts, as
    `to_yaml` wrote them.

    Args:
        path: the file.
        fix: advice in the error.

    Raises:
        UserError: the file is no YAML mapping, or is too long for a configuration.
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
    corpus = raw.get("data")
    if isinstance(corpus, dict) and corpus.get("from_memory") and (path.parent / FROM_MEMORY).is_dir():
        corpus["root"] = _corpus_in(path.parent)  # the folder may have been moved
    return cast(dict[str, Any], raw)


def is_given_corpus(config: Config) -> bool:
    """Whether a program gives this run its corpus, of which the run's folder will hold a copy."""
    return bool(config.data.from_memory) and config.data.root is None


def with_own_corpus(config: Config, folder: Path) -> Config:
    """Return the configuration of a run in its folder: it reads a corpus that a program gave from its copy there."""
    if not is_given_corpus(config):
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=_corpus_in(folder)))


def _corpus_in(folder: Path) -> str:
    return str((folder / FROM_MEMORY).absolute())


def with_sections_of(config: Config, path: Path, names: Sequence[str]) -> Config:
    """Replace sections of a configuration by those in the `config.yaml` of another run.

    Args:
        config: configuration of this run.
        path: the other run's `config.yaml`.
        names: sections, such as `model` and `data`, and keys outside of sections, such as `seed`.

    Returns:
        A copy of `config` with these parts.

    Raises:
        UserError: the file is no configuration, or one of an incompatible version of this program.
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
    """Replace single keys of a configuration by those of another one.

    Args:
        source: the configuration with the values to use.
        keys: dotted keys.
        config: the configuration to change.

    Returns:
        A copy of `config` with these values.

    Raises:
        UserError: a section of `config` has another kind, which has no such key.
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
    """Return a hash that is equal for runs that compute the same: of all values but those of `NOT_IDENTITY`."""
    said = without_class_defaults(Config, dataclasses.asdict(config))
    values = {key: value for key, value in said.items() if key not in NOT_IDENTITY}
    if config.data.from_memory:  # they say what is read, wherever the copy is
        values["data"] = {key: value for key, value in values["data"].items() if key != "root"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def differences(config: Config | Mapping[str, Any], defaults: Config | Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ between two configurations: key -> (value in `defaults`, value)."""
    whole = [with_class_defaults(Config, one) if isinstance(one, Mapping) else one for one in (config, defaults)]
    ours, theirs = map(flat, whole)
    keys = ours.keys() | theirs.keys()
    if all(any(key.startswith("data.from_memory.") for key in one) for one in (ours, theirs)):
        keys -= {"data.root"}  # each run has a copy of its own
    return {key: (theirs.get(key), ours.get(key)) for key in sorted(keys) if theirs.get(key) != ours.get(key)}
