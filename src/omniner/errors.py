"""Define the exceptions that are not faults of the program (a user's mistake, a stop signal), and mask logins in texts.

A mistake (a wrong key, a missing file, a broken line) gets one message that says where it is, what was found and what
to do; `omniner.run` prints it without a traceback and exits with status 2. Any other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

_LONGEST = 300  # characters of a library's error that are shown
_ADDRESS = re.compile(r"""://[^\s'"<>]+""")  # without the scheme, because every letter of a long word could begin one
_SECRET_FIELD = re.compile(
    r"(?i)([?&;](?:[\w.\-]*[_.\-])?(?:api|auth|access)?(?:key|token|secret|password|passwd|pwd|signature|sig)=)[^&;#\s]+"
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # lines, colours, direction of text
HIDDEN = "***"  # replaces whatever must not be written


class UserError(ValueError):
    """A mistake that the user can correct.

    Args:
        where: the config key (`data.root`) or `file:line` at fault.
        found: what was found there and why it is wrong.
        fix: what to do about it.
    """

    def __init__(self, where: str | Path, found: str, fix: str) -> None:
        self.where, self.found, self.fix = (_shown(text) for text in (masked(str(where)), masked(found), fix))
        super().__init__(f"{self.where}: {self.found}. {self.fix}")

    @property
    def refuses_text(self) -> bool:
        """Whether a text is at fault, such as one that is too long; otherwise any other text would fail as well."""
        return self.where.startswith("encoding.")

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str]]:
        # Sweep launchers send exceptions between processes; the default would call us with one argument.
        return (type(self), (self.where, self.found, self.fix))


class Stopped(KeyboardInterrupt):
    """A signal to stop; also raised by work that was stopped after a whole step. Exit status: 128 + `signum`."""

    def __init__(self, signum: int = signal.SIGTERM) -> None:
        self.signum = signum
        super().__init__(signum)


def one_line(error: BaseException) -> str:
    """Return an error's message as one line without logins, shortened if long; without a message, the error's type."""
    text = masked(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def first_line_of(error: BaseException) -> str:
    """Return the first line of an error's message, without the frames that torch appends; without one, the error's
    type.
    """
    return masked((str(error).strip().splitlines() or [type(error).__name__])[0])


def _shown(text: str) -> str:
    """Escape control characters, which ids and categories of a file may contain."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def masked(text: str) -> str:
    """Return the text without the logins in its addresses and the values of fields named like a key or password.

    An address is split as its reader would: what precedes the last `@` before the path is a login, whatever characters
    it contains. If the port is not a number, what precedes a later `@` is a login, too: the password contains a slash.
    """
    return _ADDRESS.sub(lambda found: _mask_address(found[0]), text) if "://" in text else text


def _mask_address(address: str) -> str:
    scheme, _, rest = address.partition("://")
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    port = place.rpartition("]")[2].partition(":")[2]
    if "@" in place:
        rest = f"{HIDDEN}@{place.rpartition('@')[2]}{rest[len(place) :]}"
    elif "@" in rest and port and not port.isdigit():
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    return _SECRET_FIELD.sub(rf"\1{HIDDEN}", f"{scheme}://{rest}")
