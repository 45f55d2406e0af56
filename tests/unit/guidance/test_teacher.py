"""Asking a teacher over real HTTP: each question once, within the budget, wrong answers asked for again, all kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import MaxLen, MinLen
from tests.helpers.scripted_server import KEY, Answer, Seen, Server, error, reply, serving

from omniner.config.groups import TeacherConfig
from omniner.errors import UserError
from omniner.guidance import teacher
from omniner.guidance.questions import KeepGood, Question, answer_model
from omniner.guidance.teacher import TeacherAnswers, TeacherCost, ask_teacher
from omniner.guidance.teachers import openai
from omniner.llm.serving import client

ANSWER = answer_model("Rule", rule=Annotated[str, MinLen(1), MaxLen(20)])
QUESTIONS = [Question(f"q{number}", "你是专家。", f"第{number}问", ANSWER) for number in range(6)]


@pytest.fixture(autouse=True)
def quick_and_keyless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv(KEY, raising=False)


def config(url: str | None, cache: Path, **changes: Any) -> TeacherConfig:
    values: dict[str, Any] = {
        "kind": "openai",
        "url": url,
        "model": "tiny",
        "api_key_env": KEY,
        "concurrency": 2,
        "timeout": 10.0,
        "retries": 2,
        "structured": "none",
        "path": None,
        "slots": 1,
        "max_new_tokens": 50,
        "max_requests": 100,
        "cache": str(cache),
    }
    return TeacherConfig(**{**values, **changes})


def number(request: Seen) -> int:
    return int(re.findall(r"第(\d+)问", request.text)[0])


def right(request: Seen, before: int = 0) -> Answer:
    return reply(json.dumps({"rule": f"规则{number(request)}"}, ensure_ascii=False))


def ask(settings: TeacherConfig, folder: Path, questions: list[Question] | None = None) -> TeacherAnswers:
    made = QUESTIONS if questions is None else questions
    name = openai.served_model(settings)
    return ask_teacher(settings, name, made, "zh", lambda: openai.ServerTeacher(settings), folder / "spent.jsonl")


def rules(result: TeacherAnswers) -> dict[str, str]:
    return {name: answer["rule"] for name, answer in sorted(result.answers.items())}


ALL = {f"q{number}": f"规则{number}" for number in range(6)}


def test_every_question_is_asked_once_and_then_never_again(tmp_path: Path) -> None:
    with serving(right) as server:
        settings = config(server.url, tmp_path / "cache")
        first = ask(settings, tmp_path)
        assert len(server.seen) == 6
        [request] = [request for request in server.seen if number(request) == 3]
        assert request.body == {
            "model": "tiny",
            "messages": [{"role": "system", "content": "你是专家。"}, {"role": "user", "content": "第3问"}],
            "max_tokens": 50,
            "temperature": 0.0,
        }
        (tmp_path / "other").mkdir()
        again = ask(settings, tmp_path / "other")
        assert len(server.seen) == 6
    assert rules(first) == rules(again) == ALL
    assert (first.cached, first.cost) == (0, TeacherCost(6, 42, 18))
    assert (again.cached, again.cost) == (6, TeacherCost())


def test_kept_answers_need_no_server(tmp_path: Path) -> None:
    with serving(right) as server:
        settings = config(server.url, tmp_path / "cache")
        ask(settings, tmp_path)
    assert rules(ask(settings, tmp_path)) == ALL  # it is gone

    def nobody() -> teacher.Teacher:
        raise AssertionError("somebody was asked")

    assert rules(ask_teacher(settings, "tiny", QUESTIONS, "zh", nobody, tmp_path / "spent.jsonl")) == ALL


@pytest.mark.parametrize("change", ["text", "system", "schema", "teacher"])
def test_another_question_is_asked_anew(tmp_path: Path, change: str) -> None:
    question = QUESTIONS[0]
    changed = {
        "text": Question("q0", question.system, "第0问？", ANSWER),
        "system": Question("q0", "你是别人。", question.text, ANSWER),
        "schema": Question("q0", question.system, question.text, answer_model("Rule", rule=str)),
        "teacher": question,
    }[change]
    with serving(right) as server:
        settings = config(server.url, tmp_path / "cache")
        ask(settings, tmp_path, [question])
        model = "other" if change == "teacher" else "tiny"
        ask(config(server.url, tmp_path / "cache", model=model), tmp_path, [changed])
        assert len(server.seen) == 2


def test_a_wrong_answer_is_asked_for_once_more(tmp_path: Path) -> None:
    wrong = {1: "我不知道", 2: '{"rule": ""}', 4: '{"rule": "' + "长" * 30 + '"}'}

    def script(request: Seen, before: int) -> Answer:
        if number(request) in wrong and "你上一次的回答是" not in request.text:
            return reply(wrong[number(request)])
        return right(request)

    with serving(script) as server:
        result = ask(config(server.url, tmp_path / "cache"), tmp_path)
        assert rules(result) == ALL
        assert (result.failures, result.cost.asked, len(server.seen)) == ([], 9, 9)
        complaints = {number(request): request.text for request in server.seen if "你上一次" in request.text}
        assert set(complaints) == set(wrong)
        assert "我不知道" in complaints[1]
        assert "rule: the length must be at least 1, not 0" in complaints[2]
        assert rules(ask(config(server.url, tmp_path / "cache"), tmp_path)) == ALL
        assert len(server.seen) == 9  # the second answers are kept under the first questions


def test_what_stays_wrong_is_listed_and_not_kept(tmp_path: Path) -> None:
    def script(request: Seen, before: int) -> Answer:
        if number(request) == 1:
            return reply("我不知道")
        if number(request) == 2:
            return reply('{"rule": "规', finish="length")
        return error(400, "too long") if number(request) == 3 else right(request)

    with serving(script) as server:
        settings = config(server.url, tmp_path / "cache")
        result = ask(settings, tmp_path)
        assert sorted(result.answers) == ["q0", "q4", "q5"]
        assert [name for name, _ in result.failures] == ["q1", "q2", "q3"]
        said = dict(result.failures)
        assert said["q1"] == "the answer is not as asked for: it holds no JSON object"
        assert said["q2"] == "the answer is not as asked for: it is longer than teacher.max_new_tokens allows"
        assert said["q3"] == "refused: HTTP 400: too long"
        before = len(server.seen)
        ask(settings, tmp_path)
        assert {number(request) for request in server.seen[before:]} == {1, 2, 3}


def test_what_is_left_out_of_a_list_is_counted_also_when_it_is_kept(tmp_path: Path) -> None:
    short = Annotated[str, MinLen(1), MaxLen(5)]
    several = answer_model("Rules", rules=Annotated[list[short], MinLen(3), MaxLen(3), KeepGood()])
    asked = [Question(f"q{n}", "你是专家。", f"第{n}问", several) for n in range(2)]

    def script(request: Seen, before: int) -> Answer:
        return reply(json.dumps({"rules": [["好", "长" * 9, "好"], ["一", "二", "三"]][number(request)]}))

    with serving(script) as server:
        settings = config(server.url, tmp_path / "cache")
        first = ask(settings, tmp_path, asked)
        again = ask(settings, tmp_path, asked)
        assert len(server.seen) == 2
    assert first.answers == again.answers == {"q0": {"rules": ["好"]}, "q1": {"rules": ["一", "二", "三"]}}
    assert (first.dropped, again.dropped) == (2, 2)
    assert (first.failures, again.cached) == ([], 2)


def test_a_whole_answer_that_was_cut_behind_its_end_counts(tmp_path: Path) -> None:
    with serving(lambda request, before: reply('{"rule": "好"} 因为', finish="length")) as server:
        assert rules(ask(config(server.url, tmp_path / "cache"), tmp_path, QUESTIONS[:1])) == {"q0": "好"}


def test_the_budget_holds_over_repetitions_and_attempts(tmp_path: Path) -> None:
    def script(request: Seen, before: int) -> Answer:
        return reply("?") if number(request) == 0 and "你上一次" not in request.text else right(request)

    with serving(script) as server:
        settings = config(server.url, tmp_path / "cache", max_requests=4, concurrency=1)
        result = ask(settings, tmp_path)
        assert sorted(result.answers) == ["q1", "q2", "q3"]  # the first ones first
        said = dict(result.failures)
        assert said["q0"] == (
            "the answer is not as asked for: it holds no JSON object; teacher.max_requests=4 is used up"
        )
        assert said["q4"] == said["q5"] == "teacher.max_requests=4 is used up"
        assert result.cost.asked == len(server.seen) == 4
        again = ask(settings, tmp_path)  # of the same run
        assert (len(server.seen), again.cost.asked) == (4, 4)
        raised = ask(config(server.url, tmp_path / "cache", max_requests=8), tmp_path)
        assert rules(raised) == ALL
        assert raised.cost.asked == len(server.seen) == 8


def test_a_schema_is_sent_where_the_server_knows_them(tmp_path: Path) -> None:
    with serving(right) as server:
        ask(config(server.url, tmp_path / "cache", structured="json_schema"), tmp_path, QUESTIONS[:1])
        assert server.seen[0].body["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": QUESTIONS[0].schema},
        }


def test_no_answer_at_all_is_an_error(tmp_path: Path) -> None:
    with (
        serving(lambda request, before: error(400, "max_tokens is not supported")) as server,
        pytest.raises(UserError, match=r"^teacher: none of 6 questions was answered; .*max_tokens is not supported"),
    ):
        ask(config(server.url, tmp_path / "cache"), tmp_path)
    with pytest.raises(UserError, match=r"^teacher\.url: "):
        ask(config("http://127.0.0.1:9/v1", tmp_path / "cache", retries=0), tmp_path)
    with serving(lambda *_: error(401, "no key")) as server, pytest.raises(UserError, match=r"^teacher\.api_key_env"):
        ask(config(server.url, tmp_path / "cache"), tmp_path)


def test_answers_before_a_server_goes_away_are_kept(tmp_path: Path) -> None:
    answered = threading.Semaphore(3)

    def script(request: Seen, before: int) -> Answer:
        return right(request) if answered.acquire(blocking=False) else error(404, "gone")

    with serving(script) as server, pytest.raises(UserError, match=r"^teacher\.url: .*404"):
        ask(config(server.url, tmp_path / "cache", concurrency=1), tmp_path)
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 3
    with serving(right) as server:
        result = ask(config(server.url, tmp_path / "cache"), tmp_path)
        assert rules(result) == ALL
        assert (result.cached, len(server.seen)) == (3, 3)


def test_a_broken_kept_answer_is_asked_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(right) as server:
        settings = config(server.url, tmp_path / "cache")
        ask(settings, tmp_path, QUESTIONS[:1])
        (path,) = (tmp_path / "cache").rglob("*.json")
        path.write_text('{"answer": {"rule": 3}}')
        assert rules(ask(settings, tmp_path, QUESTIONS[:1])) == {"q0": "规则0"}
        assert len(server.seen) == 2
    assert "asked anew" in caplog.text


def test_a_killed_process_goes_on_behind_its_last_answer(tmp_path: Path) -> None:
    """A process is killed amid the questions; the next one asks for the rest and counts all that was spent."""
    three_answered, go_on = threading.Event(), threading.Event()

    def script(request: Seen, before: int) -> Answer:
        if number(request) >= 3 and not go_on.is_set():
            three_answered.set()
            go_on.wait(30)
        return right(request)

    program = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path.cwd())!r})
        from pathlib import Path
        from tests.unit.guidance.test_teacher import ask, config
        ask(config(sys.argv[1], Path("cache"), concurrency=1), Path("."))
    """)
    with serving(script) as server:
        process = subprocess.Popen([sys.executable, "-c", program, server.url], cwd=tmp_path, env=os.environ)
        assert three_answered.wait(60)
        _wait_until(lambda: len(list((tmp_path / "cache").rglob("*.json"))) == 3)
        _wait_until(lambda: teacher.read_ledger(tmp_path / "spent.jsonl").asked == 3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        go_on.set()
        seen = len(server.seen)
        result = ask(config(server.url, tmp_path / "cache"), tmp_path)
        assert rules(result) == ALL
        assert (result.cached, result.cost) == (3, TeacherCost(6, 42, 18))
        assert sorted(number(request) for request in server.seen[seen:]) == [3, 4, 5]


def _wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_answer_that_was_not_kept_was_paid_for_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with serving(right) as server:
        settings = config(server.url, tmp_path / "cache", concurrency=1)
        with monkeypatch.context() as patch:
            patch.setattr(teacher, "write_text", killed)
            with pytest.raises(KeyboardInterrupt):
                ask(settings, tmp_path, QUESTIONS[:1])
        assert teacher.read_ledger(tmp_path / "spent.jsonl").asked == 1
        assert ask(settings, tmp_path, QUESTIONS[:1]).cost.asked == len(server.seen) == 2


def test_a_key_never_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sk-secret-123")

    def script(request: Seen, before: int) -> Answer:
        return error(400, "bad key sk-secret-123") if number(request) else right(request)

    with serving(script) as server:
        result = ask(config(server.url, tmp_path / "cache"), tmp_path)
        assert server.seen[0].headers["authorization"] == "Bearer sk-secret-123"
    files = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 2
    assert not any("sk-secret" in text for text in [*files, str(result)])


def test_a_server_that_has_another_model_now_is_asked_anew(tmp_path: Path) -> None:
    server: Server
    with serving(right, models=("small",)) as server:
        unnamed = config(server.url, tmp_path / "cache", model=None)
        assert ask(unnamed, tmp_path).teacher == "small"
        assert (ask(unnamed, tmp_path).cached, len(server.seen)) == (6, 6)
        server.models = ("large",)
        result = ask(unnamed, tmp_path)
        assert (result.teacher, result.cached, len(server.seen)) == ("large", 0, 12)
    with pytest.raises(UserError, match=r"teacher\.model"):
        ask(unnamed, tmp_path)


@pytest.mark.parametrize("line", ['{"asked": "3"}', '{"asked": true}', '{"spent": 3}', "[3]", '{"asked": 1.5}'])
def test_a_ledger_that_is_none_is_refused_by_its_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    path.write_text(f'{{"asked": 2}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"a broken line") as raised:
        teacher.read_ledger(path)
    assert raised.value.where == f"{path}:2"
