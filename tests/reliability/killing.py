"""Kill a run at a chosen moment: just before the n-th change that it, or one of its children, makes to the disk."""

from __future__ import annotations

import itertools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

from tests.e2e import warm
from tests.e2e.conftest import environment

COUNTS = "changes"  # folder that holds how many changes each process of a whole run made, in a file called after it
KILLED = "killed"  # file that says that the kill has happened
PARENT = "parent"  # the process that a command starts; its children are called as their run calls them


class Kill(NamedTuple):
    """The process that is killed, and before which of its changes; number 0 = nobody is, and all are counted."""

    process: str = ""
    number: int = 0


def run(arguments: list[str], cwd: Path, kill: Kill) -> int:
    """Run a command to its end, or to its kill; the exit status, -9 where it was killed itself."""
    done = warm.run(arguments, cwd, environment(), 1200, partial(_prepare, kill, cwd))
    expected = {0} if not kill.number else {0, -signal.SIGKILL} if kill.process == PARENT else {0, 1, 2}
    if done.returncode not in expected:
        raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.returncode


def _prepare(kill: Kill, place: Path) -> None:
    """In the process of a command, before it begins."""
    start = _fork_children(kill, place)  # before any thread is there
    count_changes(kill, place, PARENT)
    from omniner.runs import children

    children.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
        Popen=start, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired, run=subprocess.run
    )


def count_changes(kill: Kill, place: Path, process: str) -> None:
    """In a process of a run: kill it before the change that is meant, once; else write down how many there are.

    A change is a line appended to a file of a run or of its tracking, or a new file taking the place of an old one.
    """
    appending = {
        "omniner.predicting.prediction_file",
        "omniner.guidance.teacher",
        "omniner.tasks.train",
        "omniner.tasks.trials",
    }
    assert not appending & sys.modules.keys(), "they would know `append_lines` as it is"
    from omniner import files
    from omniner.tracking import spool

    numbers, count, killed = itertools.count(1), place / COUNTS / process, place / KILLED
    count.parent.mkdir(exist_ok=True)

    def counting(change: Any) -> Any:
        def changed(*arguments: Any, **named: Any) -> Any:
            number = next(numbers)
            if (process, number) == kill and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if not kill.number:
                count.write_text(str(number), encoding="utf-8")
            return change(*arguments, **named)

        return changed

    files.append_lines = counting(files.append_lines)
    replace, counted = os.replace, counting(os.replace)

    def put_in_place(source: Any, target: Any, **named: Any) -> None:
        (counted if files.is_temporary(Path(source).name) else replace)(source, target, **named)

    os.replace = put_in_place  # type: ignore[assignment]
    spool.Spool._write = counting(spool.Spool._write)  # type: ignore[method-assign]


# Children. To start Python costs more than all that they do here; they are forked from a process that has the
# libraries, one at a time, in the way of `Popen`: with pipes, in sessions of their own, outliving whoever started them.


def _fork_children(kill: Kill, place: Path) -> Any:
    """Fork the process that forks children; return what starts one, as `Popen` does."""
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        _serve(theirs, kill, place)
    theirs.close()
    return partial(_Child, ours)


def _serve(asked: socket.socket, kill: Kill, place: Path) -> NoReturn:
    """Fork a child for each request, and say when it has ended, until the process that asks is gone."""
    while True:
        message, pipes, *_ = socket.recv_fds(asked, 1 << 20, 2)
        if not message:
            os._exit(0)
        if not (pid := os.fork()):
            asked.close()
            _be_child(json.loads(message), pipes, kill, place)
        for pipe in pipes:
            os.close(pipe)
        asked.sendall(f"{pid:<16}".encode())
        _, status = os.waitpid(pid, 0)
        asked.sendall(f"{os.waitstatus_to_exitcode(status):<16}".encode())


def _be_child(request: dict[str, Any], pipes: Sequence[int], kill: Kill, place: Path) -> NoReturn:
    """Be the command that is asked for: `python -m omniner.run --child <path>`."""
    status: Any = 1
    try:
        os.setsid()
        for number, pipe in zip((0, 2), pipes, strict=True):
            os.dup2(pipe, number)
            os.close(pipe)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["omniner.run", *request["command"][3:]]
        count_changes(kill, place, Path(sys.argv[-1]).stem)
        runpy.run_module("omniner.run", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


class _Child:
    """What `omniner.runs.children` uses of `Popen`."""

    def __init__(self, asked: socket.socket, command: Sequence[str], *, env: Mapping[str, str], **options: Any) -> None:
        self.returncode: int | None = None
        self._asked = asked
        child_in, stdin = os.pipe()
        stderr, child_err = os.pipe()
        request = json.dumps({"command": command, "environment": dict(env)}).encode()
        socket.send_fds(asked, [request], [child_in, child_err])
        for pipe in (child_in, child_err):
            os.close(pipe)
        self.stdin, self.stderr = os.fdopen(stdin, "wb"), os.fdopen(stderr, "rb")
        self.pid = int(asked.recv(16))

    def poll(self) -> int | None:
        """The exit status, once it has ended."""
        if self.returncode is None and select.select([self._asked], [], [], 0)[0]:
            self.returncode = int(self._asked.recv(16))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.returncode is None and not select.select([self._asked], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("child", timeout or 0)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, signum: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, signum)
