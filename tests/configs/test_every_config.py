"""Every shipped YAML file composes, passes the checks, and explains each of its values."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from omniner.config import compose
from omniner.config.model_groups import CausalConfig
from omniner.config.validate import flat
from omniner.registry import TASKS
from tests.conftest import ROOT

CONF = ROOT / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))
CHOICES = [path for path in FILES if not path.name.startswith("_")]


def _overrides(path: Path) -> list[str]:
    group, name = path.parent.name, path.stem
    extra = {
        "task/score": ["predictions=/dev/null"],
        "task/compare": ["runs=[a,b]"],
        "task/guide": ["run=a"],
        "task/search": ["prompt=errta", "prompt.from_run=a", "model=qwen2_tiny", "search.train=true"],
        "task/adjudicate": ["annotators=[a,b,c]"],
        "task/agreement": ["annotators=[a,b,c]"],
        "task/convert": ["input=/dev/null", "output=out", "to=jsonl"],
        "task/predict": ["checkpoint=/dev/null"],
        "task/chat": ["checkpoint=/dev/null"],
        "model/path": ["model.path=a_folder"],
        "model/causal_path": ["model.path=a_folder"],
        "model/baichuan2_7b": ["model.path=a_folder"],
        "model/internlm2_5_7b": ["model.path=a_folder"],
        "decoding/openai": ["task=predict", "decoding.url=http://127.0.0.1:8000/v1"],
        "decoding/vllm": ["task=predict", "model=qwen2_0_5b"],
        "teacher/openai": ["teacher.url=http://127.0.0.1:8000/v1"],
        "trainer/fsdp": ["model=qwen2_0_5b"],
        "tuning/lora": ["model=qwen2_0_5b"],
        "tuning/qlora": ["model=qwen2_0_5b"],
        "tracking/server": ["tracking.uri=http://127.0.0.1:5000"],
    }
    return [f"{group}={name}", *extra.get(f"{group}/{name}", [])]


@pytest.mark.parametrize("path", CHOICES, ids=str)
def test_it_composes_and_is_valid(path: Path) -> None:
    config = compose.load(_overrides(path))
    assert config.name


@pytest.mark.parametrize("path", [Path("config.yaml"), *FILES], ids=str)
def test_it_says_what_it_is_and_what_its_values_mean(path: Path) -> None:
    lines = (CONF / path).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#"), "the first line says what this choice is for"
    head = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    known = {"name:", "kind:", "method:", "defaults:"}  # what choice it is, what it builds on
    # definitions of categories are texts, which say by themselves what they mean
    ours = itertools.takewhile(lambda line: not line.startswith(("hydra:", "definitions:")), lines[head:])
    values = [line for line in ours if ": " in line and not line.lstrip().startswith(("-", "#"))]
    assert [line for line in values if "#" not in line and line.split(" ")[0] not in known] == []


@pytest.mark.parametrize("path", CHOICES, ids=str)
def test_it_says_only_what_differs(path: Path) -> None:
    own = yaml.safe_load((CONF / path).read_text(encoding="utf-8"))
    extended = own.pop("defaults", None)
    if path.parent.name in ("experiment", "hydra") or not extended:
        return
    (base,) = extended
    composed, group = compose.compose_unchecked([f"{path.parent.name}={base}"]), path.parent.name
    before = flat(OmegaConf.to_container(composed[group]))
    repeated = {key for key, value in flat(own).items() if before.get(key, "") == value and value != "???"}
    assert not repeated


def test_the_paper_sized_sample_is_one_override() -> None:
    sizes = "data.size={train: 156454, dev: 19557, test: 19557}"
    assert sum(compose.load([sizes]).data.size.values()) == 195_568


@pytest.mark.parametrize("overrides", [["experiment=errta_paper"], ["experiment=table4_paper", "model=qwen2_7b"]])
def test_the_paper_s_recipe_trains_all_weights_at_its_rate(overrides: list[str]) -> None:
    """Section 4.1: all weights, 1e-4, cosine with 10 % warm-up, 3 epochs, 8 x 2 x 2 sentences a step."""
    config = compose.load(overrides)
    model, trainer = config.model, config.trainer
    assert isinstance(model, CausalConfig)
    assert (config.tuning.method, model.learning_rate["full"]) == ("full", 1e-4)
    assert (trainer.max_epochs, trainer.batch_size, trainer.devices) == (3, 8 * 2 * 2, 8)
    assert (trainer.schedule, trainer.warmup, trainer.strategy) == ("cosine", 0.1, "auto")


def test_the_published_recipe_trains_adapters_and_keeps_the_last_weights() -> None:
    """The authors' settings: LoRA, 1e-4, cosine without warm-up, 5 epochs of 8 x 8 x 8 sentences a step."""
    config = compose.load(["experiment=table4_published", "model=qwen2_7b"])
    model, trainer, tuning = config.model, config.trainer, config.tuning
    assert isinstance(model, CausalConfig)
    assert (tuning.method, tuning.rank, tuning.alpha, model.learning_rate["lora"]) == ("lora", 8, 16, 1e-4)
    assert (trainer.max_epochs, trainer.batch_size, trainer.devices) == (5, 8 * 8 * 8, 8)
    assert (trainer.schedule, trainer.warmup) == ("cosine", 0)
    assert trainer.epochs_between_evaluations(306) == trainer.epochs(306)


@pytest.mark.parametrize("model", ["bert_base_chinese", "roberta_wwm_large"])
def test_the_paper_s_encoders_lie_beside_its_language_models(model: str) -> None:
    config = compose.load(["experiment=table4_encoders", f"model={model}"])
    theirs = compose.load(["experiment=table4_paper", "model=qwen2_7b"])
    assert Path(config.output_dir or "").parent == Path(theirs.output_dir or "").parent
    assert (config.trainer.strategy, config.trainer.devices) == ("ddp", theirs.trainer.devices)


def test_comments_on_inputs_name_the_tasks_that_read_them() -> None:
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    block = text.split("# Inputs of single tasks")[1].split("\n\n")[0].splitlines()[1:]
    assert len(block) > 10
    for line in block:
        named = re.findall(r"(?:# |; )([a-z, ]+):", line)
        assert named, line
        assert {task for part in named for task in part.split(", ")} <= TASKS.keys(), line
