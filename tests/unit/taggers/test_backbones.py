"""Encoders from folders: what loads, and how what does not load is told."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import fake_hub
import pytest
import small_corpus
import torch
from safetensors.torch import load_file, save_file

from omniner import models
from omniner.config.model_groups import EncoderConfig
from omniner.corpus.sources import Corpus
from omniner.errors import UserError
from omniner.records import Entity, Sentence
from omniner.taggers import backbones
from omniner.taggers.tagger import Tagger
from omniner.training import checkpoints

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def configured(path: str | None, architecture: dict[str, object]) -> EncoderConfig:
    config = small_corpus.configuration("bert_tiny").model
    assert isinstance(config, EncoderConfig)
    config.path, config.architecture = path, architecture
    return config


@pytest.fixture
def folder(tmp_path: Path, shared: Path) -> Path:
    """A small BERT with the real tokenizer, as a hub would have it."""
    from transformers import BertConfig, BertModel

    source = shared / "tokenizers/bert-base-chinese"
    model = BertModel(BertConfig(vocab_size=21128, max_position_embeddings=64, **SIZES))
    model.save_pretrained(tmp_path / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(source / name, tmp_path / "bert" / name)
    return tmp_path / "bert"


def test_a_hub_model_is_read_at_its_revision(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub.use(monkeypatch, tmp_path / "cache")
    old, new = (
        fake_hub.publish(tmp_path / "cache", "org/small", str(number) * 40, folder, [ref])
        for number, ref in enumerate(("v1", "main"))
    )
    settings = json.loads((new / "config.json").read_text())
    (new / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 1e-3}))
    (old / "tokenizer.json").write_text((old / "tokenizer.json").read_text().replace("[unused1]", "[old]"))
    for revision, eps, is_old in (("v1", 1e-12, True), ("0" * 40, 1e-12, True), (None, 1e-3, False)):
        config = dataclasses.replace(configured("org/small", {}), revision=revision)
        encoder, inputs = backbones.load_encoder(config, [])
        assert encoder.config.layer_norm_eps == eps
        assert ("[old]" in inputs.tokenizer.get_vocab()) == is_old


def test_a_folder_loads_and_lives_on_in_its_description(folder: Path) -> None:
    config = small_corpus.configuration("bert_tiny")
    config.model = configured(str(folder), {})
    tagger = Tagger.build(config, [], ["人", "地"])
    assert not any("pooler" in name for name, _ in tagger.named_parameters())
    text = "买Hello🍜🍜的 吧"
    assert len(tagger.inputs.encode(text)["place"]) == len(text)
    assert tagger.inputs.encode_fitting("好" * 100)[1] == 62
    description = json.loads(json.dumps(tagger.describe()))
    shutil.rmtree(folder)
    again = Tagger.from_description(description)
    again.load_state_dict(tagger.state_dict())
    assert again.inputs.encode(text) == tagger.inputs.encode(text)
    assert again.describe() == tagger.describe()


def latin_corpus() -> Corpus:
    """The small corpus with a brand and a dish in Latin letters, and with what no encoder knows."""
    corpus = small_corpus.corpus(20, 4)
    corpus.splits["train"] += [
        Sentence("brand", "买Hello吧🍜", [Entity("Hello", "地", 1, 6)]),
        Sentence("dish", "吃É", [Entity("É", "菜", 1, 2)]),
    ]
    return corpus


@pytest.mark.parametrize("folds", [True, False])
def test_characters_unknown_to_the_encoder_are_told(
    folder: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path, folds: bool
) -> None:
    config, corpus = small_corpus.configuration("bert_tiny"), latin_corpus()
    config.model = configured(str(folder), {})
    assert config.model.fold_characters, "as conf/ says"
    config.model.fold_characters = folds
    caplog.set_level(logging.INFO, "omniner")
    module, data = small_corpus.prepare(config, corpus)
    (told,) = [record for record in caplog.records if "[UNK]" in record.getMessage()]
    total = sum(example.length for example in data.train)
    mentions = sum(len(example.spans) for example in data.train)
    emoji = sum(example.text.count("🍜") for example in data.train)
    unknown, affected = (emoji, 0) if folds else (emoji + 6, 2)
    share = (
        f"({unknown / total:.2%}) are [UNK] to the model, and {affected} of {mentions} mentions have one: '🍜' {emoji}"
    )
    assert told.getMessage().startswith(f"{unknown} of {total} characters of train {share}")
    assert ("'l' 2" in told.getMessage()) is not folds
    assert told.levelno == logging.WARNING
    assert "model.fold_characters" in told.getMessage()

    caplog.clear()
    checkpoints.write_checkpoint(tmp_path / "best.ckpt", module.tagger.describe(), module.weights())
    predictor = models.load_predictor(config, tmp_path / "best.ckpt")
    for text in ("买Hello吧", "买Hello吧" * 150, "买Hello吧" * 150):
        list(
            predictor.predict(
                [Sentence(str(number), text[at : at + 40]) for number, at in enumerate(range(0, len(text), 40))]
            )
        )
    found = [record.getMessage() for record in caplog.records if "[UNK]" in record.getMessage()]
    assert len(found) == (0 if folds else 1), "once, of texts that are long enough"


def test_few_unknown_characters_are_no_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, corpus = small_corpus.configuration("bert_tiny"), small_corpus.corpus(20, 4)
    config.model = configured(str(folder), {})
    corpus.splits["train"] = [
        Sentence(one.id, one.text.replace("🍜", ""), one.entities) for one in corpus.splits["train"]
    ] + [Sentence("long", "好" * 50 + "🍜")]
    caplog.set_level(logging.INFO, "omniner")
    small_corpus.prepare(config, corpus)
    (told,) = [record for record in caplog.records if "[UNK]" in record.getMessage()]
    assert told.levelno == logging.INFO
    assert told.getMessage().endswith("'🍜' 1")


def test_a_checkpoint_from_before_folding_reads_as_it_did(folder: Path) -> None:
    """Its description has neither the key of the model nor that of the tokenizer."""
    config = small_corpus.configuration("bert_tiny")
    config.model = configured(str(folder), {})
    now = Tagger.build(config, [], ["人", "地"])
    older = json.loads(json.dumps(now.describe()))
    del older["model"]["fold_characters"], older["inputs"]["folds"]
    before = Tagger.from_description(older)
    text = "买Hello 🍜的"
    assert before.inputs.unknown(before.inputs.encode(text)) == [1, 2, 3, 4, 5, 7]
    assert now.inputs.unknown(now.inputs.encode(text)) == [7]
    config.model.fold_characters = False
    assert Tagger.build(config, [], ["人", "地"]).describe()["inputs"] == older["inputs"], "so it can be resumed"


def renamed(folder: Path, rename: Callable[[str], str | None]) -> None:
    """Rename the weights in a folder; None leaves one out."""
    file = folder / "model.safetensors"
    weights = {rename(name): tensor for name, tensor in load_file(file).items()}
    save_file({name: tensor for name, tensor in weights.items() if name}, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("rename", "told"),
    [
        (lambda name: f"module.bert.{name}", r"lacks 21 of .*, and holds 23 unknown ones, module\.bert\.embeddings"),
        (lambda name: None if ".layer." in name else name, r"lacks 16 of .* weights, encoder\.layer\.0\."),
    ],
    ids=["another prefix", "no layers"],
)
def test_an_encoder_whose_weights_would_be_random_is_refused(
    folder: Path, rename: Callable[[str], str | None], told: str
) -> None:
    renamed(folder, rename)
    with pytest.raises(UserError, match=rf"model\.path: .*{told}"):
        backbones.load_encoder(configured(str(folder), {}), [])


def test_heads_may_be_left_over_and_a_pooler_may_be_missing(folder: Path) -> None:
    from transformers import SqueezeBertConfig, SqueezeBertModel

    model = SqueezeBertModel(
        SqueezeBertConfig(vocab_size=21128, max_position_embeddings=64, embedding_size=32, **SIZES)
    )
    assert any(name.startswith("pooler.") for name in model.state_dict())  # which cannot be left out
    model.save_pretrained(folder)
    renamed(folder, lambda name: f"cls.{name}" if name.startswith("pooler.") else name)
    encoder, _ = backbones.load_encoder(configured(str(folder), {}), [])
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(encoder.state_dict()[name], model.state_dict()[name])


@pytest.mark.parametrize("path", ["no/such-model", "no-such-model"])
def test_a_missing_model_is_one_line_about_its_path(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"model\.path: .*cannot be loaded.*model\.path") as found:
        backbones.load_encoder(configured(path, {}), [])
    assert "\n" not in str(found.value)


def test_a_path_to_nothing_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(UserError, match=r"model\.path: /no/such/folder does not exist"):
        backbones.load_encoder(configured("/no/such/folder", {}), [])


def test_a_folder_without_a_model_says_what_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json, tokenizer\.json"):
        backbones.load_encoder(configured(str(tmp_path), {}), [])


@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_generative_model_is_refused(tmp_path: Path, architecture: str) -> None:
    kind = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama", "GPT2LMHeadModel": "gpt2"}[architecture]
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": kind, "architectures": [architecture]}), encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"model\.path: .*generative model.*need an encoder"):
        backbones.load_encoder(configured(str(tmp_path), {}), [])


def test_an_architecture_that_cannot_be_built_is_told() -> None:
    with pytest.raises(UserError, match="model_type"):
        backbones.load_encoder(configured(None, {}), ["好"])
    with pytest.raises(UserError, match=r"model\.architecture"):
        backbones.load_encoder(configured(None, {"model_type": "bert", **SIZES, "num_attention_heads": 5}), ["好"])
