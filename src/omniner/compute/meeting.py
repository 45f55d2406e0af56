"""The store at which ranks that were started from outside meet; on its own because `omniner.runs` imports no torch."""

from __future__ import annotations

import os
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

_PATIENCE = timedelta(minutes=30)  # with the first rank, which claims the run's folder before; torch's own with ranks


def open_meeting(address: str, port: int, first: bool) -> TCPStore:
    """Return the store at a place, which the first rank or torchrun holds; torch's process group takes the same one.

    Args:
        address, port: of the first rank.
        first: whether this process is the first rank, which holds the store as long as it keeps it.
    """
    holds = first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return TCPStore(address, port, None, holds, timeout=_PATIENCE, wait_for_workers=False, multi_tenant=True)
