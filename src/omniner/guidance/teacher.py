"""Ask a teacher about errors: each question once, within a budget, its answers checked and kept.

A `Question` is plain text, the same for every kind of teacher; the same errors always give the same question. It
comes with a pydantic model of its answer: the model's JSON schema is sent to teachers that can be told a form, and an
answer is taken only if it fulfils the model. A wrong answer is asked for once more, with what is wrong with it.

`ask_teacher` gives the answers that fulfil their models, and for every other question the reason why it has none.
Good answers are kept on disk by the content of the question and the teacher's name, so a question is paid for once: a
killed run asks for the rest, and with all answers there the result is always the same, and no teacher is needed whose
name is given. What it cost is written down after every few answers and counted over all attempts of a run.

A `Teacher` is a model behind a server (`ServerTeacher`), or one in this process (`local_teacher`, which needs torch).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from annotated_types import Ge, Le, MaxLen, MinLen

from omniner.config.groups import TeacherConfig
from omniner.errors import UserError
from omniner.files import append_lines, read_json, whole_records, write_text
from omniner.guidance.clusters import describe_error, describe_facts
from omniner.guidance.lessons import Failure, Lesson, LessonExample, Note, SuspectLabel, explain
from omniner.llm.client import ChatClient, ChatRequest, ServerError, response_format
from omniner.llm.responses import Refusal, Reply
from omniner.progress import Progress
from omniner.records import replace_surrogates, to_line
from omniner.wording import counted

if TYPE_CHECKING:
    from pydantic import BaseModel

log = logging.getLogger("omniner")

ANSWER_CUT = "it is longer than teacher.max_new_tokens allows"
_VERSION = 1  # of what a kept answer depends on
_LONGEST = 50_000  # characters of an answer that are looked at
_THOUGHT = "</think>"  # what models that think aloud write before their answer
_FENCED = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)

_SYSTEM = {
    "zh": "你是中文命名实体标注规范的专家，根据例子和统计回答关于标注错误的问题。只输出一个 JSON 对象，没有其他文字。",
    "en": "You are an expert on the annotation of named entities in Chinese text. From examples and counts you answer "
    "questions about annotation errors. Write one JSON object and nothing else.",
}
_ASK_LESSON = {
    "zh": """\
一个标注模型在人工标注的数据上有 {count} 个同类错误（占全部错误的 {share}）：{opening}

错误的例子：
{examples}

训练集中的统计：
{evidence}

请找出错误的原因，并写出一条能够避免这类错误的规则。输出一个 JSON 对象，形如
{{"cause": "...", "rule": "...", "doubtful": []}}
cause：原因，一两句话；
rule：规则，一句具体可执行的话，写出类别的名称和起决定作用的词，不超过 100 字，不提例子的编号；
doubtful：标准答案本身可能有误的例子的编号，没有则为空列表。""",
    "en": """\
A model made {count} errors of one kind on annotated data ({share} of all its errors). {opening}

Examples of these errors
{examples}

Counts in the training split
{evidence}

Find out why they happen, and write a rule that would avoid them. Answer with a JSON object in the form
{{"cause": "...", "rule": "...", "doubtful": []}}
cause: why they happen, in a sentence or two;
rule: the rule, one concrete sentence of at most 60 words that names the category and the words that decide, but no
example by its number;
doubtful: the numbers of examples whose gold label seems wrong itself, an empty list if there are none.""",
}
_ASK_SUSPECT = {
    "zh": """\
标准答案把下面句子中的“{surface}”标为{gold}，而它的 {seen} 次标注中有 {share} 是{usual}。

句子：{text}

在这个句子中，哪一个正确？输出一个 JSON 对象，形如
{{"verdict": "...", "reason": "..."}}
verdict：{gold}正确则为 gold，{usual}正确则为 usual，无法判断则为 unclear；
reason：理由，一句话。""",
    "en": """\
The gold labels call “{surface}” in this sentence {gold}, but {share} of its {seen} labels are {usual}.

Sentence: {text}

Which one is right in this sentence? Answer with a JSON object in the form
{{"verdict": "...", "reason": "..."}}
verdict: gold if {gold} is right, usual if {usual} is right, unclear if it cannot be told;
reason: why, in one sentence.""",
}
_EXAMPLE = {
    "zh": "{number}. 句子：{text}\n   标准答案：{gold}\n   模型的答案：{predicted}",
    "en": "{number}. Sentence: {text}\n   Gold: {gold}\n   Model: {predicted}",
}
_NOTHING = {"zh": "（没有）", "en": "(nothing)"}
_AGAIN = {
    "zh": "\n\n你上一次的回答是：\n{answer}\n它不符合要求：{wrong}。请重新回答，只输出符合要求的 JSON 对象。",
    "en": "\n\nYour last answer was\n{answer}\nIt is not as asked for: {wrong}. Answer again, with a JSON object as "
    "asked for and nothing else.",
}
_REPEATED = 2_000  # characters of a wrong answer that its author is shown


@dataclass(frozen=True)
class Question:
    """What a teacher is asked.

    Attributes:
        id: names it for people.
        system: who the teacher is.
        text: the question.
        answer: pydantic model of the answer.
    """

    id: str
    system: str
    text: str
    answer: type[BaseModel]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer, in the strict form that servers want: exactly these keys, and no titles."""
        schema = self.answer.model_json_schema()
        for part in (schema, *schema["properties"].values()):
            del part["title"]
        return schema


@functools.cache
def answer_model(name: str, **fields: Any) -> type[BaseModel]:
    """Make the model of an answer that has exactly these fields; the same fields give the same model."""
    from pydantic import ConfigDict, create_model

    every: dict[str, Any] = {field: (annotation, ...) for field, annotation in fields.items()}
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **every)


@functools.cache
def names_one_of(categories: tuple[str, ...]) -> Any:
    """Demand of a rule that it names one of these categories, in full or without its primary.

    Weak teachers write "mind the context" about any error. In a prompt, where a rule stands by itself, that tells
    nothing, and what was counted in train tells more.
    """
    from pydantic import AfterValidator
    from pydantic_core import PydanticCustomError

    def check(rule: str) -> str:
        if not any(name.rpartition("_")[2].casefold() in rule.casefold() for name in categories):
            raise PydanticCustomError("category", "no category is named: {known}", {"known": " or ".join(categories)})
        return rule

    return AfterValidator(check)


def lesson_question(lesson: Lesson, errors: int, language: str) -> Question:
    """Ask why the errors of a cluster happen, and what would avoid them.

    Args:
        lesson: the cluster; its note is not told.
        errors: of all clusters.
        language: zh | en.
    """
    shown = [describe_example(number, example, language) for number, example in enumerate(lesson.examples, 1)]
    text = _ASK_LESSON[language].format(
        count=lesson.count,
        share=f"{lesson.count / errors:.1%}",
        opening=describe_error(lesson.kind, lesson.gold, lesson.predicted, language),
        examples="\n".join(shown),
        evidence="\n".join(
            f"- {line}" for line in describe_facts(lesson.facts, lesson.gold, lesson.predicted, language)
        ),
    )
    categories = tuple(name for name in (lesson.gold, lesson.predicted) if name)
    answer = answer_model(
        "LessonAnswer",
        cause=Annotated[str, MinLen(1), MaxLen(1000)],
        rule=Annotated[str, MinLen(1), MaxLen(600), names_one_of(categories)],
        doubtful=Annotated[list[Annotated[int, Ge(1), Le(len(shown))]], MaxLen(len(shown))],
    )
    return Question(lesson.question_id, _SYSTEM[language], text, answer)


def suspect_question(suspect: SuspectLabel, language: str) -> Question:
    """Ask whether a label that is unlike the usual one of its surface is right."""
    text = _ASK_SUSPECT[language].format(
        surface=suspect.surface,
        gold=suspect.gold,
        usual=suspect.usual,
        seen=suspect.seen,
        share=f"{suspect.share:.0%}",
        text=" ".join(suspect.text.split()),
    )
    answer = answer_model(
        "SuspectAnswer",
        verdict=Literal["gold", "usual", "unclear"],
        reason=Annotated[str, MinLen(1), MaxLen(600)],
    )
    return Question(suspect.question_id, _SYSTEM[language], text, answer)


def repeat_question(question: Question, answer: str, wrong: str, language: str) -> Question:
    """Put the same question, with what is wrong with the answer that was given."""
    told = _AGAIN[language].format(answer=answer[:_REPEATED], wrong=wrong)
    return Question(question.id, question.system, question.text + told, question.answer)


def read_teacher_answer(text: str, answer: type[BaseModel]) -> tuple[dict[str, Any] | None, str]:
    """Read an answer; a code fence, thoughts before it and words around the object are no mistake.

    Args:
        text: what the teacher wrote.
        answer: the model that it must fulfil.

    Returns:
        its values, with single spaces for all white space, and an empty text; or None, and what is wrong.
    """
    from pydantic import ValidationError

    text = text[:_LONGEST].rpartition(_THOUGHT)[2].strip()
    fenced = _FENCED.search(text)
    between = text[text.find("{") : text.rfind("}") + 1]
    wrong = "it holds no JSON object"
    for candidate in (text, fenced[1] if fenced else "", between):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            for name, item in value.items():
                if isinstance(item, str):  # no model takes half a surrogate
                    value[name] = replace_surrogates(" ".join(item.split()))
            try:
                return answer.model_validate(value).model_dump(), ""
            except ValidationError as error:
                return None, explain(error)
        wrong = "it is JSON, but no object"
    return None, wrong


def describe_example(number: int, example: LessonExample, language: str) -> str:
    """Show an error to a teacher: the sentence, the gold entities and the predicted ones."""
    gold, predicted = (
        "；".join(f"“{entity.text}” → {entity.category}" for entity in side) or _NOTHING[language]
        for side in (example.gold, example.predicted)
    )
    text = " ".join(example.text.split())
    return _EXAMPLE[language].format(number=number, text=text, gold=gold, predicted=predicted)


@dataclass(frozen=True, slots=True)
class TeacherCost:
    """What answers cost: how many questions were put, and the tokens of them and of the answers."""

    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: TeacherCost) -> TeacherCost:
        return TeacherCost(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: TeacherCost) -> TeacherCost:
        return TeacherCost(*map(operator.sub, astuple(self), astuple(other)))

    def to_json(self) -> dict[str, int]:
        """Give plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, int]) -> TeacherCost:
        """Take what `to_json` gave.

        Raises:
            ValueError, TypeError, AttributeError: it is something else.
        """
        if not all(type(value) is int for value in raw.values()):
            raise ValueError("not every count is a whole number")
        return cls(**raw)


@dataclass(frozen=True)
class TeacherAnswer:
    """What a teacher answered a question; without a text it gave none, for that reason."""

    question: Question
    text: str | None
    reason: str = ""


class Teacher(Protocol):
    """A language model that answers questions."""

    @property
    def cost(self) -> TeacherCost:
        """What its answers have cost so far."""

    def ask(self, questions: Sequence[Question]) -> Iterator[list[TeacherAnswer]]:
        """Answer each question once.

        Yields:
            batches of answers as they come, in any order; a batch may be empty.
        """

    def close(self) -> None:
        """Let go of what it needs."""


@dataclass
class TeacherAnswers:
    """All that a teacher answered.

    Attributes:
        teacher: its name.
        answers: by the id of their question.
        failures: the questions without an answer, in their order.
        cached: how many answers were there before.
        cost: of all attempts of this run.
    """

    teacher: str
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    cached: int = 0
    cost: TeacherCost = field(default_factory=TeacherCost)


def with_note(lesson: Lesson, taught: TeacherAnswers, language: str) -> Lesson:
    """Give a lesson the teacher's note; it stays as it is where the teacher gave none.

    A teacher who doubts most of the gold labels that it is shown has not looked at them (people were not wrong so
    often): none of these doubts is taken.
    """
    answer = taught.answers.get(lesson.question_id)
    if answer is None:
        return lesson
    doubtful = set(answer["doubtful"])
    if len(doubtful) > max(1, len(lesson.examples) // 2):
        log.info("%s doubts most gold labels of the errors %s: not believed", taught.teacher, lesson.question_id)
        doubtful = set()
    examples = [replace(example, doubtful=number in doubtful) for number, example in enumerate(lesson.examples, 1)]
    note = Note(taught.teacher, {language: answer["rule"]}, {language: answer["cause"]})
    return replace(lesson, examples=examples, note=note)


def teacher_name(config: TeacherConfig) -> str:
    """Name the teacher as notes and kept answers do: by its model.

    Where `teacher.model` names none, the server is asked which one it has: it may have another one tomorrow.

    Raises:
        UserError: the server does not say.
    """
    if config.kind == "hf":
        return str(config.path)
    if config.model:
        return config.model
    with contextlib.closing(ChatClient(config, "teacher")) as client:
        return client.model


def ask_teacher(
    config: TeacherConfig,
    questions: Sequence[Question],
    language: str,
    open_teacher: Callable[[], Teacher],
    ledger: Path,
) -> TeacherAnswers:
    """Ask a teacher all questions, the first ones first where the budget does not allow for all.

    Args:
        config: who is asked, `max_requests`, `cache`.
        questions: with different ids.
        language: in which a wrong answer is complained about.
        open_teacher: makes the teacher; not called where all answers are kept already.
        ledger: file of what the answers of this run cost.

    Raises:
        UserError: nobody can be asked, or not one question was answered. Answers that came before are kept.
    """
    return _Asking(config, questions, language, ledger).run(open_teacher)


class _Asking:
    """Asks one round of questions, and one more about the wrong answers."""

    def __init__(self, config: TeacherConfig, questions: Sequence[Question], language: str, ledger: Path) -> None:
        self.config, self.questions, self.language, self.ledger = config, questions, language, ledger
        self.result = TeacherAnswers(teacher_name(config), cost=read_ledger(ledger))
        self.reasons: dict[str, str] = {}
        self.written = TeacherCost()  # of this process, in the ledger

    def run(self, open_teacher: Callable[[], Teacher]) -> TeacherAnswers:
        """Take the answers that are kept, and ask for the others."""
        result = self.result
        for question in self.questions:
            if (answer := self._kept(question)) is not None:
                result.answers[question.id] = answer
        result.cached = len(result.answers)
        left = [question for question in self.questions if question.id not in result.answers]
        if left:
            with contextlib.closing(open_teacher()) as teacher:
                self._ask(teacher, left)
        result.failures = [Failure(q.id, self.reasons[q.id]) for q in self.questions if q.id not in result.answers]
        if result.failures and not result.answers:
            found = f"none of {len(result.failures)} questions was answered; the first: {result.failures[0].reason}"
            raise UserError("teacher", found, "Change the key that it does not take, or ask another teacher.")
        return result

    def _ask(self, teacher: Teacher, questions: Sequence[Question]) -> None:
        asked, kept = counted(len(questions), "question"), self.result.cached
        log.info("asking %s %s (answers kept from before: %d)", self.result.teacher, asked, kept)
        if wrong := self._round(teacher, questions):
            self._round(teacher, wrong)
        words = ("question", "prompt token", "answer token")
        log.info("the teacher was put %s", ", ".join(map(counted, astuple(self.result.cost), words)))

    def _round(self, teacher: Teacher, questions: Sequence[Question]) -> list[Question]:
        """Put questions as far as the budget goes.

        Returns:
            those whose answers were wrong, to be put again with what was wrong.
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
            self._write_down(teacher)  # first: a kill below asks again for what was paid for
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
        """Keep an answer, or say what is wrong with it."""
        assert answer.text is not None
        values, complaint = read_teacher_answer(answer.text, question.answer)
        if values is None:
            return answer.reason or complaint
        kept = {"teacher": self.result.teacher, "question": question.text, "answer": values}
        write_text(self._path(question), to_line(kept) + "\n")
        self.result.answers[question.id] = values
        return ""

    def _write_down(self, teacher: Teacher) -> None:
        """Add to the ledger what answers have cost since the last time."""
        cost = teacher.cost  # once: answers of other threads come in meanwhile
        new = cost - self.written
        if new != TeacherCost():
            append_lines(self.ledger, [json.dumps(new.to_json())])
            self.written = cost
            self.result.cost = read_ledger(self.ledger)

    def _kept(self, question: Question) -> dict[str, Any] | None:
        """Look up an answer from before; one that no longer fulfils its model counts as none."""
        path = self._path(question)
        if not path.is_file():
            return None
        try:
            value = read_json(path)
        except UserError as error:
            log.warning("%s: asked anew", error)
            return None
        found = value.get("answer") if isinstance(value, dict) else None
        answer, complaint = read_teacher_answer(json.dumps(found), question.answer)
        if complaint:
            log.warning("%s holds no answer to its question (%s): asked anew", path, complaint)
        return answer

    def _path(self, question: Question) -> Path:
        content = [_VERSION, self.result.teacher, question.system, question.text, question.schema]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return Path(self.config.cache) / digest[:2] / f"{digest}.json"


def read_ledger(path: Path) -> TeacherCost:
    """Add up what all attempts of a run have cost."""
    fix = "Remove this line: what it counts is left out of the cost."
    return sum(whole_records(path, lambda line: TeacherCost.from_json(json.loads(line)), fix), TeacherCost())


class ServerTeacher:
    """Asks a model behind a server that speaks OpenAI's protocol.

    Args:
        config: `conf/teacher`.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self._config = config
        self._client = ChatClient(config, "teacher")
        self._asked = 0

    @property
    def cost(self) -> TeacherCost:
        """See `Teacher`."""
        return TeacherCost(self._asked, self._client.usage.prompt_tokens, self._client.usage.completion_tokens)

    def ask(self, questions: Sequence[Question]) -> Iterator[list[TeacherAnswer]]:
        """See `Teacher`."""
        requests = ((question, self._request(question)) for question in questions)
        for batch in self._client.ask_all(requests):
            self._asked += len(batch)
            yield [read_outcome(question, outcome) for question, outcome in batch]

    def close(self) -> None:
        """See `Teacher`."""
        self._client.close()

    def _request(self, question: Question) -> ChatRequest:
        options: dict[str, Any] = {"max_tokens": self._config.max_new_tokens, "temperature": 0.0}
        if self._config.structured == "json_schema":
            options |= response_format(question.schema, "answer")
        messages = [{"role": "system", "content": question.system}, {"role": "user", "content": question.text}]
        return ChatRequest(messages, options)


def read_outcome(question: Question, outcome: Reply | Refusal | ServerError) -> TeacherAnswer:
    """Tell what came of a question that a server was asked."""
    if isinstance(outcome, Reply):
        return TeacherAnswer(question, outcome.text, ANSWER_CUT if outcome.finish == "length" else "")
    if isinstance(outcome, Refusal):
        return TeacherAnswer(question, None, f"refused: {outcome.reason}")
    return TeacherAnswer(question, None, f"no answer: {outcome}")
