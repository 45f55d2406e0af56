"""Chinese letters on a machine that has no Chinese font: in figures and in the HTML report.

Noto Sans CJK SC (SIL Open Font License) comes with the package `mplfonts`, which is only looked up, never
imported: it asks for more packages than we need. `families` makes the font known to matplotlib; `face` cuts it
down to the characters a page shows and returns a CSS rule with the font inside. Cutting costs 0.7 s for 1,500
characters and 1.2 s for 2,500, where it stops: the least used characters then take whatever font the reader's
machine has. Colour emoji are not in the font; browsers bring their own, figures show `�` for what no font has.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

FAMILY = "Noto Sans CJK SC"
FILE = "NotoSansCJKsc-Regular.otf"
LARGEST = 2500  # characters put into a page: 0.6 MB, 1.2 s
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
    return Path(spec.origin).parent / "fonts" / FILE


@cache
def families() -> tuple[str, ...]:
    """Font families for matplotlib, best first; the Chinese one is registered on the first call."""
    from matplotlib.font_manager import fontManager

    fontManager.addfont(font_file())
    return (FAMILY, "DejaVu Sans")


@cache
def _drawn() -> frozenset[int]:
    """Code points that the families of `families` can draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(
        point for family in families() for point in get_font(findfont(FontProperties(family=[family]))).get_charmap()
    )


def label(text: str, length: int = 0) -> str:
    """A text that matplotlib can draw: no line breaks, `�` for what no font has, cut to `length` with `…`.

    Most emoji are such: a whole one, with its skin tone and joiners, is one `�`. Tables and pages show what they are.
    """
    text = _EMOJI_PARTS.sub("", " ".join(text.split()))
    text = "".join(c if ord(c) in _drawn() else UNKNOWN for c in text)
    return f"{text[: length - 1]}…" if length and len(text) > length else text


def face(texts: Iterable[str], name: str) -> str:
    """A CSS `@font-face` rule called `name` with the most used characters of `texts`; empty for none."""
    uses: Counter[str] = Counter()
    for text in texts:
        uses.update(text)
    # ASCII stays with the reader's own fonts.
    wanted = sorted((point for c in uses if (point := ord(c)) > 126), key=lambda p: (-uses[chr(p)], p))[:LARGEST]
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
