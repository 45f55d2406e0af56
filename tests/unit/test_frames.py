"""What Python callers give is made into records: texts of models, sentences, tables, and what is none of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import omniner
from omniner.records import Entity, Prediction, Sentence

GOLD = [
    Sentence("1", "浙商银行的小满", [Entity("浙商银行", "company", 0, 4), Entity("小满", "name", 5, 7)]),
    Sentence("2", "今天去大理", [Entity("大理", "address", 3, 5)]),
]
SAID = [
    Prediction("1", raw='[{"text":"浙商银行","category":"company"},{"text":"小满","category":"name"}]'),
    Prediction("2", raw='答案：[["大理", "address"]]'),
]


def test_texts_of_models_are_read_in_records_as_in_a_file(tmp_path: Path) -> None:
    raw = pd.DataFrame({"id": ["1", "2"], "raw": [one.raw for one in SAID]})
    omniner.write(SAID, tmp_path / "said.jsonl")
    for given in (SAID, raw, omniner.frame(SAID), tmp_path / "said.jsonl"):
        found = omniner.score(given, GOLD)
        assert found.metrics.micro.f1 == 1
        assert found.parse.failures == omniner.score(tmp_path / "said.jsonl", GOLD).parse.failures


def test_an_answer_without_entities_that_was_read_is_not_read_again() -> None:
    """Whoever leaves out entities of a model of ours keeps its text."""
    kept = [Prediction("1", raw=SAID[0].raw, engine="hf"), Prediction("2", raw=SAID[0].raw, parse="failed")]
    assert omniner.score(kept, GOLD).metrics.micro.tp == 0


def test_predictions_that_were_read_from_their_file_are_answers(tmp_path: Path) -> None:
    omniner.write([Prediction(one.id, one.entities) for one in GOLD], tmp_path / "p.jsonl")
    (tmp_path / "q.jsonl").write_text(
        '{"id": "1", "text": "浙商银行的小满", "entities": [["小满", "name"]], "parse": "ok"}\n', encoding="utf-8"
    )
    assert omniner.score(omniner.read(tmp_path / "q.jsonl"), GOLD).metrics.micro.tp == 1
    assert omniner.score(GOLD, GOLD).metrics.micro.f1 == 1
