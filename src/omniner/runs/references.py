"""Runs that a configuration names: by their folder, or by their id or name in the tracking store."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from omniner import tracking
from omniner.config.groups import TrackingConfig
from omniner.errors import UserError
from omniner.model_files import find_checkpoint
from omniner.runs.folder import FINISHED, ROOT, UNSENT, read_state
from omniner.tracking.store import FoundRun


class RunReference(NamedTuple):
    """A run that a configuration names.

    Attributes:
        folder: None where it is not on this machine.
        run_id: empty where the run is not tracked.
        name: of the run in the tracking store, or of its folder.
        status: `finished`, `running`, ...; empty where the folder is none of a run.
        found_in_store: whether it was named by its id or name, and not by its folder.
    """

    folder: Path | None
    run_id: str
    name: str
    status: str
    found_in_store: bool

    @property
    def has_results(self) -> bool:
        """Whether the run came to its end."""
        return self.status in (FINISHED, UNSENT)


def resolve_run(text: str, settings: TrackingConfig, where: str) -> RunReference:
    """Find the run that `text` means.

    Args:
        text: a folder, the name of one in `outputs`, a run id, or the name of a run.
        settings: the store in which ids and names are looked up.
        where: the config key that holds `text`.

    Raises:
        UserError: there is none, or there are several of that name.
    """
    for folder in (Path(text), ROOT / text):
        if text and folder.is_dir():
            state = read_state(folder)
            name, status = folder.resolve().name, state.get("status", "")
            return RunReference(folder, state.get("run_id", ""), name, status, found_in_store=False)
    found = tracking.find_run(settings, text, where)
    here = _folder_of(found)
    # The folder knows more than a store that has not got everything yet.
    status = read_state(here).get("status", "") if here else found.status.lower()
    return RunReference(here, found.id, found.name, status, found_in_store=True)


def _folder_of(found: FoundRun) -> Path | None:
    """The folder of a run, also where the project was moved; None where it is not here, or holds another run now."""
    if not found.folder:
        return None
    noted = Path(found.folder)
    moved = (ROOT.joinpath(*noted.parts[begin:]) for begin in range(1, len(noted.parts)))
    return next((path for path in (noted, *moved) if read_state(path).get("run_id") == found.id), None)


def find_trained_model(text: str, settings: TrackingConfig, where: str = "checkpoint") -> Path:
    """Find the checkpoint that `text` means.

    Args:
        text: a checkpoint, or a run as `resolve_run` takes it.
        settings: the store in which ids and names of runs are looked up.
        where: the config key that holds `text`.

    Raises:
        UserError: there is none on this machine.
    """
    if Path(text).exists():
        return find_checkpoint(Path(text))
    if len(Path(text).parts) > 1:  # no name of a run
        raise UserError(where, f"{text} does not exist", "Check the path.")
    folder = resolve_run(text, settings, where).folder
    if folder is None:
        raise UserError(where, f"the run {text} lies on another machine", "Copy its folder here, and name the folder.")
    return find_checkpoint(folder)
