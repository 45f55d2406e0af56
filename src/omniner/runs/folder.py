"""Manage one folder per run: name it, find it again after a kill, lock it while in use, and record its state.

`claim_folder` gives a run its folder. If the last run of the same configuration (by `run_config.digest`) did not
finish, its folder and MLflow run are resumed; a finished run is left alone, and a new folder is made. A lock held for
the life of the process keeps a second run out of the folder, and distinguishes a killed run (lock free, state
"running") from a running one. Only `run_state.json` decides what state a run is in; it is replaced atomically. If a
named folder holds an earlier run, the outputs of that run are kept until the new run has results of its own.
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
from omniner.config.run_config import FROM_MEMORY, NOT_IDENTITY, is_given_corpus, with_own_corpus
from omniner.errors import UserError
from omniner.files import (
    explaining,
    is_temporary,
    make_folder,
    read_json,
    sha256,
    try_lock,
    write_json,
    write_text,
    writing,
)
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
UNSENT = "finished, unsent"  # the results are complete, but the tracking store has not received everything
SWEEP_STATE = "sweep.json"  # the state of a sweep in its folder, as `STATE` is for a run
METRICS = "metrics.json"  # last values of the metrics by which runs are compared
ROOT = Path("outputs")
LOCK = ".lock"
SCORES = "scores.json"  # of a scored run
PREDICTIONS, GOLD = "predictions.jsonl", "gold.jsonl"  # of a run that predicted
TRAINED_ON = "checkpoints/trained_on.json"  # digests of train and dev
GUIDANCE_COPY = "prompt_guidance.json"  # another run's guidance, used in this run's prompt
ALWAYS_WRITTEN = ("issues.jsonl", METRICS, SPOOL, PENDING)  # by every task
WRITTEN = "written.json"  # what the run wrote elsewhere (`omniner.runs.outputs`)
_IDENTITY = (STATE, "config.yaml")  # the files that say which run it is
BOOKKEEPING = (*_IDENTITY, LOCK)
# Folders for the backup of an earlier run's outputs, which is kept until the new run has results. The name shows the
# progress: MOVING may hold a part of the backup, REPLACED holds all of it, GONE is about to be deleted. Each step is
# one rename, so that a kill at any moment loses nothing.
MOVING, REPLACED, GONE = ".replacing", ".replaced", ".removing"
_NAMED = 3  # keys named in an error
_SHOWN = 40  # characters of each value named in an error
_CHOICE_KEYS = ("name", "kind")  # keys of a section that say which choice it is
_NOTHING: tuple[object, ...] = (None, "", [], {})  # values that count as equal: not set
_KINDS: dict[str, type | tuple[type, ...]] = {  # of the values in `STATE` and `SWEEP_STATE`
    "digest": str,
    "status": str,
    "task": str,
    "run_id": str,
    "read": str,  # digest of the inputs at the last attempt (`Task.content_read`)
    "inputs": dict,  # digest by path of the files that it reads (`Task.inputs_read`); older runs have none
    "model_commit": str,  # of the hub model that it loads; none: older runs, other models, unknown
    "started": (int, float),
}


@dataclasses.dataclass
class RunFolder:
    """A claimed folder; `resumed` tells whether it holds an unfinished run of the same configuration."""

    path: Path
    resumed: bool
    state: dict[str, Any]
    lock: BaseFileLock

    def save(self, **changes: Any) -> None:
        """Change the state on disk atomically."""
        self.state.update(changes)
        write_json(self.path / STATE, self.state)

    @property
    def holds_work(self) -> bool:
        """Whether the folder holds work from which the same command can continue."""
        return _holds_work(self.path, self.state)

    def discard(self) -> None:
        """Undo a run that could not begin: remove its files and the empty folder, or restore the backup if any."""
        if (self.path / REPLACED).is_dir():
            _restore_backup(self.path, self.state)
            return
        _clear(self.path, self.state["task"])
        for name in (*BOOKKEEPING, WRITTEN):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: it existed before, with other files
            self.path.rmdir()

    def drop_backup(self) -> None:
        """Remove the backup of an earlier run: the new run replaces it."""
        _drop_backup(self.path)

    def keep_corpus(self, config: Config, contents: dict[str, bytes]) -> None:
        """Write the corpus that a program gives to the run, a file for each split; see `data.from_memory`.

        `contents` is empty afterwards, because the run may need the memory.
        """
        while contents:
            split, content = contents.popitem()
            path = Path(config.data.root or "", *config.data.files[split])
            if not path.is_file() or sha256(path) != config.data.from_memory[split]:
                with writing(path, "wb") as file:
                    file.write(content)

    def close(self) -> None:
        """Release the folder's lock."""
        self.lock.release()


def claim_folder(config: Config) -> RunFolder:
    """Find or make the folder of this run and lock it.

    Raises:
        UserError: the folder is in use, cannot be written, or holds another run that must not be replaced.
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
    """Make a new folder; a number makes its name unique, because runs of one name may start in the same second."""
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
    """Return the folders of unfinished runs of this configuration, the newest first."""
    found = []
    for state_file in ROOT.glob(f"{glob.escape(config.name)}-*/{STATE}"):
        state = read_state(state_file.parent)
        if _is_unfinished(state, digest, config):
            found.append((state.get("started", 0.0), state_file.parent))
    return [folder for _, folder in sorted(found, reverse=True)]


def _is_unfinished(state: dict[str, Any], digest: str, config: Config) -> bool:
    """Whether a run of this configuration has something left to do: its work, or sending its tracking records.

    If the inputs have changed since the run, its unsent records are left to the next run on the store, because this
    configuration needs new results.
    """
    status = state.get("status")
    if state.get("digest") != digest or status == FINISHED:
        return False
    same = state.get("read", "") == TASKS[config.task.name].content_read(config)
    return status != UNSENT or (same and config.tracking.kind != "off")


def _resume(path: Path, lock: BaseFileLock, digest: str, config: Config) -> RunFolder | None:
    """Resume the run in a locked folder; return None if it is no unfinished run of this configuration."""
    recover_after_kill(path)
    if config.resume == "never":
        return None
    state = read_state(path)
    if not _is_unfinished(state, digest, config):
        return None
    remove_temporary_files(path)
    return RunFolder(path, True, state, lock)


def _claim_named(path: Path, digest: str, config: Config) -> RunFolder:
    """Claim this folder: resume an unfinished run of the configuration in it, else start a new run."""
    make_folder(path)
    lock = try_lock(path / LOCK)
    if lock is None:
        raise UserError("output_dir", f"{path} is in use by another run", "Wait for it or choose another folder.")
    try:
        if (run := _resume(path, lock, digest, config)) is not None:
            return run
        old = _state_to_replace(path, config)
        _check_replacing(path, old, digest, config)
        corpus_too = _holds_given_corpus(path) or (config.overwrite and is_given_corpus(config))
    except UserError:
        lock.release()
        raise
    remove_temporary_files(path)
    if old or config.overwrite:
        unsent.archive_spool(path)
        tasks = {old.get("task", config.task.name), *([config.task.name] if config.overwrite else [])}
        names = {name for task in tasks for name in outputs_of(task, corpus_too)}
        back_up_outputs(path, sorted(names))
    state = {"digest": digest, "status": "running", "started": time.time(), "task": config.task.name}
    folder = RunFolder(path, False, state, lock)
    write_text(path / "config.yaml", run_config.to_yaml(with_own_corpus(config, path)))
    folder.save()  # last: a folder with a state can be resumed, so it must have the configuration
    return folder


def _state_to_replace(path: Path, config: Config) -> dict[str, Any]:
    """Return the state of the run in a folder; with `resume=never`, a damaged state counts as an unknown run's."""
    try:
        return read_state(path)
    except UserError:
        if config.resume != "never":
            raise
        return {"status": "damaged"}


def _check_replacing(path: Path, old: dict[str, Any], digest: str, config: Config) -> None:
    """Raise a `UserError` if a new run in this folder would replace what another command made."""
    if config.overwrite or old.get("digest") == digest:
        return
    names = [] if old else outputs_of(config.task.name, corpus_too=False)
    if is_given_corpus(config) and not _holds_given_corpus(path):
        names.append(FROM_MEMORY)
    if there := sorted(name for name in names if (path / name).exists()):
        fix = "Choose another folder, or set overwrite=true to replace it."
        raise UserError("output_dir", f"{path} holds {there[0]}, which this run would replace", fix)
    if not old:
        return
    if old.get("status") in (FINISHED, UNSENT):
        fix = "Choose another folder, or set overwrite=true to replace it."
        raise UserError("output_dir", f"{path} holds the run of another command (task={old.get('task')})", fix)
    if config.resume != "never":
        fix = "Choose another folder, or resume=never to start over in this one."
        found = f"{path} holds an unfinished run of another configuration{_what_differs(path, config)}"
        raise UserError("output_dir", found, fix)


def _what_differs(path: Path, config: Config) -> str:
    """List the keys in which a configuration differs from that of a folder's run; empty if that cannot be read.

    Choices (`model.name`, `head.kind`) come first, because most other keys follow from them.
    """
    try:
        then = run_config.read_mapping(path / "config.yaml", "")
    except UserError:
        return ""
    found = run_config.differences(config, then)
    apart = {
        key: found[key]
        for key in sorted(found, key=_rank_of_choice)  # keys of equal rank stay in alphabetical order
        if key.partition(".")[0] not in NOT_IDENTITY and any(value not in _NOTHING for value in found[key])
    }
    if len(apart) > 1:
        apart.pop("name", None)  # made of other values, unless it was given
    said = [f"{key}: {_short_value(old)} then, {_short_value(new)} now" for key, (old, new) in apart.items()]
    return f" ({first_of(said, _NAMED, '; ')})" if said else ""


def _rank_of_choice(key: str) -> int:
    """Return the rank of a key among those that differ: names of choices, then their kinds, then all others."""
    name = key.partition(".")[2]
    return _CHOICE_KEYS.index(name) if name in _CHOICE_KEYS else len(_CHOICE_KEYS)


def _short_value(value: Any) -> str:
    """Return the value of a key as JSON, shortened to `_SHOWN` characters."""
    return shortened(json.dumps(value, ensure_ascii=False), _SHOWN)


def remove_temporary_files(path: Path) -> None:
    """Remove temporary files that a killed process left in the folder of its run or sweep, not those of children."""
    for folder, inner, files in os.walk(path):
        inner[:] = [name for name in inner if not (Path(folder) / name / LOCK).exists()]  # a child's: it may run
        for name in files:
            if is_temporary(name):
                (Path(folder) / name).unlink(missing_ok=True)


def _claim_unfinished(path: Path, digest: str, config: Config) -> RunFolder:
    """Claim the folder of a run that `resume` names, which must be an unfinished run of this configuration."""
    if not (path / STATE).is_file():
        raise UserError("resume", f"{path} holds no run ({STATE} is missing)", "Name the folder of an unfinished run.")
    if not _is_unfinished(read_state(path), digest, config):
        raise _refusal(path, digest, config)
    lock = try_lock(path / LOCK)
    if lock is None:
        raise UserError("resume", f"{path} is in use by another run", "Wait for it to end.")
    try:
        if (run := _resume(path, lock, digest, config)) is None:  # another process has just finished or replaced it
            raise _refusal(path, digest, config)
    except UserError:
        lock.release()
        raise
    return run


def _refusal(path: Path, digest: str, config: Config) -> UserError:
    """Return the error that says why the run in a folder cannot be resumed."""
    if read_state(path).get("digest") != digest:
        also = " and sentences" if config.data.from_memory else ""
        fix = f"Give the same overrides{also} as then (see {path / 'config.yaml'})."
        found = f"{path} was started with another configuration{_what_differs(path, config)}"
        return UserError("resume", found, fix)
    return UserError("resume", f"the run in {path} is finished", "Leave resume out to start a new run.")


def other_corpus(path: Path, found: str) -> UserError:
    """Return the error for an unfinished run in a folder that began with other sentences; `found` says with which."""
    found = f"{found}: the files have changed, or another version of OmniNER read them differently"
    return UserError(path, found, "Put the corpus back as it was, or start over with resume=never.")


def outputs_of(task: str, corpus_too: bool) -> list[str]:
    """Return the names of the files and folders that a run of this task may have written.

    Args:
        task: its name.
        corpus_too: whether a program gave the run its corpus. Otherwise a folder of the name of its copy is the user's.
    """
    tasks = [TASKS[task]] if task in TASKS else TASKS.values()  # an unknown task may have written any of them
    names = {*ALWAYS_WRITTEN, *(name for one in tasks for name in one.outputs)}
    return sorted(names if corpus_too else names - {FROM_MEMORY})


def _holds_given_corpus(path: Path) -> bool:
    """Whether a folder holds the run of a program that gave it its corpus."""
    with contextlib.suppress(UserError):  # missing or damaged
        corpus = run_config.read_mapping(path / "config.yaml", "").get("data")
        return isinstance(corpus, dict) and bool(corpus.get("from_memory"))
    return False


def _clear(path: Path, task: str) -> None:
    """Remove only what a run of this task has written; unsent tracking records are archived first."""
    unsent.archive_spool(path)
    for name in outputs_of(task, _holds_given_corpus(path)):
        target = path / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _holds_work(path: Path, state: dict[str, Any]) -> bool:
    """Whether a folder holds work from which the same command can continue."""
    task = state.get("task", "")
    return task in TASKS and any((path / name).is_file() for name in TASKS[task].resume_files)


def recover_after_kill(path: Path) -> None:
    """Remove or restore, in a locked folder, the backup of outputs that a killed run was going to replace.

    It is removed if the killed run has finished or left work to continue from; otherwise it is restored.
    """
    state, before = _state_if_whole(path), _state_if_whole(path / REPLACED)
    begun = state != before and (state.get("status") in (FINISHED, UNSENT) or _holds_work(path, state))
    if begun and not (path / MOVING).is_dir():
        _drop_backup(path)
    else:
        _restore_backup(path, state)


def _state_if_whole(path: Path) -> dict[str, Any]:
    with contextlib.suppress(UserError):  # damaged: nothing can continue from it
        return read_state(path)
    return {}


def back_up_outputs(path: Path, outputs: Iterable[str]) -> None:
    """Move the outputs of an earlier run into a backup, from which they can be restored.

    Args:
        path: the folder of the run.
        outputs: names of the files and folders to move. The files that identify the run are copied instead, and stay
            until the new run replaces them.
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
    """Restore the backup, also an incomplete one, and remove what the new run has written.

    Args:
        path: the folder of the run.
        state: state of the new run; empty if it is damaged.
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
    """Remove the backup."""
    with explaining(path):
        if (path / REPLACED).is_dir():
            (path / REPLACED).rename(path / GONE)
        if (path / GONE).is_dir():
            shutil.rmtree(path / GONE)


def read_state(path: Path) -> dict[str, Any]:
    """Return the content of `run_state.json` in a folder; empty if the folder is not that of a run.

    Raises:
        UserError: the file is damaged.
    """
    return read_state_file(path / STATE) if (path / STATE).is_file() else {}


def read_state_file(file: Path) -> dict[str, Any]:
    """Return the state of a run or a sweep from its file.

    Raises:
        UserError: the file is missing or damaged.
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
