"""Progress of long work, said now and then: how much is done, how fast, how long still."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

log = logging.getLogger("omniner")

_SLOW = 0.1  # per second; what is slower is told per minute


class Progress:
    """Counts what is done, and says so every few seconds.

    Args:
        what: is done, for example `sentences answered`.
        total: how many there are.
        done: how many of them were done before; they do not count for the rate.
        seconds: between two lines.
        at_once: whether the first that is done is said at once: for what may take minutes each.
        enough: how many must be done before a rate is said: where so many are under way together, the first ones
            that end say nothing of the rest.
        quiet: only count; of several processes one speaks.
        note: what to say besides, asked for with each line.
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
        """Count `count` more as done, and say so if the last line is long ago."""
        first = count > 0 and self.done == self._before
        self.done += count
        if (first and self._at_once) or time.monotonic() - self._spoken >= self._seconds:
            self.say()

    def say(self, note: str = "") -> None:
        """Say now how far the work is; with this note instead of the one asked for with each line."""
        self._spoken = time.monotonic()
        if not self._quiet:
            note = note or (self._note() if self._note else "")
            log.info("%s%s", self.status(), f"; {note}" if note else "")

    def status(self) -> str:
        """Return one line: how much is done; once that is enough, the mean rate too, and how long the rest takes."""
        fresh = self.done - self._before
        rate = fresh / max(time.monotonic() - self._start, 1e-9)
        line = f"{self.done:,} of {self.total:,} {self.what}"
        if fresh < self._enough:
            return line
        return f"{line}, {pace(rate)}, {duration((self.total - self.done) / rate)} left"


def pace(rate: float) -> str:
    """Return a number per second as people say it: `120.0 per s`, `3.5 per min`."""
    return f"{rate:.1f} per s" if rate >= _SLOW else f"{60 * rate:.1f} per min"


def duration(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `3.5 min`, `2.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long the block took."""
    start = time.perf_counter()
    yield
    log.info("%s in %.1f s", what, time.perf_counter() - start)
