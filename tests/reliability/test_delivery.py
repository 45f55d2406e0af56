"""Finished is what the tracking store knows: whatever happens at the end of a run, the store gets everything."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from omniner import run, tracking
from omniner.config import compose
from omniner.errors import UserError
from omniner.files import try_lock, write_json
from omniner.runs import sweep
from omniner.runs.delivery import finish, send_unsent
from omniner.runs.folder import LOCK, STATE, SWEEP_STATE, RunFolder
from omniner.tracking import unsent
from omniner.tracking.spool import SPOOL
from omniner.tracking.store import ChildRun, Store, open_store
from omniner.tracking.tracked_run import Run
from tests.reliability.conftest import Failing, score, state_of, status_in_store

UNSENT = "finished, unsent"


@pytest.fixture
def unsent_run(here: Path, tables: Path, failing: Failing, caplog: pytest.LogCaptureFixture) -> Path:
    """A run that finished while the store was away; it is back now."""
    caplog.set_level("INFO", logger="omniner")
    start = run._start

    def away_after_start(*arguments: object) -> object:
        context = start(*arguments)  # type: ignore[arg-type]
        failing(True)
        return context

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_start", away_after_start)
        folder = score(tables)
    failing(False)
    return folder


def test_the_same_command_sends_what_is_left_and_does_nothing_again(
    unsent_run: Path, tables: Path, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    state = state_of(unsent_run)
    assert state["status"] == UNSENT
    [*_, told] = caplog.get_records("setup")
    assert "the same command, any later run on this store, or task=sync sends what is there" in told.message
    assert status_in_store(tables, state["run_id"]) == "RUNNING"
    written = (unsent_run / "scores.json").stat().st_mtime_ns
    failing(True)
    with pytest.raises(UserError, match=r"the tracking store fails\. Give the same command again"):
        score(tables)
    assert state_of(unsent_run)["status"] == UNSENT
    failing(False)
    assert score(tables) == unsent_run
    assert (unsent_run / "scores.json").stat().st_mtime_ns == written
    assert state_of(unsent_run)["status"] == "finished"
    assert status_in_store(tables, state["run_id"]) == "FINISHED"
    assert score(tables) != unsent_run, "a finished run is left alone"


def test_task_sync_sends_what_is_left(unsent_run: Path, tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(tables, task="sync")
    assert state_of(unsent_run)["status"] == "finished"
    assert status_in_store(tables, state_of(unsent_run)["run_id"]) == "FINISHED"
    assert not list((tables / "unsent").glob("*"))
    score(tables, task="sync")
    assert "nothing is left to send" in capsys.readouterr().out
    assert len(list(unsent_run.parent.iterdir())) == 1, "the task makes no run of its own"


def test_task_sync_says_that_the_store_still_fails(unsent_run: Path, tables: Path, failing: Failing) -> None:
    failing(True)
    with pytest.raises(UserError, match=f"not all is sent of .*{unsent_run.name}"):
        score(tables, task="sync")


def test_task_sync_finds_folders_that_are_not_noted(unsent_run: Path, tables: Path) -> None:
    for note in (tables / "unsent").iterdir():
        note.unlink()
    score(tables, task="sync")
    assert status_in_store(tables, state_of(unsent_run)["run_id"]) == "FINISHED"


def test_task_sync_leaves_a_living_run_alone_and_sends_beside_a_damaged_one(
    here: Path, unsent_run: Path, tables: Path
) -> None:
    for note in (tables / "unsent").iterdir():
        note.unlink()
    living, damaged = Path("outputs/living"), Path("outputs/damaged")
    half = '{"run": "abc", "store": ""}\n{"seq": 1, "ki'
    for folder, text in ((living, half), (damaged, "no record\n")):
        folder.mkdir()
        (folder / SPOOL).write_text(text)
    lock = try_lock(living / LOCK)
    assert lock is not None
    with pytest.raises(UserError, match=r"not all is sent of \S*/damaged\. "):
        score(tables, task="sync")
    assert (living / SPOOL).read_text() == half, "its process is writing the rest"
    assert status_in_store(tables, state_of(unsent_run)["run_id"]) == "FINISHED"
    lock.release()


def test_a_run_that_starts_does_not_wait_for_what_others_left(
    here: Path, tables: Path, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, float]] = []

    def send(store: object, folder: Path, place: Path, status: str, wait: float) -> int:
        asked.append((folder, wait))
        return 1

    monkeypatch.setattr(unsent, "send", send)
    settings = compose.load(["task=check", f"tracking.folder={tables}", "tracking.wait=60"]).tracking
    folders = [here / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        (folder / SPOOL).touch()
        unsent.note(settings, folder)
    assert send_unsent(settings, wait=0, own=here / "mine") == folders[:1]
    assert send_unsent(settings, settings.wait) == folders
    assert [wait for _, wait in asked] == [0, 60, 60]
    for note in (tables / "unsent").iterdir():
        note.unlink()


def test_a_folder_that_cannot_be_read_keeps_no_run_from_its_work(
    here: Path, unsent_run: Path, tables: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = compose.load(["task=check", f"tracking.folder={tables}"]).tracking
    foreign = here / "foreign"
    (foreign / LOCK).mkdir(parents=True)  # a lock that cannot be taken, as in somebody else's folder
    unsent.note(settings, foreign)
    other = score(tables, "name=another", "seed=7")
    assert (state_of(other)["status"], state_of(unsent_run)["status"]) == ("finished", "finished")
    assert f"{foreign}/{LOCK}" in caplog.text
    with pytest.raises(UserError, match=f"not all is sent of {foreign}"):
        score(tables, task="sync")
    unsent.forget_note(settings, foreign)


def test_the_store_may_have_another_address_meanwhile(unsent_run: Path, tables: Path) -> None:
    """A server has several names, and the folder of a store may be moved: the run is what counts."""
    spool = unsent_run / SPOOL
    spool.write_text(spool.read_text("utf-8").replace("sqlite:///", "sqlite:////before"), encoding="utf-8")
    assert score(tables) == unsent_run
    assert state_of(unsent_run)["status"] == "finished"
    assert status_in_store(tables, state_of(unsent_run)["run_id"]) == "FINISHED"
    assert not unsent.is_pending(unsent_run)
    text = spool.read_text("utf-8")
    spool.write_text(f'{text}{{"run": "{"0" * 32}", "store": "sqlite:////before/mlflow.db"}}\n', encoding="utf-8")
    with pytest.raises(UserError, match="not all is sent"):
        score(tables, task="sync")


def test_a_run_whose_record_somebody_deleted_can_be_pruned(
    unsent_run: Path, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(unsent_run)
    write_json(unsent_run / STATE, {**state, "status": "failed"})
    settings = compose.load(["task=check", f"tracking.folder={tables}"]).tracking
    open_store(settings).delete(state["run_id"])
    monkeypatch.setattr(Store, "remove", lambda *_: None)  # mlflow gc takes seconds
    score(tables, "prune.ask=false", task="prune")
    assert not unsent_run.exists()


def _copied_store(tables: Path, copy: Path) -> Path:
    """What `cp -r` makes of a store while it is not used."""
    shutil.copytree(tables / "unsent", copy / "unsent")
    before, after = (contextlib.closing(sqlite3.connect(folder / "mlflow.db")) for folder in (tables, copy))
    with before as old, after as new:
        old.backup(new)
    return copy


def test_a_copy_of_a_project_leaves_the_records_to_the_original(here: Path, unsent_run: Path, tables: Path) -> None:
    before = (unsent_run / SPOOL).read_bytes()
    copy = _copied_store(tables, here / "copy" / "mlruns")
    score(copy, "name=another", "seed=7")
    assert (unsent_run / SPOOL).read_bytes() == before
    assert state_of(unsent_run)["status"] == UNSENT
    settings = compose.load(["task=check", f"tracking.folder={copy}"]).tracking
    assert unsent.noted(settings) == [], "the original sends it"
    with pytest.raises(UserError, match=r"is kept in sqlite:.*, not in .*copy"):
        unsent.send(open_store(settings), unsent_run, unsent_run, "killed", 0)
    score(tables, "name=another", "seed=7")
    assert status_in_store(tables, state_of(unsent_run)["run_id"]) == "FINISHED"


def test_a_copied_folder_is_sent_to_the_copied_store(here: Path, unsent_run: Path, tables: Path) -> None:
    copy = _copied_store(tables, here / "copy" / "mlruns")
    folder = here / "copy" / "outputs" / unsent_run.name
    shutil.copytree(unsent_run, folder)
    settings = compose.load(["task=check", f"tracking.folder={copy}"]).tracking
    assert send_unsent(settings, 0, further=[folder]) == []
    assert status_in_store(copy, state_of(unsent_run)["run_id"]) == "FINISHED"
    assert status_in_store(tables, state_of(unsent_run)["run_id"]) == "RUNNING"
    score(tables, task="sync")


def test_any_later_run_on_the_store_sends_what_is_left(unsent_run: Path, tables: Path) -> None:
    other = score(tables, "name=another", "seed=7")
    assert (state_of(other)["status"], state_of(unsent_run)["status"]) == ("finished", "finished")
    assert status_in_store(tables, state_of(unsent_run)["run_id"]) == "FINISHED"


def test_a_run_that_starts_over_in_the_folder_keeps_what_is_unsent(
    here: Path, unsent_run: Path, tables: Path, failing: Failing
) -> None:
    old = state_of(unsent_run)["run_id"]
    score(tables, f"output_dir={unsent_run}", "resume=never", "overwrite=true", "tracking=off")
    archived = unsent_run / unsent.ARCHIVE / old
    assert (archived / SPOOL).is_file()
    assert (archived / "scores.json").is_file(), "the files that are still to be sent are kept, too"
    assert status_in_store(tables, old) == "RUNNING"
    score(tables, "name=another", "seed=7")
    assert status_in_store(tables, old) == "FINISHED"
    assert not (unsent_run / unsent.ARCHIVE).exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_in_the_last_second_leaves_a_run_that_the_next_command_ends(
    here: Path, tables: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    save = RunFolder.save

    class Killed(BaseException):
        pass

    def killing(self: RunFolder, **changes: object) -> None:
        if moment == "after" or changes.get("status") != UNSENT:
            save(self, **changes)
        if changes.get("status") == UNSENT:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", killing)
        # What a kill ends, too: the end of Python, and the thread that sends.
        patch.setattr("atexit.register", lambda function: function)
        patch.setattr("omniner.tracking.spool.INTERVAL", 1000.0)
        with pytest.raises(Killed):
            score(tables)
    again = score(tables)
    assert [again.name] == [path.name for path in Path("outputs").iterdir()]
    assert state_of(again)["status"] == "finished"
    assert status_in_store(tables, state_of(again)["run_id"]) == "FINISHED"
    assert not list((tables / "unsent").glob("*"))


def _begun_sweep(tables: Path) -> sweep.Sweep:
    """A sweep of this process, of which one job has ended."""
    settings = compose.load(["task=check", f"tracking.folder={tables}", "tracking.wait=0"]).tracking
    made = sweep._make(Path("outputs/sweeps/a"), "digest", "sweep a")
    made.run = tracking.start_run(
        settings, name="sweep a", folder=made.folder, parent=None, resume_id=None, tags={"a": "b"}
    )
    made.save(parent=made.run.id, tracking=dataclasses.asdict(settings), status="running")
    child = ChildRun("c" * 32, "seed=1", "finished", {"test/f1": 0.5})
    sweep._write_record(made.folder, "job", 0, ["seed=1"], child, "")
    return made


def _send_by_sync(tables: Path) -> None:
    score(tables, task="sync")


def _send_by_a_later_run(tables: Path) -> None:
    score(tables)


@pytest.mark.parametrize("send", [_send_by_sync, _send_by_a_later_run])
@pytest.mark.parametrize("end", ["store away", "killed"])
def test_the_run_of_a_sweep_is_sent_and_ended_like_any_other(
    end: str, send: Callable[[Path], None], here: Path, tables: Path, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _begun_sweep(tables)
    monkeypatch.setattr(sweep, "_running", made)
    failing(True)
    if end == "killed":
        atexit.unregister(made.run._at_exit)  # type: ignore[attr-defined]
        made.lock.release()
    else:
        sweep.close("finished")
    state = json.loads((made.folder / SWEEP_STATE).read_text())
    assert state["status"] == ("running" if end == "killed" else UNSENT)
    assert status_in_store(tables, made.run.id) == "RUNNING"
    failing(False)
    send(tables)
    assert status_in_store(tables, made.run.id) == ("KILLED" if end == "killed" else "FINISHED")
    assert not list((tables / "unsent").glob("*"))
    if end != "killed":
        assert json.loads((made.folder / SWEEP_STATE).read_text())["status"] == "finished"
        client = open_store(compose.load(["task=check", f"tracking.folder={tables}"]).tracking).client
        table = json.loads(Path(client.download_artifacts(made.run.id, "tables/children.json")).read_text())
        assert table["data"] == [["seed=1", "FINISHED", "c" * 32, 0.5]], "as the folder knows its children"
        assert client.get_run(made.run.id).data.metrics["test/f1"] == 0.5


def test_a_noted_folder_that_is_not_there_is_told_once(
    here: Path, tables: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = compose.load(["task=check", f"tracking.folder={tables}"]).tracking
    unsent.note(settings, here / "unmounted")
    assert [send_unsent(settings, 0), send_unsent(settings, 0)] == [[], []]
    assert caplog.text.count(f"{here / 'unmounted'}, where tracking records may wait, is not there") == 1


def test_half_a_note_of_a_killed_process_is_swept(tables: Path) -> None:
    settings = compose.load(["task=check", f"tracking.folder={tables}"]).tracking
    old, new = (tables / "unsent" / f".note.json.0000000{number}.tmp" for number in range(2))
    for path in (old, new):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    os.utime(old, (0, 0))
    assert unsent.noted(settings) == []
    assert (old.exists(), new.exists()) == (False, True), "somebody may be writing the other one"
    new.unlink()


def test_a_killed_run_that_is_started_over_is_ended_though_all_its_records_were_sent(here: Path, tables: Path) -> None:
    settings = compose.load(["task=check", f"tracking.folder={tables}"]).tracking
    folder = here / "run"
    begun = tracking.start_run(settings, name="a", folder=folder, parent=None, resume_id=None, tags={})
    begun.metrics({"f1": 0.5})
    assert begun._sender.flush(5, 5)  # type: ignore[attr-defined]
    atexit.unregister(begun._at_exit)  # type: ignore[attr-defined]
    unsent.archive_spool(folder)
    assert not (folder / SPOOL).exists()
    unsent.forget_note(settings, folder)
    assert unsent.noted(settings) == [folder], "what was archived is still to be sent"
    assert send_unsent(settings, 5) == []
    assert status_in_store(tables, begun.id) == "KILLED"
    assert unsent.noted(settings) == []


def test_an_untracked_process_forgets_no_record_of_a_killed_one_before_it(here: Path, tables: Path) -> None:
    settings = compose.load(["task=check", f"tracking.folder={tables}"]).tracking
    folder = here / "run"
    begun = tracking.start_run(settings, name="a", folder=folder, parent=None, resume_id=None, tags={})
    atexit.unregister(begun._at_exit)  # type: ignore[attr-defined]
    saved: list[str] = []
    off = dataclasses.replace(settings, kind="off")
    finish(Run(), "finished", off, folder, lambda status: saved.append(status))
    assert (saved[-1], unsent.noted(settings)) == ("finished", [folder])


def test_damaged_spools_are_all_kept(tmp_path: Path) -> None:
    for text in ("one\n", "two\n"):
        (tmp_path / SPOOL).write_text(text)
        unsent.archive_spool(tmp_path)
    assert sorted(path.read_text() for path in (tmp_path / unsent.ARCHIVE).rglob(SPOOL)) == ["one\n", "two\n"]
