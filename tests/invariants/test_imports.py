"""The direction of imports, read from the source: who may know whom, and who must stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
import source_tree

WITHOUT_TORCH = {
    "errors", "version", "records", "files", "progress", "registry", "wording", "machine", "model_files",
    "config", "corpus", "answers", "scoring", "annotators", "runs", "run", "frames", "api",
}  # fmt: skip
HEAVY = (
    "torch",
    "pytorch_lightning",
    "transformers",
    "peft",
    "bitsandbytes",
    "torchmetrics",
    "mlflow",
    "matplotlib",
    "pandas",
)
MODULES = {name: path for name, path in source_tree.modules().items() if name != "omniner"}
each_module = pytest.mark.parametrize("name", MODULES)


def _level(room: str) -> int:
    for level, row in enumerate(source_tree.LAYERS):
        if room in row:
            return level
    raise AssertionError(f"omniner.{room} has no layer: add it to LAYERS in tests/helpers/source_tree.py")


def _libraries(name: str) -> set[str]:
    """The packages that a module imports anywhere, ours and those that only types need left out."""
    found = set()
    for node in source_tree.needed_nodes(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@each_module
def test_imports_go_one_way(name: str) -> None:
    own = source_tree.room(name)
    for target, _ in source_tree.imported(MODULES[name], typing=True):
        other = source_tree.room(target)
        if other:
            assert not (own != other and {own, other} <= set(source_tree.APART)), f"{name} imports {target}"
            assert _level(other) <= _level(own), f"{name} imports {target}"


def test_the_documentation_names_the_layers_in_their_order() -> None:
    text = (source_tree.SOURCE.parent / "docs/architecture.md").read_text(encoding="utf-8")
    (line,) = re.findall(
        r"everything imports: (.*?)\.\s*From the bottom to the top: these, then (.*?)\n\n", text, re.DOTALL
    )
    assert re.findall(r"`(\w+)`", " ".join(line)) == [name for row in source_tree.LAYERS for name in row]


@each_module
def test_only_tracking_knows_mlflow(name: str) -> None:
    assert source_tree.room(name) == "tracking" or "mlflow" not in _libraries(name)


@each_module
def test_light_rooms_import_no_torch(name: str) -> None:
    if source_tree.room(name) in WITHOUT_TORCH:
        assert not _libraries(name) & {"torch", "pytorch_lightning", "transformers", "torchmetrics"}


@pytest.mark.parametrize("module", ["omniner", "omniner.run", "omniner.api"])
def test_start_up_imports_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
