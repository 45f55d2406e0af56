"""Runs on several devices, which here are processes on the CPU: predictions, signals, and a process that dies."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from omniner.machine import free_port
from omniner.runs.folder import read_state
from tests.e2e import warm
from tests.e2e.conftest import ONE_EPOCH, TINY, TINY_CAUSAL, environment, folder_of, omniner, runs_in

pytestmark = pytest.mark.slow


def start(cwd: Path, *overrides: str) -> warm.Command:
    return warm.start(overrides, cwd, environment(), session=True)


def helpers(process: warm.Command) -> list[psutil.Process]:
    """The further processes of a run."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [one for one in psutil.Process(process.pid).children() if "--child" in one.cmdline()]
    return []


def wait_for_steps(cwd: Path, process: warm.Command) -> list[psutil.Process]:
    """Wait until training is under way; gives its further processes."""
    end = time.monotonic() + 300
    while not list(cwd.glob("outputs/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.said()
        assert time.monotonic() < end
        time.sleep(0.05)
    return helpers(process)


LONG = [*(item for item in TINY if "max_epochs" not in item), "trainer.max_epochs=400", "trainer=ddp"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_all_processes_and_what_was_done_is_written(tmp_path: Path, number: int, status: int) -> None:
    process = start(tmp_path, *LONG)
    others = wait_for_steps(tmp_path, process)
    assert len(others) == 1
    os.killpg(process.pid, number)  # as a terminal and a scheduler do it
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert not others[0].is_running()
    [folder] = (tmp_path / "outputs").iterdir()
    assert read_state(folder)["status"] == "killed"
    assert [run.info.status for run in runs_in(tmp_path)] == ["KILLED"]


def test_a_process_that_dies_fails_the_run_which_goes_on_later(tmp_path: Path) -> None:
    process = start(tmp_path, *LONG)
    [other] = wait_for_steps(tmp_path, process)
    other.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "rank 1 of 2 has ended: killed by SIGKILL" in errors
    [folder] = (tmp_path / "outputs").iterdir()
    assert read_state(folder)["status"] == "failed"
    assert [run.info.status for run in runs_in(tmp_path)] == ["FAILED"]


def test_predictions_of_two_processes_are_those_of_one(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = trained
    same = ["task=predict", f"checkpoint={folder}", "tracking=off", *TINY[:1], "trainer=cpu"]
    one = folder_of(omniner(*same, cwd=tmp_path), tmp_path)
    # both start Python anew, and so have hash seeds of their own
    result = omniner(*same, "trainer.devices=2", cwd=tmp_path, anew=True)
    assert "2 processes predict about 20 sentences each" in result.stderr
    two = folder_of(result, tmp_path)
    assert (one / "predictions.jsonl").read_bytes() == (two / "predictions.jsonl").read_bytes()


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "{rank}", "LOCAL_RANK": "{rank}", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
         "TORCHELASTIC_RUN_ID": "made-up"},
        {"SLURM_PROCID": "{rank}", "SLURM_LOCALID": "{rank}", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
         "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1",
         "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "SLURM_JOB_ID": "{job}", "SLURM_JOB_NAME": "made-up"},
    ],
    ids=["torchrun", "slurm"],
)  # fmt: skip
def test_ranks_that_others_start_work_together(variables: dict[str, str], tmp_path: Path) -> None:
    """The variables of torchrun and of SLURM's srun, without either; rank 0 comes last."""
    job = str(os.getpid() % 4000)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [*ONE_EPOCH, "trainer=ddp", "output_dir=run", "tracking=off"]
    processes = []
    for rank in (1, 0):
        told = {name: value.format(rank=rank, job=job) for name, value in variables.items()}
        around = {**environment(), **place, **told}
        processes.append(warm.start(command, tmp_path, around))
        while rank == 1 and "joins when the first rank" not in processes[0].said():
            assert processes[0].poll() is None, processes[0].said()
            time.sleep(0.1)
    end = time.monotonic() + 300
    while None in (codes := [process.poll() for process in processes]) and not any(codes) and time.monotonic() < end:
        time.sleep(0.1)
    assert codes == [0, 0], [process.said() for process in processes]
    assert read_state(tmp_path / "run")["status"] == "finished"


@pytest.mark.parametrize(
    "model",
    [
        [*ONE_EPOCH, "model.dropout=0", "model.embedding_dropout=0"],
        [*TINY_CAUSAL, "trainer.max_epochs=1", "tuning=lora", "decoding=guided"],
    ],
    ids=["tagger", "causal"],
)
def test_two_nodes_write_what_one_process_writes(model: list[str], tmp_path: Path) -> None:
    """Two launches of torchrun that find each other on this machine, as two machines would."""
    common = [*model, "tracking=off", "trainer=cpu"]
    omniner(*common, "output_dir=one", cwd=tmp_path)
    port = str(free_port())
    nodes = []
    for number in (1, 0):
        place = ["--nnodes", "2", "--nproc_per_node", "1", "--node_rank", str(number)]
        meeting = ["--master_addr", "127.0.0.1", "--master_port", port]
        command = [*place, *meeting, "-m", "omniner.run", *common, "trainer.nodes=2", "output_dir=two"]
        nodes.append(warm.start(command, tmp_path, environment(), module="torch.distributed.run"))
    for node in nodes:
        _, errors = node.communicate(timeout=300)
        assert node.returncode == 0, errors
    assert read_state(tmp_path / "two")["status"] == "finished"
    one, two = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
