"""The exceptions that are no fault of the program: a user's mistake, and being told to stop; texts without logins.

A mistake (a wrong key, a missing file, a broken line) is answered by one message that says where it is, what was
found and what to do; `omniner.run` prints it without a traceback and exits with status 2. Anything else that is
raised is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

_LONGEST = 300  # characters of an error of a library that are shown
_ADDRESS = re.compile(r"""://[^\s'"<>]+""")  # without its scheme, which each letter of a long word could begin
_SECRET_FIELD = re.compile(
    r"(?i)([?&;](?:[\w.\-]*[_.\-])?(?:api|auth|access)?(?:key|token|secret|password|passwd|pwd|signature|sig)=)[^&;#\s]+"
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # lines, colours, turned text
HIDDEN = "***"  # stands for what must not be written


class UserError(ValueError):
    """A mistake the user can mend.

    Args:
        where: the config key (`data.root`) or `file:line` at fault.
        found: what stands there and why it cannot be.
        fix: what to do about it.
    """

    def __init__(self, where: str | Path, found: str, fix: str) -> None:
        self.where, self.found, self.fix = (_shown(text) for text in (masked(str(where)), masked(found), fix))
        super().__init__(f"{self.where}: {self.found}. {self.fix}")

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str]]:
        # Sweep launchers send exceptions between processes; the default would call us with one argument.
        return (type(self), (self.where, self.found, self.fix))


class Stopped(KeyboardInterrupt):
    """Told to stop by a signal; work that was cut short at a whole step raises it too. Exit status: 128 + `signum`."""

    def __init__(self, signum: int = signal.SIGTERM) -> None:
        self.signum = signum
        super().__init__(signum)


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line without logins, cut where it is long; its type where it has none."""
    text = masked(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def first_line_of(error: BaseException) -> str:
    """Return the first line of the message of an error, which torch goes on with its own frames; else its type."""
    return masked((str(error).strip().splitlines() or [type(error).__name__])[0])


def _shown(text: str) -> str:
    """The text with control characters, which ids and categories of a file may hold, written as escapes."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def masked(text: str) -> str:
    """Return the text without the logins of the addresses in it, and without the values of fields called after a key.

    An address is taken apart as the one who calls it would: what stands before the last `@` ahead of the path is a
    login, whatever characters it holds. So is what stands before a later `@` where the port is none: a password with
    a slash.
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
