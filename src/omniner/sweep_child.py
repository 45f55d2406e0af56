"""One job of a sweep: `python -m omniner.run <its overrides>` in a fresh process, watched from the launcher's.

Whatever happens to the child (a crash, a kill for want of memory), the sweep goes on; GPU memory and the variables of a
distributed launch end with it. In: the composed configuration of the job. Out: the value to optimise, `val/best_f1`,
or None; a record of the job under `children/` in the sweep's folder, and what the child wrote to stderr beside it. A
child whose configuration has finished in this sweep is not run again. Price: the start of Python, 3 to 10 s a child.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from hydra.conf import HydraConf
from omegaconf import DictConfig

from omniner import config as configs
from omniner.errors import Stopped, UserError
from omniner.files import explaining, make_folder, read_json, write_json
from omniner.runfolder import METRICS
from omniner.runfolder import STATE as RUN_STATE

log = logging.getLogger("omniner")

STATE = "sweep.json"
RECORDS = "children"
OBJECTIVE = "val/best_f1"  # on dev: a sweep must not choose by test
FOLDER = "OMNINER_SWEEP"  # to the jobs: the sweep's folder
PARENT = "OMNINER_PARENT_RUN"  # to a child: the run it belongs to
CHILD = "OMNINER_SWEEP_CHILD"  # to a child: what sets it apart; its standard input tells whether the sweep lives
# Set by a distributed launch; a child must not take itself for a rank of one.
RANK_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SECONDS = 0.5  # between two looks at whether the sweep still lives


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


def parent_run() -> str | None:
    """The parent run's id inside a sweep."""
    return os.environ.get(PARENT) or None


def tags() -> dict[str, str]:
    """What the run of a child says about its place in the sweep."""
    return {"sweep.child": os.environ[CHILD]} if CHILD in os.environ else {}


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
    with _locked(sweep / RECORDS / f"{digest}.lock"):
        state = read_json(sweep / STATE)
        error_line = ""
        if _finished(folder, configs.digest(config), state["started"]):
            log.info("child %s is finished: %s", number, folder)
        else:
            with _locked(folder / ".lock") if folder.exists() else contextlib.nullcontext():
                pass  # an earlier process of this child, whose sweep was killed, is coming to its end
            command = [*_command(hydra), *overrides, "hydra.mode=RUN"]
            if not config.output_dir:
                command.append(f"output_dir={quoted(str(folder))}")
            error_line = _spawn(command, _environment(state["parent"], overrides), sweep / RECORDS / f"{digest}.log")
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


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for a lock file: equal jobs (a sampler may repeat itself) come one after the other."""
    with explaining(path), path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _command(hydra: HydraConf) -> list[str]:
    """The command that composes as the sweep did: with the user's own folder of configurations."""
    command = [sys.executable, "-m", "omniner.run"]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
    return [*command, *(item for item in hydra.overrides.hydra if item.startswith("hydra.searchpath="))]


def _environment(parent: str, overrides: Sequence[str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return {**kept, PARENT: parent, CHILD: " ".join(overrides)}


def _spawn(command: Sequence[str], environment: Mapping[str, str], log_file: Path) -> str:
    """Run a child to its end; empty, or what went wrong in one line.

    It has a session of its own: Ctrl-C in a terminal reaches it once, from here, and nothing it started outlives it.
    """
    sys.stdout.flush()
    ours = os.getppid()
    with explaining(log_file), log_file.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stderr is not None
        copier = threading.Thread(target=_copy, args=(process.stderr, file), daemon=True)
        copier.start()
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(SECONDS)
                if os.getppid() != ours:
                    raise Stopped()  # a worker of a launcher whose sweep was killed
        except KeyboardInterrupt as stop:
            process.send_signal(stop.signum if isinstance(stop, Stopped) else signal.SIGINT)
            process.wait()
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            copier.join()
            process.stdin.close()
    return error_line(log_file.read_text(encoding="utf-8", errors="replace"), process.returncode)


def _copy(source: IO[bytes], to: IO[bytes]) -> None:
    """Show what the child says, and keep it."""
    while block := os.read(source.fileno(), 65536):
        to.write(block)
        to.flush()
        sys.stderr.write(block.decode("utf-8", errors="replace"))
        sys.stderr.flush()


def error_line(said: str, status: int) -> str:
    """What went wrong, in one line, of what a process wrote to stderr and its exit status; empty for status 0."""
    if status == 0:
        return ""
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}" + (", as happens for want of memory" if name == "SIGKILL" else "")
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    if known := [line for line in lines if line.startswith("error: ")]:
        return known[-1].removeprefix("error: ")
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (")]
    after = lines[starts[-1] + 1 :] if starts else lines[-1:]
    raised = next((line for line in after if re.match(r"\S", line)), "")
    return raised or f"exit status {status}"


def quoted(value: str) -> str:
    """A value of an override that may hold any character."""
    return "'" + value.replace("'", "\\'") + "'"


def stop_with_sweep() -> None:
    """In a child: stop, resumable, when the process that watches it is gone."""
    if CHILD not in os.environ:
        return

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
