"""`generated_predictions.jsonl`: what we write scores as what we had, by our rules and by the official ones."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from omniner.records import Entity, Prediction, Sentence
from omniner.scoring import predictions
from omniner.scoring.official import read_for_evaluation, write_generated

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
PAIRS = st.lists(st.tuples(TEXT, TEXT).map(lambda pair: Entity(*pair)), max_size=4)


@given(items=st.lists(st.tuples(TEXT, PAIRS, PAIRS | TEXT), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_are_read_back(tmp_path: Path, items: list[tuple[str, list[Entity], list[Entity] | str]]) -> None:
    # A pair that begins with a known category and ends with none is taken to be turned round.
    categories = {entity.category for _, entities, _ in items for entity in entities}
    found = [answer for _, _, answer in items if not isinstance(answer, str)]
    assume(all(entity.text not in categories for answer in found for entity in answer))
    path = tmp_path / "generated_predictions.jsonl"
    gold = [Sentence(f"line-{number}", text, entities) for number, (text, entities, _) in enumerate(items, 1)]
    given_answers = [
        Prediction(s.id, raw=answer, parse="failed") if isinstance(answer, str) else Prediction(s.id, answer)
        for s, (_, _, answer) in zip(gold, items, strict=True)
    ]
    assert write_generated(path, gold, given_answers[::-1]) == []
    loaded = predictions.read_predictions(path, None)
    assert loaded.issues == []
    assert [(s.id, s.entities, s.meta["prompt"]) for s in loaded.gold] == [(s.id, s.entities, s.text) for s in gold]
    for prediction, answer in zip(loaded.predictions, given_answers, strict=True):
        if answer.raw:
            assert prediction.raw == answer.raw  # word for word, however it is read
        else:
            assert (prediction.entities, prediction.parse) == (answer.entities, "ok")


def test_a_string_of_two_parts_is_a_pair_and_of_three_none() -> None:
    reading = read_for_evaluation('["(小满 , 品牌)", "一, 二, 三"]')
    assert reading == ([("小满", "品牌")], False)


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_that_was_read_is_written_as_it_was(shared: Path, tmp_path: Path) -> None:
    for name in ("omni_mixed", "quirks_malformed"):
        source = shared / "reference" / name / "generated_predictions.jsonl"
        loaded = predictions.read_predictions(source, None)
        assert write_generated(tmp_path / "x.jsonl", loaded.gold, loaded.predictions) == []
        ours, theirs = (lines(path) for path in (tmp_path / "x.jsonl", source))
        assert ours == theirs


def test_what_does_not_match_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    gold = [Sentence("a", "甲"), Sentence("b", "\udc00")]
    issues = write_generated(path, gold, [Prediction("b"), Prediction("c")])
    assert [(issue.code, issue.id) for issue in issues] == [("missing-prediction", "a"), ("unknown-id", "c")]
    assert lines(path) == [
        {"prompt": "甲", "label": "[]", "predict": "[]"},
        {"prompt": "\udc00", "label": "[]", "predict": "[]"},
    ]
