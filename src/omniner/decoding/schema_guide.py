"""Guided decoding by JSON schema: what a teacher in this process says has the form it was asked for.

In go questions' texts with the schemas of their answers; out comes a `Guide` for `decoding.generate`. The grammar, and
which tokens it allows next, are llguidance's. It cannot end an answer in time as `decoding.guide` does, so texts in an
answer are allowed fewer characters where the schema's would not fit into the tokens there are. Price: some hundred
microseconds a token, much less than a forward call of a model that is worth asking.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from omniner.decoding.grammar import Ids
from omniner.decoding.guide import Matcher, restrict
from omniner.encoding.chat import Chat
from omniner.errors import UserError

_TOKENS = 2  # of a character, where a vocabulary has few Chinese words


class SchemaGuide:
    """The `Guide` of answers that fulfil a JSON schema each.

    Args:
        chat: whose tokens the model writes.
        schemas: of the answers, by the text of the request.

    Raises:
        UserError: llguidance is not installed, or cannot read the tokenizer.
    """

    def __init__(self, chat: Chat, schemas: Mapping[str, dict[str, Any]]) -> None:
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

    def start(self, text: str, budget: int) -> SchemaMatcher:
        """The matcher of a new answer to the question `text`, of about `budget` tokens at most."""
        import llguidance

        schema = shortened(self._schemas[text], budget // _TOKENS)
        # Without room for white space: a weak model would write nothing else.
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            schema, defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        )
        return SchemaMatcher(llguidance.LLMatcher(self._tokenizer, grammar), self._stop)

    def fill(self, matchers: Sequence[Matcher | None], logits: Tensor) -> None:
        """Set the logits [B, V] of forbidden tokens to -inf, in place; see `decoding.guide.Guide`."""
        restrict(matchers, logits)


class SchemaMatcher:
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


def shortened(schema: dict[str, Any], characters: int) -> dict[str, Any]:
    """The schema of an object, its texts all the shorter where together they may have more than `characters`."""
    schema = copy.deepcopy(schema)
    texts = [item for item in schema.get("properties", {}).values() if "maxLength" in item]
    allowed = sum(item["maxLength"] for item in texts)
    for item in texts if allowed > characters else ():
        item["maxLength"] = max(item.get("minLength", 0), item["maxLength"] * characters // allowed)
    return schema
