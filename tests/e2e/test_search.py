"""A prompt search from the command line: its runs are processes, and belong to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omniner.answers import render_answer
from omniner.config import compose, run_config
from omniner.corpus import sources
from omniner.files import read_json, write_json
from omniner.guidance import lessons, prompt_errors
from tests.e2e.conftest import TINY_CAUSAL, folder_of, omniner, runs_in
from tests.helpers import made_up_guidance
from tests.helpers.scripted_server import Answer, Seen, reply, serving

pytestmark = pytest.mark.slow

DATA = "data.size={train: 64, dev: 24, test: 24}"
SEARCH = [
    "task=search", "prompt=errta", "prompt.max_tokens=700", "prompt.from_run=guidance.json",
    "search.types=false", "search.random=0", "search.corrections=[1]", "search.largest=[]",
    "compare.resamples=100", "compare.permutations=100", "metrics.bootstrap=0",
]  # fmt: skip


@pytest.fixture
def rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A directory with guidance; a rule of it that gets into prompts about the sample."""
    monkeypatch.chdir(tmp_path)
    made = made_up_guidance.guidance(60)
    lessons.write_guidance(tmp_path / "guidance.json", made)
    config = compose.load([*SEARCH, DATA, "decoding=openai", "decoding.url=http://x/v1"])
    corpus = sources.load_corpus(config.data, ["train"])
    first, *_ = prompt_errors.render_errors_text(made, config.prompt, corpus.active, len).numbers
    return made.lessons[first - 1].note.rule["zh"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_server_is_asked_by_runs_that_belong_to_the_search(rule: str, tmp_path: Path) -> None:

    splits = sources.load_corpus(compose.load([DATA]).data, ["dev", "test"]).splits
    both = [*splits["dev"], *splits["test"]]
    gold = {sentence.text: render_answer(sentence.entities, "official") for sentence in both}

    def script(request: Seen, before: int) -> Answer:
        """Right where the rule stands in the prompt, and on every third sentence."""
        text = request.text.rpartition("句子：")[2]
        return reply(gold[text] if rule in request.text or len(text) % 3 == 0 else "[]")

    with serving(script) as server:
        where = [DATA, "decoding=openai", f"decoding.url={server.url}"]
        asked = [*SEARCH, *where, "search.rungs=[0]", "name=finding"]
        folder = folder_of(omniner(*asked, cwd=tmp_path), tmp_path)
        questions = server.texts()
        state = read_json(folder / "run_state.json")
        write_json(folder / "run_state.json", {**state, "status": "killed"})
        # with another hash seed, too
        assert folder_of(omniner(*asked, cwd=tmp_path, anew=True), tmp_path) == folder
        assert server.texts() == questions, "what is finished is not asked again"
        use = ["task=predict", "--config-dir", str(folder / "best"), "prompt=searched", "tracking=off"]
        used = folder_of(omniner(*use, *where, cwd=tmp_path), tmp_path)
    best = read_json(folder / "search.json")["tried"][0]
    assert best["name"] == "from_run"
    assert best["standings"][-1]["f1"] == 1
    assert len(set(questions)) == len(questions) == 2 * 24
    assert {question.rpartition("句子：")[2] for question in questions} == {one.text for one in splits["dev"]}
    assert {one["prompt_sha"] for one in lines(used / "predictions.jsonl")} == {best["sha"]}
    runs = {run.info.run_name: run for run in runs_in(tmp_path)}
    parent = runs.pop("finding")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert set(runs) == {"finding-generic-rung1", "finding-from_run-rung1"}
    assert parent.data.metrics["search/f1"] == 1
    assert parent.data.tags["prompt.sha"] == best["sha"]


def test_a_model_is_tuned_to_each_prompt(rule: str, tmp_path: Path) -> None:
    small = [*TINY_CAUSAL, DATA, "tracking=off", "search.train=true", "search.sentences=6", "search.rungs=[2]"]
    folder = folder_of(omniner(*small, *SEARCH, "decoding=guided", cwd=tmp_path), tmp_path)
    result = read_json(folder / "search.json")
    assert {one["name"] for one in result["tried"]} == {"generic", "from_run"}
    assert result["cost"] == "2 training runs: 2 of 2 steps"
    for one in result["tried"]:
        child = folder / "children" / f"{one['name']}-rung1"
        assert run_config.read(child / "config.yaml").trainer.max_steps == 2
        ids = [item["id"] for item in lines(child / "predictions.jsonl")]
        assert len(ids) == result["sentences"]
        assert all(name.startswith("dev") for name in ids)
        assert (rule in (child / "prompt.txt").read_text(encoding="utf-8")) == (one["name"] == "from_run")
