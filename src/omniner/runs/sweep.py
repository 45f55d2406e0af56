"""A sweep (`-m`): one parent run, one folder, and a fresh process per child; interrupted, it goes on where it was.

Hydra calls `ParentRun.on_multirun_start` in the launching process, before its sweeper and launcher begin. That finds
the unfinished sweep of the same command, or makes the folder and the parent run of a new one, and points Hydra at the
folder. The jobs, in whatever process the launcher runs them, learn the folder through the environment
(`omniner.sweep_child`). Hydra does not call `on_multirun_end` when something fails, so `omniner.run` calls `close`
itself, whatever happened: it ends the parent run with the summary over seeds.

One job of a sweep: `python -m omniner.run <its overrides>` in a fresh process, watched from the launcher's.

Whatever happens to the child (a crash, a kill for want of memory), the sweep goes on; GPU memory and the variables of a
distributed launch end with it. In: the composed configuration of the job. Out: the value to optimise, `val/best_f1`,
or None; a record of the job under `children/` in the sweep's folder, and what the child wrote to stderr beside it. A
child whose configuration has finished in this sweep is not run again. Price: the start of Python, 3 to 10 s a child.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from hydra.conf import HydraConf
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from omniner.config import compose, groups
from omniner.config.compose import NOT_IDENTITY, section
from omniner.errors import UserError
from omniner.files import make_folder, read_json, write_json, write_text, writing
from omniner.report import comparison_tables
from omniner.report import tables as repeats
from omniner.runs import folder as runfolder
from omniner.runs import processes
from omniner.runs.folder import METRICS
from omniner.runs.folder import STATE as RUN_STATE

NAME = 120  # characters of a sweep's name
SWEEP_STATE = "sweep.json"
_FILES = (SWEEP_STATE, ".lock", "multirun.yaml")  # the last is Hydra's


class Refused(BaseException):
    """A user's mistake met before the first job; not an `Exception`, as Hydra turns those of callbacks to warnings."""

    def __init__(self, error: UserError) -> None:
        self.error = error
        super().__init__(str(error))


@dataclass
class Sweep:
    """The sweep of this process: its folder, locked, and what `sweep.json` says."""

    folder: Path
    lock: IO[str]
    state: dict[str, Any]
    new: bool

    @property
    def tracking(self) -> groups.TrackingConfig:
        """Where the parent run is."""
        return groups.TrackingConfig(**self.state["tracking"])

    def save(self, **changes: Any) -> None:
        """Change the state on disk, whole or not at all."""
        self.state.update(changes)
        write_json(self.folder / SWEEP_STATE, self.state)


_running: Sweep | None = None


class ParentRun(Callback):
    """Makes, or takes up, a sweep before its first job starts."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the sweep of this command line; raises `Refused`."""
        global _running
        try:
            _running = _open(config)
        except UserError as error:
            raise Refused(error) from error
        os.environ[FOLDER] = str(_running.folder.resolve())
        folder = str(_running.folder)
        with flag_override(config.hydra, ["readonly", "struct"], [False, False]):
            _give_seed(config.hydra.sweeper, _running)
            config.hydra.sweep.dir = folder
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")


def _open(config: DictConfig) -> Sweep:
    """Find the unfinished sweep of this command or make a new one, with its parent run."""
    if config.resume not in ("auto", "never"):
        raise UserError("resume", f"{config.resume!r} names one run, and this is a sweep", "Choose auto or never.")
    settings = section(config, "tracking", groups.TrackingConfig)
    digest, wanted = _digest(config), Path(config.hydra.sweep.dir)
    sweep = _unfinished(wanted.parent, digest) if config.resume == "auto" else None
    if sweep is None:
        sweep = _new(wanted, digest, _name(config))
    for record in child_records(sweep.folder):  # each child is met again
        record.path.unlink()
    overrides = OmegaConf.to_container(config.hydra.overrides.task)
    tags = {"sweep.overrides": json.dumps(overrides, ensure_ascii=False), "sweep.dir": str(sweep.folder)}
    try:
        parent = _parent(settings, sweep.state.get("parent", ""), sweep.state["name"], tags)
    except UserError:
        if sweep.new:
            _discard(sweep)
        raise
    sweep.save(parent=parent, tracking=asdict(settings), status="running")
    return sweep


def _give_seed(sweeper: DictConfig, sweep: Sweep) -> None:
    """Draw a seed for a sampler of Optuna that has none, once for the sweep.

    Optuna keeps its study in memory. A sweep that goes on asks a new study for the first trials again; with the same
    seed and the same results they are the same trials, which are finished, and the choices go on from there.
    """
    sampler = sweeper.get("sampler")
    if OmegaConf.is_dict(sampler) and "seed" in sampler and sampler.seed is None:
        if "seed" not in sweep.state:
            sweep.save(seed=secrets.randbelow(2**32))
        sampler.seed = sweep.state["seed"]


def _parent(settings: groups.TrackingConfig, earlier: str, name: str, tags: dict[str, str]) -> str:
    from omniner import tracking

    if settings.kind == "off":
        return ""
    return (
        tracking.resume_parent(settings, earlier) if earlier else tracking.start_parent(settings, name=name, tags=tags)
    )


def _new(folder: Path, digest: str, name: str) -> Sweep:
    make_folder(folder)
    lock = runfolder.lock_folder(folder)
    if lock is None or (folder / SWEEP_STATE).exists():
        raise UserError("hydra.sweep.dir", f"{folder} holds another sweep", "Choose another folder.")
    return Sweep(folder, lock, {"digest": digest, "name": name, "started": time.time()}, True)


def _name(config: DictConfig) -> str:
    """The name that was given, or what was swept: the names of the children say only what each of them is."""
    swept = [item for item in config.hydra.overrides.task if not item.startswith(NOT_IDENTITY)]
    return f"sweep {config.name if config.name != 'auto' else ' '.join(swept)}"[:NAME].strip()


def _unfinished(root: Path, digest: str) -> Sweep | None:
    """The newest sweep of this command under `root` that has not finished and is not running."""
    found = []
    for path in sorted(root.glob(f"*/{SWEEP_STATE}")):
        state = read_json(path)
        if state.get("digest") == digest and state.get("status") != "finished":
            found.append((state["started"], path.parent, state))
    for _, folder, state in sorted(found, key=lambda item: item[:2], reverse=True):
        if (lock := runfolder.lock_folder(folder)) is not None:
            return Sweep(folder, lock, state, False)
    return None


def _digest(config: DictConfig) -> str:
    """What makes two commands the same sweep: everything but where it is written, tracked and run."""
    composed = OmegaConf.to_container(config, resolve=False)
    assert isinstance(composed, dict)
    overrides = [item for item in composed["hydra"]["overrides"]["task"] if not item.startswith(NOT_IDENTITY)]
    base = {key: value for key, value in composed.items() if key not in (*NOT_IDENTITY, "hydra")}
    values = [overrides, composed["hydra"]["sweeper"], base]
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


def is_job() -> bool:
    """Whether Hydra is running a job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def close(outcome: str) -> tuple[list[str], list[str]]:
    """End the sweep of this process, if there is one.

    Args:
        outcome: FINISHED, FAILED or KILLED; a sweep with a failed child is FAILED.

    Returns:
        Lines to print, and a line for each child that failed.
    """
    global _running
    sweep, _running = _running, None
    if sweep is None:
        return [], []
    records = child_records(sweep.folder)
    if outcome == "FAILED" and sweep.new and not records:
        _discard(sweep)
        return [], []
    failed = [record for record in records if record.status != "finished"]
    if failed and outcome == "FINISHED":
        outcome = "FAILED"
    lines: list[str] = []
    table: repeats.Table | None = None
    files: list[Path] = []
    if outcome == "KILLED":
        count = len(records) - len(failed)
        lines.append(f"stopped after {count} finished children: the same command goes on from here ({sweep.folder})")
    elif records:
        table, files = _summary(sweep, records)
        lines += [*comparison_tables.text(table), str(sweep.folder)]
    lines += _finish_parent(sweep, outcome, table, files)
    sweep.save(status=outcome.lower())
    sweep.lock.close()
    names = dict(
        zip(
            [record.path for record in records],
            comparison_tables.apart([r.overrides for r in records], ()),
            strict=True,
        )
    )
    return lines, [": ".join(filter(None, (names[record.path], record.error))) for record in failed]


def _summary(sweep: Sweep, records: list[Record]) -> tuple[repeats.Table, list[Path]]:
    """Write the summary over seeds and its figure into the sweep's folder."""
    results = comparison_tables.results([(r.overrides, r.metrics if r.status == "finished" else None) for r in records])
    table = comparison_tables.summary(results, sweep.state["name"])
    files = [write_text(sweep.folder / "summary.csv", table.to_csv())]
    if (picture := comparison_tables.figure(results, sweep.state["name"])) is not None:
        with writing(sweep.folder / "summary.png", "wb") as file:
            file.write(picture)
        files.append(sweep.folder / "summary.png")
    return table, files


def _finish_parent(sweep: Sweep, outcome: str, table: repeats.Table | None, files: list[Path]) -> list[str]:
    """End the parent run; gives the link that compares its children."""
    if not sweep.state["parent"]:
        return []
    from omniner import tracking

    children = tracking.children(sweep.tracking, sweep.state["parent"])
    tables = {} if table is None else {"tables/summary.json": (table.columns, table.rows)}
    tracking.finish_parent(sweep.tracking, sweep.state["parent"], outcome, children, tables, files)
    return [f"compare: {tracking.compare_link(sweep.tracking, [c.id for c in children])}"] if children else []


def _discard(sweep: Sweep) -> None:
    """Take back a sweep that could not begin: its parent run, its files, and the folder if that is all."""
    if sweep.state.get("parent"):
        from omniner import tracking

        tracking.delete_parent(sweep.tracking, sweep.state["parent"])
    for name in _FILES:
        (sweep.folder / name).unlink(missing_ok=True)
    sweep.lock.close()
    with contextlib.suppress(OSError):  # not empty: it was there before
        sweep.folder.rmdir()


log = logging.getLogger("omniner")

RECORDS = "children"
OBJECTIVE = "val/best_f1"  # on dev: a sweep must not choose by test
FOLDER = "OMNINER_SWEEP"  # to the jobs: the sweep's folder


class Record(NamedTuple):
    """What became of a job: `status` is finished or failed, `error` one line, `metrics` the last values."""

    path: Path
    overrides: list[str]
    status: str
    error: str
    metrics: dict[str, float]


def child_records(sweep: Path) -> list[Record]:
    """The jobs that ended, in the order of their numbers."""
    found = [(path, read_json(path)) for path in (sweep / RECORDS).glob("*.json")]
    found.sort(key=lambda item: item[1]["number"])
    return [Record(path, r["overrides"], r["status"], r["error"], r["metrics"]) for path, r in found]


def child_tags() -> dict[str, str]:
    """What the run of a child says about its place among its siblings."""
    label = processes.label()
    return {} if label is None else {"sweep.child": label}


def run_child(composed: DictConfig) -> float | None:
    """Do one job of the sweep in a process of its own; gives dev F1, None where there is none."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    sweep, number, overrides = Path(os.environ[FOLDER]), int(hydra.job.num), list(hydra.overrides.task)
    make_folder(sweep / RECORDS)
    try:
        config = compose.check(composed)
    except UserError as error:
        _record(sweep, f"{number}", number, overrides, {"status": "failed", "error": str(error), "metrics": {}})
        log.error("child %s: %s", number, error)
        return None
    digest = compose.digest(config)[:8]
    folder = _folder(sweep, number, digest, config.output_dir)
    stopped = _with_launcher()
    with processes.locked(sweep / RECORDS / f"{digest}.lock", stopped):
        state = read_json(sweep / SWEEP_STATE)
        error_line = ""
        if folder.exists():  # an earlier process of this child, whose sweep was killed, may be coming to its end
            with processes.locked(folder / ".lock", stopped):
                pass
        if _finished(folder, compose.digest(config), state["started"]):
            log.info("child %s is finished: %s", number, folder)
        else:
            command = [*_command(hydra), *overrides, "hydra.mode=RUN"]
            if not config.output_dir:
                command.append(f"output_dir={quoted(str(folder))}")
            environment = processes.environment(state["parent"], " ".join(overrides))
            error_line = _spawn(command, environment, sweep / RECORDS / f"{digest}.log", config.children.gpus, stopped)
        metrics = read_json(folder / METRICS) if not error_line and (folder / METRICS).exists() else {}
        status = "failed" if error_line else "finished"
        _record(sweep, digest, number, overrides, {"status": status, "error": error_line, "metrics": metrics})
    if error_line:
        log.error("child %s: %s", number, error_line)
    return metrics.get(OBJECTIVE)


def _record(sweep: Path, name: str, number: int, overrides: Sequence[str], outcome: Mapping[str, Any]) -> None:
    write_json(sweep / RECORDS / f"{name}.json", {"number": number, "overrides": list(overrides), **outcome})


def _folder(sweep: Path, number: int, digest: str, chosen: str | None) -> Path:
    """The child's folder: the one it has, since a sweeper may number the same job otherwise the next time."""
    if chosen:
        return Path(chosen)
    with contextlib.suppress(ValueError):
        sweep = sweep.relative_to(Path.cwd())
    there = sorted(sweep.glob(f"*-{digest}"))
    return there[0] if there else sweep / f"{number}-{digest}"


def _finished(folder: Path, digest: str, since: float) -> bool:
    """Whether this configuration has finished in this sweep."""
    if not (folder / RUN_STATE).is_file():
        return False
    state = read_json(folder / RUN_STATE)
    return bool(state["digest"] == digest and state["status"] == "finished" and state["started"] >= since)


def _command(hydra: HydraConf) -> list[str]:
    """The command that composes as the sweep did: with the user's own folder of configurations."""
    command = [sys.executable, "-m", "omniner.run"]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
    return [*command, *(item for item in hydra.overrides.hydra if item.startswith("hydra.searchpath="))]


def _with_launcher() -> processes.Asked:
    """Says to stop as soon as the parent of this process is gone: in a worker of a launcher whose sweep was killed."""
    ours = os.getppid()
    return lambda: None if os.getppid() == ours else signal.SIGTERM


def _spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    gpus: int,
    stopped: processes.Asked,
) -> str:
    """Run a child on GPUs of its own; what went wrong, in one line."""
    try:
        with processes.lent_gpus(gpus, stopped) as lent:
            return processes.spawn(command, {**environment, **lent}, log_file, stopped)
    except UserError as error:
        return str(error)


def quoted(value: str) -> str:
    """A value of an override that may hold any character."""
    return "'" + value.replace("'", "\\'") + "'"
