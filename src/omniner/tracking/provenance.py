"""Where a result comes from: the state of the code and the versions of the libraries.

What goes in: the current directory's git checkout and the installed packages' metadata (nothing is imported).
What comes out: two small dicts of strings for tags and the report. Never the environment: it may hold
secrets.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata

PACKAGES = (
    "omniner", "torch", "pytorch-lightning", "torchmetrics", "transformers", "peft", "bitsandbytes",
    "hydra-core", "omegaconf", "mlflow", "mlflow-skinny", "numpy",
)  # fmt: skip
GIT_SECONDS = 10  # a checkout on a slow disk is given up after this


def versions() -> dict[str, str]:
    """Version of Python and of each library that can change a result, where installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # optional
    return found


def git_state() -> dict[str, str]:
    """Commit, branch, whether the checkout has changes, and a digest of them; empty outside git.

    `diff` covers the changes of tracked files and the names (not the content) of new ones.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    branch = _git("rev-parse", "--abbrev-ref", "HEAD") or b""
    status = _git("status", "--porcelain") or b""
    state = {"commit": commit.decode().strip(), "branch": branch.decode().strip()}
    state["dirty"] = "yes" if status else "no"
    if status:
        changes = status + (_git("diff", "HEAD", "--binary") or b"")
        state["diff"] = hashlib.sha256(changes).hexdigest()
    return state


def _git(*arguments: str) -> bytes | None:
    """Output of a git command that only reads; None where there is no git, no checkout or no commit."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
