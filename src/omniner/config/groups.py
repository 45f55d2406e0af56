"""Every key of a configuration: its type, the values it may take, and what it means, in one place.

One dataclass per group, with a line under each field that says what it is and in what unit; where a group has kinds
(`model.kind: bilstm | encoder | causal`), one dataclass per kind. `Config` is all of them together: which sections
there are, their order and their kinds follow from its fields. `omniner.config.validate` holds a composed configuration
against these types, and `docs/configuration.md` is made of them.

A new key is a field here, and a value in the group's first file in `conf/`, beside its reason. A field has a default
only where configurations of older runs lack the key, and must open all the same: the value of `conf/`, or (`min_steps`)
what such a run did. A test holds them together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from omniner.config.model_groups import (
    BiLSTMConfig,
    CausalConfig,
    DecodingConfig,
    EncoderConfig,
    EncodingConfig,
    HeadConfig,
    Language,
    PromptConfig,
    TrainerConfig,
    TuningConfig,
)
from omniner.config.validate import (
    ForEach,
    Fraction,
    Group,
    Kind,
    NonNegativeInt,
    OneOf,
    OneOrMore,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Share,
)
from omniner.registry import FORMATS, TASKS, writable_formats

TaskName = Annotated[str, OneOf(lambda: TASKS)]
CorpusFormat = Annotated[str, OneOf(lambda: ("auto", *FORMATS, "synthetic"))]
_CONVERSIONS = ("auto", "llama", "safetensors", "merged", "serve", "generated")  # beside the formats of corpora
Conversion = Annotated[str, OneOf(lambda: (*_CONVERSIONS, *writable_formats()))]
Taxonomy = Literal["omniner2025", "flat"]
Together = Literal["auto", "texts", "mentions", "posts"]


@dataclass
class TaskConfig(Group):
    """What to do."""

    name: TaskName
    """The task."""


@dataclass
class DataConfig(Group):
    """One corpus, and how its splits are made."""

    name: str
    """What run names and reports call it."""
    format: CorpusFormat
    """Format of the files; auto = found from them; synthetic = sentences made on the spot, no files. One that is not
    the choice's own also holds for the files of input, gold, annotators and corpora."""
    root: str | None
    """Folder of the files; null for generated data."""
    source: str
    """Where the files are published: named when they are absent."""
    files: dict[str, list[str]]
    """Split -> file names under `root` that are read one after the other."""
    scheme: Literal["auto", "bio", "bioes", "bmes", "bios", "iob1", "io"]
    """CoNLL: the tagging scheme; iob1 = entities start with I, io = tags are categories alone."""
    separator: Literal["auto", "tab", "space"]
    """CoNLL: what stands between token and tag."""
    glued_positions: bool | None
    """CoNLL: a word position of one or two digits follows each character, as in the second Weibo release; null = found
    from the file."""
    joiner: str | None
    """Put between the tokens of files that have no texts: nothing for Chinese, a space for English; null = found from
    the file, and nothing where such files are written."""
    taxonomy: Taxonomy
    """flat = the categories found in the files; omniner2025 = the official 90 and no others."""
    report: Literal["test", "dev"]
    """Split that is reported on; dev where no test labels are published."""
    dev_from_train: Share
    """Share of train that becomes the split which chooses the checkpoint; 0 = use dev."""
    on_issue: Literal["keep", "fail"]
    """keep = go on and list every issue with the run; fail = stop if there is one."""
    size: dict[str, NonNegativeInt]
    """Generated data: split -> sentences."""
    seed: int
    """Of generated sentences, and of the draw of dev from train."""
    # These have defaults because the configurations of older runs lack them.
    max_issues: Fraction = 0.5
    """Largest share of a file's sentences, or of its entities, that may be lost on reading; with more the run stops."""
    offsets: Literal["auto", "half_open", "inclusive", "utf16"] = "auto"
    """What the two offsets of an entity mean: half_open = code points, the end is behind the last one; inclusive = code
    points, the end is the last one; utf16 = UTF-16 units, as browsers count: an emoji is two; auto = found from the
    file."""
    tag_column: PositiveInt | None = None
    """CoNLL: the column of tags, from 1; null = found from the file."""
    annotator: str | None = None
    """Exports of several annotators: read only what this one labelled, by id, name or e-mail (`completed_by` of Label
    Studio, `user` of doccano); null = the ground truth, else the first of each sentence."""
    definitions: dict[str, str] = field(default_factory=dict)
    """Category -> what belongs to it, in a few words: what `prompt.definitions` tells a causal model."""
    limit: Annotated[dict[str, NonNegativeInt], ForEach("train", "dev", "test")] = field(default_factory=dict)
    """Split -> sentences that are used of it at most, chosen by post and seed: a number alone is for train, dev and
    test; 0 or nothing = all."""


@dataclass
class MetricsConfig(Group):
    """What counts as right, and how it is averaged."""

    unit: Literal["auto", "pair", "span"]
    """What is counted: pair = distinct (surface, category) of a sentence, as in the paper; span = mentions by place;
    auto = span where all gold entities have offsets, whatever is predicted. Scores by both are always there."""
    profile: Literal["own", "official"]
    """official = read and count as the scripts of the OmniNER2025 paper do."""
    on_parse_failure: Literal["empty", "drop"]
    """Unreadable model text is an empty answer, or is left out with its gold."""
    bootstrap: NonNegativeInt
    """Resamples over posts for the confidence intervals; 0 = none."""
    confidence: Share
    """Coverage of the intervals."""
    seed: int
    """Of the resamples: the same file always gets the same interval."""


@dataclass
class ErrtaConfig(Group):
    """How errors are sorted."""

    mode: Literal["auto", "official", "span"]
    """official = the five types and the rules of the paper; span = one optimal matching by place; auto = span where
    all gold entities have offsets."""
    examples: NonNegativeInt
    """Errors of each type that the tables and the report show."""
    top: NonNegativeInt
    """Rows of the tables of frequent confusions."""


@dataclass
class CompareConfig(Group):
    """How the differences between runs are tested and shown."""

    resamples: PositiveInt
    """Of the paired bootstrap over posts: for the intervals of the differences."""
    permutations: PositiveInt
    """Of the approximate randomisation over posts: no p-value can be below 1 / (this + 1)."""
    confidence: Share
    """Coverage of the intervals."""
    alpha: Share
    """A difference with a smaller p-value is called significant."""
    seed: int
    """Of both: the same files always get the same p-values."""
    examples: NonNegativeInt
    """Changed sentences per run and direction that the page shows; the table of flips has all."""


@dataclass
class AdjudicateConfig(Group):
    """Who may annotate."""

    measure: Literal["f1", "accuracy"]
    """What annotators are judged by on the practice sentences; accuracy = sentences without any mistake."""
    qualify: Share
    """Share above which an annotator takes part."""
    unqualified: Literal["drop", "fail"]
    """drop = those who do not are named and left out of the vote."""


@dataclass
class AgreementConfig(Group):
    """What is computed of the annotators' agreement, and how much of it is listed."""

    bootstrap: NonNegativeInt
    """Resamples over posts for the intervals; 0 = none."""
    confidence: Share
    """Coverage of the intervals."""
    seed: int
    """Of the resamples: the same files always get the same intervals."""
    top: PositiveInt
    """Rows of the tables of suggestions and of disputed surfaces."""


@dataclass
class GuideConfig(Group):
    """Which errors become notes, and how many."""

    split: Literal["dev", "train", "test"]
    """Split whose errors are explained; test only with `allow_test`."""
    allow_test: bool
    """true = explain errors on test all the same, and mark the run and every prompt made of it."""
    clusters: PositiveInt
    """Largest clusters of errors that get a note: one question each."""
    min_errors: PositiveInt
    """A cluster with fewer errors gets no note."""
    examples: PositiveInt
    """Errors shown of each cluster: its commonest surfaces first."""
    surfaces: PositiveInt
    """Most frequent surfaces of a cluster that are counted in train."""
    suspects: NonNegativeInt
    """Suspected annotation errors that are shown and asked about, a question each; 0 = none."""
    language: Language
    """Of a teacher's notes, and of prompts made of them; counted notes have both."""


@dataclass
class StatsConfig(Group):
    """What is looked for in corpora, and how much of it is listed."""

    near: PositiveShare
    """Jaccard similarity of character n-grams from which two sentences count as near duplicates."""
    ngram: PositiveInt
    """Characters of such an n-gram."""
    candidates: NonNegativeInt
    """Most pairs of sentences looked at for that; 0 = none."""
    rare: NonNegativeInt
    """Categories with fewer mentions in train are named as rare."""
    top: PositiveInt
    """Rows of the tables of surfaces, duplicates and outliers."""
    warn: dict[str, Share]
    """Check -> share above which it warns; a check without one only tells."""
    fail: dict[str, Share]
    """Check -> share above which it fails."""
    exit_on: Literal["fail", "warn", "never"] = "fail"
    """What ends the command with exit status 1: fail = a failed check; warn = one that warns, too."""


@dataclass
class ReportConfig(Group):
    """How results are told."""

    language: Literal["auto", "zh", "en"] = "auto"
    """Of pages and figures; auto = that of the sentences. Terminal, tables and Markdown are in English."""


@dataclass
class SplitConfig(Group):
    """How a corpus is divided into train, dev and test."""

    shares: dict[str, Share]
    """Split -> share of the sentences; together they are 1; 0 = no such split."""
    together: Together
    """What must not part: texts = posts with an equal sentence; mentions = posts with an equal sentence that has
    mentions; posts = whole posts only; auto = the first of these whose groups all fit into the smallest split."""
    seed: int
    """Of the choice of posts."""


@dataclass
class FilterConfig(Group):
    """Which sentences are too easy to keep."""

    folds: PositiveInt
    """Parts of the corpus by post; each trains a model that predicts the others: folds - 1 opinions of a sentence."""
    dev_from_train: PositiveShare
    """Share of a fold that chooses its model's checkpoint and is not learnt from."""
    min_mentions: PositiveInt
    """A category with fewer mentions among the kept sentences is dropped, with its entities; 1 = empty ones."""
    together: Together
    """What must not part, as in `split`."""
    seed: int
    """Of the folds."""


@dataclass
class SearchConfig(Group):
    """Which variants of a prompt are tried on dev, and when the worse ones go."""

    train: bool
    """false = the model or the server answers as it is; true = a model is tuned to each variant."""
    rungs: list[NonNegativeInt]
    """Sentences of dev answered, or with `train` steps trained, until the worse variants go; 0 = all there are."""
    sentences: NonNegativeInt
    """Of dev that compare variants, whole posts; 0 = all."""
    keep: Share
    """Share of the variants that goes on after a rung; none goes on that is surely worse than the best."""
    spare: NonNegativeInt
    """Further variants that go on, too, where they cannot be told apart from the best."""
    largest: list[PositiveInt]
    """So many of the largest lessons are a variant each."""
    types: bool
    """Whether the lessons on each type of error alone are a variant, too."""
    random: NonNegativeInt
    """Further subsets of the lessons, drawn at random, larger clusters more often."""
    corrections: list[NonNegativeInt]
    """All of these with so many examples per lesson."""
    examples: list[NonNegativeInt]
    """And with so many sentences of train, with prompt=errta_fewshot; none = `prompt.examples` as it is."""
    held_out: PositiveShare
    """train: share of train that chooses each checkpoint, so that dev does nothing but compare variants."""
    seed: int
    """Of the random subsets, and of which sentences come first."""


@dataclass
class PruneConfig(Group):
    """task=prune: which runs are removed."""

    status: list[Literal["failed", "killed"]] = field(default_factory=lambda: ["failed", "killed"])
    """Runs of `outputs` that ended so, and that no command has gone on with."""
    unnamed: bool = False
    """true = finished runs, too, that were given no name."""
    ask: bool = True
    """false = remove without asking."""


@dataclass
class ChildrenConfig(Group):
    """Runs that a run starts (task=filter, task=search), and the GPUs of those that a sweep starts."""

    parallel: NonNegativeInt
    """Of a run's, side by side; 0 = as many as the machine has groups of `gpus` GPUs, one without GPUs."""
    gpus: NonNegativeInt
    """GPUs that each child sees, none that another one uses; 0 = all of the machine."""


@dataclass
class TeacherConfig(Group):
    """Who explains errors."""

    kind: Literal["none", "openai", "hf"]
    """none = nobody, notes are facts counted in train; openai = a server; hf = a model in this process."""
    url: str | None
    """openai: where the server is, with its /v1."""
    model: str | None
    """openai: the model's name there; null = the only one it has."""
    api_key_env: str
    """openai: environment variable that holds the key; may be unset for a local server."""
    concurrency: PositiveInt
    """openai: requests under way at once."""
    timeout: PositiveFloat
    """openai: seconds for one request."""
    retries: NonNegativeInt
    """openai: further attempts after a failure that may pass."""
    structured: Literal["none", "json_schema"]
    """json_schema = the server, or the decoding (llguidance), keeps to the form of answers."""
    path: str | None
    """hf: hub name or local folder."""
    slots: PositiveInt
    """hf: questions that are answered side by side."""
    max_new_tokens: PositiveInt
    """Tokens of an answer at most."""
    max_requests: PositiveInt
    """Questions put to it in one run at most, repeated ones included; answers from the cache are free."""
    cache: str
    """Folder of its answers by content of the question, shared by all runs: the same question is asked once."""


@dataclass
class TrackingConfig(Group):
    """Where runs are kept."""

    kind: Literal["off", "local", "server"]
    """local = a SQLite store on this machine; server = a shared MLflow server."""
    uri: str | None
    """server: its address, http://host:port."""
    folder: str
    """local: holds mlflow.db and artifacts/; relative to the current directory; not on a network file system. Both
    kinds note in unsent/ which runs have records to send."""
    experiment: str
    """Name under which the runs are listed."""
    system_metrics: bool
    """CPU, memory and GPU every second (every minute after five minutes), about 0.3 % of a core."""
    log_model: bool
    """Keep the model with the run as pyfunc: as large as the checkpoint."""
    wait: NonNegativeInt
    """Seconds that the end of a run waits for a store that fails; task=sync, or a later run, sends what is left."""
    register: str | None = None
    """Name in MLflow's registry under which the trained tagger becomes a new version; null = none. The model is then
    kept as with `log_model`."""
    port: PositiveInt = 5000
    """local: port of the UI that task=ui opens; the next one where it is taken."""


@dataclass
class Config(Group):
    """A whole configuration."""

    task: TaskConfig
    model: Annotated[BiLSTMConfig | EncoderConfig | CausalConfig, Kind()]
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
    name: str
    """Of the run; auto = model-head-data, or model-prompt-tuning-data, or what the task is about."""
    seed: int
    """Of weights, batches, dropout; the corpus has its own, `data.seed`."""
    output_dir: str | None
    """Folder of this run; null = outputs/<name>-<time>."""
    resume: str
    """auto = go on with an unfinished run of the same configuration; never; or that run's folder."""
    overwrite: bool
    """true = replace what `output_dir` or `output` names, even if another command made it or it is the task's input."""
    predictions: str | None
    """task=score: predictions.jsonl, or generated_predictions.jsonl of LLaMA-Factory."""
    gold: str | None
    """task=score, compare, agreement: gold sentences; null = those of the predictions file, or gold.jsonl beside it."""
    runs: list[str]
    """task=compare: run ids, names or folders, or predictions files, the baseline first; "name=path" gives a name."""
    corpora: list[str]
    """task=stats: choices of conf/data, files or folders; "name=path" gives a name; none = the corpus of `data`."""
    annotators: list[str]
    """task=adjudicate, agreement, compare: a file of labelled sentences of each; "name=path" gives a name."""
    practice: str | None
    """task=adjudicate: gold of the practice sentences that decide who takes part; null = all do."""
    expert: str | None
    """task=adjudicate: the expert's answers to queue.json: Label Studio's JSON export, or any corpus file."""
    run: str | None
    """task=guide: the run whose errors are explained: run id, run name or run folder."""
    checkpoint: str | None
    """task=predict: a run (folder, name or id) or its checkpoint; null = a causal model as it is, or a server."""
    text: Annotated[list[str], OneOrMore()]
    """task=predict: sentences to tag and show, in place of a file."""
    input: str | None
    """task=predict: a file of sentences, - = lines of standard input, null = the split that `data` reports on;
    task=convert: what to convert; task=split, filter: the corpus, null = published train, dev and test of `data`."""
    output: str | None
    """task=convert: the file or folder to write; task=split, filter: a folder for the corpus, null = in the run's."""
    to: Conversion
    """task=convert: llama = a checkpoint in the Llama layout; safetensors = a GGUF file or folder as one that loads in
    seconds; merged = adapters merged into their weights; serve = the command that serves a model with vLLM is printed;
    generated = predictions as LLaMA-Factory writes them; or a format of corpora; auto = safetensors for a GGUF file,
    llama for a folder with a checkpoint."""
    report: ReportConfig = field(default_factory=ReportConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)

    @property
    def llm(self) -> CausalConfig | None:
        """The causal language model; None where the model is a tagger."""
        return self.model if isinstance(self.model, CausalConfig) else None
