"""Run sweeps (`-m`): one parent run and one folder per sweep; an interrupted sweep resumes where it was.

Hydra calls `SweepCallback.on_multirun_start` in the launching process, before its sweeper and launcher begin. It finds
the unfinished sweep of the same command, or makes the folder and the parent run of a new one, and sets Hydra's sweep
folder to it. Hydra's launcher then calls `run_child` for each job, in a process of its choice; the job finds the folder
through the environment, executes its run in a child process (`omniner.runs.children`) and writes a record of it to the
folder. Hydra does not call `on_multirun_end` after a failure, so `omniner.run` always calls `close` itself: it ends the
parent run with a summary over seeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shlex
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.utils import configure_log
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from omniner import tracking
from omniner.config import compose, rules, run_config
from omniner.config.class_defaults import without_class_defaults
from omniner.config.compose import SEARCH_PATH, to_section
from omniner.config.groups import Config, TrackingConfig
from omniner.config.overrides import quote
from omniner.config.run_config import NOT_IDENTITY
from omniner.errors import Stopped, UserError
from omniner.files import make_folder, read_json, try_lock, write_json, write_text, writing
from omniner.registry import TASKS
from omniner.runs import children
from omniner.runs.children import CheckStop, ChildSettings, Job
from omniner.runs.delivery import finish, send_unsent
from omniner.runs.folder import (
    FINISHED,
    GUIDANCE_COPY,
    LOCK,
    SCORES,
    STATE,
    SWEEP_STATE,
    TRAINED_ON,
    UNSENT,
    read_state,
    read_state_file,
    remove_temporary_files,
)
from omniner.tracking import unsent
from omniner.tracking.spool import SPOOL
from omniner.tracking.store import ChildRun
from omniner.tracking.tracked_run import Ending, Run
from omniner.wording import counted

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from hydra.conf import HydraConf

    from omniner.report.tables import Table

log = logging.getLogger("omniner")

OBJECTIVE = "val/best_f1"  # the value for an optimising sweeper: on dev, because a sweep must not choose by test
NAME_LENGTH = 120  # maximum characters of a sweep's name
SCALES = ("metrics.unit", "metrics.profile", "errta.mode")  # keys that define what a score or an error is
_BOOKKEEPING = (SWEEP_STATE, LOCK, "multirun.yaml", SPOOL)  # the third is written by Hydra
_FOLDER = "OMNINER_SWEEP"  # the sweep's folder, for its jobs


class SweepNotStarted(BaseException):
    """A user's mistake found before the first job; no `Exception`: Hydra turns those of callbacks into warnings."""

    def __init__(self, error: UserError) -> None:
        self.error = error
        super().__init__(str(error))


@dataclass
class Sweep:
    """The sweep of this process.

    Attributes:
        folder: its folder.
        lock: the folder's lock.
        state: the content of `sweep.json`.
        new: whether this process made it; False if it was resumed.
        run: the tracked run that its children belong to.
    """

    folder: Path
    lock: BaseFileLock
    state: dict[str, Any]
    new: bool
    run: Run = field(default_factory=Run)

    @property
    def tracking_config(self) -> TrackingConfig:
        """The tracking settings of the parent run."""
        return TrackingConfig(**self.state["tracking"])

    def save(self, **changes: Any) -> None:
        """Change the state on disk atomically."""
        self.state.update(changes)
        write_json(self.folder / SWEEP_STATE, self.state)

    def count_finished(self) -> int:
        """Return how many of its children have finished."""
        states = map(read_state_file, self.folder.glob(f"*-*/{STATE}"))
        return sum(state.get("status") in (FINISHED, UNSENT) for state in states)

    def discard(self) -> None:
        """Undo a sweep that could not begin: remove its parent run, its files, and the folder if it is then empty."""
        if self.run.id:
            self.run.finish("failed")
            tracking.delete_run(self.tracking_config, self.run.id)
            unsent.forget_note(self.tracking_config, self.folder)
        for name in _BOOKKEEPING:
            (self.folder / name).unlink(missing_ok=True)
        self.lock.release()
        with contextlib.suppress(OSError):  # not empty: it existed before
            self.folder.rmdir()


_running: Sweep | None = None


class SweepCallback(Callback):
    """Hydra's callback: makes or resumes a sweep before its first job starts."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the sweep of this command line.

        Raises:
            SweepNotStarted: it cannot begin.
        """
        global _running
        configure_log(compose.job_logging())  # Hydra configures logging only with the first job
        try:
            _running = _open(config)
        except UserError as error:
            raise SweepNotStarted(error) from error
        os.environ[_FOLDER] = str(_running.folder.resolve())
        folder = str(_running.folder)
        with flag_override(config.hydra, ["readonly", "struct"], [False, False]):
            _give_seed(config.hydra.sweeper, _running)
            config.hydra.sweep.dir = folder
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quote(folder)}")


def _open(config: DictConfig) -> Sweep:
    """Find the unfinished sweep of this command or make a new one, with its parent run."""
    if config.resume not in ("auto", "never"):
        raise UserError("resume", f"{config.resume!r} names one run, and this is a sweep", "Choose auto or never.")
    for override in config.hydra.overrides.task:  # before Hydra and we write them to files
        rules.refuse_login(override.lstrip("+~").partition("=")[0], override)
    _refuse_mixed_scales(config.hydra.overrides.task)
    settings = to_section(config, "tracking", TrackingConfig)
    if config.task.name in TASKS:
        settings = TASKS[config.task.name].tracking_for(settings)  # in the experiment of its children
    digest, wanted = _digest(config), Path(config.hydra.sweep.dir)
    sweep = _find_unfinished(_candidates(config, wanted), digest) if config.resume == "auto" else None
    if sweep is None:
        _refuse_equal_jobs(config)
        sweep = _make(wanted, digest, _name(config))
    else:
        kept = counted(sweep.count_finished(), "finished run")
        log.info("going on with %s: %s will be kept (resume=never starts anew)", sweep.folder, kept)
    for path in (sweep.folder / children.FOLDER).glob("*.json"):  # each child writes its record again
        path.unlink()
    overrides = OmegaConf.to_container(config.hydra.overrides.task)
    listed = json.dumps(overrides, ensure_ascii=False)
    tags = {"task": "sweep", "sweep.overrides": listed, "sweep.dir": str(sweep.folder)}
    try:
        sweep.run = tracking.start_run(
            replace(settings, system_metrics=False),  # its children record them
            name=sweep.state["name"], folder=sweep.folder, parent=None,
            resume_id=sweep.state.get("parent") or None, tags=tags,
        )  # fmt: skip
    except UserError:
        if sweep.new:
            sweep.discard()
        raise
    fixed = _fixed_keys(overrides)
    sweep.save(parent=sweep.run.id, tracking=asdict(settings), status="running", fixed=fixed)
    if sweep.run.id:
        send_unsent(settings, wait=0, own=sweep.folder)
    return sweep


def _fixed_keys(overrides: Any) -> list[str]:
    """Return the keys whose values are the same in all jobs of a command line; the others distinguish a job."""
    return [key for key, swept in _parsed_keys(overrides) if not swept]


def _parsed_keys(overrides: Iterable[str]) -> list[tuple[str, bool]]:
    """Return the key of each override, and whether it is swept over."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [(one.get_key_element().lstrip("+"), one.is_sweep_override()) for one in parsed]


def _refuse_mixed_scales(overrides: Sequence[str]) -> None:
    """Raise a `UserError` for a sweep over keys that define what scores mean: its children could not be compared."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key in SCALES and "," in value:
            found = f"{value} in one sweep: its runs would be measured in different units, and cannot be compared"
            raise UserError(key, found, "Choose one; each run has test/pair/f1 and test/span/f1, too.")


def _refuse_equal_jobs(config: DictConfig) -> None:
    """Raise a `UserError` for a sweep over a key that certainly no job reads: its runs would be equal.

    This is certain if no choice is swept over, because all jobs then have the model, head and tuning method of
    `config`. Otherwise, and if a sweeper draws values, each job in which a key has no effect warns.
    """
    swept = [key for key, is_swept in _parsed_keys(config.hydra.overrides.task) if is_swept]
    chosen = [key for key in swept if ("." not in key and key != "seed") or key.endswith((".kind", ".method", ".path"))]
    if chosen or not _is_grid(config.hydra.sweeper):
        return
    try:
        typed = compose.to_config(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    except UserError:
        return  # each job reports its own mistake
    for key in swept:
        if why := rules.why_unread(typed, key):
            raise UserError(key, f"{why}: runs that it alone sets apart would be equal", "Leave it out.")


def _is_grid(sweeper: Any) -> bool:
    """Whether a sweeper runs all given values, as Hydra's basic sweeper does, instead of drawing some."""
    return str(sweeper.get("_target_", "")).endswith(".BasicSweeper")


def _digest(config: DictConfig) -> str:
    """Return a hash that is equal for commands of the same sweep: of all values but those of `NOT_IDENTITY`."""
    composed = OmegaConf.to_container(config, resolve=False)
    assert isinstance(composed, dict)
    given = [item for item in composed["hydra"]["overrides"]["task"] if not item.startswith(NOT_IDENTITY)]
    said = without_class_defaults(Config, {str(key): value for key, value in composed.items()})
    base = {key: value for key, value in said.items() if key not in (*NOT_IDENTITY, "hydra")}
    sweeper = composed["hydra"]["sweeper"]
    if _is_grid(sweeper):  # for other sweepers the order of the overrides matters
        given = _ordered(given)
    values = [given, sweeper, base]
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


def _ordered(overrides: Sequence[str]) -> list[str]:
    """Sort overrides by key; those of one key, or of keys inside it, keep their order."""
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]

    def root(key: str) -> str:
        return min((other for other in keys if f"{key}.".startswith(f"{other}.")), key=len)

    return [override for _, override in sorted(zip(map(root, keys), overrides, strict=True), key=itemgetter(0))]


def _candidates(config: DictConfig, wanted: Path) -> list[Path]:
    """Return folders in which the sweep of a command may be: the named one, or all siblings if its name has a time."""
    pattern = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    assert isinstance(pattern, dict)
    return sorted(wanted.parent.glob("*")) if "${now:" in pattern["dir"] else [wanted]


def _find_unfinished(folders: Iterable[Path], digest: str) -> Sweep | None:
    """Return the newest sweep of this command in `folders` that has not finished and is not running; None if none."""
    found = []
    for path in (folder / SWEEP_STATE for folder in folders):
        state = read_state_file(path) if path.is_file() else {}
        if state.get("digest") == digest and state.get("status") != FINISHED:
            found.append((state.get("started", 0.0), path.parent, state))
    for _, folder, state in sorted(found, key=lambda item: item[:2], reverse=True):
        if (lock := try_lock(folder / LOCK)) is not None:
            remove_temporary_files(folder)
            return Sweep(folder, lock, state, new=False)
    return None


def _make(folder: Path, digest: str, name: str) -> Sweep:
    lock = try_lock(make_folder(folder) / LOCK)
    if lock is None or (folder / SWEEP_STATE).exists():
        raise UserError("hydra.sweep.dir", f"{folder} holds another sweep", "Choose another folder.")
    return Sweep(folder, lock, {"digest": digest, "name": name, "started": time.time()}, new=True)


def _name(config: DictConfig) -> str:
    """Return the name of the parent run: `name` if it was given, otherwise the overrides."""
    swept = [item for item in config.hydra.overrides.task if not item.startswith(NOT_IDENTITY)]
    return f"sweep {config.name if config.name != 'auto' else ' '.join(swept)}"[:NAME_LENGTH].strip()


def _give_seed(sweeper: DictConfig, sweep: Sweep) -> None:
    """Draw a seed for an Optuna sampler that has none, once per sweep.

    Optuna keeps its study in memory. A resumed sweep asks a new study for the first trials again; with the same seed
    and the same results they are the same trials, which are finished, and the sampler continues from there.
    """
    sampler = sweeper.get("sampler")
    if OmegaConf.is_dict(sampler) and "seed" in sampler and sampler.seed is None:
        if "seed" not in sweep.state:
            sweep.save(seed=secrets.randbelow(2**32))
        sampler.seed = sweep.state["seed"]


def is_job() -> bool:
    """Whether Hydra is running a job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def run_child(composed: DictConfig) -> float | None:
    """Run one job of the sweep in its own process; return its best dev F1, None if it has none."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    sweep, number, overrides = Path(os.environ[_FOLDER]), int(hydra.job.num), list(hydra.overrides.task)
    try:
        config = compose.to_config(composed)
    except UserError as error:
        _write_record(sweep, str(number), number, overrides, ChildRun("", "", "failed", {}), str(error))
        return None
    digest = run_config.digest(config)[:8]
    config.output_dir = config.output_dir or str(_child_folder(sweep, number, digest))
    state = read_json(sweep / SWEEP_STATE)
    fixed = state.get("fixed", ())
    label = " ".join(one for one in overrides if one.lstrip("+").partition("=")[0] not in fixed) or config.name
    child = ChildSettings(
        sweep, state["parent"], label, config.children.gpus,
        variables={SEARCH_PATH: _search_path(hydra)}, since=state["started"],
    )  # fmt: skip
    outcome = children.run_job(Job(digest, config), child, _stop_with_launcher())
    state = read_state(outcome.folder)
    status = FINISHED if state.get("status") == UNSENT else state.get("status", "failed")
    run = ChildRun(state.get("run_id", ""), label, status, outcome.metrics)
    _write_record(sweep, digest, number, overrides, run, outcome.error)
    return outcome.metrics.get(OBJECTIVE)


def _child_folder(sweep: Path, number: int, digest: str) -> Path:
    """Return the child's folder: an existing one first, because a sweeper may number the same job differently later."""
    with contextlib.suppress(ValueError):
        sweep = sweep.relative_to(Path.cwd())
    return _folder_of_job(sweep, digest) or sweep / f"{number}-{digest}"


def _folder_of_job(sweep: Path, digest: str) -> Path | None:
    return next(iter(sorted(sweep.glob(f"*-{digest}"))), None)


def _search_path(hydra: HydraConf) -> str:
    """Return the user's own configuration folders, for a child that composes configurations itself."""
    ours = ("command-line", "hydra.searchpath in command-line")
    own = [source for source in hydra.runtime.config_sources if source.provider in ours]
    return ",".join(quote(f"{source.schema}://{source.path}") for source in own)


def _stop_with_launcher() -> CheckStop:
    """Return a check that raises `Stopped` when the parent of this process, Hydra's launcher, is gone."""
    launcher = os.getppid()

    def check_stop() -> None:
        if os.getppid() != launcher:
            raise Stopped(signal.SIGTERM)

    return check_stop


class JobRecord(NamedTuple):
    """The result of a job, read from its file `path`; `error` is one line, empty if the job finished."""

    path: Path
    overrides: list[str]
    error: str
    run: ChildRun

    @property
    def metrics(self) -> dict[str, float]:
        """The last values of the run's metrics."""
        return self.run.metrics


def _write_record(sweep: Path, name: str, number: int, overrides: Sequence[str], run: ChildRun, error: str) -> None:
    path = make_folder(sweep / children.FOLDER) / f"{name}.json"
    status = "failed" if error else "finished"
    record = {"number": number, "overrides": list(overrides), "status": status, "error": error, "run": run._asdict()}
    write_json(path, record)
    if error:
        log.error("child %s: %s", number, error)


def read_records(sweep: Path) -> list[JobRecord]:
    """Return the records of the jobs that have ended, in the order of their numbers.

    Raises:
        UserError: a record is damaged or was written by an older version.
    """
    found = []
    for path in (sweep / children.FOLDER).glob("*.json"):
        record = read_json(path)
        try:
            job = JobRecord(path, record["overrides"], record["error"], ChildRun(**record["run"]))
            found.append((int(record["number"]), path.name, job))
        except (KeyError, TypeError, ValueError) as error:
            fix = "Remove it; the same command writes it anew."
            raise UserError(f"{path}:1", "not the record of a job", fix) from error
    return [job for *_, job in sorted(found, key=lambda item: item[:2])]


def finished_runs(sweep: Path) -> list[tuple[list[str], Path]]:
    """Return the overrides and the run folder of each finished job of a sweep, in their order.

    Raises:
        UserError: a run is not in the sweep's folder: it was removed, or `output_dir` put it elsewhere.
    """
    from omniner.report import comparison_tables

    done = [record for record in read_records(sweep) if not record.error]
    names = comparison_tables.distinguishing_overrides([record.overrides for record in done], ())
    found = []
    for name, record in zip(names, done, strict=True):
        if (folder := _folder_of_job(sweep, record.path.stem)) is None:
            raise UserError(sweep, f"the run of {name} is not in it", "Name the runs to compare one by one.")
        found.append((record.overrides, folder))
    return found


def close(outcome: Ending) -> tuple[list[str], list[str]]:
    """End the sweep of this process, if there is one.

    Args:
        outcome: how its jobs ended; `finished` becomes `failed` if a child has failed.

    Returns:
        Lines to print, and a line for each child that failed.
    """
    global _running
    sweep, _running = _running, None
    if sweep is None:
        return [], []
    from omniner.report import comparison_tables  # imported late: the start of a run does not wait for it

    records = read_records(sweep.folder)
    if outcome == "failed" and sweep.new and not records:
        sweep.discard()
        return [], []
    failed = [record for record in records if record.error]
    if failed and outcome == "finished":
        outcome = "failed"
    lines: list[str] = []
    table: Table | None = None
    files: list[Path] = []
    if outcome == "killed":
        count = len(records) - len(failed)
        done = counted(count, "finished run")
        lines.append(f"stopped after {done}: the same command goes on from here ({sweep.folder})")
    elif records:
        table, files = _write_summary(sweep, records)
        _warn_of_mixed_data(sweep.folder, records)
        lines += comparison_tables.seed_lines(table)
        lines += _next_command(sweep.folder, records)
        lines.append(str(sweep.folder))
    if sweep.run.id:
        lines += _describe_parent(sweep, table, files, records)
    finish(sweep.run, outcome, sweep.tracking_config, sweep.folder, sweep.save)
    sweep.lock.release()
    names = comparison_tables.distinguishing_overrides([record.overrides for record in records], ())
    labels = {record.path: name for record, name in zip(records, names, strict=True)}
    return lines, [": ".join(filter(None, (labels[record.path], record.error))) for record in failed]


def _next_command(sweep: Path, records: Sequence[JobRecord]) -> list[str]:
    """Return the line with the command that compares the runs with their own scoring settings; none if it cannot."""
    folders = [_folder_of_job(sweep, record.path.stem) for record in records if not record.error]
    if len(folders) < 2 or (first := folders[0]) is None or None in folders:  # None: `output_dir` put it elsewhere
        return []
    theirs = run_config.read_mapping(first / "config.yaml", "Name the runs to compare one by one.")
    scoring = compose.scoring_line(theirs)
    runs = shlex.quote(f"runs=[{sweep}]")
    return [" ".join(filter(None, ["next: python -m omniner.run task=compare", runs, scoring]))]


def _write_summary(sweep: Sweep, records: Sequence[JobRecord]) -> tuple[Table, list[Path]]:
    """Write the summary over seeds and its figure to the sweep's folder; return the table and the files."""
    from omniner.report import comparison_tables

    name = sweep.state["name"]
    results = comparison_tables.sweep_runs([(r.overrides, None if r.error else r.metrics) for r in records])
    table = comparison_tables.build_seed_table(results, name)
    files = [write_text(sweep.folder / "summary.csv", table.to_csv())]
    if (chart := comparison_tables.draw_seed_figure(results, name)) is not None:
        with writing(sweep.folder / "summary.png", "wb") as file:
            file.write(chart.png())
        files.append(sweep.folder / "summary.png")
    return table, files


def _warn_of_mixed_data(sweep: Path, records: Sequence[JobRecord]) -> None:
    """Warn about rows of the summary whose runs read different data, for example if files changed before a resume."""
    read: dict[str, set[str]] = {}
    for label, folder in _finished_configurations(sweep, records):
        read.setdefault(label, set()).add(_data_read(folder))
    for label in (label for label, found in read.items() if len(found) > 1):
        log.warning(
            "the runs of %s did not read the same data, and their mean says little: the files have changed between "
            "them, or the guidance has. resume=never runs all of them anew", label or "this sweep",
        )  # fmt: skip


def _finished_configurations(sweep: Path, records: Sequence[JobRecord]) -> Iterator[tuple[str, Path]]:
    """Yield the label of the configuration and the folder of each finished run whose folder is in the sweep's."""
    from omniner.report import comparison_tables

    done = [record for record in records if not record.error]
    for one, record in zip(comparison_tables.sweep_runs([(r.overrides, r.metrics) for r in done]), done, strict=True):
        if (folder := _folder_of_job(sweep, record.path.stem)) is not None:
            yield one.label, folder


def _comparable(sweep: Path, records: Sequence[JobRecord]) -> bool:
    """Whether all configurations of a sweep were scored on the same gold and, if they trained, on the same dev.

    Data drawn by the seed differs between runs of one configuration, so the sets over all its runs are compared.
    """
    gold: dict[str, set[str]] = {}
    dev: dict[str, set[str]] = {}
    for label, folder in _finished_configurations(sweep, records):
        gold.setdefault(label, set()).add(_gold_digest(folder))
        if learnt := _trained_on(folder):
            dev.setdefault(label, set()).add(learnt["dev"])
    return all(len({frozenset(digests) for digests in read.values()}) < 2 for read in (gold, dev))


def _data_read(run: Path) -> str:
    """Return a text that identifies the data of a run: its gold, its train and dev, and the lessons in its prompt."""
    used = read_json(run / GUIDANCE_COPY) if (run / GUIDANCE_COPY).is_file() else {}
    lessons = used.get("lessons")  # without their source and cost
    return json.dumps([_gold_digest(run), _trained_on(run), lessons], sort_keys=True)


def _gold_digest(run: Path) -> str:
    """Return the part of the signature that identifies the gold of a run; empty without scores."""
    signature = read_json(run / SCORES)["signature"] if (run / SCORES).is_file() else ""
    return next((part for part in signature.split("|") if part.startswith("gold:")), "")


def _trained_on(run: Path) -> dict[str, str]:
    """Return the digests of a run's train and dev; empty if it trained no model."""
    learnt: dict[str, str] = read_json(run / TRAINED_ON) if (run / TRAINED_ON).is_file() else {}
    return learnt


def _describe_parent(
    sweep: Sweep, table: Table | None, files: Sequence[Path], records: Sequence[JobRecord]
) -> list[str]:
    """Write a summary of the children to the parent run; return a line with the link that compares them, if any."""
    from omniner.report import comparison_tables

    run, settings = sweep.run, sweep.tracking_config
    # For the recorded runs, the store has more details than their folders, if it can be reached.
    known = {record.run.id: record.run for record in records if record.run.id}
    runs = [one for one in tracking.child_runs(settings, run.id) if one.id in known] or list(known.values())
    link = tracking.compare_link(settings, [one.id for one in runs])
    comparable = _comparable(sweep.folder, records)
    summary = ""
    if table is not None:
        summary = comparison_tables.seed_markdown(table, tracking.NOTE_PART, comparable=comparable)
    picture = next((file.name for file in files if file.suffix == ".png"), "")
    tracking.describe_children(run, runs, link, summary, picture)
    if table is not None:
        run.metrics(comparison_tables.seed_metrics(table, comparable=comparable))
        run.table(table.names, table.rows, "tables/summary.json")
        best, metric = comparison_tables.best_configuration(table, comparable=comparable)
        if metric:
            run.tags({"sweep.best": table.rows[best][0], "sweep.best_by": metric})
    for file in files:
        run.file(file)
    return [f"compare: {link}"] if link else []
