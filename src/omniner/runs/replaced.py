"""What an earlier run left where a new one starts: put aside first, gone once the new one has come to something.

The folder inside that holds it says how far that is: in `MOVING` some of it may lie, in `KEPT` all of it, and what is
in `GONE` nobody needs. Each step is one rename, so that a kill at any moment loses nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from omniner.files import explaining

MOVING, KEPT, GONE = ".replacing", ".replaced", ".removing"


def put_aside(folder: Path, outputs: Iterable[str], copied: Iterable[str]) -> None:
    """Put what a run left aside.

    Args:
        folder: of the run.
        outputs: names of files and folders that are moved.
        copied: names of files that stay as well, until the new run replaces them.
    """
    moving = folder / MOVING
    with explaining(folder):
        moving.mkdir()
        for name in copied:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, moving / name)
        for name in outputs:
            if (folder / name).exists():
                (folder / name).rename(moving / name)
        if any(moving.iterdir()):
            moving.rename(folder / KEPT)
        else:
            moving.rmdir()


def put_back(folder: Path, remove_new: Callable[[], None]) -> None:
    """Bring back what was put aside, also where the putting aside was cut short.

    Args:
        folder: of the run.
        remove_new: removes what the new run has written meanwhile.
    """
    with explaining(folder):
        if (folder / KEPT).is_dir():
            remove_new()
            (folder / KEPT).rename(folder / MOVING)
        if (folder / MOVING).is_dir():
            for path in (folder / MOVING).iterdir():
                path.replace(folder / path.name)
            (folder / MOVING).rmdir()


def drop(folder: Path) -> None:
    """Remove what was put aside."""
    with explaining(folder):
        if (folder / KEPT).is_dir():
            (folder / KEPT).rename(folder / GONE)
        if (folder / GONE).is_dir():
            shutil.rmtree(folder / GONE)
