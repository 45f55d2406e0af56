"""`task=split`: split a corpus into train, dev and test, by default with the shares of the OmniNER2025 paper. No model.

The corpus is `input=<file or folder of any format>`, or the published train, dev and test of `data` together.
`train.jsonl`, `dev.jsonl` and `test.jsonl` go to `output` (by default to `corpus` in the run's folder); train on them
with `data=own data.root=<that folder>`. `split.json`, `split.md` and `tables/` have the sizes and every category's
share of each split. Every labelled sentence is in exactly one split.
"""

# Other tasks use this module to read a whole corpus and to choose the folder for its parts.

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from omniner.config.groups import Config, DataConfig
from omniner.corpus import sources
from omniner.corpus.formats import corpus_files, is_one_corpus, jsonl
from omniner.corpus.sources import Corpus
from omniner.corpus.splits import Division, absent_category_issues, divide, repeated_text_issues
from omniner.corpus.taxonomy import FLAT, OFFICIAL, load_taxonomy
from omniner.errors import UserError
from omniner.files import writing_folder
from omniner.progress import show
from omniner.records import Issue, Sentence, content_digest, is_unlabeled
from omniner.report import curation_tables
from omniner.report.tables import summary_markdown
from omniner.runs import outputs
from omniner.runs.context import Context, Input, Task, path_label
from omniner.tracking.tracked_run import DataInput

log = logging.getLogger("omniner")

CORPUS_FOLDER = "corpus"  # in the run's folder, used if `output` is not set
_UNLABELED = "unlabeled"  # the split with sentences to tag


def run(context: Context) -> None:
    """Read the corpus, divide it, write the splits, and publish the statistics."""
    settings = context.config.split
    shares = {name: share for name, share in settings.shares.items() if share}
    output = corpus_output_folder(context, [f"{name}.jsonl" for name in shares])
    corpus = read_whole_corpus(context)
    start = time.perf_counter()
    division = divide(corpus.sentences, shares, settings.together, settings.seed, "split.shares")
    log.info("divided in %.1f s", time.perf_counter() - start)
    found = [
        *repeated_text_issues(corpus.sentences, division),
        *absent_category_issues(corpus.sentences, division),
    ]
    context.publish_issues([*corpus.issues, *found])
    with outputs.replacing(context, output), writing_folder(output) as folder:
        for part, name in enumerate(division.names):
            jsonl.write(folder / f"{name}.jsonl", division.of(corpus.sentences, part))
    _publish(context, corpus, division, str(output))
    show("\n".join(curation_tables.split_summary(corpus.sentences, division)))
    if {"train", "test"} <= shares.keys():
        without = "" if "dev" in shares else " data.files.dev=[] data.dev_from_train=0.1"
        taxonomy = "" if corpus.taxonomy == FLAT else f" data.taxonomy={corpus.taxonomy}"
        show(f"train on it: data=own data.root={output}{taxonomy}{without}")


def _publish(context: Context, corpus: WholeCorpus, division: Division, output: str) -> None:
    sentences = corpus.sentences
    parts = {name: division.of(sentences, number) for number, name in enumerate(division.names)}
    context.track_splits(corpus.name, parts.items(), output)
    worst, part, name = curation_tables.worst_deviation(division, curation_tables.mentions_by_part(sentences, division))
    context.run.tags({"split.together": division.together, "split.output": output, "split.farthest": f"{name} {part}"})
    values: dict[str, float] = {
        f"split/{name}": size for name, size in zip(division.names, division.sizes, strict=True)
    }
    values |= {"split/posts": division.posts, "split/groups": len(division.groups), "split/farthest": worst}
    values |= {"split/largest_group": max(map(len, division.groups))}
    context.run.metrics(values)
    context.publish_json("split.json", curation_tables.split_json(sentences, division))
    tables = curation_tables.build_split_tables(sentences, division)
    context.publish_tables(tables, "split_")
    summary = curation_tables.split_summary(sentences, division)
    context.publish_text("split.md", summary_markdown(context.config.name, summary, tables))


@dataclass(frozen=True)
class WholeCorpus:
    """A corpus in one piece.

    Attributes:
        name: name of the corpus.
        sentences: all labelled sentences, with unique ids.
        issues: what could not be read or had to be changed.
        taxonomy: the `data.taxonomy` that its parts need.
        digest: digest of the content of the sentences.
    """

    name: str
    sentences: list[Sentence]
    issues: list[Issue]
    taxonomy: str
    digest: str


def read_whole_corpus(context: Context) -> WholeCorpus:
    """Read the corpus of `input`, or the published one of `data`, and record it in the tracked run."""
    config = context.config
    if config.input is None:
        corpus = _joined(config.data)
        context.publish_corpus(corpus)
        sentences = [sentence for part in corpus.splits.values() for sentence in part]
        sources.require_entities("data", sentences)
        return WholeCorpus(corpus.name, sentences, corpus.issues, config.data.taxonomy, content_digest(sentences))
    path = Path(config.input)
    sentences, issues = _labelled(_from_files(path, config.data))
    if not sentences:
        raise UserError(path, "no labelled sentence could be read", "Name a corpus file, or a folder of them.")
    sources.require_entities(path, sentences)
    official = load_taxonomy(OFFICIAL)
    known = all(entity.category in official for sentence in sentences for entity in sentence.entities)
    digest = content_digest(sentences)
    context.run.datasets([DataInput(path.stem, "whole", digest, str(path), len(sentences))])
    return WholeCorpus(path.stem, sentences, issues, OFFICIAL if known else FLAT, digest)


class PublishedSplits(NamedTuple):
    """A corpus with its splits as they were published.

    Attributes:
        data: the corpus configuration, in which nothing is cut from train and every split has its published name.
        splits: names of all splits.
        test: name here of the published test files of a corpus that is reported on dev, which usually have no labels;
            empty if there are none.
    """

    data: DataConfig
    splits: list[str]
    test: str


def published_splits(data: DataConfig) -> PublishedSplits:
    """Return the published splits of `data`, without the changes that a run makes for dev and the reported split."""
    files, test = dict(data.files), ""
    if data.report == "dev" and data.format != "synthetic":
        # To tag the test files, a user lists them under `unlabeled`, too: those are not read twice.
        names = [name for name in files.pop("test", []) if name not in files.get(_UNLABELED, [])]
        if names:
            test = _UNLABELED if not files.get(_UNLABELED) else f"{_UNLABELED}_test"
            files[test] = names
    sizes = data.size if data.format == "synthetic" else {split: len(names) for split, names in files.items()}
    splits = [split for split, size in sizes.items() if size]
    return PublishedSplits(replace(data, report="test", dev_from_train=0.0, files=files), splits, test)


def _joined(data: DataConfig) -> Corpus:
    """Load the published splits that have labels, with an issue for each split that is left out."""
    given = published_splits(data)
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


def _from_files(path: Path, data: DataConfig) -> tuple[list[Sentence], list[Issue]]:
    """Read the sentences of a file, of a folder that is one corpus, or of all files of a folder; make ids unique."""
    found: list[Sentence] = []
    issues: list[Issue] = []
    seen: set[str] = set()
    for file in [path] if is_one_corpus(path) else corpus_files(path):
        sentences, met = sources.read_sentences(file, data)
        issues += met + sources.make_ids_unique(sentences, file.stem, seen, str(file))
        found += sentences
    return found, issues


def _labelled(read: tuple[list[Sentence], list[Issue]]) -> tuple[list[Sentence], list[Issue]]:
    """Drop unlabelled sentences, with an issue for each; labelled ones without entities stay."""
    sentences, issues = read
    bare = [sentence for sentence in sentences if is_unlabeled(sentence)]
    issues = issues + [Issue("unlabeled", "no labels; left out", id=sentence.id) for sentence in bare]
    return [sentence for sentence in sentences if not is_unlabeled(sentence)], issues


def corpus_output_folder(context: Context, names: Collection[str]) -> Path:
    """Return the folder to write: `output`, or `corpus` in the run's folder.

    Args:
        context: the task's context.
        names: names of the files that it will hold; existing files of these names are replaced.

    Raises:
        UserError: replacing the folder would delete other files, or files that are read.
    """
    config = context.config
    if config.output is None:
        return context.folder / CORPUS_FOLDER
    folder = Path(config.output).resolve()  # the target of a link is replaced, not the link
    if folder.exists() and not folder.is_dir():
        raise UserError("output", f"{folder} is a file", "Name a folder.")
    for path in _read_from(config):
        # A link inside the folder counts, too, not only its target.
        if any(read.is_relative_to(folder) for read in (path.resolve(), path.parent.resolve() / path.name)):
            found = f"{folder} is, or holds, what is read ({path}), and this task replaces the folder"
            raise UserError("output", found, "Name another folder.")
    others = sorted(item.name for item in folder.iterdir() if item.name not in names) if folder.exists() else []
    if others:
        found = f"{folder} holds {others[0]}, and this task replaces the folder"
        raise UserError("output", found, "Name a new or empty folder.")
    return folder


def _read_from(config: Config) -> list[Path]:
    """Return the files and folders that the corpus is read from."""
    if config.input is not None:
        return [Path(config.input)]
    if config.data.format == "synthetic" or config.data.root is None:
        return []
    root = Path(config.data.root)
    return [root, *(root / name for names in config.data.files.values() for name in names)]


def _check(config: Config) -> None:
    shares = [share for share in config.split.shares.values() if share]
    if len(shares) < 2 or abs(sum(shares) - 1) > 1e-9:
        listed = ", ".join(f"{name} {share:g}" for name, share in config.split.shares.items())
        fix = "Give two or more that add up to 1, for example split.shares={train: 0.8, dev: 0.1, test: 0.1}."
        raise UserError("split.shares", f"{listed} do not make a whole", fix)


TASK = Task(
    name="split",
    description=__doc__,
    run=run,
    label=lambda config: ["split", path_label(config.input) if config.input else config.data.name],
    inputs=[Input("input")],
    check=_check,
    outputs=["split.json", "split.md", "tables", CORPUS_FOLDER],
    settings=lambda config: ["output"] if config.input else ["output", "data"],
    about_corpora=True,
)
