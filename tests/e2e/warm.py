"""Commands without the start of Python: a process that has loaded the libraries forks for each of them.

Loading torch, Lightning and MLflow costs 7 s of CPU time, more than most commands of the tests. What is forked is
`python -m omniner.run` from its first line on, in a process of its own, with its own directory, environment and
streams. None of our modules is loaded before. What such a command starts by `sys.executable` (its children, its ranks)
is forked as well: `sys.executable` is a program that asks for it, see `warm_python`. What differs from a start: all
commands have one hash seed, so that whoever compares two runs starts one of them anew; torch is loaded before the
command sets its environment, so that one test each of a sweep, of children side by side and of ranks starts Python
anew; and the tables of a new MLflow store are copied.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tests.e2e import warm_python

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.e2e.preloaded"])


class Command:
    """A command under way, in the way of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], folder: Path, asked: socket.socket) -> None:
        self.args, self._folder, self._asked = list(arguments), folder, asked
        self.pid = warm_python.read_number(asked)
        self.returncode: int | None = None
        self._said: dict[str, str] = {}

    def poll(self) -> int | None:
        """The exit status, once it has ended."""
        if self.returncode is None and select.select([self._asked], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit status."""
        if self.returncode is None:
            if not select.select([self._asked], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = warm_python.read_number(self._asked)
            self._asked.close()
            self._said = {stream: self.said(stream) for stream in ("stdout", "stderr")}
            shutil.rmtree(self._folder)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it wrote to standard output and to standard error."""
        self.wait(timeout)
        return self.said("stdout"), self.said("stderr")

    def said(self, stream: str = "stderr") -> str:
        """What it has written so far."""
        if self._said:
            return self._said[stream]
        return (self._folder / stream).read_text(encoding="utf-8", errors="replace")

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    prepare: Callable[[], None] | None = None,
    *,
    module: str = "omniner.run",
    typed: str = "",
    session: bool = False,
) -> Command:
    """Begin `python -m omniner.run` with these arguments.

    Args:
        arguments: of the command.
        cwd: its directory.
        environment: all of it.
        prepare: is called in the process before the command begins.
        module: another one to run.
        typed: its standard input.
        session: whether it has a session, and so a group of processes, of its own.
    """
    folder = Path(tempfile.mkdtemp())
    (folder / "stdin").write_text(typed, encoding="utf-8")
    with contextlib.ExitStack() as files:
        streams = [
            files.enter_context((folder / name).open(mode)).fileno()
            for name, mode in (("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb"))
        ]
        told = warm_python.ask(
            str(_python()), module, arguments, str(cwd), environment, streams, session, pickle.dumps(prepare).hex()
        )
    return Command(arguments, folder, told)


def run(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    seconds: float,
    prepare: Callable[[], None] | None = None,
    typed: str = "",
) -> subprocess.CompletedProcess[str]:
    """`python -m omniner.run` with these arguments, to its end; see `start`."""
    command = start(arguments, cwd, environment, prepare, typed=typed)
    try:
        out, err = command.communicate(seconds)
    except BaseException:
        command.kill()
        command.wait()
        raise
    return subprocess.CompletedProcess(command.args, command.wait(), out, err)


@cache
def _python() -> Path:
    """Start the process that forks commands; the program that asks it for one, to be called as Python is."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    python = folder / "python"
    python.write_text(f"#!{sys.executable} -IS\n{Path(warm_python.__file__).read_text('utf-8')}", encoding="utf-8")
    python.chmod(0o755)
    ready, told = _FORKING.Pipe(duplex=False)
    server = _FORKING.Process(target=_serve, args=(python, told))
    server.start()
    ready.recv()

    def end() -> None:
        server.terminate()
        shutil.rmtree(folder)

    atexit.register(end)
    return python


def _serve(python: Path, told: Any) -> None:
    """Fork for each command that is asked for, as long as the process of the tests lives."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how those end that look after a command
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(warm_python.address(str(python)))
        listener.listen(64)
        told.send(None)
        told.close()
        while parent.sentinel not in select.select([listener, parent.sentinel], [], [])[0]:
            asked, _ = listener.accept()
            if not os.fork():
                listener.close()
                _look_after(asked, python)
            asked.close()


def _look_after(asked: socket.socket, python: Path) -> NoReturn:
    """Fork a command and tell how it ends; where nobody listens any more, it is killed."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams = warm_python.read_request(asked)
    if not (pid := os.fork()):
        asked.close()
        _be(request, streams, python)
    for stream in streams:
        os.close(stream)

    def watch() -> None:
        with contextlib.suppress(ConnectionError):
            asked.recv(1)  # nothing is ever sent: it is closed
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        warm_python.write_number(asked, pid)
        _, status = os.waitpid(pid, 0)
        warm_python.write_number(asked, os.waitstatus_to_exitcode(status))
    os._exit(0)


def _be(request: dict[str, Any], streams: Sequence[int], python: Path) -> NoReturn:
    """Take over all that is a command's own, and be it."""
    import runpy

    atexit._clear()  # what the server would do at its own end
    status: Any = 1
    try:
        if request["session"]:
            os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, request["cores"])
        prepare = pickle.loads(bytes.fromhex(request["prepare"])) if request["prepare"] else None
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = [request["module"], *request["arguments"]]
        sys.path[0] = request["cwd"]
        sys.executable = str(python)
        if prepare is not None:
            prepare()
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(status, str):
        print(status, file=sys.stderr)
    with contextlib.suppress(BaseException):  # as Python ends: threads are waited for, and what is registered is done
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for said in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            said.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))
