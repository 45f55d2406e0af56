"""What a server that speaks OpenAI's protocol says, in our words: its answers, its errors, whether waiting helps.

In go decoded bodies and HTTP errors, out come `Reply`, `Refusal` or `Failure`, or a `UserError` where nothing can work
as it is. An `Endpoint` holds the address and the key, and keeps the key out of every message: some servers send it
back.

A small chat client for any server that speaks OpenAI's protocol: vLLM, SGLang, `transformers serve`, hosted models.

In go the messages of chats, out come their outcomes as they arrive. The `openai` package does the protocol; when to try
again is decided here, so that it is the same for all its versions: after a connection that fails, a timeout, a body
that is no answer, and the statuses 408, 409, 425, 429 and 5xx. The waits double, vary by chance, and are never shorter
than the server's `Retry-After`, which all requests keep to. What does not pass by waiting is told apart:

- `Refusal`: the server will not answer this one request (HTTP 400, 413, 422, a content filter);
- `ServerError`: this request used up its attempts while others got through;
- `UserError`: nothing can work as it is: no server, no such model, a key that is not accepted, no credit.

`concurrency` threads ask side by side. They are daemons: a program that is told to stop does not wait for a server. The
key is read from the environment and stands in no message and no log.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar
from urllib.parse import urlsplit

from omniner.errors import UserError

_PASSING = frozenset({408, 409, 425, 429})  # statuses, and 5xx
_REFUSED = frozenset({400, 413, 422})
_FILTERS = ("content_filter", "content_policy")  # in the code or the message of a refusal for what is said
_SHOWN = 300  # characters of a server's message that are quoted


class ChatRequest(NamedTuple):
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


log = logging.getLogger("omniner")

_FIRST_WAIT = 1.0  # seconds before the second attempt; doubled for each further one
_LONGEST_WAIT = 60.0  # seconds
_LONGEST_ORDERED_WAIT = 600.0  # seconds; a server that wants more is not waited for
_NAMED = 20  # models named in a message

Key = TypeVar("Key")
Result = TypeVar("Result")


class ServerConfig(Protocol):
    """What is read of a config group such as `schema.DecodingConfig`."""

    url: str | None
    model: str | None
    api_key_env: str
    concurrency: int
    timeout: float
    retries: int


class ServerError(Exception):
    """A request used up its attempts."""


@dataclass(slots=True)
class Usage:
    """Counts over the life of a client; tokens as far as the server tells them."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    last_trouble: str = ""


class _StoppedError(Exception):
    """The client was closed while a request was waiting."""


class ChatClient:
    """Asks one server; safe to use from several threads.

    Args:
        config: where the server is and how patient to be.
        section: the config group it is, for messages: `decoding`.

    Raises:
        UserError: no usable address or key, or the package is not installed.
    """

    def __init__(self, config: ServerConfig, section: str) -> None:
        try:
            import openai
        except ImportError as error:
            fix = "Install it: pip install 'omniner[server]'."
            raise UserError(section, "the package openai, which talks to servers, is not installed", fix) from error
        self._endpoint = Endpoint.of(section, config.url, config.api_key_env)
        self.url = self._endpoint.url
        self.usage = Usage()
        self._errors, self._section, self._config = openai, section, config
        # A server that needs no key ignores it; the package insists on one.
        self._http: Any = openai.OpenAI(
            base_url=self.url, api_key=self._endpoint.key or "none", max_retries=0, timeout=config.timeout
        )
        self._model = config.model
        self._stop = threading.Event()
        self._lock = threading.Lock()  # of `usage` and of the two times below, which are those of time.monotonic()
        self._quiet_until = 0.0  # the server asked for no request before
        self._last_answer = 0.0

    def close(self) -> None:
        """End all waiting; requests under way are abandoned."""
        self._stop.set()
        self._http.close()

    @property
    def model(self) -> str:
        """The model's name there: the configured one, or the only one that the server has."""
        if self._model is None:
            self._model = self._only_model()
        return self._model

    def _only_model(self) -> str:
        def names() -> list[str] | Failure:
            data = decoded(self._http.models.with_raw_response.list())
            try:
                return [str(item["id"]) for item in data["data"]]
            except (KeyError, TypeError):
                return Failure("an answer that lists no models")

        key = f"{self._section}.model"
        try:
            found = self._persist(names)
        except ServerError as error:
            raise self._gone(error, f"See that it runs, or set {key} if it only does not list its models.") from error
        if isinstance(found, Refusal) or not found:
            why = f": {found.reason}" if isinstance(found, Refusal) else ""
            raise UserError(key, f"{self.url} names no model{why}", f"Set {key} to the model's name there.")
        if len(found) > 1:
            shown = ", ".join(found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
            raise UserError(key, f"{self.url} has {len(found)} models", f"Set {key} to one of them: {shown}.")
        return found[0]

    def ask(self, request: ChatRequest) -> Reply | Refusal | ServerError:
        """The outcome of one request, after as many attempts as it takes.

        Raises:
            UserError: no request can succeed; also where this one failed and no other got through meanwhile.
        """
        model = self.model

        def attempt() -> Reply | Refusal | Failure:
            create = self._http.chat.completions.with_raw_response.create
            body = decoded(create(model=model, messages=request.messages, extra_body=dict(request.options)))
            self._count(body)
            return self._endpoint.read(body)

        began = time.monotonic()
        try:
            outcome = self._persist(attempt)
        except ServerError as error:
            with self._lock:
                others_got_through = self._last_answer > began
            if others_got_through:
                return error
            fix = "See that it runs, and repeat the same command: answers that are there are kept."
            raise self._gone(error, fix) from error
        with self._lock:
            self.usage.requests += 1
            self._last_answer = time.monotonic()
        return outcome

    def _gone(self, error: ServerError, fix: str) -> UserError:
        return UserError(f"{self._section}.url", f"no answer from {self.url}: {error}", fix)

    def ask_all(
        self, requests: Iterable[tuple[Key, ChatRequest]], tick: float
    ) -> Iterator[list[tuple[Key, Reply | Refusal | ServerError]]]:
        """Outcomes with their keys in batches as they come, in any order; an empty batch after `tick` seconds without.

        Raises:
            UserError: no request can succeed any more; what had come by then was yielded before.
        """
        source, gate = iter(requests), threading.Lock()
        results: queue.SimpleQueue[tuple[Key, Reply | Refusal | ServerError] | Exception | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                while not self._stop.is_set():
                    with gate:
                        item = next(source, None)
                    if item is None:
                        break
                    results.put((item[0], self.ask(item[1])))
            except Exception as error:  # carried to the thread that reads the results, and raised there
                self._stop.set()
                results.put(error)
            results.put(None)

        running = self._config.concurrency
        for _ in range(running):
            threading.Thread(target=work, daemon=True).start()
        trouble: Exception | None = None
        try:
            while running:
                batch = []
                for item in _arrived(results, tick):
                    if item is None:
                        running -= 1
                    elif not isinstance(item, Exception):
                        batch.append(item)
                    elif trouble is None and not isinstance(item, _StoppedError):
                        trouble = item
                yield batch
        finally:
            if running:  # the reader wants no more
                self._stop.set()
        if trouble is not None:
            raise trouble

    def _persist(self, attempt: Callable[[], Result | Refusal | Failure]) -> Result | Refusal:
        """The result of the first attempt that is no failure."""
        attempts = self._config.retries + 1
        for tried in range(1, attempts + 1):
            self._keep_quiet()
            outcome = self._try(attempt)
            if not isinstance(outcome, Failure):
                return outcome
            reason, ordered = outcome
            if tried == attempts or ordered > _LONGEST_ORDERED_WAIT:
                break
            with self._lock:
                self.usage.retries += 1
                self.usage.last_trouble = reason
                if ordered:
                    self._quiet_until = max(self._quiet_until, time.monotonic() + ordered)
            self._wait(min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (tried - 1)) * random.uniform(0.5, 1.0))
        raise ServerError(f"{reason} ({tried} attempts)")

    def _keep_quiet(self) -> None:
        """Wait until the server wants requests again, and a little so that they do not all come at once."""
        with self._lock:
            left = self._quiet_until - time.monotonic()
        self._wait(left * random.uniform(1.0, 1.1) if left > 0 else 0.0)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _StoppedError

    def _try(self, attempt: Callable[[], Result | Refusal | Failure]) -> Result | Refusal | Failure:
        errors = self._errors
        try:
            return attempt()
        except errors.APITimeoutError:
            return Failure(f"no answer within {self._config.timeout:g} s")
        except errors.APIConnectionError as error:
            return Failure(f"no connection ({self._endpoint.clean(str(error.__cause__ or error))})")
        except errors.APIStatusError as error:
            return self._endpoint.judge(error)
        except UnicodeEncodeError:
            return Refusal("half a surrogate pair, which cannot be sent", filtered=False)
        except ValueError as error:
            return Failure(f"a body that is not JSON ({error})")

    def _count(self, body: Any) -> None:
        usage = body.get("usage") if isinstance(body, dict) else None
        if not isinstance(usage, dict):
            return
        with self._lock:
            for name in ("prompt_tokens", "completion_tokens"):
                if type(usage.get(name)) is int:
                    setattr(self.usage, name, getattr(self.usage, name) + usage[name])


def _arrived(results: queue.SimpleQueue[Result], tick: float) -> Iterator[Result]:
    """All that is there, after waiting for the first at most `tick` seconds."""
    try:
        yield results.get(timeout=tick)
        while True:
            yield results.get_nowait()
    except queue.Empty:
        return
