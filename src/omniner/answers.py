"""A model's answer: from entities to the text that a model learns to write, and back from whatever it wrote.

`write_answer` makes the answer to learn, a JSON list of `[surface, category]` in reading order; repeats are listed
again. `parse_answer` reads what a model wrote into (surface, category) pairs, and `prediction_from_answer` finds their
places in the sentence: the k-th mention of a surface stands at its k-th occurrence. An answer holds no offsets, so that
is a guess wherever a surface occurs more often than it is listed. The F1 during training, prediction and scoring all
read answers here.

Pairs are there as asked (`ok`: a JSON list of two-string lists), had to be recovered (`repaired`) or could not be found
(`failed`, no pairs). Recovering is done by a scanner written for it: one pass, no recursion, limits on size and depth,
nothing is ever evaluated. It takes fences and text around the list, any quotes, missing ones included, trailing commas,
a list that breaks off (complete pairs count), tuples, triples, flat lists, objects and "surface, category" strings. It
is much slower than the JSON module, and runs only on texts that are not as asked.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from omniner.errors import UserError
from omniner.records import Entity, Prediction, Sentence, place_pairs

# Separators of the JSON: those of the paper's training data (Python's own), and without spaces.
STYLES = {"official": (", ", ": "), "compact": (",", ":")}
MAX_CHARS = 1_000_000  # a longer answer is a runaway generation
MAX_DEPTH = 16  # an answer needs 2 or 3

Pair = tuple[str, str]

_TEXT_KEYS = (
    "text",
    "entity",
    "surface",
    "mention",
    "name",
    "word",
    "span",
    "实体",
    "文本",
    "名称",
    "实体名称",
)
_CATEGORY_KEYS = ("category", "labels", "label", "type", "类别", "标签", "类型", "实体类别", "实体类型")
_OPEN, _CLOSE, _OBJECT = "[(（", "])）", "{"
_SKIP = " \t\r\n\u3000,，、;；:："
_QUOTES = {'"': '"', "'": "'’‘", "`": "`'", "“": '”“"', "”": '”“"', "‘": "’‘'", "’": "’‘'"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_LITERALS = {"null", "true", "false", "nan", "none", "infinity", "-infinity"}
_START = re.compile(r"[\[{]")
_SPACE = re.compile(r"\s*")
_BARE_END = re.compile(r"[\[\](){}（），,:：\n\"“”]")
_NEXT_ITEM = re.compile(r"\]\s*[,，]\s*\[")


def check_style(style: str) -> None:
    """Raise a `UserError` for an unknown style."""
    if style not in STYLES:
        raise UserError("prompt.answer", f"{style!r} is no style of answers", f"Use {' or '.join(STYLES)}.")


def write_answer(entities: Iterable[Entity], style: str) -> str:
    """Write the answer that lists these entities: `[["北京", "地点_城市"]]`.

    Args:
        entities: sorted by their places here, if all have one; kept in their order otherwise.
        style: official | compact.
    """
    entities = list(entities)
    if all(entity.start is not None for entity in entities):
        entities.sort(key=lambda entity: (entity.start, entity.end))
    return json.dumps([entity[:2] for entity in entities], ensure_ascii=False, separators=STYLES[style])


class ParsedAnswer(NamedTuple):
    """What was read from an answer.

    Attributes:
        pairs: (surface, category) in the answer's order.
        status: ok | repaired | failed.
        reason: why it is not ok.
    """

    pairs: list[Pair]
    status: str
    reason: str


def parse_answer(text: str) -> ParsedAnswer:
    """Read a model's answer; never raises."""
    if len(text) > MAX_CHARS:
        return ParsedAnswer([], "failed", f"longer than {MAX_CHARS} characters")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _recover(text, f"not JSON: {error}")
    if type(value) is list:
        pairs = strict_pairs(value)
        if pairs is not None:
            return ParsedAnswer(pairs, "ok", "")
    return _judge(*_pairs_of(value, 0), closed=True, why="JSON, but not a list of pairs")


def prediction_from_answer(sentence: Sentence, raw: str, prompt_sha: str, engine: str, cut: bool = False) -> Prediction:
    """Read a model's answer about a sentence; never raises.

    A surface that does not stand in the text keeps no offsets. One that does, but is listed more often than it occurs
    there, shares a place with another category, or is dropped when it only repeats an entity; `reason` counts those.

    Args:
        sentence: what the answer is about.
        raw: the answer as the model wrote it.
        prompt_sha: hash of the prompt.
        engine: who answered.
        cut: whether the limit of tokens ended the answer; `reason` says so.
    """
    parsed = parse_answer(raw)
    placed = place_pairs(sentence.text, [(_spelt_as_in(sentence.text, text), label) for text, label in parsed.pairs])
    entities = [entity for entity in placed if entity is not None]
    reasons = ["stopped by decoding.max_new_tokens" if cut else "", parsed.reason]
    if repeats := len(placed) - len(entities):
        reasons.append(f"{repeats} repeated entities dropped")
    return Prediction(sentence.id, entities, raw, parsed.status, "; ".join(filter(None, reasons)), prompt_sha, engine)


def strict_pairs(value: list[Any]) -> list[Pair] | None:
    """Take the pairs of a decoded list of two-string lists; None if any element is something else."""
    pairs: list[Pair] = []
    for item in value:
        if type(item) is not list or len(item) != 2 or type(item[0]) is not str or type(item[1]) is not str:
            return None
        pairs.append((item[0], item[1]))
    return pairs


def _recover(text: str, why: str) -> ParsedAnswer:
    """Scan for lists and objects; the first stretch of them that holds pairs is the answer."""
    pairs: list[Pair] = []
    unread, closed, end = 0, False, 0
    while start := _START.search(text, end):
        if pairs and text[end : start.start()].strip(_SKIP):
            break  # other text in between: what follows is no longer the answer
        try:
            value, end, whole = _scan(text, start.start())
        except RecursionError:
            return ParsedAnswer([], "failed", f"nested more than {MAX_DEPTH} deep")
        found, bad = _pairs_of(value, 0)
        pairs += found
        unread += bad if found else 0
        closed = closed or (whole and not value)
    return _judge(pairs, unread, closed, why if text.strip() else "empty answer")


def _judge(pairs: list[Pair], unread: int, closed: bool, why: str) -> ParsedAnswer:
    """`closed`: a complete empty list counts as an answer."""
    if pairs or (closed and not unread):
        return ParsedAnswer(pairs, "repaired", f"{why}; {unread} items unread" if unread else why)
    return ParsedAnswer([], "failed", why)


def _pairs_of(value: Any, depth: int) -> tuple[list[Pair], int]:
    """All pairs in a decoded value and the number of items that are none."""
    if depth > MAX_DEPTH:
        return [], 1
    if type(value) is str:
        pair = _cut(value)
        return ([pair], 0) if pair else ([], 1)
    if type(value) is dict:
        return _pairs_of_object(value, depth)
    if type(value) is not list:
        return [], 1
    texts = [item for item in map(_leaf, value) if item is not None]
    if len(texts) == len(value) and not all(map(_cut, texts)):
        if len(texts) in (2, 3):  # a pair, or a triple with a remark
            return [(texts[0], texts[1])], 0
        if len(texts) % 2 == 0 and not any(map(_cut, texts)):  # the inner brackets are missing
            return list(zip(texts[::2], texts[1::2], strict=True)), 0
    if len(value) == 2 and type(value[0]) is str and (labels := _leaves(value[1])):
        return [(value[0], label) for label in labels], 0
    return _gather(value, depth)


def _pairs_of_object(value: dict[str, Any], depth: int) -> tuple[list[Pair], int]:
    """`{"text": t, "category": c or [c]}`, `{surface: category}`, `{category: [surface]}` or a wrapper."""
    text = next((value[key] for key in _TEXT_KEYS if key in value), None)
    labels = next((value[key] for key in _CATEGORY_KEYS if key in value), None)
    if type(text) is str and labels is not None:
        names = [labels] if type(labels) is str else _leaves(labels)
        return [(text, name) for name in names], 0 if names else 1
    pairs: list[Pair] = []
    unread = 0
    for key, item in value.items():
        if type(item) is str:
            pairs.append((key, item))
        elif type(item) is list and (surfaces := _leaves(item)):
            pairs += [(surface, key) for surface in surfaces]
        else:
            found, bad = _pairs_of(item, depth + 1)
            pairs += found
            unread += bad
    return pairs, unread


def _gather(items: list[Any], depth: int) -> tuple[list[Pair], int]:
    pairs: list[Pair] = []
    unread = 0
    for item in items:
        found, bad = _pairs_of(item, depth + 1)
        pairs += found
        unread += bad
    return pairs, unread


def _leaf(value: Any) -> str | None:
    if type(value) is str:
        return value
    return str(value) if type(value) in (int, float) and value == value else None


def _leaves(value: Any) -> list[str]:
    """The strings of a list that holds nothing else; otherwise none."""
    if type(value) is not list:
        return []
    leaves = [leaf for leaf in map(_leaf, value) if leaf is not None]
    return leaves if len(leaves) == len(value) else []


def _cut(text: str) -> Pair | None:
    """`surface, category`, also as `('surface', 'category')`, as a pair."""
    parts = re.split(r"[,，]\s*", text.strip().strip("()（）"))
    if len(parts) != 2 or not all(parts):
        return None
    surface, category = (part.strip().strip("\"'“”‘’") for part in parts)
    return surface, category


def _scan(text: str, at: int) -> tuple[Any, int, bool]:
    """Read the list or object that begins at `at`: its value, where it ends, and whether it was closed.

    Separators carry no meaning; an object is its items two by two. Raises RecursionError past MAX_DEPTH.
    """
    stack: list[tuple[str, list[Any]]] = []
    while at < len(text):
        char = text[at]
        if char in _SKIP:
            at += 1
        elif char in _OPEN or char in _OBJECT:
            if len(stack) == MAX_DEPTH:
                raise RecursionError
            stack.append((char, []))
            at += 1
        elif char in _CLOSE or char == "}":
            value = _pop(stack)
            at += 1
            if not stack:
                return value, at, True
            stack[-1][1].append(value)
        else:
            item, at = _word(text, at, len(stack))
            if item is not _UNFINISHED:
                stack[-1][1].append(item)
    while True:  # the text broke off: close what is open
        value = _pop(stack)
        if not stack:
            return value, at, False
        stack[-1][1].append(value)


def _pop(stack: list[tuple[str, list[Any]]]) -> Any:
    kind, items = stack.pop()
    if kind != _OBJECT:
        return items
    return {key: item for key, item in zip(items[::2], items[1::2], strict=False) if type(key) is str}


_UNFINISHED = object()


def _word(text: str, at: int, depth: int) -> tuple[Any, int]:
    """A quoted string, or what stands there without quotes (only deep enough to be part of a pair)."""
    escaped = text.startswith('\\"', at)  # the whole answer was escaped once too often
    char = '"' if escaped else text[at]
    if char in _QUOTES:
        return _string(text, at + 1 + escaped, _QUOTES[char], escaped)
    found = _BARE_END.search(text, at + 1)
    end = found.start() if found else len(text)
    word = text[at:end].strip()
    if end < len(text) and text[end] in _QUOTES and _ends_item(text, end + 1):
        return word, end + 1  # only the opening quote is missing
    if not found:
        return _UNFINISHED, end
    return (None if depth < 2 or word.lower() in _LITERALS else word), end


def _string(text: str, at: int, closers: str, escaped: bool) -> tuple[Any, int]:
    """A string after its opening quote; a quote ends it only where an item can end: inner quotes stay."""
    parts: list[str] = []
    while at < len(text):
        char = text[at]
        if escaped and text.startswith('\\"', at) and _ends_item(text, at + 2):
            return _join(parts), at + 2
        if char in closers and _ends_item(text, at + 1):
            return _join(parts), at + 1
        if char == "]" and _NEXT_ITEM.match(text, at):
            return _join(parts), at  # the closing quote is missing: the next item begins here
        if char == "\\" and at + 1 < len(text):
            part, at = _escape(text, at + 1)
            parts.append(part)
            continue
        parts.append(char)
        at += 1
    return _UNFINISHED, at


def _ends_item(text: str, at: int) -> bool:
    space = _SPACE.match(text, at)
    at = space.end() if space else at
    return at == len(text) or text[at] in ",，、]})）:：;；"


def _escape(text: str, at: int) -> tuple[str, int]:
    char = text[at]
    digits = text[at + 1 : at + 5]
    if char == "u" and re.fullmatch(r"[0-9a-fA-F]{4}", digits):
        return chr(int(digits, 16)), at + 5
    return _ESCAPES.get(char, char), at + 1


def _join(parts: list[str]) -> str:
    """Put a string together; the two halves of an escaped astral character become one."""
    text = "".join(parts)
    if any("\ud800" <= char <= "\udfff" for char in text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return text


def _spelt_as_in(text: str, surface: str) -> str:
    """The surface as the text spells it: tokenizers that normalise to NFC (Qwen) hide decomposed letters from a model.

    Returned as it is where the text has it so, or has nothing that is canonically equivalent.
    """
    if not surface or surface in text or unicodedata.is_normalized("NFC", text):
        return surface
    whole, wanted, places = _nfc(text), _nfc(surface), nfc_boundaries(text)
    for found in re.finditer(f"(?={re.escape(wanted)})", whole):
        first, last = places.get(found.start()), places.get(found.start() + len(wanted))
        if first is not None and last is not None:
            return text[first:last]
    return surface


@lru_cache(maxsize=16)
def nfc_boundaries(text: str) -> dict[int, int]:
    """Map places in a text's normal form (NFC) to places in the text, wherever both can be cut alike."""
    whole = _nfc(text)
    return {len(_nfc(text[:at])): at for at in range(len(text) + 1) if _nfc(text[:at]) + _nfc(text[at:]) == whole}


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
