"""Figures: the right set, the same bytes each time, Chinese drawn from our font, no trace left in matplotlib."""

from __future__ import annotations

import struct
import subprocess
import sys
from xml.etree import ElementTree

import made_up
import matplotlib
import pytest

from omniner.records import Entity, Prediction, Sentence
from omniner.report import figures, run_page
from omniner.scoring.metrics import ScoreResult

CURVES = {
    "train/loss": [(step, 3 / (step + 1)) for step in range(50)],
    "val/loss": [(0, float("nan")), (40, 1.0)],
    "val/f1": [(0, 0.1), (40, 0.7)],
}


FEW = ["品牌", "产品系列", "体验_使用体验", "体验_其他", "poi_景点"]


@pytest.fixture(scope="module")
def result() -> ScoreResult:
    return made_up.result(300)


@pytest.fixture(scope="module")
def few() -> ScoreResult:
    return made_up.result(30, categories=FEW)


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def test_all_figures(result: ScoreResult) -> None:
    before = dict(matplotlib.rcParams)
    made = run_page.draw_run_figures(result, CURVES)
    for chart in made.values():
        chart.png()
    assert dict(matplotlib.rcParams) == before
    names = ["learning_curves", "f1_by_category", "error_types", "errors_by_primary", "confusion"]
    assert list(made) == names
    # Room for one line of text per category.
    assert size(made["f1_by_category"].png())[1] > 20 * len(result.metrics.categories)


def test_same_bytes_whatever_the_style_of_the_user(few: ScoreResult) -> None:
    charts = run_page.draw_run_figures(few, CURVES).values()
    plain = [(chart.png(), chart.svg()) for chart in charts]
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "figure.facecolor": "black"}):
        assert [(chart.png(), chart.svg()) for chart in charts] == plain


def test_only_what_there_is_something_for() -> None:
    right = Entity("好", "体验", 0, 1)
    gold, said = {"0": Sentence("0", "好", [right])}, {"0": Prediction("0", [right])}
    assert list(run_page.draw_run_figures(made_up.scored(gold, said, []), {})) == ["f1_by_category"]
    empty = made_up.scored({"0": Sentence("0", "好")}, {"0": Prediction("0")}, [])
    assert run_page.draw_run_figures(empty, {"val/f1": []}) == {}


def test_hostile_and_unknown_letters_are_drawn() -> None:
    names = ["$\\frac{$", "\U000e0001藏\n文ཀ_x", "<b>" + "长" * 60, "𠮷野家", "ok"]
    made = run_page.draw_run_figures(made_up.result(40, 0.5, categories=names), {"val/$loss$": [(1, 0.5)]})
    assert {"confusion", "errors_by_primary", "learning_curves"} <= set(made)
    for chart in made.values():
        assert chart.png().startswith(b"\x89PNG")
        picture = ElementTree.fromstring(chart.svg(label="</svg>").replace("xlink:href", "href"))
        words = [text.text or "" for text in picture.iter("text")]
        assert not any("<" in word and "b>" not in word for word in words)


def test_label() -> None:
    assert figures.drawable_text("品牌\n A") == "品牌 A"
    assert figures.drawable_text("\U000e0001牌") == "�牌"
    assert (
        figures.drawable_text("\U0001f44d\U0001f3fb棒 \U0001f469\u200d\U0001f469\u200d\U0001f467") == "�棒 �"
    )  # whole emoji
    assert figures.drawable_text("\u2764\ufe0f") == "\u2764"


def test_long_names_lose_their_middle_and_stay_apart() -> None:
    assert figures.drawable_names(["一二三四五", "品牌"], 7) == ["一…四五", "品牌"]
    assert figures.drawable_names(["abcdefghij"], 7) == ["abc…hij"]
    types = [f"organization-{what}" for what in ("education", "government/agency", "media/newspaper", "politicalparty")]
    assert figures.drawable_names(types[:1]) == types[:1]  # Latin letters are narrow
    for width in (6, 12, 20):
        cut = figures.drawable_names(types, width)
        assert len(set(cut)) == len(types)
        assert all(name.startswith("org") for name in cut)
    close = [f"{'很' * 30}{middle}{'长' * 30}" for middle in "甲乙"]
    assert len(set(figures.drawable_names(close))) == 2
    assert figures.drawable_names(["a", "a"]) == ["a", "a"]


def test_matrices_add_up(result: ScoreResult) -> None:
    names, counts = run_page.errors_by_primary(result)
    assert counts.sum() == len(result.errta.errors)
    assert counts.sum(axis=0).tolist() == [count.errors for count in result.errta.by_type.values()]
    assert list(counts.sum(axis=1)) == sorted(counts.sum(axis=1), reverse=True)
    confused, pairs = run_page.most_confused(result, 20)
    assert len(confused) == 20
    assert pairs.trace() == 0
    assert 0 < pairs.sum() <= sum(len(e.gold) * len(e.predicted) for e in result.errta.errors)
    assert set(names) <= set(result.primary.values())


def test_font_face_holds_the_letters_asked_for() -> None:
    import base64
    import io
    import re

    from fontTools.ttLib import TTFont

    rule = figures.font_face("补水abc面膜")
    found = re.fullmatch(r'@font-face\{font-family:"OmniNER Han";src:url\(data:font/otf;base64,(.+)\) format.*', rule)
    assert found is not None
    held = set(TTFont(io.BytesIO(base64.b64decode(found[1]))).getBestCmap())
    assert held == {ord(c) for c in "补水面膜"}
    assert figures.font_face("补水abc面膜") == rule
    assert figures.font_face("plain") == ""


def test_importing_the_module_loads_no_matplotlib() -> None:
    code = (
        "import sys, omniner.report.figures, omniner.report.run_page\n"
        "print(*{'matplotlib', 'jinja2', 'torch', 'uharfbuzz', 'mplfonts'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
