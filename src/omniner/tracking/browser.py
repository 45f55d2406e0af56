"""Control what people see in MLflow's UI: the page that an experiment opens on, its columns, and the links to runs.

By default MLflow opens an experiment on its traces, not on its runs, unless a tag of the experiment says that models
are trained in it (since 3.17, unless the address says so or "Model training" is chosen in the UI), and it shows no
metrics until a user chooses some. `experiment_tags` and the addresses made here change both: the tags contain a view
with the scores as columns, which is in the list of views and has its own address (`experiment_page`). `serve` is used
by `task=ui`: it runs MLflow's server on the local store. `claim_port` records its port, so that links lead to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from omniner.config.groups import TrackingConfig
from omniner.errors import UserError
from omniner.files import read_json, write_json

HOST = "127.0.0.1"
UI_FILE = "ui.json"  # in the folder of a local store: the port of its UI
PORTS = 20  # number of ports to try
NOTE_TAG = "mlflow.note.content"  # the description of a run, in Markdown
_VIEW = "omniner"  # key of the view of scores
_VIEW_TAG = f"mlflow.sharedViewState.{_VIEW}"
_CREATED = 1767225600000  # ms; creation time of the view shown in the UI, a constant so that equal views are equal
_METRICS = ("test/f1", "test/micro_precision", "test/micro_recall", "test/errors", "val/best_f1")
_PARAMS = ("model.name", "head.kind", "data.name", "seed")


def experiment_tags() -> dict[str, str]:
    """Return the tags that make an experiment open on its list of runs, with the scores as columns."""
    columns = [f"metrics.`{name}`" for name in _METRICS] + [f"params.`{name}`" for name in _PARAMS]
    state = {"selectedColumns": columns, "orderByKey": "attributes.start_time", "orderByAsc": False}
    view = {"name": "Scores", "createdAt": _CREATED, "state": json.dumps(state)}
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.experiment.primaryMetric.name": _METRICS[0],
        "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
        _VIEW_TAG: json.dumps(view),
    }


def missing_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that an experiment lacks; an outdated view is renewed, other tags that users changed are kept."""
    ours = experiment_tags()
    return {key: ours[key] for key in ours if key not in tags or (key == _VIEW_TAG and tags[key] != ours[key])}


def experiment_page(experiment: str) -> str:
    """Return the address of an experiment's runs with their scores, relative to the UI's root."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={_VIEW}&workflowType=machine_learning"


def run_page(experiment: str, run: str) -> str:
    """Return the address of a run, relative to the UI's root."""
    # `workflowType` selects the part of the UI for trained models instead of the one for prompts
    return f"#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"


def compare_page(experiment: str, runs: Sequence[str]) -> str:
    """Return the address that compares runs, relative to the UI's root; an experiment's list hides children of runs."""
    ids, experiments = (quote(json.dumps(values)) for values in (list(runs), [experiment]))
    return f"#/compare-runs?runs={ids}&experiments={experiments}"


def local_address(tracking: TrackingConfig) -> str:
    """Return the address at which `task=ui` serves the local store, or would serve it."""
    port = tracking.port
    with contextlib.suppress(UserError, KeyError, TypeError, ValueError):
        port = int(read_json(Path(tracking.folder) / UI_FILE)["port"])
    return f"http://{HOST}:{port}"


def claim_port(tracking: TrackingConfig) -> int:
    """Choose the first free port from `tracking.port` on, record it in the store's folder, and return it.

    Raises:
        UserError: none of `PORTS` ports is free.
    """
    for port in range(tracking.port, min(tracking.port + PORTS, 1 << 16)):
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        write_json(Path(tracking.folder) / UI_FILE, {"port": port})
        return port
    raise UserError("tracking.port", f"{PORTS} ports from {tracking.port} on are taken", "Choose another.")


def serve(address: str, port: int) -> int:
    """Run MLflow's server on a local store until it is stopped; return its exit status."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", address]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # without jobs and telemetry, which are not used here and would start seven more processes
    around = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(command, env=around)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return 0
