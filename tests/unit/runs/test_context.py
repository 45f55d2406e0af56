"""What a task tells of a run in the tracking store's UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from omniner.config import compose
from omniner.records import Issue
from omniner.report.tables import COUNT, TEXT, Column, Table
from omniner.runs import context
from omniner.runs.context import Context
from omniner.tracking.browser import NOTE_TAG
from omniner.tracking.tracked_run import Run


class Noted(Run):
    """A run that keeps its tags and tables."""

    id, url = "1", "http://store/#/experiments/0/runs/1?workflowType=x"

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def tags(self, values: Mapping[str, Any]) -> None:
        self.kept |= values

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        pass

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], path: str) -> None:
        self.kept[path] = rows


def note_of(folder: Path, **given: Any) -> str:
    """The description of a run."""
    run = Noted()
    Context(compose.load(["tracking=off"]), folder, run).describe("**F1 50 %**", [], **given)
    return str(run.kept[NOTE_TAG])


def test_sentences_are_a_list_and_a_table_is_one(tmp_path: Path) -> None:
    verdict = "score_a against *b*: F1 72.45 -> 74.84, +2.39 points [-0.16, +4.79], p 0.056 by randomisation, " * 2
    table = Table("", [Column("corpus", TEXT), Column("sentences", COUNT)], [["a", 1200]])
    note = note_of(tmp_path, points=[verdict], table=table)
    assert "```" not in note, "in a block of code a sentence would be one line, wider than the page"
    assert "\n- score_a against &#42;b&#42;: F1 72.45" in note
    assert "| a | 1,200 |" in note


def test_lines_in_columns_are_kept_and_long_ones_are_folded(tmp_path: Path) -> None:
    short = "  micro    P  94.42%  R  84.58%"
    listed = "  issues   " + ", ".join(f"{number} no-such-code" for number in range(20))
    block = note_of(tmp_path, details=[short, listed]).partition("```\n")[2].splitlines()
    assert block[0] == short
    assert max(map(len, block)) <= 100
    assert " ".join(" ".join(block[1:-1]).split()) == " ".join(listed.split())
    assert all(line.startswith("      ") for line in block[2:-1])


def test_of_a_large_table_the_store_gets_the_first_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(context, "TRACKED_ROWS", 2)
    caplog.set_level("INFO", "omniner")
    run, rows = Noted(), [[1], [2], [3]]
    Context(compose.load(["tracking=off"]), tmp_path, run).publish_table("t", Table("", [Column("n", COUNT)], rows))
    assert run.kept["tables/t.json"] == rows[:2]
    assert (tmp_path / "tables" / "t.csv").read_text() == "n\n1\n2\n3\n"
    assert "tables/t.csv has 3 rows" in caplog.text


def test_the_most_frequent_issue_is_explained_if_its_code_has_a_meaning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "omniner")
    run = Context(compose.load(["tracking=off"]), tmp_path, Noted())
    run.publish_issues([Issue("split-emoji", "joined")])
    run.publish_issues([Issue("code-of-an-extension", "odd")])
    explained, bare = [text for record in caplog.records if (text := record.getMessage()).startswith("issues: ")]
    assert explained.endswith("; split-emoji: The halves of a character stood on two lines; they are joined. Nothing.")
    assert bare == f"issues: 1 code-of-an-extension (listed in {tmp_path / 'issues.jsonl'})"
