"""Read the body of a server's response, even if the server deviates from OpenAI's protocol.

Supported are bodies in UTF-8 or in the encoding that the server names (or GBK, if it names none), streams that were not
requested, contents in parts, tool calls instead of a content, and plain completions. Reasoning alone is not an answer:
the reply is then empty and its note says so. A web page or an error with status 200 is not an answer either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_SHOWN = 80  # characters of a body that are quoted
_TITLE = re.compile(r"<title[^>]*>([^<]{1,200})", re.IGNORECASE)
_UNKNOWN_MODEL = re.compile(
    r"\bmodel\b.{0,200}(?:not found|not exist|unknown|not available|不存在)|(?:unknown|no such) model"
    r"|模型.{0,80}不存在",
    re.IGNORECASE | re.DOTALL,
)
ONLY_THOUGHT = "the model only thinks"  # in the reason of a prediction


class Reply(NamedTuple):
    """The model's reply.

    Attributes:
        text: of the answer; empty if there is none.
        finish: why it ended, in the server's word: `stop`, `length`, ...
        note: why the text is empty, if the server shows it.
    """

    text: str
    finish: str
    note: str = ""


class Refusal(NamedTuple):
    """The server will never answer this request; `filtered`: because of its content."""

    reason: str
    filtered: bool


class PassingError(Exception):
    """An attempt failed, but another one may succeed.

    Args:
        reason: what went wrong.
        wait: seconds that the server asked for; 0 = none.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


def names_unknown_model(code: str, said: str) -> bool:
    """Whether an error says that the server has no model with the requested name."""
    return code == "model_not_found" or bool(_UNKNOWN_MODEL.search(said))


def decode_body(content: bytes, charset: str | None) -> Any:
    """Decode the JSON in a body, or join a stream of events.

    Args:
        content: the bytes.
        charset: as the server names it, if it does.

    Raises:
        PassingError: the body holds neither.
    """
    text = _text_of(content, charset).removeprefix("\ufeff").strip()
    if text.startswith(("data:", "event:", ": ")):
        try:
            return _join_events(text)
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise PassingError("a stream that is no answer") from error
    try:
        return json.loads(text)
    except ValueError as error:
        if text.startswith("<"):
            title = _TITLE.search(text)
            shown = " ".join((title[1] if title else text[:_SHOWN]).split())
            raise PassingError(f"a web page, a body that is not JSON: {shown}") from error
        raise PassingError(f"a body that is not JSON ({error})") from error
    except RecursionError:
        raise PassingError("a body that is not JSON (nested too deeply)") from None


def _text_of(content: bytes, charset: str | None) -> str:
    for encoding in ("utf-8", charset, "gb18030"):
        try:
            return content.decode(encoding or "utf-8")
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode("utf-8", "replace")


def _join_events(text: str) -> Any:
    """Join a stream that was not requested into one body."""
    content, thought, finish, usage, done = "", "", "", None, False
    for event in _events(text):
        if event is None:
            done = True
            continue
        if not isinstance(event, dict) or event.get("error"):
            return event
        usage = event.get("usage") or usage
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or choice.get("message") or {}
            content += _content(delta.get("content")) or choice.get("text") or ""
            thought += delta.get("reasoning_content") or delta.get("reasoning") or ""
            finish = choice.get("finish_reason") or finish
    if not done and not finish:
        raise PassingError("a stream that breaks off")
    message = {"content": content, "reasoning_content": thought}
    return {"choices": [{"message": message, "finish_reason": finish or "stop"}], "usage": usage}


def _events(text: str) -> Iterator[Any]:
    """Yield the decoded events of a stream; None for its end."""
    for line in re.split(r"\r\n|\r|\n", text):  # and at no other character that ends a line in Unicode
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        try:
            yield None if data == "[DONE]" else json.loads(data)
        except (ValueError, RecursionError):
            raise PassingError(f"a stream whose event is not JSON: {data[:_SHOWN]}") from None


def read_choice(data: Any) -> tuple[Reply, str]:
    """Read the first choice of a decoded body.

    Returns:
        The reply, and the model's or the server's words of a refusal, empty if there is none.

    Raises:
        LookupError, TypeError, AttributeError: there is no choice in it, or one of unknown form.
    """
    choice = data["choices"][0]
    message = choice.get("message") or {"content": choice["text"]}
    finish = str(choice.get("finish_reason") or "")
    text = _content(message.get("content"))
    if not text.strip():
        calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
        text = json.dumps(calls, ensure_ascii=False) if calls else text
    thought = message.get("reasoning_content") or message.get("reasoning")
    note = f"{ONLY_THOUGHT}, no answer follows" if thought and not text.strip() else ""
    refused = str(message.get("refusal") or "")
    if finish == "content_filter":
        refused = refused or "stopped by the server's content filter"
    return Reply(text, finish, note), refused


def _content(content: Any) -> str:
    """Return the text of a content: a string, or a list of parts, without those that are reasoning."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [part if isinstance(part, Mapping) else {"text": part} for part in content]
    texts = [part["text"] for part in parts if part.get("type", "text") in ("text", "output_text")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a part without text")
    return "".join(texts)
