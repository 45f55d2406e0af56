"""The groups of a model: what reads a sentence, how it learns, and how it answers.

`omniner.config.groups` says how groups are written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le

from omniner.config.validate import (
    Auto,
    Group,
    NonNegativeFloat,
    NonNegativeInt,
    Number,
    OneOf,
    PositiveFloat,
    PositiveInt,
    Share,
    hints,
)
from omniner.registry import HEADS

HeadKind = Annotated[str, OneOf(lambda: ("auto", "none", *HEADS))]
Language = Literal["zh", "en"]
Method = Literal["full", "lora", "qlora"]
MethodName = Annotated[str, OneOf(lambda: get_args(Method))]


@dataclass
class BiLSTMConfig(Group):
    """A character BiLSTM whose embeddings are learnt from nothing."""

    kind: Literal["bilstm"]
    """What kind of model it is."""
    name: str
    """What run names and reports call it."""
    char_dim: PositiveInt
    """Numbers per character."""
    bigram_dim: NonNegativeInt
    """Numbers per pair of neighbouring characters, left and right; 0 = no bigram embeddings."""
    min_count: PositiveInt
    """Occurrences in train: characters and bigrams that have fewer become [UNK]."""
    hidden: PositiveInt
    """LSTM units per direction."""
    layers: PositiveInt
    """Layers of the LSTM."""
    members: PositiveInt
    """BiLSTMs trained side by side under one head; their scores are averaged. Each costs as much again."""
    embedding_dropout: Share
    """Share of the embeddings' features hidden in training, the same ones for all characters of a sentence."""
    dropout: Share
    """Share of the features hidden after each LSTM layer, likewise per sentence."""
    unk_dropout: Share
    """Share of characters hidden as [UNK] in training."""
    bigram_dropout: Share
    """Share of bigrams hidden likewise."""
    entity_replacement: Share
    """Share of training mentions exchanged for others of their category, anew in each epoch; 0 = none."""
    learning_rate: PositiveFloat
    """Learning rate of embeddings and LSTM, at its height."""
    head_learning_rate: PositiveFloat
    """Learning rate of the head."""
    weight_decay: NonNegativeFloat
    """AdamW's, on matrices of embeddings and LSTM."""
    recipe: Recipe
    """What `trainer` takes from the model unless told otherwise: epochs, schedule and the like."""


@dataclass
class EncoderConfig(Group):
    """A BERT-style encoder, pretrained or (for tests and first runs) random and tiny."""

    kind: Literal["encoder"]
    """What kind of model it is."""
    name: str
    """What run names and reports call it."""
    path: str | None
    """Hub name or local folder (config.json, tokenizer.json or vocab.txt, model.safetensors); null = random weights,
    built from `architecture`."""
    architecture: dict[str, Any]
    """Values of the transformers configuration of a random model; empty for a pretrained one, which brings its own."""
    dropout: Share
    """Share of features hidden before the head."""
    entity_replacement: Share
    """Share of training mentions exchanged for others of their category, anew in each epoch; 0 = none."""
    learning_rate: PositiveFloat
    """Learning rate of the encoder, at its height."""
    layer_decay: Annotated[Number, Gt(0), Le(1)]
    """Factor on the learning rate from each layer to the one below it, down to the embeddings; 1 = all the same."""
    head_learning_rate: PositiveFloat
    """Learning rate of the head."""
    weight_decay: NonNegativeFloat
    """AdamW's, on matrices of the encoder."""
    recipe: Recipe
    """What `trainer` takes from the model unless told otherwise: epochs, schedule and the like."""


@dataclass
class CausalConfig(Group):
    """A language model that writes the entities of a sentence as JSON."""

    kind: Literal["causal"]
    """What kind of model it is."""
    name: str
    """What run names and reports call it."""
    path: str | None
    """Hub name, local folder or .gguf file; null = random weights, built from `architecture`."""
    architecture: dict[str, Any]
    """Values of the transformers configuration of a random model; empty for a pretrained one, which brings its own."""
    vocabulary: NonNegativeInt
    """Most entries of the tokenizer that is made from the training text for a random model; 0 = the model has one."""
    chat_template: str | None
    """Jinja template of a conversation; null = the tokenizer's own."""
    entity_replacement: Share
    """Share of training mentions exchanged for others of their category, anew in each epoch; 0 = none."""
    learning_rate: dict[MethodName, PositiveFloat]
    """Learning rate at its height, by `tuning.method`."""
    weight_decay: NonNegativeFloat
    """AdamW's, on matrices."""
    recipe: Recipe
    """What `trainer` takes from the model unless told otherwise: epochs, schedule and the like."""


@dataclass
class HeadConfig(Group):
    """What makes entities of a tagger's character states; causal models have none."""

    kind: HeadKind
    """The head; auto = crf for taggers, none for causal models."""
    label_smoothing: Share
    """softmax: share of the target that is spread over all tags."""
    max_span: PositiveInt
    """span: characters of the longest entity it can find; cost and memory grow in proportion."""
    biaffine_dim: PositiveInt
    """span: numbers that describe a first or last character."""
    negative_weight: NonNegativeFloat
    """span: weight of a cell without an entity; below 1 finds more and errs more."""


@dataclass
class TuningConfig(Group):
    """Which weights of a causal model learn, and how a step is computed. Taggers always learn all weights."""

    method: Literal["auto", Method]
    """Which weights: full = all, lora = low-rank adapters beside frozen weights, qlora = the same beside weights of 4
    bits; auto = lora for a pretrained model, full for a random one."""
    rank: PositiveInt
    """LoRA: inner size of an update; more learns more and costs memory."""
    alpha: PositiveInt
    """LoRA: updates are scaled by alpha / rank."""
    dropout: Share
    """LoRA: share of features hidden in training; drawn once for the shared prefix, so keep it small."""
    targets: list[str]
    """LoRA: names of linear layers; all-linear = every one but the output."""
    double_quantization: bool
    """QLoRA: quantise the constants of nf4 as well."""
    optimizer: Literal["auto", "adamw", "adamw_8bit"]
    """The optimizer; auto = adamw, on a GPU with states of 8 bits for qlora, where a billion weights learn, and where
    nothing else fits."""
    gradient_checkpointing: Literal["auto", True, False]
    """Compute activations again in the backward pass: a third more time, far less memory; auto = where a GPU has not
    the memory to keep them."""
    attention: Literal["auto", "masked", "cascade", "flash", "flex"]
    """How the shared prefix is attended to; auto = the fastest that agrees with masked on this machine."""
    pack_tokens: PositiveInt
    """Most tokens computed at once: the prompt's shared prefix, and as many sentences with answers as fit behind it."""


@dataclass
class PromptConfig(Group):
    """What a causal model is told. Texts by language; `{categories}`, `{examples}` and `{errors}` in them are filled in
    once, `{sentence}` for each sentence."""

    name: str
    """What run names and reports call it."""
    version: str
    """Counted up when a text changes: it is part of the prompt's hash."""
    language: Language
    """Which of the texts is used."""
    answer: Literal["official", "compact"]
    """Form of an answer: official = `[["北京", "地点"]]`, as Python writes it; compact = without the spaces, a few
    tokens shorter."""
    system: dict[Language, str]
    """Text of the system role; empty = none (many templates then write their own)."""
    instruction: dict[Language, str]
    """Text in front of each sentence; `{categories}` is the list of the corpus, `{examples}` what is drawn from train,
    `{errors}` the text below."""
    input: dict[Language, str]
    """Text after the instruction, and before each example's answer; `{sentence}` stands in it once."""
    errors: dict[Language, str]
    """Text of `{errors}`: frequent errors and their corrections."""
    examples: NonNegativeInt
    """Sentences of train shown with their answers."""
    seed: int
    """Of the choice of examples."""
    from_run: str | None
    """Run of task=guide whose errors `{errors}` tells: its run id, name, folder or guidance.json; null = the text of
    `errors`."""
    lessons: list[PositiveInt]
    """Numbers of that run's lessons that may be told, as guidance.md has them, 1 = the largest cluster; none = all."""
    corrections: NonNegativeInt
    """Examples with their corrections shown of a lesson, fewer where they do not fit."""
    max_tokens: PositiveInt
    """Tokens of `{errors}` from a run, largest clusters first; characters where no tokenizer is at hand."""
    # These have defaults because the configurations of older runs lack them.
    nearest: NonNegativeInt = 0
    """Sentences of train that are most like the sentence, shown with their answers in front of it, the nearest last."""
    definitions: bool = False
    """`{categories}` is a list of lines with the definitions of `data.definitions`; false = names alone."""
    category_examples: NonNegativeInt = 0
    """`{categories}` is a list of lines with this many frequent entities of train in each."""


LONGEST_ANSWER = 512
"""Tokens of an answer at most where `max_new_tokens` is auto."""


@dataclass
class DecodingConfig(Group):
    """How a causal model's answers are made."""

    kind: Literal["free", "guided"]
    """free = the model writes what it likes; guided = only answers in form, of known categories, with words that stand
    in the sentence."""
    engine: Literal["hf", "openai", "vllm"]
    """Where: hf = in this process; openai = a server that speaks OpenAI's protocol; vllm = vLLM's server, which is
    started for it."""
    max_new_tokens: Annotated[PositiveInt | None, Auto()]
    """Tokens of an answer at most; auto (or null) = as many as the longest sensible answer has, by the length of the
    sentence and by what train shows; of a server, what it allows."""
    slots: Annotated[PositiveInt | None, Auto()]
    """hf: sentences that are decoded side by side; more is faster until memory ends. auto (or null) = on a GPU as many
    as it has memory for, at most 256; on a CPU 64."""
    temperature: NonNegativeFloat
    """0 = the likeliest token always; above, tokens are drawn."""
    top_p: Annotated[Number, Gt(0), Le(1)]
    """Drawing only: the smallest set of tokens with this probability together."""
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
    structured: Literal["none", "json_schema", "vllm"]
    """openai, guided: how the server is told what answers may look like."""
    command: list[str] = field(default_factory=lambda: ["vllm", "serve"])
    """vllm: the program and the words before the model."""
    options: dict[str, Any] = field(default_factory=dict)
    """vllm: further options of that command, such as {tensor-parallel-size: 2}; null leaves out one that is given
    otherwise."""
    start_seconds: PositiveFloat = 900.0
    """vllm: until it must answer; loading a large model takes minutes."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """openai: further fields of a request, such as chat_template_kwargs={enable_thinking: false}; null leaves out one
    that is sent otherwise."""

    @property
    def usual_slots(self) -> int:
        """The slots, or how many are usual where nothing says what memory holds."""
        return self.slots or 64


@dataclass
class EncodingConfig(Group):
    """From sentences to tensors."""

    max_length: PositiveInt
    """Characters of a sentence at most."""
    on_too_long: Literal["fail", "skip", "truncate"]
    """What happens to longer ones; nothing is cut without being listed."""


@dataclass
class TrainerConfig(Group):
    """How long, on what machine, and how batches are made."""

    name: str
    """Of this choice."""
    accelerator: Literal["auto", "cpu", "gpu"]
    """auto = GPU where there is one; gpu fails where there is none."""
    devices: NonNegativeInt
    """Processes per node; 0 = all GPUs, or one CPU process."""
    nodes: PositiveInt
    """Machines."""
    strategy: Literal["auto", "ddp", "fsdp"]
    """ddp = each process has all weights; fsdp = they share weights, gradients and optimizer (causal models);
    auto = ddp as soon as there is more than one process, fsdp where a causal model fits in no other way."""
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"]
    """Of numbers; auto = bf16-mixed for transformers on a GPU, and for pretrained ones on a CPU that is fast at it."""
    threads: NonNegativeInt
    """CPU threads per process; 0 = the cores divided by the processes, at most OMP_NUM_THREADS."""
    max_epochs: PositiveInt
    """Passes over the training split at most."""
    max_steps: Annotated[int, Ge(-1)]
    """Optimizer steps at most; -1 = no limit."""
    max_minutes: NonNegativeFloat
    """Minutes of training at most; 0 = no limit."""
    batch_size: PositiveInt
    """Sentences of one optimizer step, over all devices."""
    eval_batch_size: PositiveInt
    """Sentences evaluated at once; no influence on results, only on speed, memory and the seventh digit of a loss."""
    warmup: Share
    """Share of all steps during which the learning rate rises."""
    schedule: Literal["constant", "linear", "cosine"]
    """How the learning rate goes on after the warm-up, down to 0."""
    gradient_clip: NonNegativeFloat
    """Norm above which gradients are scaled down; 0 = off."""
    weight_average: Share
    """Decay per step of the averaged weights, which are evaluated and kept; 0 = off."""
    patience: NonNegativeInt
    """Evaluations without a better dev F1 before stopping; 0 = never, the schedule runs to its end."""
    eval_every: PositiveInt
    """Epochs between evaluations on dev."""
    eval_steps: NonNegativeInt
    """Optimizer steps between evaluations on dev instead; 0 = by epochs."""
    eval_sample: NonNegativeInt
    """Sentences of dev that are evaluated, drawn by the seed; 0 = all."""
    checkpoint_minutes: NonNegativeFloat
    """Minutes between saves of last.ckpt within an epoch; 0 = only after evaluations."""
    callbacks: dict[str, Any]
    """Name -> `_target_` of a further Lightning callback, with its arguments."""
    deterministic: bool = False
    """On a GPU: only kernels that add in a fixed order, so that the same seed gives the same bytes; slower. A CPU
    always does so."""
    min_steps: NonNegativeInt = 0
    """Optimizer steps at least: a small corpus is passed over more often than `max_epochs` says, and evaluated no more
    often in all; 0 = `max_epochs` alone, as always where that is set by hand."""

    def epochs(self, steps: int) -> int:
        """How often a corpus is passed over that has so many optimizer steps an epoch."""
        return max(self.max_epochs, -(-self.min_steps // steps))

    def epochs_between_evaluations(self, steps: int) -> int:
        """As `eval_every`, stretched as far as the passes over a small corpus are."""
        return self.eval_every * (self.epochs(steps) // self.max_epochs)


# The values are checked where they arrive.
Recipe = dict[Annotated[str, OneOf(lambda: hints(TrainerConfig), "keys of `trainer`")], Any]
