"""`prompt.from_run`: found by file and folder, kept with the run, refused where it would show the reported split."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from tests.unit.analysis import made_up_guidance
from tests.unit.analysis.made_up_guidance import CATEGORIES

from omniner import config as configs
from omniner.analysis.guide import guidance as guidances
from omniner.analysis.guide.guidance import Guidance
from omniner.encoding import prompts
from omniner.errors import UserError
from omniner.records import Sentence
from omniner.schema import Config
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
    return configs.load([*base, *overrides])


def write(made: Guidance, folder: str) -> Path:
    return guidances.write(Path(folder) / "guidance.json", made)


def test_a_folder_its_name_and_its_file_mean_the_same(made: Guidance) -> None:
    write(made, "outputs/guide-x")
    texts = set()
    for number, named in enumerate(("outputs/guide-x", "guide-x", "outputs/guide-x/guidance.json")):
        settings = config(named)
        folder = Path(f"run{number}")
        folder.mkdir()
        assert prompting.settle(settings, folder, CATEGORIES, UNSEEN) == made
        assert settings.prompt.from_run is None
        assert guidances.read(folder / prompting.COPY) == made
        texts.add(prompts.build(settings.prompt, CATEGORIES, []).instruction)
    assert len(texts) == 1
    assert made.lessons[0].note.rule["zh"] in texts.pop()


def test_nothing_is_done_without_a_run() -> None:
    settings = configs.load(["model=qwen2_tiny", "prompt=errta"])
    before = dataclasses.replace(settings.prompt)
    assert prompting.settle(settings, Path("run"), CATEGORIES, UNSEEN) is None
    assert settings.prompt == before


def test_a_run_that_goes_on_keeps_its_guidance(made: Guidance) -> None:
    write(made, "outputs/guide-x")
    prompting.settle(config("guide-x"), Path("run"), CATEGORIES, UNSEEN)
    shutil.rmtree("outputs")
    settings = config("guide-x")
    assert prompting.settle(settings, Path("run"), CATEGORIES, UNSEEN) == made


def test_sentences_of_the_reported_split_are_refused(made: Guidance) -> None:
    write(made, "guide")
    shown = made.lessons[3].examples[0]
    with pytest.raises(UserError, match=rf"^prompt\.from_run: 1 of its examples .*{shown.id}"):
        prompting.settle(config("guide"), Path("run"), CATEGORIES, [*UNSEEN, Sentence("other id", shown.text)])


def test_guidance_from_the_reported_split_says_so(made: Guidance, caplog: pytest.LogCaptureFixture) -> None:
    write(dataclasses.replace(made, from_test=True), "guide")
    reported = [Sentence("x", made.lessons[0].examples[0].text)]
    prompting.settle(config("guide"), Path("run"), CATEGORIES, reported)
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
        prompting.settle(config(named), Path("run"), CATEGORIES, UNSEEN)
    assert not (Path("run") / prompting.COPY).exists()


def test_the_models_own_tokenizer_measures(shared: Path, made: Guidance) -> None:
    write(made, "guide")
    tokenizer = shared / "tokenizers" / "qwen2"
    settings = config("guide", f"model.path={tokenizer}", "model.architecture={}")
    count = prompting.counter(settings)
    assert 0 < count("训练集中，小满出现4处") < len("训练集中，小满出现4处")
    prompting.settle(settings, Path("run"), CATEGORIES, UNSEEN)
    assert count(settings.prompt.errors["zh"]) <= 900 < len(settings.prompt.errors["zh"])
    assert prompting.counter(config("guide")) is len


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=char_bilstm"], r"^prompt\.from_run: a tagger is told nothing"),
        (["task=predict", "checkpoint=/dev/null"], r"^prompt\.from_run: a trained model keeps"),
        (["prompt.max_tokens=0"], r"^prompt\.max_tokens: 0 is not above 0"),
    ],
)
def test_where_it_would_do_nothing_it_is_a_mistake(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config("guide", *overrides)


def test_runs_with_their_own_errors_are_told_apart_by_name() -> None:
    assert config("guide").name == "qwen2_tiny-errta_own-full-sample"
