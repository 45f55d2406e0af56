"""The exceptions that are no fault of the program: a user's mistake, and being told to stop.

A mistake (a wrong key, a missing file, a broken line) is answered by one message that says where it is, what was
found and what to do; `omniner.run` prints it without a traceback and exits with status 2. Anything else that is
raised is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import signal
from pathlib import Path

_LONGEST = 300  # characters of an error of a library that are shown


class UserError(ValueError):
    """A mistake the user can mend.

    Args:
        where: the config key (`data.root`) or `file:line` at fault.
        found: what stands there and why it cannot be.
        fix: what to do about it.
    """

    def __init__(self, where: str | Path, found: str, fix: str) -> None:
        self.where, self.found, self.fix = str(where), found, fix
        super().__init__(f"{where}: {found}. {fix}")

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str]]:
        # Sweep launchers send exceptions between processes; the default would call us with one argument.
        return (type(self), (self.where, self.found, self.fix))


class Stopped(KeyboardInterrupt):
    """Told to stop by a signal; work that was cut short at a whole step raises it too. Exit status: 128 + `signum`."""

    def __init__(self, signum: int = signal.SIGTERM) -> None:
        self.signum = signum
        super().__init__(signum)


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line, cut where it is very long; its type where it has no message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."
