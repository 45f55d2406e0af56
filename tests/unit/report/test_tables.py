"""Tables: every error counted once, deterministic choices, suspicion only where the rule says so, fast."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import re

import made_up
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omniner.config.groups import ErrtaConfig
from omniner.corpus.taxonomy import load_taxonomy
from omniner.records import Entity, Prediction, Sentence
from omniner.report import tables
from omniner.report.tables import COUNT, FIGURE, TEXT, Cell, Column, Table
from omniner.scoring import metrics
from omniner.scoring.metrics import ErrtaError, ScoreResult
from omniner.wording import Wording

ERRTA = ErrtaConfig(mode="span", examples=5, top=7)


@pytest.fixture(scope="module")
def result() -> ScoreResult:
    return made_up.result(400)


@pytest.fixture(scope="module")
def built(result: ScoreResult) -> dict[str, Table]:
    return tables.build_run_tables(result, ERRTA, load_taxonomy("omniner2025"), [])


def small(sentences: list[tuple[str, list[Entity], list[Entity]]], errors: list[ErrtaError]) -> ScoreResult:
    gold = {str(i): Sentence(str(i), text, entities) for i, (text, entities, _) in enumerate(sentences)}
    said = {str(i): Prediction(str(i), entities) for i, (_, _, entities) in enumerate(sentences)}
    return made_up.scored(gold, said, errors)


def test_every_row_has_every_column(built: dict[str, Table]) -> None:
    assert list(built) == [
        "categories", "primaries", "errta_counts", "errta_by_category", "errta_by_primary",
            "units", "overlap", "calibration", "impossible_answers", "confusion_pairs",
        "confused_surfaces", "examples", "suspected_annotation", "parse_failures",
    ]  # fmt: skip
    for name, table in built.items():
        assert all(len(row) == len(table.columns) for row in table.rows), name


def test_each_error_is_in_one_row(result: ScoreResult, built: dict[str, Table]) -> None:
    errors = len(result.errta.errors)
    assert errors > 100
    for name in ("errta_by_category", "errta_by_primary"):
        table = built[name]
        assert sum(int(row[-1]) for row in table.rows) == errors
        for i, kind in enumerate(table.names[1:-1], start=1):
            assert sum(int(row[i]) for row in table.rows) == result.errta.by_type[kind].errors
        totals = [int(row[-1]) for row in table.rows]
        assert totals == sorted(totals, reverse=True)
    counts = built["errta_counts"]
    assert sum(int(row[1]) for row in counts.rows) == errors
    assert sum(float(row[2]) for row in counts.rows) == pytest.approx(1)


def test_redundant_counts_for_the_predicted_category() -> None:
    said = Entity("好", "体验", 0, 1)
    result = small([("好的", [], [said])], [ErrtaError("redundant", "0", (), (said,))])
    built = tables.build_run_tables(result, ERRTA, None, [])
    assert built["errta_by_category"].rows[0][0] == "体验"
    assert built["confused_surfaces"].rows == [["好", "redundant: none → 体验", 1]]
    assert built["confusion_pairs"].rows == []


def test_confusions_name_the_most_frequent_surface() -> None:
    def wrong(surface: str) -> ErrtaError:
        return ErrtaError("classification", "0", (Entity(surface, "甲"),), (Entity(surface, "乙"),))

    same = ErrtaError("boundary", "0", (Entity("天天", "甲"),), (Entity("天", "甲"),))
    gold = [Entity("天", "甲"), Entity("地", "甲")]
    result = small([("天天地地", gold, [Entity("天", "乙")])], [wrong("地"), wrong("天"), wrong("天"), same])
    assert tables.build_run_tables(result, ERRTA, None, [])["confusion_pairs"].rows == [["甲", "乙", 3, "天"]]
    pieces = tuple(Entity(piece, "乙") for piece in "长城上")
    cut = ErrtaError("boundary_class", "0", (Entity("长城上", "甲"),), pieces)
    result = small([("长城上天", gold, [])], [cut, wrong("天"), wrong("天")])
    assert tables.build_run_tables(result, ERRTA, None, [])["confusion_pairs"].rows == [["甲", "乙", 3, "天"]]


def test_examples_are_capped_by_type_and_ordered_by_nothing_but_the_errors(result: ScoreResult) -> None:
    first = tables.examples_by_type(result.errta.errors, 5)
    assert first == tables.examples_by_type(list(result.errta.errors), 5)
    for name, count in result.errta.by_type.items():
        assert len(first.get(name, [])) == min(5, count.errors)
        assert len(set(first.get(name, []))) == len(first.get(name, []))
    everything = tables.examples_by_type(result.errta.errors, 10**6)
    assert sum(map(len, everything.values())) == len(result.errta.errors)


def test_examples_hold_categories_in_proportion() -> None:
    names = ["乙" if i % 10 == 0 else "甲" for i in range(100)]
    errors = [ErrtaError("missing", str(i), (Entity("好", name),), ()) for i, name in enumerate(names)]
    chosen = tables.examples_by_type(errors, 10)["missing"]
    assert sorted(map(metrics.category_of, chosen)) == ["乙"] + ["甲"] * 9


def test_suspected_annotation_counts_the_model() -> None:
    city, brand = Entity("兰蔻", "城市", 0, 2), Entity("兰蔻", "品牌", 0, 2)
    train = [Sentence(f"t{i}", "兰蔻", [brand]) for i in range(8)]
    result = small([("兰蔻好", [city], [brand]), ("兰蔻贵", [city], [city]), ("兰蔻", [brand], [brand])], [])
    rows = tables.build_run_tables(result, ERRTA, None, train)["suspected_annotation"].rows
    assert rows == [["兰蔻", "城市", "品牌", 9 / 11, 11, 2, 1, "0"]]
    # Without train there is no large majority: nothing is suspected.
    assert tables.build_run_tables(result, ERRTA, None, [])["suspected_annotation"].rows == []


def test_sentences_of_the_scored_split_that_are_those_of_train_count_once() -> None:
    city, brand = Entity("兰蔻", "城市", 0, 2), Entity("兰蔻", "品牌", 0, 2)
    result = small([("兰蔻好", [city], []), *[("兰蔻", [brand], [])] * 4], [])
    (row,) = tables.build_run_tables(result, ERRTA, None, list(result.sentences.values()))["suspected_annotation"].rows
    assert row[3:5] == [4 / 5, 5]


def test_model_agrees_only_at_the_same_place() -> None:
    city, elsewhere = Entity("兰蔻", "城市", 0, 2), Entity("兰蔻", "品牌", 3, 5)
    train = [Sentence(f"t{i}", "兰蔻", [Entity("兰蔻", "品牌", 0, 2)]) for i in range(8)]
    result = small([("兰蔻和兰蔻", [city], [elsewhere])], [])
    (row,) = tables.build_run_tables(result, ERRTA, None, train)["suspected_annotation"].rows
    assert row[-2] == 0


def test_confidence_has_a_table_only_if_there_is_any(result: ScoreResult, built: dict[str, Table]) -> None:
    rows = built["calibration"].rows
    assert sum(int(row[2]) for row in rows) == result.metrics.micro.tp + result.metrics.micro.fp
    assert result.to_json()["calibration"]["rows"][0]["score"] == rows[0][3]
    none = small([("好", [Entity("好", "甲", 0, 1)], [Entity("好", "甲", 0, 1)])], [])
    assert "calibration" not in none.to_json()
    assert "calibration" not in tables.build_run_tables(none, ERRTA, None, [])


def test_csv_and_json_and_markdown_keep_the_cells() -> None:
    rows: list[list[Cell]] = [['引"号,', 1, 1.0], ["换\n行", 1234, 0.123456], ["\ud83d", 2, 0.5]]
    table = Table("t", [Column("a|b", TEXT), Column("n", COUNT), Column("x", FIGURE)], rows)
    back = list(csv.reader(io.StringIO(table.to_csv())))
    assert back == [
        ["a|b", "n", "x"], ['引"号,', "1", "1.0"], ["换\n行", "1234", "0.123456"], ["\\ud83d", "2", "0.5"],
    ]  # fmt: skip
    assert json.loads(json.dumps(table.to_json())) == {
        "title": "t", "columns": ["a|b", "n", "x"], "heads": ["a|b", "n", "x"], "kinds": ["text", "count", "figure"],
        "rows": rows, "best": [], "empty": "None.",
    }  # fmt: skip
    table.to_csv().encode("utf-8")
    assert table.to_markdown(2).splitlines() == [
        r"| a\|b | n | x |", "| --- | --- | --- |", '| 引"号, | 1 | 1.0000 |', "| 换 行 | 1,234 | 0.1235 |", "",
        "and 1 more row",
    ]  # fmt: skip


def test_a_page_shows_the_first_rows_of_a_large_table_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PAGE_ROWS", 2)
    rows: list[list[Cell]] = [[number] for number in range(1234)]
    best = frozenset({(1, 0), (2, 0)})
    table = Table(Wording("Errors"), [Column("n", COUNT)], rows, best)
    shown = table.to_json()
    assert (shown["rows"], shown["best"]) == ([[0], [1]], [(1, 0)])
    assert shown["title"] == "Errors; the first 2 of 1,234 rows, all are in the CSV file"
    assert len(table.to_csv().splitlines()) == 1235
    assert dataclasses.replace(table, rows=rows[:2]).to_json()["title"] == "Errors"


@settings(deadline=None)
@given(st.text(st.sampled_from("\\`*_[]<>#|&~-+.=1a品!():;\"' \n"), min_size=1, max_size=12).filter(str.strip))
@example("5~8元，6~9元")
@example("\\*")
@example("# 1 #")
def test_markdown_shows_any_text_as_it_is(text: str) -> None:
    """In a heading, a list, bold and a cell, as another program reads it."""
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    escaped = tables.escape_markdown(text)
    for markdown in (f"# {escaped}", f"- {escaped}", f"- **{escaped}**", f"| |\n| --- |\n| {escaped} |"):
        visible = re.sub(r"<[^>]*>", "", reader.render(markdown))
        assert html.unescape(visible).strip() == " ".join(text.split())


def test_latex_leaves_names_of_users_as_they_are() -> None:
    table = Table("scores", [*tables.columns(TEXT, "gold_category"), Column("run_1", COUNT)], [["a", 1]])
    assert r"gold category & run\_1 \\" in table.to_latex("scores")


def test_without_errors_the_tables_are_empty() -> None:
    right = Entity("好", "体验", 0, 1)
    built = tables.build_run_tables(small([("好", [right], [right])], []), ERRTA, None, [])
    assert [row[1:3] for row in built["errta_counts"].rows] == [[0, 0.0]] * 8
    assert built["examples"].rows == built["errta_by_category"].rows == []
