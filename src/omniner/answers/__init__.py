"""Answers of language models: from entities to the text that a model learns to write, and back from its output.

`render_answer` writes the training target, a JSON list of `[surface, category]` in reading order; repeated mentions are
repeated. `parse_answer` parses a model's text into (surface, category) pairs, and `prediction_from_answer` locates them
in the sentence: the k-th mention of a surface is placed at its k-th occurrence, or where the reading order demands it
(`align.locate_listed`). Answers hold no offsets, so this is a guess if a surface occurs more often than it is listed.
F1 during training, prediction and scoring all parse answers here.

An answer is `ok` (a JSON list of two-string lists, as requested), `repaired` (pairs had to be recovered) or `failed`
(no pairs). Recovery finds the final answer (`final_answer`), decodes it leniently (`loose_json`), and finds the pairs
in whatever shape it has (`pairs`, `plain_lines`). It takes linear time, is slower than the json module, and runs only
on answers that are not as requested.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from omniner.answers.final_answer import final_text, read_final
from omniner.answers.loose_json import MAX_DEPTH, decode
from omniner.answers.pairs import Pair, PairReader, PairReading
from omniner.corpus.align import locate_listed
from omniner.errors import UserError
from omniner.records import Entity, Prediction, Sentence, with_score
from omniner.wording import Wording, catalogue, counted

# Separators of the JSON: those of the paper's training data (Python's default), and without spaces.
STYLES = {"official": (", ", ": "), "compact": (",", ":")}
_TEXT = r'("(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")'  # a string in JSON
_OPENING, _COMMA = re.compile(r"\s*\["), re.compile(r"\s*,")
_ITEM = re.compile(rf"\s*\[\s*{_TEXT}\s*,\s*{_TEXT}\s*\]")
CUT, REPEATED = "stopped by decoding.max_new_tokens", "stopped where the model repeats itself"  # causes of a cut
_REASONS = (  # parts of `ParsedAnswer.reason` and `Prediction.reason` with values; those without are in the catalogue
    "not JSON: {why}",
    "longer than {count} characters",
    "nested more than {count} deep",
    "the answer stands {where}",
    "nothing stands {where}",
    "it breaks off while {what}",
    "{number:item} unread",
    "{number:repeated entity} dropped",
    "refused: {why}",
)
_NO_PAIR = "no pair of a surface and its category can be told in it"
MAX_CHARS = 1_000_000  # a longer answer is a runaway generation


def check_style(style: str) -> None:
    """Raise a `UserError` for an unknown style."""
    if style not in STYLES:
        raise UserError("prompt.answer", f"{style!r} is no style of answers", f"Use {' or '.join(STYLES)}.")


def render_answer(entities: Iterable[Entity], style: str) -> str:
    """Return the answer that lists these entities: `[["北京", "地点_城市"]]`.

    Args:
        entities: sorted here by their offsets if all have offsets; kept in their order otherwise.
        style: official | compact.
    """
    entities = list(entities)
    if all(entity.start is not None for entity in entities):
        entities.sort(key=lambda entity: (entity.start, entity.end))
    return json.dumps([entity[:2] for entity in entities], ensure_ascii=False, separators=STYLES[style])


class ParsedAnswer(NamedTuple):
    """The result of parsing an answer.

    Attributes:
        pairs: (surface, category) in the answer's order.
        status: ok | repaired | failed.
        reason: why it is not ok.
    """

    pairs: list[Pair]
    status: str
    reason: str


def parse_answer(text: str, categories: Collection[str] = (), sentence: str = "", cut: bool = False) -> ParsedAnswer:
    """Parse a model's answer; never raise.

    Args:
        text: the answer as the model wrote it.
        categories: known names, which distinguish a surface from its category if nothing else does; empty = unknown.
        sentence: the sentence, which helps in the same way; empty = unknown.
        cut: whether the answer is known to be incomplete.
    """
    if len(text) > MAX_CHARS:
        return ParsedAnswer([], "failed", f"longer than {MAX_CHARS} characters")
    try:
        return _parse(text, categories, sentence, cut)
    except RecursionError:  # strings of JSON within one another, too
        return ParsedAnswer([], "failed", f"nested more than {MAX_DEPTH} deep")


def _parse(text: str, categories: Collection[str], sentence: str, cut: bool) -> ParsedAnswer:
    try:
        value = decode(text)
    except (ValueError, RecursionError) as error:
        return _recover(text, f"not JSON: {error}", categories, sentence, cut)
    return _judge_value(value, categories, sentence)


def _judge_value(value: Any, categories: Collection[str], sentence: str) -> ParsedAnswer:
    """Parse an answer that is JSON."""
    pairs = strict_pairs(value) if type(value) is list else None
    if pairs is None:
        return _judge(PairReader(categories, sentence).read(value), "JSON, but not a list of pairs")
    is_told = bool(pairs and (categories or sentence)) and pairs[0][1] not in categories
    if not (is_told and PairReader(categories, sentence).is_swapped(pairs)):
        return ParsedAnswer(pairs, "ok", "")
    return ParsedAnswer([(second, first) for first, second in pairs], "repaired", "the categories stand first")


def _recover(text: str, why: str, categories: Collection[str], sentence: str, cut: bool) -> ParsedAnswer:
    """Parse the final answer in a text that is not JSON."""
    final, note = final_text(text)
    if not final.strip():
        return ParsedAnswer([], "failed", "; ".join(filter(None, [why if text.strip() else "empty answer", note])))
    if note:
        why = f"the answer stands {note}"
        try:
            parsed = _judge_value(decode(final.strip()), categories, sentence)
        except (ValueError, RecursionError):
            pass
        else:
            status = "repaired" if parsed.status == "ok" else parsed.status
            return ParsedAnswer(parsed.pairs, status, "; ".join(filter(None, [why, parsed.reason])))
    found = read_final(final, PairReader(categories, sentence), cut)
    if found.note and not found.reading.pairs:
        return ParsedAnswer([], "failed", f"{why}; {found.note}")
    return _judge(found.reading, why)


def _judge(reading: PairReading, why: str) -> ParsedAnswer:
    if reading.pairs or reading.empty:
        why = f"{why}; {counted(reading.unread, 'item')} unread" if reading.unread else why
        return ParsedAnswer(reading.pairs, "repaired", why)
    return ParsedAnswer([], "failed", f"{why}; {_NO_PAIR}")


def prediction_from_answer(
    sentence: Sentence,
    raw: str,
    prompt_sha: str,
    engine: str,
    ended_by: str = "",
    categories: Collection[str] = (),
    scores: Sequence[float] = (),
) -> Prediction:
    """Parse a model's answer to a sentence and locate its entities; never raise.

    A surface that is not in the text has no offsets. One that is in the text but is listed more often than it occurs
    shares its span with another category, or is dropped if it only repeats an entity; `reason` gives the number of
    these.

    Args:
        sentence: the sentence that was asked about.
        raw: the answer as the model wrote it.
        prompt_sha: hash of the prompt.
        engine: name of what answered.
        ended_by: what ended the answer before the model did (`CUT`, `REPEATED`); empty = the model ended it.
        categories: those in the model's prompt.
        scores: the model's confidence in each item of `item_ends`. They are used if the answer has these pairs and no
            others.
    """
    parsed = parse_answer(raw, categories, sentence.text, bool(ended_by))
    placed = locate_listed(sentence.text, [(spelt_as_in(sentence.text, text), label) for text, label in parsed.pairs])
    if len(scores) == len(placed) and parsed.pairs == strict_items(raw):
        placed = [entity and with_score(entity, score) for entity, score in zip(placed, scores, strict=True)]
    entities = [entity for entity in placed if entity is not None]
    reasons = [ended_by, parsed.reason]
    if repeats := len(placed) - len(entities):
        reasons.append(f"{counted(repeats, 'repeated entity')} dropped")
    return Prediction(sentence.id, entities, raw, parsed.status, "; ".join(filter(None, reasons)), prompt_sha, engine)


def translatable_reason(reason: str) -> Wording:
    """Return the `reason` of a prediction as a text with a translation; unknown parts of it stay as they are.

    Predictions files keep reasons in English, so their parts are recognised here.
    """
    return Wording.joined("; ", map(_translatable_part, reason.split("; ")))


def _translatable_part(part: str) -> str:
    if part in catalogue():
        return Wording(part)
    for template in _REASONS:
        pattern = re.sub(r"\\{number:.+?\\}", r"(?P<number>[\\d,]+) .+", re.escape(template))
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", pattern)
        if found := re.fullmatch(pattern, part):
            return Wording(template, **{name: _value(name, text) for name, text in found.groupdict().items()})
    return part


def _value(name: str, text: str) -> int | str:
    """Return a value of a template of `_REASONS`; a place or a doing is one of our texts, all others are as found."""
    if name == "number":
        return int(text.replace(",", ""))
    return Wording(text) if name in ("where", "what") else text


def item_ends(text: str) -> list[int]:
    """Return where the category of each complete item of an answer ends, from the beginning as far as it is in the
    requested form.
    """
    return [match.end(2) - 1 for match in _items(text)]


def strict_items(text: str) -> list[Pair]:
    """Return the pairs of the items of `item_ends`."""
    return [(json.loads(match[1]), json.loads(match[2])) for match in _items(text)]


def _items(text: str) -> Iterator[re.Match[str]]:
    opened = _OPENING.match(text)
    while opened and (item := _ITEM.match(text, opened.end())):
        yield item
        opened = _COMMA.match(text, item.end())


def strict_pairs(value: list[Any]) -> list[Pair] | None:
    """Return the pairs of a decoded list of two-string lists; None if any element is something else."""
    pairs: list[Pair] = []
    for item in value:
        if type(item) is not list or len(item) != 2:
            return None
        surface, category = item
        if type(surface) is not str or type(category) is not str:
            return None
        pairs.append((surface, category))
    return pairs


def spelt_as_in(text: str, surface: str) -> str:
    """Spell a surface as the text does: tokenizers that normalise to NFC (Qwen) hide decomposed letters from a model.

    Args:
        text: of the sentence.
        surface: from a model's answer.

    Returns:
        The spelling in the text; the surface itself if the text contains it, or nothing that is canonically equivalent.
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
    """Map offsets in a text's normal form (NFC) to offsets in the text, at every position where both can be split."""
    whole = _nfc(text)
    return {len(_nfc(text[:at])): at for at in range(len(text) + 1) if _nfc(text[:at]) + _nfc(text[at:]) == whole}


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
