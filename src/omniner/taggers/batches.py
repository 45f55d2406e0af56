"""Convert sentences to padded batches, divided between the processes of a step.

A sentence that is too long is an error, is left out, or is cut, as `encoding.on_too_long` says. Each such sentence,
each gold mention beyond the cut, and gold that the head cannot express is an issue. This affects only training: scoring
compares with the sentence's own entities. Everything is encoded before training, so that errors in the data are
reported at once. There are no worker processes, since slicing tensors costs less than sending them.

The batches of an epoch depend only on the seed, the epoch and the lengths. Each process takes every n-th sentence of
each batch, and an epoch can begin at any batch: two processes make the same steps as one, a resumed run the same as an
uninterrupted one. Sorting by length within windows of some batches keeps padding low (2.5 % of CLUENER in batches of
32), while sentences are still batched with different ones in each epoch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omniner.compute.devices import send
from omniner.config.model_groups import EncodingConfig
from omniner.errors import UserError
from omniner.progress import Progress
from omniner.records import Entity, Issue, Sentence, ranked
from omniner.registry import HEADS
from omniner.taggers.heads import LeftOut, Span, TagScheme, fit_spans, mask_of
from omniner.taggers.inputs import Inputs, TextInput
from omniner.training.plans import plan_longest_first
from omniner.wording import counted, first_of

log = logging.getLogger("omniner")

_SKIPPED = "too-long-skipped"  # code of an issue
_NAMED = 10  # sentences, or characters, named in a message
_MOST_UNKNOWN = 0.01  # share of all characters; more are a warning


@dataclass(slots=True)
class EncodedSentence:
    """One sentence, ready for a model.

    Attributes:
        id, text: of the whole sentence.
        length: number of characters that the model sees; fewer than `len(text)` if the text was cut.
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


class SentenceEncoder:
    """Encode sentences for one model: its input, its tags, its limits.

    Args:
        inputs: creates the ids.
        scheme: the active categories and their tags.
        config: limits of length.
        max_span: longest span of a head that scores spans; None for heads that use tags.
    """

    def __init__(self, inputs: TextInput, scheme: TagScheme, config: EncodingConfig, max_span: int | None) -> None:
        self.inputs, self.scheme, self.config, self.max_span = inputs, scheme, config, max_span
        self._ids = {category: number for number, category in enumerate(scheme.categories)}

    def encode(self, sentences: Sequence[Sentence]) -> tuple[list[EncodedSentence], list[Issue]]:
        """Encode sentences, in their order; each sentence that is left out has an issue.

        Raises:
            UserError: a sentence is too long, and `encoding.on_too_long` is `fail`.
        """
        examples: list[EncodedSentence] = []
        issues: list[Issue] = []
        progress = Progress("sentences encoded", len(sentences))
        for sentence in sentences:
            example, found = self.encode_one(sentence)
            issues += found
            if example is not None:
                examples.append(example)
            progress.add(1)
        if self.config.on_too_long == "fail":
            self._refuse_long(issues)
        return examples, issues

    def encode_one(self, sentence: Sentence) -> tuple[EncodedSentence | None, list[Issue]]:
        """Encode one sentence; there is no example if it is empty, or too long and not to be cut."""
        if not sentence.text:
            return None, [Issue("empty-text", "nothing to tag", id=sentence.id)]
        inputs, length = self.inputs.encode_fitting(sentence.text[: self.config.max_length])
        issues: list[Issue] = []
        if length < len(sentence.text):
            message = f"{len(sentence.text)} characters, {length} fit"
            if self.config.on_too_long != "truncate" or length == 0:
                return None, [Issue(_SKIPPED, message, id=sentence.id)]
            issues.append(Issue("too-long-truncated", message, id=sentence.id))
        spans = self._learnable(sentence, length, issues)
        issues += self._unclear(sentence, spans, inputs)
        tags, left_out = self.scheme.encode(spans, length)
        if self.max_span is not None:
            _, left_out = fit_spans(spans, length, len(self.scheme.categories), self.max_span)
        issues += [self._left_out(sentence, item) for item in left_out]
        tensors = {name: torch.tensor(ids) for name, ids in inputs.items()}
        gold_tags = torch.tensor(tags, dtype=torch.long)
        example = EncodedSentence(sentence.id, sentence.text, length, tensors, sentence.entities, spans, gold_tags)
        return example, issues

    def _refuse_long(self, issues: Sequence[Issue]) -> None:
        if long := [issue.id for issue in issues if issue.code == _SKIPPED]:
            raise UserError(
                "encoding.max_length",
                f"{counted(len(long), 'sentence')} longer than {self.config.max_length} characters "
                f"or than the model takes: {first_of(long, _NAMED)}",
                "Raise encoding.max_length (up to the model's limit), or set encoding.on_too_long=truncate or skip.",
            )

    def _learnable(self, sentence: Sentence, length: int, issues: list[Issue]) -> list[Span]:
        """Return the distinct spans with offsets, of active categories, before the cut; add issues for the others."""
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

    def _unclear(self, sentence: Sentence, spans: Sequence[Span], inputs: Inputs) -> Iterator[Issue]:
        """Yield issues about spans with an end between two characters that are identical to the model."""
        for start, end, category in spans:
            if not (self.inputs.is_clear(inputs, start) and self.inputs.is_clear(inputs, end)):
                shown = f"{sentence.text[start:end]!r} ({self.scheme.categories[category]}) at {start}"
                why = "it begins or ends within one token, where the model sees no difference between characters"
                yield Issue("unclear-boundary", f"{shown}: {why}", id=sentence.id)

    @cached_property
    def _nesting(self) -> str:
        """The heads that can find a mention inside another one."""
        return " or ".join(f"head={name}" for name in HEADS if HEADS.peek(name, "nested"))

    def _left_out(self, sentence: Sentence, left_out: LeftOut) -> Issue:
        """Return the issue about a span that the head cannot express."""
        (start, end, category), code, kept = left_out
        shown = f"{sentence.text[start:end]!r} ({self.scheme.categories[category]})"
        why = "cannot be expressed by this head"
        if kept:
            why += f" beside {sentence.text[kept[0] : kept[1]]!r} ({self.scheme.categories[kept[2]]})"
        if code == "nested-entity":
            why += f", but by {self._nesting}"
        return Issue(code, f"{shown} at {start}: {why}", id=sentence.id)


@dataclass(slots=True)
class UnknownCharacters:
    """Characters of some sentences that a model reads as `[UNK]`.

    Attributes:
        total: number of all characters.
        counts: number of each unknown character.
        mentions: number of gold mentions.
        affected: number of these with an unknown character.
    """

    total: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    mentions: int = 0
    affected: int = 0

    def tell(self, where: str) -> None:
        """Log the counts and the most frequent characters, as a warning if there are many; nothing if there are none.

        Args:
            where: what the sentences are.
        """
        if not (unknown := self.counts.total()):
            return
        many = unknown > _MOST_UNKNOWN * self.total
        found = (
            f"{unknown:,} of {self.total:,} characters of {where} ({unknown / self.total:.2%}) are [UNK] to the model"
        )
        if self.mentions:
            found += f", and {self.affected:,} of {self.mentions:,} mentions have one"
        most = ", ".join(f"{character!r} {count:,}" for character, count in ranked(self.counts, _NAMED))
        fix = ". See model.fold_characters, or train an encoder that knows them" if many else ""
        log.log(logging.WARNING if many else logging.INFO, "%s: %s%s", found, most, fix)


def count_unknown(inputs: TextInput, examples: Sequence[EncodedSentence]) -> UnknownCharacters:
    """Count the characters of sentences that a model reads as `[UNK]`.

    Args:
        inputs: has encoded the sentences.
        examples: the sentences.
    """
    found = UnknownCharacters()
    for example in examples:
        unknown = inputs.unknown({name: ids.tolist() for name, ids in example.inputs.items()})
        found.total += example.length
        found.counts.update(example.text[at] for at in unknown)
        found.mentions += len(example.spans)
        found.affected += sum(any(start <= at < end for at in unknown) for start, end, _ in example.spans)
    return found


@dataclass
class Batch:
    """The sentences of one step in this process (B of them, L characters at most).

    Attributes:
        inputs: input of the backbone; each [B, its own length], padded with 0.
        lengths: number of characters of each sentence.
        mask: bool [B, L], true for characters.
        tags: [B, L] BIOES tag ids, 0 for padding; on the host, where heads prepare their targets.
        spans: the learnable gold spans of each sentence.
        gold: all gold entities of each sentence.
        ids, texts: of the sentences.
        rows: [B] indices of these sentences in the whole step.
        step_sentences: number of sentences of the whole step, over all processes.
        step_length: number of characters of the longest sentence of the whole step.
        weight: 1, or 0 if the step is too small for this process to have a sentence of its own: the batch then repeats
            one, which must not count.
    """

    inputs: dict[str, Tensor]
    lengths: list[int]
    mask: Tensor
    tags: Tensor
    spans: list[list[Span]]
    gold: list[list[Entity]]
    ids: list[str]
    texts: list[str]
    rows: Tensor
    step_sentences: int
    step_length: int
    weight: int

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch with the backbone's inputs on another device."""
        inputs = dict(zip(self.inputs, send(list(self.inputs.values()), device), strict=True))
        return replace(self, inputs=inputs, mask=send([self.mask], device)[0])


def collate(examples: Sequence[EncodedSentence], rank: int, ranks: int) -> Batch:
    """Pad one process's part of a step: the sentences `rank`, `rank + ranks`, ... of `examples`.

    Args:
        examples: those of the whole step, at least one.
        rank, ranks: number of this process, and number of processes.
    """
    rows = list(range(rank, len(examples), ranks))
    weight = 1 if rows else 0
    rows = rows or [0]
    part = [examples[row] for row in rows]
    lengths = [example.length for example in part]
    return Batch(
        inputs={
            name: pad_sequence([example.inputs[name] for example in part], batch_first=True) for name in part[0].inputs
        },
        lengths=lengths,
        mask=mask_of(lengths, max(lengths)),
        tags=pad_sequence([example.tags for example in part], batch_first=True),
        spans=[example.spans for example in part],
        gold=[example.gold for example in part],
        ids=[example.id for example in part],
        texts=[example.text for example in part],
        rows=torch.tensor(rows),
        step_sentences=len(examples),
        step_length=max(example.length for example in examples),
        weight=weight,
    )


class EvalLoader:
    """Yield this process's part of each batch of dev, the longest sentences first.

    All processes get equally many batches, and no sentence counts twice.

    Args:
        examples: all of them.
        batch_size: sentences of a batch, over all processes.
        rank, ranks: number of this process, and number of processes.
    """

    def __init__(self, examples: Sequence[EncodedSentence], batch_size: int, rank: int, ranks: int) -> None:
        self._examples, self._rank, self._ranks = examples, rank, ranks
        self._plan = plan_longest_first([example.length for example in examples], batch_size)

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        for positions in self._plan:
            yield collate([self._examples[position] for position in positions], self._rank, self._ranks)
