"""What a value of the configuration may be: the words in which fields are typed, and how such a type is read.

Ranges are written in `annotated_types`, which pydantic reads. pydantic itself is imported only when a configuration is
validated: it would take a third of the time of `import omniner.run`, and neither `--help` nor a child needs it there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Lt


class OneOf:
    """A choice out of names that are read when a value is checked, as those of a registry must be.

    Args:
        names: gives them.
        what: what they are, where all of them would be too many to list.
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
    """Which of several dataclasses a group is: the one whose `kind` is that of the values."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic import Discriminator

        return handler(Annotated[source, Discriminator("kind")])


class FromText:
    """Text that spells a number passes as one: YAML 1.1 reads 1e-3 as text, and so is what the environment holds."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        def number(value: Any) -> Any:
            try:
                return float(value) if isinstance(value, str) else value
            except ValueError:
                return value

        return core_schema.no_info_before_validator_function(number, handler(source))


class Group:
    """A group of keys: made of a mapping that has all of them and no other, and no value is bent to fit."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        schema = handler(source)
        handler.resolve_ref_schema(schema)["strict"] = False  # values are strict, but a mapping may become the group
        return schema


Number = Annotated[float, FromText()]
PositiveNumber = Annotated[Number, Gt(0)]
NumberFrom0 = Annotated[Number, Ge(0)]
Share = Annotated[Number, Ge(0), Lt(1)]
PositiveShare = Annotated[Number, Gt(0), Lt(1)]
Positive = Annotated[int, Gt(0)]
From0 = Annotated[int, Ge(0)]  # 0 usually means none, or no limit

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
    """What a type asks of a value, taken apart.

    Attributes:
        what: a class, such as `int`, `list` or a group; None where a value may be of any, or of several.
        items: the types of a list's items, or of a mapping's keys and values.
        nullable: whether null will do.
        bounds: by `gt`, `ge`, `lt` and `le`.
        choices: the words that it may be; empty = it need not be one of some words.
        label: what they are, where they are too many to list.
        kinds: the groups that a group with kinds may be, by their `kind`.
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
        """The groups it may be; none if it is a plain value."""
        return tuple(self.kinds.values()) or ((self.what,) if self.what and issubclass(self.what, Group) else ())

    @property
    def is_share(self) -> bool:
        """Whether it is a part of one."""
        return self.bounds.get("lt") == 1

    def describe(self, plural: bool = False) -> str:
        """What the value must be, in words: "a whole number above 0"."""
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
        """What kind of value it is, whatever its range."""
        if self.is_share:
            return "shares" if plural else "a share"
        return NOUNS[self.what][plural] if self.what in NOUNS else "a group of keys"

    def range(self) -> str:
        """Between which bounds: "from 0 to below 1"."""
        said = [f"{word} {self.bounds[name]:g}" for name, word in BOUNDS.items() if name in self.bounds]
        if "ge" in self.bounds:
            return " to ".join(said) if len(said) > 1 else f"{said[0]} on"
        return " and ".join(said)


def take_apart(annotation: Any) -> Wanted:
    """What the type of a field asks of its value."""
    notes: list[Any] = []
    nullable, arms = False, [annotation]
    while len(arms) == 1:
        origin, arguments = get_origin(arms[0]), get_args(arms[0])
        if origin is Annotated:
            notes, arms = [*notes, *arguments[1:]], [arguments[0]]
        elif origin in (Union, UnionType):
            nullable, arms = NoneType in arguments, [item for item in arguments if item is not NoneType]
        else:
            break
    if len(arms) > 1:
        return Wanted(None, nullable=nullable, kinds={get_args(hints(kind)["kind"])[0]: kind for kind in arms})
    if origin is Literal:
        return Wanted(str, nullable=nullable, choices=arguments)
    words = [(tuple(note.names()), note.what) for note in notes if isinstance(note, OneOf)]
    bounds = {name: getattr(note, name) for note in notes for name in BOUNDS if hasattr(note, name)}
    kind = origin or (None if arms[0] is Any else arms[0])
    return Wanted(kind, arguments, nullable, bounds, *(words[0] if words else ()))


@functools.cache
def hints(group: type) -> dict[str, Any]:
    """The types of a group's fields by their names, in their order."""
    every = get_type_hints(group, include_extras=True)
    return {field.name: every[field.name] for field in dataclasses.fields(group)}
