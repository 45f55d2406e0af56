"""What a server that speaks OpenAI's protocol says, in our words: its answers, its errors, whether waiting helps.

In go decoded bodies and HTTP errors, out come `Reply`, `Refusal` or `Failure`, or a `UserError` where nothing can work
as it is. An `Endpoint` holds the address and the key, and keeps the key out of every message: some servers send it
back.
"""

from __future__ import annotations

import email.utils
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from omniner.errors import UserError

_PASSING = frozenset({408, 409, 425, 429})  # statuses, and 5xx
_REFUSED = frozenset({400, 413, 422})
_FILTERS = ("content_filter", "content_policy")  # in the code or the message of a refusal for what is said
_SHOWN = 300  # characters of a server's message that are quoted


class Request(NamedTuple):
    """One chat. `options` are the other fields of the request: `temperature`, `response_format`, a server's own."""

    messages: Sequence[Mapping[str, str]]
    options: Mapping[str, Any]


class Reply(NamedTuple):
    """What the model wrote and, in the server's word, why it ended: `stop`, `length`, ..."""

    text: str
    finish: str


class Refusal(NamedTuple):
    """The server will not answer this request, however often it is asked; `filtered`: for what is said in it."""

    reason: str
    filtered: bool


class Failure(NamedTuple):
    """An attempt that another one may put right; `wait`: seconds that the server asked for, 0 = it did not."""

    reason: str
    wait: float = 0.0


@dataclass(frozen=True)
class Endpoint:
    """An address with its key. `section` is the config group that they come from, for messages."""

    section: str
    url: str
    key_name: str
    key: str = field(repr=False)  # empty: none

    @classmethod
    def of(cls, section: str, url: str | None, key_name: str) -> Endpoint:
        """Check the address, and take the key from the environment. Either of them unusable is a `UserError`."""
        return cls(section, _checked_url(url, section), key_name, _key_in(key_name, section))

    def clean(self, text: str) -> str:
        """One short line of foreign text, without the key."""
        text = " ".join(text.split())
        if self.key:
            text = text.replace(self.key, "***")
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

    def read(self, data: Any) -> Reply | Refusal | Failure:
        """The answer in a decoded body."""
        try:
            choice = data["choices"][0]
            message, finish = choice["message"], str(choice.get("finish_reason") or "")
            text, refusal = message.get("content"), message.get("refusal")
            if text is not None and not isinstance(text, str):
                raise TypeError
        except (KeyError, IndexError, TypeError, AttributeError):
            return Failure(f"a body that is no answer: {self.clean(json.dumps(data, ensure_ascii=False))}")
        if finish == "content_filter" or refusal:
            return Refusal(self.clean(str(refusal or "stopped by the server's content filter")), filtered=True)
        return Reply(text or "", finish)

    def judge(self, error: Any) -> Refusal | Failure:
        """What an `openai.APIStatusError` means. Raises `UserError` where no request can do better."""
        status: int = error.status_code
        code, said = str(getattr(error, "code", None) or ""), self.clean(_message_of(error))
        reason = f"HTTP {status}: {said}"
        if status == 402 or code == "insufficient_quota":
            self._give_up("api_key_env", reason, "The account has no credit left: add some, or use another key.")
        if status in (401, 403):
            state = "is not accepted" if self.key else "is not set"
            self._give_up("api_key_env", reason, f"The key in the environment variable {self.key_name} {state}.")
        if status in _REFUSED:
            return Refusal(reason, filtered=any(name in f"{code} {said}" for name in _FILTERS))
        if status not in _PASSING and status < 500:
            is_model = "model" in said.lower()
            fix = f"Use a name that {self.url}/models lists." if is_model else "Name the API's address, mostly .../v1."
            self._give_up("model" if is_model else "url", reason, fix)
        return Failure(reason, _ordered_wait(error.response.headers))

    def _give_up(self, key: str, reason: str, fix: str) -> NoReturn:
        raise UserError(f"{self.section}.{key}", f"{self.url} answers {reason}", fix)


def decoded(raw: Any) -> Any:
    """The JSON in a raw response of the `openai` package. Raises ValueError where it is none."""
    try:
        return json.loads(raw.http_response.text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _message_of(error: Any) -> str:
    """What a server says of an error: OpenAI's way, FastAPI's way, or the bare body."""
    body = error.body
    said = body.get("message") or body.get("detail") if isinstance(body, dict) else body
    return str(said or error.response.text or error.response.reason_phrase)


def _ordered_wait(headers: Mapping[str, str]) -> float:
    """Seconds that `Retry-After` asks for, as a number or as a date; 0 where there is none that can be read."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return seconds if seconds > 0 else 0.0


def _checked_url(url: str | None, section: str) -> str:
    fix = f"Set {section}.url=http://host:port/v1."
    if not url:
        raise UserError(f"{section}.url", "the server has no address", fix)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"{section}.url", f"{url!r} is no web address", fix)
    if parts.username or parts.password:
        raise UserError(f"{section}.url", "it holds a user name or password", f"Use {section}.api_key_env for secrets.")
    return url.rstrip("/")


def _key_in(name: str, section: str) -> str:
    """The key, or nothing where the variable is not set."""
    key = os.environ.get(name, "").strip() if name else ""
    if not (key.isascii() and key.isprintable()):
        fix = f"Set {name} again."
        raise UserError(f"{section}.api_key_env", f"{name} holds characters that no key has", fix)
    return key
