"""`Task`, a task's entry in the registry, and `Context`, what a running task receives.

A `Task` holds all that other modules need to know about a task: what its configuration must contain, which files to
clear when it starts over, its help text, and the function to call. So a new task is one new file, and its choice in
`conf/task`.

A running task receives a `Context`: the checked configuration, the run's folder, its tracked run, and methods to
publish results. To publish means to write a file into the folder and to track it under the same path, so that the
tracking store has the results of every run under the same paths.
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

from omniner import pretrained, registry
from omniner.config.groups import Config, TrackingConfig
from omniner.config.model_groups import BiLSTMConfig
from omniner.config.validate import flat
from omniner.corpus.sources import Corpus, check_files, digest_files
from omniner.errors import UserError
from omniner.files import check_input_file, explaining, read_json, sha256, write_json, write_text, writing
from omniner.issue_codes import explained
from omniner.machine import check_gpu
from omniner.model_files import check_model
from omniner.records import Issue, Sentence, content_digest, count_codes, ranked, to_line
from omniner.registry import ENGINES, Registry, first_line
from omniner.report.figures import Chart
from omniner.report.tables import Table, escape_markdown
from omniner.runs.folder import METRICS
from omniner.runs.references import find_trained_model
from omniner.tracking.browser import NOTE_TAG
from omniner.tracking.store import DATA_SUFFIX
from omniner.tracking.tracked_run import DataInput, Run
from omniner.wording import counted, language_of

log = logging.getLogger("omniner")

# Keys not tracked as parameters: values that `trainer` has taken over, and texts that are tracked as artifacts.
_REPEATED = ("model.recipe.", "prompt.system.", "prompt.instruction.", "prompt.input.", "prompt.errors.")

_WIDTH = 100  # characters of a line in a run's description

TRACKED_ROWS = 10_000  # rows of a tracked table: the table of 200,000 compared sentences would have 50 MB

_SEPARATOR = re.compile(r"[/\\]")  # of paths: model names on the hub contain one


def always(of: object) -> bool:
    """Return True for every configuration or value."""
    return True


def never(of: object) -> bool:
    """Return False for every configuration or value."""
    return False


@dataclass(frozen=True)
class Input:
    """A key of the configuration that names an input of a task.

    Attributes:
        key: the key; dotted if it is in a section.
        required: whether the task needs it; a function if that depends on the configuration.
        folder_allowed: False if the path must be a file.
        fewest: minimum number of entries of a list; the code that reads the list checks its paths.
        fix: advice if it is missing; empty = set it to a path.
        accepts: returns True for values that need not be paths, such as the name of a run.
        by_content: whether a finished run is done anew if the content of the (small) file has changed.
    """

    key: str
    required: bool | Callable[[Config], bool] = False
    folder_allowed: bool = True
    fewest: int = 1
    fix: str = ""
    accepts: Callable[[str], bool] = never
    by_content: bool = False

    def value(self, config: Config) -> Any:
        """Return the value of the key."""
        value: Any = config
        for part in self.key.split("."):
            value = getattr(value, part)
        return value

    def check(self, task: str, config: Config) -> None:
        """Raise a `UserError` if `task` needs a value that is missing, or if the value names a file that is missing."""
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


# Keys that only some tasks read, with the advice if another task is given one; empty = the usual advice.
_KEYS_OF_TASKS = {
    **dict.fromkeys(("predictions", "gold", "runs", "corpora", "annotators", "practice", "expert", "run", "input"), ""),
    **dict.fromkeys(("text", "to"), ""),
    "output": "The folder of a run is named by output_dir.",
    "checkpoint": "A stopped run goes on with the same command; model.path names weights to begin with.",
}


@dataclass(frozen=True)
class Task:
    """A task: its inputs, its function, and its outputs.

    Attributes:
        name: value of `task=`, and name of its module.
        description: the docstring of its module; the first line says what it does.
        run: the function that runs it.
        label: parts of the default name of its runs, which tell them apart.
        inputs: the keys that name its inputs.
        check: further checks of the configuration; raises `UserError`.
        outputs: the files and folders that it writes into the run's folder, beside those of every task.
        resume_files: files that a later start continues from; a folder with one of them is never discarded.
        trains: whether it trains models; then a server cannot be used.
        prompts: whether it builds a prompt, so that `prompt.from_run` applies.
        uses_model: whether it loads the weights of `model` on this machine.
        splits: the splits of `data` that it reads.
        settings: sections and keys of the configuration that decide its results, beside its inputs and the section with
            its name.
        about_corpora: whether its runs are about corpora, not models; they are tracked in a separate experiment.
        tracked: whether its runs are tracked.
        has_own_run: False if it only manages other runs and has no folder and no tracked run of its own.
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
        """Return in one line what the task does."""
        return first_line(self.description)

    def tracking_for(self, settings: TrackingConfig) -> TrackingConfig:
        """Return where its runs are tracked: those about corpora in an experiment separate from that of models."""
        name = f"{settings.experiment}{DATA_SUFFIX}" if self.about_corpora else settings.experiment
        return replace(settings, experiment=name)

    def check_config(self, config: Config) -> None:
        """Raise a `UserError` if the task cannot begin with this configuration."""
        for one in self.inputs:
            one.check(self.name, config)
        self.check(config)
        for key, instead in _KEYS_OF_TASKS.items():
            if getattr(config, key) not in (None, [], "auto") and key not in self._used(config):
                readers = [name for name in TASKS if key in TASKS[name]._used(config)]
                found = f"task={self.name} does not read it, only task={', '.join(readers)}"
                raise UserError(key, found, instead or "Leave it out, or choose one of these.")

    def check_machine(self, config: Config) -> None:
        """Raise a `UserError` if this machine lacks what the task needs: a checkpoint, a corpus, a model, a GPU.

        Only quick checks: this runs before heavy imports and before the run writes anything.
        """
        if config.checkpoint and any(one.key == "checkpoint" for one in self.inputs):
            find_trained_model(config.checkpoint, config.tracking)
        check_files(config.data, self.splits(config))
        if self.uses_model(config):
            if not isinstance(config.model, BiLSTMConfig) and config.model.path is not None:
                check_model(config.model.path, config.model.revision)
            if config.trainer.accelerator == "gpu":
                check_gpu()

    def content_read(self, config: Config) -> str:
        """Return a digest of the inputs whose content decides whether a run is done anew; empty if there are none."""
        files = [one.value(config) for one in self.inputs if one.by_content]
        return " ".join(sha256(file) for file in files if file)

    def inputs_read(self, config: Config) -> dict[str, str]:
        """Return the sha256 of each input that is a file on this machine, by its path.

        These are the files of the corpus, those that keys such as `input` and `predictions` name, and the guidance of
        `prompt.from_run`. The content of other folders, such as those of runs, is not compared.
        """
        named = [one.value(config) for one in self.inputs]
        paths = [Path(path) for value in named for path in (value if isinstance(value, list) else [value]) if path]
        if self.prompts and config.prompt.from_run:
            from omniner.guidance.lessons import GUIDANCE_FILE  # imported late: few runs have guidance

            guidance = Path(config.prompt.from_run)
            paths.append(guidance / GUIDANCE_FILE if guidance.is_dir() else guidance)
        digests = digest_files(config.data, self.splits(config))
        return digests | {str(path): sha256(path) for path in paths if path.is_file()}

    def parameters(self, config: Config) -> dict[str, Any]:
        """Return the values of a configuration that a run of this task uses, by dotted keys, for the tracking store."""
        used = self._used(config)
        values = {key: value for key, value in flat(config).items() if used & {key, key.partition(".")[0]}}
        empty: tuple[Any, ...] = (None, "", [], {})
        return {key: value for key, value in values.items() if value not in empty and not key.startswith(_REPEATED)}

    def _used(self, config: Config) -> set[str]:
        """Return the sections and keys that decide its results."""
        return {self.name, *(one.key for one in self.inputs), *self.settings(config)}

    def run_name(self, config: Config) -> str:
        """Return the default name of a run, which its folder gets, too."""
        return _SEPARATOR.sub("-", "-".join(part for part in self.label(config) if part))


TASKS: Registry[Task] = registry.TASKS


def model_label(config: Config, learns: bool = True) -> list[str]:
    """Return the parts of a run's label about its model; `learns` = whether the run trains it."""
    if config.llm is not None:
        decoding = config.decoding.kind if config.decoding.kind != "free" else ""
        prompt = f"{config.prompt.name}_own" if config.prompt.from_run else config.prompt.name
        return [config.model.name, prompt, config.tuning.method if learns else "", decoding]
    if not ENGINES[config.decoding.engine].local_weights:
        return [config.decoding.model or "server", config.prompt.name]
    return [config.model.name, config.head.kind]


def model_settings(config: Config) -> list[str]:
    """Return the sections and keys that decide the results of a model trained with the configuration."""
    kind = ["head", "decoding.min_score"] if config.llm is None else ["tuning", "prompt", "decoding"]
    return ["model", *kind, "data", "encoding", "trainer", "metrics", "errta", "seed"]


def split_entry(entry: str) -> tuple[str, str]:
    """Split an entry `name=path`; the name is empty if the entry is a path, even an existing one with a `=` in it."""
    name, equals, path = entry.partition("=")
    with explaining(entry):
        return (name, path) if equals and not Path(entry).exists() else ("", entry)


def entry_label(entry: str) -> str:
    """Return the part of a run's label for a path or for `name=path`."""
    name, path = split_entry(entry)
    return path_label(name or path)


def path_label(path: str) -> str:
    """Return the part of a run's label for a path: its last part without the suffix; `.01` of `lr0.01` is no suffix."""
    last = Path(path)
    return last.name if last.suffix[1:2].isdigit() else last.stem


@dataclass
class Context:
    """What a running task receives.

    Attributes:
        config: the checked configuration.
        folder: folder of the run; names in the methods are relative to it.
        run: the tracked run; one that writes nothing if tracking is off.
        complaint: set by the task: a finding that makes the command exit with status 1; empty = none.
    """

    config: Config
    folder: Path
    run: Run
    complaint: str = ""

    def publish_file(self, name: str) -> Path:
        """Track a file of the folder; return its path."""
        path = self.folder / name
        parent = PurePosixPath(name).parent.as_posix()
        self.run.file(path, "" if parent == "." else parent)
        return path

    def publish_text(self, name: str, text: str) -> Path:
        """Write and track a text file; return its path."""
        write_text(self.folder / name, text)
        return self.publish_file(name)

    def publish_json(self, name: str, value: Any) -> Path:
        """Write and track a JSON file; return its path."""
        write_json(self.folder / name, value)
        return self.publish_file(name)

    def publish_table(self, name: str, table: Table) -> None:
        """Write `tables/<name>.csv` and track the table, so that the UI can compare it between runs.

        Only the first `TRACKED_ROWS` rows are tracked, because the UI loads whole tables.
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
        """Return the language of pages and figures about these texts: `zh` or `en`."""
        wanted = self.config.report.language
        return language_of(texts) if wanted == "auto" else wanted

    def publish_figures(self, figures: Mapping[str, Chart]) -> None:
        """Draw each chart as `figures/<name>.png` and track it."""
        log.info("drawing %s", counted(len(figures), "figure"))  # takes some seconds, most of them the first time
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
        """Write a description of the run and its results for the tracking store's UI.

        Args:
            headline: the result in one line of Markdown.
            pages: published files with more information, the most important first; missing ones are left out.
            figure: a published picture; left out if it is missing.
            command: the command to run next.
            table: a table with few columns.
            points: sentences, shown as a list.
            details: lines as printed on the terminal, with aligned columns.
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
        """Track the metrics by which runs are compared, and write them to the folder for a sweep or a search."""
        path = self.folder / METRICS
        earlier = read_json(path) if path.exists() else {}
        write_json(path, {**earlier, **{name: value for name, value in values.items() if math.isfinite(value)}})
        self.run.metrics(values)

    def publish_issues(self, issues: Sequence[Issue]) -> dict[str, int]:
        """Write the issues to `issues.jsonl`, log and track their numbers, and return the number of each code."""
        counts = count_codes(issues)
        lines = [to_line(issue._asdict()) for issue in issues]
        path = self.publish_text("issues.jsonl", "".join(f"{line}\n" for line in lines))
        self.run.metrics({f"issues/{code}": count for code, count in counts.items()})
        if counts:
            listed = ", ".join(f"{count:,} {code}" for code, count in counts.items())
            most = ranked(counts)[0][0]
            said = " ".join(filter(None, explained(most)))
            log.warning("issues: %s (listed in %s)%s", listed, path, f"; {most}: {said}" if said else "")
        return counts

    def publish_corpus(self, corpus: Corpus) -> None:
        """Log and track facts about the corpus: sizes, digests, categories."""
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
        """Record the splits that this run used in the tracked run, with digests of their content.

        Args:
            name: name of the corpus.
            splits: (name, sentences) of each split.
            source: the path, or another description of where they come from.
        """
        self.run.datasets(
            DataInput(f"{name}-{split}", split, content_digest(sentences), source, len(sentences))
            for split, sentences in splits
        )


def model_commit(config: Config, state: Mapping[str, Any]) -> str | None:
    """Return the commit at which a run reads the hub model that `model` names.

    A run that has begun keeps what it began with, also if that was no commit, as in older versions: with another one,
    its predictions and the runs of its children would count as those of another configuration.

    Args:
        config: configuration of the run.
        state: the run's state so far.

    Returns:
        The commit; None for any model that is from no hub, and if it is unknown.

    Raises:
        UserError: the model has no such revision.
    """
    if "run_id" in state:  # it has begun
        commit: str | None = state.get("model_commit")
        return commit
    model = config.model
    if isinstance(model, BiLSTMConfig) or model.path is None or Path(model.path).exists():
        return None
    return pretrained.find_commit(model.path, model.revision)


def at_commit(config: Config, commit: str) -> Config:
    """Return a configuration whose hub model is read at this commit."""
    assert not isinstance(config.model, BiLSTMConfig), "it is from no hub"
    return replace(config, model=replace(config.model, revision=commit))


def _folded(line: str) -> list[str]:
    """Wrap a line at `_WIDTH` characters; continuation lines are indented by four more."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]
