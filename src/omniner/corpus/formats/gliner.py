"""GLiNER's training data: `tokenized_text` and `ner`, with mentions by token indices, both ends inclusive.

    [{"tokenized_text": ["我", "爱", "北", "京"], "ner": [[2, 3, "地点"]]}]

Texts are the tokens joined without separator if they are Chinese, else by spaces (`data.joiner`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.tokens import read_mentions, token_list
from omniner.records import Issue, Sentence
from omniner.registry import first_line


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty if the file has none. Of `options`, the joiner is used."""
    return read_mentions(path, options.joiner, "tokenized_text", ("ner",), _mention)


def _mention(item: object) -> tuple[object, Sequence[object]]:
    """Return `(category, tokens)` of an item; something invalid if it is not `[first, last, category]`."""
    if isinstance(item, list) and len(item) == 3 and type(item[0]) is int and type(item[1]) is int:
        return item[2], range(item[0], item[1] + 1)
    return item, []


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise the list of tokens by its key."""
    if isinstance(value, dict) and token_list(value.get("tokenized_text")):
        return Match(75, "with `tokenized_text`, as for GLiNER")
    return None


FORMAT = Format(
    name="gliner", meaning=first_line(__doc__), read=read, write=None, suffix=".json", sniff_value=sniff_value
)
