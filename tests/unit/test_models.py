"""Prediction: from the checkpoint alone, the same for every batch size, one answer per sentence."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import pytest
import small_corpus
import torch
from small_corpus import predict, prepare

from omniner import models, progress
from omniner.compute import devices
from omniner.config.groups import Config
from omniner.errors import UserError
from omniner.llm.decoding.decoder import Decoder
from omniner.predicting.engines import TrainedModel
from omniner.records import Entity, Prediction, Sentence
from omniner.taggers import tagger as taggers_tagger
from omniner.taggers.batches import SentenceEncoder, collate
from omniner.training import checkpoints


def untrained(model: str, folder: Path, *overrides: str) -> tuple[Config, Path]:
    """A checkpoint of random weights, scaled up so that they have opinions."""
    config = small_corpus.configuration(model, *overrides)
    corpus = small_corpus.corpus(30, 4)
    module, _ = prepare(config, corpus)
    with torch.no_grad():
        for name, weight in module.tagger.head.named_parameters():
            weight.mul_(0 if name.endswith("bias") else 4)
    checkpoints.write_checkpoint(folder / "best.ckpt", module.tagger.describe(), module.weights())
    return config, folder / "best.ckpt"


def answers(path: Path, sentences: list[Sentence], config: Config, batch_size: int) -> dict[str, Prediction]:
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, eval_batch_size=batch_size))
    return {p.id: p for batch in predict(path, sentences, config) for p in batch}


@pytest.mark.parametrize("head", ["softmax", "crf", "span"])
@pytest.mark.parametrize("model", ["char_bilstm", "bert_tiny"])
def test_answers_do_not_depend_on_the_batch(tmp_path: Path, model: str, head: str) -> None:
    config, path = untrained(model, tmp_path, f"head={head}")
    sentences = small_corpus.sentences(40, 9, "test")
    sentences += [Sentence("long", "张三在北京吃面" * 30), Sentence("one", "面")]
    alone = answers(path, sentences, config, 1)
    assert alone.keys() == {sentence.id for sentence in sentences}
    assert sum(len(p.entities) for p in alone.values()) > 20
    assert answers(path, sentences, config, 64) == alone
    assert answers(path, sentences[::-1], config, 7) == alone
    for sentence in sentences:
        for entity in alone[sentence.id].entities:
            assert entity.start is not None
            assert sentence.text[entity.start : entity.end] == entity.text


@pytest.mark.parametrize("head", ["softmax", "crf", "span"])
def test_the_same_is_predicted_with_scores_whatever_the_batch(tmp_path: Path, head: str) -> None:
    config, path = untrained("char_bilstm", tmp_path, f"head={head}")
    sure = dataclasses.replace(config, decoding=dataclasses.replace(config.decoding, scores=True))
    sentences = [*small_corpus.sentences(40, 9, "test"), Sentence("long", "张三在北京吃面" * 30)]
    bare, alone, together = (answers(path, sentences, *how) for how in ((config, 8), (sure, 1), (sure, 64)))
    assert bare == alone == together
    found = [[entity for one in sentences for entity in given[one.id].entities] for given in (bare, alone, together)]
    assert {entity.score for entity in found[0]} == {None}
    assert all(entity.score is not None and round(entity.score, 4) == entity.score for entity in found[1])
    assert [one.score for one in found[1]] == pytest.approx([one.score for one in found[2]], abs=1.1e-4)


@pytest.mark.parametrize("head", ["softmax", "crf", "span"])
def test_entities_below_the_least_confidence_are_left_out_of_predictions(tmp_path: Path, head: str) -> None:
    config, path = untrained("char_bilstm", tmp_path, f"head={head}")
    sentences = small_corpus.sentences(40, 9, "test")

    def predicted(**decoding: Any) -> dict[str, Prediction]:
        chosen = dataclasses.replace(config, decoding=dataclasses.replace(config.decoding, **decoding))
        return answers(path, sentences, chosen, 8)

    every = predicted(scores=True)
    scores = sorted(entity.score or 0 for one in every.values() for entity in one.entities)
    least = scores[len(scores) // 2]
    assert scores[0] < least
    found = predicted(min_score=least)
    for name, one in found.items():
        expected = [(entity, entity.score) for entity in every[name].entities if (entity.score or 0) >= least]
        assert [(entity, entity.score) for entity in one.entities] == expected
        assert one.left_out == len(every[name].entities) - len(expected)


@pytest.mark.parametrize("model", ["char_bilstm", "bert_tiny"])
def test_states_are_exact_under_padding(tmp_path: Path, model: str) -> None:
    config, path = untrained(model, tmp_path)
    tagger = taggers_tagger.load_tagger(path)
    examples, _ = tagger.sentence_encoder(config.encoding).encode(small_corpus.sentences(12, 4, "s"))
    with torch.no_grad():
        together = tagger.states(collate(examples, 0, 1))[0]
        for row, example in enumerate(examples):
            alone = tagger.states(collate([example], 0, 1))[0][0]
            torch.testing.assert_close(together[row, : example.length], alone, atol=1e-5, rtol=1e-5)


def test_members_are_trained_alone_and_averaged(tmp_path: Path) -> None:
    config, path = untrained("char_bilstm", tmp_path, "model.members=3", "head=crf")
    tagger = taggers_tagger.load_tagger(path)
    examples, _ = tagger.sentence_encoder(config.encoding).encode(small_corpus.sentences(6, 4, "s"))
    batch = collate(examples, 0, 1)
    assert len(tagger.backbones) == 3
    with torch.no_grad():
        states = tagger.states(batch)
        losses = [tagger.head.loss(own, batch) for own in states]
        torch.testing.assert_close(tagger.loss(batch), sum(losses) / 3)
        scores = sum(tagger.head.emit(own) for own in states) / 3
        assert not torch.allclose(states[0], states[1]), "members begin differently"
        best = tagger.head.crf.decode(scores, batch.lengths).numpy()
    expected = tagger.head.scheme.decode_batch(best, batch.lengths)
    assert tagger.spans(batch) == expected


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """A program that has set torch its own way, on a machine with other cores; tells how torch is set."""

    def settings() -> list[Any]:
        order = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        tf32 = torch.backends.cudnn.allow_tf32
        return [torch.get_num_threads(), torch.get_float32_matmul_precision(), tf32, *order]

    before = settings()
    monkeypatch.setattr(devices, "share_of_threads", lambda processes: 3)
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield settings
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
        torch.backends.cudnn.allow_tf32 = before[2]
        torch.use_deterministic_algorithms(before[3], warn_only=before[4])


@pytest.mark.parametrize(("threads", "precision", "products"), [(0, "32-true", "highest"), (1, "bf16-mixed", "high")])
@pytest.mark.parametrize("model", ["char_bilstm", "qwen2_tiny"])
def test_a_model_computes_as_configured_and_leaves_torch_to_the_program(
    program: Callable[[], list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    threads: int,
    precision: str,
    products: str,
) -> None:
    config, path = untrained("char_bilstm", tmp_path, f"trainer.threads={threads}", f"trainer.precision={precision}")
    if model == "qwen2_tiny":
        config = small_corpus.configuration(model, f"trainer.threads={threads}", f"trainer.precision={precision}")
    met = set[str]()

    def noted(compute: Any) -> Any:
        return lambda *given, **named: met.add(torch.get_float32_matmul_precision()) or compute(*given, **named)

    monkeypatch.setattr(taggers_tagger.Tagger, "states", noted(taggers_tagger.Tagger.states))
    monkeypatch.setattr(Decoder, "_forward", noted(Decoder._forward))
    set_by_it = program()
    sentences = small_corpus.sentences(3, 4, "s")
    assert (
        len([one for batch in predict(path if model == "char_bilstm" else None, sentences, config) for one in batch])
        == 3
    )
    assert met == {products}
    assert program() == [threads or 2, *set_by_it[1:]]


@pytest.mark.parametrize("model", ["char_bilstm", "bert_tiny"])
def test_what_a_tagger_is_stands_beside_its_weights(model: str, tmp_path: Path) -> None:
    config, path = untrained(model, tmp_path)
    loaded = taggers_tagger.load_tagger(path)
    content = checkpoints.read_checkpoint(path)
    checkpoints.write_checkpoint(path, content["tagger"], {})  # nobody may need them
    assert models.known_categories(path) == loaded.categories
    assert models.devices_for_prediction(config, path).accelerator == "cpu"


def test_a_command_takes_its_share_of_the_cores(program: Callable[[], list[Any]], tmp_path: Path) -> None:
    config, path = untrained("char_bilstm", tmp_path, "trainer.threads=0")
    TrainedModel(path).open(config)
    assert torch.get_num_threads() == 3


def test_ranks_are_started_with_the_accelerator_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_corpus.configuration("char_bilstm", "trainer.accelerator=auto", "trainer.devices=2")
    chosen = devices.Devices("cpu", 2, 2, "ddp", "32-true")  # as where torch has no kernels for the GPU
    monkeypatch.setattr(models, "prepare_devices", lambda _: chosen)
    launch = Mock(side_effect=InterruptedError)
    with pytest.raises(InterruptedError):
        models.fit(config, small_corpus.corpus(8, 2), None, tmp_path, None, [], launch)
    launch.assert_called_once_with(2, 1, "cpu", "32-true")


def test_a_seed_may_be_a_large_number() -> None:
    config = small_corpus.configuration("char_bilstm", "seed=20261130120000")
    first, again = (prepare(config, small_corpus.corpus(8, 4))[0].weights() for _ in range(2))
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())


def test_every_sentence_is_answered_whatever_its_length(tmp_path: Path) -> None:
    config, path = untrained("char_bilstm", tmp_path)
    config.encoding.max_length = 10
    sentences = [Sentence("fits", "张三"), Sentence("long", "张三在北京" * 5), Sentence("empty", "")]
    with pytest.raises(UserError, match=r"1 sentence longer than .*long"):
        list(predict(path, sentences, config))
    config.encoding.on_too_long = "skip"
    skipped = answers(path, sentences, config, 4)
    assert (skipped["long"].parse, skipped["long"].entities) == ("failed", [])
    assert "too-long-skipped" in skipped["long"].reason
    assert (skipped["empty"].parse, skipped["fits"].reason) == ("ok", "")
    config.encoding.on_too_long = "truncate"
    cut = answers(path, sentences, config, 4)
    assert cut.keys() == {"fits", "long", "empty"}
    assert cut["long"].parse == "ok"
    assert "too-long-truncated" in cut["long"].reason
    assert all((entity.end or 0) <= 10 for entity in cut["long"].entities)


def test_many_sentences_are_encoded_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are the same, the longest come first, and a text that is too long is found before any answer."""
    config, path = untrained("char_bilstm", tmp_path)
    config.encoding.max_length, config.encoding.on_too_long = 12, "skip"
    sentences = [Sentence(str(number), "张三在北" * (1 + number % 3) + "面" * (number % 2)) for number in range(9)]
    whole = answers(path, sentences, config, 64)
    sizes: list[int] = []
    encode = SentenceEncoder.encode

    def counting(self: SentenceEncoder, part: list[Sentence]) -> Any:
        sizes.append(len(part))
        return encode(self, part)

    monkeypatch.setattr(SentenceEncoder, "encode", counting)
    monkeypatch.setattr(models, "_ENCODED", 3)
    found = [one for batch in predict(path, sentences, config, frozenset("0")) for one in batch]
    assert sizes == [3, 3, 2]
    assert {one.id: one for one in found} == {name: one for name, one in whole.items() if name != "0"}
    lengths = [len(sentences[int(one.id)].text) for one in found]
    assert lengths == sorted(lengths, reverse=True)
    assert "too-long-skipped" in found[0].reason
    sizes.clear()
    config.encoding.on_too_long = "fail"
    with pytest.raises(UserError, match="longer than 12 characters"):
        next(predict(path, sentences, config))
    assert sizes == [3, 3, 3]


def test_the_rate_of_tagging_does_not_count_what_comes_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = untrained("char_bilstm", tmp_path)
    config.encoding.on_too_long = "skip"
    now, encode = [0.0], SentenceEncoder.encode

    def slowly(self: SentenceEncoder, part: list[Sentence]) -> Any:
        now[0] += 1000
        return encode(self, part)

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(SentenceEncoder, "encode", slowly)
    batches = predict(path, [Sentence("1", "张三在北"), Sentence("2", "张三在")], config)
    next(batches)
    now[0] += 20
    with caplog.at_level(logging.INFO, "omniner"):
        list(batches)
    assert caplog.messages[-1] == "2 of 2 sentences tagged, 0.1 per s, 0 s left"


def test_every_issue_about_a_sentence_is_a_reason(tmp_path: Path) -> None:
    more = "encoding.max_length=5", "encoding.on_too_long=truncate"
    config = small_corpus.configuration("qwen2_tiny", *more, "trainer.max_epochs=1")
    path = small_corpus.fit(config, small_corpus.corpus(8, 4), tmp_path, None, []).best_path
    ((found,),) = predict(path, [Sentence("s", "张三\ud800在北京吃面")], config)
    assert found.reason.startswith("too-long-truncated: 8 characters, 5 fit; half-surrogate: the model sees U+FFFD")


@pytest.mark.parametrize("kind", ["bert", "ernie", "albert", "camembert"])
def test_checkpoints_from_when_encoders_had_a_pooler_still_load(tmp_path: Path, kind: str) -> None:
    config, path = untrained("bert_tiny", tmp_path, f"model.architecture.model_type={kind}")
    content = torch.load(path, weights_only=True)
    assert not [name for name in content["weights"] if "pooler" in name]
    sentences = small_corpus.sentences(5, 4, "s")
    now = answers(path, sentences, config, 4)
    content["weights"]["backbones.0.encoder.pooler.dense.weight"] = torch.zeros(32, 32)
    torch.save(content, path)
    assert answers(path, sentences, config, 4) == now


def test_a_file_that_is_no_checkpoint_is_the_users_mistake(tmp_path: Path) -> None:
    config = small_corpus.configuration("char_bilstm")
    with pytest.raises(UserError, match="is not a file"):
        list(predict(tmp_path / "absent.ckpt", [], config))
    (tmp_path / "text.ckpt").write_text("hello", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        list(predict(tmp_path / "text.ckpt", [], config))
    torch.save({"weights": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="holds no tagger"):
        list(predict(tmp_path / "other.ckpt", [], config))


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code from a checkpoint ran",))


def test_a_checkpoint_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"tagger": Hostile()}, tmp_path / "evil.ckpt", pickle_module=pickle)
    with pytest.raises(UserError, match="cannot be read"):
        taggers_tagger.load_tagger(tmp_path / "evil.ckpt")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("model", ["char_bilstm", "qwen2_tiny"])
def test_dev_is_scored_in_the_unit_of_its_gold_whatever_learns(model: str) -> None:
    corpus = small_corpus.corpus(8, 4)
    config, entity = small_corpus.configuration(model), Entity("面", "菜", 0, 1)
    for unit in ("span", "pair"):
        score = prepare(config, corpus)[0].score
        score.update([[entity]], [[entity._replace(start=3, end=4)]], 0, torch.zeros(()), 1)  # the words, elsewhere
        assert score.compute()["f1"] == (unit == "pair")
        corpus.splits["dev"] = [
            dataclasses.replace(one, entities=[each._replace(start=None, end=None) for each in one.entities])
            for one in corpus.splits["dev"]
        ]


@pytest.mark.parametrize("tuning", ["full", "lora", "qlora"])
def test_an_untuned_model_has_no_adapters_and_answers_as_before_its_training(
    tuning: Literal["full", "lora", "qlora"],
) -> None:
    from torch import nn

    from omniner.llm.language_model import build_causal_model
    from omniner.llm.prompts import build_prompt

    config = small_corpus.configuration("qwen2_tiny", "decoding=guided", "decoding.max_new_tokens=24")
    config.tuning.method = tuning
    sentences = small_corpus.sentences(3, 1, "s")
    texts = [one.text for one in sentences]
    prompt = build_prompt(config.prompt, ["地点_城市", "人名"], sentences)
    assert config.llm is not None
    learner = build_causal_model(config.llm, config.tuning, prompt, texts, torch.float32, config.seed, trains=True)
    config.tuning.targets = ["no_such_layer"]  # only training has to find them
    loaded = models.load_untrained(config, prompt, texts)
    modules = dict(loaded._causal.model.named_modules())
    assert not any("lora" in name for name in modules)
    assert any(type(module) is not nn.Linear for name, module in modules.items() if name.endswith("q_proj")) is (
        tuning == "qlora"
    ), "the model may fit only with 4-bit weights"
    before_training = models.CausalPredictor(config, loaded._devices, learner)
    assert list(loaded.predict(sentences)) == list(before_training.predict(sentences))
