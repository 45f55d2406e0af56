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


def test_what_counts_as_an_answer_of_the_expert() -> None:
    a, b, c = (Sentence(name, TEXT) for name in "abc")
    queued = adjudication.decide(adjudication.AnnotatedSentence(a, ((SHANGHAI,), (), None)))
    decided = adjudication.decide(adjudication.AnnotatedSentence(b, ((SHANGHAI,), (SHANGHAI,), ())))
    waiting = adjudication.decide(adjudication.AnnotatedSentence(c, ((SHANGHAI,), (), None)))
    answers = [
        Sentence("a", TEXT, [SHANGHAI]),
        Sentence("a", TEXT, [DUCK]),
        Sentence("b", TEXT, [DUCK]),
        Sentence("c", TEXT + "。", [DUCK]),
        Sentence("d", TEXT, [DUCK]),
    ]
    done, issues = adjudication.apply_expert_answers([queued, decided, waiting], answers)
    assert [(one.how, one.entities) for one in done] == [("expert", (SHANGHAI,)), ("expert", (DUCK,)), ("queued", ())]
    assert [vote.entity for vote in done[1].accepted] == [SHANGHAI], "what the annotators had said"
    assert [(issue.code, issue.id) for issue in issues] == [
        ("duplicate-id", "a"), ("text-mismatch", "c"), ("unknown-id", "d"), ("expert-overrules", "b"),
    ]  # fmt: skip


def test_a_task_that_nobody_has_done_is_no_answer(tmp_path: Path) -> None:
    sentences = [Sentence("a", TEXT), Sentence("b", TEXT + "。"), Sentence("c", TEXT + "！")]
    decisions = [adjudication.decide(adjudication.AnnotatedSentence(one, ((SHANGHAI,), (), None))) for one in sentences]
    path = tmp_path / "queue.json"
    assert adjudication.write_queue(path, decisions, ["x", "y", "z"], ["城市"]) == []
    tasks = read_json(path)
    assert [[one["model_version"] for one in task["predictions"]] for task in tasks] == [["x", "y"]] * 3
    tasks[1]["annotations"] = [{"result": tasks[1]["predictions"][0]["result"]}]
    tasks[2]["annotations"] = [{"result": [], "was_cancelled": True}]
    write_json(path, tasks)
    answers, issues = adjudication.read_expert_answers(path)
    assert [(one.id, one.entities) for one in answers] == [("b", [SHANGHAI])]
    assert "only-predictions" not in {issue.code for issue in issues}
