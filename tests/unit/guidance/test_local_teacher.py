"""A teacher in this process: every question heard once, with its tokens; the same words every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
import small_causal
from annotated_types import MaxLen, MinLen

from omniner.config import compose
from omniner.config.groups import Config
from omniner.errors import UserError
from omniner.guidance import teacher
from omniner.guidance.questions import KeepGood, Question, answer_model, read_teacher_answer
from omniner.guidance.teachers.hf import LocalTeacher
from omniner.llm import language_model
from omniner.llm.decoding.constraint import shorten_schema
from omniner.registry import TEACHERS

TEXT = Annotated[str, MinLen(1), MaxLen(600)]
ANSWER = answer_model("Verdict", verdict=Literal["gold", "usual"], reason=TEXT)
QUESTIONS = [Question(f"q{number}", "你是专家。", f"北京{'好吃' * number}？", ANSWER) for number in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "model"
    language_model.save_causal_model(path, small_causal.build("full"))
    return path


def config(folder: Path, *overrides: str) -> Config:
    base = [
        "task=guide",
        "run=x",
        "teacher=hf",
        f"teacher.path={folder}",
        "teacher.max_new_tokens=12",
        "teacher.structured=none",
    ]
    return compose.load([*base, "trainer.threads=1", "trainer.accelerator=cpu", *overrides])


def heard(settings: Config, questions: list[Question]) -> tuple[dict[str, tuple[str | None, str]], teacher.TeacherCost]:
    model = LocalTeacher(settings)
    found = [item for batch in model.ask(questions) for item in batch]
    assert sorted(item.question.id for item in found) == sorted(question.id for question in questions)
    model.close()
    return {item.question.id: (item.text, item.reason) for item in found}, model.cost


def test_every_question_is_heard_once(folder: Path) -> None:
    other = Question("other", "你是别人。", "上海？", ANSWER)
    said, spent = heard(config(folder), [*QUESTIONS, other])
    assert spent.asked == 6
    assert spent.prompt_tokens > 6 * 5
    assert 0 < spent.completion_tokens <= 6 * 12
    assert {reason for _, reason in said.values()} <= {"", teacher.ANSWER_CUT}
    assert heard(config(folder), [*QUESTIONS, other]) == (said, spent)


def test_how_many_are_answered_side_by_side_changes_nothing(folder: Path) -> None:
    assert heard(config(folder, "teacher.slots=1"), QUESTIONS) == heard(config(folder, "teacher.slots=4"), QUESTIONS)


def test_a_model_that_is_not_there_is_a_mistake_about_the_teacher(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^teacher\.path: "):
        LocalTeacher(config(tmp_path / "nothing"))


def test_consulting_it_takes_only_answers_in_form(folder: Path, tmp_path: Path) -> None:
    """Random weights say nothing that could be taken."""
    settings = config(folder, f"teacher.cache={tmp_path / 'cache'}")
    with pytest.raises(UserError, match="none of 5 questions was answered"):
        TEACHERS["hf"].teach(settings, QUESTIONS, tmp_path / "spent.jsonl")
    assert teacher.read_ledger(tmp_path / "spent.jsonl").asked == 10
    assert not (tmp_path / "cache").exists()


def test_guided_by_their_schema_even_random_weights_answer_in_form(folder: Path, tmp_path: Path) -> None:
    overrides = [f"teacher.cache={tmp_path / 'cache'}", "teacher.structured=json_schema", "teacher.max_new_tokens=80"]
    settings = config(folder, *overrides)
    found = TEACHERS["hf"].teach(settings, QUESTIONS, tmp_path / "spent.jsonl")
    assert (found.teacher, found.said["asked"]) == (str(folder), 5)
    assert sorted(found.answers) == [question.id for question in QUESTIONS]
    assert all(answer["verdict"] in ("gold", "usual") and answer["reason"] for answer in found.answers.values())
    half = Question("half", "你是专家。", "\ud800京？", ANSWER)  # which the model sees as U+FFFD
    assert read_teacher_answer(heard(settings, [half])[0]["half"][0] or "", ANSWER)[0]
    said, _ = heard(settings, QUESTIONS)
    assert said == heard(config(folder, *overrides, "teacher.slots=1"), QUESTIONS)[0]
    assert all(read_teacher_answer(text or "", ANSWER)[0] for text, _ in said.values())


def test_guided_it_gives_as_many_rules_as_are_asked_for(folder: Path) -> None:
    rules = Annotated[list[Annotated[str, MinLen(1), MaxLen(600)]], MinLen(3), MaxLen(3), KeepGood()]
    question = Question("q", "你是专家。", "北京？", answer_model("Several", cause=TEXT, rules=rules))
    settings = config(folder, "teacher.structured=json_schema", "teacher.max_new_tokens=150")
    text, reason = heard(settings, [question])[0]["q"]
    assert reason == ""
    assert len(json.loads(text or "")["rules"]) == 3
    assert read_teacher_answer(text or "", question.answer)[0]


def test_texts_are_shortened_where_they_would_not_fit() -> None:
    answer = answer_model("Long", a=Annotated[str, MinLen(1), MaxLen(1000)], b=TEXT, c=int)
    long = Question("q", "", "", answer).schema
    assert shorten_schema(long, 1600) == long
    short = shorten_schema(long, 160)["properties"]
    assert (short["a"]["maxLength"], short["b"]["maxLength"], short["c"]) == (100, 60, {"type": "integer"})
    listed = Annotated[list[TEXT], MinLen(3), MaxLen(3)]
    several = Question("q", "", "", answer_model("Listed", a=Annotated[str, MaxLen(200)], b=listed)).schema
    cut = shorten_schema(several, 500)["properties"]
    assert (cut["a"]["maxLength"], cut["b"]["items"]["maxLength"]) == (50, 150)
    assert shorten_schema(several, 2000) == several
    assert shorten_schema(long, 1)["properties"]["b"]["maxLength"] == 1
    assert long["properties"]["a"]["maxLength"] == 1000
