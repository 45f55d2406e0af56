"""The groups of every run: its task, its data, how it trains, where it is tracked, what it starts.

The groups that say what reads a sentence: models, heads, tuning, prompts, decoding.

The groups of what comes after predictions: scores, errors, comparisons, notes, better prompts.

The groups of the data half: statistics, splits, filter, annotators.

The types of every config group: what a composed configuration may hold. The values live in `conf/`, not here.

One dataclass per group; where a group has kinds (`model.kind: bilstm | encoder | causal`), one per kind.
`omniner.config` checks a composed configuration against these and hands the result to the tasks as a typed `Config`.
There are no defaults here on purpose: a value is written once, in its YAML file, beside its unit and its reason.
"""

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


@dataclass
class BiLSTMConfig:
    """`model.kind: bilstm`: a character BiLSTM whose embeddings are learnt from nothing."""

    kind: str
    name: str
    char_dim: int
    bigram_dim: int  # 0 = no bigram embeddings
    min_count: int  # characters and bigrams seen less often in train become [UNK]
    hidden: int  # per direction
    layers: int
    members: int  # BiLSTMs trained side by side under one head; their scores are averaged
    embedding_dropout: float
    dropout: float
    unk_dropout: float  # share of characters hidden as [UNK] in training
    bigram_dropout: float  # share of bigrams hidden likewise
    entity_replacement: float  # share of training mentions exchanged for others of their category, anew in each epoch
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    recipe: dict[str, Any]  # what `conf/trainer` takes from the model: epochs, schedule and the like


@dataclass
class EncoderConfig:
    """`model.kind: encoder`: a BERT-style encoder, pretrained or (for tests and first runs) random and tiny."""

    kind: str
    name: str
    path: str | None  # hub name or local folder; null = random weights, built from `architecture`
    architecture: dict[str, Any]  # transformers config values of the random model; empty when pretrained
    dropout: float  # before the head
    entity_replacement: float  # share of training mentions exchanged for others of their category, anew in each epoch
    learning_rate: float  # encoder
    head_learning_rate: float
    weight_decay: float
    recipe: dict[str, Any]  # what `conf/trainer` takes from the model: epochs, schedule and the like


@dataclass
class CausalConfig:
    """`model.kind: causal`: a language model that writes the entities of a sentence as JSON."""

    kind: str
    name: str
    path: str | None  # hub name or local folder; null = random weights, built from `architecture`
    architecture: dict[str, Any]  # transformers config values of the random model; empty when pretrained
    vocabulary: int  # most entries of the tokenizer that is built for a random model; 0 when pretrained
    chat_template: str | None  # Jinja; null = the tokenizer's own
    entity_replacement: float  # share of training mentions exchanged for others of their category, anew in each epoch
    learning_rate: dict[str, float]  # by `tuning.method`
    weight_decay: float
    recipe: dict[str, Any]  # what `conf/trainer` takes from the model: epochs, schedule and the like


@dataclass
class HeadConfig:
    """`conf/head`: what turns character states into entities."""

    kind: str  # auto | softmax | crf | span; auto becomes none for a causal model
    label_smoothing: float  # softmax only
    max_span: int  # span only: longest entity it can find, in characters
    biaffine_dim: int  # span only
    negative_weight: float  # span only: weight of cells without an entity


@dataclass
class TuningConfig:
    """`conf/tuning`: which weights of a causal model learn, and how a step is computed."""

    method: str  # auto | full | lora | qlora
    rank: int  # LoRA
    alpha: int  # LoRA: the update is scaled by alpha / rank
    dropout: float  # LoRA; drawn once for the shared prefix
    targets: list[str]  # LoRA: names of linear layers; [all-linear] = every one but the output
    double_quantization: bool  # QLoRA: quantise the nf4 constants as well
    optimizer: str  # auto | adamw | adamw_8bit
    gradient_checkpointing: bool
    attention: str  # auto | masked | cascade | flash | flex
    pack_tokens: int  # most tokens of a pack: the prefix once, then sentences with their answers


@dataclass
class PromptConfig:
    """`conf/prompt`: what a causal model is told. Texts by language; `{categories}`, `{examples}`, `{errors}` in them
    are filled in once, `{sentence}` for each sentence."""

    name: str
    version: str
    language: str  # zh | en
    answer: str  # official | compact
    system: dict[str, str]
    instruction: dict[str, str]
    input: dict[str, str]
    errors: dict[str, str]  # text of `{errors}`: frequent errors and their corrections
    examples: int  # sentences of train shown with their answers
    seed: int  # of the choice of examples
    from_run: str | None  # `{errors}` are those that a run of task=guide found; null = the text of `errors`
    lessons: list[int]  # numbers of the run's lessons that may stand there, 1 = the largest cluster; empty = all
    corrections: int  # examples with their corrections shown of a lesson
    max_tokens: int  # of `{errors}` from a run; characters where the model's tokenizer is not at hand


@dataclass
class DecodingConfig:
    """`conf/decoding`: how a causal model's answers are made."""

    kind: str  # free | guided
    engine: str  # hf | openai
    max_new_tokens: int
    slots: int  # sentences that are decoded side by side (hf)
    temperature: float  # 0 = greedy
    top_p: float
    url: str | None  # openai: where the server is, with its /v1
    model: str | None  # openai: the model's name there; null = the only one it has
    api_key_env: str  # openai: environment variable that holds the key
    concurrency: int  # openai: requests under way at once
    timeout: float  # openai: seconds for one request
    retries: int  # openai: further attempts after a failure that may pass
    structured: str  # openai, guided: none | json_schema | vllm


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

    @property
    def llm(self) -> CausalConfig | None:
        """The causal language model; None where the model is a tagger."""
        return self.model if isinstance(self.model, CausalConfig) else None
