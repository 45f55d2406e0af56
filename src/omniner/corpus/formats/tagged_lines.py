"""One sentence per line, followed by a tab and its tags: one for each token, or character.

    我爱北京<tab>O O B-地点 I-地点

Tokens are separated by spaces or by the control character U+0002 of PaddleNLP, or are the characters of the text; the
way in which most lines of the file have as many tokens as tags is used. Other lines are left out and are issues. A
header row (`text_a<tab>label`) is left out, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import IssueLog, join_surrogates, quote, read_lines
from omniner.corpus.formats.tags import find_joiner, is_tag_list, read_tags, tagged_sentence
from omniner.records import Issue, Sentence
from omniner.registry import first_line
from omniner.wording import counted

_UNIT = "\x02"  # between tokens and tags in data sets of PaddleNLP
_WAYS: tuple[Callable[[str], list[str]], ...] = (  # ways to split a text into tokens; the first of equals is used
    lambda text: text.split(_UNIT),
    lambda text: text.split(),
    lambda text: list(text),
    lambda text: list(text.strip()),
    lambda text: text.split("\t")[-1].split(),
)


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty. Of `options`, the scheme and the joiner are used."""
    log = IssueLog(path)
    lines: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(read_lines(path, log), 1):
        text, _, last = line.removeprefix("\ufeff").rpartition("\t")
        tags = last.split(_UNIT) if _UNIT in last else last.split()
        if line.strip() and (number > 1 or len(tags) != 1 or is_tag_list(f"{last} O")):
            lines.append((number, text.strip("\t"), tags))
    way = max(_WAYS, key=lambda way: sum(_fits(way(text), tags) for _, text, tags in lines))
    found: list[tuple[int, list[str], list[str]]] = []
    for number, text, tags in lines:
        tokens = way(text)
        if _fits(tokens, tags):
            found.append((number, [join_surrogates(token, log, number) for token in tokens], tags))
        else:
            log.add(
                "bad-record",
                f"{counted(len(tags), 'tag')}, {counted(len(tokens), 'token')} in {quote(text)}; left out",
                number,
            )
    known = read_tags(Counter(tag for _, _, tags in found for tag in tags), options.scheme, log)
    joiner = options.joiner
    if joiner is None:
        joiner = find_joiner([token for _, tokens, _ in found[:400] for token in tokens])
    sentences = []
    for number, tokens, tags in found:
        rows = [(number, token, tag) for token, tag in zip(tokens, tags, strict=True)]
        sentences.append(tagged_sentence(rows, known, joiner, log))
    return sentences, log.items


def _fits(tokens: list[str], tags: list[str]) -> bool:
    """Whether there are tokens, and as many as tags."""
    return len(tokens) == len(tags) and any(tokens)


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise lists of tags after tabs."""
    last = [line.rpartition("\t")[2].replace(_UNIT, " ") for line in excerpt.lines if "\t" in line]
    lists = sum(map(is_tag_list, last))
    if lists and 2 * lists >= len(excerpt.lines):
        return Match(65, f"a text and its tags a line; {lists:,} of {len(excerpt.lines):,} sampled lines fit")
    return None


FORMAT = Format(
    name="tagged_lines", meaning=first_line(__doc__), read=read, write=None, suffix=".tsv", sniff_lines=sniff_lines
)
