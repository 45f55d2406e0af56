"""A type of error is one entry: it is seen everywhere as soon as it is added, and an incomplete one is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import made_up
import pytest
from shipped_prompts import shipped

from omniner.config.groups import ErrtaConfig
from omniner.guidance import clusters, lessons, prompt_errors, questions
from omniner.guidance.clusters import TrainingCounts
from omniner.guidance.lessons import Guidance, Lesson
from omniner.records import Entity, Prediction, Sentence
from omniner.registry import ERROR_TYPES
from omniner.report import curation_tables, run_page, tables
from omniner.scoring import errta
from omniner.scoring.error_types import (
    ErrorType,
    LessonKind,
    OpenQuestion,
    PaperType,
    Phrases,
    error_types,
    lesson_kinds,
    paper_types,
)
from omniner.scoring.metrics import ErrtaError, ScoreResult

TEXT = "她在上海喝咖啡"
RIGHT, WRONG = Entity("上海", "地点", 2, 4), Entity("她", "地点", 0, 1)
ERROR = ErrtaError("displaced", "s", (RIGHT,), (WRONG,))


@pytest.fixture
def displaced() -> Iterator[ErrorType]:
    """A type that no sorter finds, with a heading and a kind of lesson of its own."""
    paper = PaperType("displaced", Phrases("移位：标到了别处。", "Displaced. Another place was marked."))
    entry = ErrorType(
        "displaced",
        chinese="移位",
        meaning="another place of the sentence was answered",
        chinese_meaning="答成了句中别处",
        colour="#123456",
        modes=("span",),
        paper=paper,
        lesson=LessonKind(
            "displaced",
            paper,
            opening=Phrases("{gold}容易标到别处。", "{gold} is easily marked elsewhere."),
            example=Phrases("例：{text}，应在{gold}。", "In {text}, it is {gold} and not {predicted}."),
        ),
        question=OpenQuestion(
            Phrases("位置", "place"),
            Phrases("说明{about}在哪里。", "Say where {about} stands."),
            example=Phrases("{longer}而不是{shorter}", "{longer} and not {shorter}"),
        ),
    )
    ERROR_TYPES.add(entry)
    yield entry
    ERROR_TYPES.remove(entry.name)


def scored() -> ScoreResult:
    made = made_up.scored({"s": Sentence("s", TEXT, [RIGHT])}, {"s": Prediction("s", [WRONG])}, [ERROR])
    found = errta.assemble([ERROR], mode="span", unit="span", tp=0, missing=["地点"], extra=["地点"], read=1)
    return dataclasses.replace(made, errta=found)


def test_errors_by_type_of_the_paper_are_all_errors() -> None:
    """Types that one mode alone has (`boundary_class`, `spelling`, `split`) stand under a type of the paper."""
    result = made_up.result(400).errta
    counts, paper = result.counts, result.to_json()["paper_counts"]
    assert set(paper) == {kind.name for kind in paper_types()}
    assert sum(paper.values()) == len(result.errors)
    assert counts["boundary_class"] > 0
    assert paper["classification"] == counts["classification"]
    assert paper["boundary"] == counts["boundary"] + counts["boundary_class"] + counts["spelling"]
    assert paper["split_merge"] == counts["split_merge"] == counts["split"] + counts["merge"]


def lesson() -> Lesson:
    (cluster,) = clusters.cluster_errors([ERROR])
    return clusters.build_lesson(cluster, TrainingCounts([]), {"s": TEXT}, 1, 3)


def test_a_new_type_stands_in_scores_tables_figures_and_the_page(displaced: ErrorType, monkeypatch: Any) -> None:
    result = scored()
    assert result.to_json()["errta"]["counts"]["displaced"] == 1
    made = tables.build_run_tables(result, ErrtaConfig("span", 5, 5), None, [])
    assert ["displaced", 1, 1.0, 1, 1] in made["errta_counts"].rows
    assert made["errta_by_category"].names[-2:] == ["displaced", "total"]
    drawn: list[Any] = []
    monkeypatch.setattr("matplotlib.axes.Axes.barh", lambda *_args, **given: drawn.append(given.get("color")))
    for chart in run_page.draw_run_figures(result, {}).values():
        chart.png()
    assert any(displaced.colour in colours for colours in drawn if isinstance(colours, list))
    facts = run_page.RunFacts("a run", "", {}, "", {})
    page = run_page.render_run_page(result, made, facts, {}, ErrtaConfig("span", 5, 5))
    assert displaced.meaning in page
    assert displaced.colour in page


def test_a_new_type_stands_in_notes_questions_and_prompts(displaced: ErrorType, tmp_path: Any) -> None:
    found = lesson()
    assert found.note.rule == {"zh": "地点容易标到别处。", "en": "地点 is easily marked elsewhere."}
    assert "地点 is easily marked elsewhere." in questions.lesson_question(found, 1, "en").text
    scores = dict.fromkeys(("sentences", "precision", "recall", "f1", "errors"), 1.0)
    guidance = Guidance(
        dict.fromkeys(("run", "name", "folder", "model", "data", "guide"), "x"), "dev", False, scores,
        {"displaced": 1}, {"kind": "none"}, [found], [], {"clusters": 0, "errors": 0},
    )  # fmt: skip
    assert lessons.read_guidance(lessons.write_guidance(tmp_path / "guidance.json", guidance)).lessons == [found]
    config = shipped("errta", "en", from_run="x", max_tokens=10**6)
    text = prompt_errors.render_errors_text(guidance, config, ["地点"], len).text
    assert "6. Displaced. Another place was marked.\n   - 地点 is easily marked elsewhere." in text
    assert "it is “上海” and not “她”." in text


def test_a_new_type_is_a_question_between_annotators(displaced: ErrorType) -> None:
    (found,) = curation_tables.suggest_rules([ERROR])
    assert found == ("place", "地点", 1, "上海 and not 她 (1)", "Say where 地点 stands.")


def test_a_type_that_is_taken_back_is_gone() -> None:
    assert "displaced" not in ERROR_TYPES
    assert [paper.name for paper in paper_types()] == [
        "classification", "boundary", "missing", "redundant", "split_merge",
    ]  # fmt: skip
    assert list(lesson_kinds()) == [
        "confusion", "boundary", "spelling", "missing", "redundant", "split", "merge", "split_merge",
    ]  # fmt: skip
    assert [entry.name for entry in error_types("official")] == [
        "classification", "boundary", "split_merge", "missing", "redundant",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"colour": ""}, "colour"),
        ({"colour": "blue"}, "colour"),
        ({"meaning": " "}, "meaning"),
        ({"chinese": " "}, "chinese"),
        ({"name": "Two words"}, "name"),
        ({"modes": ()}, "modes"),
        ({"modes": ("paper",)}, "modes"),
    ],
)
def test_an_incomplete_type_is_refused_where_it_is_declared(change: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        dataclasses.replace(ERROR_TYPES["missing"], **change)


def test_no_part_of_a_type_has_a_default() -> None:
    for field in dataclasses.fields(ErrorType):
        assert field.default is dataclasses.MISSING
        given = {one.name: getattr(ERROR_TYPES["missing"], one.name) for one in dataclasses.fields(ErrorType)}
        del given[field.name]
        with pytest.raises(TypeError, match=field.name):
            ErrorType(**given)


def test_phrases_are_checked_where_they_are_declared() -> None:
    with pytest.raises(ValueError, match="both languages"):
        Phrases("中文", "")
    with pytest.raises(ValueError, match="known are gold, predicted"):
        dataclasses.replace(ERROR_TYPES["missing"].lesson, opening=Phrases("{golden}", "{gold}"))
    with pytest.raises(ValueError, match="known are about"):
        OpenQuestion(Phrases("问", "x"), Phrases("{about}", "{what}"), Phrases("{longer}", "{longer}"))
