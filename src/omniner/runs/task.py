"""What the program knows of a task: the entry that each module of `omniner.tasks` holds.

Everybody who has to know something of a task asks its entry: the check of a configuration what it must give, the run's
folder what to clear when the task starts over, help what the task is for, `omniner.run` what to call. So a new task is
one new file, and its choice in `conf/task`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omniner.config.groups import Config
from omniner.config.model_groups import CausalConfig
from omniner.errors import UserError

if TYPE_CHECKING:
    from omniner.runs.context import Context


@dataclass(frozen=True)
class Input:
    """A key of the configuration that names what a task reads.

    Attributes:
        key: the key, or its dotted name where it stands in a section.
        required: whether the task cannot begin without it; a function where that depends on the configuration.
        folder_allowed: False where the path must be that of a file.
        fewest: entries that a list must have at least; paths in lists are checked by whoever reads them.
        fix: what to do where it is missing; empty: set it to a path.
    """

    key: str
    required: bool | Callable[[Config], bool] = False
    folder_allowed: bool = True
    fewest: int = 1
    fix: str = ""

    def check(self, task: str, config: Config) -> None:
        """Raise a `UserError` where the key lacks a value that `task` needs, or names a file that is not there."""
        value = config
        for part in self.key.split("."):
            value = getattr(value, part)
        required = self.required(config) if callable(self.required) else self.required
        fix = self.fix or f"Set {self.key}=<path>."
        if isinstance(value, list):
            if required and len(value) < self.fewest:
                least = {1: "one", 2: "two"}.get(self.fewest, str(self.fewest))
                raise UserError(self.key, f"task={task} needs {least} or more, {len(value)} given", fix)
        elif not value:
            if required:
                raise UserError(self.key, f"task={task} needs it", fix)
        elif not Path(str(value)).exists():
            raise UserError(self.key, f"{value} does not exist", "Check the path.")
        elif not self.folder_allowed and not Path(str(value)).is_file():
            raise UserError(self.key, f"{value} is not a file", "Check the path.")


def _no_check(config: Config) -> None:
    """Nothing beside the inputs has to be checked."""


@dataclass(frozen=True)
class Task:
    """A task: what it needs, does and leaves behind.

    Attributes:
        name: how `task=` calls it, and its module.
        description: the docstring of its module; the first line says what it does.
        run: does it.
        label: what tells runs of it apart at a glance; makes the run's name where none is given.
        inputs: the keys that name what it reads.
        check: what else must hold of a configuration before it begins; raises `UserError`.
        outputs: the files and folders that it writes into the run's folder, beside those of every task.
        costly: those of its files that a later start goes on from; a folder that holds one of them is never taken back.
        trains: whether models learn in it, which a server's cannot.
        prompts: whether it makes a prompt of its own, so that `prompt.from_run` is for it.
        loads_torch: whether it needs torch.
    """

    name: str
    description: str
    run: Callable[[Context], None]
    label: Callable[[Config], Sequence[str]]
    inputs: Sequence[Input] = ()
    check: Callable[[Config], None] = _no_check
    outputs: Sequence[str] = ()
    costly: Sequence[str] = ()
    trains: bool = False
    prompts: bool = False
    loads_torch: bool = False

    @property
    def meaning(self) -> str:
        """What it does, in one line."""
        return self.description.partition("\n")[0]

    def check_config(self, config: Config) -> None:
        """Raise a `UserError` where the task could not begin with this configuration."""
        for one in self.inputs:
            one.check(self.name, config)
        self.check(config)

    def run_name(self, config: Config) -> str:
        """The name of a run that was given none."""
        return "-".join(part for part in self.label(config) if part)


def model_label(config: Config) -> list[str]:
    """What the label of a run says of its model."""
    if isinstance(config.model, CausalConfig):
        decoding = config.decoding.kind if config.decoding.kind != "free" else ""
        prompt = f"{config.prompt.name}_own" if config.prompt.from_run else config.prompt.name
        return [config.model.name, prompt, config.tuning.method, decoding]
    if config.decoding.engine == "openai":
        return [config.decoding.model or "server", config.prompt.name]
    return [config.model.name, config.head.kind]


def entry_label(entry: str) -> str:
    """What the label of a run says of a path, or of `name=path`."""
    return Path(entry.partition("=")[0]).stem
