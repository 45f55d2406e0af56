"""A model's answer: from entities to its text, and back to a prediction.

`write_answer` makes what a model learns to write, a JSON list of `[surface, category]` in reading order; repeats are
listed again. `to_prediction` reads what a model wrote, however broken, and finds the places in the sentence: the k-th
mention of a surface stands at its k-th occurrence. An answer holds no offsets, so that is a guess wherever a surface
occurs more often than it is listed.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import accumulate

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
    if surface in text or unicodedata.is_normalized("NFC", text):
        return surface
    wanted = unicodedata.normalize("NFC", surface)
    # Pieces that begin with a character of combining class 0 are normalised alone, and each keeps its place.
    starts = [place for place, char in enumerate(text) if place == 0 or not unicodedata.combining(char)]
    pieces = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    normal = [unicodedata.normalize("NFC", piece) for piece in pieces]
    ends = list(accumulate(map(len, normal)))
    at = "".join(normal).find(wanted)
    if not wanted or at < 0 or at + len(wanted) not in ends or (at and at not in ends):
        return surface
    first = ends.index(at) + 1 if at else 0
    return "".join(pieces[first : ends.index(at + len(wanted)) + 1])
