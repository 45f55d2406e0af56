"""The figures of surveyed corpora as plain values: for JSON, and for runs to be compared by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from omniner.analysis.corpora.checks import Surveyed, Verdict
from omniner.analysis.corpora.rows import tokens_of
from omniner.analysis.corpora.tables import Verdicts
from omniner.corpus.stats.mentions import Row


def figures(surveyed: Surveyed) -> dict[str, float]:
    """The main figures of a corpus by name, for runs to be compared by."""
    statistics = surveyed.statistics
    texts, labels = statistics.texts.values(), statistics.labels.values()
    length, mention = statistics.flat.length, statistics.flat.mention_length
    ambiguity = statistics.ambiguity
    total = max(int(ambiguity.mentions.sum()), 1)
    values: dict[str, float] = {
        "documents": statistics.posts,
        "sentences": len(statistics.flat.sentences),
        "labelled": sum(one.labeled for one in labels),
        "characters": sum(one.characters for one in texts),
        "entities": len(statistics.flat.owner),
        "placed": sum(one.placed for one in labels),
        "categories": len(statistics.categories),
        "primaries": len(statistics.primaries),
        "surfaces": len(statistics.flat.surfaces),
        "emoji": sum(one.emoji for one in texts),
        "with_emoji": sum(one.with_emoji for one in texts),
        "ambiguity_bits": float((ambiguity.entropy * ambiguity.mentions).sum() / total),
        "sentence_length": float(length.mean()) if len(length) else 0.0,
        "mention_length": float(mention.mean()) if len(mention) else 0.0,
        "near_candidates": statistics.candidates,
    }
    for name in ("span_distinctiveness", "boundary_distinctiveness"):
        values[name] = sum(getattr(row, name) * row.share for row in statistics.categories)
    if statistics.spaced:
        values["words"] = sum(one.words for one in texts)
    if statistics.near is not None:
        values["near_pairs"] = statistics.near.pairs
    return values


def to_json(corpora: Sequence[Surveyed], verdicts: Verdicts) -> dict[str, Any]:
    """Everything as JSON object; examples are in the tables."""
    return {"corpora": {one.statistics.name: _corpus_json(one, verdicts[one.statistics.name]) for one in corpora}}


def _corpus_json(surveyed: Surveyed, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    statistics = surveyed.statistics
    return {
        "about": surveyed.about,
        "tokens": tokens_of(surveyed),
        **figures(surveyed),
        "splits": {
            split: {**texts._asdict(), **_labels_json(surveyed, split)} for split, texts in statistics.texts.items()
        },
        "seen": {split: seen._asdict() for split, seen in statistics.seen.items()},
        "category_rows": {row.name: _row_json(row, surveyed) for row in statistics.categories},
        "primary_rows": {row.name: _row_json(row, surveyed) for row in statistics.primaries},
        "overlaps": dict(sorted(Counter(overlap.kind for overlap in statistics.overlaps).items())),
        "issues": dict(sorted(Counter(issue.code for issue in surveyed.issues).items())),
        "verdicts": {
            one.check: {"status": one.status, "value": one.value, "found": one.found}
            | ({"limit": one.limit} if math.isfinite(one.limit) else {})
            for one in verdicts
        },
    }


def _labels_json(surveyed: Surveyed, split: str) -> dict[str, Any]:
    labels = surveyed.statistics.labels[split]
    return {name: getattr(labels, name) for name in ("labeled", "bare", "entities", "placed", "categories", "involved")}


def _row_json(row: Row, surveyed: Surveyed) -> dict[str, Any]:
    return {**row._asdict(), "by_split": dict(zip(surveyed.statistics.flat.splits, row.by_split, strict=True))}
