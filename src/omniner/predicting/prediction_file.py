"""Predict sentences into `predictions.jsonl`, which a killed run continues, in one process or in one per device.

Every finished batch is on disk. At the end the file is rewritten in the order of the sentences, so that interrupted and
uninterrupted runs end in the same bytes. `predicted_by.json` beside it records what the predictions depend on: if
model, prompt, settings or sentences have changed since, no prediction is kept.

Several processes answer every n-th sentence each, into files of their own in `predicting/`. The files are merged by id,
with the same bytes as from one process. The processes do not communicate.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omniner.answers import CUT
from omniner.config import run_config
from omniner.config.groups import Config
from omniner.errors import UserError
from omniner.files import (
    append_lines,
    explaining,
    make_folder,
    read_json,
    whole_lines,
    whole_records,
    write_json,
    write_json_lines,
    write_text,
)
from omniner.predicting.engines import ENGINES, ChosenModel, TrainedModel, model_from_json
from omniner.progress import pace
from omniner.records import Prediction, Sentence, content_digest, prediction_to_json, to_line
from omniner.runs import children, ranks
from omniner.runs.folder import GOLD, PREDICTIONS
from omniner.scoring.predictions import prediction_from_line
from omniner.wording import counted

log = logging.getLogger("omniner")

PROVENANCE = "predicted_by.json"  # what the predictions depend on
SHARES = "predicting"  # a folder, while several processes predict
_FEWEST = 16  # sentences per process: fewer are answered before another process has started
PREDICTION_OUTPUTS = (PREDICTIONS, PROVENANCE, GOLD, SHARES)  # what every task that predicts writes


def predict_file(config: Config, model: ChosenModel, sentences: Sequence[Sentence], path: Path) -> list[Prediction]:
    """Predict sentences into a file, continuing where an earlier attempt stopped.

    Args:
        config: `model`, `prompt`, `decoding`, `encoding` and `trainer` are read, as far as the model needs them.
        model: the model to predict with.
        sentences: the sentences to tag.
        path: the file; each line has the prediction and its sentence's text.

    Returns:
        All predictions in the order of the sentences.
    """
    remove_stale(path, config, model, sentences)
    fix = "Remove this line, or the file: what is not in it is predicted again."
    _collect_shares(path)
    done = {prediction.id: prediction for prediction in whole_records(path, prediction_from_line, fix)}
    left = [sentence for sentence in sentences if sentence.id not in done]
    if done and left:
        config = _remove_other_model(path, config, model, done)
        left = [sentence for sentence in sentences if sentence.id not in done]
    texts = {sentence.id: sentence.text for sentence in sentences}
    if done and left:
        log.info("going on after %s", counted(len(done), "prediction"))
    if left:
        start = time.perf_counter()
        if (processes := _count_processes(config, len(left))) > 1:
            _predict_in_shares(config, model, sentences, path, frozenset(done), processes)
        else:
            predict = model.open(config)
            start = time.perf_counter()  # loading does not depend on the number of sentences
            _append_predictions(path, sentences, predict(sentences, frozenset(done)))
        done.clear()  # the file has them, too: they need not be in memory twice
        done |= {prediction.id: prediction for prediction in whole_records(path, prediction_from_line, fix)}
        seconds = time.perf_counter() - start
        log.info("%s predicted in %.1f s (%s)", counted(len(left), "sentence"), seconds, pace(len(left) / seconds))
    predictions = [done[sentence.id] for sentence in sentences if sentence.id in done]
    write_json_lines(path, (prediction_to_json(one, texts[one.id]) for one in predictions))
    if cut := sum(CUT in prediction.reason for prediction in predictions):
        log.warning(
            "%d of %d answers were %s: what would have followed is missing. Raise it", cut, len(predictions), CUT
        )
    if config.decoding.min_score:
        unsure = sum(prediction.left_out for prediction in predictions)
        kept = sum(len(prediction.entities) for prediction in predictions)
        least = f"decoding.min_score={config.decoding.min_score:g}"
        log.info("%s left out by %s, %s kept", counted(unsure, "entity"), least, f"{kept:,}")
    return predictions


def _append_predictions(path: Path, sentences: Sequence[Sentence], batches: Iterable[list[Prediction]]) -> None:
    """Append predictions to a file as they arrive, each with its sentence's text."""
    texts = {sentence.id: sentence.text for sentence in sentences}
    for batch in batches:
        append_lines(path, [to_line(prediction_to_json(one, texts[one.id])) for one in batch])


def _count_processes(config: Config, sentences: int) -> int:
    """Return how many processes predict: one per device of this machine, but each with at least `_FEWEST` sentences."""
    if not ENGINES[config.decoding.engine].in_process:
        return 1
    from omniner.compute.devices import count_devices

    return max(1, min(count_devices(config.trainer)[1], sentences // _FEWEST))


def _predict_in_shares(
    config: Config,
    model: ChosenModel,
    sentences: Sequence[Sentence],
    path: Path,
    done: frozenset[str],
    processes: int,
) -> None:
    """Predict in several processes, one per device, each with every n-th sentence; see `predict_share`."""
    from omniner.compute.devices import share_of_threads
    from omniner.models import devices_for_prediction

    config = copy.deepcopy(config)
    trainer, checkpoint = config.trainer, model.checkpoint if isinstance(model, TrainedModel) else None
    chosen = devices_for_prediction(config, checkpoint)  # resolve `auto` once, for all processes
    if chosen.accelerator == "cpu":
        trainer.threads = trainer.threads or share_of_threads(processes)
    trainer.accelerator = "gpu" if chosen.accelerator == "gpu" else "cpu"
    trainer.precision, trainer.strategy, trainer.devices, trainer.nodes = chosen.precision, "auto", 1, 1
    work = path.with_name(SHARES)
    make_folder(work)
    what = {"sentences": [[one.id, one.text] for one in sentences], "done": sorted(done), "processes": processes}
    write_json(work / "work.json", {"model": model.to_json(), **what})
    settings = write_text(work / "config.yaml", run_config.to_yaml(config))
    gpus = children.visible_gpus() or [str(number) for number in range(processes)]
    helpers = [
        ranks.Helper(
            f"process {number + 1} of {processes}",
            children.child_command(settings),
            {ranks.SHARE: str(work / f"{number}.jsonl"), **children.show_gpus([gpus[number % len(gpus)]])},
        )
        for number in range(1, processes)
    ]
    log.info("%d processes predict about %d sentences each", processes, len(sentences) // processes)
    with ranks.working_beside(helpers, None):
        own = sentences[::processes]
        _append_predictions(path, own, model.open(config)(own, done))
    _collect_shares(path)


def predict_share(config: Config, path: Path) -> None:
    """Predict the share of one worker process.

    Args:
        config: configuration for one device.
        path: the file to append to, in the folder with `work.json`; its name is the number of the process.
    """
    work = read_json(path.with_name("work.json"))
    every = [Sentence(*one) for one in work["sentences"]]
    sentences = every[int(path.stem) :: int(work["processes"])]
    model = model_from_json(config, work["model"])
    _append_predictions(path, sentences, model.open(config)(sentences, frozenset(work["done"])))


def _collect_shares(path: Path) -> None:
    """Append the files of worker processes, also of an interrupted run, to a file of predictions, and remove them."""
    work = path.with_name(SHARES)
    fix = "Remove this line: what is not there is predicted again."
    for file in sorted(work.glob("[0-9]*.jsonl")):
        whole_lines(path)  # cuts off an incomplete last line, which would merge with the first appended one
        whole_records(file, prediction_from_line, fix)
        append_lines(path, whole_lines(file))
    if work.is_dir():
        shutil.rmtree(work)


def provenance(config: Config, model: ChosenModel, sentences: Sequence[Sentence]) -> dict[str, Any]:
    """Return what predictions depend on, as `predicted_by.json` records it."""
    return {"config": run_config.digest(config), "sentences": content_digest(sentences), **model.origin(config)}


def remove_stale(path: Path, config: Config, model: ChosenModel, sentences: Sequence[Sentence]) -> None:
    """Remove predictions made with another model, settings or sentences; record what the next ones are made with."""
    now = provenance(config, model, sentences)
    note = path.with_name(PROVENANCE)
    before: dict[str, Any] = {}
    with contextlib.suppress(UserError, TypeError, ValueError):  # absent or damaged: treated as unknown
        before = dict(read_json(note))
    # a key that an older version did not record counts as unchanged
    other = [name for name in now if before.get(name, now[name]) != now[name]] if before else ["program"]
    if not other:
        if before != now:
            write_json(note, now)
        return
    if path.is_file():
        log.warning("%s is of another %s than now: all is predicted anew", path, " and ".join(other))
        with explaining(path):
            path.unlink()
    shutil.rmtree(path.with_name(SHARES), ignore_errors=True)
    write_json(note, now)


def _remove_other_model(path: Path, config: Config, model: ChosenModel, done: dict[str, Prediction]) -> Config:
    """Remove predictions of another model than the one that the server has now; see `ChosenModel.settled`.

    Args:
        path: the file of predictions.
        config: the command's configuration.
        model: the model to predict with.
        done: the predictions in the file, by id; emptied if the file is removed.

    Returns:
        The configuration with the model's name, if a server has it.
    """
    config, now = model.settled(config)
    if now and (other := sorted({one.engine for one in done.values()} - {now})):
        message = "%s is of %s, the server has %s now: all is predicted anew"
        log.warning(message, path, other[0], config.decoding.model)
        with explaining(path):
            path.unlink()
        done.clear()
    return config
