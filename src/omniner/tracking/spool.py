"""The queue between a run and its tracking store: an append-only file, and a thread that sends its records.

Writing a record (`metrics`, `params`, `tags`, `artifact`, ...) appends one line to a file in the run's folder, which
takes about ten microseconds, so that a slow or unavailable store never delays training. A thread reads the same file
and sends a batch every few seconds, in the order written. A line `{"sent": n}` follows each delivered batch, so that a
later process continues exactly there. Delivery is at least once: a crash between a delivery and its `sent` line repeats
one batch, so `deliver` must be idempotent. The cost: a record reaches the store up to `INTERVAL` seconds late, and each
record is written and parsed once.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omniner.errors import one_line
from omniner.files import explaining, whole_records
from omniner.records import to_line

log = logging.getLogger("omniner.tracking")

SPOOL = "tracking_spool.jsonl"  # in the run's folder
SPOOL_FIX = "Remove this line, or the file if its run need not be completed."
INTERVAL = 5.0  # seconds between two batches if the store does not fail
BATCH = 1000  # maximum records of a batch
RETRY = 1.0  # seconds between two attempts at the end of a run
LONGEST_PAUSE = 60.0  # seconds; the pause doubles after each failure up to this limit


class SpoolRecord(NamedTuple):
    """One line of the spool: its number, the id of its run, its kind, milliseconds since 1970, its content."""

    seq: int
    run: str
    kind: str
    time: int
    body: dict[str, Any]


class RefusedError(Exception):
    """Raised by `deliver` if the store will never accept the records. After any other error they are sent again."""


Deliver = Callable[[str, Sequence[SpoolRecord]], None]
"""Sends records of the run with this id to the store."""


class Spool:
    """The file with the records; one process at a time writes it.

    Attributes:
        path: path of the file.
        run: id of the run that new records belong to.
        store: address of the store that has this run; empty in files of versions that did not record it.
        ended: whether the last status record of this run says that it has ended.
        earlier: all records that were found in the file, sent or not.
        last: number of the last record.
        sent: number of the last record that needs no further sending.
        refused: number of records of this process that the store refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = self.store = ""
        self.ended = False
        self.earlier: list[SpoolRecord] = []
        self.sent = 0
        self.refused = 0
        self._lock = threading.RLock()  # reentrant: a signal handler may end the run while a record is written
        for item in whole_records(path, read_line, SPOOL_FIX):
            self._take(item)
        self.last = self.earlier[-1].seq if self.earlier else 0
        with explaining(path):
            self._writer = path.open("a", encoding="utf-8", newline="\n")
            self._reader = path.open("rb")
        self._reading_run = ""

    def _take(self, item: Mapping[str, Any]) -> None:
        """Process a line of the file: keep a record; update the state from other lines."""
        if "run" in item:
            self._change_run(str(item["run"]), str(item.get("store", "")))
        elif "sent" in item:
            self.sent = max(self.sent, int(item["sent"]))
        elif "kind" in item:
            self.earlier.append(_record(item, self.run))
            self._notice_end(item["kind"], item["body"])

    def _notice_end(self, kind: str, body: Mapping[str, Any]) -> None:
        if kind == "status":
            self.ended = body["status"] != "RUNNING"

    def begin(self, run: str, store: str) -> None:
        """Let new records belong to the run with the id `run` in the store `store`."""
        if (run, store) != (self.run, self.store):
            self._write({"run": run, "store": store})
            self._change_run(run, store)

    def _change_run(self, run: str, store: str) -> None:
        self.ended = self.ended and run == self.run  # the same run may have another address of its store now
        self.run, self.store = run, store

    def add(self, kind: str, body: Mapping[str, Any]) -> None:
        """Write one record; after the return, it is not lost if this process dies."""
        with self._lock:
            self.last += 1
            self._notice_end(kind, body)
            self._write({"seq": self.last, "kind": kind, "time": int(time.time() * 1000), "body": body})

    def add_status(self, status: str) -> None:
        """Write the status of the run (running, finished, failed or killed) in MLflow's spelling."""
        self.add("status", {"status": status.upper()})

    def _write(self, item: Mapping[str, Any]) -> None:
        with explaining(self.path):
            self._writer.write(to_line(item) + "\n")
            self._writer.flush()

    def mark_sent(self, seq: int) -> None:
        """Record in the file that everything up to the record `seq` needs no further sending."""
        with self._lock:
            self.sent = seq
            self._write({"sent": seq})

    def mark_refused(self, seq: int, why: str) -> None:
        """Record in the file that the store will never accept the record `seq`, and why."""
        with self._lock:
            self.refused += 1
            self._write({"refused": seq, "why": why})

    @property
    def unsent(self) -> int:
        """The number of records that wait for delivery."""
        return self.last - self.sent

    def waiting(self) -> list[SpoolRecord]:
        """Read the next records to send and return them: at most `BATCH`, all of one run."""
        found: list[SpoolRecord] = []
        while len(found) < BATCH:
            position = self._reader.tell()
            line = self._reader.readline()
            if not line.endswith(b"\n"):
                self._reader.seek(position)
                break
            item = json.loads(line)
            if "run" in item:
                if found:
                    self._reader.seek(position)
                    break
                self._reading_run = str(item["run"])
            elif item.get("seq", 0) > self.sent:
                found.append(_record(item, self._reading_run))
        return found

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._reader.close()


def read_line(line: str) -> dict[str, Any]:
    """Parse one line of a spool.

    Raises:
        ValueError: it is not a line of a spool.
    """
    item = json.loads(line)
    known = {"run", "sent", "refused", "kind"}
    if not isinstance(item, dict) or len(known & item.keys()) != 1:
        raise ValueError("neither a record nor a mark")
    if "kind" in item:
        record = _record(item, "")
        if record.kind == "status" and not isinstance(record.body.get("status"), str):
            raise ValueError("a status that is none")
    elif "sent" in item:
        int(item["sent"])
    return item


def _record(item: Mapping[str, Any], run: str) -> SpoolRecord:
    return SpoolRecord(int(item["seq"]), run, str(item["kind"]), int(item["time"]), dict(item["body"]))


class Sender:
    """The thread that sends the records of a spool.

    Args:
        spool: the spool.
        deliver: sends a batch of records.
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

    def flush(self, wait: float, longest: float) -> bool:
        """Send all waiting records.

        Args:
            wait: seconds that the store may fail.
            longest: maximum seconds in total.

        Returns:
            False if some records are left.
        """
        begun = fine = time.monotonic()
        asked, warned = begun, False
        with self._change:
            attempts = self._attempts
            while self._spool.unsent:
                now = time.monotonic()
                fine = fine if self._failures else now
                # A failure counts only if its attempt began after this call; only the second one is sure to have.
                failed = self._failures and self._attempts >= attempts + 2 and now - fine >= wait
                if failed or now - begun >= longest or not self._thread.is_alive():
                    return False
                if self._failures and wait and not warned:
                    log.info("waiting up to %g s for the tracking store (tracking.wait)", wait)
                    warned = True
                # Each failure wakes this loop; without this check it would send again at once, without a pause.
                if self._attempts < attempts + 2 or now - asked >= RETRY:
                    asked, self._hurry = now, True
                    self._change.notify_all()
                self._change.wait(min(begun + longest - now, RETRY))
        return True

    def close(self, wait: float, longest: float) -> int:
        """Send all waiting records (see `flush`), end the thread, and return how many records are left in the spool."""
        self.flush(wait, longest)
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(timeout=1.0)
        # A thread that hangs in a call of the store still needs the file; as a daemon it ends with the process.
        if not self._thread.is_alive():
            self._spool.close()
        return self._spool.unsent

    def _pause(self) -> float:
        if not self._failures:
            return INTERVAL
        return min(2.0 ** min(self._failures - 1, 16), LONGEST_PAUSE)  # a larger power would overflow

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
        """Send until no record waits (return True) or the store fails (return False)."""
        while True:
            try:
                batch = self._batch = self._batch or self._spool.waiting()
                if not batch:
                    return True
                self._send(batch)
                self._spool.mark_sent(batch[-1].seq)
            except Exception as error:
                # Any error: training continues and the records stay in the file; only the first failure is logged.
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
