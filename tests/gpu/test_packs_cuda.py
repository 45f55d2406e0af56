"""Back-ends of packs on a GPU give the loss and gradients of separate sequences."""

from __future__ import annotations

import copy

import pytest
import torch
from packed_models import gradients, model, samples, separate_loss

from omniner.llm.training.attention_probe import choose_attention
from omniner.llm.training.packs import make_pack
from omniner.llm.training.shared_prefix import attach_attention, pack_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("default"),  # compilers have much to say
]


@pytest.mark.parametrize("backend", ["masked", "flash", "flex"])
@pytest.mark.parametrize("shape", ["gqa", "mha"])
@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_packs_equal_separate_sequences(backend: str, shape: str, checkpoints: bool, count: int) -> None:
    exact = model("llama", shape, hidden_size=256, initializer_range=0.06)  # heads of 64
    items = samples(count, 300)
    loss = separate_loss(exact, items)
    want = gradients(exact, loss)
    made = copy.deepcopy(exact).cuda()
    if checkpoints:
        made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    attach_attention(made, backend)
    with torch.autocast("cuda", torch.bfloat16):
        got = pack_loss(made, make_pack(items, 300).to("cuda"))
    assert abs(got.item() - loss.item()) < 0.01 * loss.item()
    for name, gradient in gradients(made, got).items():
        assert (gradient.cpu() - want[name]).norm() < 0.1 * want[name].norm(), name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_every_back_end_passes_the_probe(precision: str) -> None:
    made, device = model("llama", hidden_size=256), torch.device("cuda")
    for backend in ("masked", "flex") if precision == "32-true" else ("masked", "flash", "flex"):
        assert choose_attention(made, backend, device, precision) == backend
    assert choose_attention(made, "auto", device, precision) == ("flex" if precision == "32-true" else "flash")


def test_memory_grows_with_the_pack_not_with_its_square() -> None:
    """Flash and flex keep no T x T numbers."""
    made = model("llama", hidden_size=256, max_position_embeddings=4096).cuda().bfloat16()
    for backend in ("flash", "flex"):
        attach_attention(made, backend)
        peaks = []
        for count in (100, 400):
            pack = make_pack(samples(count, 600, sizes=[(20, 20)] * count), 600).to("cuda")
            pack_loss(made, pack).backward()  # what is compiled or allocated once
            made.zero_grad()
            torch.cuda.reset_peak_memory_stats()
            pack_loss(made, pack).backward()
            made.zero_grad()
            peaks.append(torch.cuda.max_memory_allocated())
        assert peaks[1] < 4.5 * peaks[0]
