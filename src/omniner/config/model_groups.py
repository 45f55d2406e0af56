"""Define the configuration groups of models: model, head, tuning, prompt, decoding, encoding and trainer.

`omniner.config.groups` explains how groups are written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge

from omniner.config.validate import (
    AUTO,
    Fraction,
    Group,
    NonNegativeFloat,
    NonNegativeInt,
    OneOf,
    PositiveFloat,
    PositiveInt,
    Probability,
    Share,
    field_types,
)
from omniner.registry import ENGINES, HEADS

EngineName = Annotated[str, OneOf(lambda: ENGINES)]
HeadKind = Annotated[str, OneOf(lambda: ("auto", "none", *HEADS))]
Language = Literal["zh", "en"]
Method = Literal["full", "lora", "qlora"]
OptimizerName = Literal["adamw", "adamw_8bit"]
WantedOptimizer = Literal["auto", OptimizerName]
MethodName = Annotated[str, OneOf(lambda: get_args(Method))]


@dataclass
class BiLSTMConfig(Group):
    """A character BiLSTM trained from scratch."""

    kind: Literal["bilstm"]
    """The kind of model."""
    name: str
    """Name in run names and reports."""
    char_dim: PositiveInt
    """Dimension of the character embeddings."""
    bigram_dim: NonNegativeInt
    """Dimension of the bigram embeddings, one each for the left and the right neighbour; 0 = none."""
    min_count: PositiveInt
    """Characters and bigrams with fewer occurrences in train become [UNK]."""
    hidden: PositiveInt
    """LSTM units per direction."""
    layers: PositiveInt
    """Number of LSTM layers."""
    members: PositiveInt
    """Number of BiLSTMs trained together under one head, which averages their scores; the cost is proportional."""
    embedding_dropout: Share
    """Dropout rate of the embeddings; the same features are dropped for all characters of a sentence."""
    dropout: Share
    """Dropout rate after each LSTM layer, likewise per sentence."""
    unk_dropout: Share
    """Share of characters replaced by [UNK] in training."""
    bigram_dropout: Share
    """Share of bigrams replaced by [UNK] in training."""
    entity_replacement: Share
    """Share of training mentions replaced by others of the same category, drawn anew in each epoch; 0 = none."""
    learning_rate: PositiveFloat
    """Peak learning rate of embeddings and LSTM."""
    head_learning_rate: PositiveFloat
    """Peak learning rate of the head."""
    weight_decay: NonNegativeFloat
    """Weight decay of AdamW, for the matrices of embeddings and LSTM."""
    recipe: Recipe
    """Defaults of `trainer` for this model: epochs, schedule and others."""


@dataclass
class EncoderConfig(Group):
    """A BERT-style encoder, pretrained or (for tests and first runs) tiny with random weights."""

    kind: Literal["encoder"]
    """The kind of model."""
    name: str
    """Name in run names and reports."""
    path: str | None
    """Hub name or local folder (config.json, tokenizer.json or vocab.txt, model.safetensors); null = random weights,
    built from `architecture`."""
    architecture: dict[str, Any]
    """Values of the transformers configuration of a model with random weights; empty for a pretrained one."""
    dropout: Share
    """Dropout rate before the head."""
    entity_replacement: Share
    """Share of training mentions replaced by others of the same category, drawn anew in each epoch; 0 = none."""
    learning_rate: PositiveFloat
    """Peak learning rate of the encoder."""
    layer_decay: Fraction
    """Factor on the learning rate from each layer to the one below it, down to the embeddings; 1 = none."""
    head_learning_rate: PositiveFloat
    """Peak learning rate of the head."""
    weight_decay: NonNegativeFloat
    """Weight decay of AdamW, for the matrices of the encoder."""
    recipe: Recipe
    """Defaults of `trainer` for this model: epochs, schedule and others."""
    # This has a default because the configurations of older runs lack it: their models read such characters as [UNK].
    fold_characters: bool = False
    """true = read a character that the vocabulary lacks in a similar form that it has: in lower case, half width or
    without accents; false = read it as [UNK]."""
    # This has a default because the configurations of older runs lack it.
    revision: str | None = None
    """Commit, tag or branch of a hub model; null = its main branch. A run looks up the commit once and keeps it."""


@dataclass
class CausalConfig(Group):
    """A language model that writes the entities of a sentence as JSON."""

    kind: Literal["causal"]
    """The kind of model."""
    name: str
    """Name in run names and reports."""
    path: str | None
    """Hub name, local folder or .gguf file; null = random weights, built from `architecture`."""
    architecture: dict[str, Any]
    """Values of the transformers configuration of a model with random weights; empty for a pretrained one."""
    vocabulary: NonNegativeInt
    """Maximum vocabulary size of the tokenizer that is built from the training text for a model with random weights;
    0 = the model has its own tokenizer."""
    chat_template: str | None
    """Chat template (Jinja); null = the tokenizer's own."""
    entity_replacement: Share
    """Share of training mentions replaced by others of the same category, drawn anew in each epoch; 0 = none."""
    learning_rate: dict[MethodName, PositiveFloat]
    """Peak learning rate, by `tuning.method`."""
    weight_decay: NonNegativeFloat
    """Weight decay of AdamW, for matrices."""
    recipe: Recipe
    """Defaults of `trainer` for this model: epochs, schedule and others."""
    # This has a default because the configurations of older runs lack it.
    revision: str | None = None
    """Commit, tag or branch of a hub model; null = its main branch. A run looks up the commit once and keeps it."""


@dataclass
class HeadConfig(Group):
    """The layer that turns a tagger's character states into entities; causal models have none."""

    kind: HeadKind
    """The head; auto = crf for taggers, none for causal models."""
    label_smoothing: Share
    """softmax: share of the target probability that is spread over all tags."""
    max_span: PositiveInt
    """span: maximum length of an entity in characters; cost and memory are proportional to it."""
    biaffine_dim: PositiveInt
    """span: dimension of the representation of first and last characters."""
    negative_weight: NonNegativeFloat
    """span: loss weight of cells without an entity; below 1 raises recall and lowers precision."""


@dataclass
class TuningConfig(Group):
    """Which weights of a causal model are trained, and how a step is computed. Taggers always train all weights."""

    method: Literal["auto", Method]
    """Trained weights: full = all; lora = low-rank adapters on frozen weights; qlora = the same on 4-bit weights; auto
    = lora for a pretrained model, full for one with random weights."""
    rank: PositiveInt
    """LoRA: rank of the updates; a higher rank can learn more and takes more memory."""
    alpha: PositiveInt
    """LoRA: updates are scaled by alpha / rank."""
    dropout: Share
    """LoRA: dropout rate; the shared prefix has one mask for all its sentences, so keep it small."""
    targets: list[str]
    """LoRA: names of the adapted linear layers; all-linear = all except the output layer."""
    double_quantization: bool
    """QLoRA: also quantise the nf4 quantisation constants."""
    optimizer: WantedOptimizer
    """The optimizer; auto = adamw, but adamw_8bit on a GPU for a billion or more trainable weights, or if nothing else
    fits."""
    gradient_checkpointing: Literal["auto", True, False]
    """Recompute activations in the backward pass: a third more time, far less memory; auto = only if the activations do
    not fit into GPU memory."""
    attention: Literal["auto", "masked", "cascade", "flash", "flex"]
    """Implementation of attention to the shared prefix; auto = the fastest that agrees with masked on this machine."""
    pack_tokens: PositiveInt
    """Maximum tokens of a pack: the shared prefix of the prompt, and after it as many sentences with answers as fit."""


@dataclass
class PromptConfig(Group):
    """The prompt of a causal model. Texts are given by language; `{categories}`, `{examples}` and `{errors}` in them
    are filled in once, `{sentence}` for each sentence."""

    name: str
    """Name in run names and reports."""
    version: str
    """Version of the texts: increase it when a text changes; it is part of the prompt's hash."""
    language: Language
    """Language of the texts that are used."""
    answer: Literal["official", "compact"]
    """Format of an answer: official = `[["北京", "地点"]]`, as Python's json module writes it; compact = without
    spaces, a few tokens shorter."""
    system: dict[Language, str]
    """Text of the system role; empty = none (many chat templates then insert their own)."""
    instruction: dict[Language, str]
    """Text before each sentence; `{categories}` stands for the categories of the corpus, `{examples}` for training
    sentences with answers, `{errors}` for the text of `errors`."""
    input: dict[Language, str]
    """Text after the instruction, and before the answer of each example; contains `{sentence}` once."""
    errors: dict[Language, str]
    """Text for `{errors}`: frequent errors and their corrections."""
    examples: NonNegativeInt
    """Number of training sentences shown with their answers, the same for all sentences."""
    seed: int
    """Seed of the choice of examples."""
    from_run: str | None
    """Run of task=guide whose lessons replace the text of `errors`: its id, name, folder or guidance.json; null =
    none."""
    lessons: list[PositiveInt]
    """Numbers of the lessons to use, as in guidance.md, 1 = the largest cluster; an empty list = all."""
    corrections: NonNegativeInt
    """Corrected examples shown per lesson; fewer if they do not fit."""
    max_tokens: PositiveInt
    """Maximum tokens of the lessons of a run, largest clusters first; counted in characters if there is no
    tokenizer."""
    # These have defaults because the configurations of older runs lack them.
    nearest: NonNegativeInt = 0
    """Number of training sentences that are most similar to the sentence; they are shown with their answers before it,
    the most similar one last."""
    definitions: bool = False
    """true = `{categories}` includes the definitions of `data.definitions`, one per line; false = only names."""
    category_examples: NonNegativeInt = 0
    """Frequent training entities per category that `{categories}` includes, one category per line; 0 = names only."""


LONGEST_ANSWER = 512
"""Maximum tokens of an answer if `max_new_tokens` is auto and train has no longer answers."""


@dataclass
class DecodingConfig(Group):
    """How predictions are decoded. All keys but `scores` and `min_score` are about the answers of causal models."""

    kind: Literal["free", "guided"]
    """free = unconstrained; guided = only well-formed answers with known categories and words of the sentence."""
    engine: EngineName
    """Where the model runs: hf = in this process; openai = on a server with an OpenAI-compatible API; vllm = on a vLLM
    server that the command starts and stops."""
    max_new_tokens: Annotated[PositiveInt | None, AUTO]
    """Maximum tokens of an answer; auto (or null) = the length of the longest plausible answer, estimated from the
    sentence and from train, at most 512 or 1.5 times train's longest; for a server, its own limit."""
    slots: Annotated[PositiveInt | None, AUTO]
    """hf: sentences decoded in parallel; more are faster until memory runs out. auto (or null) = as many as fit into
    GPU memory, at most 256; 64 on a CPU."""
    temperature: NonNegativeFloat
    """Sampling temperature; 0 = greedy decoding."""
    top_p: Fraction
    """Nucleus sampling: draw from the smallest set of tokens with this total probability."""
    url: str | None
    """openai: base address of the server, including /v1."""
    model: str | None
    """openai: name of the model on the server; null = its only model."""
    api_key_env: str
    """openai: environment variable that holds the API key; may be unset for a local server."""
    concurrency: PositiveInt
    """openai: concurrent requests."""
    timeout: PositiveFloat
    """openai: time limit of a request, in seconds."""
    retries: NonNegativeInt
    """openai: retries after a transient failure."""
    structured: Literal["none", "json_schema", "vllm"]
    """openai, guided: how the server constrains answers; json_schema = their format and the categories; vllm = also the
    words, with a grammar; none = not at all (guided is then refused)."""
    command: list[str] = field(default_factory=lambda: ["vllm", "serve"])
    """vllm: the command that starts the server, up to the name of the model."""
    options: dict[str, Any] = field(default_factory=dict)
    """vllm: further options of that command, such as {tensor-parallel-size: 2}; null omits a default option."""
    start_seconds: PositiveFloat = 900.0
    """vllm: time limit for the start of the server, in seconds; loading a large model takes minutes."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """openai: further fields of a request, such as chat_template_kwargs={enable_thinking: false}, which is the default
    for vllm and with a checkpoint; null omits a default field."""
    scores: bool = False
    """true = each predicted entity has a `score`, the model's confidence from 0 to 1; for taggers too, not for
    servers."""
    min_score: Probability | None = None
    """Leave out predicted entities whose `score` is lower, and those without one; includes `scores=true`. 0 or null =
    none. It is for predictions: the evaluation on dev counts all entities."""

    @property
    def gives_scores(self) -> bool:
        """Whether predicted entities have a `score`."""
        return self.scores or self.min_score is not None

    @property
    def usual_slots(self) -> int:
        """The value of `slots`, or 64 if it is auto and the size of the memory is unknown."""
        return self.slots or 64


@dataclass
class EncodingConfig(Group):
    """How sentences become tensors."""

    max_length: PositiveInt
    """Maximum length of a sentence in characters."""
    on_too_long: Literal["fail", "skip", "truncate"]
    """What to do with longer sentences; skipped and truncated ones are listed as issues."""


@dataclass
class TrainerConfig(Group):
    """How long a model is trained, on which devices, and in which batches."""

    name: str
    """Name of this choice."""
    accelerator: Literal["auto", "cpu", "gpu"]
    """auto = GPU if there is one; gpu = fail if there is none."""
    devices: NonNegativeInt
    """Processes per node; 0 = all GPUs, or one CPU process."""
    nodes: PositiveInt
    """Number of machines."""
    strategy: Literal["auto", "ddp", "fsdp"]
    """ddp = each process holds all weights; fsdp = processes share weights, gradients and optimizer states (causal
    models); auto = ddp for more than one process, fsdp if a causal model does not fit otherwise."""
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"]
    """Numerical precision; auto = bf16-mixed for transformers on a GPU, and for pretrained ones on a CPU with fast
    bf16, otherwise 32-true."""
    threads: NonNegativeInt
    """CPU threads per process; 0 = the number of cores divided by the number of processes, at most OMP_NUM_THREADS. If
    a Python program loads a model, the program's number of threads does not change."""
    max_epochs: PositiveInt
    """Maximum epochs."""
    max_steps: Annotated[int, Ge(-1)]
    """Maximum optimizer steps, 1 or more; -1 = no limit."""
    max_minutes: NonNegativeFloat
    """Maximum minutes of training; 0 = no limit."""
    batch_size: PositiveInt
    """Sentences per optimizer step, over all devices."""
    eval_batch_size: PositiveInt
    """Sentences per evaluation batch; affects speed, memory and the seventh digit of a loss, but no other result."""
    warmup: Share
    """Share of all steps during which the learning rate rises."""
    schedule: Literal["constant", "linear", "cosine"]
    """Learning rate after the warm-up; linear and cosine decay to 0."""
    gradient_clip: NonNegativeFloat
    """Maximum norm of the gradients; 0 = off."""
    weight_average: Share
    """Decay per step of the exponential moving average of the weights, which is evaluated and saved; 0 = off."""
    patience: NonNegativeInt
    """Evaluations without a better F1 on dev after which training stops; 0 = never."""
    eval_every: PositiveInt
    """Epochs between evaluations on dev if `eval_steps` is 0."""
    eval_steps: NonNegativeInt
    """Optimizer steps between evaluations on dev; 0 = count epochs, see `eval_every`."""
    eval_sample: NonNegativeInt
    """Number of dev sentences that are evaluated, sampled by seed; 0 = all."""
    checkpoint_minutes: NonNegativeFloat
    """Minutes between saves of last.ckpt within an epoch; 0 = only after evaluations."""
    callbacks: dict[str, Any]
    """Further Lightning callbacks: name -> `_target_` and arguments."""
    deterministic: bool = False
    """On a GPU, use only kernels with a fixed order of summation, so that the same seed gives the same bytes; slower.
    CPU runs always do."""
    min_steps: NonNegativeInt = 0
    """Minimum optimizer steps: a small corpus gets more epochs than `max_epochs`, with the same number of evaluations;
    0 = none. Has no effect if `max_epochs` is set by hand."""
    perfect_evaluations: NonNegativeInt = 3
    """Number of consecutive evaluations with an F1 of 100 % on dev after which training stops; 0 = never."""

    def epochs(self, steps: int) -> int:
        """Return the number of epochs for a corpus with `steps` optimizer steps per epoch."""
        return max(self.max_epochs, -(-self.min_steps // steps))

    def epochs_between_evaluations(self, steps: int) -> int:
        """Return `eval_every`, multiplied by the factor by which `min_steps` raises the number of epochs."""
        return self.eval_every * (self.epochs(steps) // self.max_epochs)


# Only the keys are checked here; the values are checked as values of `trainer`.
Recipe = dict[Annotated[str, OneOf(lambda: field_types(TrainerConfig), "keys of `trainer`")], Any]
