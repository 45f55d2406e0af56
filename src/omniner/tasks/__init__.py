"""The tasks of `conf/task`: one short module each, its steps in order.

`TASKS` maps a task's name to a function of a `Context`; the module behind it is imported when it is called, so that
scoring a file never waits for torch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from omniner.config.rules import CHOICES

if TYPE_CHECKING:
    from omniner.runs.context import Context


def _lazy(name: str) -> Callable[[Context], None]:
    def task(context: Context) -> None:
        import_module(f"omniner.tasks.{name}").run(context)

    return task


TASKS: dict[str, Callable[[Context], None]] = {name: _lazy(name) for name in CHOICES["task.name"]}
