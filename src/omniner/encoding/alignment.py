"""From a text to a model's inputs, with every character accounted for.

A tagger labels characters, a model may read something else. Both kinds of input answer to `TextInput`: give a text,
get named id lists. `CharacterInput` reads characters and bigrams; `TokenInput` reads subword tokens and adds, for
each character, which token covers it (`token_of`) and where in that token it stands (`place`). The two differ more
than one expects: bert-base-chinese makes one token of a run of emoji and of a Latin word with a capital, and none at
all of white space or a zero-width joiner. So characters of one token share its state and are told apart by their
place, and a character without a token has place `UNCOVERED` and no state. Offsets come from the tokenizer; nothing
is matched by spelling, so normalisation (lower case, NFC) does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from omniner.encoding.vocabulary import Vocabulary

UNCOVERED, SINGLE, FIRST, INNER, LAST = range(5)
"""Where a character stands in its token."""
PLACES = 5

Inputs = dict[str, list[int]]


class TextInput(Protocol):
    """What turns texts into the inputs of one kind of model.

    Attributes:
        kind: names the class in a checkpoint.
    """

    kind: str

    def encode(self, text: str) -> Inputs:
        """Named lists of ids; the model of the same kind knows the names."""

    def fitting(self, text: str) -> int:
        """How many characters of `text` the model can take; all of them, unless there are too many tokens."""

    def to_json(self) -> dict[str, Any]:
        """Everything `from_json` needs, in plain values."""


class CharacterInput:
    """Characters and bigrams of a `Vocabulary`; any length fits."""

    kind = "characters"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def encode(self, text: str) -> Inputs:
        """`characters`: L ids, and `bigrams`: L + 1 ids where the vocabulary has any."""
        inputs = {"characters": self.vocabulary.character_ids(text)}
        if self.vocabulary.bigrams:
            inputs["bigrams"] = self.vocabulary.bigram_ids(text)
        return inputs

    def fitting(self, text: str) -> int:
        """All of it."""
        return len(text)

    def to_json(self) -> dict[str, Any]:
        """The vocabulary, with the kind of this input."""
        return {"kind": self.kind, "vocabulary": self.vocabulary.to_json()}


class TokenInput:
    """Subword tokens of a fast tokenizer, aligned to characters.

    Args:
        tokenizer: of the `tokenizers` library; its own truncation and padding are switched off.
        max_tokens: the model's limit, its special tokens included.
    """

    kind = "tokens"

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def encode(self, text: str) -> Inputs:
        """`tokens` and `attention`: S ids and ones; `token_of` and `place`: L numbers each."""
        encoding = self.tokenizer.encode(text)
        token_of, place = align(encoding.offsets, encoding.special_tokens_mask, len(text))
        tokens = list(encoding.ids)
        return {"tokens": tokens, "attention": [1] * len(tokens), "token_of": token_of, "place": place}

    def fitting(self, text: str) -> int:
        """The longest prefix, in characters, whose tokens the model can take."""
        length = len(text)
        while True:
            encoding = self.tokenizer.encode(text[:length])
            excess = len(encoding.ids) - self.max_tokens
            if excess <= 0 or length == 0:
                return length
            real = [o for o, s in zip(encoding.offsets, encoding.special_tokens_mask, strict=True) if not s]
            # Cut before the first token that is too much. A cut text may be tokenised in another way: look again.
            length = min(real[-excess][0], length - 1) if excess <= len(real) else 0

    def to_json(self) -> dict[str, Any]:
        """The whole tokenizer as its own JSON text."""
        return {"kind": self.kind, "tokenizer": self.tokenizer.to_str(), "max_tokens": self.max_tokens}


def align(offsets: Sequence[tuple[int, int]], special: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """For each of `length` characters: the number of the token that covers it, and its place in that token.

    For `Hi 好` and the tokens `[CLS] Hi 好 [SEP]` this gives `token_of = [1, 1, 0, 2]` and
    `place = [FIRST, LAST, UNCOVERED, SINGLE]`; the token number of an uncovered character means nothing. Where
    several tokens cover a character (the bytes of a rare one), the first has it.
    """
    token_of, place = [0] * length, [UNCOVERED] * length
    for number, ((start, end), is_special) in enumerate(zip(offsets, special, strict=True)):
        if is_special:
            continue
        free = [at for at in range(start, end) if place[at] == UNCOVERED]
        for at in free:
            token_of[at] = number
            place[at] = FIRST if at == free[0] else LAST if at == free[-1] else INNER
        if len(free) == 1:
            place[free[0]] = SINGLE
    return token_of, place


def character_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """A BERT-like tokenizer whose tokens are the characters of `vocabulary`: for models built from nothing."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *vocabulary.characters]
    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer


def from_json(item: dict[str, Any]) -> TextInput:
    """Rebuild the input that a checkpoint holds."""
    if item["kind"] == CharacterInput.kind:
        return CharacterInput(Vocabulary.from_json(item["vocabulary"]))
    return TokenInput(Tokenizer.from_str(item["tokenizer"]), item["max_tokens"])
