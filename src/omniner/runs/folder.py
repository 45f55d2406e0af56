"""One folder per run: how it is named, found again after a kill, locked while in use, and what state it is in.

`claim_folder` gives a run its folder. The same configuration (by `run_config.digest`) whose last run did not finish
takes that run's folder and MLflow run over and goes on; a finished one is left alone and a new folder is made. A lock
held for the life of the process keeps two runs out of one folder, and tells a killed run (lock free, state "running")
from a living one. `run_state.json` is the only thing that decides; it is replaced whole on every change. Where a named
folder holds an earlier run, what that left is kept until the new one has come to something.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from omniner.config import run_config
from omniner.config.groups import Config
from omniner.config.run_config import NOT_IDENTITY
from omniner.errors import UserError
from omniner.files import explaining, is_temporary, make_folder, read_json, try_lock, write_json, write_text
from omniner.registry import TASKS
from omniner.tracking import unsent
from omniner.tracking.spool import SPOOL
from omniner.tracking.tracked_run import PENDING
from omniner.wording import first_of, shortened

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger("omniner")

STATE = "run_state.json"
FINISHED: Final = "finished"
UNSENT = "finished, unsent"  # its results are there, and the tracking store has not got everything
SWEEP_STATE = "sweep.json"  # in the folder of a sweep, which is no run's: what `STATE` is to a run
METRICS = "metrics.json"  # the last value of what runs are compared by
ROOT = Path("outputs")
LOCK = ".lock"
SCORES = "scores.json"  # of a scored run
PREDICTIONS, GOLD = "predictions.jsonl", "gold.jsonl"  # of a run that predicted
TRAINED_ON = "checkpoints/trained_on.json"  # content of train and dev
GUIDANCE_COPY = "prompt_guidance.json"  # another run's guidance, of which this run's prompt is made
ALWAYS_WRITTEN = ("issues.jsonl", METRICS, SPOOL, PENDING)  # by every task
WRITTEN = "written.json"  # what the run wrote elsewhere (`omniner.runs.outputs`)
_IDENTITY = (STATE, "config.yaml")  # which run it is
BOOKKEEPING = (*_IDENTITY, LOCK)
# The backup of what an earlier run in the folder left, until a new one has come to something. The name says how far
# that is: in the first some of it may lie, in the second all of it, and what is in the third nobody needs. Each step is
# one rename, so that a kill at any moment loses nothing.
MOVING, REPLACED, GONE = ".replacing", ".replaced", ".removing"
_NAMED = 3  # keys named in an error
_SHOWN = 40  # characters of the value of each
_CHOICE_KEYS = ("name", "kind")  # of a section: they say which choice it is
_NOTHING: tuple[object, ...] = (None, "", [], {})  # values that say the same
_KINDS: dict[str, type | tuple[type, ...]] = {  # of the values in `STATE` and `SWEEP_STATE`
    "digest": str,
    "status": str,
    "task": str,
    "run_id": str,
    "read": str,  # what the last attempt found in inputs (`Task.content_read`)
    "started": (int, float),
}


@dataclasses.dataclass
class RunFolder:
    """A claimed folder: `resumed` says whether it holds an unfinished run of the same configuration."""

    path: Path
    resumed: bool
    state: dict[str, Any]
    lock: BaseFileLock

    def save(self, **changes: Any) -> None:
        """Change the state on disk, whole or not at all."""
        self.state.update(changes)
        write_json(self.path / STATE, self.state)

    @property
    def holds_work(self) -> bool:
        """Whether something was done that the same command can go on from."""
        return _holds_work(self.path, self.state)

    def discard(self) -> None:
        """Take back what a run that could not even begin has written: its own files, and the folder if that is all."""
        if (self.path / REPLACED).is_dir():
            _restore_backup(self.path, self.state)
            return
        _clear(self.path, self.state["task"])
        for name in (*BOOKKEEPING, WRITTEN):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: it was there before, with files of somebody else
            self.path.rmdir()

    def drop_backup(self) -> None:
        """Let the run stand: what it replaces is removed."""
        _drop_backup(self.path)

    def close(self) -> None:
        """Let go of the folder."""
        self.lock.release()


def claim_folder(config: Config) -> RunFolder:
    """Find or make the folder of this run and lock it.

    Raises `UserError` where the folder is in use, cannot be written, or holds an unfinished run of another
    configuration.
    """
    digest = run_config.digest(config)
    if config.resume not in ("auto", "never"):
        return _claim_unfinished(Path(config.resume), digest, config)
    if config.output_dir:
        return _claim_named(Path(config.output_dir), digest, config)
    if config.resume == "auto":
        for folder in _unfinished(config, digest):
            if (lock := try_lock(folder / LOCK)) is not None:
                if (run := _resume(folder, lock, digest, config)) is not None:
                    return run
                lock.release()
    return _claim_named(_new_path(config.name), digest, config)


def _new_path(name: str) -> Path:
    """Make a folder that no other process has: several of the same name may start in the same second."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    make_folder(ROOT)
    path, number = ROOT / stem, 1
    while True:
        with explaining(path), contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
        number += 1
        path = ROOT / f"{stem}-{number}"


def _unfinished(config: Config, digest: str) -> list[Path]:
    """Folders of unfinished runs of this configuration, the newest first."""
    found = []
    for state_file in ROOT.glob(f"{glob.escape(config.name)}-*/{STATE}"):
        state = read_state(state_file.parent)
        if _is_unfinished(state, digest, config):
            found.append((state.get("started", 0.0), state_file.parent))
    return [folder for _, folder in sorted(found, reverse=True)]


def _is_unfinished(state: dict[str, Any], digest: str, config: Config) -> bool:
    """Whether a run of this configuration has something left to do: its work, or the sending of what it tracked.

    Results of inputs that are others now are sent with the next run that sends; this configuration has new ones.
    """
    status = state.get("status")
    if state.get("digest") != digest or status == FINISHED:
        return False
    same = state.get("read", "") == TASKS[config.task.name].content_read(config)
    return status != UNSENT or (same and config.tracking.kind != "off")


def _resume(path: Path, lock: BaseFileLock, digest: str, config: Config) -> RunFolder | None:
    """Go on with the run in a locked folder; None where that is no unfinished one of this configuration."""
    recover_after_kill(path)
    if config.resume == "never":
        return None
    state = read_state(path)
    if not _is_unfinished(state, digest, config):
        return None
    remove_temporary_files(path)
    return RunFolder(path, True, state, lock)


def _claim_named(path: Path, digest: str, config: Config) -> RunFolder:
    """Claim this folder: to go on with an unfinished run of the configuration, else for a new run."""
    make_folder(path)
    lock = try_lock(path / LOCK)
    if lock is None:
        raise UserError("output_dir", f"{path} is in use by another run", "Wait for it or choose another folder.")
    try:
        if (run := _resume(path, lock, digest, config)) is not None:
            return run
        old = _state_to_replace(path, config)
        _check_replacing(path, old, digest, config)
    except UserError:
        lock.release()
        raise
    remove_temporary_files(path)
    if old or config.overwrite:
        unsent.archive_spool(path)
        tasks = {old.get("task", config.task.name), *([config.task.name] if config.overwrite else [])}
        names = {name for task in tasks for name in outputs_of(task)}
        back_up_outputs(path, sorted(names))
    state = {"digest": digest, "status": "running", "started": time.time(), "task": config.task.name}
    folder = RunFolder(path, False, state, lock)
    write_text(path / "config.yaml", run_config.to_yaml(config))
    folder.save()  # last: a folder with a state is gone on with, and must have the configuration
    return folder


def _state_to_replace(path: Path, config: Config) -> dict[str, Any]:
    """The state of the run in a folder; one that is damaged is that of an unknown run where a run starts over."""
    try:
        return read_state(path)
    except UserError:
        if config.resume != "never":
            raise
        return {"status": "damaged"}


def _check_replacing(path: Path, old: dict[str, Any], digest: str, config: Config) -> None:
    """Raise a `UserError` where a new run in this folder would replace what another command made."""
    if config.overwrite or old.get("digest") == digest:
        return
    if not old:
        names = {*TASKS[config.task.name].outputs, *ALWAYS_WRITTEN}
        if there := sorted(name for name in names if (path / name).exists()):
            fix = "Choose another folder, or set overwrite=true to replace it."
            raise UserError("output_dir", f"{path} holds {there[0]}, which this run would replace", fix)
    elif old.get("status") in (FINISHED, UNSENT):
        fix = "Choose another folder, or set overwrite=true to replace it."
        raise UserError("output_dir", f"{path} holds the run of another command (task={old.get('task')})", fix)
    elif config.resume != "never":
        fix = "Choose another folder, or resume=never to start over in this one."
        found = f"{path} holds an unfinished run of another configuration{_what_differs(path, config)}"
        raise UserError("output_dir", found, fix)


def _what_differs(path: Path, config: Config) -> str:
    """Name the keys in which a configuration differs from that of a folder's run; nothing where that cannot be read.

    Choices (`model.name`, `head.kind`) come first: other keys mostly follow from them.
    """
    try:
        then = run_config.read_mapping(path / "config.yaml", "")
    except UserError:
        return ""
    found = run_config.differences(config, then)
    apart = {
        key: found[key]
        for key in sorted(found, key=_rank_of_choice)  # otherwise by the alphabet, as found
        if key.partition(".")[0] not in NOT_IDENTITY and any(value not in _NOTHING for value in found[key])
    }
    if len(apart) > 1:
        apart.pop("name", None)  # that is made of others, unless it was given
    said = [f"{key}: {_short_value(old)} then, {_short_value(new)} now" for key, (old, new) in apart.items()]
    return f" ({first_of(said, _NAMED, '; ')})" if said else ""


def _rank_of_choice(key: str) -> int:
    """Where a key stands among those that differ: the names of choices, their kinds, all others."""
    name = key.partition(".")[2]
    return _CHOICE_KEYS.index(name) if name in _CHOICE_KEYS else len(_CHOICE_KEYS)


def _short_value(value: Any) -> str:
    """Show the value of a key, or its beginning where it is long."""
    return shortened(json.dumps(value, ensure_ascii=False), _SHOWN)


def remove_temporary_files(path: Path) -> None:
    """Remove the temporary files that a killed process left in the folder of its run or sweep; children have theirs."""
    for folder, inner, files in os.walk(path):
        inner[:] = [name for name in inner if not (Path(folder) / name / LOCK).exists()]  # of a child, which may live
        for name in files:
            if is_temporary(name):
                (Path(folder) / name).unlink(missing_ok=True)


def _claim_unfinished(path: Path, digest: str, config: Config) -> RunFolder:
    """Claim the folder of a run that the configuration must go on with."""
    if not (path / STATE).is_file():
        raise UserError("resume", f"{path} holds no run ({STATE} is missing)", "Name the folder of an unfinished run.")
    if not _is_unfinished(read_state(path), digest, config):
        raise _refusal(path, digest, config)
    lock = try_lock(path / LOCK)
    if lock is None:
        raise UserError("resume", f"{path} is in use by another run", "Wait for it to end.")
    try:
        if (run := _resume(path, lock, digest, config)) is None:  # another process has just finished it, or replaced it
            raise _refusal(path, digest, config)
    except UserError:
        lock.release()
        raise
    return run


def _refusal(path: Path, digest: str, config: Config) -> UserError:
    """Return why the run in a folder cannot be gone on with."""
    if read_state(path).get("digest") != digest:
        fix = f"Give the same overrides as then (see {path / 'config.yaml'})."
        found = f"{path} was started with another configuration{_what_differs(path, config)}"
        return UserError("resume", found, fix)
    return UserError("resume", f"the run in {path} is finished", "Leave resume out to start a new run.")


def outputs_of(task: str) -> list[str]:
    """The names of the files and folders that a run of this task may have written."""
    tasks = [TASKS[task]] if task in TASKS else TASKS.values()  # a task that is gone may have written anything
    return sorted({*ALWAYS_WRITTEN, *(name for one in tasks for name in one.outputs)})


def _clear(path: Path, task: str) -> None:
    """Remove what a run of this task has written, and nothing else; what is not sent to its store is archived."""
    unsent.archive_spool(path)
    for name in outputs_of(task):
        target = path / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _holds_work(path: Path, state: dict[str, Any]) -> bool:
    """Whether something was done that the same command can go on from."""
    task = state.get("task", "")
    return task in TASKS and any((path / name).is_file() for name in TASKS[task].resume_files)


def recover_after_kill(path: Path) -> None:
    """Decide, in a locked folder, what becomes of the outputs that a killed run was to replace.

    They are removed where it has come to something that the same command goes on from, and are restored otherwise.
    """
    state, before = _state_if_whole(path), _state_if_whole(path / REPLACED)
    begun = state != before and (state.get("status") in (FINISHED, UNSENT) or _holds_work(path, state))
    if begun and not (path / MOVING).is_dir():
        _drop_backup(path)
    else:
        _restore_backup(path, state)


def _state_if_whole(path: Path) -> dict[str, Any]:
    with contextlib.suppress(UserError):  # damaged: nobody goes on from there
        return read_state(path)
    return {}


def back_up_outputs(path: Path, outputs: Iterable[str]) -> None:
    """Move what a run left out of the way of a new one, from where it can be restored.

    Args:
        path: the folder of the run.
        outputs: names of files and folders, which are moved. What says which run it is, is copied, and stays until the
            new run replaces it.
    """
    moving = path / MOVING
    with explaining(path):
        moving.mkdir()
        for name in _IDENTITY:
            if (path / name).is_file():
                shutil.copyfile(path / name, moving / name)
        for name in outputs:
            if (path / name).exists():
                (path / name).rename(moving / name)
        if any(moving.iterdir()):
            moving.rename(path / REPLACED)
        else:
            moving.rmdir()


def _restore_backup(path: Path, state: dict[str, Any]) -> None:
    """Bring back what was moved away, also where that was cut short; what the new run has written is removed.

    Args:
        path: the folder of the run.
        state: of the new run; empty where it is damaged.
    """
    with explaining(path):
        if (path / REPLACED).is_dir():
            if state:
                _clear(path, state.get("task", ""))
            if not (path / REPLACED / STATE).exists():  # there was no run before
                for name in _IDENTITY:
                    (path / name).unlink(missing_ok=True)
            (path / REPLACED).rename(path / MOVING)
        if (path / MOVING).is_dir():
            for moved in (path / MOVING).iterdir():
                moved.replace(path / moved.name)
            (path / MOVING).rmdir()


def _drop_backup(path: Path) -> None:
    """Remove what was moved away."""
    with explaining(path):
        if (path / REPLACED).is_dir():
            (path / REPLACED).rename(path / GONE)
        if (path / GONE).is_dir():
            shutil.rmtree(path / GONE)


def read_state(path: Path) -> dict[str, Any]:
    """Return what a run's folder says of itself, as in `run_state.json`; empty where it is none.

    Raises:
        UserError: the file is damaged.
    """
    return read_state_file(path / STATE) if (path / STATE).is_file() else {}


def read_state_file(file: Path) -> dict[str, Any]:
    """Return what the state of a run, or of a sweep, is.

    Raises:
        UserError: the file is not there, or is damaged.
    """
    fix = "Restore or remove it, or start over with resume=never."
    try:
        state = read_json(file)
    except UserError as error:
        raise UserError(error.where, error.found, fix) from error
    if not isinstance(state, dict):
        raise UserError(f"{file}:1", f"{type(state).__name__} instead of the state of a run", fix)
    for name, kind in _KINDS.items():
        if name in state and not isinstance(state[name], kind):
            raise UserError(f"{file}:1", f"{name} is {state[name]!r}", fix)
    return state
