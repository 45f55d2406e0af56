"""Asking a teacher: every question once, within a budget, its answers checked and kept.

In go questions with the schemas of their answers, out comes a `Consultation`: the answers that fulfil them, and for
every other question the reason why it has none. A wrong answer is asked for once more, with what is wrong with it.
Good answers are kept on disk by the content of the question and the teacher's name, so a question is paid for once: a
killed run asks for the rest, and with all answers there no teacher is needed and the result is always the same.

What was spent is written down after every few answers and counted over all attempts of a run. A teacher is a `Voice`:
a server here, a model in this process in `models.teacher`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from omniner.config.groups import TeacherConfig
from omniner.errors import UserError
from omniner.files import append_lines, read_json, whole_lines, write_text
from omniner.guidance.questions import Question, read_teacher_answer, repeat_question
from omniner.llm.client import ChatClient, ChatRequest, Refusal, Reply, ServerError
from omniner.records import to_line

log = logging.getLogger("omniner")

_VERSION = 1  # of what a kept answer depends on
_TICK = 10.0  # seconds between reports of progress
ANSWER_CUT = "it is longer than teacher.max_new_tokens allows"


@dataclass(slots=True)
class TeacherCost:
    """What questions cost: how many were put, and the tokens of them and of the answers."""

    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __sub__(self, other: TeacherCost) -> TeacherCost:
        return TeacherCost(
            self.asked - other.asked,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
        )

    def to_json(self) -> dict[str, int]:
        """Plain values."""
        return {
            "asked": self.asked,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True)
class TeacherAnswer:
    """What a teacher said to a question; without a text it said nothing, for that reason."""

    question: Question
    text: str | None
    reason: str = ""


class Teacher(Protocol):
    """Somebody who answers."""

    @property
    def spent(self) -> TeacherCost:
        """What its answers have cost so far."""

    def ask(self, questions: Sequence[Question]) -> Iterator[list[TeacherAnswer]]:
        """One `Heard` for each question, in batches as they come, in any order; a batch may be empty."""

    def close(self) -> None:
        """Let go of what it needs."""


@dataclass
class TeacherAnswers:
    """Answers by the id of their question; `failures` are (question, why), in the order of the questions.

    `cached` answers were there before; `spent` is that of all attempts of this run.
    """

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    cached: int = 0
    spent: TeacherCost = field(default_factory=TeacherCost)


def teacher_name(config: TeacherConfig) -> str:
    """What notes and kept answers call the teacher: its model, or its address where that names none."""
    if config.kind == "hf":
        return str(config.path)
    return config.model or str(config.url)


def ask_teacher(
    config: TeacherConfig,
    questions: Sequence[Question],
    language: str,
    open_voice: Callable[[], Teacher],
    ledger: Path,
) -> TeacherAnswers:
    """Ask all questions, the first ones first where the budget does not allow for all.

    Args:
        config: who is asked, `max_requests`, `cache`.
        questions: with different ids.
        language: in which a wrong answer is complained about.
        open_voice: makes the teacher; not called where all answers are kept already.
        ledger: file of what this run has spent.

    Raises:
        UserError: nobody can be asked, or not one question was answered. Answers that came before are kept.
    """
    return _Consulting(config, questions, language, ledger).run(open_voice)


class _Consulting:
    """One round of questions, and one more for the wrong answers."""

    def __init__(self, config: TeacherConfig, questions: Sequence[Question], language: str, ledger: Path) -> None:
        self.config, self.questions, self.language, self.ledger = config, questions, language, ledger
        self.result = TeacherAnswers(spent=_read_ledger(ledger))
        self.reasons: dict[str, str] = {}
        self.written = TeacherCost()  # of this process, in the ledger

    def run(self, open_voice: Callable[[], Teacher]) -> TeacherAnswers:
        result = self.result
        for question in self.questions:
            if (answer := self._kept(question)) is not None:
                result.answers[question.id] = answer
        result.cached = len(result.answers)
        left = [question for question in self.questions if question.id not in result.answers]
        if left:
            with contextlib.closing(open_voice()) as voice:
                self._ask(voice, left)
        result.failures = [(q.id, self.reasons[q.id]) for q in self.questions if q.id not in result.answers]
        if result.failures and not result.answers:
            found = f"none of {len(result.failures)} questions was answered; the first: {result.failures[0][1]}"
            raise UserError("teacher", found, "Change the key that it does not take, or ask another teacher.")
        return result

    def _ask(self, voice: Teacher, questions: Sequence[Question]) -> None:
        log.info(
            "asking %s %d questions (%d answers are kept)",
            teacher_name(self.config),
            len(questions),
            self.result.cached,
        )
        wrong = self._round(voice, questions, {question.id: question for question in questions})
        if wrong:
            self._round(voice, [again for _, again in wrong], {again.id: question for question, again in wrong})
        spent = self.result.spent
        message = "%d questions put, %d prompt tokens, %d answer tokens"
        log.info(message, spent.asked, spent.prompt_tokens, spent.completion_tokens)

    def _round(
        self, voice: Teacher, questions: Sequence[Question], originals: dict[str, Question]
    ) -> list[tuple[Question, Question]]:
        """Put questions as far as the budget goes; (original, question to be put again) for each wrong answer."""
        allowed = max(self.config.max_requests - self.result.spent.asked, 0)
        for question in questions[allowed:]:
            before = self.reasons.get(question.id)
            reason = f"teacher.max_requests={self.config.max_requests} is used up"
            self.reasons[question.id] = f"{before}; {reason}" if before else reason
        wrong, said = [], time.monotonic()
        for batch in voice.ask(questions[:allowed]) if allowed else ():
            for heard in batch:
                original = originals[heard.question.id]
                if heard.text is None:
                    self.reasons[original.id] = heard.reason
                elif complaint := self._take(original, heard):
                    self.reasons[original.id] = f"the answer is not as asked for: {complaint}"
                    wrong.append((original, repeat_question(original, heard.text, complaint, self.language)))
            self._write_down(voice)
            if time.monotonic() - said > _TICK:
                said = time.monotonic()
                log.info("%d of %d questions answered", len(self.result.answers), len(self.questions))
        order = {question.id: place for place, question in enumerate(questions)}
        return sorted(wrong, key=lambda pair: order[pair[0].id])

    def _take(self, question: Question, heard: TeacherAnswer) -> str:
        """Keep an answer; what is wrong with it otherwise."""
        assert heard.text is not None
        answer, complaint = read_teacher_answer(heard.text, question.schema)
        if answer is None:
            return heard.reason or complaint
        kept = {"teacher": teacher_name(self.config), "question": question.text, "answer": answer}
        write_text(self._path(question), to_line(kept) + "\n")
        self.result.answers[question.id] = answer
        return ""

    def _write_down(self, voice: Teacher) -> None:
        spent = voice.spent  # once: answers of other threads come in meanwhile
        new = spent - self.written
        if new != TeacherCost():
            append_lines(self.ledger, [json.dumps(new.to_json())])
            self.written = TeacherCost(**spent.to_json())
            self.result.spent = _read_ledger(self.ledger)

    def _kept(self, question: Question) -> dict[str, Any] | None:
        """An answer from before; one that no longer fulfils the schema counts as none."""
        path = self._path(question)
        if not path.is_file():
            return None
        value = read_json(path)
        found = value.get("answer") if isinstance(value, dict) else None
        answer, complaint = read_teacher_answer(json.dumps(found), question.schema)
        if complaint:
            log.warning("%s holds no answer to its question (%s): asked anew", path, complaint)
        return answer

    def _path(self, question: Question) -> Path:
        content = [_VERSION, teacher_name(self.config), question.system, question.text, question.schema]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return Path(self.config.cache) / digest[:2] / f"{digest}.json"


def _read_ledger(path: Path) -> TeacherCost:
    total = TeacherCost()
    for line in whole_lines(path):
        total = total - (TeacherCost() - TeacherCost(**json.loads(line)))
    return total


class ServerTeacher:
    """A model behind a server that speaks OpenAI's protocol.

    Args:
        config: `conf/teacher`.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self._config = config
        self._client = ChatClient(config, "teacher")
        self._asked = 0

    @property
    def spent(self) -> TeacherCost:
        """See `Voice`."""
        return TeacherCost(self._asked, self._client.usage.prompt_tokens, self._client.usage.completion_tokens)

    def ask(self, questions: Sequence[Question]) -> Iterator[list[TeacherAnswer]]:
        """See `Voice`."""
        requests = ((question, self._request(question)) for question in questions)
        for batch in self._client.ask_all(requests, _TICK):
            self._asked += len(batch)
            yield [_heard(question, outcome) for question, outcome in batch]

    def close(self) -> None:
        """See `Voice`."""
        self._client.close()

    def _request(self, question: Question) -> ChatRequest:
        options: dict[str, Any] = {"max_tokens": self._config.max_new_tokens, "temperature": 0.0}
        if self._config.structured == "json_schema":
            json_schema = {"name": "answer", "strict": True, "schema": question.schema}
            options["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        messages = [{"role": "system", "content": question.system}, {"role": "user", "content": question.text}]
        return ChatRequest(messages, options)


def _heard(question: Question, outcome: Reply | Refusal | ServerError) -> TeacherAnswer:
    if isinstance(outcome, Reply):
        return TeacherAnswer(question, outcome.text, ANSWER_CUT if outcome.finish == "length" else "")
    if isinstance(outcome, Refusal):
        return TeacherAnswer(question, None, f"refused: {outcome.reason}")
    return TeacherAnswer(question, None, f"no answer: {outcome}")
