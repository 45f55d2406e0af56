"""`task=prune`: remove runs that came to nothing, their folders and what the tracking store has of them.

It looks at the run folders in `outputs`, shows what it would remove, and asks; without a terminal to ask at,
`prune.ask=false` is the answer. What is needed stays: a run whose process lives, one with unsent records, and one whose
model is registered. Children of a search or a filter go with their parent; sweeps are left alone, since the same
command goes on with them. The files of a local store are removed for good; a server marks the runs as deleted, and its
owner's `mlflow gc` frees the space.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from omniner.config import compose
from omniner.config.groups import Config, TrackingConfig
from omniner.errors import UserError
from omniner.files import try_lock
from omniner.registry import TASKS
from omniner.runs.context import Context, Task
from omniner.runs.folder import FINISHED, LOCK, ROOT, STATE, UNSENT, read_state
from omniner.tracking import child_runs
from omniner.tracking.store import Store, open_store

log = logging.getLogger("omniner")


class Leftover(NamedTuple):
    """A run to remove."""

    folder: Path
    status: str
    run_id: str
    started: float
    size: int


def run(context: Context) -> None:
    """Find the runs, show them, ask, and remove them one after the other."""
    config = context.config
    store = None if config.tracking.kind == "off" else open_store(config.tracking)
    found = [one for one in _leftovers(config) if store is None or not _is_registered(store, one)]
    if not found:
        print(f"no run in {ROOT} is {_wanted(config)}: nothing to remove")
        return
    for one in found:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.started))
        print(f"{one.status:<9} {day}  {one.size / 1e6:9,.1f} MB  {one.folder}")
    total = f"{len(found)} run{'s' if len(found) > 1 else ''}, {sum(one.size for one in found) / 1e6:,.1f} MB"
    if config.prune.ask and not _agreed(f"Remove these {total}, for good? [y/N] "):
        print("nothing is removed")
        return
    deleted: list[str] = []  # runs of the store
    removed = [one for one in found if _remove(one, config.tracking, store, deleted)]
    if store is not None and deleted and config.tracking.kind == "local":
        store.remove(deleted)
    print(f"removed {len(removed)} of {total}")


def _leftovers(config: Config) -> Iterator[Leftover]:
    """Find the folders of the runs that the configuration names, the oldest first."""
    states = []
    for file in ROOT.glob(f"*/{STATE}"):
        try:
            states.append((file.parent, read_state(file.parent)))
        except UserError as error:
            log.warning("left alone: %s", error)
    for folder, state in sorted(states, key=lambda one: one[1].get("started", 0.0)):
        status = "killed" if state.get("status") == "running" else state.get("status", "")
        named = status in config.prune.status or (config.prune.unnamed and status == FINISHED and _is_unnamed(folder))
        if status == UNSENT or not named:
            continue
        if (lock := try_lock(folder / LOCK)) is None:
            continue  # its process lives
        lock.release()
        size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
        yield Leftover(folder, status, state.get("run_id", ""), state.get("started", 0.0), size)


def _is_unnamed(folder: Path) -> bool:
    """Whether a run goes by the name that it gets where it is given none."""
    settings = compose.read(folder / "config.yaml")
    return bool(settings.name == TASKS[settings.task.name].run_name(settings))


def _is_registered(store: Store, one: Leftover) -> bool:
    names = store.registered_models(one.run_id) if one.run_id else []
    if names:
        log.info("left alone: the model of %s is registered as %s", one.folder, ", ".join(names))
    return bool(names)


def _wanted(config: Config) -> str:
    kinds = [*config.prune.status, *(["finished without a name of its own"] if config.prune.unnamed else [])]
    return " or ".join(kinds)


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("prune.ask", "nobody can be asked here", "Look at the list above; prune.ask=false removes it.")
    return input(question).strip().lower() in ("y", "yes")


def _remove(one: Leftover, tracking: TrackingConfig, store: Store | None, deleted: list[str]) -> bool:
    """Remove a run unless it was taken up meanwhile: first from the store, so that what fails can be repeated."""
    lock = try_lock(one.folder / LOCK)
    if lock is None:
        log.warning("%s is in use now: left alone", one.folder)
        return False
    try:
        if store is not None and one.run_id and store.has(one.run_id):
            for run_id in [*(child.id for child in child_runs(tracking, one.run_id)), one.run_id]:
                store.delete(run_id)
                deleted.append(run_id)
        shutil.rmtree(one.folder)
    finally:
        lock.release()
    return True


def _check(config: Config) -> None:
    if not config.prune.status and not config.prune.unnamed:
        raise UserError("prune.status", "no kind of run is named", "Name failed or killed, or set prune.unnamed=true.")


TASK = Task(
    name="prune",
    description=__doc__,
    run=run,
    label=lambda config: ["prune"],
    check=_check,
    for_other_runs=True,
)
