"""What the task records of the run that its prompt is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.helpers import made_up_guidance

from omniner.config import compose, run_config
from omniner.corpus.sources import load_corpus
from omniner.files import read_json
from omniner.guidance.lessons import write_guidance
from omniner.predicting.engines import RemoteModel
from omniner.predicting.prediction_file import PROVENANCE
from omniner.records import Prediction, Sentence
from omniner.run import run
from omniner.tasks.prompting import with_guidance


def test_the_report_names_the_guide_run_and_predictions_are_of_its_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the notes say may change, with the same command: they are part of what the predictions depend on."""

    def predict(sentences: Sequence[Sentence], done: frozenset[str]) -> Iterator[list[Prediction]]:
        yield [Prediction(one.id, [], engine="server") for one in sentences]

    monkeypatch.setattr(RemoteModel, "open", lambda model, config: predict)
    monkeypatch.chdir(tmp_path)
    made = made_up_guidance.guidance(60)
    write_guidance(Path("outputs/notes/guidance.json"), made)
    named = ["model=qwen2_tiny", "prompt=errta", "prompt.from_run=notes", "prompt.max_tokens=900"]
    server = ["decoding=openai", "decoding.url=http://x/v1", "decoding.model=m"]
    small = ["data.size={train: 8, dev: 8, test: 8}", "data.taxonomy=omniner2025", "metrics.bootstrap=0"]
    config = compose.load(["task=predict", "tracking=off", *named, *server, *small])
    folder = run(config)
    assert "from_run: notes" in (folder / "report.html").read_text(encoding="utf-8")
    told, _ = with_guidance(config, folder, load_corpus(config.data, ["train"]).active, ())
    assert told.prompt.version == f"1+{made.sha[:8]}"
    assert read_json(folder / PROVENANCE)["config"] == run_config.digest(told) != run_config.digest(config)
