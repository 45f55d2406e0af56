"""Find and check the files of a model before anything heavy is loaded.

A trained model is a run's folder or a checkpoint in it. A pretrained model is given by `model.path`: a local folder or
GGUF file, else a model of the Hugging Face hub. A hub model is looked up in the hub's cache and then, with one short
request, on the hub. The libraries that load it would first import torch, and then repeat a failing request for half a
minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omniner.errors import UserError, one_line
from omniner.files import explaining, read_json

WAIT = 10  # seconds for the hub to answer
DOWNLOAD = (
    "Name a local folder or a hub model; where the hub cannot be reached, export HF_ENDPOINT=<address of a mirror>, or "
    "download the model elsewhere (hf download <name>) and set model.path to its folder."
)
DESCRIPTION = "omniner.json"
"""The file that marks a folder as the checkpoint of a generative model (see `omniner.llm.language_model`)."""

_FOLDER = "Name a folder with config.json, a GGUF file, or a model of the hub."
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")
_MAIN = "main"  # the branch of a hub model that is meant if no revision is given
_USUAL_SIZES = (1024, 4096)  # assumed for a GGUF file, whose sizes are slow to read
_PIECES, _PIECE = 16, 1 << 16  # number of pieces of a file that are digested, and bytes of each
_YES = ("1", "true", "yes", "on")  # of HF_HUB_OFFLINE


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


def is_local_folder(path: str, fix: str) -> bool:
    """Return whether `path` is a folder rather than a hub name.

    Args:
        path: `model.path`.
        fix: what to do about a path that neither exists nor can be a hub name.

    Raises:
        UserError: the path does not exist, or is a file.
    """
    if Path(path).is_dir():
        return True
    if Path(path).exists():
        raise UserError("model.path", f"{path} is not a folder", fix)
    if path.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(path):
        raise UserError("model.path", f"{path} does not exist", fix)
    return False


def gguf_file(path: str) -> Path | None:
    """Return the GGUF file that `path` names (it need not exist), or the only one in a folder without config.json.

    Args:
        path: `model.path`.

    Raises:
        UserError: the folder contains several.
    """
    place = Path(path)
    if not place.is_dir():
        return place if place.suffix == ".gguf" else None
    if (place / "config.json").exists():
        return None
    files = sorted(place.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError("model.path", f"{path} holds several GGUF files: {names}", "Name one of them.")
    return files[0] if files else None


def check_model(path: str, revision: str | None = None) -> None:
    """Raise a `UserError` if a model certainly cannot be loaded.

    Args:
        path: `model.path`.
        revision: `model.revision`.
    """
    check_revision(path, revision)
    if (file := gguf_file(path)) is not None and file.is_file():
        return
    if is_local_folder(path, _FOLDER):
        if not Path(path, "config.json").exists():
            raise UserError("model.path", f"{path} holds no config.json", _FOLDER)
    else:
        hub = _hub_address()  # also for a model in the cache, of which the libraries ask the hub for news
        if not _is_cached(path, revision):
            _ask_hub(hub, path, revision)


def check_revision(path: str, revision: str | None) -> None:
    """Raise a `UserError` if a revision is given for files on this machine, which have none.

    Args:
        path: `model.path`.
        revision: `model.revision`.
    """
    if revision is not None and (Path(path).exists() or gguf_file(path) is not None):
        found = f"{revision}, but model.path={path} is on this machine; only a model of the hub has revisions"
        raise UserError("model.revision", found, "Leave it out, or name the hub model.")


def weights_digest(path: str) -> str | None:
    """Digest the weights of a local model quickly: the sizes of their files, and pieces of each.

    Two models of the same shape differ in some piece, because training changes nearly every number.

    Args:
        path: `model.path`.

    Returns:
        16 hex digits; None for a hub name, and if there are no weights.
    """
    file = gguf_file(path)
    found = (sorted(Path(path).glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin"))
    files = [file] if file is not None and file.is_file() else next(filter(None, found), [])
    digest = hashlib.sha256()
    for one in files:
        with explaining(one), one.open("rb") as opened:
            size = one.stat().st_size
            digest.update(f"{size} ".encode())
            for number in range(_PIECES):
                opened.seek(max(size - _PIECE, 0) * number // (_PIECES - 1))
                digest.update(opened.read(_PIECE))
    return digest.hexdigest()[:16] if files else None


def check_base(checkpoint: Path, description: Mapping[str, Any]) -> None:
    """Raise a `UserError` if the base weights differ from those that the adapters were trained on.

    Args:
        checkpoint: the folder of the adapters.
        description: content of its `omniner.json`; older versions do not record the digest of the base weights.
    """
    learnt_beside = description.get("base_weights")
    now = weights_digest(str(description["base"])) if learnt_beside else None
    if now is not None and now != learnt_beside:
        found = f"these adapters did not learn beside the weights that {description['base']} holds now"
        fix = "Put those back, or write their new place as `base` in this file. If these are the same in another form, "
        raise UserError(checkpoint / DESCRIPTION, found, f"{fix}set `base_weights` to null there.")


def layer_sizes(path: str | None, revision: str | None = None) -> tuple[int, int] | None:
    """Return the hidden size and the intermediate size of a model's layers; None if no config.json has them.

    Args:
        path: `model.path`; None = random weights.
        revision: `model.revision`.
    """
    if path is None:
        return None
    if gguf_file(path) is not None:
        return _USUAL_SIZES
    snapshots = _cache_of(path) / "snapshots"
    of_commit = snapshots / (hub_commit(path, revision) or _MAIN) / "config.json"
    files = [Path(path, "config.json"), of_commit, *snapshots.glob("*/config.json")]
    try:
        settings = read_json(next(file for file in files if file.is_file()))
        return int(settings["hidden_size"]), int(settings["intermediate_size"])
    except (StopIteration, UserError, KeyError, TypeError, ValueError):
        return None


def _cache_of(name: str) -> Path:
    """Return the folder of a model in the hub's cache."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = os.environ.get("HF_HUB_CACHE") or Path(home, "hub")
    folder = Path(cache, f"models--{name.replace('/', '--')}")
    with contextlib.suppress(RuntimeError):  # a user without a home has no cache either
        return folder.expanduser()
    return folder


def hub_commit(name: str, revision: str | None = None) -> str | None:
    """Return the commit of a hub model that was loaded last, as the hub's cache records it; None if it does not.

    Args:
        name: of the model.
        revision: a tag or branch; a commit is returned as it is.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    try:
        return (_cache_of(name) / "refs" / (revision or _MAIN)).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeError):
        return None


def _is_cached(name: str, revision: str | None) -> bool:
    """Whether the hub's cache on this machine contains the model; a revision is meant, if one is given."""
    commit = "*" if revision is None else hub_commit(name, revision)
    folder = _cache_of(name) / "snapshots"
    return commit is not None and any(any(folder.glob(f"{commit}/{file}")) for file in ("config.json", "*.gguf"))


def _hub_address() -> str:
    """Return the address of the hub; empty if it must not be asked.

    Raises:
        UserError: `HF_ENDPOINT` is no address.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _YES:
        return ""
    hub = os.environ.get("HF_ENDPOINT", "").strip() or "https://huggingface.co"
    if not hub.startswith(("http://", "https://")):
        raise UserError("HF_ENDPOINT", f"{hub!r} is not an address", "Write it with https://, or unset it.")
    return hub


def _ask_hub(hub: str, name: str, revision: str | None) -> None:
    """Raise a `UserError` if the hub at this address cannot be reached or does not have the model."""
    import http.client
    import urllib.error  # half the time of a configuration check, and few checks need it
    import urllib.parse
    import urllib.request

    if not hub:
        wanted = name if revision is None else f"{name} at {revision}"
        raise UserError("model.path", f"{wanted} is not in the hub's cache, and HF_HUB_OFFLINE is set", DOWNLOAD)
    try:
        place = f"{name}/resolve/{urllib.parse.quote(revision or _MAIN, safe='')}/config.json"
        request = urllib.request.Request(f"{hub.rstrip('/')}/{place}", method="HEAD")
        with urllib.request.urlopen(request, timeout=WAIT):
            pass
    except urllib.error.HTTPError as error:
        if error.headers.get("X-Error-Code") == "RevisionNotFound":
            raise no_revision(name, revision) from error
        no_config = error.headers.get("X-Error-Code") == "EntryNotFound"  # as for a GGUF model
        if error.code == 404 and not no_config:
            raise UserError("model.path", f"the hub {hub} knows no model {name}", DOWNLOAD) from error
        # 401 and 403 are left to the loader, which has a token; 5xx errors may be temporary
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = one_line(getattr(error, "reason", None) or error)
        found = f"{name} is not in the hub's cache, and {hub} cannot be reached ({reason})"
        raise UserError("model.path", found, DOWNLOAD) from error


def no_revision(name: str, revision: str | None) -> UserError:
    """Return the error about a revision that a hub model does not have."""
    fix = "Name one of its commits (40 hex digits), tags or branches; its page on the hub lists them."
    return UserError("model.revision", f"{name} has no revision {revision}", fix)
