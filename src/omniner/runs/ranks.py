"""Start and watch the worker processes of a run: ranks of a training on several devices, and parallel predictors.

A run is one process until it works on several devices. Then it starts the others, each with the run's own
configuration, and watches them. Lightning can start ranks by itself, but it ends the main process by SIGKILL as soon as
one of them has died, so that neither the run's state nor its tracking is closed. It also runs the command line of the
process again, which in a notebook or another program is not that of OmniNER.

- Only the main process receives signals: the workers have their own sessions. It agrees with them on a step to stop at
  (`training.fit`), and all end by themselves.
- If one dies, all are ended, because its siblings would wait for it for ever. The main process gets an exception; if it
  hangs in a library call that no signal interrupts, it ends after half a minute and can be resumed.
- A worker's standard input is a pipe from the main process: when it closes, the worker ends at once.

If torchrun, SLURM or a person has started the ranks (`machine.are_given`), nothing is started here. They must be as
many as the run has devices: any others would each train alone, all into the same folder. They begin at once, so the
others wait until the first has claimed the run's folder, in which an earlier run may have left a state to resume from.
It also decides for all what `auto` becomes, which may depend on the machine: see `chosen_by_first`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from omniner.errors import Stopped, UserError, first_line_of, one_line
from omniner.machine import are_given, free_port, tasks_of_step
from omniner.runs import children
from omniner.wording import counted

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

log = logging.getLogger("omniner")

RUN_FOLDER = "OMNINER_RUN_FOLDER"  # the run's folder, for non-zero ranks
ACCELERATOR = "OMNINER_ACCELERATOR"  # that the main process has chosen, for the ranks that it starts
PRECISION = "OMNINER_PRECISION"  # likewise
SHARE = "OMNINER_PREDICTION_SHARE"  # the file to which a worker process writes its share of the predictions
HELPER = "OMNINER_HELPER"  # set in a process that was started here and ends with its main process
_FURTHER = ("SLURM_PROCID", "RANK", "LOCAL_RANK", "NODE_RANK")
_NUMBERS = (*_FURTHER, "SLURM_NTASKS", "GROUP_RANK", "JSM_NAMESPACE_RANK")  # that Lightning reads
_LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")
_DONE, _FAILED = "done", "failed"  # last words of a first rank that ends before the training
_PATIENCE = 120.0  # seconds for ranks to end after the main process has finished its part
_MENDING = 3.0  # seconds to wait for the main process's own error after a worker's failure, and the other way round
_HANGING = 30.0  # seconds until a main process that hangs is ended


class HelperError(RuntimeError):
    """A worker process of this run has ended before its work was done."""


class Helper(NamedTuple):
    """A worker process to start: its name, its command line, and additional environment variables."""

    name: str
    command: Sequence[str]
    variables: Mapping[str, str]


def is_main_process() -> bool:
    """Return False in the non-zero ranks of a distributed run, which neither claim a folder nor track."""
    return not further_rank()


def further_rank() -> str:
    """Return the variable that makes this process a non-zero rank, such as `RANK=1`; empty if it is not one."""
    given = ((name, os.environ.get(name, "")) for name in _FURTHER)  # set but empty = not set
    return next((f"{name}={rank}" for name, rank in given if rank not in ("", "0")), "")


def is_beside_first() -> bool:
    """Return whether this process is a rank on a machine that has another first rank."""
    return any(os.environ.get(name, "") not in ("", "0") for name in _LOCAL)


def drop_empty_variables() -> None:
    """Remove the variables of ranks that are set but empty, which are as good as not set, from the environment.

    Lightning reads them as numbers as soon as it is imported.
    """
    for name in _NUMBERS:
        if os.environ.get(name) == "":
            del os.environ[name]


@contextlib.contextmanager
def started_ranks(count: int, nodes: int, accelerator: str, precision: str, folder: Path) -> Iterator[None]:
    """Make this process rank 0 of `count` on this machine for the block, and start the others.

    Args:
        count: number of processes on this machine.
        nodes: number of machines, with as many processes each.
        accelerator: cpu | gpu, as this process has chosen it. The others work with the same.
        precision: likewise.
        folder: the run's folder, which holds its `config.yaml`, and is claimed.

    Raises:
        HelperError: a rank has died.
        UserError: ranks that were started from outside are not `count` on each of `nodes`.
    """
    chosen = {ACCELERATOR: accelerator, PRECISION: precision}
    if are_given() and HELPER not in os.environ:
        _check_given(count, nodes)
    if is_main_process() and (place := _meeting_place(nodes)) is not None:
        meeting = _hold_meeting(*place)  # until the end of the block: others may come later, into `chosen_by_first`
        meeting.set(_meeting_key(), json.dumps(chosen))
    if count < 2 or are_given():
        yield
        return
    rendezvous = {
        "NODE_RANK": os.environ.get("NODE_RANK") or "0",
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or "127.0.0.1",
        "MASTER_PORT": os.environ.get("MASTER_PORT") or str(free_port()),
        RUN_FOLDER: str(folder.resolve()),
        **chosen,
    }
    command = children.child_command(folder / "config.yaml")
    helpers = [
        Helper(f"rank {number} of {count}", command, {**rendezvous, "LOCAL_RANK": str(number)})
        for number in range(1, count)
    ]
    with _environment({**rendezvous, "LOCAL_RANK": "0"}), working_beside(helpers, _PATIENCE):
        yield


@contextlib.contextmanager
def telling_others(nodes: int) -> Iterator[None]:
    """Tell the ranks that wait in `chosen_by_first` when the block, the whole run, ends without a training to join.

    Args:
        nodes: number of machines of the run.
    """
    if (place := _meeting_place(nodes)) is None:
        yield
        return
    from omniner.compute.meeting import leave_word

    all_ranks = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or nodes
    meeting, word, readers = _hold_meeting(*place), _FAILED, int(all_ranks) - 1
    try:
        yield
        word = _DONE
    except KeyboardInterrupt:
        readers = 0  # to stop is urgent, and the others are told to as well
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # torchrun's store may be gone: the run's own error is what matters
            if not meeting.check([_meeting_key()]):
                leave_word(meeting, _meeting_key(), json.dumps(word), readers)


def chosen_by_first(nodes: int) -> tuple[str, str] | None:
    """Return the accelerator and the precision that the first rank has chosen for all; empty if nobody says.

    A rank that was not started here waits until the first one has claimed the run's folder and chosen.

    Args:
        nodes: number of machines of the run.

    Returns:
        The two; None if the first rank had nothing to train and the run is done.

    Raises:
        UserError: the first rank has failed or ended, or does not come.
    """
    chosen, place = dict(os.environ), _meeting_place(nodes)
    if place is not None:
        from omniner.compute.meeting import wait_for_word

        try:
            word = json.loads(wait_for_word(*place, _meeting_key()))
        except RuntimeError as error:
            found = f"the first rank of this run does not answer ({one_line(error)})"
            raise UserError("trainer.devices", found, "See what it says, or start it.") from error
        if word == _FAILED:
            raise UserError("trainer.devices", "the first rank of this run has failed", "See what it says.")
        if word == _DONE:
            return None
        chosen = word
    return chosen.get(ACCELERATOR, ""), chosen.get(PRECISION, "")


def _hold_meeting(address: str, port: int) -> TCPStore:
    """Return the store at which the others look for what this first rank has chosen.

    Raises:
        UserError: another program has the port, or torchrun does not answer.
    """
    from omniner.compute.meeting import open_meeting

    try:
        return open_meeting(address, port, first=True)
    except RuntimeError as error:
        found = f"the ranks cannot meet at {address}:{port} ({first_line_of(error)})"
        raise UserError("MASTER_PORT", found, "Start them with a free port, or end what uses it.") from error


def _meeting_place(nodes: int) -> tuple[str, int] | None:
    """Return the address and the port at which ranks of other machines or from outside meet; None if there are none."""
    if HELPER in os.environ or not (are_given() or nodes > 1):
        return None
    if not os.environ.get("LOCAL_RANK") and tasks_of_step() > 1:
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        return SLURMEnvironment().main_address, SLURMEnvironment().main_port
    port = os.environ.get("MASTER_PORT")
    return (os.environ.get("MASTER_ADDR") or "127.0.0.1", int(port)) if port else None


def _meeting_key() -> str:
    """Return the key of what the first rank has chosen; another one where torchrun has started the ranks again."""
    return f"omniner/chosen/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _check_given(count: int, nodes: int) -> None:
    """Raise a `UserError` unless torchrun or SLURM has started `count` ranks on each of `nodes`, as far as they say."""
    fix = "Set trainer.devices to the processes of each node and trainer.nodes to the nodes, or start as many."
    planned: dict[str, int] = {}
    if os.environ.get("LOCAL_RANK"):
        planned = {"WORLD_SIZE": count * nodes, "LOCAL_WORLD_SIZE": count}
    elif tasks_of_step() > 1:
        planned = {"SLURM_STEP_NUM_TASKS": count * nodes, "SLURM_STEP_NUM_NODES": nodes}
        fix += " With --gpus-per-task each process sees one GPU only: give srun --gpus-per-node instead."
    for name, expected in planned.items():
        given = os.environ.get(name) or expected
        if int(given) != expected:
            wanted = f"it wants {counted(count, 'process')} on {counted(nodes, 'node')}"
            raise UserError("trainer.devices", f"this run was started with {name}={given}, but {wanted}", fix)


def end_with_main() -> None:
    """Set up a process that was started here: log only warnings and errors, and end when the main process ends."""
    if HELPER in os.environ:
        log.setLevel(logging.WARNING)
        # at once: a rank may hang in a library, waiting for a main process that is gone
        children.when_stdin_closes(lambda: os._exit(1))


@contextlib.contextmanager
def working_beside(helpers: Sequence[Helper], patience: float | None) -> Iterator[None]:
    """Run worker processes during the block, and wait for their end after it; they are ended if the block fails.

    Args:
        helpers: the processes.
        patience: seconds for them to end after the block; None = no limit.

    Raises:
        HelperError: one of them failed; may be raised at any point of the block.
    """
    crew = _Crew(helpers)
    with crew.interrupting():
        try:
            yield
            crew.wait(patience)
        except (Exception, KeyboardInterrupt) as error:
            # a library's error about a lost sibling ("connection closed by peer") is not the cause: report the worker's
            if not isinstance(error, HelperError | ValueError | KeyboardInterrupt) and crew.fails_within(_MENDING):
                raise HelperError(crew.failure) from error
            raise
        finally:
            crew.end()
    if crew.failure:
        raise HelperError(crew.failure)


class _Crew:
    """Watches some processes, each in a thread of its own."""

    def __init__(self, helpers: Sequence[Helper]) -> None:
        self.failure = ""
        self._failed, self._ending, self._telling = threading.Event(), threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(helper,), daemon=True) for helper in helpers]
        for thread in self._threads:
            thread.start()

    def _run(self, helper: Helper) -> None:
        dropped = (children.CHILD, children.PARENT, *children.RANK_VARIABLES)
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        with tempfile.TemporaryDirectory() as folder:
            error = ""
            with contextlib.suppress(Stopped):
                error = children.run_process(
                    helper.command, {**kept, **helper.variables, HELPER: "1"}, Path(folder) / "log", self._check_end
                )
        if error and not self._ending.is_set():
            self.failure = self.failure or f"{helper.name} has ended: {error}"
            self._failed.set()

    def _check_end(self) -> None:
        if self._ending.is_set():
            raise Stopped(signal.SIGKILL)  # they write nothing that a kill could damage

    def fails_within(self, seconds: float) -> bool:
        """Return whether one of them has failed, or fails within `seconds`."""
        return self._failed.wait(seconds)

    def wait(self, patience: float | None) -> None:
        """Wait until all have ended, one has failed, or `patience` seconds have passed."""
        end = None if patience is None else time.monotonic() + patience
        for thread in self._threads:
            while thread.is_alive() and not self.failure and (end is None or time.monotonic() < end):
                thread.join(children.SECONDS_BETWEEN_CHECKS)

    def end(self) -> None:
        """End those that are still running."""
        with self._telling:
            self._ending.set()
        for thread in self._threads:
            thread.join()

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise `HelperError` in the main thread when one fails; end this process if it hangs and does not raise it."""
        if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
            yield
            return

        def tell(number: int, frame: FrameType | None) -> None:
            raise HelperError(self.failure)

        def watch() -> None:
            while not self._failed.is_set():
                if self._ending.wait(children.SECONDS_BETWEEN_CHECKS):
                    return
            self._ending.wait(_MENDING)
            with self._telling:
                if self._ending.is_set():
                    return
                os.kill(os.getpid(), signal.SIGUSR2)
            if not self._ending.wait(_HANGING):
                log.critical("%s, and this process hangs: it ends; the same command goes on", self.failure)
                os._exit(1)

        before: Any = signal.signal(signal.SIGUSR2, tell)
        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR2, before)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block, and restore them after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
