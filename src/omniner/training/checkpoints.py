"""Read and write checkpoints.

A tagger's `best.ckpt` has its description (`Tagger.describe`) and its weights as evaluated. `last.ckpt`, written by the
trainer, has the description of what is trained (`Learner.describe`), under its kind, the trainable weights, the
optimizer and everything else that resuming needs. Causal models are stored in folders (`llm.language_model`). Files are
read with `weights_only=True`, so a checkpoint from somebody else cannot run code; they are written atomically.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from omniner.errors import UserError, first_line_of
from omniner.files import explaining, writing

_FIX = "Name the checkpoints/best.ckpt of a finished training run."
_KINDS = ("tagger", "generative")


def write_checkpoint(path: Path, description: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write a checkpoint for prediction."""
    content = {"tagger": description, "weights": {name: value.cpu() for name, value in weights.items()}}
    with writing(path, "wb") as file:
        torch.save(content, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file; its tensors are read on first use.

    Raises:
        UserError: it is missing or not a checkpoint.
    """
    with explaining(path):
        if not path.is_file():
            raise UserError("checkpoint", f"{path} is not a file", _FIX)
        try:
            # without mmap the error for foreign files is clearer
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
            reason = first_line_of(error)
            if "weights only" in reason.lower():  # torch's advice would let the file run code
                reason = "it is damaged, or no file of ours"
            raise UserError("checkpoint", f"{path} cannot be read ({reason})", _FIX) from error
    if not isinstance(content, dict) or not any(kind in content for kind in _KINDS):
        raise UserError("checkpoint", f"{path} holds no tagger", _FIX)
    return cast(dict[str, Any], content)
