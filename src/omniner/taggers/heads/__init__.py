"""Heads: what turns the states of characters into entities, one file per head.

A head gets states [B, L, D] from a backbone and gives a loss to learn from, or the spans `(start, end, category id)` of
each sentence. Its file assigns `HEAD`, an entry with all that the program knows of it; `omniner.registry.HEADS` finds
the entry by the name of the file.

A loss is the sum over sentences of what a sentence costs (the sum over its characters or cells), so that the caller
can divide by the sentences of a whole optimizer step, however it was cut into batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from omniner.config.model_groups import HeadConfig
from omniner.registry import HEADS
from omniner.taggers.tags import Span, TagScheme


@dataclass(frozen=True, kw_only=True)
class Head:
    """All that is known of a head.

    Fields that a check of the configuration asks for (`nested`, `members`) are written as plain True or False, so that
    `HEADS.peek` reads them without importing torch.

    Attributes:
        name: the name of its file, and of its choice in `conf/head`.
        description: the text of its module; the first line says what it is.
        build: makes its layers of the size D of a state, the tags of the categories, and `head` of the configuration.
        nested: whether it finds a mention inside another one.
        members: whether the mean of several backbones' states scores like the mean of their scores, so that
            `model.members` may be above 1.
        keys: the keys of `head` that it reads, beside `kind`.
    """

    name: str
    description: str
    build: Callable[[int, TagScheme, HeadConfig], HeadModule]
    nested: bool
    members: bool
    keys: tuple[str, ...] = ()

    @property
    def meaning(self) -> str:
        """What it is, in one line."""
        return self.description.partition("\n")[0]


class LabelledBatch(Protocol):
    """What a head reads of a batch of B sentences of at most L characters."""

    @property
    def mask(self) -> Tensor:
        """Bool [B, L], right padded: True where there is a character."""

    @property
    def tags(self) -> Tensor:
        """Long [B, L], BIOES tag ids of the gold spans that tags can express; anything where there is no character."""

    @property
    def spans(self) -> Sequence[Sequence[Span]]:
        """Gold spans of each sentence, nested and crossing ones too."""


class HeadModule(nn.Module, ABC):
    """The layers of a head.

    Attributes:
        max_span: characters of the longest span that a head which scores spans can find; None for a head that learns
            tags, which knows no longest span but only one entity per character.
    """

    max_span: int | None = None

    @abstractmethod
    def loss(self, states: Tensor, batch: LabelledBatch) -> Tensor:
        """Return the loss of the gold labels, summed over the sentences.

        Args:
            states: [B, L, D].
            batch: the labels.

        Returns:
            A scalar, fp32 at least.
        """

    @abstractmethod
    def decode(self, states: Tensor, mask: Tensor) -> list[list[Span]]:
        """Return the entities of each sentence in order of their place.

        Args:
            states: [B, L, D].
            mask: bool [B, L], right padded.
        """


def build_head(kind: str, in_dim: int, categories: Sequence[str], config: HeadConfig) -> HeadModule:
    """Build the layers of a head with new weights.

    Args:
        kind: name of the head; `auto` must have been decided before.
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
    head: HeadModule = HEADS[kind].build(in_dim, TagScheme(categories), config)
    return head


def read_spans(scheme: TagScheme, tags: Tensor, mask: Tensor) -> list[list[Span]]:
    """Return the spans of each sentence of tag ids [B, L]; `mask` [B, L] says where its characters are."""
    return scheme.decode_batch(tags.cpu().numpy(), mask.sum(1).cpu().numpy())
