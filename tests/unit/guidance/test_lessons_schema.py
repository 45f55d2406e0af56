"""Shapes of JSON values: what fits passes, what does not is told with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omniner.guidance.lessons import array, complaint, strict

NOTE = strict(
    {
        "rule": {"type": "string", "minLength": 1, "maxLength": 5},
        "seen": {"type": ["integer", "null"], "minimum": 1, "maximum": 3},
        "kinds": {**array({"enum": ["a", "b"]}), "maxItems": 2},
    }
)
GOOD: dict[str, Any] = {"rule": "x", "seen": 2, "kinds": ["a", "b"]}


@pytest.mark.parametrize("change", [{}, {"seen": None}, {"kinds": []}, {"rule": "12345"}])
def test_what_fits_passes(change: dict[str, Any]) -> None:
    assert complaint({**GOOD, **change}, NOTE) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "the whole must be of type object, not []"),
        ({"rule": "x", "seen": 1}, "the object lacks the key 'kinds'"),
        ({**GOOD, "more": 1}, 'the object has the unknown key "more"'),
        ({**GOOD, "rule": ""}, "rule: the length must be at least 1, not 0"),
        ({**GOOD, "rule": "123456"}, "rule: the length must be at most 5, not 6"),
        ({**GOOD, "rule": None}, "rule must be of type string, not null"),
        ({**GOOD, "seen": 0}, "seen must be at least 1, not 0"),
        ({**GOOD, "seen": 4}, "seen must be at most 3, not 4"),
        ({**GOOD, "seen": True}, "seen must be of type integer or null, not true"),
        ({**GOOD, "seen": 1.5}, "seen must be of type integer or null, not 1.5"),
        ({**GOOD, "kinds": ["a", "c"]}, 'kinds[1] must be one of ["a", "b"], not "c"'),
        ({**GOOD, "kinds": ["a", "a", "a"]}, "kinds: the length must be at most 2, not 3"),
        ({**GOOD, "rule": ["长" * 100]}, f'rule must be of type string, not ["{"长" * 58}...'),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(value: Any, said: str) -> None:
    assert complaint(value, NOTE) == said


def test_keys_of_any_name() -> None:
    counts = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert complaint({"a": 1, "b": 2}, counts) is None
    assert complaint({"a": 1, "b": "2"}, counts) == 'b must be of type integer, not "2"'
    assert complaint({"version": 2}, strict({"version": {"const": 1}})) == "version must be 1, not 2"


def test_an_unknown_word_is_our_fault() -> None:
    with pytest.raises(ValueError, match="pattern"):
        complaint("x", {"type": "string", "pattern": "x"})


def test_deep_values_are_no_danger() -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    assert complaint(deep, {"type": "array"}) is None
    assert complaint({"a": deep}, strict({"a": {"type": "string"}})) is not None
