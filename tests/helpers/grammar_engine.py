"""The slow twin of a guide: the same grammar, compiled by llguidance for each sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from omniner.answers import STYLES
from omniner.llm.chat_tokenizer import ChatTokenizer


class Reference:
    """llguidance over a chat's tokenizer; what ends an answer in time is not part of it."""

    def __init__(self, chat: ChatTokenizer, categories: Sequence[str], style: str) -> None:
        import llguidance.hf

        self._tokenizer = llguidance.hf.from_tokenizer(chat.tokenizer, eos_token=chat.end[0])
        separator = STYLES[style][0]
        names = [json.dumps(f"{json.dumps(name, ensure_ascii=False)[1:]}]") for name in categories]
        self._rules = f"""%llguidance {{}}
start: "[]" | "[" pair ("{separator}" pair)* "]"
pair: "[\\"" SPAN "\\"{separator}\\"" CATEGORY
CATEGORY: {" | ".join(names)}
"""

    def start(self, text: str) -> Any:
        """A matcher for answers about a sentence."""
        import llguidance

        pieces = json.dumps([json.dumps(char, ensure_ascii=False)[1:-1] for char in text])
        grammar = f'{self._rules}SPAN: %regex {{"substring_chunks": {pieces}}} & /(.|\\n)+/\n'
        matcher = llguidance.LLMatcher(self._tokenizer, grammar)
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    @staticmethod
    def allowed(matcher: Any) -> list[int]:
        """The tokens that may come next, in rising order."""
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()
