"""A sweep (`-m`) has one parent run, made before its children and closed after the last of them.

Hydra calls `ParentRun.on_multirun_start` in the launching process; the parent's id and the tracking settings travel
to the children through the environment, so that they reach jobs of any launcher. Hydra does not call
`on_multirun_end` when a job fails, so `omniner.run` calls `close` itself, whatever happened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from omniner import schema
from omniner.config import section

PARENT = "OMNINER_PARENT_RUN"
SETTINGS = "OMNINER_PARENT_TRACKING"
# Set by a distributed launch; a next job of the same process must not take itself for a rank of the last one.
RANK_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class ParentRun(Callback):
    """Makes the parent run of a sweep before the first job starts."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start the parent run, tagged with the command line of the sweep."""
        from omniner import tracking

        settings = section(config, "tracking", schema.TrackingConfig)
        if settings.kind == "off":
            return
        overrides = OmegaConf.to_container(config.hydra.overrides.task)
        tags = {"sweep.overrides": json.dumps(overrides, ensure_ascii=False), "sweep.dir": config.hydra.sweep.dir}
        os.environ[PARENT] = tracking.start_parent(settings, name=f"sweep-{config.name}", tags=tags)
        os.environ[SETTINGS] = json.dumps(dataclasses.asdict(settings))


def parent_run() -> str | None:
    """The parent run's id inside a sweep."""
    return os.environ.get(PARENT)


def close(status: str) -> list[str]:
    """Close the parent run of this process's sweep; gives the lines to print: one per child, then the UI's link."""
    parent, settings_json = os.environ.pop(PARENT, None), os.environ.pop(SETTINGS, "{}")
    if parent is None:
        return []
    from omniner import tracking

    settings = schema.TrackingConfig(**json.loads(settings_json))
    children = tracking.children(settings, parent)
    tracking.finish_parent(settings, parent, status, children)
    lines = [f"  {child.name}: {child.status}" for child in children]
    if children:
        lines.append(f"compare: {tracking.compare_link(settings, [child.id for child in children])}")
    return lines


@contextlib.contextmanager
def as_plain_run() -> Iterator[Path | None]:
    """Inside a sweep's job: make the command line that of this job alone, and give the job's folder in the sweep.

    Lightning starts further ranks by running `sys.argv` again; with `-m` in it each rank would run the whole sweep.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        yield None
        return
    arguments, environment = sys.argv[1:], {name: os.environ.get(name) for name in RANK_VARIABLES}
    sys.argv[1:] = list(hydra.overrides.task)
    try:
        yield Path(hydra.runtime.output_dir)
    finally:
        sys.argv[1:] = arguments
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
