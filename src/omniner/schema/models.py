"""The groups that say what reads a sentence: models, heads, tuning, prompts, decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
