"""From sentences to examples: model inputs and gold spans of each sentence, and an issue for all that is lost.

In come sentences, out come `Example`s and issues. A sentence that is too long (`encoding.max_length` characters, or
more tokens than the model takes) is a mistake, is left out, or is cut, as `encoding.on_too_long` says; each such
sentence and each gold mention beyond the cut is an issue. So is gold that the head cannot express: nested mentions
with tags, a category that is not in the active set. Only training is poorer for it: scoring compares with the
sentence's own entities, and `Example.gold` keeps them all for the F1 during training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omniner.encoding.alignment import TextInput
from omniner.encoding.tags import LeftOut, Span, TagScheme, fit_spans
from omniner.errors import UserError
from omniner.records import Entity, Issue, Sentence
from omniner.schema import EncodingConfig


@dataclass(slots=True)
class Example:
    """One sentence, ready for a model.

    Attributes:
        id, text: of the sentence, whole.
        length: characters that the model sees; fewer than `len(text)` where the text was cut.
        inputs: named ids, 1-D, of the model's kind of input.
        gold: every gold entity, learnable or not.
        spans: the gold spans that can be learnt.
        tags: [length] BIOES tag ids of the spans that tags can express.
    """

    id: str
    text: str
    length: int
    inputs: dict[str, Tensor]
    gold: list[Entity]
    spans: list[Span]
    tags: Tensor


class Encoder:
    """Encodes sentences for one model: its input, its tags, its limits.

    Args:
        inputs: makes the ids.
        scheme: the active categories and their tags.
        config: limits of length.
        max_span: longest span of a head that scores spans; None for heads that read tags.
    """

    def __init__(self, inputs: TextInput, scheme: TagScheme, config: EncodingConfig, max_span: int | None) -> None:
        self.inputs, self.scheme, self.config, self.max_span = inputs, scheme, config, max_span
        self._ids = {category: number for number, category in enumerate(scheme.categories)}

    def encode(self, sentences: Iterable[Sentence]) -> tuple[list[Example], list[Issue]]:
        """Examples in the order of the sentences; those left out are named by an issue."""
        sentences = list(sentences)
        if self.config.on_too_long == "fail":
            self._refuse_long(sentences)
        examples: list[Example] = []
        issues: list[Issue] = []
        for sentence in sentences:
            example, found = self.encode_one(sentence)
            issues += found
            if example is not None:
                examples.append(example)
        return examples, issues

    def encode_one(self, sentence: Sentence) -> tuple[Example | None, list[Issue]]:
        """One sentence; no example where it is empty, or too long and not to be cut."""
        if not sentence.text:
            return None, [Issue("empty-text", "nothing to tag", id=sentence.id)]
        length = self.length(sentence.text)
        issues: list[Issue] = []
        if length < len(sentence.text):
            message = f"{len(sentence.text)} characters, {length} fit"
            if self.config.on_too_long != "truncate" or length == 0:
                return None, [Issue("too-long-skipped", message, id=sentence.id)]
            issues.append(Issue("too-long-truncated", message, id=sentence.id))
        spans = self._learnable(sentence, length, issues)
        tags, left_out = self.scheme.encode(spans, length)
        if self.max_span is not None:
            _, left_out = fit_spans(spans, length, len(self.scheme.categories), self.max_span)
        issues += [self._left_out(sentence, item) for item in left_out]
        inputs = {k: torch.tensor(v) for k, v in self.inputs.encode(sentence.text[:length]).items()}
        ids = torch.tensor(tags, dtype=torch.long)
        return Example(sentence.id, sentence.text, length, inputs, sentence.entities, spans, ids), issues

    def length(self, text: str) -> int:
        """How many characters of the text the model sees, before it is asked whether it may be cut."""
        return self.inputs.fitting(text[: self.config.max_length])

    def _refuse_long(self, sentences: Sequence[Sentence]) -> None:
        long = [s.id for s in sentences if s.text and self.length(s.text) < len(s.text)]
        if long:
            names = ", ".join(long[:10]) + (", ..." if len(long) > 10 else "")
            raise UserError(
                "encoding.max_length",
                f"{len(long)} sentences are longer than {self.config.max_length} characters or than the model takes: "
                f"{names}",
                "Raise encoding.max_length (up to the model's limit), or set encoding.on_too_long=truncate or skip.",
            )

    def _learnable(self, sentence: Sentence, length: int, issues: list[Issue]) -> list[Span]:
        """The distinct spans with offsets, of active categories, before the cut."""
        spans: set[Span] = set()
        for surface, category, start, end in sentence.entities:
            shown = f"{surface!r} ({category})"
            if start is None or end is None:
                issues.append(Issue("no-offsets", f"{shown}: a tagger cannot learn it", id=sentence.id))
            elif category not in self._ids:
                issues.append(Issue("inactive-category", f"{shown}: not in the training split", id=sentence.id))
            elif end > length:
                issues.append(Issue("gold-truncated", f"{shown}: the text is cut at {length}", id=sentence.id))
            else:
                spans.add((start, end, self._ids[category]))
        return sorted(spans)

    def _left_out(self, sentence: Sentence, left_out: LeftOut) -> Issue:
        """The issue about a span that the head cannot express."""
        (start, end, category), code, kept = left_out
        shown = f"{sentence.text[start:end]!r} ({self.scheme.categories[category]})"
        why = "cannot be expressed by this head"
        if kept:
            why += f" beside {sentence.text[kept[0] : kept[1]]!r} ({self.scheme.categories[kept[2]]})"
        return Issue(code, f"{shown} at {start}: {why}", id=sentence.id)
