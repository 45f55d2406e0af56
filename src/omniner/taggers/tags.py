"""BIOES tags of a set of categories: which tags exist, which may follow which, and spans to tags and back.

The order of the tags is O, then B, I, E, S of the first category, of the second and so on: 90 categories make 361 tags.
`TagScheme.encode` cannot express spans that share characters; it keeps the longest and names each span that it had to
leave out. `TagScheme.decode` reads whole batches with a handful of numpy calls, no loop over characters; it takes any
tag sequence, and from an illegal one only the well-formed entities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int, int]
"""`(start, end, category id)`, half-open, in characters."""

OUTSIDE = 0
_BEGIN, _INSIDE, _END, _SINGLE = range(4)


class LeftOut(NamedTuple):
    """A span that cannot be expressed, and why.

    `code` is `nested-entity` (inside a kept span), `overlapping-entity` (crosses a kept span),
    `same-place-entity` (another category on exactly the same characters), `long-entity` (more characters than the
    limit) or `bad-span` (empty, outside the sentence, unknown category). `kept` is the span that stands in the way,
    None where none does.
    """

    span: Span
    code: str
    kept: Span | None


class TagScheme:
    """The BIOES tags over `categories`, in their order.

    Attributes:
        categories: the category names; a category id is the place in this tuple.
        tags: the tag names, `O`, `B-<category>`, `I-...`, `E-...`, `S-...`; a tag id is the place here.
        allowed_start: bool [T], tags a sentence may begin with (O, B, S).
        allowed_end: bool [T], tags a sentence may end with (O, E, S).
        allowed: bool [T, T], `allowed[i, j]`: tag `j` may follow tag `i`.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        if len(set(categories)) != len(categories):
            raise ValueError("the categories of a tag scheme must differ from each other")
        self.categories = tuple(categories)
        self.tags = ("O", *(f"{kind}-{name}" for name in self.categories for kind in "BIES"))
        ids = np.arange(len(self.tags))
        # kind and category of each tag; O counts as a single character entity of category -1 here, because
        # what may stand before and after it is the same
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

        Of spans that share characters the longest stays (so the outermost of a nest), of equally long ones
        the one that starts first, then the one with the lower category id. A repeated span is one span.
        """
        tags = [OUTSIDE] * length
        owner: list[Span | None] = [None] * length
        left_out: list[LeftOut] = []
        for span in sorted(set(spans), key=lambda s: (s[0] - s[1], s[0], s[2])):
            start, end, category = span
            if not (0 <= start < end <= length and 0 <= category < len(self.categories)):
                left_out.append(LeftOut(span, "bad-span", None))
                continue
            # a kept span is at least as long, so a clash shows at one of the two ends
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

    def decode(self, tags: Sequence[int] | NDArray[np.integer]) -> list[Span]:
        """Return the spans of one sentence, in order of their place."""
        row = np.asarray(tags, dtype=np.int64)[None]
        return self.decode_batch(row, np.array([row.shape[1]]))[0]

    def decode_batch(self, tags: NDArray[np.integer], lengths: NDArray[np.integer]) -> list[list[Span]]:
        """Return the spans of each sentence; what lies beyond a sentence's length is not looked at.

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
        # where the chain of linked characters that a character belongs to begins
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
    """Split spans into those that a table of every start and every length up to `max_span` can hold, and the others.

    Nested and overlapping spans stay; of two categories on the same characters the lower id does.
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
    """How a span stands to the kept one that it shares characters with."""
    if span[:2] == kept[:2]:
        return "same-place-entity"
    inside = kept[0] <= span[0] and span[1] <= kept[1]
    return "nested-entity" if inside else "overlapping-entity"
