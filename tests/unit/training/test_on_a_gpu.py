"""Training and prediction on a GPU, as far as a machine without one can show it (`pretended_gpu`)."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import small_corpus
import torch
from pretended_gpu import pretended_gpu
from pytorch_lightning.callbacks import Callback
from small_corpus import fit, predict
from tests.unit.training.test_fit import Losses

from omniner import models
from omniner.config.groups import Config
from omniner.records import Entity


@pytest.fixture(autouse=True)
def _ready(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes  # noqa: F401  (looks for a GPU when it is imported)
    import peft  # noqa: F401

    # counted on torch's `meta` device, which stands for the GPU here (tests/unit/llm/test_memory.py)
    monkeypatch.setattr(models, "plan_memory", lambda config, devices: (config, devices))


class StepReads(Callback):
    """Counts what is read from the device within steps: each time the host waits for it."""

    def __init__(self, reads: Counter[str]) -> None:
        self.reads, self.before, self.steps = reads, 0, list[int]()

    def on_train_batch_start(self, *_: Any) -> None:
        self.before = self.reads.total()

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps.append(self.reads.total() - self.before)


def trained(folder: Path, config: Config, *callbacks: Callback) -> tuple[dict[int, float], Path]:
    """The loss of each step, and the checkpoint."""
    losses = Losses()
    result = fit(config, small_corpus.corpus(24, 8), folder, None, [*callbacks, losses])
    return losses.values, result.best_path


def answers(checkpoint: Path, config: Config) -> dict[str, list[Entity]]:
    sentences = small_corpus.corpus(24, 8).splits["test"]
    return {each.id: each.entities for batch in predict(checkpoint, sentences, config) for each in batch}


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("char_bilstm", ["head=crf"]),
        ("char_bilstm", ["head=softmax", "model.members=2"]),
        ("bert_tiny", ["head=span"]),
        ("qwen2_tiny", ["tuning=full"]),
        ("qwen2_tiny", ["tuning=lora"]),
    ],
)
def test_a_gpu_learns_and_answers_as_a_cpu_does(tmp_path: Path, model: str, overrides: list[str]) -> None:
    settings = ["trainer.precision=32-true", "trainer.batch_size=8", "trainer.weight_average=0", *overrides]
    if model == "qwen2_tiny":
        settings += ["trainer.max_epochs=2", "tuning.attention=masked", "decoding=guided"]
    else:
        settings += ["trainer.max_epochs=10", "trainer.eval_every=10", "model.learning_rate=0.02"]
    cpu = small_corpus.configuration(model, *settings, "trainer.accelerator=cpu")
    want, checkpoint = trained(tmp_path / "cpu", cpu)
    found = answers(checkpoint, cpu)
    with pretended_gpu():
        gpu = small_corpus.configuration(model, *settings, "trainer.accelerator=gpu")
        losses, learnt_there = trained(tmp_path / "gpu", gpu)
        assert answers(checkpoint, gpu) == found
    assert any(found.values())
    assert losses == pytest.approx(want, rel=1e-4)
    assert answers(learnt_there, cpu).keys() == found.keys()


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_bf16_and_the_flash_kernel_are_chosen_and_learn_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tuning: str
) -> None:
    settings = [f"tuning={tuning}", "trainer.max_steps=4", "trainer.batch_size=8", "decoding=guided"]
    exact = [*settings, "trainer.precision=32-true", "tuning.attention=masked", "trainer.accelerator=cpu"]
    want, _ = trained(tmp_path / "cpu", small_corpus.configuration("qwen2_tiny", *exact))
    with pretended_gpu() as reads, caplog.at_level(logging.INFO):
        gpu = small_corpus.configuration("qwen2_tiny", *settings, "trainer.accelerator=gpu")
        losses, checkpoint = trained(tmp_path / "gpu", gpu, step_reads := StepReads(reads))
        assert any(answers(checkpoint, gpu).values())
    assert "1 GPU, bf16-mixed" in caplog.text
    assert "attention of packs: flash" in caplog.text
    assert losses == pytest.approx(want, rel=0.01)
    assert step_reads.steps == [0] * 4


def test_the_pretended_gpu_refuses_what_a_real_one_does() -> None:
    with pretended_gpu() as reads:
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
        assert not reads
        assert there.sum().item() == 12
        assert reads == {"item": 1}
