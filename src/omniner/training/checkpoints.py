"""Checkpoint files: a tagger that can predict, and the state of a training run of either kind.

A tagger's `best.ckpt` has its description (see `Tagger.describe`) and its weights as evaluated. `last.ckpt`, written
by the trainer, has the description of what is trained (see `Learner.describe`), under its kind, beside the weights that
learn, the optimizer and all else that resuming needs. Language models are kept in folders (see
`omniner.llm.language_model`). Files are read with `weights_only=True`: a checkpoint from somebody else cannot run code;
and they are written whole or not at all.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from omniner.errors import UserError
from omniner.files import explaining, writing

_FIX = "Name the checkpoints/best.ckpt of a finished training run."
_KINDS = ("tagger", "generative")

DESCRIPTION = "omniner.json"
"""The file that makes a folder the checkpoint of a generative model (see `omniner.llm.language_model`)."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """How the trainer writes `last.ckpt`: straight into a neighbour that then takes its place.

    Lightning's own way holds the file in memory twice before it is written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint, whole or not at all."""
        with writing(path, "wb") as file:
            torch.save(checkpoint, file)


def find_checkpoint(path: Path) -> Path:
    """Find the checkpoint that `path` means: a tagger's file, a language model's folder, or a run's folder.

    Raises:
        UserError: there is none.
    """
    if path.is_file() or (path / DESCRIPTION).is_file():
        return path
    for found in (path / "checkpoints" / "best.ckpt", path / "checkpoints" / "best"):
        if found.exists():
            return found
    missing = f"{path} holds no checkpoints/best.ckpt and no checkpoints/best"
    raise UserError("checkpoint", missing, "Name the folder of a finished run, or its best checkpoint.")


def write_checkpoint(path: Path, description: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write a checkpoint for prediction."""
    content = {"tagger": description, "weights": {name: value.cpu() for name, value in weights.items()}}
    with writing(path, "wb") as file:
        torch.save(content, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file; its tensors are read when they are used.

    Raises:
        UserError: it is missing or no checkpoint.
    """
    with explaining(path):
        if not path.is_file():
            raise UserError("checkpoint", f"{path} is not a file", _FIX)
        try:
            # other files than ours fail with a clearer reason without mmap
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()
            raise UserError(
                "checkpoint", f"{path} cannot be read ({reason[0] if reason else type(error).__name__})", _FIX
            ) from error
    if not isinstance(content, dict) or not any(kind in content for kind in _KINDS):
        raise UserError("checkpoint", f"{path} holds no tagger", _FIX)
    return cast(dict[str, Any], content)
