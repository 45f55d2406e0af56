"""W2NER's JSON: `sentence` is a list of characters, `ner` a list of mentions by character indices.

    [{"sentence": ["我", "爱", "北", "京"], "ner": [{"index": [2, 3], "type": "地点"}], "word": [[0], [1], [2, 3]]}]

Mentions with gaps are issues. Texts are the tokens joined without separator if they are Chinese, else by spaces
(`data.joiner`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.tokens import read_mentions, token_list
from omniner.records import Issue, Sentence
from omniner.registry import first_line


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty if the file has none. Of `options`, the joiner is used."""
    return read_mentions(path, options.joiner, "sentence", ("ner", "entities"), _mention)


def _mention(item: object) -> tuple[object, list[object]]:
    """Return `(category, tokens)` of an item; something invalid if it is not an object with `index` and `type`."""
    if isinstance(item, dict) and isinstance(item.get("index"), list):
        return item.get("type"), item["index"]
    return item, []


def sniff_value(value: Any, is_list: bool) -> Match | None:
    """Recognise tokens under `sentence` beside `ner`."""
    if isinstance(value, dict) and token_list(value.get("sentence")) and ("ner" in value or "word" in value):
        return Match(75, "with tokens under `sentence` and `ner`, as for W2NER")
    return None


FORMAT = Format(
    name="w2ner", meaning=first_line(__doc__), read=read, write=None, suffix=".json", sniff_value=sniff_value
)
