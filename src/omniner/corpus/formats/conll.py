"""CoNLL columns: a token and its tag a line, a blank line after each sentence; BIO, BIOS, BIOES or BMES.

The first column is the token, the last the tag. A blank line may hold tabs or spaces. One rule decodes all schemes, as
the CoNLL evaluation script has it: `B S` start an entity, `E S` end it, and `I M E` that continue nothing of their
category start one too (`orphan-inside`). An entity of a scheme with an end tag that never meets it counts as well
(`unfinished-entity`), so an entity cut by a sentence's end gives two. The scheme only says which tags are foreign.

Two repairs, both for Weibo: half of a surrogate pair on each of two lines becomes the emoji it was, and two lines of
lost halves (two U+FFFD each) become one U+FFFD, so that offsets are the same in both releases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from omniner.corpus.formats import Format, Match, ReadOptions, WriteOptions
from omniner.corpus.formats.fields import (
    FileHead,
    IssueLog,
    join_surrogates,
    labeled_only,
    quote,
    read_lines,
    sort_entities,
)
from omniner.errors import UserError
from omniner.files import writing
from omniner.records import Entity, Issue, Sentence, unlabeled_sentence
from omniner.registry import first_line

Row = tuple[int, str, str]  # line number, token, tag

# First letters of the tags of each scheme besides O; L and U are the BILOU names of E and S.
SCHEMES = {"bio": "BI", "bio2": "BI", "bios": "BIS", "bioes": "BIESLU", "bmes": "BMES"}
SEPARATORS = {"tab": "\t", "space": " "}
_STARTS, _INSIDE, _ENDS = frozenset("BSU"), frozenset("IMEL"), frozenset("ESLU")
_LOST_HALF = "\ufffd\ufffd"
_DOCUMENT = "-DOCSTART-"
_SAMPLE = 400  # lines looked at to find out the separator, sentences to find out the joiner
# Tag letters by the place in an entity, for writing: alone, first, inside, last.
_LETTERS = {"bio": "BBII", "bio2": "BBII", "bios": "SBII", "bioes": "SBIE", "bmes": "SBME"}
_UNWRITABLE = re.compile("[\n\r\ud800-\udfff]")
NO_TAG = ""  # of a row without a tag column


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty. Without a tag column anywhere the sentences are unlabeled.

    What `options` leave to find out is taken from the first sentences: a digit behind every token is a word position,
    and tokens of more than one character (on average, of more than 1.5) are words with spaces between them.
    """
    log = IssueLog(path)
    lines = read_lines(path, log)
    if options.separator not in ("auto", *SEPARATORS):
        raise UserError("data.separator", f"{options.separator!r} is unknown", "Use auto, tab or space.")
    separator = find_separator(lines) if options.separator == "auto" else SEPARATORS[options.separator]
    blocks = list(_blocks(lines, separator, log))
    kinds = {tag for _, rows in blocks for _, _, tag in rows}
    tagged = kinds != {NO_TAG}
    scheme = options.scheme if options.scheme != "auto" else scheme_of(kinds)
    if scheme not in SCHEMES:
        raise UserError("data.scheme", f"no tag scheme is called {scheme!r}", f"Use auto, {', '.join(SCHEMES)}.")
    if not tagged and find_separator(lines) in lines[0] and find_separator(lines) != separator:
        raise UserError("data.separator", f"{options.separator} parts no token from its tag in {path}", "Use auto.")
    tags = {tag: _parse_tag(join_surrogates(tag, log, 0), scheme) for tag in sorted(kinds)}
    glued, joiner = options.glued_positions, options.joiner
    looks_glued = _looks_glued(blocks)
    if glued is None:
        glued = looks_glued
    if joiner is None:
        lengths = [len(token) - glued for _, rows in blocks[:_SAMPLE] for _, token, _ in rows]
        joiner = " " if sum(lengths) > 1.5 * len(lengths) else ""
    if looks_glued and not glued:
        message = "every token ends in a digit, like a word position: is data.glued_positions=true meant?"
        log.add("positions-glued", message)
    sentences = []
    for post_id, rows in blocks:
        if glued:
            rows = [_unglue(row, log) for row in rows]
        if not joiner:
            rows = _join_halves(rows, log)
        rows = [(number, join_surrogates(token, log, number), tag) for number, token, tag in rows]
        if not tagged:
            sentence = unlabeled_sentence("", joiner.join(token for _, token, _ in rows))
        else:
            sentence = _decode(rows, tags, scheme, joiner, log)
        sentence.post_id = post_id
        sentences.append(sentence)
    log.items.sort(key=lambda issue: issue.line)
    return sentences, log.items


def find_separator(lines: Sequence[str]) -> str:
    """Find the separator that leaves a tag behind it on nearly all of the first lines: tab, space or comma."""
    sample = [line for line in lines[:_SAMPLE] if line.strip(" \t")]
    for separator in ("\t", " ", ","):
        fitting = sum(separator in line and is_tag(line.rpartition(separator)[2]) for line in sample)
        if sample and fitting >= 0.9 * len(sample):
            return separator
    return "\t"


def is_tag(text: str) -> bool:
    """Tell whether a column reads like a tag of any scheme: `O`, `B-PER`, `S_LOC`."""
    return text == "O" or (len(text) > 2 and text[1] in "-_" and text[0] in "BIMESLU")


def scheme_of(tags: set[str]) -> str:
    """Give the smallest scheme that has the first letters of all these tags."""
    letters = {tag[0] for tag in tags if is_tag(tag) and tag != "O"}
    if "M" in letters:
        return "bmes"
    if letters & {"E", "L", "U"}:
        return "bioes" if "I" in letters or letters & {"L", "U"} else "bmes"
    return "bios" if "S" in letters else "bio"


def _blocks(lines: Sequence[str], separator: str, log: IssueLog) -> Iterator[tuple[str | None, list[Row]]]:
    """`(post id, rows)` per sentence; documents, where the file marks them, become posts."""
    rows: list[Row] = []
    document: str | None = None
    documents = 0
    for number, line in enumerate(lines, 1):
        if number == 1 and line[:1] == "\ufeff" and line[1:2] != separator:
            line = line[1:]  # a byte order mark; with the separator behind it, it is the first token
        if not line.strip(" \t\r"):
            if rows:
                yield document, rows
                rows = []
            continue
        if line.startswith(_DOCUMENT):
            documents += 1
            document = f"{Path(log.file).name}#{documents}"
            continue
        parts = line.split(separator)
        if len(parts) > 2:
            if parts[-1] == "":  # the separator also ends the line
                parts.pop()
            if parts[0] == "":  # the token is the separator itself
                parts[:2] = [separator]
        if not parts[0]:
            log.add("empty-token", f"no token before the tag in {quote(line)}; left out", number)
        elif len(parts) == 1 or not parts[-1]:
            rows.append((number, parts[0], NO_TAG))
        else:
            rows.append((number, parts[0], parts[-1]))
    if rows:
        yield document, rows


def _parse_tag(tag: str, scheme: str) -> tuple[str, str, str]:
    """`(first letter, category, code of the issue or "")`; what is no tag counts as `O`."""
    if tag == "O":
        return "O", "", ""
    if tag == NO_TAG:
        return "O", "", "no-tag"
    if not is_tag(tag):
        return "O", "", "bad-tag"
    return tag[0], tag[2:], "" if tag[0] in SCHEMES[scheme] else "foreign-tag"


def _looks_glued(blocks: list[tuple[str | None, list[Row]]]) -> bool:
    """Tokens like `科0`: a letter and a digit could be a coincidence in a few of them, not in all."""
    tokens = [token for _, rows in blocks[:20] for _, token, _ in rows]
    return len(tokens) > 1 and all(len(t) > 1 and t[-1] in "0123456789" for t in tokens)


def _unglue(row: Row, log: IssueLog) -> Row:
    """Take off a position of one or two digits, leaving a character: `p10` is `p`, `011` is `0` at place 11."""
    number, token, tag = row
    digits = "0123456789"
    if len(token) < 2 or token[-1] not in digits:
        log.add("no-position", f"{quote(token)} has no word position behind it; kept as it is", number)
        return row
    two = len(token) > 2 and token[-2] in digits
    return number, token[: -2 if two else -1], tag


def _join_halves(rows: list[Row], log: IssueLog) -> list[Row]:
    """Make one character of two rows that hold its halves; the pair's tag is the first one that is not `O`."""
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


def _decode(
    rows: list[Row], tags: dict[str, tuple[str, str, str]], scheme: str, joiner: str, log: IssueLog
) -> Sentence:
    """One sentence from its rows; offsets count the joiner between tokens."""
    text = joiner.join([token for _, token, _ in rows])
    runs = _runs(rows, tags, scheme, log)
    if not runs:
        return Sentence("", text)
    starts, position = [], 0
    for _, token, _ in rows:
        starts.append(position)
        position += len(token) + len(joiner)
    entities = []
    for first, last, category, letter in runs:
        start, end = starts[first], starts[last] + len(rows[last][1])
        entities.append(Entity(text[start:end], category, start, end))
        if "E" in SCHEMES[scheme] and letter not in _ENDS:
            log.add("unfinished-entity", f"{category} {quote(text[start:end])} has no end tag", rows[first][0])
    return Sentence("", text, entities)


def _runs(
    rows: list[Row], tags: dict[str, tuple[str, str, str]], scheme: str, log: IssueLog
) -> list[tuple[int, int, str, str]]:
    """`(first row, last row, category, letter of the last tag)` of each entity."""
    runs: list[tuple[int, int, str, str]] = []
    current = ""  # category of the entity that the next row may continue
    for index, (number, token, tag) in enumerate(rows):
        letter, category, code = tags[tag]
        if code:
            why = f"which {scheme} has not" if code == "foreign-tag" else "taken as O"
            log.add(code, f"{quote(token)} has the tag {quote(tag)}, {why}", number)
        if letter == "O":
            current = ""
            continue
        if letter in _STARTS or category != current:
            if letter in _INSIDE:
                log.add("orphan-inside", f"{tag} continues nothing; it starts an entity", number)
            runs.append((index, index, category, letter))
        else:
            runs[-1] = (runs[-1][0], index, category, letter)
        current = "" if letter in _ENDS else category
    return runs


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write one file, whole or not at all.

    Columns hold one layer: of entities that overlap the first by place is written. Those that are left out, for that,
    for want of offsets or because they begin or end inside a token, are issues, and so are sentences without labels.
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


def _tags(sentence: Sentence, tokens: list[str], joiner: str, separator: str, letters: str, log: IssueLog) -> list[str]:
    """The tag of each token. The order of entities does not matter, their places do."""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    position = 0
    for index, token in enumerate(tokens):
        starts[position] = index
        position += len(token)
        ends[position] = index
        position += len(joiner)
    tags = ["O"] * len(tokens)
    taken = 0  # tokens before this one belong to an entity already
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


def sniff_lines(head: FileHead) -> Match | None:
    """Recognise rows that end in a tag, or lines of one character each."""
    lines = head.lines
    separator = find_separator(lines)
    last = [line.rpartition(separator)[2] for line in lines]
    if sum(map(is_tag, last)) >= 0.9 * len(lines):
        if all(separator not in line for line in lines):
            return None  # a text of lines that happen to be "O"
        name = next((name for name, known in SEPARATORS.items() if known == separator), repr(separator))
        why = f"a token and a tag a line ({name}; {scheme_of(set(last))})"
        if all(re.fullmatch(r".{1,2}\d", line.split(separator)[0]) for line in lines):
            why += "; word positions behind the characters: needs data.glued_positions=true"
        return Match(50, why)
    if len(lines) > 1 and sum(len(line) == 1 for line in lines) >= 0.9 * len(lines):
        return Match(50, "one character a line, without tags")
    return None


FORMAT = Format(
    name="conll", meaning=first_line(__doc__), read=read, write=write, suffix=".txt", sniff_lines=sniff_lines
)
