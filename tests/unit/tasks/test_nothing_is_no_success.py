"""A task that read, learnt from, labelled or scored nothing has failed: one line says what there was none of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.helpers import small_corpus

from omniner.config import compose
from omniner.errors import UserError
from omniner.files import read_json
from omniner.records import Prediction, Sentence, prediction_to_json, sentence_to_json, to_line
from omniner.run import run
from omniner.tasks import train

PARTS = "data.files={train: [gold.jsonl], dev: [gold.jsonl], test: [gold.jsonl]}"
OWN = ["data=own", "data.root=.", "data.taxonomy=flat"]
EMPTY, NO_LABELS = "the file is empty", "no labelled sentence could be read"
MARKED, UNREAD = "none of 24 labelled sentences has an entity", "none of 24 answers can be read"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences with labels, without labels, with labels of which none marks anything; answers that say nothing."""
    monkeypatch.chdir(tmp_path)
    gold = [dataclasses.replace(one, text=f"{one.text}{one.id}") for one in small_corpus.sentences(24, 1, "s")]
    bare = [sentence_to_json(dataclasses.replace(one, entities=[])) for one in gold]
    unread = [prediction_to_json(Prediction(one.id, [], "我不知道", "failed", "no JSON")) for one in gold]
    contents = {
        "gold": map(sentence_to_json, gold),
        "bare": bare,
        "bare_too": bare,
        "unlabelled": [{"id": one.id, "text": one.text} for one in gold],
        "unread": unread,
        "silent": [{"id": one.id, "entities": []} for one in gold],
        "empty": [],
    }
    for name, items in contents.items():
        Path(f"{name}.jsonl").write_text("".join(to_line(item) + "\n" for item in items), encoding="utf-8")


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["task=train", *OWN, PARTS.replace("train: [gold", "train: [bare")], MARKED),
        (["task=train", *OWN, PARTS.replace("dev: [gold", "dev: [bare")], MARKED),
        (["task=train", *OWN, PARTS.replace("dev: [gold", "dev: [unlabelled")], "unlabelled.jsonl has no labels"),
        (["task=train", *OWN, PARTS.replace("gold", "empty")], EMPTY),
        (["task=train", *OWN, PARTS.replace("dev: [gold.jsonl]", "dev: []")], "gives no split 'dev'"),
        (["task=train", *OWN, PARTS.replace("test: [gold.jsonl]", "test: []")], "gives no split 'test'"),
        (["task=check", *OWN, PARTS.replace("gold", "bare")], MARKED),
        (["task=check", "model=qwen2_tiny", *OWN, PARTS.replace("gold", "bare")], MARKED),
        *((["task=split", f"input={name}.jsonl"], said) for name, said in (("empty", EMPTY), ("bare", MARKED))),
        (["task=split", "input=unlabelled.jsonl"], NO_LABELS),
        (["task=split", *OWN, PARTS.replace("gold", "bare")], "none of 72 labelled sentences has an entity"),
        *((["task=filter", f"input={name}.jsonl"], said) for name, said in (("empty", EMPTY), ("bare", MARKED))),
        (["task=filter", "input=unlabelled.jsonl"], NO_LABELS),
        (["task=stats", "corpora=[empty.jsonl]"], EMPTY),
        *(
            ([f"task={task}", f"annotators=[me=gold.jsonl,{name}.jsonl]"], said)
            for task in ("agreement", "adjudicate")
            for name, said in (("empty", EMPTY), ("unlabelled", NO_LABELS))
        ),
        *(
            ([f"task={task}", "annotators=[bare.jsonl,bare_too.jsonl]"], "none of bare, bare_too marked anything")
            for task in ("agreement", "adjudicate")
        ),
        (["task=score", "predictions=silent.jsonl", "gold=bare.jsonl"], MARKED),
        (["task=score", "predictions=unread.jsonl", "gold=gold.jsonl"], UNREAD),
        (["task=score", "predictions=silent.jsonl", "gold=unlabelled.jsonl"], "no sentence has labels"),
        (["task=compare", "runs=[silent.jsonl,unread.jsonl]", "gold=gold.jsonl"], f"^unread: {UNREAD}"),
        (["task=compare", "runs=[silent.jsonl,silent.jsonl]", "gold=bare.jsonl"], MARKED),
        (["task=compare", "runs=[empty.jsonl,silent.jsonl]", "gold=gold.jsonl"], EMPTY),
    ],
    ids=lambda value: "-".join(word.split("=")[-1] for word in value)[:60] if isinstance(value, list) else None,
)
def test_nothing_is_no_success(overrides: list[str], found: str) -> None:
    with pytest.raises(UserError, match=found):
        run(compose.load([*overrides, "tracking=off", "output_dir=out"]))


@pytest.mark.parametrize("what", ["unread answers", "empty gold"])
def test_a_trained_model_that_says_nothing_has_failed_and_is_scored(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, test, found = ("failed", "gold", UNREAD) if what == "unread answers" else ("ok", "bare", MARKED)

    def say_nothing(config: object, model: object, sentences: Sequence[Sentence], path: Path) -> list[Prediction]:
        return [Prediction(one.id, parse=parse) for one in sentences]

    monkeypatch.setattr(train, "predict_file", say_nothing)
    overrides = [*OWN, PARTS.replace("test: [gold", f"test: [{test}"), *small_corpus.SMALL["char_bilstm"]]
    with pytest.raises(UserError, match=found):
        run(compose.load([*overrides, "trainer.max_epochs=1", "tracking=off", "output_dir=out"]))
    assert read_json(Path("out/scores.json"))["metrics"]["micro"]["tp"] == 0


@pytest.mark.parametrize("name", ["unlabelled", "bare"])
def test_statistics_say_how_much_there_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(compose.load(["task=stats", f"corpora=[{name}.jsonl]", "tracking=off", "output_dir=out"]))
    said = capsys.readouterr().out
    assert "no_entity: no labels" in said if name == "unlabelled" else "24 of 24 labelled sentences have no" in said
