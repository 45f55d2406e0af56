"""`task=prune` removes what came to nothing, folder and record, and nothing else."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from omniner.files import read_json, try_lock, write_json
from tests.e2e import warm
from tests.e2e.conftest import TINY, environment, folder_of, omniner, runs_in

pytestmark = pytest.mark.slow


def _copy(finished: Path, name: str, status: str, cwd: Path) -> tuple[Path, str]:
    """A run with a record of its own in the store, as one that ended in another way leaves it."""
    folder = finished.parent / name
    shutil.copytree(finished, folder)
    client = _client(cwd)
    run = client.create_run(client.get_run(read_json(finished / "run_state.json")["run_id"]).info.experiment_id)
    client.log_text(run.info.run_id, "something", "kept.txt")
    state = {**read_json(folder / "run_state.json"), "status": status, "run_id": run.info.run_id}
    write_json(folder / "run_state.json", state)
    return folder, run.info.run_id


def _client(cwd: Path) -> Any:
    return MlflowClient(f"sqlite:///{cwd / 'mlruns' / 'mlflow.db'}")


def test_runs_that_came_to_nothing_are_removed(tmp_path: Path) -> None:
    kept = folder_of(omniner(*TINY, "trainer.max_epochs=1", cwd=tmp_path), tmp_path)
    failed, failed_id = _copy(kept, "failed-run", "failed", tmp_path)
    killed, killed_id = _copy(kept, "killed-run", "running", tmp_path)
    living, living_id = _copy(kept, "living-run", "running", tmp_path)
    unsent, unsent_id = _copy(kept, "unsent-run", "finished, unsent", tmp_path)
    (tmp_path / "outputs" / "mine").mkdir()
    lock = try_lock(living / ".lock")
    assert lock is not None
    refused = omniner("task=prune", cwd=tmp_path, status=2)
    assert "prune.ask" in refused.stderr
    assert all(folder.is_dir() for folder in (kept, failed, killed, living, unsent))
    said = omniner("task=prune", "prune.ask=false", cwd=tmp_path)
    lock.release()
    assert "removed 2 of 2 runs" in said.stdout
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == sorted(
        [kept.name, "living-run", "unsent-run", "mine"]
    )
    left = {run.info.run_id for run in runs_in(tmp_path)}
    assert left == {read_json(kept / "run_state.json")["run_id"], living_id, unsent_id}
    files = [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    assert not [path for path in files if {failed_id, killed_id} & set(path.parts)]
    assert [path for path in files if living_id in path.parts]
    assert "nothing is removed" in omniner("task=prune", "prune.status=[failed]", cwd=tmp_path).stdout


def test_finished_runs_go_only_where_they_have_no_name_and_no_registered_model(tmp_path: Path) -> None:
    small = [*TINY, "trainer.max_epochs=1"]
    unnamed = folder_of(omniner(*small, cwd=tmp_path), tmp_path)
    named = folder_of(omniner(*small, "name=mine", cwd=tmp_path), tmp_path)
    registered = folder_of(omniner(*small, "seed=2", "tracking.register=tagger", cwd=tmp_path), tmp_path)
    said = omniner("task=prune", "prune.status=[]", "prune.unnamed=true", "prune.ask=false", cwd=tmp_path)
    assert "removed 1 of 1 run," in said.stdout
    assert "registered as tagger" in said.stderr
    assert [unnamed.is_dir(), named.is_dir(), registered.is_dir()] == [False, True, True]
    assert len(runs_in(tmp_path)) == 2
    nothing = omniner("task=prune", "prune.status=[]", cwd=tmp_path, status=2)
    assert "prune.status" in nothing.stderr


def test_a_run_that_was_killed_at_work_is_removed_with_all_it_wrote(tmp_path: Path) -> None:
    """Its last records were not sent: they are, before it goes."""
    long = [*TINY, "trainer.max_epochs=400"]
    process = warm.start(long, tmp_path, environment())
    while not list(tmp_path.glob("outputs/*/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    (folder,) = (tmp_path / "outputs").iterdir()
    assert read_json(folder / "run_state.json")["status"] == "running"
    off = omniner("task=prune", "prune.ask=false", "tracking=off", cwd=tmp_path)
    assert "not in this tracking store" in off.stderr or "not all of its records are sent" in off.stderr
    assert folder.is_dir()
    assert "removed 1 of 1 run," in omniner("task=prune", "prune.ask=false", cwd=tmp_path).stdout
    assert not folder.exists()
    assert runs_in(tmp_path) == []
    assert list((tmp_path / "mlruns" / "unsent").glob("*")) == []


def test_a_prune_that_was_stopped_is_finished(tmp_path: Path) -> None:
    kept = folder_of(omniner(*TINY, "trainer.max_epochs=1", cwd=tmp_path), tmp_path)
    begun, begun_id = _copy(kept, "begun", "failed", tmp_path)
    elsewhere, _ = _copy(kept, "elsewhere", "failed", tmp_path)
    write_json(elsewhere / "run_state.json", {**read_json(elsewhere / "run_state.json"), "run_id": "0" * 32})
    client = _client(tmp_path)
    child = client.create_run(client.get_run(begun_id).info.experiment_id, tags={"mlflow.parentRunId": begun_id})
    client.delete_run(begun_id)
    (begun / "predictions.jsonl").unlink()
    said = omniner("task=prune", "prune.ask=false", cwd=tmp_path)
    assert "removed 1 of 1 run," in said.stdout
    assert "not in this tracking store" in said.stderr
    assert [begun.exists(), elsewhere.exists(), kept.exists()] == [False, True, True]
    for gone in (begun_id, child.info.run_id):
        with pytest.raises(MlflowException, match="not found"):
            client.get_run(gone)
