"""The whole of a corpus for tasks that divide or filter it, and the folder that its new parts are written to.

In: `input=<file or folder of any format>`, or the published train, dev and test of `data` joined, whatever a training
run would make of them; `output=<folder>`, or the run's own. Out: the labelled sentences with unique ids, and what could
not be taken as it was.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from omniner.config.groups import Config, DataConfig, Taxonomy
from omniner.corpus import sources
from omniner.corpus import taxonomy as taxonomy_module
from omniner.corpus.formats import corpus_files, is_one_corpus
from omniner.corpus.sources import Corpus
from omniner.errors import UserError
from omniner.records import Issue, Sentence, content_digest, is_unlabeled
from omniner.runs.context import Context
from omniner.tracking.tracked_run import DataInput

FOLDER = "corpus"  # in the run's folder, where no output is named
_UNLABELED = "unlabeled"  # the split of what is there to be tagged


@dataclass(frozen=True)
class Whole:
    """A corpus in one piece; `taxonomy` is what `data.taxonomy` of its parts must be, `digest` of its sentences."""

    name: str
    sentences: list[Sentence]
    issues: list[Issue]
    taxonomy: Taxonomy
    digest: str


def read(context: Context) -> Whole:
    """Read the corpus and tell the run what it is."""
    config = context.config
    if config.input is None:
        corpus = _joined(config.data)
        context.publish_corpus(corpus)
        sentences = [sentence for part in corpus.splits.values() for sentence in part]
        return Whole(corpus.name, sentences, corpus.issues, config.data.taxonomy, content_digest(sentences))
    path = Path(config.input)
    sentences, issues = _labelled(_from_files(path))
    if not sentences:
        raise UserError(path, "no labelled sentence could be read", "Name a corpus file, or a folder of them.")
    official = taxonomy_module.load_taxonomy(taxonomy_module.OFFICIAL)
    known = all(entity.category in official for sentence in sentences for entity in sentence.entities)
    digest = content_digest(sentences)
    context.run.datasets([DataInput(path.stem, "whole", digest, str(path), len(sentences))])
    return Whole(path.stem, sentences, issues, taxonomy_module.OFFICIAL if known else "flat", digest)


class Published(NamedTuple):
    """A corpus without the roles that a run gives to its splits.

    Attributes:
        data: nothing is cut from train, and every split has its published name.
        splits: all of them.
        test: what the test split of a run that reports on dev is called here, since it has no labels as a rule;
            empty where there is none.
    """

    data: DataConfig
    splits: list[str]
    test: str


def published(data: DataConfig) -> Published:
    """The corpus as it is published."""
    files, test = dict(data.files), ""
    if data.report == "dev" and data.format != "synthetic":
        # Whoever wants to tag the test files names them under `unlabeled`, too.
        names = [name for name in files.pop("test", []) if name not in files.get(_UNLABELED, [])]
        if names:
            test = _UNLABELED if not files.get(_UNLABELED) else f"{_UNLABELED}_test"
            files[test] = names
    sizes = data.size if data.format == "synthetic" else {split: len(names) for split, names in files.items()}
    splits = [split for split, size in sizes.items() if size]
    return Published(replace(data, report="test", dev_from_train=0.0, files=files), splits, test)


def _joined(data: DataConfig) -> Corpus:
    """The published splits that have labels, and an issue for each that is left out."""
    given = published(data)
    wanted = [name for name in (*sources.LABELED, given.test) if name in given.splits]
    corpus = sources.load_corpus(given.data, wanted)
    for name in given.splits:
        if name not in wanted:
            corpus.issues.append(Issue("unused-split", f"{name} is none of train, dev and test: not read"))
    if given.test:
        bare = corpus.splits.pop(given.test)
        labelled, issues = _labelled((bare, []))
        if labelled:
            corpus.splits["test"] = labelled
        else:
            issues = [Issue("unused-split", "the published test split has no labels: left out")]
        corpus.issues += issues
    return corpus


def _from_files(path: Path) -> tuple[list[Sentence], list[Issue]]:
    """Sentences of a file, of a folder that is one corpus, or of all files of a folder, with unique ids."""
    found: list[Sentence] = []
    issues: list[Issue] = []
    seen: set[str] = set()
    for file in [path] if is_one_corpus(path) else corpus_files(path):
        sentences, met = sources.read_sentences(file)
        issues += met + sources.make_ids_unique(sentences, file.stem, seen, str(file))
        found += sentences
    return found, issues


def _labelled(read: tuple[list[Sentence], list[Issue]]) -> tuple[list[Sentence], list[Issue]]:
    """Without the sentences that have no labels, which are no sentences without entities."""
    sentences, issues = read
    bare = [sentence for sentence in sentences if is_unlabeled(sentence)]
    issues = issues + [Issue("unlabeled", "no labels; left out", id=sentence.id) for sentence in bare]
    return [sentence for sentence in sentences if not is_unlabeled(sentence)], issues


def output_of(context: Context, names: Collection[str]) -> Path:
    """The folder to write: `output`, which holds nothing but earlier files of these names, or one in the run's.

    Raises:
        UserError: replacing the folder would lose other files, or some that are read.
    """
    config = context.config
    if config.output is None:
        return context.folder / FOLDER
    folder = Path(config.output).resolve()  # where it is a link, what it leads to is replaced
    if folder.exists() and not folder.is_dir():
        raise UserError("output", f"{folder} is a file", "Name a folder.")
    for path in _read_from(config):
        # A link counts where it stands, too.
        if any(place.is_relative_to(folder) for place in (path.resolve(), path.parent.resolve() / path.name)):
            found = f"{folder} is, or holds, what is read ({path}), and this task replaces the folder"
            raise UserError("output", found, "Name another folder.")
    others = sorted(item.name for item in folder.iterdir() if item.name not in names) if folder.exists() else []
    if others:
        found = f"{folder} holds {others[0]}, and this task replaces the folder"
        raise UserError("output", found, "Name a new or empty folder.")
    return folder


def _read_from(config: Config) -> list[Path]:
    """The files and folders that the corpus is read from."""
    if config.input is not None:
        return [Path(config.input)]
    if config.data.format == "synthetic" or config.data.root is None:
        return []
    root = Path(config.data.root)
    return [root, *(root / name for names in config.data.files.values() for name in names)]
