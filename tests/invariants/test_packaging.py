"""What is built into a wheel is what stands in the source, and what it requires is what the code needs."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import omniner

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_to_cite_is_that_of_the_code() -> None:
    (line,) = [
        line
        for line in (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
        if "version:" in line and "cff" not in line
    ]
    assert line == f"version: {omniner.__version__}"


def test_every_package_of_the_source_is_in_the_wheel() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    folders = (path.parent.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("__init__.py"))
    assert sorted(listed) == sorted(["omniner.conf", *(".".join(folder.parts) for folder in folders)])


@pytest.mark.parametrize(
    ("system", "machine", "comes"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", True),
        ("win32", "AMD64", True),
        ("darwin", "arm64", True),
        ("darwin", "x86_64", False),
        ("linux", "ppc64le", False),
    ],
)
def test_4_bits_work_after_the_plain_install_where_bitsandbytes_has_wheels(
    system: str, machine: str, comes: bool
) -> None:
    wanted = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    found = [one for one in wanted if one.name == "bitsandbytes"]
    assert comes == any(
        one.marker is None or one.marker.evaluate({"sys_platform": system, "platform_machine": machine})
        for one in found
    )


def test_lightning_is_as_new_as_the_code_needs() -> None:
    from pytorch_lightning import Trainer

    assert "weights_only" in inspect.signature(Trainer.fit).parameters  # which came with 2.6
    wanted = {one.name: one for one in map(Requirement, PROJECT["project"]["dependencies"])}
    lightning = wanted["pytorch-lightning"]
    assert not lightning.specifier.contains("2.5.6")
    assert lightning.specifier.contains("2.6.0")
