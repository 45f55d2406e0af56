"""CoNLL columns: one token and tag per line, a blank line after each sentence; BIO, BIOES, BMES and their relatives.

`columns` detects which columns hold tags and tokens, `tags` interprets the tags. A blank line may contain tabs or
spaces. A line that begins with `#` and is not a row is a comment, whose `sent_id`, `id` or `newdoc id` names the
sentence or the post; `-DOCSTART-` begins a post, too.

Two repairs are for Weibo: two lines with the halves of a surrogate pair become the original emoji, and two lines with
lost halves (two U+FFFD each) become one U+FFFD, so that offsets are the same in both releases.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.columns import (
    BLANKS,
    DOCUMENT,
    LABEL_STUDIO,
    SEPARATOR_NAMES,
    SEPARATORS,
    Layout,
    find_layout,
    is_comment,
    layout_of,
    sample_rows,
    strip_end,
)
from omniner.corpus.formats.excerpt import Excerpt
from omniner.corpus.formats.fields import IssueLog, UnreadParts, join_surrogates, labeled_only, quote, read_lines
from omniner.corpus.formats.regions import sort_entities
from omniner.corpus.formats.tags import (
    NO_TAG,
    SCHEMES,
    Row,
    TagSet,
    bare_tag,
    find_joiner,
    is_tag,
    read_tags,
    starts_like_iob1,
    tagged_sentence,
)
from omniner.errors import UserError
from omniner.files import writing
from omniner.progress import Progress
from omniner.records import Issue, Sentence, unlabeled_sentence
from omniner.registry import first_line

_LOST_HALF = "\ufffd\ufffd"
_SAMPLE = 400  # sentences examined to detect the joiner
# Tag letters by position in an entity, for writing: single, first, inside, last.
_LETTERS = {"bio": "BBII", "bios": "SBII", "bioes": "SBIE", "bmes": "SBME"}
_UNWRITABLE = re.compile("[\n\r\ud800-\udfff]")
_COMMENT_ID = re.compile(r"#+\s*(?:sent_id|sentence_id|id)\b\s*+[=:]?\s*+(\S+)")
_COMMENT_POST = re.compile(r"#+\s*newdoc(?:\s+id)?\s*+[=:]?\s*+(\S+)")


class Block(NamedTuple):
    """The rows of a sentence; id and post come from comments and document marks."""

    id: str
    post_id: str | None
    rows: list[Row]


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids come from comments, or are empty. Without any tag column the sentences are unlabeled.

    Options left to detection are decided from the first sentences: a digit after every token is a word position, and
    tokens of more than 1.5 characters on average are words, joined by spaces unless they are Chinese.
    """
    log = IssueLog(path)
    lines = read_lines(path, log)
    layout = layout_of(lines, options, path)

    def rows_again() -> Iterator[list[Row]]:
        """The rows of each sentence, without issues: reading them again takes less than the memory for all of them."""
        return (block.rows for block in _blocks(lines, layout, IssueLog(path)))

    counts = Counter(tag for rows in rows_again() for _, _, tag in rows)
    known = _read_tags(counts, rows_again, options, log)
    first = list(islice(rows_again(), _SAMPLE))
    glued, joiner = options.glued_positions, options.joiner
    looks_glued = _looks_glued(first[:20])
    if glued is None:
        glued = looks_glued
    if joiner is None:
        sample = [token for rows in first for _, token, _ in rows]
        joiner = find_joiner([token.rstrip("0123456789") for token in sample] if glued else sample)
    if looks_glued and not glued:
        message = "every token ends in a digit, like a word position: is data.glued_positions=true meant?"
        log.add("positions-glued", message)
    tagged = counts.keys() != {NO_TAG}
    sentences = []
    progress = Progress(f"lines of {path.name} read", len(lines))
    for name, post_id, rows in _blocks(lines, layout, log):
        log.id = name
        if glued:
            rows = [_unglue(row, log) for row in rows]
        if not joiner:
            rows = _join_halves(rows, log)
        rows = [(number, join_surrogates(token, log, number), tag) for number, token, tag in rows]
        if tagged:
            sentence = tagged_sentence(rows, known, joiner, log)
        else:
            sentence = unlabeled_sentence("", joiner.join(token for _, token, _ in rows))
        sentence.id, sentence.post_id = name, post_id
        sentences.append(sentence)
        log.id = ""
        progress.add(rows[-1][0] - progress.done)
    log.items.sort(key=lambda issue: issue.line)
    return sentences, log.items


def _read_tags(
    counts: Counter[str], rows_again: Callable[[], Iterator[list[Row]]], options: ReadOptions, log: IssueLog
) -> TagSet:
    """Decode the tags of a file.

    Args:
        counts: how often each occurs.
        rows_again: returns the rows of each sentence, from the first sentence on.
        options: their scheme is used.
        log: gets the issues.

    Raises:
        UserError: none of them is a tag.
    """
    known = read_tags(counts, options.scheme, log)
    said = counts.keys() - {"O", "o", NO_TAG}
    if said and all(known.tags[tag].code for tag in said):
        number, token, tag = next(row for rows in rows_again() for row in rows if row[2] in said)
        found = f"no column of tags: {quote(tag)} behind {quote(token)} is none"
        fix = (
            "Set data.tag_column to the column of tags, data.scheme=io where tags are categories alone; in a file of "
            "predictions leave one column of tags, the last."
        )
        raise UserError(f"{log.file}:{number}", found, fix)
    if options.scheme == "auto" and known.scheme == "bio" and starts_like_iob1(rows_again(), known):
        known = read_tags(counts, "iob1", IssueLog(Path(log.file)))
    return known


def _blocks(lines: Sequence[str], layout: Layout, log: IssueLog) -> Iterator[Block]:
    """Yield the sentences; documents, if the file marks them, become posts."""
    rows: list[Row] = []
    name, document, documents = "", None, 0
    unread = UnreadParts()
    plain = layout.token == 0 and layout.tag in (None, -1) and layout.separator != BLANKS
    row_of: Callable[[str], tuple[str, str] | None] = _first_and_last(layout) if plain else _columns(layout)
    separator = layout.separator or "\t"
    for number, line in enumerate(lines, 1):
        if plain:  # the fast path for nearly all rows
            token, _, tag = line.partition(separator)
            if tag and token and token[0] not in "#-\ufeff" and separator not in tag:
                rows.append((number, token, tag))
                continue
        if line[:1] == "\ufeff" and line[1:2] != separator:
            line = line[1:]  # a byte order mark; if the separator follows, it is the first token
        if not line.strip(" \t\r"):
            if rows:
                yield Block(name, document, rows)
                rows, name = [], ""
            continue
        if line[0] == "#" and is_comment(line, layout):
            if match := _COMMENT_POST.match(line):
                document = match[1]
            elif match := _COMMENT_ID.match(line):
                name = match[1] if not rows else name
            continue
        if line.startswith(DOCUMENT):
            if rows:
                yield Block(name, document, rows)
                rows, name = [], ""
            documents += 1
            document = f"{Path(log.file).name}#{documents}"
            continue
        row = row_of(line)
        if row is None:
            unread.note("rows of several words, or of none", number)
        elif not row[0]:
            log.add("empty-token", f"no token before the tag in {quote(line)}; left out", number)
        else:
            rows.append((number, *row))
    if rows:
        yield Block(name, document, rows)
    unread.report(log)


def _first_and_last(layout: Layout) -> Callable[[str], tuple[str, str] | None]:
    """Return the function that splits a line whose first column is the token and whose last is the tag."""
    separator = layout.separator

    def row(line: str) -> tuple[str, str] | None:
        parts = line.split(separator)
        if len(parts) > 2:
            if not parts[-1].strip():  # the separator also ends the line
                parts.pop()
            if parts[0] == "":  # the token is the separator itself
                parts[:2] = [separator]
        if len(parts) == 1 and layout.tag is not None and separator != LABEL_STUDIO:  # other white space
            other = line.split()
            if len(other) > 1 and is_tag(other[-1]):
                return other[0], other[-1]
        return parts[0], parts[-1] if len(parts) > 1 else NO_TAG

    return row


def _columns(layout: Layout) -> Callable[[str], tuple[str, str] | None]:
    """Return the function that reads token and tag of a line from their columns."""
    numbered = layout.token == 1 and layout.tag != 0

    def row(line: str) -> tuple[str, str] | None:
        parts = [part.strip() for part in layout.split(line)]
        if numbered and ("-" in parts[0] or "." in parts[0]):
            return None  # CoNLL-U: a line of several words, or an empty word
        tag = layout.tag if layout.tag is not None else -1
        token = parts[layout.token] if layout.token < len(parts) else ""
        return token, parts[tag] if -len(parts) <= tag < len(parts) and len(parts) > 1 else NO_TAG

    return row


def _looks_glued(sentences: Sequence[Sequence[Row]]) -> bool:
    """Whether all tokens look like `科0`: a character and a digit may be a coincidence in some tokens, not in all."""
    tokens = [token for rows in sentences for _, token, _ in rows]
    return len(tokens) > 1 and all(len(t) > 1 and t[-1] in "0123456789" for t in tokens)


def _unglue(row: Row, log: IssueLog) -> Row:
    """Remove a position of one or two digits, keeping at least one character: `p10` is `p`, `011` is `0` at position
    11.
    """
    number, token, tag = row
    digits = "0123456789"
    if len(token) < 2 or token[-1] not in digits:
        log.add("no-position", f"{quote(token)} has no word position behind it; kept as it is", number)
        return row
    two = len(token) > 2 and token[-2] in digits
    return number, token[: -2 if two else -1], tag


def _join_halves(rows: list[Row], log: IssueLog) -> list[Row]:
    """Merge two rows that hold the halves of a character; the pair gets the first tag that is not `O`."""
    if not any("\ud800" <= token <= "\udfff" or token == _LOST_HALF for _, token, _ in rows):
        return rows
    joined: list[Row] = []
    index = 0
    while index < len(rows):
        number, token, tag = rows[index]
        index += 1
        following = rows[index][1] if index < len(rows) else ""
        high = len(token) == 1 and "\ud800" <= token <= "\udbff"
        if high and len(following) == 1 and "\udc00" <= following <= "\udfff":
            pair = (token + following).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
            log.add("split-emoji", f"{pair} stood on two lines, half on each; joined", number)
        elif token == _LOST_HALF:
            pair = "\ufffd"
            log.add("lost-emoji", "a character whose halves were lost; one U+FFFD stands for it", number)
        else:
            joined.append((number, token, tag))
            continue
        if following and (high or following == _LOST_HALF):
            if tag in ("O", NO_TAG):
                tag = rows[index][2]
            index += 1
        joined.append((number, pair, tag))
    return joined


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write one file atomically.

    Columns hold one layer: of overlapping entities the first by position is written. Entities that are left out are
    issues (overlapping, without offsets, or with an end inside a token), and so are sentences without labels.
    """
    scheme, joiner = options.scheme, options.joiner
    if scheme not in SCHEMES:
        raise UserError("scheme", f"no tag scheme is called {scheme!r}", f"Use {', '.join(SCHEMES)}.")
    if options.separator not in SEPARATORS:
        raise UserError("separator", f"{options.separator!r} cannot be written", f"Use {', '.join(SEPARATORS)}.")
    log = IssueLog(path)
    between = SEPARATORS[options.separator]
    with writing(path) as file:
        for sentence in labeled_only(sentences, log):
            tokens = sentence.text.split(joiner) if joiner else list(sentence.text)
            if not all(tokens):
                log.add("empty-token", "the text gives an empty token; the sentence is left out", id=sentence.id)
                continue
            tags = _tags(sentence, tokens, joiner, between, _LETTERS[scheme], log)
            for token, tag in zip(tokens, tags, strict=True):
                file.write(f"{_writable(token, between, sentence.id, log)}{between}{tag}\n")
            file.write("\n" if tokens else "")
            if not tokens:
                log.add("empty-text", "a sentence without a character; left out", id=sentence.id)
    return log.items


def _writable(token: str, separator: str, id: str, log: IssueLog) -> str:
    """Replace characters that a column cannot hold by U+FFFD, which keeps the length.

    These are newlines, lone surrogates, and the separator, unless the token is only the separator.
    """
    parting = {"\n"} if token == separator else {"\n", separator}
    if (token.isascii() or token.isprintable()) and parting.isdisjoint(token):  # half a surrogate pair is not printable
        return token
    clean = "".join("\ufffd" if c in parting or "\ud800" <= c <= "\udfff" else c for c in token)
    if clean != token:
        log.add("unwritable-character", f"{quote(token)} cannot stand in a column; U+FFFD stands for it", id=id)
    return clean


def _tags(sentence: Sentence, tokens: list[str], joiner: str, separator: str, letters: str, log: IssueLog) -> list[str]:
    """Return the tag of each token. The result depends on the offsets of entities, not on their order."""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    position = 0
    for index, token in enumerate(tokens):
        starts[position] = index
        position += len(token)
        ends[position] = index
        position += len(joiner)
    tags = ["O"] * len(tokens)
    taken = 0  # tokens before this one already belong to an entity
    for entity in sort_entities(sentence.entities):
        if entity.start is None or entity.end is None:
            log.add("no-offsets", f"{entity.category} {quote(entity.text)} has no place", id=sentence.id)
            continue
        if separator in entity.category or _UNWRITABLE.search(entity.category):
            log.add("unwritable-category", f"{quote(entity.category)} cannot stand in a column", id=sentence.id)
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


def sniff_lines(excerpt: Excerpt) -> Match | None:
    """Recognise columns of tokens and tags, or lines of one character each."""
    lines = excerpt.lines
    layout = find_layout(lines)
    if layout.tag is not None:
        rows = [strip_end(layout.split(line)) for line in sample_rows(lines)]
        tags = Counter(bare_tag(row[layout.tag]) for row in rows if len(row) > max(1, layout.tag))
        known = read_tags(tags, "auto", IssueLog(Path()))
        why = f"a token and a tag a line ({SEPARATOR_NAMES[layout.separator]}; {known.scheme}"
        why += (
            ")"
            if layout.notation == "prefix"
            else f"; tags with a {layout.notation} alone)"
            if (layout.notation in ("letter", "category"))
            else "; letters behind the categories)"
        )
        fitting = sum(count for tag, count in tags.items() if not known.tags[tag].code)
        why += f"; {fitting:,} of {len(rows):,} sampled lines fit"
        if all(re.fullmatch(r".{1,2}\d", row[layout.token]) for row in rows if len(row) > layout.token):
            why += "; word positions behind the characters: needs data.glued_positions=true"
        return Match(50 if layout.notation in ("prefix", "suffix") else 40, why)
    if len(lines) > 1 and sum(len(line) == 1 for line in lines) >= 0.9 * len(lines):
        return Match(50, "one character a line, without tags")
    return None


FORMAT = Format(
    name="conll", meaning=first_line(__doc__), read=read, write=write, suffix=".txt", sniff_lines=sniff_lines
)
