"""A model that MLflow serves, on another machine than the one that trained it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from omniner import models
from omniner.config import compose, run_config
from omniner.files import write_text
from omniner.tracking.pyfunc import PyfuncModel


@pytest.mark.parametrize("trainer", ["gpu", "paper", "ddp"])
def test_it_answers_on_the_device_that_is_there(trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = compose.load([f"trainer={trainer}", "trainer.batch_size=16", "encoding.max_length=64"])
    path = write_text(tmp_path / "config.yaml", run_config.to_yaml(trained))
    loaded: list[Any] = []
    monkeypatch.setattr(models, "load_predictor", lambda config, checkpoint: loaded.append(config))
    PyfuncModel().load_context(SimpleNamespace(artifacts={"config": str(path), "checkpoint": "best.ckpt"}))
    (config,) = loaded
    chosen = config.trainer
    assert (chosen.accelerator, chosen.devices, chosen.nodes, chosen.strategy) == ("auto", 1, 1, "auto")
    assert chosen.precision == "auto"
    assert (config.encoding, config.model) == (trained.encoding, trained.model)
