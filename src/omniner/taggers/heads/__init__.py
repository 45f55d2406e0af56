"""Define heads, which turn character states into entities, one file each; and the BIOES tags of softmax and CRF heads.

A head receives states [B, L, D] from a backbone and returns a loss, or the spans `(start, end, category id)` of each
sentence, half-open in characters. Its file assigns `HEAD`, an entry with everything that the program knows of it, which
the registry `HEADS` finds by file name. A loss is summed over sentences, so that the caller can divide by the
number of sentences of a whole optimizer step, however it is divided into batches.

A `TagScheme` orders tags as O, then B, I, E, S of the first category, of the second and so on: 90 categories have 361
tags. `encode` cannot express overlapping spans; it keeps the longest and reports each one left out. `decode_batch`
handles whole batches with a few numpy calls; of an illegal sequence it keeps only the well-formed entities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from omniner import registry
from omniner.config.model_groups import DecodingConfig, HeadConfig
from omniner.errors import UserError
from omniner.registry import Registry, first_line

Span = tuple[int, int, int]
"""`(start, end, category id)`, half-open, in characters."""

ScoredSpan = tuple[Span, float]
"""A span and its probability."""

OUTSIDE = 0
_BEGIN, _INSIDE, _END, _SINGLE = range(4)


class LeftOut(NamedTuple):
    """A span that cannot be expressed, and the reason.

    `code` is `nested-entity` (inside a kept span), `overlapping-entity` (crosses a kept span), `same-place-entity`
    (another category on exactly the same characters), `long-entity` (more characters than the limit) or `bad-span`
    (empty, outside the sentence, unknown category). `kept` is the kept span that conflicts with it, or None.
    """

    span: Span
    code: str
    kept: Span | None


class TagScheme:
    """The BIOES tags over `categories`, in their order.

    Attributes:
        categories: the category names; a category id is the index in this tuple.
        tags: the tag names, `O`, `B-<category>`, `I-...`, `E-...`, `S-...`; a tag id is the index here.
        allowed_start: bool [T], tags that a sentence may begin with (O, B, S).
        allowed_end: bool [T], tags that a sentence may end with (O, E, S).
        allowed: bool [T, T], `allowed[i, j]`: tag `j` may follow tag `i`.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        if len(set(categories)) != len(categories):
            raise ValueError("the categories of a tag scheme must differ from each other")
        self.categories = tuple(categories)
        self.tags = ("O", *(f"{kind}-{name}" for name in self.categories for kind in "BIES"))
        ids = np.arange(len(self.tags))
        # kind and category of each tag; O is treated as a single-character entity of category -1 here, because the same
        # tags may precede and follow it
        self._kind = np.where(ids == OUTSIDE, _SINGLE, (ids - 1) % 4)
        self._category = np.where(ids == OUTSIDE, -1, (ids - 1) // 4)
        opens = (self._kind == _BEGIN) | (self._kind == _INSIDE)
        continues = (self._kind == _INSIDE) | (self._kind == _END)
        self.allowed_start: NDArray[np.bool_] = ~continues
        self.allowed_end: NDArray[np.bool_] = ~opens
        same = self._category[:, None] == self._category[None, :]
        self._inside: NDArray[np.bool_] = opens[:, None] & continues[None, :] & same
        self.allowed: NDArray[np.bool_] = self._inside | (~opens[:, None] & ~continues[None, :])

    def __len__(self) -> int:
        return len(self.tags)

    def encode(self, spans: Sequence[Span], length: int) -> tuple[list[int], list[LeftOut]]:
        """Return the tag ids of a sentence of `length` characters, and the spans that could not be expressed.

        Of spans that share characters the longest is kept (so the outermost of a nest), of equally long ones the one
        that starts first, then the one with the lower category id. A repeated span is one span.
        """
        tags = [OUTSIDE] * length
        owner: list[Span | None] = [None] * length
        left_out: list[LeftOut] = []
        for span in sorted(set(spans), key=lambda s: (s[0] - s[1], s[0], s[2])):
            start, end, category = span
            if not (0 <= start < end <= length and 0 <= category < len(self.categories)):
                left_out.append(LeftOut(span, "bad-span", None))
                continue
            # a kept span is at least as long, so a conflict shows at one of the two ends
            kept = owner[start] or owner[end - 1]
            if kept is not None:
                left_out.append(LeftOut(span, _clash(span, kept), kept))
                continue
            owner[start:end] = [span] * (end - start)
            first = 1 + 4 * category
            if end - start == 1:
                tags[start] = first + _SINGLE
            else:
                tags[start:end] = [first + _BEGIN, *[first + _INSIDE] * (end - start - 2), first + _END]
        return tags, sorted(left_out)

    def decode_batch(self, tags: NDArray[np.integer], lengths: Sequence[int]) -> list[list[Span]]:
        """Return the spans of each sentence, sorted by position; tags beyond its length are ignored.

        Args:
            tags: [B, L] tag ids, right padded with anything.
            lengths: [B] characters of each sentence.
        """
        spans: list[list[Span]] = [[] for _ in range(len(tags))]
        if tags.size == 0:
            return spans
        place = np.arange(tags.shape[1])
        tags = np.where(place < np.asarray(lengths)[:, None], tags, OUTSIDE)
        linked = np.zeros(tags.shape, dtype=bool)
        linked[:, 1:] = self._inside[tags[:, :-1], tags[:, 1:]]
        # where the chain of linked characters containing a character begins
        begins = np.maximum.accumulate(np.where(linked, 0, place), axis=1)
        rows, ends = np.nonzero((self._kind[tags] >= _END) & (tags != OUTSIDE))
        starts, last = begins[rows, ends], tags[rows, ends]
        whole = (self._kind[last] == _SINGLE) | (self._kind[tags[rows, starts]] == _BEGIN)
        columns = (rows, starts, ends + 1, self._category[last])
        for row, start, end, category in zip(*(column[whole].tolist() for column in columns), strict=True):
            spans[row].append((start, end, category))
        return spans


def fit_spans(
    spans: Sequence[Span], length: int, num_categories: int, max_span: int
) -> tuple[list[Span], list[LeftOut]]:
    """Separate spans that fit a table of every start and every length up to `max_span` from the others.

    Nested and overlapping spans are kept; of two categories on the same characters the lower id is.
    """
    kept: list[Span] = []
    left_out: list[LeftOut] = []
    for span in sorted(set(spans)):
        start, end, category = span
        if not (0 <= start < end <= length and 0 <= category < num_categories):
            left_out.append(LeftOut(span, "bad-span", None))
        elif end - start > max_span:
            left_out.append(LeftOut(span, "long-entity", None))
        elif kept and kept[-1][:2] == span[:2]:
            left_out.append(LeftOut(span, "same-place-entity", kept[-1]))
        else:
            kept.append(span)
    return kept, left_out


def _clash(span: Span, kept: Span) -> str:
    """Return how a span relates to the kept one that it shares characters with."""
    if span[:2] == kept[:2]:
        return "same-place-entity"
    inside = kept[0] <= span[0] and span[1] <= kept[1]
    return "nested-entity" if inside else "overlapping-entity"


@dataclass(frozen=True, kw_only=True)
class Head:
    """Everything that is known of a head.

    Fields that are needed before anything is built (`nested`, `members`, `keys`) are written as literals, so that
    `HEADS.peek` reads them without importing torch.

    Attributes:
        name: the name of its file, and of its choice in `conf/head`.
        description: the docstring of its module; the first line describes the head.
        build: creates its layers from the size D of a state, the tags of the categories, and `head` of the
            configuration.
        nested: whether it finds a mention inside another one.
        members: whether the mean of several backbones' states scores like the mean of their scores, so that
            `model.members` may be above 1.
        keys: the keys of `head` that it reads, besides `kind`; others are rejected. None = unspecified, and none is
            rejected.
    """

    name: str
    description: str
    build: Callable[[int, TagScheme, HeadConfig], HeadModule]
    nested: bool
    members: bool
    keys: tuple[str, ...] | None = None

    @property
    def meaning(self) -> str:
        """The description in one line."""
        return first_line(self.description)


HEADS: Registry[Head] = registry.HEADS


class LabelledBatch(Protocol):
    """What a head reads of a batch of B sentences of at most L characters.

    All of it is on the host: values that depend only on the labels are prepared there and sent to the device of the
    states (`omniner.compute.devices.send`). Reading them from a device would make the host wait.
    """

    @property
    def lengths(self) -> Sequence[int]:
        """Number of characters of each sentence."""

    @property
    def tags(self) -> Tensor:
        """Long [B, L], BIOES tag ids of the gold spans that tags can express; undefined for padding."""

    @property
    def spans(self) -> Sequence[Sequence[Span]]:
        """Gold spans of each sentence, including nested and crossing ones."""


class HeadModule(nn.Module, ABC):
    """The layers of a head.

    Attributes:
        max_span: characters of the longest span that a span-scoring head can find; None for a head with tags, which has
            no longest span but allows only one entity per character.
    """

    max_span: int | None = None

    @abstractmethod
    def loss(self, states: Tensor, batch: LabelledBatch) -> Tensor:
        """Return the loss of the gold labels, summed over the sentences.

        Args:
            states: [B, L, D].
            batch: the labels.

        Returns:
            A scalar, at least fp32.
        """

    @abstractmethod
    def decode(self, states: Tensor, lengths: Sequence[int]) -> list[list[Span]]:
        """Return the entities of each sentence, sorted by position.

        Args:
            states: [B, L, D].
            lengths: number of characters of each sentence.
        """

    def decode_scored(self, states: Tensor, lengths: Sequence[int]) -> list[list[ScoredSpan]]:
        """Return exactly the entities of `decode`, each with the probability that the model gives it.

        A head that gives no probabilities does not override this, and `check_scored` refuses to ask it.

        Args:
            states: [B, L, D].
            lengths: number of characters of each sentence.
        """
        raise NotImplementedError

    def check_scored(self, decoding: DecodingConfig) -> None:
        """Check that the head gives probabilities if predictions need them, before they are made or it is trained.

        Raises:
            UserError: it gives none.
        """
        if decoding.gives_scores and type(self).decode_scored is HeadModule.decode_scored:
            key, name = "scores" if decoding.scores else "min_score", type(self).__name__
            raise UserError(f"decoding.{key}", f"{name} gives no probabilities", "Leave it out, or take another head.")


def build_head(kind: str, in_dim: int, categories: Sequence[str], config: HeadConfig) -> HeadModule:
    """Build the layers of a head with new weights.

    Args:
        kind: name of the head; `auto` must be resolved before.
        in_dim: D, size of a character's state.
        categories: the active ones, in order.
        config: its settings.

    Raises:
        ValueError: there is no such head, or no category.
    """
    if not categories:
        raise ValueError("a head needs at least one category")
    if kind not in HEADS:
        raise ValueError(f"unknown head kind {kind!r}: {', '.join(HEADS)}")
    return HEADS[kind].build(in_dim, TagScheme(categories), config)


def mask_of(lengths: Sequence[int], width: int) -> Tensor:
    """Return bool [B, width] on the host: True where a sentence has a character."""
    return torch.arange(width) < torch.tensor(lengths)[:, None]
