"""Reading, writing and recognising corpus files: one module per family, one function for all of each.

`read` gives the sentences of a file and the issues met in it, `write` the issues of what the format could not hold,
`detect` says of which family a file is and why. Every reader takes a path and the same `ReadOptions`, every writer the
same `WriteOptions`; what a family does not need it ignores. Alpaca files are written with a prompt: `alpaca.write`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from omniner.corpus.formats import alpaca, brat, cluener, cmeee, conll, doccano, jsonl, label_studio, omniner_csv
from omniner.corpus.formats.detection import detect
from omniner.corpus.formats.fields import IssueLog, ReadOptions, WriteOptions, is_unlabeled, report_lost
from omniner.errors import UserError
from omniner.records import Issue, Sentence

__all__ = ["READERS", "WRITERS", "ReadOptions", "WriteOptions", "detect", "is_unlabeled", "read", "recognise", "write"]

log = logging.getLogger("omniner")

Reader = Callable[[Path, ReadOptions], tuple[list[Sentence], list[Issue]]]
Write = Callable[[Path, Sequence[Sentence], WriteOptions], list[Issue]]


class Writer(NamedTuple):
    """How a format is written: its function, the suffix of its files, and what it holds besides texts and entities."""

    write: Write
    suffix: str
    holds: frozenset[str]


READERS: dict[str, Reader] = {
    "jsonl": jsonl.read,
    "conll": conll.read,
    "cluener": cluener.read,
    "cmeee": cmeee.read,
    "omniner_csv": omniner_csv.read,
    "alpaca": alpaca.read,
    "label_studio": label_studio.read,
    "doccano": doccano.read,
    "brat": brat.read,
}


def _write_jsonl(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    jsonl.write(path, sentences)
    return []


def _write_conll(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    return conll.write(path, sentences, scheme=options.scheme, separator=options.separator, joiner=options.joiner)


_ALL = frozenset({"id", "post_id", "meta"})
_NAMES = frozenset({"id", "post_id"})

WRITERS: dict[str, Writer] = {
    "jsonl": Writer(_write_jsonl, ".jsonl", _ALL),
    "conll": Writer(_write_conll, ".txt", frozenset()),
    "cluener": Writer(cluener.write, ".json", _NAMES),
    "cmeee": Writer(cmeee.write, ".json", _NAMES),
    "omniner_csv": Writer(omniner_csv.write, ".csv", frozenset({"post_id"})),
    "label_studio": Writer(label_studio.write, ".json", _ALL),
    "doccano": Writer(doccano.write, ".jsonl", _ALL),
    "brat": Writer(brat.write, "", _NAMES),
}


def recognise(path: Path) -> str:
    """The format that `detect` finds; which one and why is logged."""
    format, why = detect(path)
    log.info("%s: read as %s (%s)", path, format, why)
    return format


def read(path: Path, format: str, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """The sentences of one file and what could not be taken as it was.

    Args:
        path: the file; of brat a folder of documents.
        format: a key of `READERS`, or `auto` to let `detect` choose.
        options: how to read what the file does not say of itself, and the prefix of the ids it does not give.
    """
    if format == "auto":
        format = recognise(path)
    if format not in READERS:
        raise UserError("data.format", f"{format!r} is unknown", f"Use auto, {', '.join(READERS)}.")
    sentences, issues = READERS[format](Path(path), options)
    for number, sentence in enumerate(sentences, options.id_first):
        if not sentence.id:
            sentence.id = f"{options.id_prefix}-{number}"
    return sentences, issues


def write(path: Path, format: str, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write one file (of brat: a new folder), whole or not at all, so that `read` gives the sentences back.

    Args:
        path: the file or folder.
        format: a key of `WRITERS`.
        sentences: one without a character is left out.
        options: how to write what the sentences do not say of themselves.

    Returns:
        An issue for each thing that the format cannot hold, and one for each kind of field (id, post, meta).
    """
    if format not in WRITERS:
        raise UserError("to", f"{format!r} cannot be written", f"Use {', '.join(WRITERS)}.")
    notes = IssueLog(path)
    kept = [sentence for sentence in sentences if sentence.text]
    for sentence in sentences:
        if not sentence.text:
            notes.add("empty-text", "a sentence without a character; left out", id=sentence.id)
    writer = WRITERS[format]
    report_lost(kept, writer.holds, format, notes)
    return [*notes.items, *writer.write(Path(path), kept, options)]
