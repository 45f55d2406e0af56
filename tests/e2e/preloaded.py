"""What the commands that `warm` forks find ready: the libraries, and the tables of a new MLflow store.

MLflow makes the tables of a new store as they were years ago and changes them some fifty times, for 2 s of CPU time,
which most commands of the tests would wait for. They are made once, and whoever makes a store in SQLite gets a copy.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sqlite3
import tempfile
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # MLflow reads it when it is loaded, here before we can say so

import hydra  # noqa: F401
import matplotlib.backends.backend_agg  # noqa: F401
import mlflow.store.db.utils
import mlflow.store.tracking.sqlalchemy_store
import mlflow.tracking
import pytorch_lightning  # noqa: F401
import transformers.models.qwen2.modeling_qwen2  # noqa: F401
from sqlalchemy import Engine, create_engine

_make_tables = mlflow.store.db.utils._initialize_tables


def _made_tables() -> bytes:
    """A database with MLflow's tables."""
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of every step
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        engine = create_engine(f"sqlite:///{path}")
        _make_tables(engine)
        engine.dispose()
        return path.read_bytes()


_TABLES = _made_tables()


def _copy_tables(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        _make_tables(engine)
        return
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as ready,
        contextlib.closing(sqlite3.connect(str(engine.url.database))) as new,
    ):
        ready.deserialize(_TABLES)
        ready.backup(new)


mlflow.store.db.utils._initialize_tables = _copy_tables
gc.freeze()  # or each command would look through all of this for garbage, for a fifth of its time
