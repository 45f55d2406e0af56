"""Guided decoding: only answers in the training format, known categories, spans that stand in the sentence.

In go logits of answers that are being written, each about its own sentence; all but the tokens that keep an answer
right get -inf. The text of a finished answer is one that `encoding.answers.write_answer` writes for some entities of
that sentence. Every answer is finished in time: the guide counts tokens, and

- once only so many are left as it takes to end an answer in its worst state, it ends it, within a span if need be;
- some tokens earlier, or where one pair has been written over and over, it ends the answer behind a pair.

Bytes decide what is allowed, so a model is free in how it cuts a text into tokens. A token is `forced` where every
answer that can follow has it next when the tokenizer cuts the whole answer, as in training: a decoding loop can take
it without asking the model. That is the space and the quote before a category, what follows once its first characters
have decided it, and the stop token.

A tokenizer that normalises to NFC shows the model other characters than the sentence has. Spans are then pieces of
what the model sees; `encoding.answers.to_prediction` spells them as the sentence does.

Guided decoding by JSON schema: what a teacher in this process says has the form it was asked for.

In go questions' texts with the schemas of their answers; out comes a `Guide` for `decoding.generate`. The grammar, and
which tokens it allows next, are llguidance's. It cannot end an answer in time as `decoding.guide` does, so texts in an
answer are allowed fewer characters where the schema's would not fit into the tokens there are. Price: some hundred
microseconds a token, much less than a forward call of a model that is worth asking.
"""

from __future__ import annotations

import copy
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from omniner.answers import check_style, nfc_boundaries
from omniner.errors import UserError
from omniner.llm.automaton import (
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
from omniner.llm.chat import ChatTokenizer

_SPAN_ROOM = 32  # tokens; nearly every span has less, so that what is cut off at the end is whole pairs
_REPEATS = 3  # times that a pair may be written beyond the occurrences of its span before it counts as a loop
_LOOKAHEAD = 3  # characters at a span's beginning that may change how the tokens before it are cut
_ANY = "甲"  # stands for a span in probes


class ConstraintState(Protocol):
    """Where the answer about one sentence stands."""

    @property
    def stopped(self) -> bool:
        """Whether the stop token has been given; nothing may follow."""
        ...

    def advance(self, token: int) -> None:
        """Take the next token of the answer, chosen or forced. Raises ValueError if it cannot stand there."""
        ...

    def forced(self) -> list[int]:
        """The tokens that must come next, as training tokenises them; empty where there is a choice.

        Only a look: each of them still has to be given to `advance`. At the end of the answer it is the stop token
        (so no forward pass is needed to find out that an answer has ended).
        """
        ...

    def allowed(self) -> Ids:
        """The tokens that may come next, in rising order: rarely more than some hundreds; none once stopped."""
        ...


class Constraint(Protocol):
    """What may be written, for a batch of sentences that are at different places of their answers."""

    def start(self, text: str, budget: int) -> ConstraintState:
        """The matcher of a new answer about the sentence `text`.

        Args:
            text: the sentence.
            budget: most tokens of the answer, its stop token included; the matcher counts what it is given.

        Raises:
            UserError: too few tokens to end an answer wherever it stands.
        """
        ...

    def fill(self, matchers: Sequence[ConstraintState | None], logits: Tensor) -> None:
        """Set the logits [B, V] of forbidden tokens to -inf, in place; V may exceed the tokenizer's vocabulary.

        Row b belongs to `matchers[b]`; a row of None, or of a matcher that has stopped, is left as it is. A row
        always keeps at least one logit, and an answer that takes one of them (or what is forced) at each step is
        complete, the stop token included, within its budget.
        """
        ...


def mask_logits(matchers: Sequence[ConstraintState | None], logits: Tensor) -> None:
    """`Guide.fill` for matchers of any kind."""
    rows, allowed = [], []
    for row, matcher in enumerate(matchers):
        if matcher is not None and not matcher.stopped:
            rows.append(row)
            allowed.append(matcher.allowed())
    if not rows:
        return
    at = np.repeat(rows, [len(ids) for ids in allowed])
    row, column = torch.from_numpy(np.stack([at, np.concatenate(allowed)])).to(logits.device)  # [allowed tokens]
    kept = logits[row, column]
    if len(rows) == len(logits):
        logits.fill_(-torch.inf)
    else:
        logits[torch.tensor(rows, device=logits.device)] = -torch.inf
    logits[row, column] = kept


class AnswerConstraint:
    """The `Guide` of answers in the training format.

    Args:
        chat: whose tokens the model writes.
        categories: that an answer may name.
        style: of the answers: official | compact.

    Attributes:
        stop: the token behind an answer.
        spellings: the bytes of each token that can stand in one.
        form: what is around the spans.
        reserve: most tokens that it takes to end an answer, the stop token included.
        canonical: the next token by what stands behind a span, where training leaves no choice.

    Raises:
        UserError: a tokenizer whose tokens are not bytes, or no category.
    """

    def __init__(self, chat: ChatTokenizer, categories: Sequence[str], style: str) -> None:
        check_style(style)
        if not categories:
            raise UserError("decoding.kind", "guided, but there are no categories", "Use decoding=free.")
        self._chat, self.stop = chat, chat.end[0]
        self.spellings = token_bytes(chat)
        self.form = AnswerGrammar(style, categories, TokenTrie(self.spellings))
        self.reserve = self.form.longest_ending() + 1
        self._composes = chat.decode(chat.answer_ids("e\u0301")) == "\u00e9"
        self.canonical = _canonical(chat, self.form, self.spellings)
        self._opening = self._tokens_before(_ANY)
        self._opens_alike = lru_cache(maxsize=1 << 16)(lambda begin: self._tokens_before(begin) == self._opening)

    def start(self, text: str, budget: int) -> AnswerState:
        """The matcher of a new answer about the sentence `text`, see `Guide`."""
        if budget < self.reserve:
            found = f"{budget} tokens for an answer, and ending one can take {self.reserve}"
            raise UserError("decoding.max_new_tokens", found, "Raise it; if the prompt takes the room, shorten that.")
        seen = _composed(text) if self._composes else text
        begins = (char if char.isalnum() else seen[at : at + _LOOKAHEAD] for at, char in enumerate(seen))
        return AnswerState(self, AnswerAutomaton(self.form, seen), budget, all(map(self._opens_alike, begins)))

    def fill(self, matchers: Sequence[ConstraintState | None], logits: Tensor) -> None:
        """Set the logits [B, V] of forbidden tokens to -inf, in place; see `Guide`."""
        mask_logits(matchers, logits)

    def _tokens_before(self, begin: str) -> list[int]:
        """How an answer is cut up to its second span, if that begins so; empty if its first token is cut across."""
        tail, quoted = next(iter(self.form.tails.values())).decode(), json.dumps(begin, ensure_ascii=False)
        before = f'[["{_ANY}{tail}{self.form.more.decode()}'
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
    """Where the answer about one sentence stands; made by `AnswerGuide.start`.

    Args:
        guide: that made it.
        automaton: of the sentence.
        budget: most tokens, the stop token included.
        opens_alike: whether the tokens before a span are the same ones before every span of the sentence.
    """

    def __init__(self, guide: AnswerConstraint, automaton: AnswerAutomaton, budget: int, opens_alike: bool) -> None:
        self._guide, self._automaton, self._opens_alike = guide, automaton, opens_alike
        self._state: State = automaton.start
        self._left = budget
        self._pair = bytearray()  # from the beginning of a span on
        self._span = 0  # bytes of the span, once its quote is closed
        self._occurrences = 0  # of the span in the sentence, overlapping ones too
        self._written: Counter[bytes] = Counter()
        self.stopped = False

    def advance(self, token: int) -> None:
        """Take the next token of the answer, see `Matcher`."""
        guide, state = self._guide, self._state
        if self.stopped or (state == DONE) != (token == guide.stop):
            raise ValueError(f"token {token}: the stop token comes once, at the end of an answer")
        self._left -= 1
        if state == DONE:
            self.stopped = True
            return
        if token not in guide.spellings:
            raise ValueError(f"token {token} is not text")
        for byte in guide.spellings[token]:
            before = state
            try:
                state = self._automaton.step(before, byte)
            except KeyError:
                raise ValueError(f"token {token} cannot follow {bytes(self._pair)!r}") from None
            self._note(before, byte, state)
        self._state = state

    def _note(self, before: State, byte: int, state: State) -> None:
        """Keep in mind what the current pair is, and how often each has been written."""
        if state == MIDDLE and isinstance(before, tuple):
            self._span, self._occurrences = len(self._pair), len(before)
        self._pair.append(byte)
        if state == SPAN:
            self._pair.clear()
        elif state == AFTER_PAIR:
            self._written[bytes(self._pair)] += 1

    def forced(self) -> list[int]:
        """The tokens that must come next, see `Matcher`."""
        guide, state = self._guide, self._state
        if self.stopped:
            return []
        if state == DONE or self._is_over():
            return [*self._automaton.ending(state), guide.stop]
        tokens: list[int] = []
        if isinstance(state, tuple) or state == SPAN:
            return tokens
        behind = bytes(self._pair[self._span :])
        # What ending the answer takes must not be used up.
        while (token := guide.canonical.get(behind)) is not None and self._left - len(tokens) > guide.reserve:
            for byte in guide.spellings[token]:
                state = self._automaton.step(state, byte)
            if state == SPAN and not self._opens_alike:
                break
            tokens.append(token)
            behind += guide.spellings[token]
        return tokens

    def allowed(self) -> Ids:
        """The tokens that may come next, see `Matcher`."""
        if self.stopped:
            return np.empty(0, dtype=np.int64)
        if self._state == DONE:
            return np.array([self._guide.stop], dtype=np.int64)
        if self._is_over():
            return np.array(self._automaton.ending(self._state)[:1], dtype=np.int64)
        return self._automaton.next_tokens(self._state)

    def _is_over(self) -> bool:
        """Whether the answer has to be ended from here on."""
        spare = self._left - self._guide.reserve
        if spare <= 0:
            return True
        if isinstance(self._state, tuple) or self._state not in self._guide.form.decided:
            return False
        if spare <= _SPAN_ROOM:
            return True
        pair = bytes(self._pair) + self._guide.form.decided[self._state]
        return self._written[pair] >= self._occurrences + _REPEATS


def _composed(text: str) -> str:
    """The text as a tokenizer shows it that normalises to NFC: letters with their marks are one character.

    Left as it is where a piece of the result would not be one of the text: where marks become several characters.
    """
    if unicodedata.is_normalized("NFC", text):
        return text
    whole = unicodedata.normalize("NFC", text)
    return whole if len(nfc_boundaries(text)) == len(whole) + 1 else text


def _canonical(chat: ChatTokenizer, form: AnswerGrammar, spellings: Mapping[int, bytes]) -> dict[bytes, int]:
    """What has to follow behind a span, as the tokenizer cuts whole answers.

    Returns:
        the next token by all bytes from the closing quote on, wherever the answers that go on so agree on it.
    """
    answers: Counter[bytes] = Counter()  # that go on so
    cut: Counter[bytes] = Counter()  # and have a new token there
    tokens: dict[bytes, set[int]] = {}
    for tail in form.tails.values():
        behind_first, behind_last = tail + form.more, tail + form.end
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


_TOKENS = 2  # of a character, where a vocabulary has few Chinese words


class SchemaConstraint:
    """The `Guide` of answers that fulfil a JSON schema each.

    Args:
        chat: whose tokens the model writes.
        schemas: of the answers, by the text of the request.

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
        self._stop, self._schemas = chat.end[0], schemas

    def start(self, text: str, budget: int) -> SchemaState:
        """The matcher of a new answer to the question `text`, of about `budget` tokens at most."""
        import llguidance

        schema = shorten_schema(self._schemas[text], budget // _TOKENS)
        # Without room for white space: a weak model would write nothing else.
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            schema, defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        )
        return SchemaState(llguidance.LLMatcher(self._tokenizer, grammar), self._stop)

    def fill(self, matchers: Sequence[ConstraintState | None], logits: Tensor) -> None:
        """Set the logits [B, V] of forbidden tokens to -inf, in place; see `decoding.guide.Guide`."""
        mask_logits(matchers, logits)


class SchemaState:
    """Where one answer stands; see `decoding.guide.Matcher`."""

    def __init__(self, matcher: Any, stop: int) -> None:
        self._matcher, self._stop = matcher, stop
        self.stopped = False
        self._check()

    def advance(self, token: int) -> None:
        """Take the next token."""
        if token == self._stop and self._matcher.is_accepting():
            self.stopped = True
            return
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """Tokens that must come next, as the tokenizer would cut them."""
        return [] if self.stopped else list(self._matcher.compute_ff_tokens())

    def allowed(self) -> Ids:
        """The tokens that may come next, in rising order."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())


def shorten_schema(schema: dict[str, Any], characters: int) -> dict[str, Any]:
    """The schema of an object, its texts all the shorter where together they may have more than `characters`."""
    schema = copy.deepcopy(schema)
    texts = [item for item in schema.get("properties", {}).values() if "maxLength" in item]
    allowed = sum(item["maxLength"] for item in texts)
    for item in texts if allowed > characters else ():
        item["maxLength"] = max(item.get("minLength", 0), item["maxLength"] * characters // allowed)
    return schema
