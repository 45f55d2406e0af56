"""Which run is meant: a folder, or what the tracking store knows it by, its id or its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from omniner import runfolder, tracking
from omniner.files import read_json
from omniner.schema import TrackingConfig


class Located(NamedTuple):
    """A run: `folder` is None where it is not on this machine, `run_id` empty where it is not tracked."""

    folder: Path | None
    run_id: str
    name: str


def locate(text: str, settings: TrackingConfig, where: str) -> Located:
    """Find the run that `text` means.

    Args:
        text: a folder, the name of one in `outputs`, a run id, or the name of a run.
        settings: the store in which ids and names are looked up.
        where: the config key that holds `text`.

    Raises:
        UserError: there is none, or there are several of that name.
    """
    for folder in (Path(text), runfolder.ROOT / text):
        if text and folder.is_dir():
            return Located(folder, state(folder).get("run_id", ""), folder.resolve().name)
    found = tracking.find_run(settings, text, where)
    folder = Path(found.folder)
    # A folder that was used again holds another run now.
    mine = bool(found.folder) and state(folder).get("run_id") == found.id
    return Located(folder if mine else None, found.id, found.name)


def state(folder: Path) -> dict[str, Any]:
    """What a run's folder says of itself; empty where it is none."""
    path = folder / runfolder.STATE
    return dict(read_json(path)) if path.is_file() else {}
