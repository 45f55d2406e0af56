"""Choose the precision in which a model computes, and resolve `auto` on this machine.

On a GPU that supports bf16, large models use it. Some CPUs multiply bf16 several times as fast as fp32 (AMX,
avx512_bf16): a pretrained model uses it there, if its own shapes gain from it. The gain is measured once per processor,
torch version, number of threads and shape, and stored in the user's cache, so that the next run decides in the same
way.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from omniner.errors import UserError
from omniner.files import make_folder, read_json, write_json
from omniner.machine import processor

Precision = Literal["32-true", "bf16-mixed", "bf16-true"]

_MULTIPLIES_BF16 = {"amx_bf16", "avx512_bf16", "bf16"}  # flags of x86 and Arm processors
_NARROW = 256  # hidden size; below it, little time is spent on products
_WORTH = 1.5  # required speed-up over fp32; the casts between the products reduce it
_TOKENS = 512  # of the measured products, as in a small batch
_ROUNDS = 5


def compute_dtype(precision: str) -> torch.dtype:
    """Return the dtype of matrix products at a `Precision`."""
    return torch.float32 if precision == "32-true" else torch.bfloat16


def choose_precision(
    wanted: str, accelerator: str, large: bool, layer: tuple[int, int] | None
) -> tuple[Precision, str]:
    """Resolve `auto`: bf16 if it is fast and the model is large.

    Args:
        wanted: `trainer.precision`.
        accelerator: cpu | gpu.
        large: whether the model is large enough to gain from bf16 on a GPU.
        layer: hidden and intermediate size of a model that may use bf16 on a CPU; None = no bf16 there.

    Returns:
        The precision, and the reason in parentheses if it depended on the machine.
    """
    named: dict[str, Precision] = {name: name for name in get_args(Precision)}
    if wanted in named:
        return named[wanted], ""
    if accelerator == "gpu":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16-mixed", "") if large and has_bf16 else ("32-true", " (no bf16 on this GPU)" if large else "")
    if layer is None or min(layer) < _NARROW or not _MULTIPLIES_BF16 & processor()[1]:
        return "32-true", ""
    gain = bf16_gain(*layer)
    return "bf16-mixed" if gain >= _WORTH else "32-true", f" (bf16 is {gain:.1f} times as fast as fp32 here)"


def bf16_gain(width: int, inner: int) -> float:
    """Return the speed-up of bf16 over fp32 products on this CPU, measured now or by an earlier run.

    Args:
        width, inner: hidden and intermediate size of the model.
    """
    name = f"{processor()[0]}, torch {torch.__version__}, {torch.get_num_threads()} threads, {width} x {inner}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omniner"
    kept = folder / "bf16_gain.json"
    known: dict[str, float] = {}
    with contextlib.suppress(UserError):  # a broken file is measured again
        known = read_json(kept) if kept.is_file() else {}
    if name not in known:
        known[name] = round(_measure_gain(width, inner), 2)
        with contextlib.suppress(UserError):  # if it cannot be stored, the next run measures again
            make_folder(folder)
            write_json(kept, known)
    return known[name]


@torch.no_grad()
def _measure_gain(width: int, inner: int) -> float:
    """Measure the CPU time (other programs do not count) of a layer's two products, alternately in each precision."""
    best = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(_ROUNDS):
        for dtype in best:
            tokens, weights = torch.ones(_TOKENS, width, dtype=dtype), torch.ones(inner, width, dtype=dtype)
            start = time.process_time()
            nn.functional.linear(nn.functional.linear(tokens, weights), weights.T)
            best[dtype] = min(best[dtype], time.process_time() - start)
    return best[torch.float32] / best[torch.bfloat16]
