"""Detect, read and write corpus files of every format.

Each module of this package is one format. Its entry `FORMAT = Format(...)` holds everything that the program knows of
it: how to read, write and detect it, its file names, and what it can hold. Everything else (`data.format`,
`task=convert`, error messages) uses the registry `FORMATS`, so a new format needs only a new module
and its test.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from omniner import registry
from omniner.corpus.formats.excerpt import Excerpt, read_excerpt
from omniner.corpus.formats.fields import IssueLog, quote, read_text
from omniner.corpus.formats.lookalikes import find_lookalike
from omniner.errors import UserError
from omniner.files import check_input_file
from omniner.records import Entity, Issue, Sentence, has_scores, own_meta
from omniner.registry import Registry
from omniner.wording import counted

log = logging.getLogger("omniner")

SURE = 50  # matches at least this strong are not reported as guesses

Holding = Literal["id", "post_id", "meta", "unlabeled", "nested", "unplaced", "score"]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read what a file does not specify itself. All but the ids, offsets and annotator is about tags.

    Attributes:
        scheme: auto | bio | bioes | bmes | bios | iob1 | io.
        separator: auto | tab | space.
        glued_positions: whether a word position of 1-2 digits follows each character; None = detect.
        joiner: text between tokens; None = detect.
        id_prefix: a sentence without an id gets `<id_prefix>-<n>`.
        id_first: n of the first sentence of the file.
        offsets: auto | half_open | inclusive | utf16: meaning of the two offsets of an entity.
        tag_column: the column of tags, from 1; None = detect.
        annotator: whose labels to read from a file with those of several; None = for each sentence the ground truth,
            else the first annotator's.
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
    """The texts of a prompt for instruction data; `input` contains `{sentence}` once."""

    @property
    def system(self) -> str:
        """Text of the system role; may be empty."""

    @property
    def instruction(self) -> str:
        """The instruction for the model."""

    @property
    def input(self) -> str:
        """The text that follows the instruction."""

    def filled_inputs(self, texts: Sequence[str]) -> list[str]:
        """Return the text that follows the instruction, for each sentence."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How to write what a sentence does not specify.

    Attributes:
        scheme: of CoNLL columns: bio | bioes | bmes | bios.
        separator: of CoNLL columns: tab | space.
        joiner: of CoNLL columns: the text between tokens; empty makes each character a token.
        prompt: of instruction data: the prompt of the model.
        answer: of instruction data: formats the entities of a sentence as the model should answer.
        categories: of labelling configurations: those that annotators may use, in addition to the ones in the
            sentences.
    """

    scheme: str = "bioes"
    separator: str = "tab"
    joiner: str = ""
    prompt: PromptTexts | None = None
    answer: Callable[[Sequence[Entity]], str] | None = None
    categories: Sequence[str] = ()


class Match(NamedTuple):
    """Evidence for a format: its strength (the strongest of several formats wins), and the reason in words."""

    strength: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of corpus files and everything the program knows of it.

    A file is recognised by its content, not by its name, in three steps. The first step with a match decides, and
    within it the strongest match:

    1. `sniff_path`: the content of the folder, or files beside the file;
    2. `sniff_value`: JSON values from the beginning and other parts of the file. Of formats that match some of them
       the one with the strongest match wins; of equal ones that which matches more values. Use 50-99 for keys that no
       other format has (90 Label Studio, 80 CLUENER, 70 doccano, 60 entities of our own, 50 instruction data), less for
       what several could have;
    3. `sniff_lines`: lines from the beginning and other parts of the file (95-98 the keys of a torn JSON list, 80 a CSV
       header, 70 the marks of CHIP, 60 annotations of brat, 50 columns, 10 plain text).

    Attributes:
        name: as in `data.format` and `to=`.
        meaning: one line for help and documentation.
        read: `(path, options)` -> sentences, whose ids are empty if the file has none, and the issues met.
        write: `(path, sentences, options)` -> an issue for whatever the format cannot hold; writes the file atomically.
            None if the format is only read.
        suffix: of a written file; empty if a folder is written.
        companions: name patterns of files that are written beside it and are not corpora.
        folder: description of a folder that is one corpus; empty if a corpus is always a file.
        needs_prompt: whether writing needs `WriteOptions.prompt` and `answer`.
        holds: what survives writing and reading besides texts and entities with offsets: `id`, `post_id`, `meta`,
            `unlabeled` (sentences without labels beside labelled ones), `nested` (entities that overlap), `unplaced`
            (entities without offsets), `score` (a model's confidence in its entities; a tool may only show it). `write`
            below reports losses of ids, posts, metadata and scores, the format's own writer the others.
        annotators: returns the names of a file's annotators, in order of first appearance; none if a file has only one,
            or does not name them.
        sniff_path: takes an existing path; returns a match, or None.
        sniff_value: takes a JSON value, and whether it is in a list (else on a line); returns a match, or None. Its
            reason continues "a JSON list of items" or "JSON lines".
        sniff_lines: takes an excerpt of a file; returns a match, or None.
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


FORMATS: Registry[Format] = registry.FORMATS


def recognise(path: Path) -> tuple[str, str]:
    """Recognise the format of a file or folder.

    Only the content is considered, not the name: published corpora are named `.txt`, `.json`, `.train`, `.annotated`.

    Returns:
        The name of the format, and the reason and its certainty in words.

    Raises:
        UserError: it cannot be read, or is of no known format; the message says what it looks like.
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
        read_text(path, IssueLog(path))  # a file that is not UTF-8 matches nothing: this call raises that error
        other = find_lookalike(excerpt)
        index, looks, fix = other or (0, "nothing that is known", "Convert it to a known format.")
        line = f"{path}:{excerpt.numbers[index] or 1}"
        message = f"no known format: {quote(excerpt.lines[index].lstrip())} looks like {looks}"
        if not excerpt.is_json:
            fix += " To take its lines as texts without labels, set data.format=text."
        raise UserError(line, message, fix)
    name, (strength, why) = found
    return name, why if strength >= SURE else f"{why}; a guess: data.format settles it"


def _by_values(path: Path, excerpt: Excerpt) -> tuple[str, Match] | None:
    """Return the format with the strongest match of any JSON value; of equal ones that which matches more values."""
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
    """Return the name of the format with the strongest match, and that match."""
    found = [(name, match) for name, match in matches if match]
    return max(found, key=lambda one: one[1].strength, default=None)


def read(path: Path, format: str, options: ReadOptions) -> tuple[list[Sentence], list[Issue]]:
    """Read one file.

    Args:
        path: the file, or the folder of a format that stores a corpus in one.
        format: the name of a format, or `auto` to recognise it, which is logged.
        options: how to read what the file does not specify itself, and the prefix of generated ids.

    Returns:
        The sentences, each with an id, and an issue for whatever could not be used as it was.

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
    """Write one file, or a new folder, atomically, so that `read` returns the same sentences.

    Args:
        path: the file or folder.
        format: the name of a format.
        sentences: empty ones are left out.
        options: how to write what the sentences do not specify themselves.

    Returns:
        An issue for each thing that the format cannot hold, and one for each kind of field (id, post, meta, score).

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
        "score": has_scores,
    }
    for name, value in fields.items():
        lost = [] if name in entry.holds else [sentence for sentence in kept if value(sentence)]
        if lost:
            message = f"{counted(len(lost), 'sentence')} with {name}, which {format} has not"
            issues.add(f"lost-{name.replace('_', '-')}", message, id=lost[0].id)
    return [*issues.items, *entry.write(Path(path), kept, options)]


def is_one_corpus(path: Path) -> bool:
    """Whether a path is one corpus: a file, or a folder of a format that stores a corpus in one."""
    return path.is_file() or any(entry.sniff_path(path) for entry in FORMATS.values())


def corpus_files(folder: Path) -> list[Path]:
    """Return the corpus files of a folder, by name; skip files that only describe a corpus, and log that."""
    check_input_file(folder)
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    patterns = [pattern for entry in FORMATS.values() for pattern in entry.companions]
    described = [file for file in files if any(fnmatch(file.name, pattern) for pattern in patterns)]
    for file in described:
        log.info("%s: describes a corpus and is none; not read", file)
    return [file for file in files if file not in described]
