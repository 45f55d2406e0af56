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
from collections.abc import Iterable, Sequence

from omniner.analysis.parse import parse_answer
from omniner.corpus.align import align
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
    pairs = [(_spelt_as_in(sentence.text, surface), category) for surface, category in parsed.pairs]
    starts = align(sentence.text, [surface for surface, _ in pairs])
    entities, repeats = _place(pairs, starts)
    reason = parsed.reason
    if repeats:
        reason = "; ".join(filter(None, (reason, f"{repeats} repeated entities dropped")))
    return Prediction(sentence.id, entities, raw, parsed.status, reason, prompt_sha, engine)


def _place(pairs: Sequence[tuple[str, str]], starts: Sequence[int | None]) -> tuple[list[Entity], int]:
    """Entities with their offsets, and how many were dropped because they only repeat one."""
    places: dict[str, list[int]] = {}  # where each surface was found
    taken: set[tuple[str, str, int]] = set()
    for (surface, category), start in zip(pairs, starts, strict=True):
        if start is not None:
            places.setdefault(surface, []).append(start)
            taken.add((surface, category, start))
    entities, repeats = [], 0
    for (surface, category), start in zip(pairs, starts, strict=True):
        if start is None and surface in places:
            start = next((place for place in places[surface] if (surface, category, place) not in taken), None)
            if start is None:
                repeats += 1
                continue
            taken.add((surface, category, start))
        end = None if start is None else start + len(surface)
        entities.append(Entity(surface, category, start, end))
    return entities, repeats


def _spelt_as_in(text: str, surface: str) -> str:
    """The surface as the text spells it: tokenizers that normalise to NFC (Qwen) hide decomposed letters from a model.

    Returned as it is where the text has it so, or has nothing that is canonically equivalent.
    """
    if not surface or surface in text or unicodedata.is_normalized("NFC", text):
        return surface
    whole, wanted = _nfc(text), _nfc(surface)
    # where the text can be parted without changing its normal form: place in the normal form -> place in the text
    seams = {len(_nfc(text[:at])): at for at in range(len(text) + 1) if _nfc(text[:at]) + _nfc(text[at:]) == whole}
    for found in re.finditer(f"(?={re.escape(wanted)})", whole):
        first, last = seams.get(found.start()), seams.get(found.start() + len(wanted))
        if first is not None and last is not None:
            return text[first:last]
    return surface


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
