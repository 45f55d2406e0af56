"""The direction of imports, read from the source: who may know whom, and who must stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "omniner"

# Layers from the bottom up; a module may import from its own layer and from those before it.
LAYERS = (
    ("errors",),
    ("records", "files", "progress", "registry", "cores"),
    ("config",),
    ("corpus",),
    ("answers",),
    ("scoring",),
    ("annotators",),
    ("training",),
    ("taggers", "llm"),
    ("convert",),
    ("models",),
    ("guidance",),
    ("report",),
    ("tracking",),
    ("runs",),
    ("tasks",),
    ("run",),
)
APART = ("taggers", "llm")  # one layer, but neither knows the other
WITHOUT_TORCH = {
    *("errors", "records", "files", "progress", "registry", "cores"),
    *("config", "corpus", "answers", "scoring", "annotators", "runs"),
}
HEAVY = (
    "torch",
    "pytorch_lightning",
    "transformers",
    "peft",
    "bitsandbytes",
    "torchmetrics",
    "mlflow",
    "matplotlib",
)


def _layer(module: str) -> int:
    for number, names in enumerate(LAYERS):
        if module in names:
            return number
    raise AssertionError(f"omniner.{module} has no layer: add it to LAYERS")


def _imports(path: Path, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "omniner":
                found |= {f"omniner.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def _own_name(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    own = _own_name(path)
    for name in _imports(path, top_level_only=False):
        if not name.startswith("omniner."):
            continue
        target = name.split(".")[1]
        assert not (own in APART and target in APART and own != target), f"{path.name} ({own}) imports {name}"
        assert target.startswith("__") or _layer(target) <= _layer(own), f"{path.name} ({own}) imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_tracking_knows_mlflow(path: Path) -> None:
    if _own_name(path) != "tracking":
        assert not any(name.split(".")[0] == "mlflow" for name in _imports(path, top_level_only=False))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_analysis_and_corpus_import_no_torch(path: Path) -> None:
    if _own_name(path) in WITHOUT_TORCH:
        roots = {name.split(".")[0] for name in _imports(path, top_level_only=False)}
        assert not roots & {"torch", "pytorch_lightning", "transformers", "torchmetrics"}


def test_start_up_imports_nothing_heavy() -> None:
    code = f"import omniner.run, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
