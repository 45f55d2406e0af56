"""What Python callers give is made into records: texts of models, sentences, tables, and what is none of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

import omniner
from omniner.config import compose
from omniner.errors import UserError
from omniner.frames import corpus_lines
from omniner.records import Entity, Prediction, Sentence, is_unlabeled, with_score

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


def test_ids_are_texts_or_whole_numbers(tmp_path: Path) -> None:
    gold = [Sentence(np.int64(1), "去大理", [Entity("大理", "地点", 1, 3)], post_id=np.int64(7))]  # type: ignore[arg-type]
    answers = [Prediction(1, [Entity("大理", "地点", 1, 3)])]  # type: ignore[arg-type]
    assert omniner.score(answers, gold).metrics.micro.f1 == 1
    omniner.write(gold, tmp_path / "gold.jsonl")
    assert (omniner.read(tmp_path / "gold.jsonl")[0].id, omniner.read(tmp_path / "gold.jsonl")[0].post_id) == ("1", "7")
    omniner.write(answers, tmp_path / "answers.jsonl")
    model = omniner.Model(None, "nowhere", lambda given: [[Prediction(one.id) for one in given]])  # type: ignore[arg-type]
    assert model.predict(gold[0]).id == "1"
    table = pd.DataFrame({"id": [1], "text": ["好"], "entities": [[]], "post_id": [7]})
    omniner.write(table, tmp_path / "table.jsonl")
    assert omniner.read(tmp_path / "table.jsonl")[0].post_id == "7"
    for given, found in (
        (Sentence(None, "好"), r"id: None"),  # type: ignore[arg-type]
        (Sentence("1", None, [Entity("好", "地点")]), "text: None"),  # type: ignore[arg-type]
        (Sentence("1", "好", post_id=1.5), r"post_id: 1\.5"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=rf"^records\[0\]\.{found} is no text"):
            omniner.write([given], tmp_path / "x.jsonl")


def test_data_frames_are_written_as_what_they_hold(tmp_path: Path) -> None:
    omniner.write(omniner.frame(GOLD), tmp_path / "gold.conll", "conll")
    assert [one.entities for one in omniner.read(tmp_path / "gold.conll")] == [one.entities for one in GOLD]
    omniner.write(omniner.frame(SAID), tmp_path / "said.jsonl")
    assert omniner.score(tmp_path / "said.jsonl", GOLD).metrics.micro.f1 == 1


def test_predictions_of_one_id_are_not_written(tmp_path: Path) -> None:
    """Each of several calls gives the first bare text the same id."""
    with pytest.raises(UserError, match=r"^records: 2 predictions have the id 'text-0'"):
        omniner.write([Prediction("text-0"), Prediction("text-0")], tmp_path / "p.jsonl")
    assert not (tmp_path / "p.jsonl").exists()


def test_predictions_are_written_with_their_sentences_in_any_format(tmp_path: Path) -> None:
    answers = [Prediction("2", [Entity("大理", "address", 3, 5)], engine="ours"), SAID[0]]
    omniner.write(answers, tmp_path / "p.jsonl", sentences=GOLD)
    assert [(one.id, one.text) for one in omniner.read(tmp_path / "p.jsonl")] == [
        ("2", GOLD[1].text),
        ("1", GOLD[0].text),
    ]
    assert omniner.write(answers, tmp_path / "p.json", "label_studio", sentences=GOLD) == []
    read = omniner.read(tmp_path / "p.json")
    assert {one.id: [entity[:2] for entity in one.entities] for one in read} == {
        "1": [("浙商银行", "company"), ("小满", "name")],
        "2": [("大理", "address")],
    }
    assert all(task["predictions"] for task in json.loads((tmp_path / "p.json").read_text(encoding="utf-8")))
    with pytest.raises(UserError, match=r"^sentences: none has the id '2' of a prediction"):
        omniner.write(answers, tmp_path / "x.jsonl", sentences=GOLD[:1])


@pytest.mark.parametrize(
    ("sentences", "found"),
    [
        ([*GOLD, Sentence("2", "又一句")], "2 have the id '2' of a prediction"),
        ([GOLD[0], Sentence("2", "明天去丽江")], r"'丽江' stands at \[3, 5\) of '2', and '大理' in its prediction"),
    ],
)
@pytest.mark.parametrize("format", ["jsonl", "conll"])
def test_predictions_are_not_written_with_other_sentences(
    format: str, sentences: list[Sentence], found: str, tmp_path: Path
) -> None:
    answers = [Prediction(one.id, one.entities) for one in GOLD]
    with pytest.raises(UserError, match=f"^sentences: {found}"):
        omniner.write(answers, tmp_path / "x", format, sentences=sentences)
    assert not (tmp_path / "x").exists()


def test_entities_as_gliner_gives_them_are_taken() -> None:
    said = [{"start": 3, "end": 5, "text": "大理", "label": "address", "score": 0.98}]
    found = omniner.score([Prediction("2", said)], GOLD[1:])  # type: ignore[arg-type]
    assert found.predictions["2"].entities == [Entity("大理", "address", 3, 5)]


def test_a_table_of_errors_has_the_sentences() -> None:
    table = omniner.frame(omniner.errta([Prediction("2")], GOLD[1:]))
    assert list(table["text"]) == ["今天去大理"]


def test_a_stream_is_tagged_as_it_comes() -> None:
    def stream() -> Iterator[str | Sentence]:
        for number in range(5):
            asked.append(number)
            yield f"第{number}句" if number != 1 else Sentence("1", "好")

    asked: list[int] = []
    model = omniner.Model(None, "nowhere", lambda given: [[Prediction(one.id) for one in given]])  # type: ignore[arg-type]
    found = model.pipe(stream(), batch_size=2)
    assert (next(found).id, asked) == ("text-0", [0, 1])
    assert [one.id for one in found] == ["1", "text-1", "text-2", "text-3"]
    for given, size, where in (
        ("好", 2, "texts: a text"),
        ([], 0, "batch_size: 0"),
        (["好", "好", "好", None], 2, r"texts\[3\]: None"),
        (["好", "好", Sentence(None, "好")], 2, r"texts\[2\]\.id: None"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=f"^{where}"):
            list(model.pipe(given, size))  # type: ignore[arg-type]


def test_records_are_compared_on_the_gold_of_a_run(tmp_path: Path) -> None:
    omniner.write(GOLD, tmp_path / "gold.jsonl")
    omniner.write(SAID, tmp_path / "predictions.jsonl")
    mine = [Prediction(one.id, one.entities[:1]) for one in GOLD]
    found = omniner.compare(
        {"mine": mine, "run": tmp_path / "predictions.jsonl"}, overrides=["compare.permutations=100"]
    )
    assert {name: result.metrics.micro.tp for name, result in found.results.items()} == {"mine": 2, "run": 3}
    assert found.baseline == "mine"


def test_equal_words_are_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "_of_job", None)  # a job that an earlier test ran in this process
    words = ["metrics.bootstrap=0", "seed=4711"]
    first = omniner.score(SAID, GOLD, words)
    monkeypatch.setattr(compose, "_composed_by_hydra", lambda _: pytest.fail("composed again"))
    assert omniner.score(SAID, GOLD, words).metrics == first.metrics
    one, other = (
        compose.load(["task=train", "tracking=off", *words]),
        compose.load(["task=train", "tracking=off", *words]),
    )
    one.metrics.bootstrap = 7
    assert other.metrics.bootstrap == 0


def test_confidences_stay_on_the_way_through_records_tables_and_files(tmp_path: Path) -> None:
    sure = [Prediction(one.id, [with_score(entity, 0.75) for entity in one.entities]) for one in GOLD]
    omniner.write(sure, tmp_path / "sure.jsonl")
    objects = pd.DataFrame({"id": ["1"], "entities": [[{"text": "小满", "label": "name", "score": np.float64(0.75)}]]})
    for given in (sure, omniner.frame(sure), tmp_path / "sure.jsonl", objects):
        found = omniner.score(given, GOLD, ["metrics.bootstrap=0"])
        assert {row.score for row in found.calibration} == {0.75}
    rows = omniner.frame([sure[0].entities[0], GOLD[1].entities[0]])
    assert list(rows["score"].isna()) == [False, True]
    assert "score" not in omniner.frame(GOLD[0].entities)


def test_the_confidences_of_other_programs_are_read_with_ids_and_without(tmp_path: Path) -> None:
    gliner = {"text": "小满", "label": "品牌", "start": 2, "end": 4, "score": 0.75}
    transformers = {"word": "小满", "entity_group": "品牌", "start": 2, "end": 4, "score": 0.75}
    gold = [Sentence("1", "去喝小满", [Entity("小满", "品牌", 2, 4)])]
    for found in (gliner, transformers):
        for id in ({"id": "1"}, {}):
            path = tmp_path / "found.jsonl"
            path.write_text(json.dumps(id | {"text": "去喝小满", "entities": [found]}) + "\n", encoding="utf-8")
            scored = omniner.score(path, gold, ["metrics.bootstrap=0"])
            assert [(row.score, row.precision) for row in scored.calibration] == [(0.75, 1)], (found, id)
            assert [entity.score for one in omniner.read(path) for entity in one.entities] == [0.75]


class _Split(list[dict[str, object]]):
    """A split of a Hugging Face data set, as far as we look at it."""

    features: ClassVar[dict[str, object]] = {
        "tokens": SimpleNamespace(feature=SimpleNamespace(dtype="string")),
        "ner_tags": SimpleNamespace(feature=SimpleNamespace(names=["O", "B-地点", "I-地点"])),
        "entities": [{"start": SimpleNamespace(dtype="int32"), "label": SimpleNamespace(names=["时间", "地点"])}],
    }


WRITTEN = {"text": "去大理", "entities": [{"text": "大理", "category": "地点", "start": np.int64(1), "end": 3}]}
TOKENS = {"tokens": [*"去大理"], "ner_tags": [0, 1, 2]}


@pytest.mark.parametrize(
    "given",
    [
        [WRITTEN],
        iter([{**WRITTEN, "seen": date(2024, 5, 1)}]),
        [{"text": "去大理", "entities": [Entity("大理", "地点", 1, 3)]}],
        [{"text": "去大理", "label": [[1, 3, "地点"]]}],
        [("去大理", {"entities": [(1, 3, "地点")]})],
        [{"tokenized_text": [*"去大理"], "ner": [[1, 2, "地点"]]}],
        _Split([TOKENS]),
        _Split([{key: np.array(cells) for key, cells in TOKENS.items()}]),
        _Split([{"text": "去大理", "entities": [{"start": 1, "end": 3, "label": 1}]}]),
        [{"tokens": np.array([*"去大理"]), "ner_tags": ["O", "B-地点", "I-地点"]}],
        pd.DataFrame([{"text": "去大理", "entities": [Entity("大理", "地点", 1, 3)], "seen": float("nan")}]),
        pd.DataFrame([{"id": 7, **WRITTEN}]),
        pd.DataFrame([{"id": 7, "text": "去大理", "entities": [{"start": 1, "end": 3, "label": "地点"}]}]),
        pd.DataFrame([{"id": 7, "text": "去大理", "entities": [[1, 3, "地点"]]}]),
    ],
)
def test_a_corpus_is_read_in_any_form_that_files_have(given: object, tmp_path: Path) -> None:
    content, own = corpus_lines(given, "train")
    (tmp_path / "train.jsonl").write_bytes(content)
    assert not own
    (sentence,) = omniner.read(tmp_path / "train.jsonl")
    assert (sentence.text, sentence.entities) == ("去大理", [Entity("大理", "地点", 1, 3)])


def test_the_programs_own_sentences_are_written_as_such(tmp_path: Path) -> None:
    for given in (GOLD, omniner.frame(GOLD)):
        content, own = corpus_lines(given, "train")
        omniner.write(GOLD, tmp_path / "train.jsonl")
        assert (content, own) == ((tmp_path / "train.jsonl").read_bytes(), True)


def test_all_that_a_table_holds_of_sentences_goes_where_its_rows_would_go(tmp_path: Path) -> None:
    rows = [
        {"id": one.id, "text": one.text, "entities": one.entities, "note_id": f"note {number}"}
        for number, one in enumerate(GOLD)
    ]
    rows.append({"id": "9", "text": "好", "entities": None, "note_id": "note 9"})
    bare = [{key: cell for key, cell in row.items() if cell is not None} for row in rows]
    assert corpus_lines(pd.DataFrame(rows), "train") == corpus_lines(bare, "train")
    path = tmp_path / "train.jsonl"
    path.write_bytes(corpus_lines(pd.DataFrame(rows), "train")[0])
    found = omniner.read(path)
    assert ["'note_id'" in issue.message for issue in found.issues] == [True]
    assert [one.entities for one in found[:-1]] == [one.entities for one in GOLD]
    assert is_unlabeled(found[-1])


def test_a_mistake_in_a_table_of_sentences_is_named_by_its_number() -> None:
    table = omniner.frame([*GOLD, Sentence("9", "好")]).astype({"text": object})
    table.loc[len(GOLD), "text"] = 0.5
    with pytest.raises(UserError, match=rf"^train\[{len(GOLD)}\]\.text: 0\.5 is no text"):
        corpus_lines(table, "train")


@pytest.mark.parametrize("number", [-1, 3])
def test_a_number_that_is_no_class_is_named_by_its_place(number: int) -> None:
    given = _Split([TOKENS, {**TOKENS, "ner_tags": [0, number, 2]}])
    with pytest.raises(UserError, match=rf"^train\[1\]\.ner_tags\[1\]: {number} is no class .* 0 to 2; "):
        corpus_lines(given, "train")
