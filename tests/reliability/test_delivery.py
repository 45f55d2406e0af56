"""Finished is what the tracking store knows: whatever happens at the end of a run, the store gets everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from omniner import run as program
from omniner.errors import UserError
from omniner.runs.folder import RunFolder
from omniner.tracking import unsent
from omniner.tracking.spool import SPOOL
from tests.reliability.conftest import Failing, score, state_of, status_in_store

UNSENT = "finished, unsent"


@pytest.fixture
def unsent_run(here: Path, tables: Path, failing: Failing, caplog: pytest.LogCaptureFixture) -> Path:
    """A run that finished while the store was away; it is back now."""
    caplog.set_level("INFO", logger="omniner")
    start = program._start

    def away_after_start(*arguments: object) -> object:
        context = start(*arguments)  # type: ignore[arg-type]
        failing(True)
        return context

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "_start", away_after_start)
        folder = score(tables)
    failing(False)
    return folder


def test_the_same_command_sends_what_is_left_and_does_nothing_again(
    unsent_run: Path, tables: Path, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    state = state_of(unsent_run)
    assert state["status"] == UNSENT
    [*_, told] = caplog.get_records("setup")
    assert "the same command, any later run on this store, or task=sync sends them" in told.message
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


def test_any_later_run_on_the_store_sends_what_is_left(unsent_run: Path, tables: Path) -> None:
    other = score(tables, "name=another", "seed=7")
    assert (state_of(other)["status"], state_of(unsent_run)["status"]) == ("finished", "finished")
    assert status_in_store(tables, state_of(unsent_run)["run_id"]) == "FINISHED"


def test_a_run_that_starts_over_in_the_folder_keeps_what_is_unsent(
    here: Path, unsent_run: Path, tables: Path, failing: Failing
) -> None:
    old = state_of(unsent_run)["run_id"]
    score(tables, f"output_dir={unsent_run}", "resume=never", "overwrite=true", "tracking=off")
    aside = unsent_run / unsent.ASIDE / old
    assert (aside / SPOOL).is_file()
    assert (aside / "scores.json").is_file(), "the files that are still to be sent are kept, too"
    assert status_in_store(tables, old) == "RUNNING"
    score(tables, "name=another", "seed=7")
    assert status_in_store(tables, old) == "FINISHED"
    assert not (unsent_run / unsent.ASIDE).exists()


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
