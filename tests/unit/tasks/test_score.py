"""What a scored run says at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omniner.config import compose
from omniner.records import Entity, Prediction, Sentence
from omniner.runs.context import Context
from omniner.scoring.metrics import ParseSummary
from omniner.scoring.scorer import score_records
from omniner.tasks.score import ReportInputs, hints, report_details, score_and_publish
from omniner.tracking.tracked_run import Run


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        ([], ["char_bilstm, head crf", "sample"]),
        (["model=qwen2_tiny"], ["qwen2_tiny", "sample"]),
        (["task=predict", "checkpoint=runs/best.ckpt", "input=mine.jsonl"], ["runs/best.ckpt", "mine.jsonl"]),
        (
            ["task=predict", "decoding=openai", "decoding.url=http://x/v1", "decoding.model=big", "input=mine.jsonl"],
            ["big at http://x/v1", "mine.jsonl"],
        ),
    ],
)
def test_the_report_names_what_answered(
    overrides: list[str], shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").touch()
    config = compose.load(["metrics.bootstrap=0", *overrides])
    details = report_details(Context(config, tmp_path, Run()), ParseSummary(1200, 1200, 1200, 0, 0))
    assert [details["model"], details["data"], details["sentences"]] == [*shown, "1,200"]


GOLD = [Sentence(str(n), "去喝小满", [Entity("小满", "品牌", 2, 4)]) for n in range(10)]
RIGHT = [Prediction(one.id, list(one.entities)) for one in GOLD]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_scores_of_dev_say_what_they_are_of(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files and metrics of every run call the reported split `test`."""
    described: list[str] = []
    monkeypatch.setattr(Context, "describe", lambda self, head, *_, **__: described.append(head))
    config = compose.load(["metrics.bootstrap=0", "report.language=en"])
    score_and_publish(Context(config, tmp_path, Run()), GOLD, RIGHT, ReportInputs(split=split))
    shown, page = capsys.readouterr().out, (tmp_path / "report.html").read_text(encoding="utf-8")
    said = ["; reported split: dev" in text for text in (described[0], shown.splitlines()[0])]
    assert said == [split == "dev"] * 2
    assert f"<dt>reported split</dt><dd>{split}</dd>" in page


def told(predictions: list[Prediction], task: str = "train", steps: int = 1000, **curves: Any) -> str:
    config = compose.load(["metrics.bootstrap=0"])
    result = score_records(GOLD, predictions, config.metrics, config.errta)
    named = {name.replace("_", "/"): points for name, points in curves.items()}
    return "; ".join(hints(result, ReportInputs(curves=named, steps=steps), task))


def test_a_good_result_needs_no_hint() -> None:
    assert told(RIGHT) == ""
    assert told(RIGHT, val_f1=[(500, 0.9), (1000, 0.99), (1500, 0.98)]) == ""
    assert told(RIGHT, steps=100, val_f1=[(49, 0.9), (99, 1.0)]) == ""
    assert told(RIGHT, steps=100, val_f1=[(49, 0.95), (99, 0.93)]) == "", "nothing is left to learn here"


def test_who_scores_the_answers_of_another_program_is_not_told_our_settings() -> None:
    unread = [*RIGHT[:8], Prediction("8", parse="failed"), Prediction("9", parse="failed")]
    assert "decoding=guided" in told(unread)
    assert "decoding" not in told(unread, "score")
    assert "tables/parse_failures.csv" in told(unread, "score")


@pytest.mark.parametrize(
    ("predictions", "curve", "hint"),
    [
        ([Prediction(one.id) for one in GOLD], [], "no entity was predicted"),
        ([Prediction(one.id, left_out=1) for one in GOLD], [], "decoding.min_score left out all entities"),
        (RIGHT[:9], [], "1 of 10 gold sentences have no prediction"),
        ([*RIGHT[:8], Prediction("8", parse="failed"), Prediction("9", parse="failed")], [], "20% of the answers"),
        (
            [Prediction(one.id, [Entity("小满", "B-品牌", 2, 4)]) for one in GOLD],
            [],
            "one of gold's: B-品牌 here, 品牌 there",
        ),
        (RIGHT, [(500, 0.95), (1000, 0.97)], "still rising"),
        (RIGHT, [(500, 0.7), (1000, 0.6)], "F1 is 70.0% on dev and 100.0% here"),
    ],
)
def test_what_makes_a_result_poor_is_said(
    predictions: list[Prediction], curve: list[tuple[int, float]], hint: str
) -> None:
    assert hint in told(predictions, val_f1=curve)


@pytest.mark.parametrize("last", [29, 30])
def test_the_steps_of_a_short_training_are_those_that_it_made(last: int) -> None:
    """Curves count from 0 while training goes on; an evaluation after its end stands at the number of steps."""
    assert "training made only 30 steps: " in told([*RIGHT[:9], Prediction("9")], steps=30, val_f1=[(last, 0.9)])
