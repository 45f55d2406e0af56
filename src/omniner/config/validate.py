"""From plain values to typed groups; the first mistake is one line with its key and what to do.

pydantic does the checking. This module takes apart what it says of a mistake and what the types say of a value, and
puts it into a user's words: a key that nobody knows comes first, then one that is missing, then a value that does not
fit.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omniner.config.values import Wanted, hints, take_apart
from omniner.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

# By pydantic's names of errors
_ORDER = {"unexpected_keyword_argument": 0, "missing": 1}
_OUTSIDE = {
    "greater_than": "not above {gt:g}",
    "greater_than_equal": "below {ge:g}",
    "less_than": "not below {lt:g}",
    "less_than_equal": "above {le:g}",
}


def validate(annotation: Any, raw: Any, where: str = "") -> Any:
    """Check plain values and make typed ones of them.

    Args:
        annotation: what they must be: a group, or the type of one key.
        raw: the values as they come from YAML.
        where: the key that holds them; empty for a whole configuration.

    Returns:
        The group, or the value of the one key.

    Raises:
        UserError: for the first key at fault.
    """
    from pydantic import ValidationError

    try:
        return _adapter(annotation).validate_python(raw)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda mistake: _ORDER.get(mistake["type"], 2))
        raise _explain(first, annotation, where) from None


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(annotation)


def _explain(mistake: ErrorDetails, annotation: Any, where: str) -> UserError:
    """One of pydantic's errors in words, with the dotted key at fault."""
    keys, wanted = [where] if where else [], take_apart(annotation)
    known: tuple[str, ...] = ()
    for part in map(str, mistake["loc"]):
        if wanted.kinds:  # the place names the kind, which is no key
            wanted = take_apart(wanted.kinds[part])
        elif wanted.what is list:
            wanted = take_apart(wanted.items[0])
        elif part == "[key]":
            return unknown(".".join(keys), known)
        else:
            keys.append(part)
            if wanted.what is dict:
                known, item = take_apart(wanted.items[0]).choices, wanted.items[1]
            else:
                known, item = tuple(hints(wanted.what)), hints(wanted.what).get(part, Any)
            wanted = take_apart(item)
    return _in_words(mistake, ".".join(keys), wanted, known)


def _in_words(mistake: ErrorDetails, key: str, wanted: Wanted, known: Sequence[str]) -> UserError:
    kind, value = mistake["type"], mistake["input"]
    section = key.rpartition(".")[0]
    if kind == "unexpected_keyword_argument":
        return unknown(key, known)
    if kind == "missing":
        fix = f"Add it, or choose a {section} from conf/" if section else f"Compose with conf/config.yaml, or add {key}"
        return UserError(key, "this key is missing", f"{fix}.")
    if wanted.kinds:
        given = value.get("kind") if isinstance(value, Mapping) else value
        return UserError(f"{key}.kind", f"{given!r} is no kind of {key}", f"Choose one of: {', '.join(wanted.kinds)}.")
    if kind == "dataclass_type":
        return UserError(key, f"a group of keys is expected, {value!r} was found", f"Choose a {key} from conf/.")
    if wanted.choices:
        near = difflib.get_close_matches(str(value), wanted.choices, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        return UserError(key, f"{value!r} is not a choice", f"{hint}Choose one of: {', '.join(wanted.choices)}.")
    outside = _OUTSIDE.get(kind) if not wanted.is_share else None
    found = outside.format(**wanted.bounds) if outside else f"not {wanted.noun()}"
    return UserError(key, f"{value!r} is {found}", f"Give {wanted.describe()}{' or null' if wanted.nullable else ''}.")


def unknown(key: str, known: Sequence[str]) -> UserError:
    """The mistake of a key that is none, with the nearest one that is."""
    section, _, name = key.rpartition(".")
    near = difflib.get_close_matches(name, sorted(known), n=1)
    if not near:
        return UserError(key, "unknown key", f"Known: {', '.join(sorted(known))}.")
    return UserError(key, "unknown key", f"Did you mean {section + '.' if section else ''}{near[0]}?")
