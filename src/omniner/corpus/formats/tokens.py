"""Read texts that files store as lists of tokens, with entities given by token indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omniner.corpus.formats.fields import IssueLog, id_of, join_surrogates, json_records, list_of, quote
from omniner.corpus.formats.regions import entity_at, sort_entities, without_repeats
from omniner.corpus.formats.tags import find_joiner
from omniner.records import UNLABELED, Entity, Issue, Sentence

_SAMPLE = 400  # tokens examined to detect the joiner


def token_list(value: object) -> bool:
    """Whether a value is a list of strings that is not empty."""
    return isinstance(value, list) and bool(value) and all(isinstance(token, str) for token in value)


@dataclass
class TokenText:
    """A text built from tokens; `starts` are the offsets of their beginnings."""

    tokens: Sequence[str]
    joiner: str
    text: str = field(init=False)
    starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.text = self.joiner.join(self.tokens)
        self.starts, position = [], 0
        for token in self.tokens:
            self.starts.append(position)
            position += len(token) + len(self.joiner)

    def sorted_entities(
        self, mentions: Iterable[tuple[object, Sequence[object]]], log: IssueLog, line: int
    ) -> list[Entity]:
        """Build entities from `(category, token indices)`, sorted by position; invalid ones are issues."""
        found = (self._entity(category, indices, log, line) for category, indices in mentions)
        return sort_entities(without_repeats([entity for entity in found if entity], log, line))

    def _entity(self, category: object, indices: Sequence[object], log: IssueLog, line: int) -> Entity | None:
        is_range = isinstance(indices, range)
        if not isinstance(category, str) or not indices or not (is_range or all(type(one) is int for one in indices)):
            log.add("bad-entity", f"{quote(category)} with the tokens {quote(indices)} is no mention; left out", line)
            return None
        first, last = indices[0], indices[-1]
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last < len(self.tokens)):
            message = f"{category}: tokens {first} to {last} of {len(self.tokens)}; the entity is left out"
            log.add("offset-range", message, line)
            return None
        if not is_range and list(indices) != list(range(first, last + 1)):
            message = f"{category}: the tokens {list(indices[:8])} are not one stretch of text; left out"
            log.add("discontinuous", message, line)
            return None
        start, end = self.starts[first], self.starts[last] + len(self.tokens[last])
        surface = None if is_range else self.text[start:end]
        return entity_at(self.text, surface, category, start, end, log, line)


def read_mentions(
    path: Path,
    joiner: str | None,
    tokens_key: str,
    list_keys: Sequence[str],
    mention: Callable[[object], tuple[object, Sequence[object]]],
) -> tuple[list[Sentence], list[Issue]]:
    """Read JSON records of tokens with a list of mentions by token; ids are empty if the file has none.

    Args:
        path: the file.
        joiner: text between tokens; None = detect.
        tokens_key: of the tokens.
        list_keys: of the mentions; the first one in a record is used, a record with none of them has no labels.
        mention: returns the category of an item and the indices of its tokens, or something invalid if it is no
            mention.
    """
    log = IssueLog(path)
    sentences = []
    for line, record, text in token_texts(json_records(path, log), tokens_key, joiner, log):
        items = next((record[key] for key in list_keys if key in record), None)
        sentence = Sentence(id_of(record, log, line), text.text)
        if items is None:
            sentence.meta[UNLABELED] = True
        elif (listed := list_of(items, list_keys[0], log, line)) is None:
            continue
        else:
            sentence.entities = text.sorted_entities([mention(item) for item in listed], log, line)
        sentences.append(sentence)
    log.id = ""
    return sentences, log.items


def token_texts(
    records: Iterable[tuple[int, dict[str, Any]]], key: str, joiner: str | None, log: IssueLog
) -> Iterator[tuple[int, dict[str, Any], TokenText]]:
    """Yield `(line, record, text)` for each record with tokens; others are issues.

    Args:
        records: with their lines.
        key: of the tokens.
        joiner: text between tokens; None = detect from the first records.
        log: gets the issues.
    """
    waiting: list[tuple[int, dict[str, Any], list[str], str]] = []
    size = 0
    for line, record in records:
        tokens = record.get(key)
        if not isinstance(tokens, list) or not token_list(tokens) or not any(tokens):
            log.add("bad-record", f"no list of tokens under {key!r}; the record is left out", line)
            continue
        clean = [join_surrogates(token, log, line) for token in tokens]
        if joiner is not None:
            yield line, record, TokenText(clean, joiner)
            continue
        waiting.append((line, record, clean, log.id))
        size += len(clean)
        if size >= _SAMPLE:
            joiner = find_joiner([token for one in waiting for token in one[2]])
            yield from _released(waiting, joiner, log)
            waiting = []
    if waiting:
        yield from _released(waiting, find_joiner([token for one in waiting for token in one[2]]), log)


def _released(
    waiting: Sequence[tuple[int, dict[str, Any], list[str], str]], joiner: str, log: IssueLog
) -> Iterator[tuple[int, dict[str, Any], TokenText]]:
    for line, record, tokens, log.id in waiting:
        yield line, record, TokenText(tokens, joiner)
