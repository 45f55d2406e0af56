"""The registry of heads: what is known without torch, and a head that only its own entry knows of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import small_corpus
import torch
from small_corpus import fit, predict, prepare
from torch import Tensor, nn

from omniner.config import compose
from omniner.config.model_groups import HeadConfig
from omniner.errors import UserError
from omniner.registry import HEADS
from omniner.taggers.heads import Head, HeadModule, LabelledBatch, Span, TagScheme, build_head, mask_of


def test_names_meanings_and_facts_need_no_torch() -> None:
    code = (
        "import sys; from omniner.registry import HEADS\n"
        "fields = ('nested', 'members', 'keys')\n"
        "facts = [(n, HEADS.meaning(n), *(HEADS.peek(n, field) for field in fields)) for n in HEADS]\n"
        "assert 'torch' not in sys.modules\n"
        "assert facts == [(h.name, h.meaning, h.nested, h.members, h.keys) for h in map(HEADS.__getitem__, HEADS)]\n"
        "print(list(HEADS))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['crf', 'softmax', 'span']"


@pytest.mark.parametrize("name", list(HEADS))
def test_an_entry_says_which_keys_are_read(name: str) -> None:
    read: set[str] = set()

    class Recorder:
        def __getattr__(self, key: str) -> Any:
            read.add(key)
            return getattr(config, key)

    config = HeadConfig(kind=name, label_smoothing=0.0, max_span=4, biaffine_dim=12, negative_weight=1.0)
    build_head(name, 8, ["人"], Recorder())  # type: ignore[arg-type]
    assert read == set(HEADS[name].keys)
    assert HEADS[name].name == name


class EveryCharacter(HeadModule):
    """Tags each character by itself as an entity of the best category, or as none."""

    def __init__(self, in_dim: int, scheme: TagScheme, config: HeadConfig) -> None:
        super().__init__()
        self.scheme = scheme
        self.emit = nn.Linear(in_dim, len(scheme))

    def loss(self, states: Tensor, batch: LabelledBatch) -> Tensor:
        real = mask_of(batch.lengths, states.shape[1])
        return nn.functional.cross_entropy(self.emit(states)[real].float(), batch.tags[real], reduction="sum")

    @torch.no_grad()
    def decode(self, states: Tensor, lengths: Sequence[int]) -> list[list[Span]]:
        tags = self.emit(states).argmax(2).tolist()
        return [
            [(at, at + 1, (tag - 1) // 4) for at, tag in enumerate(row[:length]) if tag]
            for row, length in zip(tags, lengths, strict=True)
        ]


@pytest.fixture
def dummy() -> Iterator[str]:
    text = "Every character by itself.\n\nFor this test."
    HEADS.add(
        Head(name="alone", description=text, build=EveryCharacter, nested=True, members=False, keys=("max_span",))
    )
    yield "alone"
    HEADS.remove("alone")


def test_a_head_that_is_added_is_known_everywhere(dummy: str, tmp_path: Path) -> None:
    assert HEADS.meaning(dummy) == "Every character by itself."
    with pytest.raises(UserError, match=r"head\.kind: 'alon' is not a choice\. Did you mean alone\?.*span, alone"):
        small_corpus.configuration("char_bilstm", "head.kind=alon")
    with pytest.raises(UserError, match=r"an? alone head cannot average members\. Use head=crf or head=softmax"):
        small_corpus.configuration("char_bilstm", "head.kind=alone", "model.members=2")
    with pytest.raises(UserError, match=r"a tagger needs a head.*span, alone"):
        small_corpus.configuration("char_bilstm", "head.kind=none")

    unread = compose.without_effect(small_corpus.configuration("char_bilstm", "head.max_span=2"))
    assert unread == {"head.max_span": "a crf head does not read it, only head=span or head=alone"}

    config = small_corpus.configuration("char_bilstm", "head.kind=alone", "head.max_span=2", "trainer.max_epochs=2")
    assert compose.without_effect(config) == {}
    assert config.name.startswith("char_bilstm-alone-")
    corpus = small_corpus.corpus(40, 10)
    result = fit(config, corpus, tmp_path, logger=None, callbacks=[])
    sentences = corpus.splits["test"]
    found = {item.id: item for batch in predict(result.best_path, sentences, config) for item in batch}
    assert found.keys() == {sentence.id for sentence in sentences}
    assert all(len(entity.text) == 1 for item in found.values() for entity in item.entities)


def test_a_head_without_probabilities_is_refused_before_training(dummy: str) -> None:
    config = small_corpus.configuration("char_bilstm", f"head.kind={dummy}", "decoding.scores=true")
    with pytest.raises(UserError, match=r"decoding\.scores: EveryCharacter gives no probabilities"):
        prepare(config, small_corpus.corpus(8, 4))


def test_a_head_that_names_no_keys_may_read_any() -> None:
    HEADS.add(Head(name="silent", description="Silent.", build=EveryCharacter, nested=False, members=False))
    try:
        config = small_corpus.configuration("char_bilstm", "head.kind=silent", "head.biaffine_dim=9")
        assert compose.without_effect(config) == {}
        of_crf = small_corpus.configuration("char_bilstm", "head.biaffine_dim=9")
        assert list(compose.without_effect(of_crf)) == ["head.biaffine_dim"]
    finally:
        HEADS.remove("silent")


def test_the_checks_of_a_configuration_do_not_wait_for_torch() -> None:
    code = (
        "import sys; from omniner.config import compose\nfrom omniner.errors import UserError\n"
        "compose.without_effect(compose.load(['head.max_span=9']))\n"
        "try: compose.load(['head=span', 'model.members=2'])\n"
        "except UserError as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "a span head cannot average members" in result.stdout
    assert result.stdout.strip().endswith("False")
