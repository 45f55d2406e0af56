"""Which runs `task=prune` takes for removable, by their folders alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from omniner.config import compose, run_config
from omniner.files import read_json, write_json, write_text
from omniner.run import run
from omniner.runs.folder import STATE, back_up_outputs

PRUNE = ["task=prune", "prune.ask=false", "tracking=off"]


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def finished(name: str, *overrides: str) -> Path:
    """The folder of a finished run that scored a file which is gone."""
    write_text("p.jsonl", "")
    config = compose.load(["task=score", "predictions=p.jsonl", *overrides])
    folder = Path("outputs") / name
    write_text(folder / "config.yaml", run_config.to_yaml(config))
    write_text(folder / "scores.json", "{}\n")
    digest = run_config.digest(config)
    write_json(folder / STATE, {"status": "finished", "task": "score", "digest": digest, "started": 1})
    Path("p.jsonl").unlink()
    return folder


def test_a_run_without_a_name_goes_though_its_input_is_gone() -> None:
    unnamed, named = finished("a"), finished("b", "name=mine")
    run(compose.load([*PRUNE, "prune.status=[]", "prune.unnamed=true"]))
    assert [unnamed.exists(), named.exists()] == [False, True]


def test_a_finished_run_that_a_killed_one_was_to_replace_stays() -> None:
    folder = finished("a")
    before = read_json(folder / STATE)
    back_up_outputs(folder, ["scores.json"])
    write_json(folder / STATE, {**before, "status": "running", "started": 2})
    run(compose.load([*PRUNE, "prune.status=[killed]"]))
    assert read_json(folder / STATE) == before
    assert (folder / "scores.json").is_file()
