"""The three heads: each can learn what it says it keeps, and none decodes what cannot be."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from omniner.config import compose
from omniner.config.model_groups import HeadConfig
from omniner.errors import UserError
from omniner.taggers.heads import HeadModule, Span, TagScheme, build_head, fit_spans, mask_of
from omniner.taggers.heads.span import without_crossing

CATEGORIES = ("人", "地", "机构")
CONFIG = HeadConfig(kind="auto", label_smoothing=0.0, max_span=4, biaffine_dim=12, negative_weight=1.0)
DIM = 16
HEADS = ("softmax", "crf", "span")


@dataclasses.dataclass
class Labelled:
    """The part of a batch that heads read."""

    lengths: list[int]
    tags: Tensor
    spans: list[list[Span]]


def labelled(spans: list[list[Span]], lengths: list[int], width: int | None = None) -> Labelled:
    width = width or max(lengths)
    scheme = TagScheme(CATEGORIES)
    tags = torch.full((len(lengths), width), -1)
    for row, (gold, length) in enumerate(zip(spans, lengths, strict=True)):
        tags[row, :length] = torch.tensor(scheme.encode(gold, length)[0])
    return Labelled(lengths, tags, spans)


def make(kind: str, **changes: float) -> HeadModule:
    return build_head(kind, DIM, CATEGORIES, dataclasses.replace(CONFIG, **changes))


def learn(head: HeadModule, states: Tensor, batch: Labelled) -> float:
    optimizer = torch.optim.Adam((p for p in head.parameters() if p.requires_grad), 0.05)
    for _ in range(80):
        loss = head.loss(states, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", HEADS)
def test_learns_flat_entities(kind: str) -> None:
    gold = [[(0, 1, 0), (2, 5, 1), (5, 7, 1)], [(1, 3, 2)], []]
    states, batch = torch.randn(3, 7, DIM), labelled(gold, [7, 3, 4])
    head = make(kind)
    before = head.loss(states, batch).item()
    assert learn(head, states, batch) < before / 50
    assert head.decode(states, batch.lengths) == gold


def test_span_learns_nested_and_overlapping_entities() -> None:
    gold = [[(0, 4, 0), (1, 2, 2), (1, 3, 1), (5, 6, 0)]]
    states, batch = torch.randn(1, 6, DIM), labelled(gold, [6])
    head = make("span")
    learn(head, states, batch)
    assert head.decode(states, batch.lengths) == gold
    crossing = labelled([[(0, 3, 0), (2, 5, 1)]], [6])
    before = head.loss(states, crossing).item()
    assert learn(head, states, crossing) < before / 100  # both are learnt, though decoding takes one of them
    assert head.decode(states, crossing.lengths)[0] in ([(0, 3, 0)], [(2, 5, 1)])


@pytest.mark.parametrize("kind", HEADS)
def test_padding_and_company_change_nothing(kind: str) -> None:
    gold = [[(0, 2, 0)], [(0, 1, 1)], [(1, 4, 2)]]
    lengths = [4, 1, 6]
    batch = labelled(gold, lengths, 9)
    head = make(kind)
    states = torch.randn(3, 9, DIM)
    mask = mask_of(lengths, 9)
    noisy = torch.where(mask[..., None], states, 1e3).requires_grad_()
    whole = head.loss(noisy, batch)
    alone = [
        head.loss(states[row : row + 1, :length], labelled([gold[row]], [length])) for row, length in enumerate(lengths)
    ]
    torch.testing.assert_close(whole, torch.stack(alone).sum())
    whole.backward()
    assert (noisy.grad[~mask] == 0).all()
    decoded = head.decode(noisy, lengths)
    for row, length in enumerate(lengths):
        assert head.decode(states[row : row + 1, :length], [length]) == [decoded[row]]


@pytest.mark.parametrize("kind", HEADS)
def test_decoded_spans_lie_within_their_sentence(kind: str) -> None:
    head, lengths = make(kind), [1, 2, 5, 9, 3]
    for parameter in head.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    decoded = head.decode(torch.randn(5, 9, DIM) * 3, lengths)
    assert sum(map(len, decoded)) > 5
    for spans, length in zip(decoded, lengths, strict=True):
        assert spans == sorted(spans)
        assert all(0 <= start < end <= length and category in range(3) for start, end, category in spans)
        if kind != "span":  # tags hold one entity per character
            assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))


def test_softmax_decodes_the_best_legal_sequence() -> None:
    """Against all legal sequences, counted one by one, with emissions that ask for illegal ones."""
    head, scheme = build_head("softmax", 5, ["人"], CONFIG), TagScheme(["人"])
    head.emit.weight.data, head.emit.bias.data = torch.eye(5), torch.zeros(5)
    illegal = 0
    for states in torch.randn(40, 4, 5) * 3:
        legal = [
            path
            for path in itertools.product(range(5), repeat=4)
            if scheme.allowed_start[path[0]]
            and scheme.allowed_end[path[-1]]
            and all(scheme.allowed[pair] for pair in itertools.pairwise(path))
        ]
        best = max(legal, key=lambda path: sum(float(states[step, tag]) for step, tag in enumerate(path)))
        illegal += states.argmax(1).tolist() != list(best)
        spans = scheme.decode_batch(np.array([best]), np.array([4]))
        assert head.decode(states[None], [4]) == spans
    assert illegal > 10


def test_softmax_loss_is_cross_entropy_with_smoothing() -> None:
    head, batch = make("softmax", label_smoothing=0.2), labelled([[(0, 2, 0)], [(1, 2, 1)]], [4, 3])
    states = torch.randn(2, 4, DIM)
    want = 0.0
    for row, column in mask_of([4, 3], 4).nonzero().tolist():
        logs = functional.log_softmax(head.emit(states)[row, column], 0)
        want -= (0.8 * logs[batch.tags[row, column]] + 0.2 * logs.mean()).item()
    assert head.loss(states, batch).item() == pytest.approx(want, rel=1e-5)


def test_softmax_has_no_transitions_to_learn() -> None:
    head = make("softmax")
    head.loss(torch.randn(1, 3, DIM), labelled([[]], [3])).backward()
    assert all(parameter.grad is None and not parameter.any() for parameter in head.path.parameters())


def test_span_scores_cell_by_cell() -> None:
    """The loss of the packed cells against each cell on its own."""
    head = make("span", negative_weight=0.25)
    for parameter in head.parameters():
        parameter.data.normal_(0, 0.5)
    gold = [[(0, 4, 1), (1, 2, 0)], [(0, 2, 2)]]
    lengths, states = [6, 2], torch.randn(2, 6, DIM)
    want = 0.0
    for row, length in enumerate(lengths):
        classes = {(start, end): category + 1 for start, end, category in gold[row]}
        for start, end in itertools.combinations(range(length + 1), 2):
            if end - start <= 4:
                one = functional.gelu(head.first(states[row, start]))
                two = functional.gelu(head.last(states[row, end - 1]))
                scores = head.both(one * two) + head.first_alone(one) + head.last_alone(two)
                scores = scores + head.length.weight[end - start - 1]
                number = classes.get((start, end), 0)
                cost = -functional.log_softmax(scores, 0)[number].item()
                want += cost if number else 0.25 * cost
    assert head.loss(states, labelled(gold, lengths)).item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_scored_entities_are_the_decoded_ones_whatever_the_company(kind: str) -> None:
    head, lengths = make(kind), [4, 1, 9, 6]
    for parameter in head.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    states = torch.randn(4, 9, DIM) * 2
    scored = head.decode_scored(states, lengths)
    assert [[span for span, _ in found] for found in scored] == head.decode(states, lengths)
    scores = [score for found in scored for _, score in found]
    assert len(scores) > 5
    assert all(0 < score <= 1 for score in scores)
    for row, length in enumerate(lengths):
        (alone,) = head.decode_scored(states[row : row + 1, :length], [length])
        assert dict(alone) == pytest.approx(dict(scored[row]), abs=1e-5)


def test_the_softmax_score_is_the_share_of_the_legal_sequences_with_the_entity() -> None:
    scheme, length = TagScheme(CATEGORIES[:1]), 5
    head = build_head("softmax", DIM, CATEGORIES[:1], CONFIG)
    states = torch.randn(1, length, DIM) * 3
    shares = functional.softmax(head.emit(states).detach()[0], 1)
    weights = {
        path: float(torch.stack([shares[place, tag] for place, tag in enumerate(path)]).prod())
        for path in itertools.product(range(len(scheme)), repeat=length)
        if scheme.allowed_start[path[0]] and scheme.allowed_end[path[-1]]
        if all(scheme.allowed[one, two] for one, two in itertools.pairwise(path))
    }
    (found,) = head.decode_scored(states, [length])
    assert found
    for span, score in found:
        having = [
            weight for path, weight in weights.items() if span in scheme.decode_batch(np.array([path]), [length])[0]
        ]
        assert score == pytest.approx(sum(having) / sum(weights.values()), rel=1e-4)


def test_the_span_score_is_the_softmax_of_its_cell() -> None:
    head, lengths = make("span"), [6, 2]
    for parameter in head.parameters():
        parameter.data.normal_(0, 0.5)
    states = torch.randn(2, 6, DIM) * 2
    scored = head.decode_scored(states, lengths)
    assert sum(map(len, scored)) > 2
    for row, found in enumerate(scored):
        for (start, end, category), score in found:
            one = functional.gelu(head.first(states[row, start]))
            two = functional.gelu(head.last(states[row, end - 1]))
            scores = head.both(one * two) + head.first_alone(one) + head.last_alone(two)
            scores = scores + head.length.weight[end - start - 1]
            assert score == pytest.approx(functional.softmax(scores, 0)[category + 1].item(), rel=1e-5)


def test_a_head_without_probabilities_says_so() -> None:
    class Silent(HeadModule):
        def loss(self, states: Tensor, batch: object) -> Tensor:
            return states.sum()

        def decode(self, states: Tensor, lengths: object) -> list[list[Span]]:
            return [[]]

    def asked(*overrides: str) -> None:
        Silent().check_scored(compose.load(overrides).decoding)

    asked()
    for key, value in (("scores", "true"), ("min_score", "0.5")):
        with pytest.raises(UserError, match=rf"decoding\.{key}: Silent gives no probabilities"):
            asked(f"decoding.{key}={value}")


def test_span_begins_with_few_entities() -> None:
    head = make("span")
    assert sum(map(len, head.decode(torch.randn(20, 30, DIM), [30] * 20))) < 20
    # one cell in a hundred, however many categories share it
    assert head.both.bias.softmax(0)[0].item() == pytest.approx(0.99)


def test_crossing_spans_are_resolved_by_score_and_nested_ones_stay() -> None:
    found = [(1.0, (0, 3, 0)), (2.0, (2, 5, 1)), (0.5, (3, 4, 2)), (0.1, (5, 8, 0)), (0.2, (0, 9, 1))]
    assert without_crossing(found) == [(0, 9, 1), (2, 5, 1), (3, 4, 2), (5, 8, 0)]
    assert without_crossing([(1.0, (2, 5, 1)), (1.0, (0, 3, 0))]) == [(0, 3, 0)]  # a tie: what starts first
    assert without_crossing([]) == []


def test_fit_spans_names_what_has_no_cell() -> None:
    spans = [(0, 2, 1), (0, 2, 0), (0, 6, 0), (1, 3, 1), (1, 3, 1), (5, 7, 0), (2, 3, 3)]
    kept, left_out = fit_spans(spans, 6, 3, 4)
    assert kept == [(0, 2, 0), (1, 3, 1)]
    assert [(item.span, item.code, item.kept) for item in left_out] == [
        ((0, 2, 1), "same-place-entity", (0, 2, 0)),
        ((0, 6, 0), "long-entity", None),
        ((2, 3, 3), "bad-span", None),
        ((5, 7, 0), "bad-span", None),
    ]


@pytest.mark.parametrize("kind", HEADS)
def test_autocast(kind: str) -> None:
    head, batch = make(kind), labelled([[(0, 2, 0)], [(1, 4, 1)]], [6, 4])
    states = torch.randn(2, 6, DIM)
    exact = head.loss(states, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head.loss(states, batch)
        decoded = head.decode(states, batch.lengths)
    assert len(decoded) == 2
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)
    loss.backward()
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    assert all(parameter.grad.isfinite().all() for parameter in trained)


def test_gold_that_breaks_the_tags_is_refused() -> None:
    batch = labelled([[(0, 2, 0)]], [3])
    batch.tags[0, 1] = 0
    with pytest.raises(ValueError, match="break the constraints"):
        make("crf").loss(torch.randn(1, 3, DIM), batch)


def test_unknown_kind_and_no_categories_are_refused() -> None:
    with pytest.raises(ValueError, match="crf, softmax, span"):
        build_head("auto", DIM, CATEGORIES, CONFIG)
    with pytest.raises(ValueError, match="category"):
        build_head("crf", DIM, [], CONFIG)


@pytest.mark.parametrize("name", ["auto", *HEADS])
def test_config_files_are_complete(name: str) -> None:
    config = compose.load([f"head={name}"]).head
    assert isinstance(config, HeadConfig)
    assert config.kind == ("crf" if name == "auto" else name), "auto is resolved for the model, which is a tagger"
    assert isinstance(build_head(config.kind, DIM, CATEGORIES, config), nn.Module)


def test_same_result_whatever_the_batch_order() -> None:
    gold = [[(0, 2, 0)], [(1, 4, 1)], []]
    states, order = torch.randn(3, 5, DIM), [2, 0, 1]
    for kind in HEADS:
        head = make(kind)
        batch, turned = labelled(gold, [5, 4, 2]), labelled([gold[n] for n in order], [2, 5, 4])
        torch.testing.assert_close(head.loss(states, batch), head.loss(states[order], turned))
        decoded = head.decode(states, batch.lengths)
        assert head.decode(states[order], turned.lengths) == [decoded[n] for n in order]
