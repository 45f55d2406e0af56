"""Training of causal models: the loss of a step, what is kept, resuming, and what prediction makes of it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import small_causal
import small_corpus
import torch
from later_config_key import make_new
from pytorch_lightning.callbacks import Callback
from safetensors.torch import load_file
from small_corpus import fit, predict, prepare
from tests.unit.training.test_fit import At, Losses
from torch.nn.functional import cross_entropy

from omniner.compute.devices import Devices
from omniner.config.groups import Config
from omniner.config.model_groups import TuningConfig
from omniner.errors import UserError
from omniner.llm import prompts
from omniner.llm.training.generative_data import DevLoader, GenerativeData
from omniner.llm.training.generative_module import GenerativeModule
from omniner.llm.training.packs import make_pack
from omniner.model_files import find_checkpoint
from omniner.models import prepare_causal
from omniner.records import Entity, Prediction, Sentence
from omniner.scoring.metrics import Counts
from omniner.scoring.units import compare_units
from omniner.training import checkpoints
from omniner.training.learner import DevScore

BRIEF = "decoding.max_new_tokens=12"  # where nobody looks at the answers, which without much training never end
QUICK = ("trainer.max_epochs=4", "trainer.eval_every=4", BRIEF)


def configuration(*overrides: str) -> Config:
    return small_corpus.configuration("qwen2_tiny", *overrides)


def learnt_by_heart(folder: Path, *overrides: str) -> tuple[Config, Path]:
    """A model that knows twelve sentences."""
    config = configuration(
        "trainer.max_epochs=60", "trainer.eval_every=60", "trainer.batch_size=4", "model.learning_rate.full=0.005",
        "trainer.schedule=cosine", *overrides,
    )  # fmt: skip
    corpus = small_corpus.corpus(12, 1)
    corpus.splits["dev"] = corpus.splits["train"]
    result = fit(config, corpus, folder, None, [])
    assert result.best_f1 == 1.0
    return config, result.best_path


def state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoints.read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"])


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Logged(Callback):
    """Notes when dev was evaluated, and what was logged."""

    def __init__(self) -> None:
        self.evaluations: list[int] = []
        self.values: dict[str, float] = {}

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.evaluations.append(trainer.global_step)
        self.values |= {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    return learnt_by_heart(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def by_itself(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves nothing of a process group behind, which later tests would take for theirs."""
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def answers(path: Path | None, sentences: list[Sentence], config: Config, *done: str) -> dict[str, Prediction]:
    return {p.id: p for batch in predict(path, sentences, config, frozenset(done)) for p in batch}


def test_twelve_sentences_are_learnt_by_heart(trained: tuple[Config, Path]) -> None:
    config, path = trained
    sentences = small_corpus.corpus(12, 1).splits["train"]
    found = answers(path, sentences, config)
    assert {name: p.entities for name, p in found.items()} == {s.id: s.entities for s in sentences}
    assert {p.engine for p in found.values()} == {"hf"}
    assert all(p.raw and len(p.prompt_sha) == 16 for p in found.values())


@pytest.mark.parametrize("pack_tokens", [90, 4096])
def test_the_loss_of_a_step_is_the_mean_over_its_answer_tokens(tmp_path: Path, pack_tokens: int) -> None:
    config = configuration("trainer.max_steps=1", "trainer.batch_size=12", f"tuning.pack_tokens={pack_tokens}")
    corpus = small_corpus.corpus(12, 2)
    losses, logged = Losses(), Logged()
    fit(config, corpus, tmp_path, None, [losses, logged])
    module, data = prepare(config, corpus)
    total, tokens = 0.0, 0
    for sample in data.train:  # the slow, obvious way
        logits = module.model(torch.tensor([sample.prompt + sample.answer])).logits[0, len(sample.prompt) - 1 : -1]
        total += float(cross_entropy(logits.detach(), torch.tensor(sample.answer), reduction="sum"))
        tokens += len(sample.answer)
    assert losses.values == {1: pytest.approx(total / tokens, rel=1e-5)}
    assert (logged.values["train/packs"] > 2) == (pack_tokens == 90)


def test_packs_change_neither_losses_nor_weights(tmp_path: Path) -> None:
    corpus, seen = small_corpus.corpus(20, 2), []
    for pack_tokens in (90, 4096):
        losses = Losses()
        # so low that clipping acts at each step: on the sum of all packs
        config = configuration(*QUICK, f"tuning.pack_tokens={pack_tokens}", "trainer.gradient_clip=0.1")
        fit(config, corpus, tmp_path / str(pack_tokens), None, [losses])
        seen.append((losses.values, state(tmp_path / str(pack_tokens))))
    (small, left), (large, right) = seen
    assert small == pytest.approx(large, rel=1e-4)
    for name, weight in left.items():
        torch.testing.assert_close(weight, right[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("method", "stop_at"), [("full", 3), ("full", 5), ("lora", 3)])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, method: str, stop_at: int) -> None:
    # 5 steps per epoch: stopped amid the first epoch, and at its end
    dropout = "tuning.dropout=0.1" if method == "lora" else "tuning.dropout=0"
    config = configuration(f"tuning={method}", dropout, "trainer.max_epochs=2", BRIEF)
    corpus = small_corpus.corpus(40, 4)
    whole, parts = Losses(), Losses()
    plain = fit(config, corpus, tmp_path / "plain", None, [whole])
    stopped = fit(config, corpus, tmp_path / "stopped", None, [parts, At(stop_at, terminate)])
    assert (stopped.signal, max(parts.values)) == (signal.SIGTERM, stop_at)
    resumed = fit(config, corpus, tmp_path / "stopped", None, [parts])
    assert (resumed.signal, resumed.best_f1, resumed.epochs) == (0, plain.best_f1, 2)
    assert parts.values == whole.values
    left, right = state(tmp_path / "plain"), state(tmp_path / "stopped")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_killed_run_goes_on_from_its_last_save(tmp_path: Path) -> None:
    config = configuration("trainer.max_epochs=2", "model.entity_replacement=0.5", BRIEF)
    config.trainer.checkpoint_minutes = 1e-9
    corpus = small_corpus.corpus(40, 4)

    def copy() -> None:
        # what a kill would leave: the save after the step before
        shutil.copytree(tmp_path / "plain/checkpoints", tmp_path / "killed/checkpoints")

    whole, rest = Losses(), Losses()
    fit(config, corpus, tmp_path / "plain", None, [whole, At(4, copy)])
    fit(config, corpus, tmp_path / "killed", None, [rest])
    assert rest.values == {step: whole.values[step] for step in range(4, 11)}


def test_an_evaluation_is_interrupted_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omniner.llm.decoding import hf_engine
    from omniner.llm.training import generative_module

    config = configuration("trainer.max_epochs=2", "decoding.slots=2", "model.learning_rate.full=0.01")
    corpus = small_corpus.corpus(24, 8)
    plain, logged, parts = Logged(), Logged(), []

    def interrupted(*arguments: Any) -> Iterator[list[Prediction]]:
        for part in answers_of(*arguments):
            terminate()
            parts.append(part)
            yield part

    fit(config, corpus, tmp_path / "plain", None, [plain])
    answers_of = hf_engine.predict_answers
    with monkeypatch.context() as patch:
        patch.setattr(generative_module, "predict_answers", interrupted)
        assert fit(config, corpus, tmp_path / "stopped", None, [logged]).signal == signal.SIGTERM
    assert len(parts) == 1, "it must stop behind the first answers"
    assert not (tmp_path / "stopped/checkpoints/best").exists()
    result = fit(config, corpus, tmp_path / "stopped", None, [logged])
    assert logged.evaluations == plain.evaluations == [3, 6]
    assert result.best_path.is_dir()
    left, right = state(tmp_path / "plain"), state(tmp_path / "stopped")
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_adapters_alone_are_kept(tmp_path: Path) -> None:
    config = configuration(*QUICK, "tuning=lora")
    corpus = small_corpus.corpus(16, 4)
    result = fit(config, corpus, tmp_path, None, [])
    names = state(tmp_path)
    assert names
    assert all(".lora_" in name for name in names)
    assert (result.best_path / "adapter_model.safetensors").is_file()
    assert answers(result.best_path, corpus.splits["test"], config).keys() == {s.id for s in corpus.splits["test"]}


def test_a_checkpoint_that_lacks_a_weight_does_not_resume(tmp_path: Path) -> None:
    config = configuration(*QUICK, "tuning=lora")
    corpus = small_corpus.corpus(16, 4)
    fit(config, corpus, tmp_path, None, [])
    path = tmp_path / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, path)
    with pytest.raises(UserError, match="lacks 1 of the weights that learn"):
        fit(config, corpus, tmp_path, None, [])
    with pytest.raises(UserError, match=r"belongs to another training: tuning\.rank: 16 in last\.ckpt, 4 now"):
        fit(configuration(*QUICK, "tuning=lora", "tuning.rank=4"), corpus, tmp_path, None, [])


def test_what_another_run_learns_with_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    corpus, first = small_corpus.corpus(8, 4), ("tuning=lora", "trainer.max_epochs=1", BRIEF)
    fit(configuration(*first), corpus, tmp_path, None, [])
    with pytest.raises(UserError, match=r"another training: tuning\.rank: \d+ in last\.ckpt, 3 now"):
        fit(configuration(*first, "tuning.rank=3"), corpus, tmp_path, None, [])
    last = tmp_path / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    tuning = content["generative"]["tuning"]
    assert tuning["optimizer"] == "adamw"  # `auto`, as it was resolved here
    for stored in ("adamw_8bit", "auto"):
        described = {**content["generative"], "tuning": {**tuning, "optimizer": stored}}
        torch.save({**content, "generative": described}, tmp_path / "other")
        shutil.copy(tmp_path / "other", last)
        if stored != "auto":
            with pytest.raises(UserError, match=r"tuning\.optimizer: adamw_8bit in last\.ckpt, adamw now"):
                fit(configuration(*first, "tuning.optimizer=adamw"), corpus, tmp_path, None, [])
    torch.save({**content, "generative": {**content["generative"], "base_revision": "c0ffee"}}, last)
    fit(configuration(*first), corpus, tmp_path, None, [])
    assert "this training began with its commit c0ffee, and goes on with" in caplog.text
    described = {**content["generative"], "base_weights": "0f"}
    with monkeypatch.context() as patch:
        patch.setattr(GenerativeModule, "describe", lambda _: described)
        with pytest.raises(UserError, match=r"another training: base_weights: nothing in last\.ckpt, 0f now"):
            fit(configuration(*first), corpus, tmp_path, None, [])
    del described["base_weights"], described["tuning"]["rank"]
    torch.save({**content, "generative": described}, last)
    with pytest.raises(UserError, match=r"another training: tuning\.rank: nothing in last\.ckpt, 16 now"):
        fit(configuration(*first), corpus, tmp_path, None, [])
    make_new(monkeypatch, TuningConfig, "rank", 16)  # as if it were a key that came later
    torch.save({**content, "generative": described}, last)
    fit(configuration(*first), corpus, tmp_path, None, [])  # older files say `auto`, and nothing of the base's weights


def test_windows_are_refused_before_a_step(tmp_path: Path) -> None:
    kind = "model.architecture.model_type=mistral", "+model.architecture.sliding_window=64"
    config = configuration(*kind, *QUICK)
    losses = Losses()
    with pytest.raises(UserError, match=r"model\.path: the model \(mistral\) has a sliding window of 64 tokens"):
        fit(config, small_corpus.corpus(8, 4), tmp_path, None, [losses])
    assert not losses.values


def test_evaluation_by_steps_on_a_sample_is_that_of_prediction(tmp_path: Path) -> None:
    config = configuration(
        "trainer.max_epochs=30",
        "trainer.eval_steps=25",
        "trainer.eval_sample=5",
        "trainer.batch_size=4",
        "model.learning_rate.full=0.01",
        "trainer.schedule=constant",
    )
    corpus = small_corpus.corpus(12, 1)
    corpus.splits["dev"] = corpus.splits["train"]
    logged = Logged()
    result = fit(config, corpus, tmp_path, None, [logged])
    # 3 steps an epoch
    assert logged.evaluations == [25, 50, 75, 90]
    _, data = prepare(config, corpus)
    chosen = [s for s in corpus.splits["dev"] if s.id in {sample.id for sample in data.dev}]
    assert len(chosen) == 5
    found = answers(result.best_path, chosen, config)
    row = Counts.of(compare_units([s.entities for s in chosen], [found[s.id].entities for s in chosen], "pair")).micro()
    assert 0.3 < row.f1 == pytest.approx(result.best_f1)
    names = {
        f"train/{name}" for name in ("loss", "learning_rate", "sentences_per_second", "tokens_per_second", "packs")
    }
    assert names | {"val/f1", "val/precision", "val/recall", "val/loss", "val/parse_failed"} <= logged.values.keys()
    assert all(logged.values[name] > 0 for name in names)
    assert logged.values["val/loss"] < 1


def test_mentions_are_exchanged_anew_in_each_epoch() -> None:
    config = configuration("model.entity_replacement=0.8", "encoding.max_length=11", "encoding.on_too_long=truncate")
    corpus = small_corpus.corpus(40, 4)
    corpus.splits["train"].append(Sentence("cut", "张三在北京吃臭豆腐和面，很好", [Entity("张三", "人", 0, 2)]))
    _, data = prepare(config, corpus)
    assert isinstance(data, GenerativeData)
    first, second = data.epoch_samples(0), data.epoch_samples(1)
    assert first == data.epoch_samples(0)
    plain = data.train
    assert [s.id for s in first] == [s.id for s in second] == [s.id for s in plain]
    assert sum(one.text != other.text for one, other in zip(first, second, strict=True)) > 10
    assert sum(one.text != other.text for one, other in zip(first, plain, strict=True)) > 10
    assert all(len(sample.text) <= 11 for sample in first)
    assert first[-1] == second[-1] == plain[-1], "a sentence that is cut stays as it is"
    encoder = data.encoder
    for sample in first:
        # what is learnt is the answer to what is shown
        (again,), _ = encoder.encode([Sentence(sample.id, sample.text, sample.gold)])
        assert (sample.prompt, sample.answer) == (again.prompt, again.answer)
        assert all(sample.text[e.start : e.end] == e.text for e in sample.gold if (e.end or 0) <= len(sample.text))
    corpus.splits["train"] = corpus.splits["train"][:40]
    _, data = prepare(configuration(), corpus)
    assert isinstance(data, GenerativeData)
    assert data.epoch_samples(1) is data.train


def test_of_equal_scores_the_lower_loss_is_kept(tmp_path: Path) -> None:
    # an untrained model answers nothing right
    config = configuration("trainer.max_epochs=3", "decoding.max_new_tokens=2")
    corpus = small_corpus.corpus(16, 4)
    result = fit(config, corpus, tmp_path, None, [])
    assert result.best_f1 == 0
    best, last = (load_file(result.best_path / "model.safetensors"), state(tmp_path))
    assert all(torch.equal(weight, last[f"model.{name}"]) for name, weight in best.items())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_half_precision_learns(tmp_path: Path, precision: str, method: str) -> None:
    config = configuration(
        f"trainer.precision={precision}", f"tuning={method}", "trainer.max_epochs=8", "trainer.eval_every=8",
        "trainer.batch_size=4", "model.learning_rate.full=0.005", "model.learning_rate.lora=0.02", BRIEF,
    )  # fmt: skip
    corpus, losses = small_corpus.corpus(16, 2), Losses()
    fit(config, corpus, tmp_path, None, [losses])
    values = [losses.values[step] for step in sorted(losses.values)]
    # adapters of random weights learn little, in 32 bits too, but they do
    assert sum(values[-4:]) < (0.6 if method == "full" else 0.99) * sum(values[:4])
    kinds = {weight.dtype for weight in state(tmp_path).values()}
    assert torch.float32 in kinds if precision == "bf16-mixed" else kinds <= {torch.float32, torch.bfloat16}
    module, _ = prepare(config, corpus)
    frozen = {weight.dtype for weight in module.model.parameters() if not weight.requires_grad}
    assert frozen == (set() if method == "full" else {torch.bfloat16})
    rotary = [buffer.dtype for name, buffer in module.model.named_buffers() if name.endswith("inv_freq")]
    assert set(rotary) == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("strategy", ["auto", "fsdp"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.usefixtures("by_itself")
def test_a_gpu_trains_resumes_and_answers(tmp_path: Path, method: str, strategy: str) -> None:
    config = configuration(
        "trainer.accelerator=gpu", "trainer.devices=1", f"trainer.strategy={strategy}", f"tuning={method}",
        "trainer.batch_size=4", "trainer.max_epochs=8", "trainer.eval_every=8",
        "model.learning_rate.full=0.005", "model.learning_rate.lora=0.02",
        "model.architecture.num_attention_heads=1", "model.architecture.num_key_value_heads=1",
    )  # fmt: skip
    corpus, losses = small_corpus.corpus(16, 4), Losses()
    assert fit(config, corpus, tmp_path, None, [losses, At(6, terminate)]).signal
    result = fit(config, corpus, tmp_path, None, [losses])
    values = [losses.values[step] for step in range(1, 33)]
    assert sum(values[-4:]) < (0.6 if method == "full" else 0.99) * sum(values[:4])
    assert answers(result.best_path, corpus.splits["test"], config).keys() == {s.id for s in corpus.splits["test"]}


@pytest.mark.usefixtures("by_itself")
def test_one_process_may_divide_weights_with_itself(tmp_path: Path) -> None:
    corpus, seen = small_corpus.corpus(16, 4), []
    for strategy in ("auto", "fsdp"):
        losses = Losses()
        fit(configuration(f"trainer.strategy={strategy}", *QUICK), corpus, tmp_path / strategy, None, [losses])
        seen.append(losses.values)
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)


@pytest.mark.parametrize("tuning", ["tuning=auto", "tuning=full"])
def test_weights_that_learn_are_held_in_32_bits_beside_bf16_products(tuning: str) -> None:
    config, corpus = configuration(tuning), small_corpus.corpus(8, 2)
    told = small_corpus.prompt(config, corpus)
    assert told is not None
    module, _ = prepare_causal(config, Devices("gpu", 1, 1, "auto", "bf16-mixed"), corpus, told)
    assert {weight.dtype for weight in module.model.parameters()} == {torch.float32}


@pytest.mark.usefixtures("by_itself")
def test_processes_share_the_pages_of_a_file_until_weights_learn(tmp_path: Path) -> None:
    """A model of 16 bits is loaded as it is, and widened where it is trained; divided, only each process's share."""
    made = small_causal.build("full", dtype=torch.bfloat16)
    small_causal.save_model(made, tmp_path / "model")
    common = (
        f"model.path={tmp_path / 'model'}", "model.name=small", "tuning=full", "trainer.max_epochs=1",
        "decoding.max_new_tokens=4", "prompt.instruction.zh='{categories}'",
    )  # fmt: skip
    corpus, seen = small_corpus.corpus(16, 2), []
    for strategy in ("auto", "fsdp"):
        config = small_corpus.configuration("causal_path", *common, f"trainer.strategy={strategy}")
        module, _ = prepare(config, corpus)
        assert {weight.dtype for weight in module.model.parameters()} == {torch.bfloat16}
        losses = Losses()
        best = fit(config, corpus, tmp_path / strategy, None, [losses]).best_path
        assert {value.dtype for value in load_file(best / "model.safetensors").values()} == {torch.float32}
        seen.append(losses.values)
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)


def test_what_is_done_is_not_answered_again(trained: tuple[Config, Path]) -> None:
    config, path = trained
    sentences = small_corpus.sentences(20, 7, "test")
    whole = answers(path, sentences, config)
    rest = answers(path, sentences, config, *(s.id for s in sentences[:13]))
    assert rest == {s.id: whole[s.id] for s in sentences[13:]}
    assert answers(path, sentences, config, *whole) == {}


def test_sentence_after_sentence_the_prefix_is_read_once(
    trained: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from omniner.llm.decoding.decoder import Decoder
    from omniner.models import load_predictor

    config, path = trained
    read, reading, sentences = [], Decoder._read_prefix, small_corpus.sentences(6, 9, "s")
    expected = {one.id: one for batch in load_predictor(config, path).predict(sentences) for one in batch}

    def noted(decoder: Decoder) -> Any:
        read.append(decoder)
        return reading(decoder)

    monkeypatch.setattr(Decoder, "_read_prefix", noted)
    predictor = load_predictor(config, path)
    found = [next(iter(predictor.predict([sentence])))[0] for sentence in sentences]  # readers that stop at once
    assert {one.id: one for one in found} == expected
    assert len(read) == 1
    assert read[0]._cache.slots == 1  # and room for no more than are asked
    both = [predictor.predict([sentence]) for sentence in sentences[:2]]
    assert [next(each)[0] for each in both] == found[:2]
    assert len(read) == 2  # one is not disturbed by another
    del both
    both = [predictor.predict([sentence]) for sentence in sentences[:2]]
    assert [next(each)[0] for each in both] == found[:2]
    assert len(read) == 2  # and both prefixes are kept


@pytest.mark.parametrize("of_dev", [False, True])
def test_the_time_left_is_that_of_answers_alone(
    tmp_path: Path, trained: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch, of_dev: bool
) -> None:
    """The clock starts behind the prefix, and says nothing of the rate before all slots have answered once."""
    from omniner import models
    from omniner.llm.decoding.decoder import Decoder
    from omniner.llm.training import generative_module
    from omniner.progress import Progress

    steps: list[Any] = []
    reading = Decoder._read_prefix
    monkeypatch.setattr(Decoder, "_read_prefix", lambda decoder: steps.append("prefix") or reading(decoder))

    def noted(*given: Any, **named: Any) -> Progress:
        steps.append(named["enough"])
        return Progress(*given, **named)

    monkeypatch.setattr(generative_module if of_dev else models, "Progress", noted)
    config = configuration("decoding.slots=3", "trainer.max_epochs=1", "trainer.eval_every=1")
    if of_dev:
        fit(config, small_corpus.corpus(8, 4), tmp_path, None, [])
    else:
        answers(trained[1], small_corpus.sentences(6, 9, "s"), config)
    assert steps == ["prefix", 3]


def test_guided_answers_are_readable_and_stand_in_the_text(tmp_path: Path) -> None:
    config = configuration("decoding=guided", *QUICK[:2])
    corpus = small_corpus.corpus(16, 4)
    logged = Logged()
    result = fit(config, corpus, tmp_path, None, [logged])
    assert logged.values["val/parse_failed"] == 0
    found = answers(result.best_path, corpus.splits["test"], config)
    assert {(p.engine, p.parse) for p in found.values()} == {("hf-guided", "ok")}
    assert all(entity.text in s.text for s in corpus.splits["test"] for entity in found[s.id].entities)


def test_every_sentence_is_answered_whatever_its_length(trained: tuple[Config, Path]) -> None:
    config, path = trained
    config = configuration("encoding.max_length=10")
    sentences = [Sentence("fits", "张三"), Sentence("long", "张三在北京" * 5), Sentence("empty", "")]
    with pytest.raises(UserError, match=r"1 sentence longer than .*long"):
        answers(path, sentences, config)
    config.encoding.on_too_long = "skip"
    skipped = answers(path, sentences, config)
    assert (skipped["long"].parse, skipped["long"].entities) == ("failed", [])
    assert "too-long-skipped" in skipped["long"].reason
    assert (skipped["empty"].parse, skipped["fits"].reason) == ("ok", "")
    config.encoding.on_too_long = "truncate"
    cut = answers(path, sentences, config)
    assert "too-long-truncated" in cut["long"].reason
    assert all((entity.end or 0) <= 10 for entity in cut["long"].entities)


def test_an_answer_that_is_cut_says_so(trained: tuple[Config, Path]) -> None:
    _, path = trained
    config = configuration("decoding.max_new_tokens=3")
    (found,) = answers(path, [Sentence("a", "张三在北京吃面")], config).values()
    assert "stopped by decoding.max_new_tokens" in found.reason


@pytest.mark.parametrize(("limit", "splits"), [("20", ["train", "dev"]), ("auto", ["dev"])])
def test_gold_that_no_answer_could_give_is_told_before_training(
    caplog: pytest.LogCaptureFixture, limit: str, splits: list[str]
) -> None:
    config, corpus = configuration(f"decoding.max_new_tokens={limit}"), small_corpus.corpus(8, 2)
    text = "张三" * 60  # far denser than train is
    corpus.splits["dev"] = [Sentence("d", text, [Entity("张三", "人", at, at + 2) for at in range(0, len(text), 2)])]
    told = small_corpus.prompt(config, corpus)
    assert told is not None
    module, data = prepare_causal(config, Devices("cpu", 1, 1, "auto", "32-true"), corpus, told)
    assert module.causal.longest_answer == max(len(sample.answer) for sample in data.train)
    warned = [message for message in caplog.messages if "more tokens than decoding.max_new_tokens allows" in message]
    assert [message.split()[4] for message in warned] == splits


def test_a_model_answers_without_training(tmp_path: Path) -> None:
    config = configuration(
        "data.size={train: 30, dev: 5, test: 5}", "model.vocabulary=900", "decoding.max_new_tokens=8"
    )
    sentences = small_corpus.sentences(3, 1, "s")
    found = answers(None, sentences, config)
    assert found.keys() == {s.id for s in sentences}
    assert found == answers(None, sentences, config)
    with pytest.raises(UserError, match="must be trained"):
        answers(None, sentences, small_corpus.configuration("char_bilstm"))


@pytest.mark.parametrize("decoding", ["free", "guided"])
def test_one_load_answers_to_many_prompts(decoding: str, caplog: pytest.LogCaptureFixture) -> None:
    from omniner import models

    config = configuration(
        "data.size={train: 30, dev: 5, test: 5}", "model.vocabulary=900", "decoding.max_new_tokens=24",
        f"decoding={decoding}",
    )  # fmt: skip
    sentences = small_corpus.sentences(4, 1, "s")
    told = prompts.build_prompt(config.prompt, ["地点_城市", "人名"], small_corpus.sentences(8, 2, "t"))
    loaded = models.load_untrained(config, told, [one.text for one in sentences])
    caplog.set_level("INFO", "omniner")
    caplog.clear()
    for number in range(2):
        prompt = dataclasses.replace(told, instruction=f"{told.instruction}\n人名{number}")
        found = {one.id: one for batch in loaded.with_prompt(prompt).predict(sentences) for one in batch}
        assert {one.prompt_sha for one in found.values()} == {prompt.sha}
        alone = models.CausalPredictor(config, loaded._devices, dataclasses.replace(loaded._causal, prompt=prompt))
        assert not caplog.records
        assert found == {one.id: one for batch in alone.predict(sentences) for one in batch}
        caplog.clear()


def test_another_prompt_is_answered_in_its_own_style() -> None:
    from omniner import models

    config = configuration("model.vocabulary=900", "decoding.max_new_tokens=24", "decoding=guided")
    sentences = small_corpus.sentences(4, 1, "s")
    told = prompts.build_prompt(config.prompt, ["地点_城市", "人名"], small_corpus.sentences(8, 2, "t"))
    loaded = models.load_untrained(config, told, [one.text for one in sentences])
    assert told.answer == "official"
    first, compact = loaded.with_prompt(told), loaded.with_prompt(dataclasses.replace(told, answer="compact"))
    alone = models.CausalPredictor(config, loaded._devices, compact._causal)
    found = [one for batch in compact.predict(sentences) for one in batch]
    assert found == [one for batch in alone.predict(sentences) for one in batch]
    assert not any(", " in one.raw for one in found)
    assert any(", " in one.raw for batch in first.predict(sentences) for one in batch)
    assert loaded.with_prompt(compact._causal.prompt)._constraint is compact._constraint  # made once
    assert first._constraint is loaded._constraint


def test_the_state_of_training_is_no_model_to_predict_with(tmp_path: Path) -> None:
    config = configuration("trainer.max_steps=1")
    fit(config, small_corpus.corpus(8, 2), tmp_path, None, [])
    with pytest.raises(UserError, match=r"holds no tagger.*checkpoints/best folder"):
        answers(tmp_path / "checkpoints/last.ckpt", small_corpus.sentences(1, 1, "s"), config)
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "checkpoints/best") == tmp_path / "checkpoints/best"
    with pytest.raises(UserError, match="holds no checkpoints/best"):
        find_checkpoint(tmp_path / "checkpoints")


def test_what_fsdp_cannot_divide_is_refused() -> None:
    corpus = small_corpus.corpus(8, 2)
    for override, key in (("tuning.optimizer=adamw_8bit", "tuning.optimizer"), ("tuning.method=lora", "")):
        config = configuration("trainer.strategy=fsdp", override)
        if key:
            with pytest.raises(UserError, match=key):
                prepare(config, corpus)
        else:
            prepare(config, corpus)
    config.tuning.method = "qlora"
    with pytest.raises(UserError, match="4-bit"):
        prepare(config, corpus)


def test_the_survey_counts_what_is_computed() -> None:
    config = configuration("tuning.pack_tokens=120")
    corpus = small_corpus.corpus(20, 2)
    _, data = prepare(config, corpus)
    one, two = data.pack_statistics(1), data.pack_statistics(2)
    assert (one.steps, two.steps, data.steps) == (3, 3, 3)
    suffixes = sum(len(s.prompt) + len(s.answer) - 1 - len(data.prefix) for s in data.train)
    assert one.pack_tokens == one.packs * len(data.prefix) + suffixes
    assert one.sample_tokens == sum(len(s.prompt + s.answer) for s in data.train)
    assert one.largest.tokens <= 120
    whole = len(make_pack(data.train, len(data.prefix)).ids)
    assert whole == len(data.prefix) + suffixes


def test_processes_share_dev() -> None:
    config = configuration("tuning.pack_tokens=100")
    corpus = small_corpus.corpus(8, 7)
    _, data = prepare(config, corpus)
    samples, prefix = data.dev, len(data.prefix)
    for ranks in (1, 2, 9):
        shares = [share for rank in range(ranks) for share in DevLoader(samples, prefix, 100, rank, ranks)]
        assert sorted(s.id for share in shares for s in share.samples) == sorted(s.id for s in samples)
        assert len({len(share.step.packs) for share in shares}) == 1
        tokens = sum(len(pack.targets) * pack.weight for share in shares for pack in share.step.packs)
        assert tokens == sum(len(s.answer) for s in samples)


def test_what_the_model_has_no_positions_for_is_refused() -> None:
    config = configuration("model.architecture.max_position_embeddings=40")
    corpus = small_corpus.corpus(8, 4)
    with pytest.raises(UserError, match="the model takes 40"):
        prepare(config, corpus)


def test_scores_of_parts_add_up() -> None:
    gold = [[Entity("a", "A", 0, 1)], [Entity("b", "B", 0, 1), Entity("c", "C", 1, 2)], []]
    predicted = [[Entity("a", "A")], [Entity("b", "X")], []]
    whole, parts = DevScore("pair", answers=True), DevScore("pair", answers=True)
    whole.update(gold, predicted, 1, torch.tensor(6.0), 12)
    for at in range(3):
        parts.update(gold[at : at + 1], predicted[at : at + 1], int(at == 2), torch.tensor(2.0), 4)
    parts.update([], [], 0, torch.tensor(0.0), 0)
    assert parts.compute() == whole.compute()
    assert whole.compute() == {
        "precision": 0.5, "recall": 1 / 3, "f1": 0.4, "loss": 0.5, "parse_failed": pytest.approx(1 / 3)
    }  # fmt: skip
