"""All that is measured of one corpus: `measure` runs the parts of this package in order.

In go the splits of a corpus, out comes a `Statistics`, plain values and examples by number, without a verdict. Figures
of labels leave out sentences whose file gives no labels; figures of texts take in all. Price for 195,568 sentences:
see `experiments/table3_corpora`; most of it is the search for near duplicates.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omniner.config.groups import StatsConfig
from omniner.corpus.stats import mentions
from omniner.corpus.stats import texts as characters
from omniner.corpus.stats.flat import Bools, Flat, Ints, flatten
from omniner.corpus.stats.mentions import Ambiguity, AmbiguousSurface, CategoryStats, Overlap, SeenMentions
from omniner.corpus.stats.texts import Disagreement, NearRepeats, OddCharacter, Outlier, TextCounts
from omniner.records import Sentence

log = logging.getLogger("omniner")

TRAIN = "train"


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Labels of one split."""

    labeled: int  # sentences that have labels, be it none
    bare: int  # of these, sentences without an entity
    entities: int
    placed: int  # entities whose place in the text is known
    categories: int
    involved: int  # entities that lie over another one


@dataclass(frozen=True, slots=True)
class Statistics:
    """One corpus. `near` is None where there were too many candidates; sentences and mentions are named by number."""

    name: str
    flat: Flat
    spaced: bool  # whether tokens are words
    texts: dict[str, TextCounts]  # by split
    labels: dict[str, LabelCounts]
    categories: list[CategoryStats]
    primaries: list[CategoryStats]
    ambiguity: Ambiguity
    surfaces: list[AmbiguousSurface]  # the most ambiguous ones
    seen: dict[str, SeenMentions]  # by split other than train
    edges: dict[str, Ints]  # kind -> mentions
    overlaps: list[Overlap]
    counts: Ints  # (texts, splits)
    posts: int  # documents of all splits together
    split_posts: list[tuple[int, tuple[int, ...]]]
    disagreements: list[Disagreement]
    disagreeing: int  # sentences
    candidates: int
    near: NearRepeats | None
    odd: list[OddCharacter]
    with_odd: Bools
    empty: Bools
    outliers: list[Outlier]
    emoji: list[tuple[str, int]]
    seconds: dict[str, float]  # what took how long, of this process's CPU time


class _Watch:
    """CPU seconds of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def measure_corpus(name: str, splits: Mapping[str, Sequence[Sentence]], settings: StatsConfig) -> Statistics:
    """Measure a corpus.

    Args:
        name: for reports.
        splits: sentences by split; the one called `train` is what others are held against.
        settings: similarity of near duplicates, lengths of lists.
    """
    watch = _Watch()
    flat = flatten(splits)
    watch.lap("arrays")
    spaced = characters.is_spaced(flat)
    texts = {split: characters.count_texts(flat, number) for number, split in enumerate(flat.splits)}
    odd, with_odd = characters.find_odd_characters(flat)
    watch.lap("texts")
    ambiguity = mentions.measure_ambiguity(flat.surface, flat.category, len(flat.surfaces), len(flat.categories))
    categories, primaries = _rows(flat, spaced, ambiguity)
    found = mentions.find_overlaps(flat)
    watch.lap("mentions")
    counts = characters.count_presence(flat)
    disagreements, disagreeing = characters.find_disagreements(flat)
    posts, split_posts = characters.find_split_posts(flat)
    watch.lap("repeats")
    candidates, similar = _near(flat, counts, settings)
    watch.lap("near")
    return Statistics(
        name=name, flat=flat, spaced=spaced, texts=texts,
        labels=_labels(flat, mentions.overlapping_mentions(flat, found)),
        categories=categories, primaries=primaries, ambiguity=ambiguity,
        surfaces=mentions.most_ambiguous(flat, ambiguity, settings.top),
        seen=_seen(flat), edges=mentions.find_edge_faults(flat),
        overlaps=found, counts=counts, posts=posts, split_posts=split_posts, disagreements=disagreements,
        disagreeing=disagreeing, candidates=candidates, near=similar, odd=odd, with_odd=with_odd,
        empty=characters.find_empty(flat), outliers=characters.find_outliers(flat), emoji=characters.count_emoji(flat),
        seconds=watch.seconds,
    )  # fmt: skip


def _rows(flat: Flat, spaced: bool, ambiguity: Ambiguity) -> tuple[list[CategoryStats], list[CategoryStats]]:
    """By category and by primary."""
    tokens = mentions.tokenize(flat, spaced)
    spans, bounds = mentions.measure_distinctiveness(flat, tokens, flat.category, len(flat.categories))
    categories = mentions.category_rows(flat, flat.categories, flat.category, ambiguity, spans, bounds)
    names, group = mentions.number_primaries(flat)
    spans, bounds = mentions.measure_distinctiveness(flat, tokens, group, len(names))
    coarse = mentions.measure_ambiguity(flat.surface, group, len(flat.surfaces), len(names))
    return categories, mentions.category_rows(flat, names, group, coarse, spans, bounds)


def _labels(flat: Flat, involved: Bools) -> dict[str, LabelCounts]:
    found = {}
    held = np.bincount(flat.owner, minlength=len(flat.sentences))
    of = flat.mention_split
    for number, split in enumerate(flat.splits):
        labeled, here = flat.labeled & (flat.split == number), of == number
        found[split] = LabelCounts(
            labeled=int(labeled.sum()),
            bare=int((labeled & (held == 0)).sum()),
            entities=int(here.sum()),
            placed=int((here & flat.placed).sum()),
            categories=len(np.unique(flat.category[here])),
            involved=int((here & involved).sum()),
        )
    return found


def _seen(flat: Flat) -> dict[str, SeenMentions]:
    if TRAIN not in flat.splits:
        return {}
    train = flat.splits.index(TRAIN)
    return {
        split: mentions.count_seen(flat, number, train) for number, split in enumerate(flat.splits) if number != train
    }


def _near(flat: Flat, counts: Ints, settings: StatsConfig) -> tuple[int, NearRepeats | None]:
    join = characters.NearDuplicateJoin(flat.texts, settings.ngram, settings.near)
    log.info("near duplicates: %d candidates among %d texts", join.candidates, len(flat.texts))
    if join.candidates > settings.candidates:
        return join.candidates, None
    return join.candidates, characters.collect_near_repeats(join.pairs(), counts, settings.top)


def split_pairs(statistics: Statistics) -> list[tuple[int, int]]:
    """Splits that must be strangers to each other: each with train first, then each with those before it."""
    splits = statistics.flat.splits
    train = splits.index(TRAIN) if TRAIN in splits else None
    found = [(one, train) for one in range(len(splits)) if train is not None and one != train]
    return found + [
        (one, other) for one in range(len(splits)) for other in range(one) if train is None or train not in (one, other)
    ]


def mentions_in_split(statistics: Statistics, split: str) -> dict[str, int]:
    """Mentions of each category in a split."""
    number = statistics.flat.splits.index(split)
    return {row.name: row.by_split[number] for row in statistics.categories}


def labelled_splits(statistics: Statistics) -> list[str]:
    """The splits that have labels."""
    return [split for split, labels in statistics.labels.items() if labels.labeled]


def training_split(statistics: Statistics) -> str | None:
    """The split that a model learns from: train, or the only one with labels; None where neither is there."""
    labelled = labelled_splits(statistics)
    if TRAIN in labelled:
        return TRAIN
    return labelled[0] if len(labelled) == 1 else None
