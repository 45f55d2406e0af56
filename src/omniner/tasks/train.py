"""`task=train`: train, predict the reported split with the best checkpoint, score, report.

Every step leaves a file, so that a killed run continues where it was: `checkpoints/last.ckpt` holds the training state,
`predictions.jsonl` the finished predictions, `prompt.txt` the prompt of a causal model, `curves.jsonl` the learning
curves. The reported split is never used for a choice: the best checkpoint is the one with the best F1 on `dev`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omniner import tracking
from omniner.config.groups import Config
from omniner.config.run_config import FROM_MEMORY, digest
from omniner.corpus import sources
from omniner.corpus.formats import jsonl
from omniner.corpus.sources import Corpus
from omniner.errors import Stopped, UserError
from omniner.files import append_lines, read_json, whole_records, write_json, write_text
from omniner.predicting.engines import trained_model
from omniner.predicting.prediction_file import PREDICTION_OUTPUTS, predict_file
from omniner.records import content_digest
from omniner.runs import ranks
from omniner.runs.context import Context, Task, always, at_commit, model_commit, model_label, model_settings
from omniner.runs.folder import GOLD, GUIDANCE_COPY, PREDICTIONS, TRAINED_ON, other_corpus, read_state
from omniner.tasks.score import SCORE_OUTPUTS, ReportInputs, check_scored, score_and_publish
from omniner.tracking.tracked_run import Run
from omniner.wording import counted

log = logging.getLogger("omniner")

CURVES = "curves.jsonl"
MODEL = "model"  # the folder of the MLflow model, if one is requested
_LAST = "checkpoints/last.ckpt"  # the state of training


def run(context: Context) -> None:
    """Train a model, predict and score the reported split, and publish the results."""
    from omniner.models import fit

    config, folder = context.config, context.folder
    corpus = sources.load_for_training(config.data)
    context.publish_corpus(corpus)
    issues = context.publish_issues(corpus.issues)  # before training, so that mistakes in the files are seen early
    jsonl.write(folder / GOLD, corpus.reported)

    prompt = None
    if config.llm is not None:
        from omniner.tasks.prompting import build_run_prompt, publish_prompt

        prompt, config = build_run_prompt(context, corpus, corpus.reported)
        publish_prompt(context, prompt)
    log.info("loading PyTorch and Lightning")  # some seconds
    _check_same_corpus(folder, corpus)
    logger = tracking.lightning_logger(CurveRecorder(context.run, folder))
    launch = partial(ranks.started_ranks, folder=folder)
    fitted = fit(config, corpus, prompt, folder, logger, callbacks=[], launch=launch)
    if fitted.signal:
        raise Stopped(fitted.signal)
    if fitted.issues:
        issues = context.publish_issues([*corpus.issues, *fitted.issues])
    epochs = counted(fitted.epochs, "epoch")
    log.info("best dev F1 %.2f %% after %s: %s", 100 * fitted.best_f1, epochs, fitted.best_path)
    context.publish_results({"val/best_f1": fitted.best_f1, "train/epochs": fitted.epochs})

    if config.tracking.log_model or config.tracking.register:
        from omniner.tracking.pyfunc import save_model

        save_model(folder / MODEL, fitted.best_path, folder / "config.yaml")
        context.run.files(folder / MODEL, MODEL)
        if config.tracking.register:
            context.run.register(config.tracking.register, MODEL)
    model = trained_model(config, fitted.best_path)
    predictions = predict_file(config, model, corpus.reported, folder / PREDICTIONS)
    context.publish_file(PREDICTIONS)
    context.publish_file(GOLD)
    inputs = ReportInputs(
        corpus.taxonomy, corpus.splits["train"], read_curves(folder), fitted.steps, issues, split=corpus.report
    )
    result = score_and_publish(context, corpus.reported, predictions, inputs)
    check_scored(result, folder / PREDICTIONS)


def _check_same_corpus(folder: Path, corpus: Corpus) -> None:
    """Raise a `UserError` if train or dev has changed since this unfinished training began; else record digests."""
    note, now = folder / TRAINED_ON, {split: content_digest(corpus.splits[split]) for split in ("train", "dev")}
    if (folder / _LAST).is_file() and note.is_file() and read_json(note) != now:
        raise other_corpus(folder, "train or dev is not what this unfinished training began with")
    write_json(note, now)


def fit_as_rank(config: Config) -> None:
    """Take part in the training as a non-zero rank of a distributed run, which does nothing else."""
    from omniner.models import fit

    if ranks.RUN_FOLDER not in os.environ and not config.output_dir:
        raise UserError(
            "output_dir",
            "ranks that were started from outside (torchrun, SLURM) cannot agree on a folder by themselves",
            "Set output_dir=<folder on a disk that all ranks share>.",
        )
    log.info("%s: joins when the first rank has begun the run", ranks.further_rank())
    if ranks.is_beside_first():
        log.setLevel(logging.ERROR)  # the first rank of this machine gives the same warnings
    folder = Path(os.environ.get(ranks.RUN_FOLDER) or config.output_dir or "")
    corpus = sources.load_for_training(config.data)
    # before anything in the folder is read: the first rank may be about to replace what an earlier run has left there
    if (chosen_by_first := ranks.chosen_by_first(config.trainer.nodes)) is None:
        return
    accelerator, precision = chosen_by_first
    state = read_state(folder)  # of an earlier run, if nothing says where the ranks meet
    is_ours = state.get("digest") == digest(config)  # compared before the values of `auto` are replaced
    if commit := model_commit(config, state if is_ours else {}):
        config = at_commit(config, commit)
    chosen: dict[str, Any] = {"accelerator": accelerator, "precision": precision}
    trainer = dataclasses.replace(config.trainer, **{name: value for name, value in chosen.items() if value})
    config = dataclasses.replace(config, trainer=trainer)
    prompt = None
    if config.llm is not None:
        from omniner.tasks.prompting import build_unpublished_prompt

        prompt, config = build_unpublished_prompt(config, folder, corpus, corpus.reported)
    # the first rank on each other machine starts the other ranks of that machine
    launch = partial(ranks.started_ranks, folder=folder)
    fit(config, corpus, prompt, folder, logger=False, callbacks=[], launch=launch)


class CurveRecorder(Run):
    """A tracked run for Lightning's logger that also writes its scalars to `curves.jsonl` in the folder."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.id, self.url = run.id, run.url
        self._run, self._path = run, folder / CURVES
        # A resumed run repeats the steps after its last checkpoint: their rows arrive again.
        self._earlier = {_row_key(row): row for row in _read_rows(self._path)}

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Write and track the scalars of one step; a repeated row replaces the earlier one."""
        row = {"step": step, **{name: float(value) for name, value in values.items() if math.isfinite(value)}}
        earlier = self._earlier.get(_row_key(row))
        if earlier is None:
            append_lines(self._path, [json.dumps(row)])
        elif earlier != row:
            rows = {_row_key(old): old for old in _read_rows(self._path)} | {_row_key(row): row}
            write_text(self._path, "".join(f"{json.dumps(one)}\n" for one in rows.values()))
        self._run.metrics(values, step)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Track tags."""
        self._run.tags(values)


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the learning curves in a run's folder: metric -> (step, value) in the order of steps.

    A resumed run writes some steps again; the last value of a step counts.
    """
    curves: dict[str, dict[int, float]] = {}
    for row in _read_rows(folder / CURVES):
        for name in row.keys() - {"step"}:
            curves.setdefault(name, {})[int(row["step"])] = row[name]
    return {name: sorted(points.items()) for name, points in sorted(curves.items())}


def _read_rows(path: Path) -> list[dict[str, float]]:
    return whole_records(path, _row, "Remove this line, or the file: the curves are then those of what follows.")


def _row(line: str) -> dict[str, float]:
    row = json.loads(line)
    return {"step": int(row["step"]), **{name: float(value) for name, value in row.items() if name != "step"}}


def _row_key(row: Mapping[str, float]) -> tuple[int, frozenset[str]]:
    return int(row["step"]), frozenset(row)


TASK = Task(
    name="train",
    description=__doc__,
    run=run,
    label=lambda config: [*model_label(config), config.data.name],
    outputs=(
        *PREDICTION_OUTPUTS,
        *SCORE_OUTPUTS,
        GUIDANCE_COPY,
        "prompt.txt",
        "checkpoints",
        CURVES,
        MODEL,
        FROM_MEMORY,
    ),
    resume_files=[_LAST, PREDICTIONS],
    trains=True,
    prompts=True,
    uses_model=always,
    splits=lambda config: sources.LABELED,
    settings=model_settings,
)
