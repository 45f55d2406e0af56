"""What is built into a wheel is what stands in the source."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_package_of_the_source_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = (path.parent.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("__init__.py"))
    assert sorted(listed) == sorted(["omniner.conf", *(".".join(folder.parts) for folder in folders)])
