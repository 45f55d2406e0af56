"""Training and prediction on a GPU, as far as a machine without one can show it (`pretended_gpu`)."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_corpus
import torch
from pretended_gpu import pretended_gpu
from pytorch_lightning.callbacks import Callback
from small_corpus import fit, predict
from tests.unit.training.test_fit import Losses

from omniner.config.groups import Config
from omniner.llm.decoding.constraint import Constraint, ConstraintState
from omniner.llm.decoding.prefix_cache import PrefixCache
from omniner.llm.training import memory
from omniner.records import Entity
from omniner.taggers.batches import collate
from omniner.taggers.heads import build_head
from omniner.training import learner
from omniner.training.learner import Learner

ENCODER_WAITS = 1
"""transformers asks whether a batch is padded at all (only 4D masks, made for one family of models, would spare it)."""

ANSWERING = ["decoding=guided", "decoding.max_new_tokens=24"]  # enough for an entity; a step takes long when watched


@pytest.fixture(autouse=True)
def _ready(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes  # noqa: F401  (looks for a GPU when it is imported)
    import peft  # noqa: F401

    # counted on torch's `meta` device, which stands for the GPU here (tests/unit/llm/training/test_memory.py)
    monkeypatch.setattr(memory, "plan_training", lambda config, devices, last: (config, devices))
    monkeypatch.setattr(learner, "_SLOW", math.inf)  # on a busy machine every step would be logged


class StepWaits(Callback):
    """Counts how often the host waits for the device within steps; not in those that log, which read the loss."""

    def __init__(self, waits: Counter[str]) -> None:
        self.waits, self.before, self.steps = waits, 0, list[int]()

    def on_train_batch_start(self, *_: Any) -> None:
        self.before = self.waits.total()

    def on_train_batch_end(self, trainer: Any, module: Learner, *_: Any) -> None:
        if not module.logs:
            self.steps.append(self.waits.total() - self.before)


def trained(folder: Path, config: Config, *callbacks: Callback) -> tuple[dict[int, float], Path]:
    """The loss of each step, and the checkpoint."""
    losses = Losses()
    result = fit(config, small_corpus.corpus(24, 8), folder, None, [*callbacks, losses])
    return losses.values, result.best_path


def answers(checkpoint: Path, config: Config) -> dict[str, list[Entity]]:
    sentences = small_corpus.corpus(24, 8).splits["test"]
    return {each.id: each.entities for batch in predict(checkpoint, sentences, config) for each in batch}


@pytest.mark.parametrize(
    ("model", "overrides", "waits"),
    [
        ("char_bilstm", ["head=crf"], 0),
        ("char_bilstm", ["head=softmax", "model.members=2"], 0),
        ("bert_tiny", ["head=span"], ENCODER_WAITS),
        ("qwen2_tiny", ["tuning=full"], 0),
        ("qwen2_tiny", ["tuning=lora"], 0),
    ],
)
def test_a_gpu_learns_and_answers_as_a_cpu_does(tmp_path: Path, model: str, overrides: list[str], waits: int) -> None:
    settings = ["trainer.precision=32-true", "trainer.batch_size=8", "trainer.weight_average=0", *overrides]
    if model == "qwen2_tiny":
        settings += ["trainer.max_epochs=2", "tuning.attention=masked", *ANSWERING]
    else:
        settings += ["trainer.max_epochs=10", "trainer.eval_every=10", "model.learning_rate=0.02"]
    cpu = small_corpus.configuration(model, *settings, "trainer.accelerator=cpu")
    want, checkpoint = trained(tmp_path / "cpu", cpu)
    found = answers(checkpoint, cpu)
    with pretended_gpu() as counted:
        gpu = small_corpus.configuration(model, *settings, "trainer.accelerator=gpu")
        losses, learnt_there = trained(tmp_path / "gpu", gpu, step_waits := StepWaits(counted))
        assert answers(checkpoint, gpu) == found
    assert any(found.values())
    assert set(step_waits.steps) == {waits}
    assert losses == pytest.approx(want, rel=1e-4)
    assert answers(learnt_there, cpu).keys() == found.keys()


@pytest.mark.parametrize(
    "tuning",
    [["tuning=full"], ["tuning=lora"], ["tuning=full", "tuning.gradient_checkpointing=true"]],
    ids=["full", "lora", "full, activations computed again"],
)
def test_bf16_and_the_flash_kernel_are_chosen_and_learn_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tuning: list[str]
) -> None:
    settings = [*tuning, "trainer.max_steps=4", "trainer.batch_size=8", *ANSWERING]
    exact = [*settings, "trainer.precision=32-true", "tuning.attention=masked", "trainer.accelerator=cpu"]
    want, _ = trained(tmp_path / "cpu", small_corpus.configuration("qwen2_tiny", *exact))
    with pretended_gpu() as waits, caplog.at_level(logging.INFO):
        gpu = small_corpus.configuration("qwen2_tiny", *settings, "trainer.accelerator=gpu")
        losses, checkpoint = trained(tmp_path / "gpu", gpu, step_waits := StepWaits(waits))
        assert any(answers(checkpoint, gpu).values())
    assert "1 GPU, bf16-mixed" in caplog.text
    assert "attention of packs: flash" in caplog.text
    assert losses == pytest.approx(want, rel=0.01)
    assert set(step_waits.steps) == {0}


@pytest.mark.parametrize("head", ["crf", "softmax", "span"])
@pytest.mark.parametrize(("model", "waits"), [("char_bilstm", 0), ("bert_tiny", ENCODER_WAITS)])
def test_a_tagger_waits_only_for_its_answers(model: str, waits: int, head: str) -> None:
    with pretended_gpu() as counted:
        config = small_corpus.configuration(model, f"head={head}")
        module, data = small_corpus.prepare(config, small_corpus.corpus(8, 8))
        tagger = module.tagger.to("cuda")

        def counting(run: Callable[[], object]) -> int:
            before = counted.total()
            run()
            return counted.total() - before

        asks = 1 if head == "crf" else 0  # for the spread of its transitions: in the first step, and with new weights
        assert counting(lambda: collate(data.train, 0, 1).to("cuda")) == 0
        batch = collate(data.train, 0, 1).to("cuda")
        assert counting(lambda: tagger.loss(batch).backward()) == waits + asks
        assert counting(lambda: tagger.loss(batch).backward()) == waits
        tagger.eval()
        assert counting(lambda: tagger.spans(batch)) == waits + 1
        assert counting(lambda: tagger.loss_and_spans(batch)) == waits + asks + 1
        assert counting(lambda: tagger.loss_and_spans(batch)) == waits + 1


def test_the_spread_of_a_crf_is_asked_for_every_twentieth_step() -> None:
    head = build_head("crf", 4, ["人"], small_corpus.configuration("char_bilstm").head)
    batch = SimpleNamespace(lengths=[3, 2], tags=torch.tensor([[1, 2, 3], [0, 4, 0]]))
    asked = []
    with pretended_gpu() as waits:
        head, states = head.to("cuda"), torch.randn(2, 3, 4, device="cuda")
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.01, fused=True)
        for step in range(41):
            before = waits.total()
            head.loss(states, batch).backward()
            optimizer.step()
            if waits.total() > before:
                asked.append(step)
        assert asked == [0, 20, 40]
        head.eval()
        before = waits.total()
        with torch.no_grad():
            head.crf.transitions[0, 0] += 1000.0  # too wide for exp space
        wide = head.loss(states, batch)
        assert head.loss(states, batch).item() == wide.item()
    assert waits.total() - before == 3  # one question, and the losses
    assert wide.held.item() == pytest.approx(head.cpu().loss(states.held, batch).item())


def test_the_pretended_gpu_refuses_what_a_real_one_does() -> None:
    with pretended_gpu():
        there, here = torch.ones(3, 4, device="cuda"), torch.ones(3, 4)
        assert (there.device.type, (there + 1).device.type, (there * here.to(there)).device.type) == ("cuda",) * 3
        assert there[torch.tensor([0, 2])].device.type == "cuda"  # places may come from the host
        for mixed in (lambda: there + here, lambda: there @ here.T, lambda: here[there[:, 0].long()]):
            with pytest.raises(RuntimeError, match=r"two devices|on the GPU"):
                mixed()
        with pytest.raises(TypeError, match="cpu"):
            there.numpy()
        with pytest.raises(RuntimeError, match="only CPUs"):
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*[there[None, None]] * 3)
        with torch.autocast("cuda", torch.bfloat16):
            assert ((there @ there.T).dtype, there.softmax(1).dtype) == (torch.bfloat16, torch.float32)


def test_the_pretended_gpu_counts_what_a_real_one_waits_for() -> None:
    with pretended_gpu() as waits:
        there, here = torch.ones(3, 4, device="cuda"), torch.ones(3, 4)
        here.pin_memory().to("cuda", non_blocking=True)
        there[there > 2] = 0.0  # no size depends on how many there are
        there[torch.zeros(1, dtype=torch.long, device="cuda")] = 1.0
        assert not waits
        assert there.sum().item() == 12
        assert waits == {"item": 1}
        there[there > 0].cpu()
        there[torch.tensor([0])].masked_select(there[:1] > 0)
        here.to("cuda").nonzero()
    assert waits == {"item": 1, "index": 2, "_to_copy": 2, "masked_select": 1, "nonzero": 1}


class Anything(Constraint):
    """Whatever is allowed, so that its mask is all that happens."""

    def start(self, text: str, budget: int) -> ConstraintState:
        raise AssertionError("no answer begins here")


def test_rows_change_places_and_tokens_are_forbidden_without_waiting() -> None:
    """Both happen in nearly every step of decoding, for all layers."""
    numbers = torch.randn(2, 1, 1, 3, 4)
    states: Any = [SimpleNamespace(stopped=False, allowed=lambda: np.array([1, 4])), None]
    for device in (torch.device("cpu"), torch.device("cuda:0")):
        with pretended_gpu() as waits:
            store = PrefixCache(0, 3, 1, device)
            store.begin([0, 0, 0], [[5], [6], [7]])
            query, key = (each.to(device) for each in numbers)
            logits = torch.arange(12.0).view(2, 6).to(device)
            store.attend(0, query, key, query, 0.5)
            before = waits.total()
            store.move([2], [0])
            Anything().mask(states, logits)
            assert waits.total() == before
            moved = store.attend(0, query, key, query, 0.5).tolist()
            assert logits.tolist() == [[-math.inf, 1, -math.inf, -math.inf, 4, -math.inf], [6, 7, 8, 9, 10, 11]]
        if device.type == "cpu":
            expected = moved
    torch.testing.assert_close(moved, expected)
