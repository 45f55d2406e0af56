"""A full disk: nothing half-made is left, the message is one line, and the next command works."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

from omniner import files
from omniner.errors import UserError
from omniner.tracking import store
from omniner.tracking.store import database_reason, open_store
from omniner.training.fit import AtomicCheckpointIO
from tests.unit.tracking.test_tracking import config as tracking_config


def test_a_store_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.store.db.utils
    from sqlalchemy.exc import OperationalError

    making = mlflow.store.db.utils._upgrade_db

    def full(engine: Any) -> None:
        raise OperationalError("INSERT INTO metrics", {}, sqlite3.OperationalError("database or disk is full"))

    settings = tracking_config(tmp_path / "mlruns")
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.store.db.utils, "_upgrade_db", full)
        with pytest.raises(UserError, match=r"mlflow\.db does not work: no space is left on the disk\. Free") as caught:
            open_store(settings)
    assert "INSERT" not in str(caught.value)
    assert not (tmp_path / "mlruns/mlflow.db").exists()
    assert mlflow.store.db.utils._upgrade_db is making
    store.import_mlflow()
    assert open_store(settings).experiment
    assert not list((tmp_path / "mlruns").glob("*.new*"))


def test_an_error_of_a_database_is_told_without_its_statement() -> None:
    long = (
        "(sqlite3.OperationalError) database is locked\n[SQL: UPDATE runs SET a = ?]\n(Background on this error at: x)"
    )
    assert database_reason(ValueError(long)) == "database is locked"
    assert database_reason(ValueError("plain")) == "plain"


class Full:
    """A file on a disk without space."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: Any) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


@pytest.mark.parametrize("room", [0, 100, 300_000])
def test_a_disk_that_is_full_amid_a_checkpoint_is_one_line(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = files.os.fdopen
    monkeypatch.setattr(files.os, "fdopen", lambda *a, **k: Full(opening(*a, **k), room))
    path = tmp_path / "last.ckpt"
    with pytest.raises(UserError, match=r"No space left on device\. Free some space"):
        AtomicCheckpointIO().save_checkpoint({"weights": [torch.zeros(50_000) for _ in range(4)]}, path)
    assert list(tmp_path.iterdir()) == []
