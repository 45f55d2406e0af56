"""Whether a JSON value has the shape it should have: the part of JSON Schema that this program needs.

In go a decoded value and a schema, out comes nothing, or one sentence that says what is wrong and where. Foreign JSON
(a teacher's answer, a file of notes) passes through here before anything looks at it. Known words: `type` (a name or a
list of names), `properties`, `required`, `additionalProperties` (false, or a schema), `items`, `maxItems`, `enum`,
`const`, `minimum`, `maximum`, `minLength`, `maxLength`. A schema with any other word is a fault of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_WORDS = {
    "type", "properties", "required", "additionalProperties", "items", "maxItems", "enum", "const", "minimum",
    "maximum", "minLength", "maxLength",
}  # fmt: skip
_QUOTED = 60  # characters of a value that are shown


def complaint(value: Any, schema: Schema) -> str | None:
    """The first thing that is wrong with `value`, or None."""
    return next(_complaints(value, schema, ""), None)


def strict(properties: Mapping[str, Schema]) -> dict[str, Any]:
    """The schema of an object that has exactly these keys."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def array(items: Schema) -> dict[str, Any]:
    """The schema of a list."""
    return {"type": "array", "items": items}


def _complaints(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if not schema:
        return
    if unknown := schema.keys() - _WORDS:
        raise ValueError(f"words that are not known here: {sorted(unknown)}")
    if "const" in schema and value != schema["const"]:
        yield f"{path or 'the whole'} must be {_show(schema['const'])}, not {_show(value)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path or 'the whole'} must be one of {_show(schema['enum'])}, not {_show(value)}"
        return
    if "type" in schema and not _is(value, schema["type"]):
        names = schema["type"] if isinstance(schema["type"], str) else " or ".join(schema["type"])
        yield f"{path or 'the whole'} must be of type {names}, not {_show(value)}"
        return
    if isinstance(value, dict):
        yield from _of_object(value, schema, path)
    elif isinstance(value, list):
        yield from _of_array(value, schema, path)
    elif isinstance(value, str):
        yield from _in_range(len(value), schema.get("minLength"), schema.get("maxLength"), f"{path}: the length")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _in_range(value, schema.get("minimum"), schema.get("maximum"), path)


def _is(value: Any, names: str | list[str]) -> bool:
    for name in [names] if isinstance(names, str) else names:
        if isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)):
            return True
    return False


def _of_object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[str]:
    known: Schema = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path or 'the object'} lacks the key {name!r}"
    for name, item in value.items():
        others = schema.get("additionalProperties", {})
        if name in known:
            yield from _complaints(item, known[name], f"{path}.{name}" if path else name)
        elif others is False:
            yield f"{path or 'the object'} has the unknown key {_show(name)}"
        else:
            yield from _complaints(item, others, f"{path}.{name}" if path else name)


def _of_array(value: list[Any], schema: Schema, path: str) -> Iterator[str]:
    yield from _in_range(len(value), None, schema.get("maxItems"), f"{path}: the length")
    for number, item in enumerate(value):
        yield from _complaints(item, schema.get("items", {}), f"{path}[{number}]")


def _in_range(value: float, low: float | None, high: float | None, what: str) -> Iterator[str]:
    if low is not None and value < low:
        yield f"{what} must be at least {low}, not {value}"
    if high is not None and value > high:
        yield f"{what} must be at most {high}, not {value}"


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."
