"""Predictions of a server, asked over real HTTP: every sentence gets its own answer, whatever the server does."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.scripted_server import KEY, Answer, Drop, Seen, config, error, reply, serving

from omniner.config.model_groups import DecodingConfig
from omniner.errors import UserError
from omniner.llm.prompts import TEMPLATE_OPTIONS, Prompt
from omniner.llm.serving import client as serving_client
from omniner.llm.serving import openai_engine
from omniner.llm.serving.client import ChatClient, ChatRequest
from omniner.llm.serving.openai_engine import predict_with_server
from omniner.llm.serving.responses import Refusal, Reply
from omniner.records import Entity, Prediction, Sentence

PROMPT = Prompt("base", "1", "zh", "你是助手。", "找出实体。", "句子：{sentence}", "official", ("城市", "品牌"))
SENTENCES = [Sentence(f"s{number}", f"第{number}句在北京") for number in range(12)]
FREE: frozenset[str] = frozenset()


@pytest.fixture(autouse=True)
def quick_and_keyless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_client, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv(KEY, raising=False)


def number(request: Seen) -> int:
    return int(re.findall(r"第(\d+)句", request.text)[0])


def right(request: Seen) -> Answer:
    return reply(json.dumps([["北京", "城市"], [f"第{number(request)}句", "品牌"]], ensure_ascii=False))


def run(settings: DecodingConfig, sentences: list[Sentence], done: frozenset[str] = FREE) -> list[Prediction]:
    return [prediction for batch in predict_with_server(settings, PROMPT, sentences, done) for prediction in batch]


def partly(settings: DecodingConfig, sentences: list[Sentence], done: frozenset[str] = FREE):
    """What came before the error, and the error."""
    found: list[Prediction] = []

    def collect() -> None:
        for batch in predict_with_server(settings, PROMPT, sentences, done):
            found.extend(batch)

    with pytest.raises(UserError) as raised:
        collect()
    return found, raised.value


def assert_right(predictions: list[Prediction], sentences: list[Sentence]) -> None:
    """Exactly one prediction for each sentence, and its own."""
    assert sorted(p.id for p in predictions) == sorted(s.id for s in sentences)
    texts = {sentence.id: sentence.text for sentence in sentences}
    for prediction in predictions:
        head = texts[prediction.id].removesuffix("在北京")
        size = len(head)
        assert prediction.entities == [Entity("北京", "城市", size + 1, size + 3), Entity(head, "品牌", 0, size)]
        assert prediction.parse == "ok"


def test_answers_that_come_in_another_order_go_to_their_sentences() -> None:
    def script(request: Seen, before: int) -> Answer:
        time.sleep(0.02 * (12 - number(request)))
        return right(request)

    with serving(script) as server:
        batches = list(predict_with_server(config(server.url, concurrency=12), PROMPT, SENTENCES, FREE))
    found = [prediction for batch in batches for prediction in batch]
    assert_right(found, SENTENCES)
    assert [p.id for p in found] != [s.id for s in SENTENCES]
    assert len(batches) > 1
    [first] = [p for p in found if p.id == "s3"]
    assert first.raw == '[["北京", "城市"], ["第3句", "品牌"]]'
    assert (first.engine, first.prompt_sha, first.reason) == ("openai:tiny", PROMPT.sha, "")
    [request] = [request for request in server.seen if number(request) == 3]
    assert request.body == {
        "model": "tiny",
        "messages": PROMPT.messages("第3句在北京"),
        "max_tokens": 64,
        "temperature": 0.0,
        "top_p": 1.0,
    }


def test_a_server_of_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(serving_client, "_FIRST_WAIT", 0.0)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(lambda request, before: right(request)) as server:
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            assert_right(run(config(url, retries=1), SENTENCES), SENTENCES)
        away = config(server.url.replace("127.0.0.1", "a.server.test"), retries=1)
        with pytest.raises(UserError, match="no connection"):
            run(away, SENTENCES)


@pytest.mark.parametrize("proxy", ["socks5://me:hunter2@127.0.0.1:9", "socks://me:hunter2@127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_a_mistake(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", proxy)
    _, raised = partly(config("http://a.server.test/v1"), SENTENCES)
    assert raised.where == "decoding.url"
    assert "Unset ALL_PROXY" in raised.fix
    assert "hunter2" not in str(raised)


def test_as_many_requests_are_under_way_as_allowed() -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def script(request: Seen, before: int) -> Answer:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.03)
        with lock:
            under_way -= 1
        return right(request)

    with serving(script) as server:
        assert_right(run(config(server.url, concurrency=3), SENTENCES), SENTENCES)
    assert most == 3


def test_too_many_requests_are_held_back_as_the_server_wants() -> None:
    """By all threads: those whose own requests went well wait, too."""
    all_under_way, said = threading.Barrier(3, timeout=20), []

    def script(request: Seen, before: int) -> Answer:
        if len(said) < 3 and all_under_way.wait() == 0:
            said.append(time.monotonic())
            return error(429, "slow down", **{"Retry-After": "0.4"})
        said.append(0.0)
        time.sleep(0.2)
        return right(request)

    with serving(script) as server:
        assert_right(run(config(server.url, concurrency=3), SENTENCES), SENTENCES)
    times = sorted(request.time for request in server.seen)
    assert 0.4 <= times[3] - max(said) < 2
    assert times[-1] - times[3] < 3  # it holds back once, not for each request


def test_a_date_to_wait_for_is_understood() -> None:
    def script(request: Seen, before: int) -> Answer:
        if before:
            return right(request)
        return error(503, "loading", **{"Retry-After": formatdate(time.time() + 2, usegmt=True)})

    with serving(script) as server:
        assert_right(run(config(server.url), SENTENCES[:1]), SENTENCES[:1])
    assert 0.9 < server.seen[1].time - server.seen[0].time < 3


def test_a_date_that_no_calendar_has_is_none() -> None:
    assert serving_client.retry_after({"retry-after": f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT"}) == 0


def test_a_wait_beyond_patience_is_not_waited_for() -> None:
    with serving(lambda request, before: error(429, "tomorrow", **{"Retry-After": "86400"})) as server:
        _, raised = partly(config(server.url), SENTENCES[:1])
    assert len(server.seen) == 1
    assert "tomorrow" in str(raised)


@pytest.mark.parametrize(
    "trouble",
    [
        error(500, "out of memory"),
        error(502, "bad gateway"),
        Answer(503, b"<html>busy</html>", kind="text/html"),
        error(408, "too slow"),
        error(409, "conflict"),
        Answer(200, b'{"choices": [{"mess'),
        Answer(200, b"<html>hello</html>", kind="text/html"),
        Answer(200, None),
        Answer(200, []),
        Answer(200, {"choices": []}),
        Answer(200, {"choices": [{"message": {"content": 7}}]}),
        Answer(200, {"error": {"message": "upstream"}}),
        Answer(200, b"[" * 100_000),
        Drop(),
    ],
    ids=str,
)
def test_trouble_that_passes_is_waited_out(trouble: Answer | Drop) -> None:
    def script(request: Seen, before: int) -> Answer:
        if before < 2 and number(request) % 3 == 0:
            if isinstance(trouble, Drop):
                raise trouble
            return trouble
        return right(request)

    with serving(script) as server:
        assert_right(run(config(server.url), SENTENCES), SENTENCES)
    assert len(server.seen) == 12 + 2 * 4


def test_an_answer_that_takes_too_long_is_asked_for_again() -> None:
    def script(request: Seen, before: int) -> Answer:
        if number(request) == 5 and not before:
            time.sleep(0.8)
        return right(request)

    with serving(script) as server:
        assert_right(run(config(server.url, timeout=0.3), SENTENCES), SENTENCES)
    assert server.texts().count(PROMPT.messages(SENTENCES[5].text)[-1]["content"]) == 2


def test_a_server_that_dies_half_way_loses_nothing() -> None:
    """What was answered is there, then one error; the restart asks for the rest only, and nothing comes twice."""

    def dying(request: Seen, before: int) -> Answer:
        if len(server.seen) > 5:
            raise Drop
        return right(request)

    with serving(dying) as server:
        found, raised = partly(config(server.url, concurrency=3), SENTENCES)
    assert raised.where == "decoding.url"
    assert "no answer from http" in raised.found
    assert "4 attempts" in raised.found
    assert len(found) == 5
    done = frozenset(prediction.id for prediction in found)
    with serving(lambda request, before: right(request)) as server:
        more = run(config(server.url), SENTENCES, done)
    assert len(server.seen) == len(more) == 7
    assert_right(found + more, SENTENCES)


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    for model in ("tiny", None):
        found, raised = partly(config(url, model=model), SENTENCES)
        assert found == []
        assert raised.where == "decoding.url"
        assert "refused" in raised.found


def test_one_request_that_never_succeeds_does_not_stop_the_others() -> None:
    """Its sentence gets no prediction, neither an empty nor a failed one, so a restart asks again."""

    def script(request: Seen, before: int) -> Answer:
        time.sleep(0.02)
        return error(500, "cannot do this one") if number(request) == 2 else right(request)

    with serving(script) as server:
        found, raised = partly(config(server.url, concurrency=2), SENTENCES)
    others = [sentence for sentence in SENTENCES if sentence.id != "s2"]
    assert_right(found, others)
    assert "1 sentence without an answer (s2)" in raised.found
    assert "cannot do this one" in raised.found
    with serving(lambda request, before: right(request)) as server:
        assert_right(run(config(server.url), SENTENCES, frozenset(p.id for p in found)), SENTENCES[2:3])


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (error(400, "This model's maximum context length is 16 tokens."), "HTTP 400: This model's maximum context"),
        (error(422, "cannot"), "HTTP 422: cannot"),
        (Answer(400, {"detail": "as FastAPI says it"}), "HTTP 400: as FastAPI says it"),
        (Answer(413, b"too large", kind="text/plain"), "HTTP 413: too large"),
        (error(400, "The prompt was filtered", "content_filter"), "HTTP 400: The prompt was filtered"),
        (reply("", "content_filter"), "content filter"),
        (reply(None, refusal="I cannot help with that."), "I cannot help with that."),
    ],
    ids=str,
)
def test_a_sentence_that_is_refused_is_a_prediction_that_failed(refusal: Answer, reason: str) -> None:
    with serving(lambda request, before: refusal if number(request) == 0 else right(request)) as server:
        found = run(config(server.url, concurrency=1), SENTENCES)
    assert len(server.seen) == 12  # a refusal is asked for once
    [refused] = [prediction for prediction in found if prediction.id == "s0"]
    assert (refused.parse, refused.entities, refused.raw) == ("failed", [], "")
    assert refused.reason.startswith("refused: ")
    assert reason in refused.reason
    assert_right([prediction for prediction in found if prediction.id != "s0"], SENTENCES[1:])


def test_a_server_that_refuses_everything_refuses_us() -> None:
    """A request that no server takes must not become a file of failed predictions."""
    many = [Sentence(f"s{place}", f"第{place}句") for place in range(200)]
    for sentences, done in ((SENTENCES, FREE), (many, FREE), (many, frozenset({"s7"}))):
        with serving(lambda request, before: error(400, "max_tokens is too large")) as server:
            found, raised = partly(config(server.url), sentences, done)
        assert found == []
        assert "max_tokens is too large" in raised.found
        assert len(server.seen) < 40


@pytest.mark.parametrize(
    "said", ["System role not supported", "Conversation roles must alternate user/assistant/user/assistant/..."]
)
def test_a_model_without_a_system_role_is_named_at_its_first_refusal(said: str) -> None:
    with serving(lambda request, before: error(400, said)) as server:
        found, raised = partly(config(server.url, concurrency=1), SENTENCES)
    assert found == []
    assert raised.where == "prompt.system"
    assert len(server.seen) <= 2, "the second may be on its way while the first refusal is read"
    assert said in raised.found
    assert "prompt.instruction" in raised.fix


def test_the_last_sentences_of_a_restart_may_all_be_refused() -> None:
    done = frozenset(sentence.id for sentence in SENTENCES[:10])
    with serving(lambda request, before: error(400, "too long")) as server:
        found = run(config(server.url), SENTENCES, done)
    assert [(p.id, p.parse) for p in sorted(found, key=lambda p: p.id)] == [("s10", "failed"), ("s11", "failed")]


@pytest.mark.parametrize(
    ("answer", "where", "said"),
    [
        (error(401, "Incorrect API key provided: sk-secret"), "decoding.api_key_env", KEY),
        (error(403, "Forbidden"), "decoding.api_key_env", KEY),
        (error(402, "Payment required"), "decoding.api_key_env", "credit"),
        (error(429, "You exceeded your quota", "insufficient_quota"), "decoding.api_key_env", "credit"),
        (error(404, "The model `tiny` does not exist."), "decoding.model", "/v1/models"),
        (error(404, "Not Found"), "decoding.url", "/v1"),
        (error(405, "Method Not Allowed"), "decoding.url", "/v1"),
    ],
    ids=str,
)
def test_what_no_request_can_do_better_stops_at_once(
    answer: Answer, where: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY, "sk-secret")
    caplog.set_level(logging.DEBUG)
    with serving(lambda request, before: answer) as server:
        found, raised = partly(config(server.url), SENTENCES)
    assert (found, raised.where) == ([], where)
    assert said in str(raised)
    assert len(server.seen) <= 4  # one per thread
    assert {request.headers["authorization"] for request in server.seen} == {"Bearer sk-secret"}
    assert "sk-secret" not in str(raised) + caplog.text


def test_a_key_may_be_absent_but_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    with serving(lambda request, before: right(request)) as server:
        assert_right(run(config(server.url), SENTENCES), SENTENCES)
        assert not any("another-server" in str(request.headers) for request in server.seen)
        monkeypatch.setenv(KEY, "sk-se\ncret")
        _, raised = partly(config(server.url), SENTENCES)
    assert raised.where == "decoding.api_key_env"
    assert "cret" not in str(raised).replace("secrets", "")


@pytest.mark.parametrize("url", [None, "", "host:8000", "ftp://host/v1", "http://", "http://[::1/v1", "http://h:x/v1"])
def test_an_address_that_is_none(url: str | None) -> None:
    found, raised = partly(config(url), SENTENCES)
    assert (found, raised.where) == ([], "decoding.url")


def test_an_address_may_not_hold_a_password() -> None:
    _, raised = partly(config("http://me:hunter2@host/v1"), SENTENCES)
    assert "hunter2" not in str(raised)


def test_the_name_of_the_only_model_is_found_out() -> None:
    with serving(lambda request, before: right(request), ["org/only"]) as server:
        found = run(config(server.url, model=None), SENTENCES)
    assert {prediction.engine for prediction in found} == {"openai:org/only"}
    assert {request.body["model"] for request in server.seen} == {"org/only"}


@pytest.mark.parametrize(
    ("models", "where", "said"),
    [
        (["a", "b"], "decoding.model", "a, b"),
        ([], "decoding.model", "Set decoding.model"),
        (Answer(200, {"data": [7]}), "decoding.url", "set decoding.model"),
        (Answer(500, {}), "decoding.url", "set decoding.model"),
        (error(404, "Not Found"), "decoding.url", "/v1"),
        (error(400, "no"), "decoding.model", "HTTP 400: no"),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_found_out(models: Any, where: str, said: str) -> None:
    with serving(lambda request, before: right(request), models) as server:
        found, raised = partly(config(server.url, model=None), SENTENCES)
    assert (found, server.seen, raised.where) == ([], [], where)
    assert said in str(raised)


def test_how_an_answer_ended_and_how_it_was_read() -> None:
    texts = {
        0: reply('[["北京", "城市"], ["第', "length"),
        1: reply("没有。"),
        2: reply(None),
        3: reply("好的：[['北京', '城市']]"),
    }
    with serving(lambda request, before: texts[number(request)]) as server:
        found = sorted(run(config(server.url), SENTENCES[:4]), key=lambda prediction: prediction.id)
    assert [(p.parse, len(p.entities)) for p in found] == [
        ("repaired", 1),
        ("failed", 0),
        ("failed", 0),
        ("repaired", 1),
    ]
    assert found[0].reason.startswith("stopped by decoding.max_new_tokens; ")
    assert [p.raw for p in found] == ['[["北京", "城市"], ["第', "没有。", "", "好的：[['北京', '城市']]"]


def test_nothing_is_asked_about_nothing() -> None:
    empty = Sentence("e", "")
    with serving(lambda request, before: right(request)) as server:
        assert run(config(server.url), []) == []
        [prediction] = run(config(server.url), [empty])
        assert (prediction.id, prediction.parse, prediction.entities) == ("e", "ok", [])
        assert run(config(server.url), [empty, SENTENCES[0]], frozenset({"e", "s0"})) == []
        broken = Sentence("h", "第1句\udc00")
        found = run(config(server.url), [SENTENCES[1], broken])
    assert len(server.seen) == 1
    assert [(p.id, p.parse) for p in found if p.id == "h"] == [("h", "failed")]


def _when_quiet(seen: Sequence[Seen]) -> int:
    """How many requests have come when no more come: those under way may arrive late on a busy machine."""
    before = -1
    while before != (before := len(seen)):
        time.sleep(0.4)
    return before


def test_a_reader_that_stops_early_stops_the_asking() -> None:
    def script(request: Seen, before: int) -> Answer:
        time.sleep(0.02)
        return right(request)

    many = [Sentence(f"s{place}", f"第{place}句在北京") for place in range(300)]
    with serving(script) as server:
        batches = predict_with_server(config(server.url), PROMPT, many, FREE)
        next(batches)
        batches.close()
        assert _when_quiet(server.seen) < len(many)


def test_a_reader_of_outcomes_that_stops_early_stops_the_asking() -> None:
    with serving(lambda request, before: right(request)) as server:
        client = ChatClient(config(server.url, concurrency=1), "teacher")
        requests = ((place, ChatRequest([{"role": "user", "content": f"第{place}句"}], {})) for place in range(100_000))
        outcomes = client.ask_all(requests)
        while not next(outcomes):
            pass
        outcomes.close()
        assert _when_quiet(server.seen) < 100_000
        client.close()


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(ChatClient, "tick", 0.1)
    caplog.set_level(logging.INFO, "omniner")

    def script(request: Seen, before: int) -> Answer:
        time.sleep(0.15)
        return error(500, "hiccup") if number(request) == 4 and not before else right(request)

    with serving(script) as server:
        run(config(server.url, concurrency=2), SENTENCES)
    lines = [record.getMessage() for record in caplog.records if record.name == "omniner"]
    assert any(re.fullmatch(r"\d+ of 12 sentences answered, \d+\.\d per s, \d+ s left.*", line) for line in lines)
    assert lines[-1].startswith("12 requests, 84 prompt tokens, 36 answer tokens; 1 further attempt, ")
    assert "HTTP 500: hiccup" in lines[-1]


def test_a_part_of_some_work_says_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(ChatClient, "tick", 0.0)
    caplog.set_level(logging.INFO, "omniner")
    with serving(lambda request, before: right(request)) as server:
        batches = predict_with_server(config(server.url), PROMPT, SENTENCES, FREE, quiet=True)
        assert_right([prediction for batch in batches for prediction in batch], SENTENCES)
    assert [record for record in caplog.records if record.name == "omniner"] == []


GUIDED = {"kind": "guided", "structured": "json_schema"}


def test_a_schema_is_sent_and_followed() -> None:
    with serving(lambda request, before: right(request)) as server:
        assert_right(run(config(server.url, **GUIDED), SENTENCES), SENTENCES)
    for request in server.seen:
        schema = request.body["response_format"]["json_schema"]["schema"]
        assert schema["items"]["prefixItems"][1]["enum"] == ["城市", "品牌"]


def test_a_server_that_wants_an_object_gets_one() -> None:
    """The first sentences are asked one by one, so that only they are asked twice."""

    def script(request: Seen, before: int) -> Answer:
        schema = request.body["response_format"]["json_schema"]["schema"]
        if schema["type"] != "object":
            return error(400, "schema must have type 'object'")
        pairs = json.loads(right(request).body["choices"][0]["message"]["content"])
        entities = [{"text": text, "category": category} for text, category in pairs]
        return reply(json.dumps({"entities": entities}))

    with serving(script) as server:
        found = run(config(server.url, **GUIDED), SENTENCES)
    assert_right(found, SENTENCES)
    assert len(server.seen) == 13
    assert {p.raw for p in found if p.id == "s3"} == {'[["北京", "城市"], ["第3句", "品牌"]]'}


def test_a_refused_first_sentence_says_nothing_about_the_schema() -> None:
    def script(request: Seen, before: int) -> Answer:
        return error(400, "too long") if number(request) < 2 else right(request)

    with serving(script) as server:
        found = run(config(server.url, **GUIDED), SENTENCES)
    assert sorted(p.id for p in found if p.parse == "failed") == ["s0", "s1"]
    assert_right([p for p in found if p.parse == "ok"], SENTENCES[2:])
    kinds = {request.body["response_format"]["json_schema"]["schema"]["type"] for request in server.seen[4:]}
    assert kinds == {"array"}


def test_a_server_that_ignores_the_form_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for text in ("[['北京', '城市']]", '[["北京", "省份"]]'):
        caplog.clear()
        with serving(lambda request, before, text=text: reply(text)) as server:
            run(config(server.url, **GUIDED), SENTENCES)
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "decoding.structured=json_schema" in warnings[0]


def test_a_grammar_is_made_for_each_sentence() -> None:
    with serving(lambda request, before: right(request)) as server:
        assert_right(run(config(server.url, kind="guided", structured="vllm"), SENTENCES), SENTENCES)
    for request in server.seen:
        assert (
            json.dumps(list(f"第{number(request)}句在北京"), ensure_ascii=False)
            in (request.body["structured_outputs"]["grammar"])
        )


def test_guided_without_a_way_to_guide_is_a_mistake() -> None:
    found, raised = partly(config("http://127.0.0.1:1/v1", kind="guided"), SENTENCES)
    assert (found, raised.where) == ([], "decoding.structured")


def test_a_single_question_can_be_asked() -> None:
    """What a step with a teacher uses: one outcome, with whatever options."""
    script = {0: reply("好"), 1: error(400, "no"), 2: error(500, "broken")}
    with serving(lambda request, before: script[number(request)]) as server:
        client = ChatClient(config(server.url, retries=1), "teacher")
        requests = [ChatRequest([{"role": "user", "content": f"第{place}句"}], {"n": 1}) for place in range(3)]
        outcomes = [client.ask(request) for request in requests[:2]]
        with pytest.raises(UserError, match=r"teacher\.url"):
            client.ask(requests[2])
        client.close()
    assert outcomes == [Reply("好", "stop"), Refusal("HTTP 400: no", filtered=False)]
    assert client.usage.retries == 1


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    found, raised = partly(config("http://127.0.0.1:1/v1"), SENTENCES)
    assert (found, raised.where) == ([], "decoding")
    assert "pip install 'omniner[server]'" in raised.fix


def test_asking_a_server_needs_no_torch() -> None:
    code = "import omniner.llm.serving.openai_engine, sys; print([m for m in ('torch', 'openai') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@contextlib.contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    """A real server of a tiny random model, or a skip with the reason why there is none."""
    program = shutil.which("transformers", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("there is no `transformers` command")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "serve.log"
    command = [program, "serve", str(folder / "model"), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:
        try:
            for _ in range(120):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if process.poll() is not None:
                    break
                time.sleep(0.5)
            else:
                process.kill()
            if process.poll() is not None:
                pytest.skip(f"`transformers serve` does not start: {log.read_text(encoding='utf-8')[-500:]}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


@pytest.mark.slow
def test_a_real_server_says_what_the_model_says(tmp_path: Path) -> None:
    """Random weights write nonsense, but the same nonsense here and there: the prompt arrives as it was meant."""
    import torch
    from tests.helpers.chats import CHATML, small
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    backend = small("bytes").tokenizer.backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=CHATML)
    shape = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        initializer_range=0.5,  # so that the likeliest token is clearly so
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(shape).eval()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    with transformers_serve(tmp_path) as url:
        name = str(tmp_path / "model")
        found = run(config(url, model=name, max_new_tokens=8, timeout=60.0, concurrency=2), SENTENCES[:4])
    assert sorted(prediction.id for prediction in found) == ["s0", "s1", "s2", "s3"]
    for prediction in found:
        text = tokenizer.apply_chat_template(
            PROMPT.messages(SENTENCES[int(prediction.id[1:])].text), tokenize=False, add_generation_prompt=True
        )
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert prediction.raw == tokenizer.decode(ids, skip_special_tokens=True).strip()  # as this server does
        assert len(ids) < 8 or prediction.reason.startswith("stopped by decoding.max_new_tokens")


PAIRS = '[["北京", "城市"]]'
CALL = {"name": "extract", "arguments": json.dumps({"entities": [["北京", "城市"]]})}
READABLE = json.dumps(reply(PAIRS).body, ensure_ascii=False)


def events(*texts: str, end: str = "data: [DONE]\n\n") -> bytes:
    chunks = [json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False) for text in texts]
    return "".join([*(f"data: {chunk}\n\n" for chunk in chunks), end]).encode()


@pytest.mark.parametrize(
    "answer",
    [
        reply([{"type": "thinking", "text": "想"}, {"type": "text", "text": PAIRS}]),  # type: ignore[arg-type]
        reply(f'<think>候选 [["北京", "品牌"]]</think>\n\n{PAIRS}'),
        reply(PAIRS, reasoning_content='候选 [["北京", "品牌"]]'),
        reply(None, "tool_calls", tool_calls=[{"function": CALL}]),
        reply("", function_call={"name": "extract", "arguments": PAIRS}),
        Answer(200, {"choices": [{"text": PAIRS, "finish_reason": "stop"}]}),
        Answer(200, READABLE.encode("gbk")),
        Answer(200, READABLE.encode("big5"), kind="application/json; charset=big5"),
        Answer(200, events(PAIRS[:7], PAIRS[7:]), kind="text/event-stream"),
        Answer(200, b"\xef\xbb\xbf" + json.dumps(reply(PAIRS).body).encode()),
        Answer(200, events([{"type": "text", "text": PAIRS}]), kind="text/event-stream"),  # type: ignore[arg-type]
        Answer(200, events("\x85\u2028", PAIRS).replace(b"\\u2028", "\u2028".encode()), kind="text/event-stream"),
    ],
    ids=[
        *("parts", "think", "reasoning", "tool call", "function call", "completion", "GBK", "Big5", "stream", "BOM"),
        *("stream of parts", "separators"),
    ],
)  # fmt: skip
def test_answers_that_come_in_another_way_are_understood(answer: Answer) -> None:
    with serving(lambda request, before: answer) as server:
        found = run(config(server.url), SENTENCES[:2])
    assert [[entity[:2] for entity in prediction.entities] for prediction in found] == [[("北京", "城市")]] * 2


@pytest.mark.parametrize(
    ("answer", "where", "said"),
    [
        (Answer(200, b"<html><title>Log in</title></html>", kind="text/html"), "decoding.url", "a web page"),
        (Answer(200, {"error": {"message": "model overloaded", "code": 503}}), "decoding.url", "model overloaded"),
        (Answer(200, {"error": "model 'tiny' not found"}), "decoding.model", "/v1/models"),
        (Answer(400, {"error": "model 'tiny' not found"}), "decoding.model", "/v1/models"),
        (Answer(200, events(PAIRS, end=""), kind="text/event-stream"), "decoding.url", "breaks off"),
        (Answer(200, {"choices": []}), "decoding.url", "no answer"),
        (Answer(200, b'data: {"choices": [null]}\n\n', kind="text/event-stream"), "decoding.url", "no answer"),
        (Answer(200, b'data: {"choices": [{"delta": "a"}]}', kind="text/event-stream"), "decoding.url", "no answer"),
        (Answer(200, b'{"a":' + b"[" * 700 + b"]" * 700 + b"}"), "decoding.url", "no answer"),
    ],
    ids=[
        *("web page", "error", "unknown model", "unknown model, 400", "broken stream", "no choices"),
        *("no choice in a stream", "a text for a choice", "deep"),
    ],
)
def test_what_is_no_answer_is_told_apart(answer: Answer, where: str, said: str) -> None:
    with serving(lambda request, before: answer) as server:
        found, raised = partly(config(server.url, retries=1), SENTENCES)
    assert (found, raised.where) == ([], where)
    assert said in str(raised)


@pytest.mark.parametrize(
    ("answer", "key", "kind"),
    [
        (reply(None, reasoning_content=PAIRS), "decoding.max_new_tokens", "the model only thinks"),
        (reply("", "length", reasoning="句子里有北京"), "decoding.max_new_tokens", "the model only thinks"),
        (reply("<think>句子里有北京", "length"), "decoding.max_new_tokens", "the model only thinks"),
        (reply("好的，我来看看：", "length"), "decoding.max_new_tokens", "cut at its limit"),
        (reply(None), "decoding.model", "no text at all"),
        (reply("没有。"), "decoding.model", "no list of entities"),
    ],
)
def test_answers_that_cannot_be_read_are_counted_and_said(
    answer: Answer, key: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    many = [Sentence(f"s{place}", f"第{place}句在北京") for place in range(30)]
    with serving(lambda request, before: answer if number(request) % 2 else right(request)) as server:
        found = run(config(server.url), many)
    first, last = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert re.match(r"\d+ of 2\d answers could not be read: \d+ x ", first)
    assert last.startswith(f"15 of 30 answers could not be read: 15 x {kind}")
    assert key in last
    openai_engine.refuse_unread(found, config(server.url))
    with pytest.raises(UserError, match="none of 15 answers could be read") as raised:
        openai_engine.refuse_unread([p for p in found if p.parse == "failed"], config(server.url))
    assert raised.value.where == key


def test_further_fields_of_a_request() -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "max_tokens": None, "max_completion_tokens": 9}
    with serving(lambda request, before: right(request)) as server:
        run(config(server.url, extra_body=extra), SENTENCES[:1])
    body = server.seen[0].body
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body


@pytest.mark.parametrize(
    ("own", "sent"),
    [
        ({}, TEMPLATE_OPTIONS),
        ({"chat_template_kwargs": {"enable_thinking": True}}, {**TEMPLATE_OPTIONS, "enable_thinking": True}),
        ({"chat_template_kwargs": None}, None),
    ],
)
def test_the_template_of_a_known_model_is_told_what_it_is_told_here(
    own: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    with serving(lambda request, before: right(request)) as server:
        run(openai_engine.with_template_options(config(server.url, extra_body=own)), SENTENCES[:1])
    assert server.seen[0].body.get("chat_template_kwargs") == sent
