"""How the official OmniNER2025 scripts read the `label` and `predict` texts, reproduced exactly.

In goes one text; out come the units of one side. There are two readings, because the two scripts differ: the
evaluation script repairs some quoting and wants two-element lists, the ERRTA reader deletes backslashes,
repairs nothing else and takes elements of any shape. Where the official script would stop with an exception,
`OfficialStopError` is raised here, so that one sample can be reported instead of ending the run.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class OfficialStopError(Exception):
    """The official script ends here with the exception named first in the message."""


class Reading(NamedTuple):
    """The pairs of one text, in order, with repeats; the members are what JSON held, mostly strings."""

    pairs: list[tuple[Any, Any]]
    repaired: bool


def read_for_evaluation(text: str) -> Reading | None:
    """Read a text as the evaluation script does; `None` where it drops the sample.

    Three attempts: as it is, with misplaced escapes undone, with apostrophes as double quotes. A list of
    exactly two elements is a pair, a string of two parts is cut into one, anything else is passed over.
    """
    value, repaired = _load(text), False
    if value is _BROKEN:
        repaired = True
        value = _load(text.replace('\\"', '"').replace('"{', "{").replace('}"', "}"))
    if value is _BROKEN:
        value = _load(text.replace("'", '"'))
    if value is _BROKEN or value is None:
        return None
    pairs = [pair for pair in map(_pair, _elements(value)) if pair is not None]
    _check_hashable(pairs)
    return Reading(pairs, repaired)


def read_for_errta(text: str) -> list[tuple[Any, ...]] | None:
    """Read a text as the ERRTA reader does: tuples of any length; `None` where it drops the sample.

    `text` is what is left after it has deleted the backslashes of the line.
    """
    value = _load(text)
    if value is _BROKEN:
        return None
    try:
        items = [tuple(element) for element in _elements(value)]
    except TypeError as error:
        raise OfficialStopError(f"TypeError: {error}") from error
    _check_hashable(items)
    return items


_BROKEN = object()


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return _BROKEN
    except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
        raise OfficialStopError(f"{type(error).__name__}: {error}") from error


def _elements(value: Any) -> list[Any]:
    """Iterate as Python does: a list by element, an object by key, a string by character."""
    try:
        return list(value)
    except TypeError as error:
        raise OfficialStopError(f"TypeError: {error}") from error


def _pair(element: Any) -> tuple[Any, Any] | None:
    if isinstance(element, list):
        return (element[0], element[1]) if len(element) == 2 else None
    if isinstance(element, str):
        parts = element.split(", ")
        if len(parts) == 2:
            surface, category = (part.strip().strip("()").strip('"').strip("'") for part in parts)
            return surface, category
    return None


def _check_hashable(items: list[Any]) -> None:
    try:
        set(items)
    except TypeError as error:
        raise OfficialStopError(f"TypeError: {error}") from error
