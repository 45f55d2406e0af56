"""Questions to a teacher and its answers: complete and always the same; taken only as asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest
from tests.helpers import made_up_guidance
from tests.helpers.made_up_guidance import lesson_of

from omniner.guidance import questions, teacher
from omniner.guidance.lessons import COUNTED, SuspectLabel
from omniner.guidance.questions import read_teacher_answer
from omniner.records import Entity, Sentence
from omniner.scoring.metrics import ErrtaError

ERROR = ErrtaError("classification", "a", (Entity("小满", "品牌", 1, 3),), (Entity("小满", "时间", 1, 3),))
ANSWER = questions.lesson_question(lesson_of(ERROR, "喝小满{x}"), 10, "zh").answer
GOOD = '{"cause": "因为", "rule": "品牌看上下文", "doubtful": [1]}'
VALUE = {"cause": "因为", "rule": "品牌看上下文", "doubtful": [1]}


def test_a_question_holds_all_that_is_known() -> None:
    train = [Sentence("t", "小满好喝", [Entity("小满", "品牌", 0, 2)])]
    question = questions.lesson_question(lesson_of(ERROR, "喝小满{x}", train), 10, "zh")
    assert question.id == "confusion: 品牌 → 时间"
    for part in (
        "1 个同类错误（占全部错误的 10.0%）",
        "1. 句子：喝小满{x}",
        "标准答案：“小满” → 品牌",
        "“小满”出现1处：品牌1次",
    ):
        assert part in question.text
    english = questions.lesson_question(lesson_of(ERROR, "喝小满{x}", train), 10, "en")
    for part in (
        "1 errors of one kind on annotated data (10.0% of",
        "Gold: “小满” → 品牌",
        "“小满” occurs once: 1 as 品牌",
    ):
        assert part in english.text


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_kind_can_be_asked_about(language: str) -> None:
    made = made_up_guidance.guidance()
    asked = [questions.lesson_question(lesson, 100, language) for lesson in made.lessons]
    asked += [questions.suspect_question(suspect, language) for suspect in made.suspects]
    assert len({question.id for question in asked}) == len(asked)
    assert asked[: len(made.lessons)] == [
        questions.lesson_question(lesson, 100, language) for lesson in made_up_guidance.guidance().lessons
    ]


def test_the_note_on_a_lesson_is_not_told() -> None:
    lesson = lesson_of(ERROR, "喝小满")
    other = dataclasses.replace(lesson, note=dataclasses.replace(lesson.note, rule={"zh": "秘密"}))
    assert questions.lesson_question(lesson, 1, "zh") == questions.lesson_question(other, 1, "zh")


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n {GOOD} \n",
        f"```json\n{GOOD}\n```",
        f"好的，答案如下：\n```\n{GOOD}\n```\n希望有用",
        f"答案是 {GOOD}。",
        f'<think>{{"cause": 1}}</think>{GOOD}',
        GOOD.replace("品牌看上下文", "  品牌看上下文\\n "),
    ],
)
def test_an_answer_is_found(text: str) -> None:
    assert read_teacher_answer(text, ANSWER) == (VALUE, "")


def test_a_rule_about_one_category_names_it() -> None:
    error = ErrtaError("missing", "a", (Entity("小满", "品牌", 1, 3),), ())
    answer = questions.lesson_question(lesson_of(error, "喝小满"), 10, "zh").answer
    assert read_teacher_answer(GOOD, answer) == (VALUE, "")
    assert read_teacher_answer(GOOD.replace("品牌", ""), answer) == (None, "rule: no category is named: 品牌")


@pytest.mark.parametrize("named", ["品牌_国货", "国货"])
def test_a_rule_names_a_category_in_full_or_without_its_primary(named: str) -> None:
    error = ErrtaError("missing", "a", (Entity("小满", "品牌_国货", 1, 3),), ())
    answer = questions.lesson_question(lesson_of(error, "喝小满"), 10, "zh").answer
    value, wrong = read_teacher_answer(GOOD.replace("品牌", named), answer)
    assert (value is not None, wrong) == (True, "")


def test_a_category_may_hold_braces() -> None:
    error = ErrtaError("missing", "a", (Entity("小满", "{x}", 1, 3),), ())
    answer = questions.lesson_question(lesson_of(error, "喝小满"), 10, "zh").answer
    assert read_teacher_answer(GOOD, answer) == (None, "rule: no category is named: {x}")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "it holds no JSON object"),
        ("我不知道", "it holds no JSON object"),
        ("[1, 2]", "it is JSON, but no object"),
        ('{"cause": "x", "rule": "品牌"}', "the object lacks the key 'doubtful'"),
        (GOOD.replace("[1]", "[2]"), "doubtful[0] must be at most 1, not 2"),
        (GOOD.replace("[1]", "[1, 1]"), "doubtful: the length must be at most 1, not 2"),
        (GOOD.replace("品牌看上下文", "看上下文"), "rule: no category is named: 品牌 or 时间"),
        (GOOD.replace("品牌看上下文", " \\n "), "rule: the length must be at least 1, not 0"),
        (GOOD.replace("品牌看上下文", "长" * 601), "rule: the length must be at most 600, not 601"),
        (GOOD.replace("[1]", '[1], "more": 1'), 'the object has the unknown key "more"'),
        (GOOD.replace('"品牌看上下文"', "null"), "rule must be of type string, not null"),
        (GOOD.replace("[1]", "[true]"), "doubtful[0] must be of type integer, not true"),
        (GOOD.replace("[1]", "[1.5]"), "doubtful[0] must be of type integer, not 1.5"),
        (GOOD.replace("[1]", "[0]"), "doubtful[0] must be at least 1, not 0"),
        (
            GOOD.replace("[1]", json.dumps({"长": "长" * 100}, ensure_ascii=False)),
            f'doubtful must be of type array, not {{"长": "{"长" * 52}…',
        ),
        (GOOD.replace("[1]", "[" * 900 + "]" * 900), f"doubtful[0] must be of type integer, not {'[' * 59}…"),
        (GOOD[:-1], "it holds no JSON object"),
        ("{" * 100_000, "it holds no JSON object"),
        ("[" * 40_000, "it holds no JSON object"),
    ],
)
def test_what_is_wrong_with_an_answer_is_told(text: str, wrong: str) -> None:
    assert read_teacher_answer(text, ANSWER) == (None, wrong)


def test_half_a_surrogate_is_replaced() -> None:
    """What no model of an answer and no file in UTF-8 could hold."""
    value, wrong = read_teacher_answer(GOOD.replace("品牌看上下文", "品牌\\ud83d"), ANSWER)
    assert (value, wrong) == ({**VALUE, "rule": "品牌\ufffd"}, "")


def test_a_verdict_is_one_of_three() -> None:
    answer = questions.suspect_question(made_up_guidance.guidance(20).suspects[0], "zh").answer
    assert read_teacher_answer('{"verdict": "gold", "reason": "x"}', answer)[1] == ""
    said = "verdict must be one of 'gold', 'usual' or 'unclear', not \"maybe\""
    assert read_teacher_answer('{"verdict": "maybe", "reason": "x"}', answer) == (None, said)


def test_the_schema_of_an_answer_is_the_strict_one_that_servers_want() -> None:
    """Exactly this: answers are kept on disk by it."""
    text = {"type": "string", "minLength": 1}
    number = {"type": "integer", "minimum": 1, "maximum": 1}
    assert questions.lesson_question(lesson_of(ERROR, "喝小满"), 1, "zh").schema == {
        "type": "object",
        "properties": {
            "cause": {**text, "maxLength": 1000},
            "rule": {**text, "maxLength": 600},
            "doubtful": {"type": "array", "items": number, "maxItems": 1},
        },
        "required": ["cause", "rule", "doubtful"],
        "additionalProperties": False,
    }
    assert questions.suspect_question(made_up_guidance.guidance(20).suspects[0], "zh").schema == {
        "type": "object",
        "properties": {
            "verdict": {"type": "string", "enum": ["gold", "usual", "unclear"]},
            "reason": {**text, "maxLength": 600},
        },
        "required": ["verdict", "reason"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("language", "digest"),
    [
        ("zh", "4b7cb1f5ae22da6a9c21567b2fed12df5a937ef91731f3434611e73720084f83"),
        ("en", "517610827b375e83e3554686c84b02d42802ecc9c64d11b0c447e3093d10e2a1"),
    ],
)
def test_the_question_for_one_rule_is_what_it_always_was(language: str, digest: str) -> None:
    """Answers are kept on disk by its text."""
    text = questions.lesson_question(lesson_of(ERROR, "喝小满{x}"), 10, language).text
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_several_rules_are_asked_for_in_one_list() -> None:
    lesson = lesson_of(ERROR, "喝小满")
    question = questions.lesson_question(lesson, 10, "zh", 3)
    assert "写出 3 条不同的规则" in question.text
    assert "write 3 different rules" in questions.lesson_question(lesson, 10, "en", 3).text
    assert (
        question.text.partition("\n\n请找出")[0]
        == (questions.lesson_question(lesson, 10, "zh").text.partition("\n\n请找出")[0])
    )
    rule = {"type": "string", "minLength": 1, "maxLength": 600}
    rules = question.schema["properties"]["rules"]
    assert rules == {"type": "array", "items": rule, "minItems": 3, "maxItems": 3}
    assert question.schema["required"] == ["cause", "rules", "doubtful"]


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (["品牌甲", "时间乙", "品牌丙"], ["品牌甲", "时间乙", "品牌丙"]),
        (["看上下文", "品牌甲", "长" * 601 + "品牌", 7, None, "", "时间乙"], ["品牌甲", "时间乙"]),
        (["品牌甲", "品牌乙", "品牌丙", "品牌丁"], ["品牌甲", "品牌乙", "品牌丙"]),
        (["品牌 甲", "品牌  甲\n", "品牌 甲"], ["品牌 甲"]),
    ],
    ids=["all", "the good ones", "no more than asked for", "each once"],
)
def test_of_several_rules_the_good_ones_are_taken(said: list[object], taken: list[str]) -> None:
    answer = questions.lesson_question(lesson_of(ERROR, "喝小满"), 10, "zh", 3).answer
    text = json.dumps({"cause": "因为", "rules": said, "doubtful": []})
    assert read_teacher_answer(text, answer) == ({"cause": "因为", "rules": taken, "doubtful": []}, "")


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (["看上下文", ""], "rules[0]: no category is named: 品牌 or 时间"),
        ([], "rules: the length must be at least 3, not 0"),
        ("品牌甲", 'rules must be of type array, not "品牌甲"'),
    ],
)
def test_of_several_rules_one_must_be_good(said: object, wrong: str) -> None:
    answer = questions.lesson_question(lesson_of(ERROR, "喝小满"), 10, "zh", 3).answer
    text = json.dumps({"cause": "因为", "rules": said, "doubtful": []})
    assert read_teacher_answer(text, answer) == (None, wrong)


def test_the_rules_of_a_teacher_stand_behind_the_counted_note() -> None:
    lesson = lesson_of(ERROR, "喝小满")
    said = {"cause": "因为", "rules": ["品牌甲", "品牌乙"], "doubtful": [1]}
    noted = teacher.with_note(lesson, teacher.TeacherAnswers("big", {lesson.question_id: said}), "zh")
    assert noted.note.rule == {"zh": "品牌甲"}
    assert [(one.note.by, one.chosen) for one in noted.candidates] == [
        (COUNTED, False), ("big", True), ("big", False),
    ]  # fmt: skip
    assert noted.candidates[0].note == lesson.note
    assert teacher.with_note(lesson, teacher.TeacherAnswers("big"), "zh") == lesson


def control(verdict: str, number: int = 0) -> SuspectLabel:
    [one] = made_up_guidance.guidance(20).suspects
    return dataclasses.replace(one, surface=f"上海{number}", verdict=verdict, reason="x" if verdict else "")


def test_a_control_is_asked_about_in_the_same_words() -> None:
    one = control("")
    asked, suspected = questions.control_question(one, "zh"), questions.suspect_question(one, "zh")
    assert asked.id == "control: 上海0 (品牌_国货)"
    assert (asked.text, asked.system, asked.answer) == (suspected.text, suspected.system, suspected.answer)


@pytest.mark.parametrize(
    ("verdicts", "believed"),
    [
        ([], True),
        (["usual"], True),
        (["usual", "usual", ""], True),
        (["usual", "usual", "gold"], False),
        (["usual", "usual", "gold", "gold"], False),
        (["usual", "gold", "unclear"], True),
        ([""] * 3, True),
    ],
)
def test_who_calls_half_of_three_right_labels_or_more_wrong_is_not_believed(
    verdicts: list[str], believed: bool
) -> None:
    controls = [control("", number) for number in range(len(verdicts))]
    suspects = [dataclasses.replace(control("", 9), gold=name) for name in ("时间", "人群")]
    asked = zip(controls, verdicts, strict=True)
    said = {one.control_id: {"verdict": verdict, "reason": "y"} for one, verdict in asked if verdict}
    said[suspects[0].question_id] = {"verdict": "usual", "reason": "z"}
    answers = teacher.TeacherAnswers("big", said)
    judged, known = teacher.with_verdicts(suspects, controls, answers, "zh")
    assert [one.verdict for one in known] == verdicts
    assert judged[1] == suspects[1]  # it said nothing
    if believed:
        assert (judged[0].verdict, judged[0].reason) == ("usual", "z")
    else:
        count = f"教师模型把 {len(verdicts)} 个正确标注中的 2 个判为错误，它的判断不予采信"
        assert (judged[0].verdict, judged[0].reason) == ("unclear", count)
        [english, _] = teacher.with_verdicts(suspects, controls, answers, "en")[0]
        assert english.reason.startswith(f"the teacher calls 2 of {len(verdicts)} labels wrong that are right")


def test_asking_again_shows_the_answer_and_what_is_wrong() -> None:
    question = questions.lesson_question(lesson_of(ERROR, "喝小满"), 1, "zh")
    told = questions.repeat_question(question, "不知道" * 10_000, "它不是 JSON", "zh")
    assert told.text.startswith(question.text)
    assert "它不是 JSON" in told.text
    assert len(told.text) < len(question.text) + 2_100
    assert (told.id, told.answer) == (question.id, question.answer)


@pytest.mark.parametrize(("said", "taken"), [([2], [2]), ([1, 2], [1, 2]), ([1, 2, 4], []), ([1, 2, 3, 4], [])])
def test_who_doubts_most_labels_is_not_believed(said: list[int], taken: list[int]) -> None:
    lesson = max(made_up_guidance.guidance().lessons, key=lambda lesson: len(lesson.examples))
    assert len(lesson.examples) == 4
    answer = {"cause": "因为", "rule": "品牌看上下文", "doubtful": said}
    noted = teacher.with_note(lesson, teacher.TeacherAnswers("big", {lesson.question_id: answer}), "zh")
    assert [number for number, example in enumerate(noted.examples, 1) if example.doubtful] == taken
    assert (noted.note.by, noted.note.rule) == ("big", {"zh": "品牌看上下文"})
