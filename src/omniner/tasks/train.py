"""`task=train`: read, fit, predict the reported split with the best checkpoint, score, report.

Every step leaves a file behind, so that a killed run goes on where it was: `checkpoints/last.ckpt` holds the training
state, `predictions.jsonl` the finished predictions, `prompt.txt` what a causal model was told. The split that is
reported chooses nothing: the best checkpoint is the one with the best F1 on `dev`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from omniner import tracking
from omniner.corpus import sources
from omniner.encoding import prompts
from omniner.errors import Stopped, UserError
from omniner.schema import CausalConfig, Config
from omniner.tasks import prompting
from omniner.tasks.context import Context, publish_corpus, publish_issues
from omniner.tasks.curves import CurveRecorder, read_curves
from omniner.tasks.evaluation import Extras, evaluate
from omniner.tasks.prediction import predict_file, write_gold

log = logging.getLogger("omniner")

# Tells the further ranks of a distributed run, which Lightning starts with our command line, where the run lives.
FOLDER = "OMNINER_RUN_FOLDER"


def run(context: Context) -> None:
    """Train, predict, score, publish."""
    from omniner.models.training import fit

    config, folder = context.config, context.folder
    corpus = sources.load(config.data, None)
    publish_corpus(context, corpus)
    reported = corpus.splits["test"]
    write_gold(folder / "gold.jsonl", reported)

    if isinstance(config.model, CausalConfig):
        train = corpus.splits["train"]
        active = corpus.taxonomy.active(train)
        prompting.use_guidance(context, active, reported)
        prompting.publish(context, prompts.build(config.prompt, active, train))
    os.environ[FOLDER] = str(folder.resolve())
    try:
        logger = tracking.lightning_logger(CurveRecorder(context.run, folder))
        fitted = fit(config, corpus, folder, logger=logger, callbacks=[])
    finally:
        del os.environ[FOLDER]
    if fitted.interrupted:
        raise Stopped(fitted.signal)
    issues = publish_issues(context, [*corpus.issues, *fitted.issues])
    log.info("best dev F1 %.4f after %d epochs: %s", fitted.best_f1, fitted.epochs, fitted.best_path)
    context.results({"val/best_f1": fitted.best_f1, "train/epochs": fitted.epochs})

    if config.tracking.log_model:
        tracking.save_model(fitted.best_path, folder / "config.yaml", folder / "model")
        context.run.files(folder / "model", "model")
    predictions = predict_file(config, fitted.best_path, reported, folder / "predictions.jsonl")
    context.run.file(folder / "predictions.jsonl")
    context.run.file(folder / "gold.jsonl")
    extras = Extras(corpus.taxonomy, corpus.splits["train"], read_curves(folder), issues)
    evaluate(context, reported, predictions, extras)


def follow(config: Config) -> None:
    """A further rank of a distributed run: it only takes part in the fitting."""
    from omniner.models.training import fit

    if FOLDER not in os.environ and not config.output_dir:
        raise UserError(
            "output_dir",
            "ranks that were started from outside (torchrun, SLURM) cannot agree on a folder by themselves",
            "Set output_dir=<folder on a disk that all ranks share>.",
        )
    folder = Path(os.environ.get(FOLDER) or config.output_dir or "")
    corpus = sources.load(config.data, None)
    prompting.settle(config, folder, corpus.taxonomy.active(corpus.splits["train"]), corpus.splits["test"])
    fit(config, corpus, folder, logger=False, callbacks=[])
