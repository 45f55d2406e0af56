"""The annotators that `annotators=[a.jsonl,name=b.json,...]` means: their names and what they labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omniner.corpus import sources
from omniner.corpus.formats import is_unlabeled
from omniner.errors import UserError
from omniner.records import Issue, Sentence
from omniner.tasks.context import Context, content_digest
from omniner.tracking import DataInput


class Annotator(NamedTuple):
    """A person, or whatever else labelled sentences: name, file, sentences."""

    name: str
    path: Path
    sentences: list[Sentence]


def named(entries: Sequence[str]) -> dict[str, Path]:
    """Name -> file of each entry, all of which are there: `name=path`, or a path whose stem is the name."""
    pairs = [_split(entry) for entry in entries]
    for name, path in pairs:
        if name in ("", "gold") or Path(name).name != name:  # files are called after annotators
            raise UserError("annotators", f"{name!r} is no name for an annotator", 'Give another name: "name=path".')
        if not path.exists():
            raise UserError("annotators", f"{path} does not exist", "Check the path.")
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise UserError("annotators", f"two are called {twice[0]!r}", 'Give other names: "name=path".')
    return dict(pairs)


def _split(entry: str) -> tuple[str, Path]:
    name, equals, path = entry.partition("=")
    if equals and not Path(entry).exists():
        return name, Path(path)
    return Path(entry).stem, Path(entry)


def read(context: Context) -> tuple[list[Annotator], list[Issue]]:
    """Every annotator's sentences, and what could not be read; the run knows the files by their content."""
    found, issues = [], []
    for name, path in named(context.config.annotators).items():
        sentences, met = sources.read_sentences(path)
        if all(map(is_unlabeled, sentences)):
            raise UserError(path, "no labelled sentence could be read", "Name a file of labelled sentences.")
        issues += met
        found.append(Annotator(name, path, sentences))
    context.run.datasets(
        DataInput(one.name, "annotator", content_digest(one.sentences), str(one.path), len(one.sentences))
        for one in found
    )
    return found, issues
