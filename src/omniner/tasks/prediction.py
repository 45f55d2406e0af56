"""Predicting into a file that survives a kill: every finished batch is on disk, a restart goes on behind it.

Predictions are appended as they come; when all are there the file is rewritten in the order of the sentences, so that
an interrupted and an uninterrupted run end in the same bytes. Beside them stands what they are of (`MARK`): where the
model, the settings or the sentences are others by now (another run may have taken the folder that `checkpoint` names),
nothing of them is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omniner import config as configs
from omniner.analysis.scores.predictions import prediction_from_line
from omniner.files import append_lines, explaining, read_json, whole_lines, write_json, write_text
from omniner.records import Prediction, Sentence, prediction_to_json, sentence_to_json, to_line
from omniner.schema import Config
from omniner.tasks.context import content_digest

log = logging.getLogger("omniner")

MARK = "predicted_by.json"
"""What the predictions beside it are of: digests of the configuration and the sentences, and the model's files."""

Engine = Callable[[Path | None, Sequence[Sentence], Config, frozenset[str]], Iterable[list[Prediction]]]


def write_gold(path: Path, sentences: Sequence[Sentence]) -> None:
    """Write the sentences with their gold entities beside the predictions."""
    write_text(path, "".join(f"{to_line(sentence_to_json(sentence))}\n" for sentence in sentences))


def predict_file(
    config: Config, checkpoint: Path | None, sentences: Sequence[Sentence], path: Path
) -> list[Prediction]:
    """Predict `sentences` into `path`, going on where an earlier attempt stopped; gives all predictions in order.

    Args:
        config: `model`, `prompt`, `decoding`, `encoding` and `trainer` are read, as far as the model needs them.
        checkpoint: of a trained model; none for a causal model as it was published, or a server.
        sentences: those to tag.
        path: of the predictions file.
    """
    predict = _engine(config)
    _keep_only_ours(path, config, checkpoint, sentences)
    done = {prediction.id: prediction for prediction in map(prediction_from_line, whole_lines(path))}
    left = [sentence for sentence in sentences if sentence.id not in done]
    if done and left:
        log.info("going on after %d predictions", len(done))
    start, count = time.perf_counter(), 0
    for batch in predict(checkpoint, sentences, config, frozenset(done)) if left else ():
        append_lines(path, [to_line(prediction_to_json(prediction)) for prediction in batch])
        done |= {prediction.id: prediction for prediction in batch}
        count += len(batch)
    if left:
        seconds = time.perf_counter() - start
        log.info("%d sentences predicted in %.1f s (%.0f per s)", count, seconds, count / seconds)
    predictions = [done[sentence.id] for sentence in sentences if sentence.id in done]
    write_text(path, "".join(f"{to_line(prediction_to_json(prediction))}\n" for prediction in predictions))
    return predictions


def _keep_only_ours(path: Path, config: Config, checkpoint: Path | None, sentences: Sequence[Sentence]) -> None:
    """Remove predictions that are there but of another model, other settings or other sentences; mark what comes."""
    now = {
        "config": configs.digest(config),
        "sentences": content_digest(sentences),
        "checkpoint": _files_of(checkpoint) if checkpoint else None,
    }
    mark = path.with_name(MARK)
    before: dict[str, Any] = read_json(mark) if mark.is_file() else {}
    if before == now:
        return
    if path.is_file():
        other = [name for name in now if before.get(name) != now[name]] if before else ["program"]
        log.warning("%s is of another %s than now: all is predicted anew", path, " and ".join(other))
        with explaining(path):
            path.unlink()
    write_json(mark, now)


def _files_of(checkpoint: Path) -> list[list[Any]]:
    """Name, size and time of change of a checkpoint's files: a model that was trained again differs in them."""
    with explaining(checkpoint):
        files = sorted(checkpoint.rglob("*")) if checkpoint.is_dir() else [checkpoint]
        states = [(file, file.stat()) for file in files if file.is_file()]
    return [[str(file.relative_to(checkpoint.parent)), now.st_size, now.st_mtime_ns] for file, now in states]


def _engine(config: Config) -> Engine:
    """What makes predictions: a model in this process, or a server (which needs no torch here)."""
    if config.decoding.engine == "hf":
        from omniner.models.inference import predict

        return predict
    return _ask_server


def _ask_server(
    checkpoint: Path | None, sentences: Sequence[Sentence], config: Config, done: frozenset[str]
) -> Iterator[list[Prediction]]:
    """Predictions of a server, told what the training split's categories (and examples) are."""
    from omniner.corpus import sources
    from omniner.decoding import server
    from omniner.encoding import prompts

    corpus = sources.load(config.data, ["train"])
    train = corpus.splits["train"]
    prompt = prompts.build(config.prompt, corpus.taxonomy.active(train), train)
    yield from server.predict(config.decoding, prompt, sentences, done)
