"""The tokens of a vocabulary as bytes: what each one spells, and a tree of them to find those that fit.

In goes a chat's tokenizer, byte-level (GPT-2, Qwen) or with bytes to fall back to (Llama); out come the bytes of every
token that can stand in a text, and a tree in which those that begin with given bytes are found byte by byte. The tree
is a sorted list until a part of it is looked at, so that 150,000 tokens are ready in some tenths of a second.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from omniner.encoding.chat import Chat
from omniner.errors import UserError

_UTF8 = [*range(0x20, 0xC0), *range(0xC2, 0xF5)]  # bytes of texts without control characters
_PROBES = ('[["北京 天", "a_b/c"], ["👶🏻", "①"]]', '[["x\\\\n","y"],["0","z"]]')
_OTHER = "Choose a model whose tokenizer works on bytes or falls back to them, or use decoding=free."


class TokenTree:
    """The tokens of a vocabulary by their bytes; a node's children are worked out when they are first asked for.

    Args:
        spellings: the bytes of each token that may stand in an answer, by id.

    Raises:
        UserError: a byte has no token of its own, so that some texts cannot be spelt.
    """

    def __init__(self, spellings: Mapping[int, bytes]) -> None:
        order = sorted((spelling, token) for token, spelling in spellings.items() if spelling)
        self._spellings = [spelling for spelling, _ in order]
        self._tokens = [token for _, token in order]
        self.root = self._node(0, len(order), 0)
        first = self.children(self.root)
        missing = [byte for byte in _UTF8 if byte not in first or not first[byte].tokens]
        if missing:
            found = f"{len(missing)} bytes have no token of their own, the first of them {missing[0]:#04x}"
            raise UserError("model.path", f"the tokenizer cannot spell every text: {found}", _OTHER)

    def _node(self, low: int, high: int, depth: int) -> TokenNode:
        """The tokens `low` to `high` of the sorted ones: they share their first `depth` bytes."""
        at = low
        while at < high and len(self._spellings[at]) == depth:
            at += 1
        return TokenNode(self._tokens[low:at], at, high, depth)

    def children(self, node: TokenNode) -> dict[int, TokenNode]:
        """The nodes one byte further, by that byte."""
        if node.children is None:
            node.children = {}
            at, depth = node.low, node.depth
            while at < node.high:
                begin, byte = self._spellings[at][:depth], self._spellings[at][depth]
                beyond = begin + bytes([byte + 1]) if byte < 0xFF else None
                end = node.high if beyond is None else bisect_left(self._spellings, beyond, at, node.high)
                node.children[byte] = self._node(at, end, depth + 1)
                at = end
        return node.children

    def spell(self, text: bytes) -> list[int]:
        """Tokens that spell a text: the longest one first, and so on."""
        tokens: list[int] = []
        at = 0
        while at < len(text):
            node, longest, end = self.root, -1, at
            for place in range(at, len(text)):
                child = self.children(node).get(text[place])
                if child is None:
                    break
                node = child
                if node.tokens:
                    longest, end = node.tokens[0], place + 1
            tokens.append(longest)
            at = end
        return tokens


class TokenNode:
    """Bytes that tokens begin with: the tokens that are just these, and where the longer ones are listed."""

    __slots__ = ("children", "depth", "high", "low", "tokens")

    def __init__(self, tokens: list[int], low: int, high: int, depth: int) -> None:
        self.tokens, self.low, self.high, self.depth = tokens, low, high, depth
        self.children: dict[int, TokenNode] | None = None


def token_spellings(chat: Chat) -> dict[int, bytes]:
    """The bytes of each token that can stand in a text; control tokens are left out.

    Raises:
        UserError: a tokenizer that is neither byte-level nor falls back to bytes.
    """
    backend = chat.tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab(with_added_tokens=False)
    ordinary = {token: entry for entry, token in vocabulary.items() if token not in added}
    decoder: Any = json.loads(backend.decoder.__getstate__()) if backend.decoder else {"type": None}
    kinds = {part["type"] for part in decoder.get("decoders", [decoder])}
    if "ByteLevel" in kinds:
        spellings = _byte_level(ordinary)
    elif "ByteFallback" in kinds:
        spellings = _byte_fallback(ordinary)
    else:
        raise UserError("model.path", f"a tokenizer of the kind {decoder['type']} has no bytes in its tokens", _OTHER)
    for token, entry in added.items():
        if not entry.special and chat.decode([token]) == entry.content:
            spellings[token] = entry.content.encode()
    for probe in _PROBES:
        found = b"".join(spellings.get(token, b"") for token in chat.answer_ids(probe))
        if found != probe.encode():
            raise UserError("model.path", f"tokens do not spell their text: {probe!r} becomes {found!r}", _OTHER)
    return spellings


def _byte_level(entries: Mapping[int, str]) -> dict[int, bytes]:
    """Tokens of GPT-2's kind: each character stands for a byte, those that do not print for 256, 257, ..."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printed]
    table = {chr(byte): byte for byte in printed} | {chr(0x100 + at): byte for at, byte in enumerate(others)}
    return {
        token: bytes(table[char] for char in entry) for token, entry in entries.items() if set(entry) <= table.keys()
    }


def _byte_fallback(entries: Mapping[int, str]) -> dict[int, bytes]:
    """Tokens of Llama's kind: characters, with a mark for spaces; <0xE4> is a byte of one that has no token."""
    spellings: dict[int, bytes] = {}
    single: dict[int, bytes] = {}
    for token, entry in entries.items():
        if len(entry) == 6 and entry.startswith("<0x") and entry.endswith(">"):
            single[token] = bytes.fromhex(entry[3:5])
        else:
            spellings[token] = entry.replace("▁", " ").encode()
    written = set(spellings.values())
    # A character with a token of its own is never written as a byte.
    return spellings | {token: byte for token, byte in single.items() if byte not in written}
