"""Causal models: built, kept in folders, loaded, merged; and what is said when that cannot be."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import chats
import fake_hub
import pytest
import small_causal
import small_gguf
import torch
from small_causal import PROMPT, TEXTS, logits, model_config, sample, tuning_config

from omniner.errors import UserError
from omniner.files import read_json, write_json
from omniner.llm import language_model
from omniner.llm.language_model import CausalModel
from omniner.llm.loading import load_weights
from omniner.llm.training import optimizers

METHODS = ["full", "lora", "qlora"]
SMOLLM2 = os.environ.get("OMNINER_SMOLLM2", "")


def trained(method: str, path: Path | None = None, **changes: Any) -> CausalModel:
    """After a few steps, so that adapters are no longer zero."""
    model = small_causal.build(method, path, **changes)
    small_causal.train(model.model, sample(model), optimizers.build_optimizer(model.model, "adamw", 1e-2, 0.0), 3)
    return model


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as a hub has it."""
    folder = tmp_path_factory.mktemp("published")
    model = small_causal.build("full")
    model.model.save_pretrained(folder)
    model.chat.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=METHODS)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[CausalModel, Path]:
    """A trained model with random base, and its checkpoint folder."""
    model = trained(request.param)
    folder = tmp_path_factory.mktemp(request.param) / "best"
    language_model.save_causal_model(folder, model)
    return model, folder


def test_random_weights_follow_the_seed_and_leave_the_generator_alone() -> None:
    torch.manual_seed(0)
    first = small_causal.build("lora")
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), expected)
    again = language_model.build_causal_model(
        model_config(), tuning_config("lora"), PROMPT, TEXTS, torch.float32, seed=3, trains=True
    )
    other = language_model.build_causal_model(
        model_config(), tuning_config("lora"), PROMPT, TEXTS, torch.float32, seed=4, trains=True
    )
    states = [model.model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert any(not torch.equal(states[2][name], value) for name, value in states[0].items())


def test_a_checkpoint_is_the_model_again(kept: tuple[CausalModel, Path]) -> None:
    model, folder = kept
    loaded = language_model.load_causal_model(folder, torch.float32, "cpu")
    ids = sample(model)
    assert torch.equal(logits(loaded.model, ids), logits(model.model, ids))
    assert torch.equal(sample(loaded), ids)
    assert loaded.prompt == model.prompt
    assert (loaded.method, loaded.base, loaded.quantization) == (model.method, None, model.quantization)
    assert not loaded.model.training


def test_what_train_shows_of_answers_is_kept_and_may_be_missing(tmp_path: Path) -> None:
    model, folder = trained("full"), tmp_path / "best"
    model.answer_rate, model.longest_answer = 2.5, 697
    language_model.save_causal_model(folder, model)
    loaded = language_model.load_causal_model(folder, torch.float32, "cpu")
    assert (loaded.answer_rate, loaded.longest_answer) == (2.5, 697)
    card = read_json(folder / "omniner.json")
    del card["longest_answer"]  # as older versions wrote it
    write_json(folder / "omniner.json", card)
    older = language_model.load_causal_model(folder, torch.float32, "cpu")
    assert (older.answer_rate, older.longest_answer) == (2.5, None)


def test_a_loaded_model_can_be_kept_again(kept: tuple[CausalModel, Path], tmp_path: Path) -> None:
    model, folder = kept
    loaded = language_model.load_causal_model(folder, torch.float32, "cpu")
    weights = None if model.method == "full" else language_model.trainable_state(model.model)
    language_model.save_causal_model(tmp_path / "again", loaded, weights)
    again = language_model.load_causal_model(tmp_path / "again", torch.float32, "cpu")
    assert torch.equal(logits(again.model, sample(model)), logits(model.model, sample(model)))


def test_the_merged_model_is_the_one_that_was_trained_and_plain_loaders_read_it(
    kept: tuple[CausalModel, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, folder = kept
    language_model.write_merged_model(folder, tmp_path / "merged", torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(loaded).__name__ == "Qwen2ForCausalLM"
    ids = sample(model)
    torch.testing.assert_close(logits(loaded, ids), logits(model.model, ids), rtol=0, atol=2e-6)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    text = tokenizer.apply_chat_template(PROMPT.messages(TEXTS[0]), tokenize=False, add_generation_prompt=True)
    assert text == chats.chat_text(model.chat, PROMPT, TEXTS[0])
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == model.chat.prompt_ids(text)
    assert not list((tmp_path / "merged").glob("adapter*"))


def test_adapters_are_folded_into_plain_weights_for_answers(kept: tuple[CausalModel, Path], tmp_path: Path) -> None:
    from peft.tuners.lora import LoraLayer

    model, folder = kept
    loaded = language_model.load_causal_model(folder, torch.float32, "cpu")
    before = logits(loaded.model, sample(loaded))
    language_model.merge_adapters(loaded)
    adapters = [module for module in loaded.model.modules() if isinstance(module, LoraLayer)]
    assert bool(adapters) == (model.method == "qlora")  # beside 4-bit weights they stay
    torch.testing.assert_close(logits(loaded.model, sample(loaded)), before, rtol=0, atol=2e-6)
    if model.method == "lora":
        language_model.write_merged_model(folder, tmp_path / "merged", torch.float32)
        merged = load_weights(str(tmp_path / "merged"), torch.float32)
        assert torch.equal(logits(merged, sample(loaded)), logits(loaded.model, sample(loaded)))


def test_given_weights_are_kept_in_place_of_the_models(tmp_path: Path) -> None:
    model = trained("lora")
    state = {name: torch.zeros_like(value) for name, value in language_model.trainable_state(model.model).items()}
    language_model.save_causal_model(tmp_path / "zero", model, state)
    loaded = language_model.load_causal_model(tmp_path / "zero", torch.float32, "cpu")
    with model.model.disable_adapter():
        assert torch.equal(logits(loaded.model, sample(model)), logits(model.model, sample(model)))


def test_merging_does_not_write_over_anything(kept: tuple[CausalModel, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        language_model.write_merged_model(kept[1], tmp_path, torch.float32)
    assert [item.name for item in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("lora")
    language_model.save_causal_model(tmp_path / "best", model)
    before = sorted((str(file), file.read_bytes()) for file in tmp_path.rglob("*") if file.is_file())

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(language_model, "write_json", fail)
    with pytest.raises(UserError, match="Free some space"):
        language_model.save_causal_model(tmp_path / "best", model)
    assert sorted((str(file), file.read_bytes()) for file in tmp_path.rglob("*") if file.is_file()) == before


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_find_their_pretrained_base_or_say_where_it_was(
    method: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(published, tmp_path / "base model")
    monkeypatch.chdir(tmp_path)
    model = trained(method, Path("base model"))
    language_model.save_causal_model(tmp_path / "best", model)
    assert not (tmp_path / "best" / "base").exists()
    monkeypatch.chdir("/")
    ids = sample(model)
    assert torch.equal(
        logits(language_model.load_causal_model(tmp_path / "best", torch.float32, "cpu").model, ids),
        logits(model.model, ids),
    )
    base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"omniner\.json: these adapters need .*base model does not exist.*`base`"):
        language_model.load_causal_model(tmp_path / "best", torch.float32, "cpu")
    card = tmp_path / "best" / "omniner.json"
    write_json(card, {**read_json(card), "base": str(tmp_path / "moved")})
    assert torch.equal(
        logits(language_model.load_causal_model(tmp_path / "best", torch.float32, "cpu").model, ids),
        logits(model.model, ids),
    )


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_refuse_other_weights_than_those_beside_which_they_learnt(
    method: str, published: Path, tmp_path: Path
) -> None:
    base, best = shutil.copytree(published, tmp_path / "base"), tmp_path / "best"
    language_model.save_causal_model(best, trained(method, base))
    file = base / "model.safetensors"
    data = bytearray(file.read_bytes())
    file.write_bytes(bytes(data))  # copied anew: other times, the same weights
    again = language_model.load_causal_model(best, torch.float32, "cpu")
    data[-9] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"omniner\.json: these adapters did not learn beside .*base holds now.*null"):
        language_model.load_causal_model(best, torch.float32, "cpu")
    card = best / "omniner.json"
    assert read_json(card)["base_weights"] == again.base_weights
    for older in ({"base_weights": None}, {}):
        write_json(
            card, {**{name: value for name, value in read_json(card).items() if name != "base_weights"}, **older}
        )
        language_model.load_causal_model(best, torch.float32, "cpu")


def test_adapters_read_a_hub_model_at_the_commit_beside_which_they_learnt(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    then, now = "1" * 40, "2" * 40
    cache = tmp_path / "models--org--small"
    for commit in (then, now):
        shutil.copytree(published, cache / "snapshots" / commit)
    branch = cache / "refs" / "main"
    branch.parent.mkdir()
    branch.write_text(then)
    model = trained("lora", Path("org/small"))
    language_model.save_causal_model(tmp_path / "best", model)
    assert read_json(tmp_path / "best" / "omniner.json")["base_revision"] == then
    other = load_weights(str(published), torch.float32)
    with torch.no_grad():
        other.get_input_embeddings().weight.add_(torch.randn_like(other.get_input_embeddings().weight))
    other.save_pretrained(cache / "snapshots" / now)
    branch.write_text(now)
    ids = sample(model)
    loaded = language_model.load_causal_model(tmp_path / "best", torch.float32, "cpu")
    assert torch.equal(logits(loaded.model, ids), logits(model.model.eval(), ids))
    assert (
        language_model.build_causal_model(
            model_config(Path("org/small")), tuning_config("lora"), PROMPT, [], torch.float32, seed=1, trains=True
        ).base_revision
        == now
    )


def test_a_hub_model_is_read_at_its_revision(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub.use(monkeypatch, tmp_path)
    old = fake_hub.publish(tmp_path, "org/small", "1" * 40, published, ["v1"])
    new = fake_hub.publish(tmp_path, "org/small", "2" * 40, published, ["main"])
    other = load_weights(str(published), torch.float32)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(2)
    other.save_pretrained(new)
    (new / "tokenizer.json").unlink()  # nothing of this commit is to be read
    expected = load_weights(str(old), torch.float32).get_input_embeddings().weight
    config = replace(model_config(Path("org/small")), revision="v1")
    for method in ("lora", "full"):
        built = language_model.build_causal_model(
            config, tuning_config(method), PROMPT, [], torch.float32, seed=1, trains=True
        )
        assert torch.equal(built.model.get_input_embeddings().weight, expected)
        assert built.base_revision == ("1" * 40 if method == "lora" else None)


def test_peft_alone_reads_the_adapters(published: Path, tmp_path: Path) -> None:
    """The format is peft's, base model included."""
    from peft import AutoPeftModelForCausalLM

    from omniner.pretrained import quiet_libraries

    model = trained("lora", published)
    language_model.save_causal_model(tmp_path / "best", model)
    with quiet_libraries():
        loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "best")
    assert torch.equal(logits(loaded, sample(model)), logits(model.model, sample(model)))


def test_without_bitsandbytes_the_base_is_used_unquantised_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained("qlora")
    language_model.save_causal_model(tmp_path / "best", model)
    monkeypatch.setattr(language_model, "has_bitsandbytes", lambda: False)
    with caplog.at_level(logging.WARNING):
        loaded = language_model.load_causal_model(tmp_path / "best", torch.float32, "cpu")
    assert "bitsandbytes is not installed" in caplog.text
    assert loaded.quantization is None
    got, expected = logits(loaded.model, sample(model)), logits(model.model, sample(model))
    assert not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=0, atol=0.1)


def test_weights_of_16_bits_stay_so(tmp_path: Path) -> None:
    model = small_causal.build("full", dtype=torch.bfloat16)
    language_model.save_causal_model(tmp_path / "best", model)
    loaded = language_model.load_causal_model(tmp_path / "best", torch.bfloat16, "cpu")
    assert torch.equal(logits(loaded.model, sample(model)), logits(model.model, sample(model)))
    language_model.write_merged_model(tmp_path / "best", tmp_path / "merged")
    assert read_json(tmp_path / "merged" / "config.json")["dtype"] == "bfloat16"


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_a_merged_model_is_kept_in_the_precision_of_its_base(
    stored: torch.dtype, published: Path, tmp_path: Path
) -> None:
    """Whatever the adapters learnt in, and whatever machine merges them."""
    from transformers import AutoModelForCausalLM

    base = shutil.copytree(published, tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(published, dtype=stored).save_pretrained(base)
    tuning = tuning_config("lora")
    model = language_model.build_causal_model(
        model_config(base), tuning, PROMPT, [], torch.float32, seed=1, trains=True
    )
    language_model.save_causal_model(tmp_path / "best", model)
    language_model.write_merged_model(tmp_path / "best", tmp_path / "merged")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").dtype == stored


def test_a_checkpoint_can_be_loaded_in_16_bits(kept: tuple[CausalModel, Path]) -> None:
    model, folder = kept
    loaded = language_model.load_causal_model(folder, torch.bfloat16, "cpu")
    got = logits(loaded.model, sample(model))
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), logits(model.model, sample(model)), rtol=0, atol=0.05)


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors", "tokenizer.json"])
def test_a_checkpoint_that_lacks_a_file_is_told(name: str, kept: tuple[CausalModel, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(kept[1], tmp_path / "best")
    for file in folder.rglob(name):
        file.unlink()
        with pytest.raises(UserError, match=r"best.* cannot be loaded .*checkpoints/best folder") as found:
            language_model.load_causal_model(folder, torch.float32, "cpu")
        assert found.value.where == "checkpoint"


def test_an_own_chat_template_goes_everywhere_with_the_model(published: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}[answer]"
    config = model_config(published, chat_template=template)
    model = language_model.build_causal_model(
        config, tuning_config("lora"), PROMPT, [], torch.float32, seed=1, trains=True
    )
    language_model.save_causal_model(tmp_path / "best", model)
    loaded = language_model.load_causal_model(tmp_path / "best", torch.float32, "cpu")
    assert chats.chat_text(loaded.chat, PROMPT, "好") == chats.chat_text(model.chat, PROMPT, "好")
    language_model.write_merged_model(tmp_path / "best", tmp_path / "merged", torch.float32)
    assert (tmp_path / "merged" / "chat_template.jinja").read_text() == template


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no folder with omniner\.json"),
        ({"kind": "tagger"}, "not the description of a causal model"),
        ([], "not the description of a causal model"),
        ({"kind": "generative", "version": 99}, "version 99, this program reads version 1"),
        ({"kind": "generative", "version": 1, "method": "full"}, r"incomplete \(base, chat_template"),
        (
            {
                "kind": "generative",
                "version": 1,
                "method": "x",
                "base": "",
                "quantization": None,
                "chat_template": "",
                "prompt": {},
            },
            r"unknown tuning method 'x'\. Use the program's version that wrote it",
        ),
    ],
)
def test_what_is_no_checkpoint_is_told(content: Any, message: str, tmp_path: Path) -> None:
    if content is not None:
        write_json(tmp_path / "omniner.json", content)
    with pytest.raises(UserError, match=message):
        language_model.load_causal_model(tmp_path, torch.float32, "cpu")


def written(folder: Path, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, r"no causal language model \(BertForMaskedLM\)"),
        ({"model_type": "bert"}, r"no causal language model \(bert\)"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "no causal language model"),
        ({"model_type": "internlm2", "auto_map": {}}, r"internlm2 model.*task=convert input=.* output=<folder>"),
        ({"model_type": "baichuan", "auto_map": {}}, r"baichuan model.*task=convert input=.* output=<folder>"),
        ({"model_type": "chatnone", "auto_map": {"AutoConfig": "x.Y"}}, "code of its repository.*never executed"),
        ({"model_type": "chatnone"}, "cannot be loaded"),
        (
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "quantization_config": {"bits": 4}},
            r"quantised already.*tuning=qlora",
        ),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "cannot be loaded.*model.safetensors"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as found:
        small_causal.build("lora", written(tmp_path, **settings))
    assert found.value.where == "model.path"
    assert "\n" not in str(found.value)


def test_a_folder_without_a_tokenizer_is_told(published: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(published / name, tmp_path / name)
    with pytest.raises(UserError, match=r"model\.path: .*(tokenizer)"):
        small_causal.build("lora", tmp_path)


@pytest.mark.parametrize("kept", [0, 1000, -10])
def test_a_cut_off_file_is_told(kept: int, published: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:kept])
    with pytest.raises(UserError, match=r"model\.path: .*model cannot be loaded \(Error while deserializing header"):
        small_causal.build("lora", folder)


def test_weights_that_are_missing_are_not_made_up(published: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(published, tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of the model's weights, model\.layers\.1\.mlp\.up_proj\.weight"):
        small_causal.build("lora", folder)


def test_a_tokenizer_of_another_model_is_told(published: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {**small_causal.ARCHITECTURE, "vocab_size": 300, "bos_token_id": None, "eos_token_id": 0}
    settings = AutoConfig.for_model(values.pop("model_type"), **values)
    AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(published / name, tmp_path / name)
    with pytest.raises(UserError, match=r"entries, the model only 300"):
        small_causal.build("lora", tmp_path)


def test_a_model_without_a_chat_template_is_told(published: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"model\.chat_template"):
        small_causal.build("lora", folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": {}}, r"model\.architecture: model\.path is null and there is no model_type"),
        ({"architecture": {"model_type": "nonsense"}}, r"model\.architecture: no language model can be built"),
        ({"architecture": {**small_causal.ARCHITECTURE, "hidden_size": -4}}, r"model\.architecture: no .*dimension -4"),
        (
            {"architecture": {**small_causal.ARCHITECTURE, "hidden_size": "a"}},
            r"model\.architecture: no .*str",
        ),
        (
            {"architecture": {**small_causal.ARCHITECTURE, "num_key_value_heads": 3}},
            r"model\.architecture: no language",
        ),
        ({"vocabulary": 0}, r"model\.vocabulary: 0, but"),
    ],
)
def test_a_random_model_that_cannot_be_built_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        language_model.build_causal_model(
            model_config(**changes), tuning_config("full"), PROMPT, TEXTS, torch.float32, seed=1, trains=True
        )


def test_a_missing_hub_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"model\.path: no/such-model cannot be loaded.*hf download"):
        language_model.build_causal_model(
            model_config("no/such-model"), tuning_config("lora"), PROMPT, [], torch.float32, seed=1, trains=True
        )


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_a_gguf_file_is_a_model_like_any_other(method: str, as_folder: bool, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM

    source = small_causal.build("full")
    (tmp_path / "file").mkdir()
    small_gguf.write(tmp_path / "file" / "small.gguf", source.model, source.chat.tokenizer)
    path = tmp_path / "file" if as_folder else tmp_path / "file" / "small.gguf"
    model = small_causal.build(method, path)
    ids = sample(source)
    text = "北京的🍜好吃"
    assert model.chat.answer_ids(text) == source.chat.answer_ids(text)
    assert chats.chat_text(model.chat, PROMPT, text) == chats.chat_text(source.chat, PROMPT, text)
    torch.testing.assert_close(logits(model.model, ids), logits(source.model, ids), rtol=0, atol=1e-6)
    small_causal.train(model.model, ids, optimizers.build_optimizer(model.model, "adamw", 1e-2, 0.0), 2)
    language_model.save_causal_model(tmp_path / "best", model)
    loaded = language_model.load_causal_model(tmp_path / "best", torch.float32, "cpu")
    assert torch.equal(logits(loaded.model, ids), logits(model.model, ids))
    language_model.write_merged_model(tmp_path / "best", tmp_path / "merged", torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged, ids), logits(model.model, ids), rtol=0, atol=2e-6)


@pytest.mark.parametrize("noise", [0.02, 1.0])
def test_a_gguf_file_becomes_a_folder_with_its_output_tied_again(noise: float, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM

    source = small_causal.build("full")
    model = source.model
    matrix = model.lm_head.weight.detach().clone()
    model.lm_head.weight = torch.nn.Parameter(matrix.clone())  # rounded in another way than the embeddings
    read = model.get_input_embeddings().weight
    read.data += noise * matrix.std() * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(0))
    small_gguf.write(tmp_path / "small.gguf", model, source.chat.tokenizer)
    language_model.write_plain_model(str(tmp_path / "small.gguf"), tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    tied = plain.get_input_embeddings().weight is plain.lm_head.weight
    assert (plain.dtype, tied, plain.config.tie_word_embeddings) == (torch.bfloat16, noise < 1, noise < 1)
    assert torch.equal(plain.lm_head.weight, matrix.bfloat16())
    again = small_causal.build("full", tmp_path / "plain")
    assert again.chat.answer_ids("北京的🍜好吃") == source.chat.answer_ids("北京的🍜好吃")
    with pytest.raises(UserError, match="plain: exists already"):
        language_model.write_plain_model(str(tmp_path / "small.gguf"), tmp_path / "plain")


def test_of_several_gguf_files_one_must_be_named(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"several GGUF files: a\.gguf, b\.gguf"):
        small_causal.build("lora", tmp_path)
    with pytest.raises(UserError, match=r"model\.path: .*a\.gguf cannot be loaded"):
        small_causal.build("lora", tmp_path / "a.gguf")


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2, reason="OMNINER_SMOLLM2 does not name SmolLM2-135M-Instruct as a .gguf file")
@pytest.mark.parametrize("as_folder", [False, True])
def test_a_real_pretrained_model_learns_and_answers(as_folder: bool, tmp_path: Path) -> None:
    """From its GGUF file: it knows the world, LoRA lowers the loss, the checkpoint answers as the model does."""
    path = Path(SMOLLM2).parent if as_folder else Path(SMOLLM2)
    model = small_causal.build("lora", path)
    ids = torch.tensor([model.chat.prompt_ids("The capital of France is")])
    guess = logits(model.model, ids)[0, -1].argmax()
    assert model.chat.decode([int(guess)]) == " Paris"
    if as_folder:
        return
    losses = small_causal.train(
        model.model.train(), sample(model), optimizers.build_optimizer(model.model, "adamw", 1e-3, 0.0), 3
    )
    assert losses[2] < losses[1] < losses[0]
    language_model.save_causal_model(tmp_path / "best", model)
    loaded = language_model.load_causal_model(tmp_path / "best", torch.float32, "cpu")
    question = torch.tensor([loaded.chat.prompt_ids(chats.chat_text(loaded.chat, PROMPT, TEXTS[0]))])
    answers = [
        item.model.eval().generate(question, max_new_tokens=8, do_sample=False)[0, question.shape[1] :].tolist()
        for item in (model, loaded)
    ]
    assert answers[0] == answers[1]
    assert loaded.chat.decode(answers[0])
