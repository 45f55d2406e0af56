"""A small chat client for any server with OpenAI's protocol: vLLM, SGLang, `transformers serve`, hosted models.

The `openai` package implements the protocol. Retries are decided here, with tenacity, because that package's own
retries treat an account without credit like a busy server, do not recognise bodies that are not answers, cannot be
stopped while they wait, and delay one request when the server means all of them. Retried are failed connections,
timeouts, bodies that are not answers, and the statuses 408, 409, 425, 429 and 5xx. The waits double, vary randomly, and
are never shorter than the server's `Retry-After`, which all requests respect. Permanent failures are distinguished:

- `Refusal`: the server will not answer this one request (HTTP 400, 413, 422, a content filter);
- `ServerError`: this request used up its attempts while others succeeded;
- `UserError`: no request can succeed: no server, no such model, a rejected key, no credit.

`concurrency` threads send requests in parallel. They are daemons, unlike those of a `ThreadPoolExecutor`: a program
that is told to stop does not wait for a server. The key is read from the environment and appears in no message and no
log, although some servers return it.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, NoReturn, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit

import tenacity

from omniner.errors import HIDDEN, UserError, masked, one_line
from omniner.llm.serving.responses import PassingError, Refusal, Reply, decode_body, names_unknown_model, read_choice
from omniner.wording import counted, first_of, shortened

_PASSING = frozenset({408, 409, 425, 429})  # statuses that are retried, in addition to 5xx
_REFUSED = frozenset({400, 413, 422})
_FILTERS = ("content_filter", "content_policy")  # in the code or the message of a refusal because of the content
_SHOWN = 300  # characters of a server's message that are quoted
_SHORTEST_KEY = 8  # minimum number of characters of a secret key
_NAMED = 20  # models named in a message
_FIRST_WAIT = 1.0  # seconds before the second attempt; doubled for each further one
_LONGEST_WAIT = 60.0  # seconds
_LONGEST_ORDERED_WAIT = 600.0  # seconds; if a server asks for more, the request fails

Key = TypeVar("Key")
Result = TypeVar("Result")


class ServerConfig(Protocol):
    """Attributes that are read of a config group such as `model_groups.DecodingConfig`."""

    url: str | None
    model: str | None
    api_key_env: str
    concurrency: int
    timeout: float
    retries: int


class ChatRequest(NamedTuple):
    """One chat. `options` are the other fields of the request: `temperature`, `response_format`, a server's own."""

    messages: Sequence[Mapping[str, str]]
    options: Mapping[str, Any]


def response_format(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the request field that asks for an answer in the form of a JSON schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}}


class ServerError(Exception):
    """A request used up its attempts."""


class _ClosedError(Exception):
    """The client was closed while a request was waiting."""


@dataclass(slots=True)
class Usage:
    """Counts over the life of a client; tokens if the server reports them."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    last_trouble: str = ""


class ChatClient:
    """A client of one server; safe to use from several threads.

    Args:
        config: the server's address, and timeouts and retries.
        section: name of the config group, for messages: `decoding`.

    Raises:
        UserError: no usable address or key, or the package `openai` is not installed.
    """

    tick: ClassVar[float] = 10.0  # seconds without an answer after which a caller can report progress

    def __init__(self, config: ServerConfig, section: str) -> None:
        try:
            import openai
        except ImportError as error:
            fix = "Install it: pip install 'omniner[server]'."
            raise UserError(section, "the package openai, which talks to servers, is not installed", fix) from error
        self._endpoint = Endpoint.from_config(config, section)
        self.url = self._endpoint.url
        self.usage = Usage()
        self._openai, self._section, self._config = openai, section, config
        try:
            connections = openai.DefaultHttpxClient(
                event_hooks={"response": [self._endpoint.check_redirect]},
                trust_env=not self._endpoint.is_local,  # a proxy would look for the server on its own machine
            )
        except (ImportError, ValueError) as error:  # ALL_PROXY=socks5://..., without the package for it
            found = f"the proxy that the environment names cannot be used ({one_line(error)})"
            fix = (
                "Unset ALL_PROXY or HTTPS_PROXY, set it to http://host:port, or pip install 'httpx[socks]' for socks5."
            )
            raise UserError(f"{section}.url", found, fix) from error
        # a server that needs no key ignores it; the package requires one
        self._http: Any = openai.OpenAI(
            base_url=self.url,
            api_key=self._endpoint.key or "none",
            max_retries=0,
            timeout=config.timeout,
            http_client=connections,
        )
        self._model = config.model
        self._closed = threading.Event()
        self._lock = threading.Lock()  # of `usage` and of the two times below, which are those of time.monotonic()
        self._quiet_until = 0.0  # the server asked for no request before
        self._last_answer = 0.0

    def close(self) -> None:
        """End all waiting; running requests are abandoned."""
        self._closed.set()
        self._http.close()

    @property
    def model(self) -> str:
        """The model's name on the server: the configured one, or the only one that the server has."""
        if self._model is None:
            self._model = self._only_model()
        return self._model

    def _only_model(self) -> str:
        def list_models() -> list[str] | Refusal:
            data = self._send(self._http.models.with_raw_response.list)
            if isinstance(data, Refusal):
                return data
            try:
                return [str(item["id"]) for item in data["data"]]
            except (KeyError, TypeError):
                raise PassingError("an answer that lists no models") from None

        key = f"{self._section}.model"
        try:
            found = self._retry(list_models)
        except ServerError as error:
            raise self._gone(error, f"See that it runs, or set {key} if it only does not list its models.") from error
        if isinstance(found, Refusal) or not found:
            why = f": {found.reason}" if isinstance(found, Refusal) else ""
            raise UserError(key, f"{self.url} names no model{why}", f"Set {key} to the model's name there.")
        if len(found) > 1:
            fix = f"Set {key} to one of them: {first_of(found, _NAMED)}."
            raise UserError(key, f"{self.url} has {len(found)} models", fix)
        return found[0]

    def ask(self, request: ChatRequest) -> Reply | Refusal | ServerError:
        """Send one request, with as many attempts as needed.

        Raises:
            UserError: no request can succeed; also if this one failed and no other succeeded meanwhile.
        """
        model = self.model

        def create() -> Reply | Refusal:
            body = self._send(
                self._http.chat.completions.with_raw_response.create,
                model=model,
                messages=request.messages,
                extra_body=dict(request.options),
            )
            return body if isinstance(body, Refusal) else self._endpoint.read(self._count(body))

        began = time.monotonic()
        try:
            outcome = self._retry(create)
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
        if "a web page" in str(error):
            fix = f"Name the API's address, mostly .../v1. {fix}"
        return UserError(f"{self._section}.url", f"no answer from {self.url}: {error}", fix)

    def ask_all(
        self, requests: Iterable[tuple[Key, ChatRequest]]
    ) -> Iterator[list[tuple[Key, Reply | Refusal | ServerError]]]:
        """Send many requests, `concurrency` in parallel.

        Yields:
            Outcomes with their keys, in batches as they arrive, in any order; an empty batch after `tick` without any.

        Raises:
            UserError: no request can succeed any more; earlier outcomes were yielded before.
        """
        source, gate = iter(requests), threading.Lock()
        results: queue.SimpleQueue[tuple[Key, Reply | Refusal | ServerError] | Exception | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                while not self._closed.is_set():
                    with gate:
                        item = next(source, None)
                    if item is None:
                        break
                    results.put((item[0], self.ask(item[1])))
            except Exception as error:  # passed to the thread that reads the results, and raised there
                self._closed.set()
                results.put(error)
            results.put(None)

        running = self._config.concurrency
        for _ in range(running):
            threading.Thread(target=work, daemon=True).start()
        trouble: Exception | None = None
        try:
            while running:
                batch = []
                for item in wait_for_some(results, self.tick):
                    if item is None:
                        running -= 1
                    elif not isinstance(item, Exception):
                        batch.append(item)
                    elif trouble is None and not isinstance(item, _ClosedError):
                        trouble = item
                yield batch
        finally:
            if running:  # the caller stopped reading
                self._closed.set()
        if trouble is not None:
            raise trouble

    def _retry(self, attempt: Callable[[], Result]) -> Result:
        """Repeat an attempt until it does not fail temporarily.

        Raises:
            ServerError: it failed as often as `retries` allows, or the server asks for too long a wait.
        """

        def trouble(state: tenacity.RetryCallState) -> PassingError:
            error = state.outcome.exception() if state.outcome else None
            assert isinstance(error, PassingError), "nothing else is tried again"
            return error

        def note(state: tenacity.RetryCallState) -> None:
            error = trouble(state)
            with self._lock:
                self.usage.retries += 1
                self.usage.last_trouble = error.reason
                if error.wait:
                    self._quiet_until = max(self._quiet_until, time.monotonic() + error.wait)

        def give_up(state: tenacity.RetryCallState) -> NoReturn:
            raise ServerError(f"{trouble(state)} ({counted(state.attempt_number, 'attempt')})")

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PassingError),
            stop=lambda state: (
                state.attempt_number > self._config.retries or trouble(state).wait > _LONGEST_ORDERED_WAIT
            ),
            wait=tenacity.wait_exponential_jitter(initial=_FIRST_WAIT, max=_LONGEST_WAIT, jitter=_FIRST_WAIT),
            sleep=self._sleep,
            before=lambda state: self._keep_quiet(),
            before_sleep=note,
            retry_error_callback=give_up,
        )
        return retrying(attempt)

    def _keep_quiet(self) -> None:
        """Wait until the server accepts requests again, plus a random time so that they do not all come at once."""
        with self._lock:
            left = self._quiet_until - time.monotonic()
        self._sleep(left * random.uniform(1.0, 1.1) if left > 0 else 0.0)

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise _ClosedError

    def _send(self, send: Callable[..., Any], **fields: Any) -> Any | Refusal:
        """Send one request by a raw method of the package.

        Returns:
            The decoded body, or the server's refusal.

        Raises:
            PassingError: a later attempt may succeed.
            UserError: no request can succeed.
        """
        try:
            response = send(**fields).http_response
            return self._endpoint.without_key(decode_body(response.content, response.charset_encoding))
        except self._openai.APITimeoutError:
            raise PassingError(f"no answer within {self._config.timeout:g} s") from None
        except self._openai.APIConnectionError as error:
            if isinstance(error.__cause__, UserError):  # of a hook
                raise error.__cause__ from None
            raise PassingError(f"no connection ({self._endpoint.clean(str(error.__cause__ or error))})") from error
        except self._openai.APIStatusError as error:
            return self._endpoint.judge_status(error)
        except RecursionError:
            raise PassingError("a body that is nested too deeply") from None
        except UnicodeEncodeError:
            return Refusal("half a surrogate pair, which cannot be sent", filtered=False)

    def _count(self, body: Any) -> Any:
        """Add the token counts in a body to `usage`, and return the body."""
        usage = body.get("usage") if isinstance(body, dict) else None
        if isinstance(usage, dict):
            with self._lock:
                for name in ("prompt_tokens", "completion_tokens"):
                    if type(usage.get(name)) is int:
                        setattr(self.usage, name, getattr(self.usage, name) + usage[name])
        return body


@dataclass(frozen=True)
class Endpoint:
    """A server's address and key, and the meaning of its answers and errors; keeps the key out of every message.

    Attributes:
        section: the config group it comes from, for messages.
        url: without a slash at the end.
        key_name: of the environment variable that holds the key.
        key: empty if there is none.
    """

    section: str
    url: str
    key_name: str
    key: str = field(repr=False)

    @classmethod
    def from_config(cls, config: ServerConfig, section: str) -> Endpoint:
        """Check the address, and read the key from the environment.

        Raises:
            UserError: either of them is unusable.
        """
        url, name = checked_url(config.url, section), config.api_key_env
        key = os.environ.get(name, "").strip() if name else ""
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"{section}.api_key_env", f"{name} holds characters that no key has", f"Set {name} again.")
        return cls(section, url, name, key)

    @property
    def is_local(self) -> bool:
        """Whether the address is this machine's own."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def clean(self, text: str) -> str:
        """Return foreign text as one short line without the key."""
        text = " ".join(text.split())
        return shortened(text.replace(self.key, HIDDEN) if self.key else text, _SHOWN)

    def without_key(self, value: Any) -> Any:
        """Hide the key wherever a decoded body repeats it, because answers are written to files, and shown.

        A short word such as EMPTY, which is given to servers without keys, is not a secret, and may occur in an answer.
        """
        if len(self.key) < _SHORTEST_KEY:
            return value
        if isinstance(value, str):
            return value.replace(self.key, HIDDEN)
        if isinstance(value, list):
            return [self.without_key(item) for item in value]
        if isinstance(value, dict):
            return {self.without_key(name): self.without_key(item) for name, item in value.items()}
        return value

    def check_redirect(self, response: Any) -> None:
        """Reject a redirect to another server, which would receive the sentences meant for this one.

        Raises:
            UserError: the answer names an address on another host or port, or one without TLS.
        """
        if not response.is_redirect:
            return
        now = urlsplit(str(response.request.url))
        wanted = urlsplit(urljoin(now.geturl(), str(response.headers.get("location", ""))))
        if (wanted.scheme, wanted.netloc) == (now.scheme, now.netloc):
            return
        if (now.scheme, wanted.scheme) == ("http", "https") and wanted.netloc == now.hostname:
            return
        place = self.clean(masked(wanted.geturl()))
        fix = f"If that server is meant, set {self.section}.url to its address."
        raise UserError(f"{self.section}.url", f"{self.url} redirects to another server, {place}", fix)

    def read(self, data: Any) -> Reply | Refusal:
        """Read the answer in a decoded body.

        Raises:
            PassingError: the body is not an answer.
        """
        if isinstance(data, dict) and data.get("error") and not data.get("choices"):
            self._judge_body(data["error"])
        try:
            reply, refused = read_choice(data)
        except (LookupError, TypeError, AttributeError):
            shown = self.clean(json.dumps(data, ensure_ascii=False))
            raise PassingError(f"a body that is no answer: {shown}") from None
        return Refusal(self.clean(refused), filtered=True) if refused else reply

    def _judge_body(self, error: Any) -> NoReturn:
        """Raise for an error that comes with status 200."""
        fields = error if isinstance(error, dict) else {"message": error}
        said = self.clean(str(fields.get("message") or error))
        if names_unknown_model(str(fields.get("code")), said):
            self._give_up("model", said, f"Use a name that {self.url}/models lists.")
        raise PassingError(f"an error with status 200: {said}")

    def judge_status(self, error: Any) -> Refusal:
        """Return what an `openai.APIStatusError` means for its request, or raise.

        Raises:
            PassingError: a later attempt may succeed.
            UserError: no request can succeed.
        """
        status: int = error.status_code
        code, said = str(getattr(error, "code", None) or ""), self.clean(error_message(error))
        reason = f"HTTP {status}: {said}"
        if status == 402 or code == "insufficient_quota":
            self._give_up("api_key_env", reason, "The account has no credit left: add some, or use another key.")
        if status in (401, 403):
            state = "is not accepted" if self.key else "is not set"
            self._give_up("api_key_env", reason, f"The key in the environment variable {self.key_name} {state}.")
        if status < 500 and names_unknown_model(code, said):
            self._give_up("model", reason, f"Use a name that {self.url}/models lists.")
        if status in _REFUSED:
            return Refusal(reason, filtered=any(name in f"{code} {said}" for name in _FILTERS))
        if status not in _PASSING and status < 500:
            fix = f"Name the API's address, mostly .../v1, or set {self.section}.model if it only lists no models."
            self._give_up("url", reason, fix)
        raise PassingError(reason, retry_after(error.response.headers))

    def _give_up(self, key: str, reason: str, fix: str) -> NoReturn:
        raise UserError(f"{self.section}.{key}", f"{self.url} answers {reason}", fix)


def error_message(error: Any) -> str:
    """Return a server's error message: OpenAI's form, FastAPI's form, or the bare body."""
    body = error.body
    said = body.get("message") or body.get("detail") if isinstance(body, dict) else body
    return str(said or error.response.text or error.response.reason_phrase)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that `Retry-After` asks for, as a number or as a date; 0 if it is absent or unreadable."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return seconds if seconds > 0 else 0.0


def checked_url(url: str | None, section: str) -> str:
    """Check a server's address, and remove the slash at its end.

    Raises:
        UserError: it is not an address, or contains a password.
    """
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
    if masked(url) != url:
        raise UserError(f"{section}.url", "it holds a login or a key", f"Use {section}.api_key_env for secrets.")
    return url.rstrip("/")


def wait_for_some(results: queue.SimpleQueue[Result], tick: float) -> Iterator[Result]:
    """Yield everything in the queue, after waiting at most `tick` seconds for the first item."""
    try:
        yield results.get(timeout=tick)
        while True:
            yield results.get_nowait()
    except queue.Empty:
        return
