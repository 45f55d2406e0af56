"""Locate entities that files list without offsets, as pairs of a surface and its category.

The k-th mention of a surface gets its k-th occurrence (`align.locate_pairs`); in answers for a language model the
reading order counts, too (`align.locate_listed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from omniner.corpus.align import locate_listed, locate_pairs
from omniner.corpus.formats.fields import IssueLog, join_surrogates, quote
from omniner.corpus.formats.regions import Region, sort_entities, without_repeats
from omniner.records import Entity, Sentence

_TELLING_SHARE = 0.25  # of the pairs that must have the category first before all are taken so


def pairs_of(items: object) -> list[tuple[str, str]] | None:
    """Read a list of `[surface, category]` pairs, or an object of categories with lists of surfaces.

    Returns:
        Pairs of the value in the surface's position and the value in the category's; None if `items` is neither, or
        empty.
    """
    if isinstance(items, dict):
        groups = [(name, surfaces) for name, surfaces in items.items() if isinstance(surfaces, list)]
        listed = [[surface, name] for name, surfaces in groups for surface in surfaces]
        items = listed if len(groups) == len(items) else None
    if not isinstance(items, list) or not items:
        return None
    pairs = []
    for item in items:
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(one, str) and one for one in item):
            return None
        pairs.append((item[0], item[1]))
    return pairs


class PairPlacer:
    """Locate pairs of a surface and its category, for which a file has no offsets.

    The texts of the file show which of the two is the surface (`is_turned`). A file that has the
    category first is an issue.

    Args:
        log: gets the issues.
        answers: whether the pairs are answers for a language model, which list them in reading order and never have
            offsets; if not, missing offsets are an issue of the file as a whole.
    """

    def __init__(self, log: IssueLog, answers: bool = False) -> None:
        self._log, self._answers = log, answers
        self._open: list[tuple[Sentence, list[tuple[str, str]], int, int, bool, str]] = []

    def add(
        self, sentence: Sentence, pairs: list[tuple[str, str]], line: int, item: int = 0, grouped: bool = False
    ) -> None:
        """Give a sentence the entities of these pairs when `finish` is called.

        Args:
            sentence: its text contains the surfaces.
            pairs: the surface first, or in the whole file the category first.
            line: of the pairs.
            item: the number of the record, for issues; 0 = the line is enough.
            grouped: whether an answer lists them by category, not in reading order.
        """
        self._open.append((sentence, pairs, line, item, grouped, self._log.id))

    def finish(self) -> None:
        """Locate all pairs."""
        log, is_turned = self._log, self._is_turned()
        several = total = 0
        for sentence, pairs, line, item, grouped, log.id in self._open:
            first = len(log.items)
            pairs = [
                (join_surrogates(surface, log, line), join_surrogates(category, log, line))
                for surface, category in ((pair[::-1] if is_turned else pair) for pair in pairs)
            ]
            located = (locate_listed if self._answers and not grouped else locate_pairs)(sentence.text, pairs)
            for pair, entity in zip(pairs, located, strict=True):
                report_place(pair, entity, log, line)
            entities = [entity for entity in located if entity]
            sentence.entities = sort_entities(entities) if grouped else entities
            log.number(first, item)
            total += len(pairs)
            listed = Counter(surface for surface, _ in pairs)
            several += sum(count for surface, count in listed.items() if sentence.text.count(surface) > count)
        log.id = ""
        if total and not self._answers:
            found = f"{total:,} entities have words, but no places: looked for from left to right"
            many = f"; {several:,} of them stand more often in their text than they are listed" if several else ""
            log.add("placed-by-words", found + many, self._open[0][2])

    def _is_turned(self) -> bool:
        """Whether the category comes first; if so, add an issue at the first such pair."""
        usual, turned, total = count_orders((one[0].text, one[1]) for one in self._open)
        if not is_turned(usual, turned, total):
            return False
        line = next(one[2] for one in self._open if count_orders([(one[0].text, one[1])])[1])
        found = f"of {turned + usual:,} pairs that tell, {turned:,} have the category first, the surface second"
        self._log.add("turned-pairs", f"{found}, first here; all are taken so", line)
        return True


def count_orders(texts: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> tuple[int, int, int]:
    """Count the pairs of which only the first part stands in their text, those of which only the second does, and all.

    Args:
        texts: each with its pairs.
    """
    usual = turned = total = 0
    for text, pairs in texts:
        total += len(pairs)
        for first, second in pairs:
            is_first, is_second = first in text, second in text
            usual += is_first and not is_second
            turned += is_second and not is_first
    return usual, turned, total


def is_turned(usual: int, turned: int, total: int) -> bool:
    """Whether counts of `count_orders` show that the category comes first.

    Pairs do not tell if their text names the categories, as an instruction does. The few that then tell are surfaces
    that are absent from their texts, so they do not stand for all.
    """
    return turned > usual and turned >= _TELLING_SHARE * total


def report_place(pair: tuple[str, str], entity: Entity | None, log: IssueLog, line: int) -> None:
    """Add an issue if a pair got no entity (`align.locate_pairs`, `locate_listed`), or one without offsets."""
    surface, category = pair
    if entity is None:
        message = f"{category} {quote(surface)} is listed more often than it stands in the text; left out"
        log.add("duplicate-entity", message, line)
    elif entity.start is None:
        log.add("unaligned", f"{category} {quote(surface)} does not stand in the text; no offsets", line)


def add_by_words(sentence: Sentence, items: Sequence[Region], log: IssueLog, line: int) -> None:
    """Locate mentions without offsets, and entities whose offsets did not fit, beside those that have offsets.

    Args:
        sentence: with the entities whose offsets were accepted.
        items: mentions without offsets.
        log: gets the issues.
        line: of the sentence.
    """
    placed = [entity for entity in sentence.entities if entity.start is not None]
    loose = [(entity.text, [entity.category]) for entity in sentence.entities if entity.start is None]
    loose += [(item.surface or "", list(map(str, item.categories))) for item in items]
    found = locate_pairs(sentence.text, [(surface, names[0]) for surface, names in loose], placed)
    for (surface, names), entity in zip(loose, found, strict=True):
        report_place((surface, names[0]), entity, log, line)
        if entity is not None:
            placed += [entity._replace(category=name) for name in names]
    if loose:
        sentence.entities = sort_entities(without_repeats(placed, log, line))
