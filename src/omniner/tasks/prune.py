"""`task=prune`: remove failed and killed runs, their folders and their records in the tracking store.

It looks at the run folders in `outputs`, shows what it would remove, and asks; without a terminal, set
`prune.ask=false`. These runs stay: a run whose process is alive, one with records that cannot be sent, one that is
tracked in another store than that of `tracking`, and one whose model is registered. The reason is logged for all but
the first. Children of a search or a filter are removed with their parent; sweeps stay, because the same command
continues them. Records are deleted first, then the folders, and last what a local store still holds of the deleted
runs. The same command finishes an interrupted prune except for that last step; use `mlflow gc` for it, as on a server.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from omniner.config import run_config
from omniner.config.groups import Config
from omniner.errors import UserError
from omniner.files import explaining, try_lock
from omniner.progress import show
from omniner.runs.context import TASKS, Context, Task
from omniner.runs.delivery import has_unsent, send_unsent
from omniner.runs.folder import BOOKKEEPING, FINISHED, LOCK, ROOT, STATE, read_state, recover_after_kill
from omniner.tracking.store import Store, open_store

log = logging.getLogger("omniner")


class Leftover(NamedTuple):
    """A run to remove; `run_id` is empty if it was not tracked, `started` is in seconds since 1970."""

    folder: Path
    status: str
    run_id: str
    started: float


def run(context: Context) -> None:
    """Find the runs, show them, ask, and remove them."""
    config = context.config
    store = None if config.tracking.kind == "off" else open_store(config.tracking)
    found = list(_leftovers(config))
    waiting = [one.folder for one in found]
    if store is not None:  # sends what can be sent; records of a deleted run are dropped
        waiting = send_unsent(config.tracking, config.tracking.wait, further=waiting)
    unsent = {folder.resolve() for folder in waiting if has_unsent(folder)}
    found = [one for one in found if not _has_to_stay(one, one.folder.resolve() in unsent, store)]
    if not found:
        show(f"no run in {ROOT} is {_wanted(config)} and can go: nothing is removed")
        return
    sizes = [_size(one.folder) for one in found]
    for one, size in zip(found, sizes, strict=True):
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.started))
        show(f"{one.status:<9} {day}  {size / 1e6:9,.1f} MB  {one.folder}")
    total = f"{len(found)} run{'s' if len(found) > 1 else ''}, {sum(sizes) / 1e6:,.1f} MB"
    if config.prune.ask and not _agreed(f"Remove {total}, for good? [y/N] "):
        show("nothing is removed")
        return
    show(f"removed {_remove(found, config, store)} of {total}")


def _leftovers(config: Config) -> Iterator[Leftover]:
    """Yield the runs that the configuration names and that no process uses, the oldest first."""
    folders = [file.parent for file in ROOT.glob(f"*/{STATE}") if not file.parent.is_symlink()]
    found = [one for folder in folders if (one := _leftover(folder, config)) is not None]
    for one in sorted(found, key=lambda one: (one.started, one.folder)):
        if (lock := try_lock(one.folder / LOCK)) is not None:
            recover_after_kill(one.folder)  # restores a finished run that a killed one was going to replace
            lock.release()
            if _leftover(one.folder, config) == one:
                yield one


def _leftover(folder: Path, config: Config) -> Leftover | None:
    """Read the state of the run in a folder; return None if it is not to be removed."""
    try:
        state = read_state(folder)
        status = "killed" if state.get("status") == "running" else state.get("status", "")
        named = status in config.prune.status or (config.prune.unnamed and status == FINISHED and _is_unnamed(folder))
    except UserError as error:
        log.warning("left alone: %s", error)
        return None
    return Leftover(folder, status, state.get("run_id", ""), state.get("started", 0.0)) if named else None


def _is_unnamed(folder: Path) -> bool:
    """Whether a run has the name that runs get by default."""
    settings = run_config.read_unchecked(folder / "config.yaml")
    return settings.name == TASKS[settings.task.name].run_name(settings)


def _has_to_stay(one: Leftover, is_unsent: bool, store: Store | None) -> bool:
    """Whether removing a run would lose something or leave something behind; the reason is logged."""
    reason = ""
    if is_unsent:
        reason = "not all of its records are sent; task=sync sends them"
    elif one.run_id and (store is None or not store.stage(one.run_id)):
        reason = "its record is not in this tracking store; choose the tracking it was made with"
    elif one.run_id and store is not None:
        runs = [*(child.id for child in store.children(one.run_id, deleted=True)), one.run_id]
        if names := sorted({name for run in runs for name in store.registered_models(run)}):
            reason = f"its model is registered as {', '.join(names)}"
    if reason:
        log.info("left alone: %s (%s)", one.folder, reason)
    return bool(reason)


def _size(folder: Path) -> int:
    with explaining(folder):
        return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def _wanted(config: Config) -> str:
    kinds = [*config.prune.status, *(["finished without a name of its own"] if config.prune.unnamed else [])]
    return " or ".join(kinds)


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("prune.ask", "nobody can be asked here", "Look at the list above; prune.ask=false removes it.")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _remove(found: Sequence[Leftover], config: Config, store: Store | None) -> int:
    """Remove the runs, except those that were resumed since they were listed; return how many were removed."""
    records: list[str] = []
    with contextlib.ExitStack() as locks:
        mine = []
        for one in found:
            lock = try_lock(one.folder / LOCK)
            if lock is not None:
                locks.callback(lock.release)
            if lock is None or _leftover(one.folder, config) != one:
                log.warning("left alone: %s (it was taken up again)", one.folder)
            else:
                mine.append(one)
        if store is not None:
            records = [run for one in mine if one.run_id for run in _delete_records(one.run_id, store)]
        for one in mine:
            _remove_folder(one.folder)
    if store is not None and config.tracking.kind == "local":
        store.remove(records)
    return len(mine)


def _delete_records(parent: str, store: Store) -> list[str]:
    """Delete the records of a run and its children that are not deleted yet; return the ids of all of them."""
    runs = [*(child.id for child in store.children(parent, deleted=True)), parent]
    for run in runs:
        if store.stage(run) == "active":
            store.delete(run)
    return runs


def _remove_folder(folder: Path) -> None:
    """Remove a folder, and in it the files that identify the run last, so that an interrupted removal can continue."""
    with explaining(folder):
        for path in folder.iterdir():
            if path.name in BOOKKEEPING:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.rmtree(folder)


def _check(config: Config) -> None:
    if not config.prune.status and not config.prune.unnamed:
        raise UserError("prune.status", "no kind of run is named", "Name failed or killed, or set prune.unnamed=true.")


TASK = Task(
    name="prune",
    description=__doc__,
    run=run,
    label=lambda config: ["prune"],
    check=_check,
    has_own_run=False,
)
