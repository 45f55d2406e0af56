"""Restrict decoding to answers in the training format about a sentence, or to answers that fulfil a JSON schema.

A `Constraint` serves a whole batch: it sets the logits of all tokens that would make an answer wrong to -inf. The state
of each unfinished answer is a `ConstraintState`. There are two kinds:

- `AnswerConstraint` (`decoding=guided`): the text of a finished answer is one that `answers.render_answer` writes for
  some entities of the sentence, of known categories. Bytes decide what is allowed (`automaton`), so a model is free in
  how it splits a text into tokens. Every answer is finished in time, because the state counts tokens. When only the
  worst-case number of closing tokens is left, the answer is closed, even within a span. Slightly earlier, or when a
  pair keeps repeating, it is closed after a pair.
- `SchemaConstraint` (a teacher in this process): llguidance handles the grammar and the allowed tokens. It cannot end
  an answer in time, so the schema's text lengths are reduced if they would not fit into the available tokens. Cost:
  some hundred microseconds a token, much less than a forward call of such a model.

A token is forced if every possible continuation has it next when the tokenizer splits the whole answer, as in training:
a decoding loop can append it without running the model. These are the space and the quote before a category, what
follows once its first characters have determined it, and the stop token.

A tokenizer that normalises to NFC shows the model other characters than those of the sentence. Spans are then
substrings of what the model sees; `answers.prediction_from_answer` spells them as the sentence does.
"""

from __future__ import annotations

import copy
import json
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from omniner.answers import check_style, nfc_boundaries
from omniner.compute.devices import send
from omniner.errors import UserError
from omniner.llm.chat_tokenizer import ChatTokenizer
from omniner.llm.decoding.automaton import (
    AFTER_PAIR,
    DONE,
    MIDDLE,
    SPAN,
    AnswerAutomaton,
    AnswerGrammar,
    Ids,
    State,
    TokenTrie,
    token_bytes,
)
from omniner.records import replace_surrogates

_SPAN_ROOM = 32  # tokens; nearly every span has fewer, so that mostly whole pairs are cut off at the end
_REPEATS = 3  # how often a pair may be written beyond the occurrences of its span before it counts as a loop
_LOOKAHEAD = 3  # characters at a span's beginning that may change how the tokens before it are split
_ANY = "甲"  # stands for a span in probes
_TOKENS = 2  # of a character in a teacher's answer, if a vocabulary has few Chinese words


EarlyEnd = Literal["", "limit", "loop"]
"""Why a constraint ended an answer before the model did: the limit of tokens, or a loop; empty = the model ended it."""


class ConstraintState(Protocol):
    """The state of one unfinished answer."""

    @property
    def stopped(self) -> bool:
        """Whether the stop token was given; nothing may follow."""

    @property
    def ended(self) -> EarlyEnd:
        """Why the answer was ended before the model did."""

    def advance(self, token: int) -> None:
        """Add the next token of the answer, chosen or forced.

        Raises:
            ValueError: it may not follow.
        """

    def forced(self) -> list[int]:
        """Return the tokens that must come next, as training tokenises them; empty if there is a choice.

        The state does not change: each of them must still be passed to `advance`. At the end of the answer it is the
        stop token, so no forward pass is needed to find that an answer has ended.
        """

    def allowed(self) -> Ids:
        """Return the tokens that may come next, in ascending order: rarely more than hundreds; none once stopped."""


class Constraint(ABC):
    """Restricts a batch of answers, each in its own state."""

    @abstractmethod
    def start(self, text: str, budget: int) -> ConstraintState:
        """Begin a new answer.

        Args:
            text: its subject: a sentence, or a question.
            budget: most tokens of the answer, including its stop token; the state counts what it is given.

        Raises:
            UserError: too few tokens to end an answer in any state.
        """

    def mask(self, states: Sequence[ConstraintState | None], logits: Tensor) -> None:
        """Set the logits of forbidden tokens to -inf, in place.

        A row always keeps at least one logit. An answer that takes one of them (or what is forced) at each step is
        complete, including the stop token, within its budget.

        Args:
            states: of the rows; a row with None, or with a state that has stopped, is not changed.
            logits: [B, V]; V may exceed the tokenizer's vocabulary.
        """
        rows, allowed = [], []
        for row, state in enumerate(states):
            if state is not None and not state.stopped:
                rows.append(row)
                allowed.append(state.allowed())
        if not rows:
            return
        at = np.repeat(rows, [len(ids) for ids in allowed])
        places = torch.from_numpy(np.stack([at, np.concatenate(allowed)]))  # [2, allowed tokens]
        (row, column), masked = send([places, torch.tensor(rows)], logits.device)
        kept = logits[row, column]
        logits.index_fill_(0, masked, -torch.inf)
        logits[row, column] = kept


class AnswerConstraint(Constraint):
    """Keep answers in the training format.

    Args:
        chat: the tokenizer of the model's output.
        categories: those that an answer may name.
        style: of the answers: official | compact.

    Attributes:
        stop: the token after an answer.
        spellings: the bytes of each token that can occur in one.
        grammar: the text around the spans.
        reserve: most tokens needed to end an answer, including the stop token.
        canonical: the next token by the bytes after a span, if training leaves no choice.

    Raises:
        UserError: a tokenizer whose tokens are not bytes, or no category.
    """

    def __init__(self, chat: ChatTokenizer, categories: Sequence[str], style: str) -> None:
        check_style(style)
        if not categories:
            raise UserError("decoding.kind", "guided, but there are no categories", "Use decoding=free.")
        self._chat, self.stop = chat, chat.end[0]
        self.spellings = token_bytes(chat)
        self.grammar = AnswerGrammar(style, categories, TokenTrie(self.spellings))
        self.reserve = self.grammar.longest_ending() + 1
        self._composes = chat.decode(chat.answer_ids("e\u0301")) == "\u00e9"
        self.canonical = canonical_tokens(chat, self.grammar, self.spellings)
        self._opening = self._tokens_before(_ANY)
        self._opens_alike = lru_cache(maxsize=1 << 16)(lambda begin: self._tokens_before(begin) == self._opening)

    def start(self, text: str, budget: int) -> AnswerState:
        """Begin an answer about the sentence `text`, see `Constraint`."""
        if budget < self.reserve:
            found = f"{budget} tokens for an answer, and ending one can take {self.reserve}"
            raise UserError("decoding.max_new_tokens", found, "Raise it; if the prompt takes the room, shorten that.")
        seen = _composed(text) if self._composes else text
        begins = (char if char.isalnum() else seen[at : at + _LOOKAHEAD] for at, char in enumerate(seen))
        return AnswerState(self, AnswerAutomaton(self.grammar, seen), budget, all(map(self._opens_alike, begins)))

    def _tokens_before(self, begin: str) -> list[int]:
        """Return an answer's tokens up to its second span, which begins with `begin`; empty if a token crosses it."""
        tail, quoted = next(iter(self.grammar.tails.values())).decode(), json.dumps(begin, ensure_ascii=False)
        before = f'[["{_ANY}{tail}{self.grammar.more.decode()}'
        tokens, size = [], len(before.encode())
        for token in self._chat.answer_ids(f"{before[:-1]}{quoted[:-1]}{tail}]"):
            size -= len(self.spellings.get(token, b""))
            if size < 0:
                return []
            tokens.append(token)
            if size == 0:
                break
        return tokens


class AnswerState:
    """The state of the answer about one sentence; created by `AnswerConstraint.start`.

    Args:
        constraint: its creator.
        automaton: of the sentence.
        budget: most tokens, including the stop token.
        opens_alike: whether the tokens before a span are the same before every span of the sentence.
    """

    def __init__(
        self, constraint: AnswerConstraint, automaton: AnswerAutomaton, budget: int, opens_alike: bool
    ) -> None:
        self._constraint, self._automaton, self._opens_alike = constraint, automaton, opens_alike
        self._state: State = automaton.start
        self._left = budget
        self._pair = bytearray()  # from the beginning of a span on
        self._span = 0  # bytes of the span, once its quote is closed
        self._occurrences = 0  # of the span in the sentence, including overlapping ones
        self._written: Counter[bytes] = Counter()
        self.stopped = False
        self.ended: EarlyEnd = ""

    def advance(self, token: int) -> None:
        """Add the next token of the answer, see `ConstraintState`."""
        constraint, state = self._constraint, self._state
        if self.stopped or (state == DONE) != (token == constraint.stop):
            raise ValueError(f"token {token}: the stop token comes once, at the end of an answer")
        self._left -= 1
        if state == DONE:
            self.stopped = True
            return
        if token not in constraint.spellings:
            raise ValueError(f"token {token} is not text")
        for byte in constraint.spellings[token]:
            before = state
            try:
                state = self._automaton.step(before, byte)
            except KeyError:
                raise ValueError(f"token {token} cannot follow {bytes(self._pair)!r}") from None
            self._note(before, byte, state)
        self._state = state

    def _note(self, before: State, byte: int, state: State) -> None:
        """Record a byte of the current pair, and count how often each pair has been written."""
        if state == MIDDLE and isinstance(before, tuple):
            self._span, self._occurrences = len(self._pair), len(before)
        self._pair.append(byte)
        if state == SPAN:
            self._pair.clear()
        elif state == AFTER_PAIR:
            self._written[bytes(self._pair)] += 1

    def forced(self) -> list[int]:
        """Return the tokens that must come next, see `ConstraintState`."""
        constraint, state = self._constraint, self._state
        if self.stopped:
            return []
        if state == DONE or self._end_now():
            return [*self._automaton.ending(state), constraint.stop]
        tokens: list[int] = []
        if isinstance(state, tuple) or state == SPAN:
            return tokens
        behind = bytes(self._pair[self._span :])
        # keep enough tokens to end the answer
        spare = self._left - constraint.reserve
        while (token := constraint.canonical.get(behind)) is not None and len(tokens) < spare:
            for byte in constraint.spellings[token]:
                state = self._automaton.step(state, byte)
            if state == SPAN and not self._opens_alike:
                break
            tokens.append(token)
            behind += constraint.spellings[token]
        return tokens

    def allowed(self) -> Ids:
        """Return the tokens that may come next, see `ConstraintState`."""
        if self.stopped:
            return np.empty(0, dtype=np.int64)
        if self._state == DONE:
            return np.array([self._constraint.stop], dtype=np.int64)
        if self._end_now():
            return np.array(self._automaton.ending(self._state)[:1], dtype=np.int64)
        return self._automaton.next_tokens(self._state)

    def _end_now(self) -> bool:
        """Return whether the answer must be ended from here on, and record why."""
        if not self.ended:
            self.ended = self._why_to_end()
        return bool(self.ended)

    def _why_to_end(self) -> EarlyEnd:
        spare = self._left - self._constraint.reserve
        if spare <= 0:
            return "limit"
        decided = self._constraint.grammar.decided
        if isinstance(self._state, tuple) or self._state not in decided:
            return ""
        if spare <= _SPAN_ROOM:
            return "limit"
        pair = bytes(self._pair) + decided[self._state]
        return "loop" if self._written[pair] >= self._occurrences + _REPEATS else ""


def _composed(text: str) -> str:
    """Return a text as an NFC-normalising tokenizer shows it: letters with their marks are one character.

    It stays unchanged if a substring of the result would not match one of the text: if marks become several characters.
    """
    if unicodedata.is_normalized("NFC", text):
        return text
    composed = unicodedata.normalize("NFC", text)
    return composed if len(nfc_boundaries(text)) == len(composed) + 1 else text


def canonical_tokens(chat: ChatTokenizer, grammar: AnswerGrammar, spellings: Mapping[int, bytes]) -> dict[bytes, int]:
    """Find the tokens that must follow after a span, as the tokenizer splits whole answers.

    Returns:
        The next token by all bytes from the closing quote on, if all answers with these bytes agree on it.
    """
    answers: Counter[bytes] = Counter()  # number of answers with these bytes
    cut: Counter[bytes] = Counter()  # number of these with a token boundary there
    tokens: dict[bytes, set[int]] = {}
    for tail in grammar.tails.values():
        behind_first, behind_last = tail + grammar.more, tail + grammar.end
        text = b'[["' + _ANY.encode() + behind_first + _ANY.encode() + behind_last
        ids = chat.answer_ids(text.decode())
        for begin, behind in ((text.index(tail), behind_first), (len(text) - len(behind_last), behind_last)):
            answers.update(behind[:size] for size in range(1, len(behind)))
            at = 0
            for token in ids:
                place, at = at - begin, at + len(spellings.get(token, b""))
                if place > 0 and at <= begin + len(behind):
                    cut[behind[:place]] += 1
                    tokens.setdefault(behind[:place], set()).add(token)
    return {
        behind: min(found) for behind, found in tokens.items() if len(found) == 1 and cut[behind] == answers[behind]
    }


class SchemaConstraint(Constraint):
    """Keep each answer to the JSON schema of its question.

    Args:
        chat: the tokenizer of the model's output.
        schemas: of the answers, by the text of the question.

    Raises:
        UserError: llguidance is not installed, or cannot read the tokenizer.
    """

    def __init__(self, chat: ChatTokenizer, schemas: Mapping[str, dict[str, Any]]) -> None:
        try:
            import llguidance.hf
        except ImportError as error:
            fix = "Install llguidance, or set teacher.structured=none."
            raise UserError("teacher.structured", "json_schema, but llguidance is not installed", fix) from error
        try:
            self._tokenizer = llguidance.hf.from_tokenizer(chat.tokenizer, eos_token=chat.end[0])
        except (TypeError, ValueError) as error:
            found = f"json_schema, but llguidance cannot read this tokenizer ({error})"
            raise UserError("teacher.structured", found, "Set teacher.structured=none.") from error
        self._stop = chat.end[0]
        self._schemas = {replace_surrogates(text): schema for text, schema in schemas.items()}  # as the model sees it

    def start(self, text: str, budget: int) -> SchemaState:
        """Begin an answer to the question `text`, of about `budget` tokens at most."""
        import llguidance

        schema = shorten_schema(self._schemas[text], budget // _TOKENS)
        # no flexible white space: a weak model would write nothing else
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            schema, defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        )
        return SchemaState(llguidance.LLMatcher(self._tokenizer, grammar), self._stop)


class SchemaState:
    """The state of one answer, see `ConstraintState`."""

    def __init__(self, matcher: Any, stop: int) -> None:
        self._matcher, self._stop = matcher, stop
        self.stopped = False
        self.ended: EarlyEnd = ""  # a grammar never ends an answer early
        self._check()

    def advance(self, token: int) -> None:
        """Add the next token of the answer."""
        if token == self._stop and self._matcher.is_accepting():
            self.stopped = True
            return
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """Return the tokens that must come next, as the tokenizer would split them."""
        return [] if self.stopped else list(self._matcher.compute_ff_tokens())

    def allowed(self) -> Ids:
        """Return the tokens that may come next, in ascending order."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())


def shorten_schema(schema: dict[str, Any], characters: int) -> dict[str, Any]:
    """Reduce the text lengths that an object's schema allows, if their sum may exceed `characters`."""
    schema = copy.deepcopy(schema)
    items = schema.get("properties", {}).values()
    texts = [(item, 1) for item in items if "maxLength" in item]
    texts += [(item["items"], item["maxItems"]) for item in items if "maxLength" in item.get("items", {})]
    allowed = sum(item["maxLength"] * times for item, times in texts)
    for item, _ in texts if allowed > characters else ():
        item["maxLength"] = max(item.get("minLength", 0), item["maxLength"] * characters // allowed)
    return schema
