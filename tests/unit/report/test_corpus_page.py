"""The sheets, texts and page of surveyed corpora: what they hold, and that hostile data stays text in a browser."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest

from omniner.config import compose
from omniner.corpus import taxonomy
from omniner.corpus.sample import generate_sample
from omniner.corpus.stats.checks import CHECKS, SurveyedCorpus, run_checks
from omniner.corpus.stats.measure import measure_corpus
from omniner.records import Entity, Issue, Sentence
from omniner.report import corpus_page, corpus_tables
from omniner.report.corpus_page import draw_corpus_figures, shares_by_length
from omniner.report.corpus_tables import Verdicts
from omniner.report.tables import COUNT, TEXT, Column, Table

SETTINGS = compose.load(["task=stats"]).stats
SCRIPT, IMAGE, END = "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "</script><b>bold</b><!--"
HOSTILE = [SCRIPT, IMAGE, END, "{{data}} {near:g}", "$x$ & <i>", "\ud83d 半 \x07"]


def hostile() -> SurveyedCorpus:
    """Texts, categories, ids, posts, issues and a name that are markup; repeated, leaking, nested and mislabelled."""
    made: list[Sentence] = []
    for number, text in enumerate(HOSTILE):
        whole, inside = Entity(text, IMAGE, 0, len(text)), Entity(text[:2], text, 0, 2)
        made.append(Sentence(f"{SCRIPT}{number}", text, [whole, inside, Entity(text, SCRIPT)], IMAGE))
    other = [Sentence(f"{one.id}b", one.text, [Entity(one.text, "A", 0, len(one.text))], IMAGE) for one in made]
    splits = {"train": made, "test": other, END: [Sentence("u", IMAGE, meta={"unlabeled": True})]}
    issues = [Issue("bad-json", IMAGE, END, 3)]
    return SurveyedCorpus(measure_corpus(IMAGE, splits, SETTINGS), END, issues, None, 10, SETTINGS)


def small() -> SurveyedCorpus:
    splits = generate_sample({"train": 120, "dev": 30, "test": 30}, 3)
    splits["test"].append(Sentence("copy", splits["train"][0].text, [], "new"))
    statistics = measure_corpus("small", splits, SETTINGS)
    return SurveyedCorpus(statistics, "made up", [], taxonomy.load_taxonomy(taxonomy.OFFICIAL), 510, SETTINGS)


def made(*surveyed: SurveyedCorpus) -> tuple[list[SurveyedCorpus], Verdicts, dict[str, Table]]:
    verdicts = {one.statistics.name: run_checks(one) for one in surveyed}
    return list(surveyed), verdicts, corpus_tables.build_corpus_tables(surveyed, verdicts, SETTINGS)


def test_every_sheet_is_whole_and_can_be_printed() -> None:
    surveyed, verdicts, sheets = made(small(), hostile())
    for name, sheet in sheets.items():
        assert len(sheet.columns) == len(sheet.names), name
        assert all(len(row) == len(sheet.columns) for row in sheet.formatted()), name
        assert sheet.names[0] == "corpus"
        sheet.to_csv().encode("utf-8")
    assert [row[0] for row in sheets["table3"].rows] == ["small", IMAGE]
    assert len(sheets["verdicts"].rows) == 2 * len(CHECKS)
    filled = {name for name, sheet in sheets.items() if any(row[0] == IMAGE for row in sheet.rows)}
    assert {"leaks", "repeats", "disagreements", "posts", "overlaps", "edges", "odd", "issues", "gaps"} <= filled
    text = corpus_page.corpus_markdown("a run", surveyed, verdicts, sheets)
    assert not re.search(r"<(script|img|b|i)\b", text)
    assert len(corpus_page.corpus_text(surveyed, verdicts, sheets).splitlines()) >= 3 + 2 * len(CHECKS)


def test_table_3_has_the_counts_of_the_corpus() -> None:
    one = small()
    _, _, sheets = made(one)
    table = sheets["table3"]
    row: dict[str, Any] = dict(zip(table.names, table.rows[0], strict=True))
    sentences = one.statistics.flat.sentences
    assert row["sentences"] == len(sentences) == row["train"] + row["dev"] + row["test"]
    assert row["documents"] == len({sentence.post_id for sentence in sentences})
    assert row["characters"] == sum(len(sentence.text) for sentence in sentences)
    assert (row["tokens"], row["words"]) == ("characters", "")
    assert row["entities"] == sum(len(sentence.entities) for sentence in sentences)
    assert row["categories"] == len({entity.category for sentence in sentences for entity in sentence.entities})


def test_the_rows_of_categories_say_what_was_measured() -> None:
    one = small()
    _, _, sheets = made(one)
    table = sheets["categories"]
    found = {row[1]: dict(zip(table.names, row, strict=True)) for row in table.rows}
    for row in one.statistics.categories:
        cells = found[row.name]
        assert (cells["count"], cells["train"], cells["surfaces"]) == (row.mentions, row.by_split[0], row.surfaces)
        assert cells["exclusive"] == 1 - row.ambiguous
        assert cells["primary"] == (row.name.split("_")[0] if "_" in row.name else "")
    assert [cells["count"] for cells in found.values()] == sorted(
        (row.mentions for row in one.statistics.categories), reverse=True
    )


def test_the_same_corpus_gives_the_same_texts_and_figures() -> None:
    first, second = made(small()), made(small())
    assert corpus_page.corpus_markdown("a", *first) == corpus_page.corpus_markdown("a", *second)
    assert json.dumps(corpus_tables.corpus_json(*first[:2])) == json.dumps(corpus_tables.corpus_json(*second[:2]))
    pictures, others = draw_corpus_figures(first[0]), draw_corpus_figures(second[0])
    assert set(pictures) == {"stats_small_categories", "stats_small_lengths"}
    assert all(chart.png() == others[name].png() for name, chart in pictures.items())
    assert all(chart.png().startswith(b"\x89PNG") for chart in pictures.values())


def test_the_json_is_finite_and_says_what_the_checks_found() -> None:
    surveyed, verdicts, _ = made(small(), hostile())
    found = json.loads(json.dumps(corpus_tables.corpus_json(surveyed, verdicts), allow_nan=False))
    corpus = found["corpora"]["small"]
    assert set(corpus["verdicts"]) == set(CHECKS)
    assert corpus["verdicts"]["leakage"]["status"] == "failed"
    assert corpus["splits"]["test"]["sentences"] == 31
    assert sum(row["mentions"] for row in corpus["category_rows"].values()) == corpus["entities"]
    assert all(math.isfinite(value) for value in corpus_tables.corpus_numbers(surveyed[0]).values())


def test_shares_of_lengths_add_up() -> None:
    edges, shares = shares_by_length(small(), 40)
    assert len(edges) <= 41
    assert {split: pytest.approx(1) for split in shares} == {split: values.sum() for split, values in shares.items()}


def test_every_class_of_lengths_has_as_many_whole_numbers() -> None:
    """As many sentences of each length from 0 to 99: no class may stick out."""
    sentences = [Sentence(f"s{length}", "字" * length) for length in range(100)]
    one = SurveyedCorpus(measure_corpus("flat", {"train": sentences}, SETTINGS), "", [], None, 510, SETTINGS)
    for bins in (7, 30, 40, 99, 200):
        edges, shares = shares_by_length(one, bins)
        assert len(edges) - 1 <= bins
        *classes, last = shares["train"].tolist()
        assert set(np.diff(edges)) == {edges[1]}
        assert classes == pytest.approx([edges[1] / 100] * len(classes))
        assert last == pytest.approx(1 - sum(classes))
    empty = SurveyedCorpus(measure_corpus("none", {"train": []}, SETTINGS), "", [], None, 510, SETTINGS)
    assert shares_by_length(empty, 40)[0].tolist() == [0, 1]


def test_a_table_for_the_terminal_stands_in_columns() -> None:
    table = Table("", [Column("name", TEXT), Column("n", COUNT)], [["小满", 1], ["abc", 1234]])
    assert table.aligned() == ["name      n", "小满      1", "abc   1,234"]


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Page]:
    if browser.binary() is None:
        pytest.skip(f"none of {', '.join(browser.NAMES)} is on PATH: the page cannot be looked at")
    with browser.chromium() as opened:
        yield opened


def look(tab: browser.Page, file: Path, text: str) -> None:
    """Open the page and make sure that nothing went wrong and nothing was asked from outside."""
    file.write_text(text, encoding="utf-8")
    tab.errors.clear()
    tab.requests.clear()
    tab.open(file)
    assert tab.errors == []
    assert tab.run("document.getElementById('fault').hidden") is True
    assert [url for url in tab.requests if not url.startswith(("data:", file.as_uri()))] == []


def test_hostile_data_stays_text_and_each_corpus_can_be_chosen(tab: browser.Page, tmp_path: Path) -> None:
    surveyed, verdicts, sheets = made(small(), hostile())
    look(tab, tmp_path / "stats.html", corpus_page.render_corpus_page(SCRIPT, "today", surveyed, verdicts, sheets))
    assert tab.run("document.querySelectorAll('main img, main b b, main script').length") == 0
    rows = "[...document.querySelectorAll('#table-splits tbody tr')].map((row) => row.cells[0].textContent)"
    assert tab.run(rows) == ["train", "dev", "test"]
    tab.run(
        f"(() => {{ const s = document.querySelector('#chooser select'); s.value = {json.dumps(IMAGE)};"
        " s.dispatchEvent(new Event('change')); })()"
    )
    assert tab.errors == []
    assert tab.run(rows) == ["train", "test", END]
    lines = tab.run("[...document.querySelectorAll('#verdicts p')].map((line) => line.textContent)")
    assert len(lines) == len(CHECKS)
    order = [line.split(":")[0] for line in lines]
    assert order == sorted(order, key=["failed", "warned", "passed", "skipped"].index)
    assert tab.run("document.querySelectorAll('#matrix tbody tr').length") == len(CHECKS)
    charts = "[...document.querySelectorAll('#texts figure')].filter((f) => !f.hidden).map((f) => f.dataset.corpus)"
    assert tab.run(charts) == [IMAGE]
    tab.call("Emulation.setEmulatedMedia", media="print")
    shown = "document.querySelector('#chooser select').getBoundingClientRect().height"
    assert tab.run(shown) > 0  # paper says of which corpus it is
    tab.call("Emulation.setEmulatedMedia", media="")


def test_a_page_of_one_corpus_has_no_chooser(tab: browser.Page, tmp_path: Path) -> None:
    surveyed, verdicts, sheets = made(small())
    look(tab, tmp_path / "one.html", corpus_page.render_corpus_page("a run", "today", surveyed, verdicts, sheets))
    assert tab.run("document.getElementById('chooser').hidden && document.getElementById('overview').hidden") is True
    bars = tab.run("document.querySelectorAll('#table-categories td.bar').length")
    assert bars == len(surveyed[0].statistics.categories)
