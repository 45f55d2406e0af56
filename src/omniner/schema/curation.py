"""The groups of the data half: statistics, splits, filter, annotators."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StatsConfig:
    """`stats`: what is looked for in corpora, and how much of it is listed."""

    near: float  # Jaccard similarity of character n-grams from which two sentences count as near duplicates
    ngram: int  # characters of such an n-gram
    candidates: int  # most pairs of sentences looked at for that; 0 = do not look
    rare: int  # categories with fewer mentions in train are named as rare
    top: int  # rows of the tables of surfaces, duplicates and outliers
    warn: dict[str, float]  # check -> share above which it warns; see analysis.corpora.checks
    fail: dict[str, float]  # check -> share above which it fails


@dataclass
class SplitConfig:
    """`split`: how a corpus is divided into train, dev and test."""

    shares: dict[str, float]  # split -> share of the sentences; they add up to 1; 0 = no such split
    together: str  # auto | texts | mentions | posts: what must not part besides the sentences of a post
    seed: int


@dataclass
class FilterConfig:
    """`filter`: which sentences are too easy to keep."""

    folds: int  # parts of the corpus; each trains a model that predicts all the others
    dev_from_train: float  # share of a fold that chooses its model's checkpoint
    min_mentions: int  # a category with fewer mentions among the kept sentences is dropped with its entities
    together: str  # auto | texts | mentions | posts, as in `split`
    seed: int  # of the folds


@dataclass
class AdjudicateConfig:
    """`adjudicate`: who may annotate."""

    measure: str  # f1 | accuracy: on the practice sentences
    qualify: float  # annotators must be above this
    unqualified: str  # drop | fail


@dataclass
class AgreementConfig:
    """`agreement`: what is computed of the annotators' agreement, and how much of it is listed."""

    bootstrap: int  # resamples for the intervals; 0 = none
    confidence: float  # of the intervals
    seed: int
    top: int  # rows of the tables of suggestions and disputed surfaces
