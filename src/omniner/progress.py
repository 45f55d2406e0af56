"""A line about long work every ten seconds: how much is done, how fast, how long still."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("omniner")

_SPEAK_EVERY = 10.0  # seconds between two lines


class Progress:
    """Counts what is done and says so.

    Args:
        what: is done, e.g. `sentences answered`.
        total: how many there are.
        quiet: count only; of several processes one speaks.
    """

    def __init__(self, what: str, total: int, quiet: bool = False) -> None:
        self._what, self._total, self._quiet = what, total, quiet
        self._done, self._start = 0, time.monotonic()
        self._said = self._start

    def add(self, count: int) -> None:
        """`count` more are done."""
        self._done += count
        now = time.monotonic()
        if self._quiet or now - self._said < _SPEAK_EVERY or self._done == 0:
            return
        self._said = now
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate
        log.info("%d of %d %s, %.1f per s, %.0f s left", self._done, self._total, self._what, rate, left)
