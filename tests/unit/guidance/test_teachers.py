"""The table of teachers: what is known of each without torch; one that is added; and answers that stand in a file."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import MaxLen, MinLen
from omegaconf import OmegaConf

from omniner.config import compose
from omniner.config.groups import Config
from omniner.errors import UserError
from omniner.files import write_json_lines
from omniner.guidance.lessons import Failure
from omniner.guidance.questions import KeepGood, Question, answer_model, write_questions
from omniner.guidance.teacher import TeacherAnswers, TeacherKind
from omniner.registry import TEACHERS

ANSWER = answer_model("Rule", rule=Annotated[str, MinLen(1), MaxLen(20)])
QUESTIONS = [Question(f"q{number}", "你是专家。", f"第{number}问", ANSWER) for number in range(4)]
IDS = [question.sha for question in QUESTIONS]


def test_teachers_are_known_without_torch() -> None:
    code = (
        "import sys; from omniner.registry import TEACHERS\n"
        "facts = [(n, TEACHERS.meaning(n), TEACHERS.peek(n, 'key'), TEACHERS.peek(n, 'missing')) for n in TEACHERS]\n"
        "assert 'omniner.guidance.teacher' not in sys.modules\n"
        "assert facts == [(t.name, t.meaning, t.key, t.missing) for t in map(TEACHERS.__getitem__, TEACHERS)]\n"
        "print(list(TEACHERS))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['file', 'hf', 'openai']"


@pytest.fixture
def oracle() -> Iterator[TeacherKind]:
    def teach(config: Config, questions: Sequence[Question], ledger: Path) -> TeacherAnswers:
        return TeacherAnswers("Delphi", {question.id: {"rule": "?"} for question in questions}, said={"name": "Delphi"})

    kind = TeacherKind("oracle", "Knows all.", "path", ("no temple is named", "Set teacher.path=<temple>."), teach)
    yield TEACHERS.add(kind)
    TEACHERS.remove(kind.name)


def test_a_teacher_that_is_added_is_known_everywhere(oracle: TeacherKind) -> None:
    asked = ["task=guide", "run=x", "teacher.kind=oracle"]
    with pytest.raises(UserError, match=r"^teacher\.path: no temple is named\. Set teacher\.path=<temple>\.$"):
        compose.load(asked)
    assert compose.without_effect(compose.load([*asked, "teacher.path=delphi"])) == {}
    with pytest.raises(UserError, match=r"^guide\.trials: .* Set .*teacher=oracle, or it to 0"):
        compose.load(["task=guide", "run=x", "guide.trials=3"])
    with pytest.raises(UserError, match=r"teacher\.kind: .*Choose one of: none, file, hf, openai, oracle"):
        compose.load(["task=guide", "run=x", "teacher.kind=nobody"])


def test_a_teacher_that_is_added_may_need_no_key(oracle: TeacherKind) -> None:
    always = TEACHERS.add(replace(oracle, name="always_there", key="", missing=None))
    try:
        asked = compose.load(["task=guide", "run=x", "teacher.kind=always_there"])
        assert compose.without_effect(asked) == {}
        asked = compose.load(["task=guide", "run=x", "teacher.kind=always_there", "teacher.url=http://there/v1"])
        assert list(compose.without_effect(asked)) == ["teacher.url"]
    finally:
        TEACHERS.remove(always.name)


@pytest.mark.parametrize("key", ["temple", "kind"])
def test_the_key_of_a_teacher_is_one_of_the_group(oracle: TeacherKind, key: str) -> None:
    with pytest.raises(ValueError, match=rf"^teacher\.{key} is no key; take '' or one of url, model, .*, file$"):
        replace(oracle, key=key)


def read(path: Path | None, **changes: Any) -> TeacherAnswers:
    config = compose.compose_unchecked(["task=guide", "run=x", "teacher=file"])
    OmegaConf.update(config, "teacher.file", path and str(path))
    for key, value in changes.items():
        OmegaConf.update(config, f"teacher.{key}", value)
    return TEACHERS["file"].teach(compose.to_config(config), QUESTIONS, Path("spent.jsonl"))


def written(path: Path, *items: dict[str, Any] | str) -> Path:
    lines = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in items]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_without_a_file_nothing_is_answered_and_nothing_has_failed() -> None:
    found = read(None)
    assert (found.answers, found.failures, found.said) == ({}, [], {"questions": 4})


def test_answers_are_objects_or_what_a_chat_model_wrote(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(
        tmp_path / "answers.jsonl",
        "\ufeff" + json.dumps({"id": IDS[2], "answer": {"rule": "先看  上文"}, "by": "me"}),
        "",
        {"id": IDS[0], "answer": '好的：\n```json\n{"rule": "看全句"}\n```'},
        {"id": IDS[1], "answer": None},
        {"id": "0123", "answer": {"rule": "别的"}},
    )
    with caplog.at_level(logging.WARNING):
        found = read(path)
    assert found.answers == {"q0": {"rule": "看全句"}, "q2": {"rule": "先看 上文"}}
    assert found.failures == [Failure(name, "there is none in answers.jsonl") for name in ("q1", "q3")]
    assert found.said == {"name": "answers.jsonl", "questions": 4, "answered": 2, "other": 1}
    assert "1 answer to questions that this run does not ask (0123): left out" in caplog.text
    assert read(path, model="老师").teacher == "老师"


def test_the_questions_filled_in_are_a_file_of_answers(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    write_questions(path, QUESTIONS, {"q1": {"rule": "一"}})
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["answer"] for line in lines] == [None, {"rule": "一"}, None, None]
    assert (lines[3]["system"], lines[3]["question"], lines[3]["schema"]["required"]) == (
        "你是专家。",
        "第3问",
        ["rule"],
    )
    lines[3]["answer"] = {"rule": "三"}
    write_json_lines(path, lines)
    assert read(path).answers == {"q1": {"rule": "一"}, "q3": {"rule": "三"}}


@pytest.mark.parametrize("change", ["text", "system", "schema"])
def test_an_answer_is_for_one_question_only(change: str) -> None:
    one = QUESTIONS[0]
    changed = {
        "text": Question("q0", one.system, "第0问？", ANSWER),
        "system": Question("q0", "你是别人。", one.text, ANSWER),
        "schema": Question("q0", one.system, one.text, answer_model("Rule", rule=str)),
    }[change]
    assert changed.sha != one.sha
    assert Question("another name", one.system, one.text, ANSWER).sha == one.sha


def test_all_mistakes_are_named_and_nothing_is_taken(tmp_path: Path) -> None:
    path = written(
        tmp_path / "answers.jsonl",
        {"id": IDS[0], "answer": {"rule": "好"}},
        "rule: 好",
        "[1]",
        {"id": IDS[3], "anwser": {"rule": "好"}},
        {"id": 7, "answer": None},
        {"id": IDS[3], "answer": 7},
        {"id": IDS[0], "answer": {"rule": "不好"}},
        {"id": IDS[0], "answer": {"rule": "好"}},
    )
    with pytest.raises(UserError) as raised:
        read(path)
    assert raised.value.where == f"{path}:2"
    assert raised.value.found.split("; ") == [
        "not JSON on one line (Expecting value)",
        "line 3: an object with id and answer is expected, not [1]",
        "line 4: the key answer is missing",
        "line 5: id must be a text, not 7",
        "line 6: answer must be an object, or a text with one, not 7",
        f"line 7: {IDS[0]} is answered in line 1, too, and otherwise",
    ]
    assert "no answer of the file was taken" in raised.value.fix


def test_all_answers_that_are_not_as_asked_for_are_named(tmp_path: Path) -> None:
    path = written(
        tmp_path / "answers.jsonl",
        {"id": IDS[0], "answer": {"rule": "好"}},
        {"id": IDS[1], "answer": {"rule": ""}},
        {"id": IDS[2], "answer": "我不知道"},
    )
    with pytest.raises(UserError) as raised:
        read(path)
    assert raised.value.where == f"{path}:2"
    assert raised.value.found.split("; ") == [
        f"the answer to {IDS[1]} is not as asked for: rule: the length must be at least 1, not 0",
        f"line 3: the answer to {IDS[2]} is not as asked for: it holds no JSON object",
    ]


def test_of_many_mistakes_the_first_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"jsonl:1: .*line 10: not JSON.*; and 3 more lines\. Mend"):
        read(written(tmp_path / "answers.jsonl", *["?"] * 13))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", "it answers none of the 4 questions of this run. "),
        (
            '{"id": "0123", "answer": {"rule": "好"}}',
            "it answers none of the 4 questions of this run, but 1 other one. ",
        ),
    ],
)
def test_a_file_of_another_run_is_refused(line: str, found: str, tmp_path: Path) -> None:
    path = written(tmp_path / "answers.jsonl", line)
    with pytest.raises(UserError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: {found}")


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"\n\xff\n")
    with pytest.raises(UserError, match=r"answers\.jsonl:2: not UTF-8"):
        read(path)


def test_rules_that_are_not_as_asked_for_are_left_out_by_their_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = Annotated[list[Annotated[str, MinLen(1), MaxLen(20)]], MinLen(2), MaxLen(2), KeepGood()]
    question = Question("q", "你是专家。", "几条？", answer_model("Several", rules=rules))
    path = written(tmp_path / "a.jsonl", {"id": question.sha, "answer": {"rules": ["一", "", "二"]}})
    config = compose.load(["task=guide", "run=x", "teacher=file", f"teacher.file={path}"])
    with caplog.at_level(logging.WARNING):
        found = TEACHERS["file"].teach(config, [question], Path("spent.jsonl"))
    assert (found.answers, found.dropped) == ({"q": {"rules": ["一", "二"]}}, 1)
    assert f"{path}:1: 1 rule left out" in caplog.text


def test_a_file_that_is_not_there_or_would_be_replaced_is_refused_at_once(tmp_path: Path) -> None:
    asked = ["task=guide", "run=x", "teacher=file"]
    with pytest.raises(UserError, match=r"^teacher\.file: .*nothing\.jsonl does not exist"):
        compose.load([*asked, f"teacher.file={tmp_path}/nothing.jsonl"])
    path = written(tmp_path / "questions.jsonl", "")
    with pytest.raises(UserError, match=r"^teacher\.file: .* stands in the folder of this run, which may replace it"):
        compose.load([*asked, f"teacher.file={path}", f"output_dir={tmp_path}"])
    assert compose.load([*asked, f"teacher.file={path}", f"output_dir={tmp_path}/new"]).teacher.file == str(path)


def test_a_file_that_no_question_could_use_is_refused_before_anything_is_labelled(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    asked = ["task=guide", "run=x", "teacher=file", f"teacher.file={path}"]
    path.write_text(json.dumps({"id": "0123"}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"answers\.jsonl:1: the key answer is missing"):
        compose.load(asked)
    path.write_bytes(b'\n{"id": "0123", "answer": "' + "好".encode("gb18030") + b'"}\n')
    with pytest.raises(UserError, match=r"answers\.jsonl:2: not UTF-8\. .*iconv"):
        compose.load(asked)


def test_joined_files_of_answers_lose_no_line(tmp_path: Path) -> None:
    lines = ["\ufeff" + json.dumps({"id": name, "answer": {"rule": name}}) for name in IDS[:2]]
    assert read(written(tmp_path / "answers.jsonl", *lines)).answers == {"q0": {"rule": IDS[0]}, "q1": {"rule": IDS[1]}}
