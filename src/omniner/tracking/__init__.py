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

NOTE_PART = 2 * TAG_LENGTH // 5  # characters that a link, or a table, may take of a description
STORE_RETRY_SECONDS = 2  # between two tries to open the store of a parent
_NAMED = 5  # runs of one name that are listed
_SUGGESTED = 500  # newest runs among which a misspelt name is looked for


def start_run(
    tracking: TrackingConfig,
    *,
    name: str,
    folder: Path,
    parent: str | None,
    resume_id: str | None,
    tags: Mapping[str, str],
) -> Run:
    """Begin a run, or go on with one; whatever an earlier process left unsent in the folder is sent first.

    Args:
        tracking: where runs are kept.
        name: of the run.
        folder: of the run's output, where the spool lives.
        parent: id of the run that it belongs to.
        resume_id: id of the run to go on with; None = begin one. One with a parent is begun anew if it was deleted.
        tags: of the run.

    Returns:
        The run; one that writes nothing where tracking is off.

    Raises:
        UserError: the store cannot be reached, or the run is not there: better now than after the training.
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
    tags |= {f"git.{key}": value for key, value in state.items() if key != "commit"}  # MLflow has its own for that
    try:
        if left and not spool.run and not resume_id:
            # Killed between making the run and writing down its id: that run is ours.
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
        spool.add_status("running")  # behind what the last process left, its status included
        tracked.tags(tags)
    if tracking.system_metrics:
        tracked.watch_machine()
    return tracked


def _if_not_deleted(store: Store, run: str, folder: Path) -> str | None:
    """The run of a child if its record is still there; else None, and what it had not sent is archived.

    Its parent goes on without being told to start anew, which would cost all that the other children have done.
    """
    if store.has(run):
        return run
    log.warning("run %s of %s was deleted in the tracking store: a new one shows what is still done", run, folder)
    unsent.archive_spool(folder)
    return None


def _open_of_parent(tracking: TrackingConfig) -> Store:
    """Open the store of a run's parent. It has answered before: a short outage of a server must not cost the child."""
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
    """Return the id of the run that was last tracked in this output folder; None where there is none."""
    runs = [item["run"] for item in whole_records(folder / SPOOL, read_line, SPOOL_FIX) if "run" in item]
    return str(runs[-1]) if runs else None


def lightning_logger(run: Run) -> Logger:
    """Return a Lightning logger that writes to this run and leaves its beginning and end to us."""
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
    """Delete a run that could not begin."""
    with _warn_instead("delete the run"):
        open_store(tracking).delete(run_id)


def describe_children(run: Run, children: Sequence[ChildRun], link: str, summary: str = "", picture: str = "") -> None:
    """Write the table of the runs that belong to a run, and a description of them.

    Args:
        run: their parent.
        children: the runs.
        link: address that compares them; a very long one, of many runs, is left out of the description.
        summary: what came of them, as Markdown.
        picture: an artifact of the parent.
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
    """Return the runs of a sweep, oldest first; none, and a warning, while the store is away."""
    if parent_id:
        with _warn_instead("list the runs of the sweep"):
            return open_store(tracking).children(parent_id)
    return []


def compare_link(tracking: TrackingConfig, run_ids: Sequence[str]) -> str:
    """Return the address of the UI's page that compares runs: its list folds the runs of a sweep under their parent."""
    if tracking.kind != "off" and run_ids:
        with _warn_instead("make the link that compares the runs"):
            store = open_store(tracking)
            return f"{store.ui}/{browser.compare_page(store.experiment, run_ids)}"
    return ""


def find_run(tracking: TrackingConfig, text: str, where: str) -> FoundRun:
    """Find the one run that has this id or this name; those that failed or were killed give way to one that did not.

    Args:
        tracking: where to look.
        text: the id or name.
        where: the config key that holds it.

    Raises:
        UserError: there is none, or there are several of the name.
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
    """Write the id of a run, and what tells it from others of its name."""
    return f"{run.id} ({run.status}, {time.strftime('%Y-%m-%d %H:%M', time.localtime(run.started))})"


def has_run(tracking: TrackingConfig, text: str) -> bool:
    """Whether some run has this id or this name."""
    store = _existing_store(tracking)
    return store is not None and bool(store.find(text))


def _existing_store(tracking: TrackingConfig) -> Store | None:
    """The store that a question is put to; None where there is none, as a question makes no store."""
    if tracking.kind == "off" or (tracking.kind == "local" and not Path(tracking.folder, DATABASE).exists()):
        return None
    return open_store(tracking)


def fetch_artifacts(tracking: TrackingConfig, run_id: str, names: Sequence[str], folder: Path) -> None:
    """Copy those of the artifacts `names` that a run has into a folder."""
    open_store(tracking).fetch(run_id, names, folder)


@contextlib.contextmanager
def _warn_instead(what: str) -> Iterator[None]:
    """Turn a failure of the store after the work into a warning."""
    try:
        yield
    except UserError as error:
        log.warning("could not %s: %s", what, one_line(error))
