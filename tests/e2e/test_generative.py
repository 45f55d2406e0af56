"""Causal models from the command line: look, train, go on after a kill, predict, export; at toy size."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from omniner.scoring.predictions import prediction_from_line
from tests.e2e import warm
from tests.e2e.conftest import TINY_CAUSAL, environment, folder_of, omniner

pytestmark = pytest.mark.slow

SMALL = [*TINY_CAUSAL, "tracking=off", "decoding.slots=2"]
DATA = next(item for item in SMALL if item.startswith("data.size"))
OTHER = [item for item in SMALL if not item.startswith("model")]  # for runs that name another model


def _predictions(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A guided run at toy size: where it was started, and its folder."""
    cwd = tmp_path_factory.mktemp("generative")
    return cwd, folder_of(omniner(*SMALL, "decoding=guided", "tracking.log_model=true", cwd=cwd), cwd)


def test_the_model_is_kept_as_pyfunc_on_request(trained: tuple[Path, Path]) -> None:
    import mlflow

    _, folder = trained
    predicted = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    model = mlflow.pyfunc.load_model(str(folder / "model"))
    answers = model.predict([item["text"] for item in predicted])
    found = [[mention.model_dump(exclude_none=True) for mention in answer] for answer in answers]
    assert found == [item["entities"] for item in predicted]
    assert any(found)


def test_a_run_leaves_scores_prompt_and_checkpoint(trained: tuple[Path, Path]) -> None:
    _, folder = trained
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["parse"]["sentences"] == 24
    assert scores["parse"]["failed"] == 0
    assert "{sentence}" in (folder / "prompt.txt").read_text(encoding="utf-8")
    assert (folder / "checkpoints" / "best" / "omniner.json").is_file()
    assert (folder / "report.html").is_file()


def test_guided_answers_are_whole_known_and_verbatim(trained: tuple[Path, Path]) -> None:
    _, folder = trained
    gold = [json.loads(line) for line in (folder / "gold.jsonl").read_text(encoding="utf-8").splitlines()]
    for sentence, item in zip(gold, _predictions(folder), strict=True):
        assert "parse" not in item or item["parse"] == "ok"
        for surface, _ in json.loads(str(item["raw"])):
            assert surface in sentence["text"]


def test_predicting_again_gives_the_same_bytes(trained: tuple[Path, Path]) -> None:
    cwd, folder = trained
    arguments = [*SMALL, "decoding=guided", "task=predict", f"checkpoint={folder}"]
    again = folder_of(omniner(*arguments, cwd=cwd, anew=True), cwd)
    assert (again / "predictions.jsonl").read_bytes() == (folder / "predictions.jsonl").read_bytes()


def _at_once() -> None:
    """Give answers out as they come."""
    from omniner.llm.decoding import decoder

    decoder._SECONDS = 0


def test_a_killed_prediction_goes_on_to_the_same_bytes(trained: tuple[Path, Path]) -> None:
    cwd, folder = trained
    arguments = [*SMALL, "decoding=guided", "task=predict", f"checkpoint={folder}", "output_dir=killed"]
    process = warm.start(arguments, cwd, environment(), _at_once)
    path, deadline = cwd / "killed" / "predictions.jsonl", time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.stat().st_size:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    before = path.read_bytes()
    assert 0 < before.count(b"\n") < 24
    omniner(*arguments, cwd=cwd)
    assert path.read_bytes() == (folder / "predictions.jsonl").read_bytes()


def test_adapters_are_merged_into_a_plain_model(trained: tuple[Path, Path]) -> None:
    cwd, _ = trained
    folder = folder_of(omniner(*SMALL, "tuning=lora", "decoding=guided", "trainer.max_epochs=1", cwd=cwd), cwd)
    assert (folder / "checkpoints" / "best" / "adapter_model.safetensors").is_file()
    omniner("task=convert", "to=merged", f"checkpoint={folder}", "output=merged", "tracking=off", cwd=cwd)
    assert (cwd / "merged" / "model.safetensors").is_file()
    merged = ["model=causal_path", "model.path=merged", "decoding=guided"]
    result = omniner(*OTHER, *merged, "task=predict", f"checkpoint={folder}", cwd=cwd)
    assert len(_predictions(folder_of(result, cwd))) == 24


def test_a_model_as_it_was_published_predicts_without_a_checkpoint(trained: tuple[Path, Path]) -> None:
    cwd, folder = trained
    model = [f"model.path={folder / 'checkpoints' / 'best'}", "model=causal_path"]
    result = omniner(*OTHER, *model, "task=predict", "decoding=guided", cwd=cwd)
    items = [prediction_from_line(json.dumps(item)) for item in _predictions(folder_of(result, cwd))]
    assert len(items) == 24
    assert len({item.prompt_sha for item in items}) == 1


def test_a_corpus_is_exported_for_llama_factory(tmp_path: Path) -> None:
    omniner(DATA, "task=convert", "to=alpaca", "output=exported", "tracking=off", cwd=tmp_path)
    info = json.loads((tmp_path / "exported" / "dataset_info.json").read_text())
    assert sorted(info) == ["sample_dev", "sample_test", "sample_train"]
    items = json.loads((tmp_path / "exported" / "sample_test.json").read_text(encoding="utf-8"))
    assert len(items) == 24
    assert json.loads(items[0]["output"]) is not None
