"""Scores that say nothing of a system are no success, and what other programs write is scored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT

from omniner.config import compose
from omniner.errors import UserError
from omniner.files import read_json
from omniner.records import Prediction, prediction_to_json
from omniner.registry import ERROR_TYPES, TASKS
from omniner.run import run
from omniner.runs.folder import ALWAYS_WRITTEN, BOOKKEEPING, WRITTEN

GOLD: list[dict[str, Any]] = [
    {"id": "1", "text": "我爱北京", "entities": [{"text": "北京", "category": "地点", "start": 2, "end": 4}]},
    {"id": "2", "text": "去喝咖啡", "entities": []},
]
TEXTS = ("张三在北京走", "去上海了")


def score(folder: Path, lines: list[object], *overrides: str) -> Path:
    for name, items in (("gold.jsonl", GOLD), ("predictions.jsonl", lines)):
        text = "".join((json.dumps(item, ensure_ascii=False) if item else "") + "\n" for item in items)
        (folder / name).write_text(text, encoding="utf-8")
    words = [f"predictions={folder / 'predictions.jsonl'}", f"output_dir={folder / 'out'}", "metrics.bootstrap=50"]
    return run(compose.load(["task=score", "tracking=off", *words, *overrides]))


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([{"id": "1", "raw": "我不知道"}, {"id": "2", "raw": "没有"}], "none of 2 answers can be read"),
        ([{"id": None, "entities": []}], "no prediction could be read"),
        ([{"prompt": "p", "label": "[[", "predict": "[]"}], "0 of 1 sentences could be scored"),
        (
            [{"id": "1", "entities": [{"text": "北京", "category": "地点", "start": 2, "end": 3}]}],
            "none of the 1 predicted",
        ),
        ([{"id": "8", "entities": []}], "no id is one of the gold sentences"),
        ([{"id": "1", "entities": [[2, 4, "地点"]]}, {"id": "2", "entities": []}], "not one predicted entity could be"),
    ],
)
def test_nothing_is_no_success(lines: list[object], found: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=found):
        score(tmp_path, lines)
    assert not (tmp_path / "out" / "scores.json").exists()


def test_columns_of_tags_are_scored_as_seqeval_does(tmp_path: Path) -> None:
    """Also entities that begin with I-, or go on with another category: seqeval's default mode takes both."""
    from seqeval.metrics import classification_report

    rows = {
        "gold": [["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"], ["O", "B-LOC", "I-LOC", "O"]],
        "pred": [["B-PER", "I-PER", "O", "I-LOC", "I-LOC", "O"], ["O", "B-LOC", "I-PER", "O"]],
    }
    for name, tags in rows.items():
        blocks = ["\n".join(map(" ".join, zip(text, of, strict=True))) for text, of in zip(TEXTS, tags, strict=True)]
        (tmp_path / f"{name}.conll").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    files = [f"predictions={tmp_path / 'pred.conll'}", f"gold={tmp_path / 'gold.conll'}"]
    run(compose.load(["task=score", "tracking=off", "metrics.bootstrap=0", f"output_dir={tmp_path / 'out'}", *files]))
    ours = read_json(tmp_path / "out" / "scores.json")["metrics"]
    theirs = classification_report(rows["gold"], rows["pred"], output_dict=True, zero_division=0)
    assert theirs["macro avg"]["f1-score"] == pytest.approx(7 / 12)
    pairs = {"micro": "micro avg", "macro_seen": "macro avg", "weighted": "weighted avg"}
    found = {their: ours[our] for our, their in pairs.items()} | ours["categories"]
    assert found.keys() == theirs.keys()
    for name, row in theirs.items():
        figures = [row["precision"], row["recall"], row["f1-score"], row["support"]]
        assert [found[name][key] for key in ("precision", "recall", "f1", "support")] == pytest.approx(figures), name


@pytest.mark.parametrize("given", [True, False])
def test_the_report_says_what_was_scored_and_shows_no_model(given: bool, tmp_path: Path) -> None:
    words = [f"gold={tmp_path / 'gold.jsonl'}"] if given else []
    folder = score(tmp_path, [{"id": "1", "entities": []}, {"id": "2", "entities": []}], *words)
    page = (folder / "report.html").read_text(encoding="utf-8")
    details = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert details["预测文件"] == str(tmp_path / "predictions.jsonl")
    assert details["标准答案"] == (str(tmp_path / "gold.jsonl") if given else "在预测文件里，或旁边的 gold.jsonl 里")
    assert details["句子"] == "2"
    shown = re.search("<pre>(.*?)</pre>", page, re.DOTALL)
    assert shown is not None
    sections = re.findall("^[a-z_]+(?=:)", shown[1], re.MULTILINE)
    assert sections == ["predictions", "gold", "metrics", "errta", "data", "report"]


def test_both_units_are_kept_and_what_was_odd_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"id": "1", "raw": '[["北京", "地点"], ["上海", "地点"]]'}, {"id": "2", "raw": "没有"}]
    folder = score(tmp_path, lines)
    values = read_json(folder / "metrics.json")
    assert values["test/f1"] == values["test/span/f1"] == values["test/pair/f1"] == pytest.approx(2 / 3)
    assert values["test/pair/f1_low"] <= values["test/pair/f1"] <= values["test/pair/f1_high"]
    assert values["errta/impossible/invented"] == 1
    said = capsys.readouterr().out
    assert "by pair" in said
    assert "primary" not in said, "categories without primaries: the line would repeat the first one"
    assert "no gold could have had: 1 invented" in said
    assert "answers  1 unreadable and 0 repaired, of 2" in said
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "F1（按实体文字与类别）" in page  # the sentences are Chinese
    assert "任何标准答案都不可能有的答案" in page


def test_categories_under_primaries_have_a_line_for_these(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = [{"text": "北京", "category": "地点_城市", "start": 2, "end": 4}]
    (tmp_path / "of_two.jsonl").write_text(
        json.dumps({"id": "1", "text": "我爱北京", "entities": gold}), encoding="utf-8"
    )
    score(tmp_path, [{"id": "1", "raw": '[["北京", "地点_国家"]]'}], f"gold={tmp_path / 'of_two.jsonl'}")
    said = capsys.readouterr().out
    assert "  micro    P   0.00%" in said
    assert "  primary  P 100.00%" in said


def test_reports_of_other_programs(shared: Path, tmp_path: Path) -> None:
    reports = shared / "reports"
    forms = {
        "20-predictions-other-forms": ("gold_cluener.json", ["cluener_predict.json", "doccano_pred.jsonl", "pred.bio"]),
        "27-other-frameworks-predictions": (
            "gold_for_these.jsonl",
            ["ms_swift.jsonl", "openai_batch.jsonl", "predict_is_list.jsonl", "predict_missing_label.jsonl"],
        ),
    }
    for folder, (gold, files) in forms.items():
        for name in files:
            words = [f"predictions={reports / folder / name}", f"gold={reports / folder / gold}"]
            out = run(compose.load(["task=score", "tracking=off", *words, f"output_dir={tmp_path / name}"]))
            micro = read_json(out / "scores.json")["metrics"]["micro"]
            assert (micro["fp"], micro["tp"]) == (0, 2 if folder.startswith("20") else 1), name


BEIJING = {"text": "北京", "label": "地点"}


@pytest.mark.parametrize(
    "lines",
    [
        [{"id": "1", "entities": [BEIJING]}, "", {"id": "2", "entities": []}],
        [[{"id": "1", "entities": [BEIJING]}, {"id": "2", "entities": []}]],
        [{"id": 1, "entities": {"地点": ["北京"]}}, {"id": 2, "entities": {}}],
        [{"id": 1, "entities": '[["北京", "地点"]]'}, {"id": 2, "entities": "[]"}],
        [{"id": 1, "text": "我爱北京", "entities": [[2, 4, "地点"]]}, {"id": 2, "text": "去喝咖啡", "entities": []}],
        [{"id": "1", "response": '[["北京", "地点"]]'}, {"id": "2", "response": "[]"}],
        [
            {"prompt": "找\n我爱北京", "completion": '[["地点", "北京"]]'},
            {"prompt": "找\n去喝咖啡", "completion": "[]"},
        ],
        [{"prompt": "我爱北京", "label": '[["北京", "地点"]]', "predict": '[["地点", "北京"]]'}],
    ],
)
def test_predictions_as_people_write_them(lines: list[object], tmp_path: Path) -> None:
    micro = read_json(score(tmp_path, lines) / "scores.json")["metrics"]["micro"]
    assert (micro["tp"], micro["fp"], micro["fn"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("texts", "issues", "found"),
    [
        (["我爱北京"], {"matched-by-text": 1, "no-prediction": 1}, (1, 0, 0)),
        (["去喝咖啡", "不在这里", "我爱北京"], {"matched-by-text": 1, "unknown-id": 1}, (1, 0, 0)),
        (
            ["我", "不在这里", "没有"],
            {},
            "2 sentences, but predictions.jsonl has 3 lines, and no prompt in it quotes one",
        ),
    ],
)
def test_answers_to_more_or_fewer_sentences_are_matched_by_their_prompts(
    texts: list[str], issues: dict[str, int], found: Any, tmp_path: Path
) -> None:
    said = '[["北京", "地点"]]'
    lines: list[object] = [
        {"prompt": f"找出实体\n{text}", "label": "[]", "predict": said if "北京" in text else "[]"} for text in texts
    ]
    words = f"gold={tmp_path / 'gold.jsonl'}"
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            score(tmp_path, lines, words)
        return
    scores = read_json(score(tmp_path, lines, words) / "scores.json")
    assert scores["issues"] == issues
    micro = scores["metrics"]["micro"]
    assert (micro["tp"], micro["fp"], micro["fn"]) == found


@pytest.mark.parametrize("named", [[], ["data.name=shop"]])
def test_the_format_that_is_said_holds_for_gold(named: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gold\.jsonl"):
        score(tmp_path, GOLD, f"gold={tmp_path / 'gold.jsonl'}", "data.format=conll", *named)


@pytest.mark.parametrize("entity", [[2, 3, "地点"], {"start": 2, "end": 3, "label": "地点"}])
@pytest.mark.parametrize("key", ["entities", "label"])
def test_predictions_written_as_gold_is_are_read_as_gold_is(entity: object, key: str, tmp_path: Path) -> None:
    lines = [{"id": "1", "text": "我爱北京", key: [entity]}, {"id": "2", "text": "去喝咖啡", key: []}]
    (tmp_path / "inclusive.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    out = score(tmp_path, list(lines), f"gold={tmp_path / 'inclusive.jsonl'}", "data.offsets=inclusive")
    scores = read_json(out / "scores.json")
    assert (scores["metrics"]["micro"]["f1"], scores["issues"]) == (1, {"offset-units": 1})
    (issue,) = (out / "issues.jsonl").read_text(encoding="utf-8").splitlines()
    assert "offsets taken as inclusive, as data.offsets says" in issue


@pytest.mark.parametrize("name", [{"id": "1"}, {}])
@pytest.mark.parametrize(("surface", "f1", "issues"), [({"text": "北京"}, 1, {}), ({}, 0, {"offset-units": 1})])
def test_surfaces_tell_the_offsets_of_predictions_and_without_them_gold_does(
    surface: dict[str, str], f1: float, issues: dict[str, int], name: dict[str, str], tmp_path: Path
) -> None:
    gold, said = (
        {**name, "text": "我爱北京吗", "entities": [entity]}
        for entity in ({"start": 2, "end": 3, "label": "地点"}, {"start": 2, "end": 4, "label": "地点", **surface})
    )
    (tmp_path / "inclusive.jsonl").write_text(json.dumps(gold), encoding="utf-8")
    out = score(tmp_path, [said], f"gold={tmp_path / 'inclusive.jsonl'}", "data.offsets=inclusive")
    scores = read_json(out / "scores.json")
    assert (scores["metrics"]["micro"]["f1"], scores["issues"]) == (f1, issues)


def test_places_that_are_none_but_by_the_offsets_of_gold_are_read(tmp_path: Path) -> None:
    line = {"text": "我在京", "label": [[2, 2, "地点"]]}
    (tmp_path / "inclusive.jsonl").write_text(json.dumps(line), encoding="utf-8")
    out = score(tmp_path, [line], f"gold={tmp_path / 'inclusive.jsonl'}", "data.offsets=inclusive")
    assert read_json(out / "scores.json")["metrics"]["micro"]["f1"] == 1


def test_wrong_places_in_predictions_are_errors_of_the_system(tmp_path: Path) -> None:
    gold, said = (
        {
            "text": "我爱北京",
            "entities": [{"text": "我爱北京"[at], "start": n, "end": n + 1, "label": "字"} for at, n in places],
        }
        for places in (((0, 0), (1, 1), (2, 2)), ((0, 0), (1, 3), (2, 1)))
    )
    (tmp_path / "placed.jsonl").write_text(json.dumps(gold), encoding="utf-8")
    scores = read_json(score(tmp_path, [said], f"gold={tmp_path / 'placed.jsonl'}") / "scores.json")
    assert scores["issues"] == {"offset-mismatch": 2}


def score_columns(folder: Path, gold: list[str], said: list[str], *overrides: str) -> dict[str, Any]:
    for name, rows in (("gold.bio", gold), ("said.bio", said)):
        (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = [f"predictions={folder / 'said.bio'}", f"gold={folder / 'gold.bio'}", f"output_dir={folder / 'out'}"]
    out = run(compose.load(["task=score", "tracking=off", *words, *overrides]))
    scores: dict[str, Any] = read_json(out / "scores.json")
    return scores


GOLD_AND_SAID = ["我 O B-地点", "爱 O O", "北 B-地点 O", "京 I-地点 O"]  # as conlleval has it: the prediction is wrong


@pytest.mark.parametrize("column", [2, 3])
def test_gold_in_a_predictions_file_is_not_taken_for_the_prediction(column: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"said\.bio:1: columns 2 and 3 both hold tags.*one of them in a file of pred"):
        score_columns(tmp_path, GOLD_AND_SAID, GOLD_AND_SAID, f"data.tag_column={column}")


def test_the_tag_column_is_that_of_gold(tmp_path: Path) -> None:
    said = ["我 O", "爱 O", "北 B-地点", "京 I-地点"]
    assert score_columns(tmp_path, GOLD_AND_SAID, said, "data.tag_column=2")["metrics"]["micro"]["f1"] == 1


@pytest.mark.parametrize("corpus", ["weibo", "msra"])
def test_predictions_of_another_form_than_the_corpus_are_no_issue(corpus: str, tmp_path: Path) -> None:
    glue = corpus == "weibo"
    tagged = [("我", "O"), ("爱", "O"), ("北", "B-LOC"), ("京", "I-LOC"), ("沪", "B-LOC")]
    gold = [f"{token}{'0' if glue else ''}\t{tag}" for token, tag in tagged]
    said = ["我\tO", "爱\tO", "北\tB-LOC", "京\tE-LOC", "沪\tS-LOC"]
    scores = score_columns(tmp_path, gold, said, f"data={corpus}")
    assert (scores["metrics"]["micro"]["f1"], scores["issues"]) == (1, {})


RESULTS = (ROOT / "docs" / "reference" / "results.md").read_text(encoding="utf-8")


def rows_of(section: str) -> dict[str, set[str]]:
    """The rows of a table of the page: what the first cell names -> all that the row names."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", RESULTS, flags=re.DOTALL | re.MULTILINE)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return {
        name: set(re.findall(r"`([^`]+)`", row))
        for row in rows
        for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    }


def unexplained(
    value: object, rows: dict[str, set[str]], path: str = "", known: frozenset[str] = frozenset()
) -> list[str]:
    """The keys of `scores.json`, dotted, that have no row and are not named in the row of what holds them."""
    if not isinstance(value, dict):
        return []
    of_gold = path in ("metrics.categories", "metrics.primaries", "errta.counts", "errta.paper_counts", "errta.units")
    found = []
    for key, inner in value.items():
        name = f"{path}.{key}".strip(".")
        if (
            not of_gold
            and name not in rows
            and key not in known
            and not any(row.startswith(f"{name}.") for row in rows)
        ):
            found.append(name)
        found += unexplained(inner, rows, name, known | rows.get(name, set()))
    return found


def test_the_page_on_results_explains_all_that_is_written(tmp_path: Path) -> None:
    folder = score(tmp_path, [{"id": "1", "raw": '[["北京", "地点"], ["上海", "地点"]]'}, {"id": "2", "raw": "没有"}])
    tables = rows_of("Tables")
    for path in sorted((folder / "tables").iterdir()):
        columns = path.read_text(encoding="utf-8").splitlines()[0].split(",")
        assert set(columns) - ERROR_TYPES.keys() <= tables[path.stem], path.name
    scores = read_json(folder / "scores.json")
    rows = rows_of("scores.json")
    scored = {"precision", "recall", "f1", "support", "tp", "fp", "fn"}  # named above the table
    assert unexplained(scores, rows, known=frozenset(scored)) == []
    assert unexplained({"metrics": {"new": 1}, "errta": {"fn": 1, "odd": 1}}, rows) == ["metrics.new", "errta.odd"]
    fields = {*prediction_to_json(Prediction("1", [], "a", "ok", "b", "c", "d"), "text"), "post_id", "meta"}
    assert fields <= set().union(*rows_of("predictions.jsonl and gold.jsonl").values())


def test_the_page_on_results_names_all_files() -> None:
    named = set(re.findall(r"`([^`\n]+)`", RESULTS.partition("## predictions.jsonl")[0]))
    assert {*ALWAYS_WRITTEN, *BOOKKEEPING, WRITTEN} <= named
    assert [(task, name) for task in TASKS for name in TASKS[task].outputs if name not in named] == []
