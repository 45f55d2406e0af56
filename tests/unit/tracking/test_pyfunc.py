"""A model that MLflow serves, on another machine than the one that trained it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest

from omniner import models
from omniner.config import compose, run_config
from omniner.errors import UserError
from omniner.files import write_text
from omniner.records import Entity, Prediction, Sentence
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
