"""Writing CoNLL columns in any scheme: what `conll.read` reads back is what was written.

Columns hold one layer of labels: of entities that overlap, the first by place is written; the others, those without
offsets and those that begin inside a token are issues. The file is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omniner.corpus.formats.common import IssueLog, in_order, quote
from omniner.corpus.formats.conll import SCHEMES, SEPARATORS
from omniner.errors import UserError
from omniner.files import writing
from omniner.records import Issue, Sentence

# Tag letters by the place in an entity: alone, first, inside, last.
_LETTERS = {"bio": "BBII", "bio2": "BBII", "bios": "SBII", "bioes": "SBIE", "bmes": "SBME"}


def write(path: str | Path, sentences: Sequence[Sentence], *, scheme: str, separator: str, joiner: str) -> list[Issue]:
    """Write one file and return what the columns could not hold.

    Args:
        path: the file.
        sentences: with entities that have offsets.
        scheme: bio, bio2, bios, bioes or bmes.
        separator: tab or space.
        joiner: what stands between the tokens in the texts; empty makes each character a token.
    """
    if scheme not in SCHEMES:
        raise UserError("scheme", f"no tag scheme is called {scheme!r}", f"Use {', '.join(SCHEMES)}.")
    if separator not in SEPARATORS:
        raise UserError("separator", f"{separator!r} cannot be written", f"Use {', '.join(SEPARATORS)}.")
    log = IssueLog(Path(path))
    between = SEPARATORS[separator]
    with writing(path) as file:
        for sentence in sentences:
            tokens = sentence.text.split(joiner) if joiner else list(sentence.text)
            if not all(tokens):
                log.add("empty-token", "the text gives an empty token; the sentence is left out", id=sentence.id)
                continue
            tags = _tags(sentence, tokens, len(joiner), _LETTERS[scheme], log)
            for token, tag in zip(tokens, tags, strict=True):
                file.write(f"{_writable(token, sentence.id, log)}{between}{tag}\n")
            file.write("\n" if tokens else "")
            if not tokens:
                log.add("empty-text", "a sentence without a character; left out", id=sentence.id)
    return log.items


def _writable(token: str, id: str, log: IssueLog) -> str:
    """A newline would end the row and a lone surrogate is not UTF-8: both become U+FFFD, same length."""
    if token.isascii() and "\n" not in token:
        return token
    clean = "".join("\ufffd" if c == "\n" or "\ud800" <= c <= "\udfff" else c for c in token)
    if clean != token:
        log.add("unwritable-character", f"{quote(token)} cannot stand in a column; U+FFFD stands for it", id=id)
    return clean


def _tags(sentence: Sentence, tokens: list[str], step: int, letters: str, log: IssueLog) -> list[str]:
    """The tag of each token. The order of entities does not matter, their places do."""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    position = 0
    for index, token in enumerate(tokens):
        starts[position] = index
        position += len(token)
        ends[position] = index
        position += step
    tags = ["O"] * len(tokens)
    taken = 0  # tokens before this one belong to an entity already
    for entity in in_order(sentence.entities):
        if entity.start is None or entity.end is None:
            log.add("no-offsets", f"{entity.category} {quote(entity.text)} has no place", id=sentence.id)
            continue
        first, last = starts.get(entity.start), ends.get(entity.end)
        if first is None or last is None:
            log.add("inside-token", f"{entity.category} {quote(entity.text)} cuts a token", id=sentence.id)
            continue
        if first < taken:
            log.add("overlap", f"{entity.category} {quote(entity.text)} overlaps another one", id=sentence.id)
            continue
        for index in range(first, last + 1):
            kind = 0 if first == last else 1 if index == first else 3 if index == last else 2
            tags[index] = f"{letters[kind]}-{entity.category}"
        taken = last + 1
    return tags
