"""`task=ui`: open MLflow's UI on the local store, on the next free port, and print its address.

It runs until Ctrl-C. The port is recorded in the store's folder, so that links of later runs lead to it. Experiments of
older stores are updated so that they open on their list of runs.
"""

from __future__ import annotations

from omniner.config.groups import Config
from omniner.errors import UserError
from omniner.progress import show
from omniner.runs.context import Context, Task
from omniner.tracking import browser
from omniner.tracking.store import open_store


def run(context: Context) -> None:
    """Print the addresses of the experiments and serve the UI."""
    settings = context.config.tracking
    store = open_store(settings)
    port = browser.claim_port(settings)
    for name, experiment in store.experiments().items():
        show(f"{name}: http://{browser.HOST}:{port}/{browser.experiment_page(experiment)}")
    if status := browser.serve(store.address, port):
        raise UserError("task", f"MLflow's server ended with status {status}", "Its messages stand above.")


def _check(config: Config) -> None:
    if config.tracking.kind != "local":
        raise UserError("tracking", "task=ui serves a local store", "Choose tracking=local; a server has a UI already.")


TASK = Task(
    name="ui",
    description=__doc__,
    run=run,
    label=lambda config: ["ui"],
    check=_check,
    has_own_run=False,
)
