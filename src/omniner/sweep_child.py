"""One job of a sweep: `python -m omniner.run <its overrides>` in a fresh process, watched from the launcher's.

Whatever happens to the child (a crash, a kill for want of memory), the sweep goes on; GPU memory and the variables of a
distributed launch end with it. In: the composed configuration of the job. Out: the value to optimise, `val/best_f1`,
or None; a record of the job under `children/` in the sweep's folder, and what the child wrote to stderr beside it. A
child whose configuration has finished in this sweep is not run again. Price: the start of Python, 3 to 10 s a child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.conf import HydraConf
from omegaconf import DictConfig

from omniner import config as configs
from omniner import processes
from omniner.errors import UserError
from omniner.files import make_folder, read_json, write_json
from omniner.runfolder import METRICS
from omniner.runfolder import STATE as RUN_STATE

log = logging.getLogger("omniner")

STATE = "sweep.json"
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


def records(sweep: Path) -> list[Record]:
    """The jobs that ended, in the order of their numbers."""
    found = [(path, read_json(path)) for path in (sweep / RECORDS).glob("*.json")]
    found.sort(key=lambda item: item[1]["number"])
    return [Record(path, r["overrides"], r["status"], r["error"], r["metrics"]) for path, r in found]


def tags() -> dict[str, str]:
    """What the run of a child says about its place among its siblings."""
    label = processes.label()
    return {} if label is None else {"sweep.child": label}


def run(composed: DictConfig) -> float | None:
    """Do one job of the sweep in a process of its own; gives dev F1, None where there is none."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    sweep, number, overrides = Path(os.environ[FOLDER]), int(hydra.job.num), list(hydra.overrides.task)
    make_folder(sweep / RECORDS)
    try:
        config = configs.check(composed)
    except UserError as error:
        _record(sweep, f"{number}", number, overrides, {"status": "failed", "error": str(error), "metrics": {}})
        log.error("child %s: %s", number, error)
        return None
    digest = configs.digest(config)[:8]
    folder = _folder(sweep, number, digest, config.output_dir)
    stopped = _with_launcher()
    with processes.locked(sweep / RECORDS / f"{digest}.lock", stopped):
        state = read_json(sweep / STATE)
        error_line = ""
        if folder.exists():  # an earlier process of this child, whose sweep was killed, may be coming to its end
            with processes.locked(folder / ".lock", stopped):
                pass
        if _finished(folder, configs.digest(config), state["started"]):
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
