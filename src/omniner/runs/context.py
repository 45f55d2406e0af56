"""What a task is: its entry in the registry, and what it is given when it runs.

Everybody who has to know something of a task asks its `Task`: the check of a configuration what it must give, the
run's folder what to clear when the task starts over, help what it is for, `omniner.run` what to call. So a new task
is one new file, and its choice in `conf/task`.

A running task is given a `Context`: the checked configuration, the run's folder and its tracked run, and the ways to
publish results. To publish is to write a file into the folder and to keep it with the tracked run under the same
path, so that the tracking store holds every run's results at the same place.
"""

from __future__ import annotations

import logging
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from omniner.config.groups import Config, TrackingConfig
from omniner.config.model_groups import CausalConfig
from omniner.config.validate import flat
from omniner.corpus.sources import Corpus, check_files
from omniner.errors import UserError
from omniner.files import check_input_file, explaining, read_json, sha256, write_json, write_text, writing
from omniner.machine import check_gpu
from omniner.model_files import check_model
from omniner.records import Issue, Sentence, content_digest, count_codes, to_line
from omniner.registry import TASKS, first_line
from omniner.report.figures import Chart
from omniner.report.tables import Table, escape_markdown
from omniner.runs.folder import METRICS
from omniner.runs.references import find_trained_model
from omniner.tracking.browser import NOTE_TAG
from omniner.tracking.store import DATA_SUFFIX
from omniner.tracking.tracked_run import DataInput, Run
from omniner.wording import counted, language_of

log = logging.getLogger("omniner")

# What a parameter of a run would only repeat: values that `trainer` took over, texts that are artifacts of their own.
_REPEATED = ("model.recipe.", "prompt.system.", "prompt.instruction.", "prompt.input.", "prompt.errors.")

_WIDTH = 100  # characters of a line in a run's description

TRACKED_ROWS = 10_000  # of a table in the tracking store: a comparison of 200,000 sentences would make one of 50 MB

_SEPARATOR = re.compile(r"[/\\]")  # of folders: names of models on the hub have one


def always(of: object) -> bool:
    """Whatever the configuration, or the value."""
    return True


def never(of: object) -> bool:
    """With no configuration, and no value."""
    return False


@dataclass(frozen=True)
class Input:
    """A key of the configuration that names what a task reads.

    Attributes:
        key: the key, or its dotted name where it stands in a section.
        required: whether the task cannot begin without it; a function where that depends on the configuration.
        folder_allowed: False where the path must be that of a file.
        fewest: entries that a list must have at least; paths in lists are checked by whoever reads them.
        fix: what to do where it is missing; empty: set it to a path.
        accepts: which values are no path and will do all the same, such as the name of a run.
        by_content: whether a run whose results are there is done anew for another content of the (small) file.
    """

    key: str
    required: bool | Callable[[Config], bool] = False
    folder_allowed: bool = True
    fewest: int = 1
    fix: str = ""
    accepts: Callable[[str], bool] = never
    by_content: bool = False

    def value(self, config: Config) -> Any:
        """The value of the key."""
        value: Any = config
        for part in self.key.split("."):
            value = getattr(value, part)
        return value

    def check(self, task: str, config: Config) -> None:
        """Raise a `UserError` where the key lacks a value that `task` needs, or names a file that is not there."""
        value = self.value(config)
        required = self.required(config) if callable(self.required) else self.required
        fix = self.fix or f"Set {self.key}=<path>."
        if isinstance(value, list):
            if required and len(value) < self.fewest:
                least = {1: "one", 2: "two"}.get(self.fewest, str(self.fewest))
                raise UserError(self.key, f"task={task} needs {least} or more, {len(value)} given", fix)
        elif not value:
            if required:
                raise UserError(self.key, f"task={task} needs it", fix)
        elif self.accepts(str(value)):
            return
        elif not Path(str(value)).exists():
            raise UserError(self.key, f"{value} does not exist", "Check the path.")
        elif not self.folder_allowed and Path(str(value)).is_dir():
            raise UserError(self.key, f"{value} is not a file", "Name a file in it.")
        else:
            check_input_file(str(value))


# Keys that some tasks read and others would pass over, and what is meant where one of those is given it.
_KEYS_OF_TASKS = {
    **dict.fromkeys(("predictions", "gold", "runs", "corpora", "annotators", "practice", "expert", "run", "input"), ""),
    **dict.fromkeys(("text", "to"), ""),
    "output": "The folder of a run is named by output_dir.",
    "checkpoint": "A stopped run goes on with the same command; model.path names weights to begin with.",
}


@dataclass(frozen=True)
class Task:
    """A task: what it needs, does and leaves behind.

    Attributes:
        name: how `task=` calls it, and its module.
        description: the docstring of its module; the first line says what it does.
        run: does it.
        label: what tells runs of it apart at a glance; makes the run's name where none is given.
        inputs: the keys that name what it reads.
        check: what else must hold of a configuration before it begins; raises `UserError`.
        outputs: the files and folders that it writes into the run's folder, beside those of every task.
        resume_files: those of its files that a later start goes on from; a folder that holds one is never taken back.
        trains: whether models learn in it, which a server's cannot.
        prompts: whether it makes a prompt of its own, so that `prompt.from_run` is for it.
        uses_model: whether it runs the model of `model` here, on the devices of `trainer`.
        splits: those of the corpus of `data` that it reads.
        settings: sections and keys of the configuration that decide its results, beside its inputs and the section of
            its own name.
        about_corpora: whether its runs tell of corpora and not of models, and are listed apart from those.
        tracked: whether its runs are worth a record in the tracking store.
        has_own_run: False where it only looks after other runs, and so has no folder and no tracked run of its own.
    """

    name: str
    description: str
    run: Callable[[Context], None]
    label: Callable[[Config], Sequence[str]]
    inputs: Sequence[Input] = ()
    check: Callable[[Config], None] = lambda config: None
    outputs: Sequence[str] = ()
    resume_files: Sequence[str] = ()
    trains: bool = False
    prompts: bool = False
    uses_model: Callable[[Config], bool] = never
    splits: Callable[[Config], Sequence[str]] = lambda config: ()
    settings: Callable[[Config], Sequence[str]] = lambda config: ()
    about_corpora: bool = False
    tracked: Callable[[Config], bool] = always
    has_own_run: bool = True

    @property
    def meaning(self) -> str:
        """What it does, in one line."""
        return first_line(self.description)

    def tracking_for(self, settings: TrackingConfig) -> TrackingConfig:
        """Return where its runs are kept: those about corpora in an experiment apart from that of models."""
        name = f"{settings.experiment}{DATA_SUFFIX}" if self.about_corpora else settings.experiment
        return replace(settings, experiment=name)

    def check_config(self, config: Config) -> None:
        """Raise a `UserError` where the task could not begin with this configuration."""
        for one in self.inputs:
            one.check(self.name, config)
        self.check(config)
        for key, instead in _KEYS_OF_TASKS.items():
            if getattr(config, key) not in (None, [], "auto") and key not in self._used(config):
                readers = [name for name in TASKS if key in TASKS[name]._used(config)]
                found = f"task={self.name} does not read it, only task={', '.join(readers)}"
                raise UserError(key, found, instead or "Leave it out, or choose one of these.")

    def check_machine(self, config: Config) -> None:
        """Raise a `UserError` where this machine lacks what the task needs: a checkpoint, a corpus, a model, a GPU.

        Only what a glance can tell: it comes before anything heavy is imported and before the run leaves a trace.
        """
        if config.checkpoint and any(one.key == "checkpoint" for one in self.inputs):
            find_trained_model(config.checkpoint, config.tracking)
        check_files(config.data, self.splits(config))
        if self.uses_model(config):
            if path := getattr(config.model, "path", None):
                check_model(path)
            if config.trainer.accelerator == "gpu":
                check_gpu()

    def content_read(self, config: Config) -> str:
        """Digest the inputs whose content makes another run of the same configuration; empty where there is none."""
        files = [one.value(config) for one in self.inputs if one.by_content]
        return " ".join(sha256(file) for file in files if file)

    def parameters(self, config: Config) -> dict[str, Any]:
        """Return what a run of it used of a configuration, by dotted keys: what runs are told apart by."""
        used = self._used(config)
        values = {key: value for key, value in flat(config).items() if key.partition(".")[0] in used}
        empty: tuple[Any, ...] = (None, "", [], {})
        return {key: value for key, value in values.items() if value not in empty and not key.startswith(_REPEATED)}

    def _used(self, config: Config) -> set[str]:
        """The sections and keys that decide its results."""
        return {self.name, *(one.key for one in self.inputs), *self.settings(config)}

    def run_name(self, config: Config) -> str:
        """The name of a run that was given none; its folder is called so, too."""
        return _SEPARATOR.sub("-", "-".join(part for part in self.label(config) if part))


def model_label(config: Config, learns: bool = True) -> list[str]:
    """What the label of a run says of its model; `learns`: whether the run trains it."""
    if isinstance(config.model, CausalConfig):
        decoding = config.decoding.kind if config.decoding.kind != "free" else ""
        prompt = f"{config.prompt.name}_own" if config.prompt.from_run else config.prompt.name
        return [config.model.name, prompt, config.tuning.method if learns else "", decoding]
    if config.decoding.engine == "openai":
        return [config.decoding.model or "server", config.prompt.name]
    return [config.model.name, config.head.kind]


def model_settings(config: Config) -> list[str]:
    """The sections that decide what becomes of a model of the configuration."""
    kind = ["head"] if config.llm is None else ["tuning", "prompt", "decoding"]
    return ["model", *kind, "data", "encoding", "trainer", "metrics", "errta", "seed"]


def split_entry(entry: str) -> tuple[str, str]:
    """Take an entry `name=path` apart; the name is empty where the entry is a path, as one with a `=` in it can be."""
    name, equals, path = entry.partition("=")
    with explaining(entry):
        return (name, path) if equals and not Path(entry).exists() else ("", entry)


def entry_label(entry: str) -> str:
    """What the label of a run says of a path, or of `name=path`."""
    name, path = split_entry(entry)
    return path_label(name or path)


def path_label(path: str) -> str:
    """What the label of a run says of a path: its last part, without the ending of a file; `lr0.01` has none."""
    last = Path(path)
    return last.name if last.suffix[1:2].isdigit() else last.stem


@dataclass
class Context:
    """What a running task is given.

    Attributes:
        config: checked.
        folder: of the run; relative names below are relative to it.
        run: the tracked run; one that writes nothing where tracking is off.
        complaint: what the task found that its command was told to fail on, for exit status 1; empty = nothing.
    """

    config: Config
    folder: Path
    run: Run
    complaint: str = ""

    def publish_file(self, name: str) -> Path:
        """Keep a file of the folder with the tracked run; return its path."""
        path = self.folder / name
        parent = PurePosixPath(name).parent.as_posix()
        self.run.file(path, "" if parent == "." else parent)
        return path

    def publish_text(self, name: str, text: str) -> Path:
        """Write a text file and keep it with the tracked run; return its path."""
        write_text(self.folder / name, text)
        return self.publish_file(name)

    def publish_json(self, name: str, value: Any) -> Path:
        """Write a JSON file and keep it with the tracked run; return its path."""
        write_json(self.folder / name, value)
        return self.publish_file(name)

    def publish_table(self, name: str, table: Table) -> None:
        """Write `tables/<name>.csv` and keep the table with the tracked run, whose UI compares it between runs.

        A UI loads tables as a whole: it gets the first `TRACKED_ROWS` rows.
        """
        write_text(self.folder / "tables" / f"{name}.csv", table.to_csv())
        if len(table.rows) > TRACKED_ROWS:
            message = "tables/%s.csv has %s rows; the tracking store gets the first %s of them"
            log.info(message, name, f"{len(table.rows):,}", f"{TRACKED_ROWS:,}")
        self.run.table(table.names, table.rows[:TRACKED_ROWS], f"tables/{name}.json")

    def publish_tables(self, tables: Mapping[str, Table], prefix: str = "") -> None:
        """Publish each table under the name `<prefix><its name>`."""
        for name, table in tables.items():
            self.publish_table(f"{prefix}{name}", table)

    def page_language(self, texts: Iterable[str]) -> str:
        """The language of pages and figures about these texts: `zh` or `en`."""
        wanted = self.config.report.language
        return language_of(texts) if wanted == "auto" else wanted

    def publish_figures(self, figures: Mapping[str, Chart]) -> None:
        """Draw each chart as `figures/<name>.png` and keep it with the tracked run."""
        log.info("drawing %s", counted(len(figures), "figure"))  # some seconds, the first time above all
        for name, chart in figures.items():
            with writing(self.folder / "figures" / f"{name}.png", "wb") as file:
                file.write(chart.png())
            self.publish_file(f"figures/{name}.png")

    def describe(
        self,
        headline: str,
        pages: Sequence[str],
        *,
        figure: str = "",
        command: str = "",
        table: Table | None = None,
        points: Sequence[str] = (),
        details: Sequence[str] = (),
    ) -> None:
        """Tell in the tracking store's UI what came of the run.

        Args:
            headline: what came of it in one line of Markdown.
            pages: published files to read on in, the most telling first; those that are not there are left out.
            figure: a published picture; left out if it is not there.
            command: what to do next.
            table: few columns that say more.
            points: sentences, which become a list.
            details: lines as they stand on the terminal, with columns below each other.
        """
        if not self.run.url:
            return
        links = " · ".join(f"[{page}]({self.run.page(page)})" for page in pages if (self.folder / page).exists())
        picture = f"![{figure}]({self.run.file_address(figure)})" if (self.folder / figure).is_file() else ""
        following = f"Next: `{command}`" if command else ""
        listed = "\n".join(f"- {escape_markdown(point)}" for point in points)
        # A block of code does not wrap in the UI: a long line would make the whole page wider than the screen.
        lines = (folded for line in details for folded in _folded(line))
        block = "\n".join(["```", *lines, "```"]) if details else ""
        shown = table.to_markdown() if table is not None else ""
        parts = [headline, links, following, picture, shown, listed, block]
        self.run.tags({NOTE_TAG: "\n\n".join(filter(None, parts))})

    def publish_results(self, values: Mapping[str, float]) -> None:
        """Track what runs are compared by, and keep it in the folder, where a sweep or a search finds it."""
        path = self.folder / METRICS
        earlier = read_json(path) if path.exists() else {}
        write_json(path, {**earlier, **{name: value for name, value in values.items() if math.isfinite(value)}})
        self.run.metrics(values)

    def publish_issues(self, issues: Sequence[Issue]) -> dict[str, int]:
        """List in `issues.jsonl` what could not be taken as it was; return how many issues there are of each code."""
        counts = count_codes(issues)
        lines = [to_line(issue._asdict()) for issue in issues]
        path = self.publish_text("issues.jsonl", "".join(f"{line}\n" for line in lines))
        self.run.metrics({f"issues/{code}": count for code, count in counts.items()})
        if counts:
            listed = ", ".join(f"{count:,} {code}" for code, count in counts.items())
            log.warning("issues: %s (listed in %s)", listed, path)
        return counts

    def publish_corpus(self, corpus: Corpus) -> None:
        """Log and track what the corpus is: sizes, digests, categories."""
        sizes = {split: len(sentences) for split, sentences in corpus.splits.items()}
        log.info(
            "data %s: %s; %s; reported on: %s",
            corpus.name,
            ", ".join(f"{split} {size:,}" for split, size in sizes.items()),
            counted(len(corpus.taxonomy.categories), "category"),
            corpus.report,
        )
        self.track_splits(corpus.name, corpus.splits.items(), ", ".join(corpus.digests))
        self.run.tags({f"data.file.{name}": digest for name, digest in corpus.digests.items()})
        self.run.metrics({f"data/{split}_sentences": size for split, size in sizes.items()})

    def track_splits(self, name: str, splits: Iterable[tuple[str, Sequence[Sentence]]], source: str) -> None:
        """Tell the tracked run which splits of the corpus `name` it used, by their content.

        Args:
            name: of the corpus.
            splits: name and sentences of each.
            source: the path, or whatever else says where they are from.
        """
        self.run.datasets(
            DataInput(f"{name}-{split}", split, content_digest(sentences), source, len(sentences))
            for split, sentences in splits
        )


def _folded(line: str) -> list[str]:
    """A line as one or more that are not too long; the further ones are indented below it."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]
