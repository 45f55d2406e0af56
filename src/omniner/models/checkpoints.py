"""Tagger checkpoints: one file that holds all a prediction needs.

`best.ckpt` has the tagger's description (see `Tagger.describe`) and its weights as evaluated; `last.ckpt`, written by
the trainer, has the same description beside the optimizer and all else that resuming needs. `load` reads either, with
`weights_only=True`: a checkpoint from somebody else cannot run code. Files are written whole or not at all.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from omniner.errors import UserError
from omniner.files import explaining, writing
from omniner.models.network import Tagger

_FIX = "Name the checkpoints/best.ckpt of a finished training run."


def save(path: Path, description: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Write a checkpoint for prediction."""
    content = {"tagger": description, "weights": {name: value.cpu() for name, value in weights.items()}}
    with writing(path, "wb") as file:
        torch.save(content, file)


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of either kind; anything else is the user's mistake."""
    with explaining(path):
        if not path.is_file():
            raise UserError("checkpoint", f"{path} is not a file", _FIX)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()
            raise UserError(
                "checkpoint", f"{path} cannot be read ({reason[0] if reason else type(error).__name__})", _FIX
            ) from error
    if not isinstance(content, dict) or "tagger" not in content:
        raise UserError("checkpoint", f"{path} holds no tagger", _FIX)
    return cast(dict[str, Any], content)


def load(path: Path) -> Tagger:
    """The tagger of a checkpoint, ready to predict (on the CPU, in evaluation mode)."""
    content = read(path)
    tagger = Tagger.from_description(content["tagger"])
    tagger.load_state_dict(_weights(content))
    return tagger.eval()


def _weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights that are evaluated: a trainer's checkpoint has the trained ones and perhaps their average."""
    if "weights" in content:
        return cast(dict[str, Tensor], content["weights"])
    prefix = "tagger."
    state = content["state_dict"]
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    average: dict[str, Tensor] = content.get("average", {}).get("weights", {})
    return weights | average
