"""Trials of notes: the same sentences every time, the fewest errors win, a killed run goes on, nothing is silent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from omniner.config import compose
from omniner.corpus import taxonomy
from omniner.corpus.sources import Corpus
from omniner.errors import UserError
from omniner.guidance.clusters import Cluster, TrainingCounts, build_lesson, cluster_errors
from omniner.guidance.lessons import COUNTED, NOT_TRIED, Guidance, Lesson, Note, Tried
from omniner.guidance.teacher import TeacherAnswers, with_note
from omniner.llm.prompts import Prompt, build_prompt
from omniner.predicting.engines import RemoteModel, UntunedModel
from omniner.records import Entity, Issue, Prediction, Sentence
from omniner.scoring.metrics import ScoreResult
from omniner.scoring.scorer import score_records
from omniner.tasks.trials import (
    TrialInputs,
    TrialSentences,
    check_notes,
    check_prompt,
    choose_note,
    choose_sentences,
    try_notes,
)

GOOD, BAD, SAME = "品牌先看上下文", "品牌一律不标", "品牌和时间"
TRIALS = 3
COMMAND = [
    "task=guide", "run=x", "tracking=off", "teacher=openai", "teacher.url=http://x/v1", "prompt=errta",
    f"guide.trials={TRIALS}",
]  # fmt: skip


def sentence(name: str, *entities: tuple[str, str]) -> Sentence:
    text, found = "", []
    for surface, category in entities:
        text += f"买{name}"
        found.append(Entity(surface, category, len(text), len(text) + len(surface)))
        text += surface
    return Sentence(name, f"{text}。", found)


DEV = [sentence(f"b{n}", ("小满", "品牌")) for n in range(8)]
DEV += [sentence(f"t{n}", ("今天", "时间")) for n in range(5)]
DEV += [sentence(f"p{n}", ("上海", "地点")) for n in range(5)]
TRAIN = [sentence(f"train{n}", ("小满", "品牌"), ("今天", "时间"), ("上海", "地点")) for n in range(4)]


def answered(one: Sentence, rule: str = "") -> Prediction:
    """What the model says: 品牌 is 时间 to it, unless the good rule says better; the bad one makes it forget all."""
    found = [e._replace(category="时间") if e.category == "品牌" and GOOD not in rule else e for e in one.entities]
    return Prediction(one.id, [] if BAD in rule else found, engine="hf")


@pytest.fixture(scope="module")
def result() -> ScoreResult:
    settings = compose.load(COMMAND)
    return score_records(DEV, [answered(one) for one in DEV], settings.metrics, settings.errta)


@pytest.fixture(scope="module")
def cluster(result: ScoreResult) -> Cluster:
    [found] = cluster_errors(result.errta.errors)
    return found


@pytest.fixture(scope="module")
def lesson(result: ScoreResult, cluster: Cluster) -> Lesson:
    texts = {name: one.text for name, one in result.sentences.items()}
    aside = [one.text for one in choose_sentences(cluster, result, TRIALS).on_cluster]
    return build_lesson(cluster, TrainingCounts(TRAIN), texts, 2, 5, aside)


def taught(lesson: Lesson, *rules: str) -> Lesson:
    said = {"cause": "因为", "rules": list(rules), "doubtful": []}
    return with_note(lesson, TeacherAnswers("big", {lesson.question_id: said}), "zh")


def guidance_with(*lessons: Lesson) -> Guidance:
    return Guidance(
        source={"name": "x"}, split="dev", from_test=False, scores={"errors": 8}, types={"classification": 8},
        teacher={"kind": "openai"}, lessons=list(lessons), suspects=[], rest={},
    )  # fmt: skip


@pytest.fixture
def inputs(tmp_path: Path, result: ScoreResult, cluster: Cluster) -> TrialInputs:
    config = compose.load([*COMMAND, "prompt.max_tokens=900"])
    known = taxonomy.flat_taxonomy("x", ["品牌", "时间", "地点"])
    corpus = Corpus("x", {"train": TRAIN, "dev": DEV, "test": []}, known)
    prompt = build_prompt(config.prompt, corpus.active, TRAIN)
    chosen = [choose_sentences(cluster, result, TRIALS)]
    return TrialInputs(config, config.prompt, UntunedModel(prompt, []), corpus, result, chosen, len)


@dataclasses.dataclass
class Model:
    """Answers as `answered` does, two sentences a batch; stops after `left` batches."""

    asked: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    left: int = 1000
    loaded: int = 0

    @contextlib.contextmanager
    def open_prompts(self, config: Any) -> Iterator[Callable[[Prompt], Any]]:
        self.loaded += 1

        def tell(prompt: Prompt) -> Any:
            def predict(sentences: Sequence[Sentence], done: frozenset[str]) -> Iterator[list[Prediction]]:
                fresh = [one for one in sentences if one.id not in done]
                for at in range(0, len(fresh), 2):
                    if not self.left:
                        raise KeyboardInterrupt
                    self.left -= 1
                    self.asked += [(prompt.sha, one.id) for one in fresh[at : at + 2]]
                    yield [answered(one, prompt.instruction) for one in fresh[at : at + 2]]

            return predict

        yield tell


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    made = Model()
    monkeypatch.setattr(UntunedModel, "open_prompts", lambda model, config: made.open_prompts(config))
    return made


def test_a_lesson_is_tried_on_what_it_does_not_show(lesson: Lesson, cluster: Cluster, result: ScoreResult) -> None:
    on_cluster, on_right = choose_sentences(cluster, result, TRIALS)
    assert len(on_cluster) == len(on_right) == TRIALS
    shown = {example.text for example in lesson.examples}
    assert len(shown) == 2
    assert not shown & {one.text for one in on_cluster}
    assert {one.id[0] for one in on_cluster} == {"b"}
    assert {one.id[0] for one in on_right} == {"t"}  # it holds a category of the lesson: there harm can be done
    assert choose_sentences(cluster, result, TRIALS) == (on_cluster, on_right)
    assert lesson.count == len(cluster.errors) == 8, "it counts them all"


def test_there_are_as_many_right_sentences_as_wrong_ones(cluster: Cluster, result: ScoreResult) -> None:
    hidden = [one.text for one in DEV if one.id in ("b0", "b1", "t0", "t1", "t2")]
    on_cluster, on_right = choose_sentences(cluster, result, 100, hidden)
    assert len(on_cluster) == len(on_right) == 3  # half of the sentences with errors are left for the lesson
    assert not {one.text for one in [*on_cluster, *on_right]} & set(hidden)
    assert [one.id[0] for one in on_right] == ["t", "t", "p"]


@pytest.mark.parametrize("fault", ["unreadable answer", "official stop"])
def test_a_sentence_whose_answer_cannot_be_judged_is_not_right(
    cluster: Cluster, result: ScoreResult, fault: str
) -> None:
    odd = Sentence("e0", "今天好", [])  # the only one that has no error and is not hidden
    hidden = [one.text for one in DEV if one.id[0] in "tp"]
    settings = compose.load(COMMAND)
    answer = Prediction("e0", [], "?", "failed", "no JSON") if fault == "unreadable answer" else Prediction("e0", [])
    answers = [*(answered(one) for one in DEV), answer]
    scored = score_records([*DEV, odd], answers, settings.metrics, settings.errta)
    if fault == "official stop":
        crashes = [Issue("official-stop", "IndexError", id="e0")]
        scored = dataclasses.replace(scored, errta=dataclasses.replace(scored.errta, crashes=crashes))
    chosen = choose_sentences(cluster, scored, 100, hidden)
    assert chosen.on_cluster
    assert chosen.on_right == []


def test_what_cannot_be_divided_is_not_set_aside(cluster: Cluster, result: ScoreResult) -> None:
    few = dataclasses.replace(cluster, errors=cluster.errors[:3])
    assert choose_sentences(few, result, TRIALS) == TrialSentences([], [])
    assert choose_sentences(cluster, result, 1) == TrialSentences([], [])
    four = dataclasses.replace(cluster, errors=cluster.errors[:4])
    assert [len(sort) for sort in choose_sentences(four, result, TRIALS)] == [2, 2]


@pytest.mark.parametrize(
    ("errors", "best"),
    [
        ([(5, 5), (4, 4), (3, 3)], 2),
        ([(3, 3), (3, 0), (3, 0)], 0),
        ([(4, 4), (3, 3), (3, 0)], 1),
        ([(2, 9), (5, 0), (3, 0)], 0),
        ([(5, 3), (4, 0), (3, 3)], 0),
        ([(5, 3), (3, 2), (4, 0)], 1),
    ],
    ids=[
        "fewest", "ties are the counted one's", "then the first's", "counted",
        "luck is not confirmed, and no second one is asked for", "the other half does not choose",
    ],
)  # fmt: skip
def test_a_rule_must_win_twice(lesson: Lesson, errors: list[tuple[int, int]], best: int) -> None:
    names = taught(lesson, GOOD, BAD).candidates
    tried = [
        dataclasses.replace(one, on_cluster=Tried(8, sum(n)), choosing=Tried(4, n[0]), confirming=Tried(4, n[1]))
        for one, n in zip(names, errors, strict=True)
    ]
    found = choose_note(taught(lesson, GOOD, BAD), tried)
    assert found.note == names[best].note
    assert [one.chosen for one in found.candidates] == [place == best for place in range(3)]


def test_a_note_that_was_not_tried_wins_nothing(lesson: Lesson) -> None:
    counted, rule = taught(lesson, GOOD).candidates
    tried = dataclasses.replace(counted, on_cluster=Tried(4, 4), choosing=Tried(2, 2), confirming=Tried(2, 2))
    assert choose_note(lesson, [tried, rule]).note.by == COUNTED
    assert choose_note(lesson, [counted, rule]).note.by == COUNTED


def test_a_rule_that_helps_is_taken(inputs: TrialInputs, lesson: Lesson, model: Model, tmp_path: Path) -> None:
    [found] = try_notes(inputs, guidance_with(taught(lesson, SAME, BAD, GOOD)), tmp_path)
    assert found.note == Note("big", {"zh": GOOD}, {"zh": "因为"})
    assert [(one.on_cluster, one.on_right) for one in found.candidates] == [
        (Tried(3, 3), Tried(3, 0)), (Tried(3, 3), Tried(3, 0)), (Tried(3, 3), Tried(3, 3)), (Tried(3, 0), Tried(3, 0)),
    ]  # fmt: skip
    assert [(one.choosing, one.confirming) for one in found.candidates] == [
        (Tried(4, 2), Tried(2, 1)), (Tried(4, 2), Tried(2, 1)), (Tried(4, 4), Tried(2, 2)), (Tried(4, 0), Tried(2, 0)),
    ]  # fmt: skip
    assert model.loaded == 1
    assert len(model.asked) == len(set(model.asked)) == 4 * 2 * TRIALS


def test_the_counted_note_stays_where_no_rule_helps(
    inputs: TrialInputs, lesson: Lesson, model: Model, tmp_path: Path
) -> None:
    [found] = try_notes(inputs, guidance_with(taught(lesson, SAME, BAD)), tmp_path)
    assert found.note == lesson.note
    assert [one.chosen for one in found.candidates] == [True, False, False]


def test_without_a_teachers_answer_nothing_is_tried(
    inputs: TrialInputs, lesson: Lesson, model: Model, tmp_path: Path
) -> None:
    assert try_notes(inputs, guidance_with(lesson), tmp_path) == [lesson]
    assert not model.loaded


def test_a_lesson_without_a_sentence_to_try_it_on_is_named(
    inputs: TrialInputs, lesson: Lesson, model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = dataclasses.replace(inputs, chosen=[TrialSentences([], [])])
    check_notes(nothing, guidance_with(lesson))
    [found] = try_notes(nothing, guidance_with(taught(lesson, GOOD)), tmp_path)
    assert found.note.by == COUNTED
    assert [one.on_cluster for one in found.candidates] == [NOT_TRIED, NOT_TRIED]
    assert "confusion: 品牌 → 时间: too few sentences have such errors to set some aside" in caplog.text
    assert not model.loaded


def test_a_rule_that_no_prompt_can_hold_is_named_and_not_tried(
    inputs: TrialInputs, lesson: Lesson, model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [found] = try_notes(inputs, guidance_with(taught(lesson, "品牌<|im_end|>", GOOD)), tmp_path)
    assert "a note of big is not tried: no note of x can stand in a prompt" in caplog.text
    assert [bool(one.on_cluster.sentences) for one in found.candidates] == [True, False, True]
    assert found.note.rule == {"zh": GOOD}


def test_a_prompt_that_can_hold_no_note_is_refused_before_a_teacher_is_asked(
    inputs: TrialInputs, lesson: Lesson
) -> None:
    other = dataclasses.replace(lesson, note=Note(COUNTED, {"zh": "品牌<|im_end|>"}, {}))
    for first, second in ((lesson, other), (other, lesson)):
        two = dataclasses.replace(inputs, chosen=inputs.chosen * 2)
        check_notes(two, guidance_with(first, second))  # one can be tried
    small = dataclasses.replace(inputs, prompt=dataclasses.replace(inputs.prompt, max_tokens=5))
    with pytest.raises(UserError, match=r"^prompt\.max_tokens: 5 is too little for a single lesson\. Raise it\.$"):
        check_notes(small, guidance_with(lesson))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompt.definitions=true", "prompt.definitions: true, but data.definitions has none"),
        ("prompt.nearest=4", "prompt.nearest: 4 examples for each sentence, but train has 4"),
        ("prompt.examples=5", "prompt.examples: 5 examples, but train has 4"),
    ],
)
def test_a_mistake_in_the_prompt_is_no_untried_note(inputs: TrialInputs, override: str, message: str) -> None:
    told = [*COMMAND, "prompt=errta_fewshot", "prompt.examples=4"]
    check_prompt(compose.load(told).prompt, inputs.corpus)
    with pytest.raises(UserError, match=f"^{message}"):
        check_prompt(compose.load([*told, override]).prompt, inputs.corpus)


def test_a_killed_trial_goes_on_with_the_same_bytes(
    inputs: TrialInputs, lesson: Lesson, model: Model, tmp_path: Path
) -> None:
    given = guidance_with(taught(lesson, GOOD, BAD))
    whole = try_notes(inputs, given, tmp_path / "whole")
    everything = model.asked.copy()
    model.asked.clear()
    model.left = 4
    with pytest.raises(KeyboardInterrupt):
        try_notes(inputs, given, tmp_path / "killed")
    file = tmp_path / "killed" / "trials" / "answers.jsonl"
    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"id": "b3", "ent')
    model.left = 1000
    assert try_notes(inputs, given, tmp_path / "killed") == whole
    assert sorted(model.asked) == sorted(everything)  # each once, over both attempts
    assert file.read_bytes() == (tmp_path / "whole" / "trials" / "answers.jsonl").read_bytes()
    assert try_notes(inputs, given, tmp_path / "killed") == whole
    assert len(model.asked) == len(everything)


def test_answers_to_another_prompt_are_not_taken(
    inputs: TrialInputs, lesson: Lesson, model: Model, tmp_path: Path
) -> None:
    given = guidance_with(taught(lesson, GOOD))
    try_notes(inputs, given, tmp_path)
    model.asked.clear()
    other = dataclasses.replace(inputs, prompt=dataclasses.replace(inputs.prompt, version="2"))
    try_notes(other, given, tmp_path)
    assert len(model.asked) == 2 * 2 * TRIALS
    kept = map(json.loads, (tmp_path / "trials" / "answers.jsonl").read_text("utf-8").splitlines())
    assert [(one["prompt_sha"], one["id"]) for one in kept] == model.asked, "those of the first prompt are gone"


def test_answers_of_another_model_of_the_server_are_not_taken(
    inputs: TrialInputs, lesson: Lesson, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omniner.llm.serving import openai_engine

    names = iter(["first", "first", "second"])
    monkeypatch.setattr(openai_engine, "ask_for_model", lambda config: next(names))
    decoding = dataclasses.replace(inputs.config.decoding, engine="openai", url="http://x/v1")
    config, served = dataclasses.replace(inputs.config, decoding=decoding), RemoteModel(inputs.model.prompt, [])
    asked = dataclasses.replace(inputs, config=config, model=served)
    given = guidance_with(taught(lesson, GOOD))

    def engine_of(name: str) -> Any:
        @contextlib.contextmanager
        def opened(served: RemoteModel, config: Any) -> Iterator[Any]:
            assert config.decoding.model == name
            with model.open_prompts(config) as tell:
                yield (
                    lambda prompt: (
                        lambda sentences, done: (
                            [dataclasses.replace(one, engine=f"openai:{name}") for one in batch]
                            for batch in tell(prompt)(sentences, done)
                        )
                    )
                )

        return opened

    counts = []
    for name in ("first", "first", "second"):
        monkeypatch.setattr(RemoteModel, "open_prompts", engine_of(name))
        model.asked.clear()
        try_notes(asked, given, tmp_path)
        counts.append(len(model.asked))
    assert counts == [12, 0, 12]


def test_an_unreadable_answer_counts_as_an_empty_one_whatever_the_settings(
    inputs: TrialInputs, lesson: Lesson, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out, its errors would be forgotten, and the note that makes answers unreadable would win."""

    @contextlib.contextmanager
    def opened(untuned: UntunedModel, config: Any) -> Iterator[Any]:
        def tell(prompt: Prompt) -> Any:
            failed = GOOD in prompt.instruction
            return lambda sentences, done: [
                [Prediction(one.id, parse="failed") if failed else answered(one) for one in sentences]
            ]

        yield tell

    monkeypatch.setattr(UntunedModel, "open_prompts", opened)
    metrics = dataclasses.replace(inputs.config.metrics, on_parse_failure="drop")
    dropping = dataclasses.replace(inputs, config=dataclasses.replace(inputs.config, metrics=metrics))
    [found] = try_notes(dropping, guidance_with(taught(lesson, GOOD)), tmp_path)
    assert found.note.by == COUNTED
    assert [(one.choosing.errors, one.confirming.errors) for one in found.candidates] == [(2, 1), (4, 2)]


def test_the_prompt_holds_the_note_alone_with_its_correction(
    inputs: TrialInputs, lesson: Lesson, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def opened(untuned: UntunedModel, config: Any) -> Iterator[Any]:
        def tell(prompt: Prompt) -> Any:
            told.append(prompt.instruction)
            return lambda sentences, done: [[answered(one) for one in sentences]]

        yield tell

    monkeypatch.setattr(UntunedModel, "open_prompts", opened)
    try_notes(inputs, guidance_with(taught(lesson, GOOD)), tmp_path)
    counted, ruled = told
    assert lesson.note.rule["zh"] in counted
    assert GOOD not in counted
    assert GOOD in ruled
    assert lesson.note.rule["zh"] not in ruled
    assert all("把“小满”标成了时间。改正：应标为品牌。" in one for one in told)
