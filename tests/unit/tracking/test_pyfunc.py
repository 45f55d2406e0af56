"""A model that MLflow serves, on another machine than the one that trained it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow.pyfunc.scoring_server import invocations

from omniner import models
from omniner.config import compose, run_config
from omniner.errors import UserError
from omniner.files import write_text
from omniner.records import Entity, Prediction, Sentence, with_score, without_unsure
from omniner.tracking.pyfunc import PyfuncModel, save_model


@pytest.mark.parametrize("trainer", ["gpu", "paper", "ddp"])
def test_it_answers_on_the_device_that_is_there(trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = compose.load([f"trainer={trainer}", "trainer.batch_size=16", "encoding.max_length=64"])
    path = write_text(tmp_path / "config.yaml", run_config.to_yaml(trained))
    loaded: list[Any] = []
    monkeypatch.setattr(models, "load_predictor", lambda config, checkpoint: loaded.append(config))
    files = {"config": str(path), "checkpoint": "best.ckpt"}
    PyfuncModel().load_context(SimpleNamespace(artifacts=files, model_config=None))
    (config,) = loaded
    chosen = config.trainer
    assert (chosen.accelerator, chosen.devices, chosen.nodes, chosen.strategy) == ("auto", 1, 1, "auto")
    assert chosen.precision == "auto"
    assert (config.encoding, config.model) == (trained.encoding, trained.model)


@pytest.mark.parametrize("where", ["decoding.slots", "decoding.url"])
def test_what_no_text_is_to_blame_for_is_a_failure_of_the_server(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sentences: list[Sentence]) -> Iterator[list[Prediction]]:
        raise UserError(where, "it does not answer", "Mend it.")

    model = PyfuncModel()
    monkeypatch.setattr(model, "_model", SimpleNamespace(predict=fail), raising=False)
    monkeypatch.setattr(model, "_least", 0.0, raising=False)
    with pytest.raises(mlflow.MlflowException, match="it does not answer") as failed:
        model.predict(None, ["去"])
    assert failed.value.get_http_status_code() == 500


EARLIER = """from dataclasses import replace
from pathlib import Path
from typing import Any
import mlflow
from pydantic import BaseModel
from omniner.config import compose
from omniner.records import Sentence, entity_to_json
from omniner.registry import load_extensions

class Mention(BaseModel):
    text: str
    category: str
    start: int | None = None
    end: int | None = None

class PyfuncModel(mlflow.pyfunc.PythonModel):
    def load_context(self, context: Any) -> None:
        from omniner.models import load_predictor
        load_extensions()
        config = compose.read(Path(context.artifacts["config"]))
        config.trainer = replace(config.trainer, accelerator="auto", devices=1, nodes=1, strategy="auto")
        self._model = load_predictor(config, Path(context.artifacts["checkpoint"]))

    def predict(self, context: Any, model_input: list[str], params: Any = None) -> list[list[Mention]]:
        sentences = [Sentence(str(number), text) for number, text in enumerate(model_input)]
        found = {item.id: item for batch in self._model.predict(sentences) for item in batch}
        return [[Mention(**entity_to_json(entity)) for entity in found[sentence.id].entities] for sentence in sentences]

mlflow.models.set_model(PyfuncModel())
"""


def test_a_model_of_an_earlier_version_which_holds_its_code_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cities:
        def predict(self, sentences: list[Sentence]) -> Iterator[list[Prediction]]:
            yield [Prediction(one.id, [Entity("大理", "地点", 1, 3)]) for one in sentences]

    monkeypatch.setattr(models, "load_predictor", lambda config, checkpoint: Cities())
    files = {"config": write_text(tmp_path / "config.yaml", run_config.to_yaml(compose.load([])))}
    files["checkpoint"] = write_text(tmp_path / "best.ckpt", "weights")
    code = write_text(tmp_path / "pyfunc.py", EARLIER)
    artifacts = {name: str(path) for name, path in files.items()}
    mlflow.pyfunc.save_model(
        str(tmp_path / "model"), python_model=str(code), artifacts=artifacts, pip_requirements=["omniner"]
    )
    (answer,) = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(["去大理"])
    assert [(one.text, one.start, one.end) for one in answer] == [("大理", 1, 3)]


def test_a_model_that_is_saved_holds_no_code_that_a_later_version_could_break(tmp_path: Path) -> None:
    config = write_text(tmp_path / "config.yaml", run_config.to_yaml(compose.load([])))
    save_model(tmp_path / "model", write_text(tmp_path / "best.ckpt", "weights"), config)
    [code] = (tmp_path / "model").rglob("*.py")
    named = [line for line in code.read_text(encoding="utf-8").splitlines() if "import" in line]
    assert named == ["import mlflow", "from omniner.tracking.pyfunc import PyfuncModel"]


def test_a_text_that_is_too_long_is_an_error_of_the_request_or_cut_as_the_server_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short:
        def __init__(self, config: Any) -> None:
            self.config = config

        def predict(self, sentences: list[Sentence]) -> Iterator[list[Prediction]]:
            for sentence in sentences:
                if len(sentence.text) > 4 and self.config.encoding.on_too_long == "fail":
                    raise UserError("encoding.max_length", f"1 sentence longer than 4: {sentence.id}", "Raise it.")
                yield [Prediction(sentence.id, [Entity(sentence.text[:4], "地点", 0, 4)])]

    monkeypatch.setattr(models, "load_predictor", lambda config, checkpoint: Short(config))
    path = write_text(tmp_path / "config.yaml", run_config.to_yaml(compose.load([])))
    write_text(tmp_path / "best.ckpt", "weights")
    save_model(tmp_path / "model", tmp_path / "best.ckpt", path)
    with pytest.raises(mlflow.MlflowException, match=r"^encoding.max_length: .*inputs\[1\]") as refused:
        mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(["去", "今天去大理"])
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    told = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"on_too_long": "truncate"})
    assert [mention.text for (mention,) in told.predict(["今天去大理"])] == ["今天去大"]


class _Unsure:
    """A model that is sure of a place, less so of a brand, and cannot say how sure it is of a time."""

    def __init__(self, config: Any) -> None:
        self.scored = config.decoding.gives_scores
        self.least = config.decoding.min_score

    def predict(self, sentences: list[Sentence]) -> Iterator[list[Prediction]]:
        found = [
            (Entity("大理", "地点", 3, 5), 0.9),
            (Entity("小满", "品牌"), 0.25),
            (Entity("今天", "时间", 0, 2), None),
        ]
        entities = [with_score(entity, score if self.scored else None) for entity, score in found]
        yield [without_unsure(Prediction(one.id, entities), self.least) for one in sentences]


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Save an MLflow model of a run with these overrides, and return its folder."""
    monkeypatch.setattr(models, "load_predictor", lambda config, checkpoint: _Unsure(config))

    def save(*overrides: str) -> str:
        config = write_text(tmp_path / "config.yaml", run_config.to_yaml(compose.load(overrides)))
        save_model(tmp_path / "model", write_text(tmp_path / "best.ckpt", "weights"), config)
        return str(tmp_path / "model")

    return save


def test_mentions_have_scores_if_the_run_or_the_server_asks_for_them(saved: Callable[..., str]) -> None:
    of_run, plain = [0.9, 0.25, None], [None] * 3
    for overrides, told, expected in (
        (["decoding.scores=true"], None, of_run),
        ([], {"scores": True}, of_run),
        (["decoding.scores=true"], {"scores": False}, plain),
        ([], None, plain),
    ):
        (answer,) = mlflow.pyfunc.load_model(saved(*overrides), model_config=told).predict(["今天去大理"])
        assert [mention.score for mention in answer] == expected
        with_their_score = [mention.model_dump().get("score", "none") for mention in answer]
        assert with_their_score == [score or "none" for score in expected]
        assert answer[1].model_dump(exclude_none=True).keys() <= {"text", "category", "score"}


def test_a_request_may_leave_out_unsure_mentions(saved: Callable[..., str]) -> None:
    model = mlflow.pyfunc.load_model(saved("decoding.scores=true"))
    assert model.metadata.signature.params.to_dict() == [
        {"name": "min_score", "default": 0.0, "shape": None, "type": "double"}
    ]
    for least, expected in ((0, ["大理", "小满", "今天"]), (0.25, ["大理", "小满"]), (0.5, ["大理"]), (1.0, [])):
        (answer,) = model.predict(["今天去大理"], params={"min_score": least})
        assert [mention.text for mention in answer] == expected
    body = '{"inputs": ["今天去大理"], "params": {"min_score": 0.5}}'
    answered = invocations(body, "application/json", model, model.metadata.get_input_schema())
    told = [{"text": "大理", "category": "地点", "start": 3, "end": 5, "score": 0.9}]
    assert (answered.status, json.loads(answered.response)) == (200, {"predictions": [told]})


def test_a_request_chooses_another_confidence_than_the_run(saved: Callable[..., str]) -> None:
    model = mlflow.pyfunc.load_model(saved("decoding.min_score=0.5"))
    for params, expected in (
        ({}, ["大理"]),
        (None, ["大理"]),
        ({"min_score": 0.2}, ["大理", "小满"]),
        ({"min_score": 0}, 3),
    ):
        (answer,) = model.predict(["今天去大理"], params=params)
        assert expected in ([mention.text for mention in answer], len(answer))
    (answer,) = model.unwrap_python_model().predict(None, ["今天去大理"])
    assert [(mention.text, mention.score) for mention in answer] == [("大理", 0.9)]


@pytest.mark.parametrize(
    ("params", "overrides", "found"),
    [
        ({"min_score": 1.5}, ["decoding.scores=true"], "^min_score: 1.5 is no confidence"),
        ({"min_score": float("nan")}, ["decoding.scores=true"], "^min_score: nan is no confidence"),
        ({"min_score": 0.5}, [], "^min_score: the model was loaded without scores.*model_config"),
        ({"top_k": 3, "min_score": 0.5}, ["decoding.scores=true"], "^top_k: there is no such parameter.*min_score"),
    ],
)
def test_a_parameter_that_is_wrong_is_an_error_of_the_request(
    params: dict[str, Any], overrides: list[str], found: str, saved: Callable[..., str]
) -> None:
    # MLflow itself warns of unknown parameters and drops them
    model = mlflow.pyfunc.load_model(saved(*overrides)).unwrap_python_model()
    with pytest.raises(mlflow.MlflowException, match=found) as refused:
        model.predict(None, ["今天去大理"], params)
    assert refused.value.get_http_status_code() == 400
