"""Predictions that a killed run has left are kept where they are of the same model, settings and sentences."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.helpers import made_up_guidance
from tests.helpers.scripted_server import Answer, Seen, Server, error, reply, serving

from omniner.answers import CUT
from omniner.config import compose, run_config
from omniner.config.groups import Config
from omniner.config.model_groups import DecodingConfig
from omniner.corpus.sources import load_corpus
from omniner.errors import UserError
from omniner.files import read_json, whole_lines, write_json, write_text
from omniner.guidance.lessons import write_guidance
from omniner.llm.prompts import Prompt
from omniner.records import Entity, Prediction, Sentence, prediction_to_json, to_line, with_score
from omniner.run import run
from omniner.scoring.predictions import prediction_from_line
from omniner.tasks import chat
from omniner.tasks import predict as prediction
from omniner.tasks.predict import PromptedModel
from omniner.tasks.prompting import with_guidance

PROMPT = Prompt("base", "1", "zh", "", "", "{sentence}", "official", ())
SENTENCES = [Sentence(f"s{number}", f"去上海{number}") for number in range(6)]


class Engine:
    """Predicts sentence by sentence what the checkpoint holds; `left` sentences, then it is killed."""

    def __init__(self) -> None:
        self.left = 100
        self.asked: list[str] = []

    def open(self, config: Config, model: Path | PromptedModel) -> prediction.Predict:
        word = sorted(model.iterdir())[0].read_text() if isinstance(model, Path) else "server"
        return partial(self.predict, word)

    def predict(self, word: str, sentences: Sequence[Sentence], done: frozenset[str]) -> Iterator[list[Prediction]]:
        for sentence in sentences:
            if sentence.id in done:
                continue
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.asked.append(sentence.id)
            yield [Prediction(sentence.id, [], engine=word)]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(prediction, "open_model", made.open)
    monkeypatch.chdir(tmp_path)
    Path("best").mkdir()
    Path("best/weights").write_text("old")
    return made


def predict(
    *overrides: str, sentences: Sequence[Sentence] = SENTENCES, server: bool = False, prompt: Prompt = PROMPT
) -> list[str]:
    config = compose.load(["task=predict", "checkpoint=best", "model=char_bilstm", *overrides])
    model = PromptedModel(prompt, []) if server else Path("best")
    path = Path("predictions.jsonl")
    found = prediction.predict_file(config, model, sentences, path)
    assert len(whole_lines(path)) == len(found) == len(sentences)
    return [one.engine for one in found]


def killed(engine: Engine, *overrides: str, after: int = 4, server: bool = False) -> None:
    engine.left = after
    with pytest.raises(KeyboardInterrupt):
        predict(*overrides, server=server)
    engine.left = 100
    engine.asked.clear()


def test_the_same_goes_on_behind_what_is_there(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    killed(engine)
    assert predict() == ["old"] * 6
    assert engine.asked == ["s4", "s5"]
    assert predict() == ["old"] * 6
    assert len(engine.asked) == 2
    assert "anew" not in caplog.text
    assert prediction.PROVENANCE in prediction.TASK.outputs


def test_answers_that_were_cut_are_counted(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(config: Config, model: object) -> prediction.Predict:
        return lambda sentences, done: iter(
            [[Prediction(one.id, [], reason=CUT if one.id < "s2" else "", engine="cut") for one in sentences]]
        )

    assert predict() == ["old"] * 6
    assert CUT not in caplog.text
    Path("best/weights").write_text("new")
    monkeypatch.setattr(prediction, "open_model", cut)
    assert predict() == ["cut"] * 6
    assert "2 of 6 answers were stopped by decoding.max_new_tokens" in caplog.text


def test_a_model_that_was_trained_again_predicts_all(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    killed(engine)
    Path("best/weights").write_text("new")  # the same folder, name and size
    assert predict() == ["new"] * 6
    assert "predictions.jsonl is of another checkpoint than now: all is predicted anew" in caplog.text
    assert predict(server=True) == ["server"] * 6


def test_other_settings_and_sentences_count_as_well(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    killed(engine)
    assert len(predict("seed=7")) == len(engine.asked) == 6
    assert "is of another config than now" in caplog.text
    engine.asked.clear()
    other = [*SENTENCES[:-1], Sentence("s5", "别的")]
    assert len(predict("seed=7", sentences=other)) == len(engine.asked) == 6
    assert "is of another sentences than now" in caplog.text


def test_another_prompt_counts_as_well(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    killed(engine, server=True)
    assert len(predict(server=True)) == 6
    assert engine.asked == ["s4", "s5"]
    killed(engine, "seed=7", server=True)
    predict("seed=7", server=True, prompt=dataclasses.replace(PROMPT, instruction="别的"))
    assert len(engine.asked) == 6
    assert "is of another prompt than now: all is predicted anew" in caplog.text


def test_what_an_older_version_did_not_note_makes_no_other_predictions(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    killed(engine, server=True)
    (note,) = Path().rglob(prediction.PROVENANCE)
    write_json(note, {name: value for name, value in read_json(note).items() if name not in ("prompt", "weights")})
    assert len(predict(server=True)) == 6
    assert engine.asked == ["s4", "s5"]
    assert "anew" not in caplog.text
    assert read_json(note)["prompt"] == PROMPT.sha, "from now on it is known"


def test_other_published_weights_count_as_well(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    Path("base").mkdir()
    Path("base/model.safetensors").write_bytes(b"old")
    published = ["model=qwen2_tiny", "model.path=base"]
    killed(engine, *published, server=True)
    Path("base/model.safetensors").write_bytes(b"new")
    predict(*published, server=True)
    assert len(engine.asked) == 6
    assert "is of another weights than now" in caplog.text


def test_a_server_that_has_another_model_now_is_asked_about_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best").mkdir()

    def script(request: Seen, before: int) -> Answer:
        if len(server.seen) == 4:
            return error(401, "no key")  # whatever stops a run half-way
        return reply("[]")

    server: Server
    with serving(script, models=("small",)) as server:
        asked = ["decoding=openai", f"decoding.url={server.url}", "decoding.concurrency=1"]
        with pytest.raises(UserError):
            predict(*asked, server=True)
        assert len(whole_lines(Path("predictions.jsonl"))) == 3
        server.models = ("large",)
        assert predict(*asked, server=True) == ["openai:large"] * 6
        assert "is of openai:small, the server has large now: all is predicted anew" in caplog.text
        asked_then = len(server.seen)
        server.models = ("huge",)
        assert predict(*asked, server=True) == ["openai:large"] * 6, "what is whole needs no server"
        assert len(server.seen) == asked_then


def test_predictions_of_nobody_known_are_not_taken_over(engine: Engine) -> None:
    killed(engine)
    Path(prediction.PROVENANCE).unlink()
    predict()
    assert len(engine.asked) == 6


def test_a_sentence_does_not_command_the_terminal() -> None:
    shown = prediction.marked_line(Sentence("1", "去\x1b[2J喝\n茶"), Prediction("1", [Entity("茶", "饮品", 7, 8)]))
    assert shown == "去�[2J喝�[茶|饮品]"


def test_a_confidence_is_shown_where_there_is_one() -> None:
    found = [with_score(Entity("茶", "饮品", 1, 2), 0.876), Entity("喝", "行为", 0, 1)]
    assert prediction.marked_line(Sentence("1", "喝茶"), Prediction("1", found)) == "[喝|行为][茶|饮品 0.88]"


def test_confidences_are_read_again_when_predicting_goes_on() -> None:
    line = to_line(prediction_to_json(Prediction("1", [with_score(Entity("茶", "饮品", 1, 2), 0.5)]), "喝茶"))
    again = prediction_from_line(line)
    assert to_line(prediction_to_json(again, "喝茶")) == line


def test_half_a_character_of_an_answer_is_shown() -> None:
    found = [Entity("茶\ud83d", "饮\udc00品")]
    assert prediction.marked_line(Sentence("1", "喝茶"), Prediction("1", found)) == "喝茶 +[茶�|饮�品]"


def test_what_other_processes_left_is_taken_though_the_last_line_of_this_one_is_torn(engine: Engine) -> None:
    killed(engine, after=2)
    line = to_line(prediction_to_json(Prediction("s4", [], engine="old"), "去上海4"))
    with Path("predictions.jsonl").open("a", encoding="utf-8") as file:
        file.write(line[:20])  # a full disk
    write_text(Path(prediction.SHARES) / "1.jsonl", f"{line}\n{line[:20]}")
    assert predict() == ["old"] * 6
    assert engine.asked == ["s2", "s3", "s5"]


TOLD = [dataclasses.replace(PROMPT, instruction=text, categories=("地点", "人名")) for text in ("标注：", "请标注：")]


def answers_to(config: Config, prompts: Sequence[Prompt]) -> dict[str, set[str]]:
    """The ids of the sentences that were answered, by the hash of the prompt."""
    model = PromptedModel(prompts[0], [sentence.text for sentence in SENTENCES])
    found: dict[str, set[str]] = {}
    with prediction.open_prompts(config, model) as tell:
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


@pytest.mark.parametrize("checkpoint", [[], ["checkpoint=best"]])
def test_a_server_is_told_of_the_template_if_it_has_a_model_of_ours(checkpoint: list[str]) -> None:
    with serving(lambda request, before: reply("[]")) as server:
        asked = ["task=predict", "decoding=openai", f"decoding.url={server.url}", "decoding.model=tiny", *checkpoint]
        list(prediction.open_model(compose.load(asked), PromptedModel(PROMPT, []))(SENTENCES, frozenset()))
        assert {"chat_template_kwargs" in request.body for request in server.seen} == {bool(checkpoint)}


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


def test_the_report_names_the_guide_run_and_predictions_are_of_its_notes(engine: Engine) -> None:
    """What the notes say may change, with the same command: they are part of what the predictions depend on."""
    made = made_up_guidance.guidance(60)
    write_guidance(Path("outputs/notes/guidance.json"), made)
    named = ["model=qwen2_tiny", "prompt=errta", "prompt.from_run=notes", "prompt.max_tokens=900"]
    server = ["decoding=openai", "decoding.url=http://x/v1", "decoding.model=m"]
    small = ["data.size={train: 8, dev: 8, test: 8}", "data.taxonomy=omniner2025", "metrics.bootstrap=0"]
    config = compose.load(["task=predict", "tracking=off", *named, *server, *small])
    folder = run(config)
    assert "from_run: notes" in (folder / "report.html").read_text(encoding="utf-8")
    told, _ = with_guidance(config, folder, load_corpus(config.data, ["train"]).active, ())
    assert told.prompt.version == f"1+{made.sha[:8]}"
    assert read_json(folder / prediction.PROVENANCE)["config"] == run_config.digest(told) != run_config.digest(config)


@pytest.mark.parametrize("task", ["predict", "chat"])
def test_standard_input_is_read_as_files_are(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def texts(data: bytes) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="latin-1"))
        return list(chat._typed_lines()) if task == "chat" else prediction.piped_lines()

    assert [one for one in texts("\ufeff去喝小满\r\n\n 好 ".encode()) if one] == ["去喝小满", "好"]
    with pytest.raises(UserError, match=r"standard input:2: not UTF-8.*iconv"):
        texts("好\n".encode() + "去喝小满\n".encode("gb18030"))
