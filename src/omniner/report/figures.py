"""Draw charts in one style with matplotlib, as PNG pictures for the tracker and as SVG inside pages.

The user's matplotlib settings have no effect and are not changed, no window system is needed, and the same chart gives
the same bytes. In a page, the text of a chart is real text, and its colours come from the style sheet, so that they fit
light mode, dark mode and print.

Chinese letters are drawn even on a machine without a Chinese font: Noto Sans CJK SC (SIL Open Font License) comes with
the package `mplfonts`. This package is only located, not imported, because its import needs more packages.
`font_families` registers the font with matplotlib; `font_face` reduces it to the characters that a page shows, at most
2,500, which add 0.9 MB; rarer characters use a font of the reader's machine. Colour emoji are not in the font: browsers
have their own, and figures show `�` for characters that no font has.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniner.scoring.error_types import AMBER, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY
from omniner.wording import text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT = "#22272e", "#6b7280"
_EDGE, _GRID = "#c5cad3", "#e6e8ec"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, GREY)  # colours of the lines of a chart
LABEL_WIDTH = 28  # width of a name in a figure, in columns: a Latin letter takes one, a Chinese one two
MOST_ROWS = 200  # maximum rows of a figure; a longer image cannot be drawn or viewed

FONT_FAMILY = "Noto Sans CJK SC"
FONT_FILE = "NotoSansCJKsc-Regular.otf"
FACE = "OmniNER Han"  # name in `page.css` of the part of the font that is embedded in a page
FIRST_HAN = 0x2460  # characters before it (Latin letters, quotation marks, arrows) use the reader's own fonts
MOST_CHARACTERS = 2500  # maximum characters of the embedded font: 0.9 MB
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
# Parts of an emoji that mean nothing alone: variation selectors, skin tones, and a joiner with the following character.
_EMOJI_PARTS = re.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]|\u200d.")
# Tables of the font that a browser does not need to draw single characters.
_DROPPED = (b"GSUB", b"GPOS", b"GDEF", b"BASE", b"VORG", b"vmtx", b"vhea", b"DSIG")
_LICENCE_NAMES = (13, 14)  # name ids of the licence's text and its address

_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": _EDGE,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a category is no markup
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
_IN_PAGES: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "omniner",
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
# Names of the colours in the style sheet of the pages.
_VARIABLES = {
    INK: "ink",
    FAINT: "soft",
    _EDGE: "right",
    _GRID: "line",
    "#ffffff": "panel",
    BLUE: "accent",
    ORANGE: "said",
    GREEN: "other-1",
    PURPLE: "other-2",
    AMBER: "other-3",
    SKY: "other-4",
    GREY: "right",
}

_FONT = re.compile(r"(font-family: |font: (?:\w+ )*[\d.]+px )(?:&apos;|[^;\"])*")  # as matplotlib 3.11 and 3.9 write it
_COLOUR_OF = {colour.lower(): f"var(--{name})" for colour, name in _VARIABLES.items()}


@dataclass(frozen=True)
class Chart:
    """A figure that can be drawn as a picture or inside a page.

    Args:
        title: title of the picture and caption in a page, with the amount of data; empty = `draw` sets titles.
        size: width and height in inches.
        draw: draws on an empty figure.
    """

    title: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]

    def png(self) -> bytes:
        """Return a PNG picture with the title."""
        return self._save("png", {}, {"Software": None}, self.title)

    def svg(self, label: str = "") -> str:
        """Return SVG markup for a page, without the title; `label` describes it for screen readers."""
        absent = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        text = self._save("svg", _IN_PAGES, absent, "").decode("utf-8")
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
        box = re.search(r'viewBox="[^"]*"', text)
        assert box is not None
        head = f'<svg class="chart" role="img" aria-label="{html.escape(label or self.title)}" {box[0]}>'
        body = re.sub(r"<[^>]+>", _page_markup, text[text.index(">") + 1 :])
        return head + re.sub(r"\s*\n\s*", "", body)

    def _save(self, format: str, style: dict[str, Any], metadata: dict[str, None], title: str) -> bytes:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as NewFigure

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            settings: Any = {**_STYLE, **style, "font.family": list(font_families())}
            matplotlib.rcParams.update(settings)
            figure = NewFigure(figsize=self.size, layout="constrained", dpi=_STYLE["savefig.dpi"])
            self.draw(figure)
            if title:
                figure.axes[0].set_title(title)
            buffer = io.BytesIO()
            if format == "png":
                # `savefig` would draw everything twice, for backends that do not do the layout while drawing
                canvas: Any = FigureCanvasAgg(figure)
                canvas.print_png(buffer, metadata=metadata)
            else:
                figure.savefig(buffer, format=format, metadata=metadata)
        return buffer.getvalue()


def _page_markup(tag: re.Match[str]) -> str:
    """Adapt a tag of matplotlib's SVG to a page: its colours and font, two decimals, no unused ids."""
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0])
    if text.startswith("<g "):
        text = re.sub(r' id="[^"]*"', "", text)
    text = _FONT.sub(r"\1var(--font)", text)
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _COLOUR_OF.get(found[0], found[0]), text)


def drawable_text(text: str) -> str:
    """Return a text that matplotlib can draw: without line breaks, and with `�` for characters that no font has.

    Most emoji are such characters: a whole emoji, with its skin tone and joiners, becomes one `�`. Tables and pages
    show the emoji.
    """
    text = _EMOJI_PARTS.sub("", " ".join(text.split()))
    return "".join(c if ord(c) in _drawn() else UNKNOWN for c in text)


def drawable_names(names: Sequence[str], width: int = LABEL_WIDTH) -> list[str]:
    """Return names that matplotlib can draw, with `…` in the middle of long ones; different names stay different.

    Args:
        names: the names, in any order.
        width: maximum width in columns; more is used if two names would become equal.
    """
    drawn = [drawable_text(name) for name in names]
    while len(set(cut := [_without_middle(name, width) for name in drawn])) < len(set(drawn)):
        width += 1 + width // 8
    return cut


def _without_middle(text: str, width: int) -> str:
    if text_width(text) <= width:
        return text
    head = _beginning(text, width // 2)
    return f"{head}…{_beginning(text[::-1], width - 1 - text_width(head))[::-1]}"


def _beginning(text: str, width: int) -> str:
    ends = accumulate(map(text_width, text))
    return text[: sum(end <= width for end in ends)]


@cache
def font_file() -> Path:
    """Return the path of the Chinese font."""
    spec = find_spec("mplfonts")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("mplfonts, which carries the Chinese font, is a dependency of omniner")
    return Path(spec.origin).parent / "fonts" / FONT_FILE


@cache
def font_families() -> tuple[str, ...]:
    """Return the font families for matplotlib, best first; the first call registers the Chinese one."""
    from matplotlib.font_manager import fontManager

    fontManager.addfont(font_file())
    return (FONT_FAMILY, "DejaVu Sans")


@cache
def _drawn() -> frozenset[int]:
    """Return the code points that the families of `font_families` can draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    files = [findfont(FontProperties(family=[family])) for family in font_families()]
    return frozenset(point for file in files for point in get_font(file).get_charmap())


def font_face(text: str) -> str:
    """Return a CSS `@font-face` rule with the most frequent characters of a text; empty if the text needs none."""
    uses = Counter(text)
    points = [point for letter in uses if (point := ord(letter)) >= FIRST_HAN]
    wanted = sorted(points, key=lambda point: (-uses[chr(point)], point))[:MOST_CHARACTERS]
    if not wanted:
        return ""
    data = base64.b64encode(_subset(wanted)).decode("ascii")
    source = f'src:url(data:font/otf;base64,{data}) format("opentype")'
    return f'@font-face{{font-family:"{FACE}";{source};unicode-range:U+{FIRST_HAN:X}-10FFFF}}'


def _subset(points: list[int]) -> bytes:
    """Return the font reduced to these code points; the same bytes each time."""
    import uharfbuzz

    wanted = uharfbuzz.SubsetInput()
    wanted.unicode_set.update(points)
    wanted.flags = uharfbuzz.SubsetFlags.NO_HINTING
    wanted.layout_feature_tag_set.clear()
    wanted.name_id_set.update(_LICENCE_NAMES)
    wanted.drop_table_tag_set.update(int.from_bytes(table, "big") for table in _DROPPED)
    face = uharfbuzz.Face(uharfbuzz.Blob.from_file_path(font_file()))
    return bytes(uharfbuzz.subset(face, wanted).blob.data)
