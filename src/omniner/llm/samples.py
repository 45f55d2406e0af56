"""Encode sentences as samples of a causal model: prompt and answer tokens, and an issue for everything that is lost.

`PromptEncoder`: a sentence that is too long (`encoding.max_length` characters) is an error, is left out or is cut, as
`encoding.on_too_long` says; gold beyond the cut is not part of the answer. The instruction before the sentence is the
same for all and is tokenised once. Probe sentences with awkward beginnings and ends are used to check that this gives
the same tokens as the whole text; if not, whole texts are tokenised, at eight times the cost. Control tokens that a
sentence or an answer spells out (`<|im_end|>`) are text, except in whole texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from omniner.answers import render_answer
from omniner.config.model_groups import LONGEST_ANSWER, EncodingConfig
from omniner.errors import UserError
from omniner.llm.chat_tokenizer import MARKER, ChatTokenizer
from omniner.llm.prompts import Prompt
from omniner.records import Entity, Issue, Sentence, replace_surrogates
from omniner.wording import counted, first_of

_NAMED = 10  # sentences named in a message

_AWKWARD = (
    *("北京", "我去", "的", "2024年", "Hello", "iPhone 15", "éa", "e\u0301a", "\u0301a", "𠮷野家", "か", "한국"),
    *(" 空格", "\u3000全角", "\t表", "\n换行", "\r\n换行", "，逗号", "。"),
    *("“引”", '"quoted"', "'s", "《书》", "：冒号"),
    *(":b", "#话题#", "@我", "[赞]", "{a}", "(a", "（括", "…", "~", "-1", "+1", "￥99", "$9", "%", "/", "\\n", "<b>"),
    *("👶🏻", "❤️", "\u200d", "\ufeff", "①", "!", "！", "?", "*", "_", "=", "|", "&", "^", ".5", ";", "`", "\x00"),
    *("北京 ", " 北京\u3000", "北京\n"),
)
PROBE_SENTENCES = tuple(dict.fromkeys([*_AWKWARD, *(text[0] for text in _AWKWARD)]))
"""Sentences whose first and last characters may merge with the surrounding text, or be stripped."""

_TRIED = 4  # positions before the sentence at which the text may be split


@dataclass(slots=True)
class Sample:
    """One sentence, ready for a causal model; here, examples are the sentences of train in a prompt.

    Attributes:
        id: of the sentence.
        text: the text that the model sees; shorter than the sentence if that was cut.
        head: token ids that the prompts of all sentences begin with: one shared list, which must not be modified.
            Separate copies for 200,000 prompts of 700 tokens would take more than a gigabyte.
        rest: token ids of the chat after `head`, up to the answer.
        answer: token ids of the gold answer and of what ends it.
        gold: every gold entity of the sentence, including those beyond a cut.
    """

    id: str
    text: str
    head: list[int]
    rest: list[int]
    answer: list[int]
    gold: list[Entity]

    @property
    def prompt(self) -> list[int]:
        """Token ids of the whole chat up to the answer."""
        return [*self.head, *self.rest]


class PromptEncoder:
    """Encode sentences for one model and one prompt.

    Args:
        chat: tokenizer and template.
        prompt: the model's prompt.
        config: limits of length, in characters.
    """

    def __init__(self, chat: ChatTokenizer, prompt: Prompt, config: EncodingConfig) -> None:
        self.chat, self.prompt, self.config = chat, prompt, config
        self._categories = frozenset(prompt.categories)
        self._parts = self._find_parts()

    def encode(
        self, sentences: Iterable[Sentence], sources: Mapping[str, str] | None = None
    ) -> tuple[list[Sample], list[Issue]]:
        """Encode sentences.

        Args:
            sentences: to encode.
            sources: by the id of a sentence with replaced mentions, the text of train that it was made from, which is
                not used as an example for it.

        Returns:
            Samples in the order of the sentences, and issues; each sentence that is left out has one.

        Raises:
            UserError: a sentence is too long, and `encoding.on_too_long` is `fail`.
        """
        sentences = list(sentences)
        limit, issues = self.config.max_length, list[Issue]()
        if self.config.on_too_long == "fail":
            self._refuse_long(sentences)
        kept, texts, answers = [], [], []
        for sentence in sentences:
            if not sentence.text:
                issues.append(Issue("empty-text", "nothing to tag", id=sentence.id))
                continue
            if len(sentence.text) > limit:
                message = f"{len(sentence.text)} characters, {limit} fit"
                if self.config.on_too_long != "truncate":
                    issues.append(Issue("too-long-skipped", message, id=sentence.id))
                    continue
                issues.append(Issue("too-long-truncated", message, id=sentence.id))
            kept.append(sentence)
            text = replace_surrogates(sentence.text[:limit])
            if text != sentence.text[:limit]:
                issues.append(Issue("half-surrogate", "the model sees U+FFFD for it", id=sentence.id))
            texts.append(text)
            answers.append(replace_surrogates(render_answer(self._learnable(sentence, issues), self.prompt.answer)))
        uncut = [(sources or {}).get(sentence.id, sentence.text) for sentence in kept]
        (head, rests), written = self._prompts(texts, uncut), self.chat.plain_ids(answers)
        samples = [
            Sample(sentence.id, text, head, rest, [*answer, *self.chat.end], sentence.entities)
            for sentence, text, rest, answer in zip(kept, texts, rests, written, strict=True)
        ]
        return samples, issues

    def prefix_length(self, samples: Sequence[Sample]) -> int:
        """Return the number of tokens that all prompts begin with, including those of the probes.

        Each sample keeps at least one prompt token after them. Because of the probes a part of a corpus gives the same
        number as the whole: tokens that the beginning of a sentence can change are not counted.
        """
        first, last, fewest = self._probe_prompts
        shortest = len(fewest)
        for sample in samples:
            prompt = sample.prompt
            first, last, shortest = min(first, prompt), max(last, prompt), min(shortest, len(prompt))
        # in sorted order, the first and the last have the shortest common prefix
        shared = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        return min(shared, shortest - 1)

    @cached_property
    def _probe_prompts(self) -> list[list[int]]:
        """The probes' prompts that determine the common prefix of all: the first, the last and the shortest."""
        head, rests = self._prompts(PROBE_SENTENCES)
        prompts = [[*head, *rest] for rest in rests]
        return [min(prompts), max(prompts), min(prompts, key=len)]

    def _refuse_long(self, sentences: Sequence[Sentence]) -> None:
        long = [sentence.id for sentence in sentences if len(sentence.text) > self.config.max_length]
        if long:
            raise UserError(
                "encoding.max_length",
                f"{counted(len(long), 'sentence')} longer than {self.config.max_length} characters: "
                f"{first_of(long, _NAMED)}",
                "Raise encoding.max_length, or set encoding.on_too_long=truncate or skip.",
            )

    def _learnable(self, sentence: Sentence, issues: list[Issue]) -> list[Entity]:
        """Return the gold entities that the answer can contain: of a known category, and before the cut."""
        limit, entities = self.config.max_length, list[Entity]()
        for entity in sentence.entities:
            surface, category, _, end = entity
            shown = f"{surface!r} ({category})"
            inside = (
                end <= limit if end is not None else len(sentence.text) <= limit or surface in sentence.text[:limit]
            )
            if category not in self._categories:
                issues.append(Issue("inactive-category", f"{shown}: not in the training split", id=sentence.id))
            elif not inside:
                issues.append(Issue("gold-truncated", f"{shown}: the text is cut at {limit}", id=sentence.id))
            else:
                entities.append(entity)
        return entities

    def _prompts(self, texts: Sequence[str], sources: Sequence[str] | None = None) -> tuple[list[int], list[list[int]]]:
        """Tokenise the whole chat for each text, see `Prompt.filled_inputs`: what all begin with, and what follows."""
        inputs = self.prompt.filled_inputs(texts, sources)
        if self._parts is None:
            return [], self.chat.batch_prompt_ids([self.chat.write(self.prompt, text) for text in inputs])
        return self._parts.head, self._parts.rests(self.chat, inputs)

    def _find_parts(self) -> _Parts | None:
        """Split the chat around its input so that the tokens of all probes stay the same; None if impossible."""
        inputs = self.prompt.filled_inputs(PROBE_SENTENCES)
        texts = [self.chat.write(self.prompt, text) for text in inputs]
        head, _, tail = self.chat.write(self.prompt, MARKER).partition(MARKER)
        if texts != [head + text + tail for text in inputs]:
            return None  # the template changes the text
        tokens, rest = self.chat.batch_prompt_ids(texts), self.chat.before_control(tail)
        lines = [place + 1 for place, character in enumerate(head) if character == "\n"]
        for cut in lines[: -_TRIED - 1 : -1]:
            parts = _Parts(self.chat.prompt_ids(head[:cut]), head[cut:], tail[:rest], self.chat.prompt_ids(tail[rest:]))
            if [[*parts.head, *rest] for rest in parts.rests(self.chat, inputs)] == tokens:
                return parts
        return None


@dataclass(frozen=True)
class _Parts:
    """The parts around the input of a chat: tokens, text, the input, text, tokens."""

    head: list[int]
    before: str
    after: str
    tail: list[int]

    def rests(self, chat: ChatTokenizer, texts: Sequence[str]) -> list[list[int]]:
        """What follows `head` for each text."""
        found = chat.plain_ids([f"{self.before}{text}{self.after}" for text in texts])
        return [[*ids, *self.tail] for ids in found]


_FLOOR = 64  # tokens that any answer may have
_DEFAULT_RATE = 4.0  # additional tokens for each character, if train is unknown
_MIN_RATE = 0.5  # minimum of these, even if train has shorter answers
_MARGIN = 1.5  # factor over the length that train shows


def answer_rate(samples: Sequence[Sample]) -> float:
    """Return the largest of (answer tokens - 64) / (characters of the sentence) over the samples.

    `answer_limit` uses it to bound answers to new sentences.
    """
    return max((len(sample.answer) - _FLOOR) / len(sample.text) for sample in samples)


def answer_cap(longest: int | None) -> int:
    """Return the most tokens of any answer: 512, or 1.5 times the longest of train if that is more.

    Args:
        longest: tokens of train's longest answer; None = unknown.
    """
    return max(LONGEST_ANSWER, math.ceil(_MARGIN * (longest or 0)))


def answer_limit(text: str, rate: float | None, ending: int, longest: int | None = None) -> int:
    """Return the most tokens of a sensible answer about a sentence: 1.5 times what train shows.

    Args:
        text: the sentence.
        rate: `answer_rate` of train; None = unknown.
        ending: number of tokens that ending an answer needs in the worst case.
        longest: see `answer_cap`.
    """
    grows = _DEFAULT_RATE if rate is None else max(rate, _MIN_RATE) * _MARGIN
    return min(answer_cap(longest), _FLOOR + ending + math.ceil(grows * len(text)))


def describe_sample(sample: Sample, chat: ChatTokenizer, prefix_length: int) -> Iterator[str]:
    """Describe a sample for display: the decoded prompt with its shared part marked, and the tokens to learn."""
    yield f"{sample.id}: {sample.text}"
    yield f"prompt, {prefix_length} tokens that all sentences share:"
    yield chat.show(sample.prompt[:prefix_length])
    yield f"prompt, {len(sample.prompt) - prefix_length} tokens of this sentence:"
    yield chat.show(sample.prompt[prefix_length:])
    yield f"answer, {len(sample.answer)} tokens, the loss is on all of them:"
    yield " ".join(repr(chat.show(ids)) for ids in whole_characters(sample.answer, chat))


def whole_characters(ids: Sequence[int], chat: ChatTokenizer) -> Iterator[Sequence[int]]:
    """Yield tokens one by one, but together if they hold only parts of a character."""
    start = 0
    for end in range(1, len(ids) + 1):
        if "\ufffd" not in chat.show(ids[start:end]) or end == len(ids):
            yield ids[start:end]
            start = end
