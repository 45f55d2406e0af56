"""`prompt.from_run`: found by file and folder, kept with the run, refused where it would show the reported split."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import made_up_guidance
from tests.helpers.made_up_guidance import CATEGORIES

from omniner import tracking
from omniner.config import compose
from omniner.config.groups import Config
from omniner.errors import UserError
from omniner.guidance import lessons, prompt_errors
from omniner.guidance.lessons import Guidance
from omniner.llm import prompts
from omniner.records import Sentence
from omniner.runs.folder import GUIDANCE_COPY
from omniner.runs.references import RunReference
from omniner.tasks import prompting

UNSEEN = [Sentence("t", "一句没有见过的话")]


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()


@pytest.fixture(scope="module")
def made() -> Guidance:
    return made_up_guidance.guidance(100)


def config(named: str, *overrides: str) -> Config:
    base = ["model=qwen2_tiny", "prompt=errta", f"prompt.from_run={named}", "prompt.max_tokens=900", "tracking=off"]
    return compose.load([*base, *overrides])


def write(made: Guidance, folder: str) -> Path:
    return lessons.write_guidance(Path(folder) / "guidance.json", made)


def test_a_folder_its_name_and_its_file_mean_the_same(made: Guidance) -> None:
    write(made, "outputs/guide-x")
    texts = set()
    for number, named in enumerate(("outputs/guide-x", "guide-x", "outputs/guide-x/guidance.json")):
        settings = config(named)
        folder = Path(f"run{number}")
        folder.mkdir()
        told, guidance = prompting.with_guidance(settings, folder, CATEGORIES, UNSEEN)
        assert guidance == lessons.read_guidance(folder / GUIDANCE_COPY) == made
        assert (told.prompt.from_run, settings.prompt.from_run) == (None, named)
        texts.add(prompts.build_prompt(told.prompt, CATEGORIES, []).instruction)
    assert len(texts) == 1
    assert made.lessons[0].note.rule["zh"] in texts.pop()


def test_nothing_is_done_without_a_run() -> None:
    settings = compose.load(["model=qwen2_tiny", "prompt=errta"])
    assert prompting.with_guidance(settings, Path("run"), CATEGORIES, UNSEEN) == (settings, None)


def test_a_run_that_goes_on_keeps_its_guidance(made: Guidance) -> None:
    write(made, "outputs/guide-x")
    begun = prompting.with_guidance(config("guide-x"), Path("run"), CATEGORIES, UNSEEN)
    shutil.rmtree("outputs")
    assert prompting.with_guidance(config("guide-x"), Path("run"), CATEGORIES, UNSEEN) == begun
    assert begun[1] == made


def test_sentences_of_the_reported_split_are_refused(made: Guidance) -> None:
    write(made, "guide")
    settings = config("guide")
    text = prompt_errors.render_errors_text(
        made, settings.prompt, CATEGORIES, prompting.length_measure(settings)[1]
    ).sentences[-1]
    name = next(one.id for lesson in made.lessons for one in lesson.examples if one.text == text)
    with pytest.raises(UserError, match=rf"^prompt\.from_run: 1 of its examples .*{name}"):
        prompting.with_guidance(settings, Path("run"), CATEGORIES, [*UNSEEN, Sentence("other id", text)])


def test_examples_that_no_prompt_shows_are_not_refused_but_said(
    made: Guidance, caplog: pytest.LogCaptureFixture
) -> None:
    write(made, "guide")
    settings = config("guide")
    shown = prompt_errors.render_errors_text(
        made, settings.prompt, CATEGORIES, prompting.length_measure(settings)[1]
    ).sentences
    others = [one for lesson in made.lessons for one in lesson.examples if one.text not in shown]
    reported = [Sentence("x", others[0].text)]
    assert prompting.with_guidance(settings, Path("run"), CATEGORIES, reported)[1] == made
    assert "made of errors on sentences of the split that this run reports on" in caplog.text


def test_guidance_that_is_fetched_leaves_nothing_but_its_copy(made: Guidance, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(settings: Any, run: str, names: Sequence[str], to: Path) -> None:
        write(made, str(to))

    found = RunReference(None, "a" * 32, "far", "finished", found_in_store=True)
    monkeypatch.setattr(prompting, "resolve_run", lambda *_: found)
    monkeypatch.setattr(tracking, "fetch_artifacts", fetch)
    assert prompting.fetch_guidance(config("far"), Path("run")) == made
    assert [path.name for path in Path("run").iterdir()] == [GUIDANCE_COPY]


def test_a_copy_that_is_cut_short_is_none(made: Guidance, monkeypatch: pytest.MonkeyPatch) -> None:
    write(made, "guide")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            prompting.fetch_guidance(config("guide"), Path("run"))
    assert list(Path("run").iterdir()) == []
    assert prompting.fetch_guidance(config("guide"), Path("run")) == made


def test_guidance_from_the_reported_split_says_so(made: Guidance, caplog: pytest.LogCaptureFixture) -> None:
    write(dataclasses.replace(made, from_test=True), "guide")
    reported = [Sentence("x", made.lessons[0].examples[0].text)]
    prompting.with_guidance(config("guide"), Path("run"), CATEGORIES, reported)
    assert "its scores are no test" in caplog.text


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("nothing", r"^prompt\.from_run: 'nothing' is no file and no folder"),
        ("run", r"^prompt\.from_run: the run run has no guidance\.json"),
        ("file.json", r"^file\.json: not guidance"),
    ],
)
def test_what_is_no_guidance_is_refused_by_its_name(named: str, message: str) -> None:
    Path("file.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        prompting.with_guidance(config(named), Path("run"), CATEGORIES, UNSEEN)
    assert not (Path("run") / GUIDANCE_COPY).exists()


def test_the_models_own_tokenizer_measures(shared: Path, made: Guidance) -> None:
    write(made, "guide")
    tokenizer = shared / "tokenizers" / "qwen2"
    settings = config("guide", f"model.path={tokenizer}", "model.architecture={}")
    count = prompting.length_measure(settings)[1]
    assert 0 < count("训练集中，小满出现4处") < len("训练集中，小满出现4处")
    shown = prompting.with_guidance(settings, Path("run"), CATEGORIES, UNSEEN)[0].prompt.errors["zh"]
    assert count(shown) <= 900 < len(shown)
    assert prompting.length_measure(config("guide"))[1] is len


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=char_bilstm"], r"^prompt\.from_run: a tagger is told nothing"),
        (["model=char_bilstm", "task=filter"], r"^prompt\.from_run: a tagger is told nothing"),
        (["model=char_bilstm", "task=predict", "decoding=vllm"], r"^prompt\.from_run: a tagger is told nothing"),
        (["task=predict", "checkpoint=/dev/null"], r"^prompt\.from_run: a trained model keeps"),
        (["prompt.max_tokens=0"], r"^prompt\.max_tokens: 0 is not above 0"),
    ],
)
def test_where_it_would_do_nothing_it_is_a_mistake(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config("guide", *overrides)


def test_runs_with_their_own_errors_are_told_apart_by_name() -> None:
    assert config("guide").name == "qwen2_tiny-errta_own-full-sample"


def test_a_model_that_is_asked_as_published_is_not_called_tuned() -> None:
    assert compose.load(["task=predict", "model=qwen2_tiny", "prompt=base"]).name == "predict-qwen2_tiny-base-sample"
    assert compose.load(["model=qwen2_tiny", "prompt=base"]).name == "qwen2_tiny-base-full-sample"
