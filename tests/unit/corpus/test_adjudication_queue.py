"""Doubted labels go to an expert, and what the expert says comes back into the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from omniner import run
from omniner.config import compose
from omniner.corpus import adjudication, easy, sources
from omniner.corpus.formats import jsonl
from omniner.files import read_json, write_json
from omniner.records import Entity, Prediction, Sentence

TEXT = "她在上海吃烤鸭"
SHANGHAI, DUCK = Entity("上海", "城市", 2, 4), Entity("烤鸭", "菜品", 5, 7)


def test_the_answers_of_the_expert_become_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = [Sentence("a", TEXT, [SHANGHAI, DUCK], "p"), Sentence("b", TEXT + "。", [SHANGHAI], "q", {"from": "x"})]
    said = {one.id: Prediction(one.id, [SHANGHAI, DUCK]) for one in kept}
    found = easy.contradicted_labels(easy.review(kept, [0, 0], [{}, said, said], "span"))
    jsonl.write(tmp_path / "kept.jsonl", kept)
    assert (
        adjudication.write_queue(
            tmp_path / "queue.json", [one.to_decision() for one in found], easy.QUEUE_NAMES, ["城市", "菜品"]
        )
        == []
    )
    (task,) = read_json(tmp_path / "queue.json")
    models = {one["model_version"]: one["result"] for one in task["predictions"]}
    assert [region["value"]["text"] for region in models["models"]] == ["上海", "烤鸭"]
    assert [region["value"]["text"] for region in models["gold"]] == ["上海"]
    task["annotations"] = [{"result": models["models"]}]
    write_json(tmp_path / "export.json", [task])
    # Two copies agree about everything; the expert overrules them.
    overrides = ["tracking=off", "task=adjudicate", "annotators=['a=kept.jsonl','b=kept.jsonl']", "expert=export.json"]
    folder = run.run(compose.load([*overrides, "output_dir=done"]))
    corrected, _ = sources.read_sentences(folder / "gold.jsonl")
    assert [one.entities for one in corrected] == [[SHANGHAI, DUCK], [SHANGHAI, DUCK]]
    assert [(one.id, one.post_id) for one in corrected] == [("a", "p"), ("b", "q")]
    assert corrected[1].meta == {"from": "x"}
