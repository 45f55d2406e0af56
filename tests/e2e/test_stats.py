"""`task=stats` as a user runs it: several corpora in one command, files that are not clean, and mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from omniner.records import Entity, Sentence, sentence_to_json, to_line
from tests.e2e.conftest import folder_of, omniner

SMALL = "data.size={train: 150, dev: 30, test: 30}"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def metrics(cwd: Path) -> dict[str, float]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{cwd / 'mlruns' / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    (run,) = client.search_runs([experiment.experiment_id])
    return dict(run.data.metrics)


@pytest.mark.slow
def test_several_corpora_in_one_command(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    good = Sentence("a", "喝小满", [Entity("小满", "品牌", 1, 3)])
    for split in ("train", "test"):
        line = to_line(sentence_to_json(good))
        (folder / f"{split}.jsonl").write_text(f"{line}\nnot json\n", encoding="utf-8")
    result = omniner("task=stats", "corpora=[sample,'own=mine']", SMALL, cwd=tmp_path, status=1)
    assert result.stderr.splitlines()[-1].startswith("failed: checks of corpora (")
    assert "own: leakage" in result.stderr
    out = folder_of(result, tmp_path)
    table = {row["corpus"]: row for row in rows(out / "tables" / "stats_table3.csv")}
    assert (table["sample"]["sentences"], table["sample"]["train"]) == ("210", "150")
    assert (table["own"]["sentences"], table["own"]["dev"], table["own"]["entities"]) == ("2", "", "2")
    found: dict[str, Any] = json.loads((out / "stats.json").read_text(encoding="utf-8"))["corpora"]
    assert found["own"]["verdicts"]["leakage"]["status"] == "failed"
    assert found["own"]["issues"] == {"bad-json": 2}
    issues = [json.loads(line) for line in (out / "issues.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [issue["message"].startswith("own: ") for issue in issues] == [True, True]
    assert "failed  leakage: 1 of 1 of test in train (100.00%)" in result.stdout
    assert result.stdout.splitlines()[0].split()[:4] == ["corpus", "documents", "sentences", "tokens"]
    assert {"stats.html", "stats.md", "stats.json"} <= {path.name for path in out.iterdir()}
    assert (out / "figures" / "stats_own_lengths.png").is_file()
    logged = metrics(tmp_path)
    assert logged["stats/sample/sentences"] == 210
    assert (logged["stats/own/check/leakage"], logged["stats/own/test_unseen"]) == (1, 0)
    assert logged["issues/bad-json"] == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpora=[nothing]"], "corpora: 'nothing' is no choice of data"),
        (["corpora=[mine.jsonl]"], "corpora: mine.jsonl does not exist"),
        (["corpora=[cluener]"], "data.root: "),
        (["+stats.warn.leaks=0.1"], "stats.warn.leaks: there is no such check"),
        (["stats.near=0"], "stats.near: 0 is not a share"),
        (["stats.fail.leakage=2"], "stats.fail.leakage: 2 is not a share"),
    ],
)
def test_mistakes_are_one_message(tmp_path: Path, overrides: list[str], message: str) -> None:
    result = omniner("task=stats", *overrides, cwd=tmp_path, status=2)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not list(tmp_path.glob("outputs/*"))
