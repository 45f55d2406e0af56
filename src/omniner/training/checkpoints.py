"""Where weights come from and how they are kept.

A pretrained model is named by a hub name or a folder. A folder is read without a network; code of a hub repository is
never executed. Whatever a library raises about something that cannot be loaded becomes one `UserError`.

A tagger's `best.ckpt` has its description (`Tagger.describe`) and its weights as evaluated. `last.ckpt`, written by
the trainer, has the description of what is trained (`Learner.describe`), under its kind, beside the weights that
learn, the optimizer and all else that resuming needs. Causal models are kept in folders (`llm.language_model`). Files
are read with `weights_only=True`: a checkpoint from somebody else cannot run code; and they are written whole or not
at all.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from omniner.errors import UserError, first_line_of, one_line
from omniner.files import explaining, writing
from omniner.model_files import DOWNLOAD


def pretrained_options(local: bool) -> dict[str, Any]:
    """Return the arguments of every `from_pretrained`: no network for a `local` folder, no foreign code ever."""
    return {"local_files_only": local, "trust_remote_code": False}


def load_advice(local: bool, folder: str) -> str:
    """Return what to do about a model that cannot be loaded; `folder` is the advice for a `local` one."""
    return folder if local else DOWNLOAD


@contextlib.contextmanager
def explaining_load_errors(where: str, path: str | Path, fix: str) -> Iterator[None]:
    """Turn what a library raises in the block, about something that cannot be loaded, into one `UserError`.

    Args:
        where: the config key that names it.
        path: its value.
        fix: what to do about it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # what a broken file raises differs by library and version: no common type but this
        raise UserError(where, f"{path} cannot be loaded ({one_line(error)})", fix) from error


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep libraries from talking: progress bars of half a second, reports on head weights that were left out on
    purpose, warnings that peft uses an old name of transformers, that bitsandbytes has a slower way."""
    from transformers.utils import logging as reports

    loggers = [logging.getLogger(name) for name in ("transformers", "bitsandbytes")]
    levels = [logger.level for logger in loggers]
    bars = reports.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    reports.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing. is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            reports.enable_progress_bar()


_FIX = "Name the checkpoints/best.ckpt of a finished training run."
_KINDS = ("tagger", "generative")


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
            reason = first_line_of(error)
            if "weights only" in reason.lower():  # torch advises to let the file run code
                reason = "it is damaged, or no file of ours"
            raise UserError("checkpoint", f"{path} cannot be read ({reason})", _FIX) from error
    if not isinstance(content, dict) or not any(kind in content for kind in _KINDS):
        raise UserError("checkpoint", f"{path} holds no tagger", _FIX)
    return cast(dict[str, Any], content)
