"""Unusual labels: those that may be wrong, and those that the model confirms."""

from __future__ import annotations

from omniner.config.groups import ErrtaConfig, MetricsConfig
from omniner.records import Entity, Prediction, Sentence
from omniner.scoring.scorer import score_records
from omniner.scoring.suspects import UnusualLabel, find_control_labels, find_suspected_labels

METRICS, ERRTA = MetricsConfig("span", "own", "empty", 0, 0.95, 0), ErrtaConfig("span", 5, 5)


def one(name: str, surface: str, category: str) -> Sentence:
    return Sentence(name, f"去{surface}", [Entity(surface, category, 1, 1 + len(surface))])


TRAIN = [one(f"train-{surface}-{n}", surface, "地点") for surface in ("上海", "北京", "三亚") for n in range(9)]
DEV = [
    one("a", "上海", "品牌"), one("b", "上海", "品牌"), one("c", "北京", "品牌"), one("d", "三亚", "品牌"),
    one("e", "上海", "地点"),
]  # fmt: skip


def found(*shown: str, **said: str) -> tuple[list[UnusualLabel], list[UnusualLabel]]:
    answers = [Prediction(each.id, [each.entities[0]._replace(category=said.get(each.id, "地点"))]) for each in DEV]
    result = score_records(DEV, answers, METRICS, ERRTA)
    suspects = find_suspected_labels(result, TRAIN)
    return suspects, find_control_labels(result, TRAIN, suspects[:1], shown)


def test_a_control_is_an_unusual_label_that_the_model_gives_too() -> None:
    suspects, controls = found(b="品牌", c="品牌")
    assert [(label.surface, label.agreeing, label.example) for label in suspects] == [
        ("三亚", 1, "d"), ("上海", 1, "a"), ("北京", 0, "c"),
    ]  # fmt: skip
    assert [(label.surface, label.gold, label.usual, label.example) for label in controls] == [
        ("北京", "品牌", "地点", "c"), ("上海", "品牌", "地点", "b"),
    ]  # fmt: skip
    assert controls[0] == UnusualLabel("北京", "品牌", "地点", 0.9, 10, 1, 0, "c")


def test_what_the_model_was_shown_is_no_second_opinion() -> None:
    assert [label.example for label in found("去北京", b="品牌", c="品牌", d="品牌")[1]] == ["d", "b"]


def test_without_a_second_opinion_there_is_none() -> None:
    assert found()[1] == []


def test_a_suspected_label_is_a_control_in_another_sentence_and_after_others() -> None:
    suspects, controls = found(b="品牌", c="品牌", d="品牌")
    assert (suspects[0].surface, suspects[0].example) == ("上海", "a")
    assert [(label.surface, label.example) for label in controls] == [("三亚", "d"), ("北京", "c"), ("上海", "b")]
