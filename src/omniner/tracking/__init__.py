"""Tracking for tasks and sweeps: start or continue a run, parent runs, links into the UI.

Training never talks to the tracking store directly: a run appends records to a file in its folder (`tracked_run`,
`spool`), and a thread sends them to MLflow (`store`, the only module that imports it). Only `start_run` and the
functions about other runs query the store: `start_run` fails early and clearly, the others run after the work and only
warn.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniner.config.groups import TrackingConfig
from omniner.errors import UserError, one_line
from omniner.files import make_folder, whole_records
from omniner.tracking import browser, unsent
from omniner.tracking.spool import SPOOL, SPOOL_FIX, Sender, Spool, read_line
from omniner.tracking.store import DATABASE, FOLDER_TAG, ChildRun, FoundRun, Store, open_store
from omniner.tracking.tracked_run import TAG_LENGTH, Run, TrackedRun, git_state, tag_values
from omniner.wording import counted, first_of

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

log = logging.getLogger("omniner.tracking")

NOTE_PART = 2 * TAG_LENGTH // 5  # maximum characters of a link, or of a table, in a description
STORE_RETRY_SECONDS = 2  # between two attempts to open the store of a parent
_NAMED = 5  # number of runs of one name that an error lists
_SUGGESTED = 500  # number of newest runs whose names are compared with a misspelt name


def start_run(
    tracking: TrackingConfig,
    *,
    name: str,
    folder: Path,
    parent: str | None,
    resume_id: str | None,
    tags: Mapping[str, str],
) -> Run:
    """Begin or resume a run; records that an earlier process left unsent in the folder are sent first.

    Args:
        tracking: where runs are tracked.
        name: name of the run.
        folder: folder of the run's output, which holds the spool.
        parent: id of the parent run; None if it has none.
        resume_id: id of the run to resume; None = begin one. A deleted run with a parent is replaced by a new one.
        tags: tags of the run.

    Returns:
        The run; one that writes nothing if tracking is off.

    Raises:
        UserError: the store cannot be reached, or does not have the run. This is checked now, not after the training.
    """
    if tracking.kind == "off":
        return Run()
    folder = make_folder(folder).resolve()
    store = _open_of_parent(tracking) if parent else open_store(tracking)
    if resume_id and parent:
        resume_id = _if_not_deleted(store, resume_id, folder)
    unsent.note(tracking, folder)
    left = (folder / SPOOL).exists()
    spool = Spool(folder / SPOOL)
    state = git_state()
    tags = {**tags, FOLDER_TAG: str(folder)}
    tags |= {f"git.{key}": value for key, value in state.items() if key != "commit"}  # MLflow has a tag for the commit
    try:
        if left and not spool.run and not resume_id:
            # An earlier process was killed after it had created the run and before it had saved the id: find that run.
            resume_id = store.find_unfinished(folder)
        run = (
            store.check_exists(resume_id)
            if resume_id
            else store.create(name, _run_tags(name, parent, tags, state.get("commit")))
        )
    except UserError:
        spool.close()
        raise
    spool.begin(run, store.address)
    sender = Sender(spool, lambda run, records: store.deliver(folder, run, records))
    tracked = TrackedRun(run, store.link(run), spool, sender, store.hide, tracking.wait)
    if resume_id:
        spool.add_status("running")  # after the records of the last process, which may end with another status
        tracked.tags(tags)
    if tracking.system_metrics:
        tracked.watch_machine()
    return tracked


def _if_not_deleted(store: Store, run: str, folder: Path) -> str | None:
    """Return the id of a child's run if the store still has it; otherwise archive its unsent records and return None.

    An error would make the user start the parent anew, and lose the results of all other children.
    """
    if store.has(run):
        return run
    log.warning("run %s of %s was deleted in the tracking store: a new one shows what is still done", run, folder)
    unsent.archive_spool(folder)
    return None


def _open_of_parent(tracking: TrackingConfig) -> Store:
    """Open the store of a run's parent, waiting for a server that does not answer.

    The parent has reached it before, so a short outage must not make the child fail.
    """
    tries = math.ceil(tracking.wait / STORE_RETRY_SECONDS) if tracking.kind == "server" else 0
    for number in range(tries):
        with contextlib.suppress(UserError):
            return open_store(tracking)
        if not number:
            log.warning("the tracking store does not answer: waiting up to %d s for it", tracking.wait)
        time.sleep(STORE_RETRY_SECONDS)
    return open_store(tracking)


def _run_tags(name: str, parent: str | None, tags: Mapping[str, str], commit: str | None) -> dict[str, str]:
    values = tag_values(tags)
    values |= {"mlflow.runName": name, "mlflow.source.name": "omniner", "mlflow.source.type": "LOCAL"}
    if commit:
        values["mlflow.source.git.commit"] = commit
    if parent:
        values["mlflow.parentRunId"] = parent
    return values


def previous_run_id(folder: Path) -> str | None:
    """Return the id of the run that was last tracked in this output folder; None if there is none."""
    runs = [item["run"] for item in whole_records(folder / SPOOL, read_line, SPOOL_FIX) if "run" in item]
    return str(runs[-1]) if runs else None


def lightning_logger(run: Run) -> Logger:
    """Return a Lightning logger that writes to this run, but does not begin or end it."""
    from lightning_utilities.core.rank_zero import rank_zero_only
    from pytorch_lightning.loggers.logger import Logger as Base

    class RunLogger(Base):
        """Forwards metrics and hyperparameters."""

        @property
        def name(self) -> str:
            return "omniner"

        @property
        def version(self) -> str:
            return run.id

        @rank_zero_only
        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            run.metrics(metrics, step or 0)

        @rank_zero_only
        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            values = params if isinstance(params, Mapping) else vars(params)
            run.tags({f"module.{name}": value for name, value in values.items()})

    return RunLogger()


def delete_run(tracking: TrackingConfig, run_id: str) -> None:
    """Delete the record of a run that could not begin; a failure of the store only warns."""
    with _warn_instead("delete the run"):
        open_store(tracking).delete(run_id)


def describe_children(run: Run, children: Sequence[ChildRun], link: str, summary: str = "", picture: str = "") -> None:
    """Write the table of a run's children, and a description of them, to the parent run.

    Args:
        run: the parent.
        children: the child runs.
        link: address that compares them; left out of the description if it is too long, as for many runs.
        summary: their results, as Markdown.
        picture: name of an image among the parent's artifacts; may be empty.
    """
    names = sorted({metric for child in children for metric in child.metrics})
    rows = [
        [child.name, child.status.upper(), child.id, *(child.metrics.get(name) for name in names)] for child in children
    ]
    run.table(["name", "status", "run", *names], rows, "tables/children.json")
    headline = counted(len(children), "run")
    if 0 < len(link) <= NOTE_PART:
        headline += f", [compared]({link[link.index('#') :]})"
    shown = f"![{picture}]({run.file_address(picture)})" if picture else ""
    run.tags({browser.NOTE_TAG: "\n\n".join(filter(None, [headline, summary, shown]))})


def child_runs(tracking: TrackingConfig, parent_id: str) -> list[ChildRun]:
    """Return the runs of a sweep, oldest first; if the store cannot be reached, warn and return none."""
    if parent_id:
        with _warn_instead("list the runs of the sweep"):
            return open_store(tracking).children(parent_id)
    return []


def compare_link(tracking: TrackingConfig, run_ids: Sequence[str]) -> str:
    """Return the address of the UI's page that compares runs; empty if tracking is off or the store fails."""
    if tracking.kind != "off" and run_ids:
        with _warn_instead("make the link that compares the runs"):
            store = open_store(tracking)
            return f"{store.ui}/{browser.compare_page(store.experiment, run_ids)}"
    return ""


def find_run(tracking: TrackingConfig, text: str, where: str) -> FoundRun:
    """Find the run with this id or name; of several with the name, the only one that did not fail and was not killed.

    Args:
        tracking: where to look.
        text: the id or name.
        where: the config key that holds it.

    Raises:
        UserError: there is no such run, or there are several of the name.
    """
    if tracking.kind == "off":
        fix = "Check the path, or set tracking=local or tracking=server to look among the runs."
        raise UserError(where, f"{text!r} is no file and no folder, and with tracking=off no runs are known", fix)
    store = _existing_store(tracking)
    found = store.find(text) if store else []
    if not found:
        looked_in = f"experiment {tracking.experiment!r} of tracking={tracking.kind}"
        names = store.newest_names(_SUGGESTED) if store else []
        near = difflib.get_close_matches(text, names, n=1)
        fix = f"Did you mean {near[0]}?" if near else "Check the path, the id or the name."
        raise UserError(where, f"{text!r} is no file, no folder, and no run in {looked_in}", fix)
    alive = [run for run in found if run.status not in ("failed", "killed")]
    if len(found) > 1 and len(alive) != 1:
        ids = first_of([_describe(run) for run in found], _NAMED)
        raise UserError(where, f"{len(found)} runs have the name {text!r}", f"Give the id of one, newest first: {ids}.")
    return found[0] if len(found) == 1 else alive[0]


def _describe(run: FoundRun) -> str:
    """Return the id of a run with its status and start time, which distinguish it from others of its name."""
    return f"{run.id} ({run.status}, {time.strftime('%Y-%m-%d %H:%M', time.localtime(run.started))})"


def has_run(tracking: TrackingConfig, text: str) -> bool:
    """Whether some run has this id or this name."""
    store = _existing_store(tracking)
    return store is not None and bool(store.find(text))


def _existing_store(tracking: TrackingConfig) -> Store | None:
    """Open the store for a query; return None if tracking is off or no local store exists (a query creates none)."""
    if tracking.kind == "off" or (tracking.kind == "local" and not Path(tracking.folder, DATABASE).exists()):
        return None
    return open_store(tracking)


def fetch_artifacts(tracking: TrackingConfig, run_id: str, names: Sequence[str], folder: Path) -> None:
    """Copy artifacts of a run into a folder; names that the run does not have are skipped."""
    open_store(tracking).fetch(run_id, names, folder)


@contextlib.contextmanager
def _warn_instead(what: str) -> Iterator[None]:
    """Turn a `UserError` of the store in the block into a warning, because the work of the run is done."""
    try:
        yield
    except UserError as error:
        log.warning("could not %s: %s", what, one_line(error))
