"""A sentence a line, and its tags behind a tab: as many as it has tokens, or characters.

    我爱北京<tab>O O B-地点 I-地点

The tokens are what stands between blanks, or between the control characters U+0002 of PaddleNLP, or the characters of
the text. A header row (`text_a<tab>label`) is left out. Lines whose tokens and tags are not as many are issues.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import IssueLog, join_surrogates, quote, read_lines
from omniner.corpus.formats.tags import find_joiner, is_tag_list, read_tags, tagged_sentence
from omniner.records import Issue, Sentence
from omniner.registry import first_line

_UNIT = "\x02"  # between tokens and tags in data sets of PaddleNLP


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty. Of `options` the scheme and the joiner count."""
    log = IssueLog(path)
    found: list[tuple[int, list[str], list[str]]] = []
    for number, line in enumerate(read_lines(path, log), 1):
        text, _, last = line.removeprefix("\ufeff").rpartition("\t")
        tags = last.split(_UNIT) if _UNIT in last else last.split()
        if not line.strip() or (number == 1 and len(tags) == 1 and not is_tag_list(f"{last} O")):
            continue
        tokens = _tokens(text, len(tags))
        if tokens is None:
            message = f"{len(tags)} tags, and not as many tokens in {quote(text)}; left out"
            log.add("bad-record", message, number)
            continue
        found.append((number, [join_surrogates(token, log, number) for token in tokens], tags))
    known = read_tags(Counter(tag for _, _, tags in found for tag in tags), options.scheme, log)
    joiner = options.joiner
    if joiner is None:
        joiner = find_joiner([token for _, tokens, _ in found[:400] for token in tokens])
    sentences = []
    for number, tokens, tags in found:
        rows = [(number, token, tag) for token, tag in zip(tokens, tags, strict=True)]
        sentences.append(tagged_sentence(rows, known, joiner, log))
    return sentences, log.items


def _tokens(text: str, count: int) -> list[str] | None:
    """As many tokens as there are tags, in the first way that gives them."""
    text = text.strip("\t")
    for tokens in (text.split(_UNIT), text.split(), list(text), list(text.strip()), text.split("\t")[-1].split()):
        if len(tokens) == count and any(tokens):
            return tokens
    return None


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise lists of tags behind tabs."""
    last = [line.rpartition("\t")[2].replace(_UNIT, " ") for line in excerpt.lines if "\t" in line]
    lists = sum(map(is_tag_list, last))
    if lists and 2 * lists >= len(excerpt.lines):
        return Match(65, f"a text and its tags a line; {lists:,} of {len(excerpt.lines):,} sampled lines fit")
    return None


FORMAT = Format(
    name="tagged_lines", meaning=first_line(__doc__), read=read, write=None, suffix=".tsv", sniff_lines=sniff_lines
)
