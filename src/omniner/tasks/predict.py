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

import contextlib
import copy
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniner.answers import CUT
from omniner.config import run_config
from omniner.config.groups import Config
from omniner.corpus import sources
from omniner.corpus.formats import jsonl
from omniner.corpus.formats.fields import split_lines
from omniner.corpus.taxonomy import Taxonomy
from omniner.errors import UserError
from omniner.files import (
    append_lines,
    explaining,
    file_states,
    make_folder,
    read_json,
    whole_lines,
    whole_records,
    write_json,
    write_json_lines,
    write_text,
)
from omniner.model_files import weights_digest
from omniner.progress import pace, show
from omniner.records import (
    Entity,
    Issue,
    Prediction,
    Sentence,
    content_digest,
    mark_entities,
    prediction_to_json,
    to_line,
)
from omniner.runs import children, ranks
from omniner.runs.context import Context, Input, Task, always, model_label, model_settings, path_label
from omniner.runs.folder import GOLD, GUIDANCE_COPY, PREDICTIONS
from omniner.runs.references import find_trained_model
from omniner.scoring.predictions import prediction_from_line
from omniner.tasks.score import SCORE_OUTPUTS, SHOWN_RAW, SHOWN_REASONS, ReportInputs, score_and_publish
from omniner.wording import counted

if TYPE_CHECKING:
    from omniner.llm.prompts import Prompt

log = logging.getLogger("omniner")

STANDARD_INPUT = "-"  # as `input`
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # a terminal would interpret them, or cannot show them
SHOWN = 3  # sentences printed of a file

PROVENANCE = "predicted_by.json"  # what the predictions depend on
SHARES = "predicting"  # a folder, while several processes predict
_FEWEST = 16  # sentences per process: fewer are answered before another process has started
PREDICTION_OUTPUTS = (PREDICTIONS, PROVENANCE, GOLD, SHARES)  # what every task that predicts writes


def run(context: Context) -> None:
    """Read the sentences, tag and print them, and score them if they have gold."""
    config, folder = context.config, context.folder
    sentences, issues, taxonomy = _read_sentences(context)
    counts = context.publish_issues(issues)
    model, told = prepare_model(context, reported=() if config.input or config.text else sentences)
    predictions = predict_file(told, model, sentences, folder / PREDICTIONS)
    context.publish_file(PREDICTIONS)
    if config.decoding.engine != "hf":
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


def is_typed(config: Config) -> bool:
    """Whether the sentences come from a person rather than from a file."""
    return bool(config.text) or config.input == STANDARD_INPUT


def marked_line(sentence: Sentence, prediction: Prediction) -> str:
    """Return a sentence with its predicted entities marked; if the answer was unreadable, the reason follows it."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    form = {"form": "[\x1b[1m{text}\x1b[0m|\x1b[36m{category}\x1b[0m]"} if colour else {}
    found = [
        entity._replace(text=_CONTROL.sub("�", entity.text), category=_CONTROL.sub("�", _labelled(entity)))
        for entity in prediction.entities
    ]
    line = mark_entities(_CONTROL.sub("�", sentence.text), found, **form)
    return f"{line}  ({prediction.reason})" if prediction.parse == "failed" else line


def _labelled(entity: Entity) -> str:
    """Return the category, with the confidence after it if there is one."""
    return entity.category if entity.score is None else f"{entity.category} {entity.score:.2f}"


def piped_lines() -> list[str]:
    """Read all lines of standard input, without white space around them."""
    return [line.strip() for line in split_lines(decode_piped(sys.stdin.buffer.read()))]


def decode_piped(data: bytes, line: int = 1) -> str:
    """Decode bytes of standard input as a file is decoded, whatever the locale: as UTF-8, without a byte order mark.

    Args:
        data: whole lines.
        line: the number of the first of them.

    Raises:
        UserError: they are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        broken = line + data.count(b"\n", 0, error.start)
        fix = "Convert it, for example with iconv -f GB18030 -t UTF-8."
        raise UserError(f"standard input:{broken}", "not UTF-8", fix) from error


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


@dataclass(frozen=True)
class PromptedModel:
    """A causal model without a checkpoint here: an untuned one, or any model behind a server.

    Attributes:
        prompt: the prompt that it is given.
        texts: sentences of train; the tokenizer of a model with random weights is made of their characters.
        system_role: whether requests to a server may have one: some chat templates lack it.
    """

    prompt: Prompt
    texts: list[str]
    system_role: bool = True


def prepare_model(context: Context, reported: Sequence[Sentence]) -> tuple[Path | PromptedModel, Config]:
    """Find the checkpoint that the configuration names, or build the prompt of a model that has none.

    If a server runs the trained model, the checkpoint gives the prompt that it was trained with. The guidance in a
    prompt is published with the run.

    Args:
        context: the run's context.
        reported: sentences that must not be shown in the prompt.

    Returns:
        The model; and the configuration that its predictions are made with, with the guidance in its `prompt`.

    Raises:
        UserError: there is no such checkpoint, or it is a tagger, which no server can run.
    """
    config = context.config
    if config.checkpoint:
        checkpoint = find_trained_model(config.checkpoint, config.tracking)
        if config.decoding.engine != "openai":
            return checkpoint, config
        from omniner.llm.serving.vllm_engine import has_system_role, trained_prompt

        return PromptedModel(trained_prompt(checkpoint), [], has_system_role(checkpoint)), config
    from omniner.tasks.prompting import build_run_prompt

    corpus = sources.load_corpus(config.data, ["train"])
    prompt, config = build_run_prompt(context, corpus, reported)
    return PromptedModel(prompt, [sentence.text for sentence in corpus.splits["train"]]), config


def predict_file(
    config: Config, model: Path | PromptedModel, sentences: Sequence[Sentence], path: Path
) -> list[Prediction]:
    """Predict sentences into a file, continuing where an earlier attempt stopped.

    Args:
        config: `model`, `prompt`, `decoding`, `encoding` and `trainer` are read, as far as the model needs them.
        model: the checkpoint of a trained model, or an untuned or served model with its prompt.
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
    if done and left and not isinstance(model, Path) and config.decoding.engine == "openai":
        config = _remove_other_server(path, config, done)
        left = [sentence for sentence in sentences if sentence.id not in done]
    texts = {sentence.id: sentence.text for sentence in sentences}
    if done and left:
        log.info("going on after %s", counted(len(done), "prediction"))
    if left:
        start = time.perf_counter()
        if (processes := _count_processes(config, model, len(left))) > 1:
            _predict_in_shares(config, model, sentences, path, frozenset(done), processes)
        else:
            predict = open_model(config, model)
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
    return predictions


def _append_predictions(path: Path, sentences: Sequence[Sentence], batches: Iterable[list[Prediction]]) -> None:
    """Append predictions to a file as they arrive, each with its sentence's text."""
    texts = {sentence.id: sentence.text for sentence in sentences}
    for batch in batches:
        append_lines(path, [to_line(prediction_to_json(one, texts[one.id])) for one in batch])


def _count_processes(config: Config, model: Path | PromptedModel, sentences: int) -> int:
    """Return how many processes predict: one per device of this machine, but each with at least `_FEWEST` sentences."""
    if config.decoding.engine == "vllm" or (not isinstance(model, Path) and config.decoding.engine == "openai"):
        return 1
    from omniner.compute.devices import count_devices

    return max(1, min(count_devices(config.trainer)[1], sentences // _FEWEST))


def _predict_in_shares(
    config: Config,
    model: Path | PromptedModel,
    sentences: Sequence[Sentence],
    path: Path,
    done: frozenset[str],
    processes: int,
) -> None:
    """Predict in several processes, one per device, each with every n-th sentence; see `predict_share`."""
    from omniner.compute.devices import share_of_threads
    from omniner.models import devices_for_prediction

    config = copy.deepcopy(config)
    trainer, checkpoint = config.trainer, model if isinstance(model, Path) else None
    chosen = devices_for_prediction(config, checkpoint)  # resolve `auto` once, for all processes
    if chosen.accelerator == "cpu":
        trainer.threads = trainer.threads or share_of_threads(processes)
    trainer.accelerator = "gpu" if chosen.accelerator == "gpu" else "cpu"
    trainer.precision, trainer.strategy, trainer.devices, trainer.nodes = chosen.precision, "auto", 1, 1
    work = path.with_name(SHARES)
    make_folder(work)
    told = None if isinstance(model, Path) else {"prompt": model.prompt.to_json(), "texts": model.texts}
    what = {"sentences": [[one.id, one.text] for one in sentences], "done": sorted(done), "processes": processes}
    write_json(work / "work.json", {"checkpoint": str(checkpoint), "told": told, **what})
    settings = write_text(work / "config.yaml", run_config.to_yaml(config))
    gpus = children.visible_gpus() or [str(number) for number in range(processes)]
    helpers = [
        ranks.Helper(
            f"process {number + 1} of {processes}",
            children.child_command(settings),
            {ranks.SHARE: str(work / f"{number}.jsonl"), children.VISIBLE_GPUS: gpus[number % len(gpus)]},
        )
        for number in range(1, processes)
    ]
    log.info("%d processes predict about %d sentences each", processes, len(sentences) // processes)
    with ranks.working_beside(helpers, None):
        own = sentences[::processes]
        _append_predictions(path, own, open_model(config, model)(own, done))
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
    model: Path | PromptedModel = Path(work["checkpoint"])
    if work["told"] is not None:
        from omniner.llm.prompts import Prompt

        model = PromptedModel(Prompt.from_json(work["told"]["prompt"]), list(work["told"]["texts"]))
    _append_predictions(path, sentences, open_model(config, model)(sentences, frozenset(work["done"])))


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


def provenance(config: Config, model: Path | PromptedModel, sentences: Sequence[Sentence]) -> dict[str, Any]:
    """Return what predictions depend on, as `predicted_by.json` records it."""
    return {
        "config": run_config.digest(config),
        "sentences": content_digest(sentences),
        "checkpoint": file_states(model) if isinstance(model, Path) else None,
        "prompt": None if isinstance(model, Path) else model.prompt.sha,
        "weights": None if isinstance(model, Path) else _published_weights(config),
    }


def remove_stale(path: Path, config: Config, model: Path | PromptedModel, sentences: Sequence[Sentence]) -> None:
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


def _published_weights(config: Config) -> str | None:
    """Return a digest of an untuned model's weights; None if they are not on this machine."""
    path = config.llm.path if config.llm and config.decoding.engine != "openai" else None
    return weights_digest(path) if path else None


def _remove_other_server(path: Path, config: Config, done: dict[str, Prediction]) -> Config:
    """Remove predictions of another model than the one that the server has now.

    If `decoding.model` names none, only the server knows which model it has.

    Args:
        path: the file of predictions.
        config: the command's configuration.
        done: the predictions in the file, by id; emptied if the file is removed.

    Returns:
        The configuration with the model's name in `decoding.model`.
    """
    from omniner.llm.serving.openai_engine import ask_for_model, engine_name

    model = ask_for_model(config.decoding)
    if other := sorted({one.engine for one in done.values()} - {engine_name(model)}):
        log.warning("%s is of %s, the server has %s now: all is predicted anew", path, other[0], model)
        with explaining(path):
            path.unlink()
        done.clear()
    return replace(config, decoding=replace(config.decoding, model=model))


Predict = Callable[[Sequence[Sentence], frozenset[str]], Iterable[list[Prediction]]]
"""Tags sentences batch by batch, except those whose ids are given."""


def open_model(config: Config, model: Path | PromptedModel) -> Predict:
    """Load a model into this process, or connect to a server, which needs no torch in this process."""
    if not isinstance(model, Path) and config.decoding.engine == "openai":
        from omniner.llm.serving.openai_engine import predict_with_server, with_template_options

        # a model trained here is asked as in training; another server may refuse fields that its protocol lacks
        asked = with_template_options(config.decoding) if config.checkpoint else config.decoding
        return partial(predict_with_server, asked, model.prompt, system_role=model.system_role)
    if config.decoding.engine == "vllm":
        from omniner.llm.serving.vllm_engine import predict_with_vllm, served_base

        if isinstance(model, Path):
            return partial(predict_with_vllm, config.decoding, model, None)
        base = served_base(config.llm.path if config.llm else None)
        return partial(predict_with_vllm, config.decoding, base, model.prompt)
    from omniner import models
    from omniner.compute.devices import use_own_cores

    log.info("loading the model")  # takes some seconds, for a small model mostly to import torch
    use_own_cores(config.trainer)
    if isinstance(model, Path):
        return models.load_predictor(config, model).predict
    return models.load_untrained(config, model.prompt, model.texts).predict


@contextlib.contextmanager
def open_prompts(config: Config, model: PromptedModel) -> Iterator[Callable[[Prompt], Predict]]:
    """Load an untuned model once, or connect to a server, to use it with one prompt after another.

    Args:
        config: as for `predict_file`.
        model: the model with any one of the prompts; the others name the same categories.

    Yields:
        A function from a prompt to a `Predict` that uses it and logs no progress.
    """
    if config.decoding.engine == "hf":
        from omniner import models
        from omniner.compute.devices import use_own_cores

        log.info("loading the model")
        use_own_cores(config.trainer)
        loaded = models.load_untrained(config, model.prompt, model.texts)
        yield lambda prompt: loaded.with_prompt(prompt).predict
        return
    from omniner.llm.serving.openai_engine import predict_with_server

    with contextlib.ExitStack() as stack:
        asked = config.decoding
        if asked.engine == "vllm":
            from omniner.llm.serving.vllm_engine import served_base, serving_model

            asked = stack.enter_context(serving_model(asked, served_base(config.llm.path if config.llm else None)))
        yield lambda prompt: partial(predict_with_server, asked, prompt, quiet=True)


def _splits(config: Config) -> list[str]:
    """Return the splits to read: train for an untuned model's prompt; the reported one without `text` or `input`."""
    return [*(["train"] if not config.checkpoint else []), *(["test"] if not (config.input or config.text) else [])]


def _settings(config: Config) -> list[str]:
    """Return the keys that decide the predictions.

    A trained model's own sections are recorded in its run; an untuned model has no `tuning`.
    """
    theirs = ("model", "head", "tuning", "prompt", "seed") if config.checkpoint else ("tuning",)
    sections = ["prompt", "decoding", "data", "metrics"]
    if config.decoding.engine != "openai":
        sections = model_settings(config)
    return ["text", *(name for name in sections if name not in theirs)]


def needs_checkpoint(config: Config) -> bool:
    """Whether a checkpoint is required: for a tagger; an untuned causal model or a server can answer without one."""
    return config.llm is None and config.decoding.engine != "openai"


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
    uses_model=lambda config: config.decoding.engine != "openai" and not config.checkpoint,
    splits=_splits,
    tracked=lambda config: not is_typed(config),
    settings=_settings,
)
