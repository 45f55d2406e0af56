"""Children that are watched, and GPUs that are reserved."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from omniner.errors import Stopped, UserError
from omniner.runs import children
from omniner.runs.children import error_line

TRACEBACK = """12:00:00 INFO starting
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    boom()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.
GPU 0 has 1 GiB free.
"""


@pytest.mark.parametrize(
    ("said", "status", "line"),
    [
        ("anything", 0, ""),
        ("log\nerror: data.root: missing. Name it.\n", 2, "data.root: missing. Name it."),
        (TRACEBACK, 1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB."),
        (
            f"{TRACEBACK}\nDuring handling, another one occurred:\n\nTraceback (most recent call last):\nKeyError: 1\n",
            1,
            "KeyError: 1",
        ),
        ("error: data.root: first.\nerror: data.root: last.\n", 2, "data.root: last."),
        ("a\nno traceback\n", 3, "no traceback"),
        ("", 3, "exit status 3"),
        (TRACEBACK, -9, "killed by SIGKILL, as happens for want of memory"),
        ("", -11, "killed by SIGSEGV"),
    ],
)
def test_what_went_wrong_is_one_line(said: str, status: int, line: str) -> None:
    assert error_line(said, status) == line


def never() -> None:
    """Nobody says to stop."""


def stop_if(condition: Callable[[], bool]) -> children.CheckStop:
    """Says to stop once the condition holds."""

    def check_stop() -> None:
        if condition():
            raise Stopped(signal.SIGTERM)

    return check_stop


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_child_ends_and_what_it_said_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('error: key: wrong. Mend it.', file=sys.stderr); sys.exit(2)"
    said = children.run_process(python(code), os.environ, tmp_path / "log", never)
    assert said == "key: wrong. Mend it."
    assert (tmp_path / "log").read_text() == capfd.readouterr().err == "error: key: wrong. Mend it.\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_a_child_has_the_cores_it_is_given(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    code = f"import os; assert os.sched_getaffinity(0) == {{{core}}}"
    assert children.run_process(python(code), os.environ, tmp_path / "log", never, [core]) == ""
    assert os.sched_getaffinity(0) == before


def test_a_child_is_stopped_by_the_signal_that_is_asked_for(tmp_path: Path) -> None:
    ready, stopped = tmp_path / "ready", tmp_path / "stopped"
    code = (
        f"import signal, sys, time; signal.signal(15, lambda *_: sys.exit(open({str(stopped)!r}, 'w').close())); "
        f"open({str(ready)!r}, 'w').close(); time.sleep(60)"
    )
    with pytest.raises(Stopped):
        children.run_process(python(code), os.environ, tmp_path / "log", stop_if(ready.exists))
    assert stopped.exists()


def test_a_child_stops_when_its_parent_is_gone(tmp_path: Path) -> None:
    code = (
        "from omniner.runs import children; import time; children.stop_with_parent(); "
        "print(1, flush=True); time.sleep(60)"
    )
    environment = children.child_environment("run", "a")
    process = subprocess.Popen(python(code), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    process.stdin.close()
    assert process.wait(60) == -signal.SIGTERM
    process.stdout.close()


def test_variables_of_a_distributed_launch_do_not_reach_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    environment = children.child_environment("run", "a=1")
    assert "LOCAL_RANK" not in environment
    assert (environment[children.PARENT], environment[children.CHILD]) == ("run", "a=1")


@pytest.mark.parametrize(
    ("named", "seen"), [("", []), ("-1", []), ("0, 2", ["0", "2"]), ("GPU-a1,MIG-b", ["GPU-a1", "MIG-b"])]
)
def test_gpus_are_those_that_cuda_may_see(monkeypatch: pytest.MonkeyPatch, named: str, seen: list[str]) -> None:
    monkeypatch.setenv(children.VISIBLE_GPUS, named)
    assert children.visible_gpus() == seen


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"HIP_VISIBLE_DEVICES": "4,6"}, ["4", "6"]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-a,GPU-b"}, ["0", "1"]),
        ({"HIP_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "4,6"}, ["1"]),
    ],
)
def test_gpus_of_amd_are_those_that_its_own_variables_name(
    given: dict[str, str], seen: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch for AMD does not read the variable of CUDA where one of them is set: all children would use one GPU."""
    monkeypatch.setenv(children.VISIBLE_GPUS, "0,1,2,3,4,5,6,7")
    monkeypatch.setattr(children, "_DRIVERS", (str(tmp_path), str(tmp_path / "none")))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert children.visible_gpus() == seen
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with children.reserved_gpus(1, never) as reserved:
        assert reserved == {children.VISIBLE_GPUS: seen[0], "HIP_VISIBLE_DEVICES": seen[0]}


def test_variables_of_amd_mean_nothing_to_gpus_of_nvidia(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SLURM sets both for GPUs of one kind: children would get those of other jobs."""
    monkeypatch.setattr(children, "_DRIVERS", (str(tmp_path / "none"), str(tmp_path)))
    for name in (children.VISIBLE_GPUS, "ROCR_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "2,3")
    assert children.visible_gpus() == ["2", "3"]
    assert children.show_gpus(["2"]) == {children.VISIBLE_GPUS: "2"}


def test_without_the_variable_the_driver_lists_the_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-a)'\necho '  MIG 1g Device 0: (UUID: MIG-b)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(children.VISIBLE_GPUS, raising=False)
    assert children.visible_gpus() == ["0"]


def test_locks_lie_in_a_folder_of_this_user_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, link = tmp_path / "locks", tmp_path / "link"
    folder.mkdir(mode=0o755)
    assert children._private_folder(folder).stat().st_mode & 0o777 == 0o700
    link.symlink_to(folder)
    with pytest.raises(UserError, match="belongs to somebody else"):
        children._private_folder(link)
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(UserError, match="belongs to somebody else"):
        children._private_folder(folder)


def test_a_gpu_is_reserved_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(children.VISIBLE_GPUS, "0,1,2,3,4")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with children.reserved_gpus(2, never) as first, children.reserved_gpus(2, never) as second:
        assert (first, second) == ({children.VISIBLE_GPUS: "0,1"}, {children.VISIBLE_GPUS: "2,3"})
        with pytest.raises(Stopped), children.reserved_gpus(2, stop_if(lambda: True)):
            pass  # the fifth is no pair
        with children.reserved_gpus(0, never) as nothing:
            assert nothing == {}
    got = []

    def wait() -> None:
        with children.reserved_gpus(5, never) as reserved:
            got.append(reserved[children.VISIBLE_GPUS])

    with children.reserved_gpus(1, never):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.2)
        assert not got
    thread.join(60)
    assert got == ["0,1,2,3,4"]


def test_more_gpus_than_there_are_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(children.VISIBLE_GPUS, "0,1")
    with (
        pytest.raises(UserError, match=r"children\.gpus: 4 for each child, but 2 can be seen"),
        children.reserved_gpus(4, never),
    ):
        pass


def test_without_gpus_nothing_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(children.VISIBLE_GPUS, "")
    with children.reserved_gpus(4, never) as reserved:
        assert reserved == {}


MUCH = "import sys; sys.stderr.write('小满' * 100_000 + chr(10) + 'error: key: wrong. Mend it.'); sys.exit(2)"


def patient(seconds: float = 20) -> children.CheckStop:
    """Says to stop when a child takes far too long."""
    end = time.monotonic() + seconds
    return stop_if(lambda: time.monotonic() > end)


def test_a_child_goes_on_when_its_log_cannot_be_written(capfd: pytest.CaptureFixture[str]) -> None:
    said = children.run_process(python(MUCH), os.environ, Path("/dev/full"), patient())
    assert said == "key: wrong. Mend it."
    shown = capfd.readouterr().err
    assert shown.count("小满") == 100_000
    assert shown.count("\nomniner: no more is written to /dev/full") == 1, "on a line of its own"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the text that the stream still holds
def test_a_child_goes_on_when_nobody_reads_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stderr", os.fdopen(writing, "w", encoding="utf-8"))
    assert children.run_process(python(MUCH), os.environ, tmp_path / "log", patient()) == "key: wrong. Mend it."
    kept = (tmp_path / "log").read_text(encoding="utf-8")
    assert kept.count("小满") == 100_000
    assert kept.count("no more is written to the standard error") == 1


def test_a_child_goes_on_when_neither_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert children.run_process(python(MUCH), os.environ, Path("/dev/full"), patient()) == "key: wrong. Mend it."


def test_letters_on_the_border_of_two_blocks_are_shown_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import os, time; [(os.write(2, bytes([one])), time.sleep(0.05)) for one in '小满'.encode()]"
    assert children.run_process(python(code), os.environ, tmp_path / "log", patient()) == ""
    assert capfd.readouterr().err == "小满"
