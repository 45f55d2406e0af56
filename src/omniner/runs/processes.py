"""Child processes: one started, watched to its end and never outlived, with GPUs and cores of its own.

In: a command and its environment. Out: what went wrong in one line, or nothing; what the child wrote to stderr is shown
and kept. The standard input of a child is a pipe from here: when it closes, the parent is gone and the child stops,
resumable (`stop_with_parent`). GPUs are lent by locks on files, one for each GPU of the machine, so that children of
several launchers and of several sweeps keep out of each other's way; a lock ends with the process that holds it.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from omniner.cores import pinned
from omniner.errors import Stopped, UserError
from omniner.files import explaining, make_folder

PARENT = "OMNINER_PARENT_RUN"  # to a child: the run it belongs to
CHILD = "OMNINER_CHILD"  # to a child: what sets it apart; its standard input tells whether the parent lives
# Set by a distributed launch; a child must not take itself for a rank of one.
RANK_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS = 0.5  # between two looks at whether to go on
_TAIL = 1 << 20  # bytes of what a child said last, in which the reason of its end is looked for

Asked = Callable[[], int | None]
"""Whether to stop: None, or the signal that says so."""


def parent_run() -> str | None:
    """The id of the run that this process's run belongs to."""
    return os.environ.get(PARENT) or None


def label() -> str | None:
    """What sets this process's run apart from others of the same parent."""
    return os.environ.get(CHILD)


def environment(parent: str, label: str) -> dict[str, str]:
    """The environment of a child that belongs to the run `parent`."""
    kept = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return {**kept, PARENT: parent, CHILD: label}


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    stopped: Asked,
    cores: Sequence[int] = (),
) -> str:
    """Run a child to its end; empty, or what went wrong in one line.

    It has a session of its own: Ctrl-C in a terminal reaches it once, from here, and nothing it started outlives it.

    Args:
        command: the program and its arguments.
        environment: all of it.
        log_file: gets what the child writes to stderr.
        stopped: asked now and then; the number of a signal ends the child by it, and raises `Stopped` here.
        cores: that it may use; none = those of this process.
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
        copier = threading.Thread(target=_copy, args=(process.stderr, file, tail), daemon=True)
        copier.start()
        try:
            _watch(process, stopped)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            copier.join()
            process.stdin.close()
            process.stderr.close()
    return error_line(tail.decode("utf-8", errors="replace"), process.returncode)


def _watch(process: subprocess.Popen[bytes], stopped: Asked) -> None:
    """Wait for the end of a child; told to stop meanwhile, hand the signal on, wait for the end all the same, raise."""
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS)
            if (signum := stopped()) is not None and process.returncode is None:
                raise Stopped(signum)
    except KeyboardInterrupt as stop:
        process.send_signal(stop.signum if isinstance(stop, Stopped) else signal.SIGINT)
        process.wait()
        raise


def _copy(source: IO[bytes], file: io.FileIO, tail: bytearray) -> None:
    """Show what the child says, keep it in the file, and the last of it in `tail`.

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

    places: dict[str, Callable[[bytes], None]] = {f"{file.name}": keep, "the standard error": show}
    lost, block = "", b"\n"
    while block:
        block = os.read(source.fileno(), 65536)
        tail += block
        del tail[:-_TAIL]
        lost += _hand_on(block, places)
        if lost and (not block or block.endswith(b"\n")):  # on a line of its own
            lost = _hand_on(f"{'' if block else chr(10)}{lost}".encode(), places)


def _hand_on(block: bytes, places: dict[str, Callable[[bytes], None]]) -> str:
    """Write to each place; one that fails is taken out. Gives a line for each of these."""
    lost = ""
    for name, write in list(places.items()):
        try:
            write(block)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            del places[name]
            lost += f"omniner: no more is written to {name}: {error}\n"
    return lost


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


def stop_with_parent() -> None:
    """In a child: stop, resumable, when the process that watches it is gone."""
    if CHILD not in os.environ:
        return

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def locked(path: Path, stopped: Asked) -> Iterator[None]:
    """Wait for a lock file, and hold it for the block; raises `Stopped` when told so while waiting."""
    with explaining(path):
        file = path.open("a", encoding="utf-8")
    with file:
        while not _lock(file):
            _pause(stopped)
        yield


def _lock(file: IO[str]) -> bool:
    """Lock a file, unless another process has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pause(stopped: Asked) -> None:
    """Between two looks; raises `Stopped` when told so."""
    if (signum := stopped()) is not None:
        raise Stopped(signum)
    time.sleep(SECONDS)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them; asking torch costs seconds."""
    if VISIBLE in os.environ:
        return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip() not in ("", "-1")]
    if (program := shutil.which("nvidia-smi")) is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def check_gpus(wanted: int, seen: int) -> None:
    """A `UserError` where each child is to have more GPUs than the machine shows; without any, children need none."""
    if seen and wanted > seen:
        found = f"{wanted} for each child, but {seen} can be seen"
        raise UserError("children.gpus", found, f"Give {seen} or fewer.")


@contextlib.contextmanager
def lent_gpus(wanted: int, stopped: Asked) -> Iterator[dict[str, str]]:
    """Wait for `wanted` GPUs that no other child uses; gives what a child's environment must say of them.

    Nothing where `wanted` is 0 or the machine has no GPU.

    Raises:
        UserError: there are not so many.
        Stopped: told so while waiting.
    """
    names = visible_gpus()
    if not wanted or not names:
        yield {}
        return
    check_gpus(wanted, len(names))
    folder = make_folder(Path(tempfile.gettempdir()) / f"omniner-gpus-{os.getuid()}")
    groups = [names[start : start + wanted] for start in range(0, len(names) - wanted + 1, wanted)]
    with contextlib.ExitStack() as stack:
        while (group := _take(folder, groups, stack)) is None:
            _pause(stopped)
        yield {VISIBLE: ",".join(group)}


def _take(folder: Path, groups: Sequence[Sequence[str]], held: contextlib.ExitStack) -> Sequence[str] | None:
    """Lock all GPUs of the first free group."""
    for group in groups:
        with contextlib.ExitStack() as stack:
            files = (folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock" for name in group)
            if all(_lock(stack.enter_context(file.open("a", encoding="utf-8"))) for file in files):
                held.push(stack.pop_all())
                return group
    return None
