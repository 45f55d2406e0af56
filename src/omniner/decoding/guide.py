"""Guided decoding: only answers in the training format, known categories, spans that stand in the sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Matcher(Protocol):
    """Where the answer for one sentence stands. It counts the tokens it is given: `max_new_tokens` is its budget."""

    @property
    def stopped(self) -> bool:
        """Whether the stop token has been given; nothing may follow."""
        ...

    def advance(self, token: int) -> None:
        """Take the next token of the answer, chosen or forced. Raises ValueError if it is not an allowed one."""
        ...

    def forced(self) -> list[int]:
        """The tokens that must come next, as training tokenises them; empty where there is a choice.

        Only a look: each of them still has to be given to `advance`. At the end of the answer it is the stop token
        (so no forward pass is needed to find out that an answer has ended).
        """
        ...

    def allowed(self) -> list[int]:
        """The ids that may come next, in rising order; empty once stopped. Rarely more than a few hundred."""
        ...


class Guide(Protocol):
    """What may be written, for a batch of sentences that are at different places of their answers."""

    def start(self, text: str) -> Matcher:
        """The matcher of a new answer about the sentence `text`."""
        ...

    def fill(self, matchers: Sequence[Matcher | None], logits: Tensor) -> None:
        """Set the logits [B, V] of forbidden tokens to -inf, in place; V may exceed the tokenizer's vocabulary.

        Row b belongs to `matchers[b]`; a row of None, or of a matcher that has stopped, is left as it is. A row
        always keeps at least one finite logit, and an answer that takes one of them at each step is complete,
        the stop token included, after at most `max_new_tokens` tokens.
        """
        ...
