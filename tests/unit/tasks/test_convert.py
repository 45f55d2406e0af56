"""`task=convert`: an output that cannot be written is one error, before anything is."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from omniner import run
from omniner.config import compose
from omniner.corpus.formats import jsonl
from omniner.corpus.sample import generate_sample
from omniner.errors import UserError


@pytest.fixture(autouse=True)
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jsonl.write(tmp_path / "given" / "a.jsonl", generate_sample({"train": 5}, 5)["train"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "empty").mkdir()


def convert(*overrides: str) -> None:
    run.run(compose.load(["task=convert", "tracking=off", *overrides]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["input=given/a.jsonl", "to=conll", "output=full"],
            "full is a folder. Name a file, such as full/a_conll.txt.",
        ),
        (["input=given/a.jsonl", "to=conll", "output=empty"], "empty is a folder. Name a file, such as"),
        (["input=given/a.jsonl", "to=jsonl", "output=given"], "given is a folder. Name a file, such as given/a_jsonl."),
        (["input=given/a.jsonl", "to=generated", "output=empty"], "Name a file, such as empty/generated_predictions."),
        (["input=given/a.jsonl", "to=brat", "output=full/mine.txt"], "full/mine.txt is a file. Name a folder."),
        (["input=given", "to=conll", "output=full/mine.txt"], "full/mine.txt is a file. Name a folder."),
        (["to=conll", "output=full/mine.txt"], "full/mine.txt is a file. Name a folder."),
        (["input=given", "to=llama", "output=full/mine.txt"], "full/mine.txt is a file. Name a folder."),
    ],
)
def test_a_folder_is_no_file_and_a_file_no_folder(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^output: .*{re.escape(message)}"):
        convert(*overrides)
    assert not Path("outputs").exists()
    assert Path("full/mine.txt").read_text(encoding="utf-8") == "mine"


def test_nobody_is_told_to_overwrite_what_no_command_overwrites() -> None:
    for more in ([], ["overwrite=true"]):
        with pytest.raises(UserError, match=r"full: exists already and is no empty folder\. Name a new one: a folder"):
            convert("input=given/a.jsonl", "to=brat", "output=full", *more)
    convert("input=given/a.jsonl", "to=brat", "output=empty")


def test_a_folder_takes_a_file_for_each_of_a_folder() -> None:
    convert("input=given", "to=conll", "output=full")
    assert sorted(path.name for path in Path("full").iterdir()) == ["a.txt", "mine.txt"]


def test_a_conversion_leaves_files_and_no_tracked_run(caplog: pytest.LogCaptureFixture) -> None:
    folder = run.run(compose.load(["task=convert", "input=given/a.jsonl", "to=conll", "output=a.txt"]))
    assert (folder / "config.yaml").is_file()
    assert (folder / "issues.jsonl").is_file()
    assert not Path("mlruns").exists()
    assert "not tracked" not in caplog.text


def test_a_server_that_gets_no_record_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "omniner")
    server = ["tracking=server", "tracking.uri=http://127.0.0.1:1", "overwrite=true"]
    run.run(compose.load(["task=convert", "input=given/a.jsonl", "to=conll", "output=a.txt", *server]))
    assert "not tracked: what task=convert does leaves nothing to compare in MLflow" in caplog.text


def test_a_format_that_is_not_said_is_the_mistake_wherever_the_output_is() -> None:
    Path("b.conll").write_text("", encoding="utf-8")
    for output in ("b.conll", "c.conll"):
        with pytest.raises(UserError, match=r"^to: auto, but what to convert is no checkpoint"):
            convert("input=given/a.jsonl", f"output={output}")
