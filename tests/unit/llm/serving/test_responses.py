"""Bodies that servers send, without a server: streams that nobody asked for, thoughts, refusals, charsets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omniner.llm.serving.responses import ONLY_THOUGHT, PassingError, decode_body, read_choice

WORDS = [["北京", "城市"]]
PAIRS = json.dumps(WORDS, ensure_ascii=False)


def stream(*events: Any, begin: str = "", end: str = "data: [DONE]\n\n") -> bytes:
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events]
    return (begin + "".join(lines) + end).encode()


def chunk(finish: str | None = None, **delta: str) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "finish_reason": finish}]}


def test_a_stream_keeps_what_later_events_do_not_repeat() -> None:
    usage = {"prompt_tokens": 3}
    body = decode_body(stream({**chunk("length", content="a"), "usage": usage}, chunk(content="b")), None)
    assert (body["usage"], body["choices"][0]["finish_reason"]) == (usage, "length")
    assert body["choices"][0]["message"]["content"] == "ab"


def test_a_stream_ends_with_its_mark_or_with_a_reason() -> None:
    assert decode_body(stream(chunk("length", content="a"), end=""), None)["choices"][0]["finish_reason"] == "length"
    assert decode_body(stream(chunk(content="a")), None)["choices"][0]["finish_reason"] == "stop"
    with pytest.raises(PassingError, match="breaks off"):
        decode_body(stream(chunk(content="a"), end=""), None)


@pytest.mark.parametrize("begin", ["", "event: message\n", ": ping\n\n"])
def test_a_stream_may_begin_with_other_lines(begin: str) -> None:
    assert decode_body(stream(chunk(content=PAIRS), begin=begin), None)["choices"][0]["message"]["content"] == PAIRS


def test_an_error_within_a_stream_is_the_body() -> None:
    error = {"error": {"message": "overloaded"}}
    assert decode_body(stream(chunk(content="a"), error), None) == error


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_thought_without_an_answer_is_noted_in_a_stream_and_in_a_message(name: str) -> None:
    for body in (decode_body(stream(chunk("length", **{name: "想"})), None), {"choices": [{"message": {name: "想"}}]}):
        reply, refused = read_choice(body)
        assert (reply.text, refused) == ("", "")
        assert ONLY_THOUGHT in reply.note
    reply, _ = read_choice({"choices": [{"message": {"content": PAIRS, name: "想"}}]})
    assert (reply.text, reply.note) == (PAIRS, "")


@pytest.mark.parametrize("kind", ["text", "output_text"])
def test_parts_that_are_text_are_joined(kind: str) -> None:
    parts = [{"type": "reasoning", "text": "想"}, {"type": kind, "text": "a"}, "b"]
    assert read_choice({"choices": [{"message": {"content": parts}}]})[0].text == "ab"


@pytest.mark.parametrize(("said", "refused"), [("no", "no"), (None, "stopped by the server's content filter")])
def test_a_filter_is_named_where_nothing_else_says_why(said: str | None, refused: str) -> None:
    body = {"choices": [{"message": {"content": "", "refusal": said}, "finish_reason": "content_filter"}]}
    assert read_choice(body)[1] == refused


@pytest.mark.parametrize("charset", [None, "no-such-charset", "ascii"])
def test_a_charset_that_is_wrong_or_unknown_is_guessed(charset: str | None) -> None:
    assert decode_body(PAIRS.encode("gb18030"), charset) == WORDS
