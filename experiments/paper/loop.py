"""The loop of ERRTA as commands: baseline, notes on its errors, prompts made of them, comparison.

In go the options of a script; out come `Step`s, and after they ran the figures of their runs. All scripts share one
folder of runs, so what one has done the others find done:

    WORK/MODEL/plain-SEED     prompt=base
    WORK/MODEL/generic-SEED   prompt=errta, the five types of error with examples that belong to no corpus
    WORK/MODEL/counted-SEED   prompt=errta with notes of what the training split counts about the errors of plain-FIRST
    WORK/MODEL/teacher-SEED   the same with a teacher's notes
    WORK/MODEL/notes-counted, notes-teacher                task=guide on dev
    WORK/MODEL/compare-VARIANT-VARIANT-...-SEED            task=compare

Notes are made once, of the first seed's baseline; the prompts of them are then the same for all seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from paper.steps import MODELS_HELP, Step, chosen_models, done, plain_path, side_by_side, single

EXPERIMENTS = {"cpu": "errta_cpu", "paper": "errta_paper"}
MODELS = {"cpu": "qwen2_tiny", "paper": "qwen2_7b"}
VARIANTS = ("plain", "generic", "counted", "teacher")


class Options(NamedTuple):
    """What is run.

    Attributes:
        experiment: a choice of conf/experiment.
        models: choices of conf/model, with the overrides that choose them.
        seeds: of the training runs; notes are made of the first one's.
        work: the folder of all runs.
        teacher: overrides that choose the teacher; empty = none.
        jobs: training runs side by side.
        further: overrides of all commands.
    """

    experiment: str
    models: dict[str, list[str]]
    seeds: list[int]
    work: Path
    teacher: list[str]
    jobs: int
    further: list[str]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all scripts share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--scale", choices=sorted(EXPERIMENTS), default="cpu")
    made.add_argument("--models", help=f"{MODELS_HELP}; by the scale where left out")
    made.add_argument("--seeds", default="1", help="with commas")
    made.add_argument("--work", type=plain_path, help="folder of all runs; outputs/errta_<scale> where left out")
    made.add_argument("--teacher", default="", help="overrides that choose it, e.g. 'teacher=hf teacher.path=FOLDER'")
    made.add_argument("--jobs", type=int, default=1, help="training runs side by side")
    made.add_argument("further", nargs="*", help="overrides of all commands")
    return made


def options(given: argparse.Namespace) -> Options:
    """The options with what was left out."""
    return Options(
        EXPERIMENTS[given.scale],
        chosen_models(given.models or MODELS[given.scale], given.further),
        [int(seed) for seed in given.seeds.split(",")],
        given.work or Path(f"outputs/errta_{given.scale}"),
        shlex.split(given.teacher),
        given.jobs,
        given.further,
    )


def pair(chosen: Options) -> tuple[str, str]:
    """What is compared before and after: the plain prompt, and the one with a teacher's notes if there is a teacher."""
    return "plain", "teacher" if chosen.teacher else "counted"


def folder(chosen: Options, model: str, variant: str, seed: int) -> Path:
    """Of a training run."""
    return chosen.work / model / f"{variant}-{seed}"


def train(chosen: Options, model: str, variant: str) -> Step:
    """Training runs with the prompt of this variant, one for each seed; a sweep where several are still to be done."""
    overrides = [f"experiment={chosen.experiment}", *chosen.models[model]]
    overrides.append("prompt=base" if variant == "plain" else "prompt=errta")
    reads = []
    if variant in ("counted", "teacher"):
        reads.append(chosen.work / model / f"notes-{variant}")
        overrides.append(f"prompt.from_run={reads[0]}")
    overrides += chosen.further
    runs = {
        seed: single(folder(chosen, model, variant, seed), [*overrides, f"seed={seed}"], reads) for seed in chosen.seeds
    }
    left = [seed for seed, run in runs.items() if not done(run)] or chosen.seeds
    if len(left) == 1:
        return runs[left[0]]
    output = f"output_dir={chosen.work / model / variant}-${{seed}}"
    swept = [*overrides, f"seed={','.join(map(str, left))}", output]
    return Step(["-m", *side_by_side(chosen.jobs), *swept], [make for seed in left for make in runs[seed].makes], reads)


def guide(chosen: Options, model: str, variant: str) -> Step:
    """Notes on the errors of the first baseline, counted or by the teacher."""
    source = folder(chosen, model, "plain", chosen.seeds[0])
    asked = chosen.teacher if variant == "teacher" else ["teacher=none"]
    # by position: the official sorting takes a split entity for a boundary error and a redundant one, a wrong lesson
    sorting = "errta.mode=span"
    overrides = ["task=guide", f"run={source}", f"experiment={chosen.experiment}", sorting, *asked, *chosen.further]
    return single(chosen.work / model / f"notes-{variant}", overrides, [source])


def compare(chosen: Options, model: str, variants: Sequence[str], seed: int) -> Step:
    """These variants of one seed, against the first of them."""
    return _compare(
        chosen,
        chosen.work / model / f"compare-{'-'.join(variants)}-{seed}",
        {variant: folder(chosen, model, variant, seed) for variant in variants},
    )


def compare_seeds(chosen: Options, model: str) -> Step:
    """Baselines of all seeds: how much runs differ that differ in nothing else."""
    runs = {f"plain seed {seed}": folder(chosen, model, "plain", seed) for seed in chosen.seeds}
    return _compare(chosen, chosen.work / model / f"compare-seeds-{'-'.join(map(str, chosen.seeds))}", runs)


def _compare(chosen: Options, place: Path, runs: dict[str, Path]) -> Step:
    named = ",".join(f'"{name}={path}"' for name, path in runs.items())
    overrides = ["task=compare", f"runs=[{named}]", f"experiment={chosen.experiment}", *chosen.further]
    return single(place, overrides, list(runs.values()))


class Figures(NamedTuple):
    """Of one run in a comparison; shares in percent. `difference` and its interval are from the comparison's first."""

    precision: float
    recall: float
    f1: float
    errors: dict[str, int]
    difference: float
    low: float
    high: float
    p: float


def figures(place: Path) -> dict[str, Figures]:
    """The runs of a comparison, the first one with no difference from itself."""
    found: dict[str, Any] = json.loads((place / "comparison.json").read_text(encoding="utf-8"))
    result = {}
    for name, run in found["runs"].items():
        against = found["against_baseline"].get(name)
        row = against["figures"]["micro.f1"] if against else {"difference": 0.0, "low": 0.0, "high": 0.0}
        micro = run["metrics"]["micro"]
        result[name] = Figures(
            *(100 * micro[key] for key in ("precision", "recall", "f1")),
            run["errta"]["counts"],
            *(100 * row[key] for key in ("difference", "low", "high")),
            against["p_corrected_over_runs"] if against else 1.0,
        )
    return result


def of_seeds(values: Sequence[float]) -> str:
    """The mean of some runs and how they differ."""
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"
