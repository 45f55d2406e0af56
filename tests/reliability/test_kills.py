"""Killed at any moment, from its first change on the disk to its last: the same command ends in the same bytes."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from omniner.config import compose
from omniner.runs.folder import BOOKKEEPING, STATE
from omniner.tracking.store import open_store
from tests.e2e.conftest import ONE_EPOCH, TINY_CAUSAL, omniner
from tests.reliability import killing

pytestmark = pytest.mark.soak

MOMENTS = int(os.environ.get("MOMENTS", "8"))  # kills of each task: the first and the last change, others by chance
NAMED = "annotators=[p.jsonl,other=gold.jsonl]"
TASKS = {
    "score": (["task=score", "predictions=p.jsonl", "metrics.bootstrap=20"], []),
    "adjudicate": (["task=adjudicate", NAMED], ["gold.jsonl", "queue.json", "decisions.jsonl", "counts.json"]),
    "split": (["task=split", "split.together=texts", "data.size={train: 60, dev: 20, test: 20}"], ["corpus"]),
    "convert": (["task=convert", "input=p.jsonl", "to=conll", "output=new.conll"], ["../../new.conll"]),
    "train": (ONE_EPOCH, ["predictions.jsonl", "gold.jsonl"]),
    "train_causal": (
        [*(item for item in TINY_CAUSAL if "max_epochs" not in item), "trainer.max_epochs=1"],
        ["predictions.jsonl", "gold.jsonl"],
    ),
    "predict": (
        ["task=predict", "model=qwen2_tiny", *TINY_CAUSAL[1:5], "decoding=guided"],
        ["predictions.jsonl"],
    ),
}


def _content(folder: Path, names: list[str]) -> dict[str, bytes]:
    """What a run made: these files of its folder, with all files of folders."""
    paths = [
        path
        for name in names
        for path in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))
    ]
    found = {os.path.relpath(path, folder): path.read_bytes() for path in paths if path.is_file()}
    scores = folder / "scores.json"
    if scores.is_file():
        found["metrics"] = json.dumps(json.loads(scores.read_bytes())["metrics"]).encode()
    return found


def _moments(total: int, seed: str) -> list[int]:
    chosen = random.Random(seed).sample(range(2, total), min(MOMENTS - 2, total - 2))
    return [1, *sorted(chosen), total]


def _one_run(cwd: Path) -> Path:
    """The folder of the only run; a kill before its first file leaves an empty one behind."""
    [state] = (cwd / "outputs").glob(f"*/{STATE}")
    return state.parent


@pytest.mark.parametrize("task", TASKS)
def test_a_killed_run_goes_on_to_the_same_end(task: str, tables: Path, tmp_path: Path) -> None:
    given, names = TASKS[task]
    arguments = [*given, f"tracking.folder={tables}", "tracking.system_metrics=false"]
    line = '{"id": "1", "text": "喝小满", "entities": [{"text": "小满", "category": "品牌", "start": 1, "end": 3}]}\n'

    def place(name: str) -> Path:
        cwd = tmp_path / name
        cwd.mkdir()
        for file in ("p.jsonl", "gold.jsonl"):
            (cwd / file).write_text(line, encoding="utf-8")
        return cwd

    whole = place("whole")
    assert killing.run(arguments, whole, 0) == 0
    expected = _content(_one_run(whole), names)
    assert expected
    total = int((whole / killing.COUNT).read_text())
    failures, killed = [], 0
    for at in _moments(total, task):
        cwd = place(f"at{at}")
        if killing.run(arguments, cwd, at) == 0:
            continue  # it had fewer changes: how many batches the thread that sends makes is a matter of time
        killed += 1
        omniner(*arguments, cwd=cwd)
        folder = _one_run(cwd)
        state = json.loads((folder / "run_state.json").read_text())
        settings = compose.load(["task=check", f"tracking.folder={tables}"]).tracking
        client = open_store(settings).client
        place_of = f"tags.`omniner.folder` = '{folder.resolve()}'"
        runs = client.search_runs([open_store(settings).experiment], place_of)
        problems = {
            "content": _content(folder, names) != expected,
            "state": state["status"] != "finished",
            "store": [run.info.status for run in runs] != ["FINISHED"],
            "left over": bool(list(folder.rglob(".*.tmp"))),
            "not a file of ours": not all((folder / name).exists() for name in BOOKKEEPING),
        }
        failures += [f"{task}, change {at} of {total}: {name}" for name, wrong in problems.items() if wrong]
    notes = [note.read_text("utf-8") for note in (tables / "unsent").glob("*")]
    print(f"{task}: {killed} kills among {total} changes, {len(failures)} failures")
    assert (failures, notes) == ([], [])
