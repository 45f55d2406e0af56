"""The figures of a comparison as PNG bytes: errors by type in each run, gains and losses by category.

Same style, colours and letters as the figures of a single run (`pages.figures`); the same comparison gives the same
bytes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from omniner.analysis.compare.comparison import RunComparison, Versus
from omniner.analysis.compare.significance import Difference
from omniner.analysis.pages.figures import AMBER, BLUE, FAINT, GREEN, GREY, INK, LABEL, ORANGE, PURPLE, SKY, png
from omniner.analysis.pages.fonts import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (GREY, BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)  # of the runs, the baseline first
MOST_CHANGED = 40  # categories of the figure of gains and losses; more cannot be read
NAME = 28  # characters of a run's name


def figures(comparison: RunComparison) -> dict[str, bytes]:
    """The figures by name; a run in which no category changed has none of gains and losses."""
    count = len(comparison.results)
    types = len(comparison.results[comparison.baseline].errta.by_type)
    made = {"compare_errors": png((8, 1.2 + 0.2 * types * (count + 1)), lambda figure: _errors(figure, comparison))}
    for number, versus in enumerate(comparison.versus, 1):
        rows = most_changed(versus)
        if rows:
            height = 1.5 + 0.22 * len(rows)
            name = f"compare_categories_{number}"
            made[name] = png((8, height), partial(_categories, comparison=comparison, versus=versus, rows=rows))
    return made


def most_changed(versus: Versus) -> list[tuple[str, Difference]]:
    """The categories whose F1 changed most, the largest gain first."""
    changed = [(name, row) for name, row in versus.significance.categories.items() if row.difference]
    kept = sorted(changed, key=lambda item: (-abs(item[1].difference), item[0]))[:MOST_CHANGED]
    return sorted(kept, key=lambda item: (-item[1].difference, item[0]))


def _errors(figure: Figure, comparison: RunComparison) -> None:
    """Grouped bars: one group per type, one bar per run."""
    ax = figure.subplots()
    types = list(comparison.results[comparison.baseline].errta.by_type)
    count = len(comparison.results)
    groups = np.arange(len(types))[::-1]
    for place, (name, result) in enumerate(comparison.results.items()):
        values = [result.errta.by_type[kind].errors for kind in types]
        heights = groups + (0.5 - (place + 0.5) / count) * 0.8
        ax.barh(heights, values, height=0.8 / count, color=COLOURS[place % len(COLOURS)], label=label(name, NAME))
        for height, value in zip(heights, values, strict=True):
            ax.text(value, height, f" {value:,}", va="center", fontsize=7.5)
    ax.set_yticks(groups, [name.replace("_", " + ") for name in types])
    ax.margins(x=0.1)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("errors")
    ax.legend(loc="best")
    mode = comparison.results[comparison.baseline].mode
    ax.set_title(f"Errors by type (ERRTA {mode}) in {comparison.sentences:,} sentences")


def _categories(figure: Figure, comparison: RunComparison, versus: Versus, rows: list[tuple[str, Difference]]) -> None:
    """Differences of F1 with their intervals; those that stay significant after the correction are filled."""
    ax = figure.subplots()
    for place, (name, row) in zip(range(len(rows))[::-1], rows, strict=True):
        colour = BLUE if row.difference > 0 else ORANGE
        certain = versus.significance.corrected[name] < comparison.settings.alpha
        ax.plot([100 * row.low, 100 * row.high], [place, place], color=colour, linewidth=1.4)
        ax.plot([100 * row.difference], [place], "o", color=colour, markerfacecolor=colour if certain else "white")
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks(range(len(rows))[::-1], [label(name, LABEL) for name, _ in rows])
    ax.set_ylim(-0.8, len(rows) - 0.2)
    ax.set_xlabel("points of F1; filled: significant after Holm's correction", color=FAINT)
    names = f"{label(versus.name, NAME)} against {label(comparison.baseline, NAME)}"
    of = len(versus.significance.categories)
    ax.set_title(f"Gains and losses by category, {len(rows)} of {of}\n{names}")
