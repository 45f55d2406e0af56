"""The Python interface does what the command line does, and gives records and tables back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scripted_server import Answer, Seen, reply, serving
from tests.conftest import ROOT

import omniner
from omniner import api, models, run
from omniner.config import compose, run_config
from omniner.config.groups import Config
from omniner.corpus.sample import generate_sample
from omniner.corpus.sources import load_corpus, read_sentences
from omniner.errors import Stopped, UserError
from omniner.files import sha256, write_text
from omniner.frames import corpus_lines
from omniner.records import Entity, Issue, Prediction, Sentence, unlabeled_sentence
from omniner.runs import references
from omniner.scoring import gold as scoring_gold

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
FEW_DRAWS = ["compare.permutations=200", "compare.resamples=100"]
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
        return omniner.train([*TINY, "name=my_run"])
    finally:
        os.chdir(before)


def _stopped(*_given: Any, **_named: Any) -> None:
    raise Stopped(signal.SIGINT)


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


def test_a_loaded_model_leaves_out_what_it_is_less_sure_of_than_asked(trained: omniner.TrainResult) -> None:
    gold = omniner.read(trained.folder / "gold.jsonl")
    every = [one for found in omniner.load(trained, ["decoding.scores=true"]).predict(gold) for one in found.entities]
    least = sorted(one.score for one in every)[len(every) // 2]
    found = omniner.load(trained, [f"decoding.min_score={least}"]).predict(gold)
    kept = [one for one in every if one.score >= least]
    assert 0 < len(kept) < len(every)
    assert [one for prediction in found for one in prediction.entities] == kept
    assert sum(prediction.left_out for prediction in found) == len(every) - len(kept)


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
    splits = generate_sample({"train": 120}, 1)
    omniner.write(splits["train"], "sentences.jsonl")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert isinstance(names["model"], omniner.Model)
    assert len(omniner.read(names["result"].folder / "gold.jsonl")) == 100


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


def test_what_a_model_was_trained_with_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    trained = compose.load(["head=span", "head.biaffine_dim=9", "data=own", "data.name=ours", "name=mine"])
    write_text(tmp_path / "config.yaml", run_config.to_yaml(trained))
    monkeypatch.setattr(references, "find_trained_model", lambda *_: checkpoint)
    monkeypatch.setattr(models, "load_predictor", lambda config, _: SimpleNamespace(predict=None))
    monkeypatch.setattr(models, "known_categories", lambda _: ())
    config = omniner.load("run", ["encoding.max_length=30"]).config
    assert (config.head, config.data, config.name) == (trained.head, trained.data, "mine")
    assert config.encoding.max_length == 30
    for word in ("head=crf", "head.max_span=30", "+model.hidden=9", "data=sample", "prompt.answer=lines"):
        with pytest.raises(UserError, match=r"^(head|model|data|prompt).*: given for run, which keeps"):
            omniner.load("run", [word])


def test_what_train_returned_is_taken_for_its_folder_and_nothing_else_is(trained: omniner.TrainResult) -> None:
    model = omniner.load(trained)
    assert (model.source, len(model.categories) > 1) == (str(trained.folder), True)
    assert list(omniner.compare({"a": trained, "b": trained}, overrides=FEW_DRAWS).results) == ["a", "b"]
    assert len(omniner.compare([trained, trained], overrides=FEW_DRAWS).results) == 2
    assert omniner.score(trained).metrics.micro.f1 == omniner.score(trained.folder).metrics.micro.f1 == trained.f1
    for call, found in (
        (lambda: omniner.load(None), "source: None"),  # type: ignore[arg-type]
        (lambda: omniner.read(None), "path: None"),  # type: ignore[arg-type]
        (lambda: omniner.read([trained.folder]), "path: list"),  # type: ignore[arg-type]
        (lambda: omniner.write(GOLD, None), "path: None"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=f"^{found} where a path or a name belongs"):
            call()
    for long in (lambda: omniner.load("x" * 5000), lambda: omniner.read("x" * 5000)):
        with pytest.raises(UserError, match="File name too long"):
            long()


def test_loading_and_asking_leave_random_numbers_alone(trained: omniner.TrainResult) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained.load().predict("去喝小满")
    assert torch.equal(torch.get_rng_state(), before)


def test_results_are_shown_in_a_line(trained: omniner.TrainResult) -> None:
    found = omniner.score(ANSWERS, GOLD)
    assert repr(found) == "<ScoreResult span micro P 50.0 R 33.3 F1 40.0; 2 sentences, 2 errors>"
    assert repr(found.errta) == "<ErrtaResult 2 errors in 2 sentences: 1 classification, 1 missing>"
    assert repr(trained) == f"<TrainResult F1 {100 * trained.f1:.1f} in {trained.folder}>"
    compared = omniner.compare({"ours": ANSWERS, "theirs": ANSWERS}, GOLD, FEW_DRAWS)
    said = "P 50.0 R 33.3 F1 40.0"
    assert repr(compared) == f"<RunComparison of 2 runs on 2 sentences; ours: {said}; theirs: {said}>"


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
    with pytest.raises(UserError, match="frame: Metrics where a list belongs"):
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
        omniner.compare({"ours": perfect, "perfect": perfect})


def test_gold_of_several_runs_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    omniner.write(GOLD, tmp_path / "g.jsonl")
    runs: dict[str, Any] = {"c": ANSWERS, "d": ANSWERS}
    for name in ("a", "b"):
        runs[name] = tmp_path / f"{name}.jsonl"
        omniner.write(ANSWERS, runs[name])
    read: list[Path] = []

    def note(path: Path, *rest: Any) -> Any:
        read.append(path)
        return read_sentences(path, *rest)

    monkeypatch.setattr(scoring_gold, "read_sentences", note)
    found = omniner.compare(runs, tmp_path / "g.jsonl", ["compare.permutations=20"])
    assert [one.metrics.micro.tp for one in found.results.values()] == [1, 1, 1, 1]
    assert read == [tmp_path / "g.jsonl"] * 2, "once for files, which name sentences otherwise, and once for records"


def test_a_server_is_asked_about_the_categories() -> None:
    def answer(seen: Seen, count: int) -> Answer:
        assert "品牌" in json.dumps(seen.body, ensure_ascii=False)
        return reply('[["小满","品牌"]]')

    with serving(answer) as server:
        model = omniner.load(server.url, ["decoding.model=any"], categories=["品牌", "时间"])
        assert model.predict("去喝小满").entities == [Entity("小满", "品牌", 2, 4)]


def test_gold_records_without_texts_count(tmp_path: Path) -> None:
    """As they come from a file whose labels are gold; `meta` may hold what no JSON can."""
    gold = [
        Sentence("1", "", [Entity("小满", "品牌")], meta={"seen": date(2025, 1, 1)}),
        Sentence("2", "", [Entity("大理", "地点")]),
    ]
    answers = [Prediction("1", [Entity("小满", "时间")]), Prediction("2", [Entity("大理", "地点")])]
    omniner.write(answers, tmp_path / "p.jsonl")
    found = [omniner.score(given, gold).metrics.to_json() for given in (answers, tmp_path / "p.jsonl")]
    assert found[0] == found[1]
    assert found[0]["micro"]["f1"] == 0.5
    lines = [{"prompt": "?", "label": '[["小满","品牌"]]', "predict": answer} for answer in ("[]", '[["小满","品牌"]]')]
    generated = tmp_path / "generated_predictions.jsonl"
    generated.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    result = omniner.score(generated)
    again = omniner.score(generated, list(result.sentences.values()))
    assert again.metrics.to_json() == result.metrics.to_json()
    compared = omniner.compare({"a": tmp_path / "p.jsonl", "b": answers}, gold, ["compare.permutations=20"])
    assert [one.metrics.micro.f1 for one in compared.results.values()] == [0.5, 0.5]


def test_keys_of_data_hold_for_files_here_too(tmp_path: Path) -> None:
    gold, answers, keys = tmp_path / "gold.jsonl", tmp_path / "p.jsonl", ["data.offsets=inclusive"]
    lines = [
        {"id": s.id, "text": s.text, "entities": [[e.start, (e.end or 0) - 1, e.category] for e in s.entities]}
        for s in GOLD
    ]
    gold.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    omniner.write(ANSWERS, answers)
    for given in (ANSWERS, answers):
        assert omniner.score(given, gold, keys).metrics.micro.tp == 1
    compared = omniner.compare({"a": answers, "b": ANSWERS}, gold, ["compare.permutations=20", *keys])
    assert [one.metrics.micro.tp for one in compared.results.values()] == [1, 1]


def test_issues_of_gold_records_name_no_file_of_ours(tmp_path: Path) -> None:
    omniner.write(ANSWERS, tmp_path / "p.jsonl")
    gold = [*GOLD, Sentence("3", "好", [Entity("好", "地点", 0, 1)])]
    issues = omniner.score(tmp_path / "p.jsonl", gold).issues
    assert [(issue.code, issue.id, issue.file) for issue in issues] == [("no-prediction", "3", "")]


def test_what_gold_could_not_give_is_told(tmp_path: Path) -> None:
    omniner.write(GOLD, tmp_path / "gold.jsonl")
    with (tmp_path / "gold.jsonl").open("a", encoding="utf-8") as file:
        file.write("{\n")
    assert [issue.line for issue in omniner.score(ANSWERS, tmp_path / "gold.jsonl").issues] == [3]


def test_predictions_of_other_sentences_are_refused() -> None:
    other = [Prediction("a", [Entity("小满", "品牌", 2, 4)])]
    message = r"no id is one of the gold sentences \('a' here, '1' there\).*A bare text"
    with pytest.raises(UserError, match=message):
        omniner.score(other, GOLD)
    with pytest.raises(UserError, match=f"^theirs: {message}"):
        omniner.compare({"ours": ANSWERS, "theirs": other}, GOLD)
    with pytest.raises(UserError, match=r"^predictions: it is empty"):
        omniner.score([], GOLD)
    for gold, found in ([], "it is empty"), ([unlabeled_sentence("1", "好")], "no sentence has labels"):
        with pytest.raises(UserError, match=f"^gold: {found}"):
            omniner.score(ANSWERS, gold)
        with pytest.raises(UserError, match=f"^gold: {found}"):
            omniner.compare({"a": ANSWERS, "b": ANSWERS}, gold)


def test_a_file_of_which_nothing_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="no sentence could be read"):
        omniner.read(tmp_path / "empty.jsonl", "jsonl")
    omniner.write(GOLD, tmp_path / "cluener.json", "cluener")
    with pytest.raises(UserError, match="no sentence could be read"):
        omniner.read(tmp_path / "cluener.json", "doccano")


def test_one_text_is_no_list_of_texts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^categories: a text, '品牌', where a list belongs"):
        omniner.load("http://localhost:1/v1", categories="品牌")
    with pytest.raises(UserError, match=r"^categories\[0\]: 1 is no text"):
        omniner.load("http://localhost:1/v1", categories=[1])  # type: ignore[list-item]
    with pytest.raises(UserError, match="categories: given for my_run, which knows those it was trained with"):
        omniner.load("my_run", categories=["品牌"])
    calls: list[Callable[[], object]] = [
        lambda: omniner.train("seed=7"),
        lambda: omniner.load("my_run", "seed=7"),
        lambda: omniner.score(ANSWERS, GOLD, "metrics.bootstrap=0"),
        lambda: omniner.errta(ANSWERS, GOLD, "metrics.unit=pair"),
        lambda: omniner.compare({"a": ANSWERS, "b": ANSWERS}, GOLD, "seed=7"),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"^overrides: a text, '.*=.*', where a list belongs"):
            call()
    with pytest.raises(UserError, match=r"^runs: a text, 'my_run', where a list belongs"):
        omniner.compare("my_run")


def test_arrays_of_categories_are_taken() -> None:
    with serving(lambda seen, count: reply("[]")) as server:
        model = omniner.load(server.url, ["decoding.model=any"], categories=np.array(["品牌", "时间"]))  # type: ignore[arg-type]
        assert model.predict(pd.Series(["去喝小满"])) == [dataclasses.replace(model.predict("好"), id="text-0")]


def test_what_a_comparison_could_not_read_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        omniner.write(ANSWERS, tmp_path / f"{name}.jsonl")
    with (tmp_path / "b.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "3"\n')
    files = {name: tmp_path / f"{name}.jsonl" for name in ("a", "b")}
    found = omniner.compare(files, GOLD, ["compare.permutations=20"])
    assert found.results["a"].issues == []
    assert [(Path(issue.file).name, issue.line) for issue in found.results["b"].issues] == [("b.jsonl", 3)]


def test_names_of_compared_runs_may_hold_anything(tmp_path: Path) -> None:
    omniner.write(ANSWERS, tmp_path / "p.jsonl")
    names = ["lr=0.01", "lr=0.001"]
    found = omniner.compare(dict.fromkeys(names, tmp_path / "p.jsonl"), GOLD, ["compare.permutations=20"])
    assert list(found.results) == names
    with pytest.raises(UserError, match="runs: several are called '1'"):
        omniner.compare({1: ANSWERS, "1": ANSWERS}, GOLD)  # type: ignore[dict-item]


def test_a_comparison_takes_two_or_more() -> None:
    for runs, count in ([], 0), ({}, 0), ({"a": ANSWERS}, 1):
        with pytest.raises(UserError, match=f"^runs: two or more are compared, {count} given"):
            omniner.compare(runs, GOLD)
    with pytest.raises(UserError, match=r"^runs\[0\]: list where a path or a name belongs.*mapping"):
        omniner.compare([ANSWERS, ANSWERS], GOLD)  # type: ignore[list-item]


def test_a_table_without_rows_has_its_columns() -> None:
    perfect = [Prediction(sentence.id, sentence.entities) for sentence in GOLD]
    result = omniner.score(perfect, GOLD)
    assert omniner.frame(result.errta)["type"].value_counts().to_dict() == {}
    assert list(omniner.frame(result.errta)) == list(omniner.frame(omniner.errta(ANSWERS, GOLD)))
    nothing = omniner.score([Prediction("1")], [Sentence("1", "好")])
    assert list(omniner.frame(nothing)) == list(omniner.frame(result))
    assert list(omniner.frame([])) == ["id", "text", "entities"]


def test_entities_and_issues_make_tables() -> None:
    assert omniner.frame(GOLD[0].entities).to_dict("records") == [GOLD[0].entities[0]._asdict()]
    issue = Issue("bad-line", "broken", "a.jsonl", 3)
    assert omniner.frame([issue]).to_dict("records") == [issue._asdict()]
    assert len(omniner.frame(omniner.score(ANSWERS, GOLD).sentences.values())) == 2
    for other in (["好"], [GOLD[0], ANSWERS[0]], "好", {"1": GOLD[0]}, None):
        with pytest.raises(UserError, match=r"^frame"):
            omniner.frame(other)  # type: ignore[arg-type]


def test_predictions_are_written_and_scored_from_their_file(tmp_path: Path) -> None:
    assert omniner.write(ANSWERS, tmp_path / "p.jsonl") == []
    assert omniner.score(tmp_path / "p.jsonl", GOLD).predictions == {one.id: one for one in ANSWERS}
    with pytest.raises(UserError, match=r"^format: conll holds sentences, and these are predictions"):
        omniner.write(ANSWERS, tmp_path / "p.conll", "conll")
    with pytest.raises(UserError, match=r"^records\[1\]: .* no omniner.Sentence"):
        omniner.write([GOLD[0], ANSWERS[0]], tmp_path / "mixed.jsonl")  # type: ignore[list-item]
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]


def test_meta_that_no_file_can_hold_is_refused_with_its_sentence(tmp_path: Path) -> None:
    dated = [GOLD[0], dataclasses.replace(GOLD[1], meta={"seen": date(2025, 1, 1)})]
    for format in ("jsonl", "label_studio"):
        with pytest.raises(UserError, match=r"^records\[1\]\.meta: .*date"):
            omniner.write(dated, tmp_path / "x", format)
    assert [issue.code for issue in omniner.write(dated, tmp_path / "x", "cluener")] == ["lost-meta"]


@pytest.mark.parametrize("format", ["jsonl", "label_studio"])
def test_offsets_of_other_libraries_are_whole_numbers(tmp_path: Path, format: str) -> None:
    place = np.int64(2), np.int64(4)
    given = [Sentence("1", "去喝小满", [Entity("小满", "品牌", *place)])]  # type: ignore[arg-type]
    omniner.write(given, tmp_path / "gold", format)
    assert omniner.read(tmp_path / "gold")[0].entities == GOLD[0].entities
    floats = pd.DataFrame({"id": [1], "entities": [[("小满", "品牌", 2.0, 4.0)]]})
    assert omniner.score(floats, GOLD[:1]).metrics.micro.f1 == 1


@pytest.mark.parametrize(
    ("entities", "found"),
    [
        ("[Entity(text='小满')]", ": a text, .*, where a list belongs.*CSV"),
        (None, ": empty"),
        (float("nan"), ": empty"),
        ([{"text": "小满", "type": "品牌"}], r"\[0\]: an object with the keys text, type"),
        ([("小满", "品牌", 2)], r"\[0\]: \('小满', '品牌', 2\) is no entity"),
        ([("小满", None)], r"\[0\]: \('小满', None\) is no entity"),
        ([("小满", "品牌", 2.5, 4)], r"\[0\]: 2\.5 is no offset"),
        ([("小满", "品牌", 2, None)], r"\[0\]: .* has one offset of two"),
        ([7], r"\[0\]: 7 is no entity"),
    ],
)
def test_an_entity_that_is_none_is_refused_with_its_row(entities: object, found: str) -> None:
    table = pd.DataFrame({"id": ["1", "2"], "entities": pd.Series([[], entities], dtype=object)})
    with pytest.raises(UserError, match=rf"^predictions, row 1, entities{found}"):
        omniner.score(table, GOLD)
    with pytest.raises(UserError, match=rf"^predictions\[1\]\.entities{found}"):
        omniner.score([ANSWERS[0], Prediction("2", entities)], GOLD)  # type: ignore[arg-type]


def test_predictions_may_come_one_by_one_and_nothing_else_passes_for_them() -> None:
    expected = omniner.score(ANSWERS, GOLD).metrics.to_json()
    assert omniner.score(iter(ANSWERS), iter(GOLD)).metrics.to_json() == expected
    for given, found in (
        ({"1": ANSWERS[0]}, "predictions: a mapping where a list belongs"),
        (None, "predictions: None where a list belongs"),
        (ANSWERS[0], "predictions: Prediction where a list belongs"),
        ([*ANSWERS, GOLD[0]], r"predictions\[2\]: .* no omniner.Prediction"),
        ([unlabeled_sentence("1", "好")], "predictions: sentences that nobody labelled"),
    ):
        with pytest.raises(UserError, match=f"^{found}"):
            omniner.score(given, GOLD)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^predictions, row 1: the id is empty"):
        omniner.score(pd.DataFrame({"id": ["1", None], "entities": [[], []]}), GOLD)


def test_what_is_no_text_is_not_tagged() -> None:
    model = omniner.Model(None, "nowhere", lambda sentences: [])  # type: ignore[arg-type]
    for given, found in (
        (["好", None], r"texts\[1\]: None is no text"),
        (["好", float("nan")], r"texts\[1\]: nan is no text"),
        ([Sentence("1", None)], r"texts\[0\]: .* is no text"),  # type: ignore[arg-type]
        (pd.DataFrame({"text": ["好"]}), "texts: a data frame where a list belongs.*column"),
        ({"text": "好"}, "texts: a mapping where a list belongs"),
        (None, "texts: None where a list belongs"),
    ):
        with pytest.raises(UserError, match=f"^{found}"):
            model.predict(given)  # type: ignore[call-overload]


def test_a_bare_text_gets_an_id_that_no_sentence_has() -> None:
    model = omniner.Model(None, "nowhere", lambda given: [[Prediction(one.id, engine=one.text)] for one in given])  # type: ignore[arg-type]
    found = model.predict([Sentence("1", "甲"), "乙", Sentence("text-1", "丙"), "丁"])
    assert [(one.id, one.engine) for one in found] == [
        ("1", "甲"),
        ("text-0", "乙"),
        ("text-1", "丙"),
        ("text-2", "丁"),
    ]


def test_the_folder_of_a_run_is_known_from_anywhere(trained: omniner.TrainResult) -> None:
    """It was trained in another folder than that of this test."""
    assert trained.folder == trained.folder.resolve()
    assert trained.folder.is_dir()


def test_what_only_the_command_line_can_do_is_refused_before_it_is_done(tmp_path: Path) -> None:
    for call in (omniner.train, lambda words: omniner.load("my_run", words)):
        with pytest.raises(UserError, match=r"^task: .*each function does a task of its own"):
            call(["task=stats"])
        with pytest.raises(UserError, match=r"^-m: a flag of the command line.*loop"):
            call(["-m", "seed=1,2"])
        with pytest.raises(UserError, match=r"^--config-dir: .*hydra\.searchpath"):
            call(["--config-dir", str(tmp_path)])
    for word in ("seed=1,2", "head=crf,span"):
        with pytest.raises(UserError, match=r"several (values|choices).*in a loop") as refused:
            omniner.train([word])
        assert "-m" not in str(refused.value)


def test_what_a_training_logs_is_set_up_when_its_turn_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one in another thread would rely on the handler of the first, which goes with it."""
    turns = []

    @contextlib.contextmanager
    def logged() -> Iterator[None]:
        with ThreadPoolExecutor(1) as another:
            turns.append(another.submit(run.alone.acquire, blocking=False).result())
        yield

    def refused(config: Config, from_memory: None) -> Path:
        raise UserError("run", "not now", "Wait.")

    monkeypatch.setattr(api, "logged", logged)
    monkeypatch.setattr(run, "run", refused)
    with pytest.raises(UserError, match="not now"):
        omniner.train([f"output_dir={tmp_path}"])
    assert turns == [False]


def test_choices_of_ones_own_are_found_where_an_override_says(tmp_path: Path) -> None:
    (tmp_path / "语料" / "data").mkdir(parents=True)
    (tmp_path / "语料" / "data" / "ours.yaml").write_text("defaults: [sample]\nname: ours\n")
    words = ["metrics.bootstrap=0", "data=ours"]
    with pytest.raises(UserError, match="no choice is called 'ours'"):
        omniner.score(ANSWERS, GOLD, words)
    assert omniner.score(ANSWERS, GOLD, [f"hydra.searchpath=[{tmp_path / '语料'}]", *words]).metrics.intervals == {}


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"name: a\n\troot: b\n", ":2: not YAML"), ("# a\n# 语料\n".encode("gb18030"), ":2: not UTF-8")],
)
def test_a_choice_of_ones_own_that_cannot_be_read_is_named(content: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "语料" / "data").mkdir(parents=True)
    file = tmp_path / "语料" / "data" / "ours.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        omniner.score(ANSWERS, GOLD, [f"hydra.searchpath=[{tmp_path / '语料'}]", "data=ours"])
    assert str(refused.value).startswith(f"{file}{found}")


def test_a_choice_of_ones_own_that_would_be_passed_over_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample.yaml").write_text("defaults: [own]\nname: ours\n")
    with pytest.raises(UserError, match=r"sample\.yaml: data=sample is a choice of OmniNER, which would be taken"):
        omniner.score(ANSWERS, GOLD, [f"hydra.searchpath=[{tmp_path}]", "data=sample"])


def test_a_mistake_names_the_argument_of_the_function(tmp_path: Path) -> None:
    omniner.write(GOLD, tmp_path / "gold.jsonl")
    with pytest.raises(UserError, match=r"^format: 'nope' is unknown. Use auto,"):
        omniner.read(tmp_path / "gold.jsonl", "nope")
    for format, found in ("nope", "'nope' cannot be written"), ("alpaca", "'alpaca' is written with a prompt"):
        with pytest.raises(UserError, match=f"^format: {found}.*jsonl") as refused:
            omniner.write(GOLD, tmp_path / "x", format)
        assert "alpaca" not in str(refused.value).partition("Use")[2].partition(".")[0]


def test_the_interface_names_what_it_has() -> None:
    assert set(omniner.__all__) <= set(dir(omniner))
    assert all(hasattr(omniner, name) for name in omniner.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        omniner.nothing  # noqa: B018


def test_meta_that_no_reader_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^records\[0\]\.meta: .*finite"):
        omniner.write([Sentence("1", "好", meta={"score": float("nan")})], tmp_path / "x.jsonl")


SHORT = [*TINY[1:], "trainer.max_epochs=1", "tracking=off"]  # without the size of the built-in corpus


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_sentences_of_a_program_train_as_their_files_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    splits = generate_sample({"train": 60, "test": 20}, 1)
    for name, sentences in splits.items():
        for number, sentence in enumerate(sentences):
            sentence.id = f"{name}-{number}"
        omniner.write(sentences, f"{name}.jsonl")
    usual = [*SHORT, "data.dev_from_train=0.2"]
    of_files = omniner.train([*usual, "data=own", "data.root=.", "data.files.dev=[]"])
    frames = {name: omniner.frame(sentences) for name, sentences in splits.items()}
    dicts = {name: _lines(tmp_path / f"{name}.jsonl") for name in splits}
    found = [omniner.train([*usual, f"output_dir=run-{n}"], **given) for n, given in enumerate((splits, frames, dicts))]
    for run_of_program in found:
        for name in ("predictions.jsonl", "gold.jsonl", "checkpoints/trained_on.json"):
            assert (run_of_program.folder / name).read_bytes() == (of_files.folder / name).read_bytes()
        assert run_of_program.scores["metrics"] == of_files.scores["metrics"]
        data = run_config.read(run_of_program.folder / "config.yaml").data
        assert data.root == str(run_of_program.folder / "from_memory")
        assert data.from_memory == {name: sha256(tmp_path / f"{name}.jsonl") for name in splits}


def test_the_sentences_of_a_program_go_where_its_run_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "fit", _stopped)
    with pytest.raises(Stopped):
        omniner.train([*SHORT, f"output_dir={tmp_path / 'run'}"], train=GOLD, dev=GOLD, test=GOLD)
    folder = Path(shutil.move(tmp_path / "run", tmp_path / "moved"))
    config = run_config.read(folder / "config.yaml")
    assert load_corpus(config.data, ["train"]).splits["train"] == GOLD
    (folder / "from_memory/train.jsonl").write_text('{"text": "好", "entities": []}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"moved/from_memory/train.jsonl: it does not hold the sentences"):
        load_corpus(config.data, ["train"])


def test_an_unfinished_run_goes_on_with_its_own_sentences_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(models, "fit", _stopped)
    folder = tmp_path / "run"
    words = [*SHORT, f"output_dir={folder}"]
    with pytest.raises(Stopped):
        omniner.train(words, train=GOLD, dev=GOLD, test=GOLD)
    for asked in (words, [*SHORT, f"resume={folder}"]):
        with pytest.raises(UserError, match=r"\(data\.from_memory\.train: \S+ then, \S+ now\)"):
            omniner.train(asked, train=GOLD[:1], dev=GOLD, test=GOLD)
    assert (folder / "from_memory/train.jsonl").read_text(encoding="utf-8").count("\n") == len(GOLD)
    (folder / "from_memory/dev.jsonl").unlink()  # as after a kill before it was written
    with caplog.at_level("INFO", "omniner"), pytest.raises(Stopped):
        omniner.train([*SHORT, f"resume={folder}"], train=iter(GOLD), dev=GOLD, test=GOLD)
    assert "going on with" in caplog.text
    assert (folder / "from_memory/dev.jsonl").is_file()


MISPLACED = Sentence("1", "去大理", [Entity("大理", "地点", 0, 2)])


@pytest.mark.parametrize(
    ("given", "words", "found"),
    [
        ({"train": [GOLD[0], 3]}, [], r"^train\[1\]: 3 is no sentence"),
        ({"dev": [ANSWERS[0]]}, [], r"^dev\[0\]: Prediction.* is no sentence"),
        ({"test": []}, [], r"^test: it is empty"),
        ({"train": "train.conll"}, [], r"^train: a path.*omniner\.read\(path\)"),
        ({"train": {"train": GOLD}}, [], r"^train: a mapping"),
        ({"train": [{"text": {1, 2}}]}, [], r"^train\[0\]\.text: \{1, 2\} is no value of JSON"),
        ({"train": [MISPLACED]}, [], r"^train\[0\]: not one entity"),
        ({"train": [*GOLD, MISPLACED]}, ["data.on_issue=fail"], r"^data\.on_issue: .*train\[2\] 1 \[offset-mismatch"),
        ({"train": [{"kind": "好"}, {"kind": "坏"}]}, [], r"^train\[0\]: no known format"),
        ({"test": [unlabeled_sentence("1", "好")]}, [], r"^test: none of the sentences has labels"),
        ({"train": [Sentence("1", "好")]}, [], r"^train: none of 1 labelled sentences has an entity"),
        ({"test": [Sentence("1", "好", [Entity("好", "坏")])]}, ["data.taxonomy=omniner2025"], r"not in the taxonomy"),
        ({"dev": None}, [], r"^dev: no sentences are given, only train and test.*data\.dev_from_train=0\.1"),
        ({"test": None}, [], r"^test: .*data\.report=dev"),
        ({"train": None}, [], r"^train: no sentences are given, only dev and test"),
        ({"dev": None, "test": None}, ["data.report=dev", "data.dev_from_train=0.5"], r"^dev: no sentences are given"),
        ({}, ["data.root=."], r"^data\.root: given beside train and dev and test"),
        ({}, ["data.files.train=[a.jsonl]"], r"^data\.files\.train: given beside"),
        ({}, ["data=sample"], r"^data: sample is generated"),
        ({}, ["data.format=conll"], r"^data\.format: conll, but train and dev and test are omniner\.Sentence"),
        ({}, ["data.report=dev", "data.dev_from_train=0.5"], r"^test: data\.report=dev reports on dev instead of it"),
        ({}, ["data=cmeee", "data.report=dev"], r"^test: data\.report=dev reports on dev instead of it"),
        ({}, ["data=msra", "data.dev_from_train=0.5"], r"^dev: data\.dev_from_train cuts dev from train instead of it"),
        ({"dev": "dev.conll"}, [], r"^dev: a path, .*Give omniner\.read\(path\); or name the files of all splits"),
        (
            {"dev": None, "train": GOLD[:1] * 9},
            ["data.dev_from_train=0.2"],
            r"1 post cannot .*, or give a dev split\.$",
        ),
        ({"dev": [Sentence("9", "好")]}, [], r"^dev: none of 1 labelled .* Look where they come from: were the labels"),
        ({"train": [MISPLACED]}, [], r"^train\[0\]: not one entity.* Check these items, or data\.offsets\.$"),
        ({"train": [*GOLD, MISPLACED]}, ["data.on_issue=fail"], r"Repair the sentences, or set data\.on_issue=keep"),
        ({"train": [{"kind": "好"}, {"kind": "坏"}]}, [], r"its entities \(`entities`\), or set data\.format\.$"),
    ],
)
def test_what_cannot_be_trained_on_is_named_by_its_argument(
    given: dict[str, Any], words: list[str], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "fit", _stopped)
    with pytest.raises(UserError, match=found):
        omniner.train([*SHORT, *words], **{"train": GOLD, "dev": GOLD, "test": GOLD, **given})
    assert not [*Path().glob("outputs/*")]


@pytest.mark.parametrize("choice", ["cluener", "cmeee", "msra", "own"])
def test_what_a_choice_says_of_its_own_files_gives_way_to_the_splits_of_a_program(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "fit", _stopped)
    train, dev, test = ([Sentence(f"{n}", f"{n}去大理", [Entity("大理", "地点", 2, 4)])] for n in range(3))
    words = [*SHORT, f"data={choice}", "data.taxonomy=flat", f"output_dir={tmp_path}"]
    with pytest.raises(Stopped):
        omniner.train(words, train=train, dev=dev, test=test)
    assert omniner.read(tmp_path / "gold.jsonl") == test
    data = run_config.read(tmp_path / "config.yaml").data
    assert load_corpus(data, None).splits == {"train": train, "dev": dev, "test": test}


def test_a_choice_still_says_what_is_reported_where_a_program_gives_no_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "fit", _stopped)
    train = [Sentence(f"{n}", f"{n}去大理", [Entity("大理", "地点", 2, 4)]) for n in range(9)]
    words = [*SHORT, "data=cluener", "data.taxonomy=flat", f"output_dir={tmp_path}"]
    with pytest.raises(Stopped):
        omniner.train(words, train=train, dev=GOLD)
    assert [one.text for one in omniner.read(tmp_path / "gold.jsonl")] == [one.text for one in GOLD]
    assert len(load_corpus(run_config.read(tmp_path / "config.yaml").data, ["dev"]).splits["dev"]) == 1


def test_the_copy_of_the_sentences_is_let_go_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []

    class Content(bytes):
        def __del__(self) -> None:
            gone.append("one")

    def lines(given: Any, where: str) -> tuple[bytes, bool]:
        content, own = corpus_lines(given, where)
        return Content(content), own

    def fit(*_given: Any, **_named: Any) -> None:
        assert len(gone) == 3
        raise Stopped

    monkeypatch.setattr(api, "corpus_lines", lines)
    monkeypatch.setattr(models, "fit", fit)
    with pytest.raises(Stopped):
        omniner.train([*SHORT, f"output_dir={tmp_path}"], train=GOLD, dev=GOLD, test=GOLD)


def test_dev_may_be_the_split_that_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "fit", _stopped)
    train = [dataclasses.replace(one, id=f"{one.id}-{n}", text=f"{one.text}{n}") for n in range(9) for one in GOLD]
    words = [*SHORT, f"output_dir={tmp_path}", "data.report=dev", "data.dev_from_train=0.2"]
    with pytest.raises(Stopped):
        omniner.train(words, train=train, dev=GOLD)
    assert omniner.read(tmp_path / "gold.jsonl") == GOLD
