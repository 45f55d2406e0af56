"""Every shipped YAML file composes, passes the checks, and explains each of its values."""

from __future__ import annotations

from pathlib import Path

import pytest

from omniner.config import compose
from tests.conftest import ROOT

CONF = ROOT / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))


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
        "model/path": ["model.path=a_folder"],
        "model/causal_path": ["model.path=a_folder"],
        "model/baichuan2_7b": ["model.path=a_folder"],
        "model/internlm2_5_7b": ["model.path=a_folder"],
        "decoding/openai": ["task=predict", "decoding.url=http://127.0.0.1:8000/v1"],
        "teacher/openai": ["teacher.url=http://127.0.0.1:8000/v1"],
        "trainer/fsdp": ["model=qwen2_0_5b"],
        "tuning/lora": ["model=qwen2_0_5b"],
        "tuning/qlora": ["model=qwen2_0_5b"],
        "tracking/server": ["tracking.uri=http://127.0.0.1:5000"],
    }
    return [f"{group}={name}", *extra.get(f"{group}/{name}", [])]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_it_composes_and_is_valid(path: Path) -> None:
    config = compose.load(_overrides(path))
    assert config.name


@pytest.mark.parametrize("path", [Path("config.yaml"), *FILES], ids=str)
def test_it_says_what_it_is_and_what_its_values_mean(path: Path) -> None:
    lines = (CONF / path).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#"), "the first line says what this choice is for"
    head = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    known = {"name:", "kind:", "defaults:", "hydra:"}  # what choice it is, what it builds on
    values = [line for line in lines[head:] if ": " in line and not line.lstrip().startswith(("-", "#"))]
    if path.name != "config.yaml":  # most of that is Hydra's own
        assert [line for line in values if "#" not in line and line.split(" ")[0] not in known] == []


def test_the_paper_sized_sample_is_one_override() -> None:
    sizes = "data.size={train: 156454, dev: 19557, test: 19557}"
    assert sum(compose.load([sizes]).data.size.values()) == 195_568
