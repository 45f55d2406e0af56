"""The types of every config group: what a composed configuration may hold. The values live in `conf/`, not here.

One dataclass per group; where a group has kinds (`model.kind: bilstm | encoder | causal`), one per kind.
`omniner.config` checks a composed configuration against these and hands the result to the tasks as a typed `Config`.
There are no defaults here on purpose: a value is written once, in its YAML file, beside its unit and its reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from omniner.schema.analysis import CompareConfig, ErrtaConfig, GuideConfig, MetricsConfig, SearchConfig, TeacherConfig
from omniner.schema.curation import AdjudicateConfig, AgreementConfig, FilterConfig, SplitConfig, StatsConfig
from omniner.schema.models import (
    BiLSTMConfig,
    CausalConfig,
    DecodingConfig,
    EncoderConfig,
    HeadConfig,
    PromptConfig,
    TuningConfig,
)
from omniner.schema.runs import ChildrenConfig, DataConfig, EncodingConfig, TaskConfig, TrackingConfig, TrainerConfig

__all__ = [
    "AdjudicateConfig",
    "AgreementConfig",
    "BiLSTMConfig",
    "CausalConfig",
    "ChildrenConfig",
    "CompareConfig",
    "Config",
    "DataConfig",
    "DecodingConfig",
    "EncoderConfig",
    "EncodingConfig",
    "ErrtaConfig",
    "FilterConfig",
    "GuideConfig",
    "HeadConfig",
    "MetricsConfig",
    "PromptConfig",
    "SearchConfig",
    "SplitConfig",
    "StatsConfig",
    "TaskConfig",
    "TeacherConfig",
    "TrackingConfig",
    "TrainerConfig",
    "TuningConfig",
]


@dataclass
class Config:
    """A whole configuration, checked."""

    task: TaskConfig
    model: BiLSTMConfig | EncoderConfig | CausalConfig
    head: HeadConfig
    tuning: TuningConfig
    prompt: PromptConfig
    decoding: DecodingConfig
    data: DataConfig
    encoding: EncodingConfig
    trainer: TrainerConfig
    metrics: MetricsConfig
    errta: ErrtaConfig
    compare: CompareConfig
    adjudicate: AdjudicateConfig
    agreement: AgreementConfig
    guide: GuideConfig
    stats: StatsConfig
    split: SplitConfig
    filter: FilterConfig
    search: SearchConfig
    children: ChildrenConfig
    teacher: TeacherConfig
    tracking: TrackingConfig
    name: str  # of the run; auto = from its parts
    seed: int
    output_dir: str | None  # null = outputs/<name>-<time>
    resume: str  # auto | never | a folder of an interrupted run
    predictions: str | None  # task=score: the predictions file
    gold: str | None  # task=score: gold beside it; null = the file's own labels or the data config
    runs: list[str]  # task=compare: the runs; the first is the baseline
    corpora: list[str]  # task=stats: choices of conf/data, files or folders; "name=path" gives a name; empty = `data`
    annotators: list[str]  # task=adjudicate, agreement, compare: a file of each annotator; "name=path" gives a name
    practice: str | None  # task=adjudicate: gold of the sentences on which annotators qualify
    expert: str | None  # task=adjudicate: the expert's answers to an earlier queue
    run: str | None  # task=guide: the run whose errors are explained
    checkpoint: str | None  # task=predict: folder or .ckpt of a trained run
    # task=predict: sentences to tag; null = the report split; task=convert: what to convert;
    # task=split, filter: the corpus; null = all splits of `data`
    input: str | None
    output: str | None  # task=convert: the file or folder to write
    to: str  # task=convert: auto | llama | merged | generated | alpaca | a format of data.format
