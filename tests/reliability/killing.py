"""Kill a run at a chosen moment: just before the n-th change that it, or one of its children, makes to the disk."""

from __future__ import annotations

import itertools
import json
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e import warm
from tests.e2e.conftest import environment

COUNTS = "changes"  # folder that holds how many changes each process of a whole run made, in a file called after it
KILLED = "killed"  # file that says that the kill has happened
PARENT = "parent"  # the process that a command starts; its children are called as their run calls them
ROOT = Path(__file__).parents[2]


class Kill(NamedTuple):
    """The process that is killed, and before which of its changes; number 0 = nobody is, and all are counted."""

    process: str = ""
    number: int = 0


def count_changes(kill: Kill, place: Path, process: str = PARENT) -> None:
    """In a process of a run: kill it before the change that is meant, once; else write down how many there are.

    A change is a line appended to a file of a run or of its tracking, or a new file taking the place of an old one.
    """
    from omniner import files
    from omniner.guidance import teacher
    from omniner.tasks import predict, train
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

    appending = counting(files.append_lines)
    for module in (files, predict, train, teacher):
        module.append_lines = appending  # type: ignore[attr-defined]
    files._publish = counting(files._publish)
    spool.Spool._write = counting(spool.Spool._write)  # type: ignore[method-assign]
    _count_in_children(kill, place)


def _count_in_children(kill: Kill, place: Path) -> None:
    """Make the children of this process count their changes, too."""
    from omniner.runs import children

    start = children.run_process

    def started(command: Sequence[str], around: Mapping[str, str], *arguments: Any) -> str:
        [*_, path] = command
        here = [sys.executable, "-m", __name__, json.dumps([*kill, str(place), Path(path).stem]), "--child", path]
        return start(here, {**around, "PYTHONPATH": str(ROOT)}, *arguments)

    children.run_process = started


def run(arguments: list[str], cwd: Path, kill: Kill) -> int:
    """Run a command to its end, or to its kill; the exit status, -9 where it was killed itself."""
    done = warm.run(arguments, cwd, environment(), 600, partial(count_changes, kill, cwd))
    expected = {0} if not kill.number else {0, -signal.SIGKILL} if kill.process == PARENT else {0, 1, 2}
    if done.returncode not in expected:
        raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.returncode


def main() -> None:
    """The command line of a child: what is counted or killed, then the child's own arguments."""
    process, number, place, name = json.loads(sys.argv[1])
    sys.argv[:2] = ["omniner.run"]
    count_changes(Kill(process, number), Path(place), name)
    runpy.run_module("omniner.run", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
