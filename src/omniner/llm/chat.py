"""A tokenizer with its chat template: where the answer begins, where it ends, and its tokens in between.

The template writes all special tokens, so none is added (no second BOS). Three things that no error would show are
found out when a `ChatTokenizer` is made: tokenizers of the SentencePiece kind may put a space before a text, which must
not stand between prompt and answer; a template may refuse or ignore the system role, which is then put in front of the
user's text; and what ends an answer is read from the template itself. So a new family of models needs no code here.
Control tokens that a sentence or an answer spells out (`<|im_end|>`) are text there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omniner.errors import UserError
from omniner.llm.prompts import Prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_ANCHORS = ("。", "=", "a", "\n")  # texts of which one does not merge with what follows
_PROBES = ("[]", '[["北京", "地点_城市"]]', '[["👶🏻", "a"],["①","b"]]')
_MARK = "X0mark0X"  # a text that no template holds


class ChatTokenizer:
    """Turns prompts and answers into tokens, and tokens into answers.

    Args:
        tokenizer: a fast one.
        template: Jinja text of the chat; None = the tokenizer's own.

    Attributes:
        tokenizer: as given.
        template: as given.
        end: token ids that the template writes after an answer, its leading white space left out; the tokenizer's
            end-of-sequence token where it writes no control token.
        stops: token ids at which an answer is over: the first of `end`, the tokenizer's end-of-sequence token, and
            every other control token, since an answer never holds one.

    Raises:
        UserError: no template, a template that does not work, a tokenizer that cannot give answers back.
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
        self._system_works = self._takes_system()
        self._controls = {
            number: token.content for number, token in self._backend.get_added_tokens_decoder().items() if token.special
        }
        self.end = self._find_end()
        self.stops = frozenset({self.end[0], *self._controls} | {tokenizer.eos_token_id} - {None})

    def text(self, prompt: Prompt, sentence: str) -> str:
        """Write the whole chat as text, up to where the answer begins."""
        messages = prompt.messages(sentence)
        if messages[0]["role"] == "system" and not self._system_works:
            system, user = messages
            messages = [{"role": "user", "content": f"{system['content']}\n{user['content']}"}]
        return self._render(messages, to_answer=True)

    def prompt_ids(self, text: str) -> list[int]:
        """Tokenise a chat's text; control tokens that it spells out are control tokens."""
        return self._encode([text], plain=False)[0]

    def prompts_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise many chats, see `prompt_ids`."""
        return self._encode(texts, plain=False)

    def answer_ids(self, answer: str) -> list[int]:
        """Tokenise an answer as it follows a prompt, without `end`."""
        return self.plain_ids([answer])[0]

    def plain_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts that go on where others ended: without control tokens, and without a space in front."""
        found = self._encode([self._anchor + text for text in texts], plain=True)
        return [ids[len(self._anchor_ids) :] for ids in found]

    def before_control(self, text: str) -> int:
        """Count the characters of a chat's text that stand before its first control token."""
        return min((text.find(control) for control in self._controls.values() if control in text), default=len(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Turn answer tokens back into text, exactly; special tokens are left out."""
        return self._decode(ids, skip_special=True)

    def show(self, ids: Sequence[int]) -> str:
        """Turn any tokens into text for people, special ones included."""
        return self._decode(ids, skip_special=False)

    def _decode(self, ids: Sequence[int], skip_special: bool) -> str:
        text: str = self._backend.decode([*self._anchor_ids, *ids], skip_special_tokens=skip_special)
        return text[len(self._anchor) :]

    def _encode(self, texts: Sequence[str], plain: bool) -> list[list[int]]:
        """Tokenise texts as they stand; `plain`: control tokens that they spell out are text."""
        self._backend.encode_special_tokens = plain
        try:
            return [found.ids for found in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        finally:
            self._backend.encode_special_tokens = False

    def _find_anchor(self) -> str:
        """Find a text to put before others and take off again; empty if the tokenizer puts no space before a text."""
        alone = self._encode(_PROBES, plain=True)
        for anchor in _ANCHORS:
            own = self._encode([anchor], plain=True)[0]
            after = self._encode([anchor + probe for probe in _PROBES], plain=True)
            if all(ids[: len(own)] == own for ids in after):
                return "" if [ids[len(own) :] for ids in after] == alone else anchor
        found = "the tokenizer joins the beginning of an answer with whatever stands before it"
        raise UserError("model.path", found, "Choose another model.")

    def _check_decoding(self) -> None:
        """Refuse a tokenizer that does not give answers back as they were."""
        for probe in _PROBES:
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
                enable_thinking=False,  # read by templates of models that would think first, ignored by others
            )
        except (TemplateError, TypeError, ValueError) as error:
            found = f"the template does not work ({error})"
            raise UserError("model.chat_template", found, "Repair it, or leave it out.") from error
        return str(text)

    def _takes_system(self) -> bool:
        """Try whether the template writes the text of a system role."""
        messages = [{"role": "system", "content": _MARK}, {"role": "user", "content": "a"}]
        try:
            return _MARK in self._render(messages, to_answer=True)
        except UserError:
            return False  # that the template works without a system role is seen next

    def _find_end(self) -> tuple[int, ...]:
        """Read from the template what follows an answer."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
        written = self._render(messages, to_answer=False)
        if _MARK not in written:
            found = "the template does not write the assistant's text"
            raise UserError("model.chat_template", found, "Repair it, or leave it out.")
        ids = self.prompt_ids(written.rpartition(_MARK)[2].lstrip())
        if ids and ids[0] in self._controls:
            return tuple(ids)
        if self.tokenizer.eos_token_id is None:
            found = "neither the chat template nor the tokenizer has a token that ends an answer"
            raise UserError("model.chat_template", found, "Write the end token after the assistant's text there.")
        return (int(self.tokenizer.eos_token_id),)
