"""Load pretrained models with transformers and peft.

A pretrained model is given by a hub name or a folder. A folder is read without a network; code of a hub repository is
never executed. Whatever a library raises about a model that cannot be loaded becomes one `UserError`.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omniner.errors import UserError, one_line
from omniner.model_files import DOWNLOAD, hub_commit, no_revision

log = logging.getLogger("omniner")

_WAIT_IF_CACHED = 3.0  # seconds for the hub to say what is new of a model that the cache has


def load_options(local: bool, revision: str | None = None) -> dict[str, Any]:
    """Return the arguments of every `from_pretrained`: no network for a `local` folder, never any remote code.

    Args:
        local: whether the model is a folder.
        revision: commit, tag or branch of a hub model; None = its main branch.
    """
    return {"local_files_only": local, "trust_remote_code": False} | ({"revision": revision} if revision else {})


def find_commit(name: str, revision: str | None) -> str | None:
    """Return the commit that a hub model has now at a revision, or has in the cache if the hub cannot be reached.

    Args:
        name: of the model.
        revision: commit, tag or branch; None = its main branch.

    Returns:
        The commit; None if it is unknown: whatever loads the model then says why.

    Raises:
        UserError: the hub says that there is no such revision.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled, RevisionNotFoundError

    cached = hub_commit(name, revision)
    if cached is not None and cached != revision:  # a branch or tag
        try:
            url = hf_hub_url(name, "config.json", revision=revision)
            now = get_hf_file_metadata(url, timeout=_WAIT_IF_CACHED).commit_hash
        except OfflineModeIsEnabled:
            return cached
        except (EntryNotFoundError, RevisionNotFoundError):
            now = None
        except Exception as error:  # the type varies by version of the library
            message = "%s: the hub does not say which commit it has now (%s); the one in the cache is used, %s"
            log.warning(message, name, one_line(error), cached)
            return cached
        if now == cached:
            return cached
    try:
        file = hf_hub_download(name, "config.json", revision=revision)  # the cache then knows the commit, too
    except RevisionNotFoundError as error:
        raise no_revision(name, revision) from error
    except Exception:  # likewise
        return hub_commit(name, revision)
    return Path(file).parent.name


def load_advice(local: bool, folder: str) -> str:
    """Return what to do about a model that cannot be loaded; `folder` is the advice for a `local` one."""
    return folder if local else DOWNLOAD


@contextlib.contextmanager
def explaining_load_errors(where: str, path: str | Path, fix: str) -> Iterator[None]:
    """Convert whatever a library raises in the block to one `UserError` about something that cannot be loaded.

    Args:
        where: the config key that names it.
        path: its value.
        fix: what to do about it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the type varies by library and version
        raise UserError(where, f"{path} cannot be loaded ({one_line(error)})", fix) from error


def check_complete(path: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Refuse a model that lacks weights: transformers makes them random without raising.

    Args:
        path: what `model.path` says.
        missing: names of the weights that the model needs and the files lack.
        unexpected: names of those that they hold beside; where all have another prefix, these tell it.

    Raises:
        UserError: some are missing.
    """
    lacking, others = sorted(missing), sorted(unexpected)
    if lacking:
        found = f"{path} lacks {len(lacking)} of the model's weights, {lacking[0]} first"
        found += f", and holds {len(others)} unknown ones, {others[0]} first" if others else ""
        fix = "They would be random: name a complete model, whose weights are named as transformers names them."
        raise UserError("model.path", found, fix)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence libraries.

    They show progress bars of half a second and reports on head weights that were left out on purpose, and warn that
    peft uses an old name of transformers or that bitsandbytes has a slower way.
    """
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


def base_model(model: Any) -> Any:
    """Return the transformers model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
