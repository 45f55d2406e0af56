"""What an attention back-end for packs is; each has a module of its own, `attention_<name>`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from omniner.encoding.packs import Pack


class Attend(Protocol):
    """Attention of a whole pack: each row sees the prefix and its own suffix, up to itself."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack, prefix_unused: bool
    ) -> Tensor:
        """Result [1, T, H, D] of query [1, H, T, D], key and value [1, G, T, D], all of one type, G dividing H.

        Query head h reads key head h // (H / G). With `prefix_unused` nobody reads the rows of the prefix, which may
        then hold anything finite.
        """


class Backend(NamedTuple):
    """A way to compute attention, and where it can run.

    Attributes:
        attend: computes it, with gradients.
        device: the only type of device it runs on; None = any.
        dtypes: precisions it takes.
    """

    attend: Attend
    device: str | None
    dtypes: tuple[torch.dtype, ...]
