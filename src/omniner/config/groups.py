"""Define every key of a configuration: its type, its allowed values, and its meaning.

There is one dataclass per group, with a line under each field that gives its meaning and unit; a group with kinds
(`model.kind: bilstm | encoder | causal`) has one dataclass per kind. `Config` combines them: its fields define the
sections, their order and their kinds. `omniner.config.validate` checks a composed configuration against these types,
and `docs/configuration.md` is generated from them.

A new key is a field here, and a value in the group's first file in `conf/`, with a comment on its reason. A field has a
default only if configurations of older runs lack the key, so that these can still be read: the value in `conf/`, or
(`min_steps`) what such a run did. A test compares the two.
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
    ONE_OR_MORE,
    Fraction,
    Group,
    Kind,
    NonNegativeInt,
    OneOf,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Share,
    for_each,
)
from omniner.registry import FORMATS, TASKS, TEACHERS, writable_formats

TaskName = Annotated[str, OneOf(lambda: TASKS)]
TeacherName = Annotated[str, OneOf(lambda: ("none", *TEACHERS))]
CorpusFormat = Annotated[str, OneOf(lambda: ("auto", *FORMATS, "synthetic"))]
_CONVERSIONS = ("auto", "llama", "safetensors", "merged", "serve", "generated")  # beside the formats of corpora
Conversion = Annotated[str, OneOf(lambda: (*_CONVERSIONS, *writable_formats()))]
Together = Literal["auto", "texts", "mentions", "posts"]


@dataclass
class TaskConfig(Group):
    """The task of the run."""

    name: TaskName
    """The task."""


@dataclass
class DataConfig(Group):
    """One corpus, and how its splits are made."""

    name: str
    """Name in run names and reports."""
    format: CorpusFormat
    """Format of the files; auto = detected; synthetic = generated sentences, no files. A format that differs from that
    of the choice in conf/data also applies to the files of input, gold, annotators and corpora."""
    root: str | None
    """Folder of the files; null for generated data."""
    source: str
    """Where the files are published; shown when they are missing."""
    files: dict[str, list[str]]
    """Split -> file names under `root`, read in this order."""
    scheme: Literal["auto", "bio", "bioes", "bmes", "bios", "iob1", "io"]
    """CoNLL: the tagging scheme; auto = the one that fits the tags; iob1 = entities start with I; io = tags are bare
    categories."""
    separator: Literal["auto", "tab", "space"]
    """CoNLL: separator of the columns."""
    glued_positions: bool | None
    """CoNLL: each character is followed by its position in the word, one or two digits, as in the second Weibo release;
    null = detected."""
    joiner: str | None
    """Text between tokens, for formats without texts: empty for Chinese, a space for English; null = detected when
    reading, empty when writing."""
    taxonomy: str
    """Allowed categories: flat = those found in the files; omniner2025 = only the official 90; or a file of your own
    with one category per line, or a primary and a secondary category per line, separated by a comma or a tab."""
    report: Literal["test", "dev"]
    """The published split that scores are reported on; dev if the labels of test are not published. The program then
    uses it as `test`. The group `report` is about pages."""
    dev_from_train: Share
    """Share of train that is held out to choose the checkpoint; 0 = use dev."""
    on_issue: Literal["keep", "fail"]
    """keep = continue and list every issue in the run's folder; fail = stop if there is one."""
    size: dict[str, NonNegativeInt]
    """Generated data: split -> number of sentences."""
    seed: int
    """Seed of generated sentences, `limit` and `dev_from_train`."""
    # These have defaults because the configurations of older runs lack them.
    max_issues: Fraction = 0.5
    """Maximum share of a file's sentences, or of its entities, that may be lost while reading; above it the run stops.
    Below 1 the run also stops if reading ends with more than a tenth of a file left."""
    offsets: Literal["auto", "half_open", "inclusive", "utf16"] = "auto"
    """Meaning of an entity's offsets: half_open = code points, exclusive end; inclusive = code points, inclusive end;
    utf16 = UTF-16 units, as browsers count (an emoji is two); auto = detected."""
    tag_column: PositiveInt | None = None
    """CoNLL: the column of the tags, counted from 1; null = detected."""
    annotator: str | None = None
    """Exports with several annotators: read only this one's labels, by id, name or e-mail (`completed_by` in Label
    Studio, `user` in doccano); null = the ground truth, otherwise the first annotation of each sentence."""
    definitions: dict[str, str] = field(default_factory=dict)
    """Category -> a short definition, used by `prompt.definitions`."""
    limit: Annotated[dict[str, NonNegativeInt], for_each("train", "dev", "test")] = field(default_factory=dict)
    """Split -> maximum number of sentences, sampled by post and seed; a single number applies to train, dev and test; 0
    or nothing = all."""
    from_memory: dict[str, str] = field(default_factory=dict)
    """Split -> sha256 that its one file must have. `omniner.train` sets it for sentences that a program gives, and
    writes them to `from_memory/` in the run's folder; runs with the same digests are the same, whatever `root` is."""


@dataclass
class MetricsConfig(Group):
    """How predictions are scored."""

    unit: Literal["auto", "pair", "span"]
    """Unit of the main scores: pair = distinct (surface, category) of a sentence, as in the paper; span = mentions by
    position; auto = span if all gold entities have offsets, otherwise pair. Scores in both units are always
    computed."""
    profile: Literal["own", "official"]
    """official = parse and count as the scripts of the OmniNER2025 paper do; own = OmniNER's own rules."""
    on_parse_failure: Literal["empty", "drop"]
    """Unreadable answers: empty = count as an answer without entities; drop = exclude them and their gold."""
    bootstrap: NonNegativeInt
    """Bootstrap resamples over posts for the confidence intervals; 0 = no intervals."""
    confidence: Share
    """Confidence level of the intervals."""
    seed: NonNegativeInt
    """Seed of the resamples."""


@dataclass
class ErrtaConfig(Group):
    """How errors are sorted by type."""

    mode: Literal["auto", "official", "span"]
    """official = the five types and the rules of the paper; span = optimal matching by position; auto = span if all
    gold entities have offsets (and `metrics.profile` is own), otherwise official."""
    examples: NonNegativeInt
    """Errors of each type shown in the tables and the report; the report shows at least one for each cell of its heat
    maps; 0 = none."""
    top: NonNegativeInt
    """Rows of the tables of frequent confusions."""


@dataclass
class CompareConfig(Group):
    """How the differences between runs are tested and shown."""

    resamples: PositiveInt
    """Resamples of the paired bootstrap over posts, for the intervals of the differences."""
    permutations: PositiveInt
    """Permutations of the approximate randomisation over posts; the smallest possible p-value is 1 / (permutations +
    1)."""
    confidence: Share
    """Confidence level of the intervals."""
    alpha: Share
    """Significance level: differences with a smaller p-value are called significant."""
    seed: NonNegativeInt
    """Seed of resamples and permutations."""
    examples: NonNegativeInt
    """Changed sentences per run and direction shown on the page; the table of flips lists all."""


@dataclass
class AdjudicateConfig(Group):
    """Which annotators take part in the vote, and which sentences the expert gets."""

    measure: Literal["f1", "accuracy"]
    """Measure on the practice sentences; accuracy = share of sentences without any mistake."""
    qualify: Share
    """Share that the measure must exceed for an annotator to take part."""
    unqualified: Literal["drop", "fail"]
    """Annotators who do not qualify: drop = report them and leave them out of the vote; fail = stop."""
    review: Literal["undecided", "disputed"] = "undecided"
    """Sentences for the expert: undecided = those that the vote does not decide; disputed = all that are not unanimous,
    as in the OmniNER2025 paper, with the result of the vote as a proposal."""


@dataclass
class AgreementConfig(Group):
    """How the annotators' agreement is computed, and how much of it is listed."""

    bootstrap: NonNegativeInt
    """Resamples over posts for the intervals; 0 = none."""
    confidence: Share
    """Confidence level of the intervals."""
    seed: NonNegativeInt
    """Seed of the resamples."""
    top: PositiveInt
    """Rows of the tables of suggestions and of disputed surfaces."""


@dataclass
class GuideConfig(Group):
    """Which errors get notes, and how many."""

    split: Literal["dev", "train", "test"]
    """Split whose errors are explained; test only with `allow_test`."""
    allow_test: bool
    """true = allow `split: test`, and mark the run and every prompt made from it."""
    clusters: PositiveInt
    """Number of clusters that get a note, the largest first; a teacher is asked once for each."""
    min_errors: PositiveInt
    """Minimum number of errors of a cluster that gets a note."""
    examples: PositiveInt
    """Errors shown per cluster, the most frequent surfaces first."""
    surfaces: PositiveInt
    """Surfaces per cluster that are counted in train, the most frequent first."""
    suspects: NonNegativeInt
    """Suspected annotation errors to show; a teacher is asked once for each; 0 = none."""
    language: Language
    """Language of a teacher's notes and of prompts made from them; counted notes are in both languages."""
    # These have defaults because the configurations of older runs lack them.
    trials: NonNegativeInt = 0
    """Number of sentences with errors of a cluster (at most half of them), and of sentences without errors, on which
    the counted note and each rule of the teacher are tried, one at a time in the prompt that `prompt` names; lessons
    are made without these sentences. A rule becomes the note if it makes the fewest errors on one half and fewer than
    the counted note on the other. Each sentence costs one answer of the untuned model or server per note; 0 = no
    trials: a teacher's first rule becomes the note."""
    controls: NonNegativeInt = 5
    """Number of control labels: unusual labels that the model predicts, too, mixed into the teacher's questions about
    suspected labels. If it judges three or more and calls at least half of them wrong, its verdicts are ignored; 0 =
    none."""


@dataclass
class StatsConfig(Group):
    """How corpora are checked, and how much is listed."""

    near: PositiveShare
    """Minimum Jaccard similarity of the character n-grams of near duplicates."""
    ngram: PositiveInt
    """Length of these n-grams in characters."""
    candidates: NonNegativeInt
    """Maximum number of sentence pairs compared for near duplicates; 0 = none."""
    rare: NonNegativeInt
    """Categories with fewer mentions in train count as rare."""
    top: PositiveInt
    """Rows of the tables of surfaces, duplicates and outliers."""
    warn: dict[str, Share]
    """Check -> share above which it warns; the value of a check without a limit is only reported."""
    fail: dict[str, Share]
    """Check -> share above which it fails."""
    exit_on: Literal["fail", "warn", "never"] = "fail"
    """When the command ends with exit status 1: fail = if a check fails; warn = if a check fails or warns; never."""


@dataclass
class ReportConfig(Group):
    """How results are presented."""

    language: Literal["auto", "zh", "en"] = "auto"
    """Language of pages and figures; auto = that of the sentences. Terminal, tables and Markdown are in English."""


@dataclass
class ConvertConfig(Group):
    """How task=convert writes columns (to=conll)."""

    scheme: Literal["bioes", "bio", "bmes", "bios"] = "bioes"
    """Tagging scheme of the output; `data.scheme` is that of the input."""
    separator: Literal["tab", "space"] = "tab"
    """Separator between a token and its tag."""


@dataclass
class SplitConfig(Group):
    """How a corpus is divided into train, dev and test."""

    shares: dict[str, Share]
    """Split -> share of the sentences; the shares add up to 1; 0 = no such split."""
    together: Together
    """What must stay in one split: texts = posts that share a sentence; mentions = posts that share a sentence with
    mentions; posts = each post; auto = the first of these whose groups all fit into the smallest split."""
    seed: int
    """Seed of the assignment of posts."""


@dataclass
class FilterConfig(Group):
    """Which sentences are too easy to keep."""

    folds: PositiveInt
    """Number of folds, divided by post; each fold trains a model that predicts the others, so a sentence gets folds - 1
    predictions."""
    dev_from_train: PositiveShare
    """Share of a fold that is held out to choose its model's checkpoint."""
    min_mentions: PositiveInt
    """Categories with fewer mentions among the kept sentences are removed with their entities; 1 = no entity is
    removed."""
    together: Together
    """What must stay in one fold, as in `split`."""
    seed: int
    """Seed of the folds."""


@dataclass
class SearchConfig(Group):
    """Which variants of a prompt are tried on dev, and when the worse ones are dropped."""

    train: bool
    """false = the model or the server answers without training; true = a model is tuned with each variant."""
    rungs: list[NonNegativeInt]
    """Dev sentences (with `train`: training steps) after which the worse variants are dropped; 0 = all."""
    sentences: NonNegativeInt
    """Dev sentences used for the search, in whole posts; 0 = all."""
    keep: Share
    """Share of the variants that survive a rung; a variant that is significantly worse than the best never does."""
    spare: NonNegativeInt
    """Number of further variants that survive if they are not significantly worse than the best."""
    largest: list[PositiveInt]
    """Variants with the n largest lessons, for each n."""
    types: bool
    """true = also one variant per error type, with the lessons about that type."""
    random: NonNegativeInt
    """Number of variants with random subsets of the lessons; larger clusters are drawn more often."""
    corrections: list[NonNegativeInt]
    """Each variant is tried with these numbers of corrected examples per lesson."""
    examples: list[NonNegativeInt]
    """Each variant is also tried with these numbers of training sentences (prompt=errta_fewshot); empty =
    `prompt.examples`."""
    held_out: PositiveShare
    """With `train`: share of train that is held out to choose checkpoints, so that dev only compares variants."""
    seed: int
    """Seed of the random subsets and of the order of sentences."""


@dataclass
class PruneConfig(Group):
    """Which runs task=prune removes."""

    status: list[Literal["failed", "killed"]] = field(default_factory=lambda: ["failed", "killed"])
    """Status of the runs in `outputs` to remove; runs that a later command continued stay."""
    unnamed: bool = False
    """true = also remove finished runs with a default name."""
    ask: bool = True
    """false = remove without confirmation."""


@dataclass
class ChildrenConfig(Group):
    """Runs started by task=filter and task=search, and the GPUs of runs started by a sweep."""

    parallel: NonNegativeInt
    """Children of a run that run at the same time; 0 = one per group of `gpus` GPUs, one on a machine without GPUs."""
    gpus: NonNegativeInt
    """GPUs reserved for each child; 0 = each child sees all GPUs of the machine."""


@dataclass
class TeacherConfig(Group):
    """Who explains errors (task=guide): a model, or the author of a file of answers."""

    kind: TeacherName
    """Kind of teacher, as in the choices above; none = no teacher: notes are facts counted in train."""
    url: str | None
    """openai: base address of the server, including /v1."""
    model: str | None
    """openai: name of the model on the server; null = its only model. file: name of the person or model that answered;
    null = the file's name."""
    api_key_env: str
    """openai: environment variable that holds the API key; may be unset for a local server."""
    concurrency: PositiveInt
    """openai: concurrent requests."""
    timeout: PositiveFloat
    """openai: time limit of a request, in seconds."""
    retries: NonNegativeInt
    """openai: retries after a transient failure."""
    structured: Literal["none", "json_schema"]
    """json_schema = answers are constrained to a JSON schema, by the server or by llguidance; none = unconstrained."""
    path: str | None
    """hf: hub name or local folder."""
    slots: PositiveInt
    """hf: questions answered in parallel."""
    max_new_tokens: PositiveInt
    """Maximum tokens of an answer."""
    max_requests: PositiveInt
    """Maximum number of requests of a run, retries included; cached answers do not count."""
    cache: str
    """Folder with cached answers, shared by all runs: the same question is asked only once."""
    answers: PositiveInt = 1  # configurations of older runs lack it
    """Rules asked for per cluster, in one question; with several, `guide.trials` finds the best one."""
    file: str | None = None
    """file: JSON lines with `id` and `answer`, such as a filled-in questions.jsonl; null = only write the questions."""


@dataclass
class TrackingConfig(Group):
    """Where runs are tracked."""

    kind: Literal["off", "local", "server"]
    """local = a SQLite store on this machine; server = a shared MLflow server."""
    uri: str | None
    """server: its address, http://host:port."""
    folder: str
    """local: folder of mlflow.db and artifacts/, relative to the current directory; not on a network file system. For
    both kinds, its subfolder unsent/ records which runs have unsent records."""
    experiment: str
    """Name of the MLflow experiment."""
    system_metrics: bool
    """Record CPU, memory and GPU every second (every minute after five minutes); takes about 0.3 % of a core."""
    log_model: bool
    """Store the model in MLflow (as pyfunc); it is as large as the checkpoint."""
    wait: NonNegativeInt
    """Seconds that a run waits at its end for an unavailable store; task=sync or a later run sends the rest."""
    register: str | None = None
    """Name in MLflow's model registry that gets the trained model as a new version; null = none. Implies
    `log_model`."""
    port: PositiveInt = 5000
    """local: port of the UI that task=ui opens, or the next free one."""


@dataclass
class Config(Group):
    """A complete configuration."""

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
    """Name of the run; auto = model-head-data, model-prompt-tuning-data, or the task and its inputs."""
    seed: NonNegativeInt
    """Seed of weights, batches and dropout; the corpus has its own seed, `data.seed`."""
    output_dir: str | None
    """Folder of the run; null = `outputs/<name>-<time>`."""
    resume: str
    """auto = continue an unfinished run with the same configuration; never = start over, even if `output_dir` holds an
    unfinished run of another command; or the folder of an unfinished run to continue."""
    overwrite: bool
    """true = replace what `output_dir` or `output` names, even if another command made it or it is the task's input."""
    predictions: str | None
    """task=score: file of predictions: OmniNER's predictions.jsonl, LLaMA-Factory's generated_predictions.jsonl, ..."""
    gold: str | None
    """task=score, compare, agreement, convert (to=generated): file of gold sentences; null = in the predictions file,
    or gold.jsonl beside it."""
    runs: list[str]
    """task=compare: run ids, names, folders (of a sweep: all its runs) or predictions files, the baseline first;
    "name=path" gives a name."""
    corpora: list[str]
    """task=stats: choices of conf/data, files or folders; "name=path" gives a name; empty = the corpus of `data`."""
    annotators: list[str]
    """task=adjudicate, agreement, compare: one file of labelled sentences per annotator, or one export of Label Studio
    in which all of them are found; "name=path" gives a name."""
    practice: str | None
    """task=adjudicate: gold of the practice sentences that decide who takes part; null = all annotators do."""
    expert: str | None
    """task=adjudicate: the expert's answers to queue.json: Label Studio's JSON export, or any corpus file."""
    run: str | None
    """task=guide: id, name or folder of the run whose errors are explained."""
    checkpoint: str | None
    """task=predict, chat, convert (to=merged, serve, label_studio): a run (folder, name or id) or its checkpoint; null
    = an untuned causal model, or a server."""
    text: Annotated[list[str], ONE_OR_MORE]
    """task=predict: sentences to tag, instead of a file."""
    input: str | None
    """task=predict: file of sentences, - = lines of standard input, null = the reported split of `data`; task=convert:
    what to convert; task=split, filter: the corpus, null = published train, dev and test of `data`."""
    output: str | None
    """task=convert: file or folder to write; task=split, filter: folder for the corpus, null = in the run's folder."""
    to: Conversion
    """task=convert: llama = a checkpoint in the Llama layout; safetensors = a GGUF file or folder as a folder that
    loads in seconds; merged = adapters merged into their weights; serve = print the command that serves a model with
    vLLM; generated = predictions in LLaMA-Factory's format; or a corpus format; auto = safetensors for a GGUF file,
    llama for a checkpoint folder."""
    report: ReportConfig = field(default_factory=ReportConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    convert: ConvertConfig = field(default_factory=ConvertConfig)

    @property
    def llm(self) -> CausalConfig | None:
        """The causal language model; None if the model is a tagger."""
        return self.model if isinstance(self.model, CausalConfig) else None
