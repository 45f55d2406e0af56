"""Convert a text to a model's ids, keeping track of every character.

A tagger labels characters, but a model may read something else. `TextInput` returns named id lists of a text:
`CharacterInput` reads characters and bigrams. `TokenInput` reads subword tokens and adds, for each character, the token
that covers it (`token_of`) and its position in that token (`place`). Tokens and characters differ more than one
expects. bert-base-chinese makes one token of a run of emoji and of a Latin word with a capital, and none of white space
or a zero-width joiner. XLM-R's kind makes one token of a common word, joins a space to the word after it and puts an
empty word mark before the first character. Byte-level tokenizers cut a rare character into several tokens. So
characters of one token share its state and are distinguished by their position, and a character without a token has
place `UNCOVERED` and no token state. Offsets come from the tokenizer; nothing is matched by spelling, so normalisation
(lower case, NFC, full width) does no harm. If two neighbouring characters still look the same to the model, a gold
mention that begins or ends between them is an issue (`unclear-boundary`).

The tokenizer's own normalisation applies as it declares it. That is not enough: bert-base-chinese declares no lower
case, but has no capital letter, so that a word like `Hello` would be `[UNK]`; one of fifteen mentions of CLUENER holds
one. So a character that the vocabulary lacks is read in a similar form that it has (`similar_forms`): one character for
one, so offsets stay. Curly quotes, emoji and rare characters stay `[UNK]`, as in the pretraining of the encoder.

A `Vocabulary` has one id per character of the training texts and one per pair of neighbours, including the two edges of
a text (L characters have L + 1 bigrams). Ids follow the code points, so the same text always gives the same ids.
Bigrams are most of a small model's parameters (about 40 thousand for CLUENER) and worth it: without pretrained weights
they are the only evidence of word boundaries.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

from tokenizers import Encoding, Regex, Tokenizer, models, pre_tokenizers, processors

UNCOVERED, SINGLE, FIRST, INNER, LAST = range(5)
"""Position of a character in its token; INNER is the second of three or more."""
PLACES = 16
"""The positions above, then those of the third character, the fourth and so on; the last covers all further ones."""
_PLACES_BEFORE = 5  # of checkpoints without a number: all between the first and the last character were INNER

_SURROGATE = re.compile("[\ud800-\udfff]")
_UNKNOWN_OF_UNIGRAM = re.compile(r'"unk_id":(\d+)')

Inputs = dict[str, list[int]]


class TextInput(Protocol):
    """The interface that converts texts to the inputs of one kind of model.

    Attributes:
        kind: names the class in a checkpoint.
    """

    kind: str

    def encode(self, text: str) -> Inputs:
        """Return named lists of ids; the model of the same kind knows the names."""

    def encode_fitting(self, text: str) -> tuple[Inputs, int]:
        """Encode as much of `text` as the model can read; all of it, unless there are too many tokens.

        Returns:
            The result of `encode` for that part, and its number of characters.
        """

    def is_clear(self, inputs: Inputs, at: int) -> bool:
        """Return whether the model can distinguish the characters before and at `at`; text ends are clear."""

    def unknown(self, inputs: Inputs) -> list[int]:
        """Return the positions of the characters that the model reads as `[UNK]`, without having been trained to."""

    def to_json(self) -> dict[str, Any]:
        """Return everything that `text_input_from_json` needs, as plain values."""


class CharacterInput:
    """Characters and bigrams of a `Vocabulary`; any length fits."""

    kind = "characters"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def encode(self, text: str) -> Inputs:
        """Return `characters`, L ids, and `bigrams`, L + 1 ids, if the vocabulary has any."""
        inputs = {"characters": self.vocabulary.character_ids(text)}
        if self.vocabulary.bigrams:
            inputs["bigrams"] = self.vocabulary.bigram_ids(text)
        return inputs

    def encode_fitting(self, text: str) -> tuple[Inputs, int]:
        """Encode all of the text."""
        return self.encode(text), len(text)

    def is_clear(self, inputs: Inputs, at: int) -> bool:
        """Return True: each character has its own state."""
        return True

    def unknown(self, inputs: Inputs) -> list[int]:
        """Return none: rare characters of the training text, and `unk_dropout`, teach the model what `[UNK]` means."""
        return []

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary, with the kind of this input."""
        return {"kind": self.kind, "vocabulary": self.vocabulary.to_json()}


PAD, UNKNOWN = 0, 1
_FIRST_ID = 2
# Stands for the outside at both edges of a text. It is a control character, so no bigram of real text equals it.
EDGE = "\x02"


class Vocabulary:
    """Ids of characters and bigrams; id 0 is padding, id 1 is unknown.

    Ids follow the code points, not the order of the corpus or of a hash: the same text always gives the same ids.

    Attributes:
        characters: known characters; the id of the first is 2.
        bigrams: known bigrams, likewise; empty if a model has no bigram embeddings.
    """

    def __init__(self, characters: Sequence[str], bigrams: Sequence[str]) -> None:
        self.characters, self.bigrams = tuple(characters), tuple(bigrams)
        self._character_ids = {item: number for number, item in enumerate(self.characters, _FIRST_ID)}
        self._bigram_ids = {item: number for number, item in enumerate(self.bigrams, _FIRST_ID)}

    @classmethod
    def build(cls, texts: Iterable[str], min_count: int, bigrams: bool) -> Vocabulary:
        """Collect what occurs at least `min_count` times in `texts`."""
        characters: Counter[str] = Counter()
        pairs: Counter[str] = Counter()
        for text in texts:
            characters.update(text)
            if bigrams:
                pairs.update(_pairs(text))
        return cls(_frequent(characters, min_count), _frequent(pairs, min_count))

    @property
    def character_rows(self) -> int:
        """The number of rows of an embedding table of the characters."""
        return _FIRST_ID + len(self.characters)

    @property
    def bigram_rows(self) -> int:
        """The number of rows of an embedding table of the bigrams."""
        return _FIRST_ID + len(self.bigrams)

    def character_ids(self, text: str) -> list[int]:
        """Return one id per character."""
        return [self._character_ids.get(character, UNKNOWN) for character in text]

    def bigram_ids(self, text: str) -> list[int]:
        """Return one id per pair of neighbours, including the edges: `len(text) + 1` ids."""
        return [self._bigram_ids.get(pair, UNKNOWN) for pair in _pairs(text)]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, to be stored in a checkpoint."""
        return {"characters": list(self.characters), "bigrams": list(self.bigrams)}

    @classmethod
    def from_json(cls, item: dict[str, Any]) -> Vocabulary:
        """Rebuild a vocabulary from the result of `to_json`."""
        return cls(item["characters"], item["bigrams"])


def _pairs(text: str) -> Iterable[str]:
    return map(str.__add__, EDGE + text, text + EDGE)


def _frequent(counts: Counter[str], min_count: int) -> list[str]:
    return sorted(item for item, count in counts.items() if count >= min_count)


class TokenInput:
    """Subword tokens of a fast tokenizer, aligned to characters.

    Args:
        tokenizer: of the `tokenizers` library; its own truncation and padding are switched off.
        max_tokens: the model's limit, including special tokens.
        places: number of positions in a token that the model distinguishes.
        folds: whether a character that the vocabulary lacks is read in a similar form that it has.
    """

    kind = "tokens"

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, places: int = PLACES, folds: bool = False) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # `[SEP]` or `</s>` in a text means these characters
        self.tokenizer, self.max_tokens, self.places, self.folds = tokenizer, max_tokens, places, folds
        self._forms: dict[str, str] = {}  # of the characters seen so far

    def encode(self, text: str) -> Inputs:
        """Return `tokens` and `attention`, S ids and ones, and `token_of` and `place`, L numbers each."""
        return self._aligned(text, self._encoding(text))

    def _aligned(self, text: str, encoding: Encoding) -> Inputs:
        pairs = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        covers = [(0, 0) if special else offsets for offsets, special in pairs]
        token_of, place = align_tokens(text, encoding.tokens, covers, self.places)
        tokens = list(encoding.ids)
        return {"tokens": tokens, "attention": [1] * len(tokens), "token_of": token_of, "place": place}

    def encode_fitting(self, text: str) -> tuple[Inputs, int]:
        """Encode the longest prefix whose tokens the model can read; return its length in characters."""
        length = len(text)
        while True:
            encoding = self._encoding(text[:length])
            excess = len(encoding.ids) - self.max_tokens
            if excess <= 0 or length == 0:
                return self._aligned(text[:length], encoding), length
            real = [o for o, s in zip(encoding.offsets, encoding.special_tokens_mask, strict=True) if not s]
            # Cut before the first excess token. A cut text may be tokenised differently, so check again.
            length = min(real[-excess][0], length - 1) if excess <= len(real) else 0

    def _encoding(self, text: str) -> Encoding:
        """Tokenise a text; half of a surrogate pair, which is not a character, is replaced by U+FFFD."""
        text = _SURROGATE.sub("\ufffd", text)
        if self.folds:
            text = "".join([self._forms.get(character) or self._find_form(character) for character in text])
        return self.tokenizer.encode(text)

    def _find_form(self, character: str) -> str:
        """Return the form in which a character is read: its own if the vocabulary has it, or has no similar one."""
        found = character
        if not self._knows(character):
            known = (form for form in similar_forms(character) if self._knows(form))
            found = next(known, character)
        self._forms[character] = found
        return found

    def _knows(self, character: str) -> bool:
        """Whether the vocabulary has a character, as a word and as a part of one."""
        texts = (character, character * 2)
        return all(self._unknown_id not in self.tokenizer.encode(text, add_special_tokens=False).ids for text in texts)

    @cached_property
    def _unknown_id(self) -> int | None:
        """The id of `[UNK]`; None if the tokenizer can write everything, as those that work on bytes can."""
        model = self.tokenizer.model
        if not isinstance(model, models.Unigram):
            name = model.unk_token
            return None if name is None else self.tokenizer.token_to_id(name)
        # Only its text has the number, and parsing 250,000 pieces takes 0.2 s or more. The pieces stand in a list, so
        # nothing else looks like this key.
        found = _UNKNOWN_OF_UNIGRAM.search(self.tokenizer.to_str())
        return int(found[1]) if found else None

    def is_clear(self, inputs: Inputs, at: int) -> bool:
        """Return whether the two characters have different tokens or positions."""
        places, tokens = inputs["place"], inputs["token_of"]
        if not 0 < at < len(places):
            return True
        same_token = tokens[at - 1] == tokens[at] or places[at] == UNCOVERED
        return places[at - 1] != places[at] or not same_token

    def unknown(self, inputs: Inputs) -> list[int]:
        """Return the positions of the characters whose token is `[UNK]`."""
        tokens, pairs = inputs["tokens"], zip(inputs["token_of"], inputs["place"], strict=True)
        return [
            at for at, (token, place) in enumerate(pairs) if place != UNCOVERED and tokens[token] == self._unknown_id
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the whole tokenizer as its own JSON text; `folds` only if true, as older checkpoints lack it."""
        tokenizer = self.tokenizer.to_str()
        item = {"kind": self.kind, "tokenizer": tokenizer, "max_tokens": self.max_tokens, "places": self.places}
        return {**item, "folds": True} if self.folds else item


def similar_forms(character: str) -> Iterator[str]:
    """Yield single characters that mean nearly the same, the most similar first: of `É` these are `é`, `E` and `e`.

    They are the lower case, the compatibility form (half width) and the letter without its marks, these two also in
    lower case.
    """
    plain = unicodedata.normalize("NFKC", character)
    bare = "".join(each for each in unicodedata.normalize("NFKD", character) if not unicodedata.combining(each))
    for form in (character.lower(), plain, plain.lower(), bare, bare.lower()):
        if len(form) == 1 and form != character:
            yield form


_WORD_MARK = "\u2581\u0120"  # how SentencePiece and byte-level tokenizers write the space before a word


def align_tokens(
    text: str, tokens: Sequence[str], offsets: Sequence[tuple[int, int]], places: int
) -> tuple[list[int], list[int]]:
    """Find for each character of a text the token that covers it, and its position in that token.

    For `Hi 好` and the tokens `[CLS] Hi 好 [SEP]` this returns `token_of = [1, 1, 0, 2]` and `place = [FIRST, LAST,
    UNCOVERED, SINGLE]`; the token number of an uncovered character has no meaning. If several tokens cover a character
    (the bytes of a rare one), the first has it, but an empty word mark has it only if no other token does. White space
    at the start of a token does not count as its first character: a word looks the same with and without it.

    Args:
        text: L characters.
        tokens: as the tokenizer writes them.
        offsets: the span of each token in the text; empty for special ones.
        places: number of positions.

    Returns:
        L token numbers and L positions.
    """
    token_of, place = [0] * len(text), [UNCOVERED] * len(text)
    inner = [INNER, *range(LAST + 1, places)]
    numbers = sorted(range(len(tokens)), key=lambda number: not tokens[number].strip(_WORD_MARK))
    for number in numbers:
        start, end = offsets[number]
        while start < end - 1 and _is_blank(text[start]):
            start += 1
        free = [at for at in range(start, end) if place[at] == UNCOVERED]
        for index, at in enumerate(free):
            token_of[at] = number
            if len(free) == 1:
                place[at] = SINGLE
            elif index == 0:
                place[at] = FIRST
            elif index == len(free) - 1:
                place[at] = LAST
            else:
                place[at] = inner[min(index, len(inner)) - 1]
    return token_of, place


def _is_blank(character: str) -> bool:
    """Whether a character is white space or treated as such by tokenizers: zero-width and control characters."""
    return unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf")


def character_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Build a BERT-like tokenizer whose tokens are the characters of `vocabulary`, for models built from scratch."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *vocabulary.characters]
    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer


def text_input_from_json(item: dict[str, Any]) -> TextInput:
    """Rebuild the input that a checkpoint holds."""
    if item["kind"] == CharacterInput.kind:
        return CharacterInput(Vocabulary.from_json(item["vocabulary"]))
    places = item.get("places", _PLACES_BEFORE)
    tokenizer, folds = Tokenizer.from_str(item["tokenizer"]), item.get("folds", False)
    return TokenInput(tokenizer, item["max_tokens"], places, folds)
