"""Keys that came later: what an older run, checkpoint or prompt lacks has the default of its class.

A field of a group has a default in its class only where older values lack it (see `omniner.config.groups`). Two rules
follow for everything that is kept. A hash over values leaves such defaults out (`without_class_defaults`), so that a
new key makes no other run of an old one. Before values are compared with those of now, the defaults that they lack are
added (`with_class_defaults`). Both go into sections, also into those of several kinds, such as `model`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from omniner.config.validate import Wanted, field_types, take_apart


def without_class_defaults(group: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the keys that have the default of their class.

    Args:
        group: the class of a configuration, of a section, or of another dataclass.
        values: of it.
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
    """Add the keys that values of an older version lack, with the default of their class.

    Args:
        group: the class of a configuration, of a section, or of another dataclass.
        values: of it.
    """
    filled = {**_class_defaults(group), **values}
    for key, section in _sections(group, filled).items():
        filled[key] = with_class_defaults(section, filled[key])
    return filled


def _class_defaults(group: type) -> dict[str, Any]:
    """The keys that have a default in their class."""
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
    """The keys whose value is a section, with its class: where there are kinds, that of the value."""
    found: dict[str, type] = {}
    for key, wanted in _with_groups(group).items():
        value = values.get(key)
        if isinstance(value, Mapping):
            section = wanted.kinds.get(str(value.get("kind"))) if wanted.kinds else wanted.what
            if section is not None:  # a stranger's file may name a kind that there is not
                found[key] = section
    return found


@functools.cache
def _with_groups(group: type) -> dict[str, Wanted]:
    """The keys that hold groups."""
    wanted = {key: take_apart(annotation) for key, annotation in field_types(group).items()}
    return {key: one for key, one in wanted.items() if one.groups}
