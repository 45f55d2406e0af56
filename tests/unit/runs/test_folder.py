from __future__ import annotations

import dataclasses
import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from omniner import run
from omniner.config import compose, run_config
from omniner.errors import UserError
from omniner.registry import TASKS
from omniner.runs import folder as runs_folder


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


_claimed: list[runs_folder.RunFolder] = []


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    yield
    while _claimed:
        _claimed.pop().close()


def _claim(*overrides: str) -> runs_folder.RunFolder:
    _claimed.append(runs_folder.claim_folder(compose.load(overrides)))
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
    with pytest.raises(UserError, match=r"unfinished run of another configuration \(seed: 42 then, 7 now\)\. "):
        _claim("output_dir=here", "seed=7", "tracking=off")
    with pytest.raises(UserError, match=r'another configuration \(name: "char_bilstm-crf-sample" then, "mine" now\)'):
        _claim("output_dir=here", "name=mine")
    changed = ["trainer.max_epochs=3", "trainer.patience=1", "trainer.warmup=0.5", "data.name=x", "seed=7"]
    with pytest.raises(UserError, match=r"configuration \(data\.name: .*; seed: .*; trainer\.max_epochs: .*; \.\.\.\)"):
        _claim("output_dir=here", *changed)
    for choice, found in (
        ("model=qwen2_tiny", 'model.name: "char_bilstm" then, "qwen2_tiny" now; '),
        ("data=own", 'data.name: "sample" then, "own" now; data.files.dev: null then, '),
    ):
        with pytest.raises(UserError) as refused:
            _claim("output_dir=here", choice)
        assert f"another configuration ({found}" in str(refused.value)
    Path("here/config.yaml").unlink()
    with pytest.raises(UserError, match=r"unfinished run of another configuration\. "):
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
    second.drop_backup()
    assert not (second.path / runs_folder.REPLACED).exists()


def test_starting_over_removes_what_any_task_may_have_written_where_it_is_not_known_which() -> None:
    first = _claim("output_dir=here")
    for name in ("predictions.jsonl", "stats.json"):
        (first.path / name).touch()
    first.save(status="finished", task="of_another_version")
    first.close()
    second = _claim("output_dir=here")
    second.drop_backup()
    assert {path.name for path in second.path.iterdir()} == set(runs_folder.BOOKKEEPING)


def _claim_given_corpus(*overrides: str) -> runs_folder.RunFolder:
    """The claimed folder of a run that a program gives its corpus."""
    config = compose.load(["data=own", "data.root=null", *overrides])
    corpus = dataclasses.replace(config.data, from_memory={"train": "digest"})
    _claimed.append(runs_folder.claim_folder(dataclasses.replace(config, data=corpus)))
    return _claimed[-1]


def test_the_copy_of_a_given_corpus_is_an_output_of_its_run_only() -> None:
    theirs = Path("here/from_memory/notes.txt")
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    for status in ("running", "finished"):  # a new run, then it done again
        claimed = _claim("output_dir=here")
        claimed.drop_backup()
        claimed.save(status="finished")
        claimed.close()
        assert theirs.read_text() == "mine", status
    for starting in ("resume=auto", "resume=never"):
        with pytest.raises(UserError, match="here holds from_memory, which this run would replace"):
            _claim_given_corpus("output_dir=here", starting)
    claimed = _claim_given_corpus("output_dir=here", "overwrite=true")
    assert not theirs.exists()
    claimed.discard()
    assert theirs.read_text() == "mine"


def test_the_copy_of_a_given_corpus_goes_with_its_run() -> None:
    for _ in range(2):
        claimed = _claim_given_corpus("output_dir=here")
        assert not Path("here/from_memory").exists()
        Path("here/from_memory").mkdir()
        claimed.drop_backup()
        claimed.save(status="finished")
        claimed.close()
    claimed = _claim("output_dir=here", "overwrite=true")
    assert not Path("here/from_memory").exists()


def _finished() -> dict[str, str]:
    """What a finished run has left in the folder `here`."""
    first = _claim("output_dir=here")
    (first.path / "checkpoints").mkdir()
    for name in ("predictions.jsonl", "checkpoints/last.ckpt", "notes.txt"):
        (first.path / name).write_text(f"old {name}\n")
    first.save(status="finished", run_id="old")
    first.close()
    return _content(first.path)


def _content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("overrides", [(), ("seed=7", "overwrite=true"), ("task=split", "overwrite=true")])
def test_a_run_that_came_to_nothing_gives_back_what_it_was_to_replace(overrides: tuple[str, ...]) -> None:
    before = _finished()
    second = _claim("output_dir=here", *overrides)
    (second.path / "issues.jsonl").write_text("new\n")
    second.discard()
    assert _content(second.path) == before


def test_a_command_that_fails_leaves_the_finished_run_of_the_same_command() -> None:
    Path("p.jsonl").write_text('{"id": "1", "text": "喝小满", "entities": []}\n')
    score = ["task=score", "predictions=p.jsonl", "gold=p.jsonl", "tracking=off", "metrics.bootstrap=0"]
    config = compose.load([*score, "output_dir=here"])
    first = _claim(*score, "output_dir=here")
    (first.path / "scores.json").write_text("{}\n")
    first.save(status="finished")
    first.close()
    before = _content(first.path)
    Path("p.jsonl").write_text("no corpus\n")
    with pytest.raises(UserError):
        run.run(config)
    assert _content(first.path) == before


class _Killed(BaseException):
    pass


def test_a_kill_at_any_moment_of_starting_over_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before, config, left = _finished(), compose.load(["output_dir=here"]), 0

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def changing(*given: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise _Killed
            return change(*given, **named)

        return changing

    def start_over() -> None:
        second = runs_folder.claim_folder(config)
        (second.path / "issues.jsonl").write_text("new\n")
        second.discard()
        second.close()

    changes = [(Path, name) for name in ("rename", "replace", "unlink", "mkdir", "rmdir")]
    for moment in range(200):
        left = moment
        with monkeypatch.context() as patch:
            for owner, name in [*changes, (shutil, "copyfile")]:
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                start_over()
                killed = False
            except _Killed:
                killed = True
        gc.collect()  # the lock of a process that is gone
        runs_folder.recover_after_kill(Path("here"))
        runs_folder.remove_temporary_files(Path("here"))
        assert _content(Path("here")) == before, moment
        if not killed:
            break
    assert 20 < moment < 199


@pytest.mark.parametrize("came_to", ["checkpoints/last.ckpt", "finished"])
def test_what_is_replaced_goes_where_a_killed_run_has_come_to_something(came_to: str) -> None:
    _finished()
    second = _claim("output_dir=here")
    if came_to == "finished":
        second.save(status=came_to)
    else:
        (second.path / "checkpoints").mkdir()
        (second.path / came_to).write_text("new\n")
    second.close()
    third = _claim("output_dir=here")
    assert third.resumed == (came_to != "finished")
    kept = (third.path / runs_folder.REPLACED / "predictions.jsonl").exists()
    assert not kept
    if third.resumed:
        assert (third.path / came_to).read_text() == "new\n"


def test_resume_names_the_folder_of_an_unfinished_run() -> None:
    first = _claim()
    first.close()
    assert _claim(f"resume={first.path}").resumed
    with pytest.raises(UserError, match="holds no run"):
        _claim("resume=nowhere")
    with pytest.raises(UserError, match=r"another configuration \(seed: 42 then, 7 now\)\. Give the same overrides"):
        _claim(f"resume={first.path}", "seed=7")


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "predictions.jsonl"])
def test_a_folder_says_whether_it_holds_work(name: str) -> None:
    folder = _claim()
    (folder.path / "issues.jsonl").touch()
    (folder.path / "checkpoints").mkdir()
    assert not folder.holds_work
    (folder.path / name).touch()
    assert folder.holds_work


@pytest.mark.parametrize("moment", ["write_text", "write_json"])
def test_a_run_that_is_killed_as_it_begins_has_its_configuration_in_the_end(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(runs_folder, moment, killed)
        with pytest.raises(_Killed):
            _claim("output_dir=here")
    gc.collect()  # the lock of a process that is gone
    again = _claim("output_dir=here")
    assert run_config.read(again.path / "config.yaml") == compose.load(["output_dir=here"])


def test_two_runs_that_start_in_the_same_second_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "now")
    first = _claim("name=a")
    with monkeypatch.context() as patch:  # a network file system may remember for a while that it is not there
        patch.setattr(Path, "exists", lambda _: False)
        second = runs_folder._new_path("a")
    assert [first.path.name, second.name] == ["a-now", "a-now-2"]


def test_a_run_that_finished_while_its_lock_was_asked_for_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _claim()
    first.save(status="finished")
    first.close()
    monkeypatch.setattr(runs_folder, "_unfinished", lambda *_: [first.path])
    assert _claim().path != first.path


def test_results_of_another_content_are_not_sent_as_those_of_now() -> None:
    """A file of answers decides what notes say: with others in it the same command is to be done anew."""
    Path("answers.jsonl").write_text('{"id": "0123", "answer": {"rule": "1"}}\n', encoding="utf-8")
    asked = ["task=guide", "run=x", "teacher=file", "teacher.file=answers.jsonl"]
    first = _claim(*asked)
    read = TASKS["guide"].content_read(compose.load(asked))
    first.save(status=runs_folder.UNSENT, read=read)
    first.close()
    same = _claim(*asked)
    assert (same.resumed, same.path) == (True, first.path)
    same.close()
    Path("answers.jsonl").write_text('{"id": "0123", "answer": {"rule": "2"}}\n', encoding="utf-8")
    assert not _claim(*asked).resumed
    first.save(status="killed")  # what it has predicted is as good for the new answers
    assert _claim(*asked).path == first.path


def test_without_tracking_nothing_of_an_unsent_run_is_left_to_do() -> None:
    first = _claim()
    first.save(status=runs_folder.UNSENT)
    first.close()
    assert _claim("tracking=off").path != first.path
    assert _claim().path == first.path


def test_a_living_run_is_not_resumed_by_its_folder() -> None:
    first = _claim()
    with pytest.raises(UserError, match=r"resume: .* is in use by another run"):
        _claim(f"resume={first.path}")


def test_temporary_files_of_others_stay() -> None:
    first = _claim("output_dir=here")
    for name in (".notes.tmp", ".a.12345678.tmp.txt", "a.12345678.tmp", ".scores.json.0123abcd.tmp"):
        (first.path / name).touch()
    runs_folder.remove_temporary_files(first.path)
    assert sorted(path.name for path in first.path.glob("*.tmp*")) == [
        ".a.12345678.tmp.txt", ".notes.tmp", "a.12345678.tmp",
    ]  # fmt: skip
