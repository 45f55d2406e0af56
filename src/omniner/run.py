"""`python -m omniner.run`: compose the configuration, check it, run the task, and clean up after every kind of ending.

Hydra composes the configuration from `conf/` and the command line, and `omniner.config` checks it. `runs.folder` gives
the run its folder (an unfinished run of the same configuration is resumed), `tracking` opens its MLflow run, and the
task from the registry does the work.

A user's mistake is reported in one line, with exit status 2. A finished run exits with 1 if its task has a finding that
must make the command fail. Ctrl-C and SIGTERM leave a resumable run, marked as killed, and exit with 130 and 143. Any
other exception keeps its traceback and exits with 1.

`python -m omniner.run --child config.yaml` is how one run starts another, see `child`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from omniner.config import compose, run_config
from omniner.config.groups import Config, TrackingConfig
from omniner.config.overrides import check_own_choices, explain_override, explain_own_file, read_arguments
from omniner.errors import Stopped, UserError
from omniner.files import explaining_limits
from omniner.progress import show
from omniner.registry import TASKS, load_extensions
from omniner.runs import children, ranks, sweep
from omniner.runs.delivery import deliver, finish, send_unsent
from omniner.runs.folder import FINISHED, UNSENT, RunFolder, claim_folder
from omniner.version import __version__

if TYPE_CHECKING:
    from omniner.runs.context import Context
    from omniner.tracking.tracked_run import Ending

log = logging.getLogger("omniner")


def on_sigterm(signum: int, frame: FrameType | None) -> None:
    """Stop the run so that it can be resumed."""
    # As an exception: all code that leaves a run resumable on Ctrl-C then does so on SIGTERM, too.
    raise Stopped(signum)


@hydra.main(version_base="1.3", config_path=str(compose.conf_folder()), config_name="config")
def job(composed: DictConfig) -> float | None:
    """Run one job: a plain run, or one job of a sweep, which returns the value that an optimising sweeper needs."""
    if sweep.is_job():
        return sweep.run_child(composed)
    compose.keep_hydra()
    try:
        status = execute(compose.to_config(composed))
    except UserError as error:
        status = report(error)
    if status:
        sys.exit(status)
    return None


def execute(config: Config) -> int:
    """Execute a whole run; or, in a worker process of a run, its part of the training or of the predictions.

    Returns:
        The exit status.
    """
    ranks.drop_empty_variables()
    if share := os.environ.get(ranks.SHARE):
        from omniner.predicting.prediction_file import predict_share

        predict_share(config, Path(share))
        return 0
    if ranks.is_main_process():
        trains = config.task.name == "train"  # else the other ranks do not wait
        with ranks.telling_others(config.trainer.nodes) if trains else contextlib.nullcontext():
            _, complaint = _perform(config)
        if complaint:
            show(f"failed: {complaint}", sys.stderr)
        return int(bool(complaint))
    if config.task.name != "train":  # other tasks start their own processes on several devices
        further = ranks.further_rank()
        log.warning("%s: task=%s is done by rank 0, this process does nothing", further, config.task.name)
        return 0
    from omniner.tasks.train import fit_as_rank

    fit_as_rank(config)
    return 0


alone = threading.RLock()  # training changes settings of the whole process; reentrant: a callback may start a training


def run(config: Config, from_memory: dict[str, bytes] | None = None) -> Path:
    """Run one task, tracked, in its own folder, and return the folder; the entry point for other programs.

    `from_memory` are the files that `data.from_memory` describes, by split; it is emptied into the run's folder.

    If the task trains or torch is loaded already, torch's settings and the states of random generators are restored
    afterwards, and calls from several threads take turns.
    """
    ranks.drop_empty_variables()
    if config.task.name != "train" and "torch" not in sys.modules:
        return _perform(config, from_memory)[0]
    from omniner.compute.torch_settings import preserved_generators, preserved_settings

    with alone, preserved_settings(), preserved_generators():
        return _perform(config, from_memory)[0]


def _perform(config: Config, from_memory: dict[str, bytes] | None = None) -> tuple[Path, str]:
    """Run one task; return its folder and the finding that makes the command fail (empty = none)."""
    TASKS[config.task.name].check_machine(config)
    if not TASKS[config.task.name].has_own_run:
        return _without_folder(config), ""
    folder, complaint = claim_folder(config), ""
    try:
        if from_memory is not None:
            config = run_config.with_own_corpus(config, folder.path)
            folder.keep_corpus(config, from_memory)
        _check_effects(config, new=not folder.resumed)
        if folder.state["status"] == UNSENT:
            deliver(folder, config.tracking)
        else:
            with explaining_limits():
                complaint = _do_task(config, folder)
        folder.drop_backup()
    except UserError:
        if folder.holds_work:
            folder.drop_backup()
            log.warning("what was done is kept: the same command goes on from there (%s)", folder.path)
        elif not folder.resumed:
            _discard(config, folder)
        raise
    finally:
        folder.close()
    show(str(folder.path))
    return folder.path, complaint


def _check_effects(config: Config, new: bool) -> None:
    """Refuse a new run with an unused setting; only warn in resumed and child runs."""
    unread = compose.without_effect(config)
    if new and unread and children.child_label() is None:
        raise UserError(*next(iter(unread.items())), "Leave it out.")
    for key, why in unread.items():
        log.warning("%s has no effect: %s", key, why)


def _discard(config: Config, folder: RunFolder) -> None:
    """Delete the files of a run that could not begin, and its tracking record, which a sweep would count."""
    folder.discard()
    if run_id := folder.state.get("run_id"):
        from omniner import tracking

        tracking.delete_run(_tracking_of(config), run_id)


def _do_task(config: Config, folder: RunFolder) -> str:
    """Run the task, end its tracked run with the matching status, and return the task's complaint."""
    context = _start(config, folder)
    status: Ending = "failed"
    try:
        TASKS[config.task.name].run(context)
        status = FINISHED
    except KeyboardInterrupt:
        status = "killed"
        log.warning("stopped: the same command goes on from here (%s)", folder.path)
        raise
    finally:
        finish(context.run, status, config.tracking, folder.path, folder.save)
    return context.complaint


def _without_folder(config: Config) -> Path:
    """Run a task that only manages other runs and has no folder and no tracked run of its own."""
    from omniner.runs.context import Context
    from omniner.tracking.tracked_run import Run

    TASKS[config.task.name].run(Context(config=config, folder=Path(), run=Run()))
    return Path()


def _start(config: Config, folder: RunFolder) -> Context:
    """Open the MLflow run (the previous one if the run is resumed) and record the configuration and versions in it."""
    from omniner import tracking
    from omniner.runs.context import Context, at_commit, model_commit
    from omniner.tracking.tracked_run import library_versions

    task, label = TASKS[config.task.name], children.child_label()
    if config.tracking.kind == "server" and not task.tracked(config):
        log.info("not tracked: what task=%s does leaves nothing to compare in MLflow", task.name)
    log.info("%s %s in %s", "going on with" if folder.resumed else "starting", config.name, folder.path)
    commit = model_commit(config, folder.state) if task.uses_model(config) else None
    if commit is not None:  # the branch may move on before the run is resumed
        folder.save(model_commit=commit)
    tracked = tracking.start_run(
        _tracking_of(config),
        name=label or config.name,
        folder=folder.path,
        parent=children.parent_run_id(),
        resume_id=tracking.previous_run_id(folder.path) if folder.resumed else None,
        tags={"task": task.name} | ({} if label is None else {"sweep.child": label}),
    )
    folder.save(status="running", run_id=tracked.id, read=task.content_read(config), inputs=task.inputs_read(config))
    if tracked.id:
        send_unsent(config.tracking, wait=0, own=folder.path)
    tracked.params(task.parameters(config))
    tracked.text(run_config.to_yaml(config), "config.yaml")
    tracked.tags({f"version.{key}": value for key, value in library_versions().items()})
    if commit is not None:
        tracked.tags({"model.commit": commit})
        config = at_commit(config, commit)
    return Context(config=config, folder=folder.path, run=tracked)


def _tracking_of(config: Config) -> TrackingConfig:
    """Return where the run is tracked; tracking is off if the task does not track this configuration."""
    task, settings = TASKS[config.task.name], config.tracking
    if not task.tracked(config):
        return dataclasses.replace(settings, kind="off")
    wanted: TrackingConfig = task.tracking_for(settings)
    return wanted


def report(error: BaseException) -> int:
    """Print an error in one line; return the exit status."""
    if isinstance(error, UserError):
        show(f"error: {error}", sys.stderr)
    elif explained := explain_override(error, sys.argv[1:], compose.conf_folder()):
        show(f"error: {explained}", sys.stderr)
    else:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        show(f"error: {' | '.join(lines)}", sys.stderr)
    return 2


def stopped_status(error: KeyboardInterrupt) -> int:
    """Return the exit status of a process that a signal stopped: 128 plus the signal's number."""
    return 128 + (error.signum if isinstance(error, Stopped) else signal.SIGINT)


def _finish_sweep(outcome: Ending) -> int:
    """End the sweep, if this command is one, and print its results; return the exit status."""
    try:
        with explaining_limits():
            lines, failed = sweep.close(outcome)
    except UserError as error:
        return report(error)
    for line in lines:
        show(line)
    for line in failed:
        show(f"failed: {line}", sys.stderr)
    return int(bool(failed))


def child(path: Path) -> None:
    """Execute the command line of a child: `--child config.yaml`, with a complete configuration.

    Hydra does not run: the file holds what `to_yaml` wrote. Non-zero ranks of a run start with the same command.
    """
    from hydra.core.utils import configure_log

    signal.signal(signal.SIGTERM, on_sigterm)
    children.stop_with_parent()
    configure_log(compose.job_logging())
    ranks.end_with_main()
    try:
        load_extensions()
        with explaining_limits():
            status = execute(run_config.read(path))
    except UserError as error:
        status = report(error)
    except KeyboardInterrupt as error:
        status = stopped_status(error)
    sys.exit(status)


def compose_once(arguments: Sequence[str]) -> None:
    """Keep Hydra from composing the configuration a second time just to read `hydra.mode`, which `conf/` never sets.

    The second time takes a third of the time until a mistake is reported. A user's own configuration may set
    `hydra.mode`, so nothing changes if the command names one.
    """
    from hydra._internal.hydra import Hydra

    if not any("hydra.mode" in one or one.startswith(("--config", "-cd", "-cp", "-cn")) for one in arguments):
        Hydra.get_mode = lambda *_given, **_named: None  # type: ignore[method-assign]


def main() -> None:
    """Run the command line."""
    # No `__file__`: Python took a folder of this name, such as a clone, for the package.
    package = sys.modules["omniner"]
    if getattr(package, "__file__", None) is None:
        folder = Path(next(iter(package.__path__)))
        fix = "Run from another folder, or install OmniNER again (pip install -e <clone>)."
        sys.exit(report(UserError(folder, "a folder of this name hides the installed package", fix)))
    if sys.platform == "win32":  # child processes are stopped with signals and process groups that it does not have
        sys.exit(report(UserError("omniner", "it runs on Linux and macOS, not on Windows itself", "Use WSL 2.")))
    # The libraries create a million long-lived objects. Python's default, a garbage collection after every 700 new
    # objects, takes a tenth of a short command's time.
    gc.set_threshold(50_000)
    # libgomp reads this when torch is imported. By default its threads spin for milliseconds while they wait for each
    # other; on a busy machine, two threads are then many times slower than one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]))
        return
    if {"-h", "--help"} & set(sys.argv[1:]):
        from omniner.config.reference import help_text

        show(help_text(sys.argv[1:]))
        return
    if "--version" in sys.argv[1:]:
        show(f"OmniNER {__version__}")
        return
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    # Without this Hydra prints its own messages and exits with status 1; with it we get the exceptions.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signal.signal(signal.SIGTERM, on_sigterm)
    children.stop_with_parent()
    status: Any = 0
    outcome: Ending = "failed"
    try:
        load_extensions()
        sys.argv[1:] = read_arguments(sys.argv[1:], compose.conf_folder())
        check_own_choices(sys.argv[1:], compose.conf_folder())
        compose_once(sys.argv[1:])
        with explaining_limits():
            job()
        outcome = "finished"
    except sweep.SweepNotStarted as refused:
        status = report(refused.error)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        status = report(error)
    except (YAMLError, UnicodeDecodeError) as error:
        if (explained := explain_own_file(error, sys.argv[1:])) is None:
            raise
        status = report(explained)
    except KeyboardInterrupt as error:
        status = stopped_status(error)
        outcome = "killed"
    finally:
        of_sweep = _finish_sweep(outcome)
    sys.exit(status or of_sweep)


if __name__ == "__main__":
    main()
