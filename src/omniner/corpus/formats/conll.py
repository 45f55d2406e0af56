"""CoNLL columns: one token and its tag a line, a blank line after each sentence; BIO, BIOS, BIOES or BMES.

The first column is the token, the last the tag. A blank line may hold tabs or spaces. One rule decodes all schemes, as
the CoNLL evaluation script has it: `B S` start an entity, `E S` end it, and `I M E` that continue nothing of their
category start one too (`orphan-inside`). An entity of a scheme with an end tag that never meets it counts as well
(`unfinished-entity`), so an entity cut by a sentence's end gives two. The scheme only says which tags are foreign.

Two repairs, both for Weibo: half of a surrogate pair on each of two lines becomes the emoji it was, and two lines of
lost halves (two U+FFFD each) become one U+FFFD, so that offsets are the same in both releases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from omniner.corpus.formats.common import IssueLog, ReadOptions, quote, read_lines, unlabeled, whole
from omniner.errors import UserError
from omniner.records import Entity, Issue, Sentence

Row = tuple[int, str, str]  # line number, token, tag

# First letters of the tags of each scheme besides O; L and U are the BILOU names of E and S.
SCHEMES = {"bio": "BI", "bio2": "BI", "bios": "BIS", "bioes": "BIESLU", "bmes": "BMES"}
SEPARATORS = {"tab": "\t", "space": " "}
_STARTS, _INSIDE, _ENDS = frozenset("BSU"), frozenset("IMEL"), frozenset("ESLU")
_LOST_HALF = "\ufffd\ufffd"
_DOCUMENT = "-DOCSTART-"
_SAMPLE = 400  # lines looked at to find out the separator
NO_TAG = ""  # of a row without a tag column


def read(path: Path, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file; ids are empty. Without a tag column anywhere the sentences are unlabeled."""
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
    tags = {tag: _parse_tag(tag, scheme) for tag in kinds}
    if not options.glued_positions and _looks_glued(blocks):
        message = "every token ends in a digit, like a word position: is data.glued_positions=true meant?"
        log.add("positions-glued", message)
    sentences = []
    for post_id, rows in blocks:
        if options.glued_positions:
            rows = [_unglue(row, log) for row in rows]
        if not options.joiner:
            rows = _join_halves(rows, log)
        rows = [(number, whole(token, log, number), tag) for number, token, tag in rows]
        if not tagged:
            sentence = unlabeled("", options.joiner.join(token for _, token, _ in rows))
        else:
            sentence = _decode(rows, tags, scheme, options.joiner, log)
        sentence.post_id = post_id
        sentences.append(sentence)
    log.items.sort(key=lambda issue: issue.line)
    return sentences, log.items


def find_separator(lines: Sequence[str]) -> str:
    """The separator that leaves a tag behind it on nearly all of the first lines: tab, space or comma."""
    sample = [line for line in lines[:_SAMPLE] if line.strip(" \t")]
    for separator in ("\t", " ", ","):
        fitting = sum(separator in line and is_tag(line.rpartition(separator)[2]) for line in sample)
        if sample and fitting >= 0.9 * len(sample):
            return separator
    return "\t"


def is_tag(text: str) -> bool:
    """Whether a column reads like a tag of any scheme: `O`, `B-PER`, `S_LOC`."""
    return text == "O" or (len(text) > 2 and text[1] in "-_" and text[0] in "BIMESLU")


def scheme_of(tags: set[str]) -> str:
    """The scheme that the tags found belong to: the smallest one that has all their first letters."""
    letters = {tag[0] for tag in tags if is_tag(tag) and tag != "O"}
    if "M" in letters:
        return "bmes"
    if letters & {"E", "L", "U"}:
        return "bioes" if "I" in letters or letters & {"L", "U"} else "bmes"
    return "bios" if "S" in letters else "bio"


def guess_layout(path: Path) -> tuple[bool, str]:
    """`(glued positions, joiner)` of a file that nothing is known of: tokens of one character are Chinese."""
    lines = read_lines(path, IssueLog(path))
    blocks = list(islice(_blocks(lines, find_separator(lines), IssueLog(path)), _SAMPLE))
    glued = _looks_glued(blocks)
    lengths = [len(token) - glued for _, rows in blocks for _, token, _ in rows]
    return glued, " " if sum(lengths) > 1.5 * len(lengths) else ""


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
    entities: list[Entity] = []
    has_end = "E" in SCHEMES[scheme]
    position, step = 0, len(joiner)
    current, start, end, line, finished = "", 0, 0, 0, True

    def close() -> None:
        if current:
            entities.append(Entity(text[start:end], current, start, end))
            if has_end and not finished:
                log.add("unfinished-entity", f"{current} {quote(text[start:end])} has no end tag", line)

    for number, token, tag in rows:
        letter, category, code = tags[tag]
        if code:
            message = f"{quote(token)} has the tag {quote(tag)}"
            log.add(code, message + (f", which {scheme} has not" if letter != "O" else "; taken as O"), number)
        if letter == "O":
            close()
            current = ""
        elif letter in _STARTS or category != current:
            close()
            current, start, line = category, position, number
            if letter in _INSIDE:
                log.add("orphan-inside", f"{tag} continues nothing; it starts an entity", number)
        if current:
            end = position + len(token)
            finished = letter in _ENDS
            if finished:
                close()
                current = ""
        position += len(token) + step
    close()
    return Sentence("", text, entities)
