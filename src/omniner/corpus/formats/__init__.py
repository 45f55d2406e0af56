"""Corpus files of every format: detect, read and write them.

Each module of this package is one format with an entry `FORMAT = Format(...)`, which holds everything that the program
knows of it: how to read, write and detect it, its file names, and what it can hold. Everything else (`data.format`,
`task=convert`, error messages) asks the registry `omniner.registry.FORMATS`, so a new format needs only a new module
and its test.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from omniner.corpus.formats.excerpt import Excerpt, read_excerpt
from omniner.corpus.formats.fields import IssueLog, quote, read_text
from omniner.corpus.formats.lookalikes import find_lookalike
from omniner.errors import UserError
from omniner.files import check_input_file
from omniner.records import Entity, Issue, Sentence, own_meta
from omniner.registry import FORMATS
from omniner.wording import counted

log = logging.getLogger("omniner")

SURE = 50  # a match this strong is no guess

Holding = Literal["id", "post_id", "meta", "unlabeled", "nested", "unplaced"]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read what a file does not say of itself. All but the ids, offsets and annotators is about tags.

    Attributes:
        scheme: auto | bio | bioes | bmes | bios | iob1 | io.
        separator: auto | tab | space.
        glued_positions: whether a word position of 1-2 digits follows each character; None = find out.
        joiner: what to put between tokens; None = find out.
        id_prefix: a sentence without an id gets `<id_prefix>-<n>`.
        id_first: n of the first sentence of the file.
        offsets: auto | half_open | inclusive | utf16: what the two offsets of an entity mean.
        tag_column: the column of tags, from 1; None = find out.
        annotator: whose labels to read, of a file that has those of several; None = of each sentence the ground truth,
            else the first.
    """

    scheme: str = "auto"
    separator: str = "auto"
    glued_positions: bool | None = None
    joiner: str | None = None
    id_prefix: str = ""
    id_first: int = 0
    offsets: str = "auto"
    annotator: str | None = None
    tag_column: int | None = None


class PromptTexts(Protocol):
    """The texts that instruction data is written with; `input` holds `{sentence}` once."""

    @property
    def system(self) -> str:
        """Text of the system role; may be empty."""

    @property
    def instruction(self) -> str:
        """What the model is told."""

    @property
    def input(self) -> str:
        """What follows the instruction."""

    def filled_inputs(self, texts: Sequence[str]) -> list[str]:
        """Write what follows the instruction for each sentence."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How to write what a sentence does not say.

    Attributes:
        scheme: of CoNLL columns: bio | bioes | bmes | bios.
        separator: of CoNLL columns: tab | space.
        joiner: of CoNLL columns: what stands between the tokens in the texts; empty makes each character a token.
        prompt: of instruction data: what the model is told.
        answer: of instruction data: writes the entities of a sentence as the model should answer.
        categories: of labelling configurations: those that people may give, beside the ones in the sentences.
    """

    scheme: str = "bioes"
    separator: str = "tab"
    joiner: str = ""
    prompt: PromptTexts | None = None
    answer: Callable[[Sequence[Entity]], str] | None = None
    categories: Sequence[str] = ()


class Match(NamedTuple):
    """What speaks for a format: how strongly (of several formats the strongest wins), and why, in words."""

    strength: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of corpus files and everything the program knows of it.

    A file is recognised by what is in it, not by its name, in three steps; the first that finds something decides, and
    within it the strongest match:

    1. `sniff_path`: what lies in the folder, or beside the file;
    2. `sniff_value`: JSON values of the beginning and other parts of it; of the formats that match some of them the
       one with the strongest match, of equal ones that which matches more of them. Take 50-99 for keys that no other
       format has (90 Label Studio, 80 CLUENER, 70 doccano, 60 entities of our own, 50 instruction data), less for what
       several could have;
    3. `sniff_lines`: lines of the beginning and other parts of it (95-98 the keys of a torn JSON list, 80 a CSV header,
       70 the marks of CHIP, 60 annotations of brat, 50 columns, 10 plain text).

    Attributes:
        name: as in `data.format` and `to=`.
        meaning: one line for help and documentation.
        read: `(path, options)` to sentences, whose ids are empty where the file has none, and the issues met.
        write: `(path, sentences, options)` to an issue for whatever the format cannot hold; writes the file whole or
            not at all. None where the format is only read.
        suffix: of a written file; empty where a folder is written.
        companions: patterns of names of files that are written beside it and are no corpus.
        folder: what a folder that is one corpus holds, in words; empty where a corpus is always a file.
        needs_prompt: whether writing takes `WriteOptions.prompt` and `answer`.
        holds: what comes back from a written file besides texts and placed entities: `id`, `post_id`, `meta`,
            `unlabeled` (sentences without labels beside labelled ones), `nested` (entities that overlap), `unplaced`
            (entities without offsets). Losses of the first three are reported by `write` below, of the rest by the
            format's own writer.
        annotators: of a file, the names of those who labelled it, in the order in which they are met; none where a
            file is of one, or does not say.
        sniff_path: of a path that is there: a match, or None.
        sniff_value: of a JSON value, and whether it stands in a list (else on a line): a match, or None. Its reason
            goes on behind "a JSON list of items" or "JSON lines".
        sniff_lines: of an excerpt of a file: a match, or None.
    """

    name: str
    meaning: str
    read: Callable[[Path, ReadOptions], tuple[list[Sentence], list[Issue]]]
    write: Callable[[Path, Sequence[Sentence], WriteOptions], list[Issue]] | None
    suffix: str
    companions: tuple[str, ...] = ()
    folder: str = ""
    needs_prompt: bool = False
    holds: frozenset[Holding] = frozenset()
    annotators: Callable[[Path], list[str]] = lambda path: []
    sniff_path: Callable[[Path], Match | None] = lambda path: None
    sniff_value: Callable[[Any, bool], Match | None] = lambda value, is_list: None
    sniff_lines: Callable[[Excerpt], Match | None] = lambda excerpt: None


def recognise(path: Path) -> tuple[str, str]:
    """Find out the format of a file or folder.

    Only what is in it counts, not its name: published names are `.txt`, `.json`, `.train`, `.annotated`.

    Returns:
        The name of the format, and why, and how sure that is, in words.

    Raises:
        UserError: it cannot be read, or is of no known format; then it says what it looks like.
    """
    path = Path(path)
    if found := _strongest((name, entry.sniff_path(path)) for name, entry in FORMATS.items()):
        return found[0], found[1].why
    if path.is_dir():
        folders = " or ".join(entry.folder for entry in FORMATS.values() if entry.folder)
        raise UserError(path, f"not a folder of {folders}", "Name a file, or such a folder, or set data.format.")
    excerpt = read_excerpt(path)
    found = _by_values(path, excerpt) or _strongest(
        (name, entry.sniff_lines(excerpt)) for name, entry in FORMATS.items()
    )
    if found is None:
        read_text(path, IssueLog(path))  # what is not UTF-8 looks like nothing: that is what to say of it
        other = find_lookalike(excerpt)
        index, looks, fix = other or (0, "nothing that is known", "Convert it to a known format.")
        line = f"{path}:{excerpt.numbers[index] or 1}"
        message = f"no known format: {quote(excerpt.lines[index].lstrip())} looks like {looks}"
        raise UserError(line, message, f"{fix} To take its lines as texts without labels, set data.format=text.")
    name, (strength, why) = found
    return name, why if strength >= SURE else f"{why}; a guess: data.format settles it"


def _by_values(path: Path, excerpt: Excerpt) -> tuple[str, Match] | None:
    """The format whose match of any JSON value is the strongest; of equals, that which matches more of them."""
    best: dict[str, Match] = {}
    counts: dict[str, int] = {}
    is_list = excerpt.is_list
    for value in excerpt.values:
        if isinstance(value, dict) and "predict" in value:
            raise UserError(
                f"{path}:1", "predictions (`predict`), not a corpus", "Score them with task=score predictions=…"
            )
        for name, entry in FORMATS.items():
            if match := entry.sniff_value(value, is_list):
                counts[name] = counts.get(name, 0) + 1
                if name not in best or match.strength > best[name].strength:
                    best[name] = match
    if not best:
        return None
    name = max(best, key=lambda name: (best[name].strength, counts[name]))
    layout = (
        f"a JSON list of items under `{excerpt.wrapper[0]}`"
        if excerpt.wrapper
        else "a JSON list of items"
        if excerpt.text.lstrip().startswith(("[{", "[[", "[\n", "[ "))
        else "JSON lines"
    )
    why = f"{layout} {best[name].why}; {counts[name]} of {len(excerpt.values)} sampled fit"
    return name, best[name]._replace(why=why)


def _strongest(matches: Iterable[tuple[str, Match | None]]) -> tuple[str, Match] | None:
    """The name of the format whose match is the strongest, and that match."""
    found = [(name, match) for name, match in matches if match]
    return max(found, key=lambda one: one[1].strength, default=None)


def read(path: Path, format: str, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file.

    Args:
        path: the file, or the folder of a format that keeps a corpus in one.
        format: the name of a format, or `auto` to recognise it, which is logged.
        options: how to read what the file does not say of itself, and the prefix of the ids it does not give.

    Returns:
        The sentences, each with an id, and an issue for whatever could not be taken as it was.

    Raises:
        UserError: nothing can be read.
    """
    if format == "auto":
        format, why = recognise(path)
        log.info("%s: read as %s (%s)", path, format, why)
    if format not in FORMATS:
        raise UserError("data.format", f"{format!r} is unknown", f"Use auto, {', '.join(FORMATS)}.")
    sentences, issues = FORMATS[format].read(Path(path), options)
    for number, sentence in enumerate(sentences, options.id_first):
        if not sentence.id:
            sentence.id = f"{options.id_prefix}-{number}"
    return sentences, issues


def write(path: Path, format: str, sentences: Sequence[Sentence], options: WriteOptions) -> list[Issue]:
    """Write one file, or a new folder, whole or not at all, so that `read` gives the sentences back.

    Args:
        path: the file or folder.
        format: the name of a format.
        sentences: one without a character is left out.
        options: how to write what the sentences do not say of themselves.

    Returns:
        An issue for each thing that the format cannot hold, and one for each kind of field (id, post, meta).

    Raises:
        UserError: it cannot be written.
    """
    entry = FORMATS.get(format)
    if entry is None or entry.write is None:
        names = (name for name, entry in FORMATS.items() if entry.write)
        has_prompt = options.prompt is not None
        writable = ", ".join(name for name in names if has_prompt or not FORMATS[name].needs_prompt)
        raise UserError("to", f"{format!r} cannot be written", f"Use {writable}.")
    issues = IssueLog(path)
    kept = [sentence for sentence in sentences if sentence.text]
    for sentence in sentences:
        if not sentence.text:
            issues.add("empty-text", "a sentence without a character; left out", id=sentence.id)
    fields: dict[Holding, Callable[[Sentence], object]] = {
        "id": lambda sentence: sentence.id,
        "meta": own_meta,
        "post_id": lambda sentence: sentence.post_id is not None,
    }
    for name, value in fields.items():
        lost = [] if name in entry.holds else [sentence for sentence in kept if value(sentence)]
        if lost:
            message = f"{counted(len(lost), 'sentence')} with {name}, which {format} has not"
            issues.add(f"lost-{name.replace('_', '-')}", message, id=lost[0].id)
    return [*issues.items, *entry.write(Path(path), kept, options)]


def is_one_corpus(path: Path) -> bool:
    """Whether a path is one corpus: a file, or a folder of a format that keeps a corpus in one."""
    return path.is_file() or any(entry.sniff_path(path) for entry in FORMATS.values())


def corpus_files(folder: Path) -> list[Path]:
    """The corpus files of a folder, by name; files that only describe a corpus are left out, which is logged."""
    check_input_file(folder)
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    patterns = [pattern for entry in FORMATS.values() for pattern in entry.companions]
    described = [file for file in files if any(fnmatch(file.name, pattern) for pattern in patterns)]
    for file in described:
        log.info("%s: describes a corpus and is none; not read", file)
    return [file for file in files if file not in described]
