"""`task=stats`: count corpora (Table 3 of the paper) and check them for each known kind of fault.

`corpora=[weibo,mine.jsonl,name=folder,...]` lists them; the default is the corpus of `data`. An entry is a choice of
`conf/data` or a path; `name=` before it gives it another name:

- A choice stands for all its published splits, including test files without labels. Nothing is held out of train, and
  the reported split keeps its published name. The choice that `data` has in this command keeps the command's overrides.
- A file is one split; a folder has one split for each file named after train, dev or test. Categories are checked
  against the official ones if most mentions have official categories.

All corpora are located before the first is read. Loads no model and no torch. A failed check is a finding, not an
error: the run is complete, but the command ends with exit status 1 unless `stats.exit_on` says otherwise. The results
are `stats.html`, `stats.md`, `stats.json`, tables, a LaTeX table and figures.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omniner.config import compose
from omniner.config.groups import Config, DataConfig, StatsConfig
from omniner.corpus import sources
from omniner.corpus.formats import corpus_files, is_one_corpus, recognise
from omniner.corpus.stats.checks import CHECKS, FAILED, WARNED, SurveyedCorpus, Verdict, run_checks
from omniner.corpus.stats.measure import measure_corpus
from omniner.corpus.taxonomy import FLAT, OFFICIAL, Taxonomy, load_taxonomy
from omniner.errors import UserError
from omniner.progress import show
from omniner.records import Issue, Sentence
from omniner.report import corpus_page, corpus_tables
from omniner.report.tables import Table
from omniner.runs.context import Context, Task, entry_label, split_entry
from omniner.tasks.split import published_splits
from omniner.wording import counted

log = logging.getLogger("omniner")

_CHOICE = re.compile(r"[\w-]+")
_ROLE = re.compile(r"(?<![a-z])(train|dev|valid|validation|val|test)(?![a-z])")
_ROLES = {"valid": "dev", "validation": "dev", "val": "dev"}


def run(context: Context) -> None:
    """Find, read and measure the corpora, run the checks, and publish the results."""
    config = context.config
    _check_limits(config.stats)
    surveyed = [_survey(context, planned) for planned in find_corpora(config)]
    verdicts = {one.statistics.name: run_checks(one) for one in surveyed}
    context.publish_issues([issue for one in surveyed for issue in _named(one)])
    tables = corpus_tables.build_corpus_tables(surveyed, verdicts, config.stats)
    _publish(context, surveyed, verdicts, tables)
    text = corpus_page.corpus_text(surveyed, verdicts, tables)
    judged = Counter(verdict.status for one in verdicts.values() for verdict in one)
    headline = f"{counted(judged[FAILED], 'check')} failed, {judged[WARNED]} warned: {', '.join(verdicts)}"
    found = [f"{name}: {one.line()}" for name, of in verdicts.items() for one in of if one.status in (FAILED, WARNED)]
    context.describe(headline, ["stats.html"], table=tables["table3"], points=found)
    show(text)
    context.complaint = _complaint(verdicts, config.stats.exit_on)


def _complaint(verdicts: Mapping[str, Sequence[Verdict]], exit_on: str) -> str:
    """Return a message with the checks for which the command exits with status 1; empty if there are none."""
    statuses = {"never": (), "fail": (FAILED,), "warn": (FAILED, WARNED)}[exit_on]
    found = {name: [one.check for one in judged if one.status in statuses] for name, judged in verdicts.items()}
    listed = "; ".join(f"{name}: {', '.join(checks)}" for name, checks in found.items() if checks)
    return f"checks of corpora ({listed}); stats.exit_on=never ends with status 0" if listed else ""


def _check_limits(settings: StatsConfig) -> None:
    """Raise a `UserError` for a limit of an unknown check."""
    for key, limits in (("stats.warn", settings.warn), ("stats.fail", settings.fail)):
        for name in limits:
            if name not in CHECKS:
                raise UserError(f"{key}.{name}", "there is no such check", f"Known: {', '.join(CHECKS)}.")


def _survey(context: Context, planned: CorpusEntry) -> SurveyedCorpus:
    """Read and measure one corpus, and record its splits in the tracked run."""
    config = context.config
    material = planned.read()
    sizes = ", ".join(f"{split} {len(sentences):,}" for split, sentences in material.splits.items())
    log.info("%s: %s", material.name, sizes)  # its source is printed with the verdicts
    context.track_splits(material.name, material.splits.items(), material.source)
    statistics = measure_corpus(material.name, material.splits, config.stats)
    spent = ", ".join(f"{step} {seconds:.1f}" for step, seconds in statistics.seconds.items())
    log.info("%s: measured in %.1f CPU s (%s)", material.name, sum(statistics.seconds.values()), spent)
    longest = config.encoding.max_length
    return SurveyedCorpus(statistics, material.about, material.issues, material.taxonomy, longest, config.stats)


def _named(surveyed: SurveyedCorpus) -> list[Issue]:
    """Return the issues of a corpus with its name in the messages."""
    return [issue._replace(message=f"{surveyed.statistics.name}: {issue.message}") for issue in surveyed.issues]


def _publish(
    context: Context,
    surveyed: Sequence[SurveyedCorpus],
    verdicts: Mapping[str, Sequence[Verdict]],
    tables: Mapping[str, Table],
) -> None:
    context.run.metrics(_metrics(surveyed, verdicts))
    context.run.tags({f"stats.{one.statistics.name}": one.about for one in surveyed})
    context.publish_json("stats.json", corpus_tables.corpus_json(surveyed, verdicts))
    context.publish_tables(tables, "stats_")
    context.publish_text("latex/stats_table3.tex", tables["table3"].to_latex("table3"))
    language = context.page_language(text for one in surveyed for text in one.statistics.flat.texts)
    context.publish_figures(corpus_page.draw_corpus_figures(surveyed, language))
    _texts(context, surveyed, verdicts, tables, language)


def _metrics(surveyed: Sequence[SurveyedCorpus], verdicts: Mapping[str, Sequence[Verdict]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for one in surveyed:
        prefix = f"stats/{one.statistics.name}"
        values |= {f"{prefix}/{name}": value for name, value in corpus_tables.corpus_numbers(one).items()}
        for split, texts in one.statistics.texts.items():
            values[f"{prefix}/{split}_sentences"] = texts.sentences
            values[f"{prefix}/{split}_entities"] = one.statistics.labels[split].entities
        for split, seen in one.statistics.seen.items():
            if seen.mentions:
                values[f"{prefix}/{split}_unseen"] = 1 - seen.surface / seen.mentions
        judged = verdicts[one.statistics.name]
        values |= {f"{prefix}/check/{verdict.check}": verdict.value for verdict in judged}
        for status in (FAILED, WARNED):
            values[f"{prefix}/{status}"] = sum(verdict.status == status for verdict in judged)
    return values


def _texts(
    context: Context,
    surveyed: Sequence[SurveyedCorpus],
    verdicts: Mapping[str, Sequence[Verdict]],
    tables: Mapping[str, Table],
    language: str,
) -> None:
    name = context.config.name
    created = time.strftime("%Y-%m-%d %H:%M:%S")
    page = corpus_page.render_corpus_page(name, created, surveyed, verdicts, tables, language)
    context.publish_text("stats.html", page)
    context.publish_text("stats.md", corpus_page.corpus_markdown(name, surveyed, verdicts, tables))


@dataclass
class ReadCorpus:
    """A corpus as read.

    Attributes:
        name: name of the corpus.
        splits: sentences by published split.
        issues: what could not be read or had to be changed.
        taxonomy: the taxonomy that its categories should belong to; None = it has categories of its own.
        about: where it comes from and how it was read, for people.
        source: where it comes from, for the tracking store: file names, or the path.
    """

    name: str
    splits: dict[str, list[Sentence]]
    issues: list[Issue]
    taxonomy: Taxonomy | None
    about: str
    source: str


@dataclass(frozen=True)
class CorpusEntry:
    """A corpus that was located, but not read yet."""

    name: str
    read: Callable[[], ReadCorpus]


def find_corpora(config: Config) -> list[CorpusEntry]:
    """Locate every corpus of `corpora`, or that of `data`; a missing one raises a `UserError` before any is read."""
    if not config.corpora:
        return [_choice(config.data.name, config.data)]
    planned = [_entry(entry, config) for entry in config.corpora]
    if twice := [name for name, count in Counter(one.name for one in planned).items() if count > 1]:
        raise UserError("corpora", f"two are called {twice[0]!r}", 'Give other names: "name=path".')
    return planned


def _entry(entry: str, config: Config) -> CorpusEntry:
    name, target = split_entry(entry)
    if name != Path(name).name:  # metrics and tables are named after corpora
        raise UserError("corpora", f"{name!r} is no name for a corpus", 'Give another name: "name=path".')
    if _CHOICE.fullmatch(target) and (data := _data(target, config)) is not None:
        return _choice(name or data.name, data)
    path = Path(target)
    if not path.exists():
        fix = "Name a choice of conf/data, a file or a folder."
        raise UserError("corpora", f"{target!r} is no choice of data, and there is no such file or folder", fix)
    return CorpusEntry(name or path.stem, lambda: _files(name or path.stem, path, config.data))


def _data(name: str, config: Config) -> DataConfig | None:
    """Return the choice of `conf/data` with that name; None if there is none."""
    from hydra.errors import MissingConfigException

    if name == config.data.name:
        return config.data
    try:
        composed = compose.compose_unchecked([f"data={name}"])
    except MissingConfigException:
        return None
    return compose.to_section(composed, "data", DataConfig)


def _choice(name: str, data: DataConfig) -> CorpusEntry:
    given, wanted, _ = published_splits(data)
    published = dataclasses.replace(given, name=name, taxonomy=FLAT)
    if data.format != "synthetic":
        named = [file for split in wanted for file in given.files[split]]
        if not named or data.root is None or any(not (Path(data.root) / file).exists() for file in named):
            sources.load_corpus(published, wanted)  # raises an error that names the missing files
    return CorpusEntry(name, lambda: _read(data, published, wanted))


def _read(data: DataConfig, published: DataConfig, wanted: Sequence[str]) -> ReadCorpus:
    corpus = sources.load_corpus(published, wanted)
    known = None if data.taxonomy == FLAT else load_taxonomy(data.taxonomy)
    digests = ", ".join(f"{file} {digest[:12]}" for file, digest in corpus.digests.items())
    about = f"data={data.name}, format {data.format}; {digests}"
    return ReadCorpus(published.name, corpus.splits, corpus.issues, known, about, ", ".join(corpus.digests))


def _files(name: str, path: Path, data: DataConfig) -> ReadCorpus:
    """Read a corpus from a path: a single corpus is one split named after it; another folder has a split per file."""
    issues: list[Issue] = []
    if is_one_corpus(path):
        splits = {_role(path) or path.stem: path}
    else:
        splits, issues = _roles(path)
    read, kinds = {}, []
    for split, file in splits.items():
        format, why = sources.format_of_files(data), "data.format"
        if format == "auto":
            format, why = recognise(file)
        sentences, met = sources.read_sentences(file, data)
        read[split] = sentences
        issues += met
        kinds.append(f"{file} read as {format} ({why})")
    own = data.taxonomy not in (FLAT, OFFICIAL)  # OFFICIAL may be the default of data=sample, not chosen for this file
    known = load_taxonomy(data.taxonomy) if own else _official(read)
    return ReadCorpus(name, read, issues, known, "; ".join(kinds), str(path))


def _official(splits: Mapping[str, Sequence[Sentence]]) -> Taxonomy | None:
    """Return the official taxonomy if most mentions have its categories, so that the other categories are reported."""
    official = load_taxonomy(OFFICIAL)
    known = [e.category in official for sentences in splits.values() for s in sentences for e in s.entities]
    return official if 2 * sum(known) > len(known) else None


def _roles(folder: Path) -> tuple[dict[str, Path], list[Issue]]:
    """Return the file of each split, and an issue for each file that belongs to none."""
    found: dict[str, Path] = {}
    issues = []
    for file in corpus_files(folder):
        role = _role(file)
        if role in found:
            fix = 'Name a folder with one file a split, or single files: "name=path".'
            raise UserError(file, f"{found[role].name} is the split {role}, too", fix)
        if role:
            found[role] = file
        else:
            issues.append(Issue("no-split", "not called after train, dev or test: not read", str(file)))
    if not found:
        raise UserError(folder, "no file is called after train, dev or test", "Name the file, or rename it.")
    return {role: found[role] for role in ("train", "dev", "test") if role in found}, issues


def _role(path: Path) -> str:
    """Return the split that a file is named after; empty if its name contains none."""
    match = _ROLE.search(path.name.lower())
    return _ROLES.get(match[1], match[1]) if match else ""


def _check(config: Config) -> None:
    for entry in config.corpora:
        path = split_entry(entry)[1] or entry
        named = path.replace("_", "").replace("-", "").isalnum()  # it may be a choice of conf/data
        if not named and not Path(path).exists():
            raise UserError("corpora", f"{path} does not exist", "Name a choice of conf/data, a file or a folder.")


TASK = Task(
    name="stats",
    description=__doc__,
    run=run,
    label=lambda config: ["stats", *(map(entry_label, config.corpora[:3]) if config.corpora else [config.data.name])],
    check=_check,
    outputs=["stats.html", "stats.json", "stats.md", "tables", "figures", "latex"],
    settings=lambda config: ["encoding", "corpora"] if config.corpora else ["encoding", "data"],
    about_corpora=True,
)
