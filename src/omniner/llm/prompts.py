"""Build the prompt of a causal model: the instruction, filled in once, and the sentence, inserted each time.

`build_prompt` fills `{categories}`, `{examples}` and `{errors}` in the texts of `conf/prompt`; `Prompt` inserts each
`{sentence}`, after its nearest examples if `prompt.nearest` requests them. Everything is plain replacement of exactly
these names, in one pass: braces in JSON examples, in errors or in a sentence have no effect. One `Prompt` serves
training and decoding; `sha` identifies it, and is stored with every prediction.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

from omniner.answers import check_style, render_answer
from omniner.config.class_defaults import without_class_defaults
from omniner.config.model_groups import PromptConfig
from omniner.errors import UserError
from omniner.llm.examples import NearestSentences, choose_examples, typical_entities
from omniner.records import Sentence, replace_surrogates

SENTENCE = "{sentence}"

TEMPLATE_OPTIONS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""What chat templates are told, in this process and behind a server: no thoughts before an answer, and a date that does
not change the prompt every day. Templates without these names ignore them."""

_PLACEHOLDER = re.compile(r"\{([^\W\d]\w*)\}")  # JSON never has a bare word between braces
_SEPARATORS = {"zh": "、"}  # between the names of categories
_LINES = {"zh": ("：", "，", "例如", "、"), "en": (": ", ", ", "such as ", ", ")}
"""Text around a category on its own line: after its name, after its definition, before its entities, between them."""
_NAMED = 3  # categories named in an error


@dataclass(frozen=True)
class Prompt:
    """A prompt in which only the sentence is missing.

    Attributes:
        name: of the choice in `conf/prompt`.
        version: of that choice.
        language: zh | en.
        system: text of the system role; may be empty.
        instruction: with categories, examples and errors filled in.
        input: what follows it, with `{sentence}` once.
        answer: style of the answers, see `render_answer`.
        categories: those that the instruction names, in its order.
        nearest: number of examples before each sentence.
        pool: (sentence, answer) of train, of which the nearest are shown; empty if none are shown.
    """

    name: str
    version: str
    language: str
    system: str
    instruction: str
    input: str
    answer: str
    categories: tuple[str, ...]
    nearest: int = 0
    pool: tuple[tuple[str, str], ...] = ()

    def filled_inputs(self, texts: Sequence[str], sources: Sequence[str] | None = None) -> list[str]:
        """Return the text after the instruction for each sentence: its nearest examples, and the sentence.

        Args:
            texts: the sentences as the model sees them.
            sources: the sentences of train that they were made from, which are not used as their examples; None =
                themselves.
        """
        written = [self.input.replace(SENTENCE, text) for text in texts]
        if not self.nearest:
            return written
        neighbours = self._index.find(texts, self.nearest, sources)
        return [
            "\n\n".join([*(self._example(place) for place in places), own])
            for places, own in zip(neighbours, written, strict=True)
        ]

    def turns(self, filled_input: str, system_role: bool = True) -> list[dict[str, str]]:
        """Return the chat up to the answer; without a system role if its text is empty.

        Args:
            filled_input: one of `filled_inputs`.
            system_role: whether the chat template has this role; if not, its text is put before the user's.
        """
        user = f"{self.instruction}\n{filled_input}"
        if not self.system:
            return [{"role": "user", "content": user}]
        if not system_role:
            return [{"role": "user", "content": f"{self.system}\n{user}"}]
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]

    def messages(self, text: str, system_role: bool = True) -> list[dict[str, str]]:
        """Return the chat for a sentence, up to the answer; `system_role` as for `turns`."""
        return self.turns(self.filled_inputs([text])[0], system_role)

    def outline(self) -> list[dict[str, str]]:
        """Return the chat with names in braces for what differs between sentences."""
        nearest = f"{{{self.nearest} examples of train that are nearest to the sentence}}\n\n" if self.nearest else ""
        return self.turns(nearest + self.input)

    def _example(self, place: int) -> str:
        text, answer = self.pool[place]
        return replace_surrogates(f"{self.input.replace(SENTENCE, text)}\n{answer}")

    @cached_property
    def _index(self) -> NearestSentences:
        return _index_of(self.pool)

    @cached_property
    def sha(self) -> str:
        """16 hex digits that change with any field."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values, without class defaults: a new field must not change older hashes."""
        values = without_class_defaults(Prompt, asdict(self))
        lists = {"categories": list(self.categories), "pool": [list(item) for item in self.pool]}
        return {name: lists.get(name, value) for name, value in values.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Prompt:
        """Rebuild a prompt from the result of `to_json`.

        Raises:
            UserError: it is something else.
        """
        try:
            pool = tuple((str(text), str(answer)) for text, answer in value.get("pool", ()))
            return cls(**{**value, "categories": tuple(value["categories"]), "pool": pool})
        except (TypeError, ValueError, KeyError) as error:
            raise UserError("prompt", f"not a stored prompt ({error})", "Name a checkpoint that is whole.") from error


@lru_cache(maxsize=1)  # prompts that differ in their instruction show the same sentences; takes seconds for 10,000
def _index_of(pool: tuple[tuple[str, str], ...]) -> NearestSentences:
    return NearestSentences([text for text, _ in pool])


def build_prompt(
    config: PromptConfig,
    categories: Sequence[str],
    train: Sequence[Sentence],
    definitions: Mapping[str, str] | None = None,
) -> Prompt:
    """Build the prompt of a run.

    Args:
        config: texts by language.
        categories: categories that occur in `train`, in the order of the taxonomy.
        train: source of the examples, chosen by `config.seed`.
        definitions: category -> its definition, from `data.definitions`.

    Raises:
        UserError: no text in the language; an unknown placeholder, a missing one, or one without content; definitions
            or examples are requested but not available.
        ValueError: the errors must still be taken from another run.
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
        f"{template.replace(SENTENCE, sentence.text)}\n{render_answer(sentence.entities, config.answer)}"
        for sentence in choose_examples(train, config.examples, config.seed)
    ]
    parts = {  # by placeholder: the source of the text, and the text
        "categories": ("the corpus", _render_categories(config, categories, train, definitions or {})),
        "examples": ("prompt.examples", "\n\n".join(examples)),
        "errors": (f"prompt.errors.{language}", config.errors.get(language, "")),
    }
    system, instruction = _text(config, "system"), _text(config, "instruction")
    _check_filled(f"prompt.instruction.{language}", system + instruction, parts)
    values = {name: text for name, (_, text) in parts.items()}
    return Prompt(
        name=config.name,
        version=config.version,
        language=language,
        system=_fill(system, values),
        instruction=replace_surrogates(_fill(instruction, values)),
        input=template,
        answer=config.answer,
        categories=tuple(categories),
        nearest=config.nearest,
        pool=_build_pool(config, train) if config.nearest else (),
    )


def _render_categories(
    config: PromptConfig, categories: Sequence[str], train: Sequence[Sentence], definitions: Mapping[str, str]
) -> str:
    """Return the list of categories: only names, or a line for each with its definition and entities of train."""
    if not (config.definitions or config.category_examples):
        return _SEPARATORS.get(config.language, ", ").join(categories)
    missing = [category for category in categories if category not in definitions]
    if config.definitions and missing:
        found = f"true, but data.definitions has none of {len(missing)} categories: {', '.join(missing[:_NAMED])}"
        raise UserError("prompt.definitions", found, "Write them there, or set prompt.definitions=false.")
    colon, comma, such_as, between = _LINES[config.language]
    entities = typical_entities(train, categories, config.category_examples)
    lines = []
    for category in categories:
        parts = [definitions[category]] if config.definitions else []
        if entities[category]:
            parts.append(such_as + between.join(entities[category]))
        lines.append(f"- {category}" + (colon + comma.join(parts) if parts else ""))
    return "\n".join(lines)


def _build_pool(config: PromptConfig, train: Sequence[Sentence]) -> tuple[tuple[str, str], ...]:
    """Return the sentences of train, each text once, with their answers.

    Raises:
        UserError: there are too few.
    """
    answers = {sentence.text: render_answer(sentence.entities, config.answer) for sentence in reversed(train)}
    pool = tuple((sentence, answers[sentence]) for sentence in dict.fromkeys(each.text for each in train))
    if len(pool) <= config.nearest:
        found = f"{config.nearest} examples for each sentence, but train has {len(pool)} different sentences"
        raise UserError("prompt.nearest", found, "Set it to fewer, or give data to take them from.")
    return pool


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


def _check_filled(where: str, template: str, parts: Mapping[str, tuple[str, str]]) -> None:
    """Check that every placeholder is known and has a text, and that every text has a placeholder.

    Args:
        where: the key of the template.
        template: has the placeholders.
        parts: by placeholder, the source of its text and the text; an empty one needs no placeholder.
    """
    _check_names(where, template, list(parts))
    for name, (source, text) in parts.items():
        placed = f"{{{name}}}" in template
        if placed and not text:
            raise UserError(where, f"{{{name}}} stands in it, but {source} has none", f"Set it or take {{{name}}} out.")
        if text and not placed:
            raise UserError(where, f"no {{{name}}} in it", f"Put {{{name}}} where that list belongs.")


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template).strip("\n")
