"""A slow and obvious reader of answers, for someone who knows the sentence and the categories: a twin for tests.

It shares nothing with the program: the standard library decodes what is JSON or Python, every place of a text is tried,
and what is a surface and what a category follows from the sentence and the list of categories alone. So it reads only
answers whose surfaces stand in the sentence, and only whole ones.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

Pair = tuple[str, str]

CLOSED_THINKING = ("</think>",)
TURN_ENDS = ("<|im_end|>", "<|return|>", "<|end|>")


def read(text: str, sentence: str, categories: Sequence[str]) -> list[Pair]:
    """Read the pairs of the final answer."""
    reader = SlowReader(sentence, categories)
    final = final_part(text)
    fences = re.findall(r"```\w*\n(.*?)```", final, re.DOTALL)
    if fences:
        final = fences[-1]
    for attempt in (final, undo_escapes(final)):
        for found in (reader.from_lines_of_lists(attempt), reader.from_values(attempt), reader.from_lines(attempt)):
            if found:
                return found
    return []


def final_part(text: str) -> str:
    """What stands behind thinking and drafts, and before the end of the turn."""
    if "<|channel|>final<|message|>" in text:
        text = text.split("<|channel|>final<|message|>")[-1]
    for mark in CLOSED_THINKING:
        text = text.split(mark)[-1]
    if "<answer>" in text:
        text = text.split("<answer>")[-1].split("</answer>")[0]
    if "\\boxed{" in text:
        text = text.split("\\boxed{")[-1].rsplit("}", 1)[0]
    for mark in TURN_ENDS:
        text = text.split(mark)[0]
    return text.replace("，", ",").replace("“", '"').replace("”", '"') if "“" in text else text


def undo_escapes(text: str) -> str:
    return text.replace('\\"', '"')


def decoded(text: str) -> Any:
    """The value that a text is, as JSON or as Python; None where it is none."""
    text = text.strip()
    try:
        return json.loads(text)
    except ValueError:
        pass
    # Python's way to write an object of a class is near enough to a dictionary
    text = re.sub(r"Entity\(([^()]*)\)", lambda found: "dict(" + found[1] + ")", text)
    text = re.sub(r"dict\(([^()]*)\)", lambda found: "{" + re.sub(r"(\w+)=", r"'\1': ", found[1]) + "}", text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


class SlowReader:
    """Knows what a surface is, and what a category."""

    def __init__(self, sentence: str, categories: Sequence[str]) -> None:
        self.sentence, self.categories = sentence, categories

    def is_category(self, text: object) -> bool:
        return isinstance(text, str) and text in self.categories

    def is_surface(self, text: object) -> bool:
        return isinstance(text, str) and text != "" and text in self.sentence and text not in self.categories

    def from_values(self, text: str) -> list[Pair]:
        """The pairs of the last values that stand side by side, of which the text has the longest ones."""
        answers: list[list[Pair]] = []
        last_end = None
        for start, end, value in outermost_values(text):
            pairs = list(self.pairs_in(value))
            if not pairs:
                continue
            between = text[last_end:start] if last_end is not None else "apart"
            if not re.fullmatch(r"(\s|,|</?tool_call>)*", between):
                answers.append([])
            answers[-1] += pairs
            last_end = end
        return answers[-1] if answers else []

    def pairs_in(self, value: Any) -> Iterator[Pair]:
        """The pairs in a value: what stands closest together belongs together."""
        if isinstance(value, str):
            inner = decoded(value) if value.strip()[:1] in ("[", "{", '"') else None
            if inner is not None and inner != value:
                yield from self.pairs_in(inner)
            return
        if isinstance(value, dict):
            yield from self._pairs_of_object(value)
        elif isinstance(value, (list, tuple)):
            yield from self._pairs_of_items(list(value))

    def _pairs_of_items(self, items: list[Any]) -> Iterator[Pair]:
        surfaces, names = list(filter(self.is_surface, items)), list(filter(self.is_category, items))
        if len(surfaces) == len(names) == 1:
            yield surfaces[0], names[0]
            return
        for item in items:
            yield from self.pairs_in(item)

    def _pairs_of_object(self, value: dict[Any, Any]) -> Iterator[Pair]:
        words = list(value.values())
        names = [one for one in words if self.is_category(one)]
        names += [one for item in words if isinstance(item, list) for one in item if self.is_category(one)]
        surfaces = [one for one in words if self.is_surface(one)]
        surfaces += [one for item in words if isinstance(item, list) for one in item if self.is_surface(one)]
        if len(names) == 1 and surfaces:
            yield from ((surface, names[0]) for surface in surfaces)
            return
        for key, item in value.items():
            if self.is_category(key):
                yield from ((surface, key) for surface in self._surfaces_in(item))
            elif self.is_surface(key) and self.is_category(item):
                yield key, item
            else:
                yield from self.pairs_in(item)

    def _surfaces_in(self, value: Any) -> Iterator[str]:
        """All surfaces under a category, as values or as keys."""
        if self.is_surface(value):
            yield value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from [key] if self.is_surface(key) else self._surfaces_in(item)
        elif isinstance(value, list):
            for item in value:
                yield from self._surfaces_in(item)

    def from_lines_of_lists(self, text: str) -> list[Pair]:
        """`人名：["王芳"]`, a line for each category."""
        pairs: list[Pair] = []
        for line in text.splitlines():
            name, _, rest = line.partition("：")
            items = decoded(rest)
            if self.is_category(name) and isinstance(items, list):
                pairs += [(item, name) for item in items if self.is_surface(item)]
        return pairs

    def from_lines(self, text: str) -> list[Pair]:
        """One pair a line, or a surface between tags of its category."""
        pairs: list[Pair] = [
            (surface, name) for name, surface in re.findall(r"<([^<>/]+)>(.*?)</\1>", text) if self.is_category(name)
        ]
        for line in text.splitlines():
            parts = [part.strip(" -*.") for part in re.split(r"[|：:()]|\*\*|^\d+\.", line)]
            surfaces, names = list(filter(self.is_surface, parts)), list(filter(self.is_category, parts))
            if len(surfaces) == len(names) == 1:
                pairs.append((surfaces[0], names[0]))
        return pairs


def outermost_values(text: str) -> Iterator[tuple[int, int, Any]]:
    """Every value of a text that is inside no other one: from each opening bracket to the last place that closes it."""
    at = 0
    while at < len(text):
        if text[at] in '[{("':
            for end in range(len(text), at, -1):
                if text[end - 1] in ']})"' and (value := decoded(text[at:end])) is not None:
                    yield at, end, value
                    at = end - 1
                    break
        at += 1
