"""`task=sync`: send records that runs could not send to the tracking store, and finish these runs there.

A run whose store was unavailable at its end, or whose process was killed, leaves records in its folder. They are sent
by the same command, by the next run on that store, or by this task, which also looks in all folders of `outputs`. The
task creates no run of its own.
"""

from __future__ import annotations

import logging

from omniner.config.groups import Config
from omniner.errors import UserError
from omniner.progress import show
from omniner.runs.context import Context, Task
from omniner.runs.delivery import has_unsent, send_unsent
from omniner.runs.folder import ROOT
from omniner.tracking import unsent
from omniner.tracking.spool import SPOOL
from omniner.tracking.store import open_store
from omniner.wording import counted

log = logging.getLogger("omniner")


def run(context: Context) -> None:
    """Find folders with unsent records and send them.

    Raises:
        UserError: some records could not be sent.
    """
    settings = context.config.tracking
    open_store(settings)
    noted = {folder.resolve() for folder in unsent.noted(settings)}
    spools = {path.parent.resolve() for path in ROOT.rglob(SPOOL) if not path.parent.name.startswith(".")}
    found = {spool.parent.parent if spool.parent.name == unsent.ARCHIVE else spool for spool in spools} - noted
    further = [folder for folder in sorted(found) if has_unsent(folder)]
    left = send_unsent(settings, settings.wait, further=further)
    if left:
        listed = ", ".join(map(str, left))
        raise UserError(
            "tracking", f"not all is sent of {listed}", "Give the same command again when the store is back."
        )
    show(f"looked into {counted(len(noted) + len(further), 'run folder')}: nothing is left to send")


def _check(config: Config) -> None:
    if config.tracking.kind == "off":
        raise UserError("tracking", "task=sync sends to a store", "Choose tracking=local or tracking=server.")


TASK = Task(
    name="sync",
    description=__doc__,
    run=run,
    label=lambda config: ["sync"],
    check=_check,
    has_own_run=False,
)
