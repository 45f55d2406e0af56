"""The JSON files of a checkpoint folder: objects whose values are asked for with the type they must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniner.errors import UserError
from omniner.files import read_json


@dataclass(frozen=True, slots=True)
class Settings:
    """A JSON object and the file it comes from; what does not fit is a `UserError` about that file."""

    path: Path
    values: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """A value as it stands."""
        return self.values.get(key, default)

    def number(self, key: str) -> int:
        """A whole number above 0."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(self.path, f"{key} is {value!r}", "It must be a whole number above 0.")
        return value

    def real(self, key: str) -> float:
        """A number above 0."""
        value = self.values.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise UserError(self.path, f"{key} is {value!r}", "It must be a number above 0.")
        return float(value)

    def mapping(self, key: str) -> dict[str, Any]:
        """An object; an absent one is empty."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise UserError(self.path, f"{key} is {value!r}", "It must be an object.")
        return value

    def only(self, key: str, *allowed: object) -> None:
        """Refuse values other than these."""
        if (value := self.values.get(key)) not in allowed:
            fix = "Only " + " or ".join("none" if one is None else repr(one) for one in allowed) + " can be converted."
            raise UserError(self.path, f"{key} is {value!r}", fix)


def read(path: Path) -> Settings:
    """Read a JSON file that holds an object."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(path, "it is no JSON object", "Copy the checkpoint's file again.")
    return Settings(path, values)
