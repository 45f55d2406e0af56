"""Kill a run at a chosen moment: just before the n-th change that it makes to the disk."""

from __future__ import annotations

import itertools
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e import warm
from tests.e2e.conftest import environment

COUNT = "changes"  # file that holds how many changes a whole run made


def count_changes(at: int, counted: Path) -> None:
    """In the process of a run: kill it before change number `at`; with 0 write down how many there are.

    A change is a line appended to a file of a run or of its tracking, or a new file taking the place of an old one.
    """
    from omniner import files
    from omniner.tasks import predict, train
    from omniner.tracking import spool

    numbers = itertools.count(1)

    def counting(change: Any) -> Any:
        def changed(*arguments: Any, **named: Any) -> Any:
            number = next(numbers)
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)
            if not at:
                counted.write_text(str(number), encoding="utf-8")
            return change(*arguments, **named)

        return changed

    appending = counting(files.append_lines)
    for module in (files, predict, train):
        module.append_lines = appending  # type: ignore[attr-defined]
    files._publish = counting(files._publish)
    spool.Spool._write = counting(spool.Spool._write)  # type: ignore[method-assign]


def run(arguments: list[str], cwd: Path, at: int) -> int:
    """Run a command to its end, or to its kill; the exit status, -9 where it was killed."""
    done = warm.run(arguments, cwd, environment(), 600, partial(count_changes, at, cwd / COUNT))
    if done.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.returncode
