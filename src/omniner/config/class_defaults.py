"""Handle keys that older runs, checkpoints and prompts lack: they have the default of the class.

A field of a group has a default in its class only if older values lack it (see `omniner.config.groups`). Two rules
follow for all saved values. A hash over values leaves such defaults out (`without_class_defaults`), so that a new key
does not change the hash of an old run. Before older values are compared with current ones, the missing defaults are
added (`with_class_defaults`). Both descend into sections, also into those with kinds, such as `model`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from omniner.config.validate import Wanted, field_types, take_apart


def without_class_defaults(group: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without keys that have the default of their class.

    Args:
        group: the class of a configuration, of a section, or of another dataclass.
        values: plain values of that class.
    """
    defaults, sections = _class_defaults(group), _sections(group, values)
    kept: dict[str, Any] = {}
    for key, value in values.items():
        section = sections.get(key)
        said = without_class_defaults(section, value) if section else value
        if key not in defaults or said != ({} if section else defaults[key]):
            kept[key] = said
    return kept


def with_class_defaults(group: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an older version with the keys that they lack, which get the default of their class.

    Args:
        group: the class of a configuration, of a section, or of another dataclass.
        values: plain values of that class.
    """
    filled = {**_class_defaults(group), **values}
    for key, section in _sections(group, filled).items():
        filled[key] = with_class_defaults(section, filled[key])
    return filled


def _class_defaults(group: type) -> dict[str, Any]:
    """Return the keys that have a default in their class, with the default."""
    found = {}
    for field in dataclasses.fields(group):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            made: object = field.default_factory()
            if dataclasses.is_dataclass(made) and not isinstance(made, type):
                made = dataclasses.asdict(made)
            found[field.name] = made
    return found


def _sections(group: type, values: Mapping[str, Any]) -> dict[str, type]:
    """Return the keys whose value is a section, with its class; if the section has kinds, the class of its kind."""
    found: dict[str, type] = {}
    for key, wanted in _with_groups(group).items():
        value = values.get(key)
        if isinstance(value, Mapping):
            section = wanted.kinds.get(str(value.get("kind"))) if wanted.kinds else wanted.what
            if section is not None:  # a foreign file may name an unknown kind
                found[key] = section
    return found


@functools.cache
def _with_groups(group: type) -> dict[str, Wanted]:
    """Return the keys that hold groups."""
    wanted = {key: take_apart(annotation) for key, annotation in field_types(group).items()}
    return {key: one for key, one in wanted.items() if one.groups}
