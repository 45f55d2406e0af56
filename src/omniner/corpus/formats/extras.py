"""What stands in a file besides sentences and their entities: posts, `meta`, and parts that say nothing of entities."""

from __future__ import annotations

from typing import Any

from omniner.corpus.formats.common import IssueLog, id_of, quote

MAX_DEPTH = 32  # levels of lists and objects kept in `meta`


class Unread:
    """Parts of a file that say nothing of entities: one issue for each kind of them, not one for each of them."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, int]] = {}  # kind -> first line, count

    def note(self, kind: str, line: int) -> None:
        """Count one; `kind` is a short text that stands in the message."""
        first, count = self._found.get(kind, (line, 0))
        self._found[kind] = first, count + 1

    def report(self, log: IssueLog) -> None:
        """Add the issues, at the line where each kind was met first."""
        for kind, (line, count) in self._found.items():
            log.add("not-read", f"{kind}: {count:,}, first here; not read", line)


def post_of(record: dict[str, Any], log: IssueLog, line: int) -> str | None:
    """The post of a record, None where it names none."""
    return id_of({"id": record.get("post_id")}, log, line) or None


def meta_of(value: object, log: IssueLog, line: int) -> dict[str, Any]:
    """What a record carries along for its user: one object, not nested too deeply."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        log.add("bad-record", f"meta is {quote(value)}, not an object; left out", line)
        return {}
    if _deeper_than(value, MAX_DEPTH):
        log.add("bad-record", f"meta is nested more than {MAX_DEPTH} deep; left out", line)
        return {}
    return value


def _deeper_than(value: object, limit: int) -> bool:
    """Level by level instead of by recursion: foreign data must not choose our stack depth."""
    level = [value]
    for _ in range(limit):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return False
        level = inner
    return any(isinstance(item, (dict, list)) for item in level)
