"""The store at which ranks that were started from outside meet; on its own because `omniner.runs` imports no torch."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

_PATIENCE = timedelta(minutes=30)  # with the first rank, which claims the run's folder before; torch's own with ranks
_GRACE = 30.0  # seconds for other ranks to import torch and to read the last word of a first rank that ends
_BETWEEN = 0.5  # seconds between two looks
_CONNECTING = 5.0  # seconds


def open_meeting(address: str, port: int, first: bool) -> TCPStore:
    """Return the store at a place, which the first rank or torchrun holds; torch's process group takes the same one.

    Args:
        address, port: of the first rank.
        first: whether this process is the first rank, which holds the store as long as it keeps it.
    """
    return TCPStore(
        address, port, None, first and not _agent_holds(), timeout=_PATIENCE, wait_for_workers=False, multi_tenant=True
    )


def wait_for_word(address: str, port: int, key: str) -> str:
    """Return what the first rank has set, and confirm that it was read.

    It waits in Python: torch's own waiting would let no signal stop this process.

    Raises:
        RuntimeError: the first rank has ended, or does not come.
    """
    end = time.monotonic() + _PATIENCE.total_seconds()
    while not _listens(address, port):  # before torch connects, which would print a stack with each refusal
        _sleep_until(end)
    store = open_meeting(address, port, first=False)
    while not store.check([key]):
        _sleep_until(end)
    word: str = store.get(key).decode()
    store.add(_readers(key), 1)
    return word


def leave_word(store: TCPStore, key: str, word: str, others: int) -> None:
    """Set the last word of a first rank that ends; if the store ends with it, give `others` the time to read it."""
    store.set(key, word)
    end = time.monotonic() + _GRACE
    while not _agent_holds() and store.add(_readers(key), 0) < others and time.monotonic() < end:
        time.sleep(_BETWEEN)


def _agent_holds() -> bool:
    """Return whether torchrun holds the store."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _readers(key: str) -> str:
    return f"{key}/readers"


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), _CONNECTING).close()
    except OSError:
        return False
    return True


def _sleep_until(end: float) -> None:
    if time.monotonic() > end:
        raise RuntimeError(f"waited {_PATIENCE.total_seconds() / 60:.0f} minutes")
    time.sleep(_BETWEEN)
