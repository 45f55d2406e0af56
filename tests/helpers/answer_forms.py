"""Forms in which models write entities, each rendered by the obvious code: the slow twin of reading them.

A form turns pairs into text. Those in `CERTAIN` say by themselves what is a surface and what a category; those in
`HINTED` can only be read by someone who knows the categories (and, where a name is missing, the sentence).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

Pair = tuple[str, str]
Form = Callable[[Sequence[Pair]], str]


def dumps(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def plain(pairs: Sequence[Pair]) -> str:
    return dumps([list(pair) for pair in pairs])


def objects(surface: str, category: str, **more: Any) -> Form:
    return lambda pairs: dumps([{surface: text, category: name, **more} for text, name in pairs])


def grouped(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for text, name in pairs:
        groups.setdefault(name, []).append(text)
    return groups


def tool_call(pairs: Sequence[Pair]) -> str:
    call = {"name": "extract", "arguments": {"entities": [{"text": text, "type": name} for text, name in pairs]}}
    return f"<tool_call>\n{dumps(call)}\n</tool_call>"


def openai_call(pairs: Sequence[Pair]) -> str:
    function = {"name": "extract", "arguments": dumps({"entities": [list(pair) for pair in pairs]})}
    return dumps([{"id": "call_1", "type": "function", "function": function}])


def one_call_each(pairs: Sequence[Pair]) -> str:
    calls = [{"name": "add", "arguments": {"entity": text, "label": name}} for text, name in pairs]
    return "\n".join(f"<tool_call>\n{dumps(call)}\n</tool_call>" for call in calls)


def harmony(pairs: Sequence[Pair]) -> str:
    draft = dumps([[text, "草稿"] for text, _ in pairs])
    return (
        f"<|channel|>analysis<|message|>也许是 {draft}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{plain(pairs)}<|return|>"
    )


def thinking(opened: str, closed: str, form: Form = plain) -> Form:
    return lambda pairs: (
        f'{opened}候选 [["草稿", "草稿类"]]？不对，{{"text": "草稿", "label": "某类"}}。{closed}\n\n{form(pairs)}'
    )


CERTAIN: dict[str, Form] = {
    "plain": plain,
    "compact": lambda pairs: dumps([list(pair) for pair in pairs], separators=(",", ":")),
    "indented": lambda pairs: dumps([list(pair) for pair in pairs], indent=2),
    "escaped characters": lambda pairs: json.dumps([list(pair) for pair in pairs]),
    "python lists": lambda pairs: str([list(pair) for pair in pairs]),
    "python tuples": lambda pairs: str(list(pairs)),
    "python dicts": lambda pairs: str([{"text": text, "label": name, "score": None} for text, name in pairs]),
    "python records": lambda pairs: (
        "[" + ", ".join(f"Entity(text={t!r}, category={n!r}, start=0)" for t, n in pairs) + "]"
    ),
    "full-width": lambda pairs: "[" + "，".join(f"[“{text}”，“{name}”]" for text, name in pairs) + "]",
    "triples": lambda pairs: dumps([[text, name, 0.93] for text, name in pairs]),
    "offsets behind": lambda pairs: dumps([[text, name, 0, 2] for text, name in pairs]),
    "offsets before": lambda pairs: dumps([[0, 2, text, name] for text, name in pairs]),
    "offsets as a list": lambda pairs: dumps([[text, name, [0, 2]] for text, name in pairs]),
    "objects": objects("text", "category"),
    "entity, type": objects("entity", "type", start=0, end=2, score=0.9),
    "entity_text, entity_type": objects("entity_text", "entity_type", id="T1"),
    "Entity Name, Entity Label": objects("Entity Name", "Entity Label"),
    "hugging face": objects("word", "entity_group", score=0.99),
    "langextract": objects("extraction_text", "extraction_class"),
    "azure": objects("text", "category", offset=0, length=2, confidenceScore=0.9),
    "aws": objects("Text", "Type", Score=0.9, BeginOffset=0),
    "chinese keys": objects("实体文本", "实体类型", 起始=0),
    "名称, 类别": objects("名称", "类别"),
    "promptify": lambda pairs: dumps([[{"T": name, "E": text} for text, name in pairs]]),
    "several labels": lambda pairs: dumps([{"text": text, "labels": [name]} for text, name in pairs]),
    "wrapped": lambda pairs: dumps({"entities": [{"entity": text, "type": name} for text, name in pairs]}),
    "wrapped pairs": lambda pairs: dumps({"result": [list(pair) for pair in pairs]}),
    "答案": lambda pairs: dumps({"思路": "先找人名", "答案": [list(pair) for pair in pairs]}),
    "in data": lambda pairs: dumps({"code": 0, "data": {"entities": [{"name": t, "type": n} for t, n in pairs]}}),
    "with the sentence": lambda pairs: dumps({"text": "句子", "entities": [{"text": t, "label": n} for t, n in pairs]}),
    "UIE": lambda pairs: dumps(
        {n: [{"text": t, "start": 0, "end": 2, "probability": 0.9} for t in ts] for n, ts in grouped(pairs).items()}
    ),
    "CLUENER": lambda pairs: dumps({n: {t: [[0, 1]] for t in ts} for n, ts in grouped(pairs).items()}),
    "surfaces of a category": lambda pairs: dumps([{"类别": n, "实体": ts} for n, ts in grouped(pairs).items()]),
    "JSON lines": lambda pairs: "\n".join(dumps({"text": text, "type": name}) for text, name in pairs),
    "lines of pairs": lambda pairs: "\n".join(dumps(list(pair)) for pair in pairs),
    "fence": lambda pairs: f"好的，结果如下 [1]：\n```json\n{plain(pairs)}\n```\n以上是全部实体。",
    "prose around": lambda pairs: f"答案是：{plain(pairs)}。以上[微笑]是全部。",
    "double encoded": lambda pairs: dumps(plain(pairs)),
    "escaped once too often": lambda pairs: plain(pairs).replace('"', '\\"'),
    "boxed": lambda pairs: f"所以 \\boxed{{{plain(pairs)}}}",
    "tool call": tool_call,
    "openai call": openai_call,
    "one call each": one_call_each,
    "harmony": harmony,
    "think": thinking("<think>\n", "\n</think>"),
    "thought twice": thinking("<think>甲</think><think>", "</think>"),
    "only the closing tag": thinking("好的，", "</think>"),
    "think, then a fence": thinking("<think>", "</think>", lambda pairs: f"```json\n{plain(pairs)}\n```"),
    "answer tags": lambda pairs: f'<think>[["草稿", "甲"]]</think><answer>{plain(pairs)}</answer>',
    "table": lambda pairs: "| 实体 | 类别 |\n|---|---|\n" + "".join(f"| {text} | {name} |\n" for text, name in pairs),
    "turn end": lambda pairs: f'{plain(pairs)}<|im_end|>\n<|im_start|>user\n[["别的", "草稿类"]]',
}

HINTED: dict[str, Form] = {
    "category first": lambda pairs: dumps([[name, text] for text, name in pairs]),
    "grouped": lambda pairs: dumps(grouped(pairs)),
    "one surface a category": lambda pairs: dumps([{name: text} for text, name in pairs]),
    "one category a surface": lambda pairs: dumps(dict(pairs)),
    "unknown keys": lambda pairs: dumps([{"foo": text, "bar": name} for text, name in pairs]),
    "labelled lists": lambda pairs: "\n".join(f"{name}：{dumps(texts)}" for name, texts in grouped(pairs).items()),
    "bullets": lambda pairs: "识别结果：\n" + "".join(f"- {text}：{name}\n" for text, name in pairs),
    "numbered, category first": lambda pairs: "".join(f"{at}. **{n}**: {t}\n" for at, (t, n) in enumerate(pairs, 1)),
    "parentheses": lambda pairs: "".join(f"* {text} ({name})\n" for text, name in pairs),
    "tags": lambda pairs: "".join(f"<{name}>{text}</{name}>和" for text, name in pairs),
}
