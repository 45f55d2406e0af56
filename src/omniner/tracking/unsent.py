"""What runs have not delivered: it is kept, known to all runs on the store, and sent by the next one that can.

A run is noted in `<tracking.folder>/unsent/` before its first record and until its last one is delivered, so that any
later run on the store finds it, whatever became of its process. A copy of a project holds copies of the notes: the
original sends those runs, and the copy forgets them. What waits stands in the spool of the run's folder.
Where another run starts over in that folder, the spool and the files that it names are archived first, in a folder
inside: an unsent spool is never deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from omniner.config.groups import TrackingConfig
from omniner.errors import UserError
from omniner.files import explaining, is_temporary, read_json, write_json
from omniner.tracking.spool import SPOOL, Sender, Spool
from omniner.tracking.store import LOCAL, Store
from omniner.tracking.tracked_run import PENDING, SECONDS_TO_FINISH, Ending

log = logging.getLogger("omniner.tracking")

NOTES = "unsent"  # in the folder of the store
ARCHIVE = "tracking_unsent"  # in a run's folder: spools of runs that were there before, each in a folder of its own
_LONG = 3600.0  # seconds that nobody takes to write a note


def note(tracking: TrackingConfig, folder: Path) -> None:
    """Note that a run in this folder may have records to send."""
    of = {"folder": str(folder.resolve()), "notes": str(_notes_folder(tracking).resolve())}
    write_json(_note_path(tracking, folder), of)


def forget_note(tracking: TrackingConfig, folder: Path) -> None:
    """Remove the note of a folder whose own records are delivered, unless some that were archived in it still wait."""
    if not any((folder / ARCHIVE).glob("*")):
        with explaining(folder):
            _note_path(tracking, folder).unlink(missing_ok=True)


def noted(tracking: TrackingConfig) -> list[Path]:
    """Return the folders that are noted, in the order in which their runs began."""
    with contextlib.suppress(OSError):
        for path in _notes_folder(tracking).iterdir():
            if is_temporary(path.name) and time.time() - path.stat().st_mtime > _LONG:  # of a killed process
                path.unlink()
        notes = sorted(_notes_folder(tracking).glob("*.json"), key=lambda path: path.stat().st_mtime)
        return [Path(folder) for path in notes if (folder := _folder_of(path))]
    return []


def _folder_of(path: Path) -> str:
    """The folder that a note names; a damaged note names none, nor does the copy of one, and both go."""
    try:
        said = read_json(path)
        folder, notes = str(said["folder"]), Path(said.get("notes", path.parent))
    except (UserError, KeyError, TypeError, AttributeError):
        folder, notes = "", path.parent
    copied = False
    with contextlib.suppress(OSError):  # what somebody else hides is not the original of ours
        copied = notes.is_dir() and not notes.samefile(path.parent)
    if not folder or copied:
        path.unlink(missing_ok=True)
        return ""
    return folder


def _has_own_store(folder: Path, address: str, other: str) -> bool:
    """Whether the spool of a folder belongs to the local store `other`, which is there, not this one, and notes it."""
    database, ours = (Path(one.removeprefix(LOCAL)) for one in (other, address))
    if not other.startswith(LOCAL) or not database.is_file() or (ours.is_file() and ours.samefile(database)):
        return False
    return (database.parent / NOTES / _note_name(folder)).is_file()


def _notes_folder(tracking: TrackingConfig) -> Path:
    return Path(tracking.folder) / NOTES


def _note_path(tracking: TrackingConfig, folder: Path) -> Path:
    return _notes_folder(tracking) / _note_name(folder)


def _note_name(folder: Path) -> str:
    return f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.json"


def spool_folders(folder: Path) -> Iterator[Path]:
    """Give the folders of the spools in a run's folder: those that were archived, and its own."""
    for spool_folder in (*sorted((folder / ARCHIVE).glob("*")), folder):
        if (spool_folder / SPOOL).is_file():
            yield spool_folder


def is_pending(spool_folder: Path) -> bool:
    """Whether the spool in a folder holds what is not delivered, or its run has not come to its end."""
    spool = Spool(spool_folder / SPOOL)
    spool.close()
    return bool(spool.unsent) or not spool.ended


def archive_spool(folder: Path) -> None:
    """Move the spool of a run's folder, and what it is to send, out of a new run's way; not if all is delivered."""
    path = folder / SPOOL
    if not path.is_file():
        return
    try:
        spool = Spool(path)
    except UserError as error:  # damaged: kept for whoever can mend it
        log.warning("%s; it is kept in %s", error, folder / ARCHIVE)
        run, files = "damaged", []
    else:
        spool.close()
        if not spool.run or (spool.ended and not spool.unsent):
            return
        waiting = [record for record in spool.earlier if record.seq > spool.sent and record.kind == "artifact"]
        run, files = spool.run, [str(record.body["path"]) for record in waiting]
    spool_folder, number = folder / ARCHIVE / run, 1
    while (spool_folder / SPOOL).exists():
        number += 1
        spool_folder = spool_folder.with_name(f"{run}-{number}")
    with explaining(spool_folder):
        spool_folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            if (folder / name).is_file():
                (spool_folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, spool_folder / name)
        path.rename(spool_folder / SPOOL)  # last: a kill before it leaves all as it was


def send(store: Store, folder: Path, spool_folder: Path, status: Ending, wait: float) -> int:
    """Send what the spool in `spool_folder` holds, and end its run.

    Args:
        store: where to.
        folder: of the run.
        spool_folder: this folder, or one in it where a spool was archived.
        status: how the run ends where the spool does not say so.
        wait: seconds that the store may fail.

    Returns:
        How many records are left.

    Raises:
        UserError: the spool is damaged, or its run is in another store.
    """
    spool = Spool(spool_folder / SPOOL)
    run = spool.run or store.find_unfinished(folder.resolve()) or ""
    there = bool(run) and store.has(run)
    # A store that has the run is the same one by another address (a server's other name, a project that was moved),
    # unless it is a copy of one that still cares for this folder.
    copied = _has_own_store(folder, store.address, spool.store)
    if copied or (not there and spool.store not in ("", store.address)):
        spool.close()
        fix = "Track to that store, or send to it with task=sync."
        raise UserError(spool_folder / SPOOL, f"run {run} is kept in {spool.store}, not in {store.address}", fix)
    if not there:  # killed before it began, or deleted by somebody: nobody waits for it
        spool.close()
        if run:
            log.warning("run %s of %s is not in the tracking store any more: nothing is sent of it", run, folder)
        drop(folder, spool_folder)
        return 0
    spool.begin(run, store.address)
    if not spool.ended:
        spool.add_status(status)
    sender = Sender(spool, lambda run, records: store.deliver(spool_folder, run, records))
    left = sender.close(wait, max(wait, SECONDS_TO_FINISH["finished"]))
    if not left:
        drop(folder, spool_folder)
    return left


def drop(folder: Path, spool_folder: Path) -> None:
    """Remove the copies of what was sent, and all of a spool that had been archived."""
    with contextlib.suppress(OSError):
        if spool_folder != folder:
            shutil.rmtree(spool_folder)
            (folder / ARCHIVE).rmdir()  # only if it is empty
        else:
            shutil.rmtree(folder / PENDING)
