"""The prompts of `conf/prompt`, and sentences to draw their examples from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf
from tests.conftest import ROOT

from omniner.config.model_groups import PromptConfig
from omniner.corpus import taxonomy
from omniner.records import Entity, Sentence

CATEGORIES = taxonomy.load_taxonomy("omniner2025").categories
SHIPPED = ("base", "errta", "fewshot")


def shipped(name: str, language: str = "zh", **changes: Any) -> PromptConfig:
    """The config of `conf/prompt`, without Hydra."""
    files = [OmegaConf.load(ROOT / "conf" / "prompt" / f"{one}.yaml") for one in dict.fromkeys(("base", name))]
    values: Any = OmegaConf.to_container(OmegaConf.merge(*files))
    values.pop("defaults", None)
    return replace(PromptConfig(**values), language=language, **changes)


def corpus(size: int = 300) -> list[Sentence]:
    """Sentences of different lengths with one or two entities of changing categories; each fourteenth has none."""
    sentences = []
    for number in range(size):
        text = f"去北京喝小满{'啊' * (number % 9)}{number}"
        found = [
            Entity("北京", CATEGORIES[number % 90], 1, 3),
            Entity("小满", CATEGORIES[number * 7 % 90], 4, 6),
        ]
        sentences.append(Sentence(str(number), text, found[: (number % 7 > 0) + (number % 2)]))
    return sentences
