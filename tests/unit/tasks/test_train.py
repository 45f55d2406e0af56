"""`task=train`: what is known before the training is said before it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fake_hub
import pytest
from later_config_key import make_new
from small_corpus import SMALL

from omniner import models, run
from omniner.config import compose, run_config
from omniner.config.groups import Config
from omniner.config.model_groups import BiLSTMConfig, EncoderConfig, HeadConfig
from omniner.corpus import sources
from omniner.errors import Stopped, UserError
from omniner.files import read_json, write_json, write_text
from omniner.machine import free_port
from omniner.runs import ranks
from omniner.runs.folder import STATE, claim_folder

LINE = json.dumps({"text": "去喝小满", "entities": [{"text": "小满", "category": "品牌", "start": 2, "end": 4}]})


def _stopped(*_given: Any, **_named: Any) -> None:
    raise Stopped(signal.SIGINT)


def test_issues_of_the_corpus_are_listed_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f"{LINE}\n{LINE[:-9] if split == 'train' else LINE}\n")
    monkeypatch.setattr(models, "fit", _stopped)
    folder = tmp_path / "run"
    with caplog.at_level("WARNING", "omniner"), pytest.raises(Stopped):
        run.execute(compose.load(["data=own", f"data.root={tmp_path}", f"output_dir={folder}", "tracking=off"]))
    found = [json.loads(line) for line in (folder / "issues.jsonl").read_text(encoding="utf-8").splitlines()]
    assert ("train.jsonl", 2, "bad-json") in [(Path(one["file"]).name, one["line"], one["code"]) for one in found]
    assert "1 bad-json" in caplog.text


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", ranks.HELPER: "1"}, ["failed"]),
        ({"RANK": "3", "LOCAL_RANK": "1"}, ["failed"]),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "1"}, ["failed"]),
        ({"RANK": "2", "LOCAL_RANK": "0"}, ["cut", "failed"]),  # nobody else tells of that machine
    ],
)
def test_one_rank_of_a_machine_warns(
    variables: dict[str, str],
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fit(*_given: Any, **_named: Any) -> None:
        models.log.warning("cut")
        models.log.error("failed")

    monkeypatch.setattr(models, "fit", fit)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = compose.load([f"output_dir={tmp_path}", "data.size={train: 4, dev: 2, test: 2}"])
    with caplog.at_level("INFO", "omniner"):  # puts the level back
        run.execute(config)
    assert [message for message in caplog.messages if message in ("cut", "failed")] == told


@pytest.mark.parametrize(("chosen", "precision"), [("cpu", "bf16-mixed"), ("", "")])
def test_a_rank_works_with_what_the_process_that_started_it_has_chosen(
    chosen: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` may have left a GPU without kernels aside, which a rank refuses; a CPU's speed at bf16 is measured."""
    fit = Mock()
    monkeypatch.setattr(models, "fit", fit)
    given = {ranks.ACCELERATOR: chosen, ranks.PRECISION: precision}
    for name, value in {"LOCAL_RANK": "1", ranks.HELPER: "1", **given}.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level("INFO", "omniner"):  # puts the level back
        run.execute(compose.load([f"output_dir={tmp_path}", "data.size={train: 4, dev: 2, test: 2}"]))
    trainer = fit.call_args.args[0].trainer
    assert (trainer.accelerator, trainer.precision) == (chosen or "auto", precision or "auto")


@pytest.mark.parametrize(
    ("state", "commit"),
    [
        ({"run_id": "", "model_commit": "1" * 40}, "1" * 40),
        ({"run_id": ""}, None),  # the first rank goes on without a commit
        ({}, "2" * 40),  # it has just claimed the folder, and asks the hub, too
    ],
)
def test_a_rank_reads_the_model_at_the_commit_of_the_run(
    state: dict[str, str],
    commit: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fit, (folder, cache) = Mock(), (tmp_path / "run", tmp_path / "cache")
    monkeypatch.setattr(models, "fit", fit)
    fake_hub.use(monkeypatch, cache)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    small = ["model=path", "model.path=org/small", "data.size={train: 4, dev: 2, test: 2}"]
    first = claim_folder(compose.load([*small, f"output_dir={folder}"]))
    first.save(**state)
    for number in (1, 2):  # the branch moves on after the run began
        fake_hub.publish(cache, "org/small", str(number) * 40, tmp_path / "model", ["main"])
    given = {ranks.ACCELERATOR: "cpu", ranks.PRECISION: "bf16-mixed", ranks.RUN_FOLDER: str(folder)}
    for name, value in {"LOCAL_RANK": "1", ranks.HELPER: "1", **given}.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level("INFO", "omniner"):  # puts the level back
        run.execute(run_config.read(folder / "config.yaml"))
    first.close()
    assert fit.call_args.args[0].model.revision == commit


FIRST = """
import sys
from pathlib import Path
from omniner.machine import free_port
from omniner.runs import ranks
folder = Path(sys.argv[1])
sys.stdin.readline()  # when the other rank has read its corpus
(folder / "checkpoints/last.ckpt").unlink()  # as where a finished run is replaced (overwrite=true)
with ranks.started_ranks(2, 1, "cpu", "bf16-mixed", folder):
    sys.stdin.readline()
"""


def test_a_rank_from_outside_waits_for_the_first_one_and_does_what_it_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A state that an earlier run has left in the folder is gone when the other ranks look for it."""
    met, last = Mock(), tmp_path / "checkpoints/last.ckpt"
    last.parent.mkdir()
    last.touch()
    monkeypatch.setattr(models, "fit", lambda config, *_given, **_named: met(last.exists(), config.trainer.precision))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    around = {**os.environ, **place, "LOCAL_RANK": "0"}
    command, pipe = [sys.executable, "-c", FIRST, str(tmp_path)], subprocess.PIPE
    load = sources.load_for_training
    with subprocess.Popen(command, stdin=pipe, env=around, text=True) as first:
        assert first.stdin is not None

        def loaded(data: Any) -> Any:
            print(file=first.stdin, flush=True)
            return load(data)

        monkeypatch.setattr(sources, "load_for_training", loaded)
        for name, value in {**place, "LOCAL_RANK": "1"}.items():
            monkeypatch.setenv(name, value)
        with caplog.at_level("INFO", "omniner"):  # puts the level back
            run.execute(compose.load([f"output_dir={tmp_path}", "data.size={train: 4, dev: 2, test: 2}"]))
    met.assert_called_once_with(False, "bf16-mixed")
    assert first.returncode == 0


ENDS_EARLY = """
import sys
from omniner.runs import ranks
with ranks.telling_others(1):
    if sys.argv[1] == "failed":
        sys.exit(2)
"""


@pytest.mark.parametrize("ending", ["done", "failed"])
def test_a_rank_from_outside_ends_with_a_first_one_that_has_nothing_to_train(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the first one only delivers to the tracking server what an earlier run could not."""
    fit = Mock()
    monkeypatch.setattr(models, "fit", fit)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    around = {**os.environ, **place, "RANK": "0", "LOCAL_RANK": "0"}
    config = compose.load([f"output_dir={tmp_path}", "data.size={train: 4, dev: 2, test: 2}"])
    with subprocess.Popen([sys.executable, "-c", ENDS_EARLY, ending], env=around) as first:
        for name, value in {**place, "RANK": "1", "LOCAL_RANK": "1"}.items():
            monkeypatch.setenv(name, value)
        with caplog.at_level("INFO", "omniner"):  # puts the level back
            if ending == "done":
                assert run.execute(config) == 0
            else:
                with pytest.raises(UserError, match="the first rank of this run has failed"):
                    run.execute(config)
    assert first.returncode == (0 if ending == "done" else 2)
    fit.assert_not_called()


WAITS = """
import signal
import sys
from omniner import run
from omniner.compute import meeting
signal.signal(signal.SIGTERM, run.on_sigterm)
try:
    print("waits", flush=True)  # within the block: the signal may come at once
    meeting.wait_for_word("127.0.0.1", int(sys.argv[1]), "key")
except KeyboardInterrupt as error:
    sys.exit(run.stopped_status(error))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_rank_that_waits_for_the_first_one_can_be_stopped(number: int, status: int) -> None:
    command, pipe = [sys.executable, "-c", WAITS, str(free_port())], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waits\n"
        waiting.send_signal(number)
        try:
            _, errors = waiting.communicate(timeout=60)
        finally:
            waiting.kill()
    assert waiting.returncode == status, errors
    assert "c10d" not in errors


def test_a_port_that_another_program_has_is_named_before_the_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=rf"^MASTER_PORT: the ranks cannot meet at 127.0.0.1:{port} \(.*in use"):
            run.execute(compose.load([f"output_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


def test_a_training_does_not_go_on_with_another_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f"{LINE}\n")
    monkeypatch.setattr(models, "fit", _stopped)
    folder = tmp_path / "run"
    config = compose.load(["data=own", f"data.root={tmp_path}", f"output_dir={folder}", "tracking=off"])
    with pytest.raises(Stopped):
        run.execute(config)
    other = json.dumps({**json.loads(LINE), "id": "other"})
    (tmp_path / "dev.jsonl").write_text(f"{other}\n")
    with pytest.raises(Stopped):  # nothing was learnt yet
        run.execute(config)
    (folder / "checkpoints/last.ckpt").touch()
    (tmp_path / "test.jsonl").write_text(f"{other}\n")
    with pytest.raises(Stopped):  # nor does it learn from test
        run.execute(config)
    (tmp_path / "dev.jsonl").write_text(f"{LINE}\n")
    found = r"run: train or dev is not what this unfinished training began with: .*another version of OmniNER.*never"
    with pytest.raises(UserError, match=found):
        run.execute(config)
    assert (folder / "checkpoints/last.ckpt").exists()


def _write_as_before(config: Config, folder: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Take keys out of all that a run has written down, as if it had begun before there were such keys."""
    import torch

    older, last = dataclasses.asdict(config), folder / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    for key in keys:
        section, _, name = key.partition(".")
        del older[section][name], content["tagger"][section][name]
    torch.save(content, last)
    write_text(folder / "config.yaml", json.dumps(older))
    with monkeypatch.context() as patch:
        patch.setattr(compose.dataclasses, "asdict", lambda _: older)
        write_json(folder / STATE, {**read_json(folder / STATE), "digest": run_config.digest(config)})


@pytest.mark.parametrize(
    ("model", "group", "key"), [("char_bilstm", BiLSTMConfig, "members"), ("bert_tiny", EncoderConfig, "layer_decay")]
)
def test_a_run_from_before_a_key_was_there_goes_on(
    model: str,
    group: type,
    key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f"{LINE}\n")
    brief = ["trainer.min_steps=0", "trainer.max_epochs=2", "trainer.threads=1"]
    config = compose.load([f"model={model}", *SMALL[model], *brief, "data=own", "data.root=.", "tracking=off"])
    fit = models.fit

    def stopped_after_an_epoch(config: Config, *given: Any, **named: Any) -> None:
        fit(dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, max_epochs=1)), *given, **named)
        raise Stopped(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(models, "fit", stopped_after_an_epoch)
        with pytest.raises(Stopped):
            run.execute(config)
    (folder,) = (tmp_path / "outputs").iterdir()
    _write_as_before(config, folder, [f"model.{key}", "head.max_span"], monkeypatch)
    make_new(monkeypatch, group, key, getattr(config.model, key))
    make_new(monkeypatch, HeadConfig, "max_span", config.head.max_span)
    with caplog.at_level("INFO", "omniner"):
        assert run.execute(config) == 0
    assert [one.name for one in (tmp_path / "outputs").iterdir()] == [folder.name]
    assert f"resuming from {Path('outputs') / folder.name}" in caplog.text
    assert read_json(folder / STATE)["status"] == "finished"
