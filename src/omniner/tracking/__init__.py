"""Tracking, as the tasks use it: begin a run, go on with one, sweeps with a parent run, links into the UI.

What goes in: the tracking config, names, tags. What comes out: a `Run` to write to, run ids, links. While
training works nothing here talks to the store: a `Run` (`tracking.tracked_run`) writes to the spool of its folder
and a thread sends that (`omniner.tracking.spool`) to MLflow (`omniner.tracking.store`, which alone imports it).
Only `start` and the functions about parent runs ask the store directly: `start` fails early and clearly, the
others, after the work, only warn.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from omniner import files
from omniner.config.groups import TrackingConfig
from omniner.errors import UserError, one_line
from omniner.tracking.machine import git_state, versions
from omniner.tracking.spool import Sender, Spool
from omniner.tracking.store import Child, Found, open_store
from omniner.tracking.tracked_run import DataInput, Run, TrackedRun, display_name, masked, safe_name, tag_values

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

__all__ = [
    "Child",
    "DataInput",
    "Found",
    "Run",
    "children",
    "compare_link",
    "delete_parent",
    "display_name",
    "fetch",
    "find_run",
    "finish_parent",
    "git_state",
    "lightning_logger",
    "masked",
    "previous_run",
    "resume_parent",
    "safe_name",
    "start",
    "start_parent",
    "tables_link",
    "versions",
]

log = logging.getLogger("omniner.tracking")

SPOOL = "tracking_spool.jsonl"  # in the run folder
FOLDER_TAG = "omniner.folder"  # tells in the UI where a run's output lies


def start(
    tracking: TrackingConfig,
    *,
    name: str,
    folder: Path,
    parent: str | None,
    resume_id: str | None,
    tags: Mapping[str, str],
) -> Run:
    """Begin a run, or go on with `resume_id`; `folder` is the run's output folder, where the spool lives.

    Whatever an earlier process left unsent in this folder is sent first. A store that cannot be reached, or a
    run that is not there, is a `UserError`: better now than after the training.
    """
    if tracking.kind == "off":
        return Run()
    folder = files.make_folder(folder).resolve()
    store = open_store(tracking)
    left = (folder / SPOOL).exists()
    spool = Spool(folder / SPOOL)
    tags = {**tags, FOLDER_TAG: str(folder)}
    try:
        if left and not spool.run and not resume_id:
            # Killed between making the run and writing down its id: that run is ours.
            resume_id = store.unfinished(FOLDER_TAG, str(folder))
        run = store.existing(resume_id) if resume_id else store.create(name, _run_tags(name, parent, tags))
    except UserError:
        spool.close()
        raise
    spool.begin(run)
    sender = Sender(spool, lambda run, records: store.deliver(folder, run, records))
    tracked = TrackedRun(run, store.link(run), spool, sender, store.secrets)
    if resume_id:
        spool.add("status", {"status": "RUNNING"})  # behind what the last process left, its status included
        tracked.tags(tags)
    if tracking.system_metrics:
        tracked.watch_machine()
    return tracked


def previous_run(folder: Path) -> str | None:
    """The run that was last tracked in this output folder, for `resume_id`."""
    lines = [line for line in files.whole_lines(folder / SPOOL) if line.startswith('{"run"')]
    return str(json.loads(lines[-1])["run"]) if lines else None


def start_parent(tracking: TrackingConfig, *, name: str, tags: Mapping[str, str]) -> str:
    """Make the run that the runs of a sweep belong to; its id, empty when tracking is off."""
    if tracking.kind == "off":
        return ""
    return open_store(tracking).create(name, _run_tags(name, None, tags))


def resume_parent(tracking: TrackingConfig, run_id: str) -> str:
    """Go on with the run of a sweep; one that is not there any more is a `UserError`."""
    return open_store(tracking).reopen(run_id)


def delete_parent(tracking: TrackingConfig, run_id: str) -> None:
    """Take back the run of a sweep that could not begin."""
    with _tolerant("delete the parent run"):
        open_store(tracking).delete(run_id)


def finish_parent(
    tracking: TrackingConfig,
    run_id: str,
    status: str,
    summary: Sequence[Child],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]],
    artifacts: Sequence[Path],
) -> None:
    """End the run of a sweep with a table of its children.

    Args:
        tracking: where it is.
        run_id: of the parent; empty: nothing is done.
        status: FINISHED, FAILED or KILLED.
        summary: the children.
        tables: further tables: path -> (columns, rows).
        artifacts: files to keep with it.
    """
    if run_id:
        with _tolerant("finish the parent run"):
            names = sorted({metric for child in summary for metric in child.metrics})
            columns = ["name", "status", "run", *names]
            rows = [[c.name, c.status, c.id, *(c.metrics.get(n) for n in names)] for c in summary]
            everything = {"tables/children.json": (columns, rows), **tables}
            open_store(tracking).end_parent(run_id, status, everything, artifacts)


def children(tracking: TrackingConfig, parent_id: str) -> list[Child]:
    """The runs of a sweep, oldest first; none (and a warning) while the store is away."""
    if parent_id:
        with _tolerant("list the runs of the sweep"):
            return open_store(tracking).children(parent_id)
    return []


def compare_link(tracking: TrackingConfig, run_ids: Sequence[str]) -> str:
    """The UI's page that compares these runs: the list folds the runs of a sweep under their parent."""
    if tracking.kind != "off" and run_ids:
        with _tolerant("make the link that compares the runs"):
            store = open_store(tracking)
            runs, experiments = (quote(json.dumps(ids)) for ids in (list(run_ids), [store.experiment]))
            return f"{store.ui}/#/compare-runs?runs={runs}&experiments={experiments}"
    return ""


def tables_link(tracking: TrackingConfig, run_ids: Sequence[str]) -> str:
    """The UI's page that shows one table of these runs side by side (its other tabs: the list and the charts)."""
    if tracking.kind != "off" and run_ids:
        with _tolerant("make the link to the tables of the runs"):
            store = open_store(tracking)
            query = quote(f"attributes.run_id IN ({', '.join(repr(run) for run in run_ids)})")
            # Sorted by anything but the date, the UI does not fold the runs of a sweep under their parent.
            view = f"orderByKey={quote('tags.`mlflow.runName`')}&orderByAsc=true&searchFilter={query}"
            place = f"{store.ui}/#/experiments/{store.experiment}/runs"
            return f"{place}?workflowType=machine_learning&compareRunsMode=ARTIFACT&{view}"
    return ""


def find_run(tracking: TrackingConfig, text: str, where: str) -> Found:
    """The one run that has this id or this name; none, or several of the name, is a `UserError` about `where`."""
    if tracking.kind == "off":
        fix = "Check the path, or set tracking=local or tracking=server to look among the runs."
        raise UserError(where, f"{text!r} is no file and no folder, and with tracking=off no runs are known", fix)
    found = open_store(tracking).find(text, FOLDER_TAG)
    if not found:
        place = f"experiment {tracking.experiment!r} of tracking={tracking.kind}"
        fix = "Check the path, the id or the name."
        raise UserError(where, f"{text!r} is no file, no folder, and no run in {place}", fix)
    if len(found) > 1:
        ids = ", ".join(run.id for run in found[:5])
        raise UserError(where, f"{len(found)} runs have the name {text!r}", f"Give the id of one, newest first: {ids}.")
    return found[0]


def fetch(tracking: TrackingConfig, run_id: str, names: Sequence[str], to: Path) -> None:
    """Copy those of these artifacts that a run has into a folder."""
    open_store(tracking).fetch(run_id, names, to)


def lightning_logger(run: Run) -> Logger:
    """A Lightning logger that writes to this run and leaves its beginning and end to us."""
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


def save_model(checkpoint: Path, config: Path, folder: Path) -> None:
    """Write a trained tagger as an MLflow model (pyfunc) into `folder`, in the place of what is there."""
    import shutil

    from omniner.tracking import pyfunc

    if folder.exists():
        shutil.rmtree(folder)
    pyfunc.save(folder, checkpoint, config)


def _run_tags(name: str, parent: str | None, tags: Mapping[str, str]) -> dict[str, str]:
    values = tag_values(tags)
    values |= {"mlflow.runName": name, "mlflow.source.name": "omniner", "mlflow.source.type": "LOCAL"}
    if commit := git_state().get("commit"):
        values["mlflow.source.git.commit"] = commit
    if parent:
        values["mlflow.parentRunId"] = parent
    return values


@contextlib.contextmanager
def _tolerant(what: str) -> Iterator[None]:
    """Turn a failure of the store after the work into a warning."""
    try:
        yield
    except UserError as error:
        log.warning("could not %s: %s", what, one_line(error))
