"""Packs give the loss and every gradient of separate sequences, whatever the back-end, model and pack size."""

from __future__ import annotations

from typing import Any

import pytest
from packed_models import assert_same, gradients, model, samples, separate_loss
from torch import Tensor

from omniner.encoding.packs import make_pack
from omniner.models.shared_prefix import attach, pack_loss

CPU_BACKENDS = ["masked", "cascade"]
EXACT = 2e-5  # fp32, relative


def packed(made: Any, items: list[Any], size: int, prefix: int = 23) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients by packs of `size` samples."""
    loss = sum(pack_loss(made, make_pack(items[at : at + size], prefix)) for at in range(0, len(items), size))
    return loss, gradients(made, loss)


def separate(made: Any, items: list[Any]) -> tuple[Tensor, dict[str, Tensor]]:
    loss = separate_loss(made, items)
    return loss, gradients(made, loss)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize(("kind", "shape"), [("qwen2", "gqa"), ("llama", "mha"), ("llama", "mqa")])
@pytest.mark.parametrize("size", [1, 4, 13])
def test_packs_equal_separate_sequences(backend: str, kind: str, shape: str, size: int) -> None:
    made, items = model(kind, shape), samples(13)
    want = separate(made, items)
    attach(made, backend)
    assert_same(packed(made, items, size), want, EXACT)
