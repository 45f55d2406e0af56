"""Many processes on one MLflow server that keeps its runs in PostgreSQL, which the test starts: nothing is lost."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak

LONG_USE = Path(__file__).parents[2] / "experiments/reliability/long_use.py"
PROCESSES = 8


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def _running(command: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait_until(answers: object, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 600
    while not answers():  # type: ignore[operator]
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """The address of an empty database of a server of its own, which root has to start as somebody else."""
    pytest.importorskip("psycopg2", reason="the driver of PostgreSQL is not installed (psycopg2-binary)")
    programs = [shutil.which(name) for name in ("initdb", "postgres")]
    if None in programs:
        pytest.skip("PostgreSQL is not installed (initdb, postgres)")
    initdb, postgres = [str(program) for program in programs]
    options = {}
    folder = Path(f"/tmp/omniner-postgres-{os.getpid()}")  # where the other user may go; short, for the socket
    folder.mkdir(mode=0o700)
    if os.getuid() == 0:
        other = pwd.getpwnam("nobody")
        os.chown(folder, other.pw_uid, other.pw_gid)
        options = {"user": other.pw_uid, "group": other.pw_gid}
    try:
        data = str(folder / "data")
        subprocess.run(
            [initdb, "-D", data, "-A", "trust", "-U", "omniner", "-E", "UTF8", "--no-sync"],
            check=True, stdout=subprocess.DEVNULL, cwd=folder, **options,  # type: ignore[call-overload]
        )  # fmt: skip
        port = _free_port()
        command = [postgres, "-D", data, "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
        with _running(command, cwd=folder, stderr=subprocess.DEVNULL, **options) as server:

            def answers() -> bool:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    return True
                return False

            _wait_until(answers, server)
            yield f"postgresql+psycopg2://omniner@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def tracking_server(database: str, tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server on the database."""
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(tmp_path / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with _running(command, env={**os.environ, **quiet}, stderr=subprocess.DEVNULL, cwd=tmp_path) as server:

        def answers() -> bool:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                return True
            return False

        _wait_until(answers, server)
        yield address


def test_processes_that_begin_at_the_same_moment_lose_nothing(tracking_server: str) -> None:
    command = [sys.executable, str(LONG_USE), "parallel", "--count", str(PROCESSES), "--server", tracking_server]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{PROCESSES} runs begun, {PROCESSES} folders, {PROCESSES} complete in the store" in done.stderr
    print(done.stderr)
