"""Find the final answer in a model's output, and parse it.

Only the final answer counts. It follows the last closing think tag, or is in the last `final` channel, `<answer>` or
`\\boxed{}`, and ends at the token that ends the turn. A fenced block is preferred to prose. Of lists and objects the
last complete one counts; adjacent lists are one answer. A single flat list such as `["a", "b"]` counts only if there is
nothing better, and lists without any pair, such as `[1]`, never count. A list that breaks off is preferred to earlier
ones with other text after them: those were drafts.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, NamedTuple

from omniner.answers.loose_json import (
    CutList,
    CutObject,
    CutText,
    NumberText,
    Object,
    decode,
    find_start,
    scan,
    unescaped,
)
from omniner.answers.pairs import PairReader, PairReading
from omniner.answers.plain_lines import read_labelled_lists, read_lines

MODEL_THINKS, BEHIND_THINKING = "the model thinks", "behind its thinking"  # in the notes on answers with thinking
_THINK = r"think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad|seed:think"
_THINK_OPEN = re.compile(
    rf"<(?:{_THINK})>|\[THINK\]|<\|(?:begin_of_thought|START_THINKING|think)\|>|◁think▷", re.IGNORECASE
)
_THINK_CLOSE = re.compile(
    rf"</(?:{_THINK})>|\[/THINK\]|<\|(?:end_of_thought|END_THINKING|/think)\|>|◁/think▷", re.IGNORECASE
)
_CHANNEL = re.compile(r"<\|channel\|>([^<]*+)(?:<\|constrain\|>[^<]*+)?<\|message\|>")
_BARE_CHANNEL = re.compile(r"\s*analysis(?=[A-Z\u3400-\u9fff])")  # without channel markers
_MARKUP = re.compile(r"[<◁]|THINK\]|\\boxed\{|analysis")  # without any of it, the whole text is the answer
_ANSWER = r"answer|final_answer|final|output|solution|答案|最终答案"
_ANSWER_OPEN = re.compile(rf"<(?:{_ANSWER})>|<\|(?:begin_of_solution|START_RESPONSE)\|>", re.IGNORECASE)
_ANSWER_CLOSE = re.compile(rf"</(?:{_ANSWER})>|<\|(?:end_of_solution|END_RESPONSE)\|>", re.IGNORECASE)
_TURN_END = re.compile(
    r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|end|return|call|start|user|observation)\|>|</s>|<eos>"
    r"|<end_of_turn>|<｜(?:end▁of▁sentence|User)｜>|<\|END_OF_TURN_TOKEN\|>|<reserved_106>"
)
_NEXT_TASK = re.compile(  # a model that does not stop writes the next example
    r"\n[\s#*]{0,8}(?:human|user|input|sentence|question|instruction|q|用户|输入|句子|文本|问题|问|指令)"
    r"[\s*]{0,4}[:：]",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```[^\S\n]*[\w+-]*[^\S\n]*\n?|~~~[^\S\n]*[\w+-]*\n")
_BESIDE = re.compile(  # between lists that form one answer
    r"(?:[\s,，、;；。.*•\-–]|\d+[.)、]|</?tool_calls?>|\[/?TOOL_CALLS\]|<\|tool_call\|>|\band\b|和)*+"
)
_MOST_STRETCHES, _MOST_FENCES = 10_000, 1_000
_TAIL = re.compile(r"[\s。.！!`*}$\\]*+\Z")
_ESCAPED = re.compile(r'[^"]*+(?<=\\)"')  # the first quote is escaped
_BEGINS_ANSWER = re.compile(r'[\[(]\s*+[\[({]|\{\s*+["\'“]')


class FinalText(NamedTuple):
    """The text of the final answer.

    Attributes:
        text: empty if there is none.
        note: why other text was skipped, or why there is no answer; empty = the whole text is the answer.
    """

    text: str
    note: str = ""


class FinalAnswer(NamedTuple):
    """The parsed pairs, and a note for the user."""

    reading: PairReading
    note: str = ""


def final_text(text: str) -> FinalText:
    """Extract the final answer from thinking, channels and tags."""
    note = ""
    if not _MARKUP.search(text):
        return FinalText(text)
    if "<|channel|>" in text or _BARE_CHANNEL.match(text):
        text, note = _final_channel(text), BEHIND_THINKING
        if not text.strip():
            return FinalText("", f"it breaks off while {MODEL_THINKS}")
    closed = list(_THINK_CLOSE.finditer(text))
    if closed:
        text, note = text[closed[-1].end() :], BEHIND_THINKING
    if _THINK_OPEN.search(text):
        return FinalText("", f"it breaks off while {MODEL_THINKS}")
    if closed and not text.strip():
        return FinalText("", f"nothing stands {BEHIND_THINKING}")
    if opened := list(_ANSWER_OPEN.finditer(text)):
        text, note = text[opened[-1].end() :], note or "in its tags"
        if end := _ANSWER_CLOSE.search(text):
            text = text[: end.start()]
    lead = len(text) - len(text.lstrip())
    if end := _TURN_END.search(text, lead + 1):
        text, note = text[: end.start()], note or "before the end of its turn"
    place = text.rfind("\\boxed{")
    if place >= 0:
        text, note = text[place + len("\\boxed{") :].replace("\\{", "{").replace("\\}", "}"), note or "in a box"
    return FinalText(text, note)


def _final_channel(text: str) -> str:
    """Return the last message to the user or, if there is none, to a tool; empty if the model has only thought."""
    if "<|channel|>" not in text:
        return text.rpartition("assistantfinal")[2] if "assistantfinal" in text else ""
    messages = list(_CHANNEL.finditer(text))
    last = [message for message in messages if message[1].split()[:1] == ["final"]]
    last = last or [message for message in messages if "to=" in message[1]]
    if not last:
        return ""
    text = text[last[-1].end() :]
    end = _TURN_END.search(text)
    return text[: end.start()] if end else text


def read_final(text: str, reader: PairReader, cut: bool) -> FinalAnswer:
    """Read the pairs of a final answer that is not plain JSON.

    Args:
        text: of the final answer.
        reader: for decoded values.
        cut: whether the text is known to be incomplete; its last line may then be cut.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if '\\"' in text and (start := find_start(text, 0)) >= 0 and _ESCAPED.match(text, start):
        text = unescaped(text)
    for fence in _FENCE.split(text)[1::2][: -_MOST_FENCES - 1 : -1]:
        found = _read_text(fence, reader, cut)
        if found.reading.pairs or found.reading.empty or found.note:
            return found
    return _read_text(text, reader, cut)


def _read_text(text: str, reader: PairReader, cut: bool) -> FinalAnswer:
    """Read the last answer in a text without fences: labelled lists, lists and objects, or plain lines."""
    with contextlib.suppress(ValueError, RecursionError):
        reading = reader.read(decode(text))
        if reading.pairs or reading.empty:
            return FinalAnswer(reading)
    labelled = read_labelled_lists(text, reader)
    if labelled.pairs:
        return FinalAnswer(labelled)
    found = _choose(_stretches(text, reader))
    if found.reading.pairs or found.reading.empty or found.note:
        return found
    lines = read_lines(text, reader, cut)
    return FinalAnswer(lines) if lines.pairs else found


class _Stretch(NamedTuple):
    """Adjacent lists and objects that form one answer."""

    reading: PairReading
    weak: bool  # a single flat list, which may be a remark
    whole: bool  # complete, not cut off
    answers: bool  # begins like an answer
    at_end: bool  # followed by nothing but punctuation


def _stretches(text: str, reader: PairReader) -> list[_Stretch]:
    found: list[_Stretch] = []
    values: list[Any] = []
    begin = end = 0
    apart = False  # separated by a remark such as [1]
    while (start := find_start(text, end)) >= 0:
        between = text[end:start]
        beside = not apart and _BESIDE.fullmatch(between) is not None
        apart = False
        value, after = scan(text, start)
        if _is_remark(value):
            apart, end = True, after
            continue
        if values and not (beside and not _is_end(value)):
            found.append(_stretch(values, text, begin, end, reader))
            values = []
            if len(found) == _MOST_STRETCHES:
                return []  # no answer has this many lists
            if found[-1].reading.pairs and _NEXT_TASK.search(between):
                return found
        if not values:
            begin = start
        if not _repeats(value, values):
            values.append(value)
        end = after
    if values:
        found.append(_stretch(values, text, begin, end, reader))
    return found


def _is_remark(value: Any) -> bool:
    """Whether a value is a remark: a complete list such as `[1]` or `[微笑]` in prose."""
    return type(value) is list and bool(value) and all(item is None or isinstance(item, NumberText) for item in value)


def _is_end(value: Any) -> bool:
    """Whether a value is an empty list, which is an answer of its own: no entities."""
    return type(value) is list and not value


def _repeats(value: Any, values: list[Any]) -> bool:
    """Whether a list of pairs only repeats the one before it, as a model that does not stop does."""
    if not values or not isinstance(value, list) or not value or not isinstance(value[0], list):
        return False
    before = values[-1]
    if isinstance(before, Object) or not isinstance(before, list):
        return False
    if isinstance(value, CutList):
        return list(value[:-1]) == before[: len(value) - 1]
    return value == before


def _stretch(values: list[Any], text: str, begin: int, end: int, reader: PairReader) -> _Stretch:
    reading = reader.read(values[0]) if len(values) == 1 else reader.read_rows(values)
    flat = len(values) == 1 and isinstance(values[0], list) and all(isinstance(item, str) for item in values[0])
    whole = not isinstance(values[-1], (CutList, CutObject, CutText))
    if flat and whole and len(values[0]) == 2 and reader.categories:
        flat = not reader.is_pair(*values[0])
    at_end = _TAIL.match(text, end) is not None
    return _Stretch(reading, flat, whole, bool(_BEGINS_ANSWER.match(text, begin)), at_end)


def _choose(stretches: list[_Stretch]) -> FinalAnswer:
    """Return the last answer; an answer that breaks off before its first pair gives none."""
    for stretch in reversed(stretches):
        reading = stretch.reading
        if (reading.pairs and not stretch.weak) or (reading.empty and stretch.at_end):
            return FinalAnswer(reading)
        if not stretch.whole and stretch.answers:
            return FinalAnswer(reading, "it breaks off before its first pair is complete")
    for stretch in reversed(stretches):
        if stretch.reading.pairs or stretch.reading.empty:
            return FinalAnswer(stretch.reading)
    unread = sum(stretch.reading.unread for stretch in stretches)
    return FinalAnswer(PairReading([], unread))
