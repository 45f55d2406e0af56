"""What writers share: JSON items whole or not at all, entities that have a place, text that UTF-8 can hold.

A writer takes sentences and returns an `Issue` for whatever its format cannot hold, so that `read` gives the rest back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omniner.corpus.formats.common import IssueLog, is_unlabeled, quote
from omniner.files import writing
from omniner.records import Entity, Sentence, to_line


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How to write what a sentence does not say; all of it is about CoNLL columns."""

    scheme: str  # bio | bio2 | bioes | bmes | bios
    separator: str  # tab | space
    joiner: str  # stands between the tokens in the texts; empty makes each character a token


def write_list(path: Path, items: Iterable[dict[str, Any]]) -> None:
    """Write one JSON list, an item a line."""
    with writing(path) as file:
        before = "[\n"
        for item in items:
            file.write(before + to_line(item))
            before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")


def write_lines(path: Path, items: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines."""
    with writing(path) as file:
        for item in items:
            file.write(to_line(item) + "\n")


def placed(sentence: Sentence, log: IssueLog) -> Iterator[tuple[Entity, int, int]]:
    """`(entity, start, end)` of those that have a place; each other one is an issue."""
    for entity in sentence.entities:
        if entity.start is None or entity.end is None:
            message = f"{entity.category} {quote(entity.text)} has no place; left out"
            log.add("no-offsets", message, id=sentence.id)
        else:
            yield entity, entity.start, entity.end


def labeled_only(sentences: Iterable[Sentence], log: IssueLog) -> Iterator[Sentence]:
    """For files that cannot say that a sentence has no labels: those are left out, each an issue."""
    for sentence in sentences:
        if is_unlabeled(sentence):
            log.add("unlabeled", "a sentence without labels would be read as one without entities", id=sentence.id)
        else:
            yield sentence


def with_extras(item: dict[str, Any], sentence: Sentence) -> dict[str, Any]:
    """The item with the id and the post of the sentence behind what the format knows."""
    if sentence.id:
        item["id"] = sentence.id
    if sentence.post_id is not None:
        item["post_id"] = sentence.post_id
    return item


def own_meta(sentence: Sentence) -> dict[str, Any]:
    """`meta` without the mark of sentences that came without labels: formats say that in their own way."""
    return {key: value for key, value in sentence.meta.items() if key != "unlabeled"}


def clean(text: str, id: str, log: IssueLog) -> str:
    """The text with lone surrogates as U+FFFD, so that UTF-8 can hold it; of the same length."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        log.add("unwritable-character", f"a lone surrogate in {quote(text)}: U+FFFD stands for it", id=id)
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)


def report_lost(sentences: Sequence[Sentence], holds: frozenset[str], format: str, log: IssueLog) -> None:
    """One issue for each of `id`, `post_id` and `meta` that the format has no place for and some sentences have."""
    lost: Counter[str] = Counter()
    first: dict[str, str] = {}
    for sentence in sentences:
        has = (("id", sentence.id), ("post_id", sentence.post_id is not None), ("meta", own_meta(sentence)))
        for name, value in has:
            if value and name not in holds:
                lost[name] += 1
                first.setdefault(name, sentence.id)
    for name, count in sorted(lost.items()):
        log.add(f"lost-{name.replace('_', '-')}", f"{count:,} sentences have {name}, {format} has not", id=first[name])
