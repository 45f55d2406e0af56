"""brat standoff, written: a new folder with a text and an annotations file for each post.

The sentences of a post are the lines of its text, in the order in which they come; a sentence without a post has a
document of its own. Documents are called as their post, or as their sentence, where that can be a file name; else they
are numbered. A mention that holds a line break or a tab is written in parts around it, as brat does, and read as one.
A sentence without labels gets no annotations file, so that it comes back as what it is; to annotate it in brat, make an
empty one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from omniner.corpus.formats.brat import ANNOTATIONS, TEXT
from omniner.corpus.formats.common import IssueLog, is_unlabeled, quote
from omniner.corpus.formats.writing import WriteOptions, clean, labeled_only, placed
from omniner.errors import UserError
from omniner.files import explaining, writing_folder
from omniner.records import Entity, Issue, Sentence

_FILE_NAME = re.compile(r"\w[\w.+@#-]{0,60}")  # at most 4 bytes a character: below the 255 of file systems
_BREAKS = re.compile("[\t\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")  # whatever ends a line for brat, and its separator


def write(path: Path, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write a folder, whole or not at all, that must not hold anything before.

    Returns:
        Issues: entities without a place or that begin or end with a line break (`line-break`), sentences that will be
        read as several (`split-lines`), categories with white space, which brat cannot have (`category-renamed`), ids
        and posts that are no file names (`renamed`), sentences without labels in a post that has some (`unlabeled`).

    Raises:
        UserError: there is such a folder already, with something in it.
    """
    with explaining(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(path, "exists already; a folder is written as a whole", "Name a new folder.")
    log = IssueLog(path)
    names: dict[str, str] = {}
    with writing_folder(path) as folder:
        for number, (wanted, group) in enumerate(_documents(sentences)):
            name = _file_name(wanted, number, names, log)
            labeled = list(labeled_only(group, log)) if not all(map(is_unlabeled, group)) else []
            text, annotations = _document(labeled or group, log)
            (folder / f"{name}{TEXT}").write_text(text, encoding="utf-8", newline="\n")
            if labeled:
                (folder / f"{name}{ANNOTATIONS}").write_text(annotations, encoding="utf-8", newline="\n")
    categories = sorted({entity.category for sentence in sentences for entity in sentence.entities})
    for category in categories:
        if _category(category) != category:
            log.add("category-renamed", f"{quote(category)} is written {quote(_category(category))}")
    return log.items


def _documents(sentences: Sequence[Sentence]) -> Iterator[tuple[str, list[Sentence]]]:
    """`(name that is wanted, sentences)` of each document, in the order of their first sentences."""
    groups: dict[tuple[str, str | int], list[Sentence]] = {}
    for number, sentence in enumerate(sentences):
        key: tuple[str, str | int] = ("one", number) if sentence.post_id is None else ("post", sentence.post_id)
        groups.setdefault(key, []).append(sentence)
    for (kind, _), group in groups.items():
        # A post of one sentence is read as a sentence of that name: the post says nothing more.
        yield (group[0].post_id or "") if kind == "post" else group[0].id, group


def _file_name(wanted: str, number: int, names: dict[str, str], log: IssueLog) -> str:
    """The wanted name, or a number where it is no file name or taken (some file systems know no capitals)."""
    name = wanted
    if not _FILE_NAME.fullmatch(wanted) or name.casefold() in names:
        name = f"document-{number}"
        while name.casefold() in names:
            name += "-"
        log.add("renamed", f"{quote(wanted)} is no file name, or taken; written as {name}{TEXT}", id=wanted)
    names[name.casefold()] = wanted
    return name


def _document(sentences: Sequence[Sentence], log: IssueLog) -> tuple[str, str]:
    texts: list[str] = []
    lines: list[str] = []
    offset = 0
    for sentence in sentences:
        text = clean(sentence.text, sentence.id, log)
        if "\n" in text or text.endswith("\r"):
            log.add("split-lines", "the line breaks in it will be read as ends of sentences", id=sentence.id)
        for entity, start, end in placed(sentence, log):
            parts = [(start + left, start + right) for left, right in _parts(text[start:end])]
            if not parts or parts[0][0] > start or parts[-1][1] < end:
                log.add("line-break", _message(entity), id=sentence.id)
                continue
            spans = ";".join(f"{left + offset} {right + offset}" for left, right in parts)
            surface = " ".join(text[left:right] for left, right in parts)
            lines.append(f"T{len(lines) + 1}\t{_category(entity.category)} {spans}\t{surface}\n")
        texts.append(text)
        offset += len(text) + 1
    return "\n".join(texts) + "\n", "".join(lines)


def _message(entity: Entity) -> str:
    return f"{entity.category} {quote(entity.text)} begins or ends with a line break; left out"


def _parts(surface: str) -> Iterator[tuple[int, int]]:
    """`[start, end)` of what stands between the breaks."""
    start = 0
    for match in _BREAKS.finditer(surface):
        if match.start() > start:
            yield start, match.start()
        start = match.end()
    if start < len(surface):
        yield start, len(surface)


def _category(category: str) -> str:
    """brat's types end at the first white space."""
    clear = "".join("_" if character.isspace() else character for character in category)
    return clear.encode("utf-8", "replace").decode("utf-8")
