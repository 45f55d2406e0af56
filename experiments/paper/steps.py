"""Commands that follow each other: printed, run, and not run again when they are done.

In go `Step`s, each a command line of OmniNER with the run folders that it makes and those that it reads. A step is done
when all its folders hold finished runs of exactly this configuration, none older than what it reads (as `make` has it).
A step that was interrupted goes on from where it was, as the same command always does.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omniner.config import compose, run_config
from omniner.runs.folder import STATE

MODELS_HELP = "choices of conf/model, with commas; CHOICE=PATH where its weights are in a folder of yours"


class Step(NamedTuple):
    """A command.

    Attributes:
        arguments: of `python -m omniner.run`.
        makes: each run folder that it makes, with the overrides of that run alone.
        reads: run folders that must be there before.
    """

    arguments: Sequence[str]
    makes: Sequence[tuple[Path, Sequence[str]]]
    reads: Sequence[Path] = ()


def single(folder: Path, overrides: Sequence[str], reads: Sequence[Path] = ()) -> Step:
    """A command that makes one run."""
    overrides = [*overrides, f"output_dir={folder}"]
    return Step(overrides, [(folder, overrides)], reads)


def chosen_models(named: str, further: Sequence[str]) -> dict[str, list[str]]:
    """The overrides that choose each model of `--models`; more than one share no `model.path`.

    Args:
        named: choices of conf/model with commas, `choice=PATH` where the weights are elsewhere than the choice says.
        further: overrides of all commands.
    """
    found = {}
    for choice, _, path in (one.partition("=") for one in named.split(",")):
        found[choice] = [f"model={choice}", *([f"model.path={path}"] if path else [])]
    if len(found) > 1 and any(one.startswith("model.path=") for one in further):
        sys.exit(
            "error: model.path would give all models the same weights. Name the folder of each: --models A=FOLDER,B"
        )
    return found


def side_by_side(jobs: int) -> list[str]:
    """Overrides of a sweep that runs so many of its children at a time."""
    return ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}"] if jobs > 1 else []


def done(step: Step) -> bool:
    """Whether its runs are there, finished, and newer than what they were made of."""
    newest = max((_changed(folder) for folder in step.reads), default=0.0)
    return all(_holds(folder, overrides, newest) for folder, overrides in step.makes)


def _holds(folder: Path, overrides: Sequence[str], newest: float) -> bool:
    path = folder / STATE
    if not path.is_file():
        return False
    state = json.loads(path.read_text(encoding="utf-8"))
    return bool(
        state["status"] == "finished"
        and state["digest"] == run_config.digest(compose.load(overrides))
        and state["started"] >= newest
    )


def _changed(folder: Path) -> float:
    """When a run said last how it stands; infinity where there is none, so that whatever reads it waits."""
    path = folder / STATE
    return path.stat().st_mtime if path.is_file() else float("inf")


def run(step: Step, accept: Sequence[int] = (0,)) -> int:
    """Print the command and run it, unless it is done; gives its exit status.

    Args:
        step: the command.
        accept: statuses that do not end this program.
    """
    print(f"\n$ python -m omniner.run {shlex.join(step.arguments)}", flush=True)
    if done(step):
        print(f"(done: {', '.join(str(folder) for folder, _ in step.makes)})", flush=True)
        return 0
    process = subprocess.Popen([sys.executable, "-m", "omniner.run", *step.arguments])
    try:
        status = process.wait()
    except BaseException:  # Ctrl-C reaches both; a kill of this program alone must reach the run, too
        process.terminate()
        process.wait()
        raise
    if status not in accept:
        sys.exit(status if status > 0 else 128 - status)
    return status


def stop_politely() -> None:
    """Let SIGTERM end this program as Ctrl-C does: the run under way stops resumable."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def plain_path(text: str) -> Path:
    """A folder whose name needs no quoting in an override."""
    if not re.fullmatch(r"[\w./-]+", text):
        raise ValueError(f"{text!r}: letters, digits, and . _ - / only")
    return Path(text)
