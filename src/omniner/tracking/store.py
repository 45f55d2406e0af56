"""Access the tracking store: a local SQLite store (`mlruns/mlflow.db`) or a server.

Only this module talks to MLflow. It uses the client API and no global state of MLflow, so that several runs can share
one process. Every failure to open the store is a `UserError` that names the key. The cost: two CPU seconds to import
MLflow and open the store, then about 10 ms per batch of metrics.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from omniner.config.groups import TrackingConfig
from omniner.errors import HIDDEN, UserError, masked, one_line
from omniner.files import make_folder
from omniner.tracking import browser
from omniner.tracking.spool import RefusedError, SpoolRecord
from omniner.tracking.tracked_run import display_name

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger("omniner.tracking")

FOLDER_TAG = "omniner.folder"  # the folder of a run's output, shown in the UI
LOCAL = "sqlite:///"  # prefix of the address of a local store
DATABASE = "mlflow.db"  # file of the local store, in its folder
ARTIFACTS = "artifacts"  # subfolder with the files of the local store
ADDRESSES = (  # tables and columns of the database that hold addresses of files
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip
LOCK_SECONDS = 120  # longest wait for another process that is creating the local store
DATA_SUFFIX = " data"  # suffix of the name of the experiment with runs about corpora, which have no scores of models
PARAMS_BATCH = 40  # MLflow accepts 100, but not more than a megabyte per request
METRICS_BATCH = 1000
IDS_BATCH = 500  # one argument of a command may have at most 128 KB
HOPELESS = ("INVALID_PARAMETER_VALUE", "MALFORMED_REQUEST")  # errors that would occur again
GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # errors for an id that no run has
CONTEXTS = {"train": "training", "dev": "validation", "test": "test"}  # MLflow's names of the splits


class ChildRun(NamedTuple):
    """A child run as recorded in the store; `metrics` are the last values."""

    id: str
    name: str
    status: str
    metrics: dict[str, float]


class FoundRun(NamedTuple):
    """A run that a search found.

    Attributes:
        id: id of the run.
        name: name of the run.
        status: running, finished, failed or killed.
        folder: its output folder at that time; empty if it is unknown.
        started: start time in seconds since 1970.
    """

    id: str
    name: str
    status: str
    folder: str
    started: float = 0.0


class Store:
    """An open store, which creates runs and receives the records of spools.

    Args:
        client: MLflow's client.
        address: address of the store, without a login.
        experiment: id of the experiment for new runs.
        ui: address of the UI.
    """

    def __init__(self, client: MlflowClient, address: str, experiment: str, ui: str) -> None:
        self.client, self.address, self.experiment = client, address, experiment
        self.ui = ui
        names = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")  # logins that MLflow reads from the environment
        self._secrets = [value for name in names if (value := os.environ.get(name))]

    def link(self, run: str) -> str:
        """Return the address of a run in the UI."""
        return f"{self.ui}/{browser.run_page(self.experiment, run)}"

    def experiments(self) -> dict[str, str]:
        """Return the ids of the experiments that hold runs of this program, by name, the newest first."""
        marks = browser.experiment_tags()
        with _explained("tracking", "looking for experiments"):
            found = self.client.search_experiments()
        return {one.name: one.experiment_id for one in found if marks.keys() <= one.tags.keys()}

    def create(self, name: str, tags: Mapping[str, str]) -> str:
        """Create a run and return its id."""
        with _explained("tracking", "making a run", "Look after the tracking store, or choose tracking=off."):
            hidden = {key: self.hide(value) for key, value in tags.items()}
            run = self.client.create_run(self.experiment, tags=hidden, run_name=self.hide(name))
        return str(run.info.run_id)

    def find_unfinished(self, folder: Path) -> str | None:
        """Return the id of the newest run of this folder that has not ended; None if there is none."""
        with _explained("tracking", "searching runs"):
            query = f"tags.`{FOLDER_TAG}` = {_quoted(str(folder))} AND attributes.status = 'RUNNING'"
            page = self.client.search_runs(self._searched(), query, max_results=1)
        return str(page[0].info.run_id) if page else None

    def stage(self, run: str) -> str:
        """Return whether a run is `active` or `deleted`; empty if the store does not know it."""
        from mlflow.exceptions import MlflowException

        with _explained("tracking", f"looking for run {run}"):
            try:
                return str(self.client.get_run(run).info.lifecycle_stage)
            except MlflowException as error:
                if error.error_code not in GONE:
                    raise
                return ""

    def has(self, run: str) -> bool:
        """Whether the store has a run that is not deleted."""
        return self.stage(run) == "active"

    def check_exists(self, run: str) -> str:
        """Return the id of a run; raise a `UserError` if the store does not have it or it is deleted."""
        fix = "Track to the store that has it, or start anew with resume=never."
        with _explained("resume", f"run {run} of this folder", fix):
            info = self.client.get_run(run).info
        if info.lifecycle_stage != "active":
            raise UserError("resume", f"run {run} was deleted in the tracking store", fix)
        return run

    def children(self, parent: str, deleted: bool = False) -> list[ChildRun]:
        """Return the children of a run, oldest first; with `deleted`, deleted ones, too."""
        from mlflow.entities import ViewType

        found: list[ChildRun] = []
        query = f"tags.`mlflow.parentRunId` = '{parent}'"
        token: str | None = None
        with _explained("tracking", "searching runs"):
            while True:
                page = self.client.search_runs(
                    self._searched(), query, ViewType.ALL if deleted else ViewType.ACTIVE_ONLY,
                    order_by=["attributes.start_time ASC"], page_token=token,
                )  # fmt: skip
                for run in page:
                    metrics = {display_name(key): value for key, value in run.data.metrics.items()}
                    found.append(ChildRun(run.info.run_id, run.info.run_name, run.info.status.lower(), metrics))
                if not (token := page.token):
                    return found

    def find(self, text: str) -> list[FoundRun]:
        """Return the run with this id, or the runs of the experiment with this name, the newest first."""
        from mlflow.exceptions import MlflowException

        with _explained("tracking", "searching runs"):
            runs = []
            if re.fullmatch("[0-9a-f]{32}", text):
                with contextlib.suppress(MlflowException):  # no such run: it may be a name
                    runs = [self.client.get_run(text)]
            if not runs:
                query = f"attributes.run_name = {_quoted(text)}"
                runs = self.client.search_runs(self._searched(), query, order_by=["attributes.start_time DESC"])
        return [
            FoundRun(
                run.info.run_id,
                run.info.run_name,
                run.info.status.lower(),
                run.data.tags.get(FOLDER_TAG, ""),
                (run.info.start_time or 0) / 1000,
            )
            for run in runs
            if run.info.lifecycle_stage == "active"
        ]

    def newest_names(self, most: int) -> list[str]:
        """Return the names of the newest `most` runs of the experiment, each once, the newest first."""
        with _explained("tracking", "searching runs"):
            order = ["attributes.start_time DESC"]
            runs = self.client.search_runs(self._searched(), order_by=order, max_results=most)
        return list(dict.fromkeys(run.info.run_name for run in runs))

    def fetch(self, run: str, names: Sequence[str], to: Path) -> None:
        """Copy artifacts of a run into a folder; names that the run does not have are skipped."""
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        with _explained("tracking", f"fetching the files of run {run}"):
            there = {item.path for item in self.client.list_artifacts(run)}
            for name in names:
                if name in there:
                    self.client.download_artifacts(run, name, str(to))

    def delete(self, run: str) -> None:
        """Mark a run as deleted, so that the UI does not show it."""
        with _explained("tracking", "deleting a run"):
            self.client.delete_run(run)

    def registered_models(self, run: str) -> list[str]:
        """Return the names of the registered models that were made from a run."""
        with _explained("tracking", "looking for registered models"):
            return sorted({one.name for one in self.client.search_model_versions(f"run_id = '{run}'")})

    def remove(self, runs: Sequence[str]) -> None:
        """Remove the data and files of deleted runs from a local store for good."""
        collect = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", self.address, "--run-ids"]
        around = {**os.environ, "MLFLOW_TRACKING_URI": self.address}
        for begin in range(0, len(runs), IDS_BATCH):
            command = [*collect, ",".join(runs[begin : begin + IDS_BATCH])]
            done = subprocess.run(command, env=around, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                fix = "Run mlflow gc by hand."
                raise UserError("tracking", f"the records of deleted runs cannot be removed: {reason}", fix)

    def deliver(self, folder: Path, run: str, records: Sequence[SpoolRecord]) -> None:
        """Send records of one run, in order. May be repeated: existing records are not duplicated."""
        from mlflow.exceptions import MlflowException

        send: dict[str, Callable[[str, Sequence[SpoolRecord]], None]] = {
            "metrics": self._metrics, "params": self._params, "tags": self._tags, "datasets": self._datasets,
            "status": self._status, "artifact": lambda run, records: self._artifacts(folder, run, records),
            "register": self._register,
        }  # fmt: skip
        try:
            for kind, group in groupby(records, key=lambda record: record.kind):
                send[kind](run, list(group))
        except MlflowException as error:
            if error.error_code in HOPELESS:
                raise RefusedError(self.hide(one_line(error))) from error
            raise

    def hide(self, text: str) -> str:
        """Return the text without this store's secrets."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return masked(text)

    def _metrics(self, run: str, records: Sequence[SpoolRecord]) -> None:
        from mlflow.entities import Metric

        # With the recorded time, a repeated metric equals the first one, and the store keeps equal metrics only once.
        metrics = [
            Metric(name, value, record.time, record.body["step"])
            for record in records
            for name, value in record.body["values"].items()
        ]
        for begin in range(0, len(metrics), METRICS_BATCH):
            self.client.log_batch(run, metrics=metrics[begin : begin + METRICS_BATCH])

    def _params(self, run: str, records: Sequence[SpoolRecord]) -> None:
        from mlflow.entities import Param, RunTag

        there = self.client.get_run(run).data.params
        new, changed = {}, {}
        for record in records:
            for name, value in record.body["values"].items():
                if name not in there:
                    new[name] = value
                elif there[name] != value:
                    changed[f"changed.{name}"] = value
        items = list(new.items())
        for begin in range(0, len(items), PARAMS_BATCH):
            self.client.log_batch(run, params=[Param(*item) for item in items[begin : begin + PARAMS_BATCH]])
        if changed:
            self.client.log_batch(run, tags=[RunTag(*item) for item in changed.items()])

    def _tags(self, run: str, records: Sequence[SpoolRecord]) -> None:
        from mlflow.entities import RunTag

        tags: dict[str, str] = {}
        for record in records:
            tags |= record.body["values"]
        items = list(tags.items())
        for begin in range(0, len(items), PARAMS_BATCH):
            self.client.log_batch(run, tags=[RunTag(*item) for item in items[begin : begin + PARAMS_BATCH]])

    def _artifacts(self, folder: Path, run: str, records: Sequence[SpoolRecord]) -> None:
        for record in records:
            path = folder / record.body["path"]
            if not path.is_file():
                raise RefusedError(f"{path} is gone")
            self.client.log_artifact(run, str(path), record.body["to"] or None)

    def _datasets(self, run: str, records: Sequence[SpoolRecord]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for record in records:
            for item in record.body["items"]:
                local = Path(item["source"]).exists()
                where = {"uri": item["source"]} if local else {"tags": {"mlflow.source.name": item["source"]}}
                profile = {"rows": item["rows"], "digest": item["digest"], "split": item["context"]}
                dataset = Dataset(
                    name=item["name"], digest=item["digest"][:12], source_type="local" if local else "code",
                    source=json.dumps(where), profile=json.dumps(profile),
                )  # fmt: skip
                context = CONTEXTS.get(item["context"], item["context"])
                inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        self.client.log_inputs(run, inputs)

    def _register(self, run: str, records: Sequence[SpoolRecord]) -> None:
        from mlflow.exceptions import MlflowException

        for record in records:
            name, artifact = record.body["name"], record.body["artifact"]
            with contextlib.suppress(MlflowException):  # it exists already; other errors also occur below
                self.client.create_registered_model(name)
            if not self.client.search_model_versions(f"name = '{name}' AND run_id = '{run}'"):
                source = f"{self.client.get_run(run).info.artifact_uri}/{artifact}"
                self.client.create_model_version(name, source, run_id=run)

    def _searched(self) -> list[str]:
        """Return the ids of the experiments that hold this program's runs."""
        return list({self.experiment: None, **dict.fromkeys(self.experiments().values())})

    def _status(self, run: str, records: Sequence[SpoolRecord]) -> None:
        for record in records:
            if (status := record.body["status"]) == "RUNNING":
                self.client.update_run(run, status)
            else:
                self.client.set_terminated(run, status, end_time=record.time)


_PASSING = {  # what SQLite says of a database with which nothing is wrong
    "database is locked": "Another process is writing it: wait, then give the same command again.",
    "disk I/O error": "Check the disk and the space that is left on it, then give the same command again.",
    "readonly database": "Make it writable, or choose another tracking.folder.",
}


def _quoted(text: str) -> str:
    """Return a text for MLflow's queries, in quotation marks that it does not contain."""
    mark = '"' if "'" in text else "'"
    return f"{mark}{text}{mark}"


def open_store(tracking: TrackingConfig) -> Store:
    """Open the store, and create the experiment if it is missing.

    Raises:
        UserError: the store cannot be opened.
    """
    if tracking.kind == "local":
        return _open_local(tracking)
    if tracking.kind == "server":
        return _open_server(tracking)
    raise UserError("tracking.kind", f"{tracking.kind!r}", "Choose off, local or server.")


def _open_local(tracking: TrackingConfig) -> Store:
    from filelock import FileLock, Timeout

    try:
        folder = make_folder(tracking.folder).resolve()
    except UserError as error:
        raise UserError("tracking.folder", f"{error.where}: {error.found}", error.fix) from error
    if found := re.search(r"[?#%]", str(folder)):
        message = f"{folder} holds a {found.group()!r}, which has a meaning in the address of a database"
        raise UserError("tracking.folder", message, "Choose another folder.")
    database = folder / DATABASE
    fix = f"Move {database} away or, after an update of MLflow, run: mlflow db upgrade sqlite:///{database}."
    try:
        # Two processes that find no database would both create its tables, and one would fail.
        with (
            FileLock(folder / "mlflow.lock", timeout=LOCK_SECONDS),
            _explained("tracking.folder", str(database), fix),
        ):
            if not database.exists() or not database.stat().st_size:
                _make_database(database)
            with contextlib.closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")  # readers and writers do not block each other
            address = f"{LOCAL}{database}"
            client = _client(address)
            artifacts = folder / ARTIFACTS / _folder_name(tracking.experiment)
            experiment = _experiment(client, tracking.experiment, artifacts.as_uri())
            _follow_move(database)
            return Store(client, address, experiment, browser.local_address(tracking))
    except Timeout as error:  # which is an OSError, too
        found_lock = f"another process has held {folder / 'mlflow.lock'} for {LOCK_SECONDS} s"
        raise UserError("tracking.folder", found_lock, "End that process.") from error
    except OSError as error:
        message = f"{folder / 'mlflow.lock'}: {error.strerror or error}"
        raise UserError("tracking.folder", message, "Choose a folder you may write to.") from error


def _folder_name(experiment: str) -> str:
    return re.sub(r"[^\w.\-]|^\.+$", "_", experiment)  # a name of only dots would be another folder


def _follow_move(database: Path) -> None:
    """Update the absolute addresses of files in the database if the store was moved or copied."""
    artifacts = database.parent / ARTIFACTS
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        for old in {before for name, location in rows if (before := _earlier_place(artifacts, name, location or ""))}:
            log.info("the tracking store was moved: its files are in %s", artifacts)
            for table, column in ADDRESSES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (artifacts.as_uri(), len(old) + 1, len(old) + 1, f"{old}/"),
                )


def _earlier_place(artifacts: Path, experiment: str, location: str) -> str:
    """Return the earlier address of this store's files; empty if it has not changed, or if a user chose another one."""
    old, _, name = location.rpartition("/")
    parts = urlsplit(old)
    before = Path(unquote(parts.path))
    if parts.scheme != "file" or name != quote(_folder_name(experiment)) or before.name != ARTIFACTS:
        return ""
    if not (artifacts / unquote(name)).is_dir():
        return ""
    try:
        if before.exists() and (before.samefile(artifacts) or not before.with_name(DATABASE).is_file()):
            return ""
    except OSError:  # no access: files cannot be written there either
        return old
    return old  # nothing is there, or the store from which this one was copied


def _make_database(database: Path) -> None:
    """Create the tables in a temporary file beside it and rename that, so that no incomplete database can remain."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    log.info("making the MLflow store %s", database)
    for left in database.parent.glob(f"{database.name}.*.new*"):
        left.unlink()
    # A new name each time: MLflow keeps its connections to a file after a failure.
    half = database.with_name(f"{database.name}.{time.time_ns()}.new")
    make: Any = SqlAlchemyStore  # MLflow does not type it
    store = make(f"sqlite:///{half}", (database.parent / ARTIFACTS).as_uri())
    store.engine.dispose()
    half.replace(database)


def _open_server(tracking: TrackingConfig) -> Store:
    if not tracking.uri:
        raise UserError("tracking.uri", "missing", "Name the server: tracking.uri=http://<host>:<port>.")
    parts = urlsplit(tracking.uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"{masked(tracking.uri)!r} is not the address of an MLflow server"
        raise UserError("tracking.uri", message, "Write http://<host>:<port> (tracking=local needs no address).")
    uri = tracking.uri.rstrip("/")
    if masked(uri) != uri:  # a login would appear in links and messages
        raise UserError("tracking.uri", "an address with a login in it", "Leave it out; the environment holds logins.")
    # Our own queue retries; MLflow's retries would block it for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    fix = (
        "Start it, mend the address, set MLFLOW_TRACKING_TOKEN (or MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD) where it asks for a login, or choose tracking=local."
    )
    with _explained("tracking.uri", f"the MLflow server {uri}", fix):
        client = _client(uri)
        return Store(client, uri, _experiment(client, tracking.experiment, None), uri)


def import_mlflow() -> None:
    """Import MLflow, quietly and without telemetry."""
    if "mlflow.tracking" not in sys.modules:
        log.info("loading MLflow")  # takes some seconds
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when MLflow is imported
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=kind, module="mlflow")
        import mlflow.tracking  # noqa: F401
    for name in ("mlflow.store.db.utils", "alembic"):  # they log each new table, and errors twice
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Return the id of the experiment, which is created if it is missing."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts, tags=browser.experiment_tags())
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process was faster
    if experiment is None or experiment.lifecycle_stage != "active":
        fix = "Choose another name, or restore it (`mlflow experiments restore`)."
        raise UserError("tracking.experiment", f"{name!r} was deleted in the tracking store", fix)
    with contextlib.suppress(MlflowException):  # for older stores; a user without permission keeps the old view
        for key, value in browser.missing_tags(experiment.tags).items():
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


@contextlib.contextmanager
def _explained(where: str, what: str, fix: str = "Look after the tracking store.") -> Iterator[None]:
    """Turn a failure of the store into a `UserError`."""
    import_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = database_reason(error)
        if "disk is full" in reason or getattr(error, "errno", None) == errno.ENOSPC:
            reason, fix = "no space is left on the disk", "Free some space, then give the same command again."
        fix = next((advice for words, advice in _PASSING.items() if words in reason), fix)
        raise UserError(where, f"{what} does not work: {reason}", fix) from error


def database_reason(error: BaseException) -> str:
    """Return the message of an error in one line; for a database's error without the SQL statement."""
    found = re.search(r"\(sqlite3\.\w+\) (.+?)\s*(?:\[SQL|\(Background|$)", str(error), re.DOTALL)
    return one_line(ValueError(found[1])) if found else one_line(error)
