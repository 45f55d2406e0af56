"""Child runs: the folds of a filter, the variants of a search, the jobs of a sweep.

Each child is `python -m omniner.run --child <its complete configuration>`, a new process with its own folder. If it
crashes or is killed for lack of memory, its siblings continue, and its GPU memory is freed. A finished job is not run
again unless a file that it read has changed, an interrupted one resumes. In MLflow the children belong to the parent's
run. `run_jobs` runs the children of a run, several at a time; a sweep, whose launcher schedules the jobs, calls
`run_job` for each. The cost is the start of Python, 3 to 10 s per child.

A child's standard input is a pipe from its parent: when it closes, the parent is gone, and the child stops so that it
can be resumed (`stop_with_parent`). A child's stderr is shown and written to a file. GPUs are reserved with file locks,
one per GPU of the machine, so that children of several launchers and sweeps use different GPUs; a lock ends with the
process that holds it.
"""

from __future__ import annotations

import codecs
import contextlib
import copy
import io
import logging
import os
import queue
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from omniner.config import run_config
from omniner.config.groups import ChildrenConfig, Config, DataConfig
from omniner.errors import Stopped, UserError
from omniner.files import LOCK_RETRY_SECONDS, explaining, make_folder, read_json, try_lock, wait_for_lock, write_text
from omniner.machine import own_cores, pinned
from omniner.registry import TASKS
from omniner.runs.folder import FINISHED, LOCK, METRICS, read_state
from omniner.wording import first_of

log = logging.getLogger("omniner")

FOLDER = "children"  # in the parent's folder
PARENT = "OMNINER_PARENT_RUN"  # tells a child the run it belongs to
CHILD = "OMNINER_CHILD"  # a child's label in MLflow; a process with it watches its standard input for the parent's end
# Set by a distributed launch; without them a child does not take itself for a rank of the parent's launch.
RANK_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
# torch for AMD reads these first: the second names GPUs among those that the first leaves. SLURM may set all of them,
# on machines with GPUs of NVIDIA, too.
_VISIBLE_TO_ROCM, _VISIBLE_TO_HIP = "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
_DRIVERS = ("/dev/kfd", "/dev/nvidiactl")  # of AMD and of NVIDIA
SECONDS_BETWEEN_CHECKS = 0.5  # between checks whether a child has ended or must stop
_NAMED = 3  # files named in a message
_TAIL = 1 << 20  # last bytes of a child's stderr, in which the reason of its end is searched

CheckStop = Callable[[], None]
"""Called repeatedly while waiting; raises `Stopped` when it is time to stop."""


class Job(NamedTuple):
    """A child run to start: its name, unique among its siblings, and its configuration."""

    name: str
    config: Config


class Outcome(NamedTuple):
    """The result of a job: `error` is one line, empty if it finished; `metrics` are the last values."""

    name: str
    folder: Path
    error: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class ChildSettings:
    """What a child needs beside its configuration.

    Attributes:
        folder: folder of its parent, which keeps the child's configuration and log in `children/`.
        parent: id of the parent's MLflow run; empty if it has none.
        label: name of the child in MLflow.
        gpus: number of GPUs reserved for it; 0 = it sees all.
        cores: numbers of the cores that it may use; empty = all cores of this process.
        variables: additional environment variables.
        since: a run that began before this time (seconds since 1970) does not count as a run of this job.
    """

    folder: Path
    parent: str
    label: str
    gpus: int = 0
    cores: Sequence[int] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    since: float = 0.0


def parent_run_id() -> str | None:
    """Return the MLflow id of the parent of this process's run; None if it has no parent."""
    return os.environ.get(PARENT) or None


def child_label() -> str | None:
    """Return the label of this process's run among the children of its parent; None if it is no child."""
    return os.environ.get(CHILD)


def child_environment(parent: str, label: str) -> dict[str, str]:
    """Return the environment of a child that belongs to the run with the id `parent`."""
    kept = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return {**kept, PARENT: parent, CHILD: label}


def child_command(config: Path) -> list[str]:
    """Return the command line of a process that executes the run of a configuration file, or a worker's part of it."""
    return [sys.executable, "-m", "omniner.run", "--child", str(config)]


def run_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    check_stop: CheckStop,
    cores: Sequence[int] = (),
) -> str:
    """Run a child process to its end.

    The child has its own session: Ctrl-C in a terminal reaches it only once, through this process, and the processes
    that it started are killed when it ends.

    Args:
        command: the program and its arguments.
        environment: the complete environment.
        log_file: receives the child's stderr.
        check_stop: called twice a second; the signal of the `Stopped` that it raises ends the child.
        cores: numbers of the cores that it may use; empty = those of this process.

    Returns:
        What went wrong, in one line; empty if nothing did.

    Raises:
        Stopped: from `check_stop`, once the child has ended.
    """
    sys.stdout.flush()
    tail = bytearray()
    with explaining(log_file), log_file.open("wb", buffering=0) as file:
        with pinned(cores):
            process = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        assert process.stdin is not None
        assert process.stderr is not None
        copier = threading.Thread(target=_copy_output, args=(process.stderr, file, tail), daemon=True)
        copier.start()
        try:
            _wait(process, check_stop)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a dead group
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            copier.join()
            process.stdin.close()
            process.stderr.close()
    return error_line(tail.decode("utf-8", errors="replace"), process.returncode)


def _wait(process: subprocess.Popen[bytes], check_stop: CheckStop) -> None:
    """Wait until a child ends; if stopped, forward the signal, still wait for the child to end, and raise."""
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_BETWEEN_CHECKS)
            if process.returncode is None:
                check_stop()
    except KeyboardInterrupt as stop:
        process.send_signal(stop.signum if isinstance(stop, Stopped) else signal.SIGINT)
        process.wait()
        raise


def _copy_output(source: IO[bytes], file: io.FileIO, tail: bytearray) -> None:
    """Copy a child's stderr to this process's stderr and to the file, and keep the last bytes in `tail`.

    Always reads to the end, because a child blocks when nobody reads its output. A target that cannot be written (full
    disk, closed terminal) is dropped, and the remaining target gets a message about it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def keep(block: bytes) -> None:
        while block:
            block = block[file.write(block) :]

    def show(block: bytes) -> None:
        sys.stderr.write(decoder.decode(block, final=not block))
        sys.stderr.flush()

    writers: dict[str, Callable[[bytes], None]] = {f"{file.name}": keep, "the standard error": show}
    failures, block = "", b"\n"
    while block:
        block = os.read(source.fileno(), 65536)
        tail += block
        del tail[:-_TAIL]
        failures += _write_to_all(block, writers)
        if failures and (not block or block.endswith(b"\n")):  # on a line of its own
            failures = _write_to_all(f"{'' if block else chr(10)}{failures}".encode(), writers)


def _write_to_all(block: bytes, writers: dict[str, Callable[[bytes], None]]) -> str:
    """Call each writer and remove those that fail; return a line for each removed one."""
    failures = ""
    for name, write in list(writers.items()):
        try:
            write(block)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            del writers[name]
            failures += f"omniner: no more is written to {name}: {error}\n"
    return failures


def error_line(output: str, status: int) -> str:
    """Return in one line what went wrong in a process.

    Args:
        output: what it wrote to stderr.
        status: its exit status; negative = the signal that ended it.

    Returns:
        The line; empty for status 0.
    """
    if status == 0:
        return ""
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}" + (", as happens for want of memory" if name == "SIGKILL" else "")
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    if known := [line for line in lines if line.startswith("error: ")]:
        return known[-1].removeprefix("error: ")
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (")]
    after = lines[starts[-1] + 1 :] if starts else lines[-1:]
    raised = next((line for line in after if re.match(r"\S", line)), "")
    return raised or f"exit status {status}"


def stop_with_parent() -> None:
    """Make a child stop, so that it can be resumed, when its parent process is gone; no effect in other processes."""
    if CHILD in os.environ:
        when_stdin_closes(lambda: os.kill(os.getpid(), signal.SIGTERM))


def when_stdin_closes(act: Callable[[], object]) -> None:
    """Call `act` in a thread when standard input closes: it is a pipe from another process, which has ended then."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        act()

    threading.Thread(target=watch, daemon=True).start()


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as `show_gpus` takes them.

    Does not ask torch, whose import takes seconds.
    """
    named = next((name for name in (*_amd_variables(), VISIBLE_GPUS) if name in os.environ), None)
    if named is not None:
        names = [name.strip() for name in os.environ[named].split(",") if name.strip() not in ("", "-1")]
        return [str(number) for number in range(len(names))] if named == _VISIBLE_TO_ROCM else names
    if (program := shutil.which("nvidia-smi")) is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def show_gpus(names: Sequence[str]) -> dict[str, str]:
    """Return the environment variables of a process that sees only these of the visible GPUs."""
    amd = [_VISIBLE_TO_HIP] if any(name in os.environ for name in _amd_variables()) else []
    return dict.fromkeys([VISIBLE_GPUS, *amd], ",".join(names))


def _amd_variables() -> list[str]:
    """Return the variables that torch reads before that of CUDA on this machine: none unless its GPUs are of AMD."""
    amd, nvidia = map(os.path.exists, _DRIVERS)
    return [_VISIBLE_TO_HIP, _VISIBLE_TO_ROCM] if amd and not nvidia else []


def check_gpu_count(wanted: int, visible: int) -> None:
    """Raise a `UserError` if a child wants more GPUs than are visible; with no visible GPU, any number is accepted."""
    if visible and wanted > visible:
        found = f"{wanted} for each child, but {visible} can be seen"
        raise UserError("children.gpus", found, f"Give {visible} or fewer.")


@contextlib.contextmanager
def reserved_gpus(count: int, check_stop: CheckStop) -> Iterator[dict[str, str]]:
    """Reserve GPUs that no other child uses for the block; wait until enough are free.

    Args:
        count: number of GPUs; 0 = none are reserved, and a child sees all.
        check_stop: called repeatedly while waiting.

    Yields:
        Environment variables for a child; empty if `count` is 0 or the machine has no GPU.

    Raises:
        UserError: the machine has fewer GPUs.
    """
    names = visible_gpus()
    if not count or not names:
        yield {}
        return
    check_gpu_count(count, len(names))
    folder = _private_folder(Path(tempfile.gettempdir()) / f"omniner-gpus-{os.getuid()}")
    groups = [names[start : start + count] for start in range(0, len(names) - count + 1, count)]
    with contextlib.ExitStack() as locks:
        while (group := _lock_group(folder, groups, locks)) is None:
            check_stop()
            time.sleep(LOCK_RETRY_SECONDS)
        yield show_gpus(group)


def _private_folder(path: Path) -> Path:
    """Create a folder that only this user can access inside a world-writable one, or use an existing one of this user.

    Raises:
        UserError: it belongs to another user, or is a link: its owner could block every child, or make it create files
            elsewhere.
    """
    with explaining(path), contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    with explaining(path):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise UserError(path, "it belongs to somebody else", "Remove it, or set TMPDIR to a folder of your own.")
        path.chmod(0o700)
    return path


def _lock_group(folder: Path, groups: Sequence[Sequence[str]], locks: contextlib.ExitStack) -> Sequence[str] | None:
    """Lock all GPUs of the first free group until `locks` closes; return the group, None if none is free."""
    for group in groups:
        with contextlib.ExitStack() as taken:
            for name in group:
                if (lock := try_lock(folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock")) is None:
                    break
                taken.callback(lock.release)
            else:
                locks.push(taken.pop_all())
                return group
    return None


def data_of_parent(data: DataConfig, root: Path, files: dict[str, list[str]], **changes: Any) -> DataConfig:
    """Return the corpus configuration of a child that reads JSONL files written by its parent.

    Args:
        data: the parent's corpus; its settings for reading the user's files are reset.
        root: folder of the files.
        files: split -> file names.
        changes: other values that differ.
    """
    return replace(
        data, format="jsonl", root=str(root.resolve()), source="", files=files, size={}, limit={},
        scheme="auto", separator="auto", glued_positions=False, tag_column=None, offsets="auto", annotator=None,
        **changes,
    )  # fmt: skip


def run_job(job: Job, child: ChildSettings, check_stop: CheckStop) -> Outcome:
    """Run one job unless it has finished; `output_dir` of its configuration is the folder of its run.

    Raises:
        Stopped: from `check_stop`; the child has stopped and can be resumed.
    """
    folder = Path(job.config.output_dir or "")
    kept = make_folder(child.folder / FOLDER) / job.name
    error = ""
    # Two jobs may have one name at the same time: a sweeper can ask for a configuration again.
    with wait_for_lock(Path(f"{kept}.lock"), check_stop):
        if folder.exists():  # an earlier process of this job, whose parent was killed, may still be ending
            with wait_for_lock(folder / LOCK, check_stop):
                pass
        if not _has_finished(folder, job.config, child.since):
            path = write_text(f"{kept}.yaml", run_config.to_yaml(job.config))
            command = child_command(path)
            environment = {**child_environment(child.parent, child.label), **child.variables}
            try:
                with reserved_gpus(child.gpus, check_stop) as gpus:
                    log_file = Path(f"{kept}.log")
                    error = run_process(command, environment | gpus, log_file, check_stop, child.cores)
            except UserError as mistake:
                error = str(mistake)
    metrics = read_json(folder / METRICS) if not error and (folder / METRICS).exists() else {}
    return Outcome(job.name, folder, error, metrics)


def _has_finished(folder: Path, config: Config, since: float) -> bool:
    """Whether the run of a job has finished, and the files that it read are still the same."""
    state = read_state(folder)
    same = state.get("digest") == run_config.digest(config)
    if not (same and state.get("status") == FINISHED and state.get("started", 0.0) >= since):
        return False
    then, now = state.get("inputs", {}), TASKS[config.task.name].inputs_read(config)
    # Not the files that are gone or that an older version did not record: of these nothing is known.
    changed = sorted(path for path in then.keys() & now.keys() if then[path] != now[path])
    if changed:
        log.warning("%s has changed since the run in %s: it is done anew", first_of(changed, _NAMED), folder)
    return not changed


def run_jobs(jobs: Sequence[Job], folder: Path, parent: str, settings: ChildrenConfig) -> Iterator[Outcome]:
    """Run jobs in parallel or one after another, and yield the outcome of each as it ends.

    Args:
        jobs: jobs with unique names; `output_dir` and `resume` of their configurations are set here.
        folder: folder of the parent run; the run of job `a` is in `children/a` under it.
        parent: id of the parent's MLflow run; empty if it has none.
        settings: how many run at once, and the number of GPUs of each.

    Raises:
        UserError: the machine has fewer GPUs than a child needs.
        KeyboardInterrupt: this process was stopped; all children have stopped and can be resumed.
    """
    gpus, shares = _divide_machine(settings)
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for cores in shares:
        free.put(cores)
    stop = threading.Event()

    def check_stop() -> None:
        if stop.is_set():
            raise Stopped(signal.SIGTERM)

    def work(job: Job) -> Outcome:
        check_stop()
        config = copy.deepcopy(job.config)
        config.output_dir, config.resume = str(folder / FOLDER / job.name), "auto"
        cores = free.get()
        try:
            child = ChildSettings(folder, parent, config.name, gpus, cores)
            return run_job(job._replace(config=config), child, check_stop)
        finally:
            free.put(cores)

    with ThreadPoolExecutor(len(shares)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:  # also `GeneratorExit`: the caller wants no further outcomes
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _divide_machine(settings: ChildrenConfig) -> tuple[int, list[list[int]]]:
    """Return the GPUs per child, and the cores of each child that runs at the same time (empty = all cores)."""
    gpus = len(visible_gpus())
    check_gpu_count(settings.gpus, gpus)
    groups = gpus // settings.gpus if settings.gpus else 1
    parallel = settings.parallel or max(1, groups)
    if gpus or parallel == 1:
        return settings.gpus, [[] for _ in range(parallel)]
    # Without GPUs each child gets its share of the cores: threads of several models on one core slow each other down.
    cores = own_cores()
    return 0, [cores[number::parallel] or [cores[number % len(cores)]] for number in range(parallel)]
