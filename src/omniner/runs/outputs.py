"""Protect files outside the run's folder: a task does not replace what another command made, except with `overwrite`.

`written.json` in the run's folder records what a command wrote, with sizes and times, so that the same command may
replace it if nobody has changed it. A record without sizes and times is made before writing: it lets a run that was
killed while writing continue.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omniner.errors import UserError
from omniner.files import file_states, is_temporary, make_folder, read_json, try_lock, write_json
from omniner.runs.context import Context
from omniner.runs.folder import ROOT, WRITTEN, read_state


@contextlib.contextmanager
def replacing(context: Context, *paths: Path) -> Iterator[None]:
    """Allow the block to write files or folders, unless that would replace what this command did not make.

    Raises:
        UserError: it would replace something and `overwrite` is false, or another process is writing there.
    """
    outputs = [path.resolve() for path in paths]
    with _alone(outputs[0]):
        _check_replacing(context, outputs)
        digest, note = _digest(context), context.folder / WRITTEN
        write_json(note, {"digest": digest, "paths": {str(output): None for output in outputs}})
        yield
        write_json(note, {"digest": digest, "paths": {str(output): file_states(output) for output in outputs}})


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Lock the output for the block; without a lock, one process would remove another's temporary files as leftovers.

    Raises:
        UserError: another process holds the lock.
    """
    file = make_folder(output.parent) / f".{output.name}.lock"
    if (lock := try_lock(file)) is None:
        raise UserError("output", f"another process is writing {output}", "Wait for its end, or name another one.")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def _check_replacing(context: Context, outputs: Sequence[Path]) -> None:
    config = context.config
    mine = _written(context)
    for output in outputs:
        if output.exists() and not output.is_file() and not output.is_dir():
            raise UserError("output", f"{output} is no file and no folder", "Name a file or a folder.")
    if not config.overwrite:
        for output in outputs:
            is_empty = output.is_dir() and not any(output.iterdir())
            if output.exists() and not is_empty and mine.get(str(output), "") not in (None, file_states(output)):
                found = f"{output} is there already, and another command made it"
                raise UserError("output", found, "Name another one, or set overwrite=true to replace it.")
    for output in outputs:
        if str(output) in mine:  # a killed process of this command may have left a part of it
            for left in output.parent.glob(f".{glob.escape(output.name)}.*"):
                if is_temporary(left.name):
                    left.unlink(missing_ok=True)


def _digest(context: Context) -> str:
    """Return the digest of the command's configuration, whatever commit this run reads a hub model at."""
    digest: str = read_state(context.folder)["digest"]
    return digest


def _written(context: Context) -> dict[str, Any]:
    """Return what runs of this command wrote: path -> its file states, None if the run did not finish writing."""
    found: dict[str, Any] = {}
    digest, earlier = _digest(context), ROOT.glob(f"{glob.escape(context.config.name)}-*/{WRITTEN}")
    for note in [*sorted(earlier), context.folder / WRITTEN]:
        with contextlib.suppress(UserError, KeyError, TypeError, AttributeError):  # absent or damaged: ignored
            written = read_json(note)
            if written["digest"] == digest:
                found |= dict(written["paths"])
    return found
