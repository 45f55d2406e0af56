"""Secrets are planted wherever a run may meet one, and then looked for in every byte that it left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omniner import tracking
from omniner.config import compose
from omniner.errors import UserError
from omniner.run import run
from tests.e2e import sweeping
from tests.helpers.scripted_server import KEY, Answer, Seen, error, reply, serving

PLANTED = {KEY: "sk-planted-a1", "MLFLOW_TRACKING_PASSWORD": "planted-b2@x", "MLFLOW_TRACKING_TOKEN": "planted-c3"}


def _leaks(folder: Path) -> list[str]:
    secrets = [secret.encode() for secret in PLANTED.values()]
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert paths
    return [str(path) for path in paths if any(secret in path.read_bytes() for secret in secrets)]


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in PLANTED.items():
        monkeypatch.setenv(name, secret)


def test_no_secret_is_in_anything_that_a_run_leaves(
    here: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="omniner")
    said = " ".join(PLANTED.values())
    entity = {"text": "小满", "category": said}

    def talkative(request: Seen, before: int) -> Answer:
        if not before:
            return error(500, f"the key {request.headers['authorization']} of https://me:planted-b2@x@host is busy")
        return reply(json.dumps([entity, {"text": "喝", "category": request.headers["authorization"]}]))

    with serving(talkative) as server:
        config = compose.load(
            [
                "task=predict", "decoding=openai", f"decoding.url={server.url}", f"decoding.api_key_env={KEY}",
                "data.size={train: 12, dev: 4, test: 4}", "metrics.bootstrap=0", "tracking.folder=mlruns",
                "tracking.system_metrics=false", "decoding.retries=2",
            ]
        )  # fmt: skip
        folder = run(config)
        assert all(seen.headers["authorization"] == f"Bearer {PLANTED[KEY]}" for seen in server.seen)
    answers = (folder / "predictions.jsonl").read_text("utf-8")
    assert "***" in answers, "the server's answers are kept, without the key"
    of_the_key = [path for path in _leaks(here) if PLANTED[KEY].encode() in Path(path).read_bytes()]
    assert of_the_key == []
    assert PLANTED[KEY] not in "".join(capfd.readouterr()) + caplog.text


def test_logins_of_the_store_are_in_nothing_that_is_tracked(here: Path, tables: Path) -> None:
    said = f"{PLANTED['MLFLOW_TRACKING_PASSWORD']} and {PLANTED['MLFLOW_TRACKING_TOKEN']}"
    settings = compose.load(["task=check", f"tracking.folder={tables}", "tracking.system_metrics=false"]).tracking
    tracked = tracking.start_run(settings, name="a", folder=here / "out", parent=None, resume_id=None, tags={"a": said})
    tracked.params({"model.path": said, "url": "https://me:planted-c3@host"})
    tracked.tags({"note": said})
    tracked.text(f"{said} at http://me:planted-d4@host", "note.txt")
    tracked.table(["a"], [[said]], "tables/a.json")
    assert tracked.finish("finished")
    assert _leaks(here / "out") + _leaks(tables) == []
    assert not [path for path in here.rglob("*") if path.is_file() and b"planted-d4" in path.read_bytes()]


def test_a_login_in_a_sweep_leaves_no_trace(here: Path) -> None:
    url = "decoding.url=http://me:planted-b2@x@host/v1"
    sweep = sweeping.start(here, *sweeping.SCORE, url, "seed=1,2")
    said = "".join(sweep.communicate())
    assert sweep.returncode == 2
    assert said.startswith("error: decoding.url: an address with a login or a key in it")
    assert "planted" not in said
    assert _leaks(here) == []


@pytest.mark.parametrize("key", ["tracking.uri", "decoding.url", "teacher.url"])
def test_a_login_in_an_address_leaves_no_trace(key: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="login") as caught:
        run(compose.load(["task=score", "predictions=p.jsonl", f"{key}=http://me:planted-b2@x@host"]))
    assert "planted" not in str(caught.value) + "".join(capfd.readouterr())
    assert sorted(path.name for path in here.iterdir()) == ["gold.jsonl", "p.jsonl"]
