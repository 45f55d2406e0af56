"""A model that cannot be loaded is refused before anything heavy is imported, one that may be there is not."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import huggingface_hub.constants
import pytest

from omniner import model_files, pretrained
from omniner.errors import UserError

OLD, NEW = "1" * 40, "2" * 40  # commits


class Hub(http.server.BaseHTTPRequestHandler):
    """Knows `a/model`, a model of GGUF files alone, one behind a gate, and no other."""

    def do_HEAD(self) -> None:
        answers = {"/a/model": (200, ""), "/a/gguf": (404, "EntryNotFound"), "/a/gated": (401, "GatedRepo")}
        name, _, revision = self.path.removesuffix("/config.json").partition("/resolve/")
        status, code = answers.get(name, (404, "RepoNotFound"))
        if status == 200 and revision not in ("main", "pr%2F1"):
            status, code = 404, "RevisionNotFound"
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        else:
            self.send_header("X-Repo-Commit", NEW)
            self.send_header("ETag", '"0"')
            self.send_header("Content-Length", "2")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def _hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("_hub")
@pytest.mark.parametrize("name", ["a/model", "a/gguf", "a/gated"])
def test_what_the_hub_has_or_guards_may_be_loaded(name: str) -> None:
    model_files.check_model(name)
    with pytest.raises(UserError, match="knows no model"):
        model_files.check_model(f"{name}-of-nobody")


@pytest.mark.usefixtures("_hub")
def test_a_revision_that_the_hub_does_not_know_is_refused() -> None:
    model_files.check_model("a/model", "pr/1")
    with pytest.raises(UserError, match=r"^model\.revision: a/model has no revision v9"):
        model_files.check_model("a/model", "v9")


def test_files_on_this_machine_have_no_revision(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    model_files.check_model(str(tmp_path))
    for path in (tmp_path, tmp_path / "model.gguf"):
        with pytest.raises(UserError, match=r"^model\.revision: v1, but model\.path=.* is on this machine"):
            model_files.check_model(str(path), "v1")


def test_a_revision_is_looked_up_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub.use(monkeypatch, tmp_path / "cache")
    (tmp_path / "model").mkdir()
    for commit, ref, size in ((OLD, "v1", 32), (NEW, "main", 64)):
        (tmp_path / "model" / "config.json").write_text(f'{{"hidden_size": {size}, "intermediate_size": 8}}')
        fake_hub.publish(tmp_path / "cache", "a/model", commit, tmp_path / "model", [ref])
    for revision, commit, size in ((None, NEW, 64), ("v1", OLD, 32), (OLD, OLD, 32)):
        model_files.check_model("a/model", revision)
        assert pretrained.find_commit("a/model", revision) == commit
        assert model_files.layer_sizes("a/model", revision) == (size, 8)
    with pytest.raises(UserError, match=r"a/model at v2 is not in the hub's cache"):
        model_files.check_model("a/model", "v2")
    assert pretrained.find_commit("a/model", "v2") is None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that has `a/model` at an older commit, used by libraries that may ask the hub."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    fake_hub.publish(cache, "a/model", OLD, tmp_path / "model", ["main"])
    return cache


def _ask(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the libraries, which read the environment once, ask the hub at this address."""
    template = f"{hub}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.mark.usefixtures("_hub")
def test_the_commit_that_the_hub_has_now_is_found_and_kept_in_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ask(os.environ["HF_ENDPOINT"], monkeypatch)
    assert model_files.hub_commit("a/model") == OLD
    for _ in range(2):
        assert pretrained.find_commit("a/model", None) == NEW
        assert model_files.hub_commit("a/model") == NEW
    with pytest.raises(UserError, match=r"^model\.revision: a/model has no revision v9"):
        pretrained.find_commit("a/model", "v9")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "hf-mirror.com", "http://[::1", "silent"])
def test_of_a_hub_that_does_not_answer_the_commit_in_the_cache_is_used(
    address: str, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pretrained, "_WAIT_IF_CACHED", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes calls, and says nothing
        _ask(f"http://127.0.0.1:{server.getsockname()[1]}" if address == "silent" else address, monkeypatch)
        assert pretrained.find_commit("a/model", None) == OLD
    assert "a/model: the hub does not say which commit it has now" in caplog.text
    assert len(caplog.messages) == 1
    assert "\n" not in caplog.messages[0]


@pytest.mark.usefixtures("_hub")
def test_what_the_hub_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.path: the hub http://127.* knows no model a/nothing"):
        model_files.check_model("a/nothing")


def test_a_hub_that_is_away_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(UserError, match=r"a/model is not in the hub's cache, and .* cannot be reached") as found:
        model_files.check_model("a/model")
    assert "\n" not in str(found.value)
    assert "export HF_ENDPOINT=<address of a mirror>" in str(found.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        model_files.check_model("a/model")


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_the_cache_stands_where_its_variables_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    below = {"HF_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}
    for name in below:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = tmp_path / below[variable] / "models--a--model" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    with pytest.raises(UserError, match="not in the hub's cache"):
        model_files.check_model("a/model")
    (snapshot / "config.json").write_text("{}")
    model_files.check_model("a/model")


def test_a_folder_or_a_file_needs_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        model_files.check_model(str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    model_files.check_model(str(tmp_path))
    model_files.check_model(str(tmp_path / "model.gguf"))
    assert model_files.layer_sizes(str(tmp_path)) == model_files.layer_sizes(str(tmp_path / "model.gguf")) is not None
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"several GGUF files: model\.gguf, other\.gguf"):
        model_files.check_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")  # files beside a model are none of it
    assert model_files.gguf_file(str(tmp_path)) is None
    with pytest.raises(UserError, match="is not a folder"):
        model_files.check_model(str(Path(__file__)))
    with pytest.raises(UserError, match="does not exist"):
        model_files.check_model(str(tmp_path / "nothing"))
    assert model_files.is_local_folder(str(tmp_path), "")
    assert not model_files.is_local_folder("a/model", "")


def test_sizes_of_layers_stand_in_the_folder(tmp_path: Path) -> None:
    assert model_files.layer_sizes(None) is None
    assert model_files.layer_sizes(str(tmp_path)) is None
    (tmp_path / "config.json").write_text('{"hidden_size": 384, "intermediate_size": 1536}')
    assert model_files.layer_sizes(str(tmp_path)) == (384, 1536)
    (tmp_path / "config.json").write_text('{"d_model": 384}')
    assert model_files.layer_sizes(str(tmp_path)) is None


def test_weights_are_told_apart_by_a_piece_of_their_files(tmp_path: Path) -> None:
    assert model_files.weights_digest("Qwen/Qwen2.5-0.5B") is None
    assert model_files.weights_digest(str(tmp_path)) is None
    file, other = tmp_path / "model-00001-of-00002.safetensors", tmp_path / "model-00002-of-00002.safetensors"
    file.write_bytes(bytes(1 << 20))
    other.write_bytes(b"b")
    (tmp_path / "training_args.bin").write_bytes(b"x")
    known = {model_files.weights_digest(str(tmp_path))}
    (tmp_path / "training_args.bin").write_bytes(b"y")
    assert {model_files.weights_digest(str(tmp_path))} == known
    for place in (0, 1 << 19, (1 << 20) - 1):
        file.write_bytes(bytes(place) + b"a" + bytes((1 << 20) - place - 1))
        known.add(model_files.weights_digest(str(tmp_path)))
    other.write_bytes(b"c")
    known.add(model_files.weights_digest(str(tmp_path)))
    assert len(known - {None}) == 5
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    assert model_files.weights_digest(str(gguf)) not in {None, *known}


@pytest.mark.parametrize("name", ["模型/名", "my models/bert", "a#b/c"])
def test_what_can_be_no_name_of_the_hub_does_not_exist(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.path: .* does not exist"):
        model_files.check_model(name)


@pytest.mark.parametrize(
    ("hub", "said"),
    [("hf-mirror.com", "^HF_ENDPOINT: 'hf-mirror.com' is not an address"), ("http://[::1", "cannot be reached")],
)
def test_an_address_of_the_hub_that_is_none_is_told(
    hub: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(UserError, match=said):
        model_files.check_model("a/model")


def test_an_address_that_is_none_is_told_where_the_model_is_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The libraries ask the hub about it, too."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    fake_hub.publish(tmp_path, "a/model", OLD, tmp_path / "model", ["main"])
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model_files.check_model("a/model")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(UserError, match=r"^HF_ENDPOINT: 'hf-mirror\.com' is not an address"):
        model_files.check_model("a/model")


def test_what_is_no_web_server_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"hello\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        with pytest.raises(UserError, match=r"cannot be reached \(hello\)"):
            model_files.check_model("a/model")


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def expand(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expand)
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert model_files.layer_sizes("a/model") is None
