"""The groups of every run: its task, its data, how it trains, where it is tracked, what it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class TaskConfig:
    """`conf/task`: what to do."""

    # train | predict | score | compare | check | guide | search | stats | split | filter | adjudicate | agreement |
    # convert
    name: str


@dataclass
class DataConfig:
    """`conf/data`: one corpus and how its splits are made."""

    name: str
    # auto | jsonl | conll | cluener | cmeee | omniner_csv | label_studio | doccano | brat | alpaca | synthetic
    format: str
    root: str | None  # folder of the files; null for generated data
    source: str  # where the files are published; named when they are absent
    files: dict[str, list[str]]  # split -> file names under root that are read one after the other
    scheme: str  # CoNLL only: auto | bio | bioes | bmes | bios
    separator: str  # CoNLL only: auto | tab | space
    glued_positions: bool  # CoNLL only: a word position of 1-2 digits follows each character
    joiner: str  # CoNLL only: put between the tokens of a line ("" for Chinese, " " for English)
    taxonomy: str  # omniner2025 | flat (the categories found in the files)
    report: str  # split that is reported on: test, or dev where no test labels are published
    dev_from_train: float  # share of train that becomes the split which chooses the checkpoint; 0 = use `dev`
    on_issue: str  # keep | fail
    size: dict[str, int]  # generated data only: split -> sentences
    seed: int  # of the generated corpus and of the dev cut


@dataclass
class EncodingConfig:
    """`encoding`: from sentences to tensors."""

    max_length: int  # characters
    on_too_long: str  # fail | skip | truncate


@dataclass
class TrainerConfig:
    """`conf/trainer`: how long, on what, how batches are made."""

    name: str
    accelerator: str  # auto | cpu | gpu
    devices: int  # 0 = all GPUs (one CPU process)
    nodes: int
    strategy: str  # auto | ddp | fsdp
    precision: str  # auto | 32-true | bf16-mixed | bf16-true
    threads: int  # CPU threads per process; 0 = as many as cores, at most OMP_NUM_THREADS
    max_epochs: int
    max_steps: int  # -1 = no limit
    max_minutes: float  # 0 = no limit
    batch_size: int  # sentences of one optimizer step, over all devices
    eval_batch_size: int
    warmup: float  # share of all steps
    schedule: str  # constant | linear | cosine
    gradient_clip: float  # norm; 0 = off
    weight_average: float  # decay of the exponential moving average of the weights; 0 = off
    patience: int  # evaluations without a better dev F1 before stopping; 0 = never
    eval_every: int  # epochs between evaluations on dev
    eval_steps: int  # optimizer steps between evaluations instead; 0 = by epochs
    eval_sample: int  # sentences of dev that are evaluated; 0 = all
    checkpoint_minutes: float  # minutes between saves of last.ckpt within an epoch; 0 = only after evaluations
    callbacks: dict[str, Any]  # name -> `_target_` of further Lightning callbacks


@dataclass
class TrackingConfig:
    """`conf/tracking`: where runs are logged."""

    kind: str  # off | local | server
    uri: str | None  # server only
    folder: str  # local only: holds mlflow.db and artifacts/
    experiment: str
    system_metrics: bool
    log_model: bool


@dataclass
class ChildrenConfig:
    """`children`: how runs that a run starts share the machine."""

    parallel: int  # side by side; 0 = as many as the machine has groups of `gpus` GPUs, one without GPUs
    gpus: int  # GPUs each of them sees; 0 = all
