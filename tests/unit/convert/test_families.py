"""Families of models: one file holds all that is known of one; a new one touches nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from omniner.convert.layouts import LlamaLayout, ModelFamily, Settings, find_layout
from omniner.errors import UserError
from omniner.llm.loading import load_weights
from omniner.registry import MODEL_FAMILIES


def test_families_are_known_without_torch() -> None:
    code = (
        "import sys; from omniner.registry import MODEL_FAMILIES as M\n"
        "print([(n, M.meaning(n)) for n in M], 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = [("baichuan", "Baichuan2-7B."), ("internlm2", "InternLM2 and InternLM2.5.")]
    assert result.stdout.strip() == f"{expected} False"


@pytest.mark.parametrize("name", list(MODEL_FAMILIES))
def test_an_entry_is_called_as_its_file(name: str) -> None:
    family = MODEL_FAMILIES[name]
    assert (family.name, family.meaning) == (name, MODEL_FAMILIES.meaning(name))


@pytest.fixture
def dummy() -> Iterator[ModelFamily]:
    family = ModelFamily("newmodel", "New models.", lambda config: LlamaLayout("New", {"a": config.get("a")}, ()))
    MODEL_FAMILIES.add(family)
    yield family
    MODEL_FAMILIES.remove(family.name)


def test_a_family_that_is_added_is_known_everywhere(dummy: ModelFamily, tmp_path: Path) -> None:
    config = {"model_type": dummy.name, "auto_map": {}, "a": 1}
    assert find_layout(Settings(tmp_path, config)).config == {"a": 1}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    import torch

    with pytest.raises(UserError, match=r"is a newmodel model.*Convert it once: task=convert"):
        load_weights(str(tmp_path), torch.float32)
    with pytest.raises(UserError, match=r"Name a checkpoint of: .*New models") as raised:
        find_layout(Settings(tmp_path, {"model_type": "other"}))
    assert "Baichuan2-7B" in raised.value.fix


@pytest.mark.parametrize("kind", [None, 7, ["internlm2"], {}, "gpt2"])
def test_another_model_is_refused(kind: object) -> None:
    with pytest.raises(UserError, match="model_type is"):
        find_layout(Settings(Path("config.json"), {"model_type": kind}))
