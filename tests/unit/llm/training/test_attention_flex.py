"""The pattern that `flex_attention` is given; on a CPU without a compiler, so results only."""

from __future__ import annotations

import pytest
import torch
from packed_models import samples
from torch.nn.attention.flex_attention import flex_attention

from omniner.llm.training import attention
from omniner.llm.training.packs import make_pack


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("count", [1, 30])
def test_the_pattern_equals_the_mask(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_kernel", lambda: flex_attention)
    pack = make_pack(samples(count, 150), 150)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, len(pack.ids), 16) for heads in (6, 2, 2))
    got = attention.attend_flex(q, k, v, 0.3, pack, False)
    want = attention.attend_masked(q, k, v, 0.3, pack, False)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
