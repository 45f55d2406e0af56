"""What is known of an entry without importing its module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from omniner.registry import Registry

MODULE = '''"""An entry."""

HELPER = dict({helper})
ENTRY: object = dict(
    name="one",
    {entry}
)
raise RuntimeError("imported")
'''


@pytest.mark.parametrize(
    ("helper", "entry", "given"), [("write=None", "write=1", True), ("write=1", "write=None", False)]
)
def test_a_field_is_that_of_the_entry_alone(
    helper: str, entry: str, given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"entries_{given}".lower()
    (tmp_path / package).mkdir()
    for name, text in (("__init__", ""), ("one", MODULE.format(helper=helper, entry=entry))):
        (tmp_path / package / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    found: Registry[Any] = Registry("entry", package, "ENTRY")
    assert found.gives("one", "write") == given
    assert found.meaning("one") == "An entry."
