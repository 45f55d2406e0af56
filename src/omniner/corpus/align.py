"""Find what was given without a place: offsets for surfaces, the same sentence in another file, other units of offsets.

Surfaces without offsets are located in order: the k-th mention gets the k-th occurrence. Occurrences are counted from
the left and do not overlap each other. One rule takes precedence: an occurrence inside a longer listed mention (北京 in
北京大学) is used only if no free one is left. This is a guess wherever a surface occurs more often than it is listed;
real offsets are always better. If mentions are listed in reading order, as in answers, a guess that contradicts that
order gives way to offsets that do not (`locate_listed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from omniner.records import Entity, Sentence

MOST_PLACES = 64  # of one surface that are tried in reading order, from the first that it may have

_NONE = (1_000_000_000, -1)  # more overlaps than there can be


def match_texts(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """Return for each of `ours` the index of an equal text in `theirs`; the k-th of equal texts matches the k-th there.

    Empty texts match nothing.
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(theirs):
        if text:
            places.setdefault(text, []).append(place)
    met: dict[str, int] = {}
    found: list[int | None] = []
    for text in ours:
        count = met[text] = met.get(text, -1) + 1
        there = places.get(text, [])
        found.append(there[count] if count < len(there) else None)
    return found


def ids_by_text(sentences: Sequence[Sentence], known: Mapping[str, str]) -> list[str | None] | None:
    """Match sentences to known ids by text, if that matches more than their own ids do.

    Ids that a reader generated are numbers: they can follow another order, or the name of another file.

    Args:
        sentences: with ids of any origin.
        known: id -> text, in the order of their file.

    Returns:
        The known id of each sentence, or None if its text is not known (see `match_texts`). Instead of the list, None
        if the sentences' own ids match as many.
    """
    by_id = sum(known.get(sentence.id) == sentence.text for sentence in sentences)
    ids = list(known)
    places = match_texts([sentence.text for sentence in sentences], list(known.values()))
    if sum(place is not None for place in places) <= by_id:
        return None
    return [None if place is None else ids[place] for place in places]


def align_surfaces(text: str, surfaces: Sequence[str], taken: Iterable[tuple[int, int]] = ()) -> list[int | None]:
    """Find the start of each surface in a text.

    Args:
        text: the sentence.
        surfaces: the mentions in their listed order; an empty one is never found.
        taken: `[start, end)` of mentions whose offsets are known. An occurrence with exactly such offsets is not used
            again; one that overlaps them is used only if no free one is left.

    Returns:
        A start for each surface, None if the text has no occurrence left for it.
    """
    known = set(taken)
    covered = bytearray(len(text))
    for start, end in sorted(known):
        covered[start:end] = b"\1" * (end - start)
    mentions: dict[str, list[int]] = {}
    for index, surface in enumerate(surfaces):
        mentions.setdefault(surface, []).append(index)
    starts: list[int | None] = [None] * len(surfaces)
    # Longest first, so that a long mention covers its span before a part of it is searched for; equal lengths in listed
    # order (the sort is stable).
    for surface, indices in sorted(mentions.items(), key=lambda item: -len(item[0])):
        places = _choose(text, surface, len(indices), covered, known)
        for index, place in zip(indices, places, strict=False):
            starts[index] = place
            covered[place : place + len(surface)] = b"\1" * len(surface)
    return starts


def _choose(text: str, surface: str, count: int, covered: bytearray, known: set[tuple[int, int]]) -> list[int]:
    """Return at most `count` starts of the surface, left to right, preferring free occurrences to overlapping ones."""
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


def locate_pairs(text: str, pairs: Sequence[tuple[str, str]], known: Sequence[Entity] = ()) -> list[Entity | None]:
    """Create an entity for each (surface, category) pair, without offsets if the surface is not in the text.

    `align_surfaces` finds the offsets. A surface listed more often than it occurs shares the first of its spans that
    its category does not have yet, so one mention may have two categories.

    Args:
        text: the sentence.
        pairs: the mentions in their listed order.
        known: mentions whose offsets are known.

    Returns:
        An entity for each pair, in their order; None if the pair only repeats another one.
    """
    spans = [(start, end) for _, _, start, end in known if start is not None and end is not None]
    return _entities_at(pairs, align_surfaces(text, [surface for surface, _ in pairs], spans), known)


def locate_listed(text: str, pairs: Sequence[tuple[str, str]]) -> list[Entity | None]:
    """Create entities as `locate_pairs` does, for pairs listed in reading order, as answers are.

    If its offsets contradict that order, those of `rising_starts` are used, if there are any: 北京 and then 北京大学
    both stand at the start of 北京大学在北京.
    """
    starts = align_surfaces(text, [surface for surface, _ in pairs])
    placed = [(index, pairs[index][0], start) for index, start in enumerate(starts) if start is not None]
    spans = [(start, start + len(surface)) for _, surface, start in placed]
    if any(left >= right for left, right in pairwise(spans)):
        rising = rising_starts(text, [surface for _, surface, _ in placed])
        for (index, _, _), start in zip(placed, rising or (), strict=False):
            starts[index] = start
    return _entities_at(pairs, starts)


def rising_starts(text: str, surfaces: Sequence[str]) -> list[int] | None:
    """Find starts for surfaces in reading order: each starts after the previous one, or there and ends later.

    Among all such choices the one with the fewest overlaps of neighbours is used; among equals, the one whose last
    start is leftmost, then the last but one, and so on. At most `MOST_PLACES` occurrences of a surface are tried.

    Args:
        text: the sentence.
        surfaces: the mentions, at least one, none of them empty.

    Returns:
        A start for each surface; None if there is no such choice.
    """
    rows = _rows_of_places(text, surfaces)
    if rows is None:
        return None
    # best[n]: the fewest overlaps up to one of the first n places of the row before, and the number of that place
    best = [_NONE, *[(0, 0)] * len(rows[0])]
    steps: list[list[int]] = []  # for each place of the later rows: the number of the place before it
    for number, row in enumerate(rows[1:], 1):
        before, length, size = rows[number - 1], len(surfaces[number - 1]), len(surfaces[number])
        step: list[int] = []
        fewest = [_NONE]
        apart = behind = 0  # how many places of the row before end before this place, and how many come before it
        for place in row:
            while apart < len(before) and before[apart] + length <= place:
                apart += 1
            while behind < len(before) and before[behind] < place + (length < size):
                behind += 1
            overlaps, chosen = min(best[apart], (best[behind][0] + 1, best[behind][1]))
            fewest.append(min(fewest[-1], (overlaps, len(step))))
            step.append(chosen)
        steps.append(step)
        best = fewest
    chosen = best[-1][1]
    starts = [rows[-1][chosen]]
    for row, step in zip(reversed(rows[:-1]), reversed(steps), strict=True):
        chosen = step[chosen]
        starts.append(row[chosen])
    return starts[::-1]


def _rows_of_places(text: str, surfaces: Sequence[str]) -> list[list[int]] | None:
    """Return the occurrences of each surface, from the first that the previous one allows; None if any has none."""
    rows: list[list[int]] = []
    first, length = -1, 0
    for surface in surfaces:
        row: list[int] = []
        place = text.find(surface, first if first >= 0 and length < len(surface) else first + 1)
        while place >= 0 and len(row) < MOST_PLACES:
            row.append(place)
            place = text.find(surface, place + 1)
        if not row:
            return None
        rows.append(row)
        first, length = row[0], len(surface)
    return rows


def _entities_at(
    pairs: Sequence[tuple[str, str]], starts: Sequence[int | None], known: Sequence[Entity] = ()
) -> list[Entity | None]:
    """Create the entities of pairs at their starts; `locate_pairs` says what happens without one."""
    taken: set[tuple[str, str, int]] = set()
    places: dict[str, list[int]] = {}
    for surface, category, begin, _ in known:
        if begin is not None:
            places.setdefault(surface, []).append(begin)
            taken.add((surface, category, begin))
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
    """Map offsets in UTF-16 units, as browser tools count them, to offsets in the text, including its end.

    A character outside the basic plane, such as an emoji, has two units.
    """
    places: dict[int, int] = {}
    units = 0
    for index, character in enumerate(text):
        places[units] = index
        units += 2 if character > "\uffff" else 1
    places[units] = len(text)
    return places
