from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import TEXT, bare, sides

from omniner.answers import CUT, prediction_from_answer
from omniner.config.groups import ErrtaConfig, MetricsConfig
from omniner.errors import UserError
from omniner.records import (
    Entity,
    Prediction,
    Sentence,
    prediction_to_json,
    sentence_to_json,
    to_line,
    with_score,
    without_unsure,
)
from omniner.registry import ERROR_TYPES
from omniner.scoring import predictions
from omniner.scoring.metrics import ScoreResult
from omniner.scoring.predictions import read_predictions
from omniner.scoring.scorer import choose_scale, score_loaded, score_records, settle_scale
from omniner.scoring.units import compare_units, find_impossible, locate_predictions
from omniner.wording import translated

METRICS = MetricsConfig(unit="auto", profile="own", on_parse_failure="empty", bootstrap=0, confidence=0.95, seed=0)
OFFICIAL = dataclasses.replace(METRICS, profile="official")
ERRTA = ErrtaConfig(mode="auto", examples=5, top=5)
SPAN = dataclasses.replace(ERRTA, mode="span")

GOLD = [
    Sentence("a", "看2024奥运会", [Entity("2024奥运会", "赛事", 1, 8)]),
    Sentence("b", "我爱北京", [Entity("北京", "地点", 2, 4)]),
]
SAID = [
    Prediction("a", [Entity("2024", "时间", 1, 5), Entity("奥运会", "赛事", 5, 8)]),
    Prediction("b", [Entity("北京", "地点", 2, 4)]),
]
GENERATED = [
    {"prompt": "p", "label": '[["面膜", "品类_产品"]]', "predict": '[["面膜", "品牌"]]'},
    {"prompt": "p", "label": '[["初屿", "品牌"]]', "predict": '```[["初屿", "品牌"]]```'},
    {"prompt": "p", "label": '[["除湿", "功能"]]', "predict": "没有"},
]


def write(path: Path, items: list[Any]) -> Path:
    path.write_text("".join(f"{to_line(item) if isinstance(item, dict) else item}\n" for item in items), "utf-8")
    return path


def codes(result: ScoreResult) -> list[str]:
    return [issue.code for issue in result.issues]


def test_spans_where_everything_has_offsets() -> None:
    result = score_records(GOLD, SAID, METRICS, ERRTA)
    assert (result.unit, result.mode) == ("span", "span")
    assert result.metrics.micro[4:] == (1, 2, 1)
    assert result.errta.counts["split"] == result.errta.counts["split_merge"] == 1
    assert result.errta.by_type["split"] == (1, 1, 2)


@pytest.mark.parametrize("placed", [True, False])
def test_the_scale_follows_from_gold_alone(placed: bool) -> None:
    gold = GOLD if placed else [Sentence(s.id, s.text, bare(s.entities)) for s in GOLD]
    odd = [Entity("北京", "天气"), Entity("京", "地点"), Entity("上海", "地点"), Entity("我爱北京", "无", 0, 4)]
    found = [
        score_records(gold, said, METRICS, ERRTA)
        for said in (SAID, [], [Prediction(p.id, bare(p.entities)) for p in SAID], [Prediction("b", odd)])
    ]
    assert {(result.unit, result.mode) for result in found} == {("span", "span") if placed else ("pair", "official")}
    assert found[0].metrics == found[2].metrics, "the same answers, said with places and without"
    assert {tuple(result.units) for result in found} == {("pair", "span") if placed else ("pair",)}


def test_a_scale_is_settled_only_where_parts_of_gold_might_choose_another() -> None:
    assert settle_scale(GOLD, METRICS, ERRTA) == (METRICS, ERRTA)
    assert all(choose_scale([one], METRICS, ERRTA) == ("span", "span") for one in GOLD)
    mixed = [*GOLD, Sentence("m", "我爱北京", [Entity("北京", "地点")])]
    metrics, errta = settle_scale(mixed, METRICS, ERRTA)
    assert (metrics.unit, errta.mode) == ("pair", "official")
    assert choose_scale(GOLD, metrics, errta) == ("pair", "official")


def test_answers_that_no_gold_could_have_had_are_false_positives_with_a_name() -> None:
    text = "小满家的ABC和小满家"
    gold = [
        Sentence(
            "a", text, [Entity("小满家", "品牌", 0, 3), Entity("ABC", "产品", 4, 7), Entity("小满家", "品牌", 8, 11)]
        )
    ]
    said = [("小满家", "品牌")] * 4 + [("ＡＢＣ", "产品"), ("家 的", "产品"), ("大理", "地点"), ("和", "颜色")]
    # A pair that repeats an entity is that entity; what claims a place that is not its own is one too many.
    placed = [Entity("小满家", "品牌", 0, 3), Entity("小满家", "品牌", 1, 4)]
    answer = Prediction("a", [*(Entity(*pair) for pair in said), *placed])
    result = score_records(gold, [answer], METRICS, ERRTA)
    assert (result.unit, result.metrics.micro[4:]) == ("span", (2, 5, 1))
    assert result.errta.impossible_counts == {"invented": 1, "respelt": 2, "repeated": 1, "unknown_category": 1}
    assert {kind: count.errors for kind, count in result.errta.by_type.items() if count.errors} == {
        "spelling": 1,  # ＡＢＣ is gold's ABC
        "redundant": 4,
    }
    assert result.units["pair"].micro[4:] == (1, 4, 1)
    known = score_records(gold, [answer], METRICS, ERRTA, categories=["颜色", "地点"])
    assert known.errta.impossible_counts["unknown_category"] == 0
    assert known.metrics == result.metrics


def test_offsets_that_are_not_those_of_the_text() -> None:
    inclusive = [Prediction("b", [Entity("北京", "地点", 2, 3), Entity("我", "人物", 0, 1)])]
    result = score_records(GOLD, inclusive, METRICS, ERRTA)
    assert (codes(result), result.metrics.micro.tp) == (["no-prediction", "offsets-do-not-fit"], 1)
    with pytest.raises(UserError, match="none of the 1 predicted entities stands where its offsets say"):
        score_records(GOLD, [Prediction("b", [Entity("北京", "地点", 2, 3)])], METRICS, ERRTA)
    spelt = [Sentence("a", "买Nanci", [Entity("Nanci", "品牌", 1, 6)])]
    assert (
        score_records(spelt, [Prediction("a", [Entity("nan ci", "品牌", 1, 6)])], METRICS, ERRTA).metrics.micro.f1 == 1
    )


def places(*said: Entity) -> list[tuple[int | None, int | None]]:
    """Where these stand in a sentence in which 小满 stands twice."""
    ((found,), issues) = locate_predictions([Sentence("s", "小满喝小满", [])], [said])
    assert issues == []
    return [(entity.start, entity.end) for entity in found]


def test_a_surface_without_a_place_takes_one_that_is_free() -> None:
    assert places(Entity("小满", "a", 0, 2), Entity("小满", "b")) == [(0, 2), (3, 5)]


def test_a_surface_that_is_listed_too_often_is_the_first_one_again() -> None:
    assert places(*[Entity("小满", "a")] * 3) == [(0, 2), (3, 5), (0, 2)]


def test_a_known_surface_that_repeats_nothing_is_no_impossible_answer() -> None:
    """By pair an answer without a place may be right, so that it is not one too many."""
    comparison = compare_units([[Entity("好", "a", 2, 3)]], [[Entity("小满", "a")]], "pair")
    assert find_impossible(comparison, ["s"], ["小满好喝"], {"a"}) == []


def test_a_surface_respelt_at_its_place_is_right_by_either_unit() -> None:
    """As tokenizers write what they give offsets of; the setting chooses what is shown in full, not what it is."""
    gold = [Sentence("1", "用Apple手机在APPLE", [Entity("Apple", "品牌", 1, 6), Entity("APPLE", "地点", 9, 14)])]
    said = [Prediction("1", [Entity("apple", "品牌", 1, 6), Entity("apple", "品牌", 9, 14)])]
    both = [score_records(gold, said, dataclasses.replace(METRICS, unit=unit), ERRTA) for unit in ("span", "pair")]
    assert [one.unit for one in both] == ["span", "pair"]
    assert both[0].units == both[1].units
    assert both[0].units["pair"].micro[4:] == (1, 1, 1)
    assert both[0].errta.errors == both[1].errta.errors
    assert both[0].predictions == both[1].predictions


@pytest.mark.parametrize("surface", ["null", "5", "1.5", "true"])
def test_a_surface_that_is_no_text_is_an_invented_one_of_the_official_profile(surface: str) -> None:
    """The scripts count it, and nothing stops where the text of the sentence is known, too."""
    answer = Prediction("b", [], f'[[{surface}, "地点"]]', "failed", "no pairs")
    result = score_records(GOLD[1:], [answer], OFFICIAL, ERRTA)
    assert result.metrics.micro[4:] == (0, 1, 1)
    assert result.errta.impossible_counts["invented"] == 1


def test_a_number_is_not_the_text_that_spells_it() -> None:
    """Where both are of one primary, the relaxed score must not take them for each other either."""
    gold = [Sentence("a", "看5个", [Entity("5", "数量", 1, 2)])]
    result = score_records(gold, [Prediction("a", [], '[[5, "数量"]]', "failed", "no pairs")], OFFICIAL, ERRTA)
    assert result.metrics.micro[4:] == result.metrics.relaxed[4:] == (0, 1, 1)


def test_what_cannot_be_had_is_a_user_error() -> None:
    unplaced = [Sentence(s.id, s.text, bare(s.entities)) for s in GOLD]
    with pytest.raises(UserError, match=r"metrics\.unit"):
        score_records(unplaced, SAID, dataclasses.replace(METRICS, unit="span"), ERRTA)
    with pytest.raises(UserError, match=r"metrics\.unit"):
        score_records(GOLD, SAID, dataclasses.replace(OFFICIAL, unit="span"), ERRTA)
    mute = [Sentence(s.id, "", bare(s.entities)) for s in GOLD]
    with pytest.raises(UserError, match=r"errta\.mode"):
        score_records(mute, SAID, METRICS, SPAN)
    with pytest.raises(UserError, match="same id"):
        score_records([*GOLD, GOLD[0]], SAID, METRICS, ERRTA)


@settings(max_examples=60, deadline=None)
@given(st.lists(sides(), max_size=6), st.integers(0, 30))
def test_both_units_are_those_of_a_comparison_of_their_own(corpus: list[Any], draws: int) -> None:
    gold = [Sentence(str(k), TEXT, g) for k, (g, _) in enumerate(corpus)]
    said = [Prediction(str(k), p) for k, (_, p) in enumerate(corpus)]
    metrics = dataclasses.replace(METRICS, bootstrap=draws)
    by_span = score_records(gold, said, dataclasses.replace(metrics, unit="span"), ERRTA)
    by_pair = score_records(gold, said, dataclasses.replace(metrics, unit="pair"), ERRTA)
    alone = dataclasses.replace(by_pair.units["pair"], intervals=by_pair.metrics.intervals)
    assert by_span.units["pair"] == alone
    if corpus and any(sentence.entities for sentence in gold):
        assert by_pair.units == by_span.units


def test_missing_unknown_and_double_predictions_are_issues() -> None:
    said = [SAID[1], Prediction("b", []), Prediction("x", [Entity("y", "z", 0, 1)])]
    result = score_records(GOLD, said, METRICS, ERRTA)
    assert sorted(codes(result)) == ["duplicate-prediction", "no-prediction", "unknown-id"]
    assert result.metrics.micro[4:] == (1, 0, 1)
    assert (result.parse.sentences, result.parse.scored) == (2, 2)


def test_unreadable_answers_are_empty_or_dropped() -> None:
    said = [SAID[0], Prediction("b", [], "我不知道", "failed", "not JSON")]
    result = score_records(GOLD, said, METRICS, ERRTA)
    assert (result.parse.failed, result.parse.scored, result.metrics.micro.fn) == (1, 2, 2)
    assert result.parse.failures[0].raw == "我不知道"
    result = score_records(GOLD, said, dataclasses.replace(METRICS, on_parse_failure="drop"), ERRTA)
    assert (result.parse.failed, result.parse.scored, result.metrics.micro.fn) == (1, 1, 1)
    assert codes(result) == ["dropped"]


@pytest.mark.parametrize("profile", ["own", "official"])
def test_answers_that_were_cut_are_counted(profile: str) -> None:
    said = [SAID[0], dataclasses.replace(SAID[1], reason=f"too-long-truncated; {CUT}")]
    assert score_records(GOLD, said, dataclasses.replace(METRICS, profile=profile), ERRTA).parse.cut == 1


@pytest.mark.parametrize("profile", ["own", "official"])
def test_what_was_left_out_for_its_confidence_is_counted_and_not_read_again(profile: str) -> None:
    gold = [Sentence("a", "世界杯的茶", [Entity("世界杯", "赛事", 0, 3)])]
    found = [with_score(Entity("世界杯", "赛事", 0, 3), 0.95), with_score(Entity("茶", "饮品", 4, 5), 0.25)]
    said = without_unsure(Prediction("a", found, '[["世界杯", "赛事"], ["茶", "饮品"]]'), 0.5)
    result = score_records(gold, [said], OFFICIAL if profile == "official" else METRICS, ERRTA)
    assert (result.metrics.micro.tp, result.metrics.micro.fp, result.parse.to_json()["left_out"]) == (1, 0, 1)
    assert [(row.score, row.precision) for row in result.calibration] == [(0.95, 1)]
    assert "left_out" not in score_records(gold, [Prediction("a", found)], METRICS, ERRTA).parse.to_json()


@pytest.mark.parametrize("raw", ['[["世界杯", "赛事"], ["茶\\\\", "饮品"]]', ""])
def test_the_official_rules_keep_the_confidences_of_answers_that_they_read_themselves(raw: str) -> None:
    gold = [Sentence("a", "世界杯茶\\", [Entity("世界杯", "赛事", 0, 3)])]
    found = [with_score(Entity("世界杯", "赛事", 0, 3), 0.95), with_score(Entity("茶\\", "饮品", 3, 5), 0.25)]
    rows = score_records(gold, [Prediction("a", found, raw)], OFFICIAL, ERRTA).calibration
    assert [(row.score, row.precision) for row in rows] == [(0.25, 0), (0.95, 1)]


def test_why_the_official_rules_drop_an_answer_is_said_in_both_languages(tmp_path: Path) -> None:
    loaded = read_predictions(write(tmp_path / "generated_predictions.jsonl", GENERATED), None)
    failures = score_loaded(loaded, OFFICIAL, ERRTA).parse.failures
    said = {(one.reason, translated(one.reason, "zh")) for one in failures}
    assert said == {("predict unreadable: sample dropped", "predict 无法读取，样本被舍去")}


def test_the_stable_names_of_scores_json() -> None:
    result = score_records(GOLD, SAID, dataclasses.replace(METRICS, bootstrap=20), ERRTA)
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert content["metrics"]["micro"].keys() >= {"precision", "recall", "f1", "tp", "fp", "fn"}
    for name in ("macro", "macro_seen", "weighted"):
        assert content["metrics"][name].keys() >= {"precision", "recall", "f1"}
    assert content["metrics"]["categories"]["赛事"].keys() >= {"precision", "recall", "f1", "support"}
    assert content["metrics"]["primaries"]["赛事"]["relaxed"]["support"] == 1
    assert len(content["metrics"]["intervals"]["micro.f1"]) == 2
    assert content["errta"]["counts"].keys() == set(ERROR_TYPES)
    assert content["units"]["span"]["micro"] == content["metrics"]["micro"]
    assert content["units"].keys() == {"pair", "span"}
    assert len(content["units"]["pair"]["intervals"]["micro.f1"]) == 2
    assert content["overlap"].keys() == {"strict", "exact", "partial", "type"}
    assert content["overlap"]["partial"].keys() >= {"precision", "recall", "f1", "correct", "partial"}
    assert content["parse"].keys() == {"sentences", "scored", "errta_read", "failed", "repaired", "cut"}
    assert content["timing"].keys() == {"read", "metrics", "errta"}
    assert content["signature"].startswith("profile:own|unit:span|")
    assert set(result.primary) == set(result.metrics.categories)


def test_the_signature_follows_data_and_settings_and_nothing_else() -> None:
    signature = score_records(GOLD, SAID, METRICS, ERRTA).signature
    assert score_records(list(GOLD), [*reversed(SAID)], METRICS, ERRTA).signature == signature
    other = [SAID[0], Prediction("b", [Entity("北京", "人物", 2, 4)])]
    moved = [SAID[0], Prediction("b", [Entity("北京", "地点", 0, 2)])]
    changed = [
        score_records(GOLD, other, METRICS, ERRTA),
        score_records(GOLD, moved, METRICS, ERRTA),
        score_records(GOLD[:1], SAID[:1], METRICS, ERRTA),
        score_records(GOLD, SAID, dataclasses.replace(METRICS, unit="pair"), ERRTA),
        score_records(GOLD, SAID, dataclasses.replace(METRICS, bootstrap=3), ERRTA),
    ]
    assert len({signature, *(result.signature for result in changed)}) == 6


@settings(max_examples=60, deadline=None)
@given(st.lists(sides(), max_size=6), st.sampled_from(["pair", "span"]), st.sampled_from(["official", "span"]))
def test_identity_holds_in_every_mode(corpus: list[Any], unit: str, mode: str) -> None:
    gold = [Sentence(str(k), TEXT, g) for k, (g, _) in enumerate(corpus)]
    said = [Prediction(str(k), p) for k, (_, p) in enumerate(corpus)]
    metrics, errta = dataclasses.replace(METRICS, unit=unit), dataclasses.replace(ERRTA, mode=mode)
    result = score_records(gold, said, metrics, errta)
    assert sum(len(error.gold) for error in result.errta.errors) == result.errta.fn
    assert sum(len(error.predicted) for error in result.errta.errors) == result.errta.fp
    if result.errta.unit == unit:
        assert (result.errta.tp, result.errta.fp, result.errta.fn) == result.metrics.micro[4:]


@settings(max_examples=60, deadline=None)
@given(st.lists(sides(), min_size=1, max_size=4))
def test_the_profiles_agree_on_well_formed_pairs(corpus: list[Any]) -> None:
    gold = [Sentence(str(k), TEXT, bare(g)) for k, (g, _) in enumerate(corpus)]
    said = [Prediction(str(k), bare(p)) for k, (_, p) in enumerate(corpus)]
    pair, rules = dataclasses.replace(METRICS, unit="pair"), dataclasses.replace(ERRTA, mode="official")
    own, official = (score_records(gold, said, metrics, rules) for metrics in (pair, OFFICIAL))
    assert own.metrics == official.metrics
    assert own.errta == official.errta


def test_generated_predictions_bring_their_gold(tmp_path: Path) -> None:
    path = write(tmp_path / "generated_predictions.jsonl", GENERATED)
    loaded = predictions.read_predictions(path, None)
    own = score_loaded(loaded, METRICS, ERRTA)
    assert (own.parse.failed, own.parse.repaired, own.parse.scored) == (1, 1, 3)
    assert own.metrics.micro[4:] == (1, 1, 2)
    official = score_loaded(loaded, OFFICIAL, ERRTA)
    assert (official.parse.scored, official.parse.errta_read, official.metrics.micro[4:]) == (1, 1, (0, 1, 1))
    assert own.timing["read"] > 0


def test_texts_and_gold_from_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path / "generated_predictions.jsonl", GENERATED[:2])
    texts = [{"instruction": "i", "input": text, "output": "[]"} for text in ("面膜好", "初屿")]
    (tmp_path / "test.json").write_text(json.dumps(texts), "utf-8")
    loaded = predictions.read_predictions(path, None)
    assert [sentence.text for sentence in loaded.gold] == ["面膜好", "初屿"]
    assert score_loaded(loaded, METRICS, SPAN).errta.counts["classification"] == 1
    corpus = write(
        tmp_path / "corpus.jsonl",
        [{"id": "x", "text": "面膜好", "entities": [], "post_id": "p"}, {"id": "y", "text": "初屿", "entities": []}],
    )
    loaded = predictions.read_predictions(path, corpus)
    assert [sentence.post_id for sentence in loaded.gold] == ["p", None]
    assert score_loaded(loaded, METRICS, ERRTA).metrics.micro[4:] == (0, 2, 0)
    assert score_loaded(loaded, OFFICIAL, ERRTA).metrics.micro[4:] == (0, 1, 1), "the scripts read the labels"
    write(corpus, [{"id": "x", "text": "面膜好", "entities": []}])
    with pytest.raises(UserError, match="1 sentence, but"):
        predictions.read_predictions(path, corpus)
    (tmp_path / "test.json").write_text(json.dumps(texts[:1]), "utf-8")
    assert [issue.code for issue in predictions.read_predictions(path, None).issues] == ["label-repaired", "test-json"][
        1:
    ]


def test_gold_in_another_order_than_labels_without_prompts_is_refused(tmp_path: Path) -> None:
    names = ["小满", "小美", "初屿", "花西"]
    label = json.dumps([["{}", "品牌"]], ensure_ascii=False)
    lines = [{"label": label.replace("{}", name), "predict": label.replace("{}", name)} for name in names]
    path = write(tmp_path / "generated_predictions.jsonl", lines)
    found = [{"text": name, "category": "牌子", "start": 1, "end": 3} for name in names]
    gold = [{"id": one["text"], "text": f"喝{one['text']}", "entities": [one]} for one in found]
    corrected = [*gold[:2], {"id": "c", "text": "喝茶", "entities": []}, gold[3]]
    for fitting in (gold, corrected):
        assert len(predictions.read_predictions(path, write(tmp_path / "gold.jsonl", fitting)).gold) == 4
    with pytest.raises(
        UserError, match=r"4 of 4 labels .* in their place does not hold, first in line 1\. Put gold in"
    ):
        predictions.read_predictions(path, write(tmp_path / "gold.jsonl", [*gold[1:], gold[0]]))


@pytest.mark.parametrize("text", ["今天去喝小满", "今天去cafe\u0301喝小满"])  # the accent is a character of its own
@pytest.mark.parametrize(
    "answer",
    [
        [("小满", "品牌"), ("小满", "品牌")],
        [("小满", "品牌"), ("小满", "时间"), ("小满", "品牌"), ("小满", "时间")],
        [("caf\u00e9", "地点"), ("小满", "品牌")],
        [("大满", "品牌"), ("大满", "品牌"), ("小满", "品牌")],
        [("今天", "时间"), ("小", "品牌"), ("小", "品牌"), ("今天", "时间")],
        [("品牌", "小满")],
        "小满（品牌）",
        "品牌：小满",
    ],
)
@pytest.mark.parametrize("unit", ["span", "pair"])
def test_an_answer_scores_the_same_whoever_reads_it(
    text: str, answer: list[tuple[str, str]] | str, unit: str, tmp_path: Path
) -> None:
    start = text.index("小满")
    entities = [Entity("小满", "品牌", start, start + 2)]
    if "cafe" in text:
        entities.append(Entity("cafe\u0301", "地点", 3, 8))
    gold = [Sentence("1", text, entities)]
    raw = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    label = raw if isinstance(answer, str) else json.dumps([entity[:2] for entity in entities])
    (tmp_path / "raw.jsonl").write_text(json.dumps({"id": "1", "raw": raw}), encoding="utf-8")
    (tmp_path / "generated_predictions.jsonl").write_text(
        json.dumps({"prompt": text, "label": label, "predict": raw}), encoding="utf-8"
    )
    metrics, told = dataclasses.replace(METRICS, unit=unit), [entity.category for entity in entities]
    own = score_records(gold, [prediction_from_answer(gold[0], raw, "", "hf", categories=told)], metrics, ERRTA)
    read = [
        score_loaded(read_predictions(path, gold), metrics, ERRTA)
        for path in (tmp_path / "raw.jsonl", tmp_path / "generated_predictions.jsonl")
    ]
    assert [one.metrics.to_json() for one in read] == [own.metrics.to_json()] * 2
    assert [one.units for one in read] == [own.units] * 2
    assert [one.errta.by_type for one in read] == [own.errta.by_type] * 2


def test_our_own_lines_with_gold_beside_them(tmp_path: Path) -> None:
    path = write(tmp_path / "predictions.jsonl", [prediction_to_json(prediction) for prediction in SAID])
    with pytest.raises(UserError, match=r"gold\.jsonl"):
        predictions.read_predictions(path, None)
    write(tmp_path / "gold.jsonl", [sentence_to_json(sentence) for sentence in GOLD])
    loaded = predictions.read_predictions(path, None)
    assert (loaded.gold, loaded.predictions, loaded.issues) == (GOLD, SAID, [])
    assert [predictions.prediction_from_line(line) for line in path.read_text("utf-8").splitlines()] == SAID
    other = write(tmp_path / "other.jsonl", [sentence_to_json(dataclasses.replace(s, id=f"no-{s.id}")) for s in GOLD])
    with pytest.raises(UserError, match="no id is one"):
        predictions.read_predictions(path, other)


def test_broken_lines_are_issues_with_their_line(tmp_path: Path) -> None:
    deep = '{"id": "d", "entities": ' + "[" * 100_000 + "]" * 100_000 + "}"
    lines = [
        prediction_to_json(SAID[1]),
        "{broken",
        deep,
        {"id": None, "entities": []},
        {
            "id": "a",
            "entities": [["2024奥运会", "赛事"], {"text": 5}, {"text": "x", "category": "y", "start": 9, "end": 2}],
        },
        {"id": "c", "entities": "none"},
        {"id": "e", "raw": '[["北京", "地点"],]'},
        "[]",
    ]
    write(tmp_path / "gold.jsonl", [sentence_to_json(sentence) for sentence in GOLD])
    loaded = predictions.read_predictions(write(tmp_path / "predictions.jsonl", lines), None)
    found = [(issue.code, issue.line) for issue in loaded.issues]
    assert found == [
        ("bad-line", 2),
        ("bad-line", 3),
        ("bad-line", 4),
        ("bad-entity", 5),
        ("bad-offsets", 5),
        ("bad-entities", 6),
        ("bad-line", 8),
    ]
    answers = {prediction.id: prediction for prediction in loaded.predictions}
    assert answers["a"].entities == [Entity("2024奥运会", "赛事"), Entity("x", "y")]
    assert (answers["e"].parse, answers["e"].entities) == ("repaired", [Entity("北京", "地点")])


def test_places_outside_their_text_are_no_entities(tmp_path: Path) -> None:
    """A slice would make a shorter word of them, or count from the end."""
    write(tmp_path / "gold.jsonl", [sentence_to_json(sentence) for sentence in GOLD])
    places = [{"start": 2, "end": 9, "label": "地点"}, [-2, 4, "地点"], [2, 4, "地点"]]
    path = write(tmp_path / "p.jsonl", [{"id": "b", "text": "我爱北京", "entities": places}])
    loaded = predictions.read_predictions(path, None)
    assert [answer.entities for answer in loaded.predictions] == [[Entity("北京", "地点", 2, 4)]]
    assert [str(issue.message) for issue in loaded.issues] == [
        "[2, 9) is outside the text of 4 characters; left out",
        "[-2, 4) is outside the text of 4 characters; left out",
    ]
    assert [issue.code for issue in loaded.issues] == ["offset-range"] * 2
    path = write(tmp_path / "p.jsonl", [{"id": "b", "text": "我爱北京", "entities": places[:2]}])
    with pytest.raises(UserError, match="not one predicted entity could be read"):
        predictions.read_predictions(path, None)


def test_lost_entities_of_gold_do_not_refuse_empty_predictions(tmp_path: Path) -> None:
    gold = {"id": "b", "text": "我爱北京", "entities": [[2, 4, "地点"], [2, 9, "地点"], "x"]}
    write(tmp_path / "gold.jsonl", [gold])
    path = write(tmp_path / "p.jsonl", [{"id": "b", "entities": []}])
    loaded = predictions.read_predictions(path, None)
    assert {"offset-range", "bad-entity"} <= {issue.code for issue in loaded.issues}
    assert [answer.entities for answer in loaded.predictions] == [[]]


def test_places_of_a_submission_that_cannot_be(tmp_path: Path) -> None:
    write(tmp_path / "gold.jsonl", [sentence_to_json(sentence) for sentence in GOLD])
    places = [[2, 3], [-2, 3], [3, 2], [2, 10**30], [True, 3]]
    path = write(tmp_path / "p.jsonl", [{"id": "b", "label": {"地点": {"北京": places}}}])
    result = score_loaded(predictions.read_predictions(path, None), METRICS, ERRTA)
    assert result.predictions["b"].entities == [Entity("北京", "地点", 2, 4)]
    assert codes(result).count("bad-offsets") == 4


def test_broken_generated_lines(tmp_path: Path) -> None:
    good = GENERATED[0]
    lines = [good, "nonsense", {"label": 5, "predict": "[]"}, {"label": "[]"}, {**good, "label": "[[broken"}, good]
    loaded = predictions.read_predictions(write(tmp_path / "g.jsonl", lines), None)
    assert [(i.code, i.line) for i in loaded.issues] == [
        ("bad-line", 2),
        ("bad-line", 3),
        ("bad-line", 4),
        ("label-failed", 5),
    ]
    result = score_loaded(loaded, METRICS, ERRTA)
    assert (result.parse.sentences, result.parse.scored) == (4, 3)
    assert {"no-gold", "no-prediction"} <= set(codes(result))


@pytest.mark.parametrize(
    ("good", "string", "broken"),
    [
        (prediction_to_json(SAID[1]), "'hello' where an object belongs; the line", "not JSON: "),
        ({"prompt": "我爱北京", "predict": "[]"}, "no answer; the line", "not JSON: "),
        ({"id": "b", "label": {}}, "'hello' has no id and label; the line", "not JSON: "),
        (GENERATED[0], "no text under 'label'; the sample", "not JSON: "),
    ],
)
def test_a_line_that_is_a_json_string_is_not_its_own_error(
    good: dict[str, Any], string: str, broken: str, tmp_path: Path
) -> None:
    write(tmp_path / "gold.jsonl", [sentence_to_json(sentence) for sentence in GOLD])
    path = write(tmp_path / "p.jsonl", [good, '"hello"', "hello"])
    told = [issue.message for issue in predictions.read_predictions(path, None).issues if issue.code == "bad-line"]
    assert told[0].startswith(f"{string} is left out")
    assert told[1].startswith(broken)


def test_byte_order_mark_costs_the_official_scripts_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "g.jsonl"
    path.write_text("\ufeff" + "".join(f"{to_line(item)}\n" for item in GENERATED[:1] * 2), "utf-8")
    loaded = predictions.read_predictions(path, None)
    assert score_loaded(loaded, METRICS, ERRTA).parse.scored == 2
    official = score_loaded(loaded, OFFICIAL, ERRTA)
    assert (official.parse.scored, official.parse.errta_read, len(official.errta.crashes)) == (1, 1, 1)


def test_answers_that_the_official_scripts_repair_and_names_that_they_make_up(tmp_path: Path) -> None:
    """The evaluation script exchanges quotes, the ERRTA scripts do not; a category null is nan in its table."""
    lines = [
        {"prompt": "p", "label": '[["面膜", "品牌"]]', "predict": "[['面膜', '品牌']]"},
        {"prompt": "p", "label": '[["补水", null]]', "predict": "[]"},
    ]
    result = score_loaded(read_predictions(write(tmp_path / "g.jsonl", lines), None), OFFICIAL, ERRTA)
    assert (result.parse.scored, result.parse.errta_read, result.parse.repaired) == (2, 1, 1)
    assert [(one.sentence_id, one.status) for one in result.parse.failures] == [("line-1", "repaired")]
    assert set(result.metrics.categories) == {"品牌", "nan"}


def test_official_errors_stand_in_the_order_of_the_lines(tmp_path: Path) -> None:
    """The first line, with its backslash, is read by other rules than the second."""
    answer = {"prompt": "p", "predict": '[["面膜", "品牌"]]'}
    lines = [{**answer, "label": json.dumps([["面\\膜", "功能"]], ensure_ascii=False)}, {**answer, "label": "[]"}]
    loaded = read_predictions(write(tmp_path / "g.jsonl", lines), None)
    errors = score_loaded(loaded, OFFICIAL, ERRTA).errta.errors
    assert list(dict.fromkeys(error.sentence_id for error in errors)) == ["line-1", "line-2"]


def test_a_backslash_written_as_an_escape_survives_the_errta_reader(tmp_path: Path) -> None:
    label = '[["a\\\\b", "x"]]'  # decoded text; JSON for the surface a\b
    escaped = json.dumps({"label": label, "predict": '[["ab", "x"]]'}).replace("\\\\", "\\u005c")
    plain = json.dumps({"label": label, "predict": '[["ab", "x"]]'})
    results = [
        score_loaded(predictions.read_predictions(write(tmp_path / "g.jsonl", [line]), None), OFFICIAL, ERRTA)
        for line in (plain, escaped)
    ]
    assert [result.metrics.micro.tp for result in results] == [0, 0]
    assert [result.errta.tp for result in results] == [1, 0]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "empty"),
        ("a\tb\n", "no line with a JSON object"),
        ('{"text": "x", "label": []}\n', "the file holds no gold"),
        ('{"a": 1}\n', "keys"),
    ],
)
def test_a_file_of_no_known_kind(content: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(UserError, match=found) as error:
        predictions.read_predictions(path, None)
    assert str(path) in error.value.where
    with pytest.raises(UserError):
        predictions.read_predictions(tmp_path / "absent.jsonl", None)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "抽取实体"}, {"role": "user", "content": f"句子：{text}"}]


TEXTS = ("我爱北京", "看2024奥运会", "我爱北京")
ANSWERS = ('[["北京", "地点"]]', '[["2024奥运会", "赛事"]]', "[]")
ASKED = list(zip(TEXTS, ANSWERS, strict=True))
BATCH = [
    {"custom_id": f"g{n}", "response": {"body": {"choices": [{"message": {"content": answer}}]}}, "error": None}
    for n, answer in enumerate(ANSWERS)
]
FORMS: dict[str, list[Any]] = {
    "without label": [{"prompt": f"抽取实体：\n句子：{text}", "predict": answer} for text, answer in ASKED],
    "label and predict as lists": [
        {"prompt": text, "label": json.loads(answer), "predict": json.loads(answer)} for text, answer in ASKED
    ],
    "ms-swift": [{"response": answer, "labels": None, "messages": ask(text)} for text, answer in ASKED],
    "OpenAI's batches": BATCH,
    "OpenAI's batches, as they came back": BATCH[::-1],
    "output": [{"text": text, "output": answer} for text, answer in ASKED],
    "CLUENER's submission": [
        {"id": "g0", "label": {"地点": {"北京": [[2, 3]]}}},
        {"id": "g1", "label": {"赛事": {"2024奥运会": [[1, 7]]}}},
        {"id": "g2", "label": {}},
    ],
    "doccano": [
        {"id": 7, "text": TEXTS[0], "label": [[2, 4, "地点"]]},
        {"id": 8, "text": TEXTS[1], "label": [[1, 8, "赛事"]]},
        {"id": 9, "text": TEXTS[2], "label": []},
    ],
    "columns": ["我 O\n爱 O\n北 B-地点\n京 I-地点\n"],
    "answers alone": [{"predict": answer} for answer in ANSWERS],
}


@pytest.mark.parametrize("form", FORMS)
def test_predictions_in_the_forms_of_other_programs(form: str, tmp_path: Path) -> None:
    """Texts that stand twice are matched in order, and gold may have another order where texts or ids are known."""
    entities = [[GOLD[1].entities[0]], [GOLD[0].entities[0]], []]
    gold = [Sentence(f"g{n}", text, side) for n, (text, side) in enumerate(zip(TEXTS, entities, strict=True))]
    path = write(tmp_path / "said.jsonl", FORMS[form])
    known = form != "answers alone"
    for order in ([0, 1, 2], [1, 0, 2]) if known else ([0, 1, 2],):
        file = write(tmp_path / "gold.jsonl", [sentence_to_json(gold[n]) for n in order])
        result = score_loaded(predictions.read_predictions(path, file), METRICS, ERRTA)
        assert result.unit == "span"
        assert result.metrics.micro[4:] == ((1, 0, 1) if form == "columns" else (2, 0, 0))
    other = write(tmp_path / "other.jsonl", [sentence_to_json(Sentence("x", "无关", [Entity("无", "地点", 0, 1)]))])
    with pytest.raises(UserError):
        predictions.read_predictions(path, other)


def test_gold_may_be_sentences_and_those_without_texts_are_matched_by_ids_alone(tmp_path: Path) -> None:
    gold = [Sentence("a", "", [Entity("北京", "地点")]), Sentence("b", "", [Entity("奥运会", "赛事")])]
    lines = [{"id": name, "entities": [["北京", "地点"]]} for name in "ba"]
    loaded = predictions.read_predictions(write(tmp_path / "p.jsonl", lines), gold)
    assert score_loaded(loaded, METRICS, ERRTA).metrics.micro[4:] == (1, 1, 1)
    others = write(tmp_path / "q.jsonl", [{**line, "id": f"q{number}"} for number, line in enumerate(lines)])
    with pytest.raises(UserError, match="no id is one of the gold sentences"):
        predictions.read_predictions(others, gold)


def test_ms_swift_brings_its_gold_and_nothing_is_no_success(tmp_path: Path) -> None:
    lines = [{"response": "[]", "labels": answer, "messages": ask(text)} for text, answer in ASKED]
    loaded = predictions.read_predictions(write(tmp_path / "swift.jsonl", lines), None)
    assert [sentence.meta[predictions.LABEL] for sentence in loaded.gold] == [answer for _, answer in ASKED]
    assert score_loaded(loaded, METRICS, ERRTA).metrics.micro[4:] == (0, 0, 2)
    write(tmp_path / "gold.jsonl", [sentence_to_json(sentence) for sentence in GOLD])
    with pytest.raises(UserError, match="no prediction could be read"):
        predictions.read_predictions(write(tmp_path / "p.jsonl", [{"id": None, "entities": []}]), None)


@pytest.mark.parametrize("line", ["{broken", "[]", '{"entities": []}', '{"id": "a", "entities": [5]}'])
def test_one_line_that_is_no_prediction(line: str) -> None:
    with pytest.raises(UserError, match="no prediction"):
        predictions.prediction_from_line(line)


SCRIPT = """
import json, sys
from pathlib import Path
from omniner.scoring import predictions
from omniner.scoring.scorer import score_loaded
from omniner.config.groups import ErrtaConfig, MetricsConfig
for profile, mode in (("own", "span"), ("official", "auto")):
    metrics = MetricsConfig("auto", profile, "empty", 50, 0.95, 0)
    result = score_loaded(predictions.read_predictions(Path(sys.argv[1]), None), metrics, ErrtaConfig(mode, 5, 5))
    result.timing = {}
    print(json.dumps(result.to_json()), result.errta.errors, result.issues, sorted(result.primary))
assert not {"torch", "pandas", "matplotlib"} & set(sys.modules)
"""


def test_the_result_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    rng = random.Random(0)
    names = ["面", "面膜", "补水面膜", "Nanci", "膜"]

    def side() -> str:
        pairs = [[rng.choice(names), rng.choice("甲乙丙")] for _ in range(rng.randrange(6))]
        return json.dumps(pairs, ensure_ascii=False) if rng.random() < 0.9 else str(pairs)

    path = write(tmp_path / "g.jsonl", [{"prompt": "", "label": side(), "predict": side()} for _ in range(60)])
    texts = [{"input": "补水面膜和Nanci的面膜"}] * 60
    (tmp_path / "test.json").write_text(json.dumps(texts), "utf-8")
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(path)],
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin", "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
    assert outputs.pop()


def test_a_key_that_stands_twice_is_an_issue(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    lines = ['{"id": "1", "entities": [["小满", "品牌"]], "entities": []}', '\ufeff{"id": "2", "entities": []}']
    path.write_text("\n".join(lines), encoding="utf-8")
    gold = [Sentence(name, "小满", [Entity("小满", "品牌", 0, 2)]) for name in ("1", "2")]
    loaded = predictions.read_predictions(path, gold)
    assert [(issue.code, issue.line, "stands twice" in issue.message) for issue in loaded.issues] == [
        ("bad-line", 1, True)
    ]
