"""The report: one closed file that says what the result says, and in a real browser neither errs nor runs data."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import made_up
import markupsafe
import pytest

from omniner.config.groups import ErrtaConfig
from omniner.issue_codes import explained
from omniner.records import Entity, Prediction, Sentence
from omniner.report import page as report_page
from omniner.report import run_page, tables
from omniner.scoring.error_types import ERROR_TYPES
from omniner.scoring.metrics import ErrtaError, ScoreResult

ERRTA = ErrtaConfig(mode="span", examples=20, top=30)
SCRIPT, IMAGE, END = "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "</script><b>bold</b><!--"
HOSTILE = [SCRIPT, IMAGE, END, "{{data}}", "$x$ & <i>"]
CURVES = {"train/loss": [(0, 2.0), (5, float("inf"))], "val/f1": [(5, 0.5)], "val/loss" + SCRIPT: [(5, 0.5)]}


def page(result: ScoreResult, errta: ErrtaConfig = ERRTA, curves: Any = CURVES, **facts: Any) -> str:
    known = {"name": "a run", "created": "today", "details": {}, "config": "", "issues": {}} | facts
    return run_page.render_run_page(
        result, tables.build_run_tables(result, errta, None, []), run_page.RunFacts(**known), curves, errta
    )


def block(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_issues_are_explained_in_the_language_of_the_page() -> None:
    result = made_up.result(5)
    facts = run_page.RunFacts("a run", "", {}, "", {"bad-json": 3, "of-another-version": 2})
    made = tables.build_run_tables(result, ERRTA, None, [])
    rows = block(run_page.render_run_page(result, made, facts, {}, ERRTA, "zh"))["tables"]["issues"]["rows"]
    assert rows == [
        ["bad-json", 3, *(text.of("zh") for text in explained("bad-json"))],
        ["of-another-version", 2, "", ""],
    ]


def hostile() -> ScoreResult:
    """Errors of every shape whose texts, categories and ids are markup."""
    gold: dict[str, Sentence] = {}
    said: dict[str, Prediction] = {}
    errors = []
    for n, text in enumerate(HOSTILE):
        name = f"{text}{n}"
        right, wrong = Entity(text, IMAGE, 0, len(text)), Entity(text, text, 0, len(text))
        gold[name], said[name] = Sentence(name, text, [right]), Prediction(name, [wrong], raw=text)
        errors.append(ErrtaError("classification", name, (right,), (wrong,)))
    return made_up.scored(gold, said, errors)


def overlapping() -> ScoreResult:
    """Nested gold, crossing predictions, an astral letter before them, a surface without a place."""
    text = "😀去北京大学生物系"
    outer, inner = Entity("北京大学生物系", "机构", 2, 9), Entity("北京", "城市", 2, 4)
    crossing, later = Entity("京大学生", "机构", 3, 7), Entity("学生物", "专业", 5, 8)
    nowhere, free = Entity("清华", "机构"), Entity("生物", "专业")
    gold = {"a": Sentence("a", text, [outer, inner]), "b": Sentence("b", text, [free])}
    said = {"a": Prediction("a", [crossing, later]), "b": Prediction("b", [nowhere])}
    return made_up.scored(
        gold,
        said,
        [
            ErrtaError("boundary", "a", (outer,), (crossing,)),
            ErrtaError("missing", "a", (inner,), ()),
            ErrtaError("redundant", "a", (), (later,)),
            ErrtaError("boundary", "b", (free,), (nowhere,)),
        ],
    )


def test_the_block_holds_the_result() -> None:
    result = made_up.result(300)
    text = page(result, name="run & <b>", config="a: <b>", details={"model": "x<y"}, issues={"bad-json": 3})
    data = block(text)
    shown = {name: count for name, count, *_ in data["tables"]["errta_counts"]["rows"]}
    assert shown == {name: count.errors for name, count in result.errta.by_type.items()}
    assert [kind["name"] for kind in data["types"]] == list(shown)
    assert sum(map(sum, data["heat"]["counts"])) == len(result.errta.errors)
    assert len(data["examples"]) >= sum(min(20, count.errors) for count in result.errta.by_type.values())
    assert data["tables"]["issues"]["rows"] == [["bad-json", 3, *explained("bad-json")]]
    assert "last values: val/f1 50, train/loss 2, val/loss" in text
    for number, sentence, gold, said in data["examples"]:
        name, words, golds, saids = data["sentences"][sentence]
        assert words == result.sentences[name].text
        error = (data["types"][number]["name"], name, [golds[i] for i in gold], [saids[i] for i in said])
        assert error in [
            (e.type, e.sentence_id, [*map(list, e.gold)], [*map(list, e.predicted)]) for e in result.errta.errors
        ]
    assert f"{result.metrics.micro.f1:.2%}" in text
    assert "run &amp; &lt;b&gt;" in text
    assert "<pre>a: &lt;b&gt;</pre>" in text
    assert "up to 20 of each type" in data["kept"]


def test_the_file_is_closed_and_deterministic() -> None:
    result = made_up.result(50)
    text = page(result)
    assert text == page(result)
    shell = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", shell)
    assert "@import" not in shell
    assert not re.search(r"url\((?!data:|#)", shell)


def test_hostile_text_is_data_only() -> None:
    text = page(hostile(), name=IMAGE, created=SCRIPT, details={SCRIPT: IMAGE}, config=END, issues={END: 1})
    start = text.index("<body")
    for planted in (SCRIPT, IMAGE, END):
        assert planted not in text[start:]
        assert markupsafe.escape(planted) in text
    assert sorted({s[1] for s in block(text)["sentences"]}) == sorted(HOSTILE)


def test_a_lone_surrogate_can_be_written() -> None:
    gold = Entity("\ud83d", "甲", 0, 1)
    result = made_up.scored(
        {"0": Sentence("0", "\ud83d", [gold])}, {"0": Prediction("0")}, [ErrtaError("missing", "0", (gold,), ())]
    )
    text = page(result, name="\udc80")
    text.encode("utf-8")
    assert block(text)["sentences"][0][1] == "\ud83d"


def test_the_page_says_that_the_errors_add_up() -> None:
    assert "Identity checked" in page(made_up.result(20))


def test_the_page_says_how_many_sentences_the_scores_rest_on() -> None:
    whole = made_up.result(20)
    assert "Scored:" not in page(whole)
    fewer = replace(whole, parse=replace(whole.parse, scored=14), errta=replace(whole.errta, read=13))
    assert "Scored: 14 of 20 sentences; errors sorted in 13." in page(fewer)


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Page]:
    if browser.binary() is None:
        pytest.skip(f"none of {', '.join(browser.NAMES)} is on PATH: the report cannot be looked at")
    with browser.chromium() as opened:
        yield opened


def look(tab: browser.Page, folder: Path, text: str) -> browser.Page:
    """Open the page and make sure that nothing went wrong and nothing was asked from outside."""
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    tab.errors.clear()
    tab.requests.clear()
    tab.open(file)
    assert tab.errors == []
    assert tab.run("document.getElementById('fault').hidden") is True
    assert [url for url in tab.requests if not url.startswith(("data:", file.as_uri()))] == []
    return tab


FILTERS = "const [type, primary, category] = document.querySelectorAll('#browser select');"
CELL = "document.querySelector('#browser label:not([hidden]) > button').textContent"
STATUS = "document.querySelector('#browser [role=status]').textContent"


def chosen(tab: browser.Page, script: str) -> tuple[int, list[str]]:
    """Set filters; how many examples the page says it found, and the heads of those it shows."""
    tab.run("{%s %s}" % (FILTERS, script))  # noqa: UP031
    heads = tab.run("[...document.querySelectorAll('#browser .head')].map((h) => h.textContent)")
    return int(tab.run(STATUS).split(" ")[0].replace(",", "")), heads


def test_filters_sorting_and_paging(tab: browser.Page, tmp_path: Path) -> None:
    result = made_up.result(300)
    look(tab, tmp_path, page(result))
    kept = tables.examples_of_cells(result.errta.errors, 20)
    assert chosen(tab, "")[0] == sum(map(len, kept.values()))
    change = "dispatchEvent(new Event('change'))"
    count, heads = chosen(tab, f"type.value = 'boundary'; type.{change}")
    assert count == len(kept["boundary"])
    assert len(heads) == 10
    assert all(head.startswith("boundary") for head in heads)
    tab.run("document.querySelector('#browser .pager button:last-child').click()")
    assert f"11–20 of {count}" in tab.run("document.querySelector('#browser .pager span').textContent")
    wanted = kept["boundary"][0].gold[0].category
    count, heads = chosen(tab, f"category.value = {json.dumps(wanted)}; category.{change}")
    assert count == sum(wanted in {x.category for x in (*e.gold, *e.predicted)} for e in kept["boundary"])
    assert all(wanted in head for head in heads)
    tab.run("[...document.querySelectorAll('#browser button')].find((b) => b.textContent === 'Clear').click()")
    name = kept["missing"][0].sentence_id
    write = "const box = document.querySelector('#browser input'); box.dispatchEvent(new Event('input'));"
    count, heads = chosen(tab, write.replace("box.d", f"box.value = {json.dumps(name)}; box.d"))
    assert count >= 1
    assert all(name in head for head in heads)
    heads = "[...document.querySelectorAll('#table-categories thead button')]"
    tab.run(f"{heads}.find((b) => b.textContent === 'f1').click()")
    shown = tab.run("[...document.querySelectorAll('#table-categories tbody .bar')].map((c) => Number(c.textContent))")
    assert shown == sorted((round(100 * row.f1, 2) for row in result.metrics.categories.values()), reverse=True)
    assert tab.errors == []


def test_drawers_of_charts_and_rows_of_tables(tab: browser.Page, tmp_path: Path) -> None:
    result = made_up.result(300)
    look(tab, tmp_path, page(result))
    names, counts = run_page.errors_by_primary(result)
    labels = "[...document.querySelectorAll('#chart-%s tbody th')].map((n) => n.title)"
    cells = "[...document.querySelectorAll('#chart-%s tbody tr')]"
    cells += ".map((r) => [...r.cells].slice(1).map((c) => c.textContent))"
    choose = (
        "{ const s = document.querySelector('#chart-%s select'); s.value = %s; s.dispatchEvent(new Event('change')); }"
    )

    def shown(chart: str) -> dict[str, list[int]]:
        numbers = [[int(n.replace(",", "") or 0) for n in row] for row in tab.run(cells % chart)]
        return dict(zip(tab.run(labels % chart), numbers, strict=True))

    assert shown("heat") == dict(zip(names, counts.tolist(), strict=True))
    rows = {row[0]: row for row in tables.build_run_tables(result, ERRTA, None, [])["errta_by_category"].rows}
    own = {name: row[1:-1] for name, row in rows.items() if result.primary[name] == names[0]}
    tab.run("document.querySelector('#chart-heat tbody button').click()")  # the first primary's
    assert shown("heat") == own
    assert tab.run("document.activeElement.closest('figure').id") == "chart-heat"
    category = next(iter(own))
    kind = list(result.errta.by_type)[next(i for i, n in enumerate(own[category]) if n)]
    tab.run("document.querySelector('#chart-heat tbody button').click()")
    assert tab.run(CELL) == f"{kind} · {category} ✕"
    tab.run(choose % ("heat", "''"))
    assert list(shown("heat")) == names
    # All confused categories, and those of one primary with what they are confused with.
    pairs = tables.count_confusions(result.errta.errors)

    def confused(wanted: dict[tuple[str, str], int]) -> dict[str, list[int]]:
        kept = sorted({name for pair in wanted for name in pair})
        return {gold: [wanted.get((gold, said), 0) for said in kept] for gold in kept}

    assert len(shown("confusion")) == 20
    tab.run(choose % ("confusion", "'all'"))
    assert shown("confusion") == confused(dict(pairs))
    wanted = {pair: n for pair, n in pairs.items() if names[0] in (result.primary[pair[0]], result.primary[pair[1]])}
    tab.run(choose % ("confusion", json.dumps(f"of {names[0]}")))
    assert shown("confusion") == confused(wanted)
    caption = tab.run("document.querySelector('#chart-confusion figcaption').textContent")
    assert f": {sum(wanted.values())} of {pairs.total()} confusions" in caption
    # Rows found by their text.
    find = "{ const box = document.querySelector('#table-errta_by_category input'); box.value = %s; "
    find += "box.dispatchEvent(new Event('input')); }"
    tab.run(find % json.dumps(names[0]))
    found = tab.run("[...document.querySelectorAll('#table-errta_by_category tbody th')].map((n) => n.textContent)")
    assert found == [name for name in rows if names[0] in name]
    assert tab.errors == []


# Clicks on every cell of a heat map: its title, its count, and what the browser then says and shows.
CLICKED = """[...document.querySelectorAll('#chart-%s tbody button')].map((cell) => {
  cell.click();
  const pager = document.querySelector('#browser .pager'), next = pager.querySelector('button:last-child');
  const heads = [];
  for (;;) {
    heads.push(...[...document.querySelectorAll('#browser .head')].map((n) => n.textContent));
    if (pager.hidden || next.disabled) break;
    next.click();
  }
  const status = document.querySelector('#browser [role=status]').textContent;
  return [cell.title, Number(cell.textContent.replace(',', '')), status, heads];
})"""


def head(error: ErrtaError) -> str:
    """What stands above an example."""
    sides = (" + ".join(one.category for one in side) or "nothing" for side in (error.gold, error.predicted))
    return f"{ERROR_TYPES[error.type].label}{' → '.join(sides)}{error.sentence_id}"


def test_a_click_on_any_cell_shows_the_errors_that_it_counts(tab: browser.Page, tmp_path: Path) -> None:
    some = made_up.result(100)
    a, b, c = list(some.primary)[:3]
    text = "甲乙丙"
    split = ErrtaError("split", "s", (Entity(text, a, 0, 3),), (Entity("甲", b, 0, 1), Entity("乙丙", b, 1, 3)))
    merge = ErrtaError("merge", "m", (Entity("甲", a, 0, 1), Entity("乙丙", c, 1, 3)), (Entity(text, b, 0, 3),))
    told = [(error.sentence_id, text, error) for error in (split, merge)]
    gold = {**some.sentences, **{name: Sentence(name, text, [*error.gold]) for name, text, error in told}}
    said = {**some.predictions, **{name: Prediction(name, [*error.predicted]) for name, _, error in told}}
    result = made_up.scored(gold, said, [*some.errta.errors, split, merge])
    errors = result.errta.errors
    look(tab, tmp_path, page(result, ErrtaConfig(mode="span", examples=3, top=30)))
    choose = "{ const s = document.querySelector('#chart-%s select'); s.value = %s; "
    choose += "s.dispatchEvent(new Event('change')); }"
    found: list[tuple[list[ErrtaError], Any]] = []
    tab.run(choose % ("confusion", "'all'"))
    for cell in tab.run(CLICKED % "confusion"):
        right, wrong = re.findall(r"^(?:gold|predicted) (.*?)(?:: [\d,]+)?$", cell[0], re.MULTILINE)
        both = [[{e.category for e in side} for side in (error.gold, error.predicted)] for error in errors]
        found.append(([e for e, (g, p) in zip(errors, both, strict=True) if right in g and wrong in p], cell))
    assert len(found) == len(tables.count_confusions(errors))
    for primary in run_page.errors_by_primary(result)[0]:
        tab.run(choose % ("heat", json.dumps(primary)))
        for cell in tab.run(CLICKED % "heat"):
            category, kind = cell[0].rpartition(":")[0].split("\n")
            own = [
                e
                for e in errors
                if ERROR_TYPES[e.type].label == kind and (e.gold or e.predicted)[0].category == category
            ]
            found.append((own, cell))
    assert sum(len(own) for own, _ in found) > len(errors)
    for own, (title, count, status, heads) in found:
        assert count == len(own), title
        assert 1 <= len(heads) <= count, title
        assert status.startswith(f"Shown {len(heads)} of {count:,} with "), title
        assert not Counter(heads) - Counter(map(head, own)), title
    assert any(count > len(heads) for _, (_, count, _, heads) in found)  # some are not in the page
    tab.run("document.querySelector('#browser label:not([hidden]) > button').click()")
    assert tab.run("document.querySelector('#browser label > button').parentNode.hidden") is True
    assert tab.run(STATUS).split(" of ")[0] == tab.run(STATUS).split(" ")[2]  # all again
    assert tab.errors == []


def test_who_wants_no_examples_gets_none() -> None:
    result = made_up.result(30)
    data = block(page(result, ErrtaConfig(mode="span", examples=0, top=30)))
    assert data["examples"] == data["sentences"] == []
    assert f"holds none of {len(result.errta.errors)} errors" in data["kept"]


def test_keys_reach_all_and_show_where_they_are(tab: browser.Page, tmp_path: Path) -> None:
    look(tab, tmp_path, page(made_up.result(60)))
    stops = []
    for _ in range(400):
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        stop = tab.run(
            "(() => { const n = document.activeElement, s = getComputedStyle(n); "
            "const label = n.getAttribute('aria-label') ?? n.labels?.[0]?.textContent ?? ''; "
            "const place = n.closest('section')?.id ?? 'top'; "
            "return [n.tagName, n.textContent.slice(0, 30), label, s.outlineStyle, place]; })()"
        )
        if stop[0] == "BODY" or stop in stops[:1]:
            break
        stops.append(stop)
    assert stops[0][:2] == ["A", "Skip to the content"]
    assert {stop[4] for stop in stops} >= {"top", "types", "categories", "heat", "confusion", "examples"}
    assert [stop for stop in stops if stop[3] == "none"] == []  # focus can be seen
    assert [stop for stop in stops if not (stop[1] or stop[2])] == []  # everything has a name
    order = list(dict.fromkeys(stop[4] for stop in stops))
    sections = tab.run("['top', ...[...document.querySelectorAll('section')].map((n) => n.id)]")
    assert order == [place for place in sections if place in order]


def test_a_suspected_label_is_shown_with_its_sentence(tab: browser.Page, tmp_path: Path) -> None:
    kinds = ["菜品"] * 19 + ["城市"]
    gold = {
        f"s{n}": Sentence(f"s{n}", f"第{n}次吃烤鸭", [Entity("烤鸭", kind, len(f"第{n}次吃"), len(f"第{n}次吃") + 2)])
        for n, kind in enumerate(kinds)
    }
    look(tab, tmp_path, page(made_up.scored(gold, {name: Prediction(name) for name in gold}, [])))
    cells = "[...document.querySelectorAll('#table-suspected_annotation tbody tr')].map((r) => [...r.cells]"
    cells += ".map((c) => c.textContent))"
    assert [[row[1], row[2], *row[-2:]] for row in tab.run(cells)] == [["城市", "菜品", "s19", "第19次吃烤鸭"]]


def test_arrows_walk_over_a_heat_map(tab: browser.Page, tmp_path: Path) -> None:
    look(tab, tmp_path, page(overlapping()))
    place = "[n.closest('tr').rowIndex, n.closest('td').cellIndex]"
    places = tab.run(f"[...document.querySelectorAll('#chart-heat tbody button')].map((n) => {place})")
    cells = [(row, column) for row, column in places]
    assert tab.run("[...document.querySelectorAll('#chart-heat tbody button')].map((n) => n.tabIndex)") == [
        0,
        *[-1] * (len(cells) - 1),
    ]
    tab.run("document.querySelector('#chart-heat tbody button').focus()")

    def press(key: str) -> tuple[int, int]:
        tab.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
        row, column = tab.run(f"(() => {{ const n = document.activeElement; return {place}; }})()")
        return row, column

    row, column = cells[0]
    right = [cell for cell in cells if cell[0] == row and cell[1] > column]
    assert press("ArrowRight") == (right[0] if right else cells[0])
    assert press("ArrowLeft") == cells[0]
    assert press("ArrowUp") == cells[0]  # nothing is there
    below = [cell for cell in cells if cell[1] == column and cell[0] > row]
    assert press("ArrowDown") == (below[0] if below else cells[0])
    assert right or below


def test_categories_without_primaries_have_one_level(tab: browser.Page, tmp_path: Path) -> None:
    result = made_up.result(60, 0.9, categories=["movie", "company", "game"])
    look(tab, tmp_path, page(result))
    labels = tab.run("[...document.querySelectorAll('#chart-heat tbody th')].map((n) => n.title)")
    assert set(labels) == {"movie", "company", "game"}
    assert tab.run("document.querySelectorAll('#chart-heat select').length") == 0
    assert tab.run("document.querySelectorAll('#browser select').length") == 2  # type, category
    assert "primary" not in tab.run("document.querySelector('#chart-heat figcaption').textContent")
    title = tab.run("document.querySelector('#chart-heat tbody button').title")
    tab.run("document.querySelector('#chart-heat tbody button').click()")
    category, kind = title.rpartition(":")[0].split("\n")
    assert tab.run(CELL) == f"{kind} · {category} ✕"
    assert "by type and category (3 categories)" in run_page.draw_run_figures(result, {})["errors_by_primary"].title
    assert tab.errors == []


def test_a_word_is_broken_only_where_it_is_longer_than_any_word(tab: browser.Page, tmp_path: Path) -> None:
    heads = tables.columns(tables.TEXT, *(f"column_{n}" for n in range(12)))
    row: list[tables.Cell] = [*["random corporation"] * 6, *["去喝小满 Starbucks"] * 5, "x" * 90]
    made = {"pairs": tables.Table("Pairs", heads, [row])}
    look(tab, tmp_path, report_page.render_summary_page("agreement", "n", [], made, []))
    lines = """[...document.querySelectorAll('tbody tr > *')].map((cell) => {
        const node = cell.firstChild, [from, word] = [/[a-z]+$/i.exec(node.data).index, document.createRange()];
        word.setStart(node, from);
        word.setEnd(node, node.data.length);
        return word.getClientRects().length; })"""
    counts = tab.run(lines)
    assert counts[:-1] == [1] * 11
    assert counts[-1] > 1
    assert tab.run("[...document.querySelectorAll('tbody [lang=zh]')].length") == 5


def test_a_long_text_shows_what_is_around_its_errors(tab: browser.Page, tmp_path: Path) -> None:
    text = "".join(f"第{n}句话。" for n in range(400))
    gold, said = Entity(text[1000:1003], "体验", 1000, 1003), Entity(text[1000:1002], "体验", 1000, 1002)
    far = Entity(text[1900:1902], "品牌", 1900, 1902)
    sentences = {"a": Sentence("a", text, [gold, far]), "b": Sentence("b", text, [])}
    error = ErrtaError("boundary", "a", (gold,), (said,))
    answers = {"a": Prediction("a", [said]), "b": Prediction("b", [])}
    look(tab, tmp_path, page(made_up.scored(sentences, answers, [error, ErrtaError("missing", "a", (far,), ())])))
    lanes = "[...document.querySelectorAll('#browser .example:nth-child(%d) .lane > span')].map((n) => n.innerText)"
    first = tab.run(lanes % 1)
    assert len(first) == 2
    assert all(300 > len(line) > 200 and line.startswith("…") and line.endswith("…") for line in first)
    assert all(text[880:1000] in line for line in first)
    tab.run("document.querySelector('#browser .example:nth-child(1) .gap').click()")
    whole = [line.replace("\u2060", "") for line in tab.run(lanes % 1)]
    assert [line.replace("体验", "").replace("品牌", "") for line in whole] == [text] * 2
    assert len(tab.run(lanes % 2)[0]) < 400  # the other one stays as it is
    assert tab.errors == []


def test_a_phone_shows_charts_in_letters_that_can_be_read_and_f1(tab: browser.Page, tmp_path: Path) -> None:
    phone = {"height": 800, "deviceScaleFactor": 1, "mobile": True}
    tab.call("Emulation.setDeviceMetricsOverride", width=390, **phone)
    look(tab, tmp_path, page(made_up.result(100)))
    assert tab.run("document.documentElement.scrollWidth") <= 390
    assert tab.run("document.querySelector('.chart').getBoundingClientRect().width") >= 560
    right = "document.querySelector('#table-categories %s').getBoundingClientRect().right"
    assert tab.run(right % "td.bar") <= tab.run(right % ".scroll")
    tab.call("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)


def test_a_category_stands_in_the_line_of_its_entity(tab: browser.Page, tmp_path: Path) -> None:
    look(tab, tmp_path, page(made_up.result(300)))
    apart = """[...document.querySelectorAll('#browser .tag')].map((tag) => {
        const [before, own] = [[...tag.previousSibling.getClientRects()].at(-1), tag.getClientRects()];
        return own.length > 1 || Math.abs(own[0].top - before.top) > 14; })"""
    script = f"""(() => {{ const found = [], next = document.querySelector('#browser .pager button:last-child');
        for (;;) {{ found.push(...{apart}); if (next.disabled) return found; next.click(); }} }})()"""
    found = tab.run(script)
    assert len(found) > 300
    assert sum(found) == 0


def test_a_surface_without_letters_is_named(tab: browser.Page, tmp_path: Path) -> None:
    said = Entity("", "体验")
    error = ErrtaError("redundant", "0", (), (said,))
    look(tab, tmp_path, page(made_up.scored({"0": Sentence("0", "好")}, {"0": Prediction("0", [said])}, [error])))
    assert tab.run("document.querySelector('#table-confused_surfaces tbody th').textContent") == "(empty)"


def test_names_in_a_heat_map_stay_apart(tab: browser.Page, tmp_path: Path) -> None:
    names = [f"organization-{what}" for what in ("sportsleague", "sportsteam", "showorganization")]
    names += [f"{'很' * 20}{middle}{'长' * 20}" for middle in "甲乙"]
    look(tab, tmp_path, page(made_up.result(60, 0.9, categories=names)))
    shown = tab.run("[...document.querySelectorAll('#chart-confusion tbody th')].map((n) => [n.title, n.textContent])")
    assert {title for title, _ in shown} == set(names)
    assert len({text for _, text in shown}) == len(names)
    assert [text for title, text in shown if title == names[0]] == names[:1]
    assert all(text in title or "…" in text for title, text in shown)


def test_curves_are_text_that_follows_the_page(tab: browser.Page, tmp_path: Path) -> None:
    look(tab, tmp_path, page(made_up.result(20)))
    said = tab.run("document.querySelector('#curves svg[role=img]').getAttribute('aria-label')")
    assert said.startswith("Scores and loss over optimizer steps; last values: val/f1 50, ")
    assert "val/loss" in said
    words = tab.run("[...document.querySelectorAll('#curves text')].map((n) => n.textContent)")
    assert {"train/loss", "val/f1", "Loss over 5 steps", "optimizer step"} <= set(words)
    ink = "getComputedStyle(document.querySelector('#curves text')).fill"
    assert tab.run(ink) == "rgb(31, 37, 48)"
    tab.scheme("dark")
    assert tab.run(ink) == "rgb(228, 231, 236)"
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run(ink) == "rgb(31, 37, 48)"
    tab.scheme("light")
    assert tab.errors == []


def test_a_report_without_curves_has_no_section_of_them() -> None:
    assert 'href="#curves"' in page(made_up.result(20))
    assert 'href="#curves"' not in page(made_up.result(20), curves={})
    assert 'href="#curves"' not in page(made_up.result(20), curves={"train/learning_rate": [(1, 0.1)]})


def test_a_report_of_a_few_sentences_is_small() -> None:
    names = ("train/loss", "val/loss", "val/f1")
    curves = {name: [(step, 1 / (step + 1)) for step in range(200)] for name in names}
    assert len(page(made_up.result(8), curves=curves).encode()) < 300_000


def test_planted_markup_does_not_run(tab: browser.Page, tmp_path: Path) -> None:
    look(
        tab, tmp_path, page(hostile(), name=IMAGE, created=SCRIPT, details={SCRIPT: IMAGE}, config=END, issues={END: 1})
    )
    assert tab.run("document.querySelectorAll('img, b b, i, script').length") == 2  # data, ours
    assert SCRIPT in tab.run("[...document.querySelectorAll('#curves text')].map((n) => n.textContent).join()")
    assert tab.run("[...document.querySelectorAll('*')].filter((n) => n.hasAttribute('onerror')).length") == 0
    lanes = tab.run("[...document.querySelectorAll('#browser .gold .in')].map((n) => n.textContent)")
    assert sorted(lanes) == sorted(HOSTILE)
    # The labels of the charts show the markup as letters too.
    labels = tab.run("[...document.querySelectorAll('#chart-confusion th')].map((n) => n.textContent)")
    assert "$x$ & <i>" in labels
    assert any(label.startswith("<script>") for label in labels)
    assert tab.errors == []


def test_overlaps_are_marked_in_place(tab: browser.Page, tmp_path: Path) -> None:
    look(tab, tmp_path, page(overlapping()))
    read = """[...document.querySelectorAll('#browser .example')].map((e) => ['gold', 'said'].map((side) => {
        const line = e.querySelector(`.${side} > span`);
        const joined = (nodes) => nodes.map((n) => n.textContent).join('');
        return { text: joined([...line.childNodes].filter((n) => !n.className || n.className.startsWith('in'))),
                 wrong: joined([...line.querySelectorAll('.in.wrong')]),
                 nowhere: [...line.querySelectorAll('.nowhere')].map((n) => n.firstChild.textContent) };
      }))"""
    shown = tab.run(read)
    assert len(shown) == 4
    for sides in shown:
        assert [side["text"] for side in sides] == ["😀去北京大学生物系"] * 2
    wrong = sorted((gold["wrong"], said["wrong"], *said["nowhere"]) for gold, said in shown)
    assert wrong == [("", "学生物"), ("北京", ""), ("北京大学生物系", "京大学生"), ("生物", "", "清华")]
    lines = tab.run(
        "[...document.querySelectorAll('#browser .in')].map((n) => n.style.boxShadow.split('--right').length)"
    )
    assert {1, 2, 3} == set(lines)  # two spans over one letter draw two lines


def test_blanks_at_the_ends_are_shown(tab: browser.Page, tmp_path: Path) -> None:
    gold, said = Entity("好", "体验", 0, 1), Entity("好", "体验 ", 0, 1)
    error = ErrtaError("classification", "0", (gold,), (said,))
    result = made_up.scored({"0": Sentence("0", "好", [gold])}, {"0": Prediction("0", [said])}, [error])
    look(tab, tmp_path, page(result))
    assert "体验 → 体验␣" in tab.run("document.querySelector('#browser .head').textContent")
    assert tab.run("document.querySelector('#browser .said .tag').textContent") == "体验␣"
    assert "体验␣" in tab.run("[...document.querySelectorAll('#table-confusion_pairs td')].map((n) => n.textContent)")


def test_it_works_in_a_sandboxed_frame_and_in_the_dark(tab: browser.Page, tmp_path: Path) -> None:
    text = page(made_up.result(60))
    frame = f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(text)}" style="width:100%;height:800px"></iframe>'
    file = tmp_path / "frame.html"
    file.write_text(f"<!doctype html><html><meta charset=utf-8><body>{frame}", encoding="utf-8")
    tab.errors.clear()
    tab.scheme("dark")
    tab.open(file, framed=True)
    inside = tab.frame()
    assert inside is not None
    tab.run("document.querySelector('nav a[href=\"#examples\"]').click()", contextId=inside)
    assert tab.run("document.querySelectorAll('#browser .example').length", contextId=inside) == 10
    assert tab.run("scrollY", contextId=inside) > 1000
    ink = "getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()"
    assert tab.run(ink, contextId=inside) == "#e4e7ec"
    tab.run("dispatchEvent(new Event('beforeprint'))", contextId=inside)
    assert tab.run(ink, contextId=inside) == "#1f2530"
    tab.run("dispatchEvent(new Event('afterprint'))", contextId=inside)
    assert tab.run(ink, contextId=inside) == "#e4e7ec"
    tab.scheme("light")
    assert tab.run(ink, contextId=inside) == "#1f2530"
    assert tab.errors == []
    assert tab.run("location.href") == file.as_uri()


def test_the_panel_of_scores_shows_nothing_else(tab: browser.Page, tmp_path: Path) -> None:
    curves = {name: [(1, 0.1), (5, 0.5)] for name in ("val/f1", "val/precision", "val/recall", "val/parse_failed")}
    look(tab, tmp_path, page(made_up.result(20), curves={**curves, "train/loss": [(1, 3.0)]}))
    words = tab.run("[...document.querySelectorAll('#curves text')].map((n) => n.textContent)")
    assert "Scores in per cent over 5 steps; best F1 50.00 at step 5" in words
    assert {"val/precision", "train/loss"} <= set(words)
    assert "val/parse_failed" not in words


def test_pieces_of_a_sentence_cover_it_with_its_entities() -> None:
    nested = [Entity("南京大学", "学校", 1, 5), Entity("南京", "地点", 1, 3), Entity("北大", "学校")]
    pieces = report_page.marked_pieces("在南京大学读书", nested)
    assert pieces[:-1] == [("在", False, []), ("南京", True, ["地点"]), ("大学", True, ["学校"]), ("读书", False, [])]
    assert pieces[-1] == ("北大", True, ["学校"])
    assert report_page.marked_pieces("", []) == []


def test_a_summary_page_shows_hostile_text_as_text(tab: browser.Page, tmp_path: Path) -> None:
    hostile = "</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>"
    table = tables.Table("Pairs", tables.columns(tables.TEXT, "one"), [[hostile]])
    look(
        tab,
        tmp_path,
        report_page.render_summary_page("agreement", hostile, [hostile], {"pairs": table}, [("Prompt", hostile)]),
    )
    shown = tab.run("[...document.querySelectorAll('h1, li, td, pre, th[scope=row]')].map((n) => n.textContent.trim())")
    assert [text for text in shown if text == hostile] == [hostile] * 4
    assert tab.errors == []
