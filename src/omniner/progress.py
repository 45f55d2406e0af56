"""Tell the person at the terminal what there is to read: results, and how far long work is."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TextIO, TypeVar

T = TypeVar("T")

log = logging.getLogger("omniner")

_is_logged: ContextVar[bool] = ContextVar("is_logged", default=False)


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Log what the block shows: its caller is a program, whose standard output is its own.

    Where nobody has set up logging, as in a notebook, what is logged goes to stderr for the time of the block. Handlers
    of the program get it from level INFO on, unless the program has set a level for the logger `omniner`. Two blocks
    must not run at the same time: the second would rely on the handler of the first.
    """
    token = _is_logged.set(True)
    handler, level = None if log.hasHandlers() else logging.StreamHandler(), log.level
    if handler is not None:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
    # A single logging.warning() gives the root logger a handler, but leaves its level at WARNING.
    if level == logging.NOTSET and not log.isEnabledFor(logging.INFO):
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _is_logged.reset(token)
        if handler is not None:
            log.removeHandler(handler)
        log.setLevel(level)


_SLOW = 0.1  # items per second; slower rates are given per minute


def show(text: str, stream: TextIO | None = None) -> None:
    """Print a text and flush it, or log it in a block of `logged`; never fail.

    A closed pipe, a terminal that is gone or a full disk must not turn finished work into a failed run: the first such
    error is logged, and the output goes nowhere from then on. What the encoding of the stream lacks is escaped.

    Args:
        text: one or several lines.
        stream: where to; None = standard output.
    """
    if stream is None and _is_logged.get():
        log.info("%s", text)
        return
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError as error:
        log.warning("what is printed cannot be shown any more (%s); the work goes on", error.strerror or error)
        with contextlib.suppress(OSError):  # a stream that is no file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())  # so that flushing it at exit succeeds
            os.close(nowhere)


class Progress:
    """Count finished items, and log the progress every few seconds.

    Args:
        what: the finished items, for example `sentences answered`.
        total: number of items.
        done: number of items finished before; they do not count for the rate.
        seconds: between two lines.
        at_once: whether to log the first finished item at once, for items that may take minutes each.
        enough: number of finished items before a rate is logged: if this many run in parallel, the first to finish say
            nothing about the rest.
        quiet: only count; of several processes one logs.
        note: returns a note to add to each line.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done: int = 0,
        seconds: float = 10.0,
        at_once: bool = False,
        enough: int = 1,
        quiet: bool = False,
        note: Callable[[], str] | None = None,
    ) -> None:
        self.what, self.total, self.done, self._before = what, total, done, done
        self._seconds, self._at_once, self._enough, self._quiet, self._note = seconds, at_once, enough, quiet, note
        self._start = self._spoken = time.monotonic()

    def add(self, count: int) -> None:
        """Add `count` finished items, and log the progress if the last line was long ago."""
        first = count > 0 and self.done == self._before
        self.done += count
        if (first and self._at_once) or time.monotonic() - self._spoken >= self._seconds:
            self.say()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and add each when the next one is asked for."""
        for item in items:
            yield item
            self.add(1)

    def say(self, note: str = "") -> None:
        """Log the progress now, with this note instead of the usual one."""
        self._spoken = time.monotonic()
        if not self._quiet:
            note = note or (self._note() if self._note else "")
            log.info("%s%s", self.status(), f"; {note}" if note else "")

    def status(self) -> str:
        """Return one line: how much is done and, once enough is, the mean rate and the time that the rest takes."""
        fresh = self.done - self._before
        rate = fresh / max(time.monotonic() - self._start, 1e-9)
        line = f"{self.done:,} of {self.total:,} {self.what}"
        if fresh < self._enough:
            return line
        return f"{line}, {pace(rate)}, {duration((self.total - self.done) / rate)} left"


def pace(rate: float) -> str:
    """Format a number per second for reading: `120.0 per s`, `3.5 per min`."""
    return f"{rate:.1f} per s" if rate >= _SLOW else f"{60 * rate:.1f} per min"


def duration(seconds: float) -> str:
    """Format a time for reading: `40 s`, `3.5 min`, `2.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Log how long the block took."""
    start = time.perf_counter()
    yield
    log.info("%s in %.1f s", what, time.perf_counter() - start)
