"""Convert plain values to typed groups; the first mistake becomes one line with its key and what to do.

Fields use the types of this module; their ranges are `annotated_types`, which pydantic reads and checks. Pydantic's
errors and the types are translated into plain words. An unknown key is reported first, then a missing one, then a wrong
value. pydantic is imported only when a configuration is validated: it would take a third of the time of
`import omniner.run`, and neither `--help` nor a child needs it there.

Records that are read from JSON files use the same types, and marks of their own (`AsObject`, `FromList`, `PlainValue`).
`explain` says what is wrong with such a file in JSON's words, for people and for a teacher whose answer does not have
the required form.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, Lt

from omniner.errors import UserError
from omniner.wording import shortened

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import ErrorDetails


class OneOf:
    """A choice from names that are read only when a value is checked, as the names of a registry must be.

    Args:
        names: returns the names.
        what: a description of the names, if they are too many to list.
    """

    def __init__(self, names: Callable[[], Iterable[str]], what: str = "") -> None:
        self.names, self.what = names, what

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: str) -> str:
            if value not in (names := tuple(self.names())):
                raise PydanticCustomError("choice", "not a choice", {"names": names})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


class Kind:
    """A group that is one of several dataclasses: the one with the `kind` of the values."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic import Discriminator

        return handler(Annotated[source, Discriminator("kind")])


class Converted:
    """A value that a function converts before the check; the function returns unchanged what it cannot convert."""

    def __init__(self, convert: Callable[[Any], Any]) -> None:
        self.convert = convert

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.convert, handler(source))


def _number_of_text(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


FROM_TEXT = Converted(_number_of_text)
"""Accepts text that spells a number: YAML 1.1 reads 1e-3 as text, and environment variables are text."""
AUTO = Converted(lambda value: None if value == "auto" else value)
"""Accepts `auto` for null: the program finds the value."""
ONE_OR_MORE = Converted(lambda value: [value] if isinstance(value, str) else value)
"""Accepts a single text for a list with one item: `text=...` is `text=[...]`."""


def for_each(*keys: str) -> Converted:
    """Return a conversion that accepts a single number for a mapping, as the value of each of these keys."""
    return Converted(lambda value: dict.fromkeys(keys, value) if isinstance(value, int) else value)


class Group:
    """A group of keys, made from a mapping with exactly these keys; values are not converted to other types."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        schema = handler(source)
        handler.resolve_ref_schema(schema)["strict"] = False  # values are strict, but a mapping may become the group
        return schema


class AsObject:
    """Marks a named tuple that is an object in JSON, without the fields that are None."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        fields = {
            name: core_schema.typed_dict_field(
                handler.generate_schema(hint), required=name not in source._field_defaults
            )
            for name, hint in get_type_hints(source, include_extras=True).items()
        }

        def write(item: Any) -> dict[str, Any]:
            return {name: value for name, value in source(*item)._asdict().items() if value is not None}

        return core_schema.no_info_after_validator_function(
            lambda values: source(**values),
            core_schema.typed_dict_schema(fields, extra_behavior="forbid", config={"strict": True}),
            serialization=core_schema.plain_serializer_function_ser_schema(write),
        )


class FromList:
    """Marks a tuple that is a list in JSON."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        schema = handler(source)
        schema["strict"] = False
        schema["serialization"] = core_schema.wrap_serializer_function_ser_schema(
            lambda items, write: list(write(items)), schema=schema.copy()
        )
        return schema


class PlainValue:
    """Marks a value that must have one of several plain types and is not converted."""

    def __init__(self, **types: type) -> None:
        self.types = types

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: Any) -> Any:
            if type(value) not in self.types.values():
                raise PydanticCustomError("plain", "another type", {"types": " or ".join(self.types)})
            return value

        return core_schema.no_info_plain_validator_function(check)


Number = Annotated[float, FROM_TEXT]
PositiveFloat = Annotated[Number, Gt(0)]
NonNegativeFloat = Annotated[Number, Ge(0)]
Share = Annotated[Number, Ge(0), Lt(1)]
PositiveShare = Annotated[Number, Gt(0), Lt(1)]
Fraction = Annotated[Number, Gt(0), Le(1)]
Probability = Annotated[Number, Ge(0), Le(1)]
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]  # 0 usually means none, or no limit

NOUNS = {
    str: ("text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    list: ("a list", "lists"),
    dict: ("a group of keys", "groups of keys"),
}
BOUNDS = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}


class Wanted(NamedTuple):
    """The requirements of a type on a value.

    Attributes:
        what: a class, such as `int`, `list` or a group; None if the value may have any class, or one of several.
        items: the types of a list's items, or of a mapping's keys and values.
        nullable: whether null is allowed.
        bounds: limits by `gt`, `ge`, `lt` and `le`.
        choices: the allowed words; empty = no restriction to words.
        label: a description of the words, if they are too many to list.
        kinds: the classes of a group with kinds, by their `kind`.
    """

    what: type | None
    items: tuple[Any, ...] = ()
    nullable: bool = False
    bounds: Mapping[str, float] = {}
    choices: tuple[str, ...] = ()
    label: str = ""
    kinds: Mapping[str, type] = {}

    @property
    def groups(self) -> tuple[type, ...]:
        """The groups that the value may be; empty if it is a plain value."""
        return tuple(self.kinds.values()) or ((self.what,) if self.what and issubclass(self.what, Group) else ())

    @property
    def is_share(self) -> bool:
        """Whether it is a share: a number below 1."""
        return self.bounds.get("lt") == 1

    def describe(self, plural: bool = False) -> str:
        """Describe in words what the value must be: "a whole number above 0"."""
        if self.choices:
            return f"{'some' if plural else 'one'} of: {', '.join(self.choices)}"
        if self.what is None:
            return "anything"
        if self.what is list:
            return f"{NOUNS[list][plural]} of {take_apart(self.items[0]).describe(plural=True)}"
        if self.what is dict:
            names, value = (take_apart(item) for item in self.items)
            keys = names.label or ", ".join(names.choices) or NOUNS[dict][plural]
            return keys if value.what is None else f"{keys}, each with {value.describe()}"
        return " ".join(filter(None, [self.noun(plural), self.range()]))

    def noun(self, plural: bool = False) -> str:
        """Return the noun for this kind of value, without its range."""
        if self.is_share:
            return "shares" if plural else "a share"
        return NOUNS[self.what][plural] if self.what in NOUNS else "a group of keys"

    def range(self) -> str:
        """Describe the bounds in words: "from 0 to below 1"."""
        said = [f"{word} {self.bounds[name]:g}" for name, word in BOUNDS.items() if name in self.bounds]
        if "ge" in self.bounds:
            return " to ".join(one.removeprefix("up to ") for one in said) if len(said) > 1 else f"{said[0]} on"
        return " and ".join(said)


def take_apart(annotation: Any) -> Wanted:
    """Return the requirements of a field's type on its value."""
    notes: list[Any] = []
    nullable, arms = False, [annotation]
    # unwrap annotations and unions; what remains is one type, or the groups of the kinds
    while len(arms) == 1:
        origin, arguments = get_origin(arms[0]), get_args(arms[0])
        if origin is Annotated:  # bounds, names and conversions around a type
            notes, arms = [*notes, *arguments[1:]], [arguments[0]]
        elif origin in (Union, UnionType):  # a type or null, or one of several groups
            nullable, arms = NoneType in arguments, [item for item in arguments if item is not NoneType]
        else:
            break
    if len(arms) > 1:
        return Wanted(None, nullable=nullable, kinds={get_args(field_types(kind)["kind"])[0]: kind for kind in arms})
    if origin is Literal:
        # true and false among words, written as in YAML
        choices = tuple(str(item).lower() if isinstance(item, bool) else item for item in arguments)
        return Wanted(str, nullable=nullable, choices=choices)
    words = [(tuple(note.names()), note.what) for note in notes if isinstance(note, OneOf)]
    bounds = {name: getattr(note, name) for note in notes for name in BOUNDS if hasattr(note, name)}
    kind = origin or (None if arms[0] is Any else arms[0])
    return Wanted(kind, arguments, nullable, bounds, *(words[0] if words else ()))


@functools.cache
def field_types(group: type) -> dict[str, Any]:
    """Return the types of a group's fields by name, in their order."""
    every = get_type_hints(group, include_extras=True)
    return {field.name: every[field.name] for field in dataclasses.fields(group)}


def flat(group: DataclassInstance | Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a group, or of its plain mapping, by dotted keys."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping) and (value or not prefix):
            for key, item in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            yield prefix, value

    return dict(walk("", group if isinstance(group, Mapping) else dataclasses.asdict(group)))


# Keys: pydantic's names of errors.
_ORDER = {"unexpected_keyword_argument": 0, "missing": 1}
_OUTSIDE = {
    "greater_than": "not above {gt:g}",
    "greater_than_equal": "below {ge:g}",
    "less_than": "not below {lt:g}",
    "less_than_equal": "above {le:g}",
}


def validate(annotation: Any, raw: Any, where: str = "") -> Any:
    """Check plain values and convert them to typed ones.

    Args:
        annotation: the required type: a group, or the type of one key.
        raw: the values as read from YAML.
        where: the key that holds them; empty for a whole configuration.

    Returns:
        The group, or the value of the one key.

    Raises:
        UserError: for the first wrong key.
    """
    from pydantic import ValidationError

    try:
        return type_adapter(annotation).validate_python(raw)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=lambda mistake: _ORDER.get(mistake["type"], 2))
        raise _error_of_key(first, annotation, where) from None


@functools.cache
def type_adapter(annotation: Any) -> TypeAdapter[Any]:
    """Return pydantic's adapter that reads and writes values of a type; pydantic is imported only here."""
    from pydantic import TypeAdapter

    return TypeAdapter(annotation)


def _error_of_key(mistake: ErrorDetails, annotation: Any, where: str) -> UserError:
    """Translate one of pydantic's errors into a `UserError` with the dotted key."""
    keys, wanted = [where] if where else [], take_apart(annotation)
    known: tuple[str, ...] = ()
    for part in map(str, mistake["loc"]):
        if wanted.kinds:  # this part of the location is the kind, which is no key
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
                known, item = tuple(field_types(wanted.what)), field_types(wanted.what).get(part, Any)
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
        return UserError(key, f"a group of keys is expected, {_shown(value)} was found", f"Choose a {key} from conf/.")
    if wanted.choices:
        near = difflib.get_close_matches(str(value), wanted.choices, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        return UserError(key, f"{_shown(value)} is not a choice", f"{hint}Choose one of: {', '.join(wanted.choices)}.")
    outside = _OUTSIDE.get(kind) if not wanted.is_share else None
    found = outside.format(**wanted.bounds) if outside else f"not {wanted.noun()}"
    example = f", such as {key}=[{value}]" if wanted.what is list and isinstance(value, str) else ""
    return UserError(
        key, f"{_shown(value)} is {found}", f"Give {wanted.describe()}{' or null' if wanted.nullable else ''}{example}."
    )


def _shown(value: Any) -> str:
    """Return a value as it is written in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def unknown(key: str, known: Sequence[str]) -> UserError:
    """Return the error for an unknown key, with the most similar known key."""
    section, _, name = key.rpartition(".")
    near = difflib.get_close_matches(name, sorted(known), n=1)
    if not near:
        return UserError(key, "unknown key", f"Known: {', '.join(sorted(set(known)))}.")
    return UserError(key, "unknown key", f"Did you mean {section + '.' if section else ''}{near[0]}?")


_QUOTED = 60  # maximum characters of a JSON value in a message
_JSON_TYPES = {  # JSON's names of types by pydantic's names of type errors
    "dataclass_type": "object",
    "model_type": "object",
    "dict_type": "object",
    "list_type": "array",
    "tuple_type": "array",
    "string_type": "string",
    "int_type": "integer",
    "bool_type": "boolean",
}
_JSON_MISTAKES = {  # messages by pydantic's names of errors
    "missing": "{parent} lacks the key {name!r}",
    "unexpected_keyword_argument": "{parent} has the unknown key {key}",
    "extra_forbidden": "{parent} has the unknown key {key}",
    "literal_error": "{where} must be one of {expected}, not {value}",
    "choice": "{where} must be one of {names}, not {value}",
    "greater_than_equal": "{where} must be at least {ge}, not {value}",
    "less_than_equal": "{where} must be at most {le}, not {value}",
    "string_too_short": "{where}: the length must be at least {min_length}, not {length}",
    "string_too_long": "{where}: the length must be at most {max_length}, not {length}",
    "too_short": "{where}: the length must be at least {min_length}, not {length}",
    "too_long": "{where}: the length must be at most {max_length}, not {length}",
    "plain": "{where} must be of type {types}, not {value}",
}


def explain(error: ValidationError) -> str:
    """Return the first thing that is wrong with a value, and where: `lessons[0].count must be at least 0, not -1`."""
    mistake = error.errors(include_url=False)[0]
    kind, value = mistake["type"], mistake["input"]
    *outer, key = mistake["loc"] or [""]
    details = mistake.get("ctx", {}) | ({"types": _JSON_TYPES[kind]} if kind in _JSON_TYPES else {})
    said = _JSON_MISTAKES["plain"] if kind in _JSON_TYPES else _JSON_MISTAKES.get(kind, "{where}: {message}")
    return said.format(
        where=_json_path(mistake["loc"]) or "the whole",
        parent=_json_path(outer) or "the object",
        name=key,
        key=short_json(key),
        message=mistake["msg"],  # as an argument, because it may contain braces
        value=short_json(value),
        length=len(value) if isinstance(value, str | list) else 0,
        **details,
    )


def _json_path(loc: Iterable[int | str]) -> str:
    """Return the path of a value in the form `lessons[0].note.rule`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def short_json(value: Any) -> str:
    """Return a value as JSON, shortened to `_QUOTED` characters."""
    return shortened(json.dumps(value, ensure_ascii=False), _QUOTED)
