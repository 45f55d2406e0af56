"""Convert prompts and answers to tokens and back, with the chat template of the model's own tokenizer.

The template writes all special tokens, so none is added (no second BOS). Three properties that would cause silent
errors are detected when a `ChatTokenizer` is created. Tokenizers of the SentencePiece kind may put a space before a
text, which must not come between prompt and answer. A template may reject or ignore the system role, which is then put
before the user's text. And the tokens that end an answer are read from the template itself. So a new family of models
needs no code here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omniner.errors import UserError
from omniner.llm.prompts import TEMPLATE_OPTIONS, Prompt
from omniner.progress import Progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_ANCHORS = ("。", "=", "a", "\n")  # texts, one of which does not merge with what follows
_PROBE_ANSWERS = ("[]", '[["北京", "地点_城市"]]', '[["👶🏻", "a"],["①","b"]]')
_AT_ONCE = 1000  # texts tokenised at a time: the library stores 100 bytes per token, of which ids are a small part
MARKER = "X0mark0X"  # a text that no template and no prompt contains
_tokenizing = threading.Lock()  # a tokenizer in use cannot be changed, and it is changed for each use


class ChatTokenizer:
    """Convert prompts and answers to tokens, and tokens to answers.

    Args:
        tokenizer: a fast one.
        template: Jinja text of the chat; None = the tokenizer's own.

    Attributes:
        tokenizer: as given.
        template: as given.
        end: token ids that the template writes after an answer, without leading white space; the tokenizer's
            end-of-sequence token if the template writes no control token.
        stops: token ids that end an answer: the first of `end`, the tokenizer's end-of-sequence token, and every other
            control token, since an answer never contains one.
        system_role: whether the template writes the text of a system role.

    Raises:
        UserError: no template, a template that does not work, a tokenizer that cannot restore answers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str | None) -> None:
        self.tokenizer, self.template = tokenizer, template
        if not (template or tokenizer.chat_template):
            found = "the tokenizer brings no chat template"
            raise UserError("model.chat_template", found, "Write the model's template (Jinja) there.")
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._anchor = self._find_anchor()
        self._anchor_ids = self._encode([self._anchor], plain=True)[0]
        self._check_decoding()
        self.system_role = self._takes_system()
        self._controls = {
            number: token.content for number, token in self._backend.get_added_tokens_decoder().items() if token.special
        }
        self.end = self._find_end()
        self.stops = frozenset({self.end[0], *self._controls} | {tokenizer.eos_token_id} - {None})

    def write(self, prompt: Prompt, filled_input: str) -> str:
        """Return the whole chat as text, up to the answer; `filled_input` is one of `Prompt.filled_inputs`."""
        return self._render(prompt.turns(filled_input, self.system_role), to_answer=True)

    def prompt_ids(self, text: str) -> list[int]:
        """Tokenise a chat's text; control tokens that it spells out are control tokens."""
        return self._encode([text], plain=False)[0]

    def batch_prompt_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise many chats, see `prompt_ids`."""
        return self._encode(texts, plain=False)

    def answer_ids(self, answer: str) -> list[int]:
        """Tokenise an answer as it follows a prompt, without `end`."""
        return self.plain_ids([answer])[0]

    def plain_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts that continue others: without control tokens, and without a space in front."""
        found = self._encode([self._anchor + text for text in texts], plain=True)
        return [ids[len(self._anchor_ids) :] for ids in found]

    def before_control(self, text: str) -> int:
        """Return the number of characters of a chat's text before its first control token."""
        return min((text.find(control) for control in self._controls.values() if control in text), default=len(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Decode answer tokens exactly; special tokens are left out."""
        return self._decode(ids, skip_special=True)

    def show(self, ids: Sequence[int]) -> str:
        """Decode any tokens for display, including special ones."""
        return self._decode(ids, skip_special=False)

    def _decode(self, ids: Sequence[int], skip_special: bool) -> str:
        with _tokenizing:
            text: str = self._backend.decode([*self._anchor_ids, *ids], skip_special_tokens=skip_special)
        return text[len(self._anchor) :]

    def _encode(self, texts: Sequence[str], plain: bool) -> list[list[int]]:
        """Tokenise texts unchanged; `plain`: control tokens that they spell out are text."""
        found: list[list[int]] = []
        progress = Progress("texts tokenised", len(texts))
        for start in range(0, len(texts), _AT_ONCE):
            part = list(texts[start : start + _AT_ONCE])
            with _tokenizing:
                self._backend.encode_special_tokens = plain
                try:
                    found += [each.ids for each in self._backend.encode_batch_fast(part, add_special_tokens=False)]
                finally:
                    self._backend.encode_special_tokens = False
            progress.add(len(part))
        return found

    def _find_anchor(self) -> str:
        """Return a text to put before others and remove again; empty if the tokenizer puts no space before a text."""
        alone = self._encode(_PROBE_ANSWERS, plain=True)
        for anchor in _ANCHORS:
            own = self._encode([anchor], plain=True)[0]
            after = self._encode([anchor + probe for probe in _PROBE_ANSWERS], plain=True)
            if all(ids[: len(own)] == own for ids in after):
                return "" if [ids[len(own) :] for ids in after] == alone else anchor
        found = "the tokenizer joins the beginning of an answer with whatever stands before it"
        raise UserError("model.path", found, "Choose another model.")

    def _check_decoding(self) -> None:
        """Reject a tokenizer that does not restore answers exactly."""
        for probe in _PROBE_ANSWERS:
            if (found := self.decode(self.answer_ids(probe))) != probe:
                raise UserError(
                    "model.path",
                    f"the tokenizer does not give an answer back: {probe!r} becomes {found!r}",
                    "Choose a model whose tokenizer works on bytes or falls back to them.",
                )

    def _render(self, messages: Sequence[dict[str, str]], to_answer: bool) -> str:
        from jinja2 import TemplateError

        try:
            text: Any = self.tokenizer.apply_chat_template(
                list(messages),
                chat_template=self.template,  # None: the tokenizer's own
                tokenize=False,
                add_generation_prompt=to_answer,
                **TEMPLATE_OPTIONS,
            )
        except (TemplateError, TypeError, ValueError) as error:
            found = f"the template does not work ({error})"
            raise UserError("model.chat_template", found, "Repair it, or leave it out.") from error
        return str(text)

    def _takes_system(self) -> bool:
        """Return whether the template writes the text of a system role."""
        messages = [{"role": "system", "content": MARKER}, {"role": "user", "content": "a"}]
        try:
            return MARKER in self._render(messages, to_answer=True)
        except UserError:
            return False  # the next call shows whether the template works without a system role

    def _find_end(self) -> tuple[int, ...]:
        """Read from the template what follows an answer."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": MARKER}]
        written = self._render(messages, to_answer=False)
        if MARKER not in written:
            found = "the template does not write the assistant's text"
            raise UserError("model.chat_template", found, "Repair it, or leave it out.")
        ids = self.prompt_ids(written.rpartition(MARKER)[2].lstrip())
        if ids and ids[0] in self._controls:
            return tuple(ids)
        if self.tokenizer.eos_token_id is None:
            found = "neither the chat template nor the tokenizer has a token that ends an answer"
            raise UserError("model.chat_template", found, "Write the end token after the assistant's text there.")
        return (int(self.tokenizer.eos_token_id),)
