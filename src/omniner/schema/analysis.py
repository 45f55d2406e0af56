"""The groups of what comes after predictions: scores, errors, comparisons, notes, better prompts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class MetricsConfig:
    """`metrics`: what counts as right and how it is averaged."""

    unit: str  # auto | pair | span
    profile: str  # own | official
    on_parse_failure: str  # empty | drop
    bootstrap: int  # resamples for the confidence intervals; 0 = none
    confidence: float  # of the intervals, e.g. 0.95
    seed: int


@dataclass
class ErrtaConfig:
    """`errta`: how errors are sorted."""

    mode: str  # auto | official | span
    examples: int  # examples kept per error type
    top: int  # rows of the tables of most frequent confusions


@dataclass
class CompareConfig:
    """`compare`: how the differences between runs are tested and shown."""

    resamples: int  # of the paired bootstrap
    permutations: int  # of the approximate randomisation
    confidence: float  # of the intervals
    alpha: float  # a difference with a smaller p-value is called significant
    seed: int
    examples: int  # changed sentences per run and direction in the page and in the Markdown


@dataclass
class GuideConfig:
    """`guide`: which errors become notes, and how many."""

    split: str  # dev | train | test; test only with allow_test
    allow_test: bool
    clusters: int  # largest clusters of errors that get a note
    min_errors: int  # smaller clusters get none
    examples: int  # errors shown of each cluster
    surfaces: int  # most frequent surfaces of a cluster that are counted in train
    suspects: int  # suspected annotation errors that are shown and asked about; 0 = none
    language: str  # zh | en: of a teacher's notes; counted notes have both


@dataclass
class TeacherConfig:
    """`conf/teacher`: who explains errors."""

    kind: str  # none | openai | hf
    url: str | None  # openai: where the server is, with its /v1
    model: str | None  # openai: the model's name there; null = the only one it has
    api_key_env: str  # openai: environment variable that holds the key
    concurrency: int  # openai: requests under way at once
    timeout: float  # openai: seconds for one request
    retries: int  # openai: further attempts after a failure that may pass
    structured: str  # openai: none | json_schema
    path: str | None  # hf: hub name or local folder
    slots: int  # hf: questions that are answered side by side
    max_new_tokens: int
    max_requests: int  # most questions put to it in one run, repeated ones included
    cache: str  # folder of answers; shared by all runs


@dataclass
class SearchConfig:
    """`search`: which variants of a prompt are tried, and how they are compared."""

    train: bool  # whether a model is tuned to each variant
    rungs: list[int]  # sentences answered, or steps trained, after which the worse variants go; 0 = all there are
    sentences: int  # of dev that compare variants; 0 = all
    keep: float  # share of the variants that goes on after a rung
    spare: int  # further ones that go on if they cannot be told apart from the best
    largest: list[int]  # how many of the largest lessons
    types: bool  # whether the lessons on each type of error alone
    random: int  # random subsets of the lessons
    corrections: list[int]  # examples per lesson
    examples: list[int]  # sentences of train; empty = as the prompt has it
    held_out: float  # share of train that chooses checkpoints
    seed: int
