"""Texts that files hold as lists of tokens, and entities that are given by tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omniner.corpus.formats.fields import IssueLog, join_surrogates, quote
from omniner.corpus.formats.regions import sort_entities, without_repeats
from omniner.corpus.formats.tags import find_joiner
from omniner.records import Entity

_SAMPLE = 400  # tokens looked at to find out what stands between them


def token_list(value: object) -> bool:
    """Whether a value is a list of texts, and not of none."""
    return isinstance(value, list) and bool(value) and all(isinstance(token, str) for token in value)


@dataclass
class TokenText:
    """A text made of tokens; `starts` are where they begin in it."""

    LONGEST: ClassVar[int] = 10_000  # tokens of a mention

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
        self, mentions: Sequence[tuple[object, list[object]]], log: IssueLog, line: int
    ) -> list[Entity]:
        """Make entities of `(category, indices of the tokens)` each, by place; what is none is an issue."""
        found = (self._entity(category, indices, log, line) for category, indices in mentions)
        return sort_entities(without_repeats([entity for entity in found if entity], log, line))

    def _entity(self, category: object, indices: list[object], log: IssueLog, line: int) -> Entity | None:
        numbers = [index for index in indices if type(index) is int]
        if not isinstance(category, str) or not category or not numbers or len(numbers) != len(indices):
            log.add("bad-entity", f"{quote(category)} with the tokens {quote(indices)} is no mention; left out", line)
            return None
        first, last = numbers[0], numbers[-1]
        if not 0 <= first <= last < len(self.tokens):
            message = f"{category}: tokens {first} to {last} of {len(self.tokens)}; the entity is left out"
            log.add("offset-range", message, line)
            return None
        if numbers != list(range(first, last + 1)):
            message = f"{category}: the tokens {numbers[:8]} are not one stretch of text; left out"
            log.add("discontinuous", message, line)
            return None
        start, end = self.starts[first], self.starts[last] + len(self.tokens[last])
        if start == end:
            log.add("empty-entity", f"{category}: token {first} holds no character; left out", line)
            return None
        return Entity(self.text[start:end], join_surrogates(category, log, line), start, end)


def token_texts(
    records: Iterable[tuple[int, dict[str, Any]]], key: str, joiner: str | None, log: IssueLog
) -> Iterator[tuple[int, dict[str, Any], TokenText]]:
    """Yield `(line, record, text)` for each record with tokens; others are issues.

    Args:
        records: with their lines.
        key: of the tokens.
        joiner: what to put between tokens; None = find out from the first records.
        log: takes the issues.
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
