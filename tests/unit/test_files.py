from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import pytest

from omniner import files
from omniner.errors import Stopped, UserError
from omniner.files import (
    append_lines,
    make_folder,
    read_json,
    restore,
    whole_lines,
    whole_records,
    write_json,
    write_text,
    writing,
    writing_folder,
)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def half() -> None:
        with writing(path) as file:
            file.write("new")
            raise RuntimeError("killed half-way")

    with pytest.raises(RuntimeError):
        half()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    path = write_json(tmp_path / "deep" / "er" / "a.json", {"实体": 1})
    reference = tmp_path / "reference"
    reference.write_text("")
    assert path.stat().st_mode == reference.stat().st_mode
    assert read_json(path) == {"实体": 1}
    assert "实体" in path.read_text(encoding="utf-8")


def test_nan_is_refused_because_it_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_torn_last_line_is_cut_off_before_work_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_lines(path, ["一", "二"])
    with path.open("ab") as file:
        file.write("三".encode()[:2])
    assert whole_lines(path) == ["一", "二"]
    append_lines(path, ["三"])
    assert path.read_text(encoding="utf-8") == "一\n二\n三\n"


def test_a_file_of_records_is_never_whole_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_lines(path, ["字" * 1000] * 2000)  # 6 MB, and 4 MB as text
    tracemalloc.start()
    sizes = whole_records(path, len, "")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes == [1000] * 2000
    assert peak < 1e6


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_lines(path, ["a\u2028b\x85c"])
    assert whole_lines(path) == ["a\u2028b\x85c"]


def test_broken_json_names_file_and_line(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.json", '{\n"a": ]\n}')
    with pytest.raises(UserError, match=r"a\.json:2: not JSON"):
        read_json(path)


def test_nested_beyond_reason_is_a_clear_error(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.json", "[" * 200_000)
    with pytest.raises(UserError, match="not JSON"):
        read_json(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Choose a folder you may write to"):
        make_folder(tmp_path / "x")


def test_a_file_where_a_folder_is_wanted_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="part of this path is a file"):
        make_folder(tmp_path / "x" / "y")


def test_no_space_left_keeps_the_old_file(tmp_path: Path) -> None:
    """A real failure of the operating system: writing past the file size limit of the process."""
    script = textwrap.dedent(f"""
        import resource, signal
        from omniner.files import write_text
        write_text({str(tmp_path / "a.txt")!r}, "old")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        write_text({str(tmp_path / "a.txt")!r}, "x" * 100_000)
    """)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "UserError" in result.stderr
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def content(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with writing_folder(tmp_path / "deep" / "a") as folder:
            assert not list(folder.iterdir())
            (folder / f"{text}.txt").write_text(text)
        assert content(tmp_path) == {f"deep/a/{text}.txt": text}
    assert [item.name for item in (tmp_path / "deep").iterdir()] == ["a"]


def test_files_in_a_folder_are_as_readable_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    with writing_folder(tmp_path / "a") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "x").write_text("")
        (folder / "deep" / "x").chmod(0o600)
    assert (tmp_path / "a" / "deep" / "x").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_nobody_else_notices_how_a_file_gets_its_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has one umask: set for a moment, it is that of what other threads make in this moment."""
    (tmp_path / "other").write_text("")

    def changed(mask: int) -> int:
        raise AssertionError("the umask is changed")

    monkeypatch.setattr(os, "umask", changed)
    write_text(tmp_path / "a.txt", "x")
    with writing_folder(tmp_path / "b") as folder:
        write_text(folder / "x", "x")
    modes = {(tmp_path / name).stat().st_mode for name in ("other", "a.txt", "b/x")}
    assert len(modes) == 1
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["x"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    with writing_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("old")

    def fail(name: str) -> None:
        with writing_folder(tmp_path / name) as folder:
            (folder / "x").write_text("new")
            raise RuntimeError("killed half-way")

    for name in ("a", "b"):
        with pytest.raises(RuntimeError):
            fail(name)
    assert content(tmp_path) == {"a/x": "old"}
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, pathlib
        from omniner.files import writing_folder
        real = pathlib.Path.rename
        def rename(path, target):
            real(path, target)
            if str(target).endswith(".previous"):
                os._exit(9)
        for text in ("old", "new"):
            with writing_folder({str(tmp_path / "a")!r}) as folder:
                (folder / "x").write_text(text)
            pathlib.Path.rename = rename
    """)
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert not (tmp_path / "a").exists()
    restore(tmp_path / "a")
    assert content(tmp_path / "a") == {"x": "old"}
    with writing_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("newest")
    assert content(tmp_path) == {"a/x": "newest"}


def test_a_lock_is_held_once_even_within_a_process_until_it_is_released(tmp_path: Path) -> None:
    lock = files.try_lock(tmp_path / "lock")
    assert lock is not None
    assert files.try_lock(tmp_path / "lock") is None
    lock.release()
    again = files.try_lock(tmp_path / "lock")
    assert again is not None
    again.release()


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from omniner.files import try_lock; lock = try_lock(sys.argv[1]); "
        "print(lock is not None, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "True"
        assert files.try_lock(tmp_path / "lock") is None
        holder.kill()
        holder.wait()
        lock = files.try_lock(tmp_path / "lock")
        assert lock is not None
        lock.release()


def test_a_lock_where_nothing_may_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        files.try_lock(tmp_path / "file" / "lock")


def test_waiting_for_a_lock_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_RETRY_SECONDS", 0)
    tries = iter([False, True])

    def check_stop() -> None:
        if next(tries):
            raise Stopped

    with (
        files.wait_for_lock(tmp_path / "lock", check_stop),
        pytest.raises(Stopped),
        files.wait_for_lock(tmp_path / "lock", check_stop),
    ):
        pass
    with files.wait_for_lock(tmp_path / "lock", check_stop):
        pass


def test_who_reads_a_folder_leaves_the_old_one_to_the_process_that_replaces_it(tmp_path: Path) -> None:
    for name in ("a", ".a.previous"):
        write_text(tmp_path / name / "x", name)
    restore(tmp_path / "a")
    assert content(tmp_path) == {"a/x": "a", ".a.previous/x": ".a.previous"}
    with writing_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("new")
    assert content(tmp_path) == {"a/x": "new"}


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    write_text(tmp_path / "elsewhere" / "file", "old")
    for name, place in (("link", "elsewhere/file"), ("folder", "elsewhere")):
        (tmp_path / name).symlink_to(tmp_path / place)
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "elsewhere" / "file").read_text() == "new"
    for _ in range(2):
        with writing_folder(tmp_path / "folder") as folder:
            (folder / "x").write_text("new")
        assert content(tmp_path / "elsewhere") == {"x": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "folder", "link"]
    assert (tmp_path / "folder").is_symlink()
    assert (tmp_path / "link").is_symlink()


def test_half_a_character_in_a_text_is_escaped(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a.txt", "小满\ud83d").read_text(encoding="utf-8") == "小满\\ud83d"
    assert read_json(write_json(tmp_path / "a.json", {"小满\ud83d": 1})) == {"小满\ud83d": 1}
