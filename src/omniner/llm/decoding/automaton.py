"""Find the tokens that may come next in an answer, with the training format and a sentence as an automaton over bytes.

There are three parts, from the sentence to the vocabulary:

- `AnswerAutomaton`: the states of answers about one sentence. Within a span the state is the set of positions of the
  sentence that the span may have reached, so a span is always a substring of the sentence, whatever its length;
  characters that JSON escapes are stepped through in their escaped form.
- `AnswerGrammar`: the text around the spans, `[["`, `", "地点_城市"]`, `, ["`, `]`, as a tree of bytes that all
  sentences share.
- `TokenTrie` and `token_bytes`: the spelling of each token of a tokenizer, and a prefix tree to find those that fit. A
  part of it stays a sorted list until it is needed, so that 150,000 tokens are ready in some tenths of a second.

A token may cross from one part of an answer to the next (`。",`). It is found by walking the trie and the automaton in
parallel, which visits only what both contain. Tokens in states between spans are computed once for all sentences, those
at a span's beginning once per sentence. Nothing is compiled, so a sentence costs a few hundred microseconds, while a
general grammar engine needs some milliseconds.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from omniner.answers import STYLES
from omniner.errors import UserError
from omniner.llm.chat_tokenizer import ChatTokenizer

Ids = npt.NDArray[np.int64]
State = int | tuple[int, ...]
"""A node of the grammar, or within a span: the byte positions of the sentence that it may have reached."""

START, START_EMPTY, SPAN, MIDDLE, AFTER_PAIR, DONE = range(6)
"""Nodes of the grammar: before an answer (also: about an empty sentence), before a span, after its closing quote, after
the bracket of a pair, after the answer.
"""

_UTF8 = [*range(0x20, 0xC0), *range(0xC2, 0xF5)]  # bytes of texts without control characters
_PROBES = ('[["北京 天", "a_b/c"], ["👶🏻", "①"]]', '[["x\\\\n","y"],["0","z"]]')
_ADVICE = "Choose a model whose tokenizer works on bytes or falls back to them, or use decoding=free."
_LONGEST_CHARACTER = 6  # bytes, so also the most tokens: \u001f; without an escape it is 4


class AnswerAutomaton:
    """The states of answers about one sentence.

    Args:
        grammar: the text around the spans.
        text: the sentence.

    Attributes:
        start: the state before an answer.
    """

    def __init__(self, grammar: AnswerGrammar, text: str) -> None:
        escaped = [json.dumps(character, ensure_ascii=False)[1:-1].encode() for character in text]
        self._grammar, self._text = grammar, b"".join(escaped)
        ends = list(accumulate(map(len, escaped)))
        self._borders = frozenset([0, *ends])
        self._first: dict[int, tuple[int, ...]] = {}
        for place in [0, *ends][:-1]:
            byte = self._text[place]
            self._first[byte] = (*self._first.get(byte, ()), place + 1)
        self.start = START if ends else START_EMPTY
        self._next: dict[State, Ids] = {}

    def step(self, state: State, byte: int) -> State:
        """Return the state after one more byte.

        Raises:
            KeyError: the byte may not follow.
        """
        return self._edges(state)[byte]

    def _edges(self, state: State) -> Mapping[int, State]:
        """Return the next states by byte."""
        if isinstance(state, int):
            return self._first if state == SPAN else self._grammar.edges[state]
        places: dict[int, tuple[int, ...]] = {}
        for place in state:
            if place < len(self._text):
                byte = self._text[place]
                places[byte] = (*places.get(byte, ()), place + 1)
        # all positions have read the same bytes, so either all or none are between characters
        return {**places, ord('"'): MIDDLE} if state[0] in self._borders else places

    def next_tokens(self, state: State) -> Ids:
        """Return the tokens that may follow, in ascending order."""
        if state not in self._next:
            starts: list[tuple[TrieNode, State]] = [(self._grammar.trie.root, state)]
            ids = np.empty(0, dtype=np.int64)
            if isinstance(state, int) and state != SPAN:
                ids, crossings = self._grammar.next_tokens(state)
                starts = [(place, SPAN) for place in crossings]
            if starts:
                found = [token for place, after in starts for token in self._tokens_from(place, after)]
                ids = np.array(sorted([*ids.tolist(), *found]), dtype=np.int64)
            self._next[state] = ids
        return self._next[state]

    def _tokens_from(self, place: TrieNode, state: State) -> list[int]:
        """Return the tokens below a node of the trie whose further bytes may follow a state."""
        found: list[int] = []
        waiting = [(place, state)]
        while waiting:
            place, state = waiting.pop()
            children = self._grammar.trie.children(place)
            if not children:
                continue
            for byte, after in self._edges(state).items():
                if (child := children.get(byte)) is not None:
                    found += child.tokens
                    waiting.append((child, after))
        return found

    def ending(self, state: State) -> list[int]:
        """Return a few tokens that end the answer from here; an open span is closed as soon as possible."""
        grammar = self._grammar
        if isinstance(state, tuple):
            return [*grammar.trie.spell(self._rest_of_character(state[0])), *grammar.closing]
        found = grammar.ending(state)
        if found is None:  # on the way to a span: it becomes the sentence's first character
            found = [*grammar.to_span(state), *grammar.trie.spell(self._rest_of_character(0, 1)), *grammar.closing]
        return found

    def _rest_of_character(self, place: int, least: int = 0) -> bytes:
        """Return the sentence from a position to the end of a character, at least `least` bytes."""
        end = place + least
        while end not in self._borders:
            end += 1
        return self._text[place:end]


class AnswerGrammar:
    """The text of an answer around its spans, as a tree of bytes; the same for all sentences.

    Args:
        style: official | compact.
        categories: those that an answer may name.
        trie: the vocabulary's tokens.

    Attributes:
        edges: the next node by byte, per node. `SPAN` and `DONE` have none here.
        tails: the text that may follow a span, from its closing quote to the bracket of the pair, by category.
        decided: the missing rest of the pair, per node after a span at which only one category remains.
    """

    def __init__(self, style: str, categories: Sequence[str], trie: TokenTrie) -> None:
        separator = STYLES[style][0]
        self.trie = trie
        self.edges: list[dict[int, int]] = [{} for _ in range(DONE + 1)]
        self.tails = {name: f'"{separator}{json.dumps(name, ensure_ascii=False)}]'.encode() for name in categories}
        self.more, self.end = f'{separator}["'.encode(), b"]"
        passed: dict[int, int] = {}  # number of categories that lead through a node
        self._rests: dict[int, list[bytes]] = {DONE: [b""]}  # ways to the end of the answer without another span
        for tail in self.tails.values():
            nodes = self._add(MIDDLE, tail[1:], AFTER_PAIR)
            for at, node in enumerate(nodes):
                passed[node] = passed.get(node, 0) + 1
                self._rests.setdefault(node, []).append(tail[1 + at :] + self.end)
        self.decided = {node: self._rests[node][0][:-1] for node, count in passed.items() if count == 1}
        self._to_span: dict[int, bytes] = {SPAN: b""}  # ways to the next span, if there is no other way
        for at, node in enumerate(self._add(AFTER_PAIR, self.more, SPAN)[1:], 1):
            self._to_span[node] = self.more[at:]
        self._add(AFTER_PAIR, self.end, DONE)
        self._rests[AFTER_PAIR], self.decided[AFTER_PAIR] = [self.end], b""
        for start in (START, START_EMPTY):
            for at, node in enumerate(self._add(start, b"[]", DONE)):
                self._rests[node] = [b"[]"[at:]]
        self._to_span[self._add(START, b'[["', SPAN)[-1]] = b'"'
        self._endings: dict[int, list[int]] = {}
        self._next: dict[int, tuple[Ids, list[TrieNode]]] = {}

    def _add(self, node: int, text: bytes, end: int) -> list[int]:
        """Add a path from `node` to `end`.

        Returns:
            The nodes that each byte of `text` leaves.
        """
        nodes = []
        for byte in text[:-1]:
            nodes.append(node)
            if byte not in self.edges[node]:
                self.edges.append({})
                self.edges[node][byte] = len(self.edges) - 1
            node = self.edges[node][byte]
        self.edges[node][text[-1]] = end
        return [*nodes, node]

    def ending(self, node: int) -> list[int] | None:
        """Return the end of the answer in the fewest tokens; None if another span must come first."""
        if node not in self._rests:
            return None
        if node not in self._endings:
            self._endings[node] = self.trie.spell_shortest(self._rests[node])
        return self._endings[node]

    def to_span(self, node: int) -> list[int]:
        """Return the tokens that are missing before the required span."""
        return self.trie.spell(self._to_span[node])

    @cached_property
    def closing(self) -> list[int]:
        """The fewest tokens from the end of a span, including its closing quote, to the end of the answer."""
        return self.trie.spell_shortest([tail + self.end for tail in self.tails.values()])

    def longest_ending(self) -> int:
        """Return the largest number of tokens needed to end an answer, in any state and for any sentence."""
        direct = max(len(self.ending(node) or ()) for node in self._rests)
        to_span = max(len(self.to_span(node)) for node in self._to_span)
        return max(direct, to_span + _LONGEST_CHARACTER + len(self.closing))

    def next_tokens(self, node: int) -> tuple[Ids, list[TrieNode]]:
        """Find the tokens that may follow a node.

        Returns:
            Those that do not enter a span, and the nodes of the trie that reach a span and have longer tokens.
        """
        if node not in self._next:
            found: list[int] = []
            crossings = []
            waiting: list[tuple[TrieNode, int]] = [(self.trie.root, node)]
            while waiting:
                place, at = waiting.pop()
                children = self.trie.children(place)
                if at == SPAN and children:
                    crossings.append(place)
                for byte, after in self.edges[at].items():
                    if (child := children.get(byte)) is not None:
                        found += child.tokens
                        waiting.append((child, after))
            self._next[node] = (np.array(sorted(found), dtype=np.int64), crossings)
        return self._next[node]


class TokenTrie:
    """Find the tokens of a vocabulary by their bytes; a node's children are computed on first use.

    Args:
        spellings: the bytes of each token that may occur in an answer, by id.

    Raises:
        UserError: a byte has no token of its own, so that some texts cannot be spelled.
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
            raise UserError("model.path", f"the tokenizer cannot spell every text: {found}", _ADVICE)

    def _node(self, low: int, high: int, depth: int) -> TrieNode:
        """Return the node of the sorted tokens `low` to `high`, which share their first `depth` bytes."""
        at = low
        while at < high and len(self._spellings[at]) == depth:
            at += 1
        return TrieNode(self._tokens[low:at], at, high, depth)

    def children(self, node: TrieNode) -> dict[int, TrieNode]:
        """Return the nodes one byte further, by that byte."""
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
        """Return a text in tokens, greedily: always the longest token that fits."""
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

    def spell_shortest(self, texts: Sequence[bytes]) -> list[int]:
        """Return the tokens of the text that needs the fewest."""
        return min(map(self.spell, texts), key=lambda tokens: (len(tokens), tokens))


class TrieNode:
    """Bytes that tokens begin with: the tokens that are exactly these, and the range of longer ones.

    Attributes:
        tokens: ids of the tokens that are exactly these bytes.
        low, high: range of the longer ones in the sorted tokens.
        depth: number of bytes.
        children: the nodes one byte further; None until they are needed.
    """

    __slots__ = ("children", "depth", "high", "low", "tokens")

    def __init__(self, tokens: list[int], low: int, high: int, depth: int) -> None:
        self.tokens, self.low, self.high, self.depth = tokens, low, high, depth
        self.children: dict[int, TrieNode] | None = None


def token_bytes(chat: ChatTokenizer) -> dict[int, bytes]:
    """Return the bytes of each token that can occur in a text, by its id; control tokens are left out.

    Raises:
        UserError: the tokenizer is neither byte-level (GPT-2, Qwen) nor falls back to bytes (Llama).
    """
    backend = chat.tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab(with_added_tokens=False)
    ordinary = {token: entry for entry, token in vocabulary.items() if token not in added}
    decoder: Any = json.loads(backend.decoder.__getstate__()) if backend.decoder else {"type": None}
    kinds = {part["type"] for part in decoder.get("decoders", [decoder])}
    if "ByteLevel" in kinds:
        spellings = byte_level_bytes(ordinary)
    elif "ByteFallback" in kinds:
        spellings = byte_fallback_bytes(ordinary)
    else:
        raise UserError("model.path", f"a tokenizer of the kind {decoder['type']} has no bytes in its tokens", _ADVICE)
    for token, entry in added.items():
        if chat.decode([token]) == entry.content:  # a control token decodes to nothing
            spellings[token] = entry.content.encode()
    for probe in _PROBES:
        found = b"".join(spellings.get(token, b"") for token in chat.answer_ids(probe))
        if found != probe.encode():
            raise UserError("model.path", f"tokens do not spell their text: {probe!r} becomes {found!r}", _ADVICE)
    return spellings


def byte_level_bytes(entries: Mapping[int, str]) -> dict[int, bytes]:
    """Decode tokens of GPT-2's kind: a character per byte, 256, 257, ... for bytes that are not printable."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printed]
    table = {chr(byte): byte for byte in printed} | {chr(0x100 + at): byte for at, byte in enumerate(others)}
    return {
        token: bytes(table[char] for char in entry) for token, entry in entries.items() if set(entry) <= table.keys()
    }


def byte_fallback_bytes(entries: Mapping[int, str]) -> dict[int, bytes]:
    """Decode tokens of Llama's kind: characters, with a mark for spaces; <0xE4> is a byte of one that has no token."""
    spellings: dict[int, bytes] = {}
    single: dict[int, bytes] = {}
    for token, entry in entries.items():
        if len(entry) == 6 and entry.startswith("<0x") and entry.endswith(">"):
            single[token] = bytes.fromhex(entry[3:5])
        else:
            spellings[token] = entry.replace("▁", " ").encode()
    written = set(spellings.values())
    # a character with a token of its own is never written as bytes
    return spellings | {token: byte for token, byte in single.items() if byte not in written}
