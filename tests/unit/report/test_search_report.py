"""What a prompt search says: figures with what they rest on, and keys that mean the same when they are typed."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

import pytest

from omniner.config import compose
from omniner.config.groups import CompareConfig
from omniner.config.overrides import override_line
from omniner.guidance.prompt_search import BaselineDifference, CorrectedScore, SearchResult, VariantResult, VariantScore
from omniner.report import guidance_page

SETTINGS = CompareConfig(resamples=100, permutations=10000, confidence=0.95, alpha=0.05, seed=0, examples=0)
OVERRIDES = {"prompt.from_run": "notes", "prompt.lessons": [1, 4], "prompt.corrections": 2, "prompt.examples": 0}


def tried(name: str, *standings: VariantScore, stopped: int = 0, why: str = "", **changes: Any) -> VariantResult:
    values: dict[str, Any] = {"about": "lessons", "overrides": OVERRIDES, "sha": "ab", "length": 812, "lessons": (1, 4)}
    return VariantResult(name, **{**values, **changes}, covered=0.25, standings=standings, stopped=stopped, why=why)


@pytest.fixture
def result() -> SearchResult:
    best = tried("a", VariantScore(0.7, 0.6, 0.8, 0, 0, 0), VariantScore(0.72, 0.68, 0.76, 0, 0, 0))
    worse = tried("b|*x*", VariantScore(0.5, 0.4, 0.6, -0.2, -0.3, -0.1), stopped=1, why="worse than a")
    return SearchResult(
        tried=[best, worse, tried("lost", stopped=1, why="its run failed: exit 1")],
        same=[("c", "a")],
        rungs=["50 sentences", "200 sentences"],
        sentences=200,
        posts=80,
        left_out=3,
        against=[
            BaselineDifference("generic", 0.031, 0.01, 0.05, 0.0005, 0.02, 20),
            BaselineDifference("from_run", 0.0, -0.01, 0.01, 0.9, 1, 20),
        ],
        corrected=CorrectedScore(0.705, 0.6, 0.8),
        choices=4,
        cost="500 answers instead of 600 without early stopping",
        measure="tokens",
        split="dev",
        from_test=False,
        settings=SETTINGS,
    )


def test_every_figure_says_what_it_rests_on(result: SearchResult) -> None:
    assert guidance_page.search_summary(result) == [
        "best prompt: a (lessons), 812 tokens",
        "dev F1 72.00% [68.00%, 76.00%] 95% interval, on 200 sentences of dev",
        "better than generic: +3.10 points [+1.00, +5.00], p 0.02 (Holm, and Bonferroni over the 20 prompts it was "
        "chosen among), significant",
        "no better than from_run: +0.00 points [-1.00, +1.00], p 1 (Holm, and Bonferroni over the 20 prompts it was "
        "chosen among), may be chance",
        "the best of 4 is chosen for its luck, too: on sentences that did not choose it, such a prompt has F1 70.50% "
        "(+1.50 points of optimism; a test set tells)",
        "500 answers instead of 600 without early stopping",
    ]
    alone = dataclasses.replace(result, corrected=None, against=[])
    assert len(guidance_page.search_summary(alone)) == 3
    surer = dataclasses.replace(result, settings=dataclasses.replace(SETTINGS, confidence=0.995))
    assert "99.5% interval" in guidance_page.search_summary(surer)[1]


def test_the_table_has_a_column_for_each_rung(result: SearchResult) -> None:
    sheet = guidance_page.build_search_table(result)
    shown = [dict(zip(sheet.names, row, strict=True)) for row in sheet.formatted()]
    assert [row["variant"] for row in shown] == ["a", "b|*x*", "lost"]
    assert [row["F1, 50 sentences"] for row in shown] == ["70.00", "50.00", ""]
    assert [row["F1, 200 sentences"] for row in shown] == ["72.00", "", ""]
    assert [row["stopped after"] for row in shown] == ["", "50 sentences", "50 sentences"]
    assert (shown[1]["apart low"], shown[1]["apart high"], shown[1]["low"]) == ("-30.00", "-10.00", "40.00")
    assert (shown[0]["lessons"], shown[0]["which"]) == ("2", "1 4")


def test_warnings_name_what_the_figures_hide(result: SearchResult) -> None:
    seen, failed = guidance_page.search_warnings(result)
    assert "guide.split=train" in seen
    assert failed == "Never judged, because their runs failed: lost."
    clean = dataclasses.replace(result, split="train", tried=result.tried[:2])
    assert guidance_page.search_warnings(clean) == []
    assert "no test" in guidance_page.search_warnings(dataclasses.replace(clean, from_test=True))[0]
    few = dataclasses.replace(clean, settings=dataclasses.replace(SETTINGS, permutations=500))
    assert (
        "smallest possible corrected p 0.0798): set compare.permutations higher"
        in guidance_page.search_warnings(few)[0]
    )


def test_nothing_in_the_page_is_markup_of_its_own(result: SearchResult) -> None:
    text = guidance_page.search_markdown(
        result, "a *run*", "# Role\n```\n<b>x</b>", "--config-dir best prompt=searched"
    )
    assert "    # Role\n    ```\n    <b>x</b>\n" in text
    assert "*x*" not in text
    assert "*run*" not in text
    assert "multiplied by the number of prompts" in text
    assert "Intervals are not corrected for the choice" in text
    assert "<b>" not in text.replace("    <b>x</b>", "")
    assert "The same prompt as another variant: c = a" in text


@pytest.mark.parametrize(
    "named",
    [
        "notes",
        "outputs/guide-x",
        "a folder/x",
        'quo"te',
        "back\\slash",
        "a=b",
        "逗号,号",
        "it's",
        "[1]",
        'a\\"b',
        "end\\",
        "123",
        "1e5",
        "Null",
    ],
)
def test_typed_keys_mean_what_they_say(named: str) -> None:
    line = override_line({**OVERRIDES, "prompt.from_run": named})
    arguments = shlex.split(line)
    assert len(arguments) == 4
    composed = compose.compose_unchecked(["decoding=openai", "decoding.url=http://x/v1", *arguments])
    assert composed.prompt.from_run == named
    assert (list(composed.prompt.lessons), composed.prompt.corrections) == ([1, 4], 2)


def test_no_run_is_null() -> None:
    line = override_line({**OVERRIDES, "prompt.from_run": None, "prompt.lessons": []})
    assert line == "prompt.from_run=null prompt.lessons=[] prompt.corrections=2 prompt.examples=0"
    assert compose.compose_unchecked(line.split()).prompt.from_run is None
