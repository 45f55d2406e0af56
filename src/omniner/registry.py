"""List what can be extended and where to find it: one entry holds all that the program knows of a thing.

An entry is found by its name in one of two ways. Either a module of the registry's package assigns it
(`omniner/corpus/formats/brat.py` has `FORMAT = Format(...)`), or `add` registers it: this is for external extensions,
and for tables, modules that add several entries. The environment names the modules that call `add`
(`load_extensions`), so that the child processes of a run have them, too. Names are read from the files without
importing them, so that `--help` and the check of a configuration know every choice without waiting for torch; a module
is imported when its entry is requested.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from omniner.errors import UserError


class Entry(Protocol):
    """Attributes that every entry has."""

    @property
    def name(self) -> str:
        """Its name in configurations and files."""

    @property
    def meaning(self) -> str:
        """Its description in one line."""


T = TypeVar("T", bound=Entry)

EXTENSIONS = "OMNINER_EXTENSIONS"  # environment variable: comma-separated modules that add entries of their own


class Registry(Mapping[str, T], Generic[T]):
    """Entries by name: those of modules in alphabetical order, then added ones.

    Questions that need no import are answered from the module's text, in the cheapest sufficient way. A parser reads
    the docstring (`meaning`) and the values given to the entry (`peek`). A regular expression, nine times as fast,
    finds a word (`gives`), which every check of a configuration needs from all formats.

    Args:
        what: the kind of entry, for messages.
        package: its modules hold one entry each; None = all entries are added.
        attribute: the name under which such a module assigns its entry.
        table: a module that adds the entries of the program, if importing it is cheap; None = whoever needs them
            imports it.
    """

    def __init__(self, what: str, package: str | None = None, attribute: str = "", table: str | None = None) -> None:
        self.what, self._package, self._attribute, self._table = what, package, attribute, table
        self._files: dict[str, Path] | None = None
        self._entries: dict[str, T] = {}

    @property
    def _added(self) -> dict[str, T]:
        if self._table is not None:
            import_module(self._table)  # once; while the table adds its entries, it is being imported
        return self._entries

    def __getitem__(self, name: str) -> T:
        if name in self._added:
            return self._added[name]
        if name not in self._modules():
            raise KeyError(name)
        entry: T = getattr(import_module(f"{self._package}.{name}"), self._attribute)
        return entry

    def __iter__(self) -> Iterator[str]:
        yield from self._modules()
        yield from self._added

    def __len__(self) -> int:
        return len(self._modules()) + len(self._added)

    def __contains__(self, name: object) -> bool:
        return name in self._added or name in self._modules()

    def add(self, entry: T) -> T:
        """Add an entry that no module of the package holds.

        Returns:
            The entry.

        Raises:
            ValueError: the name is taken.
        """
        if entry.name in self:
            raise ValueError(f"there is a {self.what} {entry.name!r} already")
        self._added[entry.name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Remove an added entry."""
        del self._added[name]

    def meaning(self, name: str) -> str:
        """Return an entry's description without importing it: the first line of its module's docstring."""
        if name in self._added:
            return self._added[name].meaning
        tree = ast.parse(self._modules()[name].read_text(encoding="utf-8"))
        return first_line(ast.get_docstring(tree))

    def peek(self, name: str, field: str) -> Any:
        """Return a field of an entry, without importing its module if the field is written there as a literal.

        Checks of a configuration use this for fields that must be known without torch.

        Raises:
            KeyError: there is no such entry.
        """
        for keyword in [] if name in self._added else self._keywords(name):
            if keyword.arg == field:
                with suppress(ValueError):  # not a literal, but a name or a call
                    return ast.literal_eval(keyword.value)
        return getattr(self[name], field)

    def gives(self, name: str, field: str) -> bool:
        """Whether an entry gives a field, without importing it; an entry that does not has `field=None` in its source.

        Raises:
            KeyError: there is no such entry.
        """
        if name in self._added:
            return getattr(self._added[name], field) is not None
        text = self._modules()[name].read_text(encoding="utf-8")
        entry = re.search(rf"^{self._attribute}\b[^=\n]*= *\w+\((?:.*\)$|(?:\n[ )].*)*)", text, re.MULTILINE)
        assert entry is not None, "_modules found its assignment"  # parsing each file takes nine times as long
        return not re.search(rf"\b{field}=None\b", entry[0])

    def _keywords(self, name: str) -> list[ast.keyword]:
        """Return the keyword arguments with which a module creates its entry."""
        if name not in self:
            raise KeyError(name)
        found: list[ast.keyword] = []
        for node in ast.parse(self._modules()[name].read_text(encoding="utf-8")).body:
            targets = map(ast.unparse, node.targets) if isinstance(node, ast.Assign) else ()
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and self._attribute in targets:
                found = node.value.keywords
        return found

    def _modules(self) -> dict[str, Path]:
        """Return the modules of the package that assign an entry, by their names."""
        if self._files is None:
            assigns = re.compile(rf"^{self._attribute}\b.*=", re.MULTILINE)
            spec = find_spec(self._package) if self._package else None
            folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
            self._files = {
                path.stem: path
                for folder in folders
                for path in sorted(folder.glob("[!_]*.py"))
                if assigns.search(path.read_text(encoding="utf-8"))
            }
        return self._files


def load_extensions() -> None:
    """Import the modules that `OMNINER_EXTENSIONS` names; each adds its entries (`HEADS.add(...)`).

    Raises:
        UserError: there is no such module.
    """
    names = [name for part in os.environ.get(EXTENSIONS, "").split(",") if (name := part.strip())]
    if names and (here := str(Path.cwd())) not in sys.path:  # `python -m` adds it, the command `omniner` does not
        sys.path.append(here)
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module exists, but imports one that does not
            fix = "Write the name of a module in the current directory or on PYTHONPATH, as `import` takes it."
            raise UserError(EXTENSIONS, f"there is no module {name!r}", fix) from error


def first_line(docstring: str | None) -> str:
    """Return the description of an entry from its module's docstring; `Registry.meaning` reads the same line."""
    return (docstring or "").partition("\n")[0]


# What the entries are is not known here, at the bottom of the imports. The module that defines their type gives the
# registry its type, too (`omniner.taggers.heads` has `HEADS: Registry[Head]`), and whoever can import that module takes
# the registry from there. The configuration, which the modules of entries import, takes names from here.
FORMATS: Registry[Any] = Registry("format", "omniner.corpus.formats", "FORMAT")
HEADS: Registry[Any] = Registry("head", "omniner.taggers.heads", "HEAD")
TASKS: Registry[Any] = Registry("task", "omniner.tasks", "TASK")
TEACHERS: Registry[Any] = Registry("teacher", "omniner.guidance.teachers", "TEACHER")
ENGINES: Registry[Any] = Registry("engine", table="omniner.predicting.engines")
ERROR_TYPES: Registry[Any] = Registry("error type")
ISSUE_CODES: Registry[Any] = Registry("issue code", table="omniner.issue_codes")
MODEL_FAMILIES: Registry[Any] = Registry("model family", "omniner.convert.families", "FAMILY")
"""Families of language models whose checkpoints must be converted, by the `model_type` of their config.json."""


def writable_formats() -> list[str]:
    """Return the names of the corpus formats that can be written, without importing them."""
    return [name for name in FORMATS if FORMATS.gives(name, "write")]
