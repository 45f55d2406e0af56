"""Runs that a run starts: the folds of a filter, the variants of a search, the jobs of a sweep.

Each is `python -m omniner.run --child <its whole configuration>`, a fresh process with a folder of its own. Whatever
happens to it (a crash, a kill for want of memory), its siblings go on, and GPU memory ends with it. A job that has
finished is not run again, one that was interrupted goes on where it was. In MLflow the children belong to the parent's
run. `run_jobs` does the children of a run, several at a time; a sweep, whose launcher decides what runs when, calls
`run_job` for each. Price: the start of Python, 3 to 10 s a child.
"""

from __future__ import annotations

import copy
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from omniner.config import compose
from omniner.config.groups import ChildrenConfig, Config
from omniner.cores import own_cores
from omniner.errors import Stopped, UserError
from omniner.files import make_folder, read_json, wait_for_lock, write_text
from omniner.runs import processes
from omniner.runs.folder import LOCK, METRICS, read_state
from omniner.runs.processes import CheckStop

FOLDER = "children"  # in the parent's folder


class Job(NamedTuple):
    """A run to do: its name among its siblings, and its configuration."""

    name: str
    config: Config


class Outcome(NamedTuple):
    """What became of a job: `error` is one line, empty where it finished; `metrics` are the last values."""

    name: str
    folder: Path
    error: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Surroundings:
    """What a child needs beside its configuration.

    Attributes:
        folder: of its parent; what the parent keeps of it is in `children/` there.
        parent: id of the parent's MLflow run; empty where it has none.
        label: what sets the child apart in MLflow.
        gpus: how many it has for itself; 0 = it sees all.
        cores: numbers of the cores that it may use; none = all of this process.
        variables: more of its environment.
        since: a run that began before this moment (seconds since 1970) counts as another one.
    """

    folder: Path
    parent: str
    label: str
    gpus: int = 0
    cores: Sequence[int] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    since: float = 0.0


def run_job(job: Job, place: Surroundings, check_stop: CheckStop) -> Outcome:
    """Do one job, unless it has finished; `output_dir` of its configuration is the folder of its run.

    Raises:
        Stopped: from `check_stop`; the child has stopped, resumable.
    """
    folder = Path(job.config.output_dir or "")
    kept = make_folder(place.folder / FOLDER) / job.name
    error = ""
    # A name may come twice at the same time: a sweeper can ask for one configuration again.
    with wait_for_lock(Path(f"{kept}.lock"), check_stop):
        if folder.exists():  # an earlier process of this job, whose parent was killed, may be coming to its end
            with wait_for_lock(folder / LOCK, check_stop):
                pass
        if not _has_finished(folder, job.config, place.since):
            path = write_text(f"{kept}.yaml", compose.to_yaml(job.config))
            command = [sys.executable, "-m", "omniner.run", "--child", str(path)]
            environment = {**processes.child_environment(place.parent, place.label), **place.variables}
            try:
                with processes.reserved_gpus(place.gpus, check_stop) as gpus:
                    log_file = Path(f"{kept}.log")
                    error = processes.run_process(command, environment | gpus, log_file, check_stop, place.cores)
            except UserError as mistake:
                error = str(mistake)
    metrics = read_json(folder / METRICS) if not error and (folder / METRICS).exists() else {}
    return Outcome(job.name, folder, error, metrics)


def _has_finished(folder: Path, config: Config, since: float) -> bool:
    state = read_state(folder)
    same = state.get("digest") == compose.digest(config)
    return same and state.get("status") == "finished" and state.get("started", 0.0) >= since


def run_jobs(jobs: Sequence[Job], folder: Path, parent: str, settings: ChildrenConfig) -> Iterator[Outcome]:
    """Do jobs side by side or in turn, and yield what became of each as it ends.

    Args:
        jobs: with different names; `output_dir` and `resume` of their configurations are set here.
        folder: of the parent run; the run of job `a` is in `children/a` under it.
        parent: id of the parent's MLflow run; empty where it has none.
        settings: how many at once, and on how many GPUs each.

    Raises:
        UserError: the machine has not the GPUs.
        KeyboardInterrupt: told to stop; all children have stopped, resumable.
    """
    gpus, shares = _divide_machine(settings)
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for cores in shares:
        free.put(cores)
    stop = threading.Event()

    def check_stop() -> None:
        if stop.is_set():
            raise Stopped(signal.SIGTERM)

    def work(job: Job) -> Outcome:
        check_stop()
        config = copy.deepcopy(job.config)
        config.output_dir, config.resume = str(folder / FOLDER / job.name), "auto"
        cores = free.get()
        try:
            return run_job(job._replace(config=config), Surroundings(folder, parent, job.name, gpus, cores), check_stop)
        finally:
            free.put(cores)

    with ThreadPoolExecutor(len(shares)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:  # also `GeneratorExit`: whoever stops listening wants no more work
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _divide_machine(settings: ChildrenConfig) -> tuple[int, list[list[int]]]:
    """Return the GPUs of each child, and for each that runs at the same time the cores it may use, empty = all."""
    gpus = len(processes.visible_gpus())
    processes.check_gpu_count(settings.gpus, gpus)
    groups = gpus // settings.gpus if settings.gpus else 1
    places = settings.parallel or max(1, groups)
    if gpus or places == 1:
        return settings.gpus, [[] for _ in range(places)]
    # Without GPUs each place has its share of the cores: threads of several models on one core cost more than they do.
    cores = own_cores()
    return 0, [cores[place::places] or [cores[place % len(cores)]] for place in range(places)]
