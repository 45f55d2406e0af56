"""Predictions that a killed run has left are kept where they are of the same model, settings and sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tests.helpers.scripted_server import Answer, Seen, Server, error, reply, serving

from omniner.answers import CUT
from omniner.config import compose
from omniner.config.groups import Config
from omniner.errors import UserError
from omniner.files import read_json, whole_lines, write_json, write_text
from omniner.llm.prompts import Prompt
from omniner.predicting import prediction_file
from omniner.predicting.engines import Predict, TrainedModel, UntunedModel, prompted_model, trained_model
from omniner.records import Entity, Prediction, Sentence, prediction_to_json, to_line, with_score, without_unsure
from omniner.registry import TASKS
from omniner.runs import children, ranks
from omniner.scoring.predictions import prediction_from_line

PROMPT = Prompt("base", "1", "zh", "", "", "{sentence}", "official", ())
SENTENCES = [Sentence(f"s{number}", f"去上海{number}") for number in range(6)]


class Engine:
    """Predicts sentence by sentence what the checkpoint holds; `left` sentences, then it is killed."""

    def __init__(self) -> None:
        self.left = 100
        self.asked: list[str] = []

    def open_trained(self, model: TrainedModel, config: Config) -> Predict:
        return partial(self.predict, sorted(model.checkpoint.iterdir())[0].read_text())

    def open_untuned(self, model: UntunedModel, config: Config) -> Predict:
        return partial(self.predict, "untuned")

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
    monkeypatch.setattr(TrainedModel, "open", lambda model, config: made.open_trained(model, config))
    monkeypatch.setattr(UntunedModel, "open", lambda model, config: made.open_untuned(model, config))
    monkeypatch.chdir(tmp_path)
    Path("best").mkdir()
    Path("best/weights").write_text("old")
    return made


def predict(
    *overrides: str, sentences: Sequence[Sentence] = SENTENCES, prompted: bool = False, prompt: Prompt = PROMPT
) -> list[str]:
    config = compose.load(["task=predict", "checkpoint=best", "model=char_bilstm", *overrides])
    model = prompted_model(config, prompt, []) if prompted else trained_model(config, Path("best"))
    path = Path("predictions.jsonl")
    found = prediction_file.predict_file(config, model, sentences, path)
    written = [prediction_from_line(line).id for line in whole_lines(path)]
    assert written == [one.id for one in found] == [one.id for one in sentences], "in the order of the sentences"
    return [one.engine for one in found]


def killed(engine: Engine, *overrides: str, after: int = 4, prompted: bool = False) -> None:
    engine.left = after
    with pytest.raises(KeyboardInterrupt):
        predict(*overrides, prompted=prompted)
    engine.left = 100
    engine.asked.clear()


def test_the_same_goes_on_behind_what_is_there(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    killed(engine)
    assert predict() == ["old"] * 6
    assert engine.asked == ["s4", "s5"]
    assert predict() == ["old"] * 6
    assert len(engine.asked) == 2
    assert "anew" not in caplog.text
    assert prediction_file.PROVENANCE in TASKS["predict"].outputs


def test_answers_that_were_cut_are_counted(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(model: TrainedModel, config: Config) -> Predict:
        return lambda sentences, done: iter(
            [[Prediction(one.id, [], reason=CUT if one.id < "s2" else "", engine="cut") for one in sentences]]
        )

    assert predict() == ["old"] * 6
    assert CUT not in caplog.text
    Path("best/weights").write_text("new")
    monkeypatch.setattr(TrainedModel, "open", cut)
    assert predict() == ["cut"] * 6
    assert "2 of 6 answers were stopped by decoding.max_new_tokens" in caplog.text


def test_entities_that_were_left_out_are_counted_and_another_confidence_predicts_all(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsure(model: TrainedModel, config: Config) -> Predict:
        found = [with_score(Entity("去", "动作", 0, 1), score) for score in (0.25, 0.75)]
        least = config.decoding.min_score
        return lambda sentences, done: (
            [without_unsure(Prediction(one.id, found, engine="sure"), least)] for one in sentences if one.id not in done
        )

    caplog.set_level("INFO", logger="omniner")
    killed(engine)
    monkeypatch.setattr(TrainedModel, "open", unsure)
    assert predict("decoding.min_score=0.5") == ["sure"] * 6, "those without it are not kept"
    assert "6 entities left out by decoding.min_score=0.5, 6 kept" in caplog.text
    caplog.clear()
    assert predict("decoding.min_score=0.5") == ["sure"] * 6
    assert "6 entities left out by decoding.min_score=0.5, 6 kept" in caplog.text, "counted in what is on disk"
    caplog.clear()
    predict("decoding.min_score=0.2")
    assert "is of another config than now" in caplog.text
    assert "0 entities left out by decoding.min_score=0.2, 12 kept" in caplog.text


@pytest.mark.parametrize(("sentences", "processes"), [(5, 1), (47, 2), (640, 4)])
def test_each_process_has_a_device_and_enough_sentences(sentences: int, processes: int) -> None:
    config = compose.load(["task=predict", "checkpoint=best", "trainer=cpu", "trainer.devices=4"])
    assert prediction_file._count_processes(config, sentences) == processes
    config.decoding.engine = "openai"
    assert prediction_file._count_processes(config, sentences) == 1, "a server has its own"


@pytest.mark.parametrize(("variable", "maker"), [("CUDA_VISIBLE_DEVICES", "nvidia"), ("HIP_VISIBLE_DEVICES", "amd")])
def test_each_further_process_sees_a_gpu_of_its_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, maker: str
) -> None:
    from omniner import models
    from omniner.compute.devices import Devices

    helpers: list[ranks.Helper] = []

    def begin(those: Sequence[ranks.Helper], patience: float | None) -> None:
        helpers.extend(those)
        raise KeyboardInterrupt

    monkeypatch.setattr(ranks, "working_beside", begin)
    monkeypatch.setattr(models, "devices_for_prediction", lambda *_: Devices("gpu", 1, 1, "auto", "bf16-mixed"))
    monkeypatch.setenv(variable, "4,5,6,7")
    (tmp_path / f"driver of {maker}").touch()
    monkeypatch.setattr(children, "_DRIVERS", [str(tmp_path / f"driver of {name}") for name in ("amd", "nvidia")])
    with pytest.raises(KeyboardInterrupt):
        predict("trainer=cpu", "trainer.devices=4", sentences=[Sentence(f"s{number}", "上海") for number in range(64)])
    assert [helper.variables[variable] for helper in helpers] == ["5", "6", "7"]
    trainer = OmegaConf.load(Path(prediction_file.SHARES, "config.yaml")).trainer
    assert (trainer["accelerator"], trainer["devices"], trainer["precision"]) == ("gpu", 1, "bf16-mixed")


def test_a_model_that_was_trained_again_predicts_all(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    killed(engine)
    Path("best/weights").write_text("new")  # the same folder, name and size
    assert predict() == ["new"] * 6
    assert "predictions.jsonl is of another checkpoint than now: all is predicted anew" in caplog.text
    assert predict(prompted=True) == ["untuned"] * 6


def test_other_settings_and_sentences_count_as_well(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    killed(engine)
    assert len(predict("seed=7")) == len(engine.asked) == 6
    assert "is of another config than now" in caplog.text
    engine.asked.clear()
    other = [*SENTENCES[:-1], Sentence("s5", "别的")]
    assert len(predict("seed=7", sentences=other)) == len(engine.asked) == 6
    assert "is of another sentences than now" in caplog.text


def test_another_prompt_counts_as_well(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    killed(engine, prompted=True)
    assert len(predict(prompted=True)) == 6
    assert engine.asked == ["s4", "s5"]
    killed(engine, "seed=7", prompted=True)
    predict("seed=7", prompted=True, prompt=dataclasses.replace(PROMPT, instruction="别的"))
    assert len(engine.asked) == 6
    assert "is of another prompt than now: all is predicted anew" in caplog.text


def test_what_an_older_version_did_not_note_makes_no_other_predictions(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    killed(engine, prompted=True)
    (note,) = Path().rglob(prediction_file.PROVENANCE)
    write_json(note, {name: value for name, value in read_json(note).items() if name not in ("prompt", "weights")})
    assert len(predict(prompted=True)) == 6
    assert engine.asked == ["s4", "s5"]
    assert "anew" not in caplog.text
    assert read_json(note)["prompt"] == PROMPT.sha, "from now on it is known"


def test_other_published_weights_count_as_well(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    Path("base").mkdir()
    Path("base/model.safetensors").write_bytes(b"old")
    published = ["model=qwen2_tiny", "model.path=base"]
    killed(engine, *published, prompted=True)
    Path("base/model.safetensors").write_bytes(b"new")
    predict(*published, prompted=True)
    assert len(engine.asked) == 6
    assert "is of another weights than now" in caplog.text


def test_a_server_that_has_another_model_now_is_asked_about_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
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
            predict(*asked, prompted=True)
        assert len(whole_lines(Path("predictions.jsonl"))) == 3
        server.models = ("large",)
        assert predict(*asked, prompted=True) == ["openai:large"] * 6
        assert "is of openai:small, the server has large now: all is predicted anew" in caplog.text
        assert "6 sentences predicted in" in caplog.text
        asked_then = len(server.seen)
        server.models = ("huge",)
        assert predict(*asked, prompted=True) == ["openai:large"] * 6, "what is whole needs no server"
        assert len(server.seen) == asked_then


def test_predictions_of_nobody_known_are_not_taken_over(engine: Engine) -> None:
    killed(engine)
    Path(prediction_file.PROVENANCE).unlink()
    predict()
    assert len(engine.asked) == 6


def test_what_processes_with_another_model_left_is_not_taken_over(engine: Engine) -> None:
    killed(engine)
    line = to_line(prediction_to_json(Prediction("s5", [], engine="old"), "去上海5"))
    write_text(Path(prediction_file.SHARES) / "1.jsonl", f"{line}\n")
    Path("best/weights").write_text("new")
    assert predict() == ["new"] * 6


@pytest.mark.parametrize("damaged", ["", "[1]", '["ab", "c"]', "null"])
def test_predictions_of_which_the_record_is_damaged_are_not_taken_over(engine: Engine, damaged: str) -> None:
    killed(engine)
    Path(prediction_file.PROVENANCE).write_text(damaged)
    predict()
    assert len(engine.asked) == 6


def test_what_other_processes_left_is_taken_though_the_last_line_of_this_one_is_torn(engine: Engine) -> None:
    killed(engine, after=2)
    line = to_line(prediction_to_json(Prediction("s4", [], engine="old"), "去上海4"))
    with Path("predictions.jsonl").open("a", encoding="utf-8") as file:
        file.write(line[:20])  # a full disk
    write_text(Path(prediction_file.SHARES) / "12.jsonl", f"{line}\n{line[:20]}")
    assert predict() == ["old"] * 6
    assert engine.asked == ["s2", "s3", "s5"]
    assert not Path(prediction_file.SHARES).exists()


def test_a_broken_line_of_another_process_is_named_where_it_lies(engine: Engine) -> None:
    killed(engine, after=2)
    write_text(Path(prediction_file.SHARES) / "1.jsonl", "{}\n")
    with pytest.raises(UserError, match=r"1\.jsonl:1"):
        predict()
    assert len(whole_lines(Path("predictions.jsonl"))) == 2


def test_confidences_are_read_again_when_predicting_goes_on() -> None:
    line = to_line(prediction_to_json(Prediction("1", [with_score(Entity("茶", "饮品", 1, 2), 0.5)]), "喝茶"))
    again = prediction_from_line(line)
    assert to_line(prediction_to_json(again, "喝茶")) == line
