"""Commands without the start of Python: a process that has loaded the libraries forks for each of them.

Loading torch, Lightning and MLflow costs 7 s of CPU time, more than most commands of the tests. What is forked is
`python -m omniner.run` from its first line on, in a process of its own, with its own directory, environment and output.
None of our modules is loaded before. What differs from a start: all commands have one hash seed, so that whoever
compares two runs starts one of them anew; the tables of a new MLflow store are copied; and `atexit` does nothing,
which joblib needs to end its workers.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.e2e.preloaded"])


def run(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    seconds: float,
    prepare: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`python -m omniner.run` with these arguments, to its end; `prepare` is called in its process before it begins."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _FORKING.Process(target=_command, args=(list(arguments), cwd, dict(environment), said, prepare))
        process.start()
        process.join(seconds)
        if (status := process.exitcode) is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(arguments), seconds)
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in said)
    return subprocess.CompletedProcess(list(arguments), status, out, err)


def _command(
    arguments: list[str], cwd: Path, environment: dict[str, str], said: list[Path], prepare: Callable[[], None] | None
) -> None:
    """Take over directory, environment, arguments and streams of the command, and be it."""
    import runpy

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["omniner.run", *arguments]
    sys.path[0] = str(cwd)
    for number, path in enumerate(said, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    if prepare is not None:
        prepare()
    runpy.run_module("omniner.run", run_name="__main__", alter_sys=True)
