"""Commands that follow each other: the plans compose, and what is done is known by configuration and age."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT

from omniner.config import compose, run_config

sys.path.insert(0, str(ROOT / "experiments"))

from paper import loop, steps
from table4_benchmark.run import plan
from table6_errta_gain.run import plan as plan_gain

TEACHER = "teacher=openai teacher.url=http://127.0.0.1:8000/v1"


def chosen(*arguments: str) -> loop.Options:
    return loop.options(loop.parser("").parse_args(arguments))


def every_step(options: loop.Options, model: str) -> list[steps.Step]:
    found = [loop.guide(options, model, variant) for variant in ("counted", "teacher")]
    found += [loop.compare(options, model, loop.VARIANTS, seed) for seed in options.seeds]
    return [*found, loop.compare_seeds(options, model)]


@pytest.mark.parametrize("scale", sorted(loop.EXPERIMENTS))
def test_every_command_of_the_loop_composes(scale: str) -> None:
    options = chosen("--scale", scale, "--seeds", "1,2", "--teacher", TEACHER, "--jobs", "2")
    for step in every_step(options, next(iter(options.models))):
        config = compose.load(step.arguments)
        assert config.output_dir == str(step.makes[0][0])
        assert config.errta.mode == ("span" if config.task.name == "guide" else "official")
        assert "official" in config.metrics.profile or config.metrics.unit == "pair"


@pytest.mark.parametrize("scale", sorted(loop.EXPERIMENTS))
def test_the_training_runs_of_all_seeds_are_a_sweep_with_a_folder_for_each(scale: str) -> None:
    options = chosen("--scale", scale, "--seeds", "1,2", "--jobs", "2")
    model = next(iter(options.models))
    for variant in loop.VARIANTS:
        step = loop.train(options, model, variant)
        assert list(step.arguments[:3]) == ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
        assert "seed=1,2" in step.arguments
        for seed, (folder, overrides) in enumerate(step.makes, 1):
            swept = compose.load([*overrides, step.arguments[-1]])
            child = compose.load(overrides)
            assert run_config.digest(swept) == run_config.digest(child)
            assert swept.output_dir == child.output_dir
            assert (child.seed, child.output_dir) == (seed, str(folder))
            notes = str(options.work / model / f"notes-{variant}") if variant in ("counted", "teacher") else None
            assert child.prompt.from_run == notes
    alone = loop.train(chosen("--scale", scale, "--seeds", "3"), model, "plain")
    assert "-m" not in alone.arguments
    assert compose.load(alone.arguments).output_dir == str(options.work / model / "plain-3")


@pytest.mark.parametrize(("given", "notes"), [([], "counted"), (["--teacher", TEACHER], "teacher")])
def test_a_teacher_writes_the_notes_of_tables_5_and_6(given: list[str], notes: str) -> None:
    """Both tables have these steps; without a teacher the notes are counted facts."""
    options = chosen("--scale", "paper", *given)
    before, guide, after, compare = plan_gain(options, "qwen2_7b")
    place = options.work / "qwen2_7b"
    made = [str(step.makes[0][0].relative_to(place)) for step in (before, guide, after, compare)]
    assert made == ["plain-1", f"notes-{notes}", f"{notes}-1", f"compare-plain-{notes}-1"]
    assert compose.load(guide.arguments).teacher.kind == ("openai" if given else "none")
    assert compose.load(after.arguments).prompt.from_run == str(place / f"notes-{notes}")
    assert compose.load(compare.arguments).runs == [f"plain={place}/plain-1", f"{notes}={place}/{notes}-1"]


@pytest.mark.parametrize(
    ("scale", "models"),
    [
        ("cpu", ["char_bilstm", "bert_tiny", "qwen2_tiny"]),
        ("paper", ["qwen2_0_5b", "qwen2_7b"]),
        ("published", ["qwen2_0_5b", "qwen2_7b"]),
    ],
)
def test_the_benchmark_composes_with_a_folder_for_each_model(scale: str, models: list[str]) -> None:
    sweep, compare = plan(f"table4_{scale}", steps.chosen_models(",".join(models), []), 1, ["seed=7"])
    assert sweep.arguments == ["-m", f"experiment=table4_{scale}", f"model={','.join(models)}", "seed=7"]
    for folder, overrides in sweep.makes:
        config = compose.load(overrides)
        assert (config.output_dir, config.model.name, config.seed) == (str(folder), folder.name, 7)
    config = compose.load(compare.arguments)
    assert config.runs == [f"{model}=outputs/table4_{scale}/{model}" for model in models]
    assert config.output_dir == f"outputs/table4_{scale}/compare"


def test_a_model_whose_choice_has_no_path_is_named_with_its_folder(tmp_path: Path) -> None:
    for name in ("intern", "baichuan"):
        (tmp_path / name).mkdir()
    named = f"qwen2_7b,internlm2_5_7b={tmp_path}/intern,qwen2_0_5b,baichuan2_7b={tmp_path}/baichuan"
    sweep, intern, baichuan, compare = plan("table4_paper", steps.chosen_models(named, []), 1, [])
    assert sweep.arguments == ["-m", "experiment=table4_paper", "model=qwen2_7b,qwen2_0_5b"]
    for step, name in ((intern, "internlm2_5_7b"), (baichuan, "baichuan2_7b")):
        config = compose.load(step.arguments)
        assert (config.model.name, config.output_dir) == (name, f"outputs/table4_paper/{name}")
        assert compose.load(step.makes[0][1]).llm == config.llm
    runs = compose.load(compare.arguments).runs
    assert [run.partition("=")[0] for run in runs] == ["qwen2_7b", "internlm2_5_7b", "qwen2_0_5b", "baichuan2_7b"]
    options = chosen("--scale", "paper", "--models", named)
    for model, name in (("internlm2_5_7b", "intern"), ("baichuan2_7b", "baichuan")):
        trained = compose.load(loop.train(options, model, "plain").arguments).llm
        assert trained is not None
        assert trained.path == f"{tmp_path}/{name}"


@pytest.mark.parametrize("models", ["qwen2_0_5b,qwen2_7b", "qwen2_7b,internlm2_5_7b=intern"])
def test_several_models_do_not_share_one_path(models: str) -> None:
    with pytest.raises(SystemExit, match=r"model\.path would give all models the same weights"):
        chosen("--scale", "paper", "--models", models, "--", "model.path=folder")
    assert list(chosen("--scale", "paper", "--models", "qwen2_7b", "--", "model.path=folder").models) == ["qwen2_7b"]


def finished(folder: Path, overrides: list[str], started: float, status: str = "finished") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"status": status, "digest": run_config.digest(compose.load(overrides)), "started": started}
    (folder / "run_state.json").write_text(json.dumps(state))
    os.utime(folder / "run_state.json", (started + 10, started + 10))


def test_a_step_is_done_when_its_run_is_finished_the_same_and_newer_than_what_it_reads(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    step = steps.single(after, ["seed=1"], [before])
    assert not steps.done(step)
    finished(after, ["seed=1"], started=1000)
    assert not steps.done(step)  # nothing to have been made of
    finished(before, ["seed=1"], started=900)
    assert steps.done(step)
    finished(before, ["seed=1"], started=995)  # ended at 1005: made anew since
    assert not steps.done(step)
    finished(before, ["seed=1"], started=900)
    finished(after, ["seed=2"], started=1000)
    assert not steps.done(step)
    finished(after, ["seed=1"], started=1000, status="running")
    assert not steps.done(step)


def test_what_is_done_is_not_run_and_a_failure_ends_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    step = steps.single(tmp_path / "run", ["task=score", "predictions=/dev/null"])
    finished(tmp_path / "run", list(step.arguments), started=1000)
    assert steps.run(step) == 0
    assert "(done: " in capfd.readouterr().out
    missing = steps.single(tmp_path / "other", ["task=score", f"predictions={tmp_path}/none.jsonl"])
    assert steps.run(missing, accept=(0, 2)) == 2
    with pytest.raises(SystemExit) as ended:
        steps.run(missing)
    assert ended.value.code == 2
    assert "$ python -m omniner.run task=score" in capfd.readouterr().out


def test_seeds_that_are_there_are_not_swept_again(tmp_path: Path) -> None:
    options = chosen("--seeds", "1,2,3", "--work", str(tmp_path))
    model = next(iter(options.models))
    (folder, overrides), *_ = loop.train(options, model, "plain").makes
    finished(folder, list(overrides), started=1000)
    step = loop.train(options, model, "plain")
    assert "seed=2,3" in step.arguments
    assert [place.name for place, _ in step.makes] == ["plain-2", "plain-3"]
    for place, theirs in step.makes[:1]:
        finished(place, list(theirs), started=1000)
    assert loop.train(options, model, "plain").arguments[-2:] == ["seed=3", f"output_dir={tmp_path}/{model}/plain-3"]
    for place, theirs in step.makes:
        finished(place, list(theirs), started=1000)
    assert steps.done(loop.train(options, model, "plain"))


@pytest.mark.parametrize("name", ["out put", "a,b", "x'y", ""])
def test_a_folder_that_would_need_quotes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="only"):
        steps.plain_path(name)


def test_the_mean_is_shown_with_its_spread() -> None:
    assert loop.of_seeds([70.0]) == "70.00"
    assert loop.of_seeds([70.0, 72.0]) == "71.00 ± 1.41"
