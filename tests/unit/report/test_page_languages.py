"""Every page in Chinese: no label is left in English, and in either language the numbers are the same."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import made_up
import paired_runs
import pytest
from fontTools.ttLib import TTFont
from tests.helpers import made_up_guidance

from omniner.annotators.reliability import measure_agreement
from omniner.config import compose
from omniner.config.groups import CompareConfig, ErrtaConfig, MetricsConfig
from omniner.corpus import taxonomy
from omniner.corpus.adjudication import match_annotators
from omniner.corpus.sample import generate_sample
from omniner.corpus.stats.checks import SurveyedCorpus, run_checks
from omniner.corpus.stats.measure import measure_corpus
from omniner.guidance.prompt_search import BaselineDifference, CorrectedScore, SearchResult, VariantResult, VariantScore
from omniner.records import Entity, Issue
from omniner.report import comparison_page, corpus_page, corpus_tables, curation_tables, guidance_page, run_page, tables
from omniner.report.comparison_tables import build_comparison_tables
from omniner.report.page import render_summary_page
from omniner.scoring.comparison import System, compare_runs
from omniner.scoring.metrics import ErrtaError
from omniner.wording import Wording

ERRTA = ErrtaConfig(mode="span", examples=5, top=30)
COMPARE = CompareConfig(resamples=50, permutations=50, confidence=0.95, alpha=0.05, seed=0, examples=2)
CURVES = {"train/loss": [(0, 2.0), (5, 1.0)], "val/f1": [(5, 0.5)]}
HAN = re.compile("[\u4e00-\u9fff]")
ENGLISH = re.compile(r"[A-Za-z]{2,}")
PHRASE = re.compile(r"\b[a-z]{2,} [a-z]{2,}")  # no name that stays in Latin letters is one
# What has no Chinese: measures, a paper, keys of configurations, and names of made-up runs and sentences.
MEASURES = r"F1|FN|FP|TP|Papay et al|[a-z]+[./]\w+|train|dev|test|"
SAME = re.compile(
    MEASURES + r"Nanci|iPhon\w*|a{32}|a run|made-up|nowhere|base|other|first|second|sample|ann|ben|bad-json"
)


class Shown(HTMLParser):
    """The pieces of text of a page that a reader sees before any script runs."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.skipped = 0
        self.language = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.skipped += tag in ("style", "script", "pre", "code")
        values = dict(attrs)
        if tag == "html":
            self.language = values.get("lang") or ""
        self.pieces += [text for key in ("aria-label", "placeholder", "title") if (text := values.get(key))]

    def handle_endtag(self, tag: str) -> None:
        self.skipped -= tag in ("style", "script", "pre", "code")

    def handle_data(self, data: str) -> None:
        if not self.skipped and data.strip():
            self.pieces.append(data.strip())


def run_report(language: str) -> str:
    result = made_up.result(80)
    facts = run_page.RunFacts("a run", "", {Wording("folder"): "nowhere"}, "", {"bad-json": 1})
    made = tables.build_run_tables(result, ERRTA, None, [])
    return run_page.render_run_page(result, made, facts, CURVES, ERRTA, language)


def compared(language: str) -> str:
    sentences = paired_runs.gold(60, 3)
    said = paired_runs.outcomes(sentences, 4, 0.6)
    runs = {"base": said, "other": paired_runs.outcomes(sentences, 5, 0.9, said, 0.5)}
    systems = [System(name, sentences, paired_runs.predictions(sentences, one)) for name, one in runs.items()]
    settings = MetricsConfig("span", "own", "empty", 0, 0.95, 0)
    found = compare_runs(systems, settings, ERRTA, COMPARE, [replace(systems[0], name="ann")])
    facts = comparison_page.ComparisonFacts("a run", "", {Wording("test set"): "d"}, unknown_config=False)
    return comparison_page.render_comparison_page(found, build_comparison_tables(found, {}), facts, language)


def surveyed(language: str) -> str:
    settings = compose.load(["task=stats"]).stats
    splits = generate_sample({"train": 60, "dev": 20, "test": 20}, 3)
    splits["test"].append(replace(splits["train"][0], id="copy", entities=[]))
    known = taxonomy.load_taxonomy(taxonomy.OFFICIAL)
    corpus = SurveyedCorpus(
        measure_corpus("sample", splits, settings), "m", [Issue("bad-json", "d")], known, 10, settings
    )
    verdicts = {"sample": run_checks(corpus)}
    made = corpus_tables.build_corpus_tables([corpus], verdicts, settings)
    return corpus_page.render_corpus_page("a run", "", [corpus], verdicts, made, language)


def guided(language: str) -> str:
    made = made_up_guidance.tried(made_up_guidance.guidance(60))
    return guidance_page.render_guidance_page(made, "a run", language)


def searched(language: str) -> str:
    score = VariantScore(0.72, 0.68, 0.76, 0, 0, 0)
    rung = Wording("{count:sentence}", count=50)

    def tried(name: str, about: str, **more: Any) -> VariantResult:
        values = {"overrides": {}, "sha": "ab", "length": 812, "lessons": (1,), "covered": 0.2, "standings": [score]}
        return VariantResult(name, about, **{"stopped": 0, "why": "", **values, **more})

    gone = {"stopped": 1, "why": Wording("worse than {best}", best="first"), "standings": []}
    result = SearchResult(
        tried=[tried("first", Wording("all lessons")), tried("second", Wording("random lessons"), **gone)],
        same=[("second", "first")], rungs=[rung], sentences=50, posts=20, left_out=3,
        against=[BaselineDifference("base", 0.031, 0.01, 0.05, 0.0005, 0.02, 20)],
        corrected=CorrectedScore(0.7, 0.6, 0.8), choices=2,
        cost=Wording("{asked:answer} instead of {whole:,} without early stopping", asked=5, whole=6),
        measure="tokens", split="dev", from_test=True, settings=COMPARE,
    )  # fmt: skip
    return guidance_page.render_search_page(result, "a run", "提示", "prompt=searched", language)


def agreed(language: str) -> str:
    sentences = generate_sample({"train": 20}, 3)["train"]
    half = [replace(one, entities=one.entities[:1]) for one in sentences]
    items, _ = match_annotators(["ann", "ben"], [sentences, half])
    settings = compose.load(["task=agreement", "annotators=[a,b]"]).agreement
    made = curation_tables.build_agreement_tables(measure_agreement(["ann", "ben"], items, settings))
    return render_summary_page("agreement", "a run", [], made, [], language)


PAGES = [run_report, compared, surveyed, guided, searched, agreed]


def block(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1]) if found else {}


def labels(data: dict[str, Any]) -> Iterator[str]:
    """What scripts show beside the rows: titles, headings, cells of a fixed choice of words."""
    for table in data.get("tables", {}).values():
        yield table["title"]
        yield table["empty"]
        yield from table["heads"]
    yield from data.get("words", {}).values()
    yield from [*data.get("checks", {}).values(), *data.get("statuses", {}).values(), str(data.get("kept", ""))]
    for found in data.get("verdicts", {}).values():
        for _, _, _, _, text, advice in found:
            yield from (text, advice)


@pytest.mark.parametrize("make", PAGES, ids=lambda make: make.__name__)
def test_no_label_of_a_chinese_page_is_english(make: Callable[[str], str]) -> None:
    text = make("zh")
    shown = Shown()
    shown.feed(text)
    assert shown.language == "zh-CN"
    pieces = [*shown.pieces, *labels(block(text))]
    assert sum(bool(HAN.search(piece)) for piece in pieces) > 20
    left = {piece for piece in pieces if not HAN.search(piece) and ENGLISH.search(SAME.sub("", piece))}
    left |= {piece for piece in pieces if PHRASE.search(SAME.sub("", piece))}
    assert left == set()


@pytest.mark.parametrize("make", PAGES, ids=lambda make: make.__name__)
def test_a_page_brings_every_letter_that_it_shows(make: Callable[[str], str]) -> None:
    text = make("zh")
    shown = Shown()
    shown.feed(text)
    found = re.search(r"base64,([^)]+)\) format", text)
    assert found is not None
    held = set(TTFont(io.BytesIO(base64.b64decode(found[1]))).getBestCmap())
    assert {letter for piece in shown.pieces for letter in HAN.findall(piece) if ord(letter) not in held} == set()


@pytest.mark.parametrize("make", PAGES, ids=lambda make: make.__name__)
def test_both_languages_show_the_same_numbers(make: Callable[[str], str]) -> None:
    chinese, english = block(make("zh")), block(make("en"))
    numbers = re.compile(r"\d+(?:[.,]\d+)*")
    for name, table in english.get("tables", {}).items():
        other = chinese["tables"][name]
        assert table["columns"] == other["columns"]
        for row, also in zip(table["rows"], other["rows"], strict=True):
            assert [cell for cell in row if not isinstance(cell, str)] == [c for c in also if not isinstance(c, str)]
            assert sorted(numbers.findall(" ".join(map(str, row)))) == sorted(numbers.findall(" ".join(map(str, also))))


def test_an_english_page_says_so() -> None:
    shown = Shown()
    shown.feed(guided("en"))
    assert shown.language == "en"
    assert "Lessons" in shown.pieces


def test_a_lesson_on_a_split_entity_is_not_called_a_split_of_the_corpus() -> None:
    whole, pieces = Entity("小满奶茶", "品牌", 0, 4), (Entity("小满", "品牌", 0, 2), Entity("奶茶", "品牌", 2, 4))
    lesson = made_up_guidance.lesson_of(ErrtaError("split", "x", (whole,), pieces), "小满奶茶")
    given = replace(made_up_guidance.guidance(60), lessons=[lesson])
    assert "1. 拆分错误：品牌" in guidance_page.render_guidance_page(given, "a run", "zh")


def test_the_units_of_scores_are_called_as_in_the_title_above_them() -> None:
    table = block(run_report("zh"))["tables"]["units"]
    assert {row[0] for row in table["rows"]} == {"位置", "实体文字与类别"}
