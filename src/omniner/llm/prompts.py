"""What a causal model is told: the instruction, filled in once, and the sentence, put in each time.

`build_prompt` fills `{categories}`, `{examples}` and `{errors}` of the texts of `conf/prompt`; `Prompt` puts in each
`{sentence}`. All is plain replacement of exactly these names, in one pass: braces of JSON examples, of errors or of a
sentence mean nothing. One `Prompt` serves training and decoding; `sha` names it, and is kept with every prediction.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from omniner.answers import check_style, write_answer
from omniner.config.model_groups import PromptConfig
from omniner.errors import UserError
from omniner.records import Sentence

SENTENCE = "{sentence}"

_FILLED_ONCE = ("categories", "examples", "errors")
_PLACEHOLDER = re.compile(r"\{([^\W\d]\w*)\}")  # JSON never has a bare word between braces
_SEPARATORS = {"zh": "、"}  # between the names of categories
_POOL = 50  # candidates per example that is to be chosen


@dataclass(frozen=True)
class Prompt:
    """A prompt with everything but the sentence in its place.

    Attributes:
        name: of the choice in `conf/prompt`.
        version: of that choice.
        language: zh | en.
        system: text of the system role; may be empty.
        instruction: rendered: categories, examples and errors stand in it.
        input: what follows it, with `{sentence}` once.
        answer: style of the answers, see `write_answer`.
        categories: those the instruction names, in its order.
    """

    name: str
    version: str
    language: str
    system: str
    instruction: str
    input: str
    answer: str
    categories: tuple[str, ...]

    def user(self, text: str) -> str:
        """Write the text of the user role for a sentence."""
        return f"{self.instruction}\n{self.input.replace(SENTENCE, text)}"

    def messages(self, text: str) -> list[dict[str, str]]:
        """Write the chat for a sentence, up to the answer; without a system role where its text is empty."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user(text)}]

    @cached_property
    def sha(self) -> str:
        """16 hex digits that change with any field."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Give all fields in plain values."""
        return {**asdict(self), "categories": list(self.categories)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Prompt:
        """Read the prompt that `to_json` wrote.

        Raises:
            UserError: it is something else.
        """
        try:
            return cls(**{**value, "categories": tuple(value["categories"])})
        except (TypeError, KeyError) as error:
            raise UserError("prompt", f"not a stored prompt ({error})", "Name a checkpoint that is whole.") from error


def build_prompt(config: PromptConfig, categories: Sequence[str], train: Sequence[Sentence]) -> Prompt:
    """Build the prompt of a run.

    Args:
        config: texts by language.
        categories: categories that occur in `train`, in the order of the taxonomy.
        train: where examples are taken from, by `config.seed`.

    Raises:
        UserError: no text in the language, a placeholder that is unknown, missing, or has nothing to stand for.
        ValueError: the errors are still to be taken from another run.
    """
    check_style(config.answer)
    if config.from_run is not None:
        raise ValueError("prompt.from_run names a run: let prompt_errors put its guidance into the config first")
    language = config.language
    template = _text(config, "input")
    if template.count(SENTENCE) != 1:
        found = f"{SENTENCE} stands {template.count(SENTENCE)} times in it"
        raise UserError(f"prompt.input.{language}", found, f"Put {SENTENCE} where the sentence belongs, once.")
    _check_names(f"prompt.input.{language}", template, ("sentence",))
    examples = [
        f"{template.replace(SENTENCE, sentence.text)}\n{write_answer(sentence.entities, config.answer)}"
        for sentence in choose_examples(train, config.examples, config.seed)
    ]
    values = {
        "categories": _SEPARATORS.get(language, ", ").join(categories),
        "examples": "\n\n".join(examples),
        "errors": config.errors.get(language, ""),
    }
    system, instruction = _text(config, "system"), _text(config, "instruction")
    _check_filled(config, system + instruction, values)
    return Prompt(
        name=config.name,
        version=config.version,
        language=language,
        system=_fill(system, values),
        instruction=_fill(instruction, values),
        input=template,
        answer=config.answer,
        categories=tuple(categories),
    )


def choose_examples(train: Sequence[Sentence], count: int, seed: int) -> list[Sentence]:
    """Choose short sentences that together show many categories.

    From a random pool of sentences with entities, none longer than the median, one after the other is taken that shows
    the most categories not shown yet.

    Raises:
        UserError: `train` has too few sentences with entities.
    """
    filled = [sentence for sentence in train if sentence.entities]
    if len(filled) < count:
        found = f"{count} examples, but train has {len(filled)} sentences with entities"
        raise UserError("prompt.examples", found, f"Set it to {len(filled)} or less.")
    if count == 0:
        return []
    by_length = sorted(filled, key=lambda sentence: len(sentence.text))
    longest = len(by_length[max(count, len(by_length) // 2) - 1].text)
    short = [sentence for sentence in filled if len(sentence.text) <= longest]
    pool = random.Random(seed).sample(short, min(len(short), _POOL * count))
    chosen: list[Sentence] = []
    shown: set[str] = set()
    for _ in range(count):
        best = max(range(len(pool)), key=lambda place: len({e.category for e in pool[place].entities} - shown))
        chosen.append(pool.pop(best))
        shown |= {entity.category for entity in chosen[-1].entities}
    return chosen


def _text(config: PromptConfig, part: str) -> str:
    texts: dict[str, str] = getattr(config, part)
    if config.language not in texts:
        known = ", ".join(sorted(texts)) or "none"
        found = f"{config.language!r}, but prompt.{part} has texts in: {known}"
        raise UserError("prompt.language", found, f"Choose one of those, or write prompt.{part}.{config.language}.")
    return texts[config.language]


def _check_names(where: str, template: str, known: Sequence[str]) -> None:
    for name in _PLACEHOLDER.findall(template):
        if name not in known:
            names = ", ".join(f"{{{name}}}" for name in known)
            raise UserError(where, f"unknown placeholder {{{name}}}", f"This text may hold {names}.")


def _check_filled(config: PromptConfig, template: str, values: Mapping[str, str]) -> None:
    """Check that every placeholder is known and has a value, and that every value has its place."""
    where = f"prompt.instruction.{config.language}"
    _check_names(where, template, _FILLED_ONCE)
    keys = {"categories": "the corpus", "examples": "prompt.examples", "errors": f"prompt.errors.{config.language}"}
    for name, value in values.items():
        placed = f"{{{name}}}" in template
        if placed and not value:
            raise UserError(
                where, f"{{{name}}} stands in it, but {keys[name]} has none", f"Set it or take {{{name}}} out."
            )
        if value and not placed:
            raise UserError(where, f"no {{{name}}} in it", f"Put {{{name}}} where that list belongs.")


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template).strip("\n")
