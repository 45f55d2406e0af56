"""Chinese letters on a machine that has no Chinese font: in figures and in the HTML report.

Noto Sans CJK SC (SIL Open Font License) comes with the package `mplfonts`, which is only looked up, never
imported: it asks for more packages than we need. `families` makes the font known to matplotlib; `face` cuts it
down to the characters a page shows and returns a CSS rule with the font inside. Cutting costs 0.7 s for 1,500
characters and 1.2 s for 2,500, where it stops: the least used characters then take whatever font the reader's
machine has. Colour emoji are not in the font; browsers bring their own, figures show `�` for what no font has.

The figures of a scored run as PNG bytes: learning curves, F1 by category, error types, confusions.

`figures` draws what the run has (a scored file has no learning curves, a perfect one no errors) in one style:
colour-blind-safe colours, Chinese letters from `fonts`, titles that say what is shown and how many. Nothing of the
user's matplotlib settings leaks in or out, no window system is needed, and the same result gives the same bytes.
Six figures of 90 categories take about 3 s.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from omniner.registry import ERROR_TYPES
from omniner.report.run_tables import count_confusions
from omniner.scoring.error_types import AMBER, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY
from omniner.scoring.results import ScoreResult, category_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT_FAMILY = "Noto Sans CJK SC"
FONT_FILE = "NotoSansCJKsc-Regular.otf"
MOST_CHARACTERS = 2500  # characters put into a page: 0.6 MB, 1.2 s
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
# What follows an emoji and is nothing alone: variation selectors, skin tones, a joiner with what it joins.
_EMOJI_PARTS = re.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]|\u200d.")
# Tables a browser does not need to draw single characters.
_DROPPED = ["GSUB", "GPOS", "GDEF", "BASE", "VORG", "vmtx", "vhea", "DSIG"]


@cache
def font_file() -> Path:
    """Where the Chinese font lies."""
    spec = find_spec("mplfonts")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("mplfonts, which carries the Chinese font, is a dependency of omniner")
    return Path(spec.origin).parent / "fonts" / FONT_FILE


@cache
def font_families() -> tuple[str, ...]:
    """Font families for matplotlib, best first; the Chinese one is registered on the first call."""
    from matplotlib.font_manager import fontManager

    fontManager.addfont(font_file())
    return (FONT_FAMILY, "DejaVu Sans")


@cache
def _drawn() -> frozenset[int]:
    """Code points that the families of `families` can draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(
        point
        for family in font_families()
        for point in get_font(findfont(FontProperties(family=[family]))).get_charmap()
    )


def drawable_text(text: str, length: int = 0) -> str:
    """A text that matplotlib can draw: no line breaks, `�` for what no font has, cut to `length` with `…`.

    Most emoji are such: a whole one, with its skin tone and joiners, is one `�`. Tables and pages show what they are.
    """
    text = _EMOJI_PARTS.sub("", " ".join(text.split()))
    text = "".join(c if ord(c) in _drawn() else UNKNOWN for c in text)
    return f"{text[: length - 1]}…" if length and len(text) > length else text


def font_face(texts: Iterable[str], name: str) -> str:
    """A CSS `@font-face` rule called `name` with the most used characters of `texts`; empty for none."""
    uses: Counter[str] = Counter()
    for text in texts:
        uses.update(text)
    # ASCII stays with the reader's own fonts.
    wanted = sorted((point for c in uses if (point := ord(c)) > 126), key=lambda p: (-uses[chr(p)], p))[
        :MOST_CHARACTERS
    ]
    if not wanted:
        return ""
    data = base64.b64encode(_subset(wanted)).decode("ascii")
    return f'@font-face{{font-family:"{name}";src:url(data:font/woff;base64,{data}) format("woff")}}'


def _subset(points: list[int]) -> bytes:
    """The font with only these code points, as WOFF. Deterministic: no time stamp is written."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont

    options = Options()
    options.layout_features, options.name_IDs = [], [1, 2, 13, 14]  # names and licence stay
    options.hinting, options.drop_tables = False, [*options.drop_tables, *_DROPPED]
    # The bounding boxes of the whole font are generous for a part of it, not wrong; new ones cost 0.5 s.
    with TTFont(font_file(), lazy=True, recalcBBoxes=False, recalcTimestamp=False) as font:
        cutter = Subsetter(options)
        cutter.populate(unicodes=points)
        cutter.subset(font)
        font.flavor = "woff"
        buffer = io.BytesIO()
        font.save(buffer)
    return buffer.getvalue()


Curve = Sequence[tuple[int, float]]  # (step, value)

INK, FAINT = "#22272e", "#6b7280"
MOST_CONFUSED = 20  # categories of the confusion figure; more cannot be read
MOST_ROWS = 200  # categories of the F1 figure, those with most gold; a longer image cannot be drawn or looked at
LABEL_LENGTH = 14  # characters of a category name in a figure

_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": "#c5cad3",
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8ec",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a category is a $
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "savefig.dpi": 130,
    "figure.constrained_layout.use": True,
}


def draw_run_figures(result: ScoreResult, curves: Mapping[str, Curve]) -> dict[str, bytes]:
    """The figures that this result has something for, by name.

    Args:
        result: what `scoring.score` gave.
        curves: values over steps by metric name; the figure shows `train/*` above and `val/*` below.
    """
    made: dict[str, bytes] = {}
    if any(curves.values()):
        made["learning_curves"] = png((8, 5), lambda figure: _curves(figure, curves))
    if result.metrics.categories:
        height = 1.4 + 0.19 * min(MOST_ROWS, len(result.metrics.categories))
        made["f1_by_category"] = png((8, height), lambda figure: _f1(figure, result))
    if result.errta.errors:
        made["error_types"] = png((8, 3.4), lambda figure: _types(figure, result))
        names, counts = errors_by_primary(result)
        height = 1.6 + 0.24 * len(names)
        made["errors_by_primary"] = png((8, height), lambda figure: _by_primary(figure, result, names, counts))
    names, counts = most_confused(result, MOST_CONFUSED)
    if names:
        made["confusion"] = png((9, 8), lambda figure: _confusion(figure, result, names, counts))
    return made


def errors_by_primary(result: ScoreResult) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Primaries (most errors first) and their errors of each type, in the order of `errta.by_type`."""
    types = {name: i for i, name in enumerate(result.errta.by_type)}
    rows: dict[str, npt.NDArray[np.int64]] = {}
    for error in result.errta.errors:
        primary = result.primary[category_of(error)]
        if primary not in rows:
            rows[primary] = np.zeros(len(types), np.int64)
        rows[primary][types[error.type]] += 1
    names = sorted(rows, key=lambda name: (-int(rows[name].sum()), name))
    return names, np.array([rows[name] for name in names]).reshape(len(names), len(types))


def most_confused(result: ScoreResult, top: int) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The `top` categories with most confusions, neighbours of one primary together, and gold x predicted counts."""
    counts = count_confusions(result.errta.errors)
    involved: dict[str, int] = {}
    for pair, count in counts.items():
        for name in pair:
            involved[name] = involved.get(name, 0) + count
    names = sorted(sorted(involved, key=lambda name: (-involved[name], name))[:top])
    place = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), np.int64)
    for (gold, predicted), count in counts.items():
        if gold in place and predicted in place:
            matrix[place[gold], place[predicted]] = count
    return names, matrix


def png(size: tuple[float, float], draw: Callable[[Figure], None]) -> bytes:
    """Draw on a fresh figure of `size` inches, in our style only."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        style: Any = {**_STYLE, "font.family": list(font_families())}
        matplotlib.rcParams.update(style)
        figure = NewFigure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _curves(figure: Figure, curves: Mapping[str, Curve]) -> None:
    """One panel per kind of figure: losses above, scores (between 0 and 1) below."""
    known = {name: values for name, values in sorted(curves.items()) if values}
    losses = {name: values for name, values in known.items() if "loss" in name}
    scores = {name: values for name, values in known.items() if name not in losses}
    panels = [(title, lines) for title, lines in (("Loss", losses), ("Scores", scores)) if lines]
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    colours = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, GREY)
    for ax, (title, lines) in zip(axes, panels, strict=True):
        for i, (name, values) in enumerate(lines.items()):
            steps, heights = zip(*values, strict=True)
            marker = "o" if len(steps) <= 40 else ""
            ax.plot(steps, heights, color=colours[i % len(colours)], marker=marker, markersize=3.5, label=name)
        if title == "Scores":
            _mark_best(ax, lines)
        ax.set_title(f"{title} over {max(v[-1][0] for v in lines.values()):,} steps")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        ax.xaxis.set_major_formatter("{x:,.0f}")
    axes[-1].set_xlabel("optimizer step")


def _mark_best(ax: Axes, lines: Mapping[str, Curve]) -> None:
    """Mark the best F1 with its value and step."""
    found = [(value, -step) for name, values in lines.items() if "f1" in name.lower() for step, value in values]
    if found:
        best, step = max(found)
        ax.plot([-step], [best], "o", color=INK, markersize=5, zorder=5)
        ha = "right" if -step > max(-s for _, s in found) / 2 else "left"  # towards the middle of the panel
        text = f"best F1 {best:.4f} at step {-step:,}"
        ax.annotate(text, (-step, best), xytext=(0, -14), textcoords="offset points", ha=ha, color=INK)


def _f1(figure: Figure, result: ScoreResult) -> None:
    """Horizontal bars, best on top, with F1 and support of each category at the right edge."""
    rows = sorted(result.metrics.categories.items(), key=lambda item: (-item[1].support, item[0]))[:MOST_ROWS]
    rows.sort(key=lambda item: (item[1].f1, item[1].support, item[0]))
    ax = figure.subplots()
    places = np.arange(len(rows))
    values = [row.f1 for _, row in rows]
    ax.barh(places, values, height=0.72, color=[BLUE if row.support else GREY for _, row in rows])
    for place, (_, row) in enumerate(rows):
        ax.text(1.09, place, f"{row.f1:.3f}", va="center", ha="right", fontsize=7.5)
        ax.text(1.19, place, f"{row.support:,}", va="center", ha="right", fontsize=7.5, color=FAINT)
    for right, heading in ((1.09, "F1"), (1.19, "gold")):
        ax.text(right, len(rows) - 0.2, heading, va="bottom", ha="right", fontsize=7.5, color=FAINT)
    micro = result.metrics.micro.f1
    ax.axvline(micro, color=ORANGE, linewidth=1.1, linestyle=(0, (4, 3)))
    ax.set_yticks(places, [drawable_text(name, LABEL_LENGTH) for name, _ in rows], fontsize=8)
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.set_xlim(0, 1.2)
    ax.set_xticks(np.arange(0, 1.01, 0.2))
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("F1; dashed: micro average")
    of = f" of {len(result.metrics.categories)}" if len(rows) < len(result.metrics.categories) else ""
    ax.set_title(f"F1 of {len(rows)}{of} categories, unit {result.unit}, micro F1 {micro:.4f}")


def _types(figure: Figure, result: ScoreResult) -> None:
    """Bars in the fixed order of types, with count and share."""
    counts = {name: count.errors for name, count in result.errta.by_type.items()}
    total = sum(counts.values())
    ax = figure.subplots()
    places = np.arange(len(counts))[::-1]
    ax.barh(places, list(counts.values()), height=0.66, color=[ERROR_TYPES[name].colour for name in counts])
    for place, count in zip(places, counts.values(), strict=True):
        text = f"  {count:,} ({count / total:.1%})" if count else "  0"
        ax.text(count, place, text, va="center", fontsize=8.5)
    ax.set_yticks(places, [name.replace("_", " + ") for name in counts])
    ax.set_xlim(0, max(counts.values()) * 1.16)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("errors")
    where = f"{result.errta.with_errors:,} of {result.errta.read:,} sentences"
    ax.set_title(f"{total:,} errors by type (ERRTA {result.mode}), in {where}")


def _by_primary(figure: Figure, result: ScoreResult, names: list[str], counts: npt.NDArray[np.int64]) -> None:
    """Heat map; the colour follows the square root, so that the rare ones can be seen beside the frequent."""
    ax = figure.subplots()
    columns = [name.replace("_", " + ") for name in result.errta.by_type]
    _heat(ax, counts, 7.5)
    ax.set_xticks(np.arange(len(columns)), columns, fontsize=8)
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.set_yticks(np.arange(len(names)), [drawable_text(name, LABEL_LENGTH) for name in names])
    ax.set_title(f"{int(counts.sum()):,} errors by type and primary ({len(names)} primaries)")


def _confusion(figure: Figure, result: ScoreResult, names: list[str], counts: npt.NDArray[np.int64]) -> None:
    """Heat map of gold x predicted without the diagonal: only what went wrong."""
    ax = figure.subplots()
    _heat(ax, counts, 7)
    shown = [drawable_text(name, LABEL_LENGTH) for name in names]
    ax.set_xticks(np.arange(len(names)), shown, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(np.arange(len(names)), shown)
    for i in range(len(names)):
        ax.add_patch(_cell(i))
    ax.set_xlabel("predicted category")
    ax.set_ylabel("gold category")
    total = count_confusions(result.errta.errors).total()
    ax.set_title(f"{int(counts.sum()):,} of {total:,} confusions, between the {len(names)} most confused categories")


def _cell(place: int) -> Any:
    """A grey cell of the diagonal, where nothing can stand."""
    from matplotlib.patches import Rectangle

    return Rectangle((place - 0.5, place - 0.5), 1, 1, facecolor="#eceef1", edgecolor="none")


def _heat(ax: Axes, counts: npt.NDArray[np.int64], size: float) -> None:
    """Cells in shades of blue with their count written in them; zero stays white and empty."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#cfe3f1", "#5ba3d0", "#0072B2", "#00395a"])
    strength = np.sqrt(counts / max(1, int(counts.max())))
    ax.imshow(strength, cmap=shades, vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(counts > 0):
        colour = "white" if strength[row, column] > 0.55 else INK
        text = f"{counts[row, column]:,}"
        ax.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    rows, columns = counts.shape
    ax.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    ax.grid(visible=True, which="minor", color="#f0f1f4", linewidth=0.8)
    ax.tick_params(which="minor", length=0)
