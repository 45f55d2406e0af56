"""Interpret the tags of tokens, in a column or list, of any scheme and spelling, and build entities from them.

A tag has a letter and a category: `B-PER`, `b_per`, `PER-B`; only a letter (`B`), whose entities all get the category
`ENTITY`; or only a category (`PER`), where adjacent tokens of one category are one entity. The tags of the whole file
decide which (`read_tags`). One rule decodes all schemes, that of the CoNLL evaluation script: `B S U W` start an
entity, `E S L U W` end it, and `I M E L` that continue nothing of their category start one, too (`orphan-inside`); in
IOB1 this is how entities start. If a scheme has an end tag, an entity without one counts as well (`unfinished-entity`),
so an entity cut by a sentence's end becomes two. The scheme only decides which tags are foreign.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from omniner.corpus.formats.fields import IssueLog, join_surrogates, quote
from omniner.errors import UserError
from omniner.records import Entity, Sentence

Row = tuple[int, str, str]  # line number, token, tag

# Letters of the tags of each scheme besides O; L and U are the BILOU names of E and S, W is BMEWO's name of S.
SCHEMES = {"bio": "BI", "bios": "BIS", "bioes": "BIESLUW", "bmes": "BMESW"}
READ_SCHEMES = {**SCHEMES, "iob1": "BI", "io": "I"}
NO_TAG = ""  # of a row without a tag column
ENTITY = "ENTITY"  # category of tags that are only letters
_STARTS, _INSIDE, _ENDS = frozenset("BSUW"), frozenset("IMEL"), frozenset("ESLUW")
_LETTERS = "BIMESLUW"
_PREFIX = re.compile(rf"([{_LETTERS}{_LETTERS.lower()}])[-_](.+)", re.DOTALL)
_SUFFIX = re.compile(rf"(.+)[-_]([{_LETTERS}{_LETTERS.lower()}])", re.DOTALL)
_WORDED = re.compile(r"\s*(?:[BIESLUMW]|BEGIN|INSIDE|END|SINGLE|START|MIDDLE|LAST|UNIT)[-_.:]", re.IGNORECASE)
_EMPTY = frozenset({"_", "-", "0"})  # instead of O, in a file without O
_IOB1_STARTS = 3  # at least this many entities must start with I before IOB1 is assumed
_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")


class Tag(NamedTuple):
    """A decoded tag: its letter, or O; its category; the code of what is wrong with it, or nothing."""

    letter: str
    category: str = ""
    code: str = ""


@dataclass(frozen=True)
class TagSet:
    """The tags of a file.

    Attributes:
        scheme: one of `READ_SCHEMES`.
        tags: each tag as spelled in the file -> the decoded tag.
    """

    scheme: str
    tags: Mapping[str, Tag]


def is_tag(text: str) -> bool:
    """Return whether a text looks like a tag with a letter and then a category: `O`, `B-PER`, `S_LOC`."""
    return text == "O" or (len(text) > 2 and text[1] in "-_" and text[0] in _LETTERS)


def bare_tag(text: str) -> str:
    """Return the value of a column without surrounding spaces, unless it is a tag: some categories contain spaces."""
    return text if is_tag(text) else text.strip(" \t")


def is_tag_list(text: str) -> bool:
    """Return whether a text is two or more tags separated by spaces, such as `B-PER I-PER O`."""
    parts = text.split()
    return len(parts) > 1 and all(part in ("O", "o") or _PREFIX.fullmatch(part) for part in parts)


def notation_of(counts: Mapping[str, int]) -> str:
    """Detect how tags are spelled.

    Args:
        counts: how often each occurs in the file, or in a sample of it.

    Returns:
        prefix | suffix | letter | category; empty if they do not look like tags.
    """
    fitting = dict.fromkeys(("prefix", "suffix", "letter", "category"), 0)
    out = 0
    for tag, count in counts.items():
        text = bare_tag(tag)
        out += count if text in ("O", "o") else 0
        if text in ("O", "o", NO_TAG) or text in _EMPTY:
            continue
        fitting["prefix"] += count if _PREFIX.fullmatch(text) else 0
        fitting["suffix"] += count if _SUFFIX.fullmatch(text) else 0
        fitting["letter"] += count if text.upper() in _LETTERS else 0
        fitting["category"] += count
    best = max(("prefix", "suffix", "letter"), key=lambda name: fitting[name])
    if fitting[best] and (2 * fitting[best] >= fitting["category"] or best == "prefix"):
        return best
    if fitting["category"] == 0:
        return "prefix" if out else ""
    return "category" if out and not any(map(_WORDED.match, counts)) else ""


def _scheme_of_letters(letters: set[str]) -> str:
    if "M" in letters:
        return "bmes"
    if letters & {"E", "L", "U", "W"}:
        return "bioes" if letters & {"I", "L", "U"} else "bmes"
    return "bios" if "S" in letters else "bio"


def read_tags(counts: Mapping[str, int], scheme: str, log: IssueLog) -> TagSet:
    """Decode the tags of a file; an invalid tag counts as `O`, with an issue wherever it occurs.

    Args:
        counts: how often each occurs in the file.
        scheme: one of `READ_SCHEMES`, or `auto`.
        log: gets the issues.

    Raises:
        UserError: the scheme is unknown.
    """
    if scheme not in ("auto", *READ_SCHEMES):
        raise UserError("data.scheme", f"no tag scheme is called {scheme!r}", f"Use auto, {', '.join(READ_SCHEMES)}.")
    padded = any(tag != "O" and tag.strip() == "O" for tag in counts)  # if so, spaces are not part of categories
    bare = {tag: tag.strip(" \t") if padded else bare_tag(tag) for tag in counts}
    spelled = {tag: join_surrogates(text, log, 0) for tag, text in bare.items()}
    notation = "category" if scheme == "io" else notation_of(counts) or "prefix"
    upper = any(is_tag(text) for text in spelled.values())
    outside = {"O"} | (set() if upper else {"o"}) | (set() if "O" in counts or "o" in counts else _EMPTY)
    tags = {tag: _read_tag(text, notation, outside) for tag, text in spelled.items()}
    if scheme == "auto":
        letters = {tag.letter for tag in tags.values() if tag.letter != "O"}
        scheme = "io" if notation == "category" else _scheme_of_letters(letters)
    known = READ_SCHEMES[scheme] + "O"
    foreign = {tag: value._replace(code="foreign-tag") for tag, value in tags.items() if value.letter not in known}
    return TagSet(scheme, tags | foreign)


def _read_tag(text: str, notation: str, outside: set[str] | frozenset[str]) -> Tag:
    if text in outside:
        return Tag("O")
    if text == NO_TAG:
        return Tag("O", "", "no-tag")
    if notation == "category":
        return Tag("I", text)
    if notation == "letter":
        return Tag(text.upper(), ENTITY) if text.upper() in set(_LETTERS) else Tag("O", "", "bad-tag")
    if notation == "suffix":
        match = _SUFFIX.fullmatch(text)
        return Tag(match[2].upper(), match[1]) if match else Tag("O", "", "bad-tag")
    match = _PREFIX.fullmatch(text)
    return Tag(match[1].upper(), match[2]) if match else Tag("O", "", "bad-tag")


def find_joiner(tokens: Sequence[str]) -> str:
    """Return the text between tokens: none if they are characters or Chinese words, else a space."""
    characters = sum(map(len, tokens))
    if characters <= 1.5 * len(tokens):
        return ""
    chinese = sum(len(_CJK.findall(token)) for token in tokens)
    return "" if 2 * chinese >= characters else " "


def tagged_sentence(rows: Sequence[Row], known: TagSet, joiner: str, log: IssueLog) -> Sentence:
    """Build one sentence from its rows; offsets include the joiner between tokens."""
    text = joiner.join([token for _, token, _ in rows])
    runs = _runs(rows, known, log)
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
        if "E" in READ_SCHEMES[known.scheme] and letter not in _ENDS:
            log.add("unfinished-entity", f"{category} {quote(text[start:end])} has no end tag", rows[first][0])
    return Sentence("", text, entities)


def _runs(rows: Sequence[Row], known: TagSet, log: IssueLog) -> list[tuple[int, int, str, str]]:
    """Return `(first row, last row, category, letter of the last tag)` of each entity."""
    runs: list[tuple[int, int, str, str]] = []
    tags = known.tags
    current = ""  # category of the entity that the next row may continue
    for index, (number, token, tag) in enumerate(rows):
        letter, category, code = tags[tag]
        if code:
            why = f"which {known.scheme} has not" if code == "foreign-tag" else "taken as O"
            log.add(code, f"{quote(token)} has the tag {quote(tag)}, {why}", number)
        if letter == "O":
            current = ""
            continue
        if letter in _STARTS or category != current:
            if letter in _INSIDE and known.scheme not in ("io", "iob1"):
                log.add("orphan-inside", f"{tag} continues nothing; it starts an entity", number)
            runs.append((index, index, category, letter))
        else:
            runs[-1] = (runs[-1][0], index, category, letter)
        current = "" if letter in _ENDS else category
    return runs


def starts_like_iob1(sentences: Iterable[Sequence[Row]], known: TagSet) -> bool:
    """Whether entities start with I, and with B only directly after another of their category, as in IOB1."""
    starts = 0
    for rows in sentences:
        before = ""
        for _, _, tag in rows:
            letter, category, _ = known.tags[tag]
            if letter == "B" and category != before:
                return False
            starts += letter == "I" and category != before
            before = category  # O has none
    return starts >= _IOB1_STARTS
