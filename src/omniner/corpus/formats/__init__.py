"""Reading and recognising corpus files: one module per family, one function for all.

`read` gives the sentences of a file and the issues met in it, `detect` says of which family a file is and why. Every
reader takes a path and the same `ReadOptions`; what a family does not need it ignores.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omniner.corpus.formats import alpaca, cluener, cmeee, conll, jsonl, omniner_csv
from omniner.corpus.formats.common import ReadOptions, is_unlabeled
from omniner.corpus.formats.detection import detect
from omniner.errors import UserError
from omniner.records import Issue, Sentence

__all__ = ["READERS", "ReadOptions", "detect", "is_unlabeled", "read"]

Reader = Callable[[Path, ReadOptions], tuple[list[Sentence], list[Issue]]]

READERS: dict[str, Reader] = {
    "jsonl": jsonl.read,
    "conll": conll.read,
    "cluener": cluener.read,
    "cmeee": cmeee.read,
    "omniner_csv": omniner_csv.read,
    "alpaca": alpaca.read,
}


def read(path: Path, format: str, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """The sentences of one file and what could not be taken as it was.

    Args:
        path: the file.
        format: a key of `READERS`, or `auto` to let `detect` choose.
        options: how to read what the file does not say of itself, and the prefix of the ids it does not give.
    """
    if format == "auto":
        format, _ = detect(path)
    if format not in READERS:
        raise UserError("data.format", f"{format!r} is unknown", f"Use auto, {', '.join(READERS)}.")
    sentences, issues = READERS[format](Path(path), options)
    for number, sentence in enumerate(sentences, options.id_first):
        if not sentence.id:
            sentence.id = f"{options.id_prefix}-{number}"
    return sentences, issues
