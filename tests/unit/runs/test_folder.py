from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from omniner.config import compose
from omniner.errors import UserError
from omniner.runs import folder as runfolder


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


_claimed: list[runfolder.RunFolder] = []


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    yield
    while _claimed:
        _claimed.pop().close()


def _claim(*overrides: str) -> runfolder.RunFolder:
    _claimed.append(runfolder.claim_folder(compose.load(overrides)))
    return _claimed[-1]


def test_an_unfinished_run_of_the_same_configuration_is_taken_up() -> None:
    first = _claim()
    first.save(status="killed", run_id="abc")
    first.close()
    second = _claim()
    assert second.resumed
    assert second.path == first.path
    assert second.state["run_id"] == "abc"


def test_a_killed_process_leaves_running_behind_and_is_taken_up_too() -> None:
    first = _claim()
    first.close()  # as the operating system does on kill -9
    assert _claim().path == first.path


def test_a_finished_run_is_left_alone() -> None:
    first = _claim()
    first.save(status="finished")
    first.close()
    second = _claim()
    assert not second.resumed
    assert second.path != first.path


def test_a_living_run_is_not_taken_up() -> None:
    first = _claim()
    second = _claim()
    assert second.path != first.path
    with pytest.raises(UserError, match="in use by another run"):
        _claim(f"output_dir={first.path}")


def test_another_configuration_starts_its_own_run() -> None:
    first = _claim()
    first.close()
    assert not _claim("seed=7").resumed


def test_resume_never_starts_over() -> None:
    first = _claim()
    first.close()
    assert _claim("resume=never").path != first.path


def test_a_named_folder_with_another_unfinished_run_is_refused() -> None:
    _claim("output_dir=here").close()
    with pytest.raises(UserError, match="unfinished run of another configuration"):
        _claim("output_dir=here", "seed=7")


def test_starting_over_in_a_named_folder_removes_the_old_outputs_only() -> None:
    first = _claim("output_dir=here")
    (first.path / "predictions.jsonl").write_text("{}\n")
    (first.path / "notes.txt").write_text("mine")
    first.save(status="finished")
    first.close()
    second = _claim("output_dir=here")
    assert not (second.path / "predictions.jsonl").exists()
    assert (second.path / "notes.txt").exists()


def test_starting_over_removes_what_any_task_may_have_written_where_it_is_not_known_which() -> None:
    first = _claim("output_dir=here")
    for name in ("predictions.jsonl", "stats.json"):
        (first.path / name).touch()
    first.save(status="finished", task="of_another_version")
    first.close()
    assert {path.name for path in _claim("output_dir=here").path.iterdir()} == set(runfolder.BOOKKEEPING)


def test_resume_names_the_folder_of_an_unfinished_run() -> None:
    first = _claim()
    first.close()
    assert _claim(f"resume={first.path}").resumed
    with pytest.raises(UserError, match="holds no run"):
        _claim("resume=nowhere")
    with pytest.raises(UserError, match="another configuration"):
        _claim(f"resume={first.path}", "seed=7")


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "predictions.jsonl"])
def test_a_folder_says_whether_it_holds_work(name: str) -> None:
    folder = _claim()
    (folder.path / "issues.jsonl").touch()
    (folder.path / "checkpoints").mkdir()
    assert not folder.holds_work
    (folder.path / name).touch()
    assert folder.holds_work
