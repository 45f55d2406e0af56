"""The figures of surveyed corpora as PNG bytes: mentions by category, and lengths of sentences.

Same style, colours and letters as the figures of a run (`pages.figures`); the same corpus gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from omniner.analysis.corpora.checks import Surveyed
from omniner.analysis.pages.figures import AMBER, BLUE, GREEN, GREY, LABEL, LARGEST, ORANGE, PURPLE, SKY, png
from omniner.analysis.pages.fonts import label
from omniner.corpus.stats.flat import Floats, Ints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, GREY)  # of the splits


def figures(surveyed: Sequence[Surveyed]) -> dict[str, bytes]:
    """The figures by name; a corpus without mentions has none of categories."""
    made: dict[str, bytes] = {}
    for one in surveyed:
        rows = one.statistics.categories[:LARGEST]
        if rows:
            height = 1.5 + 0.19 * len(rows)
            made[f"stats_{one.statistics.name}_categories"] = png((8, height), partial(_categories, surveyed=one))
        made[f"stats_{one.statistics.name}_lengths"] = png((8, 3.2), partial(_lengths, surveyed=one))
    return made


def _categories(figure: Figure, surveyed: Surveyed) -> None:
    """Bars on a logarithmic axis, since counts differ by powers of ten."""
    from matplotlib.ticker import NullLocator

    ax = figure.subplots()
    statistics = surveyed.statistics
    rows = sorted(statistics.categories, key=lambda row: (-row.mentions, row.name))[:LARGEST][::-1]
    ax.barh(np.arange(len(rows)), [row.mentions for row in rows], color=BLUE)
    for place, row in enumerate(rows):
        ax.text(row.mentions, place, f" {row.mentions:,}", va="center", fontsize=7.5)
    ax.set_yticks(np.arange(len(rows)), [label(row.name, LABEL + 6) for row in rows])
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(0.8, 2.5 * max(row.mentions for row in rows))
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("mentions")
    mentions, categories = len(statistics.flat.owner), len(statistics.categories)
    ax.set_title(f"{label(statistics.name)}: {mentions:,} mentions of {categories:,} categories")


def shares_by_length(surveyed: Surveyed, bins: int) -> tuple[Ints, dict[str, Floats]]:
    """Edges of at most `bins` length classes in characters, and each split's share of sentences in each class.

    A class holds the lengths from its first edge up to the one before the next; each has as many whole numbers, or
    some would hold one more than their neighbours. The last class takes in all sentences beyond the 99th percentile.
    """
    statistics = surveyed.statistics
    length = statistics.flat.length
    lengths = int(np.ceil(np.percentile(length, 99))) + 1 if len(length) else 1  # from 0 to the 99th percentile
    width = math.ceil(lengths / bins)
    edges = np.arange(0, lengths + width, width)
    shares = {}
    for number, split in enumerate(statistics.flat.splits):
        here = np.minimum(length[statistics.flat.split == number], edges[-1])
        shares[split] = np.histogram(here, edges)[0] / max(len(here), 1)
    return edges, shares


def _lengths(figure: Figure, surveyed: Surveyed) -> None:
    ax = figure.subplots()
    edges, shares = shares_by_length(surveyed, 50)
    for number, (split, values) in enumerate(shares.items()):
        ax.stairs(100 * values, edges, color=_COLOURS[number % len(_COLOURS)], label=label(split))
    ax.set_xlabel("characters of a sentence; the last class holds all longer ones")
    ax.set_ylabel("% of sentences")
    ax.legend(loc="best")
    ax.set_title(f"{label(surveyed.statistics.name)}: length of sentences")
