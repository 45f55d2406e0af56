"""End runs, and send tracking records that runs left unsent; the next run on the store, task=sync or task=prune do so.

Unsent records are in the folders of their runs (`tracking.unsent`). A running process sends its own records, so only
folders without a process are examined, under their lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from omniner.config.groups import TrackingConfig
from omniner.errors import UserError
from omniner.files import explaining, try_lock, write_json
from omniner.runs.folder import FINISHED, LOCK, ROOT, STATE, SWEEP_STATE, UNSENT, RunFolder, read_state_file
from omniner.tracking import unsent
from omniner.tracking.store import open_store
from omniner.tracking.tracked_run import Ending, Run
from omniner.wording import counted

log = logging.getLogger("omniner")


def finish(run: Run, status: Ending, settings: TrackingConfig, folder: Path, save: Callable[..., None]) -> None:
    """End a tracked run, and save its final status in its folder.

    Args:
        run: the tracked run of a task or of a sweep.
        status: how it ends.
        settings: the settings of its store.
        folder: the run's folder.
        save: changes the saved state of this folder.
    """
    # The status is `finished` only after the store has it, too: if this process is killed before that, the process that
    # sends the rest ends the run.
    save(status=UNSENT if status == FINISHED else status)
    if run.finish(status):
        if run.id:  # without tracking, records of an earlier process may still be unsent
            unsent.forget_note(settings, folder)
        if status == FINISHED:
            save(status=FINISHED)


def deliver(run: RunFolder, settings: TrackingConfig) -> None:
    """Send what a finished run left unsent, and set its status to finished.

    Raises:
        UserError: the tracking store still fails.
    """
    log.info("the run in %s is finished: sending what its tracking store has not got", run.path)
    if left := _send_spools(settings, settings.wait, run.path, run.state):
        found = f"{counted(left, 'record')} of the run in {run.path} not sent: the tracking store fails"
        raise UserError("tracking", found, "Give the same command again, or task=sync, when it is back.")
    run.save(status=FINISHED)


def has_unsent(folder: Path) -> bool:
    """Whether a folder has unsent records and no running process, which would send them itself."""
    try:
        if (lock := try_lock(folder / LOCK)) is None:
            return False
        try:
            return any(map(unsent.is_pending, unsent.spool_folders(folder)))
        finally:
            lock.release()
    except UserError as error:  # the records cannot be read
        log.warning("%s", error)
        return True


def send_unsent(
    settings: TrackingConfig, wait: float, own: Path | None = None, further: Iterable[Path] = ()
) -> list[Path]:
    """Send what runs on this store have left unsent, and end runs whose process was killed.

    Args:
        settings: settings of the store, which must be reachable.
        wait: seconds that the store may fail, for each folder.
        own: folder of the run that begins in this process: only its archived records are sent, and all sending stops
            at the first failure of the store, so that the run does not wait.
        further: folders to examine beside the noted ones.

    Returns:
        The folders that still have unsent records.
    """
    left: list[Path] = []
    for folder in dict.fromkeys([*unsent.noted(settings), *further]):
        try:
            with explaining(folder):
                if own is not None and folder == own.resolve():
                    archived = [one for one in unsent.spool_folders(folder) if one != folder]
                    rest = _send_spools(settings, wait, folder, {}, archived) if archived else 0
                else:
                    rest = _close_run(settings, wait, folder)
        except UserError as error:  # another user's, or damaged: must not stop this run
            log.warning("%s", error)
            left.append(folder)
            continue
        if rest:
            left.append(folder)
            if own is not None:
                break
    return left


def _close_run(settings: TrackingConfig, wait: float, folder: Path) -> int:
    """Send the records in a run's folder; return how many are left. A folder with a running process counts as 0."""
    if not folder.is_dir():  # removed by hand, or on a disk that is not mounted
        log.warning(
            "%s, where tracking records may wait, is not there: no run looks for it any more. Once it is back, "
            "the command of its run sends them, or task=sync if it is in %s", folder, ROOT,
        )  # fmt: skip
        unsent.forget_note(settings, folder)
        return 0
    if (lock := try_lock(folder / LOCK)) is None:
        return 0
    try:
        file = next((folder / name for name in (SWEEP_STATE, STATE) if (folder / name).is_file()), None)
        state = read_state_file(file) if file else {}
        left = _send_spools(settings, wait, folder, state)
        if file and not left and state.get("status") == UNSENT:
            write_json(file, {**state, "status": FINISHED})
        return left
    finally:
        lock.release()


def _send_spools(
    settings: TrackingConfig, wait: float, folder: Path, state: dict[str, Any], chosen: Iterable[Path] | None = None
) -> int:
    """Send all spools in a folder, or the chosen ones; return how many records are left."""
    endings: dict[str, Ending] = {FINISHED: FINISHED, UNSENT: FINISHED, "failed": "failed"}
    ending = endings.get(state.get("status", ""), "killed")
    store, left = open_store(settings), 0
    for spool_folder in unsent.spool_folders(folder) if chosen is None else chosen:
        left += unsent.send(store, folder, spool_folder, ending if spool_folder == folder else "killed", wait)
        log.info("what waited in %s %s", spool_folder, "is not all sent" if left else "is sent")
    if not left:
        unsent.forget_note(settings, folder)
    return left
