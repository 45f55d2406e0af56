"""Plain text without labels, one sentence per line; used only if a file clearly is prose, or on request."""

from __future__ import annotations

from pathlib import Path

from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import IssueLog, join_surrogates, read_lines
from omniner.corpus.formats.lookalikes import find_lookalike
from omniner.records import Issue, Sentence, unlabeled_sentence
from omniner.registry import first_line


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; blank lines are not sentences. `options` are ignored."""
    log = IssueLog(path)
    sentences = []
    for number, line in enumerate(read_lines(path, log), 1):
        text = line.removeprefix("\ufeff") if number == 1 else line
        if text.strip():
            sentences.append(unlabeled_sentence("", join_surrogates(text, log, number)))
    return sentences, log.items


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise prose: text that looks like no other format."""
    return None if find_lookalike(excerpt) else Match(10, "prose, one sentence a line, without labels")


FORMAT = Format(name="text", meaning=first_line(__doc__), read=read, write=None, suffix=".txt", sniff_lines=sniff_lines)
