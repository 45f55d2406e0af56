"""Find the runs that a configuration names: by folder, or by id or name in the tracking store."""

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
        folder: folder of the run; None if it is not on this machine.
        run_id: id in the tracking store; empty if the run is not tracked.
        name: name of the run in the tracking store, or of its folder.
        status: `finished`, `running`, ...; empty if the folder is not that of a run.
        found_in_store: whether it was named by its id or name, and not by its folder.
    """

    folder: Path | None
    run_id: str
    name: str
    status: str
    found_in_store: bool

    @property
    def has_results(self) -> bool:
        """Whether the run has finished."""
        return self.status in (FINISHED, UNSENT)


def resolve_run(text: str, settings: TrackingConfig, where: str) -> RunReference:
    """Find the run that `text` names.

    Args:
        text: a folder, the name of a folder in `outputs`, a run id, or the name of a run.
        settings: the store in which ids and names are looked up.
        where: the config key that holds `text`.

    Raises:
        UserError: there is no such run, or there are several of that name.
    """
    for folder in (Path(text), ROOT / text):
        if text and folder.is_dir():
            state = read_state(folder)
            name, status = folder.resolve().name, state.get("status", "")
            return RunReference(folder, state.get("run_id", ""), name, status, found_in_store=False)
    found = tracking.find_run(settings, text, where)
    here = _folder_of(found)
    # The folder is more up to date than a store that has not received everything yet.
    status = read_state(here).get("status", "") if here else found.status.lower()
    return RunReference(here, found.id, found.name, status, found_in_store=True)


def _folder_of(found: FoundRun) -> Path | None:
    """Return the folder of a run, even if the project was moved; None if it is not here or holds another run now."""
    if not found.folder:
        return None
    noted = Path(found.folder)
    moved = (ROOT.joinpath(*noted.parts[begin:]) for begin in range(1, len(noted.parts)))
    return next((path for path in (noted, *moved) if read_state(path).get("run_id") == found.id), None)


def find_trained_model(text: str, settings: TrackingConfig, where: str = "checkpoint") -> Path:
    """Find the checkpoint that `text` names.

    Args:
        text: a checkpoint, or a run, as for `resolve_run`.
        settings: the store in which ids and names of runs are looked up.
        where: the config key that holds `text`.

    Raises:
        UserError: there is none on this machine.
    """
    if Path(text).exists():
        return find_checkpoint(Path(text))
    if len(Path(text).parts) > 1:  # a path cannot be the name of a run
        raise UserError(where, f"{text} does not exist", "Check the path.")
    folder = resolve_run(text, settings, where).folder
    if folder is None:
        raise UserError(where, f"the run {text} lies on another machine", "Copy its folder here, and name the folder.")
    return find_checkpoint(folder)
