"""What must not matter does not: hash seed, threads, slots, sizes of batches, and how many processes predict."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, TINY_CAUSAL, folder_of, omniner

pytestmark = pytest.mark.slow

PREDICT = ["task=predict", "tracking=off", "metrics.bootstrap=20", "decoding.max_new_tokens=32"]
TRAIN = {
    "char_bilstm": [*TINY, "tracking=off"],
    "bert_tiny": ["model=bert_tiny", "tracking=off", *(item for item in TINY if not item.startswith("model"))],
}
SETTINGS: dict[str, tuple[list[str], dict[str, str]]] = {
    "2 threads and hash seed 1": (["trainer.threads=2"], {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1"}),
    "batches of 1": (["trainer.eval_batch_size=1", "decoding.slots=1"], {}),
    "batches of 3": (["trainer.eval_batch_size=3", "decoding.slots=3"], {}),
    "batches of 16": (["trainer.eval_batch_size=16", "decoding.slots=16"], {}),
    "2 processes": (["trainer.devices=2"], {}),
}


@pytest.fixture(scope="module", params=[*TRAIN, "causal"])
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], dict[str, bytes]]:
    """A command that predicts, and what it wrote with one thread and the hash seed of forked commands, a random one."""
    cwd = tmp_path_factory.mktemp(request.param)
    if request.param == "causal":
        command = [*PREDICT, *TINY_CAUSAL[:5], "decoding=guided"]
    else:
        model = folder_of(omniner(*TRAIN[request.param], cwd=cwd), cwd)
        command = [*PREDICT, TINY[0], f"checkpoint={model}"]
    written = _written(folder_of(omniner(*command, "trainer.threads=1", cwd=cwd), cwd))
    assert len(written) > 5
    return command, written


def _written(folder: Path) -> dict[str, bytes]:
    """The results in a run's folder, without the seconds that the scores took."""
    paths = [folder / name for name in ("predictions.jsonl", "gold.jsonl", "scores.json")]
    paths += sorted((folder / "tables").iterdir())
    return {path.name: re.sub(rb'"timing": {[^}]*}', b"", path.read_bytes()) for path in paths}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_same_bytes(setting: str, reference: tuple[list[str], dict[str, bytes]], tmp_path: Path) -> None:
    command, expected = reference
    overrides, variables = SETTINGS[setting]
    threads = [] if "trainer.threads=2" in overrides else ["trainer.threads=1"]
    done = omniner(*command, *threads, *overrides, cwd=tmp_path, anew=bool(variables), variables=variables)
    found = _written(folder_of(done, tmp_path))
    assert [name for name in expected if found.get(name) != expected[name]] == []
    assert found.keys() == expected.keys()
