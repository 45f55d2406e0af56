"""Chats to test with: public tokenizers of `../shared`, and small ones of each construction, made here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from omniner.convert.tokenizer import build_tokenizer
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.prompts import Prompt

PUBLIC = ("qwen2", "qwen2.5", "qwen3", "internlm2", "baichuan2")
SMALL = ("bytes", "prepend", "metaspace")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BAICHUAN = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}<reserved_106>{{ message['content'] }}"
    "{% else %}<reserved_107>{{ message['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<reserved_107>{% endif %}"
)
_CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
_SPACE = "▁"


def chat_text(chat: ChatTokenizer, prompt: Prompt, sentence: str) -> str:
    """The whole chat for a sentence, up to where the answer begins."""
    return chat.write(prompt, prompt.filled_inputs([sentence])[0])


@lru_cache
def public(shared: Path, name: str) -> ChatTokenizer:
    """The chat of a public model."""
    folder = shared / "tokenizers" / name
    if name == "internlm2":
        names = {92542: "<|im_end|>", 92543: "<|im_start|>"}
        return _converted(folder / "tokenizer.model", names, "{{ bos_token }}" + CHATML, "<|im_end|>")
    if name == "baichuan2":
        names = {195: "<reserved_106>", 196: "<reserved_107>"}
        return _converted(folder / "tokenizer.model", names, BAICHUAN, "</s>")
    return ChatTokenizer(AutoTokenizer.from_pretrained(folder), None)


@lru_cache
def small(name: str) -> ChatTokenizer:
    """A chat whose tokenizer has bytes and the merges of a few words."""
    words = ["句子", "北京", "[[", '["', '",', '"]', "]]", "实体", "：北", "\n\n"]
    if name == "bytes":
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        spelt = ["".join(piece for piece, _ in byte_level.pre_tokenize_str(word)) for word in words]
        vocabulary, merges = _merged(alphabet, spelt)
        tokenizer = Tokenizer(models.BPE(vocabulary, merges))
        tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
        return _chat(tokenizer, _CHATML_TOKENS, CHATML, "<|im_end|>")
    characters = sorted({*"".join(words), _SPACE, *map(chr, range(33, 127))})
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    vocabulary, merges = _merged(pieces, [*words, f'{_SPACE}"', f"{_SPACE}["])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if name == "prepend":  # Llama's older way: a space before each stretch between control tokens
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    else:  # the newer one: a space before the whole text
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=False)
    unspaced = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(unspaced)
    return _chat(tokenizer, ["<s>", "</s>", *_CHATML_TOKENS], "{{ bos_token }}" + CHATML, "</s>")


def _merged(alphabet: list[str], words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary with the words, each grown from its left."""
    pieces, merges = dict.fromkeys(alphabet), dict[tuple[str, str], None]()
    for word in words:
        for end in range(2, len(word) + 1):
            merges[word[: end - 1], word[end - 1]] = None
            pieces[word[:end]] = None
    return {piece: number for number, piece in enumerate(pieces)}, list(merges)


def _chat(tokenizer: Tokenizer, controls: list[str], template: str, end: str) -> ChatTokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in controls])
    begin = {"bos_token": "<s>"} if "<s>" in controls else {}
    return ChatTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, **begin), template)


def _converted(path: Path, names: dict[int, str], template: str, end: str) -> ChatTokenizer:
    """A model of the SentencePiece kind, with the special tokens that its chats need."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(path, names), bos_token="<s>", eos_token=end)
    return ChatTokenizer(tokenizer, template)
