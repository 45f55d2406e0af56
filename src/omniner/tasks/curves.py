"""The learning curves of a run: kept in the run's folder while training, drawn in its figures and report.

`CurveRecorder` stands between Lightning's logger and the tracked run: every scalar goes on to the tracker and, as a
JSON line, into `curves.jsonl`. A resumed run writes some steps again; the last value of a step counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omniner.files import append_lines, whole_lines
from omniner.tracking import Run

FILE = "curves.jsonl"


class CurveRecorder(Run):
    """A tracked run, as Lightning's logger sees it, that keeps its scalars in the folder as well."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.id, self.url_hint = run.id, run.url_hint
        self._run, self._path = run, folder / FILE
        whole_lines(self._path)  # cuts off what a kill left of the last line

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log scalars of one step."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        append_lines(self._path, [json.dumps({"step": step, **finite})])
        self._run.metrics(values, step)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Tags go to the tracked run alone."""
        self._run.tags(values)


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves kept in a run's folder: name -> (step, value) in order of steps."""
    curves: dict[str, dict[int, float]] = {}
    for line in whole_lines(folder / FILE):
        values = json.loads(line)
        step = values.pop("step")
        for name, value in values.items():
            curves.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in sorted(curves.items())}
