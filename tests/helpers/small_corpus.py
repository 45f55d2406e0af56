"""A corpus of a few dozen made-up sentences, and configurations for it that train in seconds."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniner.config import compose
from omniner.config.groups import Config
from omniner.corpus import taxonomy
from omniner.corpus.sources import Corpus
from omniner.records import Entity, Prediction, Sentence

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback
    from pytorch_lightning.loggers import Logger

    from omniner.llm.prompts import Prompt
    from omniner.training.fit import FitResult

SURFACES = {
    "人": ["张三", "李四光", "王小明", "赵六"],
    "地": ["北京", "上海滩", "三里屯"],
    "菜": ["臭豆腐", "螺蛳粉", "面", "麻婆豆腐"],
}
FRAMES = ["{人}在{地}吃{菜}", "听说{地}的{菜}不错🍜", "{人}和{人}都去了{地}", "今天没什么好说的", "{菜}!{菜}!"]


def sentences(count: int, seed: int, prefix: str) -> list[Sentence]:
    chance = random.Random(seed)
    return [_sentence(chance, f"{prefix}-{number}") for number in range(count)]


def _sentence(chance: random.Random, name: str) -> Sentence:
    text, entities = "", []
    for piece in chance.choice(FRAMES).replace("}", "{").split("{"):
        if piece in SURFACES:
            surface = chance.choice(SURFACES[piece])
            entities.append(Entity(surface, piece, len(text), len(text) + len(surface)))
            piece = surface
        text += piece
    return Sentence(name, text, entities)


def corpus(train: int, dev: int) -> Corpus:
    splits = {"train": sentences(train, 1, "train"), "dev": sentences(dev, 2, "dev"), "test": sentences(30, 3, "test")}
    return Corpus("small", splits, taxonomy.flat_taxonomy("small", list(SURFACES)))


SMALL = {
    "char_bilstm": ["model.char_dim=24", "model.bigram_dim=12", "model.hidden=32", "model.min_count=1"],
    "bert_tiny": ["model.architecture.hidden_size=32", "model.architecture.intermediate_size=64"],
    "qwen2_tiny": [
        "model.architecture.hidden_size=64",
        "model.architecture.num_hidden_layers=2",
        "model.architecture.intermediate_size=96",
        "model.vocabulary=500",
        "model.entity_replacement=0",
        "trainer.eval_sample=0",
        "trainer.eval_every=1",
        "decoding.max_new_tokens=80",
        "decoding.slots=8",
        "prompt.instruction.zh='类别：{categories}'",
    ],
}
CERTAIN = {
    "char_bilstm": [
        "model.embedding_dropout=0",
        "model.dropout=0",
        "model.unk_dropout=0",
        "model.bigram_dropout=0",
        "model.entity_replacement=0",
        "model.weight_decay=0",
    ],
    "qwen2_tiny": [],
    "bert_tiny": [
        "model.dropout=0",
        "model.architecture.hidden_dropout_prob=0",
        "model.architecture.attention_probs_dropout_prob=0",
    ],
}
"""Overrides that switch off all random choices but the order of batches."""


def configuration(model: str, *overrides: str) -> Config:
    trainer = ["trainer=cpu", "trainer.threads=1", "trainer.batch_size=8", "trainer.checkpoint_minutes=0"]
    return compose.load([f"model={model}", *SMALL.get(model, []), *trainer, "tracking=off", *overrides])


def prompt(config: Config, corpus: Corpus) -> Prompt | None:
    """What the model of a configuration is told; None for a tagger."""
    from omniner.llm.prompts import build_prompt

    return build_prompt(config.prompt, corpus.active, corpus.splits["train"]) if config.llm is not None else None


def fit(
    config: Config, corpus: Corpus, folder: Path, logger: Logger | bool | None, callbacks: Sequence[Callback]
) -> FitResult:
    """Train the model of a configuration."""
    from omniner import models

    return models.fit(config, corpus, prompt(config, corpus), folder, logger, callbacks)


def prepare(config: Config, corpus: Corpus) -> tuple[Any, Any]:
    """The module and the data of a training run."""
    from omniner import models

    told = prompt(config, corpus)
    if told is None:
        return models.prepare_tagger(config, corpus)
    return models.prepare_causal(config, models.prepare_devices(config), corpus, told)


def predict(
    checkpoint: Path | None, sentences: Sequence[Sentence], config: Config, done: frozenset[str] = frozenset()
) -> Iterator[list[Prediction]]:
    """The predictions of a trained model; without a checkpoint of one that is told what the corpus of `data` is."""
    from omniner import models
    from omniner.corpus import sources
    from omniner.llm.prompts import build_prompt

    if checkpoint is not None:
        return models.load_predictor(config, checkpoint).predict(sentences, done)
    known = sources.load_corpus(config.data, ["train"])
    train = known.splits["train"]
    told = build_prompt(config.prompt, known.active, train)
    return models.load_untrained(config, told, [sentence.text for sentence in train]).predict(sentences, done)
