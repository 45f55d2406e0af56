"""A child of a sweep, without the sweep: its folder's name, and an earlier process of it that still runs."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from omniner import run, tracking
from omniner.config import compose, run_config
from omniner.config.groups import TrackingConfig
from omniner.config.overrides import quote
from omniner.errors import Stopped, UserError
from omniner.files import make_folder, read_json, try_lock, write_json, write_text
from omniner.runs import children, sweep
from omniner.runs.folder import GUIDANCE_COPY, LOCK, SCORES, STATE, TRAINED_ON
from omniner.tracking.store import ChildRun
from omniner.tracking.tracked_run import Run


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
    monkeypatch.setattr(compose, "to_config", lambda composed: config)
    monkeypatch.setattr(children, "run_process", lambda *args: "started again")
    monkeypatch.setenv(sweep._FOLDER, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / sweep.SWEEP_STATE, {"started": 1.0, "parent": ""})
    folder = tmp_path / f"0-{run_config.digest(config)[:8]}"
    folder.mkdir()
    lock = try_lock(folder / LOCK)
    assert lock is not None

    def finish() -> None:
        state = {"digest": run_config.digest(config), "status": "finished", "started": 2.0}
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


def test_a_key_that_is_for_other_jobs_stops_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["head=crf", "head.label_smoothing=0.1"]
    hydra = SimpleNamespace(
        job=SimpleNamespace(num=0), overrides=SimpleNamespace(task=given), runtime=SimpleNamespace(config_sources=[])
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    figures = {"test/f1": 0.5, sweep.OBJECTIVE: 0.25}
    monkeypatch.setattr(children, "run_job", lambda job, *_: children.Outcome(job.name, tmp_path, "", figures))
    monkeypatch.setenv(sweep._FOLDER, str(tmp_path))
    write_json(tmp_path / sweep.SWEEP_STATE, {"started": 1.0, "parent": ""})
    write_json(tmp_path / STATE, {"status": "finished, unsent"})  # its results are there
    assert sweep.run_child(compose.compose_unchecked(given)) == 0.25, "what a sweeper is told"
    assert (record(tmp_path)["status"], record(tmp_path)["error"]) == ("finished", "")
    assert record(tmp_path)["run"]["status"] == "finished"


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


def swept(*overrides: str) -> Any:
    """The configuration of a sweep of these overrides, as it reaches the sweep before its first job."""
    with compose._hydra():
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        return hydra.compose_config("config", list(overrides), run_mode=RunMode.MULTIRUN, with_log_configuration=False)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["head.label_smoothing=0.0,0.1"], "head.label_smoothing"),
        (["head=span", "seed=1,2", "model.hidden=8,16", "head.label_smoothing=0.0,0.1"], "head.label_smoothing"),
        (["+tuning.rank=4,8"], "tuning.rank"),
        (["model=qwen2_tiny", "head.max_span=8,16"], "head.max_span"),
        (["model=qwen2_tiny", "tuning=full", "tuning.rank=4,8"], "tuning.rank"),
    ],
)
def test_a_sweep_over_a_key_that_no_job_reads_is_refused(overrides: list[str], key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: .*: runs that it alone sets apart would be equal"):
        sweep._refuse_equal_jobs(swept(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["head=softmax", "head.label_smoothing=0.0,0.1"],
        ["seed=1,2", "tuning.rank=4"],  # the jobs say so
        ["head=crf,softmax", "head.label_smoothing=0.0,0.1"],  # some job reads it
        ["head.kind=crf,softmax", "head.label_smoothing=0.0,0.1"],
        ["model=char_bilstm,qwen2_tiny", "tuning.rank=4,8"],
        ["model=qwen2_tiny", "tuning.method=full,lora", "tuning.rank=4,8"],
        ["task=predict", "checkpoint=run", "decoding.slots=1,2", "tuning.rank=4,8"],  # of another model
        ["hydra/sweeper=maximize_f1", "head.label_smoothing=0.0,0.1"],
        ["hydra/sweeper=maximize_f1", "head=choice(crf,softmax)", "head.label_smoothing=interval(0,0.2)"],
        ["head.label_smoothing=0.0,0.1", "task=predict"],  # each job says that it lacks a model
    ],
)
def test_a_sweep_in_which_a_key_may_have_an_effect_begins(overrides: list[str]) -> None:
    sweep._refuse_equal_jobs(swept(*overrides))


def digest_of(*overrides: str, sweeper: str = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper") -> str:
    """Of the sweep of these overrides; what is not swept over is in the composed configuration."""
    composed = {"seed": 1, "hydra": {"overrides": {"task": list(overrides)}, "sweeper": {"_target_": sweeper}}}
    return sweep._digest(OmegaConf.create(composed))


def test_overrides_in_another_order_are_the_same_sweep_unless_one_changes_another_one() -> None:
    assert digest_of("seed=1,2", "head=crf", "model=a") == digest_of("model=a", "head=crf", "seed=1,2")
    assert digest_of("seed=1,2", "head=crf,span") != digest_of("seed=1,2", "head=crf")
    drawing = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    assert digest_of("a=1,2", "b=1,2", sweeper=drawing) != digest_of("b=1,2", "a=1,2", sweeper=drawing)
    assert digest_of("seed=1,2", "seed=3,4") != digest_of("seed=3,4", "seed=1,2")
    assert digest_of("data.size={},null", "data.size.dev=1,2") != digest_of("data.size.dev=1,2", "data.size={},null")


def test_where_a_sweep_is_written_and_tracked_makes_no_other_one_of_it() -> None:
    hydra = {"overrides": {"task": ["seed=1,2"]}, "sweeper": {}}
    told = {"overrides": {"task": ["seed=1,2", "tracking=off", "output_dir=x"]}, "sweeper": {}}
    here = sweep._digest(OmegaConf.create({"seed": 1, "output_dir": "a", "hydra": hydra}))
    assert here == sweep._digest(OmegaConf.create({"seed": 1, "output_dir": "b", "hydra": told}))


@pytest.mark.parametrize("key", sweep.SCALES)
def test_a_sweep_over_what_figures_mean_is_refused(key: str) -> None:
    sweep._refuse_mixed_scales(["seed=1,2", f"{key}=a"])
    for sign in ("", "+", "++"):
        with pytest.raises(UserError, match=f"^{key}: a,b in one sweep"):
            sweep._refuse_mixed_scales(["seed=1,2", f"{sign}{key}=a,b"])


def test_a_command_goes_on_with_its_newest_sweep_that_has_not_finished(tmp_path: Path) -> None:
    states = {
        "old": {"digest": "x", "started": 1.0},
        "newest": {"digest": "x", "started": 3.0, "status": "failed"},
        "middle": {"digest": "x", "started": 2.0},
        "finished": {"digest": "x", "started": 4.0, "status": "finished"},
        "of another command": {"digest": "y", "started": 5.0},
    }
    for name, state in states.items():
        write_json(tmp_path / name / sweep.SWEEP_STATE, state)
    found = sweep._find_unfinished(sorted(tmp_path.iterdir()), "x")
    assert found is not None
    assert (found.folder.name, found.new) == ("newest", False)
    second = sweep._find_unfinished(sorted(tmp_path.iterdir()), "x")  # the newest is running now
    assert second is not None
    assert second.folder.name == "middle"
    for one in (found, second):
        one.lock.release()


def test_a_sampler_without_a_seed_is_given_one_for_the_whole_sweep(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / LOCK)
    assert lock is not None

    def seed_of(state: dict[str, Any], seed: int | None) -> int:
        sweeper = OmegaConf.create({"sampler": {"seed": seed}})
        sweep._give_seed(sweeper, sweep.Sweep(tmp_path, lock, state, new=False))
        given: int = sweeper.sampler.seed
        return given

    drawn = seed_of({}, None)
    assert seed_of(read_json(tmp_path / sweep.SWEEP_STATE), None) == drawn
    assert seed_of(read_json(tmp_path / sweep.SWEEP_STATE), 7) == 7
    lock.release()


def test_records_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        whole = {"number": number, "overrides": [f"seed={number}"], "error": ""}
        write_json(tmp_path / children.FOLDER / f"{number}.json", {**whole, "run": ChildRun("", "", "", {})._asdict()})
    assert [one.overrides for one in sweep.read_records(tmp_path)] == [["seed=1"], ["seed=2"], ["seed=10"]]


def test_a_key_that_an_older_sweep_did_not_have_makes_no_other_one_of_it() -> None:
    hydra = {"overrides": {"task": ["seed=1,2"]}, "sweeper": {}}
    older, default, changed = (
        sweep._digest(OmegaConf.create({"report": report, "hydra": hydra}))
        for report in ({}, {"language": "auto"}, {"language": "zh"})
    )
    assert older == default != changed


@pytest.mark.parametrize(("given", "found"), [("b", ["b"]), ("${now:%Y}", ["a", "b"])])
def test_a_folder_that_is_named_is_the_only_one_in_which_a_sweep_is_looked_for(
    tmp_path: Path, given: str, found: list[str]
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    config = OmegaConf.create({"hydra": {"sweep": {"dir": f"{tmp_path}/{given}"}}})
    assert sweep._candidates(config, tmp_path / "b") == [tmp_path / name for name in found]


def test_the_parent_tells_of_the_runs_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    good, dead = (ChildRun(name, "seed=1", "finished", {}) for name in ("good", "dead"))
    monkeypatch.setattr(tracking, "child_runs", lambda *_: [dead, good])
    monkeypatch.setattr(tracking, "describe_children", lambda run, runs, *_: told.extend(one.id for one in runs))
    parent, lock = Run(), try_lock(tmp_path / LOCK)
    assert lock is not None
    parent.id = "parent"
    settings = dataclasses.asdict(TrackingConfig("off", None, str(tmp_path), "omniner", 0, False, False))
    state = {"tracking": settings, "name": "sweep", "started": 1.0}
    ended = sweep.Sweep(tmp_path, lock, state, new=True, run=parent)
    record = sweep.JobRecord(tmp_path / "0.json", ["seed=1"], "", good)
    sweep._describe_parent(ended, None, [], [record])
    lock.release()
    assert told == ["good"]


@pytest.mark.parametrize("changed", [SCORES, TRAINED_ON, GUIDANCE_COPY, None])
def test_a_mean_over_runs_of_different_data_is_told(
    changed: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = []
    for number, digest in enumerate("ab"):
        data = digest if changed == TRAINED_ON else "same"
        gold = digest if changed == SCORES else "same"
        rule = digest if changed == GUIDANCE_COPY else "same"
        write_json(tmp_path / f"{number}-{digest}" / TRAINED_ON, {"train": data})
        told = {"source": {"guide": digest}, "lessons": [{"note": {"rule": rule}}], "suspects": []}
        write_json(tmp_path / f"{number}-{digest}" / GUIDANCE_COPY, told)
        write_json(
            tmp_path / f"{number}-{digest}" / SCORES, {"signature": f"unit:pair|gold:{gold}|predictions:{digest}"}
        )
        run = ChildRun("", "", "finished", {"test/f1": 0.5})
        records.append(sweep.JobRecord(tmp_path / f"{digest}.json", ["head=crf", f"seed={number}"], "", run))
    sweep._warn_of_mixed_data(tmp_path, records)
    assert ("did not read the same data" in caplog.text) == (changed is not None)


@pytest.mark.parametrize(
    ("gold", "dev", "comparable"),
    [("aaaa", "aaaa", True), ("abab", "cdcd", True), ("aabb", "aaaa", False), ("aaaa", "aabb", False)],
    ids=["same", "drawn by the seed", "gold of each", "dev of each"],
)
def test_configurations_are_comparable_where_gold_and_dev_are_the_same_for_each(
    gold: str, dev: str, comparable: bool, tmp_path: Path
) -> None:
    records = []
    for number in range(4):
        write_json(tmp_path / f"{number}-{number}" / SCORES, {"signature": f"gold:{gold[number]}|predictions:{number}"})
        write_json(tmp_path / f"{number}-{number}" / TRAINED_ON, {"train": f"{number}", "dev": dev[number]})
        overrides = [f"data={number // 2}", f"seed={number % 2}"]
        run = ChildRun("", "", "finished", {"test/f1": 0.5})
        records.append(sweep.JobRecord(tmp_path / f"{number}.json", overrides, "", run))
    failed = sweep.JobRecord(tmp_path / "4.json", ["data=2"], "it failed", ChildRun("", "", "failed", {}))
    assert sweep._comparable(tmp_path, [*records, failed]) == comparable


def test_a_sweep_that_goes_on_knows_how_many_of_its_runs_have_finished(tmp_path: Path) -> None:
    for number, status in enumerate(("finished", "finished, unsent", "killed")):
        write_json(tmp_path / f"{number}-abc" / STATE, {"status": status})
    lock = try_lock(tmp_path / LOCK)
    assert lock is not None
    assert sweep.Sweep(tmp_path, lock, {}, new=False).count_finished() == 2
    lock.release()


def test_the_command_that_a_sweep_prints_counts_as_its_runs_did(tmp_path: Path) -> None:
    records = [
        sweep.JobRecord(tmp_path / children.FOLDER / f"{number}.json", [], "", ChildRun("", "", "finished", {}))
        for number in range(2)
    ]
    assert sweep._next_command(tmp_path, records) == [], "task=compare takes no sweep whose runs are elsewhere"
    for number in range(2):
        folder = make_folder(tmp_path / f"0-{number}")
        write_text(folder / "config.yaml", run_config.to_yaml(compose.load(["metrics.profile=official"])))
    (line,) = sweep._next_command(tmp_path, records)
    assert line == f"next: python -m omniner.run task=compare 'runs=[{tmp_path}]' metrics.profile=official"
    assert sweep._next_command(tmp_path, records[:1]) == []
