"""Runs that a run starts: each a fresh process with a folder of its own under the parent's, side by side or in turn.

In: a `Job` for each, with its whole configuration; out: an `Outcome` for each, as they end. A job that finished before
the parent was interrupted is not run again, one that did not goes on where it was. A child that fails ends alone. In
MLflow the children belong to the parent's run. Price: the start of Python, 3 to 10 s a child.
"""

from __future__ import annotations

import copy
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from omniner.config import compose
from omniner.config.groups import ChildrenConfig, Config
from omniner.cores import own_cores
from omniner.errors import Stopped
from omniner.files import make_folder, read_json, write_text
from omniner.runs import processes
from omniner.runs.folder import METRICS, read_state

FOLDER = "children"


class Job(NamedTuple):
    """A run to do: its name among its siblings, which is its folder's, and its configuration.

    `output_dir`, `resume` and `children` of the configuration are set here.
    """

    name: str
    config: Config


class Outcome(NamedTuple):
    """What became of a job: `error` is one line, empty where it finished; `metrics` are the last values."""

    name: str
    folder: Path
    error: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Slots:
    """What runs side by side: `cores` has an entry per place, empty where a child may use all."""

    gpus: int
    cores: list[list[int]]


def run_all(jobs: Sequence[Job], folder: Path, parent: str | None, settings: ChildrenConfig) -> Iterator[Outcome]:
    """Do the jobs; gives their outcomes as they end.

    Args:
        jobs: with different names.
        folder: of the parent run; job `a` is done in `children/a` under it.
        parent: id of the parent's MLflow run.
        settings: how many at once, and on how many GPUs each.

    Raises:
        UserError: the machine has not the GPUs.
        KeyboardInterrupt: told to stop; all children have stopped, resumable.
    """
    slots = _slots(settings)
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for cores in slots.cores:
        free.put(cores)
    stop = threading.Event()

    def work(job: Job) -> Outcome:
        cores = free.get()
        try:
            return _run(job, folder, parent, slots.gpus, cores, lambda: signal.SIGTERM if stop.is_set() else None)
        finally:
            free.put(cores)

    with ThreadPoolExecutor(len(slots.cores)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:  # also `GeneratorExit`: whoever stops listening wants no more work
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _slots(settings: ChildrenConfig) -> _Slots:
    """How many at once, and the cores of each where CPU children share the machine."""
    gpus = len(processes.visible_gpus())
    processes.check_gpus(settings.gpus, gpus)
    groups = gpus // settings.gpus if settings.gpus else 1
    places = settings.parallel or max(1, groups)
    cores = own_cores()
    if gpus or places == 1:
        return _Slots(settings.gpus, [[] for _ in range(places)])
    # Without GPUs each place has its share of the cores: threads of several models on one core cost more than they do.
    shares = [cores[place::places] or [cores[place % len(cores)]] for place in range(places)]
    return _Slots(0, shares)


def _run(job: Job, folder: Path, parent: str | None, gpus: int, cores: list[int], stopped: processes.Asked) -> Outcome:
    if (signum := stopped()) is not None:
        raise Stopped(signum)
    place = folder / FOLDER / job.name
    config = copy.deepcopy(job.config)
    config.output_dir, config.resume = str(place), "auto"
    error = ""
    if place.exists():  # an earlier process of this job, whose parent was killed, may be coming to its end
        with processes.locked(place / ".lock", stopped):
            pass
    state = read_state(place)
    if (state.get("digest"), state.get("status")) != (compose.digest(config), "finished"):
        make_folder(folder / FOLDER)
        path = write_text(folder / FOLDER / f"{job.name}.yaml", compose.to_yaml(config))
        command = [sys.executable, "-m", "omniner.run", "--child", str(path)]
        with processes.lent_gpus(gpus, stopped) as lent:
            environment = {**processes.environment(parent or "", job.name), **lent}
            error = processes.spawn(command, environment, path.with_suffix(".log"), stopped, cores)
    metrics = read_json(place / METRICS) if not error and (place / METRICS).exists() else {}
    return Outcome(job.name, place, error, metrics)
