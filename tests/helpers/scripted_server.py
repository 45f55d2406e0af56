"""A real HTTP server in a thread that answers chats as a script says."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from omniner.config.model_groups import DecodingConfig

KEY = "TEST_SERVER_KEY"


class Answer(NamedTuple):
    """What is sent: a status, a body (anything but bytes as JSON) and further headers."""

    status: int
    body: Any
    headers: dict[str, str] = {}  # noqa: RUF012
    kind: str = "application/json"


class Drop(Exception):  # noqa: N818
    """Close the connection without a word."""


def reply(text: str | None, finish: str = "stop", **message: Any) -> Answer:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return Answer(200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def error(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    return Answer(status, {"error": {"message": message, "code": code}}, headers)


@dataclass
class Seen:
    """A chat request as it came in."""

    text: str  # of the user
    body: dict[str, Any]
    headers: dict[str, str]  # names in lower case
    time: float


Script = Callable[[Seen, int], Answer]  # of a request, and of how often that text has come before


@dataclass
class Server:
    """Where it listens, and what it has seen."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    models: Any = None

    def texts(self) -> list[str]:
        return [request.text for request in self.seen]


@contextlib.contextmanager
def serving(script: Script, models: Any = ("tiny",)) -> Iterator[Server]:
    """Answer `/v1/chat/completions` by the script, and list `models` (an Answer, or names)."""
    server, lock, down = Server(models=models), threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet for head and body: two would wait 40 ms for each other

        def do_GET(self) -> None:
            listed = server.models
            if not isinstance(listed, Answer):
                listed = Answer(200, {"object": "list", "data": [{"id": name} for name in listed]})
            self.send(listed if self.path == "/v1/models" else error(404, "Not Found"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path != "/v1/chat/completions":
                self.send(error(404, "Not Found"))
                return
            request = Seen(
                body["messages"][-1]["content"], body, {k.lower(): v for k, v in self.headers.items()}, time.monotonic()
            )
            with lock:
                before = server.texts().count(request.text)
                server.seen.append(request)
            try:
                answer = script(request, before)
            except Drop:
                self.close_connection = True
                return
            if down.is_set():
                self.close_connection = True
                return
            self.send(answer)

        def send(self, answer: Answer) -> None:
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            with contextlib.suppress(OSError):  # the client no longer waits
                self.send_response(answer.status)
                for name, value in {"content-type": answer.kind, **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    try:
        yield server
    finally:
        down.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def config(url: str | None, **changes: Any) -> DecodingConfig:
    values: dict[str, Any] = {
        "kind": "free",
        "engine": "openai",
        "command": [],
        "options": {},
        "start_seconds": 1,
        "max_new_tokens": 64,
        "slots": 1,
        "temperature": 0.0,
        "top_p": 1.0,
        "url": url,
        "model": "tiny",
        "api_key_env": KEY,
        "concurrency": 4,
        "timeout": 5.0,
        "retries": 3,
        "structured": "none",
    }
    return DecodingConfig(**{**values, **changes})
