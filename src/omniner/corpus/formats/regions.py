"""Read entities as files list them: with any spelling of keys, and offsets of any meaning.

A `Region` is a mention as the file states it, before any check. `regions_of` reads the forms of known tools: triples
`[start, end, label]`, or objects with keys for surface, category and offsets. `RegionPlacer` converts the regions of a
file to entities. Two offsets can mean three things (`WAYS`), and most files do not say which:

- surfaces beside the offsets decide: the first way in which all regions of a record fit is used;
- without surfaces the file as a whole decides: offsets beyond the end of a text, or between the halves of an emoji;
- if that leaves it open, after an emoji, the surfaces that the file labels elsewhere decide; if they do not either,
  code points are assumed, which is an issue that names `data.offsets`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from omniner.corpus.align import utf16_places
from omniner.corpus.formats.fields import MAX_LINE, IssueLog, join_surrogates, quote
from omniner.corpus.formats.spellings import CATEGORIES, ENDS, LENGTHS, PAIRS, STARTS, SURFACES
from omniner.records import Entity, Issue, Sentence, replace_surrogates, with_score

MAX_SURFACE = 10_000  # characters that a file may claim for an entity by two numbers only
_HITS = 3  # minimum number of surfaces that must support UTF-16 units if nothing else does
_DEEPEST_OFFSET = 3  # nested lists that may hold offsets
_PLACE = itemgetter(2, 3)
WAYS = {
    "half_open": "code points, the end behind the last one",
    "inclusive": "code points, the end the last one",
    "utf16": "UTF-16 units",
}
_NO_OFFSETS = frozenset({"id", "score", "confidence", "probability", "confidenceScore", "index"})


class Region(NamedTuple):
    """A mention as a file lists it; the surface and a model's score may be absent, and everything may be wrong."""

    surface: str | None
    categories: Sequence[object]
    start: object
    end: object
    score: object = None


def regions_of(item: object, log: IssueLog, line: int) -> list[Region]:
    """Read one listed mention, in any of the known forms.

    Args:
        item: `[start, end, label]`, or an object; `points` in one are several spans with the same label.
        log: gets the issues.
        line: of the item.

    Returns:
        The regions; none, with an issue, if the item cannot be read.
    """
    if isinstance(item, list) and len(item) in (3, 4):  # the fourth is a surface, or an id of a knowledge base
        start, end, category, *_ = item
        if type(start) is int and type(end) is int:
            surface = item[3] if len(item) == 4 and isinstance(item[3], str) and item[3] else None
            return [Region(surface, [category], start, end)]
        if isinstance(start, str) and type(end) is int and type(category) is int:  # the label first
            return [Region(None, [start], end, category)]
    if not isinstance(item, dict):
        log.add("bad-entity", f"{quote(item)} is neither [start, end, label] nor an object; left out", line)
        return []
    categories = _categories(item)
    points = item.get("points")
    if isinstance(points, list):
        places = [point for point in points if isinstance(point, dict)]
        return [Region(_surface(point), categories, *_offsets(point)) for point in places]
    start, end = _offsets(item)
    surface = _surface(item)
    if categories == [None] and isinstance(item.get("entity"), str) and isinstance(item.get("value"), str):
        categories, surface = [item["entity"]], item["value"]  # as in Rasa
    if start is None and end is None and (odd := [key for key in item if _may_be_offset(key, item[key])]):
        log.add("unknown-offsets", f"{', '.join(map(quote, odd))} may be offsets: not read; kept without", line)
    if start is None and end is None and surface is None:
        log.add("bad-entity", f"{quote(item)} has neither offsets nor a surface under a known key; left out", line)
        return []
    return [Region(surface, categories, start, end)]


def _may_be_offset(key: object, value: object, depth: int = _DEEPEST_OFFSET) -> bool:
    """Whether an unread field looks like offsets."""
    if isinstance(value, list):
        return bool(value) and depth > 0 and all(_may_be_offset(key, part, depth - 1) for part in value)
    if isinstance(value, str):
        return re.fullmatch(r"\d+\s*[-–~:,;]\s*\d+", value) is not None
    return type(value) is int and key not in _NO_OFFSETS and not str(key).endswith(("_id", "Id"))


def _categories(item: Mapping[str, Any]) -> list[object]:
    value = next((item[key] for key in CATEGORIES if item.get(key) is not None), None)
    return value if isinstance(value, list) and value else [value]


def _surface(item: Mapping[str, Any]) -> str | None:
    return next((item[key] for key in SURFACES if isinstance(item.get(key), str) and item[key]), None)


def _offsets(item: Mapping[str, Any]) -> tuple[object, object]:
    start = next((item[key] for key in STARTS if item.get(key) is not None), None)
    end = next((item[key] for key in ENDS if item.get(key) is not None), None)
    if start is None and end is None:
        for key in PAIRS:
            pair = item.get(key)
            if isinstance(pair, list) and len(pair) == 1 and isinstance(pair[0], list):
                pair = pair[0]
            if isinstance(pair, list) and len(pair) == 2 and all(type(part) is int for part in pair):
                return pair[0], pair[1]
            if isinstance(pair, dict):
                return _offsets({name: value for name, value in pair.items() if name not in PAIRS})
    if end is None and (length := next((item[key] for key in LENGTHS if type(item.get(key)) is int), None)) is not None:
        start = item.get("offset") if start is None else start
        end = start + length if type(start) is int else None
    return _number(start), _number(end)


def _number(value: object) -> object:
    """Convert an integer written as a string or float; return any other value unchanged."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Waiting(NamedTuple):
    """A sentence whose regions wait for the whole file; `id` is that of the record."""

    sentence: Sentence
    regions: Sequence[Region]
    line: int
    id: str


class RegionPlacer:
    """Convert the regions of one file to entities, in the order of its records.

    Args:
        log: gets the issues.
        way: one of `WAYS`; `auto` = detect.
        assumed: the way of the format, used if nothing in the file contradicts it.
        fixed: the format specifies it: no other way but `utf16` is tried.
        loose: for the issue: what happens to a surface whose offsets do not fit.
    """

    def __init__(
        self,
        log: IssueLog,
        way: str = "auto",
        assumed: str = "half_open",
        fixed: bool = True,
        loose: str = "kept without offsets",
    ) -> None:
        self._log, self._way, self._assumed, self._loose = log, way, assumed, loose
        others = ["utf16"] if fixed else [name for name in WAYS if name != assumed]
        self._ways = [assumed, *others] if way == "auto" else [way]
        self._open: list[Waiting] = []  # decided by the whole file
        self._done: list[Sentence] = []
        self._names: set[str] = set()  # categories that UTF-8 can encode
        self._changed: dict[str, tuple[Issue, int, int]] = {}  # way -> first issue, its index in the log, count

    def add(self, sentence: Sentence, regions: Sequence[Region], line: int) -> None:
        """Give a sentence the entities of these regions, now or when `finish` is called."""
        if not regions:
            return
        ways = self._ways_for(sentence.text)
        certain = len(ways) == 1 or all(region.surface for region in regions)
        if len(ways) > 1 and not certain:
            self._open.append(Waiting(sentence, regions, line, self._log.id))
        elif not sentence.entities and (entities := self._plain(sentence.text, regions, ways[0])):
            sentence.entities = entities
            self._done.append(sentence)
        else:
            self._place(sentence, regions, ways, line)

    def _plain(self, text: str, regions: Sequence[Region], way: str) -> list[Entity] | None:
        """Return the entities if everything is valid, the fast path for nearly all sentences; None if it is not."""
        if way == "utf16":
            return None
        shift, size, names = int(way == "inclusive"), len(text), self._names
        entities = []
        for surface, categories, start, last, score in regions:
            if type(start) is not int or type(last) is not int:
                return None
            end = last + shift
            if not 0 <= start < end <= size or (surface is None and end - start > MAX_SURFACE):
                return None
            found = text[start:end]
            if surface is not None and surface != found:
                return None
            for name in categories:
                if not isinstance(name, str) or (name not in names and not self._is_name(name)):
                    return None
                entity = Entity(found, name, start, end)
                entities.append(entity if score is None else with_score(entity, score))
        entities.sort(key=_PLACE)
        return entities if len(set(entities)) == len(entities) else None

    def _is_name(self, name: str) -> bool:
        if not name or replace_surrogates(name) != name:
            return False
        self._names.add(name)
        return True

    def finish(self) -> None:
        """Place the regions that waited for the whole file, and report offsets that differ from the format's."""
        ends = [way for way in self._ways if way != "utf16"] or self._ways
        end = ends[0] if len(ends) == 1 else self._best(ends)
        with_emoji = []
        for waiting in self._open:
            if "utf16" in self._ways_for(waiting.sentence.text):
                with_emoji.append(waiting)
            else:
                self._place_waiting(waiting, [end])
        if with_emoji:
            self._settle_units(with_emoji, end)
        self._log.id = ""
        for way, (issue, at, count) in sorted(self._changed.items(), key=lambda one: one[1][1])[::-1]:
            message = f"{count:,} entities counted in {WAYS[way]}, first here; taken so"
            self._log.items.insert(at, issue._replace(message=message))

    def _ways_for(self, text: str) -> list[str]:
        """Return the possible ways; without an emoji, UTF-16 units equal code points."""
        if len(self._ways) == 1 or not (text.isascii() or max(text) <= "\uffff"):
            return self._ways
        return [way for way in self._ways if way != "utf16"]

    def _best(self, ways: Sequence[str]) -> str:
        """Return the way that fits most of the waiting regions; the first of equals."""
        counts = dict.fromkeys(ways, 0)
        for waiting in self._open:
            text = waiting.sentence.text
            for region in waiting.regions:
                for way in ways:
                    counts[way] += _fits(text, region, *moved(text, region, way))
        return max(ways, key=lambda way: counts[way])

    def _settle_units(self, waiting: Sequence[Waiting], end: str) -> None:
        """Decide between code points and UTF-16 units for the sentences with emoji."""
        differing: list[tuple[str, Region, tuple[object, object]]] = []
        fitting = {end: 0, "utf16": 0}
        for one in waiting:
            text = one.sentence.text
            places = utf16_places(text)
            for region in one.regions:
                other = moved(text, region, "utf16", places)
                if other != moved(text, region, end):
                    differing.append((text, region, other))
        for text, region, other in differing:
            fitting[end] += _fits(text, region, *moved(text, region, end))
            fitting["utf16"] += _fits(text, region, *other)
        if fitting[end] == fitting["utf16"] > 0:
            way = self._settle_by_surfaces(waiting[0], differing, end)
        else:
            way = "utf16" if fitting["utf16"] > fitting[end] else end
        for one in waiting:
            self._place_waiting(one, [way, end if way == "utf16" else "utf16"])

    def _settle_by_surfaces(
        self, first: Waiting, differing: Sequence[tuple[str, Region, tuple[object, object]]], end: str
    ) -> str:
        """Choose the way whose surfaces the file labels elsewhere, in texts where no emoji shifts offsets."""
        known = {(entity.text, entity.category) for sentence in self._done for entity in sentence.entities}
        hits = {end: 0, "utf16": 0}
        for text, region, other in differing:
            for way, (start, stop) in ((end, moved(text, region, end)), ("utf16", other)):
                if isinstance(start, int) and isinstance(stop, int) and stop - start <= MAX_SURFACE:
                    hits[way] += any((text[start:stop], category) in known for category in region.categories)
        is_sure = hits["utf16"] >= _HITS and hits["utf16"] > 3 * hits[end]
        if not is_sure and hits["utf16"] >= hits[end]:
            self._log.id = first.id
            found = f"{len(differing):,} entities behind an emoji fit as code points and as UTF-16 units alike"
            message = f"{found}; taken as code points: set data.offsets=utf16 if an emoji counts as two there"
            self._log.add("offset-units-open", message, first.line)
        return "utf16" if is_sure else end

    def _place_waiting(self, waiting: Waiting, ways: Sequence[str]) -> None:
        sentence, regions, line, self._log.id = waiting
        is_usual = ways[0] == self._assumed and not sentence.entities
        if is_usual and (entities := self._plain(sentence.text, regions, ways[0])):
            sentence.entities = entities
            self._done.append(sentence)
        else:
            self._place(sentence, regions, ways, line)

    def _place(self, sentence: Sentence, regions: Sequence[Region], ways: Sequence[str], line: int) -> None:
        """Place regions in one way if it fits all of a sentence, else each in the first way that fits it."""
        log, text = self._log, sentence.text
        regions = [
            region._replace(surface=join_surrogates(region.surface, log, line)) if region.surface else region
            for region in regions
        ]
        places = utf16_places(text) if "utf16" in ways else {}
        offsets = [[moved(text, region, way, places) for region in regions] for way in ways]
        fits = [[_fits(text, region, *at) for region, at in zip(regions, way, strict=True)] for way in offsets]
        whole = next((number for number, fit in enumerate(fits) if all(fit)), None)
        entities: list[Entity] = []
        for index, region in enumerate(regions):
            chosen = whole
            if chosen is None:
                chosen = next((number for number, fit in enumerate(fits) if fit[index]), 0)
            if ways[chosen] != self._assumed and self._way == "auto":
                at = offsets[chosen][index]
                if at != moved(text, region, self._assumed):
                    first = Issue("offset-units", "", log.file, line, log.id), len(log.items), 0
                    issue, place, count = self._changed.get(ways[chosen], first)
                    self._changed[ways[chosen]] = issue, place, count + 1
            surface = None if fits[chosen][index] else region.surface
            start, end = offsets[chosen][index]
            found = (_entity(text, surface, name, start, end, log, line, self._loose) for name in region.categories)
            entities += [with_score(entity, region.score) for entity in found if entity]
        self._done.append(sentence)
        sentence.entities = sort_entities(without_repeats([*sentence.entities, *entities], log, line))


def _entity(
    text: str, surface: str | None, category: object, start: object, end: object, log: IssueLog, line: int, loose: str
) -> Entity | None:
    """Return the entity of a region, without offsets if it has none."""
    if start is not None or end is not None or surface is None:
        return entity_at(text, surface, category, start, end, log, line, loose)
    if not isinstance(category, str) or not category:
        log.add("bad-entity", f"{quote(category)} is not a category; the entity is left out", line)
        return None
    return Entity(surface, join_surrogates(category, log, line))


def moved(text: str, region: Region, way: str, places: Mapping[int, int] | None = None) -> tuple[object, object]:
    """Convert the offsets of a region from one way of counting to half-open code points.

    Args:
        text: of the sentence.
        region: with offsets of any kind.
        way: one of `WAYS`.
        places: UTF-16 offset -> offset of the text, if already computed.
    """
    start, end = region.start, region.end
    if way == "half_open" or type(start) is not int or type(end) is not int:
        return start, end
    if way == "inclusive":
        return start, end + 1
    places = utf16_places(text) if places is None else places
    return places.get(start, -1), places.get(end, -1)


def _fits(text: str, region: Region, start: object, end: object) -> bool:
    """Whether offsets are valid and give the surface, if there is one; ignore white space, which some tools trim."""
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        return False
    if region.surface is None:
        return True
    if end - start > MAX_SURFACE:
        return False
    return text[start:end] == region.surface or _squeezed(text[start:end]) == _squeezed(region.surface)


def _squeezed(surface: str) -> str:
    """Remove white space; some versions write a line break as the two characters `\\n`."""
    return "".join(surface.replace("\\n", "").split())


def entity_at(
    text: str,
    surface: str | None,
    category: object,
    start: object,
    end: object,
    log: IssueLog,
    line: int,
    loose: str = "kept without offsets",
) -> Entity | None:
    """Create an entity from a file's values, which may be anything.

    An entity whose offsets do not give its surface keeps the surface and loses the offsets, with an issue: the pair
    still counts in comparisons by surface.

    Args:
        text: of the sentence.
        surface: None = take it from the text.
        category: of the entity.
        start, end: half-open offsets in code points.
        log: gets the issues.
        line: of the entity.
        loose: for the issue: what happens to a surface that its offsets do not give.

    Returns:
        The entity; None, with an issue, if none can be created.
    """
    if not isinstance(category, str) or not category:
        log.add("bad-entity", f"{quote(category)} is not a category; the entity is left out", line)
        return None
    if type(start) is not int or type(end) is not int:  # bool is an int to isinstance
        log.add("bad-entity", f"{quote(start)}, {quote(end)} are not offsets; the entity is left out", line)
        return None
    category = join_surrogates(category, log, line)
    if end <= start:
        message = f"{category} at [{start}, {end}) holds no character; the entity is left out"
        log.add("empty-entity", message, line)
        return None
    if surface is None and end - start > MAX_SURFACE:  # else a short file could request any amount of memory
        log.add("entity-too-long", f"{category} at [{start}, {end}); the entity is left out", line)
        return None
    inside = start >= 0 and end <= len(text)
    if inside and (surface is None or text[start:end] == surface):
        return Entity(text[start:end], category, start, end)
    if not inside:
        code, found = "offset-range", f"[{start}, {end}) is outside the text of {len(text)} characters"
    else:
        code, found = "offset-mismatch", f"[{start}, {end}) holds {quote(text[start:end])}"
    if not surface:
        log.add(code, f"{category}: {found}; the entity is left out", line)
        return None
    log.add(code, f"{category} {quote(surface)}: {found}; {loose}", line)
    return Entity(surface, category)


def sort_entities(entities: list[Entity]) -> list[Entity]:
    """Sort by start, then end; equal offsets and entities without offsets keep their order, the latter last."""
    last = MAX_LINE + 1
    return sorted(entities, key=lambda e: (last, last) if e.start is None else (e.start, e.end or 0))


def without_repeats(entities: list[Entity], log: IssueLog, line: int) -> list[Entity]:
    """Keep each entity with offsets once and report repeats; entities without offsets may be real repeats."""
    seen: set[Entity] = set()
    kept = []
    for entity in entities:
        if entity.start is not None and entity in seen:
            log.add("duplicate-entity", f"{entity.category} {quote(entity.text)} stands twice; kept once", line)
            continue
        seen.add(entity)
        kept.append(entity)
    return kept
