"""Write the questions for a teacher, and read its answers.

A `Question` is plain text, the same for every kind of teacher; the same errors always give the same question. It has a
pydantic model of its answer: teachers that support it get the model's JSON schema, and an answer is accepted only if it
satisfies the model (`read_teacher_answer`). Of a list of rules, the valid ones are kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen, MinLen

from omniner.config.validate import explain
from omniner.files import explaining, write_json_lines
from omniner.guidance.clusters import describe_error, describe_facts
from omniner.guidance.lessons import Lesson, LessonExample, SuspectLabel
from omniner.records import replace_surrogates

if TYPE_CHECKING:
    from pydantic import BaseModel

QUESTIONS_FILE = "questions.jsonl"
"""The questions of a run with the accepted answers; filled in by a person, it is a file for `teacher.file`."""

ANSWERS_ASIDE = "questions_answered.jsonl"
"""Answers that a person wrote into the questions of a run and the run did not use; a file for `teacher.file`, too."""

_LONGEST = 50_000  # maximum characters of an answer that are read
_THOUGHT = "</think>"  # ends the reasoning that some models write before their answer
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

""",
    "en": """\
A model made {count} errors of one kind on annotated data ({share} of all its errors). {opening}

Examples of these errors
{examples}

Counts in the training split
{evidence}

""",
}
_ONE_RULE = {
    "zh": """\
请找出错误的原因，并写出一条能够避免这类错误的规则。输出一个 JSON 对象，形如
{{"cause": "...", "rule": "...", "doubtful": []}}
cause：原因，一两句话；
rule：规则，一句具体可执行的话，写出类别的名称和起决定作用的词，不超过 100 字，不提例子的编号；
doubtful：标准答案本身可能有误的例子的编号，没有则为空列表。""",
    "en": """\
Find out why they happen, and write a rule that would avoid them. Answer with a JSON object in the form
{{"cause": "...", "rule": "...", "doubtful": []}}
cause: why they happen, in a sentence or two;
rule: the rule, one concrete sentence of at most 60 words that names the category and the words that decide, but no
example by its number;
doubtful: the numbers of examples whose gold label seems wrong itself, an empty list if there are none.""",
}
_SEVERAL_RULES = {
    "zh": """\
请找出错误的原因，并写出 {rules} 条不同的规则，每一条都能单独用来避免这类错误。输出一个 JSON 对象，形如
{{"cause": "...", "rules": ["...", "..."], "doubtful": []}}
cause：原因，一两句话；
rules：{rules} 条规则，角度不同，每条一句话，具体可执行，写出类别的名称和起决定作用的词，不超过 60 字，不提例子的编号；
doubtful：标准答案本身可能有误的例子的编号，没有则为空列表。""",
    "en": """\
Find out why they happen, and write {rules} different rules, each of which would avoid them by itself. Answer with a
JSON object in the form
{{"cause": "...", "rules": ["...", "..."], "doubtful": []}}
cause: why they happen, in a sentence or two;
rules: {rules} rules, each from another point of view; each is one concrete sentence of at most 40 words that names the
category and the words that decide, but no example by its number;
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
_REPEATED = 2_000  # maximum characters of a wrong answer that are repeated to the teacher


@dataclass(frozen=True)
class Question:
    """A question for a teacher.

    Attributes:
        id: its name, for people.
        system: text of the system role.
        text: the question.
        answer: pydantic model of the answer.
    """

    id: str
    system: str
    text: str
    answer: type[BaseModel]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer, in the strict form that servers require: exactly these keys, and no titles."""
        schema = self.answer.model_json_schema()
        for part in (schema, *schema["properties"].values()):
            del part["title"]
        return schema

    @cached_property
    def sha(self) -> str:
        """A hash of 16 hex digits over everything that an answer depends on."""
        content = json.dumps([self.system, self.text, self.schema], sort_keys=True)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@functools.cache
def answer_model(name: str, **fields: Any) -> type[BaseModel]:
    """Return the model of an answer with exactly these fields; the same fields give the same model."""
    from pydantic import ConfigDict, create_model

    every: dict[str, Any] = {field: (annotation, ...) for field, annotation in fields.items()}
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **every)


@functools.cache
def names_one_of(categories: tuple[str, ...]) -> Any:
    """Return a validator that requires a rule to name one of these categories, in full or without its primary.

    Weak teachers write "mind the context" about any error. In a prompt, such a rule is useless, and the counts of train
    are more informative.
    """
    from pydantic import AfterValidator
    from pydantic_core import PydanticCustomError

    def check(rule: str) -> str:
        if not any(name.rpartition("_")[2].casefold() in rule.casefold() for name in categories):
            raise PydanticCustomError("category", "no category is named: {known}", {"known": " or ".join(categories)})
        return rule

    return AfterValidator(check)


class KeepGood:
    """Marks a list of which only the valid items are kept, each once; it is an error only if no item is valid."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic import ValidationError
        from pydantic_core import SchemaValidator, core_schema

        schema = handler(source)
        item, most = SchemaValidator(schema["items_schema"]), schema["max_length"]

        def check(values: Any, whole: Callable[[Any], Any]) -> Any:
            good = []
            for value in values if isinstance(values, list) else ():
                with contextlib.suppress(ValidationError):
                    good.append(item.validate_python(value, strict=True))
            return list(dict.fromkeys(good))[:most] or whole(values)

        return core_schema.no_info_wrap_validator_function(check, schema)


def lesson_question(lesson: Lesson, errors: int, language: str, rules: int = 1) -> Question:
    """Return the question why the errors of a cluster happen, and which rules would avoid them.

    Args:
        lesson: the cluster; its note is not shown.
        errors: number of errors of all clusters.
        language: zh | en.
        rules: number of rules to ask for.
    """
    shown = [describe_example(number, example, language) for number, example in enumerate(lesson.examples, 1)]
    template = _ASK_LESSON[language] + (_ONE_RULE if rules == 1 else _SEVERAL_RULES)[language]
    text = template.format(
        rules=rules,
        count=lesson.count,
        share=f"{lesson.count / errors:.1%}",
        opening=describe_error(lesson.kind, lesson.gold, lesson.predicted, language),
        examples="\n".join(shown),
        evidence="\n".join(
            f"- {line}" for line in describe_facts(lesson.facts, lesson.gold, lesson.predicted, language)
        ),
    )
    categories = tuple(name for name in (lesson.gold, lesson.predicted) if name)
    rule = Annotated[str, MinLen(1), MaxLen(600), names_one_of(categories)]
    form: dict[str, Any] = {"rule": rule}
    if rules > 1:
        form = {"rules": Annotated[list[rule], MinLen(rules), MaxLen(rules), KeepGood()]}
    answer = answer_model(
        "LessonAnswer",
        cause=Annotated[str, MinLen(1), MaxLen(1000)],
        **form,
        doubtful=Annotated[list[Annotated[int, Ge(1), Le(len(shown))]], MaxLen(len(shown))],
    )
    return Question(lesson.question_id, _SYSTEM[language], text, answer)


def suspect_question(suspect: SuspectLabel, language: str) -> Question:
    """Return the question whether a label that differs from the usual one of its surface is right."""
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


def control_question(control: SuspectLabel, language: str) -> Question:
    """Return the same question about a control label, which is probably right."""
    return replace(suspect_question(control, language), id=control.control_id)


def repeat_question(question: Question, answer: str, wrong: str, language: str) -> Question:
    """Return the same question with the wrong answer and what is wrong with it."""
    correction = _AGAIN[language].format(answer=answer[:_REPEATED], wrong=wrong)
    return Question(question.id, question.system, question.text + correction, question.answer)


def read_teacher_answer(text: str, answer: type[BaseModel]) -> tuple[dict[str, Any] | None, str]:
    """Find the JSON object in an answer and validate it.

    Args:
        text: the teacher's text.
        answer: the model that the object must satisfy.

    Returns:
        Its values and an empty text; or None, and what is wrong.
    """
    value, wrong = find_answer(text)
    return (None, wrong) if value is None else check_answer(value, answer)


def find_answer(text: str) -> tuple[dict[str, Any] | None, str]:
    """Find the JSON object in a teacher's text; a code fence, reasoning before it and text around it are allowed.

    Returns:
        Its values, with white space reduced to single spaces, and an empty text; or None, and what is wrong.
    """
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
            return tidied(value), ""
        wrong = "it is JSON, but no object"
    return None, wrong


def check_answer(value: dict[str, Any], answer: type[BaseModel]) -> tuple[dict[str, Any] | None, str]:
    """Validate the values of an answer; returns as `read_teacher_answer`."""
    from pydantic import ValidationError

    try:
        return answer.model_validate(value).model_dump(), ""
    except ValidationError as error:
        return None, explain(error)


def tidied(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an answer with white space in texts reduced to single spaces, and without surrogates."""

    def tidy(item: Any) -> Any:
        return replace_surrogates(" ".join(item.split())) if isinstance(item, str) else item

    return {key: [tidy(one) for one in item] if isinstance(item, list) else tidy(item) for key, item in value.items()}


def write_questions(path: Path, questions: Iterable[Question], answers: Mapping[str, Any]) -> None:
    """Write the questions for a teacher and the answers so far, so that a person or another model can answer the rest.

    Args:
        path: the file.
        questions: each becomes a line with everything that a model would be given.
        answers: answers by the id of their question.
    """
    write_json_lines(
        path,
        (
            {
                "id": question.sha,
                "system": question.system,
                "question": question.text,
                "schema": question.schema,
                "answer": answers.get(question.id),
            }
            for question in questions
        ),
    )


def held_answers(path: Path, questions: Iterable[Question]) -> dict[str, Any]:
    """Return the answers that a file of questions holds to these questions, by their ids; a person may have written
    them.
    """
    found = {name: answer for _, name, answer in _answered_lines(path)}
    return {question.id: found[question.sha] for question in questions if question.sha in found}


def set_answers_aside(path: Path, questions: Iterable[Question], answers: Mapping[str, Any]) -> int:
    """Append those answers in a file to `ANSWERS_ASIDE` beside it that `write_questions` would lose.

    Lines that cannot be read are taken, too. A line that is there already is not repeated.

    Args:
        path, questions, answers: see `write_questions`.

    Returns:
        Number of answers that the file loses.
    """
    written = {question.sha: answers[question.id] for question in questions if question.id in answers}
    lost = [line for line, name, answer in _answered_lines(path) if name not in written or written[name] != answer]
    aside = path.with_name(ANSWERS_ASIDE)
    with explaining(aside):
        before = aside.read_bytes().splitlines() if aside.is_file() else []
        if new := [line + b"\n" for line in lost if line not in before]:
            with aside.open("ab") as file:
                file.writelines(new)
    return len(lost)


def _answered_lines(path: Path) -> Iterator[tuple[bytes, str, Any]]:
    """Yield the lines of a file of questions that have an answer: each with the id and the answer.

    A line that cannot be read has no id and counts as an answer.
    """
    with explaining(path):
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines() if path.is_file() else []
    for line in filter(bytes.strip, lines):
        try:
            item = json.loads(line)
            name, answer = str(item["id"]), item["answer"]
        except (ValueError, LookupError, TypeError, RecursionError):
            name, answer = "", line
        if answer:
            yield line, name, answer


def describe_example(number: int, example: LessonExample, language: str) -> str:
    """Return the text that shows an error to a teacher: the sentence, its gold entities and the predicted ones."""
    gold, predicted = (
        "；".join(f"“{entity.text}” → {entity.category}" for entity in side) or _NOTHING[language]
        for side in (example.gold, example.predicted)
    )
    text = " ".join(example.text.split())
    return _EXAMPLE[language].format(number=number, text=text, gold=gold, predicted=predicted)
