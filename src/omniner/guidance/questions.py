"""Whether a JSON value has the shape it should have: the part of JSON Schema that this program needs.

In go a decoded value and a schema, out comes nothing, or one sentence that says what is wrong and where. Foreign JSON
(a teacher's answer, a file of notes) passes through here before anything looks at it. Known words: `type` (a name or a
list of names), `properties`, `required`, `additionalProperties` (false, or a schema), `items`, `maxItems`, `enum`,
`const`, `minimum`, `maximum`, `minLength`, `maxLength`. A schema with any other word is a fault of ours.

What a teacher is asked about errors, and how its answer is read.

In go clusters with examples and counts, or suspected labels; out come `Question`s: text, and the JSON schema that the
answer must fulfil. An answer is taken only if it does: `read_answer` gives the value, or what is wrong with it, to be
told to the teacher. Questions are plain text, the same for every kind of teacher, and the same errors always give the
same question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omniner.guidance.lessons import Lesson, LessonExample, SuspectLabel, complaint, strict
from omniner.guidance.notes import describe_error, describe_facts
from omniner.records import Entity

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
rule：规则，一句具体可执行的话，不超过 100 字，不提例子的编号；
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
rule: the rule, one concrete sentence of at most 60 words that names no example by its number;
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
    """`id` names it for people; `schema` is that of the answer."""

    id: str
    system: str
    text: str
    schema: dict[str, Any]


def lesson_question(lesson: Lesson, errors: int, language: str) -> Question:
    """Why the errors of a cluster happen, and what would avoid them.

    Args:
        lesson: the cluster; its note is not told.
        errors: of all clusters.
        language: zh | en.
    """
    shown = [_example(number, example, language) for number, example in enumerate(lesson.examples, 1)]
    text = _ASK_LESSON[language].format(
        count=lesson.count,
        share=f"{lesson.count / errors:.1%}",
        opening=describe_error(lesson.kind, lesson.gold, lesson.predicted, language),
        examples="\n".join(shown),
        evidence="\n".join(
            f"- {line}" for line in describe_facts(lesson.facts, lesson.gold, lesson.predicted, language)
        ),
    )
    number = {"type": "integer", "minimum": 1, "maximum": len(shown)}
    schema = strict(
        {
            "cause": {"type": "string", "minLength": 1, "maxLength": 1000},
            "rule": {"type": "string", "minLength": 1, "maxLength": 600},
            "doubtful": {"type": "array", "items": number, "maxItems": len(shown)},
        }
    )
    return Question(lesson_id(lesson), _SYSTEM[language], text, schema)


def lesson_id(lesson: Lesson) -> str:
    """The name of the question about a cluster."""
    return f"{lesson.kind}: {' → '.join(filter(None, (lesson.gold, lesson.predicted)))}"


def suspect_id(suspect: SuspectLabel) -> str:
    """The name of the question about a label."""
    return f"suspect: {suspect.surface} ({suspect.gold})"


def suspect_question(suspect: SuspectLabel, language: str) -> Question:
    """Whether a label that is unlike the usual one of its surface is right."""
    text = _ASK_SUSPECT[language].format(
        surface=suspect.surface,
        gold=suspect.gold,
        usual=suspect.usual,
        seen=suspect.seen,
        share=f"{suspect.share:.0%}",
        text=" ".join(suspect.text.split()),
    )
    schema = strict(
        {
            "verdict": {"type": "string", "enum": ["gold", "usual", "unclear"]},
            "reason": {"type": "string", "minLength": 1, "maxLength": 600},
        }
    )
    return Question(suspect_id(suspect), _SYSTEM[language], text, schema)


def repeat_question(question: Question, answer: str, wrong: str, language: str) -> Question:
    """The same question, with what is wrong with the answer that was given."""
    told = _AGAIN[language].format(answer=answer[:_REPEATED], wrong=wrong)
    return Question(question.id, question.system, question.text + told, question.schema)


def read_teacher_answer(text: str, schema: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """`(value, "")`, or `(None, what is wrong)`.

    White space in its texts is made single spaces. A code fence, thoughts before the answer and words around the object
    are no mistake.
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
            value = {name: " ".join(item.split()) if isinstance(item, str) else item for name, item in value.items()}
            found = complaint(value, schema)
            return (None, found) if found else (value, "")
        wrong = "it is JSON, but no object"
    return None, wrong


def _example(number: int, example: LessonExample, language: str) -> str:
    text = " ".join(example.text.split())
    gold, predicted = (_listed(side, language) for side in (example.gold, example.predicted))
    return _EXAMPLE[language].format(number=number, text=text, gold=gold, predicted=predicted)


def _listed(entities: Sequence[Entity], language: str) -> str:
    return "；".join(f"“{entity.text}” → {entity.category}" for entity in entities) or _NOTHING[language]
