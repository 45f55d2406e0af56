"""What the tests of readers share: options that change nothing, and files made of a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from omniner.corpus import formats
from omniner.corpus.formats import ReadOptions
from omniner.records import Issue, Sentence

PLAIN = ReadOptions(scheme="auto", separator="auto", glued_positions=False, joiner="", id_prefix="s", id_first=0)
SMALL = Path(__file__).resolve().parents[1] / "data" / "formats"


def read(path: Path, format: str, **changes: Any) -> tuple[list[Sentence], list[Issue]]:
    return formats.read(path, format, replace(PLAIN, **changes))


def codes(issues: Iterable[Issue]) -> dict[str, int]:
    return dict(Counter(issue.code for issue in issues))


def spans(sentence: Sentence) -> list[tuple[int | None, int | None, str]]:
    return [(entity.start, entity.end, entity.category) for entity in sentence.entities]


def assert_offsets_hold(sentences: Iterable[Sentence]) -> None:
    for sentence in sentences:
        for entity in sentence.entities:
            if entity.start is not None:
                assert sentence.text[entity.start : entity.end] == entity.text
