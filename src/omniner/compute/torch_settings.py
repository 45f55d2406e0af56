"""Set torch's rounding and determinism, and keep generators of random numbers, all of which are global to a process.

Training sets them for its process. A model that predicts may run inside another program: it computes in blocks, after
which torch has the program's settings again.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from omniner.compute.precision import Precision

if TYPE_CHECKING:
    from omniner.compute.devices import Devices


def apply_settings(precision: Precision, deterministic: bool) -> None:
    """Set how torch multiplies fp32, and whether its kernels may add in any order.

    A GPU may round the factors of an fp32 product to TF32 (10 bits), which `32-true` excludes. Next to bf16 (7 bits)
    most of the few products that stay in fp32 lose nothing by this; those that would use `exact_products`.
    """
    torch.set_float32_matmul_precision("highest" if precision == "32-true" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "32-true"  # its LSTMs ignore the line above
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # setting it imports torch's compiler: 3 s of CPU
        torch.use_deterministic_algorithms(deterministic)


class _Settings(NamedTuple):
    """The process-wide settings that `apply_settings` changes."""

    products: str
    tf32: bool
    deterministic: bool
    warn_only: bool


def _read_settings() -> _Settings | None:
    """Read torch's settings; None if precision was set per backend, for which torch raises."""
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
_blocks = 0  # number of active `settings_for` and `preserved_settings` blocks, in all threads
_before: _Settings | None = None  # what the last block restores


@contextmanager
def settings_for(devices: Devices) -> Iterator[None]:
    """Compute with the settings of `devices` in the block, then restore the program's.

    Settings of the program are kept: determinism, and precision set per backend. If other threads are in such blocks,
    the strictest settings apply to all.
    """
    with _restoring(devices):
        yield


@contextmanager
def preserved_settings() -> Iterator[None]:
    """Restore the program's torch settings and CPU threads after the block, whatever training sets in it."""
    threads = torch.get_num_threads()
    try:
        with _restoring():
            yield
    finally:
        torch.set_num_threads(threads)


_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")  # where Lightning notes a seed for its processes


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Leave the generators of random numbers to the program as they were, whatever the block draws or seeds."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    of_torch, seed = torch.get_rng_state(), torch.initial_seed()
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    variables = {name: os.environ.get(name) for name in _SEED_VARIABLES}
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        if of_gpus is not None:
            torch.cuda.set_rng_state_all(of_gpus)
        elif torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            # By the block; without it the GPUs would have begun with the seed of the CPU.
            torch.cuda.manual_seed_all(seed)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _restoring(wanted: Devices | None = None) -> Iterator[None]:
    """Apply the settings of `wanted`; the last active block restores what was set before the first."""
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
    """Compute fp32 products in full fp32 in the block, not in TF32, whose error would accumulate over many steps."""
    before = _read_settings()
    if before is not None:
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before is not None:
            torch.set_float32_matmul_precision(before.products)
