"""Guidance for people: as Markdown, as a page, as tables, and in a few lines.

In goes `Guidance`, out come texts. The page is one file without scripts that loads nothing (`pages.page`); all that
comes from a corpus or a teacher is escaped. Each note stands beside its evidence and says whose word it is.
"""

from __future__ import annotations

import html as markup
from collections.abc import Iterable, Sequence

from omniner.guidance.lessons import COUNTED, Guidance, Lesson, LessonExample, SuspectLabel
from omniner.guidance.notes import describe_facts
from omniner.guidance.questions import lesson_id
from omniner.records import Entity, storable
from omniner.report import page
from omniner.report.tables import Table

_SECTIONS = {"summary": "Summary", "lessons": "Lessons", "suspects": "Annotation"}
_SHOWN = 5  # lessons in the summary
_VERDICTS = {"": "not asked", "gold": "gold is right", "usual": "the usual label is right", "unclear": "unclear"}
_TEST = (
    "These are errors on the reported split (guide.allow_test): a prompt made of them has seen the answers, and scores "
    "with it are no test."
)


def summary(guidance: Guidance) -> str:
    """A few lines of plain text."""
    scores, rest = guidance.scores, guidance.rest
    told = scores["errors"] - rest["errors"]
    lines = [
        f"{scores['errors']:,.0f} errors on {scores['sentences']:,.0f} sentences of {guidance.split} "
        f"(F1 {scores['f1']:.2%}) of {guidance.source['name']}",
        f"  {len(guidance.lessons)} lessons cover {told:,.0f} of them; {rest['clusters']:,} smaller clusters have none",
        f"  {author(guidance)}",
    ]
    lines += [f"  {lesson.count:>6,}  {lesson_id(lesson)}" for lesson in guidance.lessons[:_SHOWN]]
    if guidance.suspects:
        lines.append(f"  {len(guidance.suspects)} suspected annotation errors")
    return "\n".join([*lines, *([f"  {_TEST}"] if guidance.from_test else [])])


def author(guidance: Guidance) -> str:
    """Whose word the notes are, and what it cost."""
    teacher = guidance.teacher
    if teacher["kind"] == "none":
        return "Notes are counted facts of the training split; no teacher was asked."
    counted = sum(lesson.note.by == COUNTED for lesson in guidance.lessons)
    return (
        f"Teacher: {teacher['name']}, {teacher['asked']:,} questions put ({teacher['cached']:,} answers were kept from "
        f"before), {teacher['prompt_tokens']:,} prompt tokens, {teacher['completion_tokens']:,} answer tokens; "
        f"{len(guidance.failures)} questions without an answer, {counted} lessons with counted notes."
    )


def sheets(guidance: Guidance) -> dict[str, Table]:
    """Tables by name: the lessons, and the suspected labels."""
    lessons = Table(
        ["kind", "gold", "predicted", "count", "by", "rule", "surfaces"],
        [
            [
                lesson.kind,
                lesson.gold,
                lesson.predicted,
                lesson.count,
                lesson.note.by,
                " / ".join(lesson.note.rule.values()),
                ", ".join(f"{text} {count}" for text, count in lesson.surfaces),
            ]
            for lesson in guidance.lessons
        ],
    )
    names = ("surface", "gold", "usual", "share", "seen", "count", "agreeing", "verdict", "reason", "id", "text")
    rows = [[getattr(suspect, name) for name in names] for suspect in guidance.suspects]
    return {"lessons": lessons, "suspects": Table(list(names), rows)}


def markdown(guidance: Guidance) -> str:
    """All of it for reading and for version control."""
    told = (f"    {line}" for line in summary(guidance).splitlines())  # as code: it stays in lines, and plain
    lines = [f"# Guidance from {_plain(guidance.source['name'])}", "", *told, ""]
    for number, lesson in enumerate(guidance.lessons, 1):
        lines += [f"## {number}. {_plain(lesson_id(lesson))}", "", *_lesson_markdown(lesson, guidance), ""]
    lines += ["## Suspected annotation errors", ""]
    lines += [f"- {_plain(_suspect(suspect))}" for suspect in guidance.suspects] or ["None."]
    if guidance.failures:
        lines += ["", "## Questions without an answer", ""]
        lines += [f"- {_plain(question)}: {_plain(reason)}" for question, reason in guidance.failures]
    return storable("\n".join(lines) + "\n")


def html(guidance: Guidance, name: str) -> str:
    """The page of the run `name`."""
    scores, source = guidance.scores, guidance.source
    cards = [
        ("Errors", f"{scores['errors']:,.0f}", f"on {scores['sentences']:,.0f} sentences of {guidance.split}"),
        ("Lessons", f"{len(guidance.lessons)}", f"{guidance.rest['clusters']:,} smaller clusters have none"),
        ("Errors covered", f"{1 - guidance.rest['errors'] / scores['errors']:.1%}", "by the lessons"),
        ("F1", f"{scores['f1']:.4f}", f"of the run on {guidance.split}"),
    ]
    details = {"run": source["name"], "MLflow run": source["run"] or "not tracked", "folder": source["folder"]}
    details |= {"model": source["model"], "data": source["data"], "errors by type": _counts(guidance.types.items())}
    lessons = [_lesson_html(number, lesson, guidance) for number, lesson in enumerate(guidance.lessons, 1)]
    failures = [f"<b>{_safe(question)}</b>: {_safe(reason)}" for question, reason in guidance.failures]
    sections = _SECTIONS | ({"failures": "Unanswered"} if failures else {})
    parts = {
        "name": _safe(name),
        "kind": "guidance",
        "nav": page.nav(sections),
        "warning": f'<p class="notice">{_safe(_TEST)}</p>' if guidance.from_test else "",
        "cards": page.cards(cards),
        "author": _safe(author(guidance)),
        "details": page.details(details),
        "lessons": "".join(lessons),
        "suspects": _list([_safe(_suspect(suspect)) for suspect in guidance.suspects]),
        "failures": f'<section id="failures"><h2>Questions without an answer</h2>{_list(failures)}</section>'
        if failures
        else "",
    }
    return page.render("guidance.html", parts, None, {}, {})


def _lesson_markdown(lesson: Lesson, guidance: Guidance) -> list[str]:
    lines = [f"{_plain(_about(lesson, guidance))}. Note by {_plain(_by(lesson))}.", ""]
    lines += [f"> **{_plain(text)}**" for text in lesson.note.rule.values()]
    lines += [f"> {_plain(text)}" for text in lesson.note.cause.values()]
    lines += ["", "Examples:", ""]
    for example in lesson.examples:
        lines += [
            f"- {_plain(example.text)} ({_plain(f'{example.id}, {example.type}')})",
            f"  {_plain(_sides(example))}",
        ]
    lines += ["", "In the training split:", ""]
    return [*lines, *(f"- {_plain(line)}" for line in _evidence(lesson))]


def _lesson_html(number: int, lesson: Lesson, guidance: Guidance) -> str:
    examples = [
        f"{_safe(example.text)} <code>{_safe(example.id)}</code><br>{_safe(_sides(example))}"
        for example in lesson.examples
    ]
    said = "".join(f"<p><b>{_safe(text)}</b></p>" for text in lesson.note.rule.values())
    said += "".join(f"<p>{_safe(text)}</p>" for text in lesson.note.cause.values())
    return (
        f"<h3>{number}. {_safe(lesson_id(lesson))}</h3>"
        f'<p class="fact">{_safe(_about(lesson, guidance))}. Note by {_safe(_by(lesson))}.</p>{said}'
        f'<p class="fact">Examples</p>{_list(examples)}'
        f'<p class="fact">In the training split</p>{_list([_safe(line) for line in _evidence(lesson)])}'
    )


def _about(lesson: Lesson, guidance: Guidance) -> str:
    share = lesson.count / guidance.scores["errors"]
    return f"{lesson.count:,} errors ({share:.1%}): {_counts(lesson.types.items())}; {_counts(lesson.surfaces)}"


def _counts(items: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in items if count)


def _by(lesson: Lesson) -> str:
    return "counting in the training split" if lesson.note.by == COUNTED else lesson.note.by


def _evidence(lesson: Lesson) -> list[str]:
    return describe_facts(lesson.facts, lesson.gold, lesson.predicted, "en")


def _sides(example: LessonExample) -> str:
    doubt = " (the teacher doubts the gold label)" if example.doubtful else ""
    return f"gold: {_listed(example.gold)}{doubt}; predicted: {_listed(example.predicted)}"


def _listed(entities: Sequence[Entity]) -> str:
    return ", ".join(f"“{entity.text}” {entity.category}" for entity in entities) or "nothing"


def _suspect(suspect: SuspectLabel) -> str:
    verdict = _VERDICTS[suspect.verdict] + (f", {suspect.reason}" if suspect.reason else "")
    return (
        f"“{suspect.surface}” is {suspect.gold} in {suspect.count} places (the model says {suspect.usual} in "
        f"{suspect.agreeing} of them), but {suspect.share:.0%} of its {suspect.seen} labels are {suspect.usual}: "
        f"{suspect.text} ({suspect.id}). Teacher: {verdict}."
    )


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>" if items else '<p class="none">None.</p>'


def _safe(text: str) -> str:
    return markup.escape(text)


def _plain(text: str) -> str:
    """One line that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in " ".join(text.split()))
