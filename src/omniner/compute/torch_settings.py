"""How torch rounds and adds, which it knows once for a whole process.

A training sets it for its process. A model that answers may be the guest of another program: it computes in blocks,
after which torch is as the program had it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

from omniner.compute.precision import Precision

if TYPE_CHECKING:
    from omniner.compute.devices import Devices


def apply_settings(precision: Precision, deterministic: bool) -> None:
    """Say how torch multiplies fp32, and whether its kernels may add in any order.

    A GPU may round the factors of an fp32 product to TF32 (10 bits), which `32-true` excludes. Beside bf16 (7 bits)
    most of the few products that stay in fp32 lose nothing by it; those that would stand under `exact_products`.
    """
    torch.set_float32_matmul_precision("highest" if precision == "32-true" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "32-true"  # its LSTMs do not go by the line above
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # setting it imports torch's compiler: 3 s of CPU
        torch.use_deterministic_algorithms(deterministic)


class _Settings(NamedTuple):
    """What `apply_settings` changes, for the whole process."""

    products: str
    tf32: bool
    deterministic: bool
    warn_only: bool


def _read_settings() -> _Settings | None:
    """Ask torch; None where the program has set single backends, which torch answers no such question about."""
    try:
        products, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None
    deterministic = torch.are_deterministic_algorithms_enabled()
    return _Settings(products, tf32, deterministic, torch.is_deterministic_algorithms_warn_only_enabled())


def _restore(settings: _Settings | None) -> None:
    if settings is None:
        return
    torch.set_float32_matmul_precision(settings.products)
    torch.backends.cudnn.allow_tf32 = settings.tf32
    if torch.are_deterministic_algorithms_enabled() != settings.deterministic:
        torch.use_deterministic_algorithms(settings.deterministic, warn_only=settings.warn_only)


_lock = threading.Lock()
_blocks = 0  # of `settings_for` and `preserved_settings` that are under way, in all threads
_before: _Settings | None = None  # what the last of them restores


@contextmanager
def settings_for(devices: Devices) -> Iterator[None]:
    """Compute as `devices` says for the block, and leave torch to the program as it was.

    What the program has set itself stays: determinism, and the precision of single backends. Beside other blocks, in
    other threads, the strictest of them counts for all.
    """
    with _restoring(devices):
        yield


@contextmanager
def preserved_settings() -> Iterator[None]:
    """Leave torch to the program as it was, its CPU threads included, whatever a training sets in the block."""
    threads = torch.get_num_threads()
    try:
        with _restoring():
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _restoring(wanted: Devices | None = None) -> Iterator[None]:
    """Change torch's settings as `wanted` says; the last block under way restores what was before the first."""
    global _blocks, _before
    with _lock:
        found = _read_settings()
        others = _blocks
        _before = _before if others else found
        _blocks += 1
        if wanted is not None and found is not None:
            is_exact = wanted.precision == "32-true" or (others and found.products == "highest")
            apply_settings("32-true" if is_exact else "bf16-mixed", wanted.deterministic or found.deterministic)
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                _restore(_before)


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute fp32 products in full fp32 for the block, not in TF32: sums over many steps would carry the error on."""
    before = _read_settings()
    if before is not None:
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before is not None:
            torch.set_float32_matmul_precision(before.products)
