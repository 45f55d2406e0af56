"""A model's answer: from entities to its text, and back to a prediction.

`write_answer` makes what a model learns to write, a JSON list of `[surface, category]` in reading order; repeats are
listed again. `to_prediction` reads what a model wrote, however broken, and finds the places in the sentence: the k-th
mention of a surface stands at its k-th occurrence. An answer holds no offsets, so that is a guess wherever a surface
occurs more often than it is listed.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from omniner.analysis.scores.parse import parse_answer
from omniner.corpus.align import place_pairs
from omniner.errors import UserError
from omniner.records import Entity, Prediction, Sentence

STYLES = {"official": (", ", ": "), "compact": (",", ":")}
"""Separators of the JSON: the paper's training data (Python's own), and without spaces."""


def check_style(style: str) -> None:
    """An unknown style is a `UserError`."""
    if style not in STYLES:
        raise UserError("prompt.answer", f"{style!r} is no style of answers", f"Use {' or '.join(STYLES)}.")


def write_answer(entities: Iterable[Entity], style: str) -> str:
    """The answer that lists these entities: `[["北京", "地点_城市"]]`.

    Args:
        entities: sorted by their places here, if all have one; kept in their order otherwise.
        style: official | compact.
    """
    entities = list(entities)
    if all(entity.start is not None for entity in entities):
        entities.sort(key=lambda entity: (entity.start, entity.end))
    return json.dumps([entity[:2] for entity in entities], ensure_ascii=False, separators=STYLES[style])


def to_prediction(sentence: Sentence, raw: str, prompt_sha: str, engine: str) -> Prediction:
    """Read a model's answer about a sentence; never raises.

    A surface that does not stand in the text keeps no offsets. One that does, but is listed more often than it occurs
    there, shares a place with another category, or is dropped when it only repeats an entity; `reason` counts those.
    """
    parsed = parse_answer(raw)
    placed = place_pairs(sentence.text, [(_spelt_as_in(sentence.text, text), label) for text, label in parsed.pairs])
    entities = [entity for entity in placed if entity is not None]
    reason = parsed.reason
    if repeats := len(placed) - len(entities):
        reason = "; ".join(filter(None, (reason, f"{repeats} repeated entities dropped")))
    return Prediction(sentence.id, entities, raw, parsed.status, reason, prompt_sha, engine)


def _spelt_as_in(text: str, surface: str) -> str:
    """The surface as the text spells it: tokenizers that normalise to NFC (Qwen) hide decomposed letters from a model.

    Returned as it is where the text has it so, or has nothing that is canonically equivalent.
    """
    if not surface or surface in text or unicodedata.is_normalized("NFC", text):
        return surface
    whole, wanted, places = _nfc(text), _nfc(surface), seams(text)
    for found in re.finditer(f"(?={re.escape(wanted)})", whole):
        first, last = places.get(found.start()), places.get(found.start() + len(wanted))
        if first is not None and last is not None:
            return text[first:last]
    return surface


@lru_cache(maxsize=16)
def seams(text: str) -> dict[int, int]:
    """Where a text can be parted without changing its normal form: place in the normal form -> place in the text."""
    whole = _nfc(text)
    return {len(_nfc(text[:at])): at for at in range(len(text) + 1) if _nfc(text[:at]) + _nfc(text[at:]) == whole}


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
