"""The arguments of the command line, taken as a person means them; and what is wrong with them, in a user's words.

Hydra's grammar has no Chinese letters outside quotes, and no brackets, `=` or `#` in a value, so that
`predictions=预测.jsonl` needs quotes within quotes. `read_arguments` puts them where the grammar allows no other
reading; `override_line` writes arguments for a shell. `explain_override` turns what Hydra says of a wrong argument into
the key, what was found and what to do.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omniner.config.groups import Config
from omniner.config.validate import Wanted, field_types, take_apart, unknown
from omniner.errors import UserError

_PLAIN = re.compile(r"[\w.@/+~-]+=[\w./:+-]*", re.ASCII)  # arguments that mean what they look like
_PLAIN_VALUE = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_][\w./\-]*", re.ASCII | re.IGNORECASE)  # text
_VALUED_FLAGS = {
    *("-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir", "-c", "--cfg"),
    "--experimental-rerun",
}
_INFO = {"-i", "--info"}  # may have a value
_TOPIC = re.compile("[a-z-]+")
_FLAGS = (
    _VALUED_FLAGS
    | _INFO
    | {
        *("-h", "--help", "--hydra-help", "--version", "-r", "--run", "-m", "--multirun"),
        *("-sc", "--shell-completion", "--resolve"),
    }
)
_MULTIRUN = ("-m", "--multirun")
_ONE_OF = (("-r", "--run"), _MULTIRUN, ("-c", "--cfg"), ("-i", "--info"), ("-sc", "--shell-completion"))
_BRACKETS = {"[": "]", "{": "}"}
_PARTS = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[][{},:]|[^][{},:'"]+|.""", re.DOTALL)


def read_arguments(arguments: Sequence[str], conf: Path) -> list[str]:
    """Put quotes where a value needs them to be what it looks like, and flags behind all overrides.

    Hydra refuses overrides on both sides of a flag, as they come about when one is added to a command.

    Args:
        arguments: of the command line, or overrides from elsewhere.
        conf: the folder of configurations, whose folders are the groups.

    Returns:
        The same arguments, each in a form that Hydra reads.

    Raises:
        UserError: an argument cannot be meant: an unknown flag, two that exclude each other, a list where a group takes
            one choice.
    """
    sweep = any(flag in arguments for flag in _MULTIRUN)
    read = [_read_argument(argument, sweep, conf) for argument in arguments]
    flags, overrides = list[str](), list[str]()
    for before, argument in zip(["", *read], read, strict=False):
        of_flag = before in _VALUED_FLAGS or (before in _INFO and _TOPIC.fullmatch(argument))
        (flags if argument.startswith("-") or of_flag else overrides).append(argument)
    names = {flag.partition("=")[0] for flag in flags}
    if len(given := [long for short, long in _ONE_OF if names & {short, long}]) > 1:
        raise UserError(" ".join(given), "flags that cannot be combined", "Give one of them.")
    return overrides + flags


def _read_argument(argument: str, sweep: bool, conf: Path) -> str:
    if argument.startswith("-"):
        if argument.partition("=")[0] not in _FLAGS and not argument.lstrip("-").isdecimal():
            raise UserError(argument, "unknown flag", f"{_near(argument, _FLAGS)}See --help.")
        return argument
    key, equals, value = argument.partition("=")
    name = key.lstrip("+~").partition("@")[0]
    if equals and "." not in name and name in field_types(Config) and (conf / name).is_dir():
        _check_choice(name, value, sweep, conf)
    if not equals or _PLAIN.fullmatch(argument) or _parses(argument):
        return argument
    if value[:1] in _BRACKETS and value.endswith(_BRACKETS[value[0]]):
        quoted = f"{key}={''.join(_quote_items(value, key))}"
        if _parses(quoted):
            return quoted
    if sweep and "," in value and value[:1] not in _BRACKETS:
        return f"{key}={','.join(one if _parses(f'{key}={one}') else quote(one) for one in value.split(','))}"
    return f"{key}={quote(value)}"


def quote(value: str, mark: str = "'") -> str:
    """Return a value as it stands in an override, whatever characters it holds, between two quotation marks."""
    # backslashes mean something only before a mark
    escaped = re.sub(rf"(\\*)({mark}|$)", lambda found: found[1] * 2 + (f"\\{mark}" if found[2] else ""), value)
    return f"{mark}{escaped}{mark}"


def override_line(overrides: Mapping[str, Any]) -> str:
    """Write keys and their values as one types them into a shell."""
    return " ".join(
        shlex.quote(f"{key}={_value(value)}") if isinstance(value, str) else f"{key}={_value(value)}"
        for key, value in overrides.items()
    )


def _value(value: Any) -> str:
    """As Hydra reads it."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    # in double quotes: a shell keeps them within its single ones
    return quote(value, '"') if isinstance(value, str) and not _PLAIN_VALUE.fullmatch(value) else str(value)


def _quote_items(value: str, key: str) -> Iterator[str]:
    """The parts of a list or a mapping, those that Hydra cannot read in quotes."""
    for part in _PARTS.findall(value):
        bare = part.strip()
        if not bare or bare in "[]{},:" or _parses(f"{key}={bare}"):
            yield part
        else:
            yield quote(bare)


def _parses(argument: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _check_choice(group: str, value: str, sweep: bool, conf: Path) -> None:
    """A group takes one choice, unless it is a sweep."""
    if value in ("", "null"):
        raise UserError(group, "no choice", f"Name one, such as {group}={_choices(group, conf)[0]}.")
    if value.startswith("["):
        each = f"{group}={value.strip('[]')}"
        raise UserError(group, f"a list, where one choice belongs: {value}", f"To run each of them: -m {each}")
    if "," in value and not sweep:
        raise UserError(group, f"several choices: {value}", f"To run each of them: -m {group}={value}")


def explain_override(error: BaseException, arguments: Sequence[str], conf: Path) -> UserError | None:
    """Say in a user's words what Hydra says of a wrong argument.

    Args:
        error: what Hydra raised.
        arguments: of the command line.
        conf: the folder of configurations.

    Returns:
        The mistake; None where Hydra's own words must do.
    """
    text = str(error)
    if found := re.search(r"Could not find '([^'/]+)/([^']+)'", text):
        group, choice = found.groups()
        listed = re.search(r"Available options in '[^']+':\n((?:\t\w.*\n)+)", text)
        known = [name for name in (listed[1].split() if listed else []) if not name.startswith("_")]
        known = known or _choices(group, conf)
        return UserError(group, f"no choice is called {choice!r}", f"{_near(choice, known)}Known: {', '.join(known)}.")
    if (found := re.search(r"Could not override '([^']+)'", text)) and not found[1].startswith("hydra."):
        return _unknown_key(found[1], arguments)
    if found := re.search(r"Ambiguous value for argument '(.+)'\n", text):
        key, _, value = found[1].partition("=")
        fixes = [f"To run each of them: -m {found[1]}"]
        wanted = _wanted(key.lstrip("+"))
        if any(one.what is list for one in wanted):
            fixes = [f"If it is a list: {key}=[{value}]"]
        if any(one.what in (str, list) for one in wanted):
            fixes.append(f'If it is one text: "{key}={quote(value)}"')
        return UserError(key, f"several values: {value}", ". ".join(fixes))
    if found := re.search(r"Error parsing override '(.*)'\n", text):
        words = [f"task={found[1]}"] if found[1].isidentifier() else []
        fix = f"Write key=value{', such as ' + words[0] if words else ''}; quote the argument if it has blanks."
        return UserError(found[1], "no key=value", fix)
    return None


def _choices(group: str, conf: Path) -> list[str]:
    return sorted(path.stem for path in (conf / group).glob("[!_]*.yaml"))


def _unknown_key(key: str, arguments: Sequence[str]) -> UserError:
    """A key that the configuration has not; in a mapping of free keys it can be added."""
    above = key.rpartition(".")[0]
    if not _groups(above) and not _wanted(above):
        return _unknown_key(above, arguments)
    if any(wanted.what is dict for wanted in _wanted(above)):
        given = next((one for one in arguments if one.startswith(f"{key}=")), f"{key}=...")
        return UserError(key, "this key is not there yet", f"To add it: +{given}")
    return unknown(key, [name for group in _groups(above) for name in field_types(group)])


def _wanted(key: str) -> list[Wanted]:
    """What the types ask of the value of a dotted key; of several, where a group has several kinds."""
    above, _, name = key.rpartition(".")
    return [take_apart(field_types(group)[name]) for group in _groups(above) if name in field_types(group)]


def _groups(key: str) -> list[type]:
    """The groups that may stand under a dotted key; the whole configuration under the empty one."""
    return [group for wanted in _wanted(key) for group in wanted.groups] if key else [Config]


def _near(word: str, known: Sequence[str] | set[str]) -> str:
    near = get_close_matches(word, sorted(known), n=1)
    return f"Did you mean {near[0]}? " if near else ""
