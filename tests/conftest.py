"""What all tests share: the folder of public corpora and reference results, where there is one."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import parsed_once
import pytest

ROOT = Path(__file__).resolve().parents[1]
LONG = {"e2e", "gpu", "reliability", "tracking", "training"}  # folders with files that take a minute


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files: what the workers share at the end are short ones, so that they end together."""
    items.sort(key=lambda item: LONG.isdisjoint(item.path.parts))


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Leave it to the system when files reach the disk: tests kill processes, which lose nothing by it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _configurations_are_read_once() -> Iterator[None]:
    """Keep what is read of the files of `conf/`: a composition reads 18 of them, a seventh of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yaml.load", parsed_once.load)
        yield


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> None:
    """Undo that shells ignore SIGINT for what they start in the background: tests send it to themselves and others."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _little_garbage() -> None:
    """Set aside what the libraries and the tests before have made and keep: a million objects.

    Else whoever collects garbage, as every training does at its end, looks through all of them for half a second.
    """
    gc.set_threshold(50_000)  # as commands have it
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _torch_as_it_starts() -> Iterator[None]:
    """Leave no test the precision and determinism that the training of another one has set for the process."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_float32_matmul_precision"):
        torch.set_float32_matmul_precision("highest")
        if torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `../shared` (real corpora, tokenizers, scored references); without it the test is skipped."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"{folder} is absent: no public corpora and references to compare with")
    return folder
