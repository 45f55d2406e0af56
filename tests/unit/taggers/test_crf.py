"""The CRF against every path counted one by one, against a plain log-space twin, and against pytorch-crf."""

from __future__ import annotations

import itertools

import pytest
import torch
import torchcrf
from torch import Tensor
from torch.func import functional_call

from omniner.taggers import linear_chain
from omniner.taggers.chain_layout import find_blocks, pack_by_position
from omniner.taggers.heads import TagScheme, mask_of
from omniner.taggers.linear_chain import CRF, constrained_crf

CPU = torch.device("cpu")
PARAMETERS = ("start_transitions", "transitions", "end_transitions")


def bioes(categories: int, spread: float = 1.0) -> CRF:
    """A CRF with the constraints of BIOES and random parameters."""
    crf = constrained_crf(TagScheme([str(number) for number in range(categories)]))
    return with_spread(crf, spread)


def with_spread(crf: CRF, spread: float) -> CRF:
    for parameter in crf.parameters():
        parameter.data.normal_(0, spread)
    return crf


def odd_constraints() -> CRF:
    """Constraints that do not fall apart into complete blocks: tag n is followed by n, n + 1 or 0."""
    allowed = torch.eye(5, dtype=torch.bool) | torch.eye(5, dtype=torch.bool).roll(1, 1)
    allowed[:, 0] = True
    ends = torch.tensor([True, True, False, True, True])
    return with_spread(CRF(5, allowed, torch.tensor([True, True, False, False, False]), ends), 1.0)


def bio() -> CRF:
    """BIO of two categories: I is reached from B and I of its category, which reach B and O as well."""
    kinds = ["O", "Ba", "Ia", "Bb", "Ib"]
    allowed = torch.tensor([[b[0] != "I" or a[1:] == b[1:] for b in kinds] for a in kinds])
    return with_spread(CRF(5, allowed, torch.tensor([k[0] != "I" for k in kinds])), 1.0)


KINDS = {
    "free": lambda: with_spread(CRF(4), 1.0),
    "one tag": lambda: with_spread(CRF(1), 1.0),
    "bioes": lambda: bioes(2),
    "bioes, one category": lambda: bioes(1),
    "bio": bio,
    "odd": odd_constraints,
    "blocks that share a target": lambda: with_spread(CRF(2, torch.tensor([[True, True], [False, True]])), 1.0),
    "a tag that leads nowhere": lambda: with_spread(CRF(2, torch.tensor([[True, True], [False, False]])), 1.0),
}


@torch.no_grad()
def score_of(crf: CRF, emissions: Tensor, path: tuple[int, ...]) -> float | None:
    """Score of one path over [L, T], None if a constraint forbids it."""
    if not (crf.allowed_start[path[0]] and crf.allowed_end[path[-1]]):
        return None
    if not all(crf.allowed[a, b] for a, b in itertools.pairwise(path)):
        return None
    score = crf.start_transitions[path[0]] + crf.end_transitions[path[-1]]
    score = score + sum(emissions[step, tag] for step, tag in enumerate(path))
    return float(score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path)))


def every_path(crf: CRF, emissions: Tensor) -> dict[tuple[int, ...], float]:
    """Scores of all legal paths over [L, T]."""
    paths = itertools.product(range(crf.num_tags), repeat=len(emissions))
    scored = {path: score_of(crf, emissions, path) for path in paths}
    return {path: score for path, score in scored.items() if score is not None}


def slow_nll(crf: CRF, emissions: Tensor, tags: Tensor, lengths: list[int]) -> Tensor:
    """The same number in fp64 log space, one sentence and one full table at a time, by autograd."""
    forbidden = -1e9  # as good as -inf here, where the gradient of a log-sum over -inf alone would be nan
    table = crf.transitions.double().masked_fill(~crf.allowed, forbidden)
    start = crf.start_transitions.double().masked_fill(~crf.allowed_start, forbidden)
    end = crf.end_transitions.double().masked_fill(~crf.allowed_end, forbidden)
    losses = []
    for row, tag, length in zip(emissions.double(), tags, lengths, strict=True):
        alpha, score = start + row[0], start[tag[0]] + row[0, tag[0]]
        for step in range(1, length):
            alpha = (alpha[:, None] + table).logsumexp(0) + row[step]
            score = score + table[tag[step - 1], tag[step]] + row[step, tag[step]]
        losses.append((alpha + end).logsumexp(0) - score - end[tag[length - 1]])
    return torch.stack(losses)


def slow_decode(crf: CRF, emissions: Tensor, length: int) -> list[int]:
    """Textbook Viterbi of one sentence in fp64, with back pointers."""
    table = crf.transitions.double().masked_fill(~crf.allowed, -torch.inf)
    best = (crf.start_transitions.double() + emissions[0].double()).masked_fill(~crf.allowed_start, -torch.inf)
    back = []
    for step in range(1, length):
        best, source = (best[:, None] + table).max(0)
        best = best + emissions[step].double()
        back.append(source)
    best = (best + crf.end_transitions.double()).masked_fill(~crf.allowed_end, -torch.inf)
    path = [int(best.argmax())]
    for source in reversed(back):
        path.append(int(source[path[-1]]))
    return path[::-1]


def legal_tags(crf: CRF, lengths: list[int], seed: int = 0) -> Tensor:
    """Random legal tags [B, L]: Viterbi of noise."""
    noise = torch.randn(len(lengths), max(lengths), crf.num_tags, generator=torch.Generator().manual_seed(seed))
    return crf.decode(noise * 5, lengths)


def gradients(loss: Tensor, crf: CRF, emissions: Tensor) -> list[Tensor]:
    wanted = [emissions, *(getattr(crf, name) for name in PARAMETERS)]
    return [gradient.double() for gradient in torch.autograd.grad(loss, wanted)]


def assert_like_twin(crf: CRF, emissions: Tensor, tags: Tensor, lengths: list[int], rtol: float, atol: float) -> None:
    """Loss and every gradient as the log-space twin has them. Gradients are posteriors, so `atol` is a share."""
    emissions = emissions.clone().requires_grad_()
    got, want = crf(emissions, tags, lengths), slow_nll(crf, emissions, tags, lengths)
    torch.testing.assert_close(got.double(), want, rtol=rtol, atol=atol)
    for one, two in zip(gradients(got.sum(), crf, emissions), gradients(want.sum(), crf, emissions), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=atol)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 4])
def test_equals_the_sum_over_every_path(kind: str, length: int) -> None:
    crf = KINDS[kind]().double()
    emissions = torch.randn(1, length, crf.num_tags, dtype=torch.float64) * 2
    paths = every_path(crf, emissions[0])
    scores = torch.tensor(list(paths.values()), dtype=torch.float64)
    best = max(paths, key=lambda path: paths[path])
    assert crf.decode(emissions, [length])[0].tolist() == list(best)
    for path in list(paths)[:: max(1, len(paths) // 20)]:
        nll = crf(emissions, torch.tensor([path]), [length])
        assert nll.item() == pytest.approx(scores.logsumexp(0).item() - paths[path], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: str) -> None:
    crf = KINDS[kind]().double()
    lengths = [3, 1, 4, 4]
    tags = legal_tags(crf, lengths)

    def nll(emissions: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(crf, dict(zip(PARAMETERS, parameters, strict=True)), (emissions, tags, lengths))

    emissions = torch.randn(4, 4, crf.num_tags, dtype=torch.float64, requires_grad=True)
    parameters = [getattr(crf, name).detach().clone().requires_grad_() for name in PARAMETERS]
    assert torch.autograd.gradcheck(nll, (emissions, *parameters))


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("lengths", [[9] * 6, [9, 1, 4, 9, 2, 7]])
def test_equals_pytorch_crf(constrained: bool, lengths: list[int]) -> None:
    crf = bioes(5) if constrained else with_spread(CRF(21), 1.0)
    peer = torchcrf.CRF(crf.num_tags, batch_first=True)
    for name in PARAMETERS:
        allowed = getattr(crf, {"transitions": "allowed"}.get(name, f"allowed_{name.split('_')[0]}"))
        getattr(peer, name).data = getattr(crf, name).data.masked_fill(~allowed, -1e4)
    emissions = (torch.randn(6, 9, crf.num_tags) * 2).requires_grad_()
    tags, mask = legal_tags(crf, lengths), mask_of(lengths, 9)
    got, want = crf(emissions, tags, lengths), -peer(emissions, tags, mask, reduction="none")
    torch.testing.assert_close(got, want)
    for one, two in zip(gradients(got.sum(), crf, emissions), gradients(want.sum(), peer, emissions), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    decoded = crf.decode(emissions, lengths)
    assert [row[:n].tolist() for row, n in zip(decoded, lengths, strict=True)] == peer.decode(emissions, mask)


def test_weighted_sentences_have_weighted_gradients() -> None:
    crf = bioes(3)
    lengths = [6, 2, 5]
    emissions = torch.randn(3, 6, crf.num_tags, requires_grad=True)
    tags, weight = legal_tags(crf, lengths), torch.tensor([0.5, -2.0, 0.0])
    got = gradients((crf(emissions, tags, lengths) * weight).sum(), crf, emissions)
    want = gradients((slow_nll(crf, emissions, tags, lengths) * weight).sum(), crf, emissions)
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bioes", "bio", "odd"])
def test_forbidden_paths_are_impossible(kind: str) -> None:
    """However much the emissions and the transitions ask for them."""
    crf = KINDS[kind]()
    for name, allowed in zip(PARAMETERS, (crf.allowed_start, crf.allowed, crf.allowed_end), strict=True):
        getattr(crf, name).data.masked_fill_(~allowed, 1e4)
    lengths = torch.randint(1, 12, (50,)).tolist()
    emissions = (torch.randn(50, max(lengths), crf.num_tags) * 30).requires_grad_()
    for row, length in zip(crf.decode(emissions, lengths), lengths, strict=True):
        path = row[:length]
        assert crf.allowed_start[path[0]]
        assert crf.allowed[path[:-1], path[1:]].all()
        assert crf.allowed_end[path[-1]]
    crf(emissions, legal_tags(crf, lengths), lengths).sum().backward()
    for name, allowed in zip(PARAMETERS, (crf.allowed_start, crf.allowed, crf.allowed_end), strict=True):
        assert (getattr(crf, name).grad[~allowed] == 0).all()
        assert getattr(crf, name).grad[allowed].abs().sum() > 0
    assert (emissions.grad[:, 0][:, ~crf.allowed_start] == 0).all()


def test_illegal_gold_is_refused() -> None:
    crf = bioes(1)  # O B I E S
    emissions, lengths = torch.zeros(3, 3, 5), [3, 2, 3]
    legal = torch.tensor([[0, 0, 0], [1, 3, 2], [1, 2, 3]])  # beyond the second sentence anything may stand
    assert crf(emissions, legal, lengths).isfinite().all()
    for row, column, tag in ((0, 0, 3), (0, 1, 2), (0, 2, 1), (1, 1, 2)):
        tags = legal.clone()
        tags[row, column] = tag
        with pytest.raises(ValueError, match=rf"rows \[{row}\]"):
            crf(emissions, tags, lengths)


def test_wrong_shape_of_constraints_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed_end"):
        CRF(3, None, None, torch.ones(2, dtype=torch.bool))


def test_padding_changes_nothing() -> None:
    crf, lengths = bioes(3), [5, 1, 3]
    tags, mask = legal_tags(crf, lengths), mask_of(lengths, 5)
    emissions = torch.randn(3, 5, crf.num_tags)
    wide = torch.full((3, 9, crf.num_tags), 50.0)
    wide[:, :5][mask] = emissions[mask]
    wide_tags = torch.full((3, 9), -1)
    wide_tags[:, :5][mask] = tags[mask]
    wide, wide_mask = wide.requires_grad_(), mask_of(lengths, 9)
    loss = crf(wide, wide_tags, lengths)
    torch.testing.assert_close(loss, crf(emissions, tags, lengths), rtol=0, atol=0)
    torch.testing.assert_close(
        crf.decode(wide, lengths)[:, :5][mask], crf.decode(emissions, lengths)[mask], rtol=0, atol=0
    )
    assert (crf.decode(wide, lengths)[~wide_mask] == 0).all()
    loss.sum().backward()
    assert (wide.grad[~wide_mask] == 0).all()


def test_order_and_company_in_the_batch_change_nothing() -> None:
    crf, lengths = bioes(4), [7, 1, 4, 7, 2]
    tags = legal_tags(crf, lengths)
    emissions = torch.randn(5, 7, crf.num_tags) * 3
    loss, path = crf(emissions, tags, lengths), crf.decode(emissions, lengths)
    order = torch.tensor([3, 4, 0, 2, 1])
    turned = [lengths[at] for at in order]
    torch.testing.assert_close(crf(emissions[order], tags[order], turned), loss[order])
    assert torch.equal(crf.decode(emissions[order], turned), path[order])
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        alone = (emissions[one, :length], tags[one, :length], [length])
        torch.testing.assert_close(crf(*alone), loss[one])
        assert torch.equal(crf.decode(alone[0], alone[2]), path[one, :length])


def test_empty_sentences_cost_nothing() -> None:
    crf = bioes(2)
    emissions = torch.randn(3, 4, crf.num_tags, requires_grad=True)
    loss = crf(emissions, torch.zeros(3, 4, dtype=torch.long), [0, 3, 0])
    assert loss[0] == loss[2] == 0
    loss.sum().backward()
    assert (emissions.grad[[0, 2]] == 0).all()
    for lengths in ([0, 0, 0], [0, 3, 0]):
        assert (crf.decode(emissions, lengths)[~mask_of(lengths, 4)] == 0).all()
    nothing = crf(emissions, torch.zeros(3, 4, dtype=torch.long), [0, 0, 0])
    nothing.sum().backward()
    assert (nothing == 0).all()


@pytest.mark.parametrize("size", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("kind", ["free", "bioes", "bio", "odd"])
def test_large_emissions(kind: str, size: float) -> None:
    """fp32, where exp(emissions) over- and underflows: as exact as fp32 numbers of that size are."""
    crf, lengths = KINDS[kind](), [40, 3, 17, 40, 25, 1]
    emissions = torch.randn(6, 40, crf.num_tags) * size
    assert_like_twin(crf, emissions, legal_tags(crf, lengths), lengths, 1e-5, max(1e-4, 2e-5 * size))


def test_a_path_that_is_hopeless_at_first_and_wins_in_the_end() -> None:
    """Its beginning lies e^-150 behind, which fp32 cannot hold beside the best; only constraints lead to its end."""
    crf = bioes(2)
    emissions = torch.zeros(1, 4, 9)
    emissions[0, 0, 0] = 150.0  # O at the first character
    emissions[0, 1, 2] = 200.0  # I of the first category, which only its B reaches
    emissions[0, 2, 2] = 100.0
    tags = torch.tensor([[1, 2, 2, 3]])
    assert_like_twin(crf, emissions, tags, [4], 1e-5, 1e-4)
    assert crf(emissions, tags, [4]).item() < 1e-3
    assert torch.equal(crf.decode(emissions, [4]), tags)


@pytest.mark.parametrize("spread", [20.0, 200.0])
def test_wide_transitions(spread: float) -> None:
    """Transitions so far apart that exp space could not hold them: the log-space path."""
    for crf in (with_spread(CRF(7), spread), bioes(3, spread)):
        lengths = [12, 1, 7]
        emissions = torch.randn(3, 12, crf.num_tags) * 3
        assert_like_twin(crf, emissions, legal_tags(crf, lengths), lengths, 1e-5, 1e-3)


def test_large_block_out_of_reach() -> None:
    """A start that leaves only tags of small blocks."""
    scheme = TagScheme(["a", "b"])
    only_b = torch.tensor([tag[0] == "B" for tag in scheme.tags])
    crf = CRF(9, torch.from_numpy(scheme.allowed), only_b, torch.from_numpy(scheme.allowed_end))
    emissions = torch.randn(2, 5, 9)
    tags = torch.tensor([[1, 3, 0, 0, 0], [5, 7, 0, 0, 0]])
    assert_like_twin(crf, emissions, tags, [5, 2], 1e-5, 1e-5)
    assert crf.decode(emissions, [5, 2])[1].tolist() in ([1, 3, 0, 0, 0], [5, 7, 0, 0, 0])


def test_length_does_not_cost_precision() -> None:
    crf = bioes(3)
    emissions = torch.randn(1, 2000, crf.num_tags) * 4
    assert_like_twin(crf, emissions, legal_tags(crf, [2000]), [2000], 1e-6, 2e-5)


@pytest.mark.parametrize("spread", [0.05, 1.0, 5.0])
@pytest.mark.parametrize("constrained", [False, True])
def test_viterbi_with_few_and_with_many_sources_left(constrained: bool, spread: float) -> None:
    crf = bioes(20, spread) if constrained else with_spread(CRF(81), spread)
    lengths = [30, 11, 1, 30]
    for size in (0.3, 10.0):
        emissions = torch.randn(4, 30, 81) * size
        decoded = crf.decode(emissions, lengths)
        for row, sentence, length in zip(decoded, emissions, lengths, strict=True):
            assert row[:length].tolist() == slow_decode(crf, sentence, length)


def test_ties_go_to_the_lowest_tag() -> None:
    crf = bioes(2)
    for parameter in crf.parameters():
        parameter.data.zero_()
    emissions = torch.zeros(2, 3, 9)
    assert crf.decode(emissions, [3, 2]).tolist() == [[0, 0, 0], [0, 0, 0]]
    emissions[:, :, 0] = -1.0
    # all entities are equally good: the lowest last tag (E), the lowest before it (B), the lowest before that (S)
    assert crf.decode(emissions, [3, 2]).tolist() == [[4, 1, 3], [1, 3, 0]]


def test_autocast_keeps_sums_in_fp32() -> None:
    crf, lengths = bioes(10), [30, 12, 1]
    linear = torch.nn.Linear(16, crf.num_tags)
    states = torch.randn(3, 30, 16)
    tags = legal_tags(crf, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        emissions = linear(states)
        assert emissions.dtype == torch.bfloat16
        loss = crf(emissions, tags, lengths)
        decoded = crf.decode(emissions, lengths)
        got = gradients(loss.sum(), crf, emissions)
    assert loss.dtype == torch.float32
    exact = emissions.detach().float().requires_grad_()
    plain = crf(exact, tags, lengths)
    torch.testing.assert_close(loss, plain, rtol=0, atol=0)
    assert torch.equal(decoded, crf.decode(exact, lengths))
    want = gradients(plain.sum(), crf, exact)
    torch.testing.assert_close(got[0], want[0].to(torch.bfloat16).double(), rtol=0, atol=0)
    for one, two in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_bf16_parameters() -> None:
    crf = bioes(3).bfloat16()
    emissions = torch.randn(2, 6, crf.num_tags, dtype=torch.bfloat16, requires_grad=True)
    tags = legal_tags(crf, [6, 4])
    loss = crf(emissions, tags, [6, 4])
    assert loss.dtype == torch.float32
    want = slow_nll(crf, emissions, tags, [6, 4])
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-4)
    loss.sum().backward()
    assert crf.transitions.grad.dtype == emissions.grad.dtype == torch.bfloat16


def test_constraints_follow_from_the_categories_and_are_not_saved() -> None:
    assert set(bioes(2).state_dict()) == set(PARAMETERS)


def test_361_tags_like_the_twin() -> None:
    """The real size; one sentence, because the twin is slow."""
    crf, lengths = bioes(90, 0.5), [25]
    emissions = torch.randn(1, 25, 361) * 3
    assert_like_twin(crf, emissions, legal_tags(crf, lengths), lengths, 1e-5, 1e-4)


def test_bioes_falls_apart_into_views() -> None:
    """What the speed rests on: no group of tags has to be gathered."""
    blocks = find_blocks(bioes(90).allowed, CPU)
    assert blocks.large_from.stop - blocks.large_from.start == blocks.large_to.stop - blocks.large_to.start == 181
    assert len(blocks.small_from) == len(blocks.small_to) == 2
    assert all(isinstance(group, slice) for group in (*blocks.small_from, *blocks.small_to))
    free = find_blocks(CRF(5).allowed, CPU)
    assert (free.order, free.large_from, free.small_from) == (None, slice(0, 5), [])
    assert find_blocks(odd_constraints().allowed, CPU).small_from == []


def test_packing_puts_the_longest_first() -> None:
    layout = pack_by_position([2, 3, 0, 3], 4)
    assert layout.counts == [3, 3, 2]
    assert layout.rows.tolist() == [1, 3, 0, 1, 3, 0, 1, 3]
    assert layout.places.tolist() == [4, 12, 0, 5, 13, 1, 6, 14]
    assert layout.last.tolist() == [6, 7, 5]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["free", "bioes", "bio", "odd"])
def test_cuda_equals_cpu(kind: str) -> None:
    crf, lengths = KINDS[kind](), [30, 7, 1, 22]
    tags = legal_tags(crf, lengths)
    emissions = (torch.randn(4, 30, crf.num_tags) * 3).requires_grad_()
    loss, path = crf(emissions, tags, lengths), crf.decode(emissions, lengths)
    want = gradients(loss.sum(), crf, emissions)
    crf = crf.cuda()
    moved = emissions.detach().cuda().requires_grad_()
    cuda_loss = crf(moved, tags, lengths)
    torch.testing.assert_close(cuda_loss.cpu(), loss, rtol=1e-5, atol=1e-4)
    for one, two in zip(gradients(cuda_loss.sum(), crf, moved), want, strict=True):
        torch.testing.assert_close(one.cpu(), two, rtol=1e-3, atol=1e-4)
    assert torch.equal(crf.decode(moved, lengths).cpu(), path)


def test_sums_are_exact_where_other_products_may_be_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    class Spy(linear_chain._SumStep):
        def __call__(self, *args: Tensor) -> Tensor:
            found.append(torch.get_float32_matmul_precision())
            return super().__call__(*args)

    monkeypatch.setattr(linear_chain, "_SumStep", Spy)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        crf = bioes(3)
        loss = crf(torch.zeros(2, 3, crf.num_tags, requires_grad=True), torch.zeros(2, 3).long(), [3, 3])
        forward = len(found)
        loss.sum().backward()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert 0 < forward < len(found)
    assert set(found) == {"highest"}


def slow_log_probability(crf: CRF, emissions: Tensor, tags: Tensor, start: int, end: int) -> Tensor:
    """Log of the share that the paths with these tags at a segment have in the weight of all paths over [L, T]."""
    paths = every_path(crf, emissions)
    same = [score for path, score in paths.items() if path[start:end] == tuple(tags[start:end].tolist())]
    return torch.tensor(same).double().logsumexp(0) - torch.tensor(list(paths.values())).double().logsumexp(0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a tag that leads nowhere"])
def test_the_probability_of_a_segment_equals_the_share_of_its_paths(kind: str) -> None:
    torch.manual_seed(2)
    crf, lengths = KINDS[kind](), [4, 1, 3, 2]
    emissions = torch.randn(4, 5, crf.num_tags)
    tags = crf.decode(torch.randn(4, 5, crf.num_tags) * 5, lengths)
    segments = [
        (row, start, end)
        for row, length in enumerate(lengths)
        for start in range(length)
        for end in range(start + 1, length + 1)
    ]
    got = crf.log_probabilities(emissions, tags, lengths, segments)
    want = [slow_log_probability(crf, emissions[row, : lengths[row]], tags[row], *place) for row, *place in segments]
    torch.testing.assert_close(got.double(), torch.stack(want), rtol=1e-5, atol=1e-5)


def test_the_probability_of_a_long_segment_equals_that_of_the_twin() -> None:
    """Of the twin: the log-sum over the paths with the tags of the segment, all others being far out of reach."""
    torch.manual_seed(3)
    crf, length = bioes(20, spread=2.0), 90
    emissions = torch.randn(1, length, crf.num_tags) * 3
    tags = crf.decode(emissions, [length])
    nll = slow_nll(crf, emissions, tags, [length])
    for start, end in ((0, 1), (0, 90), (3, 7), (40, 89), (89, 90)):
        only = torch.full((end - start, crf.num_tags), -1e6).scatter(1, tags[0, start:end, None], 0.0)
        bound = emissions.clone().double()
        bound[0, start:end] += only
        want = slow_nll(crf, bound, tags, [length]) - nll  # the score of the tags is in both
        got = crf.log_probabilities(emissions, tags, [length], [(0, start, end)])
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


def test_no_probability_is_above_one() -> None:
    """Where all other paths are hopeless, rounding alone would put some of them above it."""
    torch.manual_seed(0)
    crf, lengths = bioes(3), [60] * 8
    emissions = torch.randn(8, 60, crf.num_tags) * 5
    tags = crf.decode(emissions, lengths)
    emissions.scatter_add_(2, tags[..., None], torch.full((8, 60, 1), 40.0))
    segments = [(row, start, start + 20) for row in range(8) for start in (0, 13, 40)]
    found = crf.log_probabilities(emissions, tags, lengths, segments)
    assert found.max() <= 0
    assert found.min() > -1e-3


def test_no_segments_have_no_probabilities() -> None:
    crf = bioes(2)
    assert crf.log_probabilities(
        torch.randn(2, 3, crf.num_tags), torch.zeros(2, 3, dtype=torch.long), [3, 0], []
    ).shape == (0,)
