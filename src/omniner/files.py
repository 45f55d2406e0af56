"""Write files atomically, append to files that survive a kill, and lock files.

Every file of a run is read and written through this module. `write_text` and `writing` write to a temporary file beside
the target and rename it, so that a reader never sees half a file. `append_lines` and `whole_lines` are the pair for
long work that may be killed: a line counts once its newline is there, and a torn last line is cut off before work
continues. `try_lock` and `wait_for_lock` keep two processes from doing the same work; a lock ends with the process that
holds it. Errors of the operating system (no space, no permission, a missing file) become one `UserError` that names the
path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from omniner.errors import UserError, one_line
from omniner.progress import Progress
from omniner.records import storable, to_line

if TYPE_CHECKING:
    from filelock import BaseFileLock

T = TypeVar("T")

log = logging.getLogger("omniner")

LOCK_RETRY_SECONDS = 0.5  # between two attempts to get a lock
_NO_MEMORY = (
    "can't allocate memory", "not enough memory", "out of memory", "cannot allocate memory", "bad_alloc",
    "failed to map segment",  # a library that cannot be mapped into memory raises ImportError
)  # fmt: skip
_MEMORY_FIX = (
    "Give it more. Less is needed by a tagger with a lower trainer.batch_size, by a language model that learns with "
    "tuning.gradient_checkpointing=true or a lower tuning.pack_tokens, by answers with a lower decoding.slots or "
    "trainer.eval_batch_size."
)
_PACKED = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zX", "bzip2": b"BZh", "zstandard": b"\x28\xb5\x2f\xfd"}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_SPACE = "Free some space or choose another folder"
_HANDLES = "Raise the limit of open files (ulimit -n)"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EMFILE: _HANDLES,
    errno.ENFILE: _HANDLES,
    errno.EIO: "Check the disk",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EACCES: "Choose a folder you may write to, or change its permissions",
    errno.EPERM: "Choose a folder you may write to, or change its permissions",
    errno.EROFS: "Choose a folder on a writable file system",
    errno.ENOENT: "Check the path",
    errno.EISDIR: "Name a file, not a folder",
    errno.ENOTDIR: "A part of this path is a file: choose another path",
}
_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO)


@contextlib.contextmanager
def explaining(path: str | Path) -> Iterator[None]:
    """Convert an `OSError` about `path` to a `UserError` that says what to do, even if a library wraps it."""
    try:
        yield
    except Exception as error:
        cause = error if isinstance(error, OSError) else wrapped_os_error(error)
        if isinstance(error, UserError) or cause is None:
            raise
        advice = _ADVICE.get(cause.errno or 0, "Check the path and the disk")
        raise UserError(cause.filename or path, cause.strerror or str(cause), f"{advice}.") from error


def wrapped_os_error(error: BaseException) -> OSError | None:
    """Return the error of the operating system (space, file handles) behind a library's error, if there is one."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.errno in _OF_THE_MACHINE:
            return behind
        # Libraries written in Rust give it only in their message.
        if (found := re.search(r"\(os error (\d+)\)", str(behind))) and int(found[1]) in _OF_THE_MACHINE:
            return OSError(int(found[1]), os.strerror(int(found[1])))
        behind = behind.__cause__ or behind.__context__
    return None


@contextlib.contextmanager
def explaining_limits() -> Iterator[None]:
    """Convert a limit of the machine (memory, threads, file handles, space) to a `UserError`, whatever raised it."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
            raise UserError("memory", f"there is no more ({one_line(error)})", _MEMORY_FIX) from error
        if "can't start new thread" in text:
            raise UserError("threads", "no more can be started", "Raise the limit of processes (ulimit -u).") from error
        if (cause := wrapped_os_error(error)) is not None:
            advice = _ADVICE[cause.errno or 0]
            raise UserError(cause.filename or "the machine", cause.strerror or str(cause), f"{advice}.") from error
        raise


def check_input_file(path: str | Path) -> None:
    """Raise a `UserError` for a pipe (reading would block) or a compressed file."""
    path = Path(path)
    with explaining(path):
        if path.is_fifo() or path.is_socket():
            raise UserError(path, "a pipe, which can be read only once", "Write it to a file, and name that.")
        if path.is_file():
            with path.open("rb") as file:
                magic = file.read(4)
            for what, first in _PACKED.items():
                if magic.startswith(first):
                    raise UserError(path, f"packed data ({what})", "Unpack it first.")


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents, and check that it is writable."""
    path = Path(path)
    with explaining(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    return path


def check_new_folder(path: str | Path) -> None:
    """Raise a `UserError` if `path`, where a whole folder is to be written, is a file or a folder that is not empty."""
    path = Path(path)
    with explaining(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            fix = "Name a new one: a folder is written as a whole."
            raise UserError(path, "exists already and is no empty folder", fix)


def file_states(path: str | Path) -> list[list[Any]]:
    """Return name, size and modification time of a file, or of all files of a folder, to detect files written again."""
    path = Path(path)
    with explaining(path):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        states = [(file.relative_to(path.parent), file.stat()) for file in files if file.is_file()]
    return [[str(name), state.st_size, state.st_mtime_ns] for name, state in states]


@contextlib.contextmanager
def writing(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it replaces `path` when the block ends without an error.

    A link stays, and leads to the new file.
    """
    path = _behind_link(path)
    with explaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        name = _temporary(path)
        handle = _create(name)
        try:
            encoding = None if "b" in mode else "utf-8"
            newline = None if "b" in mode else "\n"
            with os.fdopen(handle, mode, encoding=encoding, newline=newline) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            name.replace(path)
        except BaseException:
            name.unlink(missing_ok=True)
            raise


def _create(path: Path) -> int:
    """Create a file with the default permissions, which the kernel decides; return its handle."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a file of this name is unfinished output of `writing`; if its process is gone it stays unfinished."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def writing_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it replaces the folder `path` when the block ends without an error.

    An existing folder is moved aside between two renames; `restore` brings it back after a kill in that moment. What a
    kill left half-written is removed the next time. Only one process at a time may write a folder. A link stays, and
    leads to the new folder.
    """
    path = _behind_link(path)
    half, aside = path.with_name(f".{path.name}.new"), _aside(path)
    with explaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        restore(path)
        _remove(aside)
        _remove(half)
        half.mkdir()
        try:
            yield half
            _make_readable(half)
            if path.exists():
                path.rename(aside)
            half.rename(path)
        except BaseException:
            _remove(half)
            restore(path)
            raise
        _remove(aside)


def restore(path: str | Path) -> None:
    """Bring back a folder that `writing_folder` had moved aside when it was killed.

    If both folders exist, nothing is done: a process that writes the folder may be removing the old one.
    """
    path = _behind_link(path)
    aside = _aside(path)
    with explaining(path):
        if aside.exists() and not path.exists():
            aside.rename(path)


def _behind_link(path: str | Path) -> Path:
    """Return the target of a link: renaming onto the link would replace it and leave its target unchanged."""
    path = Path(path)
    return path.resolve() if path.is_symlink() else path


def _make_readable(folder: Path) -> None:
    """Give files that a library made private the permissions of any other new file in this folder."""
    probe = _temporary(folder / "probe")
    handle = _create(probe)
    mode = stat.S_IMODE(os.fstat(handle).st_mode)
    os.close(handle)
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file atomically; lone surrogates, which a model's answer may contain, are escaped."""
    with writing(path) as file:
        file.write(storable(text))
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write indented JSON atomically, with Chinese unescaped; NaN is refused."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_json_lines(path: str | Path, items: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON lines atomically, with Chinese unescaped."""
    with writing(path) as file:
        file.writelines(f"{to_line(item)}\n" for item in items)
    return Path(path)


def read_json(path: str | Path) -> Any:
    """Read a JSON file; raise a `UserError` with the line if it is missing or broken."""
    with explaining(path):
        data = Path(path).read_bytes()
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        line = data.count(b"\n", 0, error.start) + 1 if isinstance(error, UnicodeDecodeError) else 1
        line = getattr(error, "lineno", line)
        raise UserError(f"{path}:{line}", f"not JSON ({error})", "Repair the file or name another one.") from error


def whole_lines(path: str | Path) -> list[str]:
    """Return the complete lines of an append-only file; none if it does not exist.

    Whatever a kill or a power failure left at the end is cut off from the file: half a line, or lines of bytes that are
    not text.

    Raises:
        UserError: such bytes are followed by a complete line.
    """
    return list(_whole_lines(Path(path)))


def _whole_lines(path: Path) -> Iterator[str]:
    """Yield what `whole_lines` returns, one line at a time; the end of the file is cut off after the last one."""
    if not path.exists():
        return
    end, bad = 0, 0  # where the last complete line ends, and the number of the first line that is none
    with explaining(path), path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            text = _as_text(line[:-1]) if line.endswith(b"\n") else None
            if text is None:
                bad = bad or number
                continue
            if bad:
                raise UserError(f"{path}:{bad}", "bytes that are no UTF-8 text", "Remove this line, or the file.")
            end += len(line)
            yield text
        size = file.seek(0, os.SEEK_END)
        if end < size:
            log.warning("%s: %d bytes at the end are no whole line; they are cut off", path, size - end)
            file.truncate(end)


def _as_text(line: bytes) -> str | None:
    """Decode a line; return None if its bytes are not text."""
    try:
        return None if b"\0" in line else line.decode("utf-8")
    except UnicodeDecodeError:
        return None


def whole_records(path: str | Path, parse: Callable[[str], T], fix: str) -> list[T]:
    """Parse the `whole_lines` of a file, one after the other: the file itself is never in memory.

    Args:
        path: of the file.
        parse: converts a line. For a line that it cannot read it raises what access to foreign JSON raises:
            `ValueError`, `KeyError`, `TypeError`, `AttributeError`, `RecursionError` or `OverflowError`.
        fix: what to do about such a line.

    Raises:
        UserError: a line cannot be parsed; it names the file and the line.
    """
    path = Path(path)
    found: list[T] = []
    progress = Progress(f"bytes of {path.name} read", path.stat().st_size if path.exists() else 0)
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            found.append(parse(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            reason = error.found if isinstance(error, UserError) else error
            raise UserError(f"{path}:{number}", f"a broken line ({reason}): {line[:80]!r}", fix) from error
        progress.add(len(line.encode()) + 1)
    return found


def append_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Append lines, each with its newline, in one write."""
    with explaining(path), Path(path).open("a", encoding="utf-8", newline="\n") as file:
        file.write("".join(f"{line}\n" for line in lines))


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as hex digits."""
    with explaining(path), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def try_lock(path: str | Path) -> BaseFileLock | None:
    """Lock a file until the lock's `release`, or until this process ends.

    Returns:
        The lock; None if another process, or another lock of this one, holds the file.

    Raises:
        UserError: the file cannot be created.
    """
    from filelock import FileLock, Timeout  # 0.1 s, for which --help and configuration errors need not wait

    lock = FileLock(path, thread_local=False)
    with explaining(path):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
    return lock


@contextlib.contextmanager
def wait_for_lock(path: str | Path, check_stop: Callable[[], None]) -> Iterator[None]:
    """Wait until a file is free, and lock it for the block.

    Args:
        path: of the file.
        check_stop: called twice a second while waiting; an exception that it raises ends the waiting.
    """
    while (lock := try_lock(path)) is None:
        check_stop()
        time.sleep(LOCK_RETRY_SECONDS)
    try:
        yield
    finally:
        lock.release()
