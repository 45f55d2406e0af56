"""Build a causal language model with random weights, and its tokenizer from the training sentences and the prompt.

Such a model must learn to copy characters and to choose a category, so its byte-level BPE tokenizer splits texts for
that task:

- a character of a sentence is one token, never merged with its neighbours: copying is then one token at a time, and a
  mention has the same tokens in the sentence and in the answer. Characters seen once are left to the bytes, so that
  spelling by bytes is learnt as well and an unknown character of the test set can be copied, too;
- a category with its quotes is one token, and so is each run of brackets and commas between the strings of an answer;
- a clause of the prompt is one token (unless a training sentence contains it): the prompt is the same for every
  sentence, so its length only adds cost.

It has the ordinary format of GPT-2 and Qwen (vocabulary, merges of bytes within one character, added tokens), because
some loaders keep only those parts of `tokenizer.json` and replace our pre-tokenizer by that of the model's family: the
tokens do not depend on it. Decoding its tokens always gives the original text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from omniner.config.model_groups import CausalConfig
from omniner.errors import UserError, one_line
from omniner.llm.prompts import SENTENCE, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def random_model(
    config: CausalConfig, prompt: Prompt, texts: Iterable[str], dtype: torch.dtype, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Build a model with random weights, and its tokenizer from a corpus.

    Args:
        config: `architecture` holds keys of a transformers configuration; `vocabulary` limits the tokenizer.
        prompt: its texts and categories get tokens.
        texts: training sentences.
        dtype: of the weights.
        seed: of the weights.

    Raises:
        UserError: the architecture is not valid, or the vocabulary is too small.
    """
    if "model_type" not in config.architecture:
        raise UserError(
            "model.architecture",
            "model.path is null and there is no model_type to build a random model of",
            "Set model.path to a pretrained model, or model.architecture.model_type (qwen2).",
        )
    tokenizer = build_corpus_tokenizer(texts, prompt, config.vocabulary)
    values = {
        **config.architecture,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):  # the model is created on the CPU: no GPU's generator is used
        torch.default_generator.manual_seed(seed)
        try:
            model = build_from_config(values, dtype)
        except Exception as error:  # of many types: each configuration class checks in its own way
            raise UserError(
                "model.architecture",
                f"no language model can be built of it ({one_line(error)})",
                "Use keys of the transformers configuration of that model_type.",
            ) from error
    return model, tokenizer


def build_from_config(values: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """Build a model with random weights from the values of its configuration, and run it once."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(values)
    settings = AutoConfig.for_model(values.pop("model_type"), **values)
    model = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=False)
    with torch.no_grad():
        model(torch.zeros(1, 2, dtype=torch.long))  # sizes that do not match raise only here
    return model


PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_JSON = ('[["', '", ', '], ["', "]]", '",', '],["')  # both answer styles; a category's token has its own quotes
_ROLES = ("system\n", "user\n", "assistant\n")
_MIN_COUNT = 2  # number of occurrences from which a character gets its own token
_MIN_CLAUSE = 4  # characters: a shorter clause may well occur in a sentence
_CLAUSE_SHARE = 4  # clauses take at most this fraction (1 / 4) of the entries left for them and the characters
_CLAUSE = re.compile(r"[^，。；：、！？,.;:!?\n]*[，。；：、！？,.;:!?\n]*")
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
Merge = tuple[str, str]


def build_corpus_tokenizer(texts: Iterable[str], prompt: Prompt, vocabulary: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a corpus; the same input always gives the same tokenizer.

    Args:
        texts: training sentences.
        prompt: its texts and categories get tokens.
        vocabulary: largest number of entries; more frequent ones come first.

    Raises:
        UserError: `vocabulary` has no room for the bytes, the control tokens and the parts of an answer.
    """
    from transformers import PreTrainedTokenizerFast

    texts = list(texts)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    categories = (json.dumps(category, ensure_ascii=False) for category in prompt.categories)  # as in an answer
    fixed = list(dict.fromkeys([*_JSON, *_ROLES, *categories]))
    needed = len(alphabet) + len(fixed) + len((PAD, START, END))
    if vocabulary < needed:
        raise UserError(
            "model.vocabulary",
            f"{vocabulary}, but bytes, control tokens and {len(prompt.categories)} categories alone are {needed}",
            f"Set it to {needed} and as many as characters shall be known; a few thousand for Chinese.",
        )
    # the whole prompt except the sentence
    parts = [prompt.system, prompt.instruction + "\n", *prompt.input.split(SENTENCE)]
    clauses = find_clauses(parts, texts)[: (vocabulary - needed) // _CLAUSE_SHARE]
    room = vocabulary - needed - len(clauses)
    characters = frequent_characters(texts, [*fixed, *parts])
    tokenizer = byte_level_tokenizer(alphabet, character_merges(characters, room))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, START, END)])
    tokenizer.add_tokens([AddedToken(item, normalized=False) for item in [*fixed, *clauses] if is_decodable(item)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHATML_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def byte_level_tokenizer(alphabet: Sequence[str], merges: Sequence[Merge]) -> Tokenizer:
    """Build BPE over the 256 bytes (`alphabet`, in GPT-2's printable form) with these merges."""
    entries = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({entry: number for number, entry in enumerate(entries)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated"), _BYTES]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def frequent_characters(texts: Iterable[str], prompt_texts: Iterable[str]) -> list[str]:
    """Return characters of several bytes, the most frequent first; those of the prompt count as frequent enough."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    for character in set("".join(prompt_texts)):
        counts[character] += _MIN_COUNT
    known = (item for item, count in counts.items() if count >= _MIN_COUNT and item >= "\x80")
    encodable = [item for item in known if not "\ud800" <= item <= "\udfff"]  # half of a surrogate pair has no bytes
    return sorted(encodable, key=lambda item: (-counts[item], item))


def character_merges(characters: Iterable[str], room: int) -> list[Merge]:
    """Return merges that make each character one token, byte by byte from the left; at most `room` of them.

    No merge crosses the end of a character: the right part of each is a byte that never begins one.
    """
    merges: dict[Merge, None] = {}
    for character in characters:
        spelt = _BYTES.pre_tokenize_str(character)[0][0]
        steps = [(spelt[:size], spelt[size]) for size in range(1, len(spelt))]
        new = [step for step in steps if step not in merges]
        if len(merges) + len(new) <= room:
            merges.update(dict.fromkeys(new))
    return list(merges)


def find_clauses(prompt_texts: Iterable[str], texts: Sequence[str]) -> list[str]:
    """Return clauses of the prompt, the longest first; none that a training sentence contains, where it would be
    merged.
    """
    corpus = "\n".join(texts)
    pieces = {piece for text in prompt_texts for piece in _CLAUSE.findall(text)}
    # a quote: part of an example answer, whose mention must have the same tokens as in a sentence
    fit = [item for item in pieces if len(item) >= _MIN_CLAUSE and '"' not in item and item.strip() not in corpus]
    return sorted(fit, key=lambda piece: (-len(piece), piece))


def is_decodable(token: str) -> bool:
    """Return whether the byte-level decoder restores an added token; it would treat text of only Latin-1 letters as
    bytes.
    """
    decoded: str = decoders.ByteLevel().decode([token])
    return decoded == token
