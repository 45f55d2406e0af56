"""The variants of a prompt that a search tries: which lessons of the guidance, with how many corrections and examples.

In go the prompt of the configuration and the guidance it names, out come `Variant`s, each a whole prompt that the keys
of `conf/prompt` describe: whoever gives these keys has this prompt, without any search. The first two are what the
others must beat: the prompt without guidance, and the one that `prompt.from_run` gives by itself. Then come the
largest lessons, those of one type of error, and subsets drawn at random, larger clusters more often; all with every
number of corrections. What would be the same prompt again is left out and named.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omniner.analysis.guide.guidance import Guidance
from omniner.encoding import lessons, prompts
from omniner.encoding.lessons import TYPES, Counter, Lessons
from omniner.encoding.prompts import SENTENCE, Prompt
from omniner.records import Sentence
from omniner.schema import PromptConfig, SearchConfig

GENERIC, PLAIN = "generic", "from_run"
BASELINES = (GENERIC, PLAIN)
"""Variants that every other one is compared with: they are asked everything."""

KEYS = ("from_run", "lessons", "corrections", "examples")
"""The keys of `prompt` in which variants differ."""

_DRAWS = 20  # attempts at a random subset that is not there yet; then there are taken to be no more


@dataclass(frozen=True)
class Variant:
    """A prompt to try.

    Attributes:
        name: short, for folders and tables.
        about: what it is, in words.
        config: the prompt's configuration; `KEYS` are where it differs from the others.
        prompt: what it becomes with the whole training split.
        length: of its texts, in tokens, or in characters where no tokenizer is at hand.
        lessons: what stands in it of the guidance; None for the generic prompt.
        sentences: texts that it shows, whole or parts of: those of the guidance's corrections, and examples of train.
    """

    name: str
    about: str
    config: PromptConfig
    prompt: Prompt
    length: int
    lessons: Lessons | None
    sentences: frozenset[str]

    @property
    def overrides(self) -> dict[str, Any]:
        """What to set, beside the choice of `prompt`, to get it."""
        return {f"prompt.{key}": getattr(self.config, key) for key in KEYS}


@dataclass(frozen=True)
class Material:
    """What variants are made of: `active` categories and sentences of `train`, and how texts are measured."""

    guidance: Guidance
    active: Sequence[str]
    train: Sequence[Sentence]
    count: Counter


def variants(
    config: PromptConfig, search: SearchConfig, material: Material
) -> tuple[list[Variant], list[tuple[str, str]]]:
    """All variants, and (name, name of the other) of those that would be the same prompt as another one.

    Args:
        config: of the prompt, with `from_run`; its `lessons` are those to choose from (none = all).
        search: what is tried.
        material: what it is made of.

    Raises:
        UserError: see `lessons.apply` and `prompts.build`.
    """
    found: dict[str, Variant] = {}  # by the prompt's hash
    same: list[tuple[str, str]] = []
    for name, about, proposal in _proposals(config, search, material):
        variant = render(name, about, proposal, material)
        earlier = found.setdefault(variant.prompt.sha, variant)
        if earlier is not variant:
            same.append((name, earlier.name))
    for variant in _random(config, search, material, found):
        found[variant.prompt.sha] = variant
    return list(found.values()), same


def render(name: str, about: str, config: PromptConfig, material: Material) -> Variant:
    """The variant of a configuration; of the lessons it asks for, it names those that stand in the prompt."""
    told, shown = config, None
    if config.from_run is not None:
        shown = lessons.write(material.guidance, config, material.active, material.count)
        told = lessons.placed(config, material.guidance, shown)
        if name != PLAIN:
            config = replace(config, lessons=list(shown.numbers))
    prompt = prompts.build(told, material.active, material.train)
    length = material.count(prompt.system + prompt.user(SENTENCE))
    examples = prompts.choose_examples(material.train, told.examples, told.seed)
    texts = frozenset([*(shown.sentences if shown else ()), *(sentence.text for sentence in examples)])
    return Variant(name, about, config, prompt, length, shown, texts)


def _proposals(
    config: PromptConfig, search: SearchConfig, material: Material
) -> Iterator[tuple[str, str, PromptConfig]]:
    """Names, descriptions and configurations in the order in which equal prompts are kept."""
    yield GENERIC, "no guidance", replace(config, from_run=None, lessons=[])
    yield PLAIN, "as prompt.from_run has it", config
    usable = lessons.usable(material.guidance, config, material.active, material.count)
    kinds = {number: material.guidance.lessons[number - 1].kind for number in usable}
    subsets = {f"all_{len(usable)}": ("all lessons", usable)}
    subsets |= {f"largest_{size}": (f"the {size} largest lessons", usable[:size]) for size in search.largest}
    if search.types:
        for name, members in TYPES.items():
            subsets[f"only_{name}"] = (f"lessons on {name}", [n for n in usable if kinds[n] in members])
    for name, (about, numbers) in subsets.items():
        if numbers:
            yield from _with_examples(name, about, replace(config, lessons=numbers), search)


def _with_examples(
    name: str, about: str, config: PromptConfig, search: SearchConfig
) -> Iterator[tuple[str, str, PromptConfig]]:
    """One choice of lessons with every number of corrections, and of sentences of train."""
    for corrections, examples in itertools.product(search.corrections, search.examples or [config.examples]):
        shots = f", {examples} sentences of train" if search.examples else ""
        shown = f"{corrections} correction{'s' * (corrections != 1)} each"
        yield (
            f"{name}-c{corrections}" + (f"-e{examples}" if search.examples else ""),
            f"{about}, {shown}{shots}",
            replace(config, corrections=corrections, examples=examples),
        )


def _random(
    config: PromptConfig, search: SearchConfig, material: Material, found: dict[str, Variant]
) -> Iterator[Variant]:
    """Random subsets that are no prompt of `found`; fewer than asked for where there are no more.

    None is larger than what the prompt holds by itself: the largest lessons would push out what else was drawn.
    """
    most = max(variant.lessons.shown for variant in found.values() if variant.lessons)
    usable = lessons.usable(material.guidance, config, material.active, material.count)
    weights = [material.guidance.lessons[number - 1].count for number in usable]
    generator = random.Random(search.seed)
    for place in range(1, search.random + 1):
        for _ in range(_DRAWS):
            size = 1 + int(generator.random() * most)
            numbers = draw(usable, weights, size, generator)
            forms = list(_with_examples(f"random_{place}", "random lessons", replace(config, lessons=numbers), search))
            variant = render(*forms[int(generator.random() * len(forms))], material)
            if variant.prompt.sha not in found:
                yield variant
                break
        else:
            return


def draw(items: Sequence[int], weights: Sequence[int], size: int, generator: random.Random) -> list[int]:
    """`size` of the items in their order, heavier ones more often, none twice.

    The largest of keys u ** (1 / weight) are drawn without replacement by weight (Efraimidis and Spirakis 2006).
    """
    keys = [generator.random() ** (1 / weight) if weight else 0.0 for weight in weights]
    chosen = sorted(range(len(items)), key=lambda place: -keys[place])[:size]
    return [items[place] for place in sorted(chosen)]
