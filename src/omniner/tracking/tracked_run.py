"""Write what the program reports about a run to the spool of the run's folder.

Parameters, metrics, tags, texts, files, tables and descriptions of data become records in the spool; nothing here talks
to the store. `Run` itself writes nothing (tracking=off), `TrackedRun` does. Names are mapped to those that MLflow
accepts, and back: a character that it refuses becomes `_x<hex code>_` (`召回@1` is stored as `召回_x40_1`); Chinese
letters stay. The cost is about 12 microseconds per call.

The origin of results is recorded, too: the state of the code, the versions of libraries, and the load of the machine. A
thread samples CPU, memory and GPU once a second, under MLflow's own names, so that its UI shows them in their tab.
MLflow's monitor is not used, because it asks the store for the run's status with every sample (10 ms of CPU a second)
and dies if the store fails; this one takes 2.4 ms. The environment is not recorded, because it may contain secrets.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from omniner.errors import UserError, masked
from omniner.files import explaining, write_text
from omniner.tracking.spool import Sender, Spool, SpoolRecord
from omniner.wording import counted, shortened

log = logging.getLogger("omniner.tracking")

SECOND = 1.0  # seconds between the first samples, so that short runs have a curve
DENSE = 300  # number of samples at that rate; a run of days must not write half a million rows
MINUTE = 60.0  # seconds between later samples
MB = 1e6
# Packages whose version can change a result; they are not imported to read it.
PACKAGES = (
    "omniner", "torch", "pytorch-lightning", "torchmetrics", "transformers", "peft", "bitsandbytes",
    "hydra-core", "omegaconf", "mlflow", "numpy",
)  # fmt: skip
GIT_SECONDS = 10  # time limit of a git command, for checkouts on slow disks

NAME_LENGTH = 250  # MLflow's limit for names of params, metrics and tags
PARAM_LENGTH = 6000  # MLflow's limit for a param; the whole value is in the artifact `config/params.json`
TAG_LENGTH = 5000
TABLES_TAG = "mlflow.loggedArtifacts"  # tells the UI which JSON files are tables that it can compare
Ending = Literal["finished", "failed", "killed"]
# Time limits for sending the remaining records at the end of a run; a batch system kills after 30 s.
SECONDS_TO_FINISH: dict[Ending, float] = {"finished": 600.0, "failed": 60.0, "killed": 15.0}
PENDING = "tracking_files"  # in the run folder: artifacts that exist only here, until they are sent
ILLEGAL = re.compile(r"[^/\w.\- :]")


class MachineMonitor(threading.Thread):
    """A thread that samples the machine until `stop`.

    Args:
        report: called with each sample: values by metric, and the sample's number.
        first: number of the first sample.
    """

    def __init__(self, report: Callable[[dict[str, float], int], None], first: int) -> None:
        super().__init__(name="omniner-machine", daemon=True)
        import psutil

        self._report = report
        self._number = first
        self._done = threading.Event()
        self._psutil = psutil
        self._process = psutil.Process()
        self._gpus = _gpus()
        self._process.cpu_percent()  # the first call only starts the measurement
        psutil.cpu_percent()

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        self.join(timeout=2 * SECOND)

    def run(self) -> None:
        """Sample and report repeatedly until `stop`."""
        taken = 0
        while not self._done.wait(SECOND if taken < DENSE else MINUTE):
            try:
                self._report(self._sample(), self._number)
            except (UserError, ValueError, self._psutil.Error) as error:
                log.warning("system metrics end here: %s", error)
                return
            taken += 1
            self._number += 1

    def _sample(self) -> dict[str, float]:
        memory = self._psutil.virtual_memory()
        values = {
            "system/cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MB,
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_cpu_utilization_percentage": self._process.cpu_percent(),
            "system/process_memory_usage_megabytes": self._process.memory_info().rss / MB,
        }
        for number, (nvml, handle) in enumerate(self._gpus):
            name = f"system/gpu_{number}"
            with contextlib.suppress(nvml.NVMLError):  # a part of a GPU (MIG) has no utilization of its own
                values[f"{name}_memory_usage_megabytes"] = nvml.nvmlDeviceGetMemoryInfo(handle).used / MB
            with contextlib.suppress(nvml.NVMLError):
                values[f"{name}_utilization_percentage"] = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        return values


def _gpus() -> list[tuple[Any, Any]]:
    """Return the NVIDIA devices as (library, handle); empty without the optional `pynvml` or without a driver."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [(pynvml, pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def library_versions() -> dict[str, str]:
    """Return the version of Python and of each installed library that can change a result."""
    from importlib import metadata  # imported late, so that mistakes in a configuration are reported faster

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # optional
    return found


def git_state() -> dict[str, str]:
    """Return commit, branch, whether the checkout has changes, and a digest of them; empty outside of git.

    The digest `diff` covers the changes of tracked files and the names (not the content) of new ones.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    branch = _git("rev-parse", "--abbrev-ref", "HEAD") or b""
    status = _git("status", "--porcelain") or b""
    state = {"commit": commit.decode().strip(), "branch": branch.decode().strip()}
    state["dirty"] = "yes" if status else "no"
    if status:
        changes = status + (_git("diff", "HEAD", "--binary") or b"")
        state["diff"] = hashlib.sha256(changes).hexdigest()
    return state


def _git(*arguments: str) -> bytes | None:
    """Return the output of a read-only git command; None if there is no git, no checkout or no commit."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


class DataInput(NamedTuple):
    """A set of sentences that a run used.

    Attributes:
        name: name in the UI.
        context: the split (train, dev, test) or another role.
        digest: digest of the content.
        source: the path, or another description of the origin.
        rows: number of sentences.
    """

    name: str
    context: str
    digest: str
    source: str
    rows: int


class Run:
    """The interface to write about a run. This class writes nothing (tracking=off); `TrackedRun` writes to a spool.

    Attributes:
        id: id in the store; empty if the run is not tracked.
        url: address of its page in the UI; empty if the run is not tracked.
    """

    id: str = ""
    url: str = ""

    def page(self, artifact: str) -> str:
        """Return the address of the UI's page for one of its artifacts, relative to the UI's root."""
        page, _, query = self.url.partition("#")[2].partition("?")
        return f"#{page}/artifacts/{quote(artifact)}?{query}"

    def file_address(self, artifact: str) -> str:
        """Return the address of an artifact's content, relative to the UI's root."""
        return f"get-artifact?path={quote(artifact, safe='')}&run_uuid={self.id}"

    def params(self, values: Mapping[str, Any]) -> None:
        """Write the flattened configuration; after a resume, a changed value becomes a tag `changed.<name>`."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Write metrics of one step; values that are not finite are left out with a warning."""

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""

    def text(self, text: str, path: str) -> None:
        """Write a text artifact."""

    def file(self, path: Path, folder: str = "") -> None:
        """Store a file as the artifact `<folder>/<its name>`."""

    def files(self, folder: Path, to: str = "") -> None:
        """Store all files of a folder as artifacts under `to`."""

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], path: str) -> None:
        """Write a table; the UI shows tables of the same path side by side for several runs."""

    def datasets(self, items: Iterable[DataInput]) -> None:
        """Record the data that the run used."""

    def register(self, name: str, artifact: str) -> None:
        """Register the model stored as `artifact` as a new version of the registered model `name`."""

    def finish(self, status: Ending) -> bool:
        """End the run and send the waiting records; return whether all are delivered."""
        return True


class TrackedRun(Run):
    """A run whose records are written to a spool and sent from there to a store.

    Args:
        run: its id.
        url: address of its page in the UI.
        spool: receives its records.
        sender: sends them.
        hide: removes secrets from a text.
        wait: seconds that the store may fail at the end of the run.
    """

    def __init__(
        self, run: str, url: str, spool: Spool, sender: Sender, hide: Callable[[str], str], wait: float
    ) -> None:
        self.id, self.url = run, url
        self._spool, self._sender, self._hide, self._wait = spool, sender, hide, wait
        self._folder = spool.path.parent
        self._process = os.getpid()
        self._warned: set[str] = set()
        self._finished = False
        self._machine: MachineMonitor | None = None
        # Metrics of an interrupted process: if one is repeated with the same value, it is not written again.
        self._earlier: dict[tuple[str, int], float] = {}
        self._tables: list[str] = []
        for record in spool.earlier:
            if record.run == run:
                self._remember(record)
        spool.earlier.clear()
        atexit.register(self._at_exit)

    def _remember(self, record: SpoolRecord) -> None:
        if record.kind == "metrics":
            for name, value in record.body["values"].items():
                self._earlier[name, record.body["step"]] = value
        elif record.kind == "tags" and TABLES_TAG in record.body["values"]:
            self._tables = [item["path"] for item in json.loads(record.body["values"][TABLES_TAG])]

    def watch_machine(self) -> None:
        """Start to record system metrics."""
        steps = [step for name, step in self._earlier if name.startswith("system/")]
        self._machine = MachineMonitor(self.metrics, max(steps, default=-1) + 1)
        self._machine.start()

    def params(self, values: Mapping[str, Any]) -> None:
        """See `Run.params`."""
        clean = {name: self._hide(as_text(value)) for name, value in values.items()}
        self.text(json.dumps(clean, ensure_ascii=False, indent=2) + "\n", "config/params.json")
        self._spool.add("params", {"values": {safe_name(n): shortened(v, PARAM_LENGTH) for n, v in clean.items()}})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """See `Run.metrics`."""
        kept: dict[str, float] = {}
        for name, value in values.items():
            number = float(value)
            if not math.isfinite(number):
                self._warn_once(name, f"metric {name} is {number} at step {step}: not written")
            elif self._earlier.get((safe_name(name), step)) != number:
                kept[safe_name(name)] = number
        if kept:
            self._spool.add("metrics", {"values": kept, "step": int(step)})

    def tags(self, values: Mapping[str, Any]) -> None:
        """See `Run.tags`."""
        tags = {name: self._hide(value) for name, value in tag_values(values).items()}
        self._spool.add("tags", {"values": tags})

    def text(self, text: str, path: str) -> None:
        """See `Run.text`."""
        pending = self._pending(path)
        write_text(pending, self._hide(text))
        self._artifact(pending, str(PurePosixPath(path).parent))

    def file(self, path: Path, folder: str = "") -> None:
        """See `Run.file`. A file outside of the run folder is copied, because it may be removed before it is sent."""
        path = path.resolve()
        if not path.is_relative_to(self._folder):
            copy = self._pending(str(PurePosixPath(folder) / path.name))
            with explaining(path):
                shutil.copyfile(path, copy)
            path = copy
        self._artifact(path, folder)

    def files(self, folder: Path, to: str = "") -> None:
        """See `Run.files`."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.file(path, str(PurePosixPath(to) / path.parent.relative_to(folder).as_posix()))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], path: str) -> None:
        """See `Run.table`; writes the same file as `mlflow.log_table`, but without pandas."""
        if not path.endswith(".json"):
            raise ValueError(f"a table must be a .json file, not {path}")
        data = [[None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row] for row in rows]
        self.text(json.dumps({"columns": list(columns), "data": data}, ensure_ascii=False), path)
        if path not in self._tables:
            self._tables.append(path)
            value = json.dumps([{"path": name, "type": "table"} for name in self._tables])
            self._spool.add("tags", {"values": {TABLES_TAG: value}})

    def datasets(self, items: Iterable[DataInput]) -> None:
        """See `Run.datasets`."""
        self._spool.add("datasets", {"items": [item._asdict() for item in items]})

    def register(self, name: str, artifact: str) -> None:
        """See `Run.register`."""
        self._spool.add("register", {"name": name, "artifact": artifact})

    def finish(self, status: Ending) -> bool:
        """See `Run.finish`. A second call does nothing."""
        if self._finished or os.getpid() != self._process:
            return True
        self._finished = True
        if self._machine is not None:
            self._machine.stop()
        self._spool.add_status(status)
        longest = SECONDS_TO_FINISH[status]
        if status == "finished":
            longest = max(longest, self._wait)
        unsent = self._sender.close(min(self._wait, longest), longest)
        atexit.unregister(self._at_exit)
        if unsent:
            log.warning(
                "%s of run %s not sent yet, kept in %s: "
                "the same command, any later run on this store, or task=sync sends what is there",
                counted(unsent, "tracking record"), self.id, self._spool.path,
            )  # fmt: skip
        elif not self._spool.refused:
            with contextlib.suppress(OSError):  # only a copy of what was sent
                shutil.rmtree(self._folder / PENDING)
        return not unsent

    def _at_exit(self) -> None:
        # The process ends before `finish` was called.
        self.finish("failed")

    def _artifact(self, path: Path, to: str) -> None:
        where = path.relative_to(self._folder).as_posix()
        self._spool.add("artifact", {"path": where, "to": "" if to == "." else to})

    def _pending(self, path: str) -> Path:
        relative = PurePosixPath(path)
        if relative.is_absolute() or ".." in relative.parts or not relative.name:
            raise ValueError(f"an artifact's path must be relative and stay inside: {path}")
        pending = self._folder / PENDING / relative
        with explaining(pending):
            pending.parent.mkdir(parents=True, exist_ok=True)
        return pending

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning(message)


def safe_name(name: str) -> str:
    """Return a name that MLflow accepts; `display_name` restores the original unless it had to be shortened."""
    name = re.sub("_(?=x)", "_x5f_", name)  # what could be read as an escape is escaped
    name = ILLEGAL.sub(lambda match: f"_x{ord(match.group()):x}_", name)
    # MLflow requires names that are normalised relative paths: no part may be empty or ".", or begin with "..".
    parts = [f"_x2e_{part[1:]}" if part == "." or part.startswith("..") else part for part in name.split("/")]
    parts = [part or "_x_" for part in parts]
    name = "/".join(parts)
    if len(name) > NAME_LENGTH:
        name = f"{name[: NAME_LENGTH - 17]}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


def display_name(name: str) -> str:
    """Return the original of a `safe_name`."""
    return re.sub(r"_x([0-9a-f]*)_", lambda match: chr(int(match[1], 16)) if match[1] else "", name)


def tag_values(values: Mapping[str, Any]) -> dict[str, str]:
    """Return tags in a form that any store accepts: safe names, and values masked and shortened."""
    return {safe_name(name): shortened(masked(as_text(value)), TAG_LENGTH) for name, value in values.items()}


def as_text(value: Any) -> str:
    """Return a value of a configuration as text that any store can hold."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")
