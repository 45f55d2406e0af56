"""The queue between a run and its tracking store: an append-only file first, a thread that sends it behind.

Writing a record (`metrics`, `params`, `tags`, `artifact`, ...) is one line appended to a file in the run's folder,
about ten microseconds, so that a slow, broken or vanished store never holds up training. A thread reads the same file
and sends a batch every few seconds, in the order written. A line `{"sent": n}` follows each batch that was delivered,
so that a later process goes on exactly there. Delivery is at least once: a crash between a delivery and its `sent` line
repeats one batch, so `deliver` must stand being repeated. The price: a record reaches the store up to `INTERVAL`
seconds late, and each record is written and parsed once.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omniner.errors import UserError, one_line
from omniner.files import explaining, whole_lines
from omniner.records import to_line

log = logging.getLogger("omniner.tracking")

INTERVAL = 5.0  # seconds between two batches while all is well
BATCH = 1000  # records of one batch at most
LONGEST_PAUSE = 60.0  # seconds: where doubling the pause after each failure ends


class SpoolRecord(NamedTuple):
    """One line of the spool: its number, the id of its run, its kind, milliseconds since 1970, its content."""

    seq: int
    run: str
    kind: str
    time: int
    body: dict[str, Any]


class RefusedError(Exception):
    """Raised by `deliver` where the store will never take the records. After any other error they are sent again."""


Deliver = Callable[[str, Sequence[SpoolRecord]], None]
"""Sends records of the run with this id to the store."""


class Spool:
    """The file, which one process writes at a time.

    Attributes:
        path: of the file.
        run: id of the run to which records belong that are written now.
        earlier: all records that were found in the file, sent or not.
        last: number of the last record.
        sent: number of the last record that needs no further sending.
        refused: how many records of this process the store would not take.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = ""
        self.earlier: list[SpoolRecord] = []
        self.sent = 0
        self.refused = 0
        self._lock = threading.RLock()  # a signal handler may end the run in the middle of a record
        for line in whole_lines(path):
            self._take(path, line)
        self.last = self.earlier[-1].seq if self.earlier else 0
        with explaining(path):
            self._writer = path.open("a", encoding="utf-8", newline="\n")
            self._reader = path.open("rb")
        self._reading_run = ""

    def _take(self, path: Path, line: str) -> None:
        try:
            item = json.loads(line)
            record = self._parse(item)
        except (ValueError, KeyError, TypeError) as error:
            found = f"a broken line ({error}): {line[:80]!r}"
            raise UserError(path, found, "Remove this line, or the file if its run need not be completed.") from error
        if record is not None:
            self.earlier.append(record)

    def _parse(self, item: Mapping[str, Any]) -> SpoolRecord | None:
        """A record, or None for the lines that only keep the books."""
        if "run" in item:
            self.run = str(item["run"])
        elif "sent" in item:
            self.sent = max(self.sent, int(item["sent"]))
        elif "kind" in item:
            return SpoolRecord(int(item["seq"]), self.run, str(item["kind"]), int(item["time"]), dict(item["body"]))
        elif "refused" not in item:
            raise ValueError("neither a record nor a mark")
        return None

    def begin(self, run: str) -> None:
        """Make the records that are written from now on belong to the run with the id `run`."""
        if run != self.run:
            self._write({"run": run})
            self.run = run

    def add(self, kind: str, body: Mapping[str, Any]) -> None:
        """Write one record; once this returns, the death of this process cannot lose it."""
        with self._lock:
            self.last += 1
            self._write({"seq": self.last, "kind": kind, "time": int(time.time() * 1000), "body": body})

    def _write(self, item: Mapping[str, Any]) -> None:
        with explaining(self.path):
            self._writer.write(to_line(item) + "\n")
            self._writer.flush()

    def mark_sent(self, seq: int) -> None:
        """Note that everything up to the record `seq` needs no further sending."""
        with self._lock:
            self.sent = seq
            self._write({"sent": seq})

    def mark_refused(self, seq: int, why: str) -> None:
        """Note in the file that the store will never take the record `seq`, and why."""
        with self._lock:
            self.refused += 1
            self._write({"refused": seq, "why": why})

    @property
    def unsent(self) -> int:
        """How many records wait for delivery."""
        return self.last - self.sent

    def waiting(self) -> list[SpoolRecord]:
        """Read on and return the next records to send: of one run, at most `BATCH`."""
        found: list[SpoolRecord] = []
        while len(found) < BATCH:
            place = self._reader.tell()
            line = self._reader.readline()
            if not line.endswith(b"\n"):
                self._reader.seek(place)
                break
            item = json.loads(line)
            if "run" in item:
                if found:
                    self._reader.seek(place)
                    break
                self._reading_run = str(item["run"])
            elif item.get("seq", 0) > self.sent:
                found.append(SpoolRecord(item["seq"], self._reading_run, item["kind"], item["time"], item["body"]))
        return found

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._reader.close()


class Sender:
    """The thread that sends what a spool holds.

    Args:
        spool: whose records are sent.
        deliver: sends a batch of them.
    """

    def __init__(self, spool: Spool, deliver: Deliver) -> None:
        self._spool = spool
        self._deliver = deliver
        self._batch: list[SpoolRecord] = []
        self._failures = 0  # in a row
        self._attempts = 0
        self._hurry = False
        self._closing = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="omniner-tracking", daemon=True)
        self._thread.start()

    def flush(self, seconds: float) -> bool:
        """Send what waits; return False where the store fails, or is not done within `seconds`."""
        deadline = time.monotonic() + seconds
        with self._change:
            attempts = self._attempts
            while self._spool.unsent:
                # A failure counts only if that attempt was begun after this call: hence two attempts.
                failed = self._failures and self._attempts >= attempts + 2
                left = deadline - time.monotonic()
                if failed or left <= 0 or not self._thread.is_alive():
                    return False
                self._hurry = True
                self._change.notify_all()
                self._change.wait(min(left, 1.0))
        return True

    def close(self, seconds: float) -> int:
        """Flush for at most `seconds`, end the thread, and return how many records stay in the spool."""
        self.flush(seconds)
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(timeout=1.0)
        # A thread that hangs in the store still needs the file; it is a daemon and ends with the process.
        if not self._thread.is_alive():
            self._spool.close()
        return self._spool.unsent

    def _pause(self) -> float:
        return INTERVAL if not self._failures else min(2.0 ** (self._failures - 1), LONGEST_PAUSE)

    def _work(self) -> None:
        while True:
            with self._change:
                if not self._hurry and not self._closing:
                    self._change.wait(self._pause())
                if self._closing:
                    return
                self._hurry = False
            delivered = self._send_all()
            with self._change:
                self._attempts += 1
                self._failures = 0 if delivered else self._failures + 1
                self._change.notify_all()

    def _send_all(self) -> bool:
        """Send until nothing waits (True) or the store fails (False)."""
        while True:
            try:
                batch = self._batch = self._batch or self._spool.waiting()
                if not batch:
                    return True
                self._send(batch)
                self._spool.mark_sent(batch[-1].seq)
            except Exception as error:
                # Whatever it is, training goes on and the records stay in the file; the first one is told.
                if not self._failures:
                    log.warning(
                        "tracking store fails (%s: %s); records wait in %s and are sent when it is back",
                        type(error).__name__,
                        one_line(error),
                        self._spool.path,
                    )
                return False
            self._batch = []
            if self._failures:
                log.warning("tracking store is back; sending the records that waited")
                self._failures = 0

    def _send(self, batch: Sequence[SpoolRecord]) -> None:
        try:
            self._deliver(batch[0].run, batch)
        except RefusedError:
            for record in batch:
                self._send_single(record)

    def _send_single(self, record: SpoolRecord) -> None:
        try:
            self._deliver(record.run, [record])
        except RefusedError as error:
            log.warning("tracking store refuses a %s record: %s", record.kind, one_line(error))
            self._spool.mark_refused(record.seq, one_line(error))
