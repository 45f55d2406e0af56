"""A tokenizer made from a corpus and a prompt, for language models that start from random weights.

In go the training sentences and the prompt, out comes a byte-level BPE tokenizer. What such a model has to learn is to
copy characters and to choose a category, so the pieces of text are cut along that task:

- a character of a sentence is one token, never merged with its neighbours: copying is then one token at a time, and a
  mention is the same tokens in the sentence and in the answer. Characters seen once are left to the bytes, so that
  spelling by bytes is learnt as well and an unknown character of the test set can be copied too;
- a category with its quotes is one token, and so is each run of brackets and commas between the strings of an answer;
- a clause of the prompt is one token (unless a training sentence holds it): the prompt is the same for every sentence,
  all that its length brings is cost.

It is the ordinary format of GPT-2 and Qwen (vocabulary, merges of bytes within one character, added tokens), because
some loaders keep only those parts of `tokenizer.json` and put the pre-tokenizer of a model's family in place of ours:
the tokens do not depend on it. Every text comes back from its tokens as it was.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from omniner.encoding.prompts import SENTENCE, Prompt
from omniner.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_JSON = ('[["', '", ', '], ["', "]]", '",', '],["')  # both answer styles; the quotes of a category are its own
_ROLES = ("system\n", "user\n", "assistant\n")
_MIN_COUNT = 2  # times a character must be seen to get a token of its own
_MIN_CLAUSE = 4  # characters: a shorter clause may well stand in a sentence
_CLAUSE_SHARE = 4  # clauses take at most one in so many of the entries that are left for them and the characters
_CLAUSE = re.compile(r"[^，。；：、！？,.;:!?\n]*[，。；：、！？,.;:!?\n]*")
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

Merge = tuple[str, str]


def build(texts: Iterable[str], prompt: Prompt, vocabulary: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a corpus; the same input always makes the same one.

    Args:
        texts: training sentences.
        prompt: whose texts and categories get tokens.
        vocabulary: most entries; what is more frequent comes first.

    Raises:
        UserError: `vocabulary` has no room for the bytes, the control tokens and the parts of an answer.
    """
    from transformers import PreTrainedTokenizerFast

    texts = list(texts)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fixed = list(dict.fromkeys([*_JSON, *_ROLES, *map(_quoted, prompt.categories)]))
    needed = len(alphabet) + len(fixed) + len((PAD, START, END))
    if vocabulary < needed:
        raise UserError(
            "model.vocabulary",
            f"{vocabulary}, but bytes, control tokens and {len(prompt.categories)} categories alone are {needed}",
            f"Set it to {needed} and as many as characters shall be known; a few thousand for Chinese.",
        )
    clauses = _clauses(prompt, texts)[: (vocabulary - needed) // _CLAUSE_SHARE]
    room = vocabulary - needed - len(clauses)
    tokenizer = _byte_level(alphabet, _merges(_characters(texts, [*fixed, *_prompt_texts(prompt)]), room))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, START, END)])
    tokenizer.add_tokens([AddedToken(item, normalized=False) for item in [*fixed, *clauses] if _decodable(item)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _byte_level(alphabet: Sequence[str], merges: Sequence[Merge]) -> Tokenizer:
    """BPE over the 256 bytes (`alphabet`, in GPT-2's printable form) with these merges."""
    entries = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({entry: number for number, entry in enumerate(entries)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated"), _BYTES]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _characters(texts: Iterable[str], prompt_texts: Iterable[str]) -> list[str]:
    """Characters of several bytes, the most frequent first; those of the prompt count as frequent enough."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    for character in set("".join(prompt_texts)):
        counts[character] += _MIN_COUNT
    known = [item for item, count in counts.items() if count >= _MIN_COUNT and item >= "\x80" and not _surrogate(item)]
    return sorted(known, key=lambda item: (-counts[item], item))


def _merges(characters: Iterable[str], room: int) -> list[Merge]:
    """Merges that make each character one token, first byte by byte from the left; at most `room` of them.

    No merge reaches over the end of a character: the right part of each is a byte that never begins one.
    """
    merges: dict[Merge, None] = {}
    for character in characters:
        spelt = _BYTES.pre_tokenize_str(character)[0][0]
        steps = [(spelt[:size], spelt[size]) for size in range(1, len(spelt))]
        new = [step for step in steps if step not in merges]
        if len(merges) + len(new) <= room:
            merges.update(dict.fromkeys(new))
    return list(merges)


def _clauses(prompt: Prompt, texts: Sequence[str]) -> list[str]:
    """Clauses of the prompt, the longest first; none that a training sentence holds, where they would be merged."""
    corpus = "\n".join(texts)
    pieces = {piece for text in _prompt_texts(prompt) for piece in _CLAUSE.findall(text)}
    # A quote: part of an example answer, whose mention must stay what it is in a sentence.
    fit = [item for item in pieces if len(item) >= _MIN_CLAUSE and '"' not in item and item.strip() not in corpus]
    return sorted(fit, key=lambda piece: (-len(piece), piece))


def _quoted(category: str) -> str:
    """A category as an answer writes it."""
    return json.dumps(category, ensure_ascii=False)


def _prompt_texts(prompt: Prompt) -> list[str]:
    """Everything of the prompt that is not the sentence."""
    return [prompt.system, prompt.instruction + "\n", *prompt.input.split(SENTENCE)]


def _decodable(token: str) -> bool:
    """Whether the byte-level decoder gives an added token back: one of only Latin-1 letters it would take for bytes."""
    decoded: str = decoders.ByteLevel().decode([token])
    return decoded == token


def _surrogate(character: str) -> bool:
    """Half of a pair: no bytes stand for it."""
    return "\ud800" <= character <= "\udfff"
