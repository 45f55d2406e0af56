"""Tables with one word and its tag per row under a header: `sentence_id,words,labels`, or Kaggle's NER table.

Kaggle's header is `Sentence #,Word,POS,Tag`. Rows of one sentence follow each other: its name is in each of them, or
only in the first. Without a column of sentences a blank row ends one. Columns that are neither words nor tags nor
sentences are not read: one issue for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from omniner.corpus.formats import Format, Match, ReadOptions
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import IssueLog, join_surrogates, quote
from omniner.corpus.formats.rows import header_of, table_cells
from omniner.corpus.formats.tags import Row, find_joiner, read_tags, tagged_sentence
from omniner.errors import UserError
from omniner.records import Issue, Sentence
from omniner.registry import first_line

_WORDS = ("word", "words", "token", "tokens", "character", "char", "字", "词")
_TAGS = ("labels", "label", "tag", "tags", "ner_tag", "ner_tags", "ner", "iob", "bio", "标签")
_SENTENCES = ("sentence_id", "sentence #", "sent_id", "sentence", "sentence_idx", "sentence_number", "doc_id")


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are those of the table. Of `options`, the scheme and the joiner are used."""
    log = IssueLog(path)
    sentences: list[tuple[str, list[Row]]] = []
    columns: tuple[str, str, str] | None = None
    last = 0
    for line, cells in table_cells(path, log):
        if columns is None:
            columns = _columns(list(cells))
            if columns is None:
                message = f"no column of words and one of tags among {quote(', '.join(cells))}"
                raise UserError(f"{path}:1", message, f"Call them `{_WORDS[0]}` and `{_TAGS[0]}`.")
            for name in cells:
                if name and name not in columns:
                    log.add("unknown-key", f"the column {quote(name)} is not read", 1)
        if not any(cells.values()):
            continue  # a blank row, of commas only
        word, tag, name = (cells.get(column, "") for column in columns)
        begins = (name and (not sentences or name != sentences[-1][0])) if columns[2] else line > last + 1
        if begins or not sentences:
            sentences.append((name, []))
        last = line
        if word:
            sentences[-1][1].append((line, join_surrogates(word, log, line), tag))
        else:
            log.add("empty-token", f"no word before the tag {quote(tag)}; left out", line)
    known = read_tags(Counter(tag for _, rows in sentences for _, _, tag in rows), options.scheme, log)
    joiner = options.joiner
    if joiner is None:
        joiner = find_joiner([word for _, rows in sentences[:400] for _, word, _ in rows])
    found = []
    for name, rows in sentences:
        if not rows:
            continue  # its only words are missing, which is already an issue
        sentence = tagged_sentence(rows, known, joiner, log)
        sentence.id = name
        found.append(sentence)
    return found, log.items


def _columns(header: Sequence[str]) -> tuple[str, str, str] | None:
    """Return the columns of words, tags and sentences (empty = none); None if it is not such a table."""
    lower = {name.lower(): name for name in header}
    word = next((lower[name] for name in _WORDS if name in lower), None)
    tag = next((lower[name] for name in _TAGS if name in lower), None)
    if word is None or tag is None:
        return None
    return word, tag, next((lower[name] for name in _SENTENCES if name in lower), "")


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise the header row."""
    header = header_of(excerpt)
    return Match(78, f"a table with {', '.join(header)}") if len(header) > 1 and _columns(header) else None


FORMAT = Format(
    name="word_table", meaning=first_line(__doc__), read=read, write=None, suffix=".csv", sniff_lines=sniff_lines
)
