"""The queue between a run and its tracking store: an append-only file first, a sender thread behind it.

What goes in: small JSON records (`metrics`, `params`, `tags`, `artifact`, ...) of one run. What comes out:
calls of `deliver(run_id, records)` in the order written, and a file that holds whatever could not be
delivered yet. The idea: writing a record is one line appended to a local file (about ten microseconds), so
that a slow, broken or vanished store never holds up training; a thread reads the same file from behind and
sends a batch every few seconds. A line `{"sent": n}` follows each delivered batch, so a later process goes on
exactly there. Delivery is at least once: a crash between a delivery and its `sent` line repeats one batch, so
`deliver` must stand being repeated.

The price: a record reaches the store up to `INTERVAL` seconds late, and each record is written and parsed
once.
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


class Record(NamedTuple):
    """One line of the spool: number, run it belongs to, kind, milliseconds since 1970, content."""

    seq: int
    run: str
    kind: str
    time: int
    body: dict[str, Any]


class RefusedError(Exception):
    """The store will never take this. Anything else that `deliver` raises is tried again."""


Deliver = Callable[[str, Sequence[Record]], None]


class Spool:
    """The file. One process writes to it at a time; `records` and `previous` tell what earlier ones left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = ""  # of the last section of the file
        self.earlier: list[Record] = []  # all records found in the file, sent or not
        self.sent = 0  # number of the last record that needs no further sending
        self.refused = 0  # records of this process that the store would not take
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

    def _parse(self, item: Mapping[str, Any]) -> Record | None:
        """A record, or None for the lines that only keep the books."""
        if "run" in item:
            self.run = str(item["run"])
        elif "sent" in item:
            self.sent = max(self.sent, int(item["sent"]))
        elif "kind" in item:
            return Record(int(item["seq"]), self.run, str(item["kind"]), int(item["time"]), dict(item["body"]))
        elif "refused" not in item:
            raise ValueError("neither a record nor a mark")
        return None

    def begin(self, run: str) -> None:
        """Records written from now on belong to `run`."""
        if run != self.run:
            self._write({"run": run})
            self.run = run

    def add(self, kind: str, body: Mapping[str, Any]) -> None:
        """Write one record; it is safe against the death of this process once this returns."""
        with self._lock:
            self.last += 1
            self._write({"seq": self.last, "kind": kind, "time": int(time.time() * 1000), "body": body})

    def _write(self, item: Mapping[str, Any]) -> None:
        with explaining(self.path):
            self._writer.write(to_line(item) + "\n")
            self._writer.flush()

    def mark_sent(self, seq: int) -> None:
        """Everything up to `seq` needs no further sending."""
        with self._lock:
            self.sent = seq
            self._write({"sent": seq})

    def mark_refused(self, seq: int, why: str) -> None:
        """Record `seq` was not taken, and will not be: say so in the file."""
        with self._lock:
            self.refused += 1
            self._write({"refused": seq, "why": why})

    @property
    def unsent(self) -> int:
        """Records that wait for delivery."""
        return self.last - self.sent

    def waiting(self) -> list[Record]:
        """The next records to send, of one run, at most `BATCH`; reads on from where it stopped."""
        found: list[Record] = []
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
                found.append(Record(item["seq"], self._reading_run, item["kind"], item["time"], item["body"]))
        return found

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._reader.close()


class Sender:
    """The thread that works a spool off: `flush` waits for it, `close` ends it."""

    def __init__(self, spool: Spool, deliver: Deliver) -> None:
        self._spool = spool
        self._deliver = deliver
        self._batch: list[Record] = []
        self._failures = 0  # in a row
        self._attempts = 0
        self._hurry = False
        self._closing = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="omniner-tracking", daemon=True)
        self._thread.start()

    def flush(self, seconds: float) -> bool:
        """Send what waits. False if the store fails at it, or is not done within `seconds`."""
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
        """Flush, end the thread and return how many records stay in the spool."""
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

    def _send(self, batch: Sequence[Record]) -> None:
        try:
            self._deliver(batch[0].run, batch)
        except RefusedError:
            for record in batch:
                self._send_single(record)

    def _send_single(self, record: Record) -> None:
        try:
            self._deliver(record.run, [record])
        except RefusedError as error:
            log.warning("tracking store refuses a %s record: %s", record.kind, one_line(error))
            self._spool.mark_refused(record.seq, one_line(error))
