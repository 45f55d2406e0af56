"""The command line: what Hydra is kept from doing."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_hub
import pytest
from hydra._internal.hydra import Hydra

from omniner import machine, run, tracking
from omniner.config import compose
from omniner.config.groups import Config
from omniner.config.model_groups import EncoderConfig
from omniner.errors import UserError
from omniner.predicting.engines import TrainedModel
from omniner.predicting.prediction_file import remove_stale
from omniner.records import Sentence
from omniner.runs import children, ranks
from omniner.runs.folder import RunFolder, claim_folder, read_state
from omniner.tracking.tracked_run import Run


@pytest.mark.parametrize(
    ("arguments", "once"),
    [
        (["seed=1"], True),
        (["-m", "seed=1,2"], True),
        (["hydra.mode=MULTIRUN"], False),
        (["--config-dir", "mine"], False),
        (["-cd=mine"], False),
    ],
)
def test_the_configuration_is_composed_once_where_nobody_sets_the_mode(
    arguments: Sequence[str], once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hydra, "get_mode", lambda *_: "composed")
    run.compose_once(arguments)
    assert Hydra.get_mode(object(), "config", []) == (None if once else "composed")  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "kept"), [(None, "10000"), ("0", "0")])
def test_threads_do_not_hold_the_cores_that_they_wait_on(
    given: str | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", given or "")  # so that it is put back afterwards
    if given is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setattr("sys.argv", ["omniner", "--version"])
    run.main()
    assert os.environ["GOMP_SPINCOUNT"] == kept


def test_native_windows_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 2
    assert "not on Windows itself. Use WSL 2." in capsys.readouterr().err


def test_a_training_leaves_torch_to_the_program_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def train(config: Config, records: None) -> tuple[Path, str]:
        torch.set_num_threads(threads + 1)
        torch.set_float32_matmul_precision("high")
        return Path("here"), ""

    threads = torch.get_num_threads()
    monkeypatch.setattr(run, "_perform", train)
    assert run.run(compose.load([])) == Path("here")
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (threads, "highest")


def test_a_training_leaves_random_numbers_to_the_program_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import torch
    from pytorch_lightning import seed_everything

    def train(config: Config, records: None) -> tuple[Path, str]:
        seed_everything(7, workers=True, verbose=False)
        return Path("here"), ""

    def states() -> tuple[object, ...]:
        variables = os.environ.get("PL_GLOBAL_SEED"), os.environ.get("PL_SEED_WORKERS")
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), variables

    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    monkeypatch.setattr(run, "_perform", train)
    before = states()
    run.run(compose.load([]))
    assert states() == before


def test_trainings_of_several_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they seed and set is the whole process's."""
    ended: list[str] = []

    def train(config: Config, records: None) -> tuple[Path, str]:
        if config.name == "first":
            other.start()
            free.append(other_may_begin())
        ended.append(config.name)
        return Path(config.name), ""

    def other_may_begin() -> bool:
        with ThreadPoolExecutor() as threads:
            return threads.submit(lambda: run.alone.acquire(blocking=False)).result()

    free: list[bool] = []
    second = compose.load(["name=second"])
    other = threading.Thread(target=lambda: run.run(second))
    monkeypatch.setattr(run, "_perform", train)
    run.run(compose.load(["name=first"]))
    other.join()
    assert (free, ended) == ([False], ["first", "second"])


WITHOUT_EFFECT = ["head=crf", "head.label_smoothing=0.1", "tuning.rank=4"]


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunFolder]:
    """The folders of runs whose tasks were done, each of which takes no time."""
    done: list[RunFolder] = []

    def do_task(config: Config, folder: RunFolder) -> str:
        done.append(folder)
        return ""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "_do_task", do_task)
    return done


@pytest.mark.parametrize("place", [[], ["output_dir=here"]])
def test_a_new_run_with_a_setting_without_effect_is_refused(
    place: list[str], done: list[RunFolder], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"^head\.label_smoothing: a crf head does not read it, .*softmax\. Leave it out"
    ):
        run.execute(compose.load([*WITHOUT_EFFECT, *place]))
    assert (done, list(tmp_path.rglob("*.*"))) == ([], []), "and leaves nothing"


@pytest.mark.parametrize("place", [[], ["output_dir=here"], ["resume={folder}"]])
def test_an_unfinished_run_with_a_setting_without_effect_goes_on_by_its_command(
    place: list[str], done: list[RunFolder], caplog: pytest.LogCaptureFixture
) -> None:
    begun = claim_folder(compose.load([*WITHOUT_EFFECT, *(one for one in place if "resume" not in one)]))
    begun.close()
    assert run.execute(compose.load([*WITHOUT_EFFECT, *(one.format(folder=begun.path) for one in place)])) == 0
    assert [(folder.path, folder.resumed) for folder in done] == [(begun.path, True)]
    assert "tuning.rank has no effect: it is for causal models" in caplog.text


def test_a_job_of_a_sweep_with_a_setting_without_effect_is_told(
    done: list[RunFolder], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(children.CHILD, "head=crf")
    assert run.execute(compose.load(WITHOUT_EFFECT)) == 0
    assert [folder.resumed for folder in done] == [False]
    assert "head.label_smoothing has no effect: a crf head does not read it" in caplog.text


def test_a_resumed_run_reads_its_model_at_the_same_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tags(Run):
        def tags(self, values: Mapping[str, Any]) -> None:
            tags.update(values)

    tags: dict[str, Any] = {}
    fake_hub.use(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "start_run", lambda *_, **__: Tags())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    config = compose.load(["model=path", "model.path=org/small", "model.revision=stable", "output_dir=out"])
    for number in (1, 2):  # the branch moves on after the run began
        fake_hub.publish(tmp_path / "cache", "org/small", str(number) * 40, tmp_path / "model", ["stable"])
        folder = claim_folder(config)
        context = run._start(config, folder)
        folder.close()
        assert folder.resumed == (number == 2)
        assert isinstance(context.config.model, EncoderConfig)
        assert context.config.model.revision == tags["model.commit"] == "1" * 40
        assert read_state(folder.path)["model_commit"] == "1" * 40


@pytest.mark.parametrize(
    ("left_by_first", "kept"),
    [
        ({"run_id": ""}, True),  # of an older version, or the commit was unknown
        ({}, False),  # killed while it asked the hub
    ],
)
def test_a_run_that_began_without_a_commit_goes_on_without_one(
    left_by_first: dict[str, str],
    kept: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_hub.use(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    config = compose.load(["model=path", "model.path=org/small", "output_dir=out", "tracking=off"])
    first = claim_folder(config)
    first.save(**left_by_first)
    model, sentences = TrainedModel(Path("best.ckpt")), [Sentence("s", "去上海")]
    path = first.path / "predictions.jsonl"
    remove_stale(path, config, model, sentences)
    path.write_text("{}")
    first.close()
    fake_hub.publish(tmp_path / "cache", "org/small", "1" * 40, tmp_path / "model", ["main"])
    folder = claim_folder(config)
    context = run._start(config, folder)
    folder.close()
    assert isinstance(context.config.model, EncoderConfig)
    assert context.config.model.revision == (None if kept else "1" * 40)
    remove_stale(path, context.config, model, sentences)
    assert path.exists() == kept
    assert ("is of another config than now" in caplog.text) != kept


def test_a_run_whose_output_nobody_reads_is_finished(done: list[RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert run.execute(compose.load([])) == 0
    assert [folder.path.exists() for folder in done] == [True]


def test_lightning_finds_no_empty_variable_of_ranks(tmp_path: Path) -> None:
    """It reads some when it is imported and others when its trainer is made, each as a number."""
    code = """
import os
from omniner import run
from omniner.config import compose

def perform(config, records=None):
    import pytorch_lightning as pl
    pl.Trainer(accelerator="cpu", devices=1, strategy="ddp", logger=False)
    return "", ""

run._perform = perform
run.execute(compose.load(["task=stats"]))
os.environ["RANK"] = ""
run.run(compose.load(["task=stats"]))
assert "RANK" not in os.environ
"""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_NTASKS", "JSM_NAMESPACE_RANK")
    empty = os.environ | dict.fromkeys(names, "")
    done = subprocess.run([sys.executable, "-c", code], env=empty, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"])
def test_a_further_rank_that_does_nothing_says_so_and_an_empty_variable_is_none(
    name: str, done: list[RunFolder], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = compose.load(["task=stats"])
    monkeypatch.setenv(name, "1")
    assert run.execute(config) == 0
    assert not done
    assert f"{name}=1: task=stats is done by rank 0, this process does nothing" in caplog.text
    monkeypatch.setenv(name, "")
    assert not machine.are_given()
    assert run.execute(config) == 0
    assert len(done) == 1


TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "count", "nodes", "found"),
    [
        (TORCHRUN, 1, 1, "WORLD_SIZE=4, but it wants 1 process on 1 node"),
        (TORCHRUN, 4, 1, "LOCAL_WORLD_SIZE=2, but it wants 4 processes on 1 node"),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, 2, 1, "WORLD_SIZE=1, but it wants 2 processes on 1 node"),
        (SRUN, 1, 1, "SLURM_STEP_NUM_TASKS=4, but it wants 1 process on 1 node"),
        (SRUN, 4, 1, "SLURM_STEP_NUM_NODES=2, but it wants 4 processes on 1 node"),
    ],
)
def test_ranks_from_outside_that_would_train_alone_are_refused(
    variables: dict[str, str], count: int, nodes: int, found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused = pytest.raises(UserError, match=f"^trainer.devices: this run was started with {found}")
    with refused as error, ranks.started_ranks(count, nodes, "cpu", "32-true", tmp_path):
        pass
    assert ("--gpus-per-task" in str(error.value)) is ("SLURM" in found)


@pytest.mark.parametrize(
    ("variables", "count", "nodes"),
    [
        (TORCHRUN, 2, 2),
        (SRUN, 2, 2),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, 2, 1),  # a person's, who need not say how many there are
        ({**TORCHRUN, ranks.HELPER: "1"}, 2, 1),  # started here, with variables of whoever started the main process
        ({"LOCAL_RANK": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, 2, 1),  # torchrun in a step of srun
    ],
)
def test_ranks_from_outside_that_fit_the_devices_begin(
    variables: dict[str, str], count: int, nodes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(machine.free_port()), **variables}.items():
        monkeypatch.setenv(name, value)
    with ranks.started_ranks(count, nodes, "cpu", "32-true", tmp_path):
        assert machine.are_given()


@pytest.mark.parametrize("job", ["batch", "interactive"])
def test_reserved_tasks_that_nobody_started_are_no_ranks(
    job: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A batch script, or a shell of salloc, starts one process without srun: it starts the other ranks itself."""
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": job}.items():
        monkeypatch.setenv(name, value)
    started: list[ranks.Helper] = []

    def working_beside(helpers: list[ranks.Helper], patience: float) -> contextlib.nullcontext[None]:
        started.extend(helpers)
        return contextlib.nullcontext()

    monkeypatch.setattr(ranks, "working_beside", working_beside)
    with ranks.started_ranks(2, 1, "cpu", "32-true", tmp_path):
        assert machine.are_given()
    told = [(helper.variables["LOCAL_RANK"], helper.variables[ranks.ACCELERATOR]) for helper in started]
    assert told == [("1", "cpu")]
    assert not machine.are_given()
