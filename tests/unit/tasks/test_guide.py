"""`task=guide` of a run that was told a prompt: it takes what that run was told, and writes to its own folder alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_causal
from tests.helpers import made_up_guidance

from omniner import tracking
from omniner.config import compose, run_config
from omniner.config.groups import Config
from omniner.corpus import sources, taxonomy
from omniner.corpus.sources import Corpus
from omniner.errors import UserError
from omniner.files import write_json, write_text
from omniner.guidance import lessons
from omniner.guidance.clusters import cluster_errors
from omniner.guidance.lessons import Guidance
from omniner.guidance.questions import ANSWERS_ASIDE, QUESTIONS_FILE
from omniner.guidance.teacher import TeacherAnswers
from omniner.llm.examples import choose_examples
from omniner.llm.language_model import save_causal_model
from omniner.llm.prompts import Prompt, build_prompt
from omniner.predicting.engines import TrainedModel, UntunedModel
from omniner.records import Entity, Prediction, Sentence, content_digest
from omniner.runs.context import Context
from omniner.runs.folder import GUIDANCE_COPY, TRAINED_ON
from omniner.scoring.metrics import ScoreResult
from omniner.scoring.scorer import score_records
from omniner.tasks import guide
from omniner.tracking.tracked_run import Run

CATEGORIES = taxonomy.load_taxonomy("omniner2025").categories[:6]


class ToldError(Exception):
    """The prompt is settled: what comes then is another matter."""


def score(context: Context, config: Config, corpus: Corpus, sentences: list[Sentence]) -> ScoreResult:
    """Score the run in the folder `theirs`."""
    model, config = guide._prepare_model(context, config, Path("theirs"), corpus)
    return guide._predict_and_score(context, config, model, corpus, sentences)


@pytest.fixture(scope="module")
def made() -> Guidance:
    return made_up_guidance.guidance(60, categories=CATEGORIES)


@pytest.fixture
def settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Scores a run in the folder `theirs` as far as its prompt; gives the prompt's configuration."""
    monkeypatch.chdir(tmp_path)
    Path("ours").mkdir()
    write_json(Path("theirs/run_state.json"), {"task": "predict", "status": "finished"})
    asked = ["task=guide", "run=theirs", "tracking=off", "decoding=openai", "decoding.url=http://x/v1"]
    told = ["prompt=errta", "prompt.from_run=guidance.json", "prompt.max_tokens=900"]
    corpus = sources.load_corpus(compose.load(["data.size={train: 8, dev: 8, test: 8}"]).data, None)
    for name in ("train", "dev", "test"):
        corpus.splits[name] = [Sentence(f"{name}{n}", "x", [Entity("x", c, 0, 1)]) for n, c in enumerate(CATEGORIES)]

    def settle() -> Any:
        config = compose.load(["task=predict", *asked[2:], *told])

        def stop(settled: Any, *_: Any) -> None:
            raise ToldError(settled.prompt)

        monkeypatch.setattr(guide, "predict_file", stop)
        run = tracking.start_run(config.tracking, name="x", folder=Path("ours"), parent=None, resume_id=None, tags={})
        context = Context(config, Path("ours"), run)
        with pytest.raises(ToldError) as raised:
            score(context, config, corpus, corpus.splits["dev"])
        return raised.value.args[0]

    return settle


def test_nothing_is_written_into_the_other_run(made: Guidance, settle: Callable[[], Any]) -> None:
    lessons.write_guidance(Path("guidance.json"), made)
    assert made.lessons[0].note.rule["zh"] in settle().errors["zh"]
    assert [path.name for path in Path("theirs").iterdir()] == ["run_state.json"]
    assert lessons.read_guidance(Path("ours") / GUIDANCE_COPY) == made


def test_what_the_run_was_told_counts_whatever_was_copied_before(made: Guidance, settle: Callable[[], Any]) -> None:
    theirs = dataclasses.replace(made, lessons=made.lessons[:2])
    lessons.write_guidance(Path("theirs") / GUIDANCE_COPY, theirs)
    lessons.write_guidance(Path("ours") / GUIDANCE_COPY, made)  # of an attempt before that run was made anew
    settle()
    assert lessons.read_guidance(Path("ours") / GUIDANCE_COPY) == theirs


@pytest.mark.parametrize("engine", ["hf", "vllm", "openai"])
def test_errors_are_those_of_the_model_that_the_run_used(
    engine: str, settle: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    causal = small_causal.build("full")
    save_causal_model(Path("best"), causal)
    server = ["decoding.url=http://x/v1"] if engine == "openai" else []
    wanted = ["model=qwen2_tiny", "prompt=errta_fewshot", f"decoding.engine={engine}", "checkpoint=best", *server]
    config = compose.load(["task=predict", "tracking=off", *wanted])
    corpus = sources.load_corpus(compose.load(["data.size={train: 8, dev: 8, test: 8}"]).data, None)
    asked: list[Any] = []

    def stop(config: Any, model: Any, *_: Any) -> None:
        asked.append(model)
        raise ToldError

    monkeypatch.setattr(guide, "predict_file", stop)
    with pytest.raises(ToldError):
        score(Context(config, Path("ours"), Run()), config, corpus, [])
    assert isinstance(asked[0], TrainedModel)
    assert asked[0].checkpoint == Path("best")
    if engine == "openai":  # with the prompt that it was trained with, whatever `prompt` says
        assert asked[0].origin(config)["prompt"] == causal.prompt.sha


def test_a_model_that_found_nothing_teaches_nothing(
    made: Guidance, settle: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons.write_guidance(Path("guidance.json"), made)
    settle()
    config = compose.load(["task=guide", "run=theirs", "tracking=off", "decoding=openai", "decoding.url=http://x/v1"])
    corpus = sources.load_corpus(compose.load(["data.size={train: 8, dev: 8, test: 8}"]).data, None)
    sentences = corpus.splits["dev"]
    monkeypatch.setattr(guide, "predict_file", lambda *_: [Prediction(sentence.id) for sentence in sentences])
    with pytest.raises(UserError, match="it found no entity in the 8 sentences of dev"):
        score(Context(config, Path("ours"), Run()), config, corpus, sentences)


def test_a_run_that_labelled_a_file_with_a_checkpoint_is_about_no_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in its `data` was not read: its train and dev are of another corpus, by chance of the default."""
    monkeypatch.chdir(tmp_path)
    Path("best.ckpt").touch()
    Path("test.jsonl").touch()
    write_json(Path("theirs/run_state.json"), {"task": "predict", "status": "finished"})

    def find(*told: str) -> None:
        theirs = compose.load(["task=predict", "tracking=off", *told])
        write_text(Path("theirs/config.yaml"), run_config.to_yaml(theirs))
        guide._find_source(Context(compose.load(["task=guide", "run=theirs", "tracking=off"]), Path("ours"), Run()))

    with pytest.raises(UserError, match=r'^run: theirs labelled "test\.jsonl", no split.*that trained best\.ckpt'):
        find("checkpoint=best.ckpt", "input=test.jsonl")
    with pytest.raises(UserError, match=r'^run: theirs labelled \["a"\], no split'):
        find("checkpoint=best.ckpt", "text=[a]")
    find("checkpoint=best.ckpt")
    find("model=qwen2_tiny", "input=test.jsonl")  # its prompt is made of train of `data`


def made_up_prompt(config: Config, corpus: Corpus) -> Prompt:
    errors = {"zh": "…"} if "{errors}" in config.prompt.instruction["zh"] else {}
    told = dataclasses.replace(config.prompt, errors=errors)
    return build_prompt(told, corpus.active, corpus.splits["train"])


TRIALS = ["task=guide", "run=x", "teacher=openai", "teacher.url=http://x/v1", "guide.trials=4", "prompt=errta"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher=none"], "guide.trials: without a teacher there are only counted notes"),
        (["prompt=base"], r"prompt: guide.trials puts notes in the place of {errors}, and prompt=base .* prompt=errta"),
        (["prompt.language=en"], "prompt.language: en, but the notes that are tried are in zh"),
        (["prompt.from_run=y"], "prompt.from_run: each note is tried alone"),
    ],
)
def test_trials_need_a_teacher_and_a_place_in_the_prompt(overrides: list[str], message: str) -> None:
    compose.load(TRIALS)
    compose.load([*TRIALS, "guide.language=en", "prompt.language=en"])
    compose.load([*TRIALS, *overrides, "guide.trials=0"])
    with pytest.raises(UserError, match=f"^{message}"):
        compose.load([*TRIALS, *overrides])


def test_a_trained_model_keeps_its_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best.ckpt").touch()
    for task, told in (("train", []), ("predict", ["checkpoint=best.ckpt"])):
        write_json(Path("theirs/run_state.json"), {"task": task, "status": "finished"})
        theirs = compose.load([f"task={task}", "tracking=off", *told])
        write_text(Path("theirs/config.yaml"), run_config.to_yaml(theirs))
        context = Context(compose.load([*TRIALS, "run=theirs", "tracking=off"]), Path("ours"), Run())
        with pytest.raises(UserError, match=r"^guide\.trials: the model of theirs was trained, and keeps the prompt"):
            guide.run(context)


@pytest.mark.parametrize(
    ("overrides", "message", "predicted"),
    [
        ([], "", True),
        (["prompt.nearest=50"], r"prompt\.nearest: 50 examples for each sentence, but train has \d+", False),
        (["prompt.definitions=true"], r"prompt\.definitions: true, but data", False),
        (["prompt.max_tokens=5"], r"prompt\.max_tokens: 5 is too little for a single lesson", True),
    ],
)
def test_a_prompt_that_cannot_be_tried_is_refused_before_a_teacher_is_paid(
    overrides: list[str], message: str, predicted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ours").mkdir()
    common = ["tracking=off", "data.size={train: 30, dev: 30, test: 8}"]
    write_json(Path("theirs/run_state.json"), {"task": "predict", "status": "finished"})
    theirs = compose.load(["task=predict", *common, "model=qwen2_tiny"])
    write_text(Path("theirs/config.yaml"), run_config.to_yaml(theirs))
    done = []

    def predict(config: Any, model: Any, sentences: Any, path: Path) -> list[Prediction]:
        done.append(path)
        first = sentences[0]
        return [Prediction(one.id, first.entities if one is first else []) for one in sentences]

    def teach(*_: Any) -> None:
        raise ToldError

    monkeypatch.setattr(guide, "predict_file", predict)
    monkeypatch.setattr(guide, "_teach", teach)
    context = Context(compose.load([*TRIALS, "run=theirs", *common, *overrides]), Path("ours"), Run())
    with pytest.raises(UserError if message else ToldError, match=f"^{message}"):
        guide.run(context)
    assert bool(done) == predicted


def test_what_the_model_was_shown_is_known(made: Guidance, tmp_path: Path) -> None:
    corpus = sources.load_corpus(compose.load(["data.size={train: 30, dev: 8, test: 8}"]).data, None)
    config = compose.load(["task=predict", "tracking=off", "model=qwen2_tiny", "prompt=fewshot", "prompt.examples=3"])
    context, prompted = Context(config, tmp_path, Run()), UntunedModel(made_up_prompt(config, corpus), [])
    examples = {one.text for one in choose_examples(corpus.splits["train"], 3, config.prompt.seed)}
    assert len(examples) == 3
    assert all(text in prompted.prompt.instruction for text in examples)
    assert guide._find_shown(context, config, prompted, corpus) == examples
    lessons.write_guidance(tmp_path / GUIDANCE_COPY, made)
    seen = guide._find_shown(context, config, prompted, corpus) - examples
    assert made.lessons[0].examples[0].text in seen
    assert guide._find_shown(context, config, TrainedModel(Path("best.ckpt")), corpus) == set()


@pytest.mark.parametrize("trials", [0, 3])
def test_what_notes_are_tried_on_is_in_no_example_and_no_count(trials: int, tmp_path: Path) -> None:
    words = [f"词{number}" for number in range(10)]
    train = [Sentence(f"t{n}", f"去{w}", [Entity(w, "地点_城市", 1, 1 + len(w))]) for n, w in enumerate(words)]
    train += [Sentence(f"r{n}", f"买茶{n}", [Entity("茶", "品类_产品", 1, 2)]) for n in range(4)]
    said = [Prediction(one.id, [one.entities[0]._replace(category="品类_产品")]) for one in train]
    corpus = Corpus("x", {"train": train, "dev": [], "test": []}, taxonomy.load_taxonomy("omniner2025"))
    config = compose.load([*TRIALS, "guide.split=train", f"guide.trials={trials}", "guide.surfaces=20", "tracking=off"])
    result = score_records(train, said, config.metrics, config.errta)
    [cluster] = cluster_errors(result.errta.errors)
    prepared, shown = None, {"去词0", "买茶0"}
    context = Context(config, tmp_path, Run())
    if trials:
        model = UntunedModel(made_up_prompt(config, corpus), [])
        prepared = guide._prepare_trials(context, config, model, corpus, result, [cluster], shown)
        aside = [one for sort in prepared.chosen[0] for one in sort]
        assert [len(sort) for sort in prepared.chosen[0]] == [3, 3]
        assert not shown & {one.text for one in aside}
    [lesson] = guide._build_lessons([cluster], result, train, config.guide, prepared)
    seen = {one.text for one in train} - {one.text for one in (aside if trials else [])}
    assert {one.text for one in lesson.examples} <= seen
    assert {surface.text for surface in lesson.facts.surfaces} == {text[1:] for text in seen if text[0] == "去"}
    assert [one.mentions for one in lesson.facts.categories] == [10 - trials, 4 - trials]
    assert lesson.count == len(lesson.surfaces) == 10  # of all its errors


def test_what_a_person_wrote_into_the_questions_is_never_lost(
    made: Guidance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A teacher fails, a person fills in the questions, and the same command is given again, twice."""
    answers: dict[str, Any] = {}

    def teach(*_: Any) -> TeacherAnswers:
        if not answers:
            raise UserError("teacher.url", "no answer", "Repeat the same command.")
        return TeacherAnswers("big", dict(answers))

    monkeypatch.setattr(guide, "TEACHERS", {"openai": SimpleNamespace(teach=teach)})
    config = compose.load(["task=guide", "run=x", "teacher=openai", "teacher.url=http://x/v1", "tracking=off"])
    context, path = Context(config, tmp_path, Run()), tmp_path / QUESTIONS_FILE
    aside = tmp_path / ANSWERS_ASIDE

    def attempt() -> list[Any]:
        with pytest.raises(UserError, match="no answer"):
            guide._teach(context, made)
        return [json.loads(line)["answer"] for line in path.read_bytes().splitlines()]

    assert set(attempt()) == {None}
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    mine, first = {"cause": "因为", "rule": "先看\u2028品牌"}, lines[0]["id"]
    lines[0]["answer"], lines[1]["answer"] = mine, '{"rule": "时间"}'
    other = [json.dumps({"id": "of other errors", "answer": mine}), '{"id": "unfinished", "answer": {"rule": ']
    write_text(path, "\n".join([*(json.dumps(line, ensure_ascii=False) for line in lines), *other]))
    for _ in range(2):
        assert attempt() == [mine, '{"rule": "时间"}'] + [None] * (len(lines) - 2)
    assert aside.read_text(encoding="utf-8").splitlines() == other
    answers[made.lessons[0].question_id] = {"cause": "统计", "rule": "看时间", "doubtful": []}
    guide._teach(context, made)
    kept = [json.loads(line) for line in aside.read_bytes().splitlines() if line != other[1].encode()]
    assert {(one["id"], str(one["answer"])) for one in kept[1:]} == {
        (first, str(mine)), (lines[1]["id"], '{"rule": "时间"}')
    }  # fmt: skip
    assert f"2 answers in {path} that this run does not use: kept in {aside}" in caplog.text


def test_answers_of_the_same_teacher_are_not_set_aside_when_its_run_is_resumed(
    made: Guidance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {one.question_id: {"cause": "统计", "rule": "看", "doubtful": []} for one in made.lessons}
    teach = SimpleNamespace(teach=lambda *_: TeacherAnswers("big", dict(answers)))
    monkeypatch.setattr(guide, "TEACHERS", {"openai": teach})
    config = compose.load(["task=guide", "run=x", "teacher=openai", "teacher.url=http://x/v1", "tracking=off"])
    written = []
    for _ in range(2):
        guide._teach(Context(config, tmp_path, Run()), made)
        written.append((tmp_path / QUESTIONS_FILE).read_bytes())
    assert written[0] == written[1]
    assert [path.name for path in tmp_path.iterdir()] == [QUESTIONS_FILE]


@pytest.fixture
def explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Scores a trained tagger on dev, whose answers have the category that is given."""
    monkeypatch.chdir(tmp_path)
    write_json(Path("theirs/run_state.json"), {"task": "train", "status": "finished"})
    Path("theirs/checkpoints").mkdir()
    Path("theirs/checkpoints/best.ckpt").touch()
    config = compose.load(["task=guide", "run=theirs", "tracking=off"])
    corpus = sources.load_corpus(compose.load(["data.size={train: 8, dev: 8, test: 8}"]).data, None)
    dev = corpus.splits["dev"]

    def explain(category: str) -> Any:
        answers = [Prediction(one.id, [Entity(one.text[:1], category, 0, 1)]) for one in dev]
        monkeypatch.setattr(guide, "predict_file", lambda *_: answers)
        score(Context(config, Path("ours"), Run()), config, corpus, dev)

    write_json(Path("theirs") / TRAINED_ON, {"train": content_digest(corpus.splits["train"]), "dev": "another"})
    return explain


def test_a_model_of_another_corpus_teaches_nothing(explain: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"^run: it names ORG, none of which is a category of sample"):
        explain("ORG")


def test_a_model_that_has_learnt_from_another_train_is_told_of(
    explain: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    explain(CATEGORIES[0])
    assert "another train" not in caplog.text
    write_json(Path("theirs") / TRAINED_ON, {"train": "of before the new split", "dev": "same"})
    explain(CATEGORIES[0])
    assert "best.ckpt was trained on another train than the one of sample now" in caplog.text
