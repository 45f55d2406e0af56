"""A headless Chromium driven over its debugging port: open a file, run a line of script, collect what went wrong."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=IsolateSandboxedIframes",  # a framed page can be asked like its parent
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]


def binary() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. `errors` holds exceptions, console errors and blocked content, `requests` every address asked for."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=60)
        self.number = 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.contexts: dict[str, int] = {}  # script context of each frame
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        kind, about = message["method"], message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif kind == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
            self.errors.append(str([a.get("value", a.get("description")) for a in about["args"]]))
        elif kind == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(about["entry"]["text"])
        elif kind == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {about['message']}")
        elif kind == "Runtime.executionContextCreated":
            context = about["context"]
            self.contexts[context["auxData"]["frameId"]] = context["id"]
        elif kind == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])

    def run(self, script: str, **where: Any) -> Any:
        """The value of an expression (a promise is awaited)."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, **where)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, file: Path, framed: bool = False) -> float:
        """Open a page and wait until its script (or that of the frame in it) is through; seconds taken."""
        start = time.monotonic()
        self.call("Page.navigate", url=file.as_uri())
        while not self._ready(framed):
            assert time.monotonic() - start < 60, self.errors
            time.sleep(0.02)
        return time.monotonic() - start

    def _ready(self, framed: bool) -> bool:
        script = "document.documentElement?.dataset.ready === 'yes'"
        return bool(self.run(script, contextId=frame) if framed and (frame := self.frame()) else self.run(script))

    def frame(self) -> int | None:
        """The script context of the first frame in the page, once it is there."""
        tree = self.call("Page.getFrameTree")["frameTree"]
        children = [child["frame"]["id"] for child in tree.get("childFrames", [])]
        return next((self.contexts[name] for name in children if name in self.contexts), None)

    def scheme(self, name: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def picture(self, file: Path, whole: bool = False) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A fresh browser with one tab; it is ended by its own process id."""
    found = binary()
    assert found is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [found, *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            page = Page(_address(Path(folder) / "DevToolsActivePort", process))
            page.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            yield page
            page.socket.close()
        finally:
            process.terminate()
            process.wait(timeout=20)


def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    """The address of the tab's socket, from the port that the browser writes down when it is up."""
    for _ in range(600):
        if file.exists() and (lines := file.read_text().splitlines()):
            with urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        assert process.poll() is None, "the browser ended at once"
        time.sleep(0.05)
    raise AssertionError("the browser did not come up within 30 s")
