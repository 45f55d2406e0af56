"""Keep the records that runs have not delivered, so that any later run on the store can find and send them.

A run has a note in `<tracking.folder>/unsent/` from before its first record until its last one is delivered, so that
any later run on the store finds it, even if its process has died. A copy of a project has copies of the notes: only the
original sends the records, and the copy deletes its notes. The records are in the spool of the run's folder. If another
run starts over in that folder, the spool and the files that it names are archived in a subfolder first: an unsent spool
is never deleted.
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
ARCHIVE = "tracking_unsent"  # in a run's folder: spools of earlier runs, each in a subfolder
_LONG = 3600.0  # seconds after which a temporary file of a note is surely a leftover


def note(tracking: TrackingConfig, folder: Path) -> None:
    """Write a note that a run in this folder may have records to send."""
    of = {"folder": str(folder.resolve()), "notes": str(_notes_folder(tracking).resolve())}
    write_json(_note_path(tracking, folder), of)


def forget_note(tracking: TrackingConfig, folder: Path) -> None:
    """Remove the note of a folder whose own records are delivered, unless archived records in it still wait."""
    if not any((folder / ARCHIVE).glob("*")):
        with explaining(folder):
            _note_path(tracking, folder).unlink(missing_ok=True)


def noted(tracking: TrackingConfig) -> list[Path]:
    """Return the folders that have a note, in the order in which their runs began."""
    with contextlib.suppress(OSError):
        for path in _notes_folder(tracking).iterdir():
            if is_temporary(path.name) and time.time() - path.stat().st_mtime > _LONG:  # of a killed process
                path.unlink()
        notes = sorted(_notes_folder(tracking).glob("*.json"), key=lambda path: path.stat().st_mtime)
        return [Path(folder) for path in notes if (folder := _folder_of(path))]
    return []


def _folder_of(path: Path) -> str:
    """Return the folder that a note names; a damaged or copied note is deleted, and the result is empty."""
    try:
        said = read_json(path)
        folder, notes = str(said["folder"]), Path(said.get("notes", path.parent))
    except (UserError, KeyError, TypeError, AttributeError):
        folder, notes = "", path.parent
    copied = False
    with contextlib.suppress(OSError):  # a folder that we cannot read is not the original of our notes
        copied = notes.is_dir() and not notes.samefile(path.parent)
    if not folder or copied:
        path.unlink(missing_ok=True)
        return ""
    return folder


def _has_own_store(folder: Path, address: str, other: str) -> bool:
    """Whether another existing local store, `other`, has a note about this folder, so that its spool belongs there."""
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
    """Yield the folders of the spools in a run's folder: archived ones first, then its own."""
    for spool_folder in (*sorted((folder / ARCHIVE).glob("*")), folder):
        if (spool_folder / SPOOL).is_file():
            yield spool_folder


def is_pending(spool_folder: Path) -> bool:
    """Whether the spool in a folder has undelivered records, or its run has no final status."""
    spool = Spool(spool_folder / SPOOL)
    spool.close()
    return bool(spool.unsent) or not spool.ended


def archive_spool(folder: Path) -> None:
    """Archive an undelivered spool of a run's folder with its unsent files, so that a new run can use the folder."""
    path = folder / SPOOL
    if not path.is_file():
        return
    try:
        spool = Spool(path)
    except UserError as error:  # damaged: kept, so that somebody can repair it
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
        path.rename(spool_folder / SPOOL)  # last: after a kill before this line, nothing has changed


def send(store: Store, folder: Path, spool_folder: Path, status: Ending, wait: float) -> int:
    """Send the records of the spool in `spool_folder`, and end its run.

    Args:
        store: the store that receives them.
        folder: the run's folder.
        spool_folder: this folder, or a subfolder with an archived spool.
        status: final status of the run if the spool has none.
        wait: seconds that the store may fail.

    Returns:
        The number of records that are left.

    Raises:
        UserError: the spool is damaged, or its run is in another store.
    """
    spool = Spool(spool_folder / SPOOL)
    run = spool.run or store.find_unfinished(folder.resolve()) or ""
    there = bool(run) and store.has(run)
    # A store that has the run is the same store with another address (another name of a server, a moved project),
    # unless it is a copy of a store that still has a note about this folder.
    copied = _has_own_store(folder, store.address, spool.store)
    if copied or (not there and spool.store not in ("", store.address)):
        spool.close()
        fix = "Track to that store, or send to it with task=sync."
        raise UserError(spool_folder / SPOOL, f"run {run} is kept in {spool.store}, not in {store.address}", fix)
    if not there:  # killed before it was created, or deleted by a user: its records are not needed
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
    """Remove the copies of sent files, or the whole folder of an archived spool."""
    with contextlib.suppress(OSError):
        if spool_folder != folder:
            shutil.rmtree(spool_folder)
            (folder / ARCHIVE).rmdir()  # only if it is empty
        else:
            shutil.rmtree(folder / PENDING)
