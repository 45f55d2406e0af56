"""From sentences to samples of a causal model: prompt and answer tokens, and an issue for all that is lost.

A sentence that is too long (`encoding.max_length` characters) is a mistake, is left out or is cut, as
`encoding.on_too_long` says; gold beyond the cut is no part of the answer. The instruction before the sentence is the
same for all and is tokenised once. That this gives the same tokens as the whole text is tried out on probe sentences
with awkward beginnings and ends; where it does not, whole texts are tokenised, at eight times the cost. Control tokens
that a sentence spells out are text, except in whole texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from omniner.answers import write_answer
from omniner.config.model_groups import EncodingConfig
from omniner.errors import UserError
from omniner.llm.chat import ChatTokenizer
from omniner.llm.prompts import Prompt
from omniner.records import Entity, Issue, Sentence, replace_surrogates

_AWKWARD = (
    *("北京", "我去", "的", "2024年", "Hello", "iPhone 15", "éa", "e\u0301a", "\u0301a", "𠮷野家", "か", "한국"),
    *(
        " 空格",
        "\u3000全角",
        "\t表",
        "\n换行",
        "\r\n换行",
        "，逗号",
        "。",
        "“引”",
        '"quoted"',
        "'s",
        "《书》",
        "：冒号",
    ),
    *(":b", "#话题#", "@我", "[赞]", "{a}", "(a", "（括", "…", "~", "-1", "+1", "￥99", "$9", "%", "/", "\\n", "<b>"),
    *("👶🏻", "❤️", "\u200d", "\ufeff", "①", "!", "！", "?", "*", "_", "=", "|", "&", "^", ".5", ";", "`", "\x00"),
    *("北京 ", " 北京\u3000", "北京\n"),
)
PROBE_SENTENCES = tuple(dict.fromkeys([*_AWKWARD, *(text[0] for text in _AWKWARD)]))
"""Sentences whose first and last characters may merge with what stands around them, or be stripped."""

_MARK = "X0sentence0X"  # a text that no prompt holds
_TRIED = 4  # places before the sentence where the text may be parted


@dataclass(slots=True)
class Sample:
    """One sentence, ready for a causal model.

    Attributes:
        id: of the sentence.
        text: what the model sees of the sentence; shorter than it where it was cut.
        prompt: token ids of the whole chat up to the answer.
        answer: token ids of the gold answer and of what ends it.
        gold: every gold entity of the sentence, also those beyond a cut.
    """

    id: str
    text: str
    prompt: list[int]
    answer: list[int]
    gold: list[Entity]


class PromptEncoder:
    """Encodes sentences for one model and one prompt.

    Args:
        chat: tokenizer and template.
        prompt: what the model is told.
        config: limits of length, in characters.
    """

    def __init__(self, chat: ChatTokenizer, prompt: Prompt, config: EncodingConfig) -> None:
        self.chat, self.prompt, self.config = chat, prompt, config
        self._categories = frozenset(prompt.categories)
        self._parts = self._find_parts()

    def encode(self, sentences: Iterable[Sentence]) -> tuple[list[Sample], list[Issue]]:
        """Encode sentences.

        Returns:
            samples in the order of the sentences, and issues; one names each sentence that is left out.

        Raises:
            UserError: a sentence is too long, where that is a mistake.
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
            answers.append(replace_surrogates(write_answer(self._learnable(sentence, issues), self.prompt.answer)))
        prompts, written = self._prompts(texts), self.chat.plain_ids(answers)
        samples = [
            Sample(sentence.id, text, prompt, [*answer, *self.chat.end], sentence.entities)
            for sentence, text, prompt, answer in zip(kept, texts, prompts, written, strict=True)
        ]
        return samples, issues

    def prefix_length(self, samples: Sequence[Sample]) -> int:
        """Count the tokens that all prompts begin with, those of the probes included.

        Each sample keeps at least one prompt token after them. The probes see to it that a part of a corpus gives the
        same number as the whole: tokens that the beginning of a sentence can change are not counted.
        """
        prompts = [*self._prompts(PROBE_SENTENCES), *(sample.prompt for sample in samples)]
        first, last = min(prompts), max(prompts)  # in sorted order, these two differ first
        shared = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        return min(shared, min(map(len, prompts)) - 1)

    def _refuse_long(self, sentences: Sequence[Sentence]) -> None:
        long = [sentence.id for sentence in sentences if len(sentence.text) > self.config.max_length]
        if long:
            names = ", ".join(long[:10]) + (", ..." if len(long) > 10 else "")
            raise UserError(
                "encoding.max_length",
                f"{len(long)} sentences are longer than {self.config.max_length} characters: {names}",
                "Raise encoding.max_length, or set encoding.on_too_long=truncate or skip.",
            )

    def _learnable(self, sentence: Sentence, issues: list[Issue]) -> list[Entity]:
        """Select the gold that the answer can hold: of a known category, and before the cut."""
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

    def _prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise the whole chat for each text."""
        if self._parts is None:
            return self.chat.prompts_ids([self.chat.text(self.prompt, text) for text in texts])
        return self._parts.prompts(self.chat, texts)

    def _find_parts(self) -> _Parts | None:
        """Part the chat around its sentence where the tokens of all probes stay what they are; None if nowhere."""
        texts = [self.chat.text(self.prompt, probe) for probe in PROBE_SENTENCES]
        head, _, tail = self.chat.text(self.prompt, _MARK).partition(_MARK)
        if texts != [head + probe + tail for probe in PROBE_SENTENCES]:
            return None  # the template does something to the text
        tokens, rest = self.chat.prompts_ids(texts), self.chat.before_control(tail)
        lines = [place + 1 for place, character in enumerate(head) if character == "\n"]
        for cut in lines[: -_TRIED - 1 : -1]:
            parts = _Parts(self.chat.prompt_ids(head[:cut]), head[cut:], tail[:rest], self.chat.prompt_ids(tail[rest:]))
            if parts.prompts(self.chat, PROBE_SENTENCES) == tokens:
                return parts
        return None


@dataclass(frozen=True)
class _Parts:
    """What stands around the sentence of a chat: tokens, text, the sentence, text, tokens."""

    head: list[int]
    before: str
    after: str
    tail: list[int]

    def prompts(self, chat: ChatTokenizer, texts: Sequence[str]) -> list[list[int]]:
        found = chat.plain_ids([f"{self.before}{text}{self.after}" for text in texts])
        return [[*self.head, *ids, *self.tail] for ids in found]


def describe_sample(sample: Sample, chat: ChatTokenizer, prefix: int) -> Iterator[str]:
    """Show a sample to people: the decoded prompt with its shared part marked, and the tokens to learn."""
    yield f"{sample.id}: {sample.text}"
    yield f"prompt, {prefix} tokens that all sentences share:"
    yield chat.show(sample.prompt[:prefix])
    yield f"prompt, {len(sample.prompt) - prefix} tokens of this sentence:"
    yield chat.show(sample.prompt[prefix:])
    yield f"answer, {len(sample.answer)} tokens, the loss is on all of them:"
    yield " ".join(repr(chat.show(ids)) for ids in whole_characters(sample.answer, chat))


def whole_characters(ids: Sequence[int], chat: ChatTokenizer) -> Iterator[Sequence[int]]:
    """Give out tokens one by one, those that hold only a part of a character together."""
    start = 0
    for end in range(1, len(ids) + 1):
        if "\ufffd" not in chat.show(ids[start:end]) or end == len(ids):
            yield ids[start:end]
            start = end
