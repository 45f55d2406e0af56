"""The house rules of the source tree, read from the source: names, sizes, circles, aliases, the picture."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import source_tree

LONGEST_MODULE = 600  # lines
LONGEST_FUNCTION = 60  # lines
SMALL = 150  # lines; a smaller module needs more than one importer
# Modules, without the entries of registries: nobody has to know all formats to find one. A few more than there are, so
# that what is not one module's matter can move to a module of its own.
FEWEST, MOST = 85, 145
MODULES = {name: path for name, path in source_tree.modules().items() if path.name != "__init__.py"}
# What is started by name, or by a person; nothing imports it.
STARTED = {"omniner.run", "omniner.config.reference", "omniner.tracking.pyfunc", "omniner.spacy_component"}
ENTRIES = ("FORMAT", "HEAD", "TASK", "FAMILY", "TEACHER")  # modules that assign one are found by a registry
each_module = pytest.mark.parametrize("name", MODULES)


def _is_entry(path: Path) -> bool:
    """Whether the module is one entry of a registry."""
    source = path.read_text(encoding="utf-8")
    return any(f"\n{entry} = " in source or f"\n{entry}: " in source for entry in ENTRIES)


def test_the_house_has_a_size_that_one_can_learn() -> None:
    inside = [name for name, path in MODULES.items() if not _is_entry(path) and name not in STARTED]
    assert FEWEST <= len(inside) <= MOST


def test_no_two_modules_have_one_name() -> None:
    places = defaultdict(list)
    for name, path in MODULES.items():
        places[path.stem].append(name)
    assert {stem: names for stem, names in places.items() if len(names) > 1} == {}


def test_no_two_public_classes_have_one_name() -> None:
    places = defaultdict(list)
    for name, path in MODULES.items():
        for node in source_tree.tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_modules_import_in_no_circle() -> None:
    """Nor by what only types need: two modules that know each other's types are one thing to a reader."""
    edges = {
        name: {target for target, _ in source_tree.imported(path, typing=True)}
        for name, path in source_tree.modules().items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name in done:
            return
        for target in sorted(edges[name] - {name}):
            if not name.startswith(f"{target}."):  # what a package's own file holds is there before its modules
                visit(target, (*way, name))
        done.add(name)

    for name in sorted(edges):
        visit(name, ())


@each_module
def test_modules_and_functions_are_short_and_say_what_they_are(name: str) -> None:
    source = MODULES[name].read_text(encoding="utf-8")
    assert source.count("\n") <= LONGEST_MODULE
    tree = source_tree.tree(MODULES[name])
    assert ast.get_docstring(tree)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {function: lines for function, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


@each_module
def test_own_modules_are_imported_under_their_names(name: str) -> None:
    aliases = [alias for _, alias in source_tree.imported(MODULES[name], typing=True) if alias.asname]
    assert [f"{alias.name} as {alias.asname}" for alias in aliases] == []


def test_names_are_imported_from_the_modules_that_define_them() -> None:
    """A module may itself import a name that its own had before it was renamed: mypy does not read the tests."""
    root = Path(__file__).resolve().parents[2]
    wrong = [
        f"{path.relative_to(root)}: {alias.name} from {module}"
        for folder in ("src", "tests", "experiments")
        for path in sorted((root / folder).rglob("*.py"))
        for module, alias in source_tree.imported(path, typing=True)
        if not f"{module}.".endswith(f".{alias.name}.") and alias.name not in _defined(module)
    ]
    assert wrong == []


@cache
def _defined(module: str) -> set[str]:
    """What a module of ours defines, and what a package's own file imports for its users."""
    path = source_tree.modules()[module]
    found = set()
    for node in ast.walk(source_tree.tree(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias) and path.name == "__init__.py":
            found.add(node.asname or node.name)
    return found


def test_tests_and_experiments_call_modules_by_their_names() -> None:
    """Where the file uses the name for something else, with the package before it: `tracking_store`."""
    root = Path(__file__).resolve().parents[2]
    wrong = []
    for path in sorted([*(root / "tests").rglob("*.py"), *(root / "experiments").rglob("*.py")]):
        for node in ast.walk(source_tree.tree(path)):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "omniner":
                continue
            package = str(node.module).split(".")[-1]
            told = [alias for alias in node.names if alias.asname not in (None, f"{package}_{alias.name}")]
            wrong += [f"{path.relative_to(root)}: {alias.name} as {alias.asname}" for alias in told]
    assert wrong == []


def test_a_small_module_has_more_than_one_importer() -> None:
    """Or it keeps torch away from its importer, or a registry finds it."""
    importers = defaultdict(set)
    for name, path in source_tree.modules().items():
        for target, _ in source_tree.imported(path, typing=True):
            importers[target].add(name)
    alone = []
    for name, path in MODULES.items():
        source = path.read_text(encoding="utf-8")
        if _is_entry(path) or name in STARTED or source.count("\n") >= SMALL or len(importers[name]) > 1:
            continue
        by = next(iter(importers[name]), None)
        if by is None or _loads_torch(name) == _loads_torch(by):
            alone.append(f"{name} (imported by {by})")
    assert alone == []


@cache
def _loads_torch(name: str) -> bool:
    """Whether importing the module loads torch, by itself or by the modules that it imports at its top."""
    found = set()
    for node in source_tree.tree(source_tree.modules()[name]).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = {module for module in found & source_tree.modules().keys() if not f"{name}.".startswith(f"{module}.")}
    return any(module.split(".")[0] == "torch" for module in found) or any(map(_loads_torch, ours))


def test_the_picture_of_the_house_is_of_today() -> None:
    drawn = Path(__file__).resolve().parents[2] / "docs" / "architecture.svg"
    assert drawn.read_text(encoding="utf-8") == source_tree.drawing(), "run `make docs`"


def test_the_page_names_every_variable_that_tells_a_process_what_it_is() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    sources = [*(root / "src").rglob("*.py"), *(root / "conf").rglob("*.yaml")]
    used = {name for path in sources for name in re.findall(r"OMNINER_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))}
    assert used == set(re.findall(r"OMNINER_[A-Z_]+", page))


def test_what_contributors_are_told_to_look_at_is_there() -> None:
    root = Path(__file__).resolve().parents[2]
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = [path for path in re.findall(r"`([\w./]+)`", text) if path.startswith(("tests/", "conf/"))]
    assert len(named) > 5
    assert [path for path in named if not (root / path).exists()] == []


def test_tests_that_pages_name_are_there() -> None:
    root = Path(__file__).resolve().parents[2]
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "experiments").rglob("*.md")]
    named = {
        match for page in pages for match in re.findall(r"(test_\w+\.py)::(\w+)", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    files: dict[str, str] = defaultdict(str)  # several may have one name
    for path in (root / "tests").rglob("test_*.py"):
        files[path.name] += path.read_text(encoding="utf-8")
    assert [f"{file}::{name}" for file, name in sorted(named) if f"def {name}(" not in files[file]] == []
