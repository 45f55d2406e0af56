"""Ask a teacher about errors: each question once, within a budget; check and cache its answers.

`ask_teacher` returns the valid answers (`questions`), and for every other question the reason why it has none. After a
wrong answer the question is asked once more, together with what is wrong.

Valid answers are cached on disk by the content of the question and the teacher's name, so that a question is paid for
only once: a killed run asks only the rest. If all answers are cached, the result is always the same, and the teacher is
not needed if its name is given. The cost is recorded after each batch of answers and added up over all attempts of a
run.

A `Teacher` is a model behind a server (`teachers.openai`), or one in this process (`teachers.hf`, which needs torch).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from omniner import registry
from omniner.config.groups import Config, TeacherConfig
from omniner.errors import UserError
from omniner.files import append_lines, read_json, whole_records, write_text
from omniner.guidance.lessons import Candidate, Cost, Failure, FalseAlarms, Lesson, Note, SuspectLabel
from omniner.guidance.questions import Question, check_answer, find_answer, repeat_question
from omniner.progress import Progress
from omniner.records import to_line
from omniner.registry import Registry, first_line
from omniner.wording import counted

log = logging.getLogger("omniner")

ANSWER_CUT = "it is longer than teacher.max_new_tokens allows"
_VERSION = 1  # part of the cache key: increase it when cached answers become invalid


@dataclass(frozen=True, slots=True)
class TeacherCost:
    """The cost of answers: number of questions asked, their tokens, and the tokens of the answers."""

    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: TeacherCost) -> TeacherCost:
        return TeacherCost(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: TeacherCost) -> TeacherCost:
        return TeacherCost(*map(operator.sub, astuple(self), astuple(other)))

    def to_json(self) -> dict[str, int]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, int]) -> TeacherCost:
        """Make a cost from the values of `to_json`.

        Raises:
            ValueError, TypeError, AttributeError: the values are something else.
        """
        if not all(type(value) is int for value in raw.values()):
            raise ValueError("not every count is a whole number")
        return cls(**raw)


@dataclass(frozen=True)
class TeacherAnswer:
    """A teacher's answer to a question; without a text there is no answer, for the given reason."""

    question: Question
    text: str | None
    reason: str = ""


class Teacher(Protocol):
    """A language model that answers questions."""

    @property
    def cost(self) -> TeacherCost:
        """The cost of its answers so far."""

    def ask(self, questions: Sequence[Question]) -> Iterator[list[TeacherAnswer]]:
        """Answer each question once.

        Yields:
            Batches of answers as they arrive, in any order; a batch may be empty.
        """

    def close(self) -> None:
        """Release its resources."""


@dataclass
class TeacherAnswers:
    """All answers of a teacher.

    Attributes:
        teacher: its name.
        answers: answers by the id of their question.
        failures: the questions without an answer, in their order.
        cached: number of answers that were in the cache.
        dropped: number of list items that were left out because they are invalid or repeat another one.
        cost: cost of all attempts of this run.
        said: facts about the teacher for the guidance: its name, and its cost or its numbers of answers.
    """

    teacher: str
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    cached: int = 0
    dropped: int = 0
    cost: TeacherCost = field(default_factory=TeacherCost)
    said: dict[str, Cost] = field(default_factory=dict)

    def take(self, question: Question, value: dict[str, Any]) -> str:
        """Validate and store the values of an answer; return what is wrong with them, empty if nothing is."""
        values, complaint = check_answer(value, question.answer)
        if values is not None:
            self.answers[question.id] = values
            self.dropped += sum(len(value[key]) - len(values[key]) for key in values if type(values[key]) is list)
        return complaint


@dataclass(frozen=True)
class TeacherKind:
    """A kind of teacher: the entry of its module.

    Args:
        name: name of the module, and of its choice in `conf/teacher`.
        description: the docstring of the module.
        key: the key of `teacher` that says where the teacher is; other kinds must not set it. Empty if nothing need be
            said.
        missing: (what was found, what to do) for the error if the key has no value; None = it may have none.
        teach: answers the questions of a run, given its configuration and the file that records the cost.
    """

    name: str
    description: str
    key: str
    missing: tuple[str, str] | None
    teach: Callable[[Config, Sequence[Question], Path], TeacherAnswers]

    def __post_init__(self) -> None:
        """Raise a `ValueError` if `teacher` has no such key: every check of a configuration would fail on it."""
        known = [field.name for field in fields(TeacherConfig) if field.name != "kind"]
        if self.key not in ("", *known):
            raise ValueError(f"teacher.{self.key} is no key; take '' or one of {', '.join(known)}")

    @property
    def meaning(self) -> str:
        """Return in one line what this kind of teacher is."""
        return first_line(self.description)


TEACHERS: Registry[TeacherKind] = registry.TEACHERS


def check_teacher(config: TeacherConfig) -> None:
    """Raise a `UserError` if the key that a teacher needs has no value; imports nothing heavy."""
    key, missing = (TEACHERS.peek(config.kind, field) for field in ("key", "missing"))
    if key and missing and not getattr(config, key):
        raise UserError(f"teacher.{key}", *missing)


def with_note(lesson: Lesson, taught: TeacherAnswers, language: str) -> Lesson:
    """Add the teacher's answer to a lesson, with the first rule as its note; without an answer return it unchanged.

    If the teacher doubts more than half of the gold labels that it was shown, none of its doubts is used: annotators
    are not wrong so often.
    """
    answer = taught.answers.get(lesson.question_id)
    if answer is None:
        return lesson
    doubtful = set(answer["doubtful"])
    if len(doubtful) > max(1, len(lesson.examples) // 2):
        log.info("%s doubts most gold labels of the errors %s: not believed", taught.teacher, lesson.question_id)
        doubtful = set()
    examples = [replace(example, doubtful=number in doubtful) for number, example in enumerate(lesson.examples, 1)]
    rules = answer["rules"] if "rules" in answer else [answer["rule"]]
    notes = [Note(taught.teacher, {language: rule}, {language: answer["cause"]}) for rule in rules]
    candidates = [Candidate(note, chosen=note is notes[0]) for note in (lesson.note, *notes)]
    return replace(lesson, examples=examples, note=notes[0], candidates=candidates)


_NOT_BELIEVED = {
    "zh": "教师模型把 {judged} 个正确标注中的 {wrong} 个判为错误，它的判断不予采信",
    "en": "the teacher calls {wrong} of {judged} labels wrong that are right: it is not believed",
}


def with_verdicts(
    suspects: Sequence[SuspectLabel], controls: Sequence[SuspectLabel], taught: TeacherAnswers, language: str
) -> tuple[list[SuspectLabel], list[SuspectLabel]]:
    """Add the teacher's verdicts to suspected labels and controls.

    A teacher who calls at least half of the controls wrong would say so about any unusual label: its verdicts on
    suspects become `unclear`.
    """
    controls = [replace(one, **taught.answers.get(one.control_id, {})) for one in controls]
    suspects = [replace(one, **taught.answers.get(one.question_id, {})) for one in suspects]
    alarms = FalseAlarms.of(controls)
    if not alarms.believed:
        reason = _NOT_BELIEVED[language].format(**alarms._asdict())
        suspects = [replace(one, verdict="unclear", reason=reason) if one.verdict else one for one in suspects]
    return suspects, controls


@dataclass(frozen=True)
class AskedModel:
    """A `TeacherKind.teach` that asks a language model.

    Args:
        name: returns the model's name for notes and for the cache.
        open: creates the teacher; not called if all answers are cached.
    """

    name: Callable[[TeacherConfig], str]
    open: Callable[[Config], Teacher]

    def __call__(self, config: Config, questions: Sequence[Question], ledger: Path) -> TeacherAnswers:
        """See `ask_teacher`."""
        settings, language = config.teacher, config.guide.language
        return ask_teacher(settings, self.name(settings), questions, language, lambda: self.open(config), ledger)


def ask_teacher(
    config: TeacherConfig,
    name: str,
    questions: Sequence[Question],
    language: str,
    open_teacher: Callable[[], Teacher],
    ledger: Path,
) -> TeacherAnswers:
    """Ask a teacher all questions in their order, as far as the budget allows.

    Args:
        config: `max_requests` and `cache` are read.
        name: name of the teacher.
        questions: questions with unique ids.
        language: language of complaints about wrong answers.
        open_teacher: creates the teacher; not called if all answers are cached.
        ledger: file that records the cost of this run's answers.

    Raises:
        UserError: the teacher cannot be asked, or answered no question. Earlier answers stay in the cache.
    """
    return _Asking(config, TeacherAnswers(name, cost=read_ledger(ledger)), questions, language, ledger).run(
        open_teacher
    )


class _Asking:
    """Asks all questions, and once more those with wrong answers."""

    def __init__(
        self,
        config: TeacherConfig,
        result: TeacherAnswers,
        questions: Sequence[Question],
        language: str,
        ledger: Path,
    ) -> None:
        self.config, self.questions, self.language, self.ledger = config, questions, language, ledger
        self.result = result
        self.reasons: dict[str, str] = {}
        self.written = TeacherCost()  # cost of this process that is already in the ledger

    def run(self, open_teacher: Callable[[], Teacher]) -> TeacherAnswers:
        """Use the cached answers, and ask the other questions."""
        result = self.result
        for question in self.questions:
            self._take_kept(question)
        result.cached = len(result.answers)
        left = [question for question in self.questions if question.id not in result.answers]
        if left:
            with contextlib.closing(open_teacher()) as teacher:
                self._ask(teacher, left)
        result.failures = [Failure(q.id, self.reasons[q.id]) for q in self.questions if q.id not in result.answers]
        if result.failures and not result.answers:
            found = f"none of {len(result.failures)} questions was answered; the first: {result.failures[0].reason}"
            raise UserError("teacher", found, "Change the key that it does not take, or ask another teacher.")
        result.said = {"name": result.teacher, **result.cost.to_json(), "cached": result.cached}
        return result

    def _ask(self, teacher: Teacher, questions: Sequence[Question]) -> None:
        asked, kept = counted(len(questions), "question"), self.result.cached
        log.info("asking %s %s (answers kept from before: %d)", self.result.teacher, asked, kept)
        if wrong := self._round(teacher, questions):
            self._round(teacher, wrong)
        words = ("question", "prompt token", "answer token")
        log.info("the teacher was put %s", ", ".join(map(counted, astuple(self.result.cost), words)))

    def _round(self, teacher: Teacher, questions: Sequence[Question]) -> list[Question]:
        """Ask questions as far as the budget allows.

        Returns:
            Questions to ask again, with the wrong answer and what is wrong with it.
        """
        originals = {question.id: question for question in self.questions}
        allowed = max(self.config.max_requests - self.result.cost.asked, 0)
        for question in questions[allowed:]:
            before = self.reasons.get(question.id)
            reason = f"teacher.max_requests={self.config.max_requests} is used up"
            self.reasons[question.id] = f"{before}; {reason}" if before else reason
        wrong = []
        progress = Progress("questions answered", len(self.questions))
        for batch in teacher.ask(questions[:allowed]) if allowed else ():
            self._write_down(teacher)  # first: a kill before the answers are cached must not lose their cost
            for answer in batch:
                original = originals[answer.question.id]
                if answer.text is None:
                    self.reasons[original.id] = answer.reason
                elif complaint := self._take(original, answer):
                    self.reasons[original.id] = f"the answer is not as asked for: {complaint}"
                    wrong.append(repeat_question(original, answer.text, complaint, self.language))
            progress.add(len(self.result.answers) - progress.done)
        order = {question.id: place for place, question in enumerate(questions)}
        return sorted(wrong, key=lambda question: order[question.id])

    def _take(self, question: Question, answer: TeacherAnswer) -> str:
        """Validate an answer and cache it as it was given; return what is wrong with it, empty if nothing is."""
        assert answer.text is not None
        value, complaint = find_answer(answer.text)
        if value is not None:
            complaint = self.result.take(question, value)
        if value is None or complaint:
            return answer.reason or complaint
        kept = {"teacher": self.result.teacher, "question": question.text, "answer": value}
        write_text(self._path(question), to_line(kept) + "\n")
        return ""

    def _write_down(self, teacher: Teacher) -> None:
        """Add the cost since the last call to the ledger."""
        cost = teacher.cost  # read once: other threads add answers meanwhile
        new = cost - self.written
        if new != TeacherCost():
            append_lines(self.ledger, [json.dumps(new.to_json())])
            self.written = cost
            self.result.cost = read_ledger(self.ledger)

    def _take_kept(self, question: Question) -> None:
        """Use a cached answer; one that no longer satisfies its model is ignored."""
        path = self._path(question)
        if not path.is_file():
            return
        try:
            kept = read_json(path)
        except UserError as error:
            log.warning("%s: asked anew", error)
            return
        value, complaint = find_answer(json.dumps(kept.get("answer") if isinstance(kept, dict) else None))
        if value is not None:
            complaint = self.result.take(question, value)
        if complaint:
            log.warning("%s holds no answer to its question (%s): asked anew", path, complaint)

    def _path(self, question: Question) -> Path:
        content = [_VERSION, self.result.teacher, question.system, question.text, question.schema]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return Path(self.config.cache) / digest[:2] / f"{digest}.json"


def read_ledger(path: Path) -> TeacherCost:
    """Return the total cost of all attempts of a run."""
    fix = "Remove this line: what it counts is left out of the cost."
    return sum(whole_records(path, lambda line: TeacherCost.from_json(json.loads(line)), fix), TeacherCost())
