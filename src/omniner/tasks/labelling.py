"""Steps that `task=predict` and `task=chat` share: choose the model, read what a person types, mark what it finds."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from omniner.config.groups import Config
from omniner.corpus import sources
from omniner.corpus.formats.fields import split_lines
from omniner.errors import UserError
from omniner.predicting.engines import ChosenModel, prompted_model, trained_model
from omniner.records import Entity, Prediction, Sentence, mark_entities
from omniner.runs.context import Context
from omniner.runs.references import find_trained_model

STANDARD_INPUT = "-"  # as `input`
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # a terminal would interpret them, or cannot show them


def choose_model(context: Context, reported: Sequence[Sentence]) -> tuple[ChosenModel, Config]:
    """Find the checkpoint that the configuration names, or build the prompt of a model that has none.

    If a server runs the trained model, the checkpoint gives the prompt that it was trained with. The guidance in a
    prompt is published with the run.

    Args:
        context: the run's context.
        reported: as for `build_run_prompt`.

    Returns:
        The model; and the configuration that its predictions are made with, with the guidance in its `prompt`.

    Raises:
        UserError: there is no such checkpoint, or it is a tagger, which no server can run.
    """
    config = context.config
    if config.checkpoint:
        return trained_model(config, find_trained_model(config.checkpoint, config.tracking)), config
    from omniner.tasks.prompting import build_run_prompt

    corpus = sources.load_corpus(config.data, ["train"])
    prompt, config = build_run_prompt(context, corpus, reported)
    return prompted_model(config, prompt, [sentence.text for sentence in corpus.splits["train"]]), config


def is_typed(config: Config) -> bool:
    """Whether the sentences come from a person rather than from a file."""
    return bool(config.text) or config.input == STANDARD_INPUT


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
