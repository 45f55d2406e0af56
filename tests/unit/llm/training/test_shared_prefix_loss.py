"""The summed loss of tokens by chunks equals cross entropy over all logits, for every kind of output layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from omniner.llm.training import shared_prefix
from omniner.llm.training.shared_prefix import add_gradients, token_loss

ROWS, WIDTH, VOCABULARY = 23, 16, 41


class WithUpdate(nn.Module):
    """A frozen layer with a low-rank update that learns, as LoRA has it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)
        self.down, self.up = nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, VOCABULARY, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.frozen(hidden) + self.up(self.down(hidden)) * 2


HEADS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Linear(WIDTH, VOCABULARY, bias=False),
    "bias": lambda: nn.Linear(WIDTH, VOCABULARY),
    "frozen": lambda: nn.Linear(WIDTH, VOCABULARY).requires_grad_(False),
    "update": WithUpdate,
}


def by_chunks(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return token_loss(head, head.forward, hidden, targets, VOCABULARY)


def at_once(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="sum")


def gradients(loss: Tensor, head: nn.Module, hidden: Tensor) -> list[Tensor]:
    wanted = [hidden, *(weight for weight in head.parameters() if weight.requires_grad)]
    return list(torch.autograd.grad(loss, wanted))


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(ROWS, WIDTH, dtype=dtype).requires_grad_(), torch.randint(VOCABULARY, (ROWS,))


@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize("rows", [0, 1, 5, 23, 100])
def test_loss_and_gradients_equal_cross_entropy(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prefix, "MOST_LOGITS", rows * VOCABULARY)
    head, (hidden, targets) = HEADS[kind](), problem()
    got, want = by_chunks(head, hidden, targets) * 0.3, at_once(head, hidden, targets) * 0.3
    torch.testing.assert_close(got, want)
    for one, two in zip(gradients(got, head, hidden), gradients(want, head, hidden), strict=True):
        torch.testing.assert_close(one, two)
    with torch.no_grad():
        torch.testing.assert_close(by_chunks(head, hidden, targets) * 0.3, want)


def test_no_more_logits_than_allowed_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prefix, "MOST_LOGITS", 5 * VOCABULARY + 1)
    head, (hidden, targets) = HEADS["plain"](), problem()
    seen: list[int] = []
    head.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    token_loss(head, head.__call__, hidden, targets, VOCABULARY)
    assert seen == [5, 5, 5, 5, 3]


def test_a_frozen_layer_is_read_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many words for all rows as a CPU's caches hold; its own forward pass would compute rows."""
    monkeypatch.setattr(shared_prefix, "_CPU_LOGITS", 10 * ROWS + 1)
    head, (hidden, targets) = HEADS["frozen"](), problem()
    seen: list[Tensor] = []
    real = shared_prefix.linear
    monkeypatch.setattr(shared_prefix, "linear", lambda *given: seen.append(real(*given)) or seen[-1])
    by_chunks(head, hidden, targets)
    assert [tuple(logits.shape) for logits in seen] == [(ROWS, 10)] * 4 + [(ROWS, 1)]


@pytest.mark.parametrize("kind", ["plain", "frozen"])
def test_double_precision_is_kept(kind: str) -> None:
    head, (hidden, targets) = HEADS[kind]().double(), problem(torch.float64)
    got, want = by_chunks(head, hidden, targets), cross_entropy(head(hidden), targets, reduction="sum")
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    for one, two in zip(gradients(got, head, hidden), gradients(want, head, hidden), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_gradients_of_many_chunks_keep_what_bf16_would_round_off() -> None:
    totals = [torch.ones(1, dtype=torch.bfloat16)]
    for _ in range(8):
        totals = add_gradients(totals, [torch.full((1,), 2**-9, dtype=torch.bfloat16)])
    assert totals[0] == 1 + 8 * 2**-9


def test_weights_learn_even_if_nothing_below_does() -> None:
    head, (hidden, targets) = HEADS["plain"](), problem()
    (got,) = torch.autograd.grad(by_chunks(head, hidden.detach(), targets), head.weight)
    (want,) = torch.autograd.grad(at_once(head, hidden.detach(), targets), head.weight)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", ["plain", "frozen"])
@pytest.mark.parametrize("rows", [4, 100])
def test_bf16_is_summed_in_fp32(rows: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prefix, "MOST_LOGITS", rows * VOCABULARY)
    head, (hidden, targets) = HEADS[kind]().bfloat16(), problem(torch.bfloat16)
    got, want = by_chunks(head, hidden, targets), at_once(head, hidden, targets)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)
    exact_head, exact = HEADS[kind](), hidden.detach().float().requires_grad_()
    exact_head.load_state_dict(head.state_dict())
    truth = gradients(at_once(exact_head, exact, targets), exact_head, exact)
    for one, true in zip(gradients(got, head, hidden), truth, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - true).norm() < 0.01 * true.norm()


def test_autocast() -> None:
    head, (hidden, targets) = HEADS["plain"](), problem()
    with torch.autocast("cpu", torch.bfloat16):
        got, want = by_chunks(head, hidden, targets), at_once(head, hidden, targets)
    torch.testing.assert_close(got, want)
    for one, two in zip(gradients(got, head, hidden), gradients(want, head, hidden), strict=True):
        assert one.dtype == torch.float32
        assert (one - two).norm() < 0.01 * two.norm()


@pytest.mark.parametrize("kind", ["plain", "frozen"])
def test_a_loss_is_differentiated_once(kind: str) -> None:
    head, (hidden, targets) = HEADS[kind](), problem()
    loss = by_chunks(head, hidden, targets)
    loss.backward(retain_graph=True)
    with pytest.raises((TypeError, AttributeError), match="NoneType"):
        loss.backward()
