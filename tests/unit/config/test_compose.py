from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from omniner.config import compose
from omniner.errors import UserError
from omniner.files import write_text


def test_the_defaults_compose_and_auto_is_settled() -> None:
    config = compose.load([])
    assert config.task.name == "train"
    assert config.head.kind == "crf"
    assert config.name == "char_bilstm-crf-sample"


def test_threads_compose_beside_each_other() -> None:
    pause = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda seed: compose.load([f"seed={seed}"]).seed, range(12)))
    finally:
        sys.setswitchinterval(pause)
    assert found == list(range(12))


def test_the_hydra_of_another_program_is_as_it_was(tmp_path: Path) -> None:
    write_text(tmp_path / "theirs.yaml", "defaults: [data: theirs, _self_]\nmine: 1\n")
    write_text(tmp_path / "data" / "theirs.yaml", "name: their data\n")
    with hydra.initialize_config_dir(str(tmp_path), job_name="theirs", version_base="1.2"):
        holder, running = GlobalHydra.instance(), GlobalHydra.instance().hydra
        assert compose.load(["seed=7"]) == compose.load(["seed=7", "data=sample"])
        assert compose.job_logging().version == 1
        assert (GlobalHydra.instance(), holder.hydra) == (holder, running)
        assert str(hydra.version.getbase()) == "1.2"
        composed = hydra.compose("theirs", return_hydra_config=True)
        assert (composed.mine, composed.data.name, composed.hydra.job.name) == (1, "their data", "theirs")
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.max_epoch=3"], r"trainer\.max_epoch: unknown key\. Did you mean trainer\.max_epochs\?"),
        (["+modell.kind=x"], r"modell: unknown key\. Did you mean model\?"),
        (["trainer.max_epochs=many"], r"trainer\.max_epochs: 'many' is not a whole number"),
        (["trainer.max_epochs=1.5"], r"trainer\.max_epochs: 1\.5 is not a whole number"),
        (["trainer.max_epochs=true"], r"trainer\.max_epochs: true is not a whole number"),
        (["trainer.max_epochs=0"], r"trainer\.max_epochs: 0 is not above 0"),
        (["seed=null"], r"seed: null is not a whole number"),
        (["seed=-1"], r"^seed: -1 is below 0"),
        (["metrics.seed=-1"], r"metrics\.seed: -1 is below 0"),
        (["compare.seed=-1"], r"compare\.seed: -1 is below 0"),
        (["agreement.seed=-1"], r"agreement\.seed: -1 is below 0"),
        (["head.kind=crff"], r"head\.kind: 'crff' is not a choice\. Did you mean crf\?"),
        (["metrics.confidence=95"], r"metrics\.confidence: 95 is not a share"),
        (["task=score"], r"predictions: task=score needs it"),
        (["task=score", "predictions=/no/such/file"], r"predictions: /no/such/file does not exist"),
        (["decoding.scores=maybe"], r"decoding\.scores: "),
        (["output=x"], r"output: task=train does not read it, only task=convert, filter, split\. .*output_dir"),
        (["checkpoint=x"], r"checkpoint: task=train does not read it, only task=chat, convert, predict\. "),
        (
            ["task=stats", "input=conf"],
            r"input: task=stats does not read it, only task=convert, filter, predict, split",
        ),
        (["task=check", "text=a"], r"text: task=check does not read it, only task=predict"),
        (["+data.files.train=[1]"], r"data\.files\.train: 1 is not text"),
        (["name=${nothing}"], r"name"),
        (["name=exp/a"], r"^name: 'exp/a' names a folder in a folder\. Give a name without a slash"),
        (["model=char_bilsm"], r"model: no choice is called 'char_bilsm'\. Did you mean char_bilstm\?"),
        (["modle.hidden=3"], r"modle: unknown key\. Did you mean model\?"),
        (["trainer.max_epoch=3"], r"trainer\.max_epoch: unknown key"),
        (["seed=1,2"], r"seed: several values"),
        (["seed"], r"seed: no key=value"),
        (["+seed=1"], r"overrides: Could not append to config\."),
    ],
)
def test_a_mistake_is_one_line_with_its_key(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        compose.load(overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["head.label_smoothing=0.1"], {"head.label_smoothing": "a crf head does not read it, only head=softmax"}),
        (
            ["head=span", "head.label_smoothing=0.1", "tuning.rank=4", "task=check"],
            {
                "head.label_smoothing": "a span head does not read it, only head=softmax",
                "tuning.rank": "it is for causal models; taggers always train all weights",
            },
        ),
        (["head=softmax", "head.max_span=9"], {"head.max_span": "a softmax head does not read it, only head=span"}),
        (["model=qwen2_tiny", "head.max_span=9"], {"head.max_span": "a causal model has no head"}),
        (
            ["model=bert_tiny", "tuning.optimizer=adamw_8bit"],
            {"tuning.optimizer": "it is for causal models; taggers always train all weights"},
        ),
        (
            ["model=qwen2_tiny", "tuning=full", "tuning.rank=4", "tuning.dropout=0.1"],
            {
                "tuning.rank": "tuning.method=full does not read it, only tuning=lora or tuning=qlora",
                "tuning.dropout": "tuning.method=full does not read it, only tuning=lora or tuning=qlora",
            },
        ),
        (
            ["model=qwen2_tiny", "tuning.alpha=8"],  # random weights are all trained
            {"tuning.alpha": "tuning.method=full does not read it, only tuning=lora or tuning=qlora"},
        ),
        (
            ["model=qwen2_tiny", "tuning=lora", "tuning.double_quantization=false"],
            {"tuning.double_quantization": "tuning.method=lora does not read it, only tuning=qlora"},
        ),
        (
            ["task=guide", "run=x", "teacher.file=/dev/null"],
            {"teacher.file": "teacher=none does not read it, only teacher=file"},
        ),
        (
            ["task=guide", "run=x", "teacher=hf", "teacher.url=http://x/v1"],
            {"teacher.url": "teacher=hf does not read it, only teacher=openai"},
        ),
    ],
)
def test_a_setting_that_nothing_reads_is_found(overrides: list[str], found: dict[str, str]) -> None:
    assert compose.without_effect(compose.load(overrides)) == found


@pytest.mark.parametrize(
    "overrides",
    [
        ["head.label_smoothing=0.0", "tuning=full", "tuning.rank=16"],
        ["head=softmax", "head.label_smoothing=0.1"],
        ["head=span", "head.max_span=9", "head.biaffine_dim=10", "head.negative_weight=0.5"],
        ["model=qwen2_tiny", "tuning=lora", "tuning.rank=4"],
        ["model=qwen2_tiny", "tuning=full", "tuning.optimizer=adamw", "tuning.pack_tokens=64"],
        # the model comes from a checkpoint or a server; that of the configuration says nothing of it
        ["task=predict", "checkpoint=run", "tuning.rank=4", "head.max_span=9"],
        ["task=chat", "checkpoint=run", "head.max_span=9"],
        ["task=predict", "decoding=openai", "decoding.url=http://localhost:1/v1", "tuning.rank=4"],
        ["task=guide", "run=x", "teacher=file", "teacher.file=/dev/null", "teacher.model=me"],
        ["task=stats", "teacher.file=answers.jsonl"],  # it has no teacher at all
    ],
)
def test_a_setting_that_has_an_effect_or_is_the_usual_one_is_taken(overrides: list[str]) -> None:
    assert compose.without_effect(compose.load(overrides)) == {}


def test_what_a_caller_does_with_a_composition_changes_no_later_one() -> None:
    composed = compose.compose_unchecked(["seed=11"])
    composed.seed, composed.text = 12, ["theirs"]
    config = compose.load(["seed=11"])
    assert (config.seed, config.text) == (11, [])
    config.text.append("theirs")
    assert compose.load(["seed=11"]).text == []


def test_a_composition_that_is_kept_is_not_copied_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    compose.load(["seed=11"])
    monkeypatch.setattr(DictConfig, "__deepcopy__", lambda *_: pytest.fail("copied"))
    assert compose.load(["seed=11"]).seed == 11


def test_values_of_our_own_files_are_those_that_a_composition_has() -> None:
    composed = OmegaConf.to_container(compose.compose_unchecked([]))
    assert isinstance(composed, dict)
    root = compose._defaults(compose.conf_folder() / "config.yaml")
    assert {name: root[name] for name in compose.SCORING} == {name: composed[name] for name in compose.SCORING}
    for name in ("head", "tuning"):
        assert compose._defaults(compose.conf_folder() / name / "auto.yaml") == composed[name]


def test_a_missing_key_is_named() -> None:
    composed = compose.compose_unchecked([])
    OmegaConf.set_struct(composed, False)
    del composed.trainer["max_epochs"]
    with pytest.raises(UserError, match=r"trainer\.max_epochs: this key is missing"):
        compose.to_config(composed)


def test_whole_numbers_and_text_exponents_pass_as_numbers() -> None:
    config = compose.load(["trainer.gradient_clip=1", "model.learning_rate=1e-3"])
    assert config.trainer.gradient_clip == 1.0
    assert config.model.learning_rate == 0.001


@pytest.mark.parametrize(
    ("overrides", "epochs", "every"),
    [
        ([], 120, 6),  # 10 steps an epoch: as many passes as 1,200 steps are, 20 evaluations
        (["trainer.max_epochs=5"], 5, 1),  # who says how many epochs means just these
        (["trainer.max_epochs=5", "trainer.min_steps=100"], 10, 2),
        (["model=qwen2_tiny"], 40, 5),
        (["debug=fast"], 8, 1),
    ],
)
def test_a_small_corpus_is_passed_over_more_often(overrides: list[str], epochs: int, every: int) -> None:
    trainer = compose.load(overrides).trainer
    assert (trainer.epochs(10), trainer.epochs_between_evaluations(10)) == (epochs, every)
    assert trainer.epochs(1000) == trainer.max_epochs


def test_a_look_at_a_large_corpus_is_as_short_as_one_at_the_sample() -> None:
    short = {"train": 120, "dev": 32, "test": 32}
    for data in ("sample", "msra"):
        assert compose.load(["debug=fast", f"data={data}"]).data.limit == short
    assert compose.load(["debug=fast", "data.limit.train=0"]).data.limit == short | {"train": 0}


@pytest.mark.parametrize("model", ["bert_tiny", "qwen2_tiny"])
def test_random_weights_have_no_revision(model: str) -> None:
    compose.load([f"model={model}", "model.revision=null"])
    with pytest.raises(UserError, match=r"^model\.revision: a revision, but model\.path is null"):
        compose.load([f"model={model}", "model.revision=v1"])
