"""Made-up runs on the same sentences, right with a known probability, and their counts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from omniner.records import Entity, Prediction, Sentence
from omniner.scoring.resampling import counted_categories, counts_per_post, post_numbers
from omniner.scoring.units import compare_units

NAMES = ("甲_一", "甲_二", "乙_一", "丙")

Outcomes = list[list[Entity | None]]  # what a run says for each gold entity of each sentence


def gold(sentences: int, seed: int, per_post: int = 3) -> list[Sentence]:
    """Sentences of up to four entities, `per_post` to a post."""
    draw = random.Random(seed)
    return [
        Sentence(
            f"s{n}",
            "字" * 20,
            [Entity("字" * 3, draw.choice(NAMES), 4 * k, 4 * k + 3) for k in range(draw.randint(0, 4))],
            f"p{n // per_post}",
        )
        for n in range(sentences)
    ]


def outcomes(
    sentences: Sequence[Sentence], seed: int, right: float, same: Outcomes | None = None, agree: float = 0.0
) -> Outcomes:
    """Each entity is right with probability `right`, otherwise missed or called something else.

    With probability `agree` it is what it is in `same`.
    """
    draw = random.Random(seed)
    found: Outcomes = []
    for n, sentence in enumerate(sentences):
        row: list[Entity | None] = []
        for k, entity in enumerate(sentence.entities):
            if same is not None and draw.random() < agree:
                row.append(same[n][k])
            elif draw.random() < right:
                row.append(entity)
            elif draw.random() < 0.5:
                row.append(None)
            else:
                row.append(entity._replace(category=draw.choice([c for c in NAMES if c != entity.category])))
        found.append(row)
    return found


def predictions(sentences: Sequence[Sentence], said: Outcomes) -> list[Prediction]:
    return [
        Prediction(s.id, [entity for entity in row if entity is not None])
        for s, row in zip(sentences, said, strict=True)
    ]


def tables(
    sentences: Sequence[Sentence], *runs: Sequence[Prediction]
) -> tuple[list[NDArray[np.int32]], list[str], list[int]]:
    """Counts `[posts, 3, categories]` of each run, the categories, the post of each sentence."""
    posts = post_numbers(sentences)
    compared = [compare_units([s.entities for s in sentences], [p.entities for p in run], "span") for run in runs]
    names = counted_categories(compared)
    return [counts_per_post(c, posts, 1 + max(posts), names) for c in compared], names, posts
