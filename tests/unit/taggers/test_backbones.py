"""Encoders from folders: what loads, and how what does not load is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import small_corpus
import torch
from safetensors.torch import load_file, save_file

from omniner.config.model_groups import EncoderConfig
from omniner.errors import UserError
from omniner.taggers import backbones
from omniner.taggers.tagger import Tagger

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
