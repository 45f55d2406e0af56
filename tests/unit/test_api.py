"""The Python interface does what the command line does, and gives records and tables back."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from scripted_server import Answer, Seen, reply, serving
from tests.conftest import ROOT

import omniner
from omniner.errors import UserError
from omniner.records import Entity, Prediction, Sentence

TINY = [
    "data.size={train: 300, dev: 32, test: 40}",
    "trainer.max_epochs=6",
    "trainer.batch_size=16",
    "trainer.threads=1",
    "trainer.weight_average=0",
    "model.hidden=48",
    "model.learning_rate=0.005",
    "metrics.bootstrap=20",
    "encoding.max_length=400",
    "decoding.kind=guided",
]
GOLD = [
    Sentence("1", "去喝小满", [Entity("小满", "品牌", 2, 4)]),
    Sentence("2", "今天去大理", [Entity("大理", "地点", 3, 5), Entity("今天", "时间", 0, 2)]),
]
ANSWERS = [
    Prediction("1", [Entity("小满", "时间", 2, 4)]),
    Prediction("2", [Entity("大理", "地点", 3, 5)]),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> omniner.TrainResult:
    """A run in a folder of its own, tracked there."""
    folder = tmp_path_factory.mktemp("runs")
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = omniner.train([*TINY, "name=my_run"])
        return omniner.TrainResult(folder / result.folder, result.scores, result.run_id)
    finally:
        os.chdir(before)


def test_a_corpus_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert omniner.write(GOLD, tmp_path / "gold.jsonl") == []
    sentences = omniner.read(tmp_path / "gold.jsonl")
    assert sentences == GOLD
    assert sentences.issues == []


def test_what_a_file_or_a_format_cannot_hold_is_an_issue(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "1", "text": "好", "entities": []}\n{"id": "2"\n', encoding="utf-8")
    sentences = omniner.read(tmp_path / "bad.jsonl", "jsonl")
    assert [sentence.id for sentence in sentences] == ["1"]
    assert [issue.line for issue in sentences.issues] == [2]
    assert omniner.write(GOLD, tmp_path / "gold.json", "cluener") == []
    lost = omniner.write([Sentence("1", "好", meta={"a": 1})], tmp_path / "lost.json", "cluener")
    assert ["meta" in str(issue) for issue in lost] == [True]


def test_columns_are_written_as_asked(tmp_path: Path) -> None:
    item = Sentence("1", "New York", [Entity("New York", "C", 0, 8)])
    omniner.write([item], tmp_path / "x.conll", "conll", scheme="bio", separator="space", joiner=" ")
    assert (tmp_path / "x.conll").read_text(encoding="utf-8") == "New B-C\nYork I-C\n\n"


@pytest.mark.parametrize("format", ["conll", "label_studio"])
def test_other_formats_are_written_and_recognised(tmp_path: Path, format: str) -> None:
    omniner.write(GOLD, tmp_path / "gold", format)
    found = omniner.read(tmp_path / "gold")
    assert [sorted(sentence.entities) for sentence in found] == [sorted(sentence.entities) for sentence in GOLD]


def test_a_mistake_raises_the_line_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean head"):
        omniner.train(["+haed=crf"])
    with pytest.raises(UserError, match="cannot be written"):
        omniner.write(GOLD, tmp_path / "gold", "tables")
    with pytest.raises(UserError, match="nowhere"):
        omniner.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="hold no gold"):
        omniner.score(ANSWERS)


def test_training_gives_what_the_folder_holds(trained: omniner.TrainResult) -> None:
    assert trained.scores == json.loads((trained.folder / "scores.json").read_text())
    assert trained.f1 == trained.scores["metrics"]["micro"]["f1"]
    assert trained.run_id == json.loads((trained.folder / "run_state.json").read_text())["run_id"]


def test_a_loaded_model_answers_as_its_run_did(trained: omniner.TrainResult) -> None:
    gold = omniner.read(trained.folder / "gold.jsonl")
    expected = [json.loads(line) for line in (trained.folder / "predictions.jsonl").read_text().splitlines()]
    model = trained.load()
    found = model.predict(gold)
    assert [item["id"] for item in expected] == [prediction.id for prediction in found]
    entities = [[tuple(entity.values()) for entity in item["entities"]] for item in expected]
    assert entities == [[tuple(entity) for entity in prediction.entities] for prediction in found]
    assert any(entities)
    again = model.predict([sentence.text for sentence in gold])
    assert [prediction.entities for prediction in again] == [prediction.entities for prediction in found]
    assert model.predict(gold[3].text).entities == found[3].entities


def test_a_run_is_loaded_by_name_by_id_and_by_its_checkpoint(
    trained: omniner.TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.folder.parents[1])
    text = omniner.read(trained.folder / "gold.jsonl")[3].text
    expected = trained.load().predict(text).entities
    for source in ("my_run", trained.run_id, trained.folder / "checkpoints" / "best.ckpt"):
        assert omniner.load(source).predict(text).entities == expected


def test_the_lines_of_the_readme_run(trained: omniner.TrainResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.folder.parents[1])
    for name in ("predictions.jsonl", "gold.jsonl"):
        shutil.copy(trained.folder / name, name)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    assert isinstance(names["model"], omniner.Model)


def test_two_sentences_of_one_id_are_refused(trained: omniner.TrainResult) -> None:
    with pytest.raises(UserError, match="2 sentences have the id '1'"):
        trained.load().predict([Sentence("1", "好"), Sentence("1", "坏")])


def test_overrides_change_how_a_run_answers(trained: omniner.TrainResult) -> None:
    long = "好" * 600
    with pytest.raises(UserError, match="longer than 400 characters"):
        trained.load().predict(long)
    model = omniner.load(trained.folder, ["encoding.on_too_long=truncate", "decoding.slots=3"])
    assert model.predict(long).reason
    run = trained.load().config
    assert dataclasses.replace(run.encoding, on_too_long="truncate") == model.config.encoding
    assert (run.model, run.seed, model.config.decoding.slots) == (model.config.model, model.config.seed, 3)


def test_scores_are_the_same_from_files_records_and_data_frames(tmp_path: Path) -> None:
    omniner.write(GOLD, tmp_path / "gold.jsonl")
    lines = [json.dumps({"id": one.id, "entities": [e._asdict() for e in one.entities]}) for one in ANSWERS]
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    results = [
        omniner.score(ANSWERS, GOLD),
        omniner.score(tmp_path / "predictions.jsonl"),
        omniner.score(tmp_path / "predictions.jsonl", tmp_path / "gold.jsonl"),
        omniner.score(tmp_path / "predictions.jsonl", GOLD),
        omniner.score(omniner.frame(ANSWERS), omniner.frame(GOLD)),
    ]
    assert len({json.dumps(result.metrics.to_json()) for result in results}) == 1
    assert (results[0].metrics.micro.tp, results[0].metrics.micro.fp, results[0].metrics.micro.fn) == (1, 1, 2)
    official = omniner.score(ANSWERS, GOLD, ["metrics.profile=official"])
    assert official.profile == "official"


def test_records_come_back_from_their_data_frames(tmp_path: Path) -> None:
    gold = [
        Sentence("1", "去喝小满", [Entity("小满", "品牌", 2, 4)], "p1", {"by": "a"}),
        Sentence("2", "今天", [], None, {}),
        Sentence("3", "大理", [Entity("大理", "地点", 0, 2)], "p1"),
    ]
    answers = [
        Prediction("1", [Entity("小满", "时间", 2, 4)], "[[", "repaired", "cut", "sha", "hf"),
        Prediction("2", [], "?", "failed", "no JSON", "sha", "hf"),
        Prediction("3"),
    ]
    result = omniner.score(omniner.frame(answers), omniner.frame(gold))
    expected = omniner.score(answers, gold)
    assert sorted(result.sentences.values(), key=lambda one: one.id) == gold
    assert sorted(result.predictions.values(), key=lambda one: one.id) == answers
    assert result.parse == expected.parse
    assert result.metrics.intervals == expected.metrics.intervals
    file = tmp_path / "answers.csv"
    omniner.frame(answers).drop(columns="entities").to_csv(file, index=False)
    table = pd.read_csv(file, dtype={"id": str}).assign(entities=omniner.frame(answers)["entities"])
    assert omniner.score(table, gold).predictions == result.predictions, "an empty cell is no number"


def test_a_data_frame_without_its_columns_is_refused() -> None:
    with pytest.raises(UserError, match="no column entities"):
        omniner.score(omniner.frame(ANSWERS).drop(columns="entities"), GOLD)


def test_errors_are_sorted_and_make_a_table() -> None:
    errors = omniner.errta(ANSWERS, GOLD)
    assert {name: count for name, count in errors.counts.items() if count} == {"classification": 1, "missing": 1}
    table = omniner.frame(errors)
    assert sorted(table["type"]) == ["classification", "missing"]
    [confused] = table[table["type"] == "classification"].to_dict("records")
    [gold], [predicted] = confused["gold"], confused["predicted"]
    assert (confused["gold_text"], confused["gold_category"]) == (gold.text, gold.category)
    assert (confused["predicted_text"], confused["predicted_category"]) == (gold.text, predicted.category)
    [missing] = table[table["type"] == "missing"].to_dict("records")
    assert (missing["predicted_text"], missing["predicted_category"]) == ("", "")
    with pytest.raises(UserError, match="frame: Metrics has no rows"):
        omniner.frame(omniner.score(ANSWERS, GOLD).metrics)  # type: ignore[arg-type]
    assert set(omniner.frame(omniner.score(ANSWERS, GOLD))["category"]) == {"品牌", "地点", "时间"}


def test_runs_records_and_files_are_compared(trained: omniner.TrainResult, tmp_path: Path) -> None:
    gold = omniner.read(trained.folder / "gold.jsonl")
    perfect = [Prediction(sentence.id, sentence.entities) for sentence in gold]
    found = omniner.compare({"run": trained.folder, "perfect": perfect}, gold, ["compare.permutations=200"])
    assert found.baseline == "run"
    assert found.results["perfect"].metrics.micro.f1 == 1
    assert list(omniner.frame(found)["run"]) == ["run", "perfect"]
    alone = omniner.compare([trained.folder, trained.folder], overrides=["compare.permutations=200"])
    assert len(alone.results) == 2
    with pytest.raises(UserError, match="hold no gold"):
        omniner.compare({"run": trained.folder, "perfect": perfect})


def test_a_server_is_asked_about_the_categories() -> None:
    def answer(seen: Seen, count: int) -> Answer:
        assert "品牌" in json.dumps(seen.body, ensure_ascii=False)
        return reply('[["小满","品牌"]]')

    with serving(answer) as server:
        model = omniner.load(server.url, ["decoding.model=any"], categories=["品牌", "时间"])
        assert model.predict("去喝小满").entities == [Entity("小满", "品牌", 2, 4)]


def test_the_interface_names_what_it_has() -> None:
    assert set(omniner.__all__) <= set(dir(omniner))
    assert all(hasattr(omniner, name) for name in omniner.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        omniner.nothing  # noqa: B018
