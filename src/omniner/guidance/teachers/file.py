"""Answers in a file, by a person or by a model that cannot be reached from here.

Without `teacher.file` the run only writes its questions (`questions.jsonl`). A question's id is made from its content,
so that an answer can only belong to its own question. The file has one line per answer with `id` and `answer`: the
answer as an object, or as the text that a chat model wrote. `questions.jsonl` itself, filled in, is such a file; a line
whose answer is still null counts as unanswered. If one answer does not have the required form, no answer is used.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omniner.config.groups import Config
from omniner.config.validate import short_json
from omniner.errors import UserError
from omniner.files import explaining
from omniner.guidance.lessons import Failure
from omniner.guidance.questions import QUESTIONS_FILE, Question, find_answer, tidied
from omniner.guidance.teacher import TeacherAnswers, TeacherKind
from omniner.wording import counted, first_of

log = logging.getLogger("omniner")

_NAMED = 3  # number of ids named in a message
_SHOWN = 10  # number of wrong lines listed in an error


class FileAnswer(NamedTuple):
    """An answer, and the number of its line."""

    line: int
    value: dict[str, Any] | str


class _Mistakes:
    """Collects the mistakes in a file, so that one error reports all of them."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, dict[int, str]()

    def check(self) -> None:
        """Raise a `UserError` if there are mistakes."""
        if not self.found:
            return
        (first, wrong), *others = sorted(self.found.items())
        said = [wrong, *(f"line {line}: {text}" for line, text in others[: _SHOWN - 1])]
        if left := len(others) - len(said) + 1:
            said.append(f"and {counted(left, 'more line')}")
        fix = "Mend this and run the same command again: no answer of the file was taken."
        raise UserError(f"{self.path}:{first}", "; ".join(said), fix)


def teach(config: Config, questions: Sequence[Question], ledger: Path) -> TeacherAnswers:
    """Return the answers in `teacher.file`; see `TeacherKind`.

    Raises:
        UserError: a line is wrong, or no line answers any of the questions.
    """
    if not config.teacher.file:
        return TeacherAnswers("", said={"questions": len(questions)})
    path = Path(config.teacher.file)
    mistakes = _Mistakes(path)
    given = _read_answers(path, mistakes)
    result = TeacherAnswers(config.teacher.model or path.name)
    asked: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        asked[question.sha].append(question)
    for sha, answer in given.items():
        before = result.dropped
        if sha in asked and (wrong := _take(result, asked[sha], answer)):
            mistakes.found[answer.line] = f"the answer to {sha} is not as asked for: {wrong}"
        if dropped := result.dropped - before:
            message = "%s:%d: %s left out: not as asked for, or said twice"
            log.warning(message, path, answer.line, counted(dropped, "rule"))
    mistakes.check()
    others = [sha for sha in given if sha not in asked]
    if not result.answers:
        found = f"it answers none of the {counted(len(questions), 'question')} of this run"
        found += f", but {counted(len(others), 'other one')}" if others else ""
        raise UserError(
            path, found, f"Write the answers into the {QUESTIONS_FILE} in this run's folder, and name that."
        )
    if others:
        message = "%s: %s to questions that this run does not ask (%s): left out. A question changes with its errors, "
        message += "and with settings such as teacher.answers and guide.language"
        log.warning(message, path, counted(len(others), "answer"), first_of(others, _NAMED))
    reason = f"there is none in {path.name}"
    result.failures = [Failure(one.id, reason) for one in questions if one.id not in result.answers]
    answered = len(result.answers)
    result.said = {"name": result.teacher, "questions": len(questions), "answered": answered, "other": len(others)}
    return result


def _take(result: TeacherAnswers, questions: Sequence[Question], answer: FileAnswer) -> str:
    """Add an answer to the result; return what is wrong with it, empty if nothing is."""
    value, wrong = find_answer(answer.value) if isinstance(answer.value, str) else (tidied(answer.value), "")
    return wrong if value is None else next(filter(None, (result.take(one, value) for one in questions)), "")


def check_answers_file(path: Path) -> None:
    """Raise a `UserError` if a line is no answer, whatever the questions are: no sentence is labelled in vain."""
    mistakes = _Mistakes(path)
    _read_answers(path, mistakes)
    mistakes.check()


def _read_answers(path: Path, mistakes: _Mistakes) -> dict[str, FileAnswer]:
    """Read a file; return its answers by the ids of their questions, and collect its mistakes."""
    with explaining(path):
        data = path.read_bytes()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        fix = "Convert it to UTF-8, for example with iconv -f GB18030 -t UTF-8."
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{number}", "not UTF-8", fix) from error
    found: dict[str, FileAnswer] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        text = line.decode("utf-8").removeprefix("\ufeff").strip()  # also inside a file that was joined of several
        if not text:
            continue
        try:
            item = json.loads(text)
        except (ValueError, RecursionError) as error:
            mistakes.found[number] = f"not JSON on one line ({getattr(error, 'msg', error)})"
            continue
        if wrong := _find_wrong(item, found):
            mistakes.found[number] = wrong
        elif item["answer"]:
            found[item["id"]] = FileAnswer(number, item["answer"])
    return found


def _find_wrong(item: Any, before: dict[str, FileAnswer]) -> str:
    """Return what is wrong with a line; empty for a good one, also if it has no answer yet."""
    if not isinstance(item, dict):
        return f"an object with id and answer is expected, not {short_json(item)}"
    if missing := [key for key in ("id", "answer") if key not in item]:
        return f"the key {missing[0]} is missing"
    name, answer = item["id"], item["answer"]
    if not isinstance(name, str):
        return f"id must be a text, not {short_json(name)}"
    if answer is not None and not isinstance(answer, dict | str):
        return f"answer must be an object, or a text with one, not {short_json(answer)}"
    if answer and name in before and before[name].value != answer:
        return f"{name} is answered in line {before[name].line}, too, and otherwise"
    return ""


TEACHER = TeacherKind(name="file", description=__doc__, key="file", missing=None, teach=teach)
