"""Several models on one corpus, and precision, recall and F1 of each by primary, as the paper's Table 4 has them.

    python experiments/table4_benchmark/run.py                                     # CPU scale
    python experiments/table4_benchmark/run.py --scale paper --models qwen2_0_5b,qwen2_7b,internlm2_5_7b=FOLDER

A sweep with a child per model, a command of its own for each model with a folder, then a comparison with the first of
them. Further overrides go to all commands.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paper import printed as tables
from paper import steps

MODELS = {
    "cpu": "char_bilstm,bert_tiny,qwen2_tiny",
    "paper": "qwen2_0_5b,qwen2_1_5b,qwen2_7b",  # its recipe as printed
    "published": "qwen2_0_5b,qwen2_1_5b,qwen2_7b",  # as in its authors' settings
}


def plan(experiment: str, models: dict[str, list[str]], jobs: int, further: list[str]) -> list[steps.Step]:
    """The trainings, which write to outputs/<experiment>/<model>, and the comparison.

    Models whose choice says all are children of one sweep; those with a path have a command each.
    """
    choice = f"experiment={experiment}"
    folders = {model: Path("outputs") / experiment / model for model in models}
    children = {model: (folders[model], [choice, *overrides, *further]) for model, overrides in models.items()}
    swept = [model for model, overrides in models.items() if len(overrides) == 1]
    found = [
        steps.Step(overrides, [(folder, overrides)])
        for model, (folder, overrides) in children.items()
        if model not in swept
    ]
    if swept:
        arguments = ["-m", *steps.side_by_side(jobs), choice, f"model={','.join(swept)}", *further]
        found.insert(0, steps.Step(arguments, [children[model] for model in swept]))
    named = ",".join(f'"{model}={folder}"' for model, folder in folders.items())
    overrides = ["task=compare", f"runs=[{named}]", choice, *further]
    return [*found, steps.single(Path("outputs") / experiment / "compare", overrides, list(folders.values()))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=sorted(MODELS), default="cpu")
    parser.add_argument("--models", help=steps.MODELS_HELP)
    parser.add_argument("--jobs", type=int, default=1, help="training runs side by side")
    parser.add_argument("further", nargs="*", help="overrides of both commands")
    given = parser.parse_args()
    steps.stop_politely()
    models = steps.chosen_models(given.models or MODELS[given.scale], given.further)
    commands = plan(f"table4_{given.scale}", models, given.jobs, given.further)
    for command in commands:
        steps.run(command)
    place = commands[-1].makes[0][0]
    paper = tables.read()
    print("\nPrecision / recall / F1 by primary, the whole category right:\n")
    print(tables.primary_table(paper, place / "tables" / "compare_primaries.csv", list(models)))
    print(f"\nAll of it: {place}/comparison.html")


if __name__ == "__main__":
    main()
