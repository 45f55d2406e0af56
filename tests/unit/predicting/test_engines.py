"""Models to predict with: opened once for all prompts, on the engine that the configuration names."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import small_causal
from tests.helpers.scripted_server import reply, serving

from omniner.config import compose
from omniner.config.groups import Config
from omniner.config.model_groups import DecodingConfig
from omniner.errors import UserError
from omniner.llm.language_model import save_causal_model
from omniner.llm.prompts import Prompt
from omniner.predicting.engines import (
    ChosenModel,
    Engine,
    Predict,
    RemoteModel,
    TrainedModel,
    TrainedOnServer,
    TrainedOnVLLM,
    UntunedModel,
    UntunedOnVLLM,
    model_from_json,
    prompted_model,
    trained_model,
)
from omniner.records import Entity, Prediction, Sentence
from omniner.registry import ENGINES, TASKS
from omniner.run import run

PROMPT = Prompt("base", "1", "zh", "", "", "{sentence}", "official", ())
SENTENCES = [Sentence(f"s{number}", f"去上海{number}") for number in range(6)]
TOLD = [dataclasses.replace(PROMPT, instruction=text, categories=("地点", "人名")) for text in ("标注：", "请标注：")]


def answers_to(config: Config, prompts: Sequence[Prompt]) -> dict[str, set[str]]:
    """The ids of the sentences that were answered, by the hash of the prompt."""
    model = prompted_model(config, prompts[0], [sentence.text for sentence in SENTENCES])
    found: dict[str, set[str]] = {}
    with model.open_prompts(config) as tell:
        for prompt in prompts:
            for batch in tell(prompt)(SENTENCES, frozenset({"s0"})):
                for one in batch:
                    found.setdefault(one.prompt_sha, set()).add(one.id)
    return found


EXPECTED = {prompt.sha: {sentence.id for sentence in SENTENCES[1:]} for prompt in TOLD}


def test_a_model_in_this_process_is_loaded_once_for_all_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    from omniner import models

    loaded, load = [], models.load_untrained
    monkeypatch.setattr(models, "load_untrained", lambda *given: loaded.append(given) or load(*given))
    small = ["model.architecture.hidden_size=64", "model.architecture.num_hidden_layers=1", "model.vocabulary=700"]
    free = ["decoding.max_new_tokens=4", "trainer.threads=1", "trainer.accelerator=cpu"]
    assert answers_to(compose.load(["task=predict", "model=qwen2_tiny", *small, *free]), TOLD) == EXPECTED
    assert len(loaded) == 1


def test_a_server_is_asked_with_each_prompt() -> None:
    with serving(lambda request, before: reply("[]")) as server:
        config = compose.load(["task=predict", "decoding=openai", f"decoding.url={server.url}", "decoding.model=tiny"])
        assert answers_to(config, TOLD) == EXPECTED
        assert sorted({request.text.partition("\n")[0] for request in server.seen}) == ["标注：", "请标注："]


@pytest.mark.parametrize("trained", [False, True])
def test_a_server_is_told_of_the_template_if_it_has_a_model_of_ours(trained: bool, tmp_path: Path) -> None:
    save_causal_model(tmp_path / "best", small_causal.build("full"))
    with serving(lambda request, before: reply("[]")) as server:
        asked = ["task=predict", "decoding=openai", f"decoding.url={server.url}", "decoding.model=tiny"]
        model = TrainedOnServer(tmp_path / "best") if trained else RemoteModel(PROMPT, [])
        list(model.open(compose.load(asked))(SENTENCES, frozenset()))
        assert {"chat_template_kwargs" in request.body for request in server.seen} == {trained}


@pytest.mark.parametrize("task", ["predict", "chat", "search"])
@pytest.mark.parametrize("engine", ["hf", "vllm"])
def test_a_path_without_a_model_is_found_before_the_run_begins(task: str, engine: str) -> None:
    named = ["model=causal_path", "model.path=./no/such", "model.name=own", f"decoding.engine={engine}"]
    guided = ["prompt=errta", "prompt.from_run=x"] if task == "search" else []
    with pytest.raises(UserError, match=r"^model\.path: \./no/such "):
        TASKS[task].check_machine(compose.load([f"task={task}", *named, *guided]))


def test_a_search_on_vllm_does_not_ask_random_weights() -> None:
    named = ["task=search", "model=qwen2_tiny", "prompt=errta", "prompt.from_run=x", "search.train=false"]
    with pytest.raises(UserError, match=r"^search\.train: random weights cannot answer"):
        compose.load([*named, "decoding=vllm"])


def test_vllm_is_started_once_for_all_prompts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from omniner.llm.serving import vllm_engine

    started = []
    with serving(lambda request, before: reply("[]")) as server:

        @contextlib.contextmanager
        def serve(config: DecodingConfig, model: vllm_engine.ServedModel) -> Iterator[DecodingConfig]:
            started.append(model.path)
            yield dataclasses.replace(config, engine="openai", url=server.url, model="vllm")

        monkeypatch.setattr(vllm_engine, "serving_model", serve)
        command = ["task=predict", "decoding=vllm", "model=causal_path", f"model.path={tmp_path}", "model.name=own"]
        assert answers_to(compose.load(command), TOLD) == EXPECTED
    assert started == [str(tmp_path)]


@pytest.mark.parametrize(
    ("engine", "trained", "prompted"),
    [("hf", TrainedModel, UntunedModel), ("vllm", TrainedOnVLLM, UntunedOnVLLM)],
)
def test_a_worker_process_reads_the_model_that_it_shares(
    engine: str, trained: type[ChosenModel], prompted: type[ChosenModel]
) -> None:
    config = compose.load(["task=predict", "model=qwen2_tiny", f"decoding.engine={engine}"])
    for model, kind in (
        (trained_model(config, Path("best")), trained),
        (prompted_model(config, PROMPT, ["去上海"]), prompted),
    ):
        assert type(model) is kind
        assert model_from_json(config, json.loads(json.dumps(model.to_json()))) == model


class EchoModel(TrainedModel):
    """Finds the first character of each sentence, and names the first line of its checkpoint as its category."""

    def open(self, config: Config) -> Predict:
        return partial(self.predict, self.checkpoint.read_text())

    def predict(self, word: str, sentences: Sequence[Sentence], done: frozenset[str]) -> Iterator[list[Prediction]]:
        for one in sentences:
            yield [Prediction(one.id, [Entity(one.text[0], word, 0, 1)], engine="echo")]


def test_a_further_engine_is_an_entry_with_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(decoding: DecodingConfig) -> None:
        if not decoding.options:
            raise UserError("decoding.options", "nothing to echo", "Say something.")

    engine = Engine(
        "echo", "Says the same.", in_process=False, local_weights=True, trained=EchoModel, prompted=UntunedModel,
        check=check,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("best.ckpt").write_text("地点")
    asked = ["task=predict", "tracking=off", "checkpoint=best.ckpt", "text=[上海]", "decoding.engine=echo"]
    with pytest.raises(
        UserError, match=r"^decoding\.engine: 'echo' is not a choice. Choose one of: hf, openai, vllm\.$"
    ):
        compose.load(asked)
    ENGINES.add(engine)
    try:
        with pytest.raises(UserError, match=r"^decoding\.options: nothing to echo"):
            compose.load(asked)
        asked.append("+decoding.options={loud: true}")
        with pytest.raises(UserError, match=r"^decoding\.engine: a server cannot decode a model in training"):
            compose.load(["task=train", "tracking=off", *asked[4:]])
        folder = run(compose.load([*asked, "output_dir=out"]))
        [line] = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(line)["entities"] == [{"text": "上", "category": "地点", "start": 0, "end": 1}]
    finally:
        ENGINES.remove("echo")
