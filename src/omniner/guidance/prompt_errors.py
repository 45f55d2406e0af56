"""Write the text for `{errors}` in a prompt from a run's guidance, in the form of the paper's Figure 2.

The text names the five types of error, and under each the lessons of this corpus with the rule, examples and their
corrections. Its length is limited: lessons are taken in the order of their clusters, the largest first, with as many
examples as fit; a lesson is left out if even its rule does not fit. `prompt.lessons` selects lessons by their numbers
in the guidance. The same guidance and settings always give the same text.

Rules and examples that contain the text of a control token (`<|im_end|>`) are left out, because the tokenizer would
read it as the token.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from omniner.config.model_groups import PromptConfig
from omniner.errors import UserError
from omniner.guidance.lessons import COUNTED, Guidance, Lesson, LessonExample
from omniner.scoring.error_types import lesson_kinds, paper_types
from omniner.wording import counted, first_of

log = logging.getLogger("omniner")

LengthFunction = Callable[[str], int]
"""Counts the tokens of a text, or its characters."""

_AROUND = 15  # characters of the sentence shown on each side of an error
_NAMED = 3  # number of tokens named in a message
_CONTROL = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,}\]")


@dataclass(frozen=True)
class ErrorsText:
    """The text for `{errors}` in a prompt, and facts about it.

    Attributes:
        text: the text, several lines.
        length: its length in tokens or characters.
        shown: number of lessons in it.
        examples: number of these lessons that have an example.
        known: number of lessons of the guidance.
        numbers: numbers of the lessons in it, 1 = the largest cluster.
        sentences: complete texts of the sentences from which the examples are taken.
        covered: share of the run's errors that are in the clusters of these lessons.
    """

    text: str
    length: int
    shown: int
    examples: int
    known: int
    numbers: tuple[int, ...]
    sentences: tuple[str, ...]
    covered: float


class _Entry(NamedTuple):
    """The text of a lesson with some of its examples, and these examples."""

    text: str
    examples: tuple[LessonExample, ...]


class _UsableLesson(NamedTuple):
    """A lesson that can be part of the prompt: its number, and its possible entries, the longest first."""

    number: int
    lesson: Lesson
    entries: list[_Entry]


def render_errors_text(
    guidance: Guidance, config: PromptConfig, categories: Sequence[str], count: LengthFunction
) -> ErrorsText:
    """Write the text for `{errors}` of a prompt.

    Args:
        guidance: guidance of another run.
        config: configuration of the prompt; `language`, `max_tokens`, `lessons` and `corrections` are read.
        categories: categories that the prompt names; lessons about others are left out.
        count: measures the length of a text; the result has at most `max_tokens`.

    Raises:
        UserError: the guidance has no notes in the language, none about these categories, or none that fits.
    """
    language = config.language
    chosen: list[tuple[Lesson, _Entry]] = []
    numbers = []
    for one in _usable(guidance, config, set(categories)):
        for entry in one.entries:
            if count(list_lessons([*chosen, (one.lesson, entry)], language)) <= config.max_tokens:
                chosen.append((one.lesson, entry))
                numbers.append(one.number)
                break
    if not chosen:
        raise UserError("prompt.max_tokens", f"{config.max_tokens} is too little for a single lesson", "Raise it.")
    text = list_lessons(chosen, language)
    return ErrorsText(
        text=text,
        length=count(text),
        shown=len(chosen),
        examples=sum(bool(entry.examples) for _, entry in chosen),
        known=len(guidance.lessons),
        numbers=tuple(numbers),
        sentences=tuple(example.text for _, entry in chosen for example in entry.examples),
        covered=sum(lesson.count for lesson, _ in chosen) / sum(guidance.types.values()),
    )


def log_errors_text(config: PromptConfig, guidance: Guidance, categories: Sequence[str], lessons: ErrorsText) -> None:
    """Log which lessons are in the prompt, and warn about requested lessons that are not, with the reason."""
    log.info(
        "lessons in the prompt: %d of %d (%d with an example), about %.0f %% of the errors; %d of %d allowed",
        lessons.shown, lessons.known, lessons.examples, 100 * lessons.covered, lessons.length, config.max_tokens,
    )  # fmt: skip
    if left := sorted(set(config.lessons) - set(lessons.numbers)):
        message = "%s of prompt.lessons cannot stand in the prompt: too long, or about other categories"
        log.warning(message, ", ".join(map(str, left)))
    warn_of_unusable_lessons(config, guidance, categories)


def warn_of_unusable_lessons(config: PromptConfig, guidance: Guidance, categories: Sequence[str]) -> None:
    """Warn about lessons that no prompt in this language can contain, whatever its length limit."""
    language = config.language
    about = lessons_about(guidance, config, set(categories))
    if without := [str(number) for number, lesson in about if not lesson.note.rule.get(language, "").strip()]:
        log.warning(
            "lessons without a note in %s, left out of the prompt: %d of %d (numbers %s): run task=guide with "
            "guide.language=%s, or choose another prompt.language",
            language, len(without), len(about), ", ".join(without), language,
        )  # fmt: skip
    if control := [one for one in about if _CONTROL.search(one[1].note.rule.get(language, ""))]:
        log.warning(
            "lessons whose notes spell out control tokens, left out of the prompt: %d of %d (numbers %s). %s",
            len(control), len(about), ", ".join(str(number) for number, _ in control),
            _without_control_tokens([lesson for _, lesson in control], language),
        )  # fmt: skip


def _without_control_tokens(lessons: Sequence[Lesson], language: str) -> str:
    """Return advice for notes that contain control tokens; in counted notes they come from the corpus."""
    if any(lesson.note.by != COUNTED for lesson in lessons):
        return "Run task=guide with another teacher."
    spelt = {token for one in lessons for token in _CONTROL.findall(one.note.rule.get(language, ""))}
    names = first_of(sorted(spelt), _NAMED)
    return f"The corpus spells them ({names}): rename such categories, or take them out of its texts."


def with_errors_text(config: PromptConfig, guidance: Guidance, lessons: ErrorsText) -> PromptConfig:
    """Return the prompt's configuration with the text in it, which needs nothing from another run any more."""
    version = f"{config.version}+{guidance.sha[:8]}"
    errors = {**config.errors, config.language: lessons.text}
    return replace(config, version=version, errors=errors, from_run=None, lessons=[])


def usable_lessons(
    guidance: Guidance, config: PromptConfig, categories: Sequence[str], count: LengthFunction
) -> list[int]:
    """Return the numbers of the lessons that fit into the prompt if they are alone; see `render_errors_text`."""
    found = _usable(guidance, config, set(categories))
    language, budget = config.language, config.max_tokens
    return [one.number for one in found if count(list_lessons([(one.lesson, one.entries[-1])], language)) <= budget]


def _usable(guidance: Guidance, config: PromptConfig, known: set[str]) -> list[_UsableLesson]:
    """Select the lessons about known categories that have a note in the language without control tokens."""
    name, language = guidance.source.get("name"), config.language
    about = lessons_about(guidance, config, known)
    if not about:
        found = f"no lesson of {name} is about a category of this corpus"
        raise UserError("prompt.from_run", found, "Name a run of task=guide on this corpus.")
    if all(language not in lesson.note.rule for _, lesson in about):
        has = ", ".join(sorted({name for _, lesson in about for name in lesson.note.rule}))
        fix = f"Run task=guide with guide.language={language}, or choose prompt.language={has}."
        raise UserError("prompt.language", f"{language}, but the notes of this run are in: {has}", fix)
    made = [
        _UsableLesson(number, lesson, lesson_entries(lesson, language, known, config.corrections))
        for number, lesson in about
    ]
    if not any(one.entries for one in made):
        found = f"no note of {name} can stand in a prompt: all in {language} spell out control tokens"
        raise UserError("prompt.from_run", found, _without_control_tokens([one for _, one in about], language))
    return [one for one in made if one.entries]


def lessons_about(guidance: Guidance, config: PromptConfig, known: set[str]) -> list[tuple[int, Lesson]]:
    """Select the lessons that `prompt.lessons` asks for and whose categories are all known, with their numbers."""
    numbers = set(config.lessons or range(1, len(guidance.lessons) + 1))
    if beyond := sorted(number for number in numbers if number > len(guidance.lessons)):
        found = f"{beyond[0]}, but {guidance.source.get('name')} has {counted(len(guidance.lessons), 'lesson')}"
        raise UserError("prompt.lessons", found, "Give numbers of its guidance.md.")
    return [
        (number, lesson)
        for number, lesson in enumerate(guidance.lessons, 1)
        if number in numbers and {lesson.gold, lesson.predicted} - {""} <= known
    ]


def list_lessons(chosen: Sequence[tuple[Lesson, _Entry]], language: str) -> str:
    """Return the paper's types of error, each with its chosen lessons below it."""
    lines, kinds = [], lesson_kinds()
    for number, paper in enumerate(paper_types(), 1):
        lines.append(f"{number}. {paper.heading.of(language)}")
        lines += [f"   - {entry.text}" for lesson, entry in chosen if kinds[lesson.kind].paper == paper]
    return "\n".join(lines)


def lesson_entries(lesson: Lesson, language: str, categories: set[str], corrections: int) -> list[_Entry]:
    """Return the possible entries of a lesson, from all its examples to none; empty if its rule cannot be used."""
    rule = " ".join(lesson.note.rule.get(language, "").split())
    if not rule or _CONTROL.search(rule):
        return []
    written = (
        (example, describe_correction(lesson.kind, example, language))
        for example in lesson.examples
        if not example.doubtful and all(e.category in categories for e in example.gold + example.predicted)
    )
    sound = [(example, text) for example, text in written if not _CONTROL.search(text)][:corrections]
    entries = []
    for size in range(len(sound), -1, -1):
        texts = (f"\n     {text}" for _, text in sound[:size])
        entries.append(_Entry(rule + "".join(texts), tuple(example for example, _ in sound[:size])))
    return entries


def describe_correction(kind: str, example: LessonExample, language: str) -> str:
    """Return a text with an error in its sentence and the correction."""

    def quoted(*texts: str) -> str:
        return "".join(f"“{' '.join(text.split())}”" for text in texts)

    gold, predicted, phrases = example.gold, example.predicted, lesson_kinds()[kind]
    same = phrases.example_same_surface if gold and predicted and gold[0].text == predicted[0].text else None
    phrase = (same or phrases.example).of(language)
    return phrase.format(
        text=quoted(excerpt(example)),
        gold=quoted(*(entity.text for entity in gold)),
        predicted=quoted(*(entity.text for entity in predicted)),
        right=gold[0].category if gold else "",
        label=predicted[0].category if predicted else "",
    )


def excerpt(example: LessonExample) -> str:
    """Return the part of the sentence around the error."""
    text, spans = example.text, []
    for entity in example.gold + example.predicted:
        start = text.find(entity.text) if entity.start is None else entity.start
        if start >= 0:
            spans.append((start, start + len(entity.text)))
    if not spans:
        return text
    start = max(min(start for start, _ in spans) - _AROUND, 0)
    end = min(max(end for _, end in spans) + _AROUND, len(text))
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
