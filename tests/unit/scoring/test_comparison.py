"""Runs beside each other: scored alike, errors and sentences that changed, tables and a page that say the same."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import itertools
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import markupsafe
import pytest
from paired_runs import gold, outcomes, predictions

from omniner import progress
from omniner.config.groups import CompareConfig, ErrtaConfig, MetricsConfig
from omniner.records import Entity, Prediction, Sentence
from omniner.report import comparison_page
from omniner.report.comparison_tables import build_comparison_tables, comparison_summary
from omniner.report.tables import Table, format_cell, tables_markdown
from omniner.scoring.comparison import RunComparison, System, compare_runs

METRICS = MetricsConfig(unit="auto", profile="own", on_parse_failure="empty", bootstrap=0, confidence=0.95, seed=0)
ERRTA = ErrtaConfig(mode="auto", examples=5, top=5)
SETTINGS = CompareConfig(resamples=200, permutations=200, confidence=0.95, alpha=0.05, seed=1, examples=50)
HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "</script><b>bold</b><!--", "{{data}} $x$ &"]


@pytest.fixture(scope="module")
def three() -> tuple[list[Sentence], RunComparison]:
    sentences = gold(150, 3)
    first = outcomes(sentences, 4, 0.6)
    runs = {
        "base": first,
        "better": outcomes(sentences, 5, 0.95, first, 0.5),
        "as good": outcomes(sentences, 6, 0.6, first, 0.9),
    }
    systems = [System(name, sentences, predictions(sentences, said)) for name, said in runs.items()]
    return sentences, compare_runs(systems, METRICS, ERRTA, SETTINGS)


def hostile() -> RunComparison:
    """Runs, categories, ids and texts that are markup, and one sentence that each run has right alone."""
    sentences = [Sentence(f"{text}{n}", text, [Entity(text, text, 0, len(text))]) for n, text in enumerate(HOSTILE)]
    right = [Prediction(s.id, list(s.entities)) for s in sentences]
    wrong = [Prediction(s.id, [s.entities[0]._replace(category=HOSTILE[0] + "x")]) for s in sentences]
    runs = {HOSTILE[0]: [*right[:1], *wrong[1:]], HOSTILE[1]: [*wrong[:1], *right[1:]], HOSTILE[2]: right}
    return compare_runs([System(name, sentences, said) for name, said in runs.items()], METRICS, ERRTA, SETTINGS)


def page(comparison: RunComparison, **facts: Any) -> str:
    known = {"name": "a comparison", "created": "today", "details": {}, "unknown_config": False} | facts
    tables = build_comparison_tables(comparison, {"seed": [1] * len(comparison.results)})
    return comparison_page.render_comparison_page(comparison, tables, comparison_page.ComparisonFacts(**known))


def block(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def column(table: Table, name: str) -> list[Any]:
    return [row[table.names.index(name)] for row in table.rows]


# What is compared


def test_a_sentence_flips_where_only_one_of_two_runs_has_it_right(three: tuple[list[Sentence], RunComparison]) -> None:
    sentences, comparison = three
    base = comparison.results["base"]
    for one in comparison.tested:
        run = comparison.results[one.name]

        def right(answer: Prediction, sentence: Sentence) -> bool:
            return sorted(answer.entities) == sorted(sentence.entities)

        changes = [(s.id, right(base.predictions[s.id], s), right(run.predictions[s.id], s)) for s in sentences]
        assert one.gained == [name for name, before, after in changes if after and not before]
        assert one.lost == [name for name, before, after in changes if before and not after]
        assert one.gained


def test_a_pair_is_tested_the_same_whatever_else_is_compared(three: tuple[list[Sentence], RunComparison]) -> None:
    sentences, comparison = three
    two = [System(n, sentences, list(comparison.results[n].predictions.values())) for n in ("base", "as good")]
    alone = compare_runs(two, METRICS, ERRTA, SETTINGS)
    assert alone.tested[0].significance == comparison.tested[1].significance
    assert comparison.tested[0].p_corrected == min(1, 2 * comparison.tested[0].significance.figures["micro.f1"][5])
    assert (comparison.posts, comparison.unit_of_chance) == (50, "posts")


def test_long_comparisons_say_how_far_they_are(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200,000 sentences take half a minute for each run to be scored and tested."""
    clock = itertools.count(0, 11)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    sentences = gold(20, 3)
    said = predictions(sentences, outcomes(sentences, 4, 0.6))
    with caplog.at_level(logging.INFO, "omniner"):
        compare_runs([System(name, sentences, said) for name in ("a", "b")], METRICS, ERRTA, SETTINGS)
    lines = "\n".join(caplog.messages)
    assert re.search(r"1 of 2 predictions files scored, .* left", lines)
    assert re.search(r"200 of 400 draws that test b, .* left", lines)
    assert "400 of 400 draws that test b" in lines


def test_a_run_without_offsets_is_measured_as_the_others() -> None:
    sentences = gold(40, 7)
    for sentence in sentences:  # each character once, so that a surface has one place
        sentence.text = "".join(chr(0x4E00 + place) for place in range(20))
        sentence.entities = [e._replace(text=sentence.text[e.start : e.end]) for e in sentence.entities]
    said = predictions(sentences, outcomes(sentences, 8, 0.7))
    bare = [dataclasses.replace(p, entities=[Entity(*entity[:2]) for entity in p.entities]) for p in said]
    runs = [System("spans", sentences, said), System("pairs", sentences, bare)]
    for order in (runs, runs[::-1]):
        comparison = compare_runs(order, METRICS, ERRTA, SETTINGS)
        assert {(r.unit, r.mode) for r in comparison.results.values()} == {("span", "span")}
        figures = comparison.tested[0].significance.figures.values()
        assert [row.difference for row in figures] == [0.0] * 4  # the same answers, said in two ways


def test_what_a_profile_leaves_out_counts_nothing_for_that_run_alone() -> None:
    sentences = [Sentence(f"s{n}", "北京", [Entity("北京", "地点", 0, 2)]) for n in range(4)]
    said = [Prediction(s.id, list(s.entities)) for s in sentences]
    broken = [dataclasses.replace(said[0], entities=[], parse="failed", reason="no list"), *said[1:]]
    drop = dataclasses.replace(METRICS, on_parse_failure="drop")
    runs = [System("whole", sentences, said), System("broken", sentences, broken)]
    for order in (runs, runs[::-1]):
        comparison = compare_runs(order, drop, ERRTA, SETTINGS)
        assert comparison.results["broken"].metrics.micro[3:] == (3, 3, 0, 0)
        (tested,) = comparison.tested
        assert tested.significance.figures["micro.f1"].difference == 0.0
        assert (tested.gained, tested.lost) == ([], [])


def test_too_few_permutations_are_said() -> None:
    sentences = gold(30, 1)
    said = predictions(sentences, outcomes(sentences, 2, 0.7))
    runs = [System(name, sentences, said) for name in ("a", "b")]
    few = compare_runs(runs, METRICS, ERRTA, dataclasses.replace(SETTINGS, permutations=60))
    assert "60 permutations cannot make any of 4 categories significant" in comparison_page.comparison_warnings(few)[0]
    assert comparison_page.comparison_warnings(compare_runs(runs, METRICS, ERRTA, SETTINGS)) == []


# People


@pytest.fixture(scope="module")
def with_people(three: tuple[list[Sentence], RunComparison]) -> RunComparison:
    sentences, comparison = three
    runs = [System(n, sentences, list(comparison.results[n].predictions.values())) for n in ("base", "better")]
    people = [
        System(name, sentences, predictions(sentences, outcomes(sentences, seed, 0.9)))
        for name, seed in (("anna", 11), ("base", 12), ("carl", 13))  # people have names of their own
    ]
    return compare_runs(runs, METRICS, ERRTA, SETTINGS, people)


def test_people_stand_beside_the_runs_as_one_mean(
    three: tuple[list[Sentence], RunComparison], with_people: RunComparison
) -> None:
    sentences, alone = three
    assert with_people.tested[0].significance == alone.tested[0].significance
    tables = build_comparison_tables(with_people, {})
    f1 = [result.metrics.micro.f1 for result in with_people.annotators.values()]
    mean = sum(f1) / 3
    deviation = (sum((value - mean) ** 2 for value in f1) / 2) ** 0.5
    assert column(tables["models"], "run") == ["base", "better", "human"]
    assert column(tables["models"], "f1")[2] == pytest.approx(mean)
    assert column(tables["models"], "f1_deviation") == ["", "", pytest.approx(deviation)]
    assert column(tables["models"], "f1_difference")[2] == pytest.approx(
        mean - with_people.results["base"].metrics.micro.f1
    )
    primaries = tables["primaries"]
    assert column(primaries, "human: f1")[-1] == pytest.approx(mean)
    assert column(primaries, "human: f1_deviation")[-1] == pytest.approx(deviation)
    of = [result.metrics.primaries["甲"].strict.recall for result in with_people.annotators.values()]
    assert column(primaries, "human: recall")[column(primaries, "primary").index("甲")] == pytest.approx(sum(of) / 3)
    assert tables["human"].rows[0][-3:] == f1
    for table in tables.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert with_people.to_json()["human"]["all (micro)"]["f1"]["mean"] == pytest.approx(mean)
    assert comparison_summary(with_people)[-1].startswith(f"human (anna, base, carl): mean F1 {100 * mean:.2f}")
    assert len(with_people.annotators["base"].predictions) == len(sentences)
    text = page(with_people)
    assert "<span>human</span>" in text
    assert "deviation is the sample standard deviation" in text


def test_one_person_has_no_deviation_and_may_stand_beside_one_run() -> None:
    sentences = gold(40, 2)
    runs = [System("a", sentences, predictions(sentences, outcomes(sentences, 3, 0.7)))]
    person = [System("p", sentences[:30], predictions(sentences, outcomes(sentences, 4, 0.9))[:30])]
    comparison = compare_runs(runs, METRICS, ERRTA, SETTINGS, person)
    tables = build_comparison_tables(comparison, {})
    assert column(tables["models"], "f1_deviation") == ["", ""]
    assert set(column(tables["primaries"], "human: f1_deviation")) == {""}
    assert comparison_page.comparison_warnings(comparison) == [
        "p labelled 30 of 40 sentences and is scored on those alone: not what the runs are scored on."
    ]
    assert "p labelled 30 of 40" in page(comparison)


# Tables


def test_the_tables_hold_the_scores(three: tuple[list[Sentence], RunComparison]) -> None:
    _, comparison = three
    tables = build_comparison_tables(comparison, {"seed": [1, 2, 3]})
    results = comparison.results
    assert column(tables["models"], "f1") == [result.metrics.micro.f1 for result in results.values()]
    f1 = [result.metrics.micro.f1 for result in results.values()]
    assert column(tables["models"], "f1_difference") == ["", *(pytest.approx(value - f1[0]) for value in f1[1:])]
    errors = tables["errors"]
    for kind, before, after, change, percent in (row[:5] for row in errors.rows[:-1]):
        assert before == results["base"].errta.by_type[kind].errors
        assert after == results["better"].errta.by_type[kind].errors
        assert change == after - before
        assert percent == (pytest.approx(100 * change / before) if before else "")
    assert errors.rows[-1][:2] == ["all", len(results["base"].errta.errors)]
    primaries = tables["primaries"]
    assert column(primaries, "primary") == ["丙", "乙", "甲", "all"]
    assert column(primaries, "better: f1")[2] == results["better"].metrics.primaries["甲"].strict.f1
    categories = tables["categories"]
    differences = [row[5] for row in categories.rows if row[0] == "better"]
    assert differences == sorted(differences, reverse=True)
    rows = {row[1]: row for row in categories.rows if row[0] == "better"}
    before, after = (results[name].metrics.categories["甲_一"] for name in ("base", "better"))
    assert rows["甲_一"][-3:] == [after.tp - before.tp, after.fp - before.fp, after.fn - before.fn]
    flips = sum(len(one.gained) + len(one.lost) for one in comparison.tested)
    assert len(tables["flips"].rows) == flips
    assert tables["config"].rows == [["seed", "1", "2", "3"]]
    assert list(csv.reader(io.StringIO(tables["models"].to_csv())))[1][0] == "base"


def test_a_category_may_be_called_all() -> None:
    sentences = [
        Sentence("a", "北京", [Entity("北京", "all", 0, 2)]),
        Sentence("b", "东京", [Entity("东京", "城", 0, 2)]),
    ]
    right = [Prediction(s.id, list(s.entities)) for s in sentences]
    runs = [System("x", sentences, right), System("y", sentences, right[:1])]
    table = build_comparison_tables(compare_runs(runs, METRICS, ERRTA, SETTINGS), {})["primaries"]
    assert [row[:2] for row in table.rows] == [["all", 1], ["城", 1], ["all", 2]]


def test_values_are_printed_as_papers_do() -> None:
    printed = [(0.85314, "share"), (0.012, "points"), (-0.012, "points"), (-1234, "change"), (1234, "count")]
    assert [format_cell(*cell) for cell in printed] == ["85.31", "+1.20", "-1.20", "-1,234", "1,234"]
    assert [format_cell(p, "p") for p in (0.0456, 0.00012, 1.0)] == ["0.046", "0.00012", "1.000"]
    assert [format_cell(value, "percent") for value in (-12.345, 0.0, 5.0)] == ["-12.3%", "0.0%", "+5.0%"]
    assert format_cell(0, "change") == "0"
    with pytest.raises(ValueError, match="in a column of text"):
        format_cell(1, "text")


def test_the_best_of_the_runs_is_bold(three: tuple[list[Sentence], RunComparison], with_people: RunComparison) -> None:
    for comparison in (three[1], with_people):
        tables = build_comparison_tables(comparison, {})
        runs = list(comparison.results)
        for figure in ("f1", "macro_f1"):
            place = tables["models"].names.index(figure)
            values = column(tables["models"], figure)[: len(runs)]
            assert {row for row, at in tables["models"].best if at == place} == {values.index(max(values))}
        primaries = tables["primaries"]
        for number, row in enumerate(primaries.rows):
            places = [primaries.names.index(f"{run}: recall") for run in runs]
            top = {at for at in places if row[at] == max(row[at] for at in places)}
            assert {at for i, at in primaries.best if i == number and at in places} in (top, set())
        best = f"{100 * comparison.results['better'].metrics.micro.f1:.2f}"
        assert f"**{best}**" in tables_markdown(tables)
        assert rf"\textbf{{{best}}}" in tables["models"].to_latex("models")


def test_runs_that_are_the_same_have_no_best() -> None:
    sentences = gold(20, 2)
    said = predictions(sentences, outcomes(sentences, 3, 0.7))
    tables = build_comparison_tables(
        compare_runs([System(n, sentences, said) for n in "ab"], METRICS, ERRTA, SETTINGS), {}
    )
    assert tables["models"].best == tables["primaries"].best == frozenset()


def test_latex_holds_nothing_that_latex_would_act_on(three: tuple[list[Sentence], RunComparison]) -> None:
    table = build_comparison_tables(three[1], {})["models"]
    assert r"better & " in table.to_latex("models")
    nasty = "[a]*\\input{x} 50% $x_1^2$ a&b #~`--|<>\n\x00"
    table.rows[1][0] = nasty
    row = table.to_latex("models").split(r"\midrule")[1].splitlines()[2]
    assert row.startswith(
        r"{[}a{]}{*}\textbackslash{}input\{x\} 50\% \$x\_1\textasciicircum{}2\$ a\&b \#\textasciitilde{}"
    )
    assert row.endswith(r"\\")
    assert len(re.findall(r"(?<!\\)&", row)) == len(table.names) - 1
    long = dataclasses.replace(table, title="t", rows=table.rows * 20)
    assert r"\begin{longtable}{lrrrrrrrrrrrr}" in long.to_latex("long")


def test_markdown_shows_markup_as_text() -> None:
    text = tables_markdown(build_comparison_tables(hostile(), {"<b>": ["[x](http://y)", "a|b", "*c*"]}))
    assert "<" not in text
    assert "](" not in text
    assert "&lt;script>alert(1)&lt;/script>" in text
    assert "a\\|b" in text


def test_verdicts_say_whether_and_by_how_much(three: tuple[list[Sentence], RunComparison]) -> None:
    better, same = comparison_summary(three[1])
    assert better.startswith("better against base: F1 ")
    assert ": significant at 0.05" in better
    assert ": not significant at 0.05" in same
    assert f"{len(three[1].tested[0].gained)} sentences became right" in better


def test_figures_are_the_same_bytes_each_time(three: tuple[list[Sentence], RunComparison]) -> None:
    _, comparison = three
    made = comparison_page.draw_comparison_figures(comparison)
    assert list(made) == ["compare_errors", "compare_categories_1", "compare_categories_2"]
    again = comparison_page.draw_comparison_figures(comparison)
    assert all(chart.png() == again[name].png() for name, chart in made.items())
    assert all(chart.png().startswith(b"\x89PNG") for chart in made.values())


def test_no_two_runs_look_the_same_in_the_figure() -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    figure = Figure()
    comparison_page.draw_comparison_figures(many())["compare_errors"].draw(figure)
    bars = [container.patches[0] for container in figure.axes[0].containers]
    looks = [(to_rgb(bar.get_facecolor()), bar.get_hatch()) for bar in bars]
    assert len(set(looks)) == len(looks) == 9
    assert looks[0] == (to_rgb(comparison_page.BASELINE), "")
    assert looks[0][0] not in [colour for colour, _ in looks[1:]]
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert len(set(labels)) == 9  # cut, but apart


def many() -> RunComparison:
    """Nine runs with long names, of which some differ in the middle alone."""
    sentences = gold(20, 2)
    names = [f"qwen2_0_5b-lora-prompt_{what}-seed{n}" for what in ("base", "errta", "errta_fewshot") for n in range(3)]
    said = [predictions(sentences, outcomes(sentences, seed, 0.6)) for seed in range(len(names))]
    systems = [System(name, sentences, answers) for name, answers in zip(names, said, strict=True)]
    return compare_runs(systems, METRICS, ERRTA, SETTINGS)


def test_categories_without_primaries_are_not_called_primaries() -> None:
    sentences = [Sentence(f"s{n}", "北京", [Entity("北京", "地点", 0, 2)]) for n in range(4)]
    right = [Prediction(s.id, list(s.entities)) for s in sentences]
    flat = compare_runs([System(name, sentences, right) for name in "ab"], METRICS, ERRTA, SETTINGS)
    table = build_comparison_tables(flat, {})["primaries"]
    assert (table.names[0], table.title) == ("category", "Precision, recall and F1 by category and run")
    assert "By category" in page(flat)
    assert "By primary" not in page(flat)


# The page


def test_the_page_is_closed_and_holds_the_flips(three: tuple[list[Sentence], RunComparison]) -> None:
    sentences, comparison = three
    text = page(comparison)
    assert text == page(comparison)
    shell = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", shell)
    assert not re.search(r"url\((?!data:|#)", shell)
    data = block(text)
    assert len(data["flips"]) == sum(len(v.gained) + len(v.lost) for v in comparison.tested)
    texts = {s.id: s for s in sentences}
    for run, gained, number, missing, before, wrong_before, after, wrong_after, types in data["flips"]:
        name, _, golds = data["sentences"][number]
        assert golds == [list(entity) for entity in texts[name].entities]
        assert name in (comparison.tested[run - 1].gained if gained else comparison.tested[run - 1].lost)
        worse, marks = (before, wrong_before) if gained else (after, wrong_after)
        assert (wrong_after if gained else wrong_before) == []
        wrong = comparison.results["base" if gained else comparison.tested[run - 1].name]
        assert set(types) == {error.type for error in wrong.errta.errors if error.sentence_id == name} != set()
        assert [worse[i] for i in marks] == [entity for entity in worse if entity not in golds]
        assert [golds[i] for i in missing] == [entity for entity in golds if entity not in worse]
    few = page(dataclasses.replace(comparison, settings=dataclasses.replace(SETTINGS, examples=3)))
    assert len(block(few)["flips"]) == sum(min(3, len(n)) for v in comparison.tested for n in (v.gained, v.lost))
    assert "at most 3 of each kind" in block(few)["kept"]


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Page]:
    if browser.binary() is None:
        pytest.skip(f"none of {', '.join(browser.NAMES)} is on PATH: the page cannot be looked at")
    with browser.chromium() as opened:
        yield opened


def look(tab: browser.Page, folder: Path, text: str) -> None:
    """Open the page and make sure that nothing went wrong and nothing was asked from outside."""
    file = folder / "comparison.html"
    file.write_text(text, encoding="utf-8")
    tab.errors.clear()
    tab.requests.clear()
    tab.open(file)
    assert tab.errors == []
    assert tab.run("document.getElementById('fault').hidden") is True
    assert [url for url in tab.requests if not url.startswith(("data:", file.as_uri()))] == []


def test_the_page_in_a_browser(tab: browser.Page, tmp_path: Path, three: tuple[list[Sentence], RunComparison]) -> None:
    _, comparison = three
    look(tab, tmp_path, page(comparison))
    cells = (
        "[...document.querySelectorAll('#table-models tbody tr')].map((r) => [...r.children].map((c) => c.textContent))"
    )
    models = build_comparison_tables(comparison, {})["models"].formatted()
    assert tab.run(cells) == [[cell.replace("-", "−") for cell in row] for row in models]
    heads = "[...document.querySelectorAll('#table-models thead button')]"
    tab.run(f"{heads}.find((b) => b.textContent === 'f1 difference').click()")
    assert [row[0] for row in tab.run(cells)] == ["better", "as good", "base"]  # no value comes last
    words = tab.run("[...document.querySelectorAll('#errors svg text')].map((n) => n.textContent.trim())")
    assert {"base", "better", "as good", "missing", "boundary + class"} <= set(words)
    count = "Number(document.querySelector('#browser [role=status]').textContent.split(' ')[0])"
    assert tab.run(count) == sum(len(v.gained) + len(v.lost) for v in comparison.tested)
    choose = (
        "for (const [i, value] of [[0, '1'], [1, '0']]) { const node = document.querySelectorAll('#browser select')[i];"
    )
    tab.run(choose + " node.value = value; node.dispatchEvent(new Event('change')); }")
    assert tab.run(count) == len(comparison.tested[0].lost)
    heads = tab.run("[...document.querySelectorAll('#browser .head')].map((h) => h.textContent)")
    assert all(head.startswith("lostbetter") for head in heads)
    tab.run("[...document.querySelectorAll('#table-errors button')].find((b) => b.textContent === 'missing').click()")
    flips = block(page(comparison))["flips"]
    assert tab.run(count) == sum("missing" in flip[8] for flip in flips) > 0
    bold = "[...document.querySelectorAll('#table-models .best')].map((c) => c.textContent)"
    assert f"{100 * comparison.results['better'].metrics.micro.f1:.2f}" in tab.run(bold)
    tab.run("[...document.querySelectorAll('#browser button')].find((b) => b.textContent === 'Clear').click()")
    assert tab.run("document.querySelectorAll('#browser .example:first-child .lane').length") == 3
    tab.run("document.querySelector('nav a[href=\"#method\"]').click()")
    assert tab.run("document.activeElement.id") == "method"
    wide = {"height": 800, "deviceScaleFactor": 1, "mobile": False}
    tab.call("Emulation.setDeviceMetricsOverride", width=400, **wide)
    assert tab.run("document.documentElement.scrollWidth") <= 400  # tables scroll, the page does not
    tab.call("Emulation.setDeviceMetricsOverride", width=1280, **wide)
    tab.scheme("dark")
    assert tab.run("getComputedStyle(document.body).color") == "rgb(228, 231, 236)"
    tab.scheme("light")
    assert tab.errors == []


def test_on_paper_nothing_is_cut_off(tab: browser.Page, tmp_path: Path) -> None:
    look(tab, tmp_path, page(many()))
    tab.call("Emulation.setDeviceMetricsOverride", width=740, height=1000, deviceScaleFactor=1, mobile=False)
    tab.call("Emulation.setEmulatedMedia", media="print")
    tab.run("dispatchEvent(new Event('beforeprint'))")
    tables = "[...document.querySelectorAll('%s > .scroll > table')]"
    widths = tables + ".map((table) => table.getBoundingClientRect().width)"
    assert max(tab.run(widths % ".table:not(.across)")) <= 740
    assert 740 < max(tab.run(widths % ".across")) <= 980  # of a page that lies on its side
    assert min(tab.run(tables % ".table" + ".map((table) => Number(table.style.zoom) || 1)")) > 0.5
    heights = tab.run("[...document.querySelectorAll('.chart')].map((n) => n.getBoundingClientRect().height)")
    assert max(heights) < 910  # 240 mm
    tab.run("dispatchEvent(new Event('afterprint'))")
    assert set(tab.run("[...document.querySelectorAll('table')].map((n) => n.style.zoom + n.style.width)")) == {""}
    assert tab.run("document.querySelectorAll('.across').length") == 0
    tab.call("Emulation.setEmulatedMedia", media="")
    printed = base64.b64decode(tab.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    sizes = [tuple(map(float, size)) for size in re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", printed)]
    assert sum(width > height for width, height in sizes) == 2 < len(sizes)
    tab.call("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
    assert tab.errors == []


def test_long_names_of_runs_stay_apart_and_push_nothing_out_of_view(tab: browser.Page, tmp_path: Path) -> None:
    comparison = many()
    text = page(comparison)
    look(tab, tmp_path, text)
    assert all(f">{name} against {comparison.baseline}: F1" in text for name in list(comparison.results)[1:])
    blank = "[...document.querySelectorAll('#table-models td')].filter((c) => !c.textContent).map((c) => c.className)"
    assert set(tab.run(blank)) == {"number zero"}, "it takes no room as a cell of text does"
    lanes = "[...document.querySelectorAll('.lane > b')]"
    assert len(set(tab.run(f"{lanes}.map((b) => b.textContent)")) & set(comparison.results)) > 2
    assert tab.run(f"{lanes}.filter((b) => b.scrollWidth > b.clientWidth).map((b) => b.textContent)") == []
    phone = {"height": 800, "deviceScaleFactor": 1, "mobile": True}
    tab.call("Emulation.setDeviceMetricsOverride", width=390, **phone)
    look(tab, tmp_path, text)
    assert tab.run("document.documentElement.scrollWidth") <= 390
    tab.call("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)


def test_nothing_is_shown_of_what_there_is_not(tab: browser.Page, tmp_path: Path) -> None:
    sentences = gold(20, 2)
    said = predictions(sentences, outcomes(sentences, 3, 0.7))
    person = [System("p", sentences, predictions(sentences, outcomes(sentences, 4, 0.9)))]
    look(tab, tmp_path, page(compare_runs([System("a", sentences, said)], METRICS, ERRTA, SETTINGS, person)))
    rows = "[...document.querySelectorAll('#table-models tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    columns = list(zip(*tab.run(rows), strict=True))
    assert [cells for cells in columns if not any(cells)] == []
    runs = [System(name, sentences, said) for name in "ab"]
    text = page(compare_runs(runs, METRICS, ERRTA, SETTINGS))
    look(tab, tmp_path, text)
    changes = tab.run("[...document.querySelectorAll('#table-errors tr :nth-child(5)')].map((c) => c.textContent)")
    assert "0.0%" in changes
    assert "+0.0%" not in changes


def test_cards_and_verdicts_write_minus_as_the_tables_do(three: tuple[list[Sentence], RunComparison]) -> None:
    for found in (r'<div class="card">.*?</div>', r'<p class="verdict.*?</p>'):
        shown = re.findall(found, page(three[1]))
        assert any("[−" in one for one in shown)
        assert not any("[-" in one or "-0" in one for one in shown)


def test_the_page_shows_people(tab: browser.Page, tmp_path: Path, with_people: RunComparison) -> None:
    look(tab, tmp_path, page(with_people))
    rows = "[...document.querySelectorAll('#table-models tbody tr')].map((r) => r.firstChild.textContent)"
    assert tab.run(rows) == ["base", "better", "human"]
    assert tab.run("document.querySelectorAll('#table-human tbody tr').length") == len(
        build_comparison_tables(with_people, {})["human"].rows
    )


def test_planted_markup_does_not_run(tab: browser.Page, tmp_path: Path) -> None:
    text = page(hostile(), name=HOSTILE[1], created=HOSTILE[0], details={HOSTILE[0]: HOSTILE[1]})
    for planted in HOSTILE[:3]:
        assert planted not in text[text.index("<body") :]
        assert markupsafe.escape(planted) in text
    look(tab, tmp_path, text)
    assert tab.run("document.querySelectorAll('img, main script, .lane b b').length") == 0
    assert tab.run("[...document.querySelectorAll('*')].filter((n) => n.hasAttribute('onerror')).length") == 0
    lanes = tab.run("[...document.querySelectorAll('#browser .gold .in')].map((n) => n.textContent)")
    assert set(lanes) == set(HOSTILE)
