"""Present guidance and prompt searches to people: as Markdown, as tables, as a summary, and as pages.

Each note is shown with its evidence and its author; the page of guidance has no scripts (`pages/guidance.html`). The
results of a search are shown with their basis: every F1 with the sentences or steps on which it was measured, the best
one also with its interval and with its value corrected for the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omniner.config.groups import CompareConfig
from omniner.config.overrides import override_line
from omniner.guidance.clusters import describe_facts
from omniner.guidance.lessons import COUNTED, Guidance, Lesson, LessonExample, Note, SuspectLabel
from omniner.guidance.prompt_search import BaselineDifference, SearchResult
from omniner.guidance.questions import QUESTIONS_FILE
from omniner.records import Entity, storable
from omniner.report import page
from omniner.report.tables import (
    COUNT,
    NONE,
    POINTS,
    SHARE,
    TEXT,
    Cell,
    Table,
    columns,
    escape_markdown,
    tables_markdown,
)
from omniner.scoring.error_types import ERROR_TYPES
from omniner.scoring.resampling import smallest_p
from omniner.wording import Wording, counted, translated

_SHOWN = 5  # number of lessons in the summary
_TRUSTED = 2  # candidates of a lesson whose teacher gave one rule: without a trial there is nothing to show about them
_COUNT = "{name} {count:,}"
_VERDICTS = {"": "not asked", "gold": "gold is right", "usual": "the usual label is right", "unclear": "unclear"}
_TEST = Wording(
    "These are errors on the reported split (guide.allow_test): a prompt made of them has seen the answers, and scores "
    "with it are no test."
)


def guidance_summary(guidance: Guidance, questions: str = QUESTIONS_FILE) -> str:
    """Return a summary in a few lines of plain text; `questions` is the path of the file with the questions."""
    scores, rest = guidance.scores, guidance.rest
    covered = scores["errors"] - rest["errors"]
    lines = [
        f"{counted(int(scores['errors']), 'error')} "
        f"on {counted(int(scores['sentences']), 'sentence')} of {guidance.split} "
        f"(F1 {scores['f1']:.2%}) of {guidance.source['name']}",
        f"  {counted(len(guidance.lessons), 'lesson')} for {covered:,.0f} of them; "
        f"{counted(rest['clusters'], 'smaller cluster')} without one",
        f"  {guidance_author(guidance)}",
        *(f"  {line}" for line in _teacher_lines(guidance)),
    ]
    lines += [f"  {lesson.count:>6,}  {lesson.question_id}" for lesson in guidance.lessons[:_SHOWN]]
    if guidance.suspects:
        lines.append(f"  {counted(len(guidance.suspects), 'suspected annotation error')}")
    lines += [f"  {_TEST}"] if guidance.from_test else []
    return "\n".join([*lines, *(f"  {line}" for line in _unanswered_lines(guidance, questions))])


def guidance_author(guidance: Guidance) -> str:
    """Return a sentence about the author of the notes and their cost."""
    teacher = guidance.teacher
    if teacher["kind"] == "none":
        return Wording("Notes are counted facts of the training split; no teacher was asked.")
    if "name" not in teacher:
        return Wording("Notes are counted facts of the training split until the teacher's questions are answered.")
    by_count = sum(lesson.note.by == COUNTED for lesson in guidance.lessons)
    if "asked" not in teacher:
        return Wording(
            "Teacher: {name}, {answered:,} of {questions:question} answered; {counted:lesson} with counted notes.",
            counted=by_count, **{key: teacher[key] for key in ("name", "answered", "questions")},
        )  # fmt: skip
    return Wording(
        "Teacher: {name}, {asked:question} put ({cached:answer} kept from before), {prompt_tokens:,} prompt "
        "tokens, {completion_tokens:,} answer tokens; {failed:question} without an answer, {counted:lesson} with "
        "counted notes.",
        failed=len(guidance.failures), counted=by_count,
        **{key: teacher[key] for key in ("name", "asked", "cached", "prompt_tokens", "completion_tokens")},
    )  # fmt: skip


def _unanswered_lines(guidance: Guidance, questions: str) -> list[str]:
    """Return lines that explain how to supply missing answers; empty if none is missing."""
    waiting = len(guidance.failures) if "name" in guidance.teacher else guidance.teacher.get("questions")
    if not waiting:
        return []
    return [
        Wording(
            "Without an answer: {waiting:question}. Write each answer in place of null in {path}",
            waiting=waiting,
            path=questions,
        ),
        Wording("Next: the same command with teacher=file teacher.file={path} as its teacher", path=questions),
    ]


def _teacher_lines(guidance: Guidance) -> list[str]:
    """Return lines about the reliability of the teacher, as far as it was tested."""
    lines: list[str] = []
    if other := guidance.teacher.get("other"):
        lines.append(Wording("{other:answer} to questions that this run does not ask left out.", other=other))
    if dropped := guidance.teacher.get("dropped"):
        lines.append(
            Wording("{dropped:rule} of the teacher left out: not as asked for, or said twice.", dropped=dropped)
        )
    if tried := guidance.tried:
        won = len(guidance.won)
        lines.append(
            Wording(
                "Lessons in which a rule of the teacher beat the counted facts: {won} of {tried}.",
                won=won,
                tried=len(tried),
            )
        )
    alarms = guidance.alarms
    if alarms.judged:
        lines.append(
            Wording(
                "False alarms of the teacher: {wrong} of {judged} unusual labels that the model gives, too.",
                **alarms._asdict(),
            )
        )
    if not alarms.believed:
        lines.append(Wording("Its verdicts on suspected labels are therefore not believed."))
    return lines


def build_guidance_tables(guidance: Guidance) -> dict[str, Table]:
    """Return tables by name: lessons and suspected labels and, if they exist, control labels and candidate notes."""
    rows: list[list[Cell]] = [
        [
            lesson.kind,
            lesson.gold,
            lesson.predicted,
            lesson.count,
            lesson.note.by,
            " / ".join(lesson.note.rule.values()),
            ", ".join(f"{surface.text} {surface.count}" for surface in lesson.surfaces),
        ]
        for lesson in guidance.lessons
    ]
    heads = [*columns(TEXT, "kind", "gold", "predicted"), *columns(COUNT, "count")]
    lessons = Table("Lessons", [*heads, *columns(TEXT, "by", "rule", "surfaces")], rows)
    heads = [*columns(TEXT, "surface", "gold", "usual"), *columns(SHARE, "share")]
    heads += [*columns(COUNT, "seen", "count", "agreeing"), *columns(TEXT, "verdict", "reason", "id", "text")]
    rows = [[getattr(suspect, head.name) for head in heads] for suspect in guidance.suspects]
    tables = {"lessons": lessons, "suspects": Table("Suspected annotation errors", heads, rows)}
    if guidance.controls:
        rows = [[getattr(control, head.name) for head in heads] for control in guidance.controls]
        tables["controls"] = Table("Unusual labels that the model gives, too", heads, rows)
    heads = [*columns(COUNT, "lesson"), *columns(TEXT, "by", "rule", "chosen")]
    heads += columns(COUNT, "sentences", "errors", "right_sentences", "right_errors")
    heads += columns(COUNT, "choosing_errors", "confirming_errors")
    rows = [
        [
            number,
            one.note.by,
            " / ".join(one.note.rule.values()),
            str(one.chosen).lower(),
            *one.on_cluster,
            *one.on_right,
            one.choosing.errors,
            one.confirming.errors,
        ]
        for number, lesson in enumerate(guidance.lessons, 1)
        for one in lesson.candidates
    ]
    return tables | ({"candidates": Table("Notes that lessons may have", heads, rows)} if rows else {})


def _candidates_table(lesson: Lesson, language: str) -> Table | None:
    """Return the table of a lesson's candidate notes, the chosen one bold; None if there was nothing to choose."""
    tried = [one for one in lesson.candidates if one.on_cluster.sentences]
    if not tried and len(lesson.candidates) <= _TRUSTED:
        return None
    heads = [*columns(TEXT, "note", "by")]
    rows: list[list[Cell]] = [
        [" ".join(_in_language(one.note.rule, language)), _by(one.note)] for one in lesson.candidates
    ]
    best = frozenset((place, 0) for place, one in enumerate(lesson.candidates) if one.chosen)
    if not tried:
        return Table(Wording("Notes that were not tried, the chosen one bold"), heads, rows, best)
    heads += columns(COUNT, "errors on its sentences", "errors on right ones")
    heads += columns(COUNT, "errors on the half that chooses", "errors on the half that confirms")
    for one, row in zip(lesson.candidates, rows, strict=True):
        parts = (one.on_cluster, one.on_right, one.choosing, one.confirming)
        row += [part.errors if one in tried else NONE for part in parts]
    title = Wording(
        "Notes tried on {cluster:sentence} with such errors and {right} that were right, the chosen one bold; a rule "
        "must make the fewest errors on one half of both, and fewer than the counted note on the other",
        cluster=tried[0].on_cluster.sentences,
        right=tried[0].on_right.sentences,
    )
    return Table(title, heads, rows, best)


def guidance_markdown(guidance: Guidance, questions: str = QUESTIONS_FILE) -> str:
    """Return guidance as Markdown, for reading and version control; `questions` is the path of the questions' file."""
    # as code, which keeps the lines and shows no markup
    summary = (f"    {line}" for line in guidance_summary(guidance, questions).splitlines())
    lines = [f"# Guidance from {escape_markdown(guidance.source['name'])}", "", *summary, ""]
    for number, lesson in enumerate(guidance.lessons, 1):
        lines += [f"## {number}. {escape_markdown(lesson.question_id)}", "", *_lesson_markdown(lesson, guidance), ""]
    lines += ["## Suspected annotation errors", ""]
    lines += [f"- {escape_markdown(_suspect(suspect))}" for suspect in guidance.suspects] or ["None."]
    if guidance.controls:
        lines += ["", "## Unusual labels that the model gives, too", ""]
        lines += [f"- {escape_markdown(_suspect(control))}" for control in guidance.controls]
    if guidance.failures:
        lines += ["", "## Questions without an answer", ""]
        lines += [f"- {escape_markdown(question)}: {escape_markdown(reason)}" for question, reason in guidance.failures]
    return storable("\n".join(lines) + "\n")


def render_guidance_page(guidance: Guidance, name: str, language: str = "en", questions: str = QUESTIONS_FILE) -> str:
    """Write the page of the run `name` in the language zh or en; `questions` is the path of the questions' file."""
    scores, source = guidance.scores, guidance.source
    values = {
        "guidance": guidance,
        "test_warning": _TEST,
        "key_numbers": [
            (
                Wording("Errors"),
                f"{scores['errors']:,.0f}",
                Wording("on {count:,.0f} sentences of {split}", count=scores["sentences"], split=guidance.split),
            ),
            (
                Wording("Lessons"),
                f"{len(guidance.lessons)}",
                Wording("{count:smaller cluster} without one", count=guidance.rest["clusters"]),
            ),
            (
                Wording("Errors covered"),
                f"{1 - guidance.rest['errors'] / scores['errors']:.1%}",
                Wording("by the lessons"),
            ),
            ("F1", f"{scores['f1']:.2%}", Wording("of the run on {split}", split=guidance.split)),
        ],
        "author": [guidance_author(guidance), *_teacher_lines(guidance), *_unanswered_lines(guidance, questions)],
        "about": {
            Wording("run"): source["name"],
            Wording("MLflow run"): source["run"] or Wording("not tracked"),
            Wording("folder"): source["folder"],
            Wording("model"): source["model"],
            Wording("data"): source["data"],
            Wording("errors by type"): _types(guidance.types.items()),
        },
        "lessons": [
            {
                "title": _title(lesson),
                "about": _about(lesson, guidance),
                "by": Wording("Note by {author}.", author=_by(lesson.note)),
                "candidates": _candidates_table(lesson, language),
                "rules": _in_language(lesson.note.rule, language),
                "causes": _in_language(lesson.note.cause, language),
                "examples": [_marked(example) for example in lesson.examples],
                "evidence": describe_facts(lesson.facts, lesson.gold, lesson.predicted, language),
            }
            for lesson in guidance.lessons
        ],
        "suspects": list(map(_suspect, guidance.suspects)),
        "controls": list(map(_suspect, guidance.controls)),
    }
    return page.render_page("guidance.html", "guidance", name, "", values, language=language)


def _title(lesson: Lesson) -> str:
    """Return the kind of error and its categories: `confusion: 品牌 → 时间`."""
    between = " → ".join(filter(None, (lesson.gold, lesson.predicted)))
    chinese = next(entry.chinese for entry in ERROR_TYPES.values() if entry.lesson.name == lesson.kind)
    kind = Wording.both(lesson.kind, chinese)  # not from the catalogue, in which "split" is a part of a corpus
    return Wording.both("{kind}: {between}", "{kind}：{between}", kind=kind, between=between)


def _in_language(texts: Mapping[str, str], language: str) -> list[str]:
    """Return the text in this language; if it is missing, the texts in all languages that the note has."""
    return [texts[language]] if language in texts else list(texts.values())


def _lesson_markdown(lesson: Lesson, guidance: Guidance) -> list[str]:
    lines = [f"{escape_markdown(_about(lesson, guidance))} Note by {escape_markdown(_by(lesson.note))}.", ""]
    lines += [f"> **{escape_markdown(text)}**" for text in lesson.note.rule.values()]
    lines += [f"> {escape_markdown(text)}" for text in lesson.note.cause.values()]
    if (candidates := _candidates_table(lesson, "")) is not None:
        lines += ["", f"{candidates.title}:", "", candidates.to_markdown().rstrip()]
    lines += ["", "Examples:", ""]
    for example in lesson.examples:
        lines += [
            f"- {escape_markdown(example.text)} ({escape_markdown(f'{example.id}, {example.type}')})",
            f"  {escape_markdown(_sides(example))}",
        ]
    lines += ["", "In the training split:", ""]
    evidence = describe_facts(lesson.facts, lesson.gold, lesson.predicted, "en")
    return [*lines, *(f"- {escape_markdown(line)}" for line in evidence)]


def _about(lesson: Lesson, guidance: Guidance) -> str:
    return Wording(
        "{count:error} ({share:.1%}): {types}; {surfaces}.",
        count=lesson.count,
        share=lesson.count / guidance.scores["errors"],
        types=_types(lesson.types.items()),
        surfaces=_counts((surface.text, surface.count) for surface in lesson.surfaces),
    )


def _types(items: Iterable[tuple[str, int]]) -> Wording:
    """Return error types with their counts as text."""
    return _counts((Wording.both(name, ERROR_TYPES[name].chinese), count) for name, count in items)


def _counts(items: Iterable[tuple[str, int]]) -> Wording:
    return Wording.joined(
        ", ", (Wording.both(_COUNT, _COUNT, name=name, count=count) for name, count in items if count)
    )


def _by(note: Note) -> str:
    return Wording("counting in the training split") if note.by == COUNTED else note.by


def _marked(example: LessonExample) -> dict[str, Any]:
    """Return an example for the template: the sentence twice, with the gold and the predicted entities marked."""
    sides = (
        ("gold", Wording("gold"), "--gold", example.gold),
        ("said", Wording("predicted"), "--said", example.predicted),
    )
    lanes = [(kind, title, colour, page.marked_pieces(example.text, found)) for kind, title, colour, found in sides]
    return {"id": example.id, "doubtful": example.doubtful, "lanes": lanes}


def _sides(example: LessonExample) -> str:
    doubt = " (the teacher doubts the gold label)" if example.doubtful else ""
    return f"gold: {_listed(example.gold)}{doubt}; predicted: {_listed(example.predicted)}"


def _listed(entities: Sequence[Entity]) -> str:
    return ", ".join(f"“{entity.text}” {entity.category}" for entity in entities) or "nothing"


def _suspect(suspect: SuspectLabel) -> str:
    values = {key: getattr(suspect, key) for key in
              ("surface", "gold", "count", "usual", "agreeing", "share", "seen", "text", "id")}  # fmt: skip
    return Wording(
        "“{surface}” is {gold} in {count} places (the model says {usual} in {agreeing} of them), but {share:.0%} of "
        "its {seen} labels are {usual}: {text} ({id}). Teacher: {verdict}.",
        verdict=Wording.joined(", ", [Wording(_VERDICTS[suspect.verdict]), *filter(None, [suspect.reason])]),
        **values,
    )


_SEEN = Wording(
    "The guidance is about errors on dev, where the variants are compared: sentences that it shows are left out, but "
    "its rules were made with the rest in sight. Differences from the generic prompt are optimistic for that; notes of "
    "guide.split=train are not."
)
_SEARCHED_ON_TEST = Wording(
    "The guidance is about errors on the reported split (guide.allow_test): scores there with it are no test."
)


def build_search_table(result: SearchResult) -> Table:
    """Build the table of variants with their F1 in each rung, the best first."""
    heads = [
        *columns(TEXT, "variant", Wording.both("what", "内容")),
        *columns(COUNT, "lessons"),
        *columns(TEXT, "which"),
    ]
    heads += [*columns(SHARE, "errors covered"), *columns(COUNT, result.measure)]
    heads += columns(SHARE, *(Wording("F1, {rung}", rung=rung) for rung in result.rungs), "low", "high")
    heads += [*columns(POINTS, "apart low", "apart high"), *columns(TEXT, "stopped after", "why")]
    rows: list[list[Cell]] = []
    for one in result.tried:
        f1: list[Cell] = [standing.f1 for standing in one.standings]
        last = one.standings[-1] if one.standings else None
        which = " ".join(map(str, one.lessons))
        row: list[Cell] = [one.name, one.about, len(one.lessons), which, one.covered, one.length]
        row += [*f1, *[NONE] * (len(result.rungs) - len(f1))]
        row += [last.low, last.high, last.difference_low, last.difference_high] if last else [NONE] * 4
        row += [result.rungs[one.stopped - 1] if one.stopped else NONE, one.why]
        rows.append(row)
    title = Wording(
        "Variants by rung; low to high is the {confidence:g}% interval of the last F1, apart low to high that of its "
        "difference from the best one there",
        confidence=100 * result.settings.confidence,
    )
    return Table(title, heads, rows)


def search_summary(result: SearchResult) -> list[str]:
    """Return the result of a search in a few lines of plain text."""
    best, final = result.best, result.best.standings[-1]
    lines: list[str] = [
        Wording(
            "best prompt: {name} ({about}), {length:,} {measure}",
            name=best.name, about=best.about, length=best.length, measure=Wording(result.measure),
        ),
        Wording(
            "dev F1 {f1:.2%} [{low:.2%}, {high:.2%}] {confidence:g}% interval, on {sentences:sentence} of dev",
            f1=final.f1, low=final.low, high=final.high, confidence=100 * result.settings.confidence,
            sentences=result.sentences,
        ),
    ]  # fmt: skip
    lines += [_against(one, result.settings) for one in result.against]
    if result.corrected is not None:
        luck = 100 * (final.f1 - result.corrected.f1)
        lines.append(
            Wording(
                "the best of {choices} is chosen for its luck, too: on sentences that did not choose it, such a prompt "
                "has F1 {f1:.2%} ({luck:+.2f} points of optimism; a test set tells)",
                choices=result.choices, f1=result.corrected.f1, luck=luck,
            )
        )  # fmt: skip
    return [*lines, result.cost]


def _against(one: BaselineDifference, settings: CompareConfig) -> str:
    verdict = Wording("better than") if one.difference > 0 else Wording("no better than")
    chance = Wording("significant") if one.p_corrected < settings.alpha else Wording("may be chance")
    return Wording(
        "{verdict} {name}: {difference:+.2f} points [{low:+.2f}, {high:+.2f}], p {p:.3g} (Holm, and Bonferroni over "
        "the {family} prompts it was chosen among), {chance}",
        verdict=verdict, name=one.name, difference=100 * one.difference, low=100 * one.low, high=100 * one.high,
        p=one.p_corrected, family=one.family, chance=chance,
    )  # fmt: skip


def search_warnings(result: SearchResult) -> list[str]:
    """Return warnings about limits of the results of a search."""
    found: list[str] = [_SEEN] if result.split == "dev" else []
    found += [_SEARCHED_ON_TEST] if result.from_test else []
    least = min(1.0, len(result.against) * max((one.family for one in result.against), default=0)
                * smallest_p(result.settings.permutations, 1))  # fmt: skip
    if least >= result.settings.alpha:
        found.append(
            Wording(
                "{permutations:,} permutations cannot make any difference significant (smallest possible corrected p "
                "{least:.3g}): set compare.permutations higher.",
                permutations=result.settings.permutations, least=least,
            )
        )  # fmt: skip
    if failed := [one.name for one in result.tried if not one.standings]:
        names = Wording.joined(", ", failed)
        found.append(Wording("Never judged, because their runs failed: {names}.", names=names))
    return found


def search_markdown(result: SearchResult, name: str, prompt: str, by_name: str) -> str:
    """Return the results of a search as Markdown.

    Args:
        result: result of the search.
        name: name of the run.
        prompt: text of the best prompt, as a model gets it.
        by_name: arguments that choose its configuration, which the run has written.
    """
    parts = [f"# {escape_markdown(name)}", "\n".join(f"- {escape_markdown(line)}" for line in search_summary(result))]
    parts += [f"**{escape_markdown(warning)}**" for warning in search_warnings(result)]
    parts += ["## How to use it", "With any task that is told a prompt, by its name:", _block(by_name)]
    parts += [
        "or, beside the other settings of `prompt` that this search had, by its keys:",
        _block(override_line(result.best.overrides)),
    ]
    parts += [tables_markdown({"search": build_search_table(result)}).rstrip()]
    if result.same:
        parts.append(
            "The same prompt as another variant: " + escape_markdown("; ".join(f"{a} = {b}" for a, b in result.same))
        )
    parts += ["## How it was chosen", *map(escape_markdown, _method(result)), "## The prompt", _block(prompt)]
    return storable("\n\n".join(parts) + "\n")


def render_search_page(result: SearchResult, name: str, prompt: str, by_name: str, language: str = "en") -> str:
    """Write the page of a search in the language zh or en; the other arguments are those of `search_markdown`."""
    same = [Wording("{one} is the same prompt as {other}", one=one, other=other) for one, other in result.same]
    lines = [*search_summary(result), *search_warnings(result), *same]
    by_keys = override_line(result.best.overrides)
    use = Wording("{by_name}\n\nor, by its keys:\n\n{by_keys}", by_name=by_name, by_keys=by_keys)
    texts = [
        (Wording("How to use it"), use),
        (Wording("The prompt"), prompt),
        (Wording("How it was chosen"), "\n\n".join(translated(line, language) for line in _method(result))),
    ]
    tables = {"variants": build_search_table(result)}
    return page.render_summary_page("prompt search", name, lines, tables, texts, language)


def _method(result: SearchResult) -> list[str]:
    settings = result.settings
    return [
        Wording(
            "All variants are compared on the same sentences of dev, drawn by post; {left_out:,} sentences that some "
            "variant shows, or a model would be trained on, are left out for all. The generic prompt and the one of "
            "prompt.from_run go through all rungs.",
            left_out=result.left_out,
        ),
        Wording(
            "After each rung a variant goes if the interval of its difference from the best one lies below 0 (paired "
            "bootstrap over posts, {resamples:,} draws, {confidence:g}%), or if it is not among the best of "
            "search.keep and search.spare. Of equally good ones the shorter prompt is the better.",
            resamples=settings.resamples, confidence=100 * settings.confidence,
        ),
        Wording(
            "The tests against the two are those of task=compare over {posts:post}. Because the best prompt was "
            "chosen on the same sentences, their p-values, after Holm's method, are multiplied by the number of "
            "prompts that were judged beside the one it is compared with (Bonferroni's method). Intervals are not "
            "corrected for the choice: those of the best prompt's F1 and of its differences are optimistic. The F1 "
            "without optimism repeats the choice among the {choices} variants of the last rung on each draw and "
            "scores it on the posts left out of the draw; what was dropped before is not chosen again, so some "
            "optimism may be left.",
            posts=result.posts, choices=result.choices,
        ),
    ]  # fmt: skip


def _block(content: str) -> str:
    """Return text as an indented Markdown block, which no content can end."""
    return "\n".join(f"    {line}" for line in content.split("\n"))
