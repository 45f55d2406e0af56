"""Runs that a run starts: the folds of a filter, the variants of a search, the jobs of a sweep.

Each is `python -m omniner.run --child <its whole configuration>`, a fresh process with a folder of its own. Whatever
happens to it (a crash, a kill for want of memory), its siblings go on, and GPU memory ends with it. A job that has
finished is not run again, one that was interrupted goes on where it was. In MLflow the children belong to the
parent's run. `run_jobs` runs the children of a run, several at a time; a sweep, whose launcher decides what runs
when, calls `run_job` for each. Price: the start of Python, 3 to 10 s a child.

A child's standard input is a pipe from its parent: when it closes, the parent is gone and the child stops, resumable
(`stop_with_parent`). What a child writes to stderr is shown, and kept in a file. GPUs are reserved by locks on files,
one for each GPU of the machine, so that children of several launchers and sweeps keep out of each other's way; a lock
ends with the process that holds it.
"""

from __future__ import annotations

import codecs
import contextlib
import copy
import io
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
from omniner.runs.folder import FINISHED, LOCK, METRICS, read_state

FOLDER = "children"  # in the parent's folder
PARENT = "OMNINER_PARENT_RUN"  # tells a child the run it belongs to
CHILD = "OMNINER_CHILD"  # tells a child what sets it apart; its standard input tells whether the parent lives
# Set by a distributed launch; a child must not take itself for a rank of one.
RANK_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
SECONDS_BETWEEN_CHECKS = 0.5  # of whether a child has ended, or has to
_TAIL = 1 << 20  # bytes of what a child wrote last, in which the reason of its end is looked for

CheckStop = Callable[[], None]
"""Called now and then while something is waited for; raises `Stopped` when it is time to stop."""


class Job(NamedTuple):
    """A run to do: its name among its siblings, and its configuration."""

    name: str
    config: Config


class Outcome(NamedTuple):
    """What became of a job: `error` is one line, empty where it finished; `metrics` are the last values."""

    name: str
    folder: Path
    error: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class ChildSettings:
    """What a child needs beside its configuration.

    Attributes:
        folder: of its parent; what the parent keeps of it is in `children/` there.
        parent: id of the parent's MLflow run; empty where it has none.
        label: what sets the child apart in MLflow.
        gpus: how many it has for itself; 0 = it sees all.
        cores: numbers of the cores that it may use; none = all of this process.
        variables: more of its environment.
        since: a run that began before this moment (seconds since 1970) counts as another one.
    """

    folder: Path
    parent: str
    label: str
    gpus: int = 0
    cores: Sequence[int] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    since: float = 0.0


def parent_run_id() -> str | None:
    """Return the id of the run that this process's run belongs to."""
    return os.environ.get(PARENT) or None


def child_label() -> str | None:
    """Return what sets this process's run apart from others of the same parent."""
    return os.environ.get(CHILD)


def child_environment(parent: str, label: str) -> dict[str, str]:
    """Return the environment of a child that belongs to the run with the id `parent`."""
    kept = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return {**kept, PARENT: parent, CHILD: label}


def child_command(config: Path) -> list[str]:
    """Return the command line of a process that does the run of a configuration file, or its part of one."""
    return [sys.executable, "-m", "omniner.run", "--child", str(config)]


def run_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    check_stop: CheckStop,
    cores: Sequence[int] = (),
) -> str:
    """Run a child process to its end.

    It has a session of its own: Ctrl-C in a terminal reaches it once, from here, and nothing it started outlives it.

    Args:
        command: the program and its arguments.
        environment: all of it.
        log_file: gets what the child writes to stderr.
        check_stop: called twice a second; the signal of the `Stopped` that it raises ends the child.
        cores: numbers of the cores that it may use; none = those of this process.

    Returns:
        What went wrong in one line; empty where nothing did.

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
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a dead group
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            copier.join()
            process.stdin.close()
            process.stderr.close()
    return error_line(tail.decode("utf-8", errors="replace"), process.returncode)


def _wait(process: subprocess.Popen[bytes], check_stop: CheckStop) -> None:
    """Wait for the end of a child; when stopped, hand the signal on, wait for the end all the same, and raise."""
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
    """Show what a child writes to stderr, keep it in the file, and the last of it in `tail`.

    Reads to the end, whatever happens: the child would wait for ever to be read. What cannot be written to (a full
    disk, a terminal that is gone) is given up, and what is left says so.
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
    """Call each writer; one that fails is taken out. Return a line for each of these."""
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
    """In a child: stop, resumable, when the process that watches it is gone."""
    if CHILD in os.environ:
        when_stdin_closes(lambda: os.kill(os.getpid(), signal.SIGTERM))


def when_stdin_closes(act: Callable[[], object]) -> None:
    """Act once the standard input has ended, in a thread: it is a pipe from a process that is gone then."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        act()

    threading.Thread(target=watch, daemon=True).start()


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them; asking torch costs seconds."""
    if VISIBLE_GPUS in os.environ:
        return [name.strip() for name in os.environ[VISIBLE_GPUS].split(",") if name.strip() not in ("", "-1")]
    if (program := shutil.which("nvidia-smi")) is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def check_gpu_count(wanted: int, visible: int) -> None:
    """Raise a `UserError` where a child is to have more GPUs than the machine has; without any, it needs none."""
    if visible and wanted > visible:
        found = f"{wanted} for each child, but {visible} can be seen"
        raise UserError("children.gpus", found, f"Give {visible} or fewer.")


@contextlib.contextmanager
def reserved_gpus(count: int, check_stop: CheckStop) -> Iterator[dict[str, str]]:
    """Reserve GPUs that no other child uses for the block, as soon as there are so many.

    Args:
        count: how many; 0 = none are reserved, and a child sees all.
        check_stop: called twice a second while others use them.

    Yields:
        What a child's environment must say of them; nothing where `count` is 0 or the machine has no GPU.

    Raises:
        UserError: the machine has not so many.
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
        yield {VISIBLE_GPUS: ",".join(group)}


def _private_folder(path: Path) -> Path:
    """Make a folder in a place where everybody may write, or use it where it is this user's alone.

    Raises:
        UserError: it is somebody else's, or a link: whoever made it could hold up every child, or have files made.
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
    """Lock all GPUs of the first free group until `locks` closes; None where no group is free."""
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
    """Return the corpus of a child that reads JSONL files which its parent wrote.

    Args:
        data: the corpus of the parent; what it says of reading the user's own files is over.
        root: folder of the files.
        files: split -> names of files.
        changes: what else differs.
    """
    return replace(
        data, format="jsonl", root=str(root.resolve()), source="", files=files, size={}, limit={},
        scheme="auto", separator="auto", glued_positions=False, tag_column=None, offsets="auto", annotator=None,
        **changes,
    )  # fmt: skip


def run_job(job: Job, child: ChildSettings, check_stop: CheckStop) -> Outcome:
    """Do one job, unless it has finished; `output_dir` of its configuration is the folder of its run.

    Raises:
        Stopped: from `check_stop`; the child has stopped, resumable.
    """
    folder = Path(job.config.output_dir or "")
    kept = make_folder(child.folder / FOLDER) / job.name
    error = ""
    # A name may come twice at the same time: a sweeper can ask for one configuration again.
    with wait_for_lock(Path(f"{kept}.lock"), check_stop):
        if folder.exists():  # an earlier process of this job, whose parent was killed, may be coming to its end
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
    state = read_state(folder)
    same = state.get("digest") == run_config.digest(config)
    return same and state.get("status") == FINISHED and state.get("started", 0.0) >= since


def run_jobs(jobs: Sequence[Job], folder: Path, parent: str, settings: ChildrenConfig) -> Iterator[Outcome]:
    """Do jobs side by side or in turn, and yield what became of each as it ends.

    Args:
        jobs: with different names; `output_dir` and `resume` of their configurations are set here.
        folder: of the parent run; the run of job `a` is in `children/a` under it.
        parent: id of the parent's MLflow run; empty where it has none.
        settings: how many at once, and on how many GPUs each.

    Raises:
        UserError: the machine has not the GPUs.
        KeyboardInterrupt: told to stop; all children have stopped, resumable.
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
        except BaseException:  # also `GeneratorExit`: whoever stops listening wants no more work
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _divide_machine(settings: ChildrenConfig) -> tuple[int, list[list[int]]]:
    """Return the GPUs of each child, and for each that runs at the same time the cores it may use, empty = all."""
    gpus = len(visible_gpus())
    check_gpu_count(settings.gpus, gpus)
    groups = gpus // settings.gpus if settings.gpus else 1
    parallel = settings.parallel or max(1, groups)
    if gpus or parallel == 1:
        return settings.gpus, [[] for _ in range(parallel)]
    # Without GPUs each has its share of the cores: threads of several models on one core cost more than they do.
    cores = own_cores()
    return 0, [cores[number::parallel] or [cores[number % len(cores)]] for number in range(parallel)]
