"""The same configurations with several seeds: mean and standard deviation of what was measured.

In: the overrides of each run of a sweep and its metrics (None where it failed). Runs that differ in nothing but `seed`
are one row of the table and one line of the figure. The standard deviation is that of a sample (n - 1): it says how
far one more run with another seed may lie off, not how sure the mean is; a single run has none.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from omniner.analysis.scores.tables import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Result", "Table", "apart", "figure", "results", "summary", "text"]

METRICS = (
    "test/f1",
    "test/micro_precision",
    "test/micro_recall",
    "test/macro_f1",
    "test/relaxed_f1",
    "parse/failed",
    "val/best_f1",
)
SHOWN = "test/f1"  # in the figure
BLANK = ""  # where there is nothing to compute
LARGEST = 200  # configurations of the figure, the best; a longer image cannot be drawn or looked at
LABEL = 60  # characters of a configuration in text and figure


class Result(NamedTuple):
    """One run: what sets its configuration apart (empty: nothing but the seed), and its metrics; None = it failed."""

    label: str
    metrics: Mapping[str, float] | None


def apart(runs: Sequence[Sequence[str]], without: Sequence[str]) -> list[str]:
    """What sets each run apart: those of its overrides that are not the same in all runs, `without` these keys."""
    given = [dict(override.partition("=")[::2] for override in overrides) for overrides in runs]
    keys = dict.fromkeys(key for item in given for key in item if key not in without)
    varying = [key for key in keys if len({item.get(key) for item in given}) > 1]
    return [" ".join(f"{key}={item[key]}" for key in varying if key in item) for item in given]


def results(runs: Sequence[tuple[Sequence[str], Mapping[str, float] | None]]) -> list[Result]:
    """Runs given as overrides and metrics, named by what sets their configurations apart: all but the seed."""
    labels = apart([overrides for overrides, _ in runs], ("seed",))
    return [Result(label, metrics) for label, (_, metrics) in zip(labels, runs, strict=True)]


def _groups(runs: Sequence[Result]) -> dict[str, list[Mapping[str, float]]]:
    groups: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        group = groups.setdefault(run.label, [])
        if run.metrics is not None:
            group.append(run.metrics)
    return groups


def summary(runs: Sequence[Result], name: str) -> Table:
    """One row per configuration: runs that finished and failed, then mean and standard deviation of each metric.

    Args:
        runs: of a sweep.
        name: stands for a configuration that nothing sets apart.
    """
    names = [metric for metric in METRICS if any(run.metrics and metric in run.metrics for run in runs)]
    columns = ["configuration", "n", "failed", *(f"{m} {what}" for m in names for what in ("mean", "sd"))]
    table = Table(columns, [])
    for label, finished in _groups(runs).items():
        failed = sum(run.label == label and run.metrics is None for run in runs)
        row: list[Cell] = [label or name, len(finished), failed]
        for metric in names:
            values = [metrics[metric] for metrics in finished if metric in metrics]
            row.append(statistics.fmean(values) if values else BLANK)
            row.append(statistics.stdev(values) if len(values) > 1 else BLANK)
        table.rows.append(row)
    return table


def text(table: Table) -> list[str]:
    """The table as lines for a terminal: `mean ± sd`, rates in per cent."""
    metrics = [column.removesuffix(" mean") for column in table.columns[3::2]]
    heads = ["configuration", "n", "failed", *metrics]
    body = []
    for row in table.rows:
        pairs = zip(metrics, row[3::2], row[4::2], strict=True)
        body.append([str(row[0])[:LABEL], str(row[1]), str(row[2]), *(_cell(*pair) for pair in pairs)])
    widths = [max(len(line[i]) for line in [heads, *body]) for i in range(len(heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [heads, *body]
    ]


def _cell(metric: str, mean: object, deviation: object) -> str:
    if not isinstance(mean, float):
        return "-"
    factor = 1 if metric.startswith("parse/") else 100
    spread = f" ± {deviation * factor:.2f}" if isinstance(deviation, float) else ""
    return f"{mean * factor:.2f}{spread}"


def figure(runs: Sequence[Result], name: str) -> bytes | None:
    """F1 on test, a line per configuration: each seed a point, the mean with one standard deviation; None: no F1."""
    from omniner.analysis.pages.figures import png

    groups = {
        label or name: values
        for label, finished in _groups(runs).items()
        if (values := [metrics[SHOWN] for metrics in finished if SHOWN in metrics])
    }
    if not groups:
        return None
    if len(groups) > LARGEST:
        best = sorted(groups, key=lambda label: -statistics.fmean(groups[label]))[:LARGEST]
        groups = {label: groups[label] for label in best}
    return png((8, 1.2 + 0.35 * len(groups)), lambda figure: _draw(figure, groups))


def _draw(figure: Figure, groups: Mapping[str, Sequence[float]]) -> None:
    from omniner.analysis.pages.figures import BLUE, ORANGE

    ax = figure.subplots()
    for row, values in enumerate(groups.values()):
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        ax.errorbar(statistics.fmean(values), row, xerr=deviation, fmt="D", color=BLUE, capsize=4, zorder=3)
        ax.plot(values, [row] * len(values), "o", color=ORANGE, markersize=3.5, alpha=0.8, zorder=4)
    ax.set_yticks(range(len(groups)), [label[:LABEL] for label in groups])
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_xlabel("F1 on test")
    ax.set_title(f"F1 of {sum(map(len, groups.values()))} runs: seeds (points), mean ± standard deviation")
