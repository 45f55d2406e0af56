"""A whole run, from the command line to the tracked result; again; killed and taken up."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import warm
from tests.e2e.conftest import TINY, environment, folder_of, omniner

Trained = tuple[Path, Path]


def _runs(cwd: Path) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{cwd / 'mlruns' / 'mlflow.db'}")
    return list(client.search_runs([item.experiment_id for item in client.search_experiments()]))


def _tracked(cwd: Path, folder: Path) -> Any:
    """The run of this folder: tests of other files work in the directory of the trained run, too."""
    run_id = json.loads((folder / "run_state.json").read_text())["run_id"]
    return next(run for run in _runs(cwd) if run.info.run_id == run_id)


def typed(*overrides: str, cwd: Path, lines: str, status: int = 0) -> str:
    """What a command says to these lines of standard input."""
    result = warm.run(overrides, cwd, environment(), 300, typed=lines)
    assert result.returncode == status, result.stderr
    return result.stdout if status == 0 else result.stderr


def test_a_run_leaves_everything_in_its_folder(trained: Trained) -> None:
    _, folder = trained
    expected = ["predictions.jsonl", "gold.jsonl", "scores.json", "report.html", "config.yaml", "curves.jsonl"]
    assert [name for name in expected if not (folder / name).is_file()] == []
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert len((folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 40
    assert json.loads((folder / "run_state.json").read_text())["status"] == "finished"
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert scores["errta"]["identity_ok"] is True
    assert 0 <= scores["metrics"]["micro"]["f1"] <= 1
    assert list((folder / "figures").glob("*.png"))


def test_a_run_is_tracked(trained: Trained) -> None:
    from mlflow.tracking import MlflowClient

    cwd, folder = trained
    run = _tracked(cwd, folder)
    assert run.info.status == "FINISHED"
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert run.data.metrics["test/f1"] == pytest.approx(scores["metrics"]["micro"]["f1"])
    assert run.data.params["model.kind"] == "bilstm"
    client = MlflowClient(f"sqlite:///{cwd / 'mlruns' / 'mlflow.db'}")
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "predictions.jsonl", "gold.jsonl", "scores.json", "tables", "figures"} <= artifacts
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) > 1


def test_the_model_is_kept_as_pyfunc_on_request(trained: Trained) -> None:
    import mlflow

    cwd, folder = trained
    run = _tracked(cwd, folder)
    gold = [json.loads(line) for line in (folder / "gold.jsonl").read_text(encoding="utf-8").splitlines()]
    predicted = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    model = mlflow.pyfunc.load_model(f"{run.info.artifact_uri}/model")
    answers = model.predict([item["text"] for item in gold])
    assert [[mention.model_dump() for mention in answer] for answer in answers] == [
        item["entities"] for item in predicted
    ]


@pytest.fixture
def served(trained: Trained) -> Iterator[str]:
    """Address of MLflow's own server of the trained run's model."""
    cwd, folder = trained
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = f"{_tracked(cwd, folder).info.artifact_uri}/model"
    program = [sys.executable, "-m", "mlflow", "models", "serve"]
    command = [*program, "-m", model, "-p", str(port), "--env-manager", "local"]
    # MLflow starts its server by the name of a program of its environment
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (cwd / "served.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=cwd, env={**environment(), "PATH": path}, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(lambda: _answers(f"{address}/ping"), server)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def test_mlflow_serves_the_model_that_was_kept(served: str, trained: Trained) -> None:
    _, folder = trained
    gold = [json.loads(line) for line in (folder / "gold.jsonl").read_text(encoding="utf-8").splitlines()]
    predicted = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    body = json.dumps({"inputs": [item["text"] for item in gold]}).encode()
    request = urllib.request.Request(f"{served}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        assert json.load(answer) == {"predictions": [item["entities"] for item in predicted]}


def test_the_same_command_gives_the_same_predictions(trained: Trained) -> None:
    cwd, folder = trained
    again = folder_of(omniner(*TINY, "tracking=off", cwd=cwd), cwd)
    assert again != folder
    assert (again / "predictions.jsonl").read_bytes() == (folder / "predictions.jsonl").read_bytes()


def test_a_trained_run_predicts_other_sentences(trained: Trained) -> None:
    cwd, folder = trained
    (cwd / "new.jsonl").write_text('{"id": "a", "text": "今天去喝奶茶", "entities": []}\n', encoding="utf-8")
    overrides = ["task=predict", f"checkpoint={folder}", "input=new.jsonl", "tracking=off"]
    out = folder_of(omniner(*overrides, cwd=cwd), cwd)
    (line,) = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["id"] == "a"


def test_what_is_typed_comes_back_marked(trained: Trained) -> None:
    cwd, folder = trained
    text = json.loads((folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    result = omniner("task=predict", f"checkpoint={folder.name}", f'text="{text}"', cwd=cwd)
    out = folder_of(result, cwd)
    (line,) = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    prediction = json.loads(line)
    assert prediction["text"] == text
    shown = result.stdout.splitlines()[0]
    marks = {f"[{entity['text']}|{entity['category']}]" for entity in prediction["entities"]}
    assert re.sub(r"\[([^|]+)\|[^\]]+\]", r"\1", shown) == text
    assert set(re.findall(r"\[[^\]]+\]", shown)) == marks
    assert f"predict-{folder.name}-typed" not in {run.info.run_name for run in _runs(cwd)}, "a glance is no record"

    piped = "task=predict", f"checkpoint={folder}", "input=-"
    assert typed(*piped, cwd=cwd, lines=f"\n{text}\n").splitlines()[0] == shown
    talk = typed("task=chat", f"checkpoint={folder}", cwd=cwd, lines=f"{text}\n\n{text}\n")
    assert talk.splitlines()[:2] == [shown, shown]
    assert "no sentence" in typed(*piped, cwd=cwd, lines="\n \n", status=2)


def test_predictions_become_a_corpus_of_any_format(trained: Trained) -> None:
    cwd, folder = trained
    overrides = ["task=convert", f"input={folder / 'predictions.jsonl'}", "to=cluener", "output=predicted.json"]
    result = omniner(*overrides, "tracking=off", cwd=cwd)
    assert "unknown-key" not in result.stderr, result.stderr
    assert len((cwd / "predicted.json").read_text(encoding="utf-8").splitlines()) == 40


def test_predicting_gives_what_training_gave(trained: Trained) -> None:
    cwd, folder = trained
    sizes = TINY[0]
    overrides = ["task=predict", f"checkpoint={folder}", sizes, "trainer.eval_batch_size=3", "tracking=off"]
    out = folder_of(omniner(*overrides, cwd=cwd), cwd)
    assert (out / "predictions.jsonl").read_bytes() == (folder / "predictions.jsonl").read_bytes()


def test_scoring_a_runs_predictions_gives_the_runs_scores(trained: Trained) -> None:
    cwd, folder = trained
    overrides = ["task=score", f"predictions={folder / 'predictions.jsonl'}", "tracking=off", "output_dir=scored"]
    omniner(*overrides, cwd=cwd)
    ours = json.loads((cwd / "scored" / "scores.json").read_text(encoding="utf-8"))
    theirs = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    for part in ("micro", "macro", "categories"):
        assert ours["metrics"][part] == theirs["metrics"][part]
    assert ours["errta"]["counts"] == theirs["errta"]["counts"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "status", "marked"),
    [(signal.SIGTERM, 143, "KILLED"), (signal.SIGINT, 130, "KILLED"), (signal.SIGKILL, -9, "RUNNING")],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_a_stopped_run_goes_on_and_ends_as_if_never_stopped(
    trained: Trained, tmp_path: Path, stop: signal.Signals, status: int, marked: str
) -> None:
    process = warm.start(TINY, tmp_path, environment())
    _wait_for(lambda: list(tmp_path.glob("outputs/*/checkpoints/last.ckpt")), process)
    os.kill(process.pid, stop)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == status, errors
    assert [run.info.status for run in _runs(tmp_path)] == [marked]

    resumed = folder_of(omniner(*TINY, cwd=tmp_path), tmp_path)
    assert [run.info.status for run in _runs(tmp_path)] == ["FINISHED"], "the same MLflow run is taken up"
    assert len(list((tmp_path / "outputs").iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "mlruns"}, "nothing else is left behind"
    _, uninterrupted = trained
    assert (resumed / "predictions.jsonl").read_bytes() == (uninterrupted / "predictions.jsonl").read_bytes()
    assert _losses(resumed) == _losses(uninterrupted)


def _losses(folder: Path) -> dict[int, float]:
    from omniner.tasks.train import read_curves

    return dict(read_curves(folder)["train/loss"])


def _wait_for(condition: Callable[[], object], process: warm.Command | subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_end_in_the_same_predictions_as_one(trained: Trained, tmp_path: Path) -> None:
    """Both start Python anew: each rank has a hash seed of its own, and reads its variables before it loads torch."""
    folder = folder_of(omniner(*TINY, "trainer=ddp", cwd=tmp_path, anew=True), tmp_path)
    (run,) = _runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert (folder / "predictions.jsonl").read_bytes() == (trained[1] / "predictions.jsonl").read_bytes()
