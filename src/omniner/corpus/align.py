"""Places for surfaces that a file or an answer gives without offsets: the k-th mention gets the k-th occurrence.

Occurrences of a surface are counted from the left and do not overlap each other. One thing is put before that count:
an occurrence inside a longer listed mention (北京 in 北京大学) is used only when no free one is left. The rule is a
guess wherever a surface occurs more often than it is listed; real offsets are always better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from omniner.records import Entity


def align(text: str, surfaces: Sequence[str], taken: Iterable[tuple[int, int]] = ()) -> list[int | None]:
    """Find the start of each surface in a text.

    Args:
        text: the sentence.
        surfaces: the mentions in their listed order; an empty one never aligns.
        taken: `[start, end)` of mentions whose place is known already. An occurrence at exactly such a place is not
            given out again, one that overlaps it only when no free one is left.

    Returns:
        A start for each surface, None where the text has no occurrence left for it.
    """
    known = set(taken)
    covered = bytearray(len(text))
    for start, end in sorted(known):
        covered[start:end] = b"\1" * (end - start)
    mentions: dict[str, list[int]] = {}
    for index, surface in enumerate(surfaces):
        mentions.setdefault(surface, []).append(index)
    starts: list[int | None] = [None] * len(surfaces)
    # Longest first, so that a long mention covers its place before a part of it looks for one; equal lengths in
    # listed order (the sort is stable).
    for surface, indices in sorted(mentions.items(), key=lambda item: -len(item[0])):
        places = _choose(text, surface, len(indices), covered, known)
        for index, place in zip(indices, places, strict=False):
            starts[index] = place
            covered[place : place + len(surface)] = b"\1" * len(surface)
    return starts


def _choose(text: str, surface: str, count: int, covered: bytearray, known: set[tuple[int, int]]) -> list[int]:
    """At most `count` places of the surface, left to right: the free occurrences, then those that overlap."""
    size = len(surface)
    free: list[int] = []
    overlapping: list[int] = []
    place = text.find(surface) if surface else -1
    while place >= 0 and len(free) < count:
        if (place, place + size) not in known:
            is_covered = covered.find(1, place, place + size) >= 0
            (overlapping if is_covered else free).append(place)
        place = text.find(surface, place + size)
    return sorted(free + overlapping[: count - len(free)])


def place_pairs(text: str, pairs: Sequence[tuple[str, str]]) -> list[Entity | None]:
    """Make an entity of each (surface, category) pair by `align`, without offsets where the surface is not in the text.

    A surface listed more often than it occurs shares the first place that its category does not have yet: so one
    mention may have two categories.

    Returns:
        An entity for each pair, in their order; None where the pair only repeats another one.
    """
    starts = align(text, [surface for surface, _ in pairs])
    places: dict[str, list[int]] = {}
    taken: set[tuple[str, str, int]] = set()
    for (surface, category), start in zip(pairs, starts, strict=True):
        if start is not None:
            places.setdefault(surface, []).append(start)
            taken.add((surface, category, start))
    entities: list[Entity | None] = []
    for (surface, category), start in zip(pairs, starts, strict=True):
        if start is None and surface in places:
            start = next((place for place in places[surface] if (surface, category, place) not in taken), None)
            if start is None:
                entities.append(None)
                continue
            taken.add((surface, category, start))
        end = None if start is None else start + len(surface)
        entities.append(Entity(surface, category, start, end))
    return entities


def utf16_places(text: str) -> dict[int, int]:
    """Map offsets in UTF-16 units, as browser tools count, to places in the text, its end included.

    A character outside the basic plane, such as an emoji, is two units.
    """
    places: dict[int, int] = {}
    units = 0
    for index, character in enumerate(text):
        places[units] = index
        units += 2 if character > "\uffff" else 1
    places[units] = len(text)
    return places
