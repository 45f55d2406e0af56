"""A program that is called as Python is, for what a command of the tests starts by `sys.executable`.

It asks the process that forks commands (`warm`) for the same command, hands its streams over, passes signals on, and
ends as the command does. What is not known to bear a fork is left to Python itself. It starts in 20 ms, for it loads
nothing but some of Python's own modules.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

FORKED = (["omniner.run"], ["mlflow", "gc"], ["torch.distributed.run"], ["submitit.core._submit"])
_NUMBER = 16  # characters of one


def address(python: str) -> str:
    """The socket at which commands are asked for; it lies beside this program."""
    return f"{os.path.dirname(python)}/socket"  # noqa: PTH120  (pathlib takes as long to load as all the rest)


def ask(
    python: str,
    module: str,
    arguments: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    streams: Sequence[int],
    session: bool,
    prepare: str = "",
) -> socket.socket:
    """Ask for `python -m <module>`, which may use the same cores as this process.

    Args:
        python: this program.
        module: to run.
        arguments: of the command.
        cwd: its directory.
        environment: all of it.
        streams: standard input, output and error.
        session: whether it has a session, and so a group of processes, of its own.
        prepare: a pickled function to call before, in hexadecimal; "" = none.

    Returns:
        Where its process id, and at last its exit status, can be read; when it is closed, the command is killed.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    request = {"module": module, "arguments": list(arguments), "cwd": cwd, "environment": dict(environment)}
    content = json.dumps({**request, "cores": cores, "session": session, "prepare": prepare}).encode()
    asked = socket.socket(socket.AF_UNIX)
    asked.connect(address(python))
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))
    asked.sendmsg([f"{len(content):<{_NUMBER}}".encode()], [rights])
    asked.sendall(content)
    return asked


def read_request(asked: socket.socket) -> tuple[dict[str, object], list[int]]:
    """What `ask` asks for, and the streams."""
    size, streams, *_ = socket.recv_fds(asked, _NUMBER, 3)
    return json.loads(asked.recv(int(size), socket.MSG_WAITALL)), streams


def write_number(asked: socket.socket, number: int) -> None:
    """Tell a process id or an exit status."""
    asked.sendall(f"{number:<{_NUMBER}}".encode())


def read_number(asked: socket.socket) -> int:
    """What `write_number` tells."""
    return int(asked.recv(_NUMBER, socket.MSG_WAITALL))


def main() -> None:
    """Be the command that the arguments are."""
    arguments = sys.argv[1:]
    words = arguments[1:] if arguments[:1] == ["-u"] else arguments
    if not (words[:1] == ["-m"] and any(words[1 : 1 + len(known)] == known for known in FORKED)):
        os.execv(sys.executable, [sys.executable, *arguments])
    early: list[int] = []
    for passed in (signal.SIGINT, signal.SIGTERM):
        signal.signal(passed, lambda number, frame: early.append(number))
    leads = os.getsid(0) == os.getpid()
    asked = ask(__file__, words[1], words[2:], os.getcwd(), os.environ, (0, 1, 2), leads)  # noqa: PTH109
    pid = read_number(asked)
    for passed in (signal.SIGINT, signal.SIGTERM):
        signal.signal(passed, lambda number, frame: os.kill(pid, number))
    for number in early:
        os.kill(pid, number)
    status = read_number(asked)
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
