"""`task=predict`: tag sentences with a trained checkpoint, and score the predictions if there is gold.

The sentences come from `text=` or `input=` (a file, or `-` for lines of standard input), otherwise from the reported
split of `data`. `checkpoint=` is a run or its checkpoint (none for an untuned causal model, or a server). It brings the
weights and, for a causal model, the prompt; `data`, `encoding`, `decoding`, `metrics` and `errta` come from this
command, not from that run: give them again. The task writes `predictions.jsonl`, prints sentences with their entities
marked (all of `text=`, the first few of a file), and with gold does all that `task=score` does.

Predictions survive a kill: every finished batch is on disk, and the same command continues after it. At the end the
file is rewritten in the order of the sentences, so that interrupted and uninterrupted runs end in the same bytes.
`predicted_by.json` records what the predictions depend on. If model, prompt, settings or sentences have changed since
(another run may have replaced the checkpoint, a server may have another model), no prediction is kept.

With several devices, one process per device answers every n-th sentence into a file of its own. The files are merged by
id, with the same bytes as from one process. The processes do not communicate.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from omniner.config.groups import Config
from omniner.corpus import sources
from omniner.corpus.formats import jsonl
from omniner.corpus.taxonomy import Taxonomy
from omniner.errors import UserError
from omniner.predicting.engines import ENGINES, needs_checkpoint
from omniner.predicting.prediction_file import PREDICTION_OUTPUTS, predict_file
from omniner.progress import show
from omniner.records import Issue, Prediction, Sentence
from omniner.runs.context import Context, Input, Task, always, model_label, model_settings, path_label
from omniner.runs.folder import GOLD, GUIDANCE_COPY, PREDICTIONS
from omniner.tasks.labelling import STANDARD_INPUT, choose_model, is_typed, marked_line, piped_lines
from omniner.tasks.score import SCORE_OUTPUTS, SHOWN_RAW, SHOWN_REASONS, ReportInputs, score_and_publish

log = logging.getLogger("omniner")

SHOWN = 3  # sentences printed of a file


def run(context: Context) -> None:
    """Read the sentences, tag and print them, and score them if they have gold."""
    config, folder = context.config, context.folder
    sentences, issues, taxonomy = _read_sentences(context)
    counts = context.publish_issues(issues)
    model, config = choose_model(context, reported=() if config.input or config.text else sentences)
    predictions = predict_file(config, model, sentences, folder / PREDICTIONS)
    context.publish_file(PREDICTIONS)
    if not ENGINES[config.decoding.engine].in_process:
        from omniner.llm.serving.openai_engine import refuse_unread

        refuse_unread(predictions, config.decoding)
    shown = len(sentences) if is_typed(config) else SHOWN
    for sentence, prediction in zip(sentences[:shown], predictions, strict=False):
        show(marked_line(sentence, prediction))
    if any(sentence.entities for sentence in sentences):
        jsonl.write(folder / GOLD, sentences)
        context.publish_file(GOLD)
        split = "" if config.input or config.text else config.data.report
        score_and_publish(context, sentences, predictions, ReportInputs(taxonomy, issues=counts, split=split))
    else:
        log.info("no gold entities in these sentences: nothing to score")
    check_answered(predictions, folder / PREDICTIONS)


def check_answered(predictions: Sequence[Prediction], path: Path) -> None:
    """Warn about unreadable answers.

    Raises:
        UserError: all answers are unreadable; the message shows the first of them.
    """
    failed = [prediction for prediction in predictions if prediction.parse == "failed"]
    if failed and len(failed) == len(predictions):
        first = "; ".join(f"{one.id}: {one.reason} {one.raw[:SHOWN_RAW]!r}" for one in failed[:SHOWN_REASONS])
        found = f"none of {len(failed):,} answers can be read (first: {first})"
        raise UserError(path, found, "Try decoding=guided, another prompt, or a model that has learnt to answer so.")
    if failed:
        log.warning("%d of %d answers cannot be read: %s", len(failed), len(predictions), failed[0].reason)


def _read_sentences(context: Context) -> tuple[list[Sentence], list[Issue], Taxonomy | None]:
    config = context.config
    if is_typed(config):
        texts = config.text or piped_lines()
        sentences = [Sentence(str(number), text) for number, text in enumerate(filter(None, texts), 1)]
        if not sentences:
            key = "text" if config.text else "input"
            raise UserError(key, "no sentence: nothing but empty lines", "Give sentences, a line each.")
        return sentences, [], None
    if config.input:
        sentences, issues = sources.read_sentences(Path(config.input), config.data)
        return sentences, issues, None
    corpus = sources.load_corpus(config.data, ["test"])
    context.publish_corpus(corpus)
    return corpus.reported, corpus.issues, corpus.taxonomy


def _splits(config: Config) -> list[str]:
    """Return the splits to read: train for an untuned model's prompt; the reported one without `text` or `input`."""
    return [*(["train"] if not config.checkpoint else []), *(["test"] if not (config.input or config.text) else [])]


def _settings(config: Config) -> list[str]:
    """Return the keys that decide the predictions.

    A trained model's own sections are recorded in its run; an untuned model has no `tuning`.
    """
    theirs = ("model", "head", "tuning", "prompt", "seed") if config.checkpoint else ("tuning",)
    sections = ["prompt", "decoding", "data", "metrics"]
    if ENGINES[config.decoding.engine].local_weights:
        sections = model_settings(config)
    return ["text", *(name for name in sections if name not in theirs)]


def _check(config: Config) -> None:
    if config.prompt.from_run and config.checkpoint:
        found = "a trained model keeps the prompt it was trained with"
        raise UserError("prompt.from_run", found, "Leave it out.")
    if config.text and config.input:
        raise UserError("text", "input= names sentences, too", "Give one of the two.")


TASK = Task(
    name="predict",
    description=__doc__,
    run=run,
    label=lambda config: [
        "predict",
        *([path_label(config.checkpoint)] if config.checkpoint else model_label(config, learns=False)),
        "typed" if is_typed(config) else path_label(config.input) if config.input else config.data.name,
    ],
    inputs=[
        Input("checkpoint", required=needs_checkpoint, accepts=always),
        Input("input", folder_allowed=False, accepts=lambda value: value == STANDARD_INPUT),
    ],
    check=_check,
    outputs=(*PREDICTION_OUTPUTS, *SCORE_OUTPUTS, GUIDANCE_COPY),
    resume_files=[PREDICTIONS],
    prompts=True,
    uses_model=lambda config: ENGINES[config.decoding.engine].local_weights and not config.checkpoint,
    splits=_splits,
    tracked=lambda config: not is_typed(config),
    settings=_settings,
)
