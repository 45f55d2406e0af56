"""A child of a sweep, without the sweep: its folder's name, and an earlier process of it that still runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from omniner import run
from omniner.config import compose
from omniner.config.overrides import quote
from omniner.errors import Stopped, UserError
from omniner.files import read_json, try_lock, write_json
from omniner.runs import children, sweep
from omniner.runs.folder import LOCK, STATE
from omniner.tracking.store import ChildRun


@pytest.mark.parametrize("folder", ["a b", "a'b", "a=b,c", "名字"])
def test_a_folder_of_any_name_reaches_the_child(folder: str) -> None:
    assert compose.load([f"output_dir={quote(str(folder))}"]).output_dir == folder


@pytest.fixture
def orphan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An unfinished job whose folder another process holds; gives its lock. No process is started for it."""
    config = compose.load(["task=stats"])
    hydra = SimpleNamespace(
        job=SimpleNamespace(num=0), overrides=SimpleNamespace(task=["seed=1"], hydra=[]),
        runtime=SimpleNamespace(config_sources=[]),
    )  # fmt: skip
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr(compose, "check", lambda composed: config)
    monkeypatch.setattr(children, "run_process", lambda *args: "started again")
    monkeypatch.setenv(sweep._FOLDER, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / sweep.SWEEP_STATE, {"started": 1.0, "parent": ""})
    folder = tmp_path / f"0-{compose.digest(config)[:8]}"
    folder.mkdir()
    lock = try_lock(folder / LOCK)
    assert lock is not None

    def finish() -> None:
        state = {"digest": compose.digest(config), "status": "finished", "started": 2.0}
        write_json(folder / STATE, state)
        lock.release()

    yield finish
    lock.release()


def record(tmp_path: Path) -> dict[str, Any]:
    (path,) = (tmp_path / children.FOLDER).glob("*.json")
    found: dict[str, Any] = read_json(path)
    return found


def test_what_an_orphan_finishes_meanwhile_is_not_done_again(tmp_path: Path, orphan: Any) -> None:
    timer = threading.Timer(1, orphan)
    timer.start()
    sweep.run_child(OmegaConf.create())
    timer.join()
    assert (record(tmp_path)["status"], record(tmp_path)["error"]) == ("finished", "")


def test_whoever_waits_for_an_orphan_stops_with_the_launcher(orphan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([7, 7])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 1))
    with pytest.raises(Stopped):
        sweep.run_child(OmegaConf.create())


def test_a_job_is_named_by_what_is_swept() -> None:
    given = ["data.size={train: 300, dev: 60}", "+trainer.note=a", "head=crf,span", "seed=range(1,3)", "name=own"]
    assert sweep._fixed_keys(given) == ["data.size", "trainer.note", "name"]


def test_a_mistake_at_the_end_of_a_sweep_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(outcome: str) -> None:
        raise UserError("children/0.json:1", "not the record of a job", "Remove it.")

    monkeypatch.setattr(sweep, "close", damaged)
    monkeypatch.setattr(run, "job", lambda: None)
    monkeypatch.setattr(sys, "argv", ["omniner", "-m", "seed=1,2"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: children/0.json:1: not the record of a job. Remove it.\n"


@pytest.mark.parametrize(
    "damaged",
    [[], {}, {"number": 0, "overrides": [], "error": "", "metrics": {}}, {"number": "x", "overrides": [], "error": ""}],
)
def test_a_record_that_is_none_is_named(tmp_path: Path, damaged: Any) -> None:
    folder = tmp_path / children.FOLDER
    folder.mkdir()
    whole = {"number": 1, "overrides": ["seed=1"], "error": "", "run": ChildRun("r", "a", "finished", {})._asdict()}
    write_json(folder / "whole.json", whole)
    assert [one.overrides for one in sweep.read_records(tmp_path)] == [["seed=1"]]
    write_json(folder / "damaged.json", damaged)
    with pytest.raises(UserError, match=r"damaged\.json:1: not the record of a job"):
        sweep.read_records(tmp_path)
