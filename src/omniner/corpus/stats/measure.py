"""Measure one corpus: `measure_corpus` runs the parts of this package in order.

The result, `Statistics`, holds plain values, and examples by number, without a verdict. Figures of labels exclude
sentences whose file gives no labels; figures of texts include all. Cost for 195,568 sentences: see
`experiments/table3_corpora`; most of it is the search for near duplicates.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omniner.config.groups import StatsConfig
from omniner.corpus.stats.flat import Bools, CorpusArrays, Ints, flatten
from omniner.corpus.stats.mentions import (
    Ambiguity,
    AmbiguousSurface,
    CategoryStats,
    Overlap,
    SeenMentions,
    category_rows,
    count_seen,
    find_edge_faults,
    find_overlaps,
    measure_ambiguity,
    measure_distinctiveness,
    most_ambiguous,
    number_primaries,
    overlapping_mentions,
    tokenize,
)
from omniner.corpus.stats.texts import (
    Disagreement,
    NearDuplicateJoin,
    NearRepeats,
    OddCharacter,
    Outlier,
    TextCounts,
    collect_near_repeats,
    count_emoji,
    count_presence,
    count_texts,
    find_disagreements,
    find_empty,
    find_odd_characters,
    find_outliers,
    find_split_posts,
    is_spaced,
)
from omniner.records import Sentence

log = logging.getLogger("omniner")

TRAIN = "train"


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Counts of the labels of one split.

    Attributes:
        labeled: number of labelled sentences, including those without entities.
        bare: number of these without an entity.
        entities: number of entities.
        placed: number of these with offsets.
        categories: number of different categories.
        involved: number of entities that overlap another one.
    """

    labeled: int
    bare: int
    entities: int
    placed: int
    categories: int
    involved: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """The measurements of one corpus; sentences and mentions are given by number.

    Attributes:
        name: of the corpus.
        flat: its arrays.
        spaced: whether tokens are words.
        texts, labels: counts by split.
        categories, primaries: their mentions.
        ambiguity: of each surface.
        surfaces: the most ambiguous ones.
        seen: mentions that train has, by split other than train.
        edges: mentions with white space or punctuation at an end, by kind.
        overlaps: pairs of mentions.
        counts: `(texts, splits)` how often each text occurs in each split.
        posts: number of documents of all splits together.
        split_posts: a sentence and the splits of each post that is in several.
        disagreements: texts with different labels.
        disagreeing: number of sentences with such texts.
        candidates: number of pairs that the search for near duplicates examines.
        near: its result; None if there are too many candidates.
        odd: characters that nobody types.
        with_odd, empty: `(N,)` whether a sentence has such characters, has only white space.
        outliers: sentences of unusual length.
        emoji: how often each occurs in the texts.
        seconds: CPU time of each step.
    """

    name: str
    flat: CorpusArrays
    spaced: bool
    texts: dict[str, TextCounts]
    labels: dict[str, LabelCounts]
    categories: list[CategoryStats]
    primaries: list[CategoryStats]
    ambiguity: Ambiguity
    surfaces: list[AmbiguousSurface]
    seen: dict[str, SeenMentions]
    edges: dict[str, Ints]
    overlaps: list[Overlap]
    counts: Ints
    posts: int
    split_posts: list[tuple[int, tuple[int, ...]]]
    disagreements: list[Disagreement]
    disagreeing: int
    candidates: int
    near: NearRepeats | None
    odd: list[OddCharacter]
    with_odd: Bools
    empty: Bools
    outliers: list[Outlier]
    emoji: list[tuple[str, int]]
    seconds: dict[str, float]


class _Stopwatch:
    """CPU seconds of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = now - self._last
        self._last = now


def measure_corpus(name: str, splits: Mapping[str, Sequence[Sentence]], settings: StatsConfig) -> Statistics:
    """Measure a corpus.

    Args:
        name: for reports.
        splits: sentences by split; the others are compared with the one named `train`.
        settings: similarity of near duplicates, lengths of lists.
    """
    watch = _Stopwatch()
    flat = flatten(splits)
    watch.lap("arrays")
    spaced = is_spaced(flat)
    texts = {split: count_texts(flat, number) for number, split in enumerate(flat.splits)}
    odd, with_odd = find_odd_characters(flat)
    watch.lap("texts")
    ambiguity = measure_ambiguity(flat.surface, flat.category, len(flat.surfaces), len(flat.categories))
    categories, primaries = _rows(flat, spaced, ambiguity)
    found = find_overlaps(flat)
    watch.lap("mentions")
    counts = count_presence(flat)
    disagreements, disagreeing = find_disagreements(flat)
    posts, split_posts = find_split_posts(flat)
    watch.lap("repeats")
    candidates, similar = _near(flat, counts, settings)
    watch.lap("near")
    return Statistics(
        name=name, flat=flat, spaced=spaced, texts=texts,
        labels=_labels(flat, overlapping_mentions(flat, found)),
        categories=categories, primaries=primaries, ambiguity=ambiguity,
        surfaces=most_ambiguous(flat, ambiguity, settings.top),
        seen=_seen(flat), edges=find_edge_faults(flat),
        overlaps=found, counts=counts, posts=posts, split_posts=split_posts, disagreements=disagreements,
        disagreeing=disagreeing, candidates=candidates, near=similar, odd=odd, with_odd=with_odd,
        empty=find_empty(flat), outliers=find_outliers(flat), emoji=count_emoji(flat),
        seconds=watch.seconds,
    )  # fmt: skip


def _rows(flat: CorpusArrays, spaced: bool, ambiguity: Ambiguity) -> tuple[list[CategoryStats], list[CategoryStats]]:
    """Return the rows of categories and of primaries."""
    tokens = tokenize(flat, spaced)
    spans, bounds = measure_distinctiveness(flat, tokens, flat.category, len(flat.categories))
    categories = category_rows(flat, flat.categories, flat.category, ambiguity, spans, bounds)
    names, group = number_primaries(flat)
    spans, bounds = measure_distinctiveness(flat, tokens, group, len(names))
    coarse = measure_ambiguity(flat.surface, group, len(flat.surfaces), len(names))
    return categories, category_rows(flat, names, group, coarse, spans, bounds)


def _labels(flat: CorpusArrays, involved: Bools) -> dict[str, LabelCounts]:
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


def _seen(flat: CorpusArrays) -> dict[str, SeenMentions]:
    if TRAIN not in flat.splits:
        return {}
    train = flat.splits.index(TRAIN)
    return {split: count_seen(flat, number, train) for number, split in enumerate(flat.splits) if number != train}


def _near(flat: CorpusArrays, counts: Ints, settings: StatsConfig) -> tuple[int, NearRepeats | None]:
    join = NearDuplicateJoin(flat.texts, settings.ngram, settings.near)
    log.info("near duplicates: %d candidates among %d texts", join.candidates, len(flat.texts))
    if join.candidates > settings.candidates:
        return join.candidates, None
    return join.candidates, collect_near_repeats(join.pairs(), counts, settings.top)


def split_pairs(statistics: Statistics) -> list[tuple[int, int]]:
    """Return the pairs of splits that must not share texts: each with train first, then each with earlier ones."""
    splits = statistics.flat.splits
    train = splits.index(TRAIN) if TRAIN in splits else None
    found = [(one, train) for one in range(len(splits)) if train is not None and one != train]
    return found + [
        (one, other) for one in range(len(splits)) for other in range(one) if train is None or train not in (one, other)
    ]


def mentions_in_split(statistics: Statistics, split: str) -> dict[str, int]:
    """Count the mentions of each category in a split."""
    number = statistics.flat.splits.index(split)
    return {row.name: row.by_split[number] for row in statistics.categories}


def labelled_splits(statistics: Statistics) -> list[str]:
    """Return the splits that have labels."""
    return [split for split, labels in statistics.labels.items() if labels.labeled]


def training_split(statistics: Statistics) -> str | None:
    """Return the split that a model learns from: train, or else the only one with labels; None if there is neither."""
    labelled = labelled_splits(statistics)
    if TRAIN in labelled:
        return TRAIN
    return labelled[0] if len(labelled) == 1 else None
